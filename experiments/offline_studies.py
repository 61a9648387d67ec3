"""Studies beside the comparison of `adarena.experiments.offline`: how GAS chooses, what returns to go count, what GAVE sees.

Each writes a table of its name (`STUDIES`), ``reasoning`` those of `adarena.experiments.offline_reasoning`.
Learners have the settings that the search chose for them, but for what a study changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from adarena.agents.offline import gas
from adarena.agents.offline.data import Data, make_data, spec_of
from adarena.agents.offline.episodes import Episodes
from adarena.agents.offline.returns import meter_of, value_rewards
from adarena.experiments import offline_reasoning, protocol
from adarena.experiments.offline_learners import configured
from adarena.experiments.rollout import rollout_seeds

if TYPE_CHECKING:
    from adarena.experiments.offline import OfflineExperiment
    from adarena.experiments.offline_bench import Bench

EXPLORED = (0.5, 0.05)
"""How far GAVE explores to either side in the study of its drift: the published half, and a tenth of that."""

STUDIES = {
    "choices": ("gas", "choices"),
    "no_history": ("gas", "no_history"),
    "to_go": (None, "to_go"),
    "drift": ("gave", "drift"),
    "reasoning": ("reasoner", "forecasts"),
}
"""Every study: the learner that it is about, if one, and the table that it writes last."""

Settings = Mapping[str, dict[str, Any]]
"""Name of a learner to changes to its configuration."""


def study(bench: Bench, policies: Mapping[str, Any], settings: Settings, episodes: Episodes, data: Data) -> None:
    """Runs the studies that are wanted and not there yet.

    Args:
        bench: What the run works with.
        policies: Trained learners.
        settings: What was chosen for each.
        episodes: The log.
        data: The same as learners read it.
    """
    for name in missing(bench.config, bench.folder.tables):
        if name == "choices":
            bench.folder.write_table(name, _choices(bench, policies["gas"]))
        elif name == "no_history":
            bench.folder.write_table(name, _no_history(bench, policies["gas"], settings["gas"], data))
        elif name == "drift":
            bench.folder.write_table(name, _drift(bench, policies["gave"], settings["gave"], data))
        elif name == "reasoning":
            offline_reasoning.study(bench, policies["reasoner"], settings["reasoner"], data)
        else:
            bench.folder.write_table(name, _to_go(bench, settings.get("decision_transformer", {}), episodes))


def missing(config: OfflineExperiment, tables: Container[str]) -> list[str]:
    """The studies of a configuration whose learner it has, and whose last table is not among ``tables``."""
    return [
        name
        for name, (learner, table) in STUDIES.items()
        if name in config.studies and learner in (None, *config.algorithms) and table not in tables
    ]


def _choices(bench: Bench, policy: Any) -> pl.DataFrame:
    """Scores of GAS's ways to choose a candidate."""
    seeds = bench.config.seeds
    ways = {
        choice: policy.replace(choice=jnp.full(len(seeds), number, jnp.int32))
        for number, choice in enumerate(gas.CHOICES)
    }
    args = (bench.env, bench.params)
    return pl.concat(protocol.evaluate_learner(name, *args, way, seeds, bench.cases) for name, way in ways.items())


def _no_history(bench: Bench, policy: Any, setting: dict[str, Any], data: Data) -> pl.DataFrame:
    """Scores of GAS (``full``), and of GAS whose critics see no history (``no_history``, trained anew)."""
    config, seeds = bench.config, bench.config.seeds
    steps = config.steps("gas")
    # As Table 3 does, both ask for the same return: what the whole of GAS chose.
    changes = setting | {"history": False, "target": policy.base.target}
    without = configured("gas", bench.env, bench.params, steps, **changes)
    bench.console.print(f"Training GAS without history: {steps:,} gradient steps on {len(seeds)} seeds")
    about = ("gas_no_history", "training")
    states, _ = bench.fit(about[0], "gas", data, without, seeds=seeds, steps=steps, about=about)
    ways = {"full": policy, "no_history": gas.make_policy(without, data.spec, states)}
    args = (bench.env, bench.params)
    return pl.concat(protocol.evaluate_learner(name, *args, way, seeds, bench.cases) for name, way in ways.items())


