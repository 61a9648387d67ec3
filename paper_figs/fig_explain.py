"""Figure: a day of a reasoning bidder with its thoughts: spend, forecast of the budget's end, CPA, multiplier, and words.

Read from ``ticks.parquet`` of ``adarena explain``. Bars show the range that a forecast's word stands for, darker where it
was surer (all alike where a language model thought, which gives no chances); lines show what happened; dots show what would
have happened had the last multiplier been held from that tick on. In the strips below a word stands where it begins, if it
fits; its shade is its place in the slot's order, and a dot marks a word that was not true, or did not come true. Of plans,
signs count the steps by which the multiplier is to change (= holds).
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from adarena.agents.offline.thoughts import SLOTS, Slot
from adarena.envs.palette import BLACK, BLUE, GREY, LIGHT_GREY, ORANGE, SKY, VERMILION
from adarena.experiments.explain_table import column
from adarena.paper_figs import style

NAME = "explain"
TABLE = "ticks.parquet"
COLUMNS = (
    *("hour", "multiplier", "budget_left", "cost_over_target", "gone_hour", "seen_traffic_left"),
    *("held_gone_hour", "held_budget_left", "held_cost_over_target"),
    *(column(kind, slot.name) for slot in SLOTS for kind in ("thought", "chance", "true")),
)
_DAY = 24.0
_LANE = 2.5  # hours that a lane above the day is high, for a budget that lasts
_LETTER = 0.0585  # inches that a letter of the strips is wide, about
_SHORT = {
    **{"gone within 2 h": "≤ 2 h", "gone within 6 h": "≤ 6 h", "gone today": "today", "just lasts": "just lasts"},
    **{"far down": "– – –", "down": "– –", "slightly down": "–", "hold": "="},
    **{"slightly up": "+", "up": "+ +", "far up": "+ + +", "30 min": "½ h", "unknown": "?"},
}
_SHADES = ("#0072B2", "#8CBBD9", "#F2F2F2", "#EFB28A", "#D55E00")  # blue to vermilion through grey


def draw(results: Path) -> Figure:
    """Draws the figure from ``ticks.parquet``.

    Args:
        results: Folder of an explained day.

    Raises:
        FileNotFoundError: The table is not there.
        ValueError: It lacks a column.
    """
    day = style.read(results, TABLE, COLUMNS).sort("hour")
    has_target = day["cost_over_target"].is_not_null().any()
    with style.styled():
        ratios = {"height_ratios": [1.2, 1.25, 1.2, 0.8, 2.0]}
        figure, axes = style.grid(5, 1, 7.6, sharex=True, gridspec_kw=ratios)
        spend, end, cost, multiplier, words = axes[:, 0]
        _draw_spend(spend, day)
        _draw_end(end, day)
        if has_target:
            _draw_cost(cost, day)
        cost.set_visible(has_target)
        _draw_multiplier(multiplier, day)
        _draw_words(words, day)
        words.set_xlim(0.0, _DAY)
        words.set_xticks(range(0, 25, 3))
        words.set_xlabel("Hour of the day")
        figure.align_ylabels(axes[:, 0])
        handles = {h.get_label(): h for ax in axes[:3, 0] for h in ax.get_legend_handles_labels()[0]}
        shades = [
            Patch(color=_SHADES[0], label="first word of a slot"),
            Patch(color=_SHADES[-1], label="last word of a slot"),
        ]
        wrong = Patch(facecolor="none", edgecolor="none", label="•  not so, or did not come true")
        said = Patch(color=SKY, label="forecast: range of its word, the surer the darker")
        figure.legend(handles=[*handles.values(), said, *shades, wrong], loc="outside lower center", ncols=3)
    return figure


def _edges(day: pl.DataFrame) -> np.ndarray:
    """Hours at which ticks begin, and the end of the day, ``[T + 1]``."""
    return np.append(day["hour"].to_numpy(), _DAY)


def _draw_spend(ax: Any, day: pl.DataFrame) -> None:
    edges = _edges(day)
    spent = 100.0 * np.append(0.0, 1.0 - day["budget_left"].to_numpy())
    plan = 100.0 * np.append(1.0 - day["seen_traffic_left"].to_numpy(), 1.0)
    ax.axhline(100.0, color=BLACK, linewidth=0.8)
    ax.plot(edges, plan, color=GREY, linestyle="--", linewidth=1.0, label="budget, even over traffic")
    ax.plot(edges, spent, color=BLUE, label="what happened")
    ax.set_ylim(0.0, 108.0)
    ax.set_ylabel("Spend so far\n[% of budget]")


def _draw_end(ax: Any, day: pl.DataFrame) -> None:
    """When the budget ends: said, happened, and had the multiplier been held; lanes above 24 h where it lasts."""
    slot = next(slot for slot in SLOTS if slot.name == "budget")
    hour, edges = day["hour"].to_numpy(), _edges(day)
    ranges = np.asarray(
        [_range(slot, word, now) for word, now in zip(day[column("thought", "budget")], hour, strict=True)]
    )
    _bars(ax, day, slot, ranges)
    left = float(day["budget_left"][-1])
    came = day["gone_hour"][0] if day["gone_hour"][0] is not None else _lane(slot, left)
    ax.axhline(came, color=BLUE)
    pairs = zip(day["held_gone_hour"], day["held_budget_left"], strict=True)
    held = [_lane(slot, left) if gone is None else gone for gone, left in pairs]
    ax.plot(hour, held, **_HELD)
    ax.plot(edges, edges, color=GREY, linewidth=0.8, linestyle=":")
    ax.axhline(_DAY, color=BLACK, linewidth=0.8)
    lasts = slot.words[3:]
    ax.set_ylim(0.0, _DAY + _LANE * len(lasts))
    lanes = [_DAY + _LANE * (place + 0.5) for place in range(len(lasts))]
    ax.set_yticks([0, 6, 12, 18, *lanes], ["0", "6", "12", "18", *lasts], fontsize=6.0)
    ax.set_ylabel("Budget is gone\n[hour of the day]")


_HELD: dict[str, Any] = {"color": VERMILION, "marker": "o", "markersize": 2.0, "linestyle": "none"}
_HELD |= {"label": "had the last multiplier been held"}


def _range(slot: Slot, word: str, now: float) -> tuple[float, float]:
    """What a word of the budget's end means at an hour: hours of the day, or a lane above them."""
    place = slot.words.index(word)
    if place >= 3:
        return _DAY + _LANE * (place - 3), _DAY + _LANE * (place - 2)
    bounds = (0.0, *slot.edges[:2], _DAY)
    low, high = (min(now + bound, _DAY) for bound in bounds[place : place + 2])
    return low, high


