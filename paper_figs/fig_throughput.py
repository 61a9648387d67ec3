"""Figure: auctions cleared a second against the size of the market, a panel a size; dots are repeats, lines medians."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from adarena.envs.palette import BLUE
from adarena.paper_figs import style

NAME = "throughput"
TABLE = "throughput.parquet"
COLUMNS = ("axis", "size", "auctions_per_second")
_AXES = {
    "advertisers": "Advertisers",
    "impressions": "Impressions a tick",
    "environments": "Environments in a batch",
    "slots": "Slots",
}


def draw(results: Path) -> Figure:
    """Draws the figure from ``throughput.parquet``.

    Args:
        results: Folder with the table.

    Raises:
        FileNotFoundError: The table is not there.
        ValueError: It lacks a column, or holds a size or a rate that is not positive.
    """
    table = style.read(results, TABLE, COLUMNS)
    for column in ("size", "auctions_per_second"):
        least = float(table[column].min())  # type: ignore[arg-type]
        if not least > 0.0:
            raise ValueError(f"{TABLE}: {column} must be positive, got {least!r}")
    found = table["axis"].unique().to_list()
    axes_names = sorted(found, key=lambda axis: (list(_AXES).index(axis) if axis in _AXES else len(_AXES), axis))
    with style.styled():
        figure, axes = style.grid(1, len(axes_names), 2.1, sharey=True)
        for ax, name in zip(axes[0], axes_names, strict=True):
            _draw_axis(ax, table.filter(pl.col("axis") == name))
            ax.set_xlabel(_AXES.get(name, name))
        axes[0, 0].set_ylabel("Auctions a second")
    return figure


def _draw_axis(ax: Any, rows: pl.DataFrame) -> None:
    middle = rows.group_by("size").agg(pl.col("auctions_per_second").median()).sort("size")
    ax.plot(rows["size"], rows["auctions_per_second"], "o", color=BLUE, alpha=0.35, markersize=3, markeredgewidth=0)
    ax.plot(middle["size"], middle["auctions_per_second"], "-", color=BLUE)
    ax.set_xscale("log")
    ax.set_yscale("log")
    # A size is a whole number that somebody chose: the ticks name those, as many as fit.
    sizes = middle["size"].to_list()
    every = -(-len(sizes) // 6)
    ax.xaxis.set_major_locator(FixedLocator(sizes[::-every][::-1]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, place: f"{size:.0f}"))
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(_short))


def _short(number: float, place: int | None = None) -> str:
    """``1,500`` as ``1.5k``, ``2,000,000`` as ``2M``."""
    del place
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return f"{number:g}"


if __name__ == "__main__":
    style.script(draw, NAME)
