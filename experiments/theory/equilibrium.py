"""Equilibria found by bidders who best-respond to one another, and the market that they are played in.

Nothing here knows the answers of theory: bids start elsewhere and move towards best responses until they rest.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adarena.envs.market.auction import AuctionRules, eligible, payment_score, rank, rival_scores, tie_priority


class Clearing(NamedTuple):
    """Who won and what was paid.

    Attributes:
        winner: ``[K, M]`` int32 advertiser in each slot, -1 where the slot stays empty.
        payment: ``[K, M]`` float32 expected payment: price per exposure times exposure; 0 where the slot is empty.
    """

    winner: jax.Array
    payment: jax.Array


@functools.partial(jax.jit, static_argnums=0)
def clear(rules: AuctionRules, bids: jax.Array, exposure: jax.Array, reserve: jax.Array) -> Clearing:
    """Clears a batch of auctions with the functions that the market of every environment uses.

    Args:
        rules: Mechanism and slots ``K``.
        bids: ``[N, M]`` float32, advertisers x impressions.
        exposure: ``[K, M]`` float32, falling along the slots.
        reserve: ``[M]`` float32 least bid that takes part.
    """
    advertisers, impressions = bids.shape
    ranking = rank(eligible(bids, reserve), tie_priority(jnp.arange(impressions), advertisers), rules.slots)
    price = jax.vmap(functools.partial(payment_score, rules), in_axes=(1, 1, 0), out_axes=1)
    payment = jnp.where(ranking.winner >= 0, exposure * price(ranking.score, exposure, reserve), 0.0)
    return Clearing(ranking.winner, payment)


def clear_single(mechanism: str, bids: np.ndarray, reserve: float) -> tuple[np.ndarray, np.ndarray]:
    """Sells one always exposed item an impression.

    Args:
        mechanism: As in `AuctionRules`.
        bids: ``[N, M]``.
        reserve: Least bid that takes part.

    Returns:
        ``[M]`` int32 winner, -1 where nobody bids enough, and ``[M]`` float64 payment.
    """
    impressions = bids.shape[1]
    scores = jnp.asarray(bids, jnp.float32)
    floor = jnp.full(impressions, reserve, jnp.float32)
    cleared = clear(AuctionRules(mechanism, slots=1), scores, jnp.ones((1, impressions), jnp.float32), floor)
    return np.asarray(cleared.winner[0]), np.asarray(cleared.payment[0], np.float64)


class BidFunction(NamedTuple):
    """A bid for every value, straight between the points of a grid.

    Attributes:
        values: ``[G]`` float64, rising from the reserve to 1; below the reserve nobody bids.
        bids: ``[G]`` float64, rising.
        turns: Best responses it took.
        change: Largest change of a bid in the last of them.
    """

    values: np.ndarray
    bids: np.ndarray
    turns: int
    change: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Bids for ``values`` of any shape; 0 below the reserve."""
        return np.where(values >= self.values[0], np.interp(values, self.values, self.bids), 0.0)


def first_price_bids(
    bidders: int,
    reserve: float = 0.0,
    *,
    start: float = 1.0,
    points: int = 401,
    candidates: int = 4001,
    degree: int = 8,
    damping: float = 0.1,
    turns: int = 300,
    rest: float = 1e-5,
) -> BidFunction:
    """The symmetric equilibrium of a first-price auction with values uniform on [0, 1], by damped best response.

    Each turn everybody's bid moves towards the best response to what the others bid now. A rival bids less than ``b``
    when its value is below the inverse of the bid function at ``b``, so ``b`` wins with that probability to the power of
    the number of rivals. Best responses to a bid function with ripples ripple more than it does, so what is looked for
    among candidates is smoothed by a polynomial before anybody moves.

    Args:
        bidders: Number of bidders, two or more.
        reserve: Least bid, in [0, 1).
        start: First bids are the reserve and this share of the value's excess over it; 1 is the truth.
        points: Points of the value grid.
        candidates: Bids among which a best response is looked for, evenly spaced.
        degree: Degree of the polynomial (Chebyshev's) that smooths a best response.
        damping: Share of the way towards the best response that a turn goes.
        turns: Most turns.
        rest: Largest change of a bid in one turn at which the search ends.

    Raises:
        ValueError: If ``bidders``, ``reserve`` or ``start`` are out of range.
    """
    if bidders < 2:
        raise ValueError(f"bidders must be 2 or more, got {bidders!r}")
    if not 0.0 <= reserve < 1.0:
        raise ValueError(f"reserve must lie in [0, 1), got {reserve!r}")
    if not 0.0 < start <= 1.0:
        raise ValueError(f"start must lie in (0, 1], got {start!r}")
    values = np.linspace(reserve, 1.0, points)
    bids = reserve + start * (values - reserve)
    turn, change = 0, np.inf
    while turn < turns and change >= rest:
        turn += 1
        response = _best_response(values, bids, bidders - 1, candidates)
        smooth = np.polynomial.Chebyshev.fit(values, response, degree)(values)
        moved = np.maximum.accumulate(np.clip(bids + damping * (smooth - bids), reserve, values))
        change = float(np.abs(moved - bids).max())
        bids = moved
    return BidFunction(values, bids, turn, change)


