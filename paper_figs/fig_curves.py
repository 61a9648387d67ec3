"""Figure: learning curves, a panel a mechanism: seeds thin, their IQM thick, the best rule dashed.

A long curve is shown as means of neighbouring updates, so that the noise of single batches does not hide the lines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from adarena.envs.palette import BLACK
from adarena.experiments.statistics import iqm
from adarena.paper_figs import fig_scores, style

NAME = "curves"
TABLE = "curves.parquet"
COLUMNS = ("mechanism", "seed", "step", "episode_return")
_POINTS = 60  # of a curve, about


def curves_of(table: pl.DataFrame, mechanism: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps ``[n]`` that every seed has logged, and the return of each seed there ``[seeds, n]``.

    Points at which any seed has no finite return yet (no episode has ended) are left out; of more than 120, each
    ``n // 60`` neighbours give one, their mean at the last one's step.
    """
    rows = table.filter(pl.col("mechanism") == mechanism)
    wide = rows.pivot(on="seed", index="step", values="episode_return", sort_columns=True).sort("step")
    returns = wide.drop("step").cast(pl.Float64).to_numpy().T
    shared = np.isfinite(returns).all(axis=0)
    steps, returns = wide["step"].to_numpy()[shared], returns[:, shared]
    each = max(1, len(steps) // _POINTS)
    whole = len(steps) // each * each
    return steps[each - 1 : whole : each], returns[:, :whole].reshape(len(returns), -1, each).mean(axis=2)


def draw(results: Path) -> Figure:
    """Draws the figure from ``curves.parquet``, and from ``scores.parquet`` where it is there (the best rule).

    Args:
        results: Folder with the tables.

    Raises:
        FileNotFoundError: ``curves.parquet`` is not there.
        ValueError: A table lacks a column.
    """
    table = style.read(results, TABLE, COLUMNS)
    mechanisms = style.mechanisms_of(table)
    has_scores = (Path(results) / fig_scores.TABLE).is_file()
    scores = style.read(results, fig_scores.TABLE, fig_scores.COLUMNS) if has_scores else None
    with style.styled():
        figure, axes = style.grid(1, len(mechanisms), 2.3)
        for ax, mechanism in zip(axes[0], mechanisms, strict=True):
            _draw_curves(ax, *curves_of(table, mechanism))
            if scores is not None:
                _draw_rule(ax, fig_scores.best_rule(fig_scores.scores_of(scores, mechanism)))
            ax.set_title(style.mechanism_name(mechanism))
            ax.set_xlabel("Environment steps [millions]")
        axes[0, 0].set_ylabel("Return of an episode\n[score of a day]")
        handles = {h.get_label(): h for ax in axes[0] for h in ax.get_legend_handles_labels()[0]}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def _draw_curves(ax: Any, steps: np.ndarray, returns: np.ndarray) -> None:
    colour = style.look("ppo").colour
    for number, own in enumerate(returns):
        ax.plot(steps / 1e6, own, color=colour, alpha=0.35, linewidth=0.6, label="one seed" if number == 0 else None)
    if steps.size:
        ax.plot(steps / 1e6, iqm(returns, axis=0), color=colour, linewidth=1.8, label="IQM over seeds")
    ax.set_xlim(left=0.0)


def _draw_rule(ax: Any, rule: fig_scores.Scores | None) -> None:
    if rule is None:
        return
    height = float(rule.score.mean())
    ax.axhline(height, color=BLACK, linewidth=1.0, linestyle="--", label="best rule, mean score in evaluation")
    name = style.look(rule.policy).name
    place = {"xycoords": ax.get_yaxis_transform(), "xytext": (0, -2), "textcoords": "offset points"}
    ax.annotate(name, (0.98, height), **place, ha="right", va="top", fontsize=6.5)


if __name__ == "__main__":
    style.script(draw, NAME, TABLE)
