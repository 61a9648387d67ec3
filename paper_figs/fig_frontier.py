"""Figure: success against exploration cost, a curve a policy, a point an exploration budget.

Left: cost as the fund's charges over revenue without support; right: as the revenue that the platform loses against its twin.
Bars are 95 % intervals of success: markets are resampled, and of learners training seeds as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adarena.envs.palette import LIGHT_GREY
from adarena.experiments.coldstart_tables import by_level, interval
from adarena.paper_figs import style

NAME = "frontier"
TABLE = "frontier.parquet"
COLUMNS = (
    *("policy", "kind", "seed", "case", "market", "success_rate", "exploration_cost", "revenue_twin", "revenue_loss"),
    *("welfare_gain", "longrun_revenue_gain", "exploration_budget"),
)


def draw(results: Path) -> Figure:
    """Draws the figure from ``frontier.parquet``.

    Args:
        results: Folder with the table.

    Raises:
        FileNotFoundError: The table is not there.
        ValueError: It lacks a column.
    """
    table = by_level(style.read(results, TABLE, COLUMNS), ("exploration_budget",))
    policies = sorted(table["policy"].unique().to_list(), key=lambda name: -_last(table, name))
    with style.styled():
        figure, axes = style.grid(1, 2, 3.9, sharey=True)
        for ax, cost in zip(axes[0], ("cost_share", "revenue_loss"), strict=True):
            for name in policies:
                _draw_curve(ax, table.filter(pl.col("policy") == name).sort("exploration_budget"), cost)
            ax.xaxis.set_major_locator(MaxNLocator(6))
        axes[0, 0].set_xlabel("Fund's charges [% of revenue without support]")
        axes[0, 1].set_xlabel("Platform revenue lost against its twin [%]")
        axes[0, 1].axvline(0.0, color=LIGHT_GREY, linewidth=0.8, zorder=0.5)
        axes[0, 0].set_ylabel("Launched ads that succeed [%]")
        handles = {h.get_label(): h for h in axes[0, 0].get_legend_handles_labels()[0]}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    return figure


def _last(table: pl.DataFrame, policy: str) -> float:
    rows = table.filter(pl.col("policy") == policy).sort("exploration_budget")
    return float(rows["success_rate"][-1])


def _draw_curve(ax: Any, rows: pl.DataFrame, cost: str) -> None:
    name, kind = rows["policy"][0], rows["kind"][0]
    look = style.look(name)
    found = [interval(row, "success_rate") for row in rows.iter_rows(named=True)]
    height = 100.0 * np.asarray([one.estimate for one in found])
    strong = kind != "rule"
    ax.errorbar(
        100.0 * rows[cost].to_numpy(),
        height,
        yerr=100.0 * np.nan_to_num(style.errors(found)),
        color=look.colour,
        marker=look.marker,
        linestyle="--" if kind == "oracle" else "-",
        linewidth=1.6 if strong else 0.9,
        elinewidth=0.6,
        capsize=1.5,
        zorder=3 if strong else 2,
        label=look.name,
    )


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
