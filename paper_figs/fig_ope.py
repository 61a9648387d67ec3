"""Figure: what off-policy estimators say of policies, against what these earn; a panel an estimator.

Each policy has one mark for each log size: what the estimator says from the first log of that size, with its 95 % interval.
On the diagonal it says the truth. Policies stand at the truth, log sizes a little to the side of it. The numbers are the
mean absolute error and Spearman's rank correlation over policies, of all logs of the largest size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from adarena.envs.palette import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION
from adarena.experiments import tables
from adarena.experiments.ope_tables import NAMES, quality
from adarena.experiments.statistics import Interval
from adarena.paper_figs import style

NAME = "ope"
TABLE = "estimates.parquet"
COLUMNS = ("estimator", "policy", "log_size", "log", "estimate", "low", "high", "truth", "ess")
_COLUMNS = 4  # panels a row
_LOOKS = ((GREY, "s"), (VERMILION, "o"), (BLUE, "^"), (GREEN, "D"), (ORANGE, "v"))


def draw(results: Path) -> Figure:
    """Draws the figure from ``estimates.parquet``.

    Args:
        results: Folder with the table.

    Raises:
        FileNotFoundError: The table is not there.
        ValueError: It lacks a column.
    """
    table = style.read(results, TABLE, COLUMNS)
    there = set(table["estimator"])
    estimators = [name for name in NAMES if name in there]
    sizes = sorted(table["log_size"].unique())
    found = {row["estimator"]: row for row in quality(table).filter(pl.col("log_size") == sizes[-1]).to_dicts()}
    rows = -(-len(estimators) // _COLUMNS)
    with style.styled():
        figure, axes = style.grid(rows, _COLUMNS, 1.9 * rows + 0.4, sharex=True, sharey=True)
        limits = _limits(table)
        for ax, name in zip(axes.flat, estimators, strict=False):
            _draw_panel(ax, table.filter(pl.col("estimator") == name), sizes, limits)
            ax.set_title(NAMES[name], fontsize=7.5)
            rank = found[name]["rank_correlation"]
            text = f"error {tables.number(found[name]['error'])}\nrank {tables.number(rank)}"
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
            ax.text(0.03, 0.97, text, transform=ax.transAxes, va="top", fontsize=6.5, bbox=box)
        for ax in axes.flat[len(estimators) :]:
            ax.set_visible(False)
        for ax in axes[:, 0]:
            ax.set_ylabel("Estimated return\n[conversions a day]")
        for ax in axes[-1]:
            ax.set_xlabel("Return when played\n[conversions a day]")
        handles = {h.get_label(): h for h in axes[0, 0].get_legend_handles_labels()[0]}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def _limits(table: pl.DataFrame) -> tuple[float, float, float, float]:
    """Range of the truth, and of the estimates that are shown: wild ones leave the panel."""
    truth = table["truth"].to_numpy()
    ends = table.filter(pl.col("log") == pl.col("log").min()).select("estimate", "low", "high", "truth").to_numpy()
    ends = ends[np.isfinite(ends)]
    span = float(np.ptp(truth)) or 1.0
    low, high = np.quantile(ends, [0.05, 0.95])
    low, high = min(low, truth.min()), max(high, truth.max())
    margin = 0.08 * (high - low) or 1.0
    return truth.min() - 0.12 * span, truth.max() + 0.12 * span, low - margin, high + margin


def _draw_panel(ax: Any, rows: pl.DataFrame, sizes: list[int], limits: tuple[float, float, float, float]) -> None:
    left, right, low, high = limits
    ax.plot([left, right], [left, right], color=BLACK, linewidth=0.8, linestyle="--", zorder=1)
    for number, size in enumerate(sizes):
        some = rows.filter(pl.col("log_size") == size)
        some = some.filter(pl.col("log") == pl.col("log").min()).sort("policy")
        colour, marker = _LOOKS[number % len(_LOOKS)]
        intervals = [Interval(*row) for row in some.select("estimate", "low", "high").iter_rows()]
        aside = (number - (len(sizes) - 1) / 2) * 0.012 * (right - left)
        ax.errorbar(
            some["truth"].to_numpy() + aside,
            some["estimate"].to_numpy(),
            yerr=style.errors(intervals),
            fmt=marker,
            color=colour,
            markersize=2.6,
            capsize=0.0,
            elinewidth=0.8,
            label=f"{size:,} episodes",
        )
    ax.set_xlim(left, right)
    ax.set_ylim(low, high + 0.35 * (high - low))  # room for the numbers above the data


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
