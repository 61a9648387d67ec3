"""Figure: share of launched ads that succeed, by definition of success (conversions required / days), all policies.

95 % intervals: markets are resampled, and of learners training seeds as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from adarena.experiments.coldstart_tables import MEAN, using, values
from adarena.experiments.statistics import Interval, stratified_bootstrap
from adarena.paper_figs import style

NAME = "definitions"
TABLE = "scores.parquet"
COLUMNS = ("policy", "kind", "seed", "case", "market", "success_20_7", "success_50_7", "success_rate")
_PANELS = {
    "success_rate": "10 conversions in 3 days",
    "success_20_7": "20 in 7 days",
    "success_50_7": "50 in 7 days",
}


def intervals_of(scores: pl.DataFrame, column: str) -> dict[str, Interval]:
    """Mean rate of every policy, in percent, with its interval."""
    found = {}
    for name in scores["policy"].unique(maintain_order=True):
        one = stratified_bootstrap(values(scores, name, column), MEAN, **using(scores, name))
        found[name] = Interval(*(100.0 * x for x in one))
    return found


def draw(results: Path) -> Figure:
    """Draws the figure from ``scores.parquet``.

    Args:
        results: Folder with the table.

    Raises:
        FileNotFoundError: The table is not there.
        ValueError: It lacks a column.
    """
    table = style.read(results, TABLE, COLUMNS).filter(pl.col("kind") != "bound")
    found = {column: intervals_of(table, column) for column in _PANELS}
    order = sorted(found["success_rate"], key=lambda name: found["success_rate"][name].estimate)
    with style.styled():
        figure, axes = style.grid(1, len(_PANELS), 0.19 * len(order) + 0.8, sharey=True)
        for ax, (column, title) in zip(axes[0], _PANELS.items(), strict=True):
            _draw_panel(ax, found[column], order)
            ax.set_title(title)
            ax.set_xlabel("Launched ads that succeed [%]")
        axes[0, 0].set_yticks(range(len(order)), [style.look(name).name for name in order])
    return figure


def _draw_panel(ax: Any, found: dict[str, Interval], order: list[str]) -> None:
    if "none" in found:
        ax.axvline(found["none"].estimate, color=style.look("none").colour, linewidth=0.8, linestyle=":")
    for height, name in enumerate(order):
        look, one = style.look(name), found[name]
        ends = np.nan_to_num(style.errors([one]))
        bar: dict[str, Any] = {"color": look.colour, "capsize": 2.5, "linewidth": 1.0, "markersize": 3.0}
        ax.errorbar([one.estimate], [height], xerr=ends, fmt=look.marker, **bar)
    ax.set_xlim(left=0.0)
    ax.set_ylim(-0.6, len(order) - 0.4)


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
