from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adarena.envs.core import AutoReset, Entry, Env, StepResult
from adarena.experiments import rollout as module
from adarena.experiments.rollout import rollout, rollout_seeds

TRACES = {"step": 0}


def _luck(key: jax.Array, tick: Any = 0) -> jax.Array:
    """A number in [0, 1) by hashing: Threefry would spend most of the tests' time in the compiler."""
    x = jax.random.key_data(key)[-1] + jnp.uint32(40503) * jnp.asarray(tick, jnp.uint32)
    x = (x ^ (x >> 15)) * jnp.uint32(0x2C1B3C6D)
    return (x >> 8).astype(jnp.float32) / 2**24


class ShopParams(flax.struct.PyTreeNode):
    bank: jax.Array  # [1000] prices, currency unit per tick
    budget: jax.Array
    seat: jax.Array
    weights: jax.Array  # [2]
    pair: tuple[jax.Array, jax.Array]


class ShopState(flax.struct.PyTreeNode):
    key: jax.Array
    tick: jax.Array
    left: jax.Array
    value: jax.Array
    price: jax.Array


@dataclasses.dataclass(frozen=True)
class Shop(Env):
    """Buys what is cheaper than the bid; ends when the money is gone (terminated) or the day is over (truncated)."""

    ticks: int = 12
    over: int = 0  # ticks by which the day outlasts what max_steps says
    OBSERVATION: ClassVar[tuple[Entry, ...]] = (
        Entry("left", "currency", 0.0, 100.0, "Money left."),
        Entry("price", "currency", 0.0, 1.0, "Price of this tick."),
    )

    def default_params(self) -> ShopParams:
        bank = jnp.linspace(0.0, 1.0, 1000)
        zero = jnp.zeros(())
        return ShopParams(bank, jnp.asarray(2.0), jnp.asarray(-1, jnp.int32), jnp.ones(2), (zero, zero))

    def _price(self, key: jax.Array, tick: jax.Array, params: ShopParams) -> jax.Array:
        return params.bank[(1000 * _luck(key, tick)).astype(jnp.int32)]

    def reset(self, key: jax.Array, params: ShopParams) -> tuple[jax.Array, ShopState]:
        price = self._price(key, jnp.zeros((), jnp.int32), params)
        state = ShopState(key, jnp.zeros((), jnp.int32), params.budget, jnp.zeros(()), price)
        return jnp.stack([state.left, state.price]), state

    def step(self, key: jax.Array, state: ShopState, action: jax.Array, params: ShopParams) -> StepResult:
        TRACES["step"] += 1
        won = (action[0] > state.price) & (state.price <= state.left)
        reward = won * (1.0 + _luck(key)) * params.weights[0]
        cost = won * state.price
        info = {"cost": cost, "price": state.price, "seat": params.seat, "both": jnp.stack([state.price, cost])}
        tick = state.tick + 1
        after = ShopState(
            state.key, tick, state.left - cost, state.value + reward, self._price(state.key, tick, params)
        )
        obs = jnp.stack([after.left, after.price])
        return StepResult(obs, after, reward, after.left < 0.5, tick >= self.ticks + self.over, info)

    def observation_space(self, params: ShopParams) -> gymnasium.Space:
        return gymnasium.spaces.Box(0.0, 100.0, (2,), np.float32)

    def action_space(self, params: ShopParams) -> gymnasium.Space:
        return gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)

    def max_steps(self, params: ShopParams) -> int:
        return self.ticks


@dataclasses.dataclass(frozen=True)
class Measured(Shop):
    def metrics(self, state: ShopState, params: ShopParams) -> dict[str, jax.Array]:
        return {"value": state.value, "spent": params.budget - state.left}

    def bound(self, infos: dict[str, jax.Array], state: ShopState, params: ShopParams) -> dict[str, jax.Array]:
        return {"cost_sum": infos["cost"].sum(), "ticks_seen": (infos["price"] > 0).sum()}


@dataclasses.dataclass(frozen=True)
class Fussy(Shop):
    def validate_changes(self, changes: dict[str, Any]) -> dict[str, Any]:
        if changes["seat"] > 2:
            raise ValueError(f"seat must be at most 2, got {changes['seat']}")
        return changes


