"""The reasoning bidder of a finished run of ``adarena run offline``, from its checkpoint and its tables."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import polars as pl

from adarena.agents import reasoner
from adarena.agents.checkpoint import CheckpointError, read_metadata
from adarena.agents.offline import loop
from adarena.agents.offline.data import spec_of
from adarena.agents.offline.thoughts import Reader, reader_of
from adarena.agents.reasoner_policy import ReasoningPolicy
from adarena.envs.autobid import AutoBid
from adarena.experiments import protocol, tables
from adarena.experiments.evaluate import fields_of
from adarena.experiments.offline import OfflineExperiment
from adarena.experiments.offline_bench import Bench
from adarena.experiments.offline_learners import REASONER
from adarena.experiments.store import RunFolder, RunFolderError


class Restored(NamedTuple):
    """A reasoning bidder and where it is evaluated.

    Attributes:
        env: The market.
        params: Its parameters.
        cases: The run's evaluation cases.
        policy: The bidder of one training seed.
        seed: That seed.
    """

    env: AutoBid
    params: Any
    cases: protocol.Cases
    policy: ReasoningPolicy
    seed: int


def restore(folder: RunFolder, seed: int | None = None) -> Restored:
    """The reasoning bidder of a run, as its checkpoint and its table of what was asked for tell it.

    Args:
        folder: Folder of a run of ``adarena run offline``.
        seed: Training seed; the run's first when None.

    Raises:
        RunFolderError: It is another experiment's folder, or its reasoning bidder is not trained.
        ValueError: It has no such training seed.
        adarena.agents.checkpoint.CheckpointError: The checkpoint is damaged.
    """
    kind = folder.config["class"]
    if kind != OfflineExperiment.__name__:
        raise RunFolderError(f"{folder.path.name} must be a run of adarena run offline, got a folder of {kind}")
    checkpoint = folder.checkpoints / REASONER
    if not checkpoint.is_dir():
        raise RunFolderError(f"{folder.path.name} has no trained {REASONER}: it lacks {checkpoint.name} in checkpoints")
    bench = Bench.make(OfflineExperiment(**fields_of(folder)), folder, tables.console(), False)
    env: Any = bench.env
    config = _trained_config(checkpoint, reader_of(env, bench.params)).replace(target=_asked(folder))  # type: ignore[attr-defined]
    spec = spec_of(env, bench.params)
    states, seeds = loop.restore(reasoner, config, spec, env.max_steps(bench.params), checkpoint)
    chosen = seeds[0] if seed is None else seed
    if chosen not in seeds:
        raise ValueError(f"seed must be one of the run's training seeds {', '.join(map(str, seeds))}, got {seed!r}")
    stacked = protocol.over_seeds(reasoner.make_policy(config, spec, states), len(seeds))
    policy = jax.tree.map(lambda leaf: leaf[seeds.index(chosen)], stacked)
    return Restored(env, bench.params, bench.cases, policy, chosen)


def _trained_config(checkpoint: Path, reader: Reader) -> reasoner.Config:
    """The configuration of a checkpoint, as far as it shapes states and policy.

    Raises:
        CheckpointError: It was trained to read another observation.
    """
    saved = read_metadata(checkpoint)["identity"]
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(reasoner.Config):
        if field.metadata.get("pytree_node", True):
            continue  # a number: no shape depends on it
        text, known = saved[field.name], {"reader": reader, "meter": None}
        if field.name in known:
            fields[field.name] = known[field.name]
            if text != str(known[field.name]):
                raise CheckpointError(f"{checkpoint}: {field.name} was {text}, expected {known[field.name]}")
        else:
            fields[field.name] = text if isinstance(field.default, str) else ast.literal_eval(text)
    return reasoner.make_config(**fields)


def _asked(folder: RunFolder) -> float:
    """What the bidder asks for: chosen on tuning markets where the run says so."""
    if "asked" not in folder.tables:
        return float(reasoner.Config().target)
    rows = folder.read_table("asked").filter((pl.col("policy") == REASONER) & pl.col("chosen"))
    return float(rows["target"][0]) if len(rows) else float(reasoner.Config().target)


def case_of(restored: Restored, episode: int) -> tuple[jax.Array, Any]:
    """Reset key and parameters of one evaluation case.

    Raises:
        ValueError: There is no such case; the message says which there are.
    """
    count = len(restored.cases.keys)
    if not 0 <= episode < count:
        raise ValueError(f"episode must be an evaluation case of the run, 0 to {count - 1}, got {episode}")
    fields = {name: jnp.asarray(values[episode]) for name, values in restored.cases.fields.items()}
    return restored.cases.keys[episode], dataclasses.replace(restored.params, **fields)
