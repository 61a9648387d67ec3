from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adarena.agents.tuner import Bound, Plan, check_space, plan_of, stack_candidates, tune
from adarena.envs.core import Entry, Env, StepResult
from adarena.experiments.rollout import rollout, rollout_seeds

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Rule(flax.struct.PyTreeNode):
    gain: Any = 1.0
    rate: Any = 0.1
    table: Any = (1.0, 2.0)
    score: Any = 0.0
    steps: Any = 3
    name: str = flax.struct.field(pytree_node=False, default="rule")


SPACE = {"gain": Bound(-2.0, 6.0), "rate": Bound(1e-4, 10.0, log=True)}
BEST = {"gain": 3.7, "rate": 0.004}


def _distance(candidates: Any) -> np.ndarray:
    """Squared distance to the best, each parameter on its own scale (a range is 8 units, or 5 decades)."""
    gain, rate = np.asarray(candidates.gain), np.asarray(candidates.rate)
    return ((gain - BEST["gain"]) / 8.0) ** 2 + (np.log10(rate / BEST["rate"]) / 5.0) ** 2


def _exact(candidates: Any, keys: jax.Array, cases: dict[str, np.ndarray]) -> np.ndarray:
    return 5.0 - _distance(candidates)


def _noisy(candidates: Any, keys: jax.Array, cases: dict[str, np.ndarray]) -> np.ndarray:
    """A market's level shifts everybody (common noise), and each candidate and market has noise of its own."""
    words = np.asarray(jax.random.key_data(keys))
    rng = np.random.default_rng(words.ravel().tolist())
    own = 0.5 * rng.normal(size=(len(candidates.gain), len(keys)))
    return 5.0 - _distance(candidates) + 3.0 * rng.normal() + own.mean(axis=1)


def test_finds_a_known_optimum() -> None:
    result = tune(Rule(), SPACE, _exact, budget=8192, seed=0)
    assert result.parameters["gain"] == pytest.approx(BEST["gain"], abs=0.08)  # a hundredth of the range
    assert np.log10(result.parameters["rate"] / BEST["rate"]) == pytest.approx(0.0, abs=0.05)
    assert result.score == pytest.approx(5.0, abs=1e-3)
    assert float(result.policy.gain) == pytest.approx(result.parameters["gain"])
    assert (result.policy.table, result.policy.steps, result.policy.name) == ((1.0, 2.0), 3, "rule")


def test_finds_it_through_noise() -> None:
    # Noise of one evaluation: 0.5 / sqrt(32) = 0.09, as much as a third of the range costs.
    for seed in range(3):
        result = tune(Rule(), SPACE, _noisy, budget=16384, seed=seed)
        assert _distance(Rule(**result.parameters)) < 0.02


def test_optimum_at_a_bound() -> None:
    result = tune(Rule(), {"gain": Bound(0.0, 2.0)}, lambda c, keys, cases: np.asarray(c.gain), budget=4096, seed=1)
    assert result.parameters["gain"] == pytest.approx(2.0, abs=1e-3)
    assert result.history["gain"].is_between(0.0, 2.0).all()


def test_default_is_tried_and_can_win() -> None:
    space = {"gain": Bound(0.0, 1.0, default=0.123), "rate": Bound(1.0, 100.0, log=True, default=7.0)}

    def needle(candidates: Any, keys: jax.Array, cases: dict[str, np.ndarray]) -> np.ndarray:
        return np.isclose(candidates.gain, 0.123) & np.isclose(candidates.rate, 7.0)

    result = tune(Rule(), space, needle, budget=4096, seed=0)
    assert result.parameters == pytest.approx({"gain": 0.123, "rate": 7.0})
    assert result.score == 1.0


def test_same_seed_same_search() -> None:
    one, two, other = (tune(Rule(), SPACE, _noisy, budget=4096, seed=seed) for seed in (3, 3, 4))
    assert one.history.equals(two.history)
    assert one.parameters == two.parameters
    assert not one.history.equals(other.history)


