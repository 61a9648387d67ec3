"""AuctionNet's sixteen numbers as the observation of `adarena.envs.autobid` (``observation="auctionnet"``).

The same numbers as `adarena.envs.adapters.auctionnet_state.state16` makes from history lists; here from sums by tick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from adarena.envs import pytree
from adarena.envs.core import Entry

if TYPE_CHECKING:
    from adarena.envs.market.clearing import Visit
    from adarena.envs.market.tick import Cleared
    from adarena.envs.observation import History, Outlook

OBSERVATIONS = ("full", "auctionnet")
"""What the seat may be shown."""

_MOST = 3e38  # counts and money have no bound of their own; a Box needs a finite one
_MEANS = (
    ("bid", "currency units", "own bid"),
    ("least_winning_cost", "currency units", "score that would have taken the last slot"),
    ("p_value", "conversions per exposure", "prediction for an impression"),
    ("conversion", "conversions", "own conversions an impression"),
    ("won", "share", "impressions on which a slot was won"),
)


def _mean(name: str, unit: str, meaning: str, last3: bool) -> Entry:
    high = 1.0 if unit == "share" else _MOST
    if last3:
        return Entry(f"{name}_mean_last3", unit, 0.0, high, f"Mean over the last three ticks of the mean {meaning}.")
    return Entry(f"{name}_mean", unit, 0.0, high, f"Mean over the ticks done of the mean {meaning}.")


ENTRIES: tuple[Entry, ...] = (
    Entry("time_left", "share", 0.0, 1.0, "Ticks to come over the ticks of the day."),
    Entry("budget_left", "share", 0.0, 1.0, "Money left over the budget."),
    _mean(*_MEANS[0], last3=False),
    _mean(*_MEANS[0], last3=True),
    *(_mean(*mean, last3=False) for mean in _MEANS[1:]),
    *(_mean(*mean, last3=True) for mean in _MEANS[1:]),
    Entry("current_p_value_mean", "conversions per exposure", 0.0, _MOST, "Mean prediction in the coming tick."),
    Entry("current_impressions", "impressions", 0.0, _MOST, "Impressions of the coming tick."),
    Entry("last3_impressions", "impressions", 0.0, _MOST, "Impressions of the last three ticks."),
    Entry("total_impressions", "impressions", 0.0, _MOST, "Impressions so far."),
)
"""The entries in AuctionNet's order; nothing is normalised."""


@pytree.dataclass
class Seen:
    """Sums over the impressions of a tick, weights included, scalars; as a history ``[T]``. All float32.

    Attributes:
        bid: The seat's bids, currency units.
        least_winning: Scores that would have taken the last slot, currency units.
        won: Impressions on which the seat won a slot.
    """

    bid: jax.Array
    least_winning: jax.Array
    won: jax.Array


def nothing(*shape: int) -> Seen:
    """Zeros."""
    zero = jnp.zeros(shape, jnp.float32)
    return Seen(zero, zero, zero)


def sums(cleared: Cleared, here: Visit, seat: jax.Array, bid: jax.Array, reserve: jax.Array) -> Seen:
    """What of a cleared block the seat is shown.

    Args:
        cleared: Its outcome.
        here: Its impressions.
        seat: Int32 scalar.
        bid: ``[M]`` the seat's bids, currency units.
        reserve: ``[M]`` least score that may hold a slot.
    """
    least = jnp.maximum(cleared.ranking.score[-1], reserve)
    won = (cleared.winner == seat).any(axis=0)
    return Seen(*((x * here.weight).sum() for x in (bid, least, won)))


def observe(outlook: Outlook, history: History, seen: Seen, ticks: int) -> jax.Array:
    """The sixteen numbers, float32, as `ENTRIES` names them."""
    order = jnp.arange(ticks)
    done, last3 = order < outlook.tick, (order < outlook.tick) & (order >= outlook.tick - 3)
    by_tick = jnp.stack([seen.bid, seen.least_winning, history.potential, history.value, seen.won])
    by_tick = by_tick / jnp.maximum(history.offered, 1e-9)

    def mean(which: jax.Array) -> jax.Array:
        return jnp.where(which, by_tick, 0.0).sum(axis=1) / jnp.maximum(which.sum(), 1)

    whole, recent = mean(done), mean(last3)
    counts = [outlook.volume_now, *(jnp.where(which, history.offered, 0.0).sum() for which in (last3, done))]
    first = [1.0 - outlook.tick / ticks, jnp.maximum(outlook.budget_left, 0.0)]
    return jnp.concatenate(
        [
            jnp.stack([*first, whole[0], recent[0]]),
            *(whole[1:], recent[1:]),
            jnp.stack([outlook.value_now, *counts]),
        ]
    ).astype(jnp.float32)
