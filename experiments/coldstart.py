"""Cold start: rules tuned, learners trained, all compared on markets that none has seen; frontier, split tests, nulls.

``adarena run coldstart`` or ``python experiments/coldstart.py``.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from adarena import envs
from adarena.agents import dual_q, es, ppo
from adarena.agents.actors import NETWORKS, NetworkKind
from adarena.agents.rules.coldstart import COLDSTART_RULES, ORACLES
from adarena.envs.core import Env
from adarena.experiments import coldstart_ab, coldstart_studies, coldstart_tables, protocol, tables
from adarena.experiments.coldstart_eval import Contestants, cases_of, contestants, evaluate, hindsight
from adarena.experiments.coldstart_training import LEARNERS, trained_learners, tuned_rules
from adarena.experiments.store import RunFolder

SEED_LAYOUT = {
    "training": "jax.random.key(seed), one for each training seed",
    "tuning markets": "fold_in(key(market_seed), 1)",
    "evaluation markets": "fold_in(fold_in(key(market_seed), 2), market)",
    "streams of an episode": "fold_in(reset key, n) for traffic, values, response, rivals, exploration = 0, 1, 2, 3, 4",
}

STUDIES = ("frontier", "sensitivity", "nulls", "ab", "series")
"""What a run does beside the comparison: see `adarena.experiments.coldstart_studies` and `coldstart_ab`."""


@dataclasses.dataclass(frozen=True)
class ColdStartExperiment:
    """The whole configuration of a run.

    Attributes:
        mature: Mature ads.
        launched: New ads of an episode.
        days: Days of an episode.
        ticks_per_day: Ticks in a day.
        impressions: Impressions simulated a tick.
        exploration_budget: Exploration fund over forecast revenue.
        required_conversions: ``N`` of the success criterion.
        window_days: ``D`` of the success criterion.
        rules: Rules to tune and compare, ``none`` among them.
        tune_episodes: Episodes that each rule's search may spend; the oracle's as well.
        learners: Some of `LEARNERS`.
        seeds: Training seeds of each learner.
        network: ``"deep_sets"``, ``"attention"`` or ``"mlp"``.
        hidden: Widths of the networks' hidden layers.
        initial_action: Where learners start, on the action's scale of [-1, 1]: bonus, protected share, bid.
        dual_q_steps: Environment steps of a training seed of Q-learning item by item; afterwards it spends
            ``tune_episodes`` on the two numbers of its budget's price.
        dual_q_episodes: Episodes side by side in its training.
        dual_q_gradient_steps: Gradient steps an update.
        dual_q_learning_rate: Its step size of Adam, falling linearly to zero.
        ppo_steps: Environment steps of a training seed of PPO.
        num_envs: Environments side by side in its training.
        rollout_length: Ticks collected from each before an update.
        minibatches: Gradient steps a pass over a rollout.
        learning_rate: PPO's step size of Adam, falling linearly to zero.
        initial_log_std: Log standard deviation that its actions start with.
        es_steps: Environment steps of a training seed of the evolution strategy.
        es_population: Candidates a generation.
        es_episodes: Episodes a candidate plays.
        es_sigma: Standard deviation of the noise on every parameter.
        es_learning_rate: Its step size of Adam, falling linearly to zero.
        es_objective: What an episode is scored by: names of metrics and weights.
        markets: Evaluation markets of the comparison.
        bound_markets: Of these, how many have their hindsight bound computed (it is dear).
        studies: Which of `STUDIES` to do.
        study_markets: Evaluation markets of each level of a study.
        ab_markets: Evaluation markets of the split tests.
        frontier: Exploration budgets of the frontier.
        frontier_tune: Whether rules are tuned anew at each of them; if not, policies play as they were tuned and trained.
        new_shares: Shares of new ads of the sensitivity study, beside the default; each compiles a market of its own.
        chunk: Episodes at a time in evaluation; one compiled program serves all studies that have as many.
        market_seed: Seed of tuning and evaluation markets.
        runs: Folder of the runs.
        name: Name of the run; made from the configuration when empty.
        figures: Whether to draw.
    """

    mature: int = 112
    launched: int = 48
    days: int = 14
    ticks_per_day: int = 8
    impressions: int = 64
    exploration_budget: float = 0.015
    required_conversions: float = 10.0
    window_days: float = 3.0
    rules: tuple[str, ...] = tuple(COLDSTART_RULES)
    tune_episodes: int = 256
    learners: tuple[str, ...] = ("ppo", "dual_q")
    seeds: tuple[int, ...] = (0, 1, 2)
    network: NetworkKind = "deep_sets"
    hidden: tuple[int, ...] = (64, 64)
    initial_action: tuple[float, ...] = (-0.5, -0.95, 0.0)
    dual_q_steps: int = 344_064
    dual_q_episodes: int = 32
    dual_q_gradient_steps: int = 32
    dual_q_learning_rate: float = 1e-3
    ppo_steps: int = 229_376
    num_envs: int = 32
    rollout_length: int = 56
    minibatches: int = 4
    learning_rate: float = 1e-3
    initial_log_std: float = -1.5
    es_steps: int = 114_688
    es_population: int = 16
    es_episodes: int = 4
    es_sigma: float = 0.05
    es_learning_rate: float = 0.03
    es_objective: tuple[tuple[str, float], ...] = (("success_rate", 1.0),)
    markets: int = 32
    bound_markets: int = 2
    studies: tuple[str, ...] = STUDIES
    study_markets: int = 6
    ab_markets: int = 24
    frontier: tuple[float, ...] = (0.0, 0.005, 0.015, 0.04)
    frontier_tune: bool = False
    new_shares: tuple[float, ...] = (0.15, 0.5)
    chunk: int = 64
    market_seed: int = 2025
    runs: str = "runs"
    name: str = ""
    figures: bool = True

    def __post_init__(self) -> None:
        """Refuses what cannot run, before anything does."""
        for field in ("rules", "learners", "seeds", "frontier"):
            if not getattr(self, field):
                raise ValueError(f"{field} must name at least one, got {getattr(self, field)!r}")
        named = (("rules", COLDSTART_RULES), ("learners", LEARNERS), ("studies", STUDIES))
        for field, allowed in named:
            unknown = [name for name in getattr(self, field) if name not in allowed]
            if unknown:
                raise ValueError(f"{field} must be among {', '.join(allowed)}, got {unknown[0]!r}")
        if "none" not in self.rules or len(self.rules) < 2:
            raise ValueError(f"rules must hold 'none' (what all are measured against) and another, got {self.rules!r}")
        counts = (
            "tune_episodes",
            "dual_q_steps",
            "ppo_steps",
            "es_steps",
            "markets",
            "bound_markets",
            "study_markets",
            "ab_markets",
        )
        for field in (*counts, "chunk"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{field} must be a whole number of at least 1, got {value!r}")
        if self.bound_markets > self.markets:
            raise ValueError(f"bound_markets must be at most markets ({self.markets}), got {self.bound_markets}")
        if any(not 0.0 <= budget <= 1.0 for budget in self.frontier):
            raise ValueError(f"frontier must lie in [0, 1], got {self.frontier!r}")
        if any(not 0.0 < share < 1.0 for share in self.new_shares):
            raise ValueError(f"new_shares must lie in (0, 1), got {self.new_shares!r}")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be distinct and not negative, got {self.seeds!r}")
        if self.network not in NETWORKS:
            raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {self.network!r}")
        for learner in LEARNERS:
            self.learner_config(learner)

    def make(self, **changes: Any) -> tuple[Env, Any]:
        """The environment (without its twin) and its parameters."""
        own = (
            *("mature", "launched", "days", "ticks_per_day", "impressions"),
            *("exploration_budget", "required_conversions", "window_days"),
        )
        return envs.make(
            "adarena/ColdStart-v0", **({name: getattr(self, name) for name in own} | {"twin": False} | changes)
        )

    def market(self, **changes: Any) -> tuple[Env, Any]:
        """The market in which policies are compared: with twin and sums of split tests, the truth shown to oracles."""
        env, params = self.make(**({"twin": True, "truth": True} | changes))
        return coldstart_ab.watched(env), params

    def learner_config(self, learner: str) -> Any:
        """A learner's configuration."""
        if learner == "dual_q":
            return dual_q.make_config(
                hidden=tuple(self.hidden),
                episodes=self.dual_q_episodes,
                gradient_steps=self.dual_q_gradient_steps,
                learning_rate=self.dual_q_learning_rate,
                decay_steps=float(self.dual_q_steps),
            )
        shared: dict[str, Any] = {
            "network": self.network,
            "hidden": tuple(self.hidden),
            "activation": "swish",
            "initial_action": tuple(self.initial_action),
        }
        if learner == "es":
            return es.make_config(
                **shared,
                population=self.es_population,
                episodes=self.es_episodes,
                sigma=self.es_sigma,
                learning_rate=self.es_learning_rate,
                decay_steps=float(self.es_steps),
                objective=tuple((name, float(weight)) for name, weight in self.es_objective),
            )
        return ppo.make_config(
            **shared,
            num_envs=self.num_envs,
            rollout_length=self.rollout_length,
            minibatches=self.minibatches,
            learning_rate=self.learning_rate,
            decay_steps=float(self.ppo_steps),
            initial_log_std=self.initial_log_std,
            entropy=0.0,
        )


