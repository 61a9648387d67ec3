"""A keyword auction with a daily cap: one advertiser bids on one keyword, an hour at a time."""

import dataclasses
from typing import ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from adarena.envs import Entry, Env, StepResult, pytree
from adarena.envs.core import box_of


@pytree.dataclass
class Params:
    """Numbers of the market."""

    cap: float = 40.0  # currency units a day
    competition: float = 0.4  # median over days of the rivals' typical highest bid, currency units
    swing: float = 0.5  # how much that differs from day to day, standard deviation of its log


@pytree.dataclass
class State:
    """A day so far."""

    hour: jax.Array  # [] int32, hours played
    left: jax.Array  # [] float32, what is left of the cap, currency units
    level: jax.Array  # [] float32, the rivals' typical highest bid today, currency units; nobody sees it
    won: jax.Array  # [] float32, share of the last hour's searches won


@dataclasses.dataclass(frozen=True)
class KeywordAuction(Env):
    """Bids ``value * exp(2 * action)`` on each search of the hour in second-price auctions, until the cap is spent."""

    hours: int = 24
    searches: int = 32  # an hour

    OBSERVATION: ClassVar[tuple[Entry, ...]] = (
        Entry("time_left", "share", 0.0, 1.0, "Share of the day that is left."),
        Entry("cap_left", "share", 0.0, 1.0, "Share of the cap that is left."),
        Entry("won", "share", 0.0, 1.0, "Share of the last hour's searches that were won."),
    )

    def default_params(self) -> Params:
        return Params()

    def observation_space(self, params: Params) -> gymnasium.Space:
        return box_of(self.OBSERVATION)

    def action_space(self, params: Params) -> gymnasium.Space:
        return gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def max_steps(self, params: Params) -> int:
        return self.hours

    def reset(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        level = params.competition * jnp.exp(params.swing * jax.random.normal(key))
        state = State(jnp.int32(0), jnp.float32(params.cap), level, jnp.float32(0.0))
        return self._observe(state, params), state

    def step(self, key: jax.Array, state: State, action: jax.Array, params: Params) -> StepResult:
        key_value, key_price = jax.random.split(key)
        value = jax.random.uniform(key_value, (self.searches,))  # of a click, currency units
        price = state.level * jnp.exp(0.5 * jax.random.normal(key_price, (self.searches,)))
        wins = value * jnp.exp(2.0 * action[0]) > price
        wins = wins & (jnp.cumsum(wins * price) <= state.left)  # money is spent in order, never more than there is
        cost = (wins * price).sum()
        state = State(state.hour + 1, jnp.maximum(state.left - cost, 0.0), state.level, wins.mean())
        info = {"cost": cost, "price": price.mean()}
        over = state.hour >= self.hours
        return StepResult(self._observe(state, params), state, (wins * value).sum(), over, jnp.bool_(False), info)

    def metrics(self, state: State, params: Params) -> dict[str, jax.Array]:
        return {"cap_used": 1.0 - state.left / params.cap}  # tables show these beside the return

    def _observe(self, state: State, params: Params) -> jax.Array:
        time_left = jnp.maximum(1.0 - state.hour / self.hours, 0.0)
        return jnp.stack([time_left, state.left / params.cap, state.won]).astype(jnp.float32)
