"""Tables of the cold-start experiment: success with intervals, what it costs, frontier, sensitivity, nulls, split tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
from rich.table import Table

from adarena.experiments import tables
from adarena.experiments.coldstart_ab import DESIGNS, PUBLISHED, SUMS
from adarena.experiments.protocol import best_rule, matrix, named
from adarena.experiments.statistics import (
    Bootstrap,
    Interval,
    headroom_or_nan,
    iqm,
    paired_difference,
    relative_difference,
    stratified_bootstrap,
)

MEAN: Callable[..., Any] = np.mean
"""Success is a rate over all launched ads, so means are taken; the table has the interquartile mean beside it."""

_SUCCESS = ("success_rate", "success_20_7", "success_50_7")
_MEANS = (
    *("expected_conversions", "expected_enough", "enough_conversions", "time_to_success", "cost_over_target"),
    *("exploration_cost", "exploration_budget_used", "mature_value_loss", "welfare_gain", "longrun_revenue_gain"),
)


def using(scores: pl.DataFrame, name: str) -> dict[str, Any]:
    """How a policy's intervals are made: markets are resampled, and of learners training seeds as well."""
    rows = scores.filter(pl.col("policy") == name)
    learner = rows["kind"][0] == "learner"
    first = rows.filter(pl.col("seed") == rows["seed"].min()).sort("case")
    return {"markets": first["market"].to_numpy(), "options": Bootstrap(resample="both" if learner else "markets")}


def values(scores: pl.DataFrame, name: str, column: str = "success_rate") -> np.ndarray:
    """``[seeds, cases]`` of a learner, ``[cases]`` of any other policy."""
    found = matrix(scores, name, column)
    learner = scores.filter(pl.col("policy") == name)["kind"][0] == "learner"
    return found if learner else found[0]


