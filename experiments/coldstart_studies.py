"""Beside the comparison: success against exploration cost, what the market's numbers change, nulls, and series to draw."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from adarena.agents.dual_q_policy import DualQPolicy
from adarena.agents.ppo_policy import PPOPolicy
from adarena.agents.rules.one_of import OneOf
from adarena.agents.rules.placement import PlacementRule
from adarena.envs.core import Env
from adarena.envs.market.response import delay_distribution
from adarena.experiments.coldstart_eval import BELIEFS, DAILY, Blind, Contestants, cases_of, evaluate, play, recorded
from adarena.experiments.coldstart_training import tuning_table

if TYPE_CHECKING:
    from adarena.experiments.coldstart import ColdStartExperiment

COMPETITION = (-0.3, 0.3)
"""Mean log bid multipliers of mature ads, beside the default (0)."""

QUALITY = (0.0, 0.6, 1.0)
"""Shares of the own factors' variance that content features explain, beside the default (0.3)."""

DELAY = (0.0, 4.0)
"""Delays over the usual one, beside the default (1); 0 reports every conversion in its tick."""


def frontier(config: ColdStartExperiment, everyone: Contestants) -> pl.DataFrame:
    """Scores of every policy at every exploration budget: its curve of success against exploration cost.

    With ``config.frontier_tune`` rules and oracle are tuned anew at each budget, so that each point is the best that the
    rule can do; learners play as they were trained, at the default budget.
    """
    env, params = config.market()
    settings = [{"exploration_budget": budget} for budget in config.frontier]
    if not config.frontier_tune:
        cases = cases_of(config.market_seed, config.study_markets, params, settings)
        scores = evaluate(env, params, everyone, cases, config.chunk)
    else:
        parts = []
        for number, setting in enumerate(settings):
            cases = cases_of(config.market_seed, config.study_markets, params, [setting])
            here = _tuned_at(config, everyone, setting["exploration_budget"])
            own = evaluate(env, params, here, cases, config.chunk)
            parts.append(own.with_columns(setting=pl.lit(number, pl.Int64)))
        scores = pl.concat(parts)
    budgets = pl.DataFrame({"setting": range(len(settings)), "exploration_budget": list(config.frontier)})
    return scores.join(budgets, on="setting", how="left", maintain_order="left")


def _tuned_at(config: ColdStartExperiment, everyone: Contestants, budget: float) -> Contestants:
    """The policies with rules tuned at another exploration budget; with none to spend there is nothing to tune."""
    if budget <= 0.0:
        return everyone
    table = tuning_table(config, exploration_budget=budget)
    found = {row["policy"]: json.loads(row["parameters"]) for row in table.iter_rows(named=True)}

    def put(old: jax.Array, new: Any) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(new, old.dtype), old.shape)

    def renewed(policy: Any, name: str) -> Any:
        inner = policy.policy if isinstance(policy, Blind) else policy
        values = {key: put(getattr(inner, key), value) for key, value in found[name].items()}
        changed = dataclasses.replace(inner, **values)
        return dataclasses.replace(policy, policy=changed) if isinstance(policy, Blind) else changed

    names = [name for name, kind, _ in everyone.who if kind != "learner"]
    rules = everyone.policies.rules
    tuned = tuple(renewed(rule, name) for rule, name in zip(rules, names, strict=False))
    return everyone._replace(policies=OneOf((*tuned, *rules[len(tuned) :]), everyone.policies.choice))


