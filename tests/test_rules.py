"""The rules: each runs, the same laws move rivals and rules, and what they say they need they ask for by name."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adarena.envs
from adarena.agents.policy import make_policy, registered_policies
from adarena.agents.rules import RULES, MinPacing, Rule
from adarena.envs import rivals
from adarena.envs.core import Entry
from adarena.envs.observation import entries
from adarena.envs.rivals import KINDS, LIMIT, Signals
from adarena.experiments.rollout import rollout_seeds

pytestmark = pytest.mark.usefixtures("quick_compilation")

MARKETS = 96


@flax.struct.dataclass
class OneOf:
    """One of several rules, by number: so that all of them run in one compiled program."""

    which: Any
    rules: tuple[Rule, ...]
    jittable: ClassVar[bool] = True

    def init(self, params: Any) -> Any:
        return tuple(rule.init(params) for rule in self.rules)

    def act(self, key: jax.Array, carry: Any, obs: jax.Array) -> tuple[Any, jax.Array]:
        results = [rule.act(key, memory, obs) for rule, memory in zip(self.rules, carry, strict=True)]
        actions = jnp.stack([action for _, action in results])
        return tuple(memory for memory, _ in results), actions[self.which]


@pytest.fixture(scope="module")
def market() -> tuple[Any, Any]:
    return adarena.envs.make(
        "adarena/AutoBid-v0", advertisers=8, ticks=12, impressions=16, blocks=32, slots=2, categories=2
    )


@pytest.fixture(scope="module")
def results(market: tuple[Any, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Metrics and actions of every rule with its default numbers on the same markets."""
    env, params = market
    rules = tuple(rule.build(env) for rule in RULES.values())
    number = len(rules)
    stacked = jax.tree.map(lambda x: jnp.full(number, x, jnp.float32), rules)
    policies = OneOf(which=jnp.arange(number), rules=stacked)
    keys = jax.random.split(jax.random.key(0), MARKETS)
    out = rollout_seeds(env, params, policies, keys, record=("action", "richness"), bound=False, chunk=number * MARKETS)
    columns = {**out.metrics, **out.series}
    return {name: {column: x[n] for column, x in columns.items()} for n, name in enumerate(RULES)}


def test_every_rule_is_registered(market: tuple[Any, Any]) -> None:
    assert set(RULES) <= set(registered_policies())
    for name, rule in RULES.items():
        policy = make_policy(name, market[0])
        assert type(policy) is rule
        for parameter, bound in rule.space().items():
            assert hasattr(policy, parameter), (name, parameter)
            assert bound.low < bound.high
            assert bound.default is None or bound.low <= bound.default <= bound.high
            assert getattr(policy, parameter) == bound.default


@pytest.mark.parametrize("name", RULES)
def test_rule_runs(results: dict[str, dict[str, np.ndarray]], name: str) -> None:
    result = results[name]
    assert np.isfinite(result["action"]).all()
    assert (np.abs(result["action"]) <= 1.0).all()
    np.testing.assert_allclose(result["return"], result["score"], rtol=1e-3, atol=1e-3)
    assert (result["budget_used"] <= 1.0 + 1e-6).all()
    moves = np.ptp(result["action"], axis=1)
    if name == "constant":
        np.testing.assert_array_equal(result["action"], 0.0)
    else:
        assert (moves.ravel() > 0.0).mean() > 0.9, "a rule with feedback should move"


@pytest.mark.parametrize("name", [name for name in RULES if name != "random"])
def test_rule_beats_random(results: dict[str, dict[str, np.ndarray]], name: str) -> None:
    """Paired over markets, with default numbers. The budget pacer ignores the target, so it is judged by value."""
    metric = "value" if name in ("budget_pacer", "pid_pacing") else "score"
    gain = results[name][metric] - results["random"][metric]
    assert gain.mean() > 2.0 * gain.std(ddof=1) / np.sqrt(len(gain)), (name, gain.mean())


def test_rivals_and_the_rule_follow_the_same_law(market: tuple[Any, Any]) -> None:
    """A rival of kind min-pacing in the controlled seat would have bid what the rule bids, tick by tick."""
    env, params = market
    rule = MinPacing.build(env)

    def episode(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        obs, state = env.reset(key, params)
        seat = state.seat.index
        control = jax.tree.map(lambda x: x.at[seat].set(0.0), state.control)
        state = dataclasses.replace(state, kind=state.kind.at[seat].set(KINDS.index("min_pacing")), control=control)

        def step(carry: Any, _: None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            obs, state, memory = carry
            memory, action = rule.act(key, memory, obs)
            _, levels = rivals.rival_step(state.control, env._signals(state, params), state.kind)
            result = env.step(key, state, action, params)
            return (result.obs, result.state, memory), (action[0] * jnp.log(params.max_multiplier), levels[seat])

        return jax.lax.scan(step, (obs, state, rule.init(params)), length=env.ticks)[1]

    bid, law = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(2), 16))
    inside = np.abs(np.asarray(law)) < np.log(8.0)
    assert inside.mean() > 0.8
    assert np.ptp(np.asarray(bid)) > 0.5
    np.testing.assert_allclose(np.asarray(bid)[inside], np.asarray(law)[inside], atol=2e-4)