@dataclasses.dataclass(frozen=True)
class Twice(Shop):
    def metrics(self, state: ShopState, params: ShopParams) -> dict[str, jax.Array]:
        return {"return": state.value}


class Bidder(flax.struct.PyTreeNode):
    """Bids a level, plus noise, plus a little more each tick."""

    level: Any
    noise: Any = 0.0
    jittable: bool = flax.struct.field(pytree_node=False, default=True)

    def init(self, params: ShopParams) -> jax.Array:
        return jnp.zeros(()) * params.budget

    def act(self, key: jax.Array, carry: jax.Array, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        bid = self.level + self.noise * _luck(key) + 0.01 * carry + 0.1 * obs[1]
        return carry + 1.0, bid[None]


class _NumpyBidder:
    """As `Bidder`, in NumPy: JAX could not trace it."""

    jittable = False

    def __init__(self, level: float, noise: float) -> None:
        self.level, self.noise, self.calls = np.float32(level), np.float32(noise), 0

    def init(self, params: ShopParams) -> float:
        return 0.0

    def act(self, key: jax.Array, carry: float, obs: np.ndarray) -> tuple[float, np.ndarray]:
        self.calls += 1
        assert type(obs) is np.ndarray
        obs[0] += 0.0  # writable, like what Gymnasium gives
        bid = self.level + self.noise * float(_luck(key)) + 0.01 * carry + 0.1 * obs[1]
        return carry + 1.0, np.array([bid])


NumpyBidder: Any = _NumpyBidder


def _keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


def test_an_episode_is_what_reset_and_step_give() -> None:
    env, keys = Measured(), _keys(3)
    params = env.default_params()
    result = rollout(
        env, params, Bidder(0.6), keys, {"budget": np.array([1.0, 2.0, 9.0])}, record=("obs.price", "reward")
    )
    for c, budget in enumerate((1.0, 2.0, 9.0)):
        case = params.replace(budget=jnp.asarray(budget))
        obs, state = env.reset(keys[c], case)
        carry = Bidder(0.6).init(case)
        prices, spent, ticks, over = [], 0.0, 0, False
        while not over:
            prices.append(float(obs[1]))
            carry, action = Bidder(0.6).act(keys[c], carry, obs)
            obs, state, _, terminated, truncated, info = env.step(keys[c], state, action, case)
            spent, ticks, over = spent + float(info["cost"]), ticks + 1, bool(terminated | truncated)
        assert result.metrics["length"][c] == ticks
        assert result.metrics["spent"][c] == pytest.approx(spent, abs=1e-5)
        assert result.metrics["ticks_seen"][c] == ticks  # what comes after the end is zero
        np.testing.assert_allclose(result.series["obs.price"][c, :ticks], prices, rtol=1e-6)
        assert not result.series["reward"][c, ticks:].any()
    assert result.metrics["length"].tolist()[0] < result.metrics["length"].tolist()[2]
    np.testing.assert_allclose(result.metrics["return"], result.series["reward"].sum(1), rtol=1e-6)
    np.testing.assert_allclose(result.metrics["return"], result.metrics["value"], rtol=1e-6)
    np.testing.assert_allclose(result.metrics["spent"], result.metrics["cost_sum"], atol=1e-5)


def test_python_loop_gives_what_the_scan_gives() -> None:
    env = Measured()
    keys, record = _keys(7), ("action", "reward", "left", "both", "seat")
    cases = {"budget": np.linspace(0.6, 5.0, 7), "seat": np.arange(7)}
    fast = rollout(env, env.default_params(), Bidder(0.5, 0.1), keys, cases, record=record)
    policy = NumpyBidder(0.5, 0.1)
    slow = rollout(env, env.default_params(), policy, keys, cases, record=record, chunk=4)
    assert list(fast.metrics) == list(slow.metrics)
    assert list(fast.series) == list(slow.series)
    for ours, theirs in ((fast.metrics, slow.metrics), (fast.series, slow.series)):
        for name in ours:
            assert ours[name].shape == theirs[name].shape
            assert ours[name].dtype == theirs[name].dtype
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)
    assert policy.calls == fast.metrics["length"].sum()  # nobody is asked after the end


