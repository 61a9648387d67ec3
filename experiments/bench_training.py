"""Speed of PPO, end to end; what `adarena.experiments.bench` calls."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import polars as pl

from adarena.agents import ppo
from adarena.envs import make
from adarena.experiments.bench_market import ENV_ID, QUICK_MARKET, Span, alternate, mark

if TYPE_CHECKING:
    from adarena.experiments.bench import BenchConfig

REFERENCE = "SB3 PPO, DummyVecEnv of gym.make"
"""The contender to which ratios refer: Stable-Baselines3 as its users run it."""

_CHUNK_STEPS = (
    24_576  # environment steps of one JAX program in training, so that the host looks in a few times a second
)


def measure_training(config: BenchConfig) -> pl.DataFrame:
    """PPO end to end on AutoBid's default market: rollouts, updates, and the host's loop.

    Batch, minibatch, epochs, networks (actor and critic of two layers of 64, tanh), discount 1, lambda 0.95, learning
    rate, clip, value weight, gradient norm, and running normalisation of observations and rewards are the same for all.
    Not the same: the number of environments (so the ticks that each gives to a batch); Stable-Baselines3 normalises
    advantages by minibatch and runs torch on one thread, JAX uses all cores.

    Returns:
        Also ``contender``, ``environments``, ``rollout_length`` (ticks of each environment in a batch), ``batch``,
        ``minibatch``, ``epochs``, and ``ratio``: steps per second over the reference's in the same repeat, likewise
        ``cpu_ratio`` by CPU seconds.
    """
    market = QUICK_MARKET if config.quick else {}
    contenders: list[tuple[str, int, Callable[[], tuple[Span, float]]]] = [
        (REFERENCE, config.sb3_envs, lambda: _train_sb3(config, config.sb3_envs, "dummy", market)),
        (
            "SB3 PPO, adarena's batch",
            config.sb3_batch_envs,
            lambda: _train_sb3(config, config.sb3_batch_envs, "batch", market),
        ),
    ]
    for count in config.jax_envs:
        contenders.append(("PPO in JAX", count, functools.partial(_train_jax, config, count, market)))
    rows = []
    for repeat, (name, count, measure) in alternate(config, contenders, "training"):
        span, warmup = measure()
        rows.append(
            {"contender": name, "environments": count, "rollout_length": config.batch // count, "repeat": repeat}
            | {"batch": config.batch, "minibatch": config.minibatch, "epochs": config.epochs}
            | span.columns()
            | {"warmup_seconds": warmup}
        )
    frame = pl.DataFrame(rows)
    speed = pl.col("steps") / pl.col("cpu_seconds")
    reference = frame.filter(pl.col("contender") == REFERENCE).select(
        "repeat", pl.col("steps_per_second").alias("_wall"), speed.alias("_cpu")
    )
    joined = frame.join(reference, on="repeat", how="left", maintain_order="left")
    ratio = (pl.col("steps_per_second") / pl.col("_wall")).alias("ratio")
    return joined.with_columns(ratio, (speed / pl.col("_cpu")).alias("cpu_ratio")).drop("_wall", "_cpu")


def _train_sb3(config: BenchConfig, num_envs: int, backend: str, market: dict[str, Any]) -> tuple[Span, float]:
    """Whole rollouts and updates of Stable-Baselines3; the first of each is warm-up."""
    from adarena.agents.sb3 import train_sb3

    marks: list[Span] = []
    started = time.perf_counter()

    def look(locals_: dict[str, Any], globals_: dict[str, Any]) -> bool:
        done = locals_["self"].num_timesteps - num_envs  # called after the first step of a rollout, too
        if done % config.batch == 0:
            marks.append(mark(done))
        return len(marks) < 3 or marks[-1].wall - marks[1].wall < config.seconds

    train_sb3(
        "ppo",
        ENV_ID,
        changes=market,
        total_steps=2**40,
        num_envs=num_envs,
        backend=backend,
        normalise=True,
        normalise_reward=True,
        hyper={
            "n_steps": config.batch // num_envs,
            "batch_size": config.minibatch,
            "n_epochs": config.epochs,
            "gamma": 1.0,
            "gae_lambda": 0.95,
            "learning_rate": 3e-4,
            "ent_coef": 0.0,
            "policy_kwargs": {"net_arch": [64, 64]},
        },
        callback=look,
    )
    return marks[-1].since(marks[1]), marks[1].wall - started


class _TimeUpError(Exception):
    """Ends a training when it has been measured for long enough."""


def _train_jax(config: BenchConfig, num_envs: int, market: dict[str, Any]) -> tuple[Span, float]:
    """Whole chunks of updates of PPO in JAX; the first is warm-up."""
    env, params = make(ENV_ID, **market)
    learner = ppo.make_config(
        num_envs=num_envs,
        rollout_length=config.batch // num_envs,
        epochs=config.epochs,
        minibatches=config.batch // config.minibatch,
        hidden=(64, 64),
        learning_rate=3e-4,
        entropy=0.0,
    )
    chunk = max(1, _CHUNK_STEPS // config.batch)
    marks: list[Span] = []
    started = time.perf_counter()

    def look(states: Any, rows: pl.DataFrame) -> None:
        marks.append(mark(len(marks) * chunk * config.batch))
        if len(marks) > 1 and marks[-1].wall - marks[0].wall >= config.seconds:
            raise _TimeUpError

    with contextlib.suppress(_TimeUpError):
        ppo.train(
            learner, env, params, seeds=[0], total_steps=2**30, chunk_updates=chunk, on_chunk=look, progress=False
        )
    return marks[-1].since(marks[0]), marks[0].wall - started
