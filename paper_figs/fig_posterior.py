"""Figure: what the platform believes of one new ad, from its launch on, under no support and under support.

Above: the predicted conversions per 1,000 matched exposures, mean and a band of two posterior standard deviations, and
the truth. Below: the ad's conversions. It is the ad of the first evaluation market whom support changes most.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from adarena.envs.palette import BLACK, GREY
from adarena.paper_figs import style

NAME = "posterior"
TABLE = "posterior.parquet"
COLUMNS = ("policy", "ad", "day", "predicted", "sd", "truth", "exposures", "window", "conversions")


def draw(results: Path) -> Figure:
    """Draws the figure from ``posterior.parquet``.

    Args:
        results: Folder with the table.

    Raises:
        FileNotFoundError: The table is not there.
        ValueError: It lacks a column, or its rows are not of one ad.
    """
    table = style.read(results, TABLE, COLUMNS)
    if table["ad"].n_unique() != 1:
        raise ValueError(f"{TABLE} must hold one ad, got {table['ad'].n_unique()}")
    policies = table["policy"].unique(maintain_order=True).to_list()
    with style.styled():
        figure, axes = style.grid(2, len(policies), 3.6, sharex=True, sharey="row", height_ratios=[1.6, 1.0])
        for column, name in enumerate(policies):
            _draw_column(axes[:, column], table.filter(pl.col("policy") == name).sort("day"), name)
            axes[0, column].set_title(style.look(name).name)
            axes[1, column].set_xlabel("Days since launch")
        axes[0, 0].set_ylabel("Conversions per\n1,000 matched exposures")
        axes[1, 0].set_ylabel("Conversions\nso far")
        for ax in axes[:, 0]:  # not before all share their limits
            ax.set_ylim(bottom=0.0)
        handles = {h.get_label(): h for h in axes[0, 0].get_legend_handles_labels()[0]}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def _draw_column(axes: np.ndarray, rows: pl.DataFrame, name: str) -> None:
    look = style.look(name)
    day, mean, sd = (rows[column].to_numpy() for column in ("day", "predicted", "sd"))
    band: dict[str, Any] = {"color": look.colour, "alpha": 0.25, "linewidth": 0.0}
    low, high = 1000.0 * np.maximum(mean - 2.0 * sd, 0.0), 1000.0 * (mean + 2.0 * sd)
    axes[0].fill_between(day, low, high, label="two standard deviations", **band)
    axes[0].plot(day, 1000.0 * mean, color=look.colour, label="predicted")
    axes[0].axhline(1000.0 * rows["truth"][0], color=BLACK, linestyle="--", linewidth=1.0, label="truth")
    axes[1].step(day, rows["conversions"], where="post", color=look.colour)
    for ax in axes:
        ax.axvline(rows["window"][0], color=GREY, linestyle=":", linewidth=1.0, label="window closes")
    axes[1].set_xlim(0.0, day[-1])


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
