"""``adarena evaluate RUN``: the policies of a finished run, on other markets than it was reported on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl
import tyro

from adarena.agents import ppo
from adarena.envs.core import Env
from adarena.experiments import protocol, tables
from adarena.experiments.autobid import AutoBidExperiment, train
from adarena.experiments.store import RunFolder


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What to evaluate, and on what.

    Attributes:
        run: Run folder of ``adarena run autobid``.
        market_seed: Seed of the markets; the run's own plus one if negative.
        markets: Markets.
        impressions: Impressions simulated a tick; the run's own if 0. More of them, less thinning.
        out: Parquet file for the scores; none if empty.
    """

    run: tyro.conf.Positional[str]
    market_seed: int = -1
    markets: int = 1
    impressions: int = 0
    out: str = ""


def run(config: EvaluateConfig) -> pl.DataFrame:
    """Evaluates the tuned rules and the trained learner of a run.

    Returns:
        The scores (see `adarena.experiments.protocol.score_table`), all mechanisms.
    """
    console = tables.console()
    folder = RunFolder.open(Path(config.run))
    trained = experiment_of(folder)
    changes: dict[str, Any] = {"markets": config.markets}
    changes["market_seed"] = config.market_seed if config.market_seed >= 0 else trained.market_seed + 1
    if config.impressions:
        changes["impressions"] = config.impressions
    tested = dataclasses.replace(trained, **changes)
    console.print(f"Evaluating {folder.path.name} on {tested.markets} markets of seed {tested.market_seed}")
    parts = []
    for mechanism in trained.markets_of():
        env, params = tested.make(mechanism, "test")
        cases = tested.cases(params)
        rules = tuned_rules(folder, mechanism, env)
        policy = trained_policy(folder, trained, mechanism)
        scores = pl.concat(
            [
                protocol.evaluate_rules(env, params, rules, cases),
                protocol.evaluate_learner("ppo", env, params, policy, trained.seeds, cases),
                protocol.evaluate_constants(env, params, cases),
            ]
        )
        console.print(tables.comparison(protocol.summarise(scores), mechanism, tested))
        parts.append(scores.with_columns(pl.lit(mechanism).alias("mechanism")))
    scores = pl.concat(parts)
    if config.out:
        scores.write_parquet(config.out)
        console.print(f"Scores are in {config.out}")
    return scores


def experiment_of(folder: RunFolder) -> AutoBidExperiment:
    """The configuration of a run."""
    return AutoBidExperiment(**fields_of(folder))


def fields_of(folder: RunFolder) -> dict[str, Any]:
    """The fields of a run's configuration."""
    return {name: tuple(x) if isinstance(x, list) else x for name, x in folder.config["fields"].items()}


def tuned_rules(folder: RunFolder, mechanism: str, env: Env) -> dict[str, Any]:
    """The rules of a run, with the parameters that its tuner found."""
    return protocol.rebuilt_rules(folder.read_table(f"tuning_{mechanism}"), env)


def trained_policy(folder: RunFolder, trained: AutoBidExperiment, mechanism: str) -> Any:
    """The learner of a run, its states stacked over training seeds."""
    env, params = trained.make(mechanism, "train")
    # Resuming trainings that have had all their steps restores their states and does nothing else.
    config, states, _ = train(trained, env, params, mechanism, folder, resume=True)
    return ppo.make_policy(config, env, states)
