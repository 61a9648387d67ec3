"""What must hold in every tick, whatever the numbers: money in order, advertisers alike, higher bids win, any currency.

Scores are compared as the market computes them, in float32. Equal scores are ranked by `tie_priority`, which depends on
an advertiser's number; where a property is about advertisers changing places, scores are therefore kept apart, and that
ties favour nobody is tested by itself.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from market_cases import ADVERTISERS, IMPRESSIONS, fast_tick, priority, stacked
from reference import Case

from adarena.envs.market.auction import MECHANISMS, AuctionRules, rank, tie_priority
from adarena.envs.market.tick import TickResult

RULES = (
    *(AuctionRules(name, 3) for name in MECHANISMS),
    AuctionRules("gsp", 3, "click", True),
    AuctionRules("vcg", 2, "conversion", True),
)
EVENT = {"impression": "exposure", "click": "click", "conversion": "conversion"}
SHAPE = (ADVERTISERS, IMPRESSIONS)
_APART = np.random.default_rng(0).random((ADVERTISERS, IMPRESSIONS + 1))  # keeps drawn numbers from being equal
_FAST_COMPILE = {"xla_backend_optimization_level": 0}

each_rules = pytest.mark.parametrize("rules", RULES, ids=lambda r: f"{r.mechanism}-{r.slots}-{r.charge}")
some = settings(deadline=None, max_examples=30, derandomize=True)


# Ticks ---------------------------------------------------------------------------------------------------------------


@st.composite
def ticks(draw: Callable[..., Any], slots: int, *, apart: bool, budgets: bool, lucky: bool = False) -> Case:
    """A tick on a coarse grid, where ties are common, or (``apart``) with numbers that are hardly ever equal.

    Arrays come from a drawn seed: those that hypothesis draws entry by entry are mostly constant.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def grid(shape: Any, low: int, high: int) -> np.ndarray:
        return rng.integers(low, high, shape, endpoint=True).astype(float)

    off = _APART if apart else np.zeros_like(_APART)
    pctr = (grid(SHAPE, 1, 8) + off[:, ::-1][:, :IMPRESSIONS]) / 16
    remaining = np.full(ADVERTISERS, np.inf)
    if budgets:
        drawn = grid(ADVERTISERS, -1, 48)  # -1 stands for no limit
        remaining = np.where(drawn < 0, np.inf, (drawn + off[:, -1] * (drawn > 0)) / 16)
    return Case(
        pctr=pctr,
        pvalue=pctr * (grid(SHAPE, 1, 8) + off[:, :IMPRESSIONS]) / 16,
        error=np.ones(SHAPE),
        basket=np.ones(IMPRESSIONS),
        outside=grid(IMPRESSIONS, 0, 3) / 64,
        weight=grid(IMPRESSIONS, 0, 3),
        priority=priority(),
        scale=grid(ADVERTISERS, 0, 16) / 4,
        factor=2.0 ** grid(ADVERTISERS, -1, 1),
        worth=np.ones(ADVERTISERS),
        remaining=remaining,
        exposure=np.asarray([1.0, 3 / 4, 1 / 2])[:slots],
        cascade=draw(st.booleans()),
        reserve=draw(st.integers(0, 8)) / 64,
        kappa=float(draw(st.sampled_from([0.5, 1.0]))),
        luck=(grid((slots, IMPRESSIONS), 0, 7) + 0.5) / 8 if lucky else None,
    )


@functools.cache
def program(rules: AuctionRules) -> Callable[..., TickResult]:
    """The market's tick on a batch of cases."""
    return jax.jit(jax.vmap(lambda case: fast_tick(rules, case)), compiler_options=_FAST_COMPILE)


def run(rules: AuctionRules, *cases: Case) -> list[TickResult]:
    """What one or two ticks come to, in one program."""
    both = [cases[0], cases[-1]]
    batch = jax.tree.map(np.asarray, program(rules)(stacked(both)))
    return [jax.tree.map(lambda x, i=i: x[i], batch) for i in range(len(cases))]


def distinct(result: TickResult) -> bool:
    """Whether the scores that decide who wins what are further apart than rounding."""
    score = result.cleared.ranking.score
    return bool(((score[:-1] - score[1:] > 1e-5 * score[:-1]) | (score[:-1] == 0.0)).all())


