"""What a tick of `adarena.envs.autobid` shows: the bid landscape, and ``info``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from adarena.envs.market.auction import AuctionRules
from adarena.envs.market.tick import Opportunity, TickResult, Visit

if TYPE_CHECKING:
    from adarena.envs.autobid_state import State


def landscape(
    rules: AuctionRules, offer: Opportunity, unit: jax.Array, grid: tuple[float, ...]
) -> tuple[jax.Array, jax.Array]:
    """Value that each multiplier would have won in a tick, and what it would have paid; ``[J]`` each.

    Args:
        rules: The auction.
        offer: What every slot would have cost.
        unit: Currency units per unit of value that multiplier 1 bids.
        grid: ``J`` multipliers.
    """
    multiplier = jnp.asarray(grid, jnp.float32)
    cost = offer.cost
    if rules.mechanism == "first_price":
        # Own bid in money per exposure: the score's ratio to the least winning one scales the price of the slot.
        cost = cost * (unit * offer.unit_score / jnp.maximum(offer.least_score, 1e-12))
    # Values in the offer are true ones; the landscape is reported after the fact, as a platform would. Whoever reaches
    # slot k reaches those below as well: it has what slot k brings beyond the one below, and what that one brings.
    bid = multiplier[:, None] * (unit * offer.unit_score)  # [J, M]
    totals = []
    for amounts in (offer.value, cost):
        beyond = amounts - jnp.concatenate([amounts[1:], jnp.zeros_like(amounts[:1])])
        # Slot by slot, so that no array of [J, K, M] is written.
        won = sum(jnp.where(bid >= least, more, 0.0) for least, more in zip(offer.least_score, beyond, strict=True))
        totals.append(jnp.sum(won, axis=1))
    value, cost = totals
    return value, cost * multiplier if rules.mechanism == "first_price" else cost


def least_winning_price(offer: Opportunity, here: Visit) -> jax.Array:
    """Sum over impressions of the score that would have taken the last slot, weights included; scalar."""
    return (offer.least_score[-1] * here.weight).sum()


def tick_info(state: State, result: TickResult, log_multiplier: jax.Array) -> dict[str, jax.Array]:
    """``info`` of a tick: money, value and exposure by advertiser ``[N]``, and the seat's own numbers."""
    i = state.seat.index
    sold = jnp.maximum(result.exposure.sum(), 1e-9)
    return {
        "spend": result.spend,
        "value": result.value,
        "exposure": result.exposure,
        "seat": i,
        "multiplier": jnp.exp(log_multiplier),
        "score": state.score,
        "price": result.spend.sum() / sold,
        "clearings": result.clearings,
    }
