"""Figure: one campaign's life under the best rule and under the learner, day by day, with its phases shaded.

From top to bottom: spend a day against the day's budget; conversions a day; cost per conversion over target, of the last three
days and since launch; bid multiplier; audience width and exploration share; the creatives' shares of exposures. Rows of the
table are ticks (see `adarena.experiments.lifecycle.one_life`), days are sums or means over their ticks. The figure shows the
creatives that had most exposures by colour, the rest in grey; crosses stand at the share of the creative whose true click rate
is the best at the day's end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from adarena.envs.lifecycle_phases import PHASES
from adarena.envs.palette import BLACK, BLUE, GREEN, GREY, LIGHT_GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW
from adarena.paper_figs import style

NAME = "lifecycle"
TABLE = "life.parquet"
COLUMNS = (
    *(
        "policy",
        "case",
        "tick",
        "day",
        "phase",
        "spend",
        "conversions",
        "exposure",
        "multiplier",
        "exploration",
        "width",
    ),
    *("daily_budget", "target", "best", "share_0", *(f"passed_{name}" for name in PHASES)),
)
SHADES = {"understanding": YELLOW, "cold_start": SKY, "stable": LIGHT_GREY, "breakout": ORANGE}
"""Colour of each phase's band."""

_CREATIVES = (BLUE, GREEN, PURPLE, VERMILION)
_WINDOW = 3  # days over which cost per conversion is pooled
_HIGHEST = 3.0  # of the axis of cost over target
_LABELS = (
    *("Spend a day\n[currency units]", "Conversions\na day", "Cost per conversion\nover target [1]"),
    *("Bid multiplier\n[1, log scale]", "Width, exploration\n[%]", "Exposures by\ncreative [%]"),
)


def daily(rows: pl.DataFrame) -> pl.DataFrame:
    """A policy's life by day.

    Columns: ``day`` (its number, from 0), ``spend`` and ``conversions`` (sums), ``daily_budget``, ``multiplier`` (geometric
    mean), ``exploration``, ``width`` (means), ``best`` (of the last tick), ``share_K`` (by exposures; NaN on a day without
    any), ``cost_over_target`` (since launch) and ``cost_over_target_days`` (last three days); NaN before the first conversion.

    Args:
        rows: Ticks of one policy.
    """
    shares = sorted(_shares(rows), key=_number)
    shown = pl.col("exposure").sum()
    table = (
        rows.sort("tick")
        .with_columns(pl.col("day").floor().cast(pl.Int64), pl.col("exposure", "spend", *shares).cast(pl.Float64))
        .group_by("day", maintain_order=True)
        .agg(
            pl.col("spend", "conversions").sum(),
            pl.col("daily_budget", "target").first(),
            pl.col("multiplier").log().mean().exp(),
            pl.col("exploration", "width").mean(),
            pl.col("best").last(),
            *((pl.col(name) * pl.col("exposure")).sum() / shown for name in shares),
        )
    )
    spend, won = (np.cumsum(table[name].to_numpy().astype(np.float64)) for name in ("spend", "conversions"))
    target = table["target"].to_numpy().astype(np.float64)
    before = np.maximum(np.arange(len(spend)) - _WINDOW, -1)
    recent = [x - np.where(before < 0, 0.0, x[before]) for x in (spend, won)]
    return table.with_columns(
        cost_over_target=pl.Series(_ratio(spend, target * won)),
        cost_over_target_days=pl.Series(_ratio(recent[0], target * recent[1])),
    )


def phases_of(rows: pl.DataFrame) -> list[tuple[str, float, float]]:
    """Phases of a policy's life in order: name, first and last moment in days."""
    rows = rows.sort("tick")
    phase, day = rows["phase"].to_numpy(), rows["day"].to_numpy()
    ends = np.append(day, 2.0 * day[-1] - day[-2] if len(day) > 1 else day[-1] + 1.0)
    starts = np.flatnonzero(np.diff(phase, prepend=-1))
    return [
        (PHASES[int(phase[at])], float(ends[at]), float(ends[until]))
        for at, until in zip(starts, [*starts[1:], len(phase)], strict=True)
    ]


