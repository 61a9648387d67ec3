"""The picture of an AutoBid day for ``render_mode="rgb_array"``: spend, price, win rate and CPA of the seat so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from adarena.envs.palette import BLACK, BLUE, GREEN, GREY, LIGHT_GREY, ORANGE, VERMILION

if TYPE_CHECKING:
    from adarena.envs.autobid_setup import Params
    from adarena.envs.autobid_state import State

HEIGHT, WIDTH, DPI = 480, 720, 100
"""Size of the picture in pixels, and the pixels of an inch of type."""

_PER_MILLE = 1000.0
_STYLE = {"font.size": 8.0, "axes.titlesize": 8.5, "axes.spines.top": False, "axes.spines.right": False}


class Day(NamedTuple):
    """Numbers behind the picture; arrays ``[t]`` float64 over the ``t`` ticks cleared so far unless said.

    Attributes:
        hour: Hour at which each tick ends.
        spend: Money paid since the start of the day, currency units.
        plan: ``[T + 1]`` the budget spread evenly over forecast traffic, currency units, from hour 0 on.
        market_price: Mean least winning price per 1,000 impressions, currency units.
        own_price: Cost per 1,000 exposures of the seat, currency units; NaN without exposures.
        win_rate: Exposures of the seat over impressions.
        cost_over_target: Cost per unit of value so far over the target; NaN before any value, or without a target.
        value: Value won since the start of the day.
        budget: Float, currency units.
        target: Float, currency units per unit of value; infinite where none binds.
        tick: Ticks cleared.
        ticks: ``T``.
    """

    hour: np.ndarray
    spend: np.ndarray
    plan: np.ndarray
    market_price: np.ndarray
    own_price: np.ndarray
    win_rate: np.ndarray
    cost_over_target: np.ndarray
    value: np.ndarray
    budget: float
    target: float
    tick: int
    ticks: int


def day_so_far(state: State, params: Params) -> Day:
    """Reads the curves of a day out of an episode's state.

    Args:
        state: State of one episode (not of a batch), at any tick.
        params: Parameters of its environment.

    Raises:
        ValueError: ``state`` is a batch of episodes.
    """
    if np.ndim(state.tick):
        raise ValueError(f"state must be one episode, tick of shape (), got a batch of shape {np.shape(state.tick)}")
    seen, seat, daily, now = jax.device_get((state.history, state.seat, params.bank.daily, state.tick))
    tick, ticks = int(now), len(seen.cost)
    offered, exposure, cost, value, least = (
        np.asarray(x[:tick], np.float64) for x in (seen.offered, seen.exposure, seen.cost, seen.value, seen.least_price)
    )
    spend, won = np.cumsum(cost), np.cumsum(value)
    budget, target = float(seat.budget), float(seat.target)
    return Day(
        hour=24.0 * np.arange(1, tick + 1) / ticks,
        spend=spend,
        plan=budget * np.concatenate([[0.0], np.cumsum(np.asarray(daily, np.float64))]),
        market_price=_ratio(_PER_MILLE * least, offered),
        own_price=_ratio(_PER_MILLE * cost, exposure),
        win_rate=_ratio(exposure, offered),
        cost_over_target=_ratio(spend, target * won) if np.isfinite(target) else np.full(tick, np.nan),
        value=won,
        budget=budget,
        target=target,
        tick=tick,
        ticks=ticks,
    )


def draw_day(state: State, params: Params) -> np.ndarray:
    """The day so far in four panels: spend, price, win rate, and cost per value over target (value, without a target).

    The same state gives the same pixels, whatever the user's own matplotlib settings are.

    Args:
        state: State of one `adarena.envs.autobid.AutoBid` episode, at any tick from 0 to the last.
        params: Parameters of its environment.

    Returns:
        ``[480, 720, 3]`` uint8.

    Raises:
        ValueError: ``state`` is a batch of episodes.
    """
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    day = day_so_far(state, params)
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI)
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2)
        figure.subplots_adjust(left=0.09, right=0.98, bottom=0.1, top=0.88, wspace=0.22, hspace=0.42)
        figure.suptitle(_headline(day), x=0.09, y=0.98, ha="left", fontsize=9)
        for ax, draw in zip(axes.flat, (_spend, _price, _win_rate, _cost_over_target), strict=True):
            draw(ax, day)
            _over_hours(ax, day)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _headline(day: Day) -> str:
    target = f"target {day.target:,.4g} per unit of value" if np.isfinite(day.target) else "no target"
    hour, minute = divmod(round(24 * 60 * day.tick / day.ticks), 60)
    return f"{hour:02d}:{minute:02d}   budget {day.budget:,.6g}   {target}"


def _over_hours(ax: Any, day: Day) -> None:
    """What the panels share: the hours of the day, and a line at the present one."""
    ax.set_xlim(0.0, 24.0)
    ax.set_xticks(range(0, 25, 6))
    ax.grid(color=LIGHT_GREY, linewidth=0.5)
    ax.set_axisbelow(True)
    if day.tick < day.ticks:
        ax.axvline(24.0 * day.tick / day.ticks, color=GREY, linewidth=0.8, linestyle=":")
    if ax.get_subplotspec().is_last_row():
        ax.set_xlabel("Hour of the day")


def _spend(ax: Any, day: Day) -> None:
    hours = 24.0 * np.arange(day.ticks + 1) / day.ticks
    ax.plot(hours, day.plan, color=GREY, linestyle="--", linewidth=1.0, label="even over traffic")
    ax.axhline(day.budget, color=BLACK, linewidth=1.0, label="budget")
    ax.plot([0.0, *day.hour], [0.0, *day.spend], color=BLUE, linewidth=1.6, label="spent")
    ax.set_ylim(0.0, 1.08 * day.budget)
    ax.set_title("Spend since 00:00 [currency units]", loc="left")
    ax.legend(loc="lower right", fontsize=7, frameon=False)


def _price(ax: Any, day: Day) -> None:
    ax.plot(day.hour, day.market_price, color=GREY, linewidth=1.2, label="least winning price")
    ax.plot(day.hour, day.own_price, color=VERMILION, linewidth=1.4, marker="o", markersize=2, label="own cost")
    ax.set_ylim(0.0, _top(day.market_price, day.own_price, least=1e-6 if day.tick else 1.0, room=1.35))
    ax.set_title("Price of 1,000 impressions [currency units]", loc="left")
    ax.legend(loc="upper left", fontsize=7, frameon=False, ncols=2)


def _win_rate(ax: Any, day: Day) -> None:
    ax.plot(day.hour, 100.0 * day.win_rate, color=GREEN, linewidth=1.4, marker="o", markersize=2)
    ax.set_ylim(0.0, _top(100.0 * day.win_rate, least=1.0))
    ax.set_title("Win rate [% of impressions]", loc="left")


def _cost_over_target(ax: Any, day: Day) -> None:
    if not np.isfinite(day.target):
        ax.plot([0.0, *day.hour], [0.0, *day.value], color=ORANGE, linewidth=1.6)
        ax.set_ylim(0.0, _top(day.value, least=1e-6 if day.tick else 1.0))
        ax.set_title("Value since 00:00", loc="left")
        return
    ax.axhline(1.0, color=BLACK, linewidth=1.0)
    ax.plot(day.hour, day.cost_over_target, color=ORANGE, linewidth=1.6, marker="o", markersize=2)
    ax.set_ylim(0.0, min(_top(day.cost_over_target, least=1.4), 5.0))
    ax.set_title("Cost per value so far, over target [1]", loc="left")


def _top(*curves: np.ndarray, least: float, room: float = 1.1) -> float:
    """The upper end of an axis that starts at 0: ``room`` times the highest known point, and at least ``least``."""
    known = np.concatenate([curve[np.isfinite(curve)] for curve in curves])
    return max(room * float(known.max(initial=0.0)), least)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below``; NaN where ``below`` is not positive."""
    return np.where(below > 0.0, above / np.where(below > 0.0, below, 1.0), np.nan)
