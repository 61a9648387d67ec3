"""The loop of training, for any algorithm: a host loop over one program that makes several updates for all seeds.

Between programs ("chunks") there is time for logging, evaluation and checkpoints.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from tqdm import tqdm

from adarena.agents import checkpoint as checkpoints
from adarena.envs.cache import drop_programs
from adarena.envs.core import Env

InitFn = Callable[[Any, Any, Any, jax.Array], Any]
"""``(config, env, params, key) -> state``, for one seed."""

AdvanceFn = Callable[[Any, Any, Any, Any], tuple[Any, Any]]
"""``(config, env, params, state) -> (state, metrics)``, one update for one seed; metrics are a dataclass of scalars."""

OnChunk = Callable[[Any, pl.DataFrame], None]
"""``(states, rows) -> None``, called after each chunk with the states stacked over seeds and the curve's new rows.

The states' buffers are used again by the next chunk: evaluate or copy them, but do not keep them.
"""


def run(
    init: InitFn,
    advance: AdvanceFn,
    config: Any,
    env: Env | Hashable,
    params: Any,
    *,
    steps_per_update: int,
    seeds: Sequence[int],
    total_steps: int,
    chunk_updates: int = 10,
    on_chunk: OnChunk | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    place: Callable[[Any], Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> tuple[Any, pl.DataFrame]:
    """Trains one learner a seed under ``jax.vmap``.

    Args:
        init: Makes the state of one seed. A module-level function: it is part of the key under which programs are
            cached.
        advance: Makes one update of one seed; likewise.
        config: Hyper-parameters, a flax dataclass. A leaf is one number, or has one entry a seed.
        env: The environment, static. Of a learner from logs (`adarena.agents.offline`), which meets none, what it needs
            to know of one.
        params: Its parameters, shared by all seeds; they are passed to the program, not built into it. Of a learner from
            logs, the logs.
        steps_per_update: Environment steps that one update uses; of a learner from logs, gradient steps.
        seeds: Distinct whole numbers in [0, 2^32).
        total_steps: Steps a seed, rounded up to whole updates.
        chunk_updates: Updates between two looks from outside.
        on_chunk: Called after each chunk.
        checkpoint: Folder for a checkpoint after each chunk (after ``on_chunk``); the two newest are kept.
        resume: Whether to go on from the newest checkpoint in ``checkpoint``, if there is one. The bits are those of
            a run that was never stopped, provided that config, environment, parameters and seeds are the same.
        progress: Whether to show a progress bar.
        place: Puts the states stacked over seeds on the devices on which ``advance`` works, where those are several.
        about: More that must be the same for a resumed run to be the run that was stopped, by name; what JSON can hold.

    Returns:
        The states stacked over seeds, leaves ``[S, ...]``, and the learning curve: a row a seed and update, with
        columns ``seed``, ``update``, ``step`` (steps of that seed so far), one a metric, and
        ``wall_seconds`` (since the start, at the end of the chunk; time before a resumption counts).

    Raises:
        ValueError: An argument or a config's leaf is not allowed.
        adarena.agents.checkpoint.CheckpointError: The checkpoint is damaged, or of another run.
    """
    _check(seeds, total_steps, chunk_updates, checkpoint, resume)
    drop_programs()  # an experiment that trains many learners compiles more than a process can hold
    updates = -(-total_steps // steps_per_update)
    config = _spread(config, len(seeds))
    params = jax.device_put(params)
    identity = {**(about or {}), **_identity(config, env, params, seeds)} if checkpoint is not None else {}
    curve = _Curve(list(seeds), steps_per_update)
    start = functools.partial(_init_all, init, env, config, params, jnp.asarray(seeds, jnp.uint32))
    if resume and checkpoint is not None and checkpoints.steps(checkpoint):
        states = _resume(checkpoint, start, curve, identity, env)
    else:
        states = start()
    if place is not None:
        states = place(states)

    def step(states: Any, count: int) -> tuple[Any, Any]:
        return _run_chunk(advance, env, chunk_updates, config, params, states, count)

    def after(states: Any, rows: pl.DataFrame) -> None:
        if on_chunk is not None:
            on_chunk(states, rows)
        if checkpoint is not None:
            checkpoints.save(checkpoint, curve.updates, (states, curve.columns), metadata=curve.metadata(identity))

    states = _loop(step, after, states, curve, updates, chunk_updates, progress)
    return states, curve.frame()


def restore(folder: str | Path, init: InitFn, config: Any, env: Env | Hashable, params: Any) -> tuple[Any, list[int]]:
    """The newest states of a training, to be looked at and not to be gone on with.

    Args:
        folder: What `run` was given as ``checkpoint``.
        init: As in `run`.
        config: A configuration with the sizes of the one that was trained with; its numbers are not read.
        env: As in `run`.
        params: As in `run`; leaves may be ``jax.ShapeDtypeStruct``, since only shapes are read.

    Returns:
        The states stacked over seeds, and the seeds.

    Raises:
        adarena.agents.checkpoint.CheckpointError: There is no checkpoint, or it is damaged, or of other sizes.
    """
    metadata = checkpoints.read_metadata(folder)
    seeds = [int(seed) for seed in metadata["identity"]["seeds"]]
    keyed = jnp.asarray(seeds, jnp.uint32)
    start = functools.partial(_init_all, init, env, _spread(config, len(seeds)))
    states, _ = _saved(
        folder, checkpoints.steps(folder)[-1], jax.eval_shape(start, params, keyed), metadata, len(seeds)
    )
    return states, seeds


def _loop(
    step: Callable[[Any, int], tuple[Any, Any]],
    after: Callable[[Any, pl.DataFrame], None],
    states: Any,
    curve: _Curve,
    updates: int,
    chunk_updates: int,
    progress: bool,
) -> Any:
    """Runs chunks until ``curve`` holds ``updates`` updates."""
    started = time.perf_counter() - curve.wall_seconds
    steps_per_update = curve.steps_per_update * len(curve.seeds)
    with tqdm(total=updates * steps_per_update, unit="step", unit_scale=True, disable=not progress) as bar:
        bar.update(curve.updates * steps_per_update)
        while curve.updates < updates:
            count = min(chunk_updates, updates - curve.updates)
            states, metrics = step(states, count)
            rows = curve.add(jax.device_get(metrics), count, time.perf_counter() - started)
            bar.update(count * steps_per_update)
            if "episode_return" in rows.columns:
                bar.set_postfix_str(f"return {_last_return(rows):.4g}")
            after(states, rows)
    return states


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init_all(init: InitFn, env: Any, config: Any, params: Any, seeds: jax.Array) -> Any:
    return jax.vmap(lambda config, seed: init(config, env, params, jax.random.key(seed)))(config, seeds)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=5)
def _run_chunk(
    advance: AdvanceFn, env: Any, capacity: int, config: Any, params: Any, states: Any, count: jax.Array
) -> tuple[Any, Any]:
    """Makes ``count`` updates; metrics have room for ``capacity``, so a short last chunk needs no second program."""
    step = jax.vmap(lambda config, state: advance(config, env, params, state))
    shapes = jax.eval_shape(step, config, states)[1]
    metrics = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), shapes)

    def body(index: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        states, metrics = carry
        states, new = step(config, states)
        return states, jax.tree.map(lambda all_rows, row: all_rows.at[index].set(row), metrics, new)

    return jax.lax.fori_loop(0, count, body, (states, metrics))


class _Curve:
    """The learning curve as columns ``[updates, seeds]``."""

    def __init__(self, seeds: list[int], steps_per_update: int) -> None:
        self.seeds = seeds
        self.steps_per_update = steps_per_update
        self.columns: dict[str, np.ndarray] = {}

    @property
    def updates(self) -> int:
        return len(self.columns["wall_seconds"]) if self.columns else 0

    @property
    def wall_seconds(self) -> float:
        return float(self.columns["wall_seconds"][-1, 0]) if self.columns else 0.0

    def add(self, metrics: Any, count: int, wall_seconds: float) -> pl.DataFrame:
        new = {field.name: np.asarray(getattr(metrics, field.name))[:count] for field in dataclasses.fields(metrics)}
        new["wall_seconds"] = np.full((count, len(self.seeds)), wall_seconds, np.float32)
        before = self.updates
        self.columns = {name: np.concatenate([self.columns[name], new[name]]) for name in new} if before else new
        return self.frame(before)

    def metadata(self, identity: dict[str, Any]) -> dict[str, Any]:
        return {"identity": identity, "updates": self.updates, "columns": list(self.columns)}

    def frame(self, start: int = 0) -> pl.DataFrame:
        """Rows of the updates from ``start`` on, seed by seed within an update."""
        updates = np.repeat(np.arange(start + 1, self.updates + 1), len(self.seeds))
        seeds = np.tile(np.asarray(self.seeds, np.int64), self.updates - start)
        values = {name: column[start:].reshape(-1) for name, column in self.columns.items()}
        return pl.DataFrame({"seed": seeds, "update": updates, "step": updates * self.steps_per_update, **values})


_BEFORE = {
    "shards": "1",
    "network": "mlp",
    "initial_action": "None",
}  # what fields were, in effect, before checkpoints had them


def _as_known(env: Any, saved: str) -> str:
    """The environment's ``repr`` without fields that ``saved`` does not have, where they are at their defaults: what it
    would have been before it had them.
    """
    if not dataclasses.is_dataclass(env):
        return repr(env)
    kept = [
        f"{field.name}={getattr(env, field.name)!r}"
        for field in dataclasses.fields(env)
        if f"{field.name}=" in saved or getattr(env, field.name) != field.default
    ]
    return f"{type(env).__qualname__}({', '.join(kept)})"


def _resume(folder: str | Path, start: Callable[[], Any], curve: _Curve, identity: dict[str, Any], env: Any) -> Any:
    """The saved states, shaped as those that ``start`` makes; fills ``curve``. Refuses a checkpoint of another run."""
    newest = checkpoints.steps(folder)[-1]
    metadata = checkpoints.read_metadata(folder, newest)
    known = metadata.get("identity", {})
    for name in {**identity, **known}:
        saved, value = known.get(name, _BEFORE.get(name)), identity.get(name, _BEFORE.get(name))
        if name == "env" and saved is not None:
            value = _as_known(env, saved)
        if saved != value:
            raise checkpoints.CheckpointError(
                f"{Path(folder)}: is a checkpoint of another run: {name} was {saved}, now {value}"
            )
    states, columns = _saved(folder, newest, jax.eval_shape(start), metadata, len(curve.seeds))
    curve.columns = {name: np.asarray(columns[name]) for name in metadata["columns"]}
    return states


def _saved(
    folder: str | Path, step: int, states: Any, metadata: Mapping[str, Any], seeds: int
) -> tuple[Any, dict[str, Any]]:
    """The states, of the shapes of ``states``, and the curve's columns of one checkpoint."""
    shape = (metadata["updates"], seeds)
    columns = {name: jax.ShapeDtypeStruct(shape, np.float32) for name in metadata["columns"]}
    return checkpoints.restore(folder, (states, columns), step=step)[0]