def test_python_loop_stops_when_all_have_ended() -> None:
    env, keys = Measured(ticks=30), _keys(4)
    slow = rollout(
        env, env.default_params(), NumpyBidder(0.9, 0.0), keys, {"budget": np.full(4, 0.6)}, record=("cost",)
    )
    fast = rollout(env, env.default_params(), Bidder(0.9), keys, {"budget": np.full(4, 0.6)}, record=("cost",))
    assert slow.series["cost"].shape == (4, 30)
    assert slow.metrics["length"].max() < 30
    np.testing.assert_allclose(slow.series["cost"], fast.series["cost"], atol=1e-6)


def test_shapes_and_dtypes() -> None:
    env = Measured()
    result = rollout(env, env.default_params(), Bidder(0.6), _keys(5), record=("action", "both", "left"))
    assert set(result.metrics) == {"return", "length", "value", "spent", "cost_sum", "ticks_seen"}
    assert all(type(x) is np.ndarray and x.shape == (5,) for x in result.metrics.values())
    assert {name: x.shape for name, x in result.series.items()} == {
        "action": (5, 12, 1),
        "both": (5, 12, 2),
        "left": (5, 12),
    }
    assert result.metrics["return"].dtype == np.float32
    assert "cost_sum" not in rollout(env, env.default_params(), Bidder(0.6), _keys(5), bound=False).metrics
    assert set(rollout(Shop(), env.default_params(), Bidder(0.6), _keys(3)).metrics) == {"return", "length"}


def test_equal_keys_are_equal_markets() -> None:
    env, keys, record = Shop(), _keys(4), ("obs.price", "reward")
    params = env.default_params().replace(budget=jnp.asarray(50.0))
    low = rollout(env, params, Bidder(0.3), keys, record=record)
    high = rollout(env, params, Bidder(0.6), keys, record=record)
    both = (low.metrics["length"] == 12) & (high.metrics["length"] == 12)
    assert both.any()
    np.testing.assert_array_equal(low.series["obs.price"][both], high.series["obs.price"][both])
    won = (low.series["reward"] > 0) & (high.series["reward"] > 0)
    np.testing.assert_array_equal(low.series["reward"][won], high.series["reward"][won])  # the same luck too
    other = rollout(env, params, Bidder(0.3), _keys(4, seed=1), record=record)
    assert not np.array_equal(low.series["obs.price"], other.series["obs.price"])


def test_same_call_same_bits() -> None:
    env, keys = Measured(), _keys(5)
    one, two = (rollout(env, env.default_params(), Bidder(0.6, 0.1), keys) for _ in range(2))
    for name in one.metrics:
        np.testing.assert_array_equal(one.metrics[name], two.metrics[name])


