"""Ranking bonuses that the platform pays for: exploration as one more account of the auction.

A bonus is added to an ad's score when slots are filled, and to nothing else. The holder of a slot pays at most its own
score, and otherwise what it would pay without bonuses: the highest score, bonus left out, among all that rank below it
(losers included), or the reserve. Where one of those below had the higher score, the platform is charged the
difference: what the slot was worth to them over what its holder can pay. These charges come out of a fund that is
spent in order, like every budget: from the first charge that it cannot pay on, ranks are those without bonuses.

Protected traffic is a bonus as well: an ad holds a share of the impressions, on which its bonus exceeds every score.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adarena.envs.market.auction import AuctionRules, Ranking, rank

BOOSTED = ("gsp", "first_price")
"""Mechanisms in which ranks may be boosted."""


class Support(NamedTuple):
    """What the platform adds to ranks in a tick.

    Attributes:
        bonus: ``[N, M]`` float32, at least 0, in units of score (currency units per exposed impression); a bidder whose own
            score takes no part (below the reserve, no money) is not lifted.
        fund: Currency units left for charges; scalar.
    """

    bonus: jax.Array
    fund: jax.Array


class Boosted(NamedTuple):
    """Slots filled by score and bonus; ``[K, M]``.

    Attributes:
        ranking: Scores with bonuses and who holds the slots.
        price: What the holder of each slot pays, in units of score.
        charge: What the platform pays for it, likewise.
    """

    ranking: Ranking
    price: jax.Array
    charge: jax.Array


def check_boosted(rules: AuctionRules) -> None:
    """Raises ValueError where bonuses have no agreed price."""
    if rules.mechanism not in BOOSTED:
        raise ValueError(
            f"mechanism must be one of {', '.join(BOOSTED)} where ranks are boosted, got {rules.mechanism!r}"
        )
    if rules.charge != "impression" or rules.quality_ranking:
        given = f"charge={rules.charge!r}, quality_ranking={rules.quality_ranking!r}"
        raise ValueError(f"charge must be 'impression' and quality_ranking False where ranks are boosted, got {given}")


def rank_boosted(
    rules: AuctionRules, score: jax.Array, bonus: jax.Array, priority: jax.Array, reserve: jax.Array
) -> Boosted:
    """Ranks by score and bonus, and prices by score alone.

    Args:
        rules: Mechanism and slots; see `check_boosted`.
        score: ``[N, M]`` scores; 0 takes no part.
        bonus: ``[N, M]`` at least 0.
        priority: ``[N, M]`` int32 from `adarena.envs.market.auction.tie_priority`.
        reserve: ``[M]`` least score that may hold a slot.
    """
    ranking = rank(jnp.where(score > 0.0, score + bonus, 0.0), priority, rules.slots)
    column = jnp.arange(score.shape[1])
    lost, own = score, []
    for winner in ranking.winner:
        held = jnp.maximum(winner, 0)
        own.append(jnp.where(winner >= 0, score[held, column], 0.0))
        lost = lost.at[held, column].set(0.0, unique_indices=True)
    below = [lost.max(axis=0)]
    for k in reversed(range(1, rules.slots)):
        below.append(jnp.maximum(below[-1], own[k]))
    held_score, best_below = jnp.stack(own), jnp.stack(below[::-1])
    charge = jnp.maximum(best_below - held_score, 0.0)
    if rules.mechanism == "first_price":
        return Boosted(ranking, held_score, charge)
    return Boosted(ranking, jnp.minimum(held_score, jnp.maximum(best_below, reserve)), charge)


def protected(u: jax.Array, share: jax.Array, allowed: jax.Array | bool = True) -> jax.Array:
    """Which impressions belong to which ad.

    Args:
        u: ``[M]`` uniforms, one an impression.
        share: ``[L]`` shares of the impressions, at least 0, together at most 1.
        allowed: ``[M]`` bool: impressions that may be given away at all.

    Returns:
        ``[L, M]`` bool, at most one true in each column.
    """
    end = jnp.cumsum(share)
    start = end - share
    return (u[None, :] >= start[:, None]) & (u[None, :] < end[:, None]) & jnp.asarray(allowed)
