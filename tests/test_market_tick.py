"""The fast tick against the slow reference, and what must hold in every tick."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from market_cases import (
    ADVERTISERS,
    IMPRESSIONS,
    adversarial_cases,
    dyadic_case,
    fast_tick,
    market,
    random_case,
    run_cases,
    stacked,
    with_budgets,
)
from reference import Case, Outcome, reference_tick

from adarena.envs.market import tick
from adarena.envs.market.auction import CHARGES, MECHANISMS, AuctionRules
from adarena.envs.market.opportunities import Opportunity, opportunities
from adarena.envs.market.tick import TickResult, run_tick


def compare(fast: TickResult, slow: Outcome, label: str, tolerance: float) -> None:
    """Equal, bit for bit where ``tolerance`` is 0."""
    winner = np.asarray(fast.cleared.ranking.winner)
    np.testing.assert_array_equal(winner, slow.winner, err_msg=f"{label}: winner")
    price = np.where(winner >= 0, fast.cleared.price, 0.0)
    pairs = {"price": (price, slow.price), "short": (fast.short, slow.left)}
    pairs |= {
        name: (getattr(fast, name), getattr(slow, name))
        for name in ("spend", "exposure", "click", "conversion", "value")
    }
    for name, (one, two) in pairs.items():
        np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance, err_msg=f"{label}: {name}")


def row(batch: TickResult, number: int) -> TickResult:
    """One tick of a batch."""
    return jax.tree.map(lambda x: x[number], batch)


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("quality_ranking", [False, True])
@pytest.mark.parametrize("charge", CHARGES)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_fast_tick_equals_reference(mechanism: str, charge: str, quality_ranking: bool, slots: int) -> None:
    rules = AuctionRules(mechanism, slots, charge, quality_ranking)
    rng = np.random.default_rng([MECHANISMS.index(mechanism), CHARGES.index(charge), quality_ranking, slots])
    exact = adversarial_cases(rng, rules)
    rough = [random_case(rng, slots) for _ in range(3)]
    rough += [with_budgets(rng, rules, random_case(rng, slots), exact=False) for _ in range(9)]
    batch = run_cases(rules, exact + rough, optimised=False)
    for number, case in enumerate(exact + rough):
        tolerance = 0.0 if number < len(exact) else 2e-5
        compare(row(batch, number), reference_tick(rules, case), f"case {number}", tolerance)
    exits = np.asarray(batch.clearings)
    assert exits.max() >= 4, "the cases should make bidders leave one after another"


@pytest.mark.parametrize("rules", [AuctionRules("gsp", 3), AuctionRules("vcg", 2, "click", True)])
def test_optimised_program_and_single_markets_agree_with_the_reference(rules: AuctionRules) -> None:
    rng = np.random.default_rng(7)
    cases = adversarial_cases(rng, rules)
    batch = run_cases(rules, cases)
    single = jax.jit(lambda case: fast_tick(rules, case))
    arrays = stacked(cases)
    for number, case in enumerate(cases):
        slow = reference_tick(rules, case)
        compare(row(batch, number), slow, f"batch {number}", 0.0)
        compare(single({name: x[number] for name, x in arrays.items()}), slow, f"single {number}", 0.0)


@pytest.mark.parametrize("rules", [AuctionRules("gsp", 3), AuctionRules("vcg", 2, "click", True)])
def test_a_tick_in_parts_agrees_with_the_reference(rules: AuctionRules, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks of many bidders are settled part after part; here those of few are, in four parts of three impressions."""
    monkeypatch.setattr(tick, "_MANY", 1)
    monkeypatch.setattr(tick, "_FEW", 3)
    sizes = []
    whole = tick.settle_in_parts
    monkeypatch.setattr(tick, "settle_in_parts", lambda *args: sizes.append(args[-2:]) or whole(*args))
    cases = adversarial_cases(np.random.default_rng(9), rules)
    batch = run_cases(rules, cases, optimised=False)
    assert set(sizes) == {(4, 3)}
    for number, case in enumerate(cases):
        compare(row(batch, number), reference_tick(rules, case), f"case {number}", 0.0)
    assert np.asarray(batch.clearings).max() >= 4