def test_chunks_change_nothing_and_compile_once() -> None:
    env, keys, cases = Measured(ticks=11), _keys(10), {"budget": np.linspace(0.6, 4.0, 10)}
    whole = rollout(env, env.default_params(), Bidder(0.5, 0.1), keys, cases, record=("cost",))
    before = TRACES["step"]
    parts = rollout(env, env.default_params(), Bidder(0.5, 0.1), keys, cases, record=("cost",), chunk=4)
    assert TRACES["step"] == before + 1  # 4 + 4 + 2, the last padded
    for name in whole.metrics:
        np.testing.assert_allclose(whole.metrics[name], parts.metrics[name], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(whole.series["cost"], parts.series["cost"], atol=1e-6)


def test_other_numbers_run_the_same_program() -> None:
    env, params = Shop(ticks=9), Shop().default_params()
    rollout(env, params, Bidder(0.5), _keys(3), {"budget": np.ones(3)})
    before = TRACES["step"]
    rollout(env, params, Bidder(0.7, 0.2), _keys(3, 1), {"budget": np.array([1, 2, 3])})
    rollout(env, params, Bidder(jnp.float32(0.7)), _keys(3), {"budget": np.ones(3)})  # weak or strong float, all one
    rollout(Shop(ticks=9), params.replace(budget=jnp.asarray(3.0)), Bidder(0.5), _keys(3), {"budget": np.ones(3)})
    assert TRACES["step"] == before


@dataclasses.dataclass(frozen=True)
class _Frozen:
    """A jittable policy that is no pytree, but says by value what it is."""

    level: float
    jittable: ClassVar[bool] = True

    def init(self, params: ShopParams) -> None:
        return None

    def act(self, key: jax.Array, carry: None, obs: jax.Array) -> tuple[None, jax.Array]:
        return None, jnp.full((1,), self.level)


class _Mutable(_Frozen):
    """The same, but anybody may change it, and it does not compare by value."""

    __dataclass_params__ = None

    def __init__(self, level: float) -> None:
        object.__setattr__(self, "level", level)


Frozen: Any = _Frozen
Mutable: Any = _Mutable


def test_policies_that_are_no_pytrees() -> None:
    env, keys = Shop(ticks=8), _keys(3)
    params = env.default_params()
    result = rollout(env, params, Frozen(0.5), keys, record=("action",))
    assert result.series["action"].max() == 0.5
    before = TRACES["step"]
    rollout(env, params, Frozen(0.5), keys, record=("action",))
    assert TRACES["step"] == before
    policy = Mutable(0.5)
    rollout(env, params, policy, keys, record=("action",))
    object.__setattr__(policy, "level", 0.25)  # a stale program would still bid 0.5
    assert rollout(env, params, policy, keys, record=("action",)).series["action"].max() == 0.25


def test_seeds_are_the_policies_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    env, keys, cases = Measured(), _keys(5), {"seat": np.arange(5)}
    levels = np.array([0.2, 0.5, 0.8], np.float32)
    stacked = Bidder(jnp.asarray(levels), jnp.full(3, 0.1))
    alone = [rollout(env, env.default_params(), Bidder(x, 0.1), keys, cases, record=("cost", "seat")) for x in levels]
    for chunk, large in ((6, 65536), (256, 1)):
        monkeypatch.setattr(module, "_LARGE", large)  # the last: as if each were a network too large to be copied
        together = rollout_seeds(env, env.default_params(), stacked, keys, cases, record=("cost", "seat"), chunk=chunk)
        assert together.metrics["return"].shape == (3, 5)
        assert together.series["cost"].shape == (3, 5, 12)
        assert (together.series["seat"][:, :, 0] == np.arange(5)).all()
        for s in range(3):
            for name, expected in alone[s].metrics.items():
                np.testing.assert_allclose(together.metrics[name][s], expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(together.series["cost"][s], alone[s].series["cost"], atol=1e-5)


def test_a_policy_a_case() -> None:
    env, keys, levels = Measured(), _keys(5), np.linspace(0.1, 0.9, 5, dtype=np.float32)
    params = env.default_params()
    paired = rollout(env, params, Bidder(jnp.asarray(levels), jnp.full(5, 0.1)), keys, paired=True, chunk=2)
    for case, level in enumerate(levels):
        alone = rollout(env, params, Bidder(level, 0.1), keys[case : case + 1])
        for name, expected in alone.metrics.items():
            np.testing.assert_allclose(paired.metrics[name][case], expected[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"leaves \[5, ...\] where paired"):
        rollout(env, params, Bidder(jnp.ones(4), jnp.ones(4)), keys, paired=True)


def test_numbers_of_candidates_share_a_program() -> None:
    env, params = Shop(ticks=10), Shop().default_params()
    rollout_seeds(env, params, Bidder(jnp.ones(4), jnp.ones(4)), _keys(6), chunk=8)
    before = TRACES["step"]
    rollout_seeds(env, params, Bidder(jnp.ones(2), jnp.ones(2)), _keys(9), chunk=8)
    assert TRACES["step"] == before


def test_policies_without_numbers() -> None:
    class Fixed(flax.struct.PyTreeNode):
        jittable: bool = flax.struct.field(pytree_node=False, default=True)

        def init(self, params: ShopParams) -> None:
            return None

        def act(self, key: jax.Array, carry: None, obs: jax.Array) -> tuple[None, jax.Array]:
            return None, obs[1:] * 0.0 + 0.4

    result = rollout(Shop(), Shop().default_params(), Fixed(), _keys(2), record=("action",))
    assert result.series["action"].max() == np.float32(0.4)


def test_large_arrays_are_not_batched() -> None:
    env = Shop()
    plan, cases = module._prepare(
        env, env.default_params(), Bidder(0.5), _keys(64), {"seat": np.arange(64)}, (), True, 64
    )
    for stacked, policy in ((False, Bidder(0.5)), (True, Bidder(jnp.ones(64), jnp.ones(64)))):
        arguments = (plan, stacked, env.default_params(), module._leaves(policy), _keys(64), cases)
        text = str(jax.make_jaxpr(module._run, static_argnums=(0, 1))(*arguments))
        assert "f32[64,1000]" not in text
        assert "f32[1000]" in text


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"env": AutoReset(Shop())}, TypeError, "env must be the environment itself, got AutoReset"),
        ({"keys": jnp.zeros((3, 2), jnp.uint32)}, TypeError, "keys must be typed keys .* got uint32"),
        ({"keys": [1, 2]}, TypeError, "keys must be typed keys .* got list"),
        ({"keys": jax.random.key(0)}, ValueError, r"keys must have shape \[C\] with at least one case, got \(\)"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1, got 0"),
        ({"record": "cost"}, ValueError, "record must be a sequence of names, got the string 'cost'"),
        ({"record": ("cots",)}, ValueError, "record names 'cots', which nothing is called; names are action, reward"),
        ({"record": ("price",)}, ValueError, "record names 'price', which means several things; say 'obs.price'"),
        ({"cases": {"bugdet": np.ones(3)}}, ValueError, "cases names 'bugdet', which is no field .* bank, budget"),
        ({"cases": {"budget": np.ones(4)}}, ValueError, r"cases\['budget'\] must have shape \(3,\), got \(4,\)"),
        ({"cases": {"weights": np.ones(3)}}, ValueError, r"cases\['weights'\] must have shape \(3, 2\)"),
        ({"cases": {"seat": np.ones(3)}}, ValueError, r"cases\['seat'\] must be int32, got float64"),
        ({"cases": {"budget": np.array(["a", "b", "c"])}}, ValueError, r"cases\['budget'\] must be float32, got <U1"),
        ({"cases": {"budget": [1.0, np.inf, 1.0]}}, ValueError, r"cases\['budget'\] must be finite, got inf"),
        ({"cases": {"pair": np.ones(3)}}, ValueError, r"cases\['pair'\] must replace a numeric field, got .*tuple"),
        ({"policy": Bidder("high")}, TypeError, r"Bidder.level must be an array or .* got str"),
        ({"policy": Bidder(np.ones(2, np.float32))}, ValueError, r"action space's shape \(1,\), got \(1, 2\)"),
        ({"env": Twice()}, ValueError, "Twice gives the metric 'return' twice"),
        ({"env": Fussy(), "cases": {"seat": [1, 2, 3]}}, ValueError, "seat must be at most 2, got 3"),
        ({"env": Shop(over=5)}, RuntimeError, "did not end within env.max_steps"),
    ],
)
def test_bad_input(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"env": Shop(), "policy": Bidder(0.01), "keys": _keys(3), "cases": None, **changes}
    with pytest.raises(error, match=message):
        rollout(params=Shop().default_params(), **arguments)