def _to_go(bench: Bench, setting: dict[str, Any], episodes: Episodes) -> pl.DataFrame:
    """Scores of a Decision Transformer told scores to go, and of one told values to go."""
    name, kinds = "decision_transformer", []
    for kind in ("score", "value"):
        told = episodes if kind == "score" else value_rewards(episodes, bench.env)
        data = make_data(told, spec_of(bench.env, bench.params))
        changes = setting | {"conditioning": "to_go", "meter": meter_of(bench.env, kind)}
        config = configured(name, bench.env, bench.params, bench.config.steps(name), **changes)
        policy, _ = bench.learn(f"to_go_{kind}", name, data, config)
        kinds.append(protocol.evaluate_learner(kind, bench.env, bench.params, policy, bench.config.seeds, bench.cases))
    return pl.concat(kinds)


def _drift(bench: Bench, policy: Any, setting: dict[str, Any], data: Data) -> pl.DataFrame:
    """Whether what GAVE explores adds up over a day because it keeps the multiplier that it sees.

    If so, the multiplier of a bidder that explores far rises (or falls) through the day where it sees its own, and does not
    where entries ``multiplier_*`` are hidden from it, in training and in acting.

    Args:
        bench: What the run works with.
        policy: GAVE as it was trained for the comparison; not trained again.
        setting: What was chosen for it.
        data: The log.

    Returns:
        A row a bidder, seed and case: ``explore``, ``hidden``, ``seed``, ``case``, ``target`` (asked for, chosen on tuning
        markets), ``score``, and means of the log multiplier over the day's first and last quarter,
        ``log_multiplier_first`` and ``log_multiplier_last``.
    """
    steps = bench.config.steps("gave")
    trained = configured("gave", bench.env, bench.params, steps, **setting)
    own = [place for place, entry in enumerate(bench.env.OBSERVATION) if entry.name.startswith("multiplier_")]
    parts = []
    for hidden in (False, True):
        seen = without_entries(data, own) if hidden else data
        for explore in EXPLORED:
            config = configured("gave", bench.env, bench.params, steps, **(setting | {"explore": explore}))
            found = policy
            if hidden or config != trained:
                found, _ = bench.learn(f"gave_{explore:g}_{'hidden' if hidden else 'seen'}", "gave", seen, config)
            parts.append(_course(bench, found).with_columns(explore=pl.lit(explore), hidden=pl.lit(hidden)))
    return pl.concat(parts)


def without_entries(data: Data, places: Sequence[int]) -> Data:
    """The same data with entries of the observation hidden: always zero, to learners and to their trained policies.

    Policies normalise with the moments of the data, and an entry of infinite variance comes to zero whatever it is.
    """
    at = jnp.asarray(places, jnp.int32)
    variance = data.obs_moments.variance.at[at].set(jnp.inf)
    moments = dataclasses.replace(data.obs_moments, variance=variance)
    return dataclasses.replace(data, observations=data.observations.at[..., at].set(0.0), obs_moments=moments)


def _course(bench: Bench, policy: Any) -> pl.DataFrame:
    """A bidder's score in every case, and its log multiplier early and late in the day."""
    seeds, cases = bench.config.seeds, bench.cases
    stacked = protocol.over_seeds(policy, len(seeds))
    args = (bench.env, bench.params, stacked, cases.keys, cases.fields)
    played = rollout_seeds(*args, record=("info.multiplier",), bound=False, label="courses of a day")
    logs = np.log(played.series["info.multiplier"])
    quarter = logs.shape[-1] // 4
    columns = {
        "seed": np.repeat(seeds, len(cases.keys)),
        "case": np.tile(cases.table["case"].to_numpy(), len(seeds)),
        "target": np.repeat(np.asarray(jax.device_get(policy.target)), len(cases.keys)),
        "score": played.metrics["score"].reshape(-1),
        "log_multiplier_first": logs[..., :quarter].mean(-1).reshape(-1),
        "log_multiplier_last": logs[..., -quarter:].mean(-1).reshape(-1),
    }
    return pl.DataFrame(columns)
