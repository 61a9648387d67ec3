"""How time and memory grow with the size of the market: advertisers, impressions, environments, slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from adarena.envs.palette import BLUE, GREEN, GREY, LIGHT_GREY
from adarena.experiments.bench_growth import growth
from adarena.paper_figs import style

NAME = "throughput"
TABLE = "throughput.parquet"
COLUMNS = ("axis", "size", "call_seconds", "memory_bytes")
_AXES = {
    "advertisers": "Advertisers",
    "impressions": "Impressions a tick",
    "environments": "Markets in a batch",
    "slots": "Slots",
    "slots, 8 advertisers": "Slots, 8 advertisers",
}
_ROWS = (("time", "call_seconds", 1.0, "Seconds for a day", BLUE), ("memory", "memory_bytes", 2.0**20, "MiB", GREEN))
_LETTERS = 14  # that the numbers below a panel may have together


def draw(results: Path) -> Figure:
    """Draws the figure from ``throughput.parquet``: a column an axis; above, the time of a day of all markets; below, memory.

    Grey lines rise as fast as the size does; a curve that is nowhere steeper grows linearly or better.

    Args:
        results: Folder with the table.

    Raises:
        FileNotFoundError: The table is not there.
        ValueError: It lacks a column, or holds a size, a time or an amount of memory that is not positive.
    """
    table = style.read(results, TABLE, COLUMNS)
    for column in COLUMNS[1:]:
        least = float(table[column].min())  # type: ignore[arg-type]
        if not least > 0.0:
            raise ValueError(f"{TABLE}: {column} must be positive, got {least!r}")
    found = table["axis"].unique().to_list()
    names = sorted(found, key=lambda axis: (list(_AXES).index(axis) if axis in _AXES else len(_AXES), axis))
    slopes = {(row["axis"], row["quantity"]): row for row in growth(table).iter_rows(named=True)}
    with style.styled():
        figure, axes = style.grid(2, len(names), 3.1, sharey="row", sharex="col")
        for panels, (quantity, column, unit, label, colour) in zip(axes, _ROWS, strict=True):
            panels[0].set_ylabel(label)
            for ax, name in zip(panels, names, strict=True):
                rows = table.filter(pl.col("axis") == name)
                _draw_axis(ax, rows["size"].to_numpy(), rows[column].to_numpy() / unit, colour)
                _say(ax, slopes[name, quantity])
            for ax in panels:  # not before all share their limits
                _guides(ax)
        axes[0, -1].annotate(
            "grey: linear", (0.96, 0.05), xycoords="axes fraction", ha="right", fontsize=6.0, color=GREY
        )
        for ax, name in zip(axes[-1], names, strict=True):
            ax.set_xlabel(_AXES.get(name, name))
    return figure


def _draw_axis(ax: Any, size: np.ndarray, amount: np.ndarray, colour: str) -> None:
    """Every measurement, and a line through the medians."""
    sizes = np.unique(size)
    middle = [np.median(amount[size == one]) for one in sizes]
    ax.plot(size, amount, "o", color=colour, alpha=0.35, markersize=3, markeredgewidth=0)
    ax.plot(sizes, middle, "-", color=colour)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.grid(False)
    # A size is a whole number that somebody chose: the ticks name those, as many as fit.
    every = 1
    while sum(len(f"{one:,}") for one in sizes[::-every]) > _LETTERS:
        every += 1
    ax.xaxis.set_major_locator(FixedLocator(sizes[::-every][::-1].tolist()))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, place: f"{size:,.0f}"))
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0,)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda amount, place: f"{amount:g}"))


def _say(ax: Any, slope: dict[str, Any]) -> None:
    """Slopes in words, where there is more than one size; on a wash of white, because curves may pass there."""
    if slope["exponent"] is None:
        return
    words = f"slope {slope['exponent']:.2f}\nat the end {slope['last_exponent']:.2f}"
    wash = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.0}
    ax.text(0.04, 0.97, words, transform=ax.transAxes, ha="left", va="top", fontsize=6.0, color=GREY, bbox=wash)


def _guides(ax: Any) -> None:
    """Lines of slope 1, a decade apart, over the whole panel; its limits stay."""
    low, high = np.log10(ax.get_xlim())
    bottom, top = np.log10(ax.get_ylim())
    for decade in range(int(np.floor(bottom - high)), int(np.ceil(top - low)) + 1):
        ends = np.array([low, high])
        ax.plot(10.0**ends, 10.0 ** (ends + decade), "-", color=LIGHT_GREY, linewidth=0.6, zorder=0.5, label="linear")
    ax.set_xlim(10.0**low, 10.0**high)
    ax.set_ylim(10.0**bottom, 10.0**top)


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
