"""Figure: one day of one seat in one market under a rule and under the learner: spend, price, multiplier, CPA.

Every row is one tick: ``spend`` and ``value`` are those of the tick, ``cost_over_target`` is that of the day so far,
``price`` (market) and ``own_price`` are currency units per exposure. The optional column ``traffic`` (forecast share of
the day's impressions in each tick) adds the even plan: the budget spread over traffic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from adarena.envs.palette import BLACK, GREY
from adarena.paper_figs import style

NAME = "day"
TABLE = "day.parquet"
COLUMNS = (
    *("mechanism", "policy", "tick", "hour", "spend", "price", "own_price", "multiplier"),
    *("cost_over_target", "value", "budget", "target"),
)


def draw(results: Path) -> Figure:
    """Draws the figure from ``day.parquet``: four panels stacked, a column a mechanism.

    Args:
        results: Folder with the table.

    Raises:
        FileNotFoundError: The table is not there.
        ValueError: It lacks a column, or its rows are not of one market and seat.
    """
    table = style.read(results, TABLE, COLUMNS)
    twice = table.select("mechanism", "policy", "tick").is_duplicated().any()
    if twice:
        raise ValueError(f"{TABLE} must hold one day for each mechanism and policy, got a tick twice")
    mechanisms = style.mechanisms_of(table)
    with style.styled():
        figure, axes = style.grid(4, len(mechanisms), 5.6, sharex=True, sharey="row")
        for column, mechanism in enumerate(mechanisms):
            day = table.filter(pl.col("mechanism") == mechanism).sort("tick")
            _draw_column(axes[:, column], day)
            axes[0, column].set_title(style.mechanism_name(mechanism))
            axes[-1, column].set_xlabel("Hour of the day")
            axes[-1, column].set_xlim(0.0, 24.0)
            axes[-1, column].set_xticks(range(0, 25, 4))
        has_target = bool(np.isfinite(table["target"].to_numpy()).all())
        labels = (
            "Spend so far\n[% of budget]",
            "Cost per 1,000\n[currency units]",
            "Bid multiplier\n[1, log scale]",
            "Cost per value so far\nover target [1]" if has_target else "Value so far",
        )
        for ax, label in zip(axes[:, 0], labels, strict=True):
            ax.set_ylabel(label)
        figure.align_ylabels(axes[:, 0])
        handles = {h.get_label(): h for ax in axes.flat for h in ax.get_legend_handles_labels()[0]}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 5))
    return figure


def _draw_column(axes: np.ndarray, day: pl.DataFrame) -> None:
    spend, price, multiplier, cost = axes
    budget, target = float(day["budget"][0]), float(day["target"][0])
    policies = day["policy"].unique(maintain_order=True).to_list()
    first = day.filter(pl.col("policy") == policies[0])
    spend.axhline(100.0, color=BLACK, linewidth=0.8)
    if "traffic" in day.columns:
        plan = 100.0 * np.cumsum(first["traffic"].to_numpy().astype(np.float64))
        spend.plot(first["hour"], plan, color=GREY, linestyle="--", linewidth=1.0, label="budget, even over traffic")
    market = day.group_by("tick", maintain_order=True).agg(pl.col("hour").first(), pl.col("price").mean()).sort("tick")
    price.plot(market["hour"], 1000.0 * market["price"], color=GREY, linewidth=1.0, label="market's mean price")
    multiplier.set_yscale("log", base=2)
    multiplier.yaxis.set_major_formatter(FuncFormatter(lambda number, place: f"{number:g}"))
    multiplier.axhline(1.0, color=BLACK, linewidth=0.8)
    if np.isfinite(target):
        cost.axhline(1.0, color=BLACK, linewidth=0.8)
    for policy in policies:
        own = day.filter(pl.col("policy") == policy)
        look = style.look(policy)
        line: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 2.2, "linewidth": 1.1}
        hour, value = own["hour"].to_numpy(), own["value"].to_numpy().astype(np.float64)
        paid = own["spend"].to_numpy().astype(np.float64)
        spend.plot(hour, 100.0 * np.cumsum(paid) / budget, label=look.name, **line)
        price.plot(hour, _known(1000.0 * own["own_price"].to_numpy().astype(np.float64), paid > 0.0), **line)
        multiplier.plot(hour, own["multiplier"].to_numpy(), **line)
        won = np.cumsum(value)
        so_far = own["cost_over_target"].to_numpy().astype(np.float64)
        cost.plot(hour, _known(so_far, won > 0.0) if np.isfinite(target) else won, **line)


def _known(curve: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The curve with gaps where there is nothing to show."""
    return np.where(known, curve, np.nan)


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