def summarise(scores: pl.DataFrame) -> pl.DataFrame:
    """The comparison: one row a policy and one for hindsight, best first.

    Columns: ``success_rate``, ``success_20_7``, ``success_50_7`` with ``_low`` and ``_high``; ``success_iqm``; ``vs_none``
    (difference, a share: 0.01 is one percentage point), ``vs_none_relative``, ``vs_best_relative`` and ``vs_sbl_relative``
    (difference over the other's rate; the best is the rule with the highest rate, SBL the published one, if it is there)
    with intervals; ``gap_closed``, ``(policy - best rule) / (oracle - best rule)``, and ``gap_from_none``, the same from no
    support, with intervals; ``cost_share`` (charges over the twin's revenue), ``cost_vs_best`` (charges over the best
    rule's), ``revenue_loss`` with interval; means of the other metrics.
    Intervals: 95 %; markets are resampled, and of learners training seeds as well (crossed).
    """
    compared = scores.filter(pl.col("kind") != "bound")
    top = best_rule(compared, "success_rate", MEAN)
    best, none, oracle = (values(compared, name) for name in (top, "none", "oracle"))
    names = compared["policy"].unique(maintain_order=True).to_list()
    others = {"none": none, "best": best} | ({"sbl": values(compared, "sbl")} if "sbl" in names else {})
    rows = []
    for name in names:
        mine, how = values(compared, name), using(compared, name)
        kind = compared.filter(pl.col("policy") == name)["kind"][0]
        row: dict[str, Any] = {"policy": name, "kind": kind, "seeds": len(mine) if mine.ndim > 1 else 0}
        for column in (*_SUCCESS, "revenue_loss"):
            row |= named(column, stratified_bootstrap(values(compared, name, column), MEAN, **how))
        row["success_iqm"] = float(iqm(mine))
        row |= named("vs_none", paired_difference(mine, none, MEAN, **how))
        for other, theirs in others.items():
            row |= named(f"vs_{other}_relative", relative_difference(mine, theirs, MEAN, **how))
        row |= named("gap_closed", headroom_or_nan(mine, best, oracle, MEAN, **how))
        row |= named("gap_from_none", headroom_or_nan(mine, none, oracle, MEAN, **how))
        row |= _means(compared, name, top)
        rows.append(row)
    rows.sort(key=lambda row: -row["success_rate"])
    for name in scores.filter(pl.col("kind") == "bound")["policy"].unique(maintain_order=True):
        rows.insert(
            0,
            {
                "policy": name,
                "kind": "bound",
                "seeds": 0,
                "success_rate": float(matrix(scores, name, "success_rate").mean()),
            },
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def _means(scores: pl.DataFrame, name: str, top: str) -> dict[str, float]:
    mean = {column: float(matrix(scores, name, column).mean()) for column in (*_MEANS, "revenue_twin")}
    best = float(matrix(scores, top, "exploration_cost").mean())
    share = mean["exploration_cost"] / max(mean["revenue_twin"], 1e-9)
    ratio = mean["exploration_cost"] / best if best > 0.0 else float("nan")
    return mean | {"cost_share": share, "cost_vs_best": ratio}


def comparison(summary: pl.DataFrame) -> tuple[Table, Table]:
    """Two tables for people: success, and what it costs."""
    styles = {"learner": "bold", "oracle": "dim", "bound": "dim"}
    first = Table(title="Success of launched ads, 95 % intervals")
    second = Table(title="What it costs, against the same markets without support (%)")
    head = (
        "policy",
        "success [%]",
        "vs none [points]",
        "vs none [%]",
        "vs SBL [%]",
        "vs best rule [%]",
        "gap to oracle [%]",
    )
    for table, names in ((first, (*head, "20/7 [%]", "50/7 [%]")), (second, _COSTS)):
        for name in names:
            table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=name == "policy")
    for row in summary.iter_rows(named=True):
        style = styles.get(row["kind"], "")
        cells = [percent(row, "success_rate"), percent(row, "vs_none", sign=True)]
        cells += [percent(row, f"{name}_relative", sign=True, digits=0) for name in ("vs_none", "vs_sbl", "vs_best")]
        cells += [percent(row, "gap_closed", digits=0), *(percent(row, name) for name in _SUCCESS[1:])]
        first.add_row(row["policy"], *cells, style=style)
        if row["kind"] == "bound":
            continue
        parts = ("cost_share", "revenue_loss", "mature_value_loss", "welfare_gain", "longrun_revenue_gain")
        counts = ("time_to_success", "expected_conversions", "cost_vs_best")
        money = [percent(row, name, digits=2) for name in parts]
        second.add_row(row["policy"], *money, *(tables.number(row[name]) for name in counts), style=style)
    return first, second


_COSTS = (
    *(
        "policy",
        "fund's charges / revenue",
        "revenue loss",
        "mature value loss",
        "welfare gain",
        "long-run revenue gain",
    ),
    *("days to success", "Lambda", "charges / best rule's"),
)


