"""The main job: train learners, tune rules, compare them on markets that neither has seen, draw the figures.

``adarena run autobid`` or ``python experiments/autobid.py``.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
from rich.console import Console

from adarena import envs
from adarena.agents import ppo
from adarena.agents.rules import RULES, Rule, known_rules
from adarena.envs.core import Env
from adarena.envs.market.auction import mechanisms
from adarena.envs.market.response import RESPONSES
from adarena.envs.replay import BUDGET_FRACTIONS
from adarena.experiments import protocol, tables
from adarena.experiments.learners import train_seeds
from adarena.experiments.market_day import SERIES, market_table
from adarena.experiments.rollout import rollout
from adarena.experiments.store import RunFolder

SEED_LAYOUT = {
    "training": "jax.random.key(seed), one for each training seed",
    "tuning markets": "fold_in(key(market_seed), 1)",
    "evaluation markets": "fold_in(fold_in(key(market_seed), 2), market)",
    "streams of an episode": "fold_in(reset key, n) for traffic, values, response, rivals = 0, 1, 2, 3",
}


_DAY_SCALE = 8.0  # largest day over the log's usual one on which a replay's learner trains; its inverse the smallest


@dataclasses.dataclass(frozen=True)
class AutoBidExperiment:
    """The whole configuration of a run; defaults finish in about five minutes on two cores.

    Attributes:
        env: Registered environment, or ``module:name``.
        traffic: ``"calibrated"``, ``"synthetic"``, ``"calibration:PATH"``, ``"ipinyou:PATH"``, ``"replay"`` or
            ``"auctionnet"`` (that simulator's market; one block of its impressions stands for a tick).
        mechanisms: Auctions to compare in; a replay has its own (second price).
        objective: ``"cpa"``, ``"roas"`` or ``"budget"``.
        response: ``"expected"``: outcomes are expectations; ``"sampled"``: clicks and conversions happen or not.
        impressions: Impressions simulated a tick.
        seeds: Training seeds of the learner.
        train_steps: Environment steps a training seed.
        num_envs: Environments side by side in training.
        minibatches: Gradient steps a pass over a rollout.
        learning_rate: Step size of Adam, falling linearly to zero.
        hidden: Widths of the networks' hidden layers.
        rules: Rules to tune and compare.
        tune_episodes: Episodes that each rule's search may spend.
        markets: Evaluation markets.
        seat_step: Every how manieth seat takes its turn in each of them.
        budgets: Budgets over the advertiser's usual one; a replay has its own (1/2, 1/8, 1/32 of the log's cost).
        market_seed: Seed of tuning and evaluation markets.
        runs: Folder of the runs.
        name: Name of the run; made from the configuration when empty.
        figures: Whether to draw.
    """

    env: str = "adarena/AutoBid-v0"
    traffic: str = "calibrated"
    mechanisms: tuple[str, ...] = ("gsp",)
    objective: str = "cpa"
    response: str = "expected"
    impressions: int = 64
    seeds: tuple[int, ...] = (0, 1)
    train_steps: int = 800_000
    num_envs: int = 64
    minibatches: int = 4
    learning_rate: float = 1e-3
    hidden: tuple[int, ...] = (128, 128)
    rules: tuple[str, ...] = tuple(RULES)
    tune_episodes: int = 1024
    markets: int = 2
    seat_step: int = 6
    budgets: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    market_seed: int = 2025
    runs: str = "runs"
    name: str = ""
    figures: bool = True

    def __post_init__(self) -> None:
        """Refuses what cannot run, before anything does."""
        for field in ("seeds", "mechanisms", "rules", "budgets"):
            if not getattr(self, field):
                raise ValueError(f"{field} must name at least one, got {getattr(self, field)!r}")
        if self.response not in RESPONSES:
            raise ValueError(f"response must be one of {', '.join(RESPONSES)}, got {self.response!r}")
        for field, allowed in (("mechanisms", mechanisms()), ("rules", known_rules(self.rules))):
            unknown = [name for name in getattr(self, field) if name not in allowed]
            if unknown:
                raise ValueError(f"{field} must be among {', '.join(allowed)}, got {unknown[0]!r}")
        for field in ("train_steps", "tune_episodes", "markets", "seat_step", "impressions"):
            if not isinstance(getattr(self, field), int) or getattr(self, field) < 1:
                raise ValueError(f"{field} must be a whole number of at least 1, got {getattr(self, field)!r}")
        if any(not 0.0 < budget < 100.0 for budget in self.budgets):
            raise ValueError(f"budgets must lie in (0, 100), got {self.budgets!r}")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be distinct and not negative, got {self.seeds!r}")
        self.ppo_config()

    @property
    def replays(self) -> bool:
        """Whether the traffic is a log."""
        return self.traffic.partition(":")[0] in ("ipinyou", "replay")

    def markets_of(self) -> tuple[str, ...]:
        """Mechanisms, or the one that a replay has."""
        return (envs.REPLAY["mechanism"],) if self.replays else self.mechanisms  # type: ignore[return-value]

    def make(self, mechanism: str, part: str) -> tuple[Env, Any]:
        """The environment and its parameters; ``part`` (``"train"`` or ``"test"``) matters to a replay."""
        changes: dict[str, Any] = {
            "traffic": self.traffic,
            "impressions": self.impressions,
            "response": self.response,
        }
        if self.replays:
            changes = {**envs.REPLAY, **changes, "log_part": part}
        else:
            changes |= {"mechanism": mechanism, "objective": self.objective}
        return envs.make(self.env, **changes)

    def cases(self, params: Any) -> protocol.Cases:
        """The evaluation cases."""
        seats = range(0, len(params.base_budget), 1 if self.replays else self.seat_step)
        budgets = BUDGET_FRACTIONS if self.replays else self.budgets
        return protocol.draw_cases(self.market_seed, self.markets, list(seats), budgets)

    def ppo_config(self) -> ppo.Config:
        """The learner's configuration."""
        return ppo.make_config(
            num_envs=self.num_envs,
            minibatches=self.minibatches,
            learning_rate=self.learning_rate,
            decay_steps=float(self.train_steps),
            hidden=tuple(self.hidden),
            activation="swish",
            initial_log_std=-2.0,
            entropy=0.0,
        )