def _best_response(values: np.ndarray, bids: np.ndarray, rivals: int, candidates: int) -> np.ndarray:
    """Best bids ``[G]`` against rivals who bid ``bids [G]`` at ``values [G]``; nobody need bid above the highest."""
    offers = np.linspace(bids[0], bids[-1], candidates)
    # A ramp too small to matter, so that bids that are alike can be inverted.
    chance = np.interp(offers, bids + 1e-12 * np.arange(len(bids)), values) ** rivals
    best = np.concatenate([_argmax(block, offers, chance) for block in np.array_split(values, 8)])
    return np.minimum(best, values)


def _argmax(values: np.ndarray, offers: np.ndarray, chance: np.ndarray) -> np.ndarray:
    return offers[np.argmax((values[:, None] - offers) * chance, axis=1)]


class PositionBids(NamedTuple):
    """Bids for slots at rest.

    Attributes:
        bids: ``[N, M]`` float64.
        rounds: Rounds in which everybody moved once.
        change: Largest change of a bid in the last round.
    """

    bids: np.ndarray
    rounds: int
    change: float


def balanced_bids(
    values: np.ndarray, exposure: np.ndarray, *, seed: int = 0, rounds: int = 2000, rest: float = 1e-6
) -> PositionBids:
    """Bids in the generalised second-price auction, by balanced best responses, one advertiser after another.

    An advertiser takes the slot that is best for it at the prices that the others' bids set, and of the bids that win
    that slot the one at which it would be as well off one slot higher, were it to pay its own bid there; in the top slot
    half way between price and value (Cary et al., "Greedy bidding strategies for keyword auctions", 2007). Bids start
    at nine tenths of the values. Where these rest, nobody envies a better slot at its price.

    Args:
        values: ``[N, M]`` values of an exposure, positive: ``M`` instances, ``N > K``.
        exposure: ``[K, M]`` exposure of the slots, falling.
        seed: Of the order in which advertisers move, another one each round.
        rounds: Most rounds.
        rest: Largest change of a bid in one round at which the search ends.

    Raises:
        ValueError: If there are no more advertisers than slots.
    """
    if len(values) <= len(exposure):
        raise ValueError(f"values must have more rows than exposure ({len(exposure)} slots), got {len(values)}")
    worth, shown = jnp.asarray(values, jnp.float32), jnp.asarray(exposure, jnp.float32)
    generator = np.random.default_rng(seed)
    bids = worth * 0.9
    turn, change = 0, np.inf
    while turn < rounds and change >= rest:
        turn += 1
        moved = _round(bids, worth, shown, jnp.asarray(generator.permutation(len(values)), jnp.int32))
        change = float(jnp.abs(moved - bids).max())
        bids = moved
    return PositionBids(np.asarray(bids, np.float64), turn, change)


@jax.jit
def _round(bids: jax.Array, values: jax.Array, exposure: jax.Array, order: jax.Array) -> jax.Array:
    """Everybody moves once, in ``order [N]``."""
    advertisers, instances = bids.shape
    slots = len(exposure)
    priority = tie_priority(jnp.arange(instances), advertisers)
    better = jnp.concatenate([exposure[:1], exposure[:-1]])  # exposure one slot higher

    def move(bids: jax.Array, seat: jax.Array) -> tuple[jax.Array, None]:
        price = rival_scores(rank(bids, priority, slots), seat)
        value = values[seat]
        surplus = exposure * (value - price)
        indifferent = value - surplus / better
        indifferent = indifferent.at[0].set((value + price[0]) / 2.0)
        best = jnp.argmax(surplus, axis=0)[None]
        chosen = jnp.take_along_axis(indifferent, best, axis=0)[0]
        return bids.at[seat].set(jnp.where(surplus.max(axis=0) > 0.0, chosen, value)), None

    return jax.lax.scan(move, bids, order)[0]
