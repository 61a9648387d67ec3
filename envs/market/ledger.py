"""The ledger: who can still pay, impression by impression, and the accounts of every advertiser.

A bidder leaves a tick at the first charge that it cannot pay; that impression and those after it are cleared without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp



@flax.struct.dataclass
class Accounts:
    """Every advertiser's books since the start of the episode; each field is ``[N]`` float32.

    Attributes:
        spend: Money paid, currency units; never above the budget.
        exposure: Exposed ads (real ones: weights included).
        click: Clicks.
        conversion: Conversions, whether reported yet or not.
        value: What the objective counts: conversions, or their worth in currency units.
        reported: The part of ``value`` that has been reported by now.
    """

    spend: jax.Array
    exposure: jax.Array
    click: jax.Array
    conversion: jax.Array
    value: jax.Array
    reported: jax.Array


def open_accounts(advertisers: int) -> Accounts:
    """Empty books for ``advertisers``."""
    zero = jnp.zeros(advertisers, jnp.float32)
    return Accounts(zero, zero, zero, zero, zero, zero)


def book(winner: jax.Array, amounts: jax.Array, advertisers: int) -> jax.Array:
    """Sums amounts by the advertiser they belong to.

    Args:
        winner: ``[K, M]`` int32, -1 for nobody.
        amounts: ``[K, M]`` float32.
        advertisers: ``N``.

    Returns:
        ``[N]`` float32.
    """
    nobody = jnp.where(winner < 0, advertisers, winner)
    return jnp.zeros(advertisers, jnp.float32).at[nobody].add(amounts, mode="drop")


def per_impression(winner: jax.Array, amounts: jax.Array, advertisers: int) -> jax.Array:
    """Amounts by advertiser and impression, ``[N, M]``."""
    index = jnp.arange(advertisers, dtype=jnp.int32)[:, None]
    total = jnp.zeros((advertisers, winner.shape[1]), jnp.float32)
    for k in range(winner.shape[0]):
        total = total + jnp.where(winner[k] == index, amounts[k], 0.0)
    return total


class Settlement(NamedTuple):
    """A tick in which everybody could pay.

    Attributes:
        outcome: What ``clear`` returned for the final set of bidders.
        leaves_at: ``[N]`` int32, the impression from which on a bidder took no part; ``M`` if it stayed.
        spend: ``[N]`` float32, what each paid in this tick.
        clearings: Int32 scalar, how often the tick was cleared.
    """

    outcome: Any
    leaves_at: jax.Array
    spend: jax.Array
    clearings: jax.Array


def settle(
    clear: Callable[[jax.Array], tuple[NamedTuple, jax.Array, jax.Array]],
    remaining: jax.Array,
    impressions: int,
) -> Settlement:
    """Clears a tick so that nobody spends more than it has, as a loop over single impressions would.

    Clears all at once; where somebody's total exceeds what it has left, finds the earliest impression at which one
    cannot pay, keeps what came before, lets that bidder leave there, and clears again. One more clearing for each
    bidder that runs out. A later bidder's trouble is looked at only after the earlier one has left, since that changes
    what the later one pays.

    Args:
        clear: Maps ``leaves_at [N]`` to ``(outcome, winner [K, M], charge [K, M])``.
        remaining: ``[N]`` money left, currency units.
        impressions: ``M``.
    """
    advertisers = remaining.shape[0]
    order = jnp.arange(impressions, dtype=jnp.int32)
    until = (order[:, None] <= order[None, :]).astype(jnp.float32)

    def attempt(leaves_at: jax.Array) -> tuple[NamedTuple, jax.Array, jax.Array, jax.Array]:
        outcome, winner, charge = clear(leaves_at)
        return outcome, winner, charge, book(winner, charge, advertisers)

    def someone_short(carry: tuple) -> jax.Array:
        return jnp.any(carry[4] > remaining)

    def let_leave(carry: tuple) -> tuple:
        leaves_at, _, winner, charge, total, clearings = carry
        charges = per_impression(winner, charge, advertisers)
        # A running sum as a product with a triangle of ones: three times as fast as cumsum on CPU.
        running = _running_sum(charges, until)
        short = total > remaining
        first = _first(running > remaining[:, None])
        # Rounding may let the running sum pass where the total does not: then the last charge is the one too many.
        last = impressions - 1 - _first((charges > 0.0)[:, ::-1])
        first = jnp.where(short, jnp.where(first < impressions, first, last), impressions)
        earliest = first.min()
        leaves_at = jnp.where(first == earliest, earliest, leaves_at)
        return (leaves_at, *attempt(leaves_at), clearings + 1)

    everyone = jnp.where(remaining > 0.0, impressions, 0).astype(jnp.int32)
    first_try = (everyone, *attempt(everyone), jnp.int32(1))
    leaves_at, outcome, _, _, total, clearings = jax.lax.while_loop(someone_short, let_leave, first_try)
    return Settlement(outcome, leaves_at, total, clearings)


def _running_sum(charges: jax.Array, until: jax.Array) -> jax.Array:
    if charges.shape[1] > 512:  # the product is quadratic in the impressions of a tick
        return jnp.cumsum(charges, axis=1)
    return charges @ until


def _first(flags: jax.Array) -> jax.Array:
    """Index of the first true flag of every row, ``[N, M] -> [N]``; ``M`` where there is none."""
    size = flags.shape[1]
    order = jnp.arange(size, dtype=jnp.int32)
    return jnp.where(flags, order, size).min(axis=1).astype(jnp.int32)


def score(value: jax.Array, spend: jax.Array, target: jax.Array) -> jax.Array:
    """AuctionNet's score: value x min(1, (target / cost per value)^2).

    Args:
        value: Conversions, or their worth in currency units.
        spend: Money paid, currency units.
        target: Currency units allowed per unit of value (CPA, or 1 / ROAS); infinite where only the budget binds.
    """
    ratio = target * value / jnp.maximum(spend, 1e-9)
    return value * jnp.minimum(1.0, ratio) ** 2
