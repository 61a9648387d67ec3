"""Policies of the cold-start experiment in one compiled program, on markets of any setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from adarena.agents.ppo_policy import PPOPolicy
from adarena.agents.rules.one_of import OneOf, stack
from adarena.envs.coldstart_view import TRUTH
from adarena.envs.core import Env
from adarena.envs.sets import SetLayout
from adarena.experiments import protocol
from adarena.experiments.rollout import Rollout, rollout, rollout_seeds

METRICS = (
    *("success_rate", "success_20_7", "success_50_7", "enough_conversions", "expected_conversions", "expected_enough"),
    *("time_to_success", "cost_over_target", "exploration_cost", "exploration_budget_used", "revenue", "revenue_twin"),
    *("revenue_loss", "mature_value_loss", "welfare_gain", "longrun_revenue_gain", "success_rate_gain"),
)
"""What every row of a score table holds, beside who met what; see `adarena.envs.coldstart.ColdStart.metrics`."""

FIELDS = (
    *("exploration_budget", "content_quality", "mature_bid_mean", "revenue_rate", "delay_distribution"),
    *("ad_share", "user_share", "evidence", "category_sd", "advertiser_sd"),
)
"""Parameters that a case sets. All of them always, so that every study runs the same compiled program."""

DAILY = ("revenue", "revenue_twin", "charge")
"""Series of ``info`` that every evaluation keeps."""

BELIEFS = ("predicted", "predicted_sd", "true_value", "expected", "conversions")
"""Series of ``info`` that a recorded episode keeps, ``[T, L]``."""


class Contestants(NamedTuple):
    """Policies to be compared, each tuned rule and each training seed of a learner one.

    Attributes:
        policies: All of them, leaves ``[P, ...]``.
        who: Name, kind (``"rule"``, ``"learner"``, ``"oracle"``) and training seed (-1 for a rule) of each.
    """

    policies: OneOf
    who: tuple[tuple[str, str, int], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names, each once."""
        return tuple(dict.fromkeys(name for name, _, _ in self.who))

    def take(self, at: Sequence[int]) -> Contestants:
        """Some of them."""
        rows = np.asarray(at)
        return Contestants(jax.tree.map(lambda x: x[rows], self.policies), tuple(self.who[i] for i in at))

    def only(self, names: Sequence[str]) -> Contestants:
        """Those of these names."""
        return self.take([i for i, (name, _, _) in enumerate(self.who) if name in names])

    def first_seeds(self) -> Contestants:
        """One policy a name: the first training seed of each learner."""
        firsts = {name: i for i, (name, _, _) in reversed(list(enumerate(self.who)))}
        return self.take(sorted(firsts.values()))


@flax.struct.dataclass
class Blind:
    """A policy in a market that shows the truth to an oracle: it sees what the platform knows, and no more.

    Attributes:
        policy: The policy, for the market that does not show the truth.
        shown: Where ads lie in the observation, the truth included; it is the last of an ad's features. Static.
        known: Features of an ad that the policy sees. Static.
    """

    policy: Any
    shown: SetLayout = flax.struct.field(pytree_node=False)
    known: int = flax.struct.field(pytree_node=False)

    jittable: ClassVar[bool] = True

    def init(self, params: Any) -> Any:
        """The policy's own memory."""
        return self.policy.init(params)

    def act(self, key: jax.Array, carry: Any, obs: jax.Array) -> tuple[Any, jax.Array]:
        """What the policy does, shown ``[context + L known]`` of ``obs``."""
        context, items, _ = self.shown.split(obs)
        return self.policy.act(key, carry, self.shown.join(context, items[..., : self.known]))


def contestants(
    env: Env,
    rules: Mapping[str, Any],
    learners: Mapping[str, Any],
    seeds: Sequence[int],
    oracles: Mapping[str, Any] | None = None,
) -> Contestants:
    """Puts rules, learners' policies and oracles into one population, for the market that shows the truth to oracles.

    Args:
        env: That market; its sizes are those for which the policies were made.
        rules: Name to rule, for the market that does not show the truth.
        learners: Name to policy for the same, leaves ``[S, ...]`` (numbers shared by all seeds are repeated).
        seeds: ``S`` training seeds.
        oracles: Name to policy that reads the truth.
    """
    shown, known = env.layout, env.layout.features - len(TRUTH)  # type: ignore[attr-defined]
    blind = {name: Blind(rule, shown, known) for name, rule in rules.items()}
    learnt = {name: Blind(_actor_alone(policy), shown, known) for name, policy in learners.items()}
    return population(blind, learnt, seeds, oracles)


