"""What a run of `adarena.experiments.offline` works with, and what it does: chooses, trains, asks, evaluates, keeps tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import polars as pl
from rich.console import Console

from adarena.agents import ppo
from adarena.agents.offline.data import Data, make_data, spec_of
from adarena.agents.offline.episodes import Episodes
from adarena.agents.offline.loop import train
from adarena.envs.core import Env
from adarena.envs.price_taking import price_taking
from adarena.experiments import autobid, offline_search, offline_studies, offline_tables, protocol, times
from adarena.experiments.offline_learners import ALGORITHMS, GENERATIVE, configured
from adarena.experiments.offline_tables import keep, kept
from adarena.experiments.rollout import rollout_seeds
from adarena.experiments.store import RunFolder
from adarena.experiments.work import Work

if TYPE_CHECKING:
    from adarena.experiments.offline import OfflineExperiment

_ASKED = 0xA5C  # a stream of tuning markets beside those on which rules are tuned


@dataclasses.dataclass
class Bench(Work):
    """What one run works with. Parameters are those that learners who play meet: budgets between the smallest and largest.

    Attributes:
        cases: Evaluation cases.
    """

    config: OfflineExperiment
    cases: protocol.Cases

    @classmethod
    def make(cls, config: OfflineExperiment, folder: RunFolder, console: Console, resume: bool) -> Bench:
        """From a configuration."""
        env, params = config.online().make(config.mechanism, "train")
        low, high = (jnp.float32(end(config.budgets)) for end in (min, max))
        params = dataclasses.replace(params, budget_scale_low=low, budget_scale_high=high)
        return cls(config, folder, console, resume, env, params, config.online().cases(params))

    def complete(self) -> bool:
        """Whether nothing that `compare` does is left to do."""
        config = self.config
        wanted = {*config.algorithms, "ppo", *config.rules}
        scores, replayed = (kept(self.folder, table) for table in ("scores", "replayed"))
        played = wanted <= replayed and wanted | {protocol.BEST_CONSTANT} <= scores
        return played and not offline_studies.missing(config, self.folder.tables)

    def compare(self, episodes: Episodes) -> None:
        """Trains, tunes, evaluates, studies; every table is kept as it grows, and a resumed run does what is missing."""
        config, policies = self.config, {}
        data = make_data(episodes, spec_of(self.env, self.params))
        settings = self.search(data)
        for name in config.algorithms:
            settled = configured(name, self.env, self.params, config.steps(name), **settings[name])
            policies[name], curve = self.learn(name, name, data, settled)
            keep(self.folder, "curves", curve)
        for name, policy in policies.items():
            self.evaluate(name, policy)
        rules = self.rules()
        ppo_config, states, _ = autobid.train(
            config.online(), self.env, self.params, config.mechanism, self.folder, self.resume
        )
        self.evaluate("ppo", ppo.make_policy(ppo_config, self.env, states))
        for table, env in self.days():
            if not set(rules) <= kept(self.folder, table):
                keep(self.folder, table, protocol.evaluate_rules(env, self.params, rules, self.cases))
        if protocol.BEST_CONSTANT not in kept(self.folder, "scores"):
            keep(self.folder, "scores", protocol.evaluate_constants(self.env, self.params, self.cases))
        offline_studies.study(self, policies, settings, episodes, data)

    def search(self, data: Data) -> dict[str, dict[str, Any]]:
        """The settings of every learner, chosen on tuning markets."""
        config = self.config
        if config.settings:
            self.console.print(
                f"Choosing settings: {config.settings} of each learner, {config.search_steps:g} of its gradient steps and "
                f"{config.episodes_a_setting()} episodes each"
            )
        return {name: offline_search.search(self, name, data) for name in config.algorithms}

    def learn(self, label: str, name: str, data: Data, config: Any) -> tuple[Any, pl.DataFrame]:
        """Trains one learner; a generative bidder then chooses what to ask for, which the table ``asked`` keeps.

        Returns:
            The policy, stacked over seeds; the learning curve.
        """
        steps, seeds = self.config.steps(name), self.config.seeds
        self.console.print(f"Training {label}: {steps:,} gradient steps on {len(seeds)} seeds")
        states, curve = self.fit(label, name, data, config, seeds=seeds, steps=steps, about=(label, "training"))
        if name in GENERATIVE:
            policy = self.ask(label, name, config, data, states)
        else:
            policy = ALGORITHMS[name].make_policy(config, data.spec, states)
        return policy, curve.with_columns(pl.lit(label).alias("policy"))

    def fit(
        self,
        label: str,
        name: str,
        data: Data,
        config: Any,
        *,
        seeds: Sequence[int],
        steps: int,
        about: tuple[str, str],
    ) -> tuple[Any, pl.DataFrame]:
        """Trains one learner and keeps the time that it takes.

        Args:
            label: Of its checkpoints.
            name: The algorithm.
            data: What to learn from.
            config: Its configuration.
            seeds: Training seeds.
            steps: Gradient steps a seed.
            about: Policy and stage in the table ``times``.

        Returns:
            The states, stacked over seeds, and the learning curve.
        """
        in_all = len(seeds) if about[1] == "training" else self.config.settings
        return train(
            ALGORITHMS[name],
            config,
            data,
            seeds=seeds,
            total_steps=steps,
            log_steps=min(100, steps),
            on_chunk=times.clock(self.folder, *about, in_all, steps),
            checkpoint=self.folder.checkpoints / label,
            resume=self.resume,
            progress=about[1] == "training",
        )

    def tuning_keys(self, stream: int, count: int) -> jax.Array:
        """Reset keys of the markets of a stream of tuning markets, ``[count]``."""
        root = jax.random.fold_in(jax.random.key(self.config.market_seed), protocol.TUNING)
        return jax.vmap(lambda n: jax.random.fold_in(jax.random.fold_in(root, stream), n))(jnp.arange(count))

    def tried(
        self, label: str, name: str, config: Any, data: Data, states: Any, target: float | None, keys: jax.Array
    ) -> tuple[Any, float]:
        """The policy of states stacked over seeds, asking for ``target`` if given, and its mean score on markets."""
        told = config if target is None else config.replace(target=target)
        policy = ALGORITHMS[name].make_policy(told, data.spec, states)
        stacked = protocol.over_seeds(policy, len(jax.tree.leaves(states)[0]))
        shown = f"{label} plays" if target is None else f"{label} asks for {target:g}"
        played = rollout_seeds(self.env, self.params, stacked, keys, bound=False, label=shown)
        return policy, float(played.metrics["score"].mean())

    def ask(self, label: str, name: str, config: Any, data: Data, states: Any) -> Any:
        """The policy that asks for what brings most on tuning markets; ``asked`` keeps what each thing asked for brought."""
        if label not in kept(self.folder, "asked"):
            keys = self.tuning_keys(_ASKED, self.config.asked_markets)
            scores = [self.tried(label, name, config, data, states, told, keys)[1] for told in self.config.asked]
            keep(self.folder, "asked", offline_tables.asked_frame(label, self.config.asked, scores))
        rows = self.folder.read_table("asked").filter((pl.col("policy") == label) & pl.col("chosen"))
        told = config.replace(target=rows["target"].item())
        return ALGORITHMS[name].make_policy(told, data.spec, states)

    def days(self) -> tuple[tuple[str, Env], tuple[str, Env]]:
        """Tables of evaluations and what is played for them: rivals who respond, and a logged day."""
        return ("scores", self.env), ("replayed", price_taking(self.env))  # type: ignore[arg-type]

    def evaluate(self, name: str, policy: Any) -> None:
        """Plays a learner's seeds on every case of both kinds of day."""
        for table, env in self.days():
            if name not in kept(self.folder, table):
                rows = protocol.evaluate_learner(name, env, self.params, policy, self.config.seeds, self.cases)
                keep(self.folder, table, rows)

    def rules(self) -> dict[str, Any]:
        """The rules, tuned as ``adarena run autobid`` does; ``tuning`` keeps what was found."""
        config = self.config
        if "tuning" not in self.folder.tables:
            self.console.print(f"Tuning {len(config.rules)} rules, {config.tune_episodes} episodes each")
            found = protocol.tune_rules(
                self.env,
                self.params,
                config.rules,
                budget=config.tune_episodes,
                market_seed=config.market_seed,
                population=16,
                episodes=max(4, min(64, config.tune_episodes // 64)),
            )
            self.folder.write_table("tuning", found.table)
        return protocol.rebuilt_rules(self.folder.read_table("tuning"), self.env)
