"""A small environment as a user would write it outside the repository: one seat in repeated second-price auctions."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adarena.envs import Entry, Env, StepResult, register
from adarena.envs.core import box_of

ENV_ID = "mine/SecondPrice-v0"


@struct.dataclass
class Params:
    budget: float = 2.0  # currency units an episode
    rival_scale: float = 0.7  # currency units: rivals bid uniformly up to this


@struct.dataclass
class State:
    tick: jax.Array  # [] int32, auctions held so far
    left: jax.Array  # [] float32, currency units
    value: jax.Array  # [] float32, what the impression on sale is worth, currency units


@dataclasses.dataclass(frozen=True)
class SecondPriceEnv(Env):
    """Bids ``value * exp(action)`` a tick; pays the rival's bid when it wins. Ends when 98 % of the budget is spent."""

    ticks: int = 12

    OBSERVATION: ClassVar[tuple[Entry, ...]] = (
        Entry("time", "share", 0.0, 1.0, "Share of the episode's auctions that were held."),
        Entry("budget_left", "share", 0.0, 1.0, "Share of the budget that is left."),
        Entry("value", "currency", 0.0, 1.0, "Worth of the impression on sale."),
    )

    def default_params(self) -> Params:
        return Params()

    def max_steps(self, params: Params) -> int:
        return self.ticks

    def observation_space(self, params: Params) -> gymnasium.Space:
        return box_of(self.OBSERVATION)

    def action_space(self, params: Params) -> gymnasium.Space:
        return gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        state = State(jnp.int32(0), jnp.asarray(params.budget, jnp.float32), jax.random.uniform(key))
        return self._observe(state, params), state

    def step(self, key: jax.Array, state: State, action: jax.Array, params: Params) -> StepResult:
        key_rival, key_value = jax.random.split(key)
        price = params.rival_scale * jax.random.uniform(key_rival)
        won = (state.value * jnp.exp(action[0]) > price) & (price <= state.left)
        cost = jnp.where(won, price, 0.0)
        left = state.left - cost
        reward = jnp.where(won, state.value, 0.0) - cost
        state = State(state.tick + 1, left, jax.random.uniform(key_value))
        spent = left < 0.02 * params.budget
        info = {"cost": cost, "won": won}
        return StepResult(self._observe(state, params), state, reward, spent, state.tick >= self.ticks, info)

    def render(self, state: State, params: Params) -> Any:
        picture = np.full((16, 64, 3), 255, np.uint8)
        picture[:, : int(64 * float(state.left) / float(params.budget))] = (40, 120, 200)
        return picture

    def _observe(self, state: State, params: Params) -> jax.Array:
        share = jnp.minimum(state.tick / self.ticks, 1.0)
        return jnp.stack([share, state.left / params.budget, state.value]).astype(jnp.float32)


register(ENV_ID, SecondPriceEnv)