def signals(**changes: float) -> Signals:
    plan = {
        "started": 1.0,
        "budget_left": 0.5,
        "traffic_left": 0.5,
        "spend_last": 0.1,
        "traffic_last": 0.1,
        "cost_over_target": 1.0,
    }
    return Signals(**{name: jnp.float32(value) for name, value in {**plan, **changes}.items()})


def test_laws_move_the_right_way() -> None:
    start = rivals.begin(jnp.float32(0.0))
    fast, slow = signals(spend_last=0.3), signals(spend_last=0.03)
    dear, cheap = signals(cost_over_target=2.0), signals(cost_over_target=0.5)
    assert rivals.planned(signals()) == pytest.approx(1.0)
    assert rivals.planned(fast) == pytest.approx(3.0)
    pacer = [rivals.pacer(start, s, 0.7, 1.1, 1.2, 0.7)[1] for s in (slow, signals(), fast)]
    np.testing.assert_allclose(np.exp(pacer), [1.2, 1.0, 0.7], rtol=1e-5)
    for law in (
        lambda s: rivals.pid(start, s, rivals.target_error(s), 0.5, 0.05, 0.2)[1],
        lambda s: rivals.min_pacing(start, s, 0.3, 0.2)[1],
    ):
        assert law(dear) < 0.0 < law(cheap) + 1e-6
    assert rivals.min_pacing(start, fast, 0.3, 0.2)[1] < 0.0
    assert rivals.min_pacing(start, slow._replace(cost_over_target=jnp.float32(0.5)), 0.3, 0.2)[1] > 0.0
    still = signals(started=0.0, cost_over_target=3.0, spend_last=0.9)
    for law in (rivals.pacer(start, still, 0.7, 1.1, 1.2, 0.7), rivals.min_pacing(start, still, 0.3, 0.2)):
        assert law[1] == 0.0
    control = start
    for _ in range(100):
        control, level = rivals.min_pacing(control, dear, 0.3, 0.2)
    assert level == -LIMIT


def test_rival_step_gives_each_its_own_law() -> None:
    kind = jnp.arange(4, dtype=jnp.int32)
    start = rivals.begin(jnp.full(4, 0.25))
    s = jax.tree.map(lambda x: jnp.full(4, x), signals(spend_last=0.3, cost_over_target=2.0))
    control, levels = rivals.rival_step(start, s, kind)
    assert levels[0] == 0.25
    assert levels[1] == rivals.pacer(start, s, 0.7, 1.1, 1.2, 0.7)[1][1]
    assert levels[2] == rivals.pid(start, s, rivals.target_error(s), 0.5, 0.05, 0.2)[1][2]
    assert levels[3] == rivals.min_pacing(start, s, 0.3, 0.2)[1][3]
    np.testing.assert_array_equal(control.integral != 0.0, [False, False, True, False])


NEEDS = {
    "random": "richness",
    "constant": "richness",
    "budget_pacer": "spend_last",
    "pid_target": "cost_over_target",
    "pid_pacing": "traffic_last",
    "dual_descent": "budget_left",
    "min_pacing": "traffic_left",
    "online_lp": "progress",
    "landscape_shader": "landscape_value_1",
}


@pytest.mark.parametrize("name", RULES)
def test_missing_entry_is_named(name: str) -> None:
    missing = NEEDS[name]
    shown = tuple(entry for entry in entries(1) if entry.name != missing)
    env = types.SimpleNamespace(OBSERVATION=shown)
    params = types.SimpleNamespace(max_multiplier=jnp.float32(8.0))
    policy = make_policy(name, env)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match=f"observation entry '{missing}'"):
        policy.act(jax.random.key(0), policy.init(params), jnp.zeros(len(shown)))


def test_opening_depends_on_richness() -> None:
    env = types.SimpleNamespace(OBSERVATION=(Entry("richness", "log ratio", -10, 10, "budget"),))
    params = types.SimpleNamespace(max_multiplier=jnp.float32(8.0))
    policy = dataclasses.replace(RULES["constant"].build(env), start=-0.5, start_richness=0.5)  # type: ignore[arg-type]
    for richness, expected in ((0.0, -0.5), (2.0, 0.5), (100.0, np.log(8.0))):
        _, action = policy.act(jax.random.key(0), policy.init(params), jnp.asarray([richness]))
        assert float(action[0] * np.log(8.0)) == pytest.approx(expected, rel=1e-5)
