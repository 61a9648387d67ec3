"""Tables of the lifecycle experiment: scores with intervals, headroom, target, budget, and how often phases are passed."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from rich.table import Table

from adarena.envs.lifecycle_phases import PHASES
from adarena.experiments import tables
from adarena.experiments.coldstart_tables import MEAN, percent, using, values
from adarena.experiments.protocol import best_rule, matrix, named
from adarena.experiments.statistics import headroom_or_nan, iqm, paired_difference, stratified_bootstrap

SUCCESSES = tuple(f"success_{name}" for name in PHASES)
"""Metrics that say whether each phase was passed."""

_MEANS = (
    *("value", "expected_value", "cost", "cost_over_target", "over_target", "budget_used", "creative_regret"),
    *(f"days_{name}" for name in PHASES),
)
METRICS = ("score", "target", *_MEANS, *SUCCESSES)
"""What every row of a score table holds, beside who met what; see `adarena.envs.lifecycle_report.metrics`."""

BOUND = "hindsight_score"
"""The bound of each life at the prices that the policy's run met; unknown for the oracle."""


def summarise(scores: pl.DataFrame) -> pl.DataFrame:
    """The comparison: one row a policy, the oracle and hindsight among them, best first.

    Columns: ``score`` (IQM over lives, conversions of a life under the target) with ``score_low``, ``score_high``;
    ``difference`` to the best rule, paired, with interval; ``headroom``, ``(policy - best rule) / (oracle - best rule)``, with
    interval; ``headroom_bound``, the same against hindsight's bound, its estimate; ``success_PHASE``, share of lives in which
    the phase was passed, with interval; means of the other metrics. Intervals: 95 %; lives resampled, and for learners
    training seeds as well. Hindsight: prices as the best rule's run met them.
    """
    top = best_rule(scores)
    best, oracle, bound = (
        matrix(scores, name, column)[0] for name, column in ((top, "score"), ("oracle", "score"), (top, BOUND))
    )
    rows = []
    for name in scores["policy"].unique(maintain_order=True):
        mine, how = values(scores, name, "score"), using(scores, name)
        kind = scores.filter(pl.col("policy") == name)["kind"][0]
        row: dict[str, Any] = {"policy": name, "kind": kind, "seeds": len(mine) if mine.ndim > 1 else 0}
        row |= named("score", stratified_bootstrap(mine, **how))
        row |= named("difference", paired_difference(mine, best, **how))
        row |= named("headroom", headroom_or_nan(mine, best, oracle, **how))
        row |= {"headroom_bound": headroom_or_nan(mine, best, bound, **how).estimate}
        for column in SUCCESSES:
            row |= named(column, stratified_bootstrap(values(scores, name, column), MEAN, **how))
        rows.append(row | {column: float(matrix(scores, name, column).mean()) for column in _MEANS})
    rows.sort(key=lambda row: -row["score"])
    hindsight = {"policy": "hindsight", "kind": "bound", "seeds": 0, "score": float(iqm(bound))}
    return pl.DataFrame([hindsight, *rows], infer_schema_length=None)


def comparison(summary: pl.DataFrame) -> tuple[Table, Table]:
    """Two tables for people: scores with target and budget, and phases passed."""
    styles = {"learner": "bold", "oracle": "dim", "bound": "dim"}
    first = Table(title="Score of a life: conversions under the target (IQM, 95 % interval)")
    second = Table(title="Share of lives in which a phase was passed (%, 95 % interval)")
    heads = ("policy", "score", "vs best rule", "gap to oracle [%]", "conversions", "cost/target", "over target")
    for table, names in ((first, (*heads, "budget used")), (second, ("policy", *PHASES))):
        for name in names:
            table.add_column(name.replace("_", " "), justify="left" if name == "policy" else "right")
    for row in summary.iter_rows(named=True):
        style = styles.get(row["kind"], "")
        if row["kind"] == "bound":
            first.add_row(row["policy"], tables.number(row["score"]), style=style)
            continue
        cells = [tables.with_interval(row, "score"), tables.with_interval(row, "difference", sign=True)]
        cells += [percent(row, "headroom", digits=0)]
        cells += [tables.number(row[name]) for name in ("value", "cost_over_target")]
        cells += [tables.number(row[name], percent=True) for name in ("over_target", "budget_used")]
        first.add_row(row["policy"], *cells, style=style)
        second.add_row(row["policy"], *(percent(row, name, digits=0) for name in SUCCESSES), style=style)
    return first, second


def typical(scores: pl.DataFrame, policy: str) -> int:
    """The case to show: of those in which a policy's first training seed passed most phases, the one of middle score."""
    rows = scores.filter(pl.col("policy") == policy)
    rows = rows.filter(pl.col("seed") == rows["seed"].min())
    passed = rows.select(SUCCESSES).to_numpy().sum(axis=1)
    most = rows.filter(pl.Series(passed == np.max(passed))).sort("score", "case")
    return int(most["case"][(most.height - 1) // 2])