def sensitivity(config: ColdStartExperiment, everyone: Contestants) -> pl.DataFrame:
    """Scores where one thing differs from the default: budget, content, competition, delay, share of new ads.

    Policies play as they were tuned and trained in the default market. The fund is a share of forecast revenue, which
    moves with the mature ads' bids.
    """
    env, params = config.market()
    factors = settings_of(config, env, params)
    cases = cases_of(config.market_seed, config.study_markets, params, [setting for _, _, setting in factors])
    scores = evaluate(env, params, everyone, cases, config.chunk)
    labels = {"setting": range(len(factors)), "factor": [f for f, _, _ in factors], "level": [x for _, x, _ in factors]}
    parts = [scores.join(pl.DataFrame(labels), on="setting", how="left", maintain_order="left")]
    for share in config.new_shares:
        sizes = sizes_of(config, share)
        env, params = config.market(**sizes)
        cases = cases_of(config.market_seed, config.study_markets, params)
        others = evaluate(env, params, resized(everyone, env), cases, config.chunk)
        level = sizes["launched"] / sum(sizes.values())
        parts.append(others.with_columns(factor=pl.lit("new_share"), level=pl.lit(level)))
    return pl.concat(parts)


def settings_of(config: ColdStartExperiment, env: Any, params: Any) -> list[tuple[str, float, dict[str, Any]]]:
    """Factor, level and fields of every setting; the first is the default one."""
    hours = 24.0 / env.ticks_per_day
    at_once = np.eye(1, env.ticks, dtype=np.float32)[0]
    found: list[tuple[str, float, dict[str, Any]]] = [("default", 0.0, {})]
    budgets = [b for b in config.frontier if b not in (0.0, config.exploration_budget)]
    found += [("exploration_budget", b, {"exploration_budget": b}) for b in budgets]
    found += [("content_quality", q, {"content_quality": q}) for q in QUALITY]
    found += [
        ("competition", c, {"mature_bid_mean": c, "revenue_rate": float(params.revenue_rate) * float(np.exp(c))})
        for c in COMPETITION
    ]
    reports = [at_once if d == 0.0 else delay_distribution(env.ticks, hours / d) for d in DELAY]
    return found + [("delay", d, {"delay_distribution": r}) for d, r in zip(DELAY, reports, strict=True)]


def sizes_of(config: ColdStartExperiment, share: float) -> dict[str, int]:
    """Mature and launched ads, as many in all as by default."""
    ads = config.mature + config.launched
    launched = min(max(1, round(share * ads)), ads - 1)
    return {"mature": ads - launched, "launched": launched}


def resized(everyone: Contestants, env: Any) -> Contestants:
    """The policies for a market with another number of new ads: rules and networks of sets treat all ads alike."""

    def tile(x: jax.Array) -> jax.Array:
        return jnp.tile(x[:, : env.layout.actions], (1, env.layout.items))

    def fit(policy: Any) -> Any:
        if isinstance(policy, Blind):
            return dataclasses.replace(policy, policy=fit(policy.policy), shown=env.layout)
        if isinstance(policy, PlacementRule):
            return policy.replace(layout=policy.layout._replace(items=env.layout.items))  # type: ignore[attr-defined]
        if isinstance(policy, DualQPolicy):
            return policy.replace(resting_action=tile(policy.resting_action))  # type: ignore[attr-defined]
        if isinstance(policy, PPOPolicy) and policy.kind != "mlp":
            ends = {name: tile(getattr(policy, name)) for name in ("action_low", "action_high", "resting_action")}
            return policy.replace(**ends)  # type: ignore[attr-defined]
        raise ValueError(f"network must be 'deep_sets' or 'attention' where new_shares are asked for, got {policy!r}")

    policies = everyone.policies
    return everyone._replace(policies=policies.replace(rules=tuple(fit(one) for one in policies.rules)))  # type: ignore[attr-defined]


