"""The loop of learning from logs, for any algorithm: `adarena.agents.training.run`, with data where others play."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl

from adarena.agents import checkpoint as checkpoints
from adarena.agents.fields import is_count
from adarena.agents.offline.data import Data, Spec, shapes_of
from adarena.agents.offline.learner import Algorithm
from adarena.agents.training import OnChunk, run
from adarena.agents.training import restore as restore_states


def train(
    algorithm: Algorithm,
    config: Any,
    data: Data,
    *,
    seeds: Sequence[int],
    total_steps: int,
    log_steps: int = 100,
    chunk_updates: int = 10,
    on_chunk: OnChunk | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> tuple[Any, pl.DataFrame]:
    """Trains one learner a seed, all in one program, on the same data.

    Args:
        algorithm: A module such as `adarena.agents.offline.bc`.
        config: Its configuration. A leaf is one number, or has one entry a seed.
        data: What to learn from (`adarena.agents.offline.data.make_data`).
        seeds: Distinct whole numbers in [0, 2^32).
        total_steps: Gradient steps a seed, rounded up to a multiple of ``log_steps``.
        log_steps: Gradient steps of one row of the curve, whose metrics are means over them.
        chunk_updates: Rows between two looks from outside: ``on_chunk`` and a checkpoint.
        on_chunk, checkpoint, resume, progress: As in `adarena.agents.training.run`.

    Returns:
        The states stacked over seeds, leaves ``[S, ...]``, and the learning curve: a row a seed and ``log_steps``, with
        columns ``seed``, ``update``, ``step`` (gradient steps so far), the algorithm's metrics, ``wall_seconds``.

    Raises:
        ValueError: An argument is not allowed, or the discount is 1 and no episode ends by itself, so that values have
            no bound.
        adarena.agents.checkpoint.CheckpointError: The checkpoint is damaged, or of another run, algorithm or data.
    """
    config.validate()
    if not is_count(log_steps):
        raise ValueError(f"log_steps must be a whole number of at least 1, got {log_steps!r}")
    _check_discount(config, data)
    about = {"algorithm": algorithm.__name__.rpartition(".")[2], "log_steps": log_steps}
    if checkpoint is not None:
        about["data"] = checkpoints.digest(data)
    return run(
        _Init(algorithm.init),
        _Advance(algorithm.update, log_steps),
        config,
        data.spec,
        data,
        steps_per_update=log_steps,
        seeds=seeds,
        total_steps=total_steps,
        chunk_updates=chunk_updates,
        on_chunk=on_chunk,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
        about=about,
    )


def restore(algorithm: Algorithm, config: Any, spec: Spec, steps: int, checkpoint: str | Path) -> tuple[Any, list[int]]:
    """The newest states that `train` left in ``checkpoint``; the log that was learnt from is not needed.

    Args:
        algorithm: The module that was trained.
        config: A configuration with the sizes of the one that was trained with; its numbers are not read.
        spec: Sizes and bounds of the environment.
        steps: Of an episode of the log.
        checkpoint: As in `train`.

    Returns:
        The states stacked over seeds, and the seeds.

    Raises:
        adarena.agents.checkpoint.CheckpointError: There is no checkpoint, or it is damaged, or of other sizes.
    """
    return restore_states(checkpoint, _Init(algorithm.init), config, spec, shapes_of(spec, steps))


@dataclasses.dataclass(frozen=True)
class _Init:
    """The loop's ``init`` of an algorithm; equal for equal functions, so that its program is compiled once."""

    init: Callable[[Any, Data, jax.Array], Any]

    def __call__(self, config: Any, spec: Spec, data: Data, key: jax.Array) -> Any:
        return self.init(config, data, key)


@dataclasses.dataclass(frozen=True)
class _Advance:
    """The loop's update: several gradient steps, and their metrics' means."""

    update: Callable[[Any, Data, Any], tuple[Any, Any]]
    steps: int

    def __call__(self, config: Any, spec: Spec, data: Data, state: Any) -> tuple[Any, Any]:
        def step(state: Any, _: None) -> tuple[Any, Any]:
            return self.update(config, data, state)

        state, metrics = jax.lax.scan(step, state, None, length=self.steps)
        return state, jax.tree.map(lambda x: x.mean(0), metrics)


def _check_discount(config: Any, data: Data) -> None:
    discount = getattr(config, "discount", 0.0)
    if np.max(np.asarray(discount)) >= 1.0 and not bool(np.asarray(data.terminated).any()):
        raise ValueError(f"discount must be below 1 where no episode is terminated, got {discount!r}")
