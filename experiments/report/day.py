"""A day of the market to scrub through: what every advertiser spends, wins, pays and bids, tick by tick."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from bokeh.core.types import ID
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter, Span
from bokeh.plotting import figure

from adarena.envs.palette import BLUE, GREY, VERMILION
from adarena.experiments import autobid, protocol
from adarena.experiments.market_day import SEAT
from adarena.experiments.report.leaderboard import environment_of
from adarena.experiments.results import DONE, Folder, experiment_config
from adarena.paper_figs import style

PANELS = {
    "market": "Price over the day",
    "spent": "Spent so far",
    "multiplier": "Bid multiplier",
    "wins": "Wins",
    "price": "Price paid",
}
"""Panels of the day, by the id of the element that holds each."""

_HEIGHT = 230
_PER_MILLE = 1000.0
_WITH_DAYS = "AutoBidExperiment"


class Day(NamedTuple):
    """One day of one market under one policy.

    Attributes:
        title: What a reader calls it.
        note: Where it comes from.
        table: Rows of `adarena.experiments.market_day.market_table`.
    """

    title: str
    note: str
    table: pl.DataFrame


def days_of(folders: list[Folder]) -> list[Day]:
    """The days that folders keep; where one keeps none, that of its best rule, played from its configuration.

    Args:
        folders: Folders of results; only finished ones of ``adarena run autobid`` have such days.
    """
    found = []
    for folder in folders:
        if folder.status != DONE or not any(record.kind == _WITH_DAYS for record in folder.records):
            continue
        table, note = folder.tables.get("market"), "the day that the run recorded"
        if table is None:
            table, note = _played(folder), "the best rule's day, played again from the run's configuration"
        if table is None:
            continue
        for (mechanism, policy), rows in table.group_by("mechanism", "policy", maintain_order=True):
            where = f"{environment_of(folder)}, {style.mechanism_name(str(mechanism))}"
            found.append(Day(f"{where}: {style.look(str(policy)).name} in the seat", f"{folder.name}; {note}", rows))
    return found


def _played(folder: Folder) -> pl.DataFrame | None:
    """The day of each mechanism's best rule; None for replays, whose one bidder meets logged prices."""
    parts = []
    for record in folder.records:
        if record.kind != _WITH_DAYS or not {"tuning", "summary"} <= {*folder.tables}:
            continue
        config = experiment_config(record, autobid.AutoBidExperiment)
        parts += [] if config.replays else [_play(config, name, folder) for name in config.markets_of()]
    return pl.concat(parts) if parts else None


def _play(config: autobid.AutoBidExperiment, mechanism: str, folder: Folder) -> pl.DataFrame:
    here = pl.col("mechanism") == mechanism
    rules = folder.tables["summary"].filter(here & (pl.col("kind") == "rule")).sort("score", descending=True)
    best = str(rules["policy"][0])
    env, params = config.make(mechanism, "test")
    tuned = folder.tables["tuning"].filter(here & (pl.col("policy") == best))
    _, market = autobid.one_day(env, params, protocol.rebuilt_rules(tuned, env), config.cases(params))
    return market.with_columns(pl.lit(mechanism).alias("mechanism"))


def day_json(day: Day) -> dict[str, Any]:
    """A day as the page's script reads it.

    Keys: ``title``, ``note``, ``hours`` (a tick's length), ``seat`` (index or None), ``kind`` ``[N]``, ``budget`` ``[N]``;
    ``spend``, ``wins``, ``multiplier`` ``[T][N]``; ``price`` ``[T]``, currency units per 1,000 wins, None without any.

    Args:
        day: A day.
    """
    table = day.table.sort("tick", "advertiser")
    ticks, count = table["tick"].n_unique(), table["advertiser"].n_unique()
    arrays = {
        x: table[x].to_numpy().astype(np.float64).reshape(ticks, count) for x in ("spend", "exposure", "multiplier")
    }
    kinds = table["kind"].to_list()[:count]
    wins = arrays["exposure"].sum(axis=1)
    price = _PER_MILLE * arrays["spend"].sum(axis=1) / np.where(wins > 0.0, wins, np.nan)
    return {
        "title": day.title,
        "note": day.note,
        "hours": 24.0 / ticks,
        "seat": kinds.index(SEAT) if SEAT in kinds else None,
        "kind": [kind.replace("_", " ") for kind in kinds],
        "budget": [_short(x) for x in table["budget"].to_list()[:count]],
        "spend": [[_short(x) for x in row] for row in arrays["spend"]],
        "wins": [[_short(x) for x in row] for row in arrays["exposure"]],
        "multiplier": [[_short(x) for x in row] for row in arrays["multiplier"]],
        "price": [_short(x) if np.isfinite(x) else None for x in price],
    }