def _watch(seen: list[tuple[np.ndarray, dict[str, np.ndarray]]]) -> Any:
    def evaluate(candidates: Any, keys: jax.Array, cases: dict[str, np.ndarray]) -> np.ndarray:
        seen.append((np.asarray(jax.random.key_data(keys)), cases))
        return _exact(candidates, keys, cases)

    return evaluate


def test_markets_are_fresh_each_generation_and_the_same_for_every_rule() -> None:
    def draw(rng: np.random.Generator, episodes: int) -> dict[str, np.ndarray]:
        return {"budget": rng.uniform(0.5, 1.5, size=episodes)}

    ours: list[Any] = []
    theirs: list[Any] = []
    markets = jax.random.key(9)
    tune(Rule(), SPACE, _watch(ours), budget=8192, seed=0, markets=markets, draw_cases=draw)
    tune(Rule(), {"gain": Bound(0, 9)}, _watch(theirs), budget=8192, seed=5, markets=markets, draw_cases=draw)
    assert len(ours) == len(theirs) == 7
    rows = np.concatenate([keys for keys, _ in ours])
    assert len(np.unique(rows, axis=0)) == len(rows)  # no market twice, the final round's included
    for (keys, cases), (other_keys, other_cases) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(keys, other_keys)
        np.testing.assert_array_equal(cases["budget"], other_cases["budget"])
        assert cases["budget"].shape == (len(keys),)
    assert len({cases["budget"][0] for _, cases in ours}) == len(ours)


def test_record_and_budget() -> None:
    result = tune(Rule(), SPACE, _exact, budget=9000, seed=0)
    history = result.history
    assert history.columns == ["stage", "generation", "candidate", "gain", "rate", "score", "episodes"]
    assert history["episodes"].sum() == result.episodes == plan_of(9000).total <= 9000
    assert history["stage"].unique(maintain_order=True).to_list() == ["opening", "search", "final"]
    final = history.filter(history["stage"] == "final")
    assert len(final) == 8
    assert final["score"].max() == result.score
    opening = history.filter(history["stage"] == "opening")
    assert final["score"].to_numpy().mean() > opening["score"].to_numpy().mean()


@pytest.mark.parametrize("budget", [2731, 5000, 8192, 40000])
def test_plans_keep_to_the_budget(budget: int) -> None:
    plan = plan_of(budget)
    assert plan.total <= budget
    assert plan.generations >= 2
    assert budget - plan.total < plan.population * plan.episodes
    assert plan.finalists * plan.final_episodes == pytest.approx(budget / 4, abs=8)


def test_stacked_candidates() -> None:
    stacked = stack_candidates(Rule(), {"rate": np.array([0.1, 0.2, 0.3])})
    assert {leaf.shape for leaf in jax.tree.leaves(stacked)} == {(3,)}
    assert stacked.rate.dtype == jnp.float32
    np.testing.assert_allclose(stacked.gain, 1.0)
    assert stacked.name == "rule"


class Target(flax.struct.PyTreeNode):
    wanted: jax.Array


@dataclasses.dataclass(frozen=True)
class Aim(Env):
    """Four throws; each costs the squared distance to what is wanted."""

    OBSERVATION: ClassVar[tuple[Entry, ...]] = (Entry("tick", "ticks", 0.0, 4.0, "Throws so far."),)

    def default_params(self) -> Target:
        return Target(jnp.float32(0.3))

    def reset(self, key: jax.Array, params: Target) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros(1), jnp.zeros((), jnp.int32)

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array, params: Target) -> StepResult:
        state = state + 1
        reward = -((action[0] - params.wanted) ** 2)
        return StepResult(state[None].astype(jnp.float32), state, reward, state >= 4, jnp.asarray(False), {})

    def action_space(self, params: Target) -> gymnasium.Space:
        return gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def max_steps(self, params: Target) -> int:
        return 4


