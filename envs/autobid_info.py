"""What a tick of `adarena.envs.autobid` shows: the bid landscape, and ``info``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from adarena.envs.market.auction import AuctionRules
from adarena.envs.market.clearing import Visit
from adarena.envs.market.ledger import score
from adarena.envs.market.opportunities import Opportunity
from adarena.envs.market.tick import TickResult

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

    def sums(offer: Opportunity) -> tuple[jax.Array, jax.Array]:
        return _landscape(rules, offer, unit, jnp.asarray(grid, jnp.float32))

    # What enters a branch is computed before it, once; without, the compiler computes the offer anew for every multiplier.
    none = jnp.zeros(len(grid), jnp.float32)
    return jax.lax.cond(unit > 0.0, sums, lambda _: (none, none), offer)


def _landscape(
    rules: AuctionRules, offer: Opportunity, unit: jax.Array, grid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    bid = grid[:, None, None] * unit * offer.unit_score  # [J, 1, M]
    reaches = bid >= offer.least_score  # [J, K, M], rising in K
    takes = reaches & ~jnp.concatenate([jnp.zeros_like(reaches[:, :1]), reaches[:, :-1]], axis=1)
    # Values in the offer are true ones; the landscape is reported after the fact, as a platform would.
    value = jnp.where(takes, offer.value, 0.0).sum(axis=(1, 2))
    if rules.mechanism == "first_price":
        # Own bid in money per exposure: the score's ratio to the least winning one scales the price of the slot.
        ratio = bid / jnp.maximum(offer.least_score, 1e-12)
        cost = jnp.where(takes, offer.cost * ratio, 0.0).sum(axis=(1, 2))
    else:
        cost = jnp.where(takes, offer.cost, 0.0).sum(axis=(1, 2))
    return value, cost


def least_winning_price(offer: Opportunity, here: Visit) -> jax.Array:
    """Sum over impressions of the score that would have taken the last slot, weights included; scalar."""
    return (offer.least_score[-1] * here.weight).sum()


def tick_info(state: State, result: TickResult, levels: jax.Array) -> dict[str, jax.Array]:
    """``info`` of a tick: money, value, exposure and multiplier by advertiser ``[N]``, and the seat's own numbers.

    Args:
        state: The state after the tick.
        result: What the tick booked.
        levels: ``[N]`` log multipliers.
    """
    i = state.seat.index
    sold = jnp.maximum(result.exposure.sum(), 1e-9)
    return {
        "spend": result.spend,
        "value": result.value,
        "exposure": result.exposure,
        "seat": i,
        "multiplier": jnp.exp(levels[i]),
        "multipliers": jnp.exp(levels),
        "score": state.score,
        "price": result.spend.sum() / sold,
        "clearings": result.clearings,
    }


def metrics(state: State) -> dict[str, jax.Array]:
    """The seat's accounts so far, see `adarena.envs.autobid.AutoBid.metrics`."""
    i = state.seat.index
    accounts, target = state.accounts, state.seat.target
    value, cost = accounts.value[i], accounts.spend[i]
    bound_by_target = jnp.isfinite(target)
    ratio = jnp.where(bound_by_target, cost / jnp.maximum(jnp.where(bound_by_target, target, 1.0) * value, 1e-9), 0.0)
    ratio = jnp.where(cost > 0.0, jnp.minimum(ratio, 100.0), 0.0)
    return {
        "value": value,
        "cost": cost,
        "score": score(value, cost, target),
        "target": target,
        "budget": state.seat.budget,
        "budget_used": cost / state.seat.budget,
        "cost_per_value": cost / jnp.maximum(value, 1e-9),
        "cost_over_target": ratio,
        "over_target": (ratio > 1.0).astype(jnp.float32),
        "exposure": accounts.exposure[i],
        "click": accounts.click[i],
        "conversion": accounts.conversion[i],
        "seat": i.astype(jnp.float32),
    }
