"""Figure: whether a reasoning bidder's forecasts are calibrated, and what its controls cost.

The upper left panels hold, for each slot of forecast, the share that came true of what was given a chance (95 % intervals
over evaluation days), against the diagonal of a calibrated forecaster; below is how many forecasts each bin holds. The right
panel, drawn where ``controls.parquet`` is there, has the difference in score of each control to the bidder on its own
thoughts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from adarena.envs.palette import BLACK, BLUE, GREEN, GREY, VERMILION
from adarena.experiments.statistics import Interval
from adarena.paper_figs import style

NAME = "reasoning"
TABLE = "reliability.parquet"
COLUMNS = ("slot", "low", "high", "chance", "count", "frequency", "frequency_low", "frequency_high")
CONTROLS = "controls.parquet"
CONTROL_COLUMNS = ("control", "score", "difference", "difference_low", "difference_high")
_LOOKS = ((BLUE, "o"), (GREEN, "^"))
_TITLES = {"budget": "Budget's end", "final cost": "Final cost over target"}


def draw(results: Path) -> Figure:
    """Draws the figure from ``reliability.parquet`` and, where it is there, ``controls.parquet``.

    Args:
        results: Folder with the tables.

    Raises:
        FileNotFoundError: ``reliability.parquet`` is not there.
        ValueError: A table lacks a column.
    """
    table = style.read(results, TABLE, COLUMNS)
    slots = table["slot"].unique(maintain_order=True).to_list()
    controls = style.read(results, CONTROLS, CONTROL_COLUMNS) if (Path(results) / CONTROLS).is_file() else None
    columns = len(slots) + (controls is not None)
    with style.styled():
        ratios = {"height_ratios": [3.0, 1.0], "width_ratios": [1.0] * len(slots) + [1.1] * (controls is not None)}
        figure, axes = style.grid(2, columns, 3.2, sharey="row", gridspec_kw=ratios)
        most = float(table["count"].max())  # type: ignore[arg-type]
        for place, slot in enumerate(slots):
            rows = table.filter(pl.col("slot") == slot).sort("low")
            _draw_reliability(axes[0, place], rows, *_LOOKS[place % len(_LOOKS)])
            _draw_counts(axes[1, place], rows, _LOOKS[place % len(_LOOKS)][0], most)
            axes[0, place].set_title(_TITLES.get(slot, slot), fontsize=7.5)
        axes[0, 0].set_ylabel("Share that came true [%]")
        axes[1, 0].set_ylabel("Forecasts\n[1, log scale]")
        if controls is not None:
            _draw_controls(_whole(figure, axes[:, -1]), controls)
    return figure


def _whole(figure: Figure, column: Any) -> Any:
    """One panel in place of a column of two."""
    place = column[0].get_gridspec()[:, -1]
    for ax in column:
        ax.remove()
    return figure.add_subplot(place)


def _draw_reliability(ax: Any, rows: pl.DataFrame, colour: str, marker: str) -> None:
    ax.plot([0.0, 100.0], [0.0, 100.0], color=BLACK, linewidth=0.8, linestyle="--")
    ends = rows.select("frequency", "frequency_low", "frequency_high").fill_nan(None)
    intervals = [
        Interval(f, f if low is None else low, f if high is None else high) for f, low, high in ends.iter_rows()
    ]
    ax.errorbar(
        100.0 * rows["chance"].to_numpy(),
        100.0 * rows["frequency"].to_numpy(),
        yerr=100.0 * style.errors(intervals),
        fmt=marker,
        color=colour,
        markersize=3.5,
        elinewidth=0.9,
        capsize=0.0,
    )
    ax.set_xlim(-3.0, 103.0)
    ax.set_ylim(-3.0, 103.0)
    ax.set_xticks(range(0, 101, 25), [])
    ax.set_yticks(range(0, 101, 25))


def _draw_counts(ax: Any, rows: pl.DataFrame, colour: str, most: float) -> None:
    low, high = (100.0 * rows[name].to_numpy() for name in ("low", "high"))
    ax.bar(low, rows["count"].to_numpy(), high - low, align="edge", color=colour, edgecolor="white", linewidth=0.5)
    ax.set_yscale("log")
    ax.set_ylim(1.0, 3.0 * most)
    ax.yaxis.set_major_locator(LogLocator(100.0, numticks=9))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda number, place: f"{number:,.0f}"))
    ax.set_xlim(-3.0, 103.0)
    ax.set_xticks(range(0, 101, 25))
    ax.set_xlabel("Chance given [%]")


def _draw_controls(ax: Any, controls: pl.DataFrame) -> None:
    names = controls["control"].to_list()
    ends = controls.select("difference", "difference_low", "difference_high").iter_rows()
    intervals = [Interval(*row) for row in ends]
    ax.axvline(0.0, color=BLACK, linewidth=0.8)
    for place, (name, interval) in enumerate(zip(names, intervals, strict=True)):
        colour = GREY if name == names[0] else VERMILION
        ax.errorbar(
            interval.estimate,
            place,
            xerr=style.errors([interval]),
            fmt="s",
            color=colour,
            markersize=3.5,
            elinewidth=1.0,
        )
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), names)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("Score less own thoughts'\n[conversions a day]")
    ax.set_title("What Act is told", fontsize=7.5)


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