PRESETS: dict[str, ColdStartExperiment] = {
    "default": ColdStartExperiment(),
    "smoke": ColdStartExperiment(
        mature=12,
        launched=6,
        days=11,
        ticks_per_day=4,
        impressions=16,
        rules=("none", "constant_boost", "sbl"),
        seeds=(0, 1),
        tune_episodes=64,
        hidden=(8, 8),
        dual_q_steps=1408,
        dual_q_episodes=8,
        dual_q_gradient_steps=4,
        ppo_steps=1408,
        num_envs=8,
        rollout_length=22,
        es_steps=1408,
        es_population=4,
        markets=2,
        bound_markets=1,
        study_markets=2,
        ab_markets=2,
        frontier=(0.0, 0.015),
        new_shares=(),
        chunk=4,
    ),
    "paper": ColdStartExperiment(
        seeds=tuple(range(10)),
        tune_episodes=2048,
        dual_q_steps=3_000_000,
        ppo_steps=3_000_000,
        num_envs=64,
        es_steps=3_000_000,
        es_population=64,
        es_episodes=8,
        markets=64,
        bound_markets=16,
        study_markets=32,
        ab_markets=256,
        frontier=(0.0, 0.0025, 0.005, 0.01, 0.015, 0.03, 0.06),
        frontier_tune=True,
        name="coldstart-paper",
    ),
}
"""Named configurations: ``--preset NAME``."""