def percent(row: dict[str, Any], name: str, *, sign: bool = False, digits: int = 1) -> str:
    """A share in percent with its interval, where it has one; a dash where it is not known."""

    def one(x: float) -> str:
        return f"{100.0 * x:+.{digits}f}" if sign else f"{100.0 * x:.{digits}f}"

    ends = [row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high")]
    known = [x for x in ends if x is not None and np.isfinite(x)]
    if not known or ends[0] is None or not np.isfinite(ends[0]):
        return "–"
    return one(known[0]) if len(known) < 3 else f"{one(known[0])} [{one(known[1])}, {one(known[2])}]"


def by_level(scores: pl.DataFrame, levels: Sequence[str]) -> pl.DataFrame:
    """Success, its rise over no support, and costs of every policy, for each combination of ``levels``, with intervals.

    Columns: the levels, ``policy``, ``kind``, ``success_rate``, ``vs_none``, ``revenue_loss``, ``welfare_gain``,
    ``longrun_revenue_gain`` with ``_low`` and ``_high``, ``cost_share``.
    """
    rows = []
    for key, part in scores.group_by(*levels, maintain_order=True):
        none = values(part, "none") if "none" in part["policy"].to_list() else None
        for name in part["policy"].unique(maintain_order=True):
            how = using(part, name)
            row: dict[str, Any] = dict(zip(levels, key, strict=True)) | {"policy": name}
            row["kind"] = part.filter(pl.col("policy") == name)["kind"][0]
            for column in ("success_rate", "revenue_loss", "welfare_gain", "longrun_revenue_gain"):
                row |= named(column, stratified_bootstrap(values(part, name, column), MEAN, **how))
            if none is not None:
                row |= named("vs_none", paired_difference(values(part, name), none, MEAN, **how))
            cost, revenue = (matrix(part, name, column).mean() for column in ("exploration_cost", "revenue_twin"))
            rows.append(row | {"cost_share": float(cost / max(revenue, 1e-9))})
    return pl.DataFrame(rows, infer_schema_length=None)


def summarise_nulls(scores: pl.DataFrame) -> pl.DataFrame:
    """`by_level` of the nulls and of whether the platform learns (``evidence``), with two columns more.

    ``largest_difference``: of any metric in any market from no support. ``learned``, with interval: by how much more support
    raises success where the platform learns from new ads' events than where it does not; the rest of the rise is subsidy.
    """
    summary = by_level(scores, ("null", "evidence"))
    metrics = ["success_rate", "success_20_7", "expected_conversions", "revenue", "welfare_gain", "exploration_cost"]
    apart, learned = [], []
    for row in summary.iter_rows(named=True):
        null, name = scores.filter(pl.col("null") == row["null"]), row["policy"]
        part = null.filter(pl.col("evidence") == row["evidence"])
        gaps = [matrix(part, name, m) - matrix(part, "none", m) for m in metrics]
        apart.append(max(float(np.abs(gap).max()) for gap in gaps))
        deaf = null.filter(pl.col("evidence") == 0.0)
        taught: dict[str, Any] = {"learned": None, "learned_low": None, "learned_high": None}
        if deaf.height and row["evidence"] == 1.0:
            own, others = (values(part, who) - values(deaf, who) for who in (name, "none"))
            taught = named("learned", paired_difference(own, others, MEAN, **using(part, name)))
        learned.append(taught)
    extra = pl.DataFrame(learned, schema=dict.fromkeys(("learned", "learned_low", "learned_high"), pl.Float64))
    return pl.concat([summary.with_columns(largest_difference=pl.Series(apart)), extra], how="horizontal")


def summarise_splits(sums: pl.DataFrame) -> pl.DataFrame:
    """What each design says, and by how much it misses the truth on the same markets, with intervals over markets.

    Columns: ``policy``, ``design``, ``outcome`` (``"success"``: a rate; ``"conversions"``: a launched ad, scaled to all users;
    ``"expected"``: the same without luck), ``estimate``, ``error`` and ``read`` with ``_low`` and ``_high``, ``relative``
    (estimate over what the arm without support had), ``published`` (of success; null for others). ``read`` is the plain
    difference of the arms; ``estimate`` is less what the same arms differ by in the twin.
    """
    rows = []
    options = Bootstrap(resample="markets")
    for policy in sums["policy"].unique(maintain_order=True):
        found = {d: _sums(sums, policy, d) for d in DESIGNS}
        for design, outcome in ((d, o) for d in DESIGNS for o in ("successes", "conversions", "expected")):
            both = np.concatenate([found[design], found["truth"]], axis=-1)[None]
            row: dict[str, Any] = {"policy": policy, "design": design, "outcome": outcome}

            def effect(x: np.ndarray, axis: Any, outcome: str = outcome) -> np.ndarray:
                return _effect(x[..., : len(SUMS)].sum(axis=axis[:-1]), outcome)

            def error(x: np.ndarray, axis: Any, outcome: str = outcome) -> np.ndarray:
                added = x.sum(axis=axis[:-1])
                return _effect(added[..., : len(SUMS)], outcome) - _effect(added[..., len(SUMS) :], outcome)

            def read(x: np.ndarray, axis: Any, outcome: str = outcome) -> np.ndarray:
                return _difference(x[..., : len(SUMS)].sum(axis=axis[:-1]), "", outcome)

            row |= named("read", stratified_bootstrap(both, read, options=options))
            row |= named("estimate", stratified_bootstrap(both, effect, options=options))
            row |= named("error", stratified_bootstrap(both, error, options=options))
            total = dict(zip(SUMS, found[design].sum(axis=0), strict=True))
            row["relative"] = row["estimate"] / max(total[f"off_{outcome}"] / max(total["off_ads"], 1.0), 1e-9)
            rows.append(row | {"published": PUBLISHED[design] if outcome == "successes" else None})
    return pl.DataFrame(rows, infer_schema_length=None)


def _sums(sums: pl.DataFrame, policy: str, design: str) -> np.ndarray:
    """``[markets, sums]`` of one policy and design."""
    rows = sums.filter((pl.col("policy") == policy) & (pl.col("design") == design)).sort("market")
    return rows.select(SUMS).to_numpy().astype(np.float64)


def _effect(added: np.ndarray, outcome: str) -> np.ndarray:
    """Arm with support less arm without, less the same in the twin, of sums ``[..., S]``."""
    return _difference(added, "", outcome) - _difference(added, "twin_", outcome)


def _difference(added: np.ndarray, market: str, outcome: str) -> np.ndarray:
    at = {name: added[..., place] for place, name in enumerate(SUMS)}
    arms = (f"{market}{arm}" for arm in ("on", "off"))
    on, off = (at[f"{arm}_{outcome}"] / np.maximum(at[f"{arm}_ads"], 1.0) for arm in arms)
    return on - off


SUMMARIES: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "frontier": lambda scores: by_level(scores, ("exploration_budget",)),
    "sensitivity": lambda scores: by_level(scores, ("factor", "level")),
    "nulls": summarise_nulls,
    "ab": summarise_splits,
}
"""Summary of each study's table."""

