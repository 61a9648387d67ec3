"""The auction: ranks bids, fills slots, sets prices. Pure array functions over one tick.

Arrays are advertiser-major, ``[N, M]`` (advertisers x impressions of the tick), because every pass then runs along the
contiguous axis; a tick of many markets is ``jax.vmap`` over a leading axis. The top ``K + 1`` scores are found by masked
``max`` passes, which XLA vectorises on CPU, where ``lax.top_k`` and ``argmax`` do not.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adarena.envs.market import mechanisms as registered

MECHANISMS = ("first_price", "second_price", "gsp", "vcg")
CHARGES = ("impression", "click", "conversion")
MAX_SLOTS = 64
"""Each slot is a pass of its own over the bids, written out in the program."""


def mechanisms() -> tuple[str, ...]:
    """Names of `MECHANISMS`, of those added by `register_mechanism`, and of those that installed packages bring."""
    others = {*registered.PAYMENTS, *registered.PLUGINS.names(MECHANISMS)}
    return (*MECHANISMS, *sorted(others))


def register_mechanism(name: str, payment: registered.Payment) -> None:
    """Makes an auction with prices of its own known as ``mechanism=name``, in AutoBid and in `adarena run autobid`.

    Who wins which slot is the ranking's matter; the mechanism says what each slot costs its holder::

        def midway(score, exposure, reserve):  # half-way between the next score and the best score that wins no slot
            below = jnp.maximum(score[1:], reserve)
            return 0.5 * (below + below[-1])

        register_mechanism("midway", midway)

    Args:
        name: A new name.
        payment: ``payment(score, exposure, reserve) -> price``, pure and traceable, as `payment_score` documents them. An
            impression's prices may depend on that impression alone; the price of a slot must not depend on its holder's
            own score (the hindsight bound and the bid landscape take what others bid as given), nor lie above it.

    Raises:
        TypeError: ``payment`` cannot be called, or not with three arrays.
        ValueError: The name is no identifier or is taken, or prices break the contract; the message says how.
    """
    registered.register(name, payment, taken=MECHANISMS)


def of_packages() -> tuple[dict[str, str], list[str]]:
    """Name and package of every mechanism that an installed package brings; one sentence for each that cannot be used."""
    return registered.PLUGINS.packages(MECHANISMS)


@dataclasses.dataclass(frozen=True)
class AuctionRules:
    """What shapes the program of a clearing; static.

    Attributes:
        mechanism: ``"first_price"`` (own bid), ``"gsp"`` (next lower score), ``"second_price"`` (the highest score that
            wins no slot, for every slot: Vickrey's auction of like slots), ``"vcg"`` (externality). With one slot the
            last three agree. Or the name of a registered one (`register_mechanism`).
        slots: Slots an impression has, ``K >= 1``.
        charge: What an advertiser bids on and pays for: ``"impression"`` (an exposed one), ``"click"``, ``"conversion"``.
        quality_ranking: Rank by bid x quality^kappa instead of by bid.
    """

    mechanism: str = "gsp"
    slots: int = 3
    charge: str = "impression"
    quality_ranking: bool = False

    def __post_init__(self) -> None:
        """Refuses what the clearing does not know."""
        if self.mechanism not in MECHANISMS and not registered.known(self.mechanism):
            raise ValueError(f"mechanism must be one of {', '.join(mechanisms())}, got {self.mechanism!r}")
        if self.charge not in CHARGES:
            raise ValueError(f"charge must be one of {', '.join(CHARGES)}, got {self.charge!r}")
        if not isinstance(self.slots, int) or isinstance(self.slots, bool) or not 1 <= self.slots <= MAX_SLOTS:
            raise ValueError(f"slots must be a whole number from 1 to {MAX_SLOTS}, got {self.slots!r}")


class Ranking(NamedTuple):
    """The best scores of every impression.

    Attributes:
        score: ``[K + 1, M]`` float32, falling; 0 where fewer advertisers take part.
        winner: ``[K, M]`` int32 advertiser in each slot, -1 where the slot stays empty.
    """

    score: jax.Array
    winner: jax.Array


def tie_priority(impression_id: jax.Array, advertisers: int) -> jax.Array:
    """A fixed random order of the advertisers for every impression, by which equal scores are ranked.

    Fair: each of ``n`` tied advertisers comes first on one impression in ``n``; deterministic: a function of the
    impression's number alone. The low bits hold the advertiser, so a ``max`` over priorities names the winner.

    Args:
        impression_id: ``[M]`` integers.
        advertisers: ``N``.

    Returns:
        ``[N, M]`` int32, non-negative, distinct within a column.
    """
    bits = max(1, (advertisers - 1).bit_length())
    index = jnp.arange(advertisers, dtype=jnp.uint32)[:, None]
    h = impression_id.astype(jnp.uint32)[None, :] * jnp.uint32(0x9E3779B1) ^ (index + 1) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
    h = (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)
    h = h ^ (h >> 16)
    low = jnp.uint32((1 << bits) - 1)
    return (((h >> 1) & ~low) | index).astype(jnp.int32)


def rank(score: jax.Array, priority: jax.Array, slots: int) -> Ranking:
    """Finds the ``slots + 1`` best scores of every impression and who holds the first ``slots`` of them.

    Args:
        score: ``[N, M]`` float32; an advertiser with a score of 0 or less takes no part.
        priority: ``[N, M]`` int32 from `tie_priority`.
        slots: ``K``.
    """
    advertisers, impressions = score.shape
    low = (1 << max(1, (advertisers - 1).bit_length())) - 1
    column = jnp.arange(impressions)
    # Positive floats are ordered as their bits are, and a maximum over whole numbers costs half of one over floats.
    bits = jax.lax.bitcast_convert_type(score, jnp.int32)
    best, winner = [bits.max(axis=0)], []
    for _ in range(slots):
        first = jnp.where(bits == best[-1], priority, -1).max(axis=0) & low
        winner.append(jnp.where(best[-1] > 0, first, -1))
        # Taking the winner out in place costs a write a column; comparing with it again costs a pass over all.
        bits = bits.at[first, column].set(0, unique_indices=True)
        best.append(bits.max(axis=0))
    top = jax.lax.bitcast_convert_type(jnp.maximum(jnp.stack(best), 0), jnp.float32)
    return Ranking(top, jnp.stack(winner))


def payment_score(rules: AuctionRules, score: jax.Array, exposure: jax.Array, reserve: jax.Array) -> jax.Array:
    """What the holder of each slot pays, in units of score per exposure (divide by quality^kappa for currency).

    Args:
        rules: Mechanism and slots.
        score: ``[K + 1, M]`` falling scores, the first ``K`` of which hold the slots.
        exposure: ``[K]`` probability that an ad in the slot is exposed, falling.
        reserve: ``[M]`` least score that may hold a slot.

    Returns:
        ``[K, M]`` float32; meaningless where a slot is empty.
    """
    below = jnp.maximum(score[1:], reserve)
    if rules.mechanism == "first_price":
        return score[:-1]
    if rules.mechanism == "gsp":
        return below
    if rules.mechanism == "second_price":
        return jnp.broadcast_to(below[-1], below.shape)
    if rules.mechanism in registered.PAYMENTS:
        return registered.PAYMENTS[rules.mechanism](score, exposure, reserve)
    # VCG: those below would each move up one slot; x_k p_k = x_{k+1} p_{k+1} + (x_k - x_{k+1}) b_{k+1}.
    following = jnp.append(exposure[1:], 0.0)
    owed = jnp.zeros_like(reserve)
    payments = []
    for k in reversed(range(rules.slots)):
        owed = owed + (exposure[k] - following[k]) * below[k]
        payments.append(owed / jnp.maximum(exposure[k], 1e-12))
    return jnp.stack(payments[::-1])


def eligible(score: jax.Array, reserve: jax.Array) -> jax.Array:
    """Scores with those below the reserve set to 0, so that they take no part. ``[N, M]``, ``[M]`` -> ``[N, M]``."""
    return jnp.where(score >= reserve[None, :], score, 0.0)


def rival_scores(ranking: Ranking, seat: jax.Array) -> jax.Array:
    """The ``K`` best scores among everybody but ``seat``: what each slot would take to win.

    Follows from the ranking alone: among the best ``K + 1``, leaving one out, ``K`` remain.

    Returns:
        ``[K, M]`` float32, falling; 0 where a slot could be had at the reserve.
    """
    held, above = [], jnp.bool_(False)
    for winner in ranking.winner:  # written out: a running sum over so few is slow on CPU
        above = above | (winner == seat)
        held.append(above)
    return jnp.where(jnp.stack(held), ranking.score[1:], ranking.score[:-1])
