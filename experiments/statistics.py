"""How sure a table may be: interquartile means, bootstrap intervals over training seeds, paired differences, headroom.

Scores stand in arrays ``[seeds, cases]``: one row for each training run, one column for each evaluation case (a market,
a seat, a budget). A rule that has no training seed has scores ``[cases]``. Every array is float, every score finite.

What is resampled. The training seed is the unit of replication, never the episode. One training run is scored on every
case, and its scores move together, so a resample draws *whole rows* with replacement and leaves the cases as they are
(`Bootstrap.independent_strata` false, the default). Agarwal et al. (2021), "Deep reinforcement learning at the edge of
the statistical precipice", train a run for each task by itself and therefore draw seeds anew within each task; where
scores come about in that way (axis 1 holds, for example, mechanisms with training runs of their own), set
``independent_strata=True``. To draw cells independently although they share a run would give intervals that are far too
short; a test shows it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

Statistic = Callable[..., Any]
"""``statistic(x, axis)`` reduces the axes ``axis`` (a tuple) of an array: `iqm`, ``numpy.mean``, ``numpy.median``."""

_CHUNK = 4_000_000  # numbers of a resampled array that are held at one time


class Interval(NamedTuple):
    """An estimate and its interval.

    Attributes:
        estimate: The statistic of the scores as they are.
        low: Lower end. NaN where nothing can be said (one training seed).
        high: Upper end. NaN where nothing can be said.
    """

    estimate: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        resamples: Number of resamples.
        level: Probability that the interval is meant to hold the truth with.
        seed: Seed of the NumPy generator.
        resample: ``"seeds"`` draws training runs and keeps the cases: how sure are we of the *algorithm* on these
            markets. ``"markets"`` draws markets and keeps the runs. ``"both"`` draws both, crossed (Owen 2007, "The
            pigeonhole bootstrap"), which errs on the wide side.
        independent_strata: Whether axis 1 of the scores holds training runs of their own; see the module's text.
        interval: ``"percentile"`` takes the quantiles of the resampled statistic, as rliable does; with ten units it
            holds the truth in about 90 %, not 95 %, of cases. ``"expanded"`` moves the quantiles outwards by what the
            t distribution and the bootstrap's downward bias ``sqrt((n - 1) / n)`` ask for (Hesterberg 2015, "What
            teachers should know about the bootstrap"), and holds about what it says. With fewer than five units it
            comes down to the smallest and the largest resample.

    Raises:
        ValueError: A field's value is not allowed.
    """

    resamples: int = 2000
    level: float = 0.95
    seed: int = 0
    resample: Literal["seeds", "markets", "both"] = "seeds"
    independent_strata: bool = False
    interval: Literal["expanded", "percentile"] = "expanded"

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise ValueError(f"resamples must be at least 100, got {self.resamples!r}")
        if not 0.0 < self.level < 1.0:
            raise ValueError(f"level must lie strictly between 0 and 1, got {self.level!r}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed!r}")
        if self.resample not in ("seeds", "markets", "both"):
            raise ValueError(f"resample must be 'seeds', 'markets' or 'both', got {self.resample!r}")
        if self.interval not in ("expanded", "percentile"):
            raise ValueError(f"interval must be 'expanded' or 'percentile', got {self.interval!r}")
        if self.independent_strata and self.resample != "seeds":
            raise ValueError(
                f"resample must be 'seeds' where independent_strata is true (markets differ between strata), "
                f"got {self.resample!r}"
            )


DEFAULT = Bootstrap()
"""2,000 resamples of training seeds, 95 %, expanded percentiles."""


