"""Figure: bidders that learn from logs, against rules and learners who play, live and on a logged day.

Left: score in the live market, IQM with 95 % interval (over training seeds; over markets for rules); the line is the best
constant in hindsight. Middle: what generative bidders bring on tuning markets by what they are asked for. Right: the same
policies against rivals that repeat a logged day, over their score against rivals who respond.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from adarena.envs.palette import BLACK, GREY
from adarena.experiments.protocol import BEST_CONSTANT
from adarena.paper_figs import style

NAME = "offline"
TABLE = "disagreement.parquet"
SUMMARY, ASKED = "summary.parquet", "asked.parquet"


def draw(results: Path) -> Figure:
    """Draws the figure from ``summary.parquet``, ``asked.parquet`` and ``disagreement.parquet``.

    Args:
        results: Folder with the tables.

    Raises:
        FileNotFoundError: A table is not there.
        ValueError: One lacks a column.
    """
    summary = style.read(results, SUMMARY, ("policy", "kind", "score", "score_low", "score_high"))
    asked = style.read(results, ASKED, ("policy", "target", "score", "chosen"))
    both = style.read(results, TABLE, ("policy", "live", "replayed"))
    with style.styled():
        figure, axes = style.grid(1, 3, 3.0, gridspec_kw={"width_ratios": (1.35, 1.0, 1.0)})
        _scores(axes[0, 0], summary)
        _asked(axes[0, 1], asked.filter(pl.col("policy").is_in(summary["policy"].to_list())))
        _live_and_replayed(axes[0, 2], both)
        handles, labels = axes[0, 1].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
    return figure


def _scores(ax: Any, summary: pl.DataFrame) -> None:
    rows = summary.filter(pl.col("kind").is_in(["learner", "rule"])).sort("score").to_dicts()
    for place, row in enumerate(rows):
        look = style.look(row["policy"])
        low, high = (row[end] if row[end] is not None else np.nan for end in ("score_low", "score_high"))
        reach = np.nan_to_num([[row["score"] - low], [high - row["score"]]])
        ax.errorbar(row["score"], place, xerr=reach, fmt=look.marker, color=look.colour, capsize=2.0)
    ax.set_yticks(range(len(rows)), [style.look(row["policy"]).name for row in rows])
    top = summary.filter(pl.col("policy") == BEST_CONSTANT)["score"]
    if len(top):
        ax.axvline(top[0], color=BLACK, linewidth=0.8, linestyle="--")
        at = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "ha": "right", "fontsize": "small"}
        ax.annotate(style.look(BEST_CONSTANT).name.replace(" in ", "\nin "), (top[0], 0.02), (-3, 0), **at)
    ax.set_xlabel("Score, live market\n[conversions a day]")


def _asked(ax: Any, asked: pl.DataFrame) -> None:
    for name in asked["policy"].unique(maintain_order=True):
        rows, look = asked.filter(pl.col("policy") == name).sort("target"), style.look(name)
        ax.plot(rows["target"], rows["score"], marker=look.marker, color=look.colour, label=look.name)
        best = rows.filter(pl.col("chosen"))
        ax.plot(best["target"], best["score"], "o", markersize=8, markerfacecolor="none", color=look.colour)
    ax.set_xlabel("Return asked for\n[standard deviations]")
    ax.set_ylabel("Score, tuning markets\n[conversions a day]")


def _live_and_replayed(ax: Any, both: pl.DataFrame) -> None:
    ends = [float(both.select(pl.min_horizontal("live", "replayed").min()).item())]
    ends.append(float(both.select(pl.max_horizontal("live", "replayed").max()).item()))
    ax.plot(ends, ends, color=GREY, linewidth=0.8)
    for row in both.iter_rows(named=True):
        look = style.look(row["policy"])
        ax.plot(row["live"], row["replayed"], look.marker, color=look.colour)
    ax.set_xlabel("Score, rivals respond\n[conversions a day]")
    ax.set_ylabel("Score, logged day [conversions a day]")


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
