"""A market of two slots that takes bids on each impression, small enough to reckon by hand."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adarena.envs.autobid_tick import Offers, Outcome
from adarena.envs.core import Entry, Env, StepResult, box_of

SLOTS = 2
EXPOSURE = (1.0, 0.5)


@struct.dataclass
class Seat:
    index: jax.Array


@struct.dataclass
class Accounts:
    spend: jax.Array
    value: jax.Array


@struct.dataclass
class Params:
    base_budget: jax.Array
    base_target: jax.Array
    category: jax.Array
    seat: jax.Array


@struct.dataclass
class State:
    tick: jax.Array
    key: jax.Array
    seat: Seat
    budget: jax.Array
    target: jax.Array
    accounts: Accounts


@dataclasses.dataclass(frozen=True)
class SmallMarket(Env):
    """Each bids its target times the prediction; the seat ``2 ** action`` times that. Generalised second price."""

    OBSERVATION: ClassVar[tuple[Entry, ...]] = (Entry("time", "share", 0.0, 1.0, "Share of the ticks done."),)
    advertisers: int = 4
    ticks: int = 5
    tick_impressions: int = 12

    def default_params(self) -> Params:
        n = self.advertisers
        return Params(jnp.full(n, 200.0), 60.0 + 10.0 * jnp.arange(n), jnp.arange(n) // 2, jnp.int32(-1))

    def observation_space(self, params: Params) -> gymnasium.spaces.Box:
        return box_of(self.OBSERVATION)

    def action_space(self, params: Params) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def max_steps(self, params: Params) -> int:
        return self.ticks

    def reset(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        drawn = jax.random.randint(jax.random.fold_in(key, 1), (), 0, self.advertisers)
        seat = jnp.where(params.seat >= 0, params.seat, drawn)
        empty = jnp.zeros(self.advertisers)
        state = State(jnp.int32(0), key, Seat(seat), params.base_budget, params.base_target, Accounts(empty, empty))
        return jnp.zeros(1), state

    def offers(self, state: State, params: Params) -> Offers:
        shape = (self.advertisers, self.tick_impressions)
        key = jax.random.fold_in(state.key, 100 + state.tick)
        real = jnp.arange(self.tick_impressions) < self.tick_impressions - state.tick
        value = jnp.where(real, jax.random.uniform(key, shape, minval=0.01, maxval=0.05), 0.0)
        return Offers(value, 0.1 * value, real.astype(jnp.float32))

    def step(self, key: jax.Array, state: State, action: jax.Array, params: Params) -> StepResult:
        nothing = jnp.full((self.advertisers, self.tick_impressions), jnp.nan)
        return self.step_bids(key, state, action, nothing, params)[0]

    def step_bids(
        self, key: jax.Array, state: State, action: jax.Array, bids: jax.Array, params: Params
    ) -> tuple[StepResult, Outcome]:
        offers = self.offers(state, params)
        level = jnp.ones(self.advertisers).at[state.seat.index].set(2.0 ** action[0])
        bid = jnp.where(jnp.isnan(bids), (level * state.target)[:, None] * offers.pvalue, bids)
        bid = jnp.where((state.accounts.spend < state.budget)[:, None] & (offers.weight > 0.0), bid, 0.0)
        order = jnp.argsort(-bid, axis=0)
        ranked = jnp.take_along_axis(bid, order, axis=0)
        filled = ranked[:SLOTS] > 0.0
        winner = jnp.where(filled, order[:SLOTS], -1).astype(jnp.int32)
        price = jnp.where(filled, ranked[1 : SLOTS + 1], 0.0)
        exposure = jnp.where(filled, jnp.asarray(EXPOSURE)[:, None], 0.0)
        value = jnp.take_along_axis(offers.pvalue, order[:SLOTS], axis=0)
        conversion = exposure * value
        mine = winner[None] == jnp.arange(self.advertisers)[:, None, None]
        spend = (mine * (price * exposure)).sum((1, 2))
        accounts = Accounts(state.accounts.spend + spend, state.accounts.value + (mine * conversion).sum((1, 2)))
        state = dataclasses.replace(state, tick=state.tick + 1, accounts=accounts)
        reward = (mine * conversion).sum((1, 2))[state.seat.index]
        obs = (state.tick / self.ticks)[None].astype(jnp.float32)
        result = StepResult(obs, state, reward, state.tick >= self.ticks, jnp.bool_(False), {})
        return result, Outcome(bid, winner, price, exposure, conversion, ranked[SLOTS - 1])

    def metrics(self, state: State, params: Params) -> dict[str, Any]:
        i = state.seat.index
        return {"value": state.accounts.value[i], "cost": state.accounts.spend[i], "seat": i.astype(jnp.float32)}