def panels() -> dict[str, dict[str, Any]]:
    """The empty panels as BokehJS takes them, by the names of `PANELS`; the page's script fills them."""
    drawn = {"market": _over_the_day(), **{name: _by_advertiser(name) for name in PANELS if name != "market"}}
    return {name: dict(json_item(plot, ID(f"panel-{name}"))) for name, plot in drawn.items()}


def _short(x: float) -> float:
    """Five digits: more than a picture shows, half the page's size."""
    return float(f"{x:.5g}")


def _panel(name: str, x_label: str, y_label: str, **options: Any) -> Any:
    plot = figure(
        height=_HEIGHT,
        sizing_mode="stretch_width",
        tools="",
        toolbar_location=None,
        title=None,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        x_axis_label=x_label,
        y_range=(0.1, 1.0),  # the script sets it to that of the whole day, so that pictures stand still
        y_axis_label=y_label,
        name=name,
        **options,
    )
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.minor_tick_line_color = None
    plot.xgrid.grid_line_color = None
    plot.yaxis.axis_label_standoff = 4
    return plot


def _over_the_day() -> Any:
    source = ColumnDataSource({"hour": [0.0], "price": [0.0]}, name="data-market")
    plot = _panel("plot-market", "hour of the day", "currency units per 1,000", x_range=(0.0, 24.0))
    plot.xaxis.ticker = list(range(0, 25, 4))
    plot.line("hour", "price", source=source, line_color=BLUE, line_width=2, name="line")
    plot.add_layout(Span(location=0.0, dimension="height", line_color=VERMILION, line_width=2, name="now"))
    plot.add_tools(HoverTool(tooltips=[("hour", "@hour{0.0}"), ("price", "@price{0,0.00}")], mode="vline"))
    return plot


def _by_advertiser(name: str) -> Any:
    units = {
        "spent": "% of budget",
        "multiplier": "multiplier, log scale",
        "wins": "impressions in the tick",
        "price": "per 1,000, log scale",
    }
    columns: dict[str, list[Any]] = {"who": [0], "y": [1.0], "kind": [""], "colour": [GREY]}
    columns |= {"marker": ["circle"], "size": [7]}
    source = ColumnDataSource(columns, name=f"data-{name}")
    scale: dict[str, Any] = {"y_axis_type": "log"} if name in ("multiplier", "price") else {}
    plot = _panel(f"plot-{name}", "advertiser", units[name], x_range=(-1.0, 1.0), **scale)
    if name in ("spent", "wins"):
        drawn = plot.vbar("who", top="y", width=0.8, source=source, fill_color="colour", line_color=None)
    else:
        drawn = plot.scatter("who", "y", size="size", marker="marker", source=source, color="colour")
        thirds = sorted(x * 10.0**power for power in range(-5, 6) for x in (1.0, 3.0))
        plot.yaxis.ticker = [2.0**power for power in range(-6, 7)] if name == "multiplier" else thirds
        plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[00000]")
    if name == "multiplier":
        plot.add_layout(Span(location=1.0, dimension="width", line_color=GREY, line_dash="dashed"))
    tips = [("advertiser", "@who"), ("law", "@kind"), (PANELS[name], "@y{0,0.000}")]
    plot.add_tools(HoverTool(tooltips=tips, renderers=[drawn]))
    return plot