def iqm(x: ArrayLike, axis: int | Sequence[int] | None = None) -> Any:
    """Interquartile mean: the mean of what is left when a quarter of the numbers is cut off at either end.

    With ``n`` numbers ``floor(n / 4)`` are cut at either end, as ``scipy.stats.trim_mean(x, 0.25)`` and rliable do, so
    fewer than four numbers give their mean.

    Args:
        x: Numbers of any shape.
        axis: Axes that are pooled and reduced; all when ``None``.

    Returns:
        Float64, the shape of ``x`` without ``axis``.

    Raises:
        ValueError: There is nothing to reduce.
    """
    x = np.asarray(x, np.float64)
    axes = range(x.ndim) if axis is None else np.atleast_1d(axis).tolist()
    reduced = {int(a) % x.ndim for a in axes} if x.ndim else set()
    kept = [a for a in range(x.ndim) if a not in reduced]
    flat = np.transpose(x, [*kept, *sorted(reduced)]).reshape([x.shape[a] for a in kept] + [-1])
    n = flat.shape[-1]
    if n == 0:
        raise ValueError("x must hold at least one number along axis, got none")
    cut = n // 4
    if cut:
        flat = np.partition(flat, (cut - 1, n - cut), axis=-1)[..., cut : n - cut]
    return flat.mean(axis=-1)


def stratified_bootstrap(
    scores: ArrayLike, statistic: Statistic = iqm, *, markets: ArrayLike | None = None, options: Bootstrap = DEFAULT
) -> Interval:
    """A statistic of one policy's scores and its bootstrap interval.

    Args:
        scores: ``[seeds, strata, ...]``, or ``[cases]`` for a rule without training seeds.
        statistic: Reduces all axes but the one of the resamples.
        markets: ``[strata]``, the market of each case: cases of one market are drawn together. Read only where
            markets are resampled; each case is its own market when ``None``.
        options: How the interval is made.

    Returns:
        The interval. A rule without seeds has ``low == high == estimate`` unless markets are resampled; a single
        training seed gives NaN ends.

    Raises:
        ValueError: A score is not finite, or shapes do not fit.
    """
    return _bootstrap(_tables(scores=scores), lambda drawn: statistic(drawn[0], _inner(drawn[0])), markets, options)


def paired_difference(
    learner: ArrayLike,
    other: ArrayLike,
    statistic: Statistic = iqm,
    *,
    of: Literal["differences", "levels"] = "differences",
    markets: ArrayLike | None = None,
    options: Bootstrap = DEFAULT,
) -> Interval:
    """How much better one policy is than another on the same cases.

    Args:
        learner: ``[seeds, cases]``, or ``[cases]`` for a rule.
        other: ``[seeds, cases]`` or ``[cases]``, the same cases in the same order. Its seeds are no partners of the
            learner's: they are drawn independently, and a case's score is their mean.
        statistic: Reduces all axes but the one of the resamples.
        of: ``"differences"``: the statistic of the differences case by case. ``"levels"``: the difference of the two
            statistics, which a reader can recompute from the columns of a table.
        markets: As in `stratified_bootstrap`.
        options: How the interval is made.

    Raises:
        ValueError: A score is not finite, shapes do not fit, or ``of`` is unknown.
    """
    if of not in ("differences", "levels"):
        raise ValueError(f"of must be 'differences' or 'levels', got {of!r}")
    tables = _tables(learner=learner, other=other)

    def difference(drawn: list[np.ndarray]) -> np.ndarray:
        if of == "levels":
            return statistic(drawn[0], _inner(drawn[0])) - statistic(drawn[1], _inner(drawn[1]))
        gaps = drawn[0] - drawn[1].mean(axis=1, keepdims=True)
        return statistic(gaps, _inner(gaps))

    return _bootstrap(tables, difference, markets, options)


