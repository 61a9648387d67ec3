"""What a run of `adarena.experiments.offline` works with, and what it does: chooses, trains, asks, evaluates, keeps tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from rich.console import Console

from adarena.agents import ppo
from adarena.agents.offline.data import Data, make_data, spec_of
from adarena.agents.offline.loop import train
from adarena.envs.price_taking import price_taking
from adarena.experiments import autobid, offline_search, offline_studies, offline_tables, protocol, times
from adarena.experiments.offline_learners import ALGORITHMS, GENERATIVE, configured
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

    def compare(self, episodes: Any) -> None:
        """Trains, tunes, evaluates and keeps the tables."""
        config = self.config
        policies, curves, asked = {}, [], []
        data = make_data(episodes, spec_of(self.env, self.params))
        settings = self.search(data)
        for name in config.algorithms:
            settled = configured(name, self.env, self.params, config.steps(name), **settings[name])
            policies[name], curve, tried = self.learn(name, name, data, settled)
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
            offline_studies.study(self, policies, settings, episodes, data)
        self.folder.write_table("curves", pl.concat(curves, how="diagonal_relaxed"))
        self.folder.write_table("asked", offline_tables.asked_frame(asked))
        self.folder.write_table("tuning", tuned.table)
        self.folder.write_table("replayed", pl.concat(replayed))
        self.folder.write_table("scores", pl.concat(scores))

    def search(self, data: Data) -> dict[str, dict[str, Any]]:
        """The settings of every learner, chosen on tuning markets."""
        config = self.config
        if config.settings:
            self.console.print(
                f"Choosing settings: {config.settings} of each learner, {config.search_steps:g} of its gradient steps and "
                f"{config.episodes_a_setting()} episodes each"
            )
        return {name: offline_search.search(self, name, data) for name in config.algorithms}

    def learn(self, label: str, name: str, data: Data, config: Any) -> tuple[Any, pl.DataFrame, list[dict[str, Any]]]:
        """Trains one learner; a generative bidder then chooses what to ask for.

        Returns:
            The policy, stacked over seeds; the learning curve; what each thing asked for brought on tuning markets.
        """
        steps, seeds = self.config.steps(name), self.config.seeds
        self.console.print(f"Training {label}: {steps:,} gradient steps on {len(seeds)} seeds")
        states, curve = self.fit(label, name, data, config, seeds=seeds, steps=steps, about=(label, "training"))
        tried: list[dict[str, Any]] = []
        if name in GENERATIVE:
            policy, tried = self.ask(label, name, config, data, states)
        else:
            policy = ALGORITHMS[name].make_policy(config, data.spec, states)
        return policy, curve.with_columns(pl.lit(label).alias("policy")), tried

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

    def ask(self, label: str, name: str, config: Any, data: Data, states: Any) -> tuple[Any, list[dict[str, Any]]]:
        """The policy that asks for what brings most on tuning markets, and what each thing asked for brought."""
        keys = self.tuning_keys(_ASKED, self.config.asked_markets)
        found = [self.tried(label, name, config, data, states, target, keys) for target in self.config.asked]
        best = int(np.argmax([score for _, score in found]))
        rows = [
            {"policy": label, "target": target, "score": score, "chosen": place == best}
            for place, (target, (_, score)) in enumerate(zip(self.config.asked, found, strict=True))
        ]
        return found[best][0], rows

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