def place_of(result: TickResult, advertiser: int) -> np.ndarray:
    """``[M]`` the slot that the advertiser holds, counted from 0; the number of slots where it holds none."""
    held = result.cleared.ranking.winner == advertiser
    return np.where(held.any(axis=0), held.argmax(axis=0), len(held))


def revenue(rules: AuctionRules, result: TickResult) -> np.ndarray:
    """``[K, M]`` what the platform takes in for each slot."""
    cleared = result.cleared
    events = getattr(cleared.response, EVENT[rules.charge]).astype(float)
    return np.where(cleared.ranking.winner >= 0, cleared.price.astype(float) * events, 0.0)


# Money ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "lucky"),
    [*((rules, False) for rules in RULES), (RULES[2], True)],  # luck is slow to compile
    ids=lambda x: f"{x.mechanism}-{x.slots}-{x.charge}" if isinstance(x, AuctionRules) else "sampled" * x or "expected",
)
def test_payments_are_the_revenue_and_nobody_overspends(rules: AuctionRules, lucky: bool) -> None:
    left_early = 0

    @some
    @given(ticks(rules.slots, apart=False, budgets=True, lucky=lucky))
    def holds(case: Case) -> None:
        nonlocal left_early
        (result,) = run(rules, case)
        taken = revenue(rules, result)
        np.testing.assert_allclose(result.spend.astype(float).sum(), taken.sum(), rtol=1e-6, atol=1e-7)
        for advertiser in range(ADVERTISERS):
            mine = np.where(result.cleared.ranking.winner == advertiser, taken, 0.0).sum()
            np.testing.assert_allclose(result.spend[advertiser], mine, rtol=1e-6, atol=1e-7)
        assert (result.spend <= case.remaining.astype(np.float32)).all()
        assert (result.spend >= 0.0).all()
        assert (result.exposure[case.remaining == 0.0] == 0.0).all()
        # Nobody holds two slots of one impression.
        winner = np.sort(result.cleared.ranking.winner, axis=0)
        assert ((winner[1:] != winner[:-1]) | (winner[1:] < 0)).all()
        left_early += int(result.short.any())

    holds()
    assert left_early > 5, "the ticks drawn should exhaust some budgets"


@each_rules
def test_no_price_is_above_the_bid_or_below_the_reserve(rules: AuctionRules) -> None:
    """For the winner's own bid per billable unit; an outside price counts as a reserve."""

    @some
    @given(ticks(rules.slots, apart=False, budgets=False))
    def holds(case: Case) -> None:
        (result,) = run(rules, case)
        winner, price = result.cleared.ranking.winner, result.cleared.price
        at = np.maximum(winner, 0), np.arange(IMPRESSIONS)[None, :]
        pctr, pvalue = (x[at] * case.factor[at[0]] for x in (case.pctr, case.pvalue))
        units = {"impression": np.ones_like(pctr), "click": pctr, "conversion": pvalue}[rules.charge]
        boost = units**case.kappa if rules.quality_ranking else np.ones_like(pctr)  # RULES boost by units only
        bid = case.scale[at[0]] * pvalue / units
        least = np.maximum(case.reserve / boost, case.outside / units)
        filled = winner >= 0
        assert (price[filled] <= bid[filled] * (1 + 1e-5)).all()
        # VCG prices average over the slots below, each at its least, whence at least the reserve as well.
        assert (price[filled] >= least[filled] * (1 - 1e-5)).all()

    holds()


# Advertisers are alike -----------------------------------------------------------------------------------------------


@each_rules
def test_advertisers_that_change_places_change_nothing_else(rules: AuctionRules) -> None:
    """Without ties: those are ranked by the advertiser's number (and fairly, see the next test)."""
    by_advertiser = ("pctr", "pvalue", "error", "scale", "factor", "worth", "remaining")
    compared = 0

    @some
    @given(ticks(rules.slots, apart=True, budgets=True), st.permutations(range(ADVERTISERS)))
    def holds(case: Case, order: list[int]) -> None:
        nonlocal compared
        moved = dataclasses.replace(case, **{name: getattr(case, name)[order] for name in by_advertiser})
        before, after = run(rules, case, moved)
        assume(distinct(before) and distinct(after))
        compared += 1
        now_at = np.argsort(order)
        winner = before.cleared.ranking.winner
        np.testing.assert_array_equal(np.where(winner < 0, -1, now_at[winner]), after.cleared.ranking.winner)
        for name in ("spend", "exposure", "click", "conversion", "value", "short"):
            one, two = getattr(before, name)[order], getattr(after, name)
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7, err_msg=name)

    holds()
    assert compared > 20