def headroom(
    policy: ArrayLike,
    best_rule: ArrayLike,
    hindsight: ArrayLike,
    statistic: Statistic = iqm,
    *,
    markets: ArrayLike | None = None,
    options: Bootstrap = DEFAULT,
) -> Interval:
    """The share of the gap between the best rule and hindsight that a policy closes, with the interval of the ratio.

    ``(s(policy) - s(best_rule)) / (s(hindsight) - s(best_rule))`` with one statistic ``s`` of each: 0 is as good as
    the rule, 1 as good as hindsight, below 0 worse than the rule.

    Args:
        policy: ``[seeds, cases]``, or ``[cases]`` for another rule.
        best_rule: ``[cases]`` (or ``[seeds, cases]``), the same cases in the same order.
        hindsight: ``[cases]`` (or ``[seeds, cases]``), the bound on the same cases.
        statistic: Reduces all axes but the one of the resamples.
        markets: As in `stratified_bootstrap`.
        options: How the interval is made.

    Raises:
        ValueError: A score is not finite, shapes do not fit, or hindsight is no better than the rule, in the scores or
            in a resample: then the market leaves nothing to close.
    """
    tables = _tables(policy=policy, best_rule=best_rule, hindsight=hindsight)

    def ratio(drawn: list[np.ndarray]) -> np.ndarray:
        ours, rule, best = (statistic(x, _inner(x)) for x in drawn)
        if np.any(best <= rule):
            raise ValueError(
                f"hindsight must exceed best_rule, got a gap of {np.min(best - rule):.6g}: no headroom to close"
            )
        return (ours - rule) / (best - rule)

    return _bootstrap(tables, ratio, markets, options)


def headroom_or_nan(
    policy: ArrayLike,
    best_rule: ArrayLike,
    hindsight: ArrayLike,
    statistic: Statistic = iqm,
    *,
    markets: ArrayLike | None = None,
    options: Bootstrap = DEFAULT,
) -> Interval:
    """`headroom`, with NaN where there is nothing to close: in the scores, or (ends alone) in a resample."""
    ours, rule, best = (float(statistic(np.asarray(x, np.float64), None)) for x in (policy, best_rule, hindsight))
    if best <= rule:
        return Interval(float("nan"), float("nan"), float("nan"))
    try:
        return headroom(policy, best_rule, hindsight, statistic, markets=markets, options=options)
    except ValueError as error:
        if "no headroom" not in str(error):
            raise
        # Some resample leaves nothing to close, so the ratio has no interval; its estimate stands.
        return Interval((ours - rule) / (best - rule), float("nan"), float("nan"))


def relative_difference(
    policy: ArrayLike,
    other: ArrayLike,
    statistic: Statistic = iqm,
    *,
    markets: ArrayLike | None = None,
    options: Bootstrap = DEFAULT,
) -> Interval:
    """How much better one policy is than another, as a share of the other: ``s(policy) / s(other) - 1``.

    Args:
        policy: ``[seeds, cases]``, or ``[cases]`` for a rule.
        other: ``[seeds, cases]`` or ``[cases]``, the same cases in the same order.
        statistic: Reduces all axes but the one of the resamples.
        markets: As in `stratified_bootstrap`.
        options: How the interval is made.

    Returns:
        The interval; NaN where the other's statistic is not positive (ends alone, where it is so in a resample).

    Raises:
        ValueError: A score is not finite, or shapes do not fit.
    """
    tables = _tables(policy=policy, other=other)

    def ratio(drawn: list[np.ndarray]) -> np.ndarray:
        ours, theirs = (np.asarray(statistic(x, _inner(x))) for x in drawn)
        return np.where(theirs > 0.0, ours, np.nan) / np.where(theirs > 0.0, theirs, 1.0) - 1.0

    return _bootstrap(tables, ratio, markets, options)


def _inner(x: np.ndarray) -> tuple[int, ...]:
    """Every axis but the first, which counts resamples."""
    return tuple(range(1, x.ndim))


class _Scores(NamedTuple):
    """Scores of one policy: ``values [seeds, strata, ...]`` and whether the first axis counts training runs."""

    values: np.ndarray
    trained: bool


