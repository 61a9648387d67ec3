"""What an episode of `adarena.envs.coldstart` reports: ``info`` by tick, and the metrics of what has happened so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from adarena.envs.coldstart_state import PENDING, SUCCEEDED, Side, State, World
from adarena.envs.coldstart_tick import Moment, expected_conversions, in_window, succeeds
from adarena.envs.market.auction import rank, tie_priority
from adarena.envs.market.tick import TickResult

if TYPE_CHECKING:
    from adarena.envs.coldstart import ColdStart
    from adarena.envs.coldstart_setup import Params

ARMS = ("mature", "control", "treated")
"""First axis of what ``info`` reports by arm: mature ads, launched ads without support, launched ads with; the second
axis is users without support, users with."""

WEEKLY = (20, 50)
"""Conversions required by the stricter criteria, within seven days."""


def successes(side: Side) -> jax.Array:
    """Launched ads that have succeeded, by closed windows; float32 scalar."""
    return (side.outcome == SUCCEEDED).sum().astype(jnp.float32)


def potential(env: ColdStart, world: World, side: Side, tick: jax.Array, params: Params) -> jax.Array:
    """Successes, and the progress of ads in their windows: conversions over those required, at most 1 each."""
    live = in_window(env, world, tick, params) & (side.outcome == PENDING)
    progress = jnp.minimum(side.conversion / params.required_conversions, 1.0)
    return successes(side) + jnp.where(live, progress, 0.0).sum()


def welfare(world: World, side: Side) -> jax.Array:
    """True expected conversions times target by ad, currency units; ``[A]``."""
    return world.ctr.rate * world.cvr.rate * side.trials * world.target


def tick_info(
    env: ColdStart, state: State, result: TickResult, twin: TickResult | None, now: Moment, params: Params
) -> dict[str, jax.Array]:
    """``info`` of a tick; money in currency units. With ``record`` what the figures and the bound need as well."""
    world, side, cleared = state.world, state.side, result.cleared
    assert cleared is not None
    assert result.fund is not None
    ads, new = env.mature + env.launched, slice(env.mature, None)
    arm = jnp.concatenate([jnp.zeros(env.mature, jnp.int32), 1 + world.treated.astype(jnp.int32)])
    held = jnp.append(arm, 0)[jnp.where(cleared.winner < 0, ads, cleared.winner)]
    true_value = jnp.append(world.ctr.rate * world.cvr.rate, 0.0)[jnp.where(cleared.winner < 0, ads, cleared.winner)]

    def by_arm(amounts: jax.Array) -> jax.Array:
        cells = [
            [jnp.where((held == a) & (now.treated == u), amounts, 0.0).sum() for u in (False, True)]
            for a in range(len(ARMS))
        ]
        return jnp.stack([jnp.stack(row) for row in cells])

    paid = cleared.price * cleared.response.exposure
    assert cleared.charge is not None
    info = {
        "revenue": result.spend.sum(),
        "revenue_twin": result.spend.sum() if twin is None else twin.spend.sum(),
        "charge": result.fund,
        "live": in_window(env, world, state.tick - 1, params).sum(),
        "successes": successes(side),
        "price": side.price,
        "arm_revenue": by_arm(jnp.where(cleared.winner >= 0, paid, 0.0)),
        "arm_conversions": by_arm(true_value * cleared.response.click),
        "clearings": result.clearings,
    }
    if not env.record:
        return info
    belief = side.beliefs
    able = (result.short[: env.mature] | (world.budget[: env.mature] <= 0.0))[:, None]
    match = now.visit.bank.pvalue[now.visit.block]
    score = jnp.where(able, 0.0, world.scale[: env.mature, None] * match[: env.mature])
    score = jnp.where(score >= params.terms.reserve, score, 0.0)
    rivals = rank(score, tie_priority(jnp.arange(env.impressions), env.mature), env.slots)
    return info | {
        "predicted": belief.ctr * belief.cvr,
        "predicted_sd": belief.ctr * belief.cvr * jnp.sqrt(1.0 / belief.ctr_shape + 1.0 / belief.cvr_shape),
        "true_value": (world.ctr.rate * world.cvr.rate)[new],
        "conversions": side.conversion,
        "expected": expected_conversions(env, world, side.trials[new]),
        "expected_treated_users": expected_conversions(env, world, side.treated_trials),
        "rivals": rivals.score[: env.slots],
        "match": match[new],
        "weight": now.visit.weight,
    }


def metrics(env: ColdStart, state: State, params: Params) -> dict[str, jax.Array]:
    """What has come of the launched ads and of the platform so far, see `adarena.envs.coldstart.ColdStart.metrics`."""
    world, side = state.world, state.side
    new = slice(env.mature, None)
    launched = jnp.float32(env.launched)
    won = side.outcome == SUCCEEDED
    count = jnp.maximum(won.sum(), 1)
    expected = expected_conversions(env, world, side.trials[new])
    at_close = side.at_close
    cost = at_close[:, 1] / jnp.maximum(world.target[new] * at_close[:, 0], 1e-9)
    days = jnp.where(won, side.reached, params.window_days)
    out = {
        "launched": launched,
        "successes": successes(side),
        "success_rate": successes(side) / launched,
        "score": successes(side) / launched,
        "enough_conversions": (at_close[:, 0] >= params.required_conversions).mean(),
        "expected_conversions": expected_at_close(env, side, world).mean(),
        "expected_enough": (expected_at_close(env, side, world) >= params.required_conversions).mean(),
        "expected_total": expected.mean(),
        "time_to_success": jnp.where(won.any(), jnp.where(won, days, 0.0).sum() / count, params.window_days),
        "cost_over_target": jnp.where(won, cost, 0.0).sum() / count,
        "exploration_cost": side.charge.sum(),
        "exploration_budget_used": side.fund_spent / jnp.maximum(world.fund, 1e-9),
    }
    for required in WEEKLY:
        whole = world.launch + 7 * env.ticks_per_day <= env.ticks
        passed = succeeds(side.at_week, float(required), world.target[new], params) & whole
        out[f"success_{required}_7"] = passed.sum() / launched
    return out | _against_twin(env, state)


def expected_at_close(env: ColdStart, side: Side, world: World) -> jax.Array:
    """True expected conversions of each launched ad by the end of its window (so far, before it), ``[L]``."""
    closed = side.outcome != PENDING
    return jnp.where(closed, side.expected_close, expected_conversions(env, world, side.trials[env.mature :]))


def _against_twin(env: ColdStart, state: State) -> dict[str, jax.Array]:
    """Money and welfare, and their changes against the twin (0 where there is none, but for the fund's charges)."""
    world, side = state.world, state.side
    value, revenue, late = welfare(world, side), side.revenue.sum(), side.revenue[-_late_days(env) :].sum()
    out = {"revenue": revenue, "welfare": value.sum(), "longrun_revenue": late}
    if state.twin is None:
        charged = side.charge.sum() / jnp.maximum(revenue, 1e-9)
        return out | {"revenue_loss": charged}
    twin = state.twin
    other, before = welfare(world, twin), twin.revenue.sum()
    mature = slice(None, env.mature)
    return out | {
        "revenue_twin": before,
        "revenue_loss": 1.0 - revenue / jnp.maximum(before, 1e-9),
        "mature_value_loss": 1.0 - value[mature].sum() / jnp.maximum(other[mature].sum(), 1e-9),
        "welfare_gain": value.sum() / jnp.maximum(other.sum(), 1e-9) - 1.0,
        "longrun_revenue_gain": late / jnp.maximum(twin.revenue[-_late_days(env) :].sum(), 1e-9) - 1.0,
        "success_rate_twin": successes(twin) / env.launched,
        "success_rate_gain": (successes(side) - successes(twin)) / env.launched,
    }


def _late_days(env: ColdStart) -> int:
    """Days at the end that show the long run: the last two sevenths."""
    return max(1, 2 * env.days // 7)
