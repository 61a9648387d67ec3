"""Figure: the platform's revenue day by day with support of new ads and without, on the same random numbers.

Above: revenue of a day over the mean day without support. Below: the difference, with 95 % intervals over markets; support
costs while ads are launched and learnt about, and pays (or not) when those that succeeded stay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from adarena.envs.palette import BLACK, GREY
from adarena.experiments.statistics import Bootstrap, Interval, stratified_bootstrap
from adarena.paper_figs import style

NAME = "revenue"
TABLE = "revenue.parquet"
COLUMNS = ("policy", "market", "day", "charge", "revenue", "revenue_twin")


def change_of(rows: pl.DataFrame) -> list[Interval]:
    """Change of a day's revenue in percent of the twin's, with its interval, for every day."""
    found = []
    for day in np.sort(rows["day"].unique().to_numpy()):
        own = rows.filter(pl.col("day") == day).sort("market")
        pair = own.select("revenue", "revenue_twin").to_numpy().astype(np.float64)[None]
        found.append(stratified_bootstrap(pair, _change, options=Bootstrap(resample="markets")))
    return found


def _change(x: np.ndarray, axis: Any) -> np.ndarray:
    total = x.sum(axis=axis[:-1])
    return 100.0 * (total[..., 0] / np.maximum(total[..., 1], 1e-9) - 1.0)


def draw(results: Path) -> Figure:
    """Draws the figure from ``revenue.parquet``.

    Args:
        results: Folder with the table.

    Raises:
        FileNotFoundError: The table is not there.
        ValueError: It lacks a column.
    """
    table = style.read(results, TABLE, COLUMNS)
    policies = [name for name in table["policy"].unique(maintain_order=True) if name != "none"]
    with style.styled():
        figure, axes = style.grid(2, max(1, len(policies)), 3.6, sharex=True, sharey="row")
        for column, name in enumerate(policies):
            _draw_column(axes[:, column], table.filter(pl.col("policy") == name), name)
            axes[0, column].set_title(style.look(name).name)
            axes[1, column].set_xlabel("Day of the episode")
        axes[0, 0].set_ylabel("Revenue of a day\n[% of mean without]")
        axes[1, 0].set_ylabel("Change [%]")
        handles = {h.get_label(): h for ax in axes[0] for h in ax.get_legend_handles_labels()[0]}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def _draw_column(axes: np.ndarray, rows: pl.DataFrame, name: str) -> None:
    look = style.look(name)
    daily = rows.group_by("day").agg(pl.col("revenue", "revenue_twin", "charge").mean()).sort("day")
    day, unit = daily["day"].to_numpy() + 1, 100.0 / max(float(daily["revenue_twin"].mean()), 1e-9)  # type: ignore[arg-type]
    axes[0].plot(day, unit * daily["revenue_twin"], color=GREY, linestyle="--", label="without support")
    axes[0].plot(day, unit * daily["revenue"], color=look.colour, marker=look.marker, label=f"with: {look.name}")
    found = change_of(rows)
    axes[1].axhline(0.0, color=BLACK, linewidth=0.8)
    middle = [one.estimate for one in found]
    axes[1].errorbar(
        day,
        middle,
        yerr=np.nan_to_num(style.errors(found)),
        color=look.colour,
        marker=look.marker,
        elinewidth=0.8,
        capsize=1.5,
    )
    axes[1].set_xlim(0.5, day[-1] + 0.5)


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