def _spread(config: Any, count: int) -> Any:
    """Gives every leaf of the config one entry a seed."""

    def spread(path: Any, leaf: Any) -> jax.Array:
        array = jnp.asarray(leaf, jnp.float32)
        if array.ndim and array.shape != (count,):
            name = jax.tree_util.keystr(path).lstrip(".")
            raise ValueError(f"{name} must be one number or one a seed ({count}), got shape {array.shape}")
        return jnp.broadcast_to(array, (count,))

    return jax.tree_util.tree_map_with_path(spread, config)


def _identity(config: Any, env: Any, params: Any, seeds: Sequence[int]) -> dict[str, Any]:
    """What must be the same for a resumed run to be the run that was stopped."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    numbers = {
        name: str(np.asarray(value).tolist()) if isinstance(value, jax.Array) else str(value)
        for name, value in fields.items()
    }
    return {"seeds": [int(seed) for seed in seeds], **numbers, "env": repr(env), "params": checkpoints.digest(params)}


def _last_return(rows: pl.DataFrame) -> float:
    """Mean over seeds of the last update's episode return."""
    newest = rows.filter(pl.col("update") == pl.col("update").max())
    return float(np.mean(newest["episode_return"].to_numpy()))


def _check(seeds: Sequence[int], total_steps: int, chunk_updates: int, checkpoint: Any, resume: bool) -> None:
    whole = all(isinstance(seed, (int, np.integer)) and 0 <= seed < 2**32 for seed in seeds)
    if not len(seeds) or not whole or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be distinct whole numbers in [0, 2^32), at least one, got {list(seeds)!r}")
    for name, value in (("total_steps", total_steps), ("chunk_updates", chunk_updates)):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    if total_steps >= 2**31:
        raise ValueError(f"total_steps must be below 2^31, got {total_steps}")
    if resume and checkpoint is None:
        raise ValueError("checkpoint must name a folder when resume is True, got None")
