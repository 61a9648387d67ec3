"""The picture of a ColdStart episode for ``render_mode="rgb_array"``: revenue, fund, outcomes and predictions so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from adarena.envs.coldstart_state import FAILED, SUCCEEDED, State
from adarena.envs.palette import BLACK, BLUE, GREEN, GREY, LIGHT_GREY, ORANGE, VERMILION

if TYPE_CHECKING:
    from adarena.envs.coldstart import ColdStart
    from adarena.envs.coldstart_setup import Params

HEIGHT, WIDTH, DPI = 480, 720, 100
"""Size of the picture in pixels, and the pixels of an inch of type."""

_STYLE = {"font.size": 8.0, "axes.titlesize": 8.5, "axes.spines.top": False, "axes.spines.right": False}
_COLOURS = {0: GREY, SUCCEEDED: GREEN, FAILED: VERMILION}
_NAMES = {0: "open", SUCCEEDED: "succeeded", FAILED: "failed"}


def draw_launches(env: ColdStart, state: State, params: Params) -> np.ndarray:
    """The episode so far in four panels: revenue by day, the fund, conversions by age, predicted against true value.

    Args:
        env: The environment.
        state: State of one episode, at any tick.
        params: Parameters of the environment.

    Returns:
        ``[480, 720, 3]`` uint8.

    Raises:
        ValueError: ``state`` is a batch of episodes.
    """
    if np.ndim(state.tick):
        raise ValueError(f"state must be one episode, tick of shape (), got a batch of shape {np.shape(state.tick)}")
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seen = jax.device_get((state.tick, state.side, state.twin, state.world.fund, state.world.launch))
    tick, side, twin, fund, launch = seen
    truth = np.asarray(state.world.ctr.rate * state.world.cvr.rate)[env.mature :]
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI)
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2)
        figure.subplots_adjust(left=0.1, right=0.98, bottom=0.1, top=0.9, wspace=0.26, hspace=0.45)
        day, hour = divmod(int(tick), env.ticks_per_day)
        won = int((side.outcome == SUCCEEDED).sum())
        title = f"day {day + 1}, tick {hour} of {env.ticks_per_day}   {won} of {env.launched} launched ads succeeded"
        figure.suptitle(title, x=0.1, y=0.98, ha="left", fontsize=9)
        _revenue(axes[0, 0], env, side, twin)
        _fund(axes[0, 1], float(side.fund_spent), float(fund))
        _conversions(axes[1, 0], env, side, (int(tick) - launch) / env.ticks_per_day, params)
        _predictions(axes[1, 1], side, truth)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _revenue(ax: Any, env: ColdStart, side: Any, twin: Any) -> None:
    days = np.arange(1, env.days + 1)
    ax.bar(days, side.revenue, color=BLUE, width=0.7, label="with support")
    if twin is not None:
        ax.plot(days, twin.revenue, color=BLACK, marker="_", linestyle="", label="without")
    ax.set_xlim(0.5, env.days + 0.5)
    ax.set_xlabel("Day")
    ax.set_title("Revenue [currency units]", loc="left")
    ax.legend(loc="lower right", fontsize=7, frameon=False)


def _fund(ax: Any, spent: float, fund: float) -> None:
    ax.barh([0], [fund], color=LIGHT_GREY)
    ax.barh([0], [spent], color=ORANGE)
    ax.set_xlim(0.0, max(1.05 * fund, 1e-6))
    ax.set_yticks([])
    ax.set_title("Exploration fund spent [currency units]", loc="left")


def _conversions(ax: Any, env: ColdStart, side: Any, age: np.ndarray, params: Params) -> None:
    shown = age >= 0
    for outcome, colour in _COLOURS.items():
        chosen = shown & (side.outcome == outcome)
        ax.plot(age[chosen], side.conversion[chosen], ".", color=colour, label=_NAMES[outcome])
    ax.axhline(float(params.required_conversions), color=BLACK, linewidth=0.8)
    ax.axvline(float(params.window_days), color=BLACK, linewidth=0.8)
    ax.set_xlim(0.0, env.days)
    ax.set_ylim(0.0, max(3.0 * float(params.required_conversions), 1.0))
    ax.set_xlabel("Age [days]")
    ax.set_title("Conversions of launched ads", loc="left")
    ax.legend(loc="upper right", fontsize=7, frameon=False)


def _predictions(ax: Any, side: Any, truth: np.ndarray) -> None:
    predicted = side.beliefs.ctr * side.beliefs.cvr
    ends = [0.9 * min(truth.min(), predicted.min()), 1.1 * max(truth.max(), predicted.max())]
    ax.plot(ends, ends, color=GREY, linewidth=0.8)
    ax.plot(truth, predicted, ".", color=BLUE)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("True conversions per exposure")
    ax.set_title("Predicted conversions per exposure", loc="left")