def test_bad_stacks() -> None:
    env, keys = Shop(), _keys(3)
    params = env.default_params()
    with pytest.raises(ValueError, match=r"same leading axis of seeds, got shapes \[\(2,\), \(3,\)\]"):
        rollout_seeds(env, params, Bidder(jnp.ones(2), jnp.ones(3)), keys)
    with pytest.raises(ValueError, match=r"same leading axis of seeds, got shapes \[\(\)\]"):
        rollout_seeds(env, params, Bidder(0.5), keys)
    with pytest.raises(ValueError, match=r"same leading axis of seeds, got shapes \[\(0,\)\]"):
        rollout_seeds(env, params, Bidder(jnp.ones(0), jnp.ones(0)), keys)
    with pytest.raises(TypeError, match="policies must be a jittable pytree stacked over seeds, got _NumpyBidder"):
        rollout_seeds(env, params, NumpyBidder(0.5, 0.0), keys)
    with pytest.raises(TypeError, match="policies must be a jittable pytree stacked over seeds, got _Frozen"):
        rollout_seeds(env, params, Frozen(0.5), keys)
    wrong: Any = _WrongShape(0.5, 0.0)
    with pytest.raises(ValueError, match=r"action space's shape \(1,\), got \(2,\)"):
        rollout(env, params, wrong, keys)


class _WrongShape(_NumpyBidder):
    def act(self, key: jax.Array, carry: float, obs: np.ndarray) -> tuple[float, np.ndarray]:
        return carry, np.zeros(2)
