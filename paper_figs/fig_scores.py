"""Figure: score by policy, and headroom closed by budget, a column a mechanism.

Above: the IQM score of each policy as a share of hindsight's (the numbers at the right are scores themselves).
Below: the headroom ``(policy - best rule) / (hindsight - best rule)`` that learners, and the best constant multiplier of
each case in hindsight, close at each budget; the best rule (of all budgets together) is 0, hindsight 100 %. Intervals are
95 % bootstrap intervals: training seeds are resampled for learners, markets for rules. Hindsight takes prices as the best
rule's run met them, as the comparison's table does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from adarena.envs.palette import BLACK, GREY
from adarena.experiments.statistics import Bootstrap, Interval, headroom_or_nan, iqm
from adarena.paper_figs import style

NAME = "scores"
TABLE = "scores.parquet"
COLUMNS = (
    *("mechanism", "policy", "kind", "seed", "case", "market", "budget_scale"),
    *("score", "hindsight_score"),
)


class Scores(NamedTuple):
    """Scores of one policy in one mechanism.

    Attributes:
        policy: Its name.
        kind: ``"learner"`` (rows are training seeds), ``"rule"`` or ``"oracle"``.
        score: ``[seeds, cases]`` for a learner, else ``[cases]``.
        hindsight: ``[cases]`` bound at the prices that this policy's run met (mean over seeds).
        market: ``[cases]``.
        budget: ``[cases]`` budget over the advertiser's usual one.
    """

    policy: str
    kind: str
    score: np.ndarray
    hindsight: np.ndarray
    market: np.ndarray
    budget: np.ndarray


def scores_of(table: pl.DataFrame, mechanism: str) -> dict[str, Scores]:
    """Scores of every policy in one mechanism, cases in the same order for all.

    Raises:
        ValueError: A policy lacks a case that another has, or a learner's seed does.
    """
    rows = table.filter(pl.col("mechanism") == mechanism)
    cases = np.sort(rows["case"].unique().to_numpy())
    found: dict[str, Scores] = {}
    for policy in rows["policy"].unique(maintain_order=True):
        own = rows.filter(pl.col("policy") == policy).sort("seed", "case")
        seeds = own["seed"].n_unique()
        if not np.array_equal(own["case"].to_numpy(), np.tile(cases, seeds)):
            raise ValueError(
                f"{policy} in {mechanism} must have each of the {len(cases)} cases once a seed, "
                f"got {len(own)} rows for {seeds} seeds"
            )
        first, score = own.head(len(cases)), own["score"].to_numpy().astype(np.float64).reshape(seeds, -1)
        bound = own["hindsight_score"].to_numpy().astype(np.float64).reshape(seeds, -1).mean(axis=0)
        kind = own["kind"][0]
        market, budget = first["market"].to_numpy(), first["budget_scale"].to_numpy().astype(np.float64)
        found[policy] = Scores(policy, kind, score if kind == "learner" else score[0], bound, market, budget)
    return found


def best_rule(scores: dict[str, Scores]) -> Scores | None:
    """The rule with the highest IQM score; None without rules."""
    rules = [one for one in scores.values() if one.kind == "rule"]
    return max(rules, key=lambda one: float(iqm(one.score)), default=None)


def share_of_hindsight(one: Scores, hindsight: np.ndarray) -> Interval:
    """IQM score over the IQM score of hindsight, with its interval."""
    return _closed(one, np.zeros_like(hindsight), hindsight, one.score, one.market)


def headroom_at(one: Scores, rule: Scores, budget: float) -> Interval:
    """Headroom that a policy closes at one budget, with its interval; NaN where there is none to close."""
    at = one.budget == budget
    return _closed(one, rule.score[at], rule.hindsight[at], one.score[..., at], one.market[at])


def _closed(one: Scores, low: np.ndarray, high: np.ndarray, score: np.ndarray, market: np.ndarray) -> Interval:
    """Headroom with the interval that fits the policy: training seeds for a learner, markets for a rule."""
    options = Bootstrap(resample="seeds" if one.kind == "learner" else "markets")
    return headroom_or_nan(score, low, high, markets=market, options=options)


def draw(results: Path) -> Figure:
    """Draws the figure from ``scores.parquet``.

    Args:
        results: Folder with the table.

    Raises:
        FileNotFoundError: The table is not there.
        ValueError: It lacks a column or a case.
    """
    table = style.read(results, TABLE, COLUMNS)
    mechanisms = style.mechanisms_of(table)
    found = {mechanism: scores_of(table, mechanism) for mechanism in mechanisms}
    order = _order(found)
    lower = any(one.kind == "learner" for scores in found.values() for one in scores.values())
    lower = lower and all(best_rule(scores) is not None for scores in found.values())
    with style.styled():
        heights = [0.19 * len(order) + 0.75, *([1.7] if lower else [])]
        figure, axes = style.grid(
            len(heights), len(mechanisms), sum(heights), height_ratios=heights, sharex="row", sharey="row"
        )
        for column, mechanism in enumerate(mechanisms):
            _draw_shares(axes[0, column], found[mechanism], order)
            axes[0, column].set_title(style.mechanism_name(mechanism))
            if lower:
                _draw_headroom(axes[1, column], found[mechanism])
        if lower:
            axes[1, 0].set_ylabel("Headroom closed [%]")
            handles = {h.get_label(): h for ax in axes[1] for h in ax.get_legend_handles_labels()[0]}
            figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def _order(found: dict[str, dict[str, Scores]]) -> list[str]:
    """Policies by their mean share of hindsight over mechanisms, worst first."""
    shares: dict[str, list[float]] = {}
    for scores in found.values():
        bound = _bound(scores)
        for one in scores.values():
            shares.setdefault(one.policy, []).append(float(iqm(one.score) / iqm(bound)))
    return sorted(shares, key=lambda policy: (float(np.mean(shares[policy])), policy))


def _bound(scores: dict[str, Scores]) -> np.ndarray:
    """``[cases]`` hindsight at the prices that the best rule's run met (the first policy's, without rules)."""
    reference = best_rule(scores) or next(iter(scores.values()))
    return reference.hindsight


def _draw_shares(ax: Any, scores: dict[str, Scores], order: list[str]) -> None:
    bound = _bound(scores)
    for row, policy in enumerate(order):
        if policy not in scores:
            continue
        one, look = scores[policy], style.look(policy)
        share = Interval(*(100.0 * x for x in share_of_hindsight(one, bound)))
        ax.errorbar(
            *(share.estimate, row),
            xerr=style.errors([share]),
            fmt=look.marker,
            color=look.colour,
            markersize=3.2,
            capsize=2.0,
            elinewidth=1.2,
        )
        text = f"{float(iqm(one.score)):.3g}"
        ax.text(1.01, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=6.5, color=BLACK)
    ax.axvline(100.0, color=BLACK, linewidth=1.0, linestyle="--")
    above = {"transform": ax.get_xaxis_transform(), "va": "bottom", "fontsize": 6.5}
    ax.text(100.0, 1.0, f"hindsight {float(iqm(bound)):.3g} ", ha="right", **above)
    ax.text(1.01, 1.0, "IQM", transform=ax.transAxes, va="bottom", fontsize=6.5)
    ax.set_yticks(range(len(order)), [style.look(policy).name for policy in order])
    ax.set_ylim(-0.6, len(order) - 0.4)
    ax.set_xlabel("IQM score [% of hindsight]")
    ax.grid(axis="y", visible=False)


def _draw_headroom(ax: Any, scores: dict[str, Scores]) -> None:
    rule = best_rule(scores)
    assert rule is not None  # `draw` asks before
    budgets = np.unique(rule.budget)
    drawn = [one for one in scores.values() if one.kind != "rule"]
    ax.axhline(0.0, color=GREY, linewidth=1.0, linestyle="-")
    ax.axhline(100.0, color=BLACK, linewidth=1.0, linestyle="--")
    for number, one in enumerate(drawn):
        look = style.look(one.policy)
        closed = [Interval(*(100.0 * x for x in headroom_at(one, rule, budget))) for budget in budgets]
        aside = 1.2 * (number - (len(drawn) - 1) / 2)  # so that bars at one budget stand side by side
        ax.errorbar(
            100.0 * budgets + aside,
            [interval.estimate for interval in closed],
            yerr=style.errors(closed),
            fmt=f"{look.marker}{'-' if one.kind == 'learner' else ':'}",
            color=look.colour,
            capsize=2.0,
            elinewidth=1.2,
            label=look.name,
        )
    ax.text(0.02, 101.0, "hindsight", transform=ax.get_yaxis_transform(), va="bottom", fontsize=6.5)
    ax.set_ylim(top=max(ax.get_ylim()[1], 117.0))
    name = style.look(rule.policy).name
    ax.set_title(f"0 = best rule ({name})", fontsize=6.5, fontweight="normal")
    ax.set_xticks(100.0 * budgets)
    ax.set_xlabel("Budget [% of the usual one]")


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
