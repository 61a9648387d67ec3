"""One tick of the market: values -> bids -> auction -> response -> ledger, in that order and one way."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adarena.envs.market.auction import AuctionRules, Ranking
from adarena.envs.market.boost import Support, check_boosted
from adarena.envs.market.clearing import Bidders, Offered, Sold, Terms, Visit, clear_offered, offer, respond_to
from adarena.envs.market.dropping import settle_dropping
from adarena.envs.market.ledger import Settlement, book, settle, settle_in_parts
from adarena.envs.market.response import Response, ResponseDraws


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
    if visit.number is None:
        impressions = visit.weight.shape[0]
        visit = visit._replace(number=visit.block * impressions + jnp.arange(impressions))
    if dropping is None:
        settlement = _settle(rules, visit, bidders, terms, draws, bids, support)
    else:
        settlement = settle_dropping(
            lambda offered, withdrawn: clear_offered(
                rules, offered._replace(score=jnp.where(withdrawn, 0.0, offered.score)), None
            ),
            offer(rules, visit, bidders, terms, draws, bids, None),
            bidders.remaining,
            visit.weight.shape[0],
            dropping,
        )
    return _account(settlement, visit, bidders, terms, draws)


def _settle(
    rules: AuctionRules,
    visit: Visit,
    bidders: Bidders,
    terms: Terms,
    draws: ResponseDraws | None,
    bids: jax.Array | None,
    support: Support | None,
) -> Settlement:
    """Settles a tick, a large one in parts; arguments as in `run_tick`."""
    advertisers, impressions = bidders.scale.shape[0], visit.weight.shape[0]
    remaining = bidders.remaining if support is None else jnp.append(bidders.remaining, support.fund)

    def clear(offered: Offered, leaves_at: jax.Array | None) -> tuple[Sold, jax.Array, jax.Array]:
        return clear_offered(rules, offered, leaves_at)

    # Luck that is drawn for a whole tick cannot be drawn for a part of one.
    parts = _parts(advertisers, impressions) if draws is None else 1
    if parts == 1:
        offered = offer(rules, visit, bidders, terms, draws, bids, support)
        return settle(clear, offered, remaining, impressions)
    size = impressions // parts

    def part(start: jax.Array, left: jax.Array) -> Offered:
        def cut(x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, start, size, -1)

        bring = bidders._replace(remaining=left[:advertisers])
        aid = None if support is None else Support(cut(support.bonus), left[advertisers])
        return offer(rules, _part(visit, start, size), bring, terms, None, None if bids is None else cut(bids), aid)

    return settle_in_parts(clear, part, remaining, parts, size)


def _part(visit: Visit, start: jax.Array, size: int) -> Visit:
    """Impressions ``start ... start + size - 1`` of a visit whose impressions have numbers."""
    assert visit.number is not None

    def cut(x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, start, size, -1)

    def rows(x: jax.Array) -> jax.Array:
        corner = [visit.block, *(jnp.zeros_like(start) for _ in x.shape[1:-1]), start]
        return jax.lax.dynamic_slice(x, corner, (1, *x.shape[1:-1], size))  # at once: two slices read the block twice

    bank = visit.bank
    by_impression = {name: rows(getattr(bank, name)) for name in ("pctr", "pvalue", "worth", "outside", "weight")}
    bank = dataclasses.replace(bank, **by_impression, noise=None if bank.noise is None else rows(bank.noise))
    return Visit(bank, jnp.int32(0), cut(visit.weight), visit.basket, cut(visit.number))


_MANY, _FEW, _LARGE = 64, 8, 2**17
"""Bidders for which a tick is one part, impressions that a part has at least, and scores (bidders x impressions) of a tick
that is one part whatever its bidders: those of a larger one leave the caches between one pass over them and the next."""


def _parts(bidders: int, impressions: int) -> int:
    """How many parts a tick is settled in: of many bidders many may run out in it, and each costs one part more."""
    parts = 1
    while impressions % (2 * parts * _FEW) == 0 and (
        bidders >= _MANY * 2 * parts or bidders * impressions >= _LARGE * 2 * parts
    ):
        parts *= 2
    return parts


def _account(
    settlement: Settlement, visit: Visit, bidders: Bidders, terms: Terms, draws: ResponseDraws | None
) -> TickResult:
    """Sums a settled tick by advertiser.

    Users respond here once; while it is settled only charges matter, and reading true rates in the bank is what costs.
    """
    sold: Sold = settlement.outcome
    worth, winner = bidders.worth, sold.winner
    advertisers = worth.shape[0]
    response = respond_to(winner, visit.bank, visit.block, bidders.factor, visit.weight, terms, draws)
    conversion = book(winner, response.conversion, advertisers)
    value = conversion * worth
    if visit.basket:
        value = book(winner, response.conversion * visit.bank.worth[visit.block], advertisers) * worth
    return TickResult(
        cleared=Cleared(sold.ranking, winner, sold.price, response, sold.charge),
        spend=settlement.spend[:advertisers],
        exposure=book(winner, response.exposure, advertisers),
        click=book(winner, response.click, advertisers),
        conversion=conversion,
        value=value,
        short=settlement.leaves_at[:advertisers] < visit.weight.shape[0],
        clearings=settlement.clearings,
        charge=book(winner, sold.charge, advertisers) if sold.charge is not None else None,
        fund=settlement.spend[advertisers] if sold.charge is not None else None,
    )
