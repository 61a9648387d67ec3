"""Small environments with known answers, for tests of learners."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adarena.envs.core import Entry, Env, StepResult, box_of


@struct.dataclass
class TargetParams:
    """``penalty``: weight of the squared miss. ``bank``: targets that ticks draw from, ``[N]`` float32 in [-1, 1]."""

    penalty: jax.Array
    bank: jax.Array


@struct.dataclass
class TargetState:
    """``target``: scalar float32, the best action now. ``tick``: scalar int32."""

    target: jax.Array
    tick: jax.Array


@dataclasses.dataclass(frozen=True)
class TargetEnv(Env):
    """Ten ticks; each shows a target in [-0.8, 0.8] and pays 1 - penalty * (action - target)^2.

    The best action is the target, the best return is ``length``. Terminates after ``length`` ticks.
    """

    length: int = 10
    noise_entries: int = 1

    @property
    def OBSERVATION(self) -> tuple[Entry, ...]:  # type: ignore[override]  # noqa: N802
        noise = [Entry(f"noise_{i}", "none", -1.0, 1.0, "Says nothing.") for i in range(self.noise_entries)]
        shown = Entry("target", "action", -1.0, 1.0, "The best action.")
        return (shown, Entry("time", "share", 0.0, 1.0, "Share of the ticks done."), *noise)

    def default_params(self) -> TargetParams:
        return TargetParams(jnp.asarray(4.0), jnp.linspace(-0.8, 0.8, 17))

    def _obs(self, key: jax.Array, state: TargetState) -> jax.Array:
        noise = jax.random.uniform(key, (self.noise_entries,), minval=-1.0)
        return jnp.concatenate([state.target[None], (state.tick / self.length)[None].astype(jnp.float32), noise])

    def reset(self, key: jax.Array, params: TargetParams) -> tuple[jax.Array, TargetState]:
        key_target, key_noise = jax.random.split(key)
        state = TargetState(jax.random.choice(key_target, params.bank), jnp.zeros((), jnp.int32))
        return self._obs(key_noise, state), state

    def step(self, key: jax.Array, state: TargetState, action: jax.Array, params: TargetParams) -> StepResult:
        reward = 1.0 - params.penalty * jnp.square(action[0] - state.target)
        obs, fresh = self.reset(key, params)
        state = TargetState(fresh.target, state.tick + 1)
        obs = obs.at[1].set(state.tick / self.length)
        return StepResult(obs, state, reward, state.tick >= self.length, jnp.zeros((), bool), {})

    def observation_space(self, params: Any) -> gymnasium.spaces.Box:
        return box_of(self.OBSERVATION)

    def action_space(self, params: Any) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def max_steps(self, params: Any) -> int:
        return self.length


@struct.dataclass
class EndlessParams:
    """``reward``: what every tick pays. ``terminates``: whether the cut is a termination, scalar bool."""

    reward: jax.Array
    terminates: jax.Array


@dataclasses.dataclass(frozen=True)
class EndlessEnv(Env):
    """Pays the same each tick, whatever is done, and never ends; every ``limit`` ticks the episode is cut.

    The observation is the share of the ticks done. With discount ``g``, a state ``k`` ticks into an episode is worth
    reward / (1 - g) where the cut is a truncation, and reward * (1 - g^(limit - k)) / (1 - g) where it is a termination
    (``terminates``).
    """

    OBSERVATION: ClassVar[tuple[Entry, ...]] = (Entry("time", "share", 0.0, 1.0, "Share of the ticks done."),)
    limit: int = 4

    def default_params(self) -> EndlessParams:
        return EndlessParams(jnp.asarray(1.0), jnp.asarray(False))

    def reset(self, key: jax.Array, params: EndlessParams) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros(1), jnp.zeros((), jnp.int32)

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array, params: EndlessParams) -> StepResult:
        state = state + 1
        cut = state >= self.limit
        obs = (state / self.limit)[None].astype(jnp.float32)
        return StepResult(obs, state, params.reward, cut & params.terminates, cut & ~params.terminates, {})

    def observation_space(self, params: Any) -> gymnasium.spaces.Box:
        return box_of(self.OBSERVATION)

    def action_space(self, params: Any) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-2.0, 3.0, (2,), np.float32)

    def max_steps(self, params: Any) -> int:
        return self.limit


@dataclasses.dataclass(frozen=True)
class ChoiceEnv(TargetEnv):
    """As `TargetEnv`, with five choices numbered from 1, which stand for the actions -0.8, -0.4, 0, 0.4, 0.8."""

    def default_params(self) -> TargetParams:
        return TargetParams(jnp.asarray(4.0), jnp.linspace(-0.8, 0.8, 5))

    def step(self, key: jax.Array, state: TargetState, action: jax.Array, params: TargetParams) -> StepResult:
        return super().step(key, state, (0.4 * (action - 3))[None], params)

    def action_space(self, params: Any) -> gymnasium.spaces.Discrete:  # type: ignore[override]
        return gymnasium.spaces.Discrete(5, start=1)