@pytest.mark.parametrize(
    ("bidders", "impressions", "parts"),
    [(48, 64, 1), (64, 64, 1), (128, 64, 2), (512, 64, 8), (48, 4096, 1), (48, 16384, 4), (128, 66, 1), (512, 8, 1)],
)
def test_ticks_of_many_bidders_or_scores_are_settled_in_parts(bidders: int, impressions: int, parts: int) -> None:
    assert tick._parts(bidders, impressions) == parts


@pytest.mark.parametrize("charge", CHARGES)
def test_given_luck_is_followed(charge: str) -> None:
    rules = AuctionRules("gsp", 3, charge)
    rng = np.random.default_rng(3)
    cases = []
    for _ in range(12):
        case = dataclasses.replace(
            dyadic_case(rng, 3),
            # Certain clicks and conversions: luck is then exposure's alone.
            pctr=np.ones((ADVERTISERS, IMPRESSIONS)),
            pvalue=np.ones((ADVERTISERS, IMPRESSIONS)),
            factor=np.ones(ADVERTISERS),
            luck=rng.choice([0.125, 0.375, 0.625, 0.875], (3, IMPRESSIONS)),
        )
        cases.append(with_budgets(rng, rules, case, exact=True))
    batch = run_cases(rules, cases, optimised=False)  # the binomial sampler is slow to compile
    for number, case in enumerate(cases):
        compare(row(batch, number), reference_tick(rules, case), f"case {number}", 0.0)
    seen = np.asarray(batch.cleared.response.exposure) > 0.0
    assert seen.any()
    assert not seen[:, 2].all()


