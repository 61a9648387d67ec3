"""The picture of a Lifecycle episode for ``render_mode="rgb_array"``: money, cost per conversion, creatives, wear so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from adarena.envs.lifecycle_phases import PHASES
from adarena.envs.palette import BLACK, BLUE, GREEN, GREY, LIGHT_GREY, ORANGE, VERMILION

if TYPE_CHECKING:
    from adarena.envs.lifecycle import Lifecycle
    from adarena.envs.lifecycle_setup import Params
    from adarena.envs.lifecycle_state import State

HEIGHT, WIDTH, DPI = 480, 720, 100
"""Size of the picture in pixels, and the pixels of an inch of type."""

_STYLE = {"font.size": 8.0, "axes.titlesize": 8.5, "axes.spines.top": False, "axes.spines.right": False}
_HIGHEST = 3.0  # of the axis of cost over target


def draw_life(env: Lifecycle, state: State, params: Params) -> np.ndarray:
    """The life so far in four panels: spend a day, cost per conversion, exposures by creative, exposures remembered by ring.

    Vertical lines stand where a phase was entered. Conversions are those that have happened, reported or not.

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

    del params  # all that is drawn is in the state
    phases, entered = state.phases, np.asarray(state.phases.entered)
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI)
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2)
        figure.subplots_adjust(left=0.09, right=0.98, bottom=0.1, top=0.88, wspace=0.22, hspace=0.45)
        day, hour = divmod(int(state.tick), env.ticks_per_day)
        passed = [name.replace("_", " ") for name, was in zip(PHASES, np.asarray(phases.passed), strict=True) if was]
        phase = PHASES[int(phases.index)].replace("_", " ")
        title = f"day {day + 1}, tick {hour} of {env.ticks_per_day}   {phase}   passed: {', '.join(passed) or 'none'}"
        figure.suptitle(title, x=0.09, y=0.98, ha="left", fontsize=9)
        _spend(axes[0, 0], env, state)
        _cost(axes[0, 1], env, state)
        for ax in axes[0]:
            ax.set_xlim(0.0, env.days)
            ax.set_xlabel("Days since launch")
            for tick in entered[entered > 0]:
                ax.axvline(tick / env.ticks_per_day, color=GREY, linewidth=0.8, linestyle=":")
        _bars(axes[1, 0], np.asarray(state.creatives.exposure), GREEN, "Creative", "Exposures since launch")
        _bars(axes[1, 1], np.asarray(state.ring), ORANGE, "Ring, core first", "Exposures that users remember")
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _spend(ax: Any, env: Lifecycle, state: State) -> None:
    spend = np.asarray(state.history.cost, np.float64).reshape(env.days, env.ticks_per_day).sum(axis=1)
    ax.bar(np.arange(env.days) + 0.5, spend, width=0.7, color=BLUE, label="spend")
    ax.axhline(float(state.daily_budget), color=BLACK, linewidth=0.8, label="today's budget")
    ax.set_title("Spend a day [currency units]", loc="left")
    ax.legend(loc="upper left", fontsize=7, frameon=False, ncols=2)
    ax.set_ylim(0.0, 1.3 * max(float(state.daily_budget), float(spend.max())))


def _cost(ax: Any, env: Lifecycle, state: State) -> None:
    history, occurred, tick, target = jax.device_get((state.history, state.occurred, state.tick, state.campaign.target))
    days = np.arange(1, int(tick) + 1) / env.ticks_per_day
    won = np.cumsum(np.bincount(occurred, minlength=env.ticks)[: env.ticks] + history.surplus)[: int(tick)]
    cost = np.cumsum(history.cost.astype(np.float64))[: int(tick)]
    over = np.where(won > 0.0, cost / np.where(won > 0.0, target * won, 1.0), np.nan)
    ax.axhline(1.0, color=BLACK, linewidth=0.8)
    ax.plot(days, over, color=VERMILION)
    ax.set_ylim(0.0, _HIGHEST)
    ax.set_title("Cost per conversion since launch, over target [1]", loc="left")


def _bars(ax: Any, amounts: np.ndarray, colour: str, label: str, title: str) -> None:
    at = np.arange(1, len(amounts) + 1)
    ax.bar(at, amounts, width=0.7, color=colour)
    ax.set_ylim(0.0, max(1.1 * float(amounts.max()), 1.0))
    ax.set_xticks(at)
    ax.grid(axis="y", color=LIGHT_GREY, linewidth=0.5)
    ax.set_axisbelow(True)
    ax.set_xlabel(label)
    ax.set_title(title, loc="left")
