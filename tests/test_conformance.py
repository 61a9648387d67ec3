"""The public conformance suite: it passes sound environments and names what is wrong with broken ones."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import minimal_env
import numpy as np
import pytest
from flax import struct
from minimal_env import Params, SecondPriceEnv, State

import adarena.envs
from adarena.envs import Entry, Env, StepResult
from adarena.envs.testing import ConformanceError, check_env

pytestmark = pytest.mark.usefixtures("quick_compilation")

IDS = sorted(adarena.envs.registered())
COUNTER = itertools.count()


@pytest.mark.parametrize("env_id", IDS)
def test_registered_environments_conform(env_id: str) -> None:
    env, params = adarena.envs.make(env_id)
    check_env(env, params, env_id=env_id)


def test_exogenous_entries_are_checked() -> None:
    check_env(SecondPriceEnv(), exogenous=("time", "value"))
    with pytest.raises(ConformanceError, match="'budget_left' was said to be exogenous, but depends on the actions"):
        check_env(SecondPriceEnv(), exogenous=("budget_left",))
    with pytest.raises(ConformanceError, match="exogenous names 'tide', which is no entry"):
        check_env(SecondPriceEnv(), exogenous=("tide",))


# Broken environments: each departs from the sound one in one respect -------------------------------------------------


@dataclasses.dataclass
class NotFrozen(Env):
    ticks: int = 3


@dataclasses.dataclass(frozen=True)
class Unhashable(SecondPriceEnv):
    sizes: Any = dataclasses.field(default_factory=lambda: [1, 2])


@dataclasses.dataclass(frozen=True)
class NoBound(SecondPriceEnv):
    def max_steps(self, params: Params) -> Any:
        return 12.5


@dataclasses.dataclass(frozen=True)
class RepeatedName(SecondPriceEnv):
    OBSERVATION = (SecondPriceEnv.OBSERVATION[0], SecondPriceEnv.OBSERVATION[0], SecondPriceEnv.OBSERVATION[2])


@dataclasses.dataclass(frozen=True)
class InfiniteBound(SecondPriceEnv):
    OBSERVATION = (*SecondPriceEnv.OBSERVATION[:2], Entry("value", "currency", 0.0, float("inf"), "No upper bound."))


@dataclasses.dataclass(frozen=True)
class MissingEntry(SecondPriceEnv):
    def observation_space(self, params: Params) -> gymnasium.Space:
        return gymnasium.spaces.Box(0.0, 1.0, (4,), np.float32)


@dataclasses.dataclass(frozen=True)
class OtherBounds(SecondPriceEnv):
    def observation_space(self, params: Params) -> gymnasium.Space:
        return gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)


@dataclasses.dataclass(frozen=True)
class UnboundedAction(SecondPriceEnv):
    def action_space(self, params: Params) -> gymnasium.Space:
        return gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)


@struct.dataclass
class NamedParams(Params):
    mechanism: Any = "second price"


@dataclasses.dataclass(frozen=True)
class TextParam(SecondPriceEnv):
    def default_params(self) -> Params:
        return NamedParams()


@dataclasses.dataclass(frozen=True)
class WrongObsType(SecondPriceEnv):
    def reset(self, key: jax.Array, params: Params) -> Any:
        obs, state = super().reset(key, params)
        return obs.astype(jnp.float16), state


@dataclasses.dataclass(frozen=True)
class ThreeFromReset(SecondPriceEnv):
    def reset(self, key: jax.Array, params: Params) -> Any:
        return (*super().reset(key, params), {})


@dataclasses.dataclass(frozen=True)
class Altered(SecondPriceEnv):
    """Changes what ``step`` returns; subclasses say how."""

    def step(self, key: jax.Array, state: State, action: jax.Array, params: Params) -> Any:
        return self.alter(super().step(key, state, action, params))

    def alter(self, result: StepResult) -> Any:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class OldGymStep(Altered):
    def alter(self, result: StepResult) -> Any:
        return result.obs, result.state, result.reward, result.terminated, result.info


@dataclasses.dataclass(frozen=True)
class VectorReward(Altered):
    def alter(self, result: StepResult) -> Any:
        return result._replace(reward=result.reward[None])


@dataclasses.dataclass(frozen=True)
class NumericEnd(Altered):
    def alter(self, result: StepResult) -> Any:
        return result._replace(terminated=result.terminated.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class NestedInfo(Altered):
    def alter(self, result: StepResult) -> Any:
        nested: Any = {"money": result.info}
        return result._replace(info=nested)


@dataclasses.dataclass(frozen=True)
class ChangingState(Altered):
    def alter(self, result: StepResult) -> Any:
        return result._replace(state=dataclasses.replace(result.state, tick=result.state.tick.astype(jnp.float32)))


@dataclasses.dataclass(frozen=True)
class GrowingState(Altered):
    def alter(self, result: StepResult) -> Any:
        return result._replace(state=(result.state, result.reward))


@dataclasses.dataclass(frozen=True)
class Counting(Altered):
    def alter(self, result: StepResult) -> Any:
        return result._replace(reward=result.reward + next(COUNTER))


@dataclasses.dataclass(frozen=True)
class GlobalNoise(Altered):
    def alter(self, result: StepResult) -> Any:
        noise = jax.pure_callback(
            lambda: np.float32(np.random.default_rng().random()), jax.ShapeDtypeStruct((), jnp.float32)
        )
        return result._replace(reward=result.reward + noise)


@dataclasses.dataclass(frozen=True)
class SelfChanging(Altered):
    def alter(self, result: StepResult) -> Any:
        object.__setattr__(self, "ticks", self.ticks + 1)
        return result


@dataclasses.dataclass(frozen=True)
class WeakState(SecondPriceEnv):
    def reset(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        obs, state = super().reset(key, params)
        return obs, dataclasses.replace(state, left=jnp.asarray(2.0))  # weakly typed: step returns a strong float32


@dataclasses.dataclass(frozen=True)
class ConcreteBranch(SecondPriceEnv):
    def step(self, key: jax.Array, state: State, action: jax.Array, params: Params) -> StepResult:
        return super().step(key, state, action if action[0] > 0 else -action, params)


@dataclasses.dataclass(frozen=True)
class OutOfBounds(Altered):
    def alter(self, result: StepResult) -> Any:
        return result._replace(obs=result.obs.at[2].add(1.0))


@dataclasses.dataclass(frozen=True)
class NaNAfterTheEnd(Altered):
    def alter(self, result: StepResult) -> Any:
        return result._replace(reward=jnp.where(result.state.tick > self.ticks, jnp.nan, result.reward))


@dataclasses.dataclass(frozen=True)
class Endless(Altered):
    def alter(self, result: StepResult) -> Any:
        return result._replace(terminated=jnp.bool_(False), truncated=jnp.bool_(False))


@dataclasses.dataclass(frozen=True)
class DeafToKeys(SecondPriceEnv):
    def reset(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        return super().reset(jax.random.key(0), params)

    def step(self, key: jax.Array, state: State, action: jax.Array, params: Params) -> StepResult:
        return super().step(jax.random.key(1), state, action, params)


BROKEN: list[tuple[Env, str]] = [
    (NotFrozen(), "must be a dataclass with frozen=True"),
    (Unhashable(), "must be hashable"),
    (NoBound(), "max_steps must return a whole number of at least 1, got 12.5"),
    (RepeatedName(), "OBSERVATION names 'time' more than once"),
    (InfiniteBound(), "entry 'value' must have finite low < high"),
    (MissingEntry(), r"OBSERVATION has 3 entries, observation_space has shape \(4,\)"),
    (OtherBounds(), "must have the bounds that the entries of OBSERVATION state"),
    (UnboundedAction(), "action_space must have finite bounds"),
    (TextParam(), "params.mechanism must be a number or a numeric array, got 'second price'"),
    (WrongObsType(), r"reset must return a float32 observation of shape \(3,\), got float16"),
    (ThreeFromReset(), r"reset must return \(obs, state\), got tuple of 3 values"),
    (OldGymStep(), "step must return .*, a StepResult"),
    (VectorReward(), r"reward as a scalar of float32, got float32 of shape \(1,\)"),
    (NumericEnd(), "terminated as a scalar of bool, got float32"),
    (NestedInfo(), "info must be a flat dictionary"),
    (ChangingState(), r"state.tick must keep shape and dtype: reset gives int32\[\], step gives float32\[\]"),
    (GrowingState(), "state of the same tree structure"),
    (Counting(), "must be pure: two traces differ"),
    (GlobalNoise(), "same key, state and action must return the same bits"),
    (SelfChanging(), "must not change the environment"),
    (WeakState(), "step must be traced once, was traced 2 times"),
    (ConcreteBranch(), "TracerBoolConversionError was raised"),
    (OutOfBounds(), "'value' must lie between 0.0 and 1.0"),
    (NaNAfterTheEnd(), "must stay finite and info free of NaN, also after the end"),
    (Endless(), "must end .* within max_steps = 12 steps"),
    (DeafToKeys(), "different keys must give different episodes"),
]


@pytest.mark.parametrize(("env", "message"), BROKEN, ids=[type(env).__name__ for env, _ in BROKEN])
def test_broken_environment_is_caught(env: Env, message: str) -> None:
    with pytest.raises(ConformanceError, match=message) as caught:
        check_env(env)
    assert caught.value.problems
    assert str(caught.value).startswith(type(env).__name__)


def test_every_problem_is_listed() -> None:
    @dataclasses.dataclass(frozen=True)
    class Two(Altered):
        def alter(self, result: StepResult) -> Any:
            return result._replace(reward=result.reward[None], truncated=result.truncated.astype(jnp.int32))

    with pytest.raises(ConformanceError) as caught:
        check_env(Two())
    assert [problem.split(" as ")[0] for problem in caught.value.problems] == [
        "step must return reward",
        "step must return truncated",
    ]


def test_deterministic_environment_passes_when_declared() -> None:
    check_env(DeafToKeys(), deterministic=True)


def test_short_check_does_not_ask_for_the_end() -> None:
    check_env(Endless(), steps=4)


def test_name_of_another_environment_is_caught() -> None:
    with pytest.raises(ConformanceError, match="is registered for SecondPriceEnv, not for this environment"):
        check_env(DeafToKeys(), env_id=minimal_env.ENV_ID, deterministic=True)


def test_something_else_is_refused() -> None:
    other: Any = "CartPole-v1"
    with pytest.raises(ConformanceError, match="must be an instance of a subclass of"):
        check_env(other)
