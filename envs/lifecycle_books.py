"""The books of a campaign in `adarena.envs.lifecycle`: what has been reported, what may be estimated, what is believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from adarena.envs import lifecycle_belief as belief_of
from adarena.envs import lifecycle_phases as phases_of
from adarena.envs.lifecycle_belief import Belief
from adarena.envs.lifecycle_phases import Evidence, Window
from adarena.envs.lifecycle_state import State
from adarena.envs.market.ledger import score
from adarena.envs.market.wear import forget

if TYPE_CHECKING:
    from adarena.envs.lifecycle import Lifecycle
    from adarena.envs.lifecycle_setup import Params


def known_by_now(env: Lifecycle, state: State, params: Params) -> jax.Array:
    """Probability that a conversion of each tick's clicks has been reported by now, ``[T]``; 0 for ticks to come."""
    lag = state.tick - 1 - jnp.arange(env.ticks)
    if not env.delay:
        return (lag >= 0).astype(jnp.float32)
    known = jnp.cumsum(params.delay_distribution)
    return jnp.where(lag >= 0, known[jnp.maximum(lag, 0)], 0.0)


def is_reported(state: State) -> jax.Array:
    """Which of the drawn conversions have been reported by now, ``[C]`` bool."""
    return state.occurred + state.luck.delay < state.tick


def conversions(state: State) -> jax.Array:
    """Conversions so far, reported or not."""
    return (state.occurred < state.tick).sum() + state.history.surplus.sum()


def reported(state: State) -> jax.Array:
    """Conversions reported so far."""
    return is_reported(state).sum() + state.history.surplus.sum()


def window(state: State, known: jax.Array, first: jax.Array) -> Window:
    """What is known of the ticks from ``first`` to now.

    Args:
        state: The state.
        known: ``[T]`` from `known_by_now`.
        first: Int32 tick.
    """
    inside = jnp.arange(known.shape[0]) >= first
    cost, clicks, surplus = (
        jnp.where(inside, x, 0.0) for x in (state.history.cost, state.history.clicks, state.history.surplus)
    )
    seen = (is_reported(state) & (state.occurred >= first)).sum().astype(jnp.float32) + surplus.sum()
    return Window(cost.sum(), clicks.sum(), seen, seen / phases_of.mature(clicks, known))


def belief(env: Lifecycle, state: State, params: Params, known: jax.Array) -> Belief:
    """The platform's predictions of the campaign's rates."""
    creatives, content = state.creatives, state.campaign.content
    own = belief_of.prior_shape(params.creative_spread * jnp.sqrt(1.0 - params.content_quality))
    prior = params.mean_ctr * content
    expected = creatives.trials * prior
    factor = belief_of.campaign_factor(creatives.clicks, expected, own, belief_of.prior_shape(params.ctr_spread))
    ctr, ctr_sd = belief_of.creative_rates(creatives.clicks, expected, prior, own, factor)
    half_life = params.memory_half_life * env.ticks_per_day
    kept = forget(state.tick - 1 - jnp.arange(env.ticks), half_life)
    seen = jnp.where(is_reported(state), forget(state.tick - 1 - state.occurred, half_life), 0.0).sum()
    cvr, cvr_sd = belief_of.conversion_rate(
        seen + jnp.where(known > 0.0, state.history.surplus * kept, 0.0).sum(),
        jnp.where(known > 0.0, state.history.clicks * kept * known, 0.0).sum(),
        params.mean_cvr,
        belief_of.prior_shape(params.cvr_spread),
    )
    return Belief(factor, ctr, ctr_sd, cvr, cvr_sd)


def evidence(env: Lifecycle, state: State, params: Params, known: jax.Array) -> tuple[Evidence, Window]:
    """What decides about the present phase, after ``state.tick`` ticks; and the stable phase's window.

    Args:
        env: The environment.
        state: The state, the last tick booked, ``steady`` up to date.
        params: Its parameters.
        known: ``[T]`` from `known_by_now`.
    """
    target, day = state.campaign.target, env.ticks_per_day
    phases, tick = state.phases, state.tick
    life = window(state, known, jnp.int32(0))
    whole_day = tick % day == 0
    stable_from = tick - _days(params.stable_days, day)
    stable = window(state, known, stable_from)
    first_day = stable_from // day
    of_window = (jnp.arange(env.days) >= first_day) & (jnp.arange(env.days) < tick // day)
    breakout_from = tick - _days(params.breakout_days, day)
    breakout = window(state, known, breakout_from)
    asked = params.breakout_growth * state.stable_value * params.breakout_days
    found = Evidence(
        understood=phases_of.active_understood(
            state.last.share, state.creatives.exposure, params.understanding_exposures
        ),
        understanding_over=tick >= params.understanding_days * day,
        started=(life.reported >= params.required_conversions)
        & phases_of.within(life, target, params.cpa_tolerance)
        & (tick <= params.window_days * day),
        start_over=tick >= params.window_days * day,
        steady=whole_day
        & (stable_from >= phases.entered[phases_of.STABLE])
        & (~of_window | state.steady).all()
        & phases_of.within(stable, target, params.stable_tolerance),
        grown=whole_day
        & (breakout_from >= phases.entered[phases_of.BREAKOUT])
        & (breakout.estimated >= asked)
        & phases_of.within(breakout, target, 1.0),
    )
    return found, stable


def _days(days: jax.Array, ticks_per_day: int) -> jax.Array:
    """Whole ticks of some days, int32."""
    return jnp.round(days * ticks_per_day).astype(jnp.int32)


def running_score(env: Lifecycle, state: State) -> jax.Array:
    """Score of the conversions reported so far; of all conversions once the campaign is over."""
    value = jnp.where(state.tick >= env.ticks, conversions(state), reported(state))
    return score(value, state.history.cost.sum(), state.campaign.target)
