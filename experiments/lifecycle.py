"""Lifecycle: rules tuned, a learner trained, all and an oracle compared on campaigns' lives that none has seen.

``adarena run lifecycle`` or ``python experiments/lifecycle.py``.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from rich.console import Console

from adarena import envs
from adarena.agents import ppo
from adarena.agents.rules.lifecycle import LIFECYCLE_RULES
from adarena.agents.steering import ENTRIES, Steered, Steering
from adarena.agents.tuner import plan_of
from adarena.envs.core import Env
from adarena.envs.lifecycle import Lifecycle
from adarena.envs.lifecycle_oracle import oracle
from adarena.envs.lifecycle_phases import PHASES
from adarena.experiments import lifecycle_tables, protocol, tables
from adarena.experiments.coldstart_eval import Contestants, population, score_rows
from adarena.experiments.learners import train_seeds
from adarena.experiments.rollout import rollout_seeds
from adarena.experiments.store import RunFolder

SEED_LAYOUT = {
    "training": "jax.random.key(seed), one for each training seed",
    "tuning lives": "fold_in(key(market_seed), 1)",
    "evaluation lives": "fold_in(fold_in(key(market_seed), 2), life)",
    "streams of a life": "fold_in(reset key, n) for traffic, exploration, response, rivals, campaign = 0, 1, 2, 3, 4",
}

SERIES = (
    *("phase", "passed", "spend", "conversions", "exposure", "multiplier", "exploration", "width", "shares"),
    *("daily_budget", "true_ctr"),
)
"""Series of ``info`` that every evaluation keeps."""

_POPULATION, _FINALISTS = 16, 4  # candidates of a generation and of the tuner's last round


@dataclasses.dataclass(frozen=True)
class LifecycleExperiment:
    """The whole configuration of a run; by default a training seed plays as many lives (2,048) as each rule's search.

    Attributes:
        rivals: Rivals of the campaign.
        creatives: Creatives of the campaign.
        days: Days of its life.
        ticks_per_day: Ticks in a day.
        impressions: Impressions simulated a tick.
        mechanism: Auction, see `adarena.envs.lifecycle.Lifecycle`.
        delay: Whether conversions are reported with a delay.
        rules: Rules to tune and compare.
        tune_episodes: Lives that each rule's search may spend.
        seeds: Training seeds of PPO.
        hidden: Widths of the networks' hidden layers.
        initial_action: Where it starts, on the scale of [-1, 1]; a number for each of `adarena.agents.steering.ENTRIES`.
        train_steps: Environment steps of a training seed.
        num_envs: Environments side by side in its training.
        rollout_length: Ticks collected from each before an update.
        minibatches: Gradient steps a pass over a rollout.
        learning_rate: Step size of Adam, falling linearly to zero.
        initial_log_std: Log standard deviation that its actions start with.
        lives: Evaluation lives.
        chunk: Lives at a time in tuning and evaluation.
        market_seed: Seed of tuning and evaluation lives.
        runs: Folder of the runs.
        name: Name of the run; made from the configuration when empty.
        figures: Whether to draw.
    """

    rivals: int = 15
    creatives: int = 8
    days: int = 30
    ticks_per_day: int = 8
    impressions: int = 64
    mechanism: str = "gsp"
    delay: bool = True
    rules: tuple[str, ...] = tuple(LIFECYCLE_RULES)
    tune_episodes: int = 2048
    seeds: tuple[int, ...] = (0, 1, 2)
    hidden: tuple[int, ...] = (64, 64)
    initial_action: tuple[float, ...] = (-0.3, -0.8, 0.3, 0.8, 0.0)
    train_steps: int = 491_520
    num_envs: int = 64
    rollout_length: int = 60
    minibatches: int = 4
    learning_rate: float = 1e-3
    initial_log_std: float = -1.5
    lives: int = 64
    chunk: int = 64
    market_seed: int = 2025
    runs: str = "runs"
    name: str = ""
    figures: bool = True

    def __post_init__(self) -> None:
        """Refuses what cannot run, before anything does."""
        for field in ("rules", "seeds"):
            if not getattr(self, field):
                raise ValueError(f"{field} must name at least one, got {getattr(self, field)!r}")
        unknown = [name for name in self.rules if name not in LIFECYCLE_RULES]
        if unknown:
            raise ValueError(f"rules must be among {', '.join(LIFECYCLE_RULES)}, got {unknown[0]!r}")
        for field, least in (("tune_episodes", 1), ("train_steps", 1), ("chunk", 1), ("lives", 2)):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{field} must be a whole number of at least {least}, got {value!r}")
        if len(self.initial_action) != len(ENTRIES) or not all(-1.0 <= x <= 1.0 for x in self.initial_action):
            raise ValueError(f"initial_action must be {len(ENTRIES)} numbers in [-1, 1], got {self.initial_action!r}")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be distinct and not negative, got {self.seeds!r}")
        plan_of(self.tune_episodes, finalists=_FINALISTS, **self.search())
        self.learner_config()

    def search(self) -> dict[str, int]:
        """How the tuner spends its lives: candidates a generation, lives a candidate."""
        return {"population": _POPULATION, "episodes": max(1, min(32, self.tune_episodes // 64))}

    def make(self, **changes: Any) -> tuple[Env, Any]:
        """The environment and its parameters."""
        own = ("rivals", "creatives", "days", "ticks_per_day", "impressions", "mechanism", "delay")
        return envs.make("adarena/Lifecycle-v0", **({name: getattr(self, name) for name in own} | changes))

    def learner_config(self) -> ppo.Config:
        """PPO's configuration."""
        return ppo.make_config(
            hidden=tuple(self.hidden),
            activation="swish",
            initial_action=tuple(self.initial_action),
            num_envs=self.num_envs,
            rollout_length=self.rollout_length,
            minibatches=self.minibatches,
            learning_rate=self.learning_rate,
            decay_steps=float(self.train_steps),
            initial_log_std=self.initial_log_std,
            entropy=0.0,
        )


