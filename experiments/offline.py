"""Bidders that learn from logs: one log, every offline and generative learner, compared in the live market.

``adarena run offline`` or ``python experiments/offline.py``. Learners see the log alone. Their settings are chosen on tuning
markets (`adarena.experiments.offline_search`), where rules are tuned as well, and so is what generative bidders ask for; the
comparison is on markets that nobody has seen, against rivals who respond, and again against rivals that repeat a logged day
(`adarena.envs.price_taking`).
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from adarena.agents.fields import is_count
from adarena.agents.rules import RULES
from adarena.experiments import autobid, collect, logged, offline_tables, tables
from adarena.experiments.autobid import AutoBidExperiment
from adarena.experiments.offline_bench import Bench
from adarena.experiments.offline_learners import ALGORITHMS, STEPS, settings_of
from adarena.experiments.offline_studies import STUDIES
from adarena.experiments.store import RunFolder

SEED_LAYOUT = autobid.SEED_LAYOUT | {
    "logged markets": "fold_in(fold_in(key(log_seed), 0x106ED), episode)",
    "offline training": "jax.random.key(seed), one for each training seed; in the search of settings max(seeds) + 1",
    "markets on which settings are chosen": "fold_in(fold_in(fold_in(key(market_seed), 1), 0x5E7), market)",
    "markets on which what is asked for is chosen": "fold_in(fold_in(fold_in(key(market_seed), 1), 0xA5C), market)",
}


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
        settings: Settings of each learner to try on tuning markets before it is trained
            (`adarena.experiments.offline_search`); 0 for none but the modules' own.
        search_steps: Gradient steps of each setting tried, over the learner's own ones.
        seeds: Training seeds of learners.
        asked: What generative bidders may ask for, in standard deviations above the expected return.
        asked_markets: Markets on which each of them is tried.
        train_steps: Environment steps of PPO, a seed.
        rules: Rules to tune and compare.
        tune_episodes: Episodes that each rule's search may spend, and each learner's settings together.
        markets: Evaluation markets.
        seat_step: Every how manieth seat takes its turn in each of them.
        budgets: Budgets over the advertiser's usual one.
        market_seed: Seed of tuning and evaluation markets.
        studies: Which studies to run beside the comparison (`adarena.experiments.offline_studies.STUDIES`).
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
    settings: int = 8
    search_steps: float = 0.5
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
    studies: tuple[str, ...] = ("choices", "to_go", "reasoning")
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
        self._check_search()
        strange = [name for name in self.studies if name not in STUDIES]
        if strange:
            raise ValueError(f"studies must be of {', '.join(STUDIES)}, got {strange[0]!r}")
        if self.online().replays:
            raise ValueError(f"traffic must not be the replay of a log, got {self.traffic!r}")
        self.collection()

    def _check_search(self) -> None:
        if not is_count(self.settings) and self.settings != 0:
            raise ValueError(f"settings must be a whole number of at least 0, got {self.settings!r}")
        if not 0.0 < self.search_steps <= 1.0:
            raise ValueError(f"search_steps must lie in (0, 1], got {self.search_steps!r}")
        for name in self.algorithms:
            settings_of(name, self.settings)
        if self.settings and self.episodes_a_setting() < len(self.asked):
            raise ValueError(
                f"tune_episodes must be at least {self.settings * len(self.asked)}, settings times what is asked for, got "
                f"{self.tune_episodes}"
            )

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

    def steps_tried(self, algorithm: str) -> int:
        """Gradient steps of each of its settings in the search."""
        return max(1, round(self.search_steps * self.steps(algorithm)))

    def episodes_a_setting(self) -> int:
        """Episodes that each setting plays in the search."""
        return self.tune_episodes // self.settings

    def search_seed(self) -> int:
        """The training seed of all settings in the search, which no compared learner has."""
        return max(self.seeds) + 1


_ONLINE = (
    *("traffic", "response", "impressions", "seeds", "train_steps", "rules", "tune_episodes"),
    *("markets", "seat_step", "budgets", "market_seed"),
)

PRESETS: dict[str, OfflineExperiment] = {
    "default": OfflineExperiment(),
    "sparse": OfflineExperiment(response="sampled", studies=()),
    "auctionnet": OfflineExperiment(traffic="auctionnet", seat_step=4, studies=()),
    "auctionnet_sparse": OfflineExperiment(traffic="auctionnet", response="sampled", seat_step=4, studies=()),
    "reasoning": OfflineExperiment(
        algorithms=("bc", "decision_transformer", "reasoner"), seeds=(0, 1, 2, 3, 4), studies=("reasoning",)
    ),
    "smoke": OfflineExperiment(
        log_steps=3072,
        gradient_steps=0.02,
        settings=2,
        seeds=(0, 1),
        asked=(0.0, 2.0),
        asked_markets=8,
        train_steps=12_288,
        rules=("constant", "min_pacing"),
        tune_episodes=288,
        seat_step=24,
    ),
    "paper": OfflineExperiment(
        log_steps=2_000_000,
        settings=16,
        seeds=tuple(range(10)),
        train_steps=1_200_000,
        tune_episodes=2048,
        markets=5,
        seat_step=2,
    ),
}
"""Named configurations: ``--preset NAME``."""


def run(config: OfflineExperiment, *, resume: bool = False) -> Path:
    """Runs the experiment; a run that was killed goes on where it was with ``resume``.

    Returns:
        The run folder: ``scores`` (live), ``replayed`` (the same against a logged day), ``summary``, ``search`` (with
        ``settings``), ``asked``, ``orderings``, ``disagreement``, a table a study, ``curves``, ``tuning``, ``times``; figures.
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
        if not bench.complete():
            bench.compare(logged.load(dataset).episodes)
        offline_tables.derive(config, folder)
        for table in offline_tables.shown(folder, config):
            console.print(table)
        tables.finish(folder, config.figures, started, console)
    return folder.path


if __name__ == "__main__":
    from adarena.experiments.cli import main

    main(["run", "offline", *__import__("sys").argv[1:]])
