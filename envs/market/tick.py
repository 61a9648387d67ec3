"""One tick of the market: values -> bids -> auction -> response -> ledger, in that order and one way."""

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
from adarena.envs.market.boost import Support, check_boosted, rank_boosted
from adarena.envs.market.dropping import settle_dropping
from adarena.envs.market.ledger import Settlement, book, settle, settle_in_parts
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


class Cleared(NamedTuple):
    """An auction's outcome for every impression.

    Attributes:
        ranking: Scores and who ranks where.
        winner: ``[K, M]`` int32 who holds each slot, -1 where it stays empty.
        price: ``[K, M]`` currency units per billable unit.
        response: Events of the ads shown.
        charge: ``[K, M]`` currency units that the platform pays for bonuses; None without any.
    """

    ranking: Ranking
    winner: jax.Array
    price: jax.Array
    response: Response
    charge: jax.Array | None = None


class TickResult(NamedTuple):
    """What a tick leaves behind. Fields by advertiser are ``[N]`` float32, weights included.

    Attributes:
        cleared: Outcome by impression and slot; None where only sums are kept.
        spend: Currency units paid.
        exposure: Exposed ads.
        click: Clicks.
        conversion: Conversions.
        value: Conversions, or their worth.
        short: ``[N]`` bool: met a charge that it could not pay, and left there.
        clearings: Int32, how often the tick was cleared.
        charge: Currency units that the platform paid for each one's bonuses; None without any.
        fund: Scalar, their sum as the fund's account has it; None without any.
    """

    cleared: Cleared | None
    spend: jax.Array
    exposure: jax.Array
    click: jax.Array
    conversion: jax.Array
    value: jax.Array
    short: jax.Array
    clearings: jax.Array
    charge: jax.Array | None = None
    fund: jax.Array | None = None


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


def run_tick(
    rules: AuctionRules,
    visit: Visit,
    bidders: Bidders,
    terms: Terms,
    draws: ResponseDraws | None,
    bids: jax.Array | None = None,
    dropping: jax.Array | None = None,
    support: Support | None = None,
) -> TickResult:
    """Runs one tick for every advertiser at once.

    Args:
        rules: Mechanism, slots, unit of charge.
        visit: The tick's impressions.
        bidders: Bids per unit of value, and money left.
        terms: The platform's numbers.
        draws: Luck of the response, or None for expectations.
        bids: ``[N, M]`` bids on single impressions, currency units per billable unit; NaN leaves a bid to ``bidders``.
        dropping: Key of the choice where overspent wins are dropped at random; None: money is spent in order.
        support: Bonuses and the fund that pays for them (see `adarena.envs.market.boost`); None: there are none.

    Raises:
        ValueError: Ranks cannot be boosted under these rules, or where wins are dropped.
    """
    if support is not None:
        check_boosted(rules)
        if dropping is not None:
            raise ValueError(f"dropping must be None where ranks are boosted, got {dropping!r}")
    impressions = visit.weight.shape[0]
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
    number = visit.block * impressions + jnp.arange(impressions) if visit.number is None else visit.number
    offered = _Offered(
        score=eligible(jnp.where((visit.weight > 0.0) & (bidders.remaining[:, None] > 0.0), score, 0.0), reserve),
        priority=tie_priority(number, bidders.scale.shape[0]),
        reserve=reserve,
        outside=outside,
        boost=boost,
        units=None if price_is_score(rules) else units,
        true_pctr=visit.bank.pctr,
        true_pvalue=visit.bank.pvalue,
        block=visit.block,
        factor=bidders.factor,
        weight=visit.weight,
        terms=terms,
        draws=draws,
        support=support,
    )
    if dropping is None:
        remaining = bidders.remaining if support is None else jnp.append(bidders.remaining, support.fund)
        settlement = _settle(rules, offered, remaining)
    else:
        settlement = settle_dropping(
            lambda offered, withdrawn: _clear(
                rules, offered._replace(score=jnp.where(withdrawn, 0.0, offered.score)), None
            ),
            offered,
            bidders.remaining,
            impressions,
            dropping,
        )
    return _account(settlement, visit, bidders.worth)