@some
@given(st.sets(st.integers(0, 47), min_size=2).map(sorted), st.integers(0, 2**31 - 8192))
def test_ties_favour_nobody(tied: list[int], first: int) -> None:
    """Whoever is tied, among whoever else, wherever in the bank: each comes first, and second, equally often."""
    advertisers, impressions = 48, 4096
    score = np.full((advertisers, impressions), 0.25, np.float32)
    score[tied] = 1.0
    ranking = _rank_two(jnp.asarray(score), jnp.asarray(first + np.arange(impressions), jnp.int32))
    share = 1.0 / len(tied)
    error = np.sqrt(impressions * share * (1.0 - share))
    for winner in np.asarray(ranking):
        wins = np.bincount(winner, minlength=advertisers)
        assert wins[tied].sum() == impressions
        assert (np.abs(wins[tied] - impressions * share) < 5.0 * error).all(), wins[tied]


@jax.jit
def _rank_two(score: jax.Array, number: jax.Array) -> jax.Array:
    return rank(score, tie_priority(number, score.shape[0]), 2).winner


# Order ---------------------------------------------------------------------------------------------------------------


@each_rules
def test_a_higher_bid_never_loses_what_a_lower_one_won(rules: AuctionRules) -> None:
    """Nor does it lead to a lower slot; and but in first price, the same slot costs the same. Budgets aside, ties
    included."""
    risen = 0

    @some
    @given(
        ticks(rules.slots, apart=False, budgets=False),
        st.integers(0, ADVERTISERS - 1),
        st.sampled_from([1.0 + 2**-10, 1.25, 2.0, 16.0]),
    )
    def holds(case: Case, who: int, times: float) -> None:
        nonlocal risen
        scale = case.scale.copy()
        scale[who] *= times
        before, after = run(rules, case, dataclasses.replace(case, scale=scale))
        old, new = place_of(before, who), place_of(after, who)
        assert (new <= old).all()
        risen += int((new < old).any())
        same = (new == old) & (old < rules.slots)
        if rules.mechanism != "first_price":
            at = np.minimum(old, rules.slots - 1), np.arange(IMPRESSIONS)
            np.testing.assert_allclose(before.cleared.price[at][same], after.cleared.price[at][same], rtol=1e-6)
        # Who is overtaken moves down, nobody moves up.
        for other in set(range(ADVERTISERS)) - {who}:
            assert (place_of(after, other) >= place_of(before, other)).all()

    holds()
    assert risen > 5, "some of the bids raised should win more"


# Scale ---------------------------------------------------------------------------------------------------------------


def in_other_currency(case: Case, times: float) -> Case:
    """The tick with all money multiplied."""
    names = ("scale", "remaining", "outside", "reserve")
    return dataclasses.replace(case, **{name: getattr(case, name) * times for name in names})


@each_rules
def test_currency_does_not_matter(rules: AuctionRules) -> None:
    """Bids, reserve, outside prices and budgets times c: same winners, payments times c; exactly where c is a power of 2."""

    @some
    @given(ticks(rules.slots, apart=False, budgets=True), st.integers(-6, 6))
    def exactly(case: Case, power: int) -> None:
        before, after = run(rules, case, in_other_currency(case, 2.0**power))
        np.testing.assert_array_equal(before.cleared.ranking.winner, after.cleared.ranking.winner)
        for name in ("exposure", "click", "conversion", "value", "short", "clearings"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name), err_msg=name)
        np.testing.assert_array_equal(before.spend * np.float32(2.0**power), after.spend)
        filled = before.cleared.ranking.winner >= 0
        prices = before.cleared.price * np.float32(2.0**power)
        np.testing.assert_array_equal(prices[filled], after.cleared.price[filled])

    @some
    @given(ticks(rules.slots, apart=True, budgets=True), st.floats(0.01, 100.0))
    def nearly(case: Case, times: float) -> None:
        before, after = run(rules, case, in_other_currency(case, times))
        assume(distinct(before) and distinct(after))
        np.testing.assert_array_equal(before.cleared.ranking.winner, after.cleared.ranking.winner)
        np.testing.assert_allclose(before.spend * times, after.spend, rtol=1e-5, atol=1e-7 * times)

    exactly()
    nearly()
