"""One tick of the market the slow way: single impressions in order, lists of bidders, plain arithmetic.

Written for reading, not for speed, and on its own: it takes from `adarena` the names of the rules and nothing else.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from adarena.envs.market.auction import AuctionRules


@dataclasses.dataclass
class Case:
    """A tick. ``N`` advertisers, ``M`` impressions, ``K`` slots; money in currency units."""

    pctr: np.ndarray  # [N, M] true, before the tick's factor
    pvalue: np.ndarray  # [N, M] true pCTR x pCVR, before the tick's factor
    error: np.ndarray  # [N, M] predicted over true
    basket: np.ndarray  # [M] worth of the impression's basket; ones where conversions count
    outside: np.ndarray  # [M] price offered from outside, currency units per exposed impression
    weight: np.ndarray  # [M] real impressions
    priority: np.ndarray  # [N, M] order of equal scores, larger first
    scale: np.ndarray  # [N] currency units bid per unit of predicted value
    factor: np.ndarray  # [N] pCTR of the tick
    worth: np.ndarray  # [N] value of a conversion
    remaining: np.ndarray  # [N] money left
    exposure: np.ndarray  # [K] exposure coefficients
    cascade: bool
    reserve: float
    kappa: float
    luck: np.ndarray | None = None  # [K, M] uniforms of exposure; None for expectations


@dataclasses.dataclass
class Outcome:
    """What a tick came to: ``[K, M]`` by slot and impression, ``[N]`` by advertiser."""

    winner: np.ndarray  # [K, M] -1 for nobody
    price: np.ndarray  # [K, M] per billable unit; 0 in empty slots
    charge: np.ndarray  # [K, M]
    spend: np.ndarray  # [N]
    exposure: np.ndarray  # [N]
    click: np.ndarray  # [N]
    conversion: np.ndarray  # [N]
    value: np.ndarray  # [N]
    left: np.ndarray  # [N] bool: takes no part any more


@dataclasses.dataclass
class Bid:
    """What one advertiser brings to one impression."""

    advertiser: int
    score: float
    boost: float  # score over bid
    units: float  # predicted billable units per exposed impression
    priority: int


def bids_on(rules: AuctionRules, case: Case, m: int, active: list[int]) -> list[Bid]:
    """The bids that may hold a slot of impression ``m``, best first."""
    bids = []
    for n in active:
        pctr = case.pctr[n, m] * case.factor[n] * case.error[n, m]
        pvalue = case.pvalue[n, m] * case.factor[n] * case.error[n, m]
        units = {"impression": 1.0, "click": pctr, "conversion": pvalue}[rules.charge]
        bid = case.scale[n] * pvalue * case.basket[m] / units
        quality = pctr if rules.charge == "impression" else units
        boost = quality**case.kappa if rules.quality_ranking else 1.0
        score = bid * boost
        if score > 0.0 and score >= case.reserve and bid * units >= case.outside[m]:
            bids.append(Bid(n, score, boost, units, int(case.priority[n, m])))
    return sorted(bids, key=lambda bid: (bid.score, bid.priority), reverse=True)


def exposed_probability(case: Case) -> list[float]:
    """Probability that each slot is seen."""
    result, seen = [], 1.0
    for coefficient in case.exposure:
        seen = seen * coefficient if case.cascade else coefficient
        result.append(seen)
    return result


def prices(rules: AuctionRules, case: Case, m: int, bids: list[Bid]) -> list[float]:
    """Price per billable unit of each slot that is held."""
    x = [*exposed_probability(case), 0.0]
    scores_are_money = rules.charge == "impression" and not rules.quality_ranking
    least = max(case.reserve, case.outside[m]) if scores_are_money else case.reserve

    def score_of(place: int) -> float:
        return max(bids[place].score, least) if place < len(bids) else least

    result = []
    for k, bid in enumerate(bids[: rules.slots]):
        if rules.mechanism == "first_price":
            paid = bid.score
        elif rules.mechanism == "gsp":
            paid = score_of(k + 1)
        elif rules.mechanism == "second_price":
            paid = score_of(rules.slots)
        else:  # what those below lose because this bidder is here
            harm = sum((x[j] - x[j + 1]) * score_of(j + 1) for j in range(k, rules.slots))
            paid = harm / x[k]
        result.append(max(paid / bid.boost, case.outside[m] / bid.units))
    return result


def exposures(case: Case, m: int, slots: int) -> list[float]:
    """Real exposures of each slot of impression ``m``, if it is held."""
    if case.luck is None:
        return [x * case.weight[m] for x in exposed_probability(case)]
    result, above = [], True
    for k in range(slots):
        seen = bool(case.luck[k, m] < case.exposure[k])
        above = above and seen
        result.append(case.weight[m] * (above if case.cascade else seen))
    return result


def reference_tick(rules: AuctionRules, case: Case) -> Outcome:
    """Sells the impressions of a tick one after another.

    With luck, clicks and conversions are still expectations of the true rates, which is exact where these are 0 or 1.
    """
    advertisers, impressions = case.pctr.shape
    square = (rules.slots, impressions)
    spend, exposure, click, conversion, value = np.zeros((5, advertisers))
    result = Outcome(
        np.full(square, -1),
        np.zeros(square),
        np.zeros(square),
        spend,
        exposure,
        click,
        conversion,
        value,
        case.remaining <= 0,
    )
    active = [n for n in range(advertisers) if case.remaining[n] > 0.0]
    for m in range(impressions):
        if case.weight[m] == 0.0:  # padding
            continue
        while True:
            bids = bids_on(rules, case, m, active)
            shown = exposures(case, m, rules.slots)
            sold = []
            for k, price in enumerate(prices(rules, case, m, bids)):
                n = bids[k].advertiser
                clicks = shown[k] * case.pctr[n, m] * case.factor[n]
                conversions = shown[k] * case.pvalue[n, m] * case.factor[n]
                events = {"impression": shown[k], "click": clicks, "conversion": conversions}[rules.charge]
                sold.append((k, n, price, price * events, shown[k], clicks, conversions))
            broke = [n for _, n, _, charge, *_ in sold if spend[n] + charge > case.remaining[n]]
            if not broke:
                break
            for n in broke:  # cannot pay: out, and the impression is sold again without them
                active.remove(n)
                result.left[n] = True
        for k, n, price, charge, shown_k, clicks, conversions in sold:
            result.winner[k, m], result.price[k, m], result.charge[k, m] = n, price, charge
            spend[n] += charge
            exposure[n] += shown_k
            click[n] += clicks
            conversion[n] += conversions
            value[n] += conversions * case.worth[n] * case.basket[m]
    return result