def population(
    rules: Mapping[str, Any],
    learners: Mapping[str, Any],
    seeds: Sequence[int],
    oracles: Mapping[str, Any] | None = None,
) -> Contestants:
    """Rules, learners' policies and oracles as one population, which one compiled program plays.

    Args:
        rules: Name to rule.
        learners: Name to policy, leaves ``[S, ...]`` (numbers shared by all seeds are repeated).
        seeds: ``S`` training seeds.
        oracles: Name to policy that reads the truth.
    """
    spread = {name: protocol.over_seeds(_actor_alone(policy), len(seeds)) for name, policy in learners.items()}
    # Places of the population that a policy does not use hold anybody of the right kind.
    first = [jax.tree.map(lambda x: x[0], policy) for policy in spread.values()]
    others = {**rules, **(oracles or {})}
    fixed = tuple(others.values())
    rows, who = [], []
    for number, name in enumerate(others):
        rows.append(OneOf((*fixed, *first), jnp.float32(number)))
        who.append((name, "rule" if name in rules else "oracle", -1))
    for place, (name, policy) in enumerate(spread.items()):
        for row, seed in enumerate(seeds):
            mine = list(first)
            mine[place] = jax.tree.map(lambda x, row=row: x[row], policy)
            rows.append(OneOf((*fixed, *mine), jnp.float32(len(fixed) + place)))
            who.append((name, "learner", int(seed)))
    return Contestants(stack(rows), tuple(who))


def _actor_alone(policy: Any) -> Any:
    """A trained policy without what only training needs."""
    if isinstance(policy, PPOPolicy):
        return policy.replace(network={"actor": policy.network["actor"]})  # type: ignore[attr-defined]
    return policy


def cases_of(
    market_seed: int, markets: int, params: Any, settings: Sequence[Mapping[str, Any]] = ({},)
) -> protocol.Cases:
    """Every evaluation market in every setting.

    Args:
        market_seed: Seed of all markets.
        markets: Number of markets.
        params: Parameters, for what a setting leaves as it is.
        settings: Some of `FIELDS` and their values; the table's column ``setting`` is the place in this list.

    Raises:
        ValueError: A setting names none of `FIELDS`: it would change nothing.
    """
    unknown = sorted({name for setting in settings for name in setting} - set(FIELDS))
    if unknown:
        raise ValueError(f"settings must be of {', '.join(FIELDS)}, got {unknown[0]!r}")
    keys, table = protocol.draw_grid(market_seed, markets, {"setting": range(len(settings))})
    at = table["setting"].to_numpy()
    fields = {
        name: np.stack([np.asarray(s.get(name, getattr(params, name)), np.float32) for s in settings])[at]
        for name in FIELDS
    }
    return protocol.Cases(keys, fields, table)


def play(env: Env, params: Any, everyone: Contestants, cases: protocol.Cases, chunk: int) -> Rollout:
    """Everybody on every case; metrics ``[P, C]`` and the series `DAILY` ``[P, C, T]``.

    Args:
        env: A market with its twin, see `adarena.experiments.coldstart.ColdStartExperiment.market`.
        params: Its parameters.
        everyone: The policies.
        cases: The cases, with all of `FIELDS`.
        chunk: Episodes at a time.
    """
    names = tuple(f"info.{name}" for name in DAILY)
    return rollout_seeds(
        env, params, everyone.policies, cases.keys, cases.fields, record=names, chunk=chunk, label="evaluating"
    )


def evaluate(env: Env, params: Any, everyone: Contestants, cases: protocol.Cases, chunk: int) -> pl.DataFrame:
    """Scores of everybody on every case: the cases' columns, ``policy``, ``kind``, ``seed``, `METRICS`."""
    return score_rows(play(env, params, everyone, cases, chunk).metrics, everyone, cases, METRICS)


def score_rows(
    metrics: Mapping[str, np.ndarray], everyone: Contestants, cases: protocol.Cases, columns: Sequence[str]
) -> pl.DataFrame:
    """Metrics ``[P, C]`` as rows: the cases' columns, ``policy``, ``kind``, ``seed``, ``columns``."""
    parts = []
    for row, (name, kind, seed) in enumerate(everyone.who):
        own = {column: metrics[column][row : row + 1] for column in columns}
        parts.append(protocol.score_table(name, kind, [seed], own, cases, columns))
    return pl.concat(parts)


def recorded(env: Env, params: Any, everyone: Contestants, cases: protocol.Cases) -> Rollout:
    """Everybody on every case in a market that records, without twin: the hindsight bound, and the series `BELIEFS`."""
    names = tuple(f"info.{name}" for name in BELIEFS)
    rest: dict[str, Any] = {"record": names, "chunk": 1, "label": "hindsight bound"}
    parts = []
    for row in range(len(everyone.who)):
        policy = jax.tree.map(lambda x, row=row: x[row], everyone.policies)
        parts.append(rollout(env, params, policy, cases.keys, cases.fields, **rest))
    return jax.tree.map(lambda *x: np.stack(x), *parts)


def hindsight(env: Env, params: Any, one: Contestants, cases: protocol.Cases) -> pl.DataFrame:
    """Most successes at the prices that a policy's run met, as rows of kind ``"bound"``; ``env`` must record."""
    played = recorded(env, params, one, cases)
    metrics = {"success_rate": played.metrics["bound_rate"]}
    return protocol.score_table("hindsight", "bound", [-1], metrics, cases, ("success_rate",))
