"""Figure: what split tests say of support, against the truth (all on less all off) on the same markets.

Points: what each design says in expectation (less what its arms differ by in the twin), with 95 % interval over markets;
the band is the truth's. Crosses: the published
simulation's figures (Ye et al., Management Science 2023), of another market and policy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from adarena.envs.palette import BLACK, GREY, LIGHT_GREY
from adarena.experiments.coldstart_ab import DESIGNS, PUBLISHED, SUMS
from adarena.experiments.coldstart_tables import interval, summarise_splits
from adarena.experiments.statistics import Interval
from adarena.paper_figs import style

NAME = "splits"
TABLE = "ab.parquet"
COLUMNS = ("policy", "design", "market", *SUMS)
_NAMES = {"truth": "Truth", "ad_side": "Ads\nsplit", "user_side": "Users\nsplit", "two_sided": "Both\nsplit"}


def draw(results: Path) -> Figure:
    """Draws the figure from ``ab.parquet``.

    Args:
        results: Folder with the table.

    Raises:
        FileNotFoundError: The table is not there.
        ValueError: It lacks a column.
    """
    summary = summarise_splits(style.read(results, TABLE, COLUMNS))
    summary = summary.filter(pl.col("outcome") == "successes")
    policies = summary["policy"].unique(maintain_order=True).to_list()
    with style.styled():
        figure, axes = style.grid(1, len(policies), 2.4, sharey=True)
        for ax, name in zip(axes[0], policies, strict=True):
            _draw_panel(ax, summary.filter(pl.col("policy") == name), name)
            ax.set_title(style.look(name).name)
        axes[0, 0].set_ylabel("Effect on success\n[percentage points]")
        handles = {h.get_label(): h for h in axes[0, 0].get_legend_handles_labels()[0]}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def _draw_panel(ax: Any, rows: pl.DataFrame, name: str) -> None:
    look = style.look(name)
    at = {
        row["design"]: Interval(*(100.0 * x for x in interval(row, "estimate"))) for row in rows.iter_rows(named=True)
    }
    found = [at[design] for design in DESIGNS]
    truth = at["truth"]
    if np.isfinite(truth.low):
        ax.axhspan(truth.low, truth.high, color=LIGHT_GREY, zorder=0.5, label="interval of the truth")
    ax.axhline(0.0, color=BLACK, linewidth=0.8)
    places = np.arange(len(DESIGNS))
    ends = np.nan_to_num(style.errors(found))
    middle = [one.estimate for one in found]
    ax.errorbar(places, middle, yerr=ends, fmt=look.marker, color=look.colour, capsize=2.5, label="this market")
    published = [100.0 * PUBLISHED[design] for design in DESIGNS]
    ax.plot(places + 0.22, published, "x", color=GREY, label="published simulation")
    ax.set_xticks(places, [_NAMES[design] for design in DESIGNS])
    ax.set_xlim(-0.5, len(DESIGNS) - 0.4)


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