def test_a_tick_is_deterministic_and_does_not_depend_on_the_batch() -> None:
    rules = AuctionRules("gsp", 2)
    cases = adversarial_cases(np.random.default_rng(5), rules)
    one, two = run_cases(rules, cases), run_cases(rules, [*cases[::-1], cases[0]])
    for number in range(len(cases)):
        for a, b in zip(
            jax.tree.leaves(row(one, number)), jax.tree.leaves(row(two, len(cases) - 1 - number)), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_advertisers_are_alike() -> None:
    """Who bids under which number makes no difference (ties apart, of which random bids have none)."""
    rules = AuctionRules("vcg", 3, "click", True)
    rng = np.random.default_rng(11)
    cases = [with_budgets(rng, rules, random_case(rng, 3), exact=False) for _ in range(8)]
    order = rng.permutation(ADVERTISERS)
    names = ("pctr", "pvalue", "error", "scale", "factor", "worth", "remaining")
    moved = [dataclasses.replace(case, **{name: getattr(case, name)[order] for name in names}) for case in cases]
    batch = run_cases(rules, cases + moved)
    for name in ("spend", "exposure", "click", "conversion", "value", "short"):
        both = getattr(batch, name)
        np.testing.assert_allclose(both[:8][:, order], both[8:], rtol=1e-5, atol=1e-7)


def test_outside_price_is_met_under_quality_ranking() -> None:
    """A bid below the outside price does not win, even where it ranks first, and nobody pays more than its bid."""
    rules = AuctionRules("gsp", 1, "impression", quality_ranking=True)
    case = dyadic_case(np.random.default_rng(0), 1)
    bids = np.asarray([1 / 8, 1 / 2, 1 / 8, 1 / 8, 1 / 8])[:, None] * np.ones((1, IMPRESSIONS))
    case = dataclasses.replace(
        case,
        pctr=np.asarray([1.0, 1 / 8, 1 / 8, 1 / 8, 1 / 8])[:, None] * np.ones((1, IMPRESSIONS)),
        pvalue=bids,
        scale=np.ones(ADVERTISERS),
        factor=np.ones(ADVERTISERS),
        outside=np.full(IMPRESSIONS, 1 / 4),
        weight=np.ones(IMPRESSIONS),
        reserve=0.0,
        kappa=1.0,
    )
    result = row(run_cases(rules, [case]), 0)
    assert (result.cleared.ranking.winner == 1).all()
    np.testing.assert_array_equal(result.cleared.price, np.full((1, IMPRESSIONS), 1 / 4))


def offer_of(rules: AuctionRules, case: dict[str, jax.Array], seat: int) -> Opportunity:
    """What the slots of a tick would have cost the seat."""
    visit, bidders, terms, draws = market(case)
    ranking = run_tick(rules, visit, bidders, terms, draws).cleared.ranking
    return opportunities(rules, visit, jnp.int32(seat), bidders, terms, ranking)


@pytest.mark.parametrize(
    "rules",
    [
        AuctionRules("gsp", 3),
        AuctionRules("second_price", 2),
        AuctionRules("vcg", 3),
        AuctionRules("gsp", 2, "impression", True),
        AuctionRules("gsp", 2, "click", True),
        AuctionRules("vcg", 2, "conversion", True),
        AuctionRules("first_price", 2, "click"),
    ],
    ids=lambda rules: f"{rules.mechanism}-{rules.slots}-{rules.charge}-{rules.quality_ranking}",
)
def test_opportunities_are_what_the_seat_would_have_paid(rules: AuctionRules) -> None:
    """For every slot: bid just enough for it in the reference, and compare what is paid and won."""
    rng = np.random.default_rng(13)
    seat = 1
    cases = [random_case(rng, rules.slots) for _ in range(3)]
    run = jax.jit(jax.vmap(lambda case: offer_of(rules, case, seat)))
    offers = jax.tree.map(np.asarray, run(stacked(cases)))
    compared = 0
    for number, case in enumerate(cases):
        least, unit = offers.least_score[number], offers.unit_score[number]
        for k in range(rules.slots):
            for m in range(IMPRESSIONS):
                bid = least[k, m] * (1.0 + 1e-5) / unit[m]
                scale = case.scale.copy()
                scale[seat] = bid
                only = {name: getattr(case, name)[:, [m]] for name in ("pctr", "pvalue", "error", "priority")}
                only |= {name: getattr(case, name)[[m]] for name in ("basket", "outside", "weight")}
                slow = reference_tick(rules, dataclasses.replace(case, scale=scale, **only))
                won = int(np.flatnonzero(slow.winner[:, 0] == seat)[0])
                if won != k:  # the slots above were to be had at the same score: the reserve's
                    assert least[k, m] == pytest.approx(least[won, m], rel=1e-5)
                    continue
                compared += 1
                assert slow.spend[seat] == pytest.approx(offers.cost[number][k, m], rel=1e-4)
                assert slow.value[seat] == pytest.approx(offers.value[number][k, m], rel=1e-4)
    assert compared > 30
    # A hair less than the least score wins nothing in the last slot.
    case, least = cases[0], offers.least_score[0][-1]
    scale = case.scale.copy()
    for m in range(IMPRESSIONS):
        scale[seat] = least[m] * (1.0 - 1e-4) / offers.unit_score[0][m]
        slow = reference_tick(rules, dataclasses.replace(case, scale=scale))
        assert seat not in slow.winner[:, m]


def test_reference_by_hand() -> None:
    """The reference itself, on a tick small enough to clear on paper."""
    case = Case(
        pctr=np.full((3, 3), 1 / 2),
        pvalue=np.full((3, 3), 1 / 4),
        error=np.ones((3, 3)),
        basket=np.ones(3),
        outside=np.zeros(3),
        weight=np.ones(3),
        priority=np.arange(9).reshape(3, 3),
        scale=np.asarray([40.0, 32.0, 8.0]),  # bids 10, 8, 2
        factor=np.ones(3),
        worth=np.ones(3),
        remaining=np.asarray([12.0, 100.0, 0.5]),
        exposure=np.asarray([1.0, 0.5]),
        cascade=True,
        reserve=1.0,
        kappa=1.0,
    )
    result = reference_tick(AuctionRules("gsp", 2), case)
    # Impression 0: advertiser 0 pays 8 and 1 pays 2 x 0.5. Impression 1: 0 has 4 left and cannot pay 8, so 1 pays 2 and
    # 2 pays the reserve, 1 x 0.5. Impression 2: 2 has nothing left for it, so 1 pays the reserve.
    np.testing.assert_array_equal(result.winner, [[0, 1, 1], [1, 2, -1]])
    np.testing.assert_array_equal(result.charge, [[8.0, 2.0, 1.0], [1.0, 0.5, 0.0]])
    np.testing.assert_array_equal(result.spend, [8.0, 4.0, 0.5])
    np.testing.assert_array_equal(result.left, [True, False, True])
    np.testing.assert_array_equal(result.value, [0.25, 0.125 + 0.5, 0.125])