PRESETS: dict[str, LifecycleExperiment] = {
    "default": LifecycleExperiment(),
    "smoke": LifecycleExperiment(
        rivals=5,
        creatives=3,
        days=12,
        ticks_per_day=4,
        impressions=16,
        rules=("lifecycle_target", "lifecycle_phases"),
        tune_episodes=64,
        seeds=(0, 1),
        hidden=(16, 16),
        train_steps=3072,
        num_envs=16,
        rollout_length=48,
        lives=8,
        chunk=16,
    ),
}
"""Named configurations: ``--preset NAME``."""


class Evaluation(NamedTuple):
    """What an evaluation came to.

    Attributes:
        scores: One row a policy, training seed and life; columns ``case``, ``market`` (the life), ``policy``, ``kind``,
            ``seed``, `adarena.experiments.lifecycle_tables.METRICS`, ``hindsight_score``.
        life: One life tick by tick under the best rule and the learner, see `one_life`.
    """

    scores: pl.DataFrame
    life: pl.DataFrame


def run(config: LifecycleExperiment, *, resume: bool = False) -> Path:
    """Runs the experiment; a run that was killed goes on where it was with ``resume``.

    Returns:
        The run folder: configuration, manifest, ``tuning``, ``curves``, ``scores``, ``life``, ``summary`` (parquet),
        checkpoints and figures.
    """
    console = tables.console()
    started = time.perf_counter()
    with RunFolder.create(config.runs, config, config.name or None, resume=resume, seeds=SEED_LAYOUT) as folder:
        console.print(
            f"Lifecycle: {len(config.rules)} rules tuned, PPO on {len(config.seeds)} seeds x {config.train_steps:,} steps; "
            f"results go to {folder.path}"
        )
        rules = tuned_rules(config, folder, console)
        policy = trained_learner(config, folder, resume, console)
        if not {"scores", "life"} <= set(folder.tables):
            found = evaluate(config, population(rules, {"ppo": policy}, config.seeds), console)
            folder.write_table("scores", found.scores)
            folder.write_table("life", found.life)
        summary = lifecycle_tables.summarise(folder.read_table("scores"))
        folder.write_table("summary", summary)
        for table in lifecycle_tables.comparison(summary):
            console.print(table)
        tables.finish(folder, config.figures, started, console)
    return folder.path


def tuned_rules(config: LifecycleExperiment, folder: RunFolder, console: Console) -> dict[str, Any]:
    """The rules, tuned with the same budget on the same training lives; those of the run if it has them."""
    env, params = config.make()
    if "tuning" not in folder.tables:
        console.print(f"tuning {len(config.rules)} rules, {config.tune_episodes} lives each")
        tuned = protocol.tune_rules(
            env,
            params,
            config.rules,
            budget=config.tune_episodes,
            market_seed=config.market_seed,
            known=LIFECYCLE_RULES,
            chunk=config.chunk,
            **config.search(),
        )
        folder.write_table("tuning", tuned.table)
    return protocol.rebuilt_rules(folder.read_table("tuning"), env, LIFECYCLE_RULES)