PRESETS: dict[str, AutoBidExperiment] = {
    "default": AutoBidExperiment(),
    "smoke": AutoBidExperiment(
        seeds=(0, 1), train_steps=12_288, num_envs=16, rules=("constant", "min_pacing"), tune_episodes=288, seat_step=24
    ),
    "paper": AutoBidExperiment(
        mechanisms=("gsp", "first_price", "vcg"),
        seeds=tuple(range(10)),
        train_steps=1_200_000,
        tune_episodes=2048,
        markets=5,
        seat_step=1,
        name="autobid-paper",
    ),
    # AuctionNet's market, one block of impressions standing for a tick; `adarena evaluate --protocol auctionnet
    # --policy run:runs/autobid-auctionnet` then plays the learner in the whole of it.
    "auctionnet": AutoBidExperiment(
        traffic="auctionnet",
        seeds=tuple(range(5)),
        train_steps=1_200_000,
        tune_episodes=2048,
        markets=5,
        seat_step=4,
        name="autobid-auctionnet",
    ),
}
"""Named configurations: ``--preset NAME``."""


def run(config: AutoBidExperiment, *, resume: bool = False) -> Path:
    """Runs the experiment; a run that was killed goes on where it was with ``resume``.

    Returns:
        The run folder: configuration, manifest, ``scores``, ``summary``, ``tuning``, ``curves``, ``day``, ``market``
        (parquet), checkpoints and figures.
    """
    console = tables.console()
    started = time.perf_counter()
    inputs = {"log": config.traffic.partition(":")[2]} if config.traffic.startswith("ipinyou:") else None
    if inputs and Path(inputs["log"]).is_dir():
        inputs = None
    with RunFolder.create(
        config.runs, config, config.name or None, resume=resume, seeds=SEED_LAYOUT, inputs=inputs
    ) as folder:
        kinds = config.markets_of()
        console.print(
            f"AutoBid ({config.traffic} traffic): {len(config.rules)} rules tuned, PPO on {len(config.seeds)} seeds x "
            f"{config.train_steps:,} steps, in {', '.join(kinds)}; results go to {folder.path}"
        )
        for mechanism in kinds:
            if f"scores_{mechanism}" not in folder.tables:
                _one_market(config, mechanism, folder, resume, console)
        _gather(folder, kinds)
        summary = protocol.summarise_all(folder.read_table("scores"))
        folder.write_table("summary", summary)
        for mechanism in kinds:
            console.print(tables.comparison(summary.filter(pl.col("mechanism") == mechanism), mechanism, config))
        if config.replays:
            console.print(
                "Replay: only auctions that the log's owner won can be won here; the win rate seen is scaled by the "
                "published share of winnable auctions. Value is expected clicks by the fitted pCTR."
            )
        tables.finish(folder, config.figures, started, console)
    return folder.path


