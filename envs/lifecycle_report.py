"""What `adarena.envs.lifecycle` reports of a tick and of a life: ``info``, metrics, the oracle's bound, the truth
itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from adarena.envs import lifecycle_books as books
from adarena.envs import lifecycle_tick as tick_of
from adarena.envs.lifecycle_belief import Belief
from adarena.envs.lifecycle_phases import PHASES
from adarena.envs.lifecycle_state import Last, State
from adarena.envs.market.hindsight import hindsight
from adarena.envs.market.ledger import score

if TYPE_CHECKING:
    from adarena.envs.lifecycle import Lifecycle
    from adarena.envs.lifecycle_setup import Params


class Truth(NamedTuple):
    """What no policy sees but an oracle; float32.

    Attributes:
        ctr: ``[V]`` click rate of each creative as old as it is, with a rested user of match 1.
        cvr: ``[rings]`` conversions per click in the middle of each ring.
        fresh: ``[rings]`` click rate of its users over that of rested ones.
        lookalike: Slope of the log conversion rate with distance.
    """

    ctr: jax.Array
    cvr: jax.Array
    fresh: jax.Array
    lookalike: jax.Array


def true_rates(env: Lifecycle, state: State, params: Params) -> Truth:
    """The truth about a campaign as it stands, for oracles and figures."""
    campaign = state.campaign
    middle = (jnp.arange(env.rings) + 0.5) / env.rings
    return Truth(
        ctr=campaign.ctr * tick_of.quality_now(state, params),
        cvr=campaign.cvr * tick_of.lookalike_decay(middle, campaign.lookalike),
        fresh=tick_of.fatigue(tick_of.frequency(env, state, params), params.fatigue_floor, params.fatigue_rate),
        lookalike=campaign.lookalike,
    )


def last_tick(controls: tick_of.Controls, outcome: tick_of.Outcome, share: jax.Array) -> Last:
    """What the observation shows of the last tick."""

    def log_price(total: jax.Array) -> jax.Array:
        known = (outcome.worth > 0.0) & (total > 0.0)
        ratio = jnp.where(known, total, 1.0) / jnp.where(known, outcome.worth, 1.0)
        return jnp.clip(jnp.log(ratio), -4.0, 4.0)

    return Last(
        log_multiplier=controls.log_multiplier,
        exploration=controls.exploration,
        width=controls.width,
        share=share,
        win_rate=jnp.minimum(outcome.exposure.sum() / jnp.maximum(outcome.offered, 1e-9), 1.0),
        price_first=log_price(outcome.price_first),
        price_last=log_price(outcome.price_last),
    )


def tick_info(
    env: Lifecycle,
    before: State,
    after: State,
    controls: tick_of.Controls,
    belief: Belief,
    outcome: tick_of.Outcome,
    params: Params,
) -> dict[str, jax.Array]:
    """``info`` of a tick; scalars unless said, money in currency units, rates as the tick met them."""
    truth = true_rates(env, before, params)
    return {
        "phase": before.phases.index,
        "passed": after.phases.passed,  # [4]
        "spend": outcome.result.spend[0],
        "value": outcome.conversions,
        "conversions": books.conversions(after).astype(jnp.float32),
        "reported": books.reported(after).astype(jnp.float32),
        "exposure": outcome.exposure.sum(),
        "multiplier": jnp.exp(controls.log_multiplier),
        "exploration": controls.exploration,
        "width": controls.width,
        "shares": after.last.share,  # [V]
        "ages": before.creatives.age,  # [V] days in service
        "frequency": tick_of.frequency(env, before, params).mean(),
        "frequencies": tick_of.frequency(env, before, params),  # [rings]
        "daily_budget": before.daily_budget,
        "win_rate": after.last.win_rate,
        "score": after.score,
        "predicted_ctr": belief.ctr,  # [V]
        "predicted_ctr_sd": belief.ctr_sd,  # [V]
        "true_ctr": truth.ctr,  # [V]
        "predicted_cvr": belief.cvr,
        "true_cvr": truth.cvr,  # [rings]
    }


def metrics(env: Lifecycle, state: State, params: Params) -> dict[str, jax.Array]:
    """The campaign's life so far; float32 scalars.

    ``success_PHASE`` is 1 where the phase was passed, ``days_PHASE`` the days from launch until then (the whole life
    where it was not); ``creative_regret`` the share of clicks lost to worse creatives than the best of each moment;
    ``best_creative_share`` the last tick's share of the creative that is then the best; ``expected_value`` the
    conversions to be expected of what was shown, without luck. ``budget_used`` is cost over the sum of the days'
    budgets.
    """
    campaign, phases = state.campaign, state.phases
    value, cost = books.conversions(state), state.history.cost.sum()
    ratio = jnp.where(cost > 0.0, jnp.minimum(cost / jnp.maximum(campaign.target * value, 1e-9), 100.0), 0.0)
    best = tick_of.quality_now(state, params)
    at = jnp.where(phases.passed, phases.passed_at, env.ticks) / env.ticks_per_day
    found = {
        "score": score(value, cost, campaign.target),
        "value": value,
        "expected_value": state.expected,
        "cost": cost,
        "target": campaign.target,
        "cost_over_target": ratio,
        "over_target": ratio > 1.0,
        "budget_used": cost / jnp.maximum(state.budgets, 1e-9),
        "best_creative_share": state.last.share[jnp.argmax(best)],
        "creative_regret": 1.0 - state.served_quality / jnp.maximum(state.best_quality, 1e-9),
        **{f"success_{name}": phases.passed[n] for n, name in enumerate(PHASES)},
        **{f"days_{name}": at[n] for n, name in enumerate(PHASES)},
    }
    found["creative_regret"] = jnp.where(state.best_quality > 0.0, found["creative_regret"], 0.0)
    return {name: jnp.asarray(x, jnp.float32) for name, x in found.items()}


def opportunity(before: State, outcome: tick_of.Outcome, here: tick_of.Scene, params: Params) -> dict[str, jax.Array]:
    """What every slot would have cost the campaign, and brought it at best, ``[K, M]`` each (see `bound`)."""
    campaign = before.campaign
    rate = campaign.ctr * campaign.quality.max() * here.match * here.factor
    rate = rate * campaign.cvr * tick_of.lookalike_decay(here.distance, campaign.lookalike)
    exposed = tick_of.exposure_probability(params.terms.exposure, params.terms.cascade)
    return {
        "opportunity_cost": outcome.cost_of,
        "opportunity_value": rate * exposed[:, None] * here.weight,
    }


def bound(env: Lifecycle, infos: dict[str, jax.Array], state: State, params: Params) -> dict[str, jax.Array]:
    """The most that a campaign could have been expected to bring at the prices that the run met, by hindsight.

    A relaxation: users never tire, creatives never age, the best creative is known, every impression is bought in its
    best slot at its own price, and one budget for the life holds the largest ones that the days could have had: the
    cold start is passed on the first day and the stable phase as soon as its days can have gone by. What rivals would
    do differently is left out.

    Args:
        env: The environment.
        infos: Stacked ``info``, arrays ``[T, ...]``.
        state: The last state.
        params: The parameters.

    Returns:
        ``hindsight_value``: expected conversions at most, budget and target held; ``hindsight_score``: score at most.
    """
    flat = [infos[f"opportunity_{what}"].transpose(0, 2, 1).reshape(-1, env.slots) for what in ("cost", "value")]
    day = jnp.arange(env.days)
    largest = jnp.maximum(1.0, jnp.maximum(params.failed_budget, params.stable_budget))
    later = jnp.maximum(1.0, params.breakout_budget)
    factor = jnp.where(day < 1, 1.0, largest) * jnp.where(day < params.stable_days + 1.0, 1.0, later)
    best = hindsight(flat[0], flat[1], state.campaign.budget * factor.sum(), state.campaign.target)
    return {"hindsight_value": best.value, "hindsight_cost": best.cost, "hindsight_score": best.score}
