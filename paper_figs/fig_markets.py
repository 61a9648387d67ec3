"""Figure: learners from logs against rules and a learner who plays, one panel a market.

Score in the live market over the hindsight bound on it, IQM with 95 % interval (over training seeds; over markets for
rules): filled at all budgets together, hollow at the smallest and the largest. The dashed line is the best constant
multiplier in hindsight. Policies are ordered by their mean over the panels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from adarena.envs.palette import BLACK, GREY
from adarena.experiments.protocol import BEST_CONSTANT
from adarena.paper_figs import style

NAME = "markets"
TABLE = "markets.parquet"
_COLUMNS = ("traffic", "response", "mechanism", "budget_scale", "policy", "kind", "score", "score_low", "score_high")
_TRAFFIC = {"calibrated": "Default market", "auctionnet": "AuctionNet"}
_RESPONSE = {"expected": "dense", "sampled": "sparse"}
_ENDS = ("<", ">")  # markers of the smallest and the largest budget


def draw(results: Path) -> Figure:
    """Draws the figure from ``markets.parquet``.

    Args:
        results: Folder with the table.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It lacks a column.
    """
    table = style.read(results, TABLE, _COLUMNS)
    parts = table.partition_by("traffic", "response", "mechanism", maintain_order=True)
    order = _order(table)
    with style.styled():
        figure, axes = style.grid(1, len(parts), 1.0 + 0.16 * len(order), sharex=True, sharey=True)
        for ax, rows in zip(axes[0], parts, strict=True):
            _panel(ax, rows, order)
        axes[0, 0].set_yticks(range(len(order)), [style.look(name).name for name in order])
        figure.legend(handles=_legend(table), loc="outside lower center", ncols=4)
    return figure


def _order(table: pl.DataFrame) -> list[str]:
    """Learners and rules, lowest mean of score over bound first."""
    whole = table.filter(pl.col("budget_scale").is_null())
    market = ["traffic", "response", "mechanism"]
    bound = whole.filter(pl.col("kind") == "bound").select(*market, pl.col("score").alias("bound"))
    rows = whole.filter(pl.col("kind").is_in(["learner", "rule"])).join(bound, on=market)
    means = rows.group_by("policy").agg((pl.col("score") / pl.col("bound")).mean().alias("mean"))
    return means.sort("mean", "policy")["policy"].to_list()


def _panel(ax: Any, rows: pl.DataFrame, order: list[str]) -> None:
    first = rows.row(0, named=True)
    title = _TRAFFIC.get(first["traffic"], first["traffic"])
    ax.set_title(f"{title},\n{_RESPONSE[first['response']]}, {style.mechanism_name(first['mechanism'])}")
    ax.set_xlabel("Score over\nhindsight bound [%]")
    for budget, marker in ((None, None), *_ends(rows)):
        part = rows.filter(pl.col("budget_scale").eq_missing(budget))
        bound = part.filter(pl.col("kind") == "bound")["score"].item()
        for row in part.filter(pl.col("policy").is_in(order)).iter_rows(named=True):
            _point(ax, row, order.index(row["policy"]), bound, marker)
        if budget is None:
            top = part.filter(pl.col("policy") == BEST_CONSTANT)["score"].item()
            ax.axvline(100.0 * top / bound, color=BLACK, linewidth=0.8, linestyle="--")


def _point(ax: Any, row: dict[str, Any], place: int, bound: float, marker: str | None) -> None:
    """One policy; hollow and without its interval where a marker is given."""
    look, at = style.look(row["policy"]), 100.0 * row["score"] / bound
    if marker is not None:
        ax.plot(at, place, marker, color=look.colour, markerfacecolor="none", markersize=3.0, alpha=0.7)
        return
    ends = (row[end] if row[end] is not None else np.nan for end in ("score_low", "score_high"))
    low, high = (100.0 * end / bound for end in ends)
    reach = np.maximum(np.nan_to_num([[at - low], [high - at]]), 0.0)
    ax.errorbar(at, place, xerr=reach, fmt=look.marker, color=look.colour, capsize=2.0)


def _ends(table: pl.DataFrame) -> list[tuple[float, str]]:
    """The smallest and the largest budget with their markers; none where there is one budget."""
    budgets = table["budget_scale"].drop_nulls().unique().sort().to_list()
    return list(zip((budgets[0], budgets[-1]), _ENDS, strict=True)) if len(budgets) > 1 else []


def _legend(table: pl.DataFrame) -> list[Line2D]:
    look: dict[str, Any] = {"color": GREY, "linestyle": "none"}
    return [
        Line2D([], [], marker="o", label="all budgets", **look),
        *(Line2D([], [], marker=m, markerfacecolor="none", label=f"budget {b:.0%}", **look) for b, m in _ends(table)),
        Line2D([], [], color=BLACK, linewidth=0.8, linestyle="--", label=style.look(BEST_CONSTANT).name),
    ]


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