_LEVELS = {"frontier": ("exploration_budget",), "sensitivity": ("factor", "level"), "nulls": ("null", "evidence")}


def study(name: str, summary: pl.DataFrame) -> Table:
    """A study's summary for people."""
    if name == "ab":
        return _splits(summary)
    table = Table(title=f"{name}: success and cost (%, 95 % intervals)")
    levels = _LEVELS[name]
    shown: tuple[str, ...] = ("success_rate", "vs_none", "cost_share", "revenue_loss")
    shown += ("learned", "welfare_gain", "longrun_revenue_gain") if name == "nulls" else ()
    more = ("largest_difference",) if name == "nulls" else ()
    for column in (*levels, "policy", *shown, *more):
        table.add_column(column.replace("_", " "), justify="left" if column in (*levels, "policy") else "right")
    for row in summary.iter_rows(named=True):
        places = [f"{row[x]:g}" if isinstance(row[x], float) else str(row[x]) for x in levels]
        cells = [percent(row, x, digits=1 if x == "success_rate" else 2) for x in shown]
        table.add_row(*places, row["policy"], *cells, *(f"{row[x]:.3g}" for x in more))
    return table


def _splits(summary: pl.DataFrame) -> Table:
    table = Table(title="What split tests say of support (95 % intervals over markets; points for success)")
    for column in ("policy", "design", "success", "error", "as read", "published", "Lambda", "error "):
        table.add_column(column, justify="left" if column in ("policy", "design") else "right")
    at = {(r["policy"], r["design"], r["outcome"]): r for r in summary.iter_rows(named=True)}
    for policy in summary["policy"].unique(maintain_order=True):
        for design in DESIGNS:
            success, expected = at[policy, design, "successes"], at[policy, design, "expected"]
            cells = [percent(success, name, sign=True) for name in ("estimate", "error", "read")]
            cells += [f"{100.0 * PUBLISHED[design]:+.1f}"]
            cells += [tables.with_interval(expected, x, sign=True) for x in ("estimate", "error")]
            table.add_row(policy, design, *cells)
    return table


def interval(row: dict[str, Any], name: str) -> Interval:
    """An interval of a summary's row."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    unknown = float("nan")
    return Interval(row[name], unknown if low is None else low, unknown if high is None else high)
