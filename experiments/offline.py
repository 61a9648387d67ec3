"""Bidders that learn from logs: one log, every offline and generative learner, compared in the live market.

``adarena run offline`` or ``python experiments/offline.py``. Learners see the log alone; what generative bidders ask for is
chosen on tuning markets, where rules are tuned as well; the comparison is on markets that nobody has seen, against rivals
who respond, and again against rivals that repeat a logged day (`adarena.envs.price_taking`).
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from rich.console import Console

from adarena.agents import ppo
from adarena.agents.fields import is_count
from adarena.agents.offline.data import Data, make_data, spec_of
from adarena.agents.offline.loop import train
from adarena.agents.offline.returns import meter_of, value_rewards
from adarena.agents.rules import RULES
from adarena.envs.core import Env
from adarena.envs.price_taking import price_taking
from adarena.experiments import autobid, collect, logged, offline_tables, protocol, tables
from adarena.experiments.autobid import AutoBidExperiment
from adarena.experiments.offline_learners import ALGORITHMS, GENERATIVE, STEPS, configured
from adarena.experiments.rollout import rollout_seeds
from adarena.experiments.store import RunFolder

SEED_LAYOUT = autobid.SEED_LAYOUT | {
    "logged markets": "fold_in(fold_in(key(log_seed), 0x106ED), episode)",
    "offline training": "jax.random.key(seed), one for each training seed",
    "markets on which what is asked for is chosen": "fold_in(fold_in(fold_in(key(market_seed), 1), 0xA5C), market)",
}

_ASKED = 0xA5C  # a stream of tuning markets beside those on which rules are tuned


@dataclasses.dataclass(frozen=True)
class OfflineExperiment:
    """The whole configuration of a run.

    Attributes:
        tier: The log: ``random``, ``medium``, ``expert``, ``mixed`` or ``rules`` (see ``adarena collect``).
        traffic: ``"calibrated"``, ``"synthetic"``, ``"calibration:PATH"`` or ``"auctionnet"``.
        mechanism: Auction.
        response: ``"expected"``: rewards are expectations (dense); ``"sampled"``: conversions happen or not (sparse).
        impressions: Impressions simulated a tick.
        log_steps: Environment steps of the log.
        log_seed: Of logged markets and of the policies that play them.
        algorithms: Offline and generative learners to compare.
        gradient_steps: Gradient steps of each, over its usual ones (`adarena.experiments.offline_learners.STEPS`).
        seeds: Training seeds of learners.
        asked: What generative bidders may ask for, in standard deviations above the expected return.
        asked_markets: Markets on which each of them is tried.
        train_steps: Environment steps of PPO, a seed.
        rules: Rules to tune and compare.
        tune_episodes: Episodes that each rule's search may spend.
        markets: Evaluation markets.
        seat_step: Every how manieth seat takes its turn in each of them.
        budgets: Budgets over the advertiser's usual one.
        market_seed: Seed of tuning and evaluation markets.
        studies: Whether to compare GAS's ways to choose, and scores to go with values to go.
        runs: Folder of the runs.
        name: Name of the run; made from the configuration when empty.
        figures: Whether to draw.
    """

    tier: str = "mixed"
    traffic: str = "calibrated"
    mechanism: str = "gsp"
    response: str = "expected"
    impressions: int = 64
    log_steps: int = 480_000
    log_seed: int = 0
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    gradient_steps: float = 1.0
    seeds: tuple[int, ...] = (0, 1, 2)
    asked: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0)
    asked_markets: int = 48
    train_steps: int = 800_000
    rules: tuple[str, ...] = tuple(RULES)
    tune_episodes: int = 1024
    markets: int = 2
    seat_step: int = 6
    budgets: tuple[float, ...] = (0.5, 1.0, 1.5)
    market_seed: int = 2025
    studies: bool = True
    runs: str = "runs"
    name: str = ""
    figures: bool = True

    def __post_init__(self) -> None:
        """Refuses what cannot run, before anything does."""
        unknown = [name for name in self.algorithms if name not in ALGORITHMS]
        if unknown or not self.algorithms or len(set(self.algorithms)) < len(self.algorithms):
            raise ValueError(f"algorithms must be distinct, of {', '.join(ALGORITHMS)}, got {self.algorithms!r}")
        if not is_count(self.asked_markets) or not is_count(self.log_steps):
            field = "log_steps" if is_count(self.asked_markets) else "asked_markets"
            raise ValueError(f"{field} must be a whole number of at least 1, got {getattr(self, field)!r}")
        if not 0.0 < self.gradient_steps <= 100.0:
            raise ValueError(f"gradient_steps must lie in (0, 100], got {self.gradient_steps!r}")
        if not self.asked or any(not -10.0 <= target <= 10.0 for target in self.asked):
            raise ValueError(f"asked must name numbers in [-10, 10], at least one, got {self.asked!r}")
        if self.online().replays:
            raise ValueError(f"traffic must not be the replay of a log, got {self.traffic!r}")
        self.collection()

    def online(self) -> AutoBidExperiment:
        """The same market as an experiment with learners who play."""
        return AutoBidExperiment(mechanisms=(self.mechanism,), **{name: getattr(self, name) for name in _ONLINE})

    def collection(self) -> collect.CollectConfig:
        """What to log."""
        shared = {name: getattr(self, name) for name in ("tier", "traffic", "mechanism", "response", "impressions")}
        return collect.CollectConfig(
            **shared,
            steps=self.log_steps,
            seed=self.log_seed,
            budgets=(min(self.budgets), max(self.budgets)),
            train_steps=self.train_steps,
            tune_episodes=self.tune_episodes,
            market=f"{self.traffic.partition(':')[0]}-{self.response}",
            out=str(Path(self.runs) / "datasets"),
            name=f"{self.traffic.partition(':')[0]}-{self.response}-{self.tier}-{self.log_steps}-{self.log_seed}",
        )

    def steps(self, algorithm: str) -> int:
        """Gradient steps of one of the algorithms."""
        return max(1, round(self.gradient_steps * STEPS[algorithm]))


_ONLINE = (
    *("traffic", "response", "impressions", "seeds", "train_steps", "rules", "tune_episodes"),
    *("markets", "seat_step", "budgets", "market_seed"),
)

PRESETS: dict[str, OfflineExperiment] = {
    "default": OfflineExperiment(),
    "sparse": OfflineExperiment(response="sampled", studies=False),
    "auctionnet": OfflineExperiment(traffic="auctionnet", seat_step=4, studies=False),
    "smoke": OfflineExperiment(
        log_steps=3072,
        gradient_steps=0.02,
        seeds=(0, 1),
        asked=(0.0, 2.0),
        asked_markets=8,
        train_steps=12_288,
        rules=("constant", "min_pacing"),
        tune_episodes=288,
        seat_step=24,
    ),
    "paper": OfflineExperiment(
        log_steps=2_000_000, seeds=tuple(range(10)), train_steps=1_200_000, tune_episodes=2048, markets=5, seat_step=2
    ),
}
"""Named configurations: ``--preset NAME``."""


def run(config: OfflineExperiment, *, resume: bool = False) -> Path:
    """Runs the experiment; a run that was killed goes on where it was with ``resume``.

    Returns:
        The run folder: ``scores`` (live), ``replayed`` (the same against a logged day), ``summary``, ``asked``,
        ``orderings``, ``disagreement``, ``choices`` and ``to_go`` (with ``studies``), ``curves``, ``tuning``; figures.
    """
    console, started = tables.console(), time.perf_counter()
    with RunFolder.create(config.runs, config, config.name or None, resume=resume, seeds=SEED_LAYOUT) as folder:
        console.print(
            f"Offline ({config.traffic} traffic, {config.response} rewards, tier {config.tier}): a log of "
            f"{config.log_steps:,} steps, {len(config.algorithms)} learners and PPO on {len(config.seeds)} seeds, "
            f"{len(config.rules)} rules; results go to {folder.path}"
        )
        dataset = collect.shared(config.collection())
        bench = Bench.make(config, folder, console, resume)
        if "scores" not in folder.tables:
            bench.compare(logged.load(dataset).episodes)
        offline_tables.derive(config, folder)
        for table in offline_tables.shown(folder, config):
            console.print(table)
        tables.finish(folder, config.figures, started, console)
    return folder.path


@dataclasses.dataclass
class Bench:
    """What one run works with.

    Attributes:
        config: The configuration.
        folder: Where results go.
        console: Where to say what happens.
        resume: Whether to go on from checkpoints.
        env: The market.
        params: Its parameters as learners who play meet them: budgets between the smallest and largest.
        cases: Evaluation cases.
    """

    config: OfflineExperiment
    folder: RunFolder
    console: Console
    resume: bool
    env: Env
    params: Any
    cases: protocol.Cases

    @classmethod
    def make(cls, config: OfflineExperiment, folder: RunFolder, console: Console, resume: bool) -> Bench:
        """From a configuration."""
        env, params = config.online().make(config.mechanism, "train")
        low, high = (jnp.float32(end(config.budgets)) for end in (min, max))
        params = dataclasses.replace(params, budget_scale_low=low, budget_scale_high=high)
        return cls(config, folder, console, resume, env, params, config.online().cases(params))

    def compare(self, episodes: Any) -> None:
        """Trains, tunes, evaluates and keeps the tables."""
        config = self.config
        policies, curves, asked = {}, [], []
        data = make_data(episodes, spec_of(self.env, self.params))
        for name in config.algorithms:
            policies[name], curve, tried = self.learn(name, name, data, configured(name, self.env, config.steps(name)))
            curves.append(curve)
            asked += tried
        scores: list[pl.DataFrame] = []
        replayed: list[pl.DataFrame] = []
        for name, policy in policies.items():
            self.evaluate(name, policy, scores, replayed)
        tuned = self.rules()
        ppo_config, states, _ = autobid.train(
            config.online(), self.env, self.params, config.mechanism, self.folder, self.resume
        )
        self.evaluate("ppo", ppo.make_policy(ppo_config, self.env, states), scores, replayed)
        scores.append(protocol.evaluate_rules(self.env, self.params, tuned.rules, self.cases))
        scores.append(protocol.evaluate_constants(self.env, self.params, self.cases))
        replayed.append(protocol.evaluate_rules(price_taking(self.env), self.params, tuned.rules, self.cases))  # type: ignore[arg-type]
        if config.studies:
            self.study(policies, episodes)
        self.folder.write_table("curves", pl.concat(curves, how="diagonal_relaxed"))
        self.folder.write_table("asked", offline_tables.asked_frame(asked))
        self.folder.write_table("tuning", tuned.table)
        self.folder.write_table("replayed", pl.concat(replayed))
        self.folder.write_table("scores", pl.concat(scores))

    def learn(self, label: str, name: str, data: Data, config: Any) -> tuple[Any, pl.DataFrame, list[dict[str, Any]]]:
        """Trains one learner; a generative bidder then chooses what to ask for.

        Returns:
            The policy, stacked over seeds; the learning curve; what each thing asked for brought on tuning markets.
        """
        algorithm, steps = ALGORITHMS[name], self.config.steps(name)
        self.console.print(f"Training {label}: {steps:,} gradient steps on {len(self.config.seeds)} seeds")
        states, curve = train(
            algorithm,
            config,
            data,
            seeds=self.config.seeds,
            total_steps=steps,
            log_steps=min(100, steps),
            checkpoint=self.folder.checkpoints / label,
            resume=self.resume,
        )
        policy = algorithm.make_policy(config, data.spec, states)
        tried: list[dict[str, Any]] = []
        if name in GENERATIVE:
            policy, tried = self.ask(label, algorithm, config, data, states)
        return policy, curve.with_columns(pl.lit(label).alias("policy")), tried

    def ask(self, label: str, algorithm: Any, config: Any, data: Data, states: Any) -> tuple[Any, list[dict[str, Any]]]:
        """The policy that asks for what brings most on tuning markets, and what each thing asked for brought."""
        root = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.config.market_seed), protocol.TUNING), _ASKED)
        keys = jax.vmap(lambda n: jax.random.fold_in(root, n))(jnp.arange(self.config.asked_markets))
        tried: list[dict[str, Any]] = []
        found = []
        for target in self.config.asked:
            policy = algorithm.make_policy(config.replace(target=target), data.spec, states)
            stacked = protocol.over_seeds(policy, len(self.config.seeds))
            played = rollout_seeds(self.env, self.params, stacked, keys, label=f"{label} asks for {target:g}")
            found.append(policy)
            tried.append({"policy": label, "target": target, "score": float(played.metrics["score"].mean())})
        best = int(np.argmax([row["score"] for row in tried]))
        return found[best], [row | {"chosen": place == best} for place, row in enumerate(tried)]

    def evaluate(self, name: str, policy: Any, scores: list[pl.DataFrame], replayed: list[pl.DataFrame]) -> None:
        """Plays a learner's seeds on every case, against rivals who respond and against a logged day."""
        seeds = self.config.seeds
        scores.append(protocol.evaluate_learner(name, self.env, self.params, policy, seeds, self.cases))
        logged_day = price_taking(self.env)  # type: ignore[arg-type]
        replayed.append(protocol.evaluate_learner(name, logged_day, self.params, policy, seeds, self.cases))

    def rules(self) -> protocol.TunedRules:
        """Tunes the rules, as ``adarena run autobid`` does."""
        config = self.config
        self.console.print(f"Tuning {len(config.rules)} rules, {config.tune_episodes} episodes each")
        return protocol.tune_rules(
            self.env,
            self.params,
            config.rules,
            budget=config.tune_episodes,
            market_seed=config.market_seed,
            population=16,
            episodes=max(4, min(64, config.tune_episodes // 64)),
        )

    def study(self, policies: dict[str, Any], episodes: Any) -> None:
        """GAS's ways to choose a candidate, and a Decision Transformer on scores to go against one on values to go."""
        seeds, choices = self.config.seeds, []
        if "gas" in policies:
            from adarena.agents.offline.gas import CHOICES

            for number, choice in enumerate(CHOICES):
                chosen = policies["gas"].replace(choice=jnp.full(len(seeds), number, jnp.int32))
                choices.append(protocol.evaluate_learner(choice, self.env, self.params, chosen, seeds, self.cases))
            self.folder.write_table("choices", pl.concat(choices))
        kinds = []
        for kind in ("score", "value"):
            told = episodes if kind == "score" else value_rewards(episodes, self.env)
            data = make_data(told, spec_of(self.env, self.params))
            name = "decision_transformer"
            changes = {"conditioning": "to_go", "meter": meter_of(self.env, kind)}
            config = configured(name, self.env, self.config.steps(name), **changes)
            policy, _, _ = self.learn(f"to_go_{kind}", name, data, config)
            kinds.append(protocol.evaluate_learner(kind, self.env, self.params, policy, seeds, self.cases))
        self.folder.write_table("to_go", pl.concat(kinds))


if __name__ == "__main__":
    from adarena.experiments.cli import main

    main(["run", "offline", *__import__("sys").argv[1:]])
