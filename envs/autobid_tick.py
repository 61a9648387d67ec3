"""The impressions of a tick of `adarena.envs.autobid`, and its clearing: one block that stands for all, or all of them.

A thinned tick visits one block, each impression of which stands for several real ones. With ``tick_blocks`` above 1 (traffic
``"auctionnet"``) a tick visits as many blocks as its impressions fill, one after another, and every impression stands for
itself; money in order then means block after block.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from adarena.envs import auctionnet_view
from adarena.envs import autobid_info as shown
from adarena.envs.autobid_state import State
from adarena.envs.market.clearing import Bidders, Visit, predictions, predictions_of
from adarena.envs.market.normal_values import NormalBank, draw_block, draw_sigma, draw_values_of
from adarena.envs.market.opportunities import opportunities
from adarena.envs.market.response import ResponseDraws, draw_parts
from adarena.envs.market.tick import Cleared, TickResult, run_tick
from adarena.envs.market.traffic import Bank, visit
from adarena.envs.observation import LANDSCAPE

if TYPE_CHECKING:
    from adarena.envs.autobid import AutoBid
    from adarena.envs.autobid_setup import Params


class TickSummary(NamedTuple):
    """What a tick leaves behind; real events, weights included. Scalars unless said.

    Attributes:
        totals: Sums by advertiser, ``[N]``, without outcomes of single impressions.
        offered: Impressions.
        potential: Predicted value of all of them to the seat, one exposure each.
        least_price: Sum over impressions of the least winning price, currency units.
        landscape_value: ``[J]`` value that each multiplier of `LANDSCAPE` would have won for the seat.
        landscape_cost: ``[J]`` currency units that it would have paid.
        seen: What AuctionNet's observation is made of; None where another one is shown.
    """

    totals: TickResult
    offered: jax.Array
    potential: jax.Array
    least_price: jax.Array
    landscape_value: jax.Array
    landscape_cost: jax.Array
    seen: auctionnet_view.Seen | None


Record = tuple[jax.Array, jax.Array]
"""What every slot of every impression would have cost the seat and brought it, ``[K, I]`` each."""


def factor(env: AutoBid, state: State, params: Params) -> jax.Array:
    """PCTR of the coming tick relative to the bank's, ``[N]``."""
    if isinstance(params.bank, NormalBank):
        return jnp.ones(env.advertisers, jnp.float32)
    tick = jnp.minimum(state.tick, env.ticks - 1)
    return state.drift[:, tick][params.category] * params.bank.ctr_factor[tick]


def blocks_of(env: AutoBid, state: State) -> jax.Array:
    """Blocks that the coming tick visits, int32, from 1 to ``tick_blocks``."""
    volume = state.volume[jnp.minimum(state.tick, env.ticks - 1)]
    return jnp.clip(jnp.ceil(volume / env.impressions), 1, env.tick_blocks).astype(jnp.int32)


def block(env: AutoBid, state: State, params: Params, part: jax.Array | int = 0) -> Visit:
    """One block of the coming tick's impressions."""
    tick = jnp.minimum(state.tick, env.ticks - 1)
    volume = state.volume[tick]
    if not isinstance(params.bank, NormalBank):
        where = visit(state.traffic, params.bank, tick)
        weight = params.bank.weight[where]
        weight = weight * volume / jnp.maximum(weight.sum(), 1.0)
        return Visit(params.bank, where, weight, env.objective == "roas")
    weight = _weight(env, state, part)
    bank, numbers = draw_block(state.traffic, params.bank, state.drift, tick, jnp.asarray(part, jnp.int32), weight)
    return Visit(bank, jnp.int32(0), weight, False, numbers)


def _weight(env: AutoBid, state: State, part: jax.Array | int) -> jax.Array:
    """Real impressions for which each impression of a block of AuctionNet's traffic stands, ``[M]``."""
    volume = state.volume[jnp.minimum(state.tick, env.ticks - 1)]
    number = jnp.asarray(part, jnp.int32) * env.impressions + jnp.arange(env.impressions)
    simulated = jnp.minimum(volume, env.tick_impressions) if env.tick_blocks > 1 else jnp.float32(env.impressions)
    # More impressions than the blocks hold (rare) stand for a little more than one each.
    return jnp.where(number < simulated, volume / jnp.maximum(simulated, 1.0), 0.0).astype(jnp.float32)


def whole(env: AutoBid, state: State, params: Params) -> Visit:
    """All impressions that the coming tick may have, as one block of ``env.tick_impressions``; padding at the end."""
    if env.tick_blocks == 1:
        return block(env, state, params)
    parts = jax.vmap(lambda part: block(env, state, params, part))(jnp.arange(env.tick_blocks))

    def joined(x: jax.Array) -> jax.Array:  # [P, 1, ..., M] -> [1, ..., P M]
        return jnp.moveaxis(x[:, 0], 0, -2).reshape(1, *x.shape[2:-1], -1)

    one = jax.tree.map(lambda x: x[0], parts.bank)
    rows = {name: joined(getattr(parts.bank, name)) for name in ("pctr", "pvalue", "worth", "outside", "weight")}
    bank: Bank = dataclasses.replace(one, **rows)
    assert parts.number is not None
    return Visit(bank, jnp.int32(0), parts.weight.reshape(-1), False, parts.number.reshape(-1))