def run(config: ColdStartExperiment, *, resume: bool = False) -> Path:
    """Runs the experiment; a run that was killed goes on where it was with ``resume``.

    Returns:
        The run folder: configuration, manifest, ``tuning``, ``curves``, ``scores``, ``summary``, a table for each study
        (parquet), checkpoints and figures.
    """
    console = tables.console()
    started = time.perf_counter()
    with RunFolder.create(config.runs, config, config.name or None, resume=resume, seeds=SEED_LAYOUT) as folder:
        console.print(
            f"Cold start: {len(config.rules)} rules tuned, {', '.join(config.learners)} on {len(config.seeds)} seeds; "
            f"results go to {folder.path}"
        )
        rules, oracles = tuned_rules(config, folder, console)
        learners = trained_learners(config, folder, resume, console)
        everyone = contestants(config.market()[0], rules, learners, config.seeds, oracles)
        if "scores" not in folder.tables:
            folder.write_table("scores", compare(config, everyone, console))
        scores = folder.read_table("scores")
        summary = coldstart_tables.summarise(scores)
        folder.write_table("summary", summary)
        for table in coldstart_tables.comparison(summary):
            console.print(table)
        top = protocol.best_rule(scores, "success_rate", coldstart_tables.MEAN)
        _study(config, folder, everyone, top, console)
        tables.finish(folder, config.figures, started, console)
    return folder.path


def compare(config: ColdStartExperiment, everyone: Contestants, console: Console) -> pl.DataFrame:
    """Scores of everybody, and the hindsight bound at the best rule's prices."""
    env, params = config.market()
    console.print(f"evaluating {len(everyone.who)} policies on {config.markets} markets")
    cases = cases_of(config.market_seed, config.markets, params)
    scores = evaluate(env, params, everyone, cases, config.chunk)
    top = protocol.best_rule(scores, "success_rate", coldstart_tables.MEAN)
    watching, params = config.make(record=True, truth=True)
    few = cases_of(config.market_seed, config.bound_markets, params)
    bound = hindsight(watching, params, everyone.only((top,)), few)
    return pl.concat([scores, bound], how="diagonal_relaxed")


def _study(config: ColdStartExperiment, folder: RunFolder, everyone: Contestants, top: str, console: Console) -> None:
    """Whatever the configuration asks for beside the comparison, but for what the folder has already."""
    tested = everyone.only(("sbl", top, *config.learners))
    shown = everyone.only(("none", top, *config.learners)).first_seeds()
    makers = {
        "frontier": lambda: coldstart_studies.frontier(config, everyone),
        "sensitivity": lambda: coldstart_studies.sensitivity(config, everyone.only(("none", *tested.names, *ORACLES))),
        "nulls": lambda: coldstart_studies.nulls(config, everyone),
        "ab": lambda: coldstart_ab.split_tests(config, tested.first_seeds()),
    }
    for study in config.studies:
        console.print(f"study: {study}")
        if study == "series":
            for name, maker in (
                ("revenue", coldstart_studies.revenue_series),
                ("posterior", coldstart_studies.posterior_series),
            ):
                if name not in folder.tables:
                    folder.write_table(name, maker(config, shown))
            continue
        if study not in folder.tables:
            folder.write_table(study, makers[study]())
        summary = coldstart_tables.SUMMARIES[study](folder.read_table(study))
        folder.write_table(f"{study}_summary", summary)
        console.print(coldstart_tables.study(study, summary))


if __name__ == "__main__":
    from adarena.experiments.cli import main

    main(["run", "coldstart", *__import__("sys").argv[1:]])
