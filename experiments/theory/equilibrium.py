"""Equilibria found by bidders who respond to one another, and the market that they are played in.

Nothing here knows the answers of theory: bids start elsewhere and move to what pays better until they rest.
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
def clear(
    rules: AuctionRules, bids: jax.Array, exposure: jax.Array, reserve: jax.Array, first: jax.Array | int = 0
) -> Clearing:
    """Clears a batch of auctions with the functions that the market of every environment uses.

    Args:
        rules: Mechanism and slots ``K``.
        bids: ``[N, M]`` float32, advertisers x impressions.
        exposure: ``[K, M]`` float32, falling along the slots.
        reserve: ``[M]`` float32 least bid that takes part.
        first: Number of the first impression; numbers break ties.
    """
    advertisers, impressions = bids.shape
    ranking = rank(eligible(bids, reserve), tie_priority(first + jnp.arange(impressions), advertisers), rules.slots)
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
    """A bid for every value, found from ``S`` starts apart from one another; straight between the points of a grid.

    Attributes:
        values: ``[G]`` float64, rising from the reserve to 1; below the reserve nobody bids.
        bids: ``[S, G]`` float64, rising along the values; one line a start, each with draws of its own.
    """

    values: np.ndarray
    bids: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Mean bids for ``values`` of any shape; 0 below the reserve."""
        return _offer(self.values, self.bids.mean(axis=0), values)

    def at(self, value: float) -> np.ndarray:
        """Bids ``[S]`` for one value, one a start."""
        return np.array([_offer(self.values, line, np.array(value)) for line in self.bids])


def _offer(grid: np.ndarray, bids: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(values >= grid[0], np.interp(values, grid, bids), 0.0)


STARTS = (0.1, 0.3, 0.5, 0.7, 0.85, 1.0)
"""Shares of the value's excess over the reserve that are bid at first; 1 is the truth."""


def first_price_bids(
    bidders: int,
    reserve: float = 0.0,
    *,
    starts: tuple[float, ...] = STARTS,
    seed: int = 0,
    samples: int = 256,
    points: int = 41,
    step: float = 0.5,
    search: int = 100,
    rest: int = 30,
) -> BidFunction:
    """The symmetric equilibrium of a first-price auction with values uniform on [0, 1], by self-play in the market.

    Everybody bids by one function of the value, given at the points of a grid. Each turn, auctions are cleared in which
    one bidder makes each of those bids while values of the rivals are drawn and bid by the same function: what a bid wins
    and pays. A value half way between two points should be as well off with the one's bid as with the other's. Where
    the higher bid has earned it more, the higher bid rises, else it falls: by what it earned more over how often it won,
    which is the rise that would take the advantage away, times ``step``.

    Bids so learn from the next lower value, and those at the reserve from nobody. That settles from any start, while the
    step to the very best response does not: from below, the highest bidder is content to outbid the others by nothing.
    That no other bid at all earns more is measured afterwards (`adarena.experiments.theory.single_item.best_departure`).

    Args:
        bidders: Number of bidders, two or more.
        reserve: Least bid, in [0, 1).
        starts: ``S`` shares of the value's excess over the reserve that are bid at first, each in (0, 1].
        seed: Of the rivals' values.
        samples: Auctions that are cleared for each bid in a turn; eight times as many once bids have settled.
        points: Points of the value grid.
        step: Share of an advantage that a turn takes away, in (0, 1].
        search: Turns before bids have settled: no fewer than ``points / step``, as news moves a point a turn.
        rest: Turns after; the latter half of them is averaged.

    Raises:
        ValueError: If ``bidders``, ``reserve`` or ``starts`` are out of range.
    """
    if bidders < 2:
        raise ValueError(f"bidders must be 2 or more, got {bidders!r}")
    if not 0.0 <= reserve < 1.0:
        raise ValueError(f"reserve must lie in [0, 1), got {reserve!r}")
    if not starts or not all(0.0 < start <= 1.0 for start in starts):
        raise ValueError(f"starts must be one or more shares in (0, 1], got {starts!r}")
    generator = np.random.default_rng((seed, bidders, round(1000 * reserve)))
    values = np.linspace(reserve, 1.0, points)
    bids = reserve + np.asarray(starts)[:, None] * (values - reserve)
    settled = []
    for turn in range(search + rest):
        rounds = 1 if turn < search else 8
        trials = [_trial(values, bids, bidders, samples, generator) for _ in range(rounds)]
        won, paid = np.mean(trials, axis=0)
        bids = _moved(values, bids, won, paid, step)
        settled.append(bids)
    return BidFunction(values, np.mean(settled[-(rest // 2) :], axis=0))


def _trial(
    values: np.ndarray, bids: np.ndarray, bidders: int, samples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """How often each of ``bids [S, G]`` won and what it paid on average, ``[S, G]`` each, 0 where it lost."""
    starts, points = bids.shape
    # Each rival's values are spread evenly, one in each of as many parts of [0, 1]: less luck in what is won.
    parts = np.broadcast_to(np.arange(samples), (bidders - 1, starts, samples))
    drawn = (generator.permuted(parts, axis=-1) + generator.random(parts.shape)) / samples
    offers = np.empty((bidders, starts, points, samples), np.float32)
    offers[0] = bids[:, :, None]
    for start, line in enumerate(bids):
        offers[1:, start] = _offer(values, line, drawn[:, start])[:, None]
    winner, payment = clear_single("first_price", offers.reshape(bidders, -1), float(values[0]))
    won = (winner == 0).reshape(starts, points, samples)
    return won.mean(axis=-1), np.where(won, payment.reshape(won.shape), 0.0).mean(axis=-1)


def _moved(values: np.ndarray, bids: np.ndarray, won: np.ndarray, paid: np.ndarray, step: float) -> np.ndarray:
    """Bids ``[S, G]`` after a turn in which they ``won`` and ``paid``; rising, no lower than the reserve or above value."""
    between = 0.5 * (values[1:] + values[:-1])
    advantage = between * np.diff(won, axis=1) - np.diff(paid, axis=1)
    moved = bids.copy()
    moved[:, 1:] += step * advantage / np.where(won[:, 1:] > 0.0, won[:, 1:], np.inf)  # nothing won, nothing learnt
    return np.clip(np.maximum.accumulate(moved, axis=1), values[0], values)


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
    values: np.ndarray,
    exposure: np.ndarray,
    *,
    start: float = 0.9,
    seed: int = 0,
    rounds: int = 2000,
    rest: float = 1e-6,
) -> PositionBids:
    """Bids in the generalised second-price auction, by balanced best responses, one advertiser after another.

    An advertiser takes the slot that is best for it at the prices that the others' bids set, and of the bids that win
    that slot the one at which it would be as well off one slot higher, were it to pay its own bid there; in the top slot
    half way between price and value (Cary et al., "Greedy bidding strategies for keyword auctions", 2007). Where
    these rest, nobody envies a better slot at its price.

    Args:
        values: ``[N, M]`` values of an exposure, positive: ``M`` instances, ``N > K``.
        exposure: ``[K, M]`` exposure of the slots, falling.
        start: First bids over values, in (0, 1].
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
    bids = worth * start
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
