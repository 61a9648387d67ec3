"""Q-learning item by item: a problem with a known answer, its parts, and what it refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from minimal_env import SecondPriceEnv

from adarena import envs
from adarena.agents import dual_q
from adarena.envs.core import Entry, Env, StepResult, box_of
from adarena.envs.sets import SetLayout

TICKS, ITEMS, STAY = 5, 6, 3


@flax.struct.dataclass
class ShopState:
    """Worth of each item, ticks supported so far, sums, the tick, and a pace of the budget that says nothing."""

    worth: jax.Array
    supported: jax.Array
    reward: jax.Array
    cost: jax.Array
    tick: jax.Array
    pace: jax.Array


@flax.struct.dataclass
class ShopParams:
    """Nothing to set."""

    nothing: jax.Array


@dataclasses.dataclass(frozen=True)
class Shop(Env):
    """Items stay three ticks; when one goes it pays its worth times the share of them in which it was supported.

    Support in a tick costs a third of an even part of the budget, so it is worth while if an item's worth is above the
    price of an even part.
    """

    @property
    def layout(self) -> SetLayout:
        """Context: pace and time. Items: mask, worth, age, support so far."""
        return SetLayout(2, ITEMS, 4, 1)

    @property
    def OBSERVATION(self) -> tuple[Entry, ...]:  # type: ignore[override]  # noqa: N802
        """The entries."""
        context = (Entry("fund_pace", "1", -4, 4, "pace"), Entry("time", "1", 0, 1, "time"))
        each = (("live", 1), ("worth", 1), ("age", 1), ("supported", 1))
        return context + tuple(
            Entry(f"item{i}.{name}", "1", 0, most, name) for i in range(ITEMS) for name, most in each
        )

    def default_params(self) -> ShopParams:
        """No numbers."""
        return ShopParams(jnp.float32(0.0))

    def observation_space(self, params: Any) -> gymnasium.spaces.Box:
        """Bounds."""
        return box_of(self.OBSERVATION)

    def action_space(self, params: Any) -> gymnasium.spaces.Box:
        """One number an item: support above 0."""
        return gymnasium.spaces.Box(-1.0, 1.0, (ITEMS,), np.float32)

    def max_steps(self, params: Any) -> int:
        """Five."""
        return TICKS

    def live(self, tick: jax.Array) -> jax.Array:
        """Items 0, 3 come at tick 0; 1, 4 at tick 1; 2, 5 at tick 2."""
        age = tick - jnp.arange(ITEMS) % 3
        return (age >= 0) & (age < STAY)

    def look(self, state: ShopState) -> jax.Array:
        """The observation."""
        age = (state.tick - jnp.arange(ITEMS) % 3) / STAY
        items = jnp.stack([jnp.ones(ITEMS), state.worth, age, state.supported / STAY], -1)
        items = jnp.where(self.live(state.tick)[:, None], items, 0.0)
        return self.layout.join(jnp.stack([state.pace, state.tick / TICKS]), items).astype(jnp.float32)

    def reset(self, key: jax.Array, params: Any) -> tuple[jax.Array, ShopState]:
        """Draws worths."""
        zero = jnp.zeros(ITEMS)
        pace = jax.random.uniform(jax.random.fold_in(key, 1), minval=-1.0, maxval=1.0)
        state = ShopState(jax.random.uniform(key, (ITEMS,)), zero, zero, zero, jnp.int32(0), pace)
        return self.look(state), state

    def step(self, key: jax.Array, state: ShopState, action: jax.Array, params: Any) -> StepResult:
        """Supports, and pays for those that go."""
        live = self.live(state.tick)
        support = live & (action > 0.0)
        supported = state.supported + support
        leaves = live & ~self.live(state.tick + 1)
        reward = jnp.where(leaves, state.worth * supported / STAY, 0.0)
        after = state.replace(  # type: ignore[attr-defined]
            supported=supported, reward=state.reward + reward, cost=state.cost + support / STAY, tick=state.tick + 1
        )
        over = after.tick >= TICKS
        return StepResult(self.look(after), after, reward.sum(), over, jnp.bool_(False), {})

    def item_outcomes(self, before: ShopState, after: ShopState, params: Any) -> tuple[jax.Array, jax.Array]:
        """What the step brought and took."""
        return after.reward - before.reward, after.cost - before.cost


CONFIG = dual_q.make_config(
    choices=((-1.0,), (1.0,)),
    hidden=(32,),
    episodes=64,
    minibatch=512,
    gradient_steps=32,
    price_low=0.1,
    price_high=1.0,
    hold=2.0,
    trace=0.5,
)


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Any]:
    """State after some three seconds, and its curve."""
    env = Shop()
    config = dataclasses.replace(CONFIG, decay_steps=64.0 * TICKS * 150)
    states, curve = dual_q.train(
        config, env, env.default_params(), seeds=[0], total_steps=64 * TICKS * 150, chunk_updates=50, progress=False
    )
    return jax.tree.map(lambda x: x[0], states), curve


@pytest.mark.parametrize("price", [0.25, 0.5, 0.8])
def test_items_are_supported_whose_worth_is_above_the_price(trained: tuple[Any, Any], price: float) -> None:
    env = Shop()
    params = env.default_params()
    policy = dual_q.make_policy(CONFIG, env, trained[0]).replace(price=jnp.float32(price), pace=jnp.float32(0.0))  # type: ignore[attr-defined]
    state = env.reset(jax.random.key(9), params)[1]
    right = count = 0
    for seed in range(50):
        state = state.replace(
            worth=jax.random.uniform(jax.random.key(100 + seed), (ITEMS,)), tick=jnp.int32(seed % TICKS)
        )
        action = np.asarray(policy.act(jax.random.key(0), (), env.look(state))[1])
        clear = np.asarray(env.live(state.tick)) & (np.abs(np.asarray(state.worth) - price) > 0.15)
        wanted = np.asarray(state.worth) > price
        right += ((action > 0.0) == wanted)[clear].sum()
        count += clear.sum()
        assert (action[~np.asarray(env.live(state.tick))] == 0.0).all()  # the middle of the range: it names no other
    assert count > 60
    assert right / count > 0.93


def test_the_price_follows_the_budgets_use_within_the_range_of_training(trained: tuple[Any, Any]) -> None:
    env = Shop()
    params = env.default_params()
    policy = dual_q.make_policy(CONFIG, env, trained[0])
    policy = policy.replace(price=jnp.float32(0.5), pace=jnp.float32(1.0))  # type: ignore[attr-defined]
    state = env.reset(jax.random.key(3), params)[1].replace(worth=jnp.full(ITEMS, 0.55))
    obs = env.look(state)
    live = np.asarray(env.live(state.tick))

    def supported(pace: float) -> np.ndarray:
        return np.asarray(policy.act(jax.random.key(0), (), obs.at[0].set(pace))[1])[live] > 0.0

    assert supported(0.6).all()  # price .27
    assert not supported(-0.6).any()  # price .91


def test_values_explain_returns_and_choices_are_learnt(trained: tuple[Any, Any]) -> None:
    curve = trained[1]
    assert curve["cost_explained"].tail(10).mean() > 0.8
    assert curve["reward_explained"].tail(10).mean() > 0.8
    assert curve["step"].max() == 64 * TICKS * 150
    assert (curve["cost"] <= 1.0 + 1e-6).all()


def test_same_seed_same_bits_and_a_stopped_run_goes_on(tmp_path: Any) -> None:
    env = Shop()

    def trained_to(steps: int, **rest: Any) -> Any:
        common: dict[str, Any] = {"seeds": [1], "chunk_updates": 2, "progress": False}
        return dual_q.train(CONFIG, env, env.default_params(), total_steps=64 * TICKS * steps, **common, **rest)[0]

    whole = trained_to(4)
    trained_to(2, checkpoint=tmp_path / "c")
    resumed = trained_to(4, checkpoint=tmp_path / "c", resume=True)
    for a, b in zip(jax.tree.leaves(whole.network), jax.tree.leaves(resumed.network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_terms_are_distinct_and_on_one_scale() -> None:
    basis = dual_q.terms(dual_q.choices_of((-1.0, -0.5, 0.0, 1.0), (-1.0,), (-0.5, 0.0, 0.5)))
    assert basis.shape == (12, 9 - 1)  # up to the third degree in two numbers; the cube of three values is no new term
    np.testing.assert_allclose(basis.mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(basis.std(0), 1.0, atol=1e-6)
    assert np.linalg.matrix_rank(basis) == basis.shape[1]
    assert dual_q.terms(((-1.0,), (1.0,))).shape == (2, 1)


def test_cold_starts_outcomes_add_up() -> None:
    env, params = envs.make(
        "adarena/ColdStart-v0", mature=12, launched=6, days=11, ticks_per_day=4, impressions=16, twin=False
    )
    before = env.reset(jax.random.key(0), params)[1]
    step = jax.jit(env.step)
    reward = cost = np.zeros(6)
    for tick in range(44):
        out = step(jax.random.key(tick), before, jnp.tile(jnp.asarray([-0.4, -1.0, 0.0]), 6), params)
        won, taken = env.item_outcomes(before, out.state, params)
        assert float(won.sum()) == pytest.approx(float(out.reward))
        reward, cost, before = reward + np.asarray(won), cost + np.asarray(taken), out.state
    assert cost.sum() / 6 == pytest.approx(float(env.metrics(before, params)["exploration_budget_used"]), rel=1e-4)
    assert cost.sum() > 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choices": ((-1.0,), (2.0,))}, "choices must be a tuple of at least two distinct tuples"),
        ({"choices": ((-1.0,),)}, "choices must be a tuple of at least two distinct tuples"),
        ({"price_low": 0.0}, "price_low must be a finite number above 0, got 0.0"),
        ({"price_low": 3.0}, "price_low must be at most price_high"),
        ({"hold": 0.5}, "hold must be a finite number of at least 1, got 0.5"),
        ({"explore": 1.0}, r"explore must be a number in \[0, 0.9\], got 1.0"),
        ({"trace": 1.5}, r"trace must be a number in \[0, 1\], got 1.5"),
        ({"gradient_steps": 0}, "gradient_steps must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_numbers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dual_q.make_config(**changes)


def test_environments_that_do_not_suit_are_refused() -> None:
    with pytest.raises(TypeError, match="has no field 'price'"):
        dual_q.make_config(price=1.0)
    plain = SecondPriceEnv()
    with pytest.raises(TypeError, match="env must have a layout of items and item_outcomes"):
        dual_q.init(CONFIG, plain, plain.default_params(), jax.random.key(0))
    shop = Shop()
    three = dataclasses.replace(CONFIG, choices=((0.0, 0.0), (1.0, 0.0)))
    with pytest.raises(ValueError, match="choices must have 1 numbers each for Shop"):
        dual_q.init(three, shop, shop.default_params(), jax.random.key(0))