def _tables(**scores: ArrayLike) -> list[_Scores]:
    """Checks scores of policies on the same cases; those that lack the axis of seeds get one row."""
    arrays = {name: np.asarray(values, np.float64) for name, values in scores.items()}
    dims = max(2, *(array.ndim for array in arrays.values()))
    tables: list[_Scores] = []
    for name, array in arrays.items():
        if array.ndim not in (dims - 1, dims) or array.size == 0:
            raise ValueError(
                f"{name} must have shape [cases] or [seeds, strata, ...] and hold numbers, got {array.shape}"
            )
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise ValueError(f"{name} must be finite, got {bad} of {array.size} numbers that are NaN or infinite")
        trained = array.ndim == dims
        tables.append(_Scores(array if trained else array[None], trained))
        if tables[-1].values.shape[1:] != tables[0].values.shape[1:]:
            raise ValueError(
                f"{name} must have the cases of {next(iter(arrays))}, {tables[0].values.shape[1:]} after any axis of "
                f"seeds, got {tables[-1].values.shape[1:]}"
            )
    return tables


def _clusters(markets: ArrayLike | None, cases: int) -> np.ndarray:
    """``[markets, cases of a market]``: which columns belong together."""
    if markets is None:
        return np.arange(cases)[:, None]
    labels = np.asarray(markets)
    if labels.shape != (cases,):
        raise ValueError(f"markets must have shape ({cases},), one for each case, got {labels.shape}")
    _, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if np.any(counts != counts[0]):
        raise ValueError(
            f"markets must all have the same number of cases, got between {counts.min()} and {counts.max()}"
        )
    return np.argsort(which, kind="stable").reshape(len(counts), -1)


def _draw(table: np.ndarray, columns: np.ndarray | None, size: int, options: Bootstrap, rng: Any) -> np.ndarray:
    """``[size, seeds, strata, ...]``: resamples of one table, given the columns that all tables share."""
    seeds, strata = table.shape[:2]
    fixed = seeds == 1 or options.resample == "markets"
    if options.independent_strata and not fixed:
        rows = rng.integers(seeds, size=(size, seeds, strata))
        return table[rows, np.arange(strata)]
    if fixed:
        if columns is None:
            return np.broadcast_to(table, (size, *table.shape))
        return np.moveaxis(table[:, columns], 1, 0)
    rows = rng.integers(seeds, size=(size, seeds))
    return table[rows] if columns is None else table[rows[:, :, None], columns[:, None, :]]


def _bootstrap(
    scores: list[_Scores],
    statistic: Callable[[list[np.ndarray]], np.ndarray],
    markets: ArrayLike | None,
    options: Bootstrap,
) -> Interval:
    """Resamples tables that share their cases and reads the interval of a statistic of all of them."""
    tables = [one.values for one in scores]
    estimate = float(statistic([table[None] for table in tables])[0])
    with_markets = options.resample != "seeds"
    units = [len(one.values) for one in scores if one.trained] if options.resample != "markets" else []
    if not with_markets and not units:
        return Interval(estimate, estimate, estimate)
    clusters = _clusters(markets, tables[0].shape[1]) if with_markets else None
    if clusters is not None:
        units.append(len(clusters))
    if min(units) < 2:  # nothing to learn the spread from
        return Interval(estimate, float("nan"), float("nan"))
    rng = np.random.default_rng(options.seed)
    chunk = max(1, _CHUNK // max(table.size for table in tables))
    values = np.empty(options.resamples)
    for start in range(0, options.resamples, chunk):
        size = min(chunk, options.resamples - start)
        columns = None
        if clusters is not None:
            columns = clusters[rng.integers(len(clusters), size=(size, len(clusters)))].reshape(size, -1)
        values[start : start + size] = statistic([_draw(table, columns, size, options, rng) for table in tables])
    n = min(units)
    strata = tables[0].shape[1] if options.independent_strata else 1
    low, high = np.quantile(values, _tails(options, n, strata))
    return Interval(estimate, float(low), float(high))


def _tails(options: Bootstrap, units: int, strata: int) -> tuple[float, float]:
    """The two quantiles that an interval reads, for ``units`` drawn in each of ``strata``."""
    tail = (1.0 - options.level) / 2.0
    if options.interval == "expanded":
        t = stats.t.ppf(tail, df=strata * (units - 1))
        tail = float(stats.norm.cdf(t * np.sqrt(units / (units - 1))))
    return tail, 1.0 - tail