def luck(env: AutoBid, state: State, parts: jax.Array) -> ResponseDraws | None:
    """The luck of ``[P]`` blocks of the coming tick, side by side; None where expectations are booked."""
    if env.response != "sampled":
        return None
    key = jax.random.fold_in(state.response, state.tick)
    keys = jax.vmap(lambda part: jax.random.fold_in(key, part))(parts) if env.tick_blocks > 1 else key[None]
    return draw_parts(keys, (env.slots, env.impressions))


def dropping(env: AutoBid, state: State) -> jax.Array | None:
    """Key of the choice of overspent wins that the coming tick drops; None where money is spent in order."""
    if env.overspend == "in_order":
        return None
    # A stream of its own beside the ticks' luck, whose numbers stay below.
    return jax.random.fold_in(jax.random.fold_in(state.response, 0xD209), state.tick)


def predicted_value(env: AutoBid, state: State, here: Visit, params: Params, worth: jax.Array) -> jax.Array:
    """Predicted value of each impression to the seat, ``[M]``, per exposure."""
    i = state.seat.index
    _, pvalue = predictions_of(here, i, factor(env, state, params)[i], params.terms)
    basket = here.bank.worth[here.block] if here.basket else 1.0
    return pvalue * basket * worth[i]


def value_now(env: AutoBid, state: State, params: Params, worth: jax.Array) -> jax.Array:
    """Mean predicted value of the coming tick's impressions to the seat, per exposure."""
    if not isinstance(params.bank, NormalBank):
        here = block(env, state, params)
        value = predicted_value(env, state, here, params, worth)
        return (value * here.weight).sum() / jnp.maximum(here.weight.sum(), 1e-9)
    bank, tick, i = params.bank, jnp.minimum(state.tick, env.ticks - 1), state.seat.index

    def add(part: jax.Array, total: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        weight = _weight(env, state, part)
        value = draw_values_of(state.traffic, bank, state.drift, tick, part, env.impressions, i)
        return total[0] + (value * weight).sum(), total[1] + weight.sum()

    value, weight = jax.lax.fori_loop(0, blocks_of(env, state), add, (jnp.float32(0.0), jnp.float32(0.0)))
    value = value * worth[i]
    return value / jnp.maximum(weight, 1e-9)


def clear_tick(
    env: AutoBid, state: State, bidders: Bidders, unit: jax.Array, params: Params
) -> tuple[TickSummary, Record]:
    """Clears the coming tick.

    Args:
        env: The environment.
        state: Its state.
        bidders: What the advertisers bring.
        unit: Currency units per unit of value that the seat's multiplier 1 bids.
        params: Its parameters.
    """
    if env.tick_blocks == 1 or env.overspend == "drop":
        here = whole(env, state, params)
        drawn = luck(env, state, jnp.arange(env.tick_blocks))
        result = run_tick(env.rules, here, bidders, params.terms, drawn, dropping=dropping(env, state))
        return summarise(env, state, here, bidders, unit, result, params)

    def next_block(part: jax.Array, carry: tuple[TickSummary, Record]) -> tuple[TickSummary, Record]:
        total, record = carry
        done = total.totals
        left = jnp.where(done.short, 0.0, jnp.maximum(bidders.remaining - done.spend, 0.0))
        bring = bidders._replace(remaining=left)
        here = block(env, state, params, part)
        result = run_tick(env.rules, here, bring, params.terms, luck(env, state, part[None]))
        summary, seen = summarise(env, state, here, bring, unit, result, params)
        # Whoever had nothing left before this block is short as well, and stays so.
        merged = jax.tree.map(lambda a, b: a | b if a.dtype == bool else a + b, total, summary)
        if env.record:
            place = part * env.impressions
            record = jax.tree.map(lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, place, 1), record, seen)
        return merged, record

    none = jnp.zeros((env.slots, env.tick_impressions if env.record else 0), jnp.float32)
    carry = empty_summary(env), (none, none)
    return jax.lax.fori_loop(0, blocks_of(env, state), next_block, carry)


def empty_summary(env: AutoBid) -> TickSummary:
    """A tick in which nothing has happened yet."""
    advertisers = env.advertisers
    each, zero = jnp.zeros(advertisers, jnp.float32), jnp.float32(0.0)
    grid = jnp.zeros(len(LANDSCAPE), jnp.float32)
    totals = TickResult(None, each, each, each, each, each, each > 0.0, jnp.int32(0))
    seen = auctionnet_view.nothing() if env.observation == "auctionnet" else None
    return TickSummary(totals, zero, zero, zero, grid, grid, seen)


