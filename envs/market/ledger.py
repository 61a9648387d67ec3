"""The ledger: who can still pay, impression by impression, and the accounts of every advertiser.

A bidder leaves a tick at the first charge that it cannot pay; that impression and those after it are cleared without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adarena.envs import pytree


@pytree.dataclass
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


Clear = Callable[[Any, jax.Array | None], tuple[Any, jax.Array, jax.Array]]
"""``clear(inputs, leaves_at [N]) -> (outcome, winner [K, M], charge [K, M])``: a tick in which bidder ``n`` takes part up to
impression ``leaves_at[n]``; None: to the end, but for those who have no money, whom ``inputs`` must leave out by themselves.
A pure function; all arrays come through ``inputs``."""


class _Attempt(NamedTuple):
    leaves_at: jax.Array
    outcome: Any
    winner: jax.Array
    charge: jax.Array
    total: jax.Array


def settle(clear: Clear, inputs: Any, remaining: jax.Array, impressions: int) -> Settlement:
    """Clears a tick so that nobody spends more than it has, as a loop over single impressions would.

    Clears all at once; where somebody's total exceeds what it has left, finds the earliest impression at which one
    cannot pay, keeps what came before, lets that bidder leave there, and clears again. One more clearing for each
    bidder that runs out. A later bidder's trouble is looked at only after the earlier one has left, since that changes
    what the later one pays.

    Under ``jax.vmap`` only the markets in which somebody is short are cleared again, a few at a time.

    Args:
        clear: Clears the tick for bidders who leave at given impressions.
        inputs: Pytree of arrays handed to ``clear``.
        remaining: ``[N]`` money left, currency units.
        impressions: ``M``.
    """

    def attempt(leaves_at: jax.Array, cleared: tuple[Any, jax.Array, jax.Array]) -> _Attempt:
        outcome, winner, charge = cleared
        return _Attempt(leaves_at, outcome, winner, charge, book(winner, charge, leaves_at.shape[0]))

    def again(inputs: Any, remaining: jax.Array, last: _Attempt) -> _Attempt:
        leaves_at = _who_leaves(last, remaining, impressions)
        return attempt(leaves_at, clear(inputs, leaves_at))

    def first(inputs: Any, remaining: jax.Array) -> _Attempt:
        leaves_at = jnp.where(remaining > 0.0, impressions, 0).astype(jnp.int32)
        return attempt(leaves_at, clear(inputs, None))  # no bid is compared with an impression's number

    @jax.custom_batching.custom_vmap
    def solve(inputs: Any, remaining: jax.Array) -> tuple[_Attempt, jax.Array]:
        def short(carry: tuple[_Attempt, jax.Array]) -> jax.Array:
            return jnp.any(carry[0].total > remaining)

        def retry(carry: tuple[_Attempt, jax.Array]) -> tuple[_Attempt, jax.Array]:
            return again(inputs, remaining, carry[0]), carry[1] + 1

        return jax.lax.while_loop(short, retry, (first(inputs, remaining), jnp.int32(1)))

    @solve.def_vmap
    def solve_batch(size: int, batched: Any, inputs: Any, remaining: jax.Array) -> tuple[Any, Any]:
        if not batched[1]:
            remaining = jnp.broadcast_to(remaining, (size, *remaining.shape))
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, batched[0])
        done = _solve_batch(size, axes, inputs, remaining, first, again)
        return done, jax.tree.map(lambda _: True, done)

    done, clearings = solve(inputs, remaining)
    return Settlement(done.outcome, done.leaves_at, done.total, clearings)


_LEAST = float(jnp.finfo(jnp.float32).tiny)


def settle_in_parts(
    clear: Clear, part: Callable[[jax.Array, jax.Array], Any], remaining: jax.Array, parts: int, size: int
) -> Settlement:
    """Settles a tick part after part: as `settle` does, but a bidder that runs out costs one more clearing of one part.

    Args:
        clear: As in `settle`, for ``size`` impressions.
        part: ``part(start, left [N])``: what ``clear`` takes for the impressions from ``start`` on, without those who have
            no money left.
        remaining: ``[N]`` money left, currency units.
        parts: How many there are.
        size: Impressions of each.

    Returns:
        The settlement of the whole tick; arrays of the outcome must end in the axis of impressions.
    """

    def one(left: jax.Array, number: jax.Array) -> tuple[jax.Array, Settlement]:
        done = settle(clear, part(number * size, left), left, size)
        # Whoever has spent all to the last cent still takes part, until it meets a charge.
        return jnp.where(done.leaves_at < size, 0.0, jnp.maximum(left - done.spend, _LEAST)), done

    _, done = jax.lax.scan(one, remaining, jnp.arange(parts, dtype=jnp.int32))
    outcome = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], parts * size), done.outcome)
    # Whoever has left takes part in none of the later parts.
    spend = jnp.minimum(done.spend.sum(axis=0), remaining)
    return Settlement(outcome, done.leaves_at.sum(axis=0), spend, 1 + (done.clearings - 1).sum())


def _solve_batch(
    size: int,
    axes: Any,
    inputs: Any,
    remaining: jax.Array,
    first: Callable[[Any, jax.Array], _Attempt],
    again: Callable[[Any, jax.Array, _Attempt], _Attempt],
) -> tuple[_Attempt, jax.Array]:
    """Settles ``size`` markets: all are cleared once, then those with a bidder short, an eighth of them at a time."""
    some = max(1, size // 8)

    def take(rows: jax.Array) -> Any:
        leaves, tree = jax.tree.flatten(inputs)
        flags = tree.flatten_up_to(axes)  # type: ignore[attr-defined]
        chosen = [x if axis is None else x[rows] for x, axis in zip(leaves, flags, strict=True)]
        return jax.tree.unflatten(tree, chosen)

    def short(last: _Attempt) -> jax.Array:
        return jnp.nonzero((last.total > remaining).any(axis=1), size=some, fill_value=size)[0]

    # The rows come into the loop's body as a variable: computed in it, XLA would do so anew for every element it reads.
    def retry(carry: tuple[_Attempt, jax.Array, jax.Array]) -> tuple[_Attempt, jax.Array, jax.Array]:
        last, clearings, rows = carry
        part = jax.tree.map(lambda x: x.at[rows].get(mode="clip"), last)
        owed = remaining.at[rows].get(mode="clip")
        better = jax.vmap(again, (axes, 0, 0))(take(jnp.minimum(rows, size - 1)), owed, part)
        merged = jax.tree.map(lambda whole, new: whole.at[rows].set(new, mode="drop"), last, better)
        return merged, clearings.at[rows].add(1, mode="drop"), short(merged)

    start = jax.vmap(first, (axes, 0))(inputs, remaining)
    carry = start, jnp.ones(size, jnp.int32), short(start)
    done, clearings, _ = jax.lax.while_loop(lambda carry: carry[2][0] < size, retry, carry)
    return done, clearings


def _who_leaves(last: _Attempt, remaining: jax.Array, impressions: int) -> jax.Array:
    """``leaves_at [N]`` after whoever meets the earliest charge that it cannot pay has left there.

    Spending up to an impression never falls, so the earliest is found by halving. Leaving later charges out of a sum of
    amounts that are not negative never makes it larger, rounding included; so whoever leaves can pay for what remains.
    """
    order = jnp.arange(impressions, dtype=jnp.int32)

    def over(until: jax.Array) -> jax.Array:
        return book(last.winner, jnp.where(order <= until, last.charge, 0.0), remaining.shape[0]) > remaining

    def halve(_: jax.Array, span: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = span
        middle = (low + high) // 2
        found = over(middle).any()
        return jnp.where(found, low, middle + 1), jnp.where(found, middle, high)

    span = jnp.int32(0), jnp.int32(impressions - 1)
    earliest, _ = jax.lax.fori_loop(0, (impressions - 1).bit_length(), halve, span)
    return jnp.where(over(earliest), earliest, last.leaves_at)


def score(value: jax.Array, spend: jax.Array, target: jax.Array) -> jax.Array:
    """AuctionNet's score: value x min(1, (target / cost per value)^2).

    Args:
        value: Conversions, or their worth in currency units.
        spend: Money paid, currency units.
        target: Currency units allowed per unit of value (CPA, or 1 / ROAS); infinite where only the budget binds.
    """
    binding = jnp.isfinite(target)
    ratio = jnp.where(binding, target, 1.0) * value / jnp.maximum(spend, 1e-9)
    return value * jnp.where(binding, jnp.minimum(1.0, ratio), 1.0) ** 2