class Thrower(flax.struct.PyTreeNode):
    at: Any = 0.0
    jittable: bool = flax.struct.field(pytree_node=False, default=True)

    def init(self, params: Target) -> tuple[()]:
        return ()

    def act(self, key: jax.Array, carry: tuple[()], obs: jax.Array) -> tuple[tuple[()], jax.Array]:
        return carry, jnp.full((1,), self.at)


def test_tunes_a_rule_in_an_environment() -> None:
    env = Aim()
    params = env.default_params()

    def evaluate(stacked: Any, keys: jax.Array, cases: dict[str, np.ndarray]) -> np.ndarray:
        return rollout_seeds(env, params, stacked, keys, cases).metrics["return"].mean(axis=1)

    space = {"at": Bound(-1.0, 1.0)}
    result = tune(Thrower(), space, evaluate, budget=600, seed=0, population=8, episodes=8, finalists=4)
    assert result.parameters["at"] == pytest.approx(0.3, abs=0.03)
    alone = rollout(env, params, result.policy, jax.random.split(jax.random.key(1), 2))
    assert alone.metrics["return"].mean() == pytest.approx(result.score, abs=1e-5)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space must name at least one parameter"),
        (
            {"gian": Bound(0, 1)},
            r"space names 'gian', which is no float scalar leaf of the policy; leaves are \['gain'",
        ),
        ({"name": Bound(0, 1)}, "space names 'name'"),
        ({"table": Bound(0, 1)}, "space names 'table'"),
        ({"steps": Bound(0, 1)}, "space names 'steps'"),
        ({"score": Bound(0, 1)}, "space must not name 'score', a column of the history"),
        ({"gain": Bound(2, 1)}, "bounds of 'gain' must have low < high, got low=2, high=1"),
        ({"gain": Bound(1, 1)}, "bounds of 'gain' must have low < high"),
        ({"gain": Bound(0, float("inf"))}, "bounds of 'gain' must be finite, got low=0, high=inf"),
        ({"gain": Bound(float("nan"), 1)}, "bounds of 'gain' must be finite"),
        ({"rate": Bound(0, 1, log=True)}, "bounds of 'rate' must be positive on a log scale, got low=0"),
        ({"rate": Bound(0, 1, default=2)}, r"default of 'rate' must lie in \[0, 1\], got 2"),
    ],
)
def test_bad_spaces(space: dict[str, Bound], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_space(Rule(), space)
    with pytest.raises(ValueError, match=message):  # before anything is evaluated
        tune(Rule(), space, lambda *_: pytest.fail("evaluated"), budget=8192, seed=0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"budget": 100}, ValueError, "budget must be at least 2731 episodes for two generations"),
        ({"population": 4}, ValueError, "population must be at least 8, got 4"),
        ({"episodes": 0}, ValueError, "episodes must be at least 1, got 0"),
        ({"finalists": 0}, ValueError, "finalists must be at least 1, got 0"),
        ({"finalists": 40}, ValueError, r"finalists must not exceed population \(32\), got 40"),
        ({"seed": -1}, ValueError, "seed must not be negative, got -1"),
        ({"markets": jnp.zeros(2, jnp.uint32)}, TypeError, "markets must be one typed key"),
        ({"policy": object()}, TypeError, "policy must be a flax.struct.dataclass"),
        ({"policy": Plan(8, 8, 2, 1, 1)}, TypeError, "policy must be a flax.struct.dataclass"),
        ({"evaluate": lambda c, k, x: np.zeros(3)}, ValueError, r"scores of shape \(32,\), got \(3,\)"),
        ({"evaluate": lambda c, k, x: c.gain + np.inf}, ValueError, "finite scores, got inf for gain=2, rate="),
    ],
)
def test_bad_arguments(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"policy": Rule(), "evaluate": _exact, "budget": 8192, "seed": 0, **changes}
    with pytest.raises(error, match=message):
        tune(space=SPACE, **arguments)
