"""AuctionNet's way with overspending: won bids, chosen at random, are withdrawn until everybody can pay.

This market's own way is `adarena.envs.market.ledger.settle`: a bidder leaves at the first charge that it cannot pay. The one
here is for comparisons with AuctionNet. It needs all impressions of a tick at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from adarena.envs.market.ledger import Settlement, book

OVERSPEND = ("in_order", "drop")
"""What happens to a bidder whose charges exceed its money."""

LEAST_MONEY = 0.1
"""Currency units below which a bidder pauses for the day (AuctionNet's figure)."""

Withdraw = Callable[[Any, jax.Array], tuple[Any, jax.Array, jax.Array]]
"""``clear(inputs, withdrawn [N, M]) -> (outcome, winner [K, M], charge [K, M])``: a tick without the withdrawn bids."""


def settle_dropping(clear: Withdraw, inputs: Any, remaining: jax.Array, impressions: int, key: jax.Array) -> Settlement:
    """Clears a tick; where a bidder's charges exceed what it has left, withdraws some of its winning bids; clears again.

    In each slot that share of a bidder's charged wins is withdrawn, rounded up, by which its charges exceed its money, so
    every round withdraws at least one of every bidder that is short, and the rounds come to an end. A bidder that has been
    short may go on bidding in later ticks.

    Source: alimama-tech/AuctionNet at c20de63, as read in code.

    Args:
        clear: Clears the tick without some bids.
        inputs: Pytree of arrays handed to ``clear``, which leaves out those without money by itself.
        remaining: ``[N]`` money left, currency units.
        impressions: ``M``.
        key: Key of the choice.

    Returns:
        The settlement; ``leaves_at`` is 0 for bidders left with less than `LEAST_MONEY`, else ``M``.
    """
    advertisers = remaining.shape[0]

    def attempt(withdrawn: jax.Array) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
        outcome, winner, charge = clear(inputs, withdrawn)
        return outcome, winner, charge, book(winner, charge, advertisers)

    def short(carry: tuple[Any, jax.Array, jax.Array]) -> jax.Array:
        return jnp.any(carry[0][3] > remaining)

    def retry(carry: tuple[Any, jax.Array, jax.Array]) -> tuple[Any, jax.Array, jax.Array]:
        (_, winner, charge, spend), withdrawn, rounds = carry
        share = jnp.where(spend > remaining, 1.0 - remaining / jnp.maximum(spend, 1e-30), 0.0)
        drop = choose(jax.random.fold_in(key, rounds), jnp.where(charge > 0.0, winner, -1), share)
        # A bid is withdrawn whole: it takes no part in the impression, in whatever slot.
        at = jnp.where(drop, winner, advertisers), jnp.broadcast_to(jnp.arange(impressions), winner.shape)
        withdrawn = withdrawn.at[at].set(True, mode="drop")
        return attempt(withdrawn), withdrawn, rounds + 1

    nothing = jnp.zeros((advertisers, impressions), bool)
    start = (attempt(nothing), nothing, jnp.int32(1))
    (outcome, _, _, spend), _, rounds = jax.lax.while_loop(short, retry, start)
    stays = remaining - spend >= LEAST_MONEY
    return Settlement(outcome, jnp.where(stays, impressions, 0).astype(jnp.int32), spend, rounds)


def choose(key: jax.Array, winner: jax.Array, share: jax.Array) -> jax.Array:
    """Picks, slot by slot, ``ceil(count x share)`` of every bidder's wins at random.

    Args:
        key: Key of the choice.
        winner: ``[K, M]`` int32, -1 for nobody.
        share: ``[N]`` in [0, 1].

    Returns:
        ``[K, M]`` bool.
    """
    advertisers = share.shape[0]

    def slot(key: jax.Array, winner: jax.Array) -> jax.Array:
        who = jnp.where(winner < 0, advertisers, winner)
        place = jnp.arange(who.shape[0], dtype=jnp.int32)
        # Bidder by bidder, each one's wins in random order: the first of them are dropped.
        ordered, _, place = jax.lax.sort((who, jax.random.bits(key, who.shape), place), num_keys=2)
        first = jnp.searchsorted(ordered, jnp.arange(advertisers + 1))
        count = jnp.diff(first, append=who.shape[0])
        number = jnp.ceil(count * jnp.append(share, 0.0)).astype(jnp.int32)
        dropped = jnp.arange(who.shape[0]) - first[ordered] < number[ordered]
        return jnp.zeros(who.shape, bool).at[place].set(dropped)

    return jax.vmap(slot)(jax.random.split(key, winner.shape[0]), winner)