def trained_learner(config: LifecycleExperiment, folder: RunFolder, resume: bool, console: Console) -> Any:
    """PPO's policy of the lifecycle, which it steers by five numbers, its states stacked over training seeds."""
    console.print("training PPO")
    (campaign, params), settings = config.make(), config.learner_config()
    assert isinstance(campaign, Lifecycle)
    env = Steered(campaign)
    states, curves = train_seeds(
        ppo,
        settings,
        env,
        params,
        name="ppo",
        seeds=config.seeds,
        total_steps=config.train_steps,
        folder=folder,
        resume=resume,
    )
    folder.write_table("curves", curves.with_columns(policy=pl.lit("ppo"), mechanism=pl.lit(config.mechanism)))
    return dataclasses.replace(Steering.build(campaign), policy=ppo.make_policy(settings, env, states))


def evaluate(config: LifecycleExperiment, everyone: Contestants, console: Console) -> Evaluation:
    """Rules, learner and oracle on the same lives."""
    env, params = config.make(record=True)
    keys, table = protocol.draw_grid(config.market_seed, config.lives)
    cases = protocol.Cases(keys, {}, table)
    console.print(f"evaluating {len(everyone.who)} policies and the oracle on {config.lives} lives")
    played = rollout_seeds(
        env,
        params,
        everyone.policies,
        keys,
        record=tuple(f"info.{name}" for name in SERIES),
        chunk=config.chunk,
        label="evaluating",
    )
    columns = (*lifecycle_tables.METRICS, lifecycle_tables.BOUND)
    plain, params = config.make()
    best = {name: np.asarray(values)[None] for name, values in oracle(plain, keys, params).items()}  # type: ignore[arg-type]
    scores = pl.concat(
        [
            score_rows(played.metrics, everyone, cases, columns),
            protocol.score_table("oracle", "oracle", [-1], best, cases, lifecycle_tables.METRICS),
        ],
        how="diagonal_relaxed",
    )
    case = lifecycle_tables.typical(scores, "ppo")
    shown = []
    for name in (protocol.best_rule(scores), "ppo"):
        row = [who for who, _, _ in everyone.who].index(name)
        series = {field: played.series[f"info.{field}"][row, case] for field in SERIES}
        shown.append(one_life(name, series, played.metrics["target"][row, case], config.ticks_per_day))
    return Evaluation(scores, pl.concat(shown).with_columns(case=pl.lit(case)))


def one_life(policy: str, series: Mapping[str, np.ndarray], target: float, ticks_per_day: int) -> pl.DataFrame:
    """One life tick by tick.

    Columns: ``policy``; ``tick`` and ``day`` (its beginning, days since launch); ``phase`` (index into `PHASES`) and
    ``passed_PHASE`` (at the tick's end); ``spend``, ``conversions`` and ``exposure`` of the tick; ``multiplier``,
    ``exploration``, ``width``; ``daily_budget`` and ``target`` (currency units); ``share_K`` of each creative in the
    exposures; ``best``, the creative whose true click rate is highest.

    Args:
        policy: How the table calls the policy.
        series: Each of `SERIES`, ``[T, ...]``.
        target: Currency units per conversion.
        ticks_per_day: Ticks in a day.
    """
    ticks = len(series["spend"])
    plain = ("phase", "spend", "exposure", "multiplier", "exploration", "width", "daily_budget")
    columns: dict[str, Any] = {"policy": [policy] * ticks, "tick": np.arange(ticks)}
    columns |= {"day": np.arange(ticks) / ticks_per_day}
    columns |= {name: series[name] for name in plain}
    columns |= {f"passed_{name}": series["passed"][:, n] for n, name in enumerate(PHASES)}
    columns |= {"conversions": np.diff(series["conversions"], prepend=0.0), "target": np.full(ticks, target)}
    columns |= {f"share_{k}": share for k, share in enumerate(series["shares"].T)}
    return pl.DataFrame(columns | {"best": series["true_ctr"].argmax(axis=1)})


if __name__ == "__main__":
    from adarena.experiments.cli import main

    main(["run", "lifecycle", *__import__("sys").argv[1:]])
