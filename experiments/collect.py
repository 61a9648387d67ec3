"""``adarena collect``: episodes of AutoBid under behaviour policies whose densities are known, as data for offline learners.

Tiers as users of D4RL expect them: ``random``, ``medium`` (PPO half-way through its training), ``expert`` (at its end),
``mixed`` (equal parts of these three) and ``rules`` (equal parts of the tuned rules, with noise). The layout is described
in `adarena.experiments.logged`.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from adarena import envs
from adarena.agents import checkpoint
from adarena.agents.behaviour import Behaviour, Mixture
from adarena.agents.fields import is_count
from adarena.agents.offline.episodes import Episodes
from adarena.agents.rules import RULES
from adarena.agents.tuner import plan_of
from adarena.envs.core import Env, episode_keys
from adarena.experiments import autobid, locks, logged, tables
from adarena.experiments.behaviours import SEED_LAYOUT, TIERS, BehaviourConfig, behaviours, tuning_sizes
from adarena.experiments.sharding import cores
from adarena.experiments.store import RunFolder, RunFolderError

FORMATS = ("minari", "auctionnet")
"""What a dataset may be written as beside its own layout."""

_DETERMINISTIC_RULES = tuple(name for name in RULES if name != "random")


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} must be among {', '.join(allowed)}, got {value!r}")


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """What to collect; the defaults make a million steps.

    Attributes:
        tier: ``random``, ``medium``, ``expert``, ``mixed`` or ``rules``.
        traffic: As in ``adarena run autobid``; not the replay of a log.
        mechanism: Auction.
        objective: ``"cpa"``, ``"roas"`` or ``"budget"``.
        response: ``"expected"`` or ``"sampled"``, as in ``adarena run autobid``.
        impressions: Impressions simulated a tick.
        steps: Environment steps, rounded up to whole episodes.
        episodes: Episodes instead of ``steps``, unless 0.
        seed: Of the logged markets, the training and the tuning; below 2^31.
        budgets: Smallest and largest budget over the advertiser's usual one (log-uniform between), in training too.
        train_steps: Environment steps of PPO's training.
        medium_share: Share of them after which it is ``medium``.
        num_envs: As in ``adarena run autobid``.
        minibatches: As in ``adarena run autobid``.
        learning_rate: As in ``adarena run autobid``.
        hidden: As in ``adarena run autobid``.
        rules: Rules of tier ``rules``; any but ``random``, whose draws have no known density.
        tune_episodes: Episodes that each rule's search may spend.
        noise: Standard deviation of the noise around a rule's action, before truncation to the range [-1, 1].
        part_episodes: Episodes a file.
        chunk: Episodes played at a time.
        market: Name of the market in the names of folder and dataset.
        out: Folder of datasets and behaviour policies.
        name: Name of the dataset's folder; ``MARKET-TIER`` when empty.
        formats: What to write beside the dataset's own layout: ``minari`` (needs the extra ``adarena[offline]``; lies
            where Minari keeps its datasets) and ``auctionnet`` (its RL training CSV).
    """

    tier: str = "medium"
    traffic: str = "calibrated"
    mechanism: str = "gsp"
    objective: str = "cpa"
    response: str = "expected"
    impressions: int = 64
    steps: int = 1_000_000
    episodes: int = 0
    seed: int = 0
    budgets: tuple[float, float] = (0.5, 1.5)
    train_steps: int = 800_000
    medium_share: float = 0.5
    num_envs: int = 64
    minibatches: int = 4
    learning_rate: float = 1e-3
    hidden: tuple[int, ...] = (128, 128)
    rules: tuple[str, ...] = _DETERMINISTIC_RULES
    tune_episodes: int = 1024
    noise: float = 0.1
    part_episodes: int = 1024
    chunk: int = 64
    market: str = "autobid"
    out: str = "datasets"
    name: str = ""
    formats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses what cannot run, before anything does."""
        _one_of("tier", self.tier, tuple(TIERS))
        for form in self.formats:
            _one_of("formats", form, FORMATS)
        for rule in self.rules:
            _one_of("rules", rule, _DETERMINISTIC_RULES)
        if len(set(self.rules)) < len(self.rules):
            raise ValueError(f"rules must be distinct, got {self.rules!r}")
        for field in ("steps", "part_episodes", "chunk"):
            if not is_count(getattr(self, field)):
                raise ValueError(f"{field} must be a whole number of at least 1, got {getattr(self, field)!r}")
        if self.episodes != 0 and not (is_count(self.episodes) and self.episodes < 2**32):
            raise ValueError(f"episodes must be 0 or a whole number from 1 to 2^32 - 1, got {self.episodes!r}")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be a whole number from 0 to 2^31 - 1, got {self.seed!r}")
        if len(self.budgets) != 2 or not 0.0 < self.budgets[0] <= self.budgets[1] < 100.0:
            raise ValueError(f"budgets must be two rising numbers in (0, 100), got {self.budgets!r}")
        if not 0.0 < self.medium_share < 1.0:
            raise ValueError(f"medium_share must lie in (0, 1), got {self.medium_share!r}")
        if not 0.0 < self.noise <= 10.0:
            raise ValueError(f"noise must lie in (0, 10], got {self.noise!r}")
        if not self.market:
            raise ValueError("market must not be empty, got ''")
        experiment = self.behaviour().experiment
        if self.tier == "rules":
            try:
                plan_of(self.tune_episodes, finalists=4, **tuning_sizes(self.tune_episodes))
            except ValueError as error:
                raise ValueError(f"tune_episodes {str(error).removeprefix('budget ')}") from None
        if experiment.replays:
            raise ValueError(f"traffic must not be the replay of a log, got {self.traffic!r}")

    def behaviour(self) -> BehaviourConfig:
        """What decides the behaviour policies."""
        experiment = autobid.AutoBidExperiment(
            traffic=self.traffic,
            mechanisms=(self.mechanism,),
            objective=self.objective,
            response=self.response,
            impressions=self.impressions,
            seeds=(self.seed,),
            train_steps=self.train_steps,
            num_envs=self.num_envs,
            minibatches=self.minibatches,
            learning_rate=self.learning_rate,
            hidden=tuple(self.hidden),
            rules=self.rules,
            tune_episodes=self.tune_episodes,
            market_seed=self.seed,
        )
        return BehaviourConfig(experiment, tuple(self.budgets), self.medium_share, self.noise)  # type: ignore[arg-type]

    @property
    def folder_name(self) -> str:
        """Name of the dataset's folder."""
        return self.name or f"{self.market}-{self.tier}"


