from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from adarena.experiments import statistics
from adarena.experiments.statistics import Bootstrap, Interval, headroom, iqm, paired_difference, stratified_bootstrap


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 10, 101])
def test_iqm_is_scipys_trimmed_mean(n: int) -> None:
    x = np.random.default_rng(n).standard_cauchy(n)
    assert iqm(x) == pytest.approx(stats.trim_mean(x, 0.25))


def test_iqm_reduces_the_axes_it_is_told() -> None:
    x = np.random.default_rng(0).normal(size=(3, 5, 8))
    expected = [stats.trim_mean(x[:, i].ravel(), 0.25) for i in range(5)]
    np.testing.assert_allclose(iqm(x, (0, 2)), expected)
    np.testing.assert_allclose(iqm(x, -1), stats.trim_mean(x, 0.25, axis=-1))
    assert iqm(x) == pytest.approx(stats.trim_mean(x, 0.25, axis=None))
    with pytest.raises(ValueError, match="at least one number"):
        iqm(np.empty((3, 0)), 1)


def _coverage(options: Bootstrap, seeds: int, shared: float, repeats: int = 250) -> float:
    """How often the interval of the mean holds the true mean, 0, when a run's scores share an effect."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(repeats):
        scores = shared * rng.normal(size=(seeds, 1)) + rng.normal(size=(seeds, 8))
        interval = stratified_bootstrap(scores, np.mean, options=options)
        hits += interval.low <= 0.0 <= interval.high
    return hits / repeats


def test_expanded_interval_covers_what_it_says() -> None:
    assert 0.92 <= _coverage(Bootstrap(resamples=400), seeds=10, shared=1.0) <= 0.98
    assert 0.75 <= _coverage(Bootstrap(resamples=400, level=0.8), seeds=10, shared=1.0) <= 0.86


def test_percentile_interval_is_too_short_with_few_seeds() -> None:
    options = Bootstrap(resamples=400, interval="percentile")
    assert _coverage(options, seeds=5, shared=1.0) < 0.90 < _coverage(Bootstrap(resamples=400), seeds=5, shared=1.0)


def test_independent_strata_are_right_only_for_runs_of_their_own() -> None:
    options = Bootstrap(resamples=400, independent_strata=True)
    assert 0.92 <= _coverage(options, seeds=10, shared=0.0) <= 0.98
    assert _coverage(options, seeds=10, shared=1.0) < 0.75  # cells of one run are no replications


def test_whole_rows_are_drawn() -> None:
    # Rows are constant: every resample's mean is a mean of row values, and cases add nothing to the spread.
    rows = np.arange(6.0)[:, None] * np.ones((1, 50))
    one = stratified_bootstrap(rows, np.mean)
    assert one == stratified_bootstrap(rows[:, :1], np.mean)
    # Drawn within each stratum separately, fifty strata average out and the interval shrinks.
    apart = stratified_bootstrap(rows, np.mean, options=Bootstrap(independent_strata=True))
    assert apart.high - apart.low < 0.3 * (one.high - one.low)


def test_strata_of_their_own_keep_their_cases_together() -> None:
    scores = np.random.default_rng(1).normal(size=(8, 3, 1)) * np.ones((8, 3, 40))
    options = Bootstrap(independent_strata=True)
    wide = stratified_bootstrap(scores, np.mean, options=options)
    assert wide == pytest.approx(stratified_bootstrap(scores[:, :, :1], np.mean, options=options))


def test_same_seed_same_interval() -> None:
    scores = np.random.default_rng(0).normal(size=(10, 30))
    assert stratified_bootstrap(scores) == stratified_bootstrap(scores)
    assert stratified_bootstrap(scores) != stratified_bootstrap(scores, options=Bootstrap(seed=1))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).normal(size=(10, 30))
    rule = scores.mean(0) - 0.1
    whole = paired_difference(scores, rule)
    monkeypatch.setattr(statistics, "_CHUNK", 1000)
    assert paired_difference(scores, rule) == whole


def test_rule_without_seeds_is_certain_until_markets_are_drawn() -> None:
    cases = np.random.default_rng(0).normal(size=120)
    fixed = stratified_bootstrap(cases)
    assert fixed.low == fixed.high == fixed.estimate == iqm(cases)
    drawn = stratified_bootstrap(cases, np.mean, options=Bootstrap(resample="markets"))
    standard_error = cases.std(ddof=1) / np.sqrt(120)
    assert drawn.high - drawn.low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)


def test_cases_of_a_market_are_drawn_together() -> None:
    effect = np.random.default_rng(0).normal(size=30)
    cases = np.repeat(effect, 4)  # thirty markets, four seats each, all alike
    options = Bootstrap(resample="markets")
    together = stratified_bootstrap(cases, np.mean, markets=np.repeat(np.arange(30), 4), options=options)
    alone = stratified_bootstrap(cases, np.mean, options=options)
    single = stratified_bootstrap(effect, np.mean, options=options)
    assert together.high - together.low == pytest.approx(single.high - single.low, rel=0.1)
    assert alone.high - alone.low < 0.65 * (together.high - together.low)


def test_single_seed_says_nothing_about_spread() -> None:
    interval = stratified_bootstrap(np.ones((1, 20)))
    assert interval.estimate == 1.0
    assert np.isnan(interval.low)
    assert np.isnan(interval.high)


def test_pairing_removes_what_the_cases_share() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(scale=10.0, size=200)  # some markets are rich, some poor, for everybody
    learner = hard + 0.5 + 0.1 * rng.normal(size=(10, 200))
    options = Bootstrap(resample="both")
    difference = paired_difference(learner, hard, options=options)
    assert difference.low < 0.5 < difference.high
    assert difference.high - difference.low < 0.1
    level = stratified_bootstrap(learner, options=options)
    assert level.high - level.low > 1.0


def test_difference_of_levels_is_the_difference_of_columns() -> None:
    rng = np.random.default_rng(3)
    learner, rule = rng.exponential(size=(10, 40)) + 0.3, rng.exponential(size=40)
    difference = paired_difference(learner, rule, of="levels")
    column = stratified_bootstrap(learner)
    np.testing.assert_allclose(difference, np.asarray(column) - iqm(rule))
    assert paired_difference(learner, rule, np.mean).estimate == pytest.approx(learner.mean() - rule.mean())


def test_two_learners_have_seeds_of_their_own() -> None:
    rng = np.random.default_rng(4)
    ours, theirs = rng.normal(size=(12, 1)) + np.zeros((12, 6)), rng.normal(size=(12, 1)) + np.zeros((12, 6))
    both = paired_difference(ours, theirs, np.mean)
    alone = paired_difference(ours, theirs.mean(0), np.mean)
    assert both.estimate == pytest.approx(alone.estimate)
    assert both.high - both.low > 1.15 * (alone.high - alone.low)


def test_headroom() -> None:
    rng = np.random.default_rng(0)
    rule = rng.uniform(1.0, 2.0, size=60)
    best = rule + 1.0
    seeds = 0.6 + 0.1 * rng.normal(size=(10, 1))
    share = headroom(rule + seeds, rule, best, np.mean)
    assert share.estimate == pytest.approx(seeds.mean())
    assert share.low < 0.6 < share.high
    assert share.high - share.low == pytest.approx(2 * 2.26 * seeds.std(ddof=1) / np.sqrt(10), rel=0.2)
    for policy, expected in ((rule, 0.0), (best, 1.0), (rule - 0.5, -0.5)):
        assert headroom(policy, rule, best, np.mean) == pytest.approx(Interval(expected, expected, expected))


def test_headroom_of_learner_with_strata() -> None:
    scores = np.random.default_rng(0).normal(size=(6, 2, 5))
    rule, best = np.zeros((2, 5)), np.full((2, 5), 4.0)
    share = headroom(scores, rule, best, options=Bootstrap(independent_strata=True))
    assert share.estimate == pytest.approx(iqm(scores) / 4.0)
    assert np.isfinite(share.low)


def test_two_thousand_resamples_are_quick() -> None:
    scores = np.random.default_rng(0).normal(size=(10, 960))
    start = time.perf_counter()
    stratified_bootstrap(scores, options=Bootstrap(resamples=2000))
    assert time.perf_counter() - start < 2.0 * 3  # below 1 s on an idle core; the machine may be shared


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resamples": 10}, "resamples must be at least 100, got 10"),
        ({"level": 1.0}, "level must lie strictly between 0 and 1, got 1.0"),
        ({"seed": -1}, "seed must not be negative"),
        ({"resample": "episodes"}, "resample must be 'seeds', 'markets' or 'both', got 'episodes'"),
        ({"interval": "bca"}, "interval must be 'expanded' or 'percentile', got 'bca'"),
        ({"independent_strata": True, "resample": "both"}, "resample must be 'seeds' where independent_strata"),
    ],
)
def test_bad_options(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bootstrap(**changes)  # type: ignore[arg-type]


def test_bad_scores() -> None:
    good = np.ones((3, 4))
    with pytest.raises(ValueError, match="scores must be finite, got 1 of 12 numbers"):
        stratified_bootstrap(np.where(np.eye(3, 4) * np.arange(4) == 2, np.nan, good))
    with pytest.raises(ValueError, match=r"scores must have shape .* got \(0, 4\)"):
        stratified_bootstrap(np.empty((0, 4)))
    with pytest.raises(ValueError, match=r"other must have the cases of learner, \(4,\) .* got \(5,\)"):
        paired_difference(good, np.ones(5))
    with pytest.raises(ValueError, match="of must be 'differences' or 'levels', got 'ratios'"):
        paired_difference(good, np.ones(4), of="ratios")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hindsight must exceed best_rule"):
        headroom(good, np.ones(4), np.ones(4))
    with pytest.raises(ValueError, match=r"markets must have shape \(4,\), one for each case, got \(3,\)"):
        stratified_bootstrap(good, markets=[0, 1, 2], options=Bootstrap(resample="markets"))
    with pytest.raises(ValueError, match="markets must all have the same number of cases, got between 1 and 3"):
        stratified_bootstrap(good, markets=[0, 0, 0, 1], options=Bootstrap(resample="both"))
