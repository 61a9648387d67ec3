"""The parts of Lifecycle that are plain functions: phases, wear, counts, beliefs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from adarena.envs import lifecycle_belief as belief_of
from adarena.envs import lifecycle_phases as phases_of
from adarena.envs.lifecycle_phases import BREAKOUT, COLD_START, STABLE, UNDERSTANDING, Evidence, Phases, Window
from adarena.envs.market import wear
from adarena.envs.market.counts import draw_arrivals, poisson_quantile

pytestmark = pytest.mark.usefixtures("quick_compilation")

NOTHING = dict.fromkeys(Evidence._fields, False)


def evidence(**found: bool) -> Evidence:
    return Evidence(**{name: jnp.bool_(value) for name, value in {**NOTHING, **found}.items()})


def at(index: int, passed: tuple[int, ...] = ()) -> Phases:
    entered = [0 if n <= index else -1 for n in range(4)]
    flags = [n in passed for n in range(4)]
    return Phases(jnp.int32(index), jnp.asarray(entered, jnp.int32), jnp.asarray(flags), jnp.full(4, -1, jnp.int32))


@pytest.mark.parametrize(
    ("index", "found", "next_index", "passed"),
    [
        (UNDERSTANDING, {}, UNDERSTANDING, False),
        (UNDERSTANDING, {"understood": True}, COLD_START, True),
        (UNDERSTANDING, {"understanding_over": True}, COLD_START, False),
        (UNDERSTANDING, {"understood": True, "understanding_over": True}, COLD_START, True),
        (UNDERSTANDING, {"started": True, "start_over": True, "steady": True, "grown": True}, UNDERSTANDING, False),
        (COLD_START, {"understood": True}, COLD_START, False),
        (COLD_START, {"started": True}, STABLE, True),
        (COLD_START, {"start_over": True}, STABLE, False),
        (STABLE, {"start_over": True, "grown": True}, STABLE, False),
        (STABLE, {"steady": True}, BREAKOUT, True),
        (BREAKOUT, {"steady": True, "start_over": True}, BREAKOUT, False),
        (BREAKOUT, {"grown": True}, BREAKOUT, True),
    ],
)
def test_entry_and_exit(index: int, found: dict[str, bool], next_index: int, passed: bool) -> None:
    before = at(index)
    after = phases_of.advance(before, evidence(**found), jnp.int32(17))
    assert int(after.index) == next_index
    assert bool(after.passed[index]) == passed
    assert int(after.passed_at[index]) == (17 if passed else -1)
    if next_index > index:
        assert int(after.entered[next_index]) == 17
    assert after.entered[: index + 1].tolist() == [0] * (index + 1)
    assert int(after.passed.sum()) == passed


def test_a_phase_is_passed_once() -> None:
    phases = phases_of.advance(at(BREAKOUT), evidence(grown=True), jnp.int32(5))
    later = phases_of.advance(phases, evidence(grown=True), jnp.int32(9))
    assert int(later.passed_at[BREAKOUT]) == 5


def test_understanding_asks_for_active_creatives_only() -> None:
    exposure = jnp.asarray([500.0, 499.0, 0.0, 600.0])
    active = [(0.6, 0.0, 0.0, 0.4), (0.45, 0.0, 0.1, 0.45), (0.4, 0.2, 0.0, 0.4), (0.25, 0.25, 0.25, 0.25)]
    found = [bool(phases_of.active_understood(jnp.asarray(mix), exposure, jnp.float32(500.0))) for mix in active]
    assert found == [True, True, False, False]


@pytest.mark.parametrize(
    ("spend", "kept"),
    [
        ([10, 20, 30, 40], True),
        ([30, 30, 20, 20], False),  # twice the plan at noon
        ([20, 22, 30, 28], True),
        ([0, 5, 30, 40], False),  # too little at noon
        ([10, 20, 20, 15], False),  # too little at midnight
    ],
)
def test_plan_of_a_day(spend: list[float], kept: bool) -> None:
    daily = jnp.asarray([0.1, 0.2, 0.3, 0.4])
    assert bool(phases_of.keeps_plan(jnp.asarray(spend, jnp.float32), daily, jnp.float32(100.0), 0.7, 1.5)) == kept


def test_target_and_maturity() -> None:
    clicks, known = jnp.asarray([100.0, 300.0, 0.0]), jnp.asarray([0.8, 0.4, 0.1])
    assert float(phases_of.mature(clicks, known)) == pytest.approx((80 + 120) / 400)
    assert float(phases_of.mature(jnp.zeros(3), known)) == 1.0
    window = Window(*(jnp.float32(x) for x in (1000.0, 400.0, 5.0, 10.0)))
    assert bool(phases_of.within(window, jnp.float32(100.0), 1.0))
    assert not bool(phases_of.within(window, jnp.float32(83.0), 1.2))
    assert bool(phases_of.within(window, jnp.float32(84.0), 1.2))
    assert not bool(phases_of.within(window._replace(cost=jnp.float32(0), estimated=jnp.float32(0)), jnp.float32(1), 1))


@pytest.mark.parametrize(
    ("index", "passed", "factor"),
    [
        (UNDERSTANDING, (), 1.0),
        (COLD_START, (UNDERSTANDING,), 1.0),
        (STABLE, (), 0.5),
        (STABLE, (COLD_START,), 3.0),
        (BREAKOUT, (COLD_START, STABLE), 6.0),
        (BREAKOUT, (STABLE,), 1.0),
    ],
)
def test_budget_follows_success(index: int, passed: tuple[int, ...], factor: float) -> None:
    assert float(phases_of.budget_factor(at(index, passed), 0.5, 3.0, 2.0)) == factor


def test_fatigue_is_the_closed_form() -> None:
    k = np.arange(1, 40)
    expected = 0.3 + 0.7 * np.exp(-0.089 * (k - 1))
    np.testing.assert_allclose(wear.fatigue(jnp.asarray(k - 1.0), 0.3, 0.089), expected, rtol=1e-5)
    assert float(wear.fatigue(jnp.float32(0.0), 0.3, 0.089)) == 1.0


def test_age_memory_and_distance() -> None:
    assert float(wear.age_decay(jnp.float32(12.0), 12.0)) == pytest.approx(0.5)
    assert float(wear.forget(8.0, 8.0)) == pytest.approx(0.5)
    np.testing.assert_allclose(wear.lookalike_decay(jnp.asarray([0.0, 1.0]), 1.5), [1.0, np.exp(-1.5)], rtol=1e-6)
    ages = wear.aged(jnp.zeros(4), jnp.asarray([0.7, 0.25, 0.05, 0.0]), 0.5)
    np.testing.assert_allclose(ages, [0.5, 0.5, 0.1, 0.0], rtol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 0.3, 2.0, 7.9, 8.1, 30.0, 400.0])
def test_counts_are_poisson_quantiles(mean: float) -> None:
    u = (np.arange(4000) + 0.5) / 4000
    counts = np.asarray(poisson_quantile(jnp.asarray(u, jnp.float32), jnp.full(4000, mean, jnp.float32)))
    exact = scipy.stats.poisson.ppf(u, mean) if mean else np.zeros(4000)
    assert np.abs(counts - exact).max() <= 1
    assert (counts != exact).mean() < 0.02
    assert counts.mean() == pytest.approx(mean, rel=0.01, abs=0.01)


def test_arrivals_are_a_poisson_process() -> None:
    arrivals = jax.vmap(lambda key: draw_arrivals(key, 64))(jax.random.split(jax.random.key(0), 4000))
    counts = np.asarray((arrivals <= 10.0).sum(axis=1))
    assert counts.mean() == pytest.approx(10.0, abs=4 * np.sqrt(10 / 4000))
    assert counts.var() == pytest.approx(10.0, rel=0.1)
    assert np.mean(counts >= 10) == pytest.approx(0.542, abs=0.03)


def test_credibility_by_hand() -> None:
    clicks, expected = jnp.asarray([8.0, 0.0]), jnp.asarray([4.0, 0.0])
    # Weight of the first creative 4 / (4 + 4); the second has seen nothing.
    factor = belief_of.campaign_factor(clicks, expected, jnp.float32(4.0), jnp.float32(2.0))
    assert float(factor) == pytest.approx((2 + 4) / (2 + 2))
    mean, sd = belief_of.creative_rates(clicks, expected, jnp.asarray([0.01, 0.02]), jnp.float32(4.0), factor)
    np.testing.assert_allclose(mean, [(4 + 8) / (4 + 1.5 * 4) * 1.5 * 0.01, 1.5 * 0.02], rtol=1e-6)
    np.testing.assert_allclose(sd, np.asarray(mean) / np.sqrt([12.0, 4.0]), rtol=1e-6)
    rate, _ = belief_of.conversion_rate(jnp.float32(3.0), jnp.float32(20.0), jnp.float32(0.05), jnp.float32(5.0))
    assert float(rate) == pytest.approx(8 / 6 * 0.05)
    assert float(belief_of.prior_shape(jnp.float32(0.0))) == belief_of.LARGEST_SHAPE
    assert float(belief_of.prior_shape(jnp.float32(0.4))) == pytest.approx(1 / np.expm1(0.16), rel=1e-5)


def test_posterior_is_calibrated_and_narrows() -> None:
    rng = np.random.default_rng(0)
    shape, prior, number = 6.0, 0.05, 20_000
    truth = prior * rng.gamma(shape, 1 / shape, number)
    spreads = []
    for clicks in (20.0, 200.0, 2000.0):
        events = rng.poisson(truth * clicks)
        rate: Any = jax.vmap(lambda c, n=clicks: belief_of.conversion_rate(c, jnp.float32(n), prior, shape))
        mean, sd = (np.asarray(x) for x in rate(jnp.asarray(events, jnp.float32)))
        assert mean.mean() == pytest.approx(truth.mean(), rel=0.02)
        standard = (truth - mean) / sd
        assert standard.std() == pytest.approx(1.0, abs=0.05)
        spreads.append(sd.mean())
    assert spreads[0] > spreads[1] > spreads[2]
