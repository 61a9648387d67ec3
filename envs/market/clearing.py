"""One clearing of a block of impressions: values -> bids -> auction -> charges, for bidders who stay or leave in it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adarena.envs import pytree
from adarena.envs.market.auction import (
    AuctionRules,
    Ranking,
    eligible,
    payment_score,
    rank,
    tie_priority,
)
from adarena.envs.market.boost import Support, rank_boosted
from adarena.envs.market.response import Response, ResponseDraws, exposure_probability, respond
from adarena.envs.market.traffic import Bank
from adarena.envs.market.values import prediction_factor


@pytree.dataclass
class Terms:
    """The platform's numbers; float32 scalars but where said.

    Attributes:
        reserve: Least score that may hold a slot (currency units per billable unit at kappa = 0).
        kappa: Exponent of quality in the ranking score (used with ``quality_ranking``).
        exposure: ``[K]`` exposure coefficients, falling.
        cascade: Bool: a slot is seen only where the one above was.
        outside_price: Currency units per impression that an outside price of 1 in the bank stands for.
        error_bias: Bias of predictions, in logs.
        error_noise: Standard deviation of the log prediction error.
        error_slope: Slope of log prediction on log truth; 1 is calibrated.
        void_at_reserve: Bool: a slot whose price would be the reserve itself stays empty (a quirk of AuctionNet's).
    """

    reserve: jax.Array
    kappa: jax.Array
    exposure: jax.Array
    cascade: jax.Array
    outside_price: jax.Array
    error_bias: jax.Array
    error_noise: jax.Array
    error_slope: jax.Array
    void_at_reserve: jax.Array | bool = False


class Bidders(NamedTuple):
    """What the advertisers bring to a tick; each ``[N]`` float32.

    Attributes:
        scale: Money offered per unit of predicted value: multiplier x target (currency units).
        factor: pCTR of this tick relative to the bank's (hour and category drift).
        worth: Worth of a conversion in units of value: 1 where conversions count, else currency units.
        remaining: Money left, currency units.
    """

    scale: jax.Array
    factor: jax.Array
    worth: jax.Array
    remaining: jax.Array


class Visit(NamedTuple):
    """The impressions of a tick.

    Attributes:
        bank: The bank they lie in.
        block: Int32 scalar, their block.
        weight: ``[M]`` real impressions that each stands for.
        basket: Whether baskets of different worth count (objectives in currency).
        number: ``[M]`` number of each impression, by which ties are broken; None: its place in the bank.
    """

    bank: Bank
    block: jax.Array
    weight: jax.Array
    basket: bool
    number: jax.Array | None = None


def predictions(visit: Visit, factor: jax.Array, terms: Terms) -> tuple[jax.Array, jax.Array]:
    """Predicted ``(pctr, pvalue)`` of the tick's impressions, ``[N, M]`` each; the error lies in pCTR."""
    bank, block = visit.bank, visit.block
    scale = factor[:, None]
    if bank.noise is not None:
        scale = scale * prediction_factor(
            bank.pvalue[block], bank.noise[block], bank.level, terms.error_bias, terms.error_noise, terms.error_slope
        )
    return bank.pctr[block] * scale, bank.pvalue[block] * scale


def predictions_of(visit: Visit, seat: jax.Array, factor: jax.Array, terms: Terms) -> tuple[jax.Array, jax.Array]:
    """Predicted ``(pctr, pvalue)`` of one seat, ``[M]`` each; ``factor`` is a scalar."""
    bank, block = visit.bank, visit.block
    pctr, pvalue = bank.pctr[block, seat], bank.pvalue[block, seat]
    if bank.noise is not None:
        noise, level = bank.noise[block, seat][None], bank.level[seat][None]
        slope = terms.error_slope
        factor = factor * prediction_factor(pvalue[None], noise, level, terms.error_bias, terms.error_noise, slope)[0]
    return pctr * factor, pvalue * factor


def billable(rules: AuctionRules, pctr: jax.Array, pvalue: jax.Array) -> jax.Array:
    """Billable units per exposed impression: 1, pCTR or pCTR x pCVR; same shape as the arguments."""
    if rules.charge == "impression":
        return jnp.ones_like(pctr)
    return pctr if rules.charge == "click" else pvalue


def price_is_score(rules: AuctionRules) -> bool:
    """Whether scores are money per exposed impression, so that an outside price acts as a reserve."""
    return rules.charge == "impression" and not rules.quality_ranking


def least_score(rules: AuctionRules, terms: Terms, outside: jax.Array) -> jax.Array:
    """Least score that may hold a slot of each impression, ``[M]``."""
    if price_is_score(rules):
        return jnp.maximum(terms.reserve, outside)
    return jnp.broadcast_to(terms.reserve, outside.shape)


class Offered(NamedTuple):
    """All that clearing a tick, or a part of one, needs; true rates are looked up in the bank."""

    score: jax.Array
    priority: jax.Array
    reserve: jax.Array
    outside: jax.Array
    boost: jax.Array | None
    units: jax.Array | None
    bank: Bank
    block: jax.Array
    factor: jax.Array
    weight: jax.Array
    terms: Terms
    draws: ResponseDraws | None
    support: Support | None


class Sold(NamedTuple):
    """What a clearing settles, before anybody responds; fields as in `Cleared`."""

    ranking: Ranking
    winner: jax.Array
    price: jax.Array
    charge: jax.Array | None


def offer(
    rules: AuctionRules,
    visit: Visit,
    bidders: Bidders,
    terms: Terms,
    draws: ResponseDraws | None,
    bids: jax.Array | None,
    support: Support | None,
) -> Offered:
    """The scores that bidders with money offer; arguments as in `run_tick`."""
    assert visit.number is not None
    pctr, pvalue = predictions(visit, bidders.factor, terms)
    units = billable(rules, pctr, pvalue)
    bid = bidders.scale[:, None] * (pvalue / units if rules.charge != "impression" else pvalue)
    if visit.basket:
        bid = bid * visit.bank.worth[visit.block][None, :]
    if bids is not None:
        bid = jnp.where(jnp.isnan(bids), bid, jnp.maximum(bids, 0.0))
    boost = (units if rules.charge != "impression" else pctr) ** terms.kappa if rules.quality_ranking else None
    score = bid if boost is None else bid * boost
    outside = terms.outside_price * visit.bank.outside[visit.block]
    if not price_is_score(rules):
        score = jnp.where(bid * units >= outside[None, :], score, 0.0)
    reserve = least_score(rules, terms, outside)
    return Offered(
        score=eligible(jnp.where((visit.weight > 0.0) & (bidders.remaining[:, None] > 0.0), score, 0.0), reserve),
        priority=tie_priority(visit.number, bidders.scale.shape[0]),
        reserve=reserve,
        outside=outside,
        boost=boost,
        units=None if price_is_score(rules) else units,
        bank=visit.bank,
        block=visit.block,
        factor=bidders.factor,
        weight=visit.weight,
        terms=terms,
        draws=draws,
        support=support,
    )


def clear_offered(
    rules: AuctionRules, offered: Offered, leaves_at: jax.Array | None
) -> tuple[Sold, jax.Array, jax.Array]:
    """Outcome, winners and charges when bidder ``n`` takes part up to impression ``leaves_at[n]``; None: to the end.

    With bonuses the fund is bidder ``N``, and the rows of winners and charges are ``2 K``: the bidders', then its own.
    """
    terms = offered.terms
    order = jnp.arange(offered.weight.shape[0], dtype=jnp.int32)
    taking_part, bidders = offered.score, offered.score.shape[0]
    if leaves_at is not None:
        taking_part = jnp.where(order[None, :] < leaves_at[:bidders, None], offered.score, 0.0)
    exposed = exposure_probability(terms.exposure, terms.cascade)
    charge = None
    if offered.support is None:
        ranking = rank(taking_part, offered.priority, rules.slots)
        price = payment_score(rules, ranking.score, exposed, offered.reserve)
    else:
        funded = offered.support.fund > 0.0
        if leaves_at is not None:
            funded = funded & (order < leaves_at[bidders])
        bonus = jnp.where(funded, offered.support.bonus, 0.0)
        ranking, price, charge = rank_boosted(rules, taking_part, bonus, offered.priority, offered.reserve)
    void = terms.void_at_reserve & (price <= offered.reserve)
    winner = jnp.where(void, -1, ranking.winner)
    held = jnp.maximum(winner, 0), order[None, :]
    if offered.boost is not None:
        price = price / offered.boost[held]
    if offered.units is not None:
        price = jnp.maximum(price, offered.outside / offered.units[held])
    response = respond_to(winner, offered.bank, offered.block, offered.factor, offered.weight, terms, offered.draws)
    paid = price * getattr(response, _EVENT[rules.charge])
    if charge is None:
        return Sold(ranking, winner, price, None), winner, paid
    charge = charge * response.exposure
    payers = jnp.concatenate([winner, jnp.where(charge > 0.0, bidders, -1)])
    return Sold(ranking, winner, price, charge), payers, jnp.concatenate([paid, charge])


_EVENT = {"impression": "exposure", "click": "click", "conversion": "conversion"}


def respond_to(
    winner: jax.Array,
    bank: Bank,
    block: jax.Array,
    factor: jax.Array,
    weight: jax.Array,
    terms: Terms,
    draws: ResponseDraws | None,
) -> Response:
    """How the users of a block respond to the ads in its slots."""
    _, bidders, impressions = bank.pctr.shape
    held = jnp.maximum(winner, 0)
    # One flat index: on CPU, building an index of three parts costs as much as reading by it.
    place = (block * bidders + held) * impressions + jnp.arange(impressions, dtype=jnp.int32)
    pctr = bank.pctr.ravel().at[place].get(mode="promise_in_bounds") * factor[held]
    pvalue = bank.pvalue.ravel().at[place].get(mode="promise_in_bounds") * factor[held]
    return respond(winner, pctr, pvalue / pctr, weight, terms.exposure, terms.cascade, draws)
