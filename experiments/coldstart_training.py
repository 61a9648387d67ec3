"""How the cold-start experiment tunes rules and trains learners; see `adarena.experiments.coldstart`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import polars as pl
from rich.console import Console

from adarena.agents import dual_q, es, ppo
from adarena.agents.rules.coldstart import COLDSTART_RULES, ORACLES
from adarena.envs.core import Env
from adarena.experiments import protocol
from adarena.experiments.learners import train_seeds
from adarena.experiments.store import RunFolder

if TYPE_CHECKING:
    from adarena.experiments.coldstart import ColdStartExperiment

LEARNERS: dict[str, Any] = {"ppo": ppo, "dual_q": dual_q, "es": es}
"""Learners by the name that tables use."""


def tuned_rules(
    config: ColdStartExperiment, folder: RunFolder, console: Console
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rules and the oracle, tuned with the same budget on the same training markets; those of the run if it has them."""
    if "tuning" not in folder.tables:
        console.print(f"tuning {len(config.rules)} rules and the oracle, {config.tune_episodes} episodes each")
        folder.write_table("tuning", tuning_table(config))
    table, (env, _), (seeing, _) = folder.read_table("tuning"), config.make(), config.make(truth=True)
    theirs = pl.col("policy").is_in(list(ORACLES))
    rules = protocol.rebuilt_rules(table.filter(~theirs), env, COLDSTART_RULES)
    return rules, protocol.rebuilt_rules(table.filter(theirs), seeing, ORACLES)


def tuning_table(config: ColdStartExperiment, **changes: Any) -> pl.DataFrame:
    """Tunes rules and oracle in the market with some changes, in one program: it shows the truth, which rules do not read."""
    env, params = config.make(truth=True, **changes)
    return _tuned(config, env, params, (*config.rules, *ORACLES), {**COLDSTART_RULES, **ORACLES})


def _tuned(
    config: ColdStartExperiment, env: Env, params: Any, names: tuple[str, ...], known: Mapping[str, Any]
) -> pl.DataFrame:
    population, episodes = 8, max(1, min(32, config.tune_episodes // 64))
    return protocol.tune_rules(
        env,
        params,
        names,
        budget=config.tune_episodes,
        market_seed=config.market_seed,
        population=population,
        episodes=episodes,
        known=known,
        chunk=population * episodes,
    ).table


def trained_learners(config: ColdStartExperiment, folder: RunFolder, resume: bool, console: Console) -> dict[str, Any]:
    """Policies of every learner, stacked over training seeds."""
    policies, curves = {}, []
    for learner in config.learners:
        console.print(f"training {learner}")
        # Rewards that come conversion by conversion add up to the same; successes alone would be late and few.
        env, params = config.make(reward="progress")
        settings = config.learner_config(learner)
        states, curve = train_seeds(
            LEARNERS[learner],
            settings,
            env,
            params,
            name=learner,
            seeds=config.seeds,
            total_steps=getattr(config, f"{learner}_steps"),
            folder=folder,
            resume=resume,
            chunk_updates=16,
        )
        policies[learner] = LEARNERS[learner].make_policy(settings, env, states)
        if learner == "dual_q":
            policies[learner] = priced(config, policies[learner], folder)
        curves.append(curve.with_columns(pl.lit(learner).alias("policy")))
    folder.write_table("curves", pl.concat(curves, how="diagonal_relaxed"))
    return policies


def priced(config: ColdStartExperiment, policy: dual_q.DualQPolicy, folder: RunFolder) -> dual_q.DualQPolicy:
    """The policies of all seeds, each with the price of the budget that does best on training markets."""
    env, params = config.make()
    each = {f"dual_q_{seed}": jax.tree.map(lambda x, i=i: x[i], policy) for i, seed in enumerate(config.seeds)}
    if "learner_tuning" not in folder.tables:
        known = {name: Built(one) for name, one in each.items()}
        folder.write_table("learner_tuning", _tuned(config, env, params, tuple(each), known))
    found = [json.loads(text) for text in folder.read_table("learner_tuning")["parameters"]]
    numbers = {name: jnp.asarray([row[name] for row in found], jnp.float32) for name in dual_q.DualQPolicy.SPACE}
    return policy.replace(**numbers)  # type: ignore[attr-defined, no-any-return]


class Built(NamedTuple):
    """A policy that is there already, where the tuner asks for one to be built."""

    policy: Any

    def build(self, env: Env) -> Any:
        """The policy."""
        return self.policy
