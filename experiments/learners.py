"""Training inside an experiment: seed after seed, with checkpoints in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import polars as pl
from tqdm import tqdm

from adarena.envs.core import Env
from adarena.experiments.store import RunFolder


def train_seeds(
    algorithm: Any,
    config: Any,
    env: Env,
    params: Any,
    *,
    name: str,
    seeds: Sequence[int],
    total_steps: int,
    folder: RunFolder,
    resume: bool,
    chunk_updates: int = 32,
) -> tuple[Any, pl.DataFrame]:
    """Trains every seed, one after another (on a CPU that is as fast as side by side, and needs less memory).

    Args:
        algorithm: Module with ``train``: `adarena.agents.ppo` or `adarena.agents.es`.
        config: Its configuration.
        env: The environment.
        params: Its parameters.
        name: Of the checkpoints, ``NAME_SEED`` in the run's folder, and of the progress bar.
        seeds: Training seeds.
        total_steps: Environment steps a seed.
        folder: The run's folder.
        resume: Whether to go on from checkpoints that are there.
        chunk_updates: Updates between two checkpoints.

    Returns:
        The states stacked over seeds, and the learning curves.
    """
    states, curves = [], []
    for seed in tqdm(seeds, desc=f"training {name}", unit="seed", disable=None):
        state, curve = algorithm.train(
            config,
            env,
            params,
            seeds=[seed],
            total_steps=total_steps,
            chunk_updates=chunk_updates,
            checkpoint=folder.checkpoints / f"{name}_{seed}",
            resume=resume,
            progress=False,
        )
        states.append(state)
        curves.append(curve)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states), pl.concat(curves)