PRESETS: dict[str, CollectConfig] = {
    "default": CollectConfig(),
    "auctionnet": CollectConfig(traffic="auctionnet", train_steps=1_200_000, tune_episodes=2048, market="auctionnet"),
}
"""Named configurations: ``--preset NAME``."""


def run(config: CollectConfig, *, resume: bool = False) -> Path:
    """Collects a dataset; one that was killed goes on where it was with ``resume``, and ends in the same bytes.

    With ``resume`` and more ``formats``, a finished dataset is written in those too.

    Returns:
        The dataset's folder.

    Raises:
        RunFolderError: The folder is there already, or of another configuration, or damaged (the message names the file).
        ImportError: ``formats`` asks for what is not installed.
    """
    if "minari" in config.formats:
        from adarena.experiments.minari_export import require_minari

        require_minari()
    console, started = tables.console(), time.perf_counter()
    behaviour = config.behaviour()
    env, params = envs.make(behaviour.experiment.env, **behaviour.changes)
    length = env.max_steps(params)
    episodes = config.episodes or -(-config.steps // length)
    # Where it lies and what else it is written as does not make it another dataset.
    identity = dataclasses.replace(config, out="", name="", formats=())
    with RunFolder.create(config.out, identity, config.folder_name, resume=resume, seeds=SEED_LAYOUT) as folder:
        console.print(
            f"AutoBid ({config.traffic} traffic, {config.mechanism}), tier {config.tier}: {episodes:,} episodes, "
            f"{episodes * length:,} steps; the dataset goes to {folder.path}"
        )
        members = behaviours(behaviour, config.tier, env, params, Path(config.out) / "behaviours", console)
        about = logged.About(
            name=f"{config.market}/{config.tier}",
            env=behaviour.experiment.env,
            changes=behaviour.changes,
            observation=env.OBSERVATION,
            policies=tuple(members),
            digests=tuple(checkpoint.digest(member) for member in members.values()),
            episodes=episodes,
            part_episodes=config.part_episodes,
            steps=length,
        )
        _settle_about(folder, about)
        _collect(config, about, env, params, tuple(members.values()), folder)
    _export(config, folder)
    took = time.perf_counter() - started
    console.print(
        f"Finished in {took / 60:.1f} min. The dataset is in {folder.path}; adarena.experiments.logged.load reads it"
    )
    return folder.path


def shared(config: CollectConfig) -> Path:
    """`run`, going on with what is there, by one process at a time: experiments side by side may need the same dataset.

    Raises:
        RunFolderError: As `run`.
    """
    with locks.hold(Path(config.out) / ".collecting", wait=True):
        return run(config, resume=True)


def play(
    env: Env, params: Any, members: tuple[Behaviour, ...], seeds: np.ndarray, behaviour: np.ndarray, *, chunk: int = 64
) -> Episodes:
    """Plays one episode a case.

    Args:
        env: The environment, whose episodes all last ``env.max_steps(params)``.
        params: Its parameters.
        members: Behaviour policies.
        seeds: ``[E]`` int64, cases (`adarena.experiments.logged.case_keys`).
        behaviour: ``[E]`` int32, which member plays each.
        chunk: Episodes at a time. One compilation serves all calls with at least as many.

    Raises:
        RuntimeError: An episode ended before its last step, or did not end at it.
    """
    size = min(chunk, len(seeds))
    starts = range(0, len(seeds), size)

    def call(start: int) -> list[np.ndarray]:
        at = np.minimum(np.arange(start, start + size), len(seeds) - 1)  # the last chunk repeats an episode
        series = _play(env, params, members, logged.case_keys(seeds[at]), jnp.asarray(behaviour[at]))
        return [np.asarray(x)[: len(seeds) - start] for x in series]

    with ThreadPoolExecutor(cores()) as pool:
        parts = list(pool.map(call, starts))
    observations, actions, rewards, terminated, truncated, log_probs = (
        np.concatenate(series) for series in zip(*parts, strict=True)
    )
    done = terminated | truncated
    if done[:, :-1].any() or not done[:, -1].all():
        raise RuntimeError("an episode did not end at its last step; episodes must all be of one length")
    return Episodes(observations, actions, rewards, terminated, log_probs, behaviour, seeds)


@functools.partial(jax.jit, static_argnums=0)
def _play(env: Env, params: Any, members: tuple[Behaviour, ...], keys: jax.Array, choice: jax.Array) -> Any:
    """``[C]`` episodes: observations, actions, rewards, terminated, truncated, log-densities."""

    def episode(key: jax.Array, choice: jax.Array) -> Any:
        mixture = Mixture(members, choice)
        obs, state = env.reset(key, params)

        def tick(carry: Any, keys: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
            obs, state, memory = carry
            memory, action, log_prob = mixture.draw(keys[1], memory, obs)
            result = env.step(keys[0], state, action, params)
            kept = obs, action, result.reward, result.terminated, result.truncated, log_prob
            return (result.obs, result.state, memory), kept

        start = obs, state, mixture.init(params)
        (last, _, _), (seen, *rest) = jax.lax.scan(tick, start, episode_keys(key, env.max_steps(params)))
        return jnp.concatenate([seen, last[None]]), *rest

    return jax.vmap(episode)(keys, choice)


def _settle_about(folder: RunFolder, about: logged.About) -> None:
    """Writes what the numbers mean; refuses to go on with policies other than those that began."""
    if logged.ABOUT not in folder.manifest["files"]:
        folder.write_file(logged.ABOUT, about.write)
    elif (old := logged.read_about(folder)) != about:
        changed = next(f.name for f in dataclasses.fields(about) if getattr(old, f.name) != getattr(about, f.name))
        raise RunFolderError(
            f"{folder.path.name} was begun with other behaviour policies or another market: {changed} in {logged.ABOUT} "
            f"is {getattr(old, changed)!r}, now {getattr(about, changed)!r}"
        )


def _collect(
    config: CollectConfig, about: logged.About, env: Env, params: Any, members: tuple[Behaviour, ...], folder: RunFolder
) -> None:
    """Plays and writes the parts that are not there yet."""
    total = about.episodes * about.steps
    with tqdm(total=total, desc=f"collecting {config.tier}", unit="step", unit_scale=True, disable=None) as bar:
        for number in range(about.parts):
            first = number * about.part_episodes
            index = np.arange(first, min(first + about.part_episodes, about.episodes), dtype=np.int64)
            if logged.part_name(number) not in folder.manifest["files"]:
                seeds = (np.int64(config.seed) << 32) + index
                choice = (index % len(members)).astype(np.int32)
                part = play(env, params, members, seeds, choice, chunk=min(config.chunk, about.part_episodes))
                logged.write_part(folder, number, part)
            bar.update(len(index) * about.steps)


def _export(config: CollectConfig, folder: RunFolder) -> None:
    console = tables.console()
    if "minari" in config.formats:
        from adarena.experiments import minari_export

        console.print(f"Minari dataset: {minari_export.export(folder.path)}")
    if "auctionnet" in config.formats:
        from adarena.experiments import auctionnet_export

        target = folder.path.with_name(f"{folder.path.name}-rlData.csv")
        console.print(f"AuctionNet's training table: {auctionnet_export.export(folder.path, target)}")
