"""Off-policy evaluation against the truth: logs of AutoBid, policies near those that played, every estimator, many markets.

``adarena run ope`` or ``python experiments/ope.py``. One dataset of a tier is collected with known densities and cut into
logs of several sizes. Target policies vary those that played: their noise moved and made wider or narrower. What an
estimator says from a log alone is compared with what the policy earns when it plays fresh markets of the same kind.

A tier has several behaviour policies, one of which plays each episode. The density of a logged action is that of the
policy that played *its* episode (which the log names), not a density averaged over them. A target called ``own`` draws its
member as the log did and plays that one varied, so this is exact for it: the choice of the member has the same chances on
both sides. A target called after one member plays that one, varied, in all episodes; the ratio of densities is still exact.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
from rich.console import Console

from adarena.agents import checkpoint
from adarena.agents.behaviour import Behaviour
from adarena.agents.fields import is_count
from adarena.agents.offline import fitted_q, ope
from adarena.agents.offline.data import make_data, spec_of
from adarena.agents.offline.episodes import Episodes
from adarena.agents.offline.loop import train
from adarena.experiments import behaviours, collect, logged, ope_tables, tables
from adarena.experiments.ope_targets import OWN, Target, along
from adarena.experiments.store import RunFolder, RunFolderError
from adarena.experiments.work import Work

SEED_LAYOUT = behaviours.SEED_LAYOUT | {
    "markets of the truth": "logged markets of the seed 2^31 - 1 - log_seed",
    "fitted Q": "jax.random.key(n), n the number of policy, log size and log",
    "draws of target policies": "fold_in(fold_in(key(log_seed), 0x09E), policy), split over episodes",
}
_DRAWS = 0x09E
_TRUTH = 2**31 - 1  # the seed of logs is taken off it: never equal, since it is odd


@dataclasses.dataclass(frozen=True)
class OpeExperiment:
    """The whole configuration of a run.

    Attributes:
        tier: The log: ``medium``, ``expert``, ``mixed`` or ``rules`` (see ``adarena collect``). ``random`` has no noise
            around anything that could be varied.
        rules: Rules of tier ``rules``.
        noise: Standard deviation of the noise around a rule's action, before truncation to [-1, 1].
        traffic: ``"calibrated"``, ``"synthetic"``, ``"calibration:PATH"`` or ``"auctionnet"``.
        mechanism: Auction.
        response: ``"expected"`` or ``"sampled"``.
        impressions: Impressions simulated a tick.
        budgets: Smallest and largest budget over the advertiser's usual one.
        log_sizes: Episodes of a log.
        replicates: Logs of each size, which share no episode.
        log_seed: Of logged markets and of the policies that play them.
        policies: Whose noise to vary: ``own``, or a behaviour policy of the tier by name.
        shifts: By how many of its standard deviations the mean of the noise moves.
        scales: What its standard deviation is multiplied by. There is a target for each policy, shift and scale.
        truth_episodes: Episodes that each target plays, the same markets for all; whole rounds of the tier's policies.
        draws: Actions drawn from a target at each observation, for fitted Q.
        gradient_steps: Of fitted Q.
        hidden: Widths of its hidden layers.
        clip: Largest weight; 0 clips nothing.
        resamples: Of the bootstrap.
        train_steps: Environment steps of PPO's training.
        tune_episodes: Episodes that each rule's search may spend.
        chunk: Episodes played at a time.
        runs: Folder of the runs.
        name: Name of the run; made from the configuration when empty.
        figures: Whether to draw.
    """

    tier: str = "rules"
    rules: tuple[str, ...] = ("constant", "pid_pacing", "min_pacing")
    noise: float = 0.2
    traffic: str = "calibrated"
    mechanism: str = "gsp"
    response: str = "expected"
    impressions: int = 64
    budgets: tuple[float, float] = (0.5, 1.5)
    log_sizes: tuple[int, ...] = (64, 256)
    replicates: int = 8
    log_seed: int = 0
    policies: tuple[str, ...] = (OWN,)
    shifts: tuple[float, ...] = (-1.0, -0.4, -0.2, 0.0, 0.2, 0.4, 1.0)
    scales: tuple[float, ...] = (0.8, 1.0)
    truth_episodes: int = 1536
    draws: int = 4
    gradient_steps: int = 3000
    hidden: tuple[int, ...] = (64, 64)
    clip: float = 0.0
    resamples: int = 500
    train_steps: int = 800_000
    tune_episodes: int = 1024
    chunk: int = 64
    runs: str = "runs"
    name: str = ""
    figures: bool = True

    def __post_init__(self) -> None:
        """Refuses what cannot run, before anything does."""
        if self.tier == "random":
            raise ValueError("tier must be among medium, expert, mixed, rules, got 'random': it has no noise to vary")
        for field in ("replicates", "truth_episodes", "draws", "gradient_steps", "resamples"):
            if not is_count(getattr(self, field)):
                raise ValueError(f"{field} must be a whole number of at least 1, got {getattr(self, field)!r}")
        sizes = self.log_sizes
        if not sizes or not all(is_count(n) and n > 1 for n in sizes) or len(set(sizes)) < len(sizes):
            raise ValueError(f"log_sizes must be distinct whole numbers of at least 2, got {sizes!r}")
        if not self.shifts or not all(-5.0 <= x <= 5.0 for x in self.shifts):
            raise ValueError(f"shifts must be numbers in [-5, 5], at least one, got {self.shifts!r}")
        if not self.scales or not all(0.1 <= x <= 10.0 for x in self.scales):
            raise ValueError(f"scales must be numbers in [0.1, 10], at least one, got {self.scales!r}")
        if not 0.0 <= self.clip < math.inf:
            raise ValueError(f"clip must be 0 or a finite number above it, got {self.clip!r}")
        self.collection()
        known = (OWN, *(name for name in self.members() if name != "random"))
        if not self.policies or any(name not in known for name in self.policies):
            raise ValueError(f"policies must be of {', '.join(known)}, at least one, got {self.policies!r}")
        names = [target.name for target in self.targets()]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(
                "policies, shifts and scales must name at least two targets, all distinct, got "
                f"{self.policies!r}, {self.shifts!r} and {self.scales!r}"
            )
        fitted_q.make_config(hidden=tuple(self.hidden))

    def collection(self) -> collect.CollectConfig:
        """What to log."""
        names = ("tier", "rules", "noise", "traffic", "mechanism", "response", "impressions", "budgets")
        episodes = max(self.log_sizes) * self.replicates
        market = f"{self.traffic.partition(':')[0]}-{self.response}"
        return collect.CollectConfig(
            **{name: getattr(self, name) for name in (*names, "train_steps", "tune_episodes", "chunk")},
            episodes=episodes,
            seed=self.log_seed,
            market=market,
            out=str(Path(self.runs) / "datasets"),
            name=f"ope-{market}-{self.tier}-{episodes}-{self.log_seed}",
        )

    def members(self) -> tuple[str, ...]:
        """Names of the behaviour policies."""
        return tuple(self.rules) if self.tier == "rules" else behaviours.TIERS[self.tier]

    def targets(self) -> list[Target]:
        """Target policies."""
        return [Target(*of) for of in itertools.product(self.policies, self.shifts, self.scales)]


PRESETS: dict[str, OpeExperiment] = {
    "default": OpeExperiment(),
    "mixed": OpeExperiment(tier="mixed", policies=(OWN, "medium")),
    "smoke": OpeExperiment(
        rules=("constant", "min_pacing"),
        impressions=16,
        log_sizes=(8, 16),
        replicates=2,
        shifts=(-0.5, 0.0, 0.5),
        scales=(1.0,),
        truth_episodes=32,
        gradient_steps=100,
        hidden=(16,),
        resamples=100,
        tune_episodes=288,
    ),
}
"""Named configurations: ``--preset NAME``."""


def run(config: OpeExperiment, *, resume: bool = False) -> Path:
    """Runs the experiment; a run that was killed goes on where it was with ``resume``. The dataset is reused if it is there.

    Returns:
        The run folder: tables ``truths`` (a row a target), ``estimates`` (a row an estimator, target, log size and log),
        ``quality`` (a row an estimator and log size), ``curves`` (fitted Q's training); figures.
    """
    console, started = tables.console(), time.perf_counter()
    with RunFolder.create(config.runs, config, config.name or None, resume=resume, seeds=SEED_LAYOUT) as folder:
        targets = config.targets()
        console.print(
            f"Off-policy evaluation ({config.traffic} traffic, tier {config.tier}): {len(targets)} target policies, "
            f"{config.replicates} logs of each of {', '.join(map(str, config.log_sizes))} episodes; results go to {folder.path}"
        )
        bench = Bench.make(config, folder, console, resume)
        if "truths" not in folder.tables:
            folder.write_table("truths", bench.truths(targets))
        if "estimates" not in folder.tables:
            folder.write_table("estimates", bench.estimates(targets, folder.read_table("truths")))
        folder.write_table("quality", ope_tables.quality(folder.read_table("estimates")))
        console.print(ope_tables.shown(folder.read_table("quality"), folder.read_table("truths")))
        tables.finish(folder, config.figures, started, console)
    return folder.path


@dataclasses.dataclass
class Bench(Work):
    """What one run works with.

    Attributes:
        members: Behaviour policies by name, in the order of their numbers.
        episodes: All logged episodes.
    """

    config: OpeExperiment
    members: dict[str, Behaviour]
    episodes: Episodes

    @classmethod
    def make(cls, config: OpeExperiment, folder: RunFolder, console: Console, resume: bool) -> Bench:
        """Collects what is not there yet.

        Raises:
            RunFolderError: The dataset is damaged, or was played by other policies than those that are there now.
        """
        collection = config.collection()
        log = logged.load(collect.run(collection, resume=True))
        env, params = log.about.make()
        root = Path(collection.out) / "behaviours"
        members = behaviours.behaviours(collection.behaviour(), config.tier, env, params, root, console)
        if tuple(checkpoint.digest(member) for member in members.values()) != log.about.digests:
            raise RunFolderError(f"{collection.folder_name} was played by other policies than those in {root.name}")
        return cls(config, folder, console, resume, env, params, members, log.episodes)

    def truths(self, targets: list[Target]) -> pl.DataFrame:
        """Plays every target on the same fresh markets: its mean return and the standard error of it."""
        kinds = len(self.members)
        count = -(-self.config.truth_episodes // kinds) * kinds  # so that each member plays as often, as in the log
        self.console.print(f"Playing {count:,} episodes with each target policy: the truth")
        index = np.arange(count, dtype=np.int64)
        seeds = (np.int64(_TRUTH - self.config.log_seed) << 32) + index
        rows = []
        for target in targets:
            choice = target.choice(self.members, (index % kinds).astype(np.int32))
            played = collect.play(
                self.env, self.params, target.members(self.members), seeds, choice, chunk=min(self.config.chunk, count)
            ).returns()
            error = float(played.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
            rows.append(
                {"policy": target.name, "of": target.policy, "shift": target.shift, "scale": target.scale}
                | {"truth": float(played.mean()), "truth_se": error, "episodes": count}
            )
        return pl.DataFrame(rows)

    def estimates(self, targets: list[Target], truths: pl.DataFrame) -> pl.DataFrame:
        """What every estimator says of every target from every log, beside the truth."""
        densities, q, v = self.learnt(targets)
        clip = self.config.clip or None
        found = {row["policy"]: row for row in truths.iter_rows(named=True)}
        rows = []
        for number, target in enumerate(targets):
            weights = ope.log_weights(densities[number], self.episodes.log_probs, clip=clip)
            for size, replicate in itertools.product(self.config.log_sizes, range(self.config.replicates)):
                at = slice(replicate * size, (replicate + 1) * size)
                values = q[number, size, replicate], v[number, size, replicate]
                about = {"policy": target.name, "log_size": size, "log": replicate}
                about |= {name: found[target.name][name] for name in ("truth", "truth_se")}
                rows += self.rows(about, weights[at], self.episodes.rewards[at], values, replicate)
        return pl.DataFrame(rows, infer_schema_length=None)

    def rows(
        self,
        about: dict[str, Any],
        weights: np.ndarray,
        rewards: np.ndarray,
        values: tuple[np.ndarray, np.ndarray],
        seed: int,
    ) -> list[dict[str, Any]]:
        """A row an estimator, of one target and log. ``logged`` is the log's own mean return, for comparison."""
        options = ope.Intervals(self.config.resamples, seed=seed)
        said = {name: ope.estimate(name, weights, rewards, *values, intervals=options) for name in ope.ESTIMATORS}
        said["logged"] = ope.estimate("is", np.zeros_like(weights), rewards, intervals=options)
        return [
            {"estimator": name} | about | {"estimate": one.value, "low": one.low, "high": one.high, "ess": one.ess}
            for name, one in said.items()
        ]

    def learnt(self, targets: list[Target]) -> tuple[np.ndarray, dict[Any, np.ndarray], dict[Any, np.ndarray]]:
        """Log densities ``[K, E, T]`` of the logged actions; ``Q`` and ``V`` ``[N, T]`` by target, log size and log."""
        config, log = self.config, self.episodes
        densities, draws, context = [], [], []
        for number, target in enumerate(targets):
            choice = target.choice(self.members, log.behaviour)
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.log_seed), _DRAWS), number)
            density, actions = along(target.members(self.members), self.params, choice, log, key, config.draws)
            densities.append(density)
            draws.append(actions)
            context.append(np.eye(len(self.members))[choice])
        data = fitted_q.policy_data(make_data(log, spec_of(self.env, self.params)), np.stack(draws), np.stack(context))
        fits = list(itertools.product(range(len(targets)), config.log_sizes, range(config.replicates)))
        self.console.print(f"Fitted Q: {config.gradient_steps:,} gradient steps on {len(fits)} pairs of target and log")
        numbers = np.asarray([(target, size * replicate, size) for target, size, replicate in fits], np.float32).T
        learner: Any = fitted_q  # an algorithm whose data hold draws of target policies besides
        settings: Any = fitted_q.make_config(
            hidden=tuple(config.hidden), **dict(zip(("target", "first", "episodes"), numbers, strict=True))
        )
        states, curve = train(
            learner,
            settings,
            data,
            seeds=range(len(fits)),
            total_steps=config.gradient_steps,
            log_steps=min(100, config.gradient_steps),
            checkpoint=self.folder.checkpoints / "fitted_q",
            resume=self.resume,
        )
        self.folder.write_table("curves", curve)
        q, v = {}, {}
        for size in config.log_sizes:
            at = np.asarray([place for place, fit in enumerate(fits) if fit[1] == size])
            of = settings.replace(
                **{name: numbers[row][at] for row, name in enumerate(("target", "first", "episodes"))}
            )
            found = fitted_q.values(of, data, jax.tree.map(lambda x, at=at: x[at], states), episodes=size)
            for place, one_q, one_v in zip(at, *found, strict=True):
                q[fits[place]], v[fits[place]] = one_q, one_v
        return np.stack(densities), q, v


if __name__ == "__main__":
    from adarena.experiments.cli import main

    main(["run", "ope", *__import__("sys").argv[1:]])