class _Offered(NamedTuple):
    """All that clearing a tick needs. True rates are looked up by number, so they stay whole in a part (from ``first`` on)."""

    score: jax.Array
    priority: jax.Array
    reserve: jax.Array
    outside: jax.Array
    boost: jax.Array | None
    units: jax.Array | None
    true_pctr: jax.Array
    true_pvalue: jax.Array
    block: jax.Array
    factor: jax.Array
    weight: jax.Array
    terms: Terms
    draws: ResponseDraws | None
    support: Support | None
    first: jax.Array | int = 0

    def part(self, start: jax.Array, size: int, left: jax.Array) -> _Offered:
        """Impressions ``start ... start + size - 1`` alone, for bidders (and fund) with ``left [N]`` money."""

        def cut(x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, start, size, -1)

        bidders = self.score.shape[0]
        score = jnp.where(left[:bidders, None] > 0.0, cut(self.score), 0.0)
        support = None if self.support is None else Support(cut(self.support.bonus), left[bidders])
        return self._replace(
            score=score,
            priority=cut(self.priority),
            reserve=cut(self.reserve),
            outside=cut(self.outside),
            boost=None if self.boost is None else cut(self.boost),
            units=None if self.units is None else cut(self.units),
            weight=cut(self.weight),
            support=support,
            first=start,
        )


def _settle(rules: AuctionRules, offered: _Offered, remaining: jax.Array) -> Settlement:
    """Settles a tick; of many bidders many may run out in it, so theirs is settled in parts."""
    bidders, impressions = offered.score.shape
    parts = 1
    # Luck that is drawn for a whole tick cannot be drawn for a part of one.
    while offered.draws is None and bidders >= _MANY * 2 * parts and impressions % (2 * parts * _FEW) == 0:
        parts *= 2
    size = impressions // parts

    def clear(offered: _Offered, leaves_at: jax.Array | None) -> tuple[Cleared, jax.Array, jax.Array]:
        return _clear(rules, offered, leaves_at)

    if parts == 1:
        return settle(clear, offered, remaining, impressions)
    return settle_in_parts(clear, lambda start, left: offered.part(start, size, left), remaining, parts, size)


_MANY, _FEW = 64, 8
"""Bidders for which a tick is one part, and impressions that a part has at least."""


def price_is_score(rules: AuctionRules) -> bool:
    """Whether scores are money per exposed impression, so that an outside price acts as a reserve."""
    return rules.charge == "impression" and not rules.quality_ranking


def least_score(rules: AuctionRules, terms: Terms, outside: jax.Array) -> jax.Array:
    """Least score that may hold a slot of each impression, ``[M]``."""
    if price_is_score(rules):
        return jnp.maximum(terms.reserve, outside)
    return jnp.broadcast_to(terms.reserve, outside.shape)


def _clear(rules: AuctionRules, offered: _Offered, leaves_at: jax.Array | None) -> tuple[Cleared, jax.Array, jax.Array]:
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
    factor = offered.factor[held[0]]
    # One flat index: on CPU, building an index of three parts costs as much as reading by it.
    place = (offered.block * bidders + held[0]) * offered.true_pctr.shape[-1] + offered.first + order
    pctr = offered.true_pctr.ravel().at[place].get(mode="promise_in_bounds") * factor
    pvalue = offered.true_pvalue.ravel().at[place].get(mode="promise_in_bounds") * factor
    response = respond(winner, pctr, pvalue / pctr, offered.weight, terms.exposure, terms.cascade, offered.draws)
    paid = price * getattr(response, _EVENT[rules.charge])
    if charge is None:
        return Cleared(ranking, winner, price, response), winner, paid
    charge = charge * response.exposure
    payers = jnp.concatenate([winner, jnp.where(charge > 0.0, bidders, -1)])
    return Cleared(ranking, winner, price, response, charge), payers, jnp.concatenate([paid, charge])


_EVENT = {"impression": "exposure", "click": "click", "conversion": "conversion"}


def _account(settlement: Settlement, visit: Visit, worth: jax.Array) -> TickResult:
    """Sums a settled tick by advertiser."""
    cleared: Cleared = settlement.outcome
    advertisers = worth.shape[0]
    winner, response = cleared.winner, cleared.response
    conversion = book(winner, response.conversion, advertisers)
    value = conversion * worth
    if visit.basket:
        value = book(winner, response.conversion * visit.bank.worth[visit.block], advertisers) * worth
    return TickResult(
        cleared=cleared,
        spend=settlement.spend[:advertisers],
        exposure=book(winner, response.exposure, advertisers),
        click=book(winner, response.click, advertisers),
        conversion=conversion,
        value=value,
        short=settlement.leaves_at[:advertisers] < visit.weight.shape[0],
        clearings=settlement.clearings,
        charge=book(winner, cleared.charge, advertisers) if cleared.charge is not None else None,
        fund=settlement.spend[advertisers] if cleared.charge is not None else None,
    )
