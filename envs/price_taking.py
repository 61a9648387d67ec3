"""AutoBid against rivals that bid what they bid in a day played before, whatever the seat does: replayed evaluation.

Offline evaluation on logs takes prices as they were. Live rivals answer: money that the seat takes from them, or leaves to
them, moves their pacing and their exhaustion. Played on the same market by the same policies, the two tell what taking
prices as given hides.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from adarena.envs import autobid_setup as setup
from adarena.envs import pytree, rivals
from adarena.envs.autobid import AutoBid
from adarena.envs.autobid_state import State
from adarena.envs.core import Key, episode_keys


@pytree.dataclass
class LoggedState(State):
    """A state that also holds what the rivals did in the logged day.

    Attributes:
        levels: ``[T, N]`` log multipliers of each tick.
        remaining: ``[T, N]`` currency units left before each tick.
    """

    levels: jax.Array
    remaining: jax.Array


@dataclasses.dataclass(frozen=True)
class PriceTaking(AutoBid):
    """`AutoBid` whose rivals repeat a logged day, tick by tick: their multipliers and the money they had left.

    ``reset`` plays that day first, with the seat held at one multiplier. Within a tick rivals are still charged what they
    win, so one that was about to run out may leave it earlier or later than in the log.

    Attributes:
        logged_action: The seat's action in the logged day, in [-1, 1]; 0 bids the target.
    """

    logged_action: float = 0.0

    def __post_init__(self) -> None:
        """Raises:
        ValueError: A field's value is not allowed.
        """
        super().__post_init__()
        if not -1.0 <= self.logged_action <= 1.0:
            raise ValueError(f"logged_action must lie in [-1, 1], got {self.logged_action!r}")

    def reset(self, key: Key, params: setup.Params) -> tuple[jax.Array, LoggedState]:
        """Plays the logged day, then starts the same day again."""
        obs, first = super().reset(key, params)
        action = jnp.full(1, self.logged_action, jnp.float32)

        def tick(state: State, key: Key) -> tuple[State, Any]:
            _, levels, remaining = AutoBid._rivals(self, state, params)
            return AutoBid.step(self._live, key, state, action, params).state, (levels, remaining)

        _, (levels, remaining) = jax.lax.scan(tick, first, episode_keys(key, self.ticks)[0])
        fields = {field.name: getattr(first, field.name) for field in dataclasses.fields(first)}
        return obs, LoggedState(**fields, levels=levels, remaining=remaining)

    @property
    def _live(self) -> AutoBid:
        """The same market with rivals that answer."""
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(AutoBid)}
        return AutoBid(**{**shared, "record": False})

    def _rivals(self, state: State, params: setup.Params) -> tuple[rivals.Control, jax.Array, jax.Array]:
        assert isinstance(state, LoggedState)
        control, _, own = super()._rivals(state, params)
        tick = jnp.minimum(state.tick, self.ticks - 1)
        seat = jnp.arange(self.advertisers) == state.seat.index
        return control, state.levels[tick], jnp.where(seat, own, state.remaining[tick])


def price_taking(env: AutoBid, logged_action: float = 0.0) -> PriceTaking:
    """The same market with rivals that repeat a logged day."""
    fields = {field.name: getattr(env, field.name) for field in dataclasses.fields(AutoBid)}
    return PriceTaking(**fields, logged_action=logged_action)
