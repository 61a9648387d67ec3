"""Speed of the learners from logs; what `adarena.experiments.bench` calls."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from rich.table import Table

from adarena.agents.offline.data import Data, make_data, spec_of
from adarena.agents.offline.episodes import Episodes
from adarena.agents.offline.loop import train
from adarena.envs import make
from adarena.experiments import bench_tables as shown
from adarena.experiments.bench_market import ENV_ID, QUICK_MARKET, Span, alternate, mark
from adarena.experiments.offline_learners import ALGORITHMS, configured

if TYPE_CHECKING:
    from adarena.experiments.bench import BenchConfig

_EPISODES, _QUICK_EPISODES = 1024, 8
_LOG_STEPS = 25  # gradient steps of one program, after which the host looks in


class _TimeUpError(Exception):
    """Ends a training when it has been measured for long enough."""


def measure_offline(config: BenchConfig) -> pl.DataFrame:
    """Gradient steps of each learner at its default sizes, one seed, on a log of AutoBid's shape.

    The log is noise: speed does not hang on what is in it.

    Returns:
        Also ``contender``, the learner's name. ``steps`` are gradient steps.
    """
    env, params = make(ENV_ID, **(QUICK_MARKET if config.quick else {}))
    data = _noise(env, params, _QUICK_EPISODES if config.quick else _EPISODES)
    rows = []
    for repeat, name in alternate(config, list(config.learners), "offline"):
        span, warmup = _train(config, name, env, params, data)
        rows.append({"contender": name, "repeat": repeat} | span.columns() | {"warmup_seconds": warmup})
    return pl.DataFrame(rows)


def _noise(env: Any, params: Any, count: int) -> Data:
    draw, spec, steps = np.random.default_rng(0), spec_of(env, params), env.max_steps(params)
    terminated = np.zeros((count, steps), bool)
    terminated[:, -1] = True
    actions = len(spec.low)
    episodes = Episodes(
        draw.uniform(0.0, 1.0, (count, steps + 1, spec.observations)).astype(np.float32),
        draw.uniform(spec.low, spec.high, (count, steps, actions)).astype(np.float32),
        draw.uniform(0.0, 1.0, (count, steps)).astype(np.float32),
        terminated,
        np.full((count, steps), np.nan, np.float32),
        np.zeros(count, np.int32),
        np.arange(count, dtype=np.int64),
    )
    return make_data(episodes, spec)


def _train(config: BenchConfig, name: str, env: Any, params: Any, data: Data) -> tuple[Span, float]:
    """Whole programs of gradient steps; the first is warm-up."""
    steps = 1 if config.quick else _LOG_STEPS
    learner = configured(name, env, params, steps)
    marks: list[Span] = []
    began = time.perf_counter()

    def look(states: Any, rows: pl.DataFrame) -> None:
        marks.append(mark(len(marks) * steps))
        if len(marks) > 1 and marks[-1].wall - marks[0].wall >= config.seconds:
            raise _TimeUpError

    with contextlib.suppress(_TimeUpError):
        train(
            ALGORITHMS[name],
            learner,
            data,
            seeds=[0],
            total_steps=2**20 * steps,
            log_steps=steps,
            chunk_updates=1,
            on_chunk=look,
            progress=False,
        )
    return marks[-1].since(marks[0]), marks[0].wall - began


def offline_tables(frame: pl.DataFrame, config: BenchConfig) -> list[Table]:
    """The table of `measure_offline`."""
    table = shown.new_table(
        "Learning from logs: median over the repeats",
        *("learner", "gradient steps/s", "range", "CPU s for 1,000", "cores", "warm-up s"),
        caption="One seed, default sizes; learners' steps differ in what a batch holds.",
    )
    for (name,), rows in frame.group_by("contender", maintain_order=True):
        each = 1000.0 * rows["cpu_seconds"] / rows["steps"]
        speed = shown.median(rows["steps_per_second"], 1)
        cells = (
            speed,
            shown.spread(rows),
            shown.median(each, 1),
            shown.cores(rows),
            shown.most(rows["warmup_seconds"]),
        )
        table.add_row(str(name), *cells)
    return [table]