def summarise(
    env: AutoBid,
    state: State,
    here: Visit,
    bidders: Bidders,
    unit: jax.Array,
    result: TickResult,
    params: Params,
    bids: jax.Array | None = None,
) -> tuple[TickSummary, Record]:
    """Sums of a cleared block; ``bids`` as in `clear_bids`."""
    seat, cleared = state.seat.index, result.cleared
    assert cleared is not None
    offer = opportunities(env.rules, here, seat, bidders, params.terms, cleared.ranking)
    landscape_value, landscape_cost = shown.landscape(env.rules, offer, unit, LANDSCAPE)
    value = predicted_value(env, state, here, params, bidders.worth)
    summary = TickSummary(
        totals=result._replace(cleared=None),
        offered=here.weight.sum(),
        potential=(value * here.weight).sum(),
        least_price=shown.least_winning_price(offer, here),
        landscape_value=landscape_value,
        landscape_cost=landscape_cost,
        seen=_seen(env, state, here, bidders, cleared, params, bids) if env.observation == "auctionnet" else None,
    )
    return summary, (offer.cost, offer.value)


def _seen(
    env: AutoBid,
    state: State,
    here: Visit,
    bidders: Bidders,
    cleared: Cleared,
    params: Params,
    bids: jax.Array | None,
) -> auctionnet_view.Seen:
    i = state.seat.index
    _, pvalue = predictions_of(here, i, bidders.factor[i], params.terms)
    bid = bidders.scale[i] * pvalue if bids is None else _given(bids[i], bidders.scale[i] * pvalue)
    # Whoever had money when the tick began has bid on all of it.
    had_money = ~state.exhausted[i] & (state.accounts.spend[i] < state.budget[i])
    return auctionnet_view.sums(cleared, here, i, jnp.where(had_money, bid, 0.0), _least(here, params))


def _given(bids: jax.Array, own: jax.Array) -> jax.Array:
    """Bids on single impressions where there are any, else ``own``."""
    return jnp.where(jnp.isnan(bids), own, jnp.maximum(bids, 0.0))


def _least(here: Visit, params: Params) -> jax.Array:
    """Least score that may hold a slot of each impression, ``[M]``."""
    return jnp.maximum(params.terms.reserve, params.terms.outside_price * here.bank.outside[here.block])


class Offers(NamedTuple):
    """What advertisers are told of the coming tick's ``I = env.tick_impressions`` impressions; float32.

    Attributes:
        pvalue: ``[N, I]`` predicted conversions per exposed impression.
        sigma: ``[N, I]`` standard deviation of the truth around it; 0 where the market tells none.
        weight: ``[I]`` real impressions that each stands for; 0 pads, at the end.
    """

    pvalue: jax.Array
    sigma: jax.Array
    weight: jax.Array


class Outcome(NamedTuple):
    """What became of every impression of a tick.

    Attributes:
        bid: ``[N, I]`` currency units per billable unit; 0 from bidders without money.
        winner: ``[K, I]`` int32 advertiser in each slot, -1 for none.
        price: ``[K, I]`` currency units per exposed impression (per billable unit).
        exposure: ``[K, I]`` exposed ads, weights included.
        conversion: ``[K, I]`` conversions, weights included.
        least_winning: ``[I]`` currency units, the score that would have taken the last slot.
    """

    bid: jax.Array
    winner: jax.Array
    price: jax.Array
    exposure: jax.Array
    conversion: jax.Array
    least_winning: jax.Array


def offers(env: AutoBid, state: State, params: Params) -> Offers:
    """What every advertiser is told of the coming tick."""
    here = whole(env, state, params)
    _, pvalue = predictions(here, factor(env, state, params), params.terms)
    sigma = jnp.zeros_like(pvalue)
    if isinstance(params.bank, NormalBank):
        sigma = draw_sigma(jax.random.fold_in(state.traffic, state.tick), params.bank, pvalue)
    return Offers(pvalue, sigma, here.weight)


def clear_bids(
    env: AutoBid, state: State, bidders: Bidders, unit: jax.Array, bids: jax.Array, params: Params
) -> tuple[TickSummary, Record, Outcome]:
    """Clears the coming tick at bids on single impressions, ``[N, I]``; NaN leaves a bid to ``bidders``."""
    here = whole(env, state, params)
    drawn = luck(env, state, jnp.arange(env.tick_blocks))
    result = run_tick(env.rules, here, bidders, params.terms, drawn, bids, dropping(env, state))
    summary, record = summarise(env, state, here, bidders, unit, result, params, bids)
    _, pvalue = predictions(here, bidders.factor, params.terms)
    bid = _given(bids, bidders.scale[:, None] * pvalue)
    cleared = result.cleared
    assert cleared is not None
    outcome = Outcome(
        bid=jnp.where((bidders.remaining > 0.0)[:, None] & (here.weight > 0.0), bid, 0.0),
        winner=cleared.winner,
        price=jnp.where(cleared.winner >= 0, cleared.price, 0.0),
        exposure=cleared.response.exposure,
        conversion=cleared.response.conversion,
        least_winning=jnp.maximum(cleared.ranking.score[-1], _least(here, params)),
    )
    return summary, record, outcome