def draw(results: Path) -> Figure:
    """Draws the figure from ``life.parquet``: six panels stacked, a column a policy.

    Args:
        results: Folder with the table.

    Raises:
        FileNotFoundError: The table is not there.
        ValueError: It lacks a column, or its rows are not of one life.
    """
    table = style.read(results, TABLE, COLUMNS)
    if table["case"].n_unique() != 1 or table.select("policy", "tick").is_duplicated().any():
        raise ValueError(f"{TABLE} must hold one life for each policy, got several")
    policies = table["policy"].unique(maintain_order=True).to_list()
    lives = {name: table.filter(pl.col("policy") == name) for name in policies}
    days = {name: daily(rows) for name, rows in lives.items()}
    colours = _colours(days)
    with style.styled():
        figure, axes = style.grid(len(_LABELS), len(policies), 7.6, sharex=True, sharey="row")
        for column, name in enumerate(policies):
            for ax in axes[:, column]:
                _shade(ax, phases_of(lives[name]))
            _draw_money(axes[:3, column], days[name])
            _draw_controls(axes[3:, column], days[name], colours)
            axes[0, column].set_title(style.look(name).name, pad=13.0)
            place = {"xycoords": "axes fraction", "xytext": (0, 4), "textcoords": "offset points"}
            axes[0, column].annotate(_passed(lives[name]), (0.0, 1.0), **place, fontsize=6.5)
            axes[-1, column].set_xlabel("Days since launch")
            axes[-1, column].set_xlim(0.0, days[name].height)
        for ax, label in zip(axes[:, 0], _LABELS, strict=True):
            ax.set_ylabel(label)
        for ax in axes[:2, 0]:
            ax.set_ylim(bottom=0.0)
        figure.align_ylabels(axes[:, 0])
        handles = {h.get_label(): h for ax in axes.flat for h in ax.get_legend_handles_labels()[0]}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    return figure


def _passed(rows: pl.DataFrame) -> str:
    last = rows.sort("tick").row(-1, named=True)
    names = [name.replace("_", " ") for name in PHASES if last[f"passed_{name}"]]
    return f"passed: {', '.join(names) or 'none'}"


def _shade(ax: Any, phases: list[tuple[str, float, float]]) -> None:
    for name, begins, ends in phases:
        ax.axvspan(begins, ends, color=SHADES[name], alpha=0.35, linewidth=0.0, label=name.replace("_", " "), zorder=0)
    for _, begins, _ in phases[1:]:
        ax.axvline(begins, color=GREY, linewidth=0.6, linestyle=":")


def _draw_money(axes: np.ndarray, days: pl.DataFrame) -> None:
    spend, conversions, cost = axes
    edges, middle = np.arange(days.height + 1), np.arange(days.height) + 0.5
    budget = days["daily_budget"].to_numpy()
    spend.bar(middle, days["spend"], width=0.7, color=BLUE, label="of the day")
    spend.step(edges, np.append(budget, budget[-1]), where="post", color=BLACK, linewidth=1.0, label="budget")
    conversions.bar(middle, days["conversions"], width=0.7, color=BLUE)
    conversions.yaxis.set_major_locator(MaxNLocator(integer=True))
    cost.axhline(1.0, color=BLACK, linewidth=0.8)
    cost.plot(middle, days["cost_over_target"], color=BLACK, linestyle="--", linewidth=1.0, label="cost since launch")
    cost.plot(middle, days["cost_over_target_days"], color=VERMILION, label="cost, last three days")
    cost.set_ylim(0.0, _HIGHEST)


def _draw_controls(axes: np.ndarray, days: pl.DataFrame, colours: dict[str, str]) -> None:
    multiplier, width, creatives = axes
    middle = np.arange(days.height) + 0.5
    multiplier.set_yscale("log", base=2)
    multiplier.yaxis.set_major_formatter(FuncFormatter(lambda number, place: f"{number:g}"))
    multiplier.axhline(1.0, color=BLACK, linewidth=0.8)
    multiplier.plot(middle, days["multiplier"], color=BLUE)
    low, high = multiplier.get_ylim()
    multiplier.set_ylim(min(low, 0.45), max(high, 2.2))
    width.plot(middle, 100.0 * days["width"], color=GREEN, label="audience width")
    width.plot(middle, 100.0 * days["exploration"], color=PURPLE, linestyle="--", label="exploration share")
    width.set_ylim(0.0, 105.0)
    for name, colour in colours.items():
        label = f"creative {_number(name) + 1}"
        creatives.plot(middle, 100.0 * days[name], color=colour, linewidth=1.1, label=label)
    others = [name for name in _shares(days) if name not in colours]
    for name in others:
        line: dict[str, Any] = {"label": "other creatives"} if name == others[0] else {}
        creatives.plot(middle, 100.0 * days[name], color=GREY, linewidth=0.6, **line)
    best = days["best"].to_numpy()
    at = np.asarray([days[f"share_{k}"][row] for row, k in enumerate(best)], np.float64)
    creatives.plot(middle, 100.0 * at, "x", color=BLACK, markersize=2.5, linestyle="", label="truly best creative")
    creatives.set_ylim(0.0, 105.0)


def _colours(days: dict[str, pl.DataFrame]) -> dict[str, str]:
    """The creatives with colours of their own, the same under all policies: those with most exposures over days."""
    table = pl.concat(list(days.values()))
    names = sorted(_shares(table), key=lambda name: -float(np.nansum(table[name].to_numpy())))
    return dict(zip(names[: len(_CREATIVES)], _CREATIVES, strict=False))


def _shares(table: pl.DataFrame) -> list[str]:
    return [name for name in table.columns if name.startswith("share_")]


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below``; NaN where ``below`` is not positive."""
    return np.where(below > 0.0, above / np.where(below > 0.0, below, 1.0), np.nan)


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