def _lane(slot: Slot, left: float) -> float:
    """Middle of the lane of a budget of which a share is left."""
    place = int(np.searchsorted(np.asarray(slot.edges[3:]) - _DAY, left))
    return _DAY + _LANE * (place + 0.5)


def _draw_cost(ax: Any, day: pl.DataFrame) -> None:
    slot = next(slot for slot in SLOTS if slot.name == "final cost")
    hour, edges = day["hour"].to_numpy(), _edges(day)
    curve = day["cost_over_target"].fill_null(np.nan).to_numpy()
    held = day["held_cost_over_target"].fill_null(np.nan).to_numpy()
    low, high = _limits(np.concatenate([curve, held]))
    bounds = np.concatenate([[low], np.exp(slot.edges), [high]])
    places = [slot.words.index(word) for word in day[column("thought", slot.name)]]
    ranges = [bounds[place : place + 2] if place < slot.ordered else (low, low) for place in places]
    _bars(ax, day, slot, np.clip(np.asarray(ranges), low, high))
    ax.axhline(1.0, color=BLACK, linewidth=0.8)
    ax.plot(edges[1:], curve, color=BLUE)
    ax.plot(hour, held, **_HELD)
    ax.set_ylim(low, high)
    ax.set_ylabel("Cost per value\nover target [1]")


