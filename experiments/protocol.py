"""How policies are compared: same markets for all, every seat in its turn, rules tuned alike, intervals, headroom."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from adarena.agents.rules import RULES, Rule
from adarena.agents.rules.one_of import OneOf, stack
from adarena.agents.tuner import tune
from adarena.envs.core import Env
from adarena.experiments.rollout import rollout, rollout_seeds
from adarena.experiments.statistics import (
    Bootstrap,
    Interval,
    Statistic,
    headroom,
    headroom_or_nan,
    iqm,
    paired_difference,
    stratified_bootstrap,
)

TUNING, EVALUATION = 1, 2
"""Streams of market keys: ``fold_in(key(market_seed), stream)``. Training draws from its own seeds."""

BEST_CONSTANT = "best_constant"
"""How tables call the best constant multiplier of each case."""

_CONSTANTS = 33  # multipliers of the coarse search for it, evenly spaced in logs over the range of the action

COLUMNS = (
    *("score", "value", "cost", "target", "budget", "budget_used", "cost_over_target", "over_target"),
    *("hindsight_score", "hindsight_value"),
)
"""What every row of a score table holds, beside who met what."""


class Cases(NamedTuple):
    """Evaluation cases: every market with every seat and every budget, or whatever else varies.

    Attributes:
        keys: ``[C]`` reset keys, one a market.
        fields: Numeric fields of ``params``, name to ``[C]``.
        table: Columns ``case``, ``market``, and what varies (``seat`` and ``budget_scale`` from `draw_cases`).
    """

    keys: jax.Array
    fields: dict[str, np.ndarray]
    table: pl.DataFrame


def draw_cases(market_seed: int, markets: int, seats: Sequence[int], budgets: Sequence[float]) -> Cases:
    """The cases of an evaluation.

    Args:
        market_seed: Seed of all markets.
        markets: Number of markets.
        seats: Advertisers that take their turn in each.
        budgets: Budgets over the advertiser's usual one.
    """
    keys, table = draw_grid(market_seed, markets, {"seat": seats, "budget_scale": budgets})
    seat, scale = table["seat"].to_numpy().astype(np.int32), table["budget_scale"].to_numpy().astype(np.float32)
    return Cases(keys, {"seat": seat, "budget_scale_low": scale, "budget_scale_high": scale}, table)


def draw_grid(
    market_seed: int, markets: int, levels: Mapping[str, Sequence[Any]] | None = None
) -> tuple[jax.Array, pl.DataFrame]:
    """Every evaluation market with every combination of levels: the keys of the cases, and their table.

    Args:
        market_seed: Seed of all markets.
        markets: Number of markets.
        levels: Name of a column to its levels; markets alone when ``None``.

    Returns:
        ``[C]`` reset keys, one a market, and the columns ``case``, ``market`` and those of ``levels``.
    """
    root = jax.random.fold_in(jax.random.key(market_seed), EVALUATION)
    levels = levels or {}
    grid = list(itertools.product(range(markets), *levels.values()))
    columns = {"case": np.arange(len(grid))}
    columns |= {name: np.asarray(x) for name, x in zip(("market", *levels), zip(*grid, strict=True), strict=True)}
    keys = jax.vmap(lambda m: jax.random.fold_in(root, m))(jnp.asarray(columns["market"]))
    return keys, pl.DataFrame(columns)


class TunedRules(NamedTuple):
    """Rules after tuning.

    Attributes:
        rules: Name to rule.
        table: One row a rule: its parameters (JSON), its score on the final training markets, the episodes spent.
    """

    rules: dict[str, Rule]
    table: pl.DataFrame


def tune_rules(
    env: Env,
    params: Any,
    names: Sequence[str],
    *,
    budget: int,
    market_seed: int,
    population: int,
    episodes: int,
    known: Mapping[str, Any] = RULES,
    chunk: int = 256,
) -> TunedRules:
    """Tunes each rule with the same number of episodes on the same training markets, in one compiled program.

    A rule without parameters is left as it is; its score in the table is null.

    Args:
        env: The environment.
        params: Its parameters; seat, budget and target are drawn as in training.
        names: Rules, by their names in ``known``.
        budget: Episodes that each rule's search may spend.
        market_seed: Seed of all markets.
        population: Candidates a generation.
        episodes: Episodes a candidate of a generation plays.
        known: Name to class of a rule, with ``build(env)`` and ``space()``.
        chunk: Largest number of episodes at a time; rounds of as many or more run the same compiled program.
    """
    built = tuple(known[name].build(env) for name in names)
    markets = jax.random.fold_in(jax.random.key(market_seed), TUNING)
    rules: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(names):

        def evaluate(candidates: Any, keys: jax.Array, cases: Mapping[str, Any], number: int = number) -> np.ndarray:
            count = len(jax.tree.leaves(candidates)[0])
            whole = _broadcast(OneOf(built, jnp.float32(number)), count)
            whole = whole.replace(rules=(*whole.rules[:number], candidates, *whole.rules[number + 1 :]))
            rest: dict[str, Any] = {"bound": False, "chunk": chunk, "label": f"tuning {names[number]}"}
            played = rollout_seeds(env, params, whole, keys, dict(cases), **rest)
            return played.metrics["score"].mean(axis=1)

        space = type(built[number]).space()
        if not space:
            rules[name] = built[number]
            rows.append({"policy": name, "parameters": "{}", "score": None, "episodes": 0})
            continue
        found = tune(
            built[number],
            space,
            evaluate,
            budget=budget,
            seed=0,
            markets=markets,
            population=population,
            episodes=episodes,
            finalists=4,
            label=f"tuning {name}",
        )
        rules[name] = found.policy
        parameters = json.dumps(found.parameters, sort_keys=True)
        rows.append({"policy": name, "parameters": parameters, "score": found.score, "episodes": found.episodes})
    schema = {"policy": pl.String, "parameters": pl.String, "score": pl.Float64, "episodes": pl.Int64}
    return TunedRules(rules, pl.DataFrame(rows, schema))


def rebuilt_rules(table: pl.DataFrame, env: Env, known: Mapping[str, Any] = RULES) -> dict[str, Any]:
    """The rules of a table of `TunedRules`, with the parameters that the tuner found.

    Args:
        table: Columns ``policy`` and ``parameters``.
        env: The environment for which rules are built.
        known: Name to class of a rule.
    """
    found = {row["policy"]: json.loads(row["parameters"]) for row in table.iter_rows(named=True)}
    return {
        name: dataclasses.replace(known[name].build(env), **{k: jnp.float32(v) for k, v in parameters.items()})
        for name, parameters in found.items()
    }


def _broadcast(policy: Any, count: int) -> Any:
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.float32), (count, *jnp.shape(x))), policy)


def over_seeds(policy: Any, count: int) -> Any:
    """A policy of stacked training states with every leaf on the seeds' axis (numbers shared by all are repeated)."""

    def spread(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return leaf if leaf.ndim and leaf.shape[0] == count else jnp.broadcast_to(leaf, (count, *leaf.shape))

    return jax.tree.map(spread, policy)


def evaluate_rules(env: Env, params: Any, rules: Mapping[str, Rule], cases: Cases) -> pl.DataFrame:
    """Scores of rules on every case; see `score_table` for the columns."""
    built = tuple(rules.values())
    policies = stack([OneOf(built, jnp.float32(number)) for number in range(len(built))])
    played = rollout_seeds(_recorded(env), params, policies, cases.keys, cases.fields, label="evaluating rules")
    tables = [
        score_table(name, "rule", [-1], {k: v[number : number + 1] for k, v in played.metrics.items()}, cases)
        for number, name in enumerate(rules)
    ]
    return pl.concat(tables)


def evaluate_constants(env: Env, params: Any, cases: Cases) -> pl.DataFrame:
    """The best constant multiplier of each case, chosen in hindsight: what no better level could still gain.

    It stands between rules and the bound: the bound picks impressions and slots one by one at known prices, which no
    multiplier can. Searched on a coarse grid over the range of the action, then on a fine one around the best. Rows are
    of kind ``"oracle"``; see `score_table` for the columns.
    """
    count = len(cases.keys)
    built = RULES["constant"].build(env)

    def play(levels: np.ndarray, *, last: bool = False) -> dict[str, np.ndarray]:
        """Metrics ``[L, C]`` of log multipliers ``[L, C]``."""
        policies = _broadcast(dataclasses.replace(built, start_richness=0.0), levels.size)
        policies = policies.replace(start=jnp.asarray(levels.reshape(-1), jnp.float32))
        at = np.tile(np.arange(count), len(levels))
        fields = {name: values[at] for name, values in cases.fields.items()}
        run = _recorded(env) if last else env
        rest: dict[str, Any] = {"paired": True, "bound": last, "label": "best constants"}
        played = rollout(run, params, policies, cases.keys[at], fields, **rest)
        return {name: values.reshape(levels.shape) for name, values in played.metrics.items()}

    def best(levels: np.ndarray) -> np.ndarray:
        return levels[play(levels)["score"].argmax(axis=0), np.arange(count)]

    limit = float(np.log(params.max_multiplier))
    coarse = np.broadcast_to(np.linspace(-limit, limit, _CONSTANTS)[:, None], (_CONSTANTS, count))
    step = 2.0 * limit / (_CONSTANTS - 1)
    fine = best(coarse) + step * np.linspace(-1.0, 1.0, _CONSTANTS // 2 + 1)[:, None]
    return score_table(BEST_CONSTANT, "oracle", [-1], play(best(fine)[None], last=True), cases)


def evaluate_learner(name: str, env: Env, params: Any, policy: Any, seeds: Sequence[int], cases: Cases) -> pl.DataFrame:
    """Scores of a learner's training seeds on every case.

    Args:
        name: How the table calls it.
        env: The environment.
        params: Its parameters.
        policy: Policy of states stacked over seeds.
        seeds: The training seeds.
        cases: The cases.
    """
    stacked = over_seeds(policy, len(seeds))
    played = rollout_seeds(_recorded(env), params, stacked, cases.keys, cases.fields, label=f"evaluating {name}")
    return score_table(name, "learner", seeds, played.metrics, cases)


def _recorded(env: Env) -> Env:
    """The environment with what the hindsight bound needs in its ``info``."""
    return dataclasses.replace(env, record=True)  # type: ignore[type-var]


def score_table(
    name: str,
    kind: str,
    seeds: Sequence[int],
    metrics: Mapping[str, np.ndarray],
    cases: Cases,
    columns: Sequence[str] = COLUMNS,
) -> pl.DataFrame:
    """Metrics ``[S, C]`` as rows: what (the cases' columns), who (policy, kind, seed), and ``columns`` of the metrics."""
    parts = []
    for row, seed in enumerate(seeds):
        values = {column: np.asarray(metrics[column][row], np.float32) for column in columns}
        who = [pl.lit(name).alias("policy"), pl.lit(kind).alias("kind"), pl.lit(seed, pl.Int32).alias("seed")]
        parts.append(cases.table.with_columns(who).with_columns(**{k: pl.Series(v) for k, v in values.items()}))
    return pl.concat(parts)


def matrix(scores: pl.DataFrame, policy: str, column: str = "score") -> np.ndarray:
    """``[seeds, cases]`` of one policy and column."""
    rows = scores.filter(pl.col("policy") == policy).sort("seed", "case")
    seeds = rows["seed"].n_unique()
    return rows[column].to_numpy().astype(np.float64).reshape(seeds, -1)


def best_rule(scores: pl.DataFrame, column: str = "score", statistic: Statistic = iqm) -> str:
    """The rule with the highest IQM score (on the evaluation cases: the hardest opponent)."""
    rules = scores.filter(pl.col("kind") == "rule")["policy"].unique(maintain_order=True).to_list()
    return max(rules, key=lambda name: float(statistic(matrix(scores, name, column))))


def summarise(scores: pl.DataFrame) -> pl.DataFrame:
    """The table of a comparison: one row a policy, and one for hindsight, best first.

    Kinds: ``"learner"``, ``"rule"``, ``"oracle"`` (see `evaluate_constants`), ``"bound"``.

    Columns: ``score`` (IQM) with ``score_low``, ``score_high``; ``difference`` to the best rule, paired, with interval;
    ``headroom`` closed, ``(policy - best rule) / (hindsight - best rule)``, with interval; ``headroom_held``, the same
    against the bound that holds the target (NaN where that lies below the best rule); then means of value, cost, cost over
    target, share of episodes over target, budget used. Intervals: 95 %, training seeds resampled for learners, markets for
    rules. Hindsight: prices as the best rule's run met them.
    """
    top = best_rule(scores)
    # One row without a seed axis: a rule has no training runs that could be resampled.
    best, hindsight, held = (
        matrix(scores, top, column)[0] for column in ("score", "hindsight_score", "hindsight_value")
    )
    market = scores.filter(pl.col("policy") == top).sort("case")["market"].to_numpy()
    rows: list[dict[str, Any]] = []
    for name in scores["policy"].unique(maintain_order=True):
        kind = scores.filter(pl.col("policy") == name)["kind"][0]
        learner = kind == "learner"
        mine = matrix(scores, name) if learner else matrix(scores, name)[0]
        many = len(np.unique(market)) > 1
        options = Bootstrap(resample="seeds" if learner or not many else "markets")
        using: dict[str, Any] = {"options": options, "markets": market}
        row = {"policy": name, "kind": kind, "seeds": len(mine) if learner else 0}
        row |= named("score", stratified_bootstrap(mine, **using))
        row |= named("difference", paired_difference(mine, best, **using))
        row |= named("headroom", headroom(mine, best, hindsight, **using))
        # Holding the target may cost so much that the bound lies below what the rule scored by overrunning it.
        row |= {"headroom_held": headroom_or_nan(mine, best, held, **using).estimate}
        rows.append(row | _means(scores, name))
    bound = {"policy": "hindsight", "kind": "bound", "seeds": 0, "score": float(iqm(hindsight)), "headroom": 1.0}
    bound |= {"value": float(held.mean()), "headroom_held": (iqm(held) - iqm(best)) / (iqm(hindsight) - iqm(best))}
    return pl.DataFrame([bound, *sorted(rows, key=lambda row: -row["score"])], infer_schema_length=None)


def summarise_all(scores: pl.DataFrame) -> pl.DataFrame:
    """`summarise` for each mechanism in ``scores``, which a column ``mechanism`` names."""
    parts = []
    for mechanism in scores["mechanism"].unique(maintain_order=True):
        summary = summarise(scores.filter(pl.col("mechanism") == mechanism))
        parts.append(summary.with_columns(pl.lit(mechanism).alias("mechanism")))
    return pl.concat(parts, how="diagonal_relaxed")


def named(name: str, interval: Interval) -> dict[str, float]:
    """An interval as columns ``name``, ``name_low``, ``name_high``."""
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _means(scores: pl.DataFrame, name: str) -> dict[str, float]:
    columns = ("value", "cost", "cost_over_target", "over_target", "budget_used")
    rows = scores.filter(pl.col("policy") == name)
    return {column: float(rows[column].cast(pl.Float64).mean()) for column in columns}  # type: ignore[arg-type]