def nulls(config: ColdStartExperiment, everyone: Contestants) -> pl.DataFrame:
    """Scores where exploration can change nothing, and where there is nothing to learn.

    ``no_budget``: without a fund all policies coincide. ``perfect_priors``: every rate is known from the first day, so
    support subsidises and teaches nothing. ``default`` beside them. The last two also with ``evidence`` 0, where the
    platform never learns from new ads' own events: what learning adds is the difference.
    """
    env, params = config.market()
    known = {"content_quality": 1.0, "category_sd": 0.0, "advertiser_sd": 0.0}
    settings = [
        ("default", {"evidence": 1.0}),
        ("default", {"evidence": 0.0}),
        ("no_budget", {"evidence": 1.0, "exploration_budget": 0.0}),
        ("perfect_priors", {"evidence": 1.0, **known}),
        ("perfect_priors", {"evidence": 0.0, **known}),
    ]
    cases = cases_of(config.market_seed, config.study_markets, params, [setting for _, setting in settings])
    evidence = [setting["evidence"] for _, setting in settings]
    labels = pl.DataFrame(
        {"setting": range(len(settings)), "null": [null for null, _ in settings], "evidence": evidence}
    )
    return evaluate(env, params, everyone, cases, config.chunk).join(
        labels, on="setting", how="left", maintain_order="left"
    )


def revenue_series(config: ColdStartExperiment, shown: Contestants) -> pl.DataFrame:
    """Revenue by day and market, with exploration and in the twin: columns ``policy``, ``market``, ``day``, and three sums."""
    env, params = config.market()
    cases = cases_of(config.market_seed, config.study_markets, params)
    played, days = play(env, params, shown, cases, config.chunk), config.days
    daily = {k: v.reshape(*v.shape[:2], days, -1).sum(axis=-1) for k, v in played.series.items()}
    parts = []
    for row, (name, _, _) in enumerate(shown.who):
        market, day = np.divmod(np.arange(config.study_markets * days), days)
        columns = {"policy": [name] * len(day), "market": market, "day": day}
        parts.append(pl.DataFrame(columns | {k: daily[f"info.{k}"][row].ravel() for k in DAILY}))
    return pl.concat(parts)


def posterior_series(config: ColdStartExperiment, shown: Contestants) -> pl.DataFrame:
    """What the platform predicts of one ad, tick by tick, under each policy: the ad of whom support changes most.

    Columns: ``policy``, ``ad``, ``day`` (since launch, at the end of the tick), ``predicted``, ``sd``, ``truth`` (conversions
    per exposure of match 1), ``exposures`` (expected conversions over truth, so far), ``conversions``, ``window``.
    """
    env, params = config.make(record=True, truth=True)
    cases = cases_of(config.market_seed, 1, params)
    case = {name: jnp.asarray(values[0]) for name, values in cases.fields.items()}
    launch = np.asarray(env.reset(cases.keys[0], dataclasses.replace(params, **case))[1].world.launch)
    series = recorded(env, params, shown, cases).series
    runs = [{n: np.asarray(series[f"info.{n}"][row, 0], np.float64) for n in BELIEFS} for row in range(len(shown.who))]
    ad = _most_changed(config, env, launch, shown.names, runs)
    last = min(config.days * config.ticks_per_day, launch[ad] + round(2 * config.window_days * config.ticks_per_day))
    ticks = np.arange(launch[ad], last)
    parts = []
    for name, run in zip(shown.names, runs, strict=True):
        own = {key: values[ticks, ad] for key, values in run.items()}
        columns = {
            "policy": [name] * len(ticks),
            "ad": [ad] * len(ticks),
            "day": (ticks + 1 - launch[ad]) / config.ticks_per_day,
            "predicted": own["predicted"],
            "sd": own["predicted_sd"],
            "truth": own["true_value"],
            "exposures": own["expected"] / own["true_value"],
            "conversions": own["conversions"],
            "window": [config.window_days] * len(ticks),
        }
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def _most_changed(
    config: ColdStartExperiment, env: Env, launch: np.ndarray, names: tuple[str, ...], runs: list[dict[str, Any]]
) -> int:
    """The ad whose conversions in its window rise most from no support to the first other policy."""
    ends = np.minimum(launch + round(config.window_days * config.ticks_per_day), env.max_steps(None)) - 1
    ads = np.arange(len(launch))
    without = names.index("none") if "none" in names else 0
    other = 1 - without if len(names) > 1 else without
    gain = runs[other]["conversions"][ends, ads] - runs[without]["conversions"][ends, ads]
    return int(np.argmax(gain))