def _bars(ax: Any, day: pl.DataFrame, slot: Slot, ranges: np.ndarray) -> None:
    """The ranges ``[T, 2]`` of a forecast's words, the surer the darker."""
    low, high = ranges.T
    chance = day[column("chance", slot.name)].fill_null(0.5).to_numpy()
    colours = [to_rgba(SKY, 0.15 + 0.7 * float(x)) for x in chance]
    ax.bar(day["hour"], high - low, np.diff(_edges(day)), low, align="edge", color=colours, linewidth=0)


def _limits(numbers: np.ndarray) -> tuple[float, float]:
    """Range of an axis of ratios: what there is, without the wild first ticks, and the target."""
    known = numbers[np.isfinite(numbers)]
    low, high = np.quantile(known, [0.02, 0.98]) if known.size else (1.0, 1.0)
    return min(low, 0.75) - 0.05, max(high, 1.25) + 0.05


def _draw_multiplier(ax: Any, day: pl.DataFrame) -> None:
    ax.axhline(1.0, color=BLACK, linewidth=0.8)
    ax.stairs(day["multiplier"].to_numpy(), _edges(day), baseline=None, color=ORANGE, linewidth=1.4)
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda number, place: f"{number:.3g}"))
    low, high = day["multiplier"].min(), day["multiplier"].max()
    ax.set_ylim(min(low, 1.0) / 1.1, max(high, 1.0) * 1.1)  # type: ignore[type-var, operator]
    ax.set_ylabel("Bid multiplier\n[1, log scale]")


def _draw_words(ax: Any, day: pl.DataFrame) -> None:
    """A strip a slot, from the first slot at the top to the last."""
    edges = _edges(day)
    inches = 5.6 / _DAY  # of an hour
    for row, slot in enumerate(SLOTS):
        said, true = day[column("thought", slot.name)].to_list(), day[column("true", slot.name)].to_list()
        start = 0
        for word, run in groupby(said):
            stop = start + len(list(run))
            shade, ink = _shade(slot, word)
            ax.broken_barh(
                [(edges[start], edges[stop] - edges[start])], (row - 0.45, 0.9), facecolor=shade, linewidth=0
            )
            ax.plot([edges[start]] * 2, [row - 0.45, row + 0.45], color="white", linewidth=0.8)
            text = _SHORT.get(word, word)
            if len(text) * _LETTER <= (edges[stop] - edges[start]) * inches:
                ax.text(edges[start] + 0.08, row, text, fontsize=5.5, va="center", color=ink)
            start = stop
        wrong = [(a + b) / 2 for a, b, x, y in zip(edges[:-1], edges[1:], said, true, strict=True) if x != y]
        ax.plot(wrong, [row + 0.33] * len(wrong), color=BLACK, marker="o", markersize=1.3, linestyle="none")
    ax.set_ylim(len(SLOTS) - 0.5, -0.5)
    ax.set_yticks(range(len(SLOTS)), [slot.name for slot in SLOTS])
    for line in (3.5, 5.5):  # diagnosis, forecast, plan
        ax.axhline(line, color=BLACK, linewidth=0.8)
    ax.grid(False)
    ax.set_ylabel("Thought")


def _shade(slot: Slot, word: str) -> tuple[Any, str]:
    """Colour of a word by its place in the slot's order, and of the letters on it; grey for what is unknown."""
    place = slot.words.index(word)
    if place >= slot.ordered:
        return LIGHT_GREY, BLACK
    share = place / (slot.ordered - 1)
    return LinearSegmentedColormap.from_list("words", _SHADES)(share), "white" if share in (0.0, 1.0) else BLACK


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