def _one_market(config: AutoBidExperiment, mechanism: str, folder: RunFolder, resume: bool, console: Console) -> None:
    """Tunes, trains, evaluates and keeps the tables of one mechanism."""
    env, params = config.make(mechanism, "train")
    test_env, test_params = config.make(mechanism, "test")
    console.print(f"{mechanism}: tuning {len(config.rules)} rules, {config.tune_episodes} episodes each")
    tuned = protocol.tune_rules(
        env,
        params,
        config.rules,
        budget=config.tune_episodes,
        market_seed=config.market_seed,
        population=16,
        episodes=max(4, min(64, config.tune_episodes // 64)),
    )
    console.print(f"{mechanism}: training PPO")
    ppo_config, states, curve = train(config, env, params, mechanism, folder, resume)
    cases = config.cases(test_params)
    console.print(f"{mechanism}: evaluating on {len(cases.keys)} cases")
    policy = ppo.make_policy(ppo_config, env, states)
    scores = pl.concat(
        [
            protocol.evaluate_rules(test_env, test_params, tuned.rules, cases),
            protocol.evaluate_learner("ppo", test_env, test_params, policy, config.seeds, cases),
            protocol.evaluate_constants(test_env, test_params, cases),
        ]
    ).with_columns(pl.lit(mechanism).alias("mechanism"))
    top = protocol.best_rule(scores)
    first = protocol.over_seeds(policy, len(config.seeds))
    shown: dict[str, Any] = {top: tuned.rules[top], "ppo": jax.tree.map(lambda x: x[0], first)}
    day, market = one_day(test_env, test_params, shown, cases)
    found = {"tuning": tuned.table, "curves": curve, "day": day, "market": market, "scores": scores}
    for name, table in found.items():
        marked = table if "mechanism" in table.columns else table.with_columns(pl.lit(mechanism).alias("mechanism"))
        folder.write_table(f"{name}_{mechanism}", marked)


def train(
    config: AutoBidExperiment, env: Env, params: Any, mechanism: str, folder: RunFolder, resume: bool
) -> tuple[ppo.Config, ppo.State, pl.DataFrame]:
    """Trains every seed; see `adarena.experiments.learners.train_seeds`.

    Returns:
        The configuration, the states stacked over seeds, and the learning curves.
    """
    ppo_config = config.ppo_config()
    if config.replays:
        # Days of a log differ in size, and those to come more so: no amount of money may mean much to the learner.
        sizes = jax.numpy.float32(_DAY_SCALE)
        params = dataclasses.replace(params, day_scale_low=1.0 / sizes, day_scale_high=sizes)
    states, curves = train_seeds(
        ppo,
        ppo_config,
        env,
        params,
        name=f"ppo_{mechanism}",
        seeds=config.seeds,
        total_steps=config.train_steps,
        folder=folder,
        resume=resume,
    )
    return ppo_config, states, curves


def one_day(
    env: Env, params: Any, policies: dict[str, Rule | Any], cases: protocol.Cases
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One market's day, tick by tick, under each policy: the case in the middle of the table.

    Returns:
        The seat's day, and that of every advertiser (see `adarena.experiments.market_day.market_table`).
    """
    middle = len(cases.keys) // 2
    keys = cases.keys[middle : middle + 1]
    fields = {name: values[middle : middle + 1] for name, values in cases.fields.items()}
    names = (*SERIES, "price", "multiplier", "info.seat")
    parts, markets = [], []
    for name, policy in policies.items():
        played = rollout(env, params, policy, keys, fields, record=names, bound=False, chunk=1)
        series = {key: np.asarray(values[0]) for key, values in played.series.items()}
        case = {key: values[0] for key, values in fields.items()}
        markets.append(market_table(name, env, params, keys[0], case, series))
        seat = int(series["info.seat"][0])
        budget, target = float(played.metrics["budget"][0]), float(played.metrics["target"][0])
        own = {key: series[key][:, seat].astype(np.float64) for key in ("spend", "value", "exposure")}
        ticks = len(own["spend"])
        shown = np.maximum(series["exposure"].sum(axis=1), 1e-9)
        usable = target if np.isfinite(target) else 1.0
        over = np.cumsum(own["spend"]) / np.maximum(usable * np.cumsum(own["value"]), 1e-9)
        parts.append(
            pl.DataFrame(
                {
                    "policy": [name] * ticks,
                    "tick": np.arange(ticks),
                    "hour": np.arange(ticks) * 24.0 / ticks,
                    "spend": own["spend"],
                    "value": own["value"],
                    "price": series["price"].astype(np.float64),
                    "own_price": own["spend"] / np.maximum(own["exposure"], 1e-9),
                    "multiplier": series["multiplier"].astype(np.float64),
                    "cost_over_target": over if np.isfinite(target) else np.zeros(ticks),
                    "win_rate": own["exposure"] / shown,
                    "traffic": np.asarray(params.bank.daily, np.float64),
                    "budget": [budget] * ticks,
                    "target": [target] * ticks,
                }
            )
        )
    return pl.concat(parts), pl.concat(markets)


def _gather(folder: RunFolder, mechanisms: tuple[str, ...]) -> None:
    """One table of each kind over all mechanisms: what the figures read."""
    kinds = ["scores", "curves", "day", "tuning"]
    if all(f"market_{mechanism}" in folder.tables for mechanism in mechanisms):  # runs begun before it was kept lack it
        kinds.append("market")
    for name in kinds:
        folder.write_table(name, pl.concat([folder.read_table(f"{name}_{m}") for m in mechanisms]))


if __name__ == "__main__":
    from adarena.experiments.cli import main

    main(["run", "autobid", *__import__("sys").argv[1:]])
