"""One tick of `adarena.envs.lifecycle`: from an action to bids, an auction, and what users made of the ads."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from adarena.envs.lifecycle_belief import Belief
from adarena.envs.lifecycle_state import State
from adarena.envs.market.auction import rival_scores
from adarena.envs.market.clearing import Bidders, Visit
from adarena.envs.market.counts import poisson_quantile
from adarena.envs.market.response import exposure_probability
from adarena.envs.market.tick import TickResult, run_tick
from adarena.envs.market.traffic import visit
from adarena.envs.market.wear import age_decay, fatigue, lookalike_decay

if TYPE_CHECKING:
    from adarena.envs.lifecycle import Lifecycle
    from adarena.envs.lifecycle_setup import Params

_MOST_CTR = 0.95


class Controls(NamedTuple):
    """What an action stands for.

    Attributes:
        log_multiplier: Log of bid over target x predicted value.
        exploration: Share of impressions on which creatives are explored.
        width: The audience reaches to this distance from the core, in (0, 1].
        mix: ``[V]`` share of each creative, sums to 1.
    """

    log_multiplier: jax.Array
    exploration: jax.Array
    width: jax.Array
    mix: jax.Array


def controls_of(action: jax.Array, params: Params) -> Controls:
    """Reads an action, ``[3 + V]`` in [-1, 1]."""
    action = jnp.clip(action, -1.0, 1.0)
    half = 0.5 * (action[:3] + 1.0)
    return Controls(
        log_multiplier=action[0] * jnp.log(params.max_multiplier),
        exploration=params.max_exploration * half[1],
        width=params.min_width + (1.0 - params.min_width) * half[2],
        mix=jax.nn.softmax(params.mix_sharpness * action[3:]),
    )


class Scene(NamedTuple):
    """The impressions of a tick; ``[M]`` float32 unless said.

    Attributes:
        block: Int32, their block in the bank.
        weight: Real impressions that each stands for.
        match: How well the user matches the campaign.
        distance: Of the user from the core.
        ring: ``[M]`` int32 ring of the audience in which that is.
        marked: Uniform by which an impression is taken for exploration, where it lies below the share.
        factor: Scalar, click rate of the hour relative to the day's.
        fresh: Click rate of the user over that of one who has not seen the campaign.
    """

    block: jax.Array
    weight: jax.Array
    match: jax.Array
    distance: jax.Array
    ring: jax.Array
    marked: jax.Array
    factor: jax.Array
    fresh: jax.Array


def scene(env: Lifecycle, state: State, params: Params) -> Scene:
    """The impressions of the coming tick."""
    tick = jnp.minimum(state.tick, env.ticks - 1)
    hour = tick % env.ticks_per_day
    # `visit` takes the tick of the day for the range and the key; days differ by their key.
    block = visit(jax.random.fold_in(state.luck.traffic, tick // env.ticks_per_day), params.bank, hour)
    weight = params.bank.weight[block]
    distance = params.audience[block]
    ring = jnp.minimum((distance * env.rings).astype(jnp.int32), env.rings - 1)
    return Scene(
        block=block,
        weight=weight * state.luck.volume[tick] / jnp.maximum(weight.sum(), 1.0),
        match=params.match[block],
        distance=distance,
        ring=ring,
        marked=jax.random.uniform(jax.random.fold_in(state.luck.exploration, tick), weight.shape),
        factor=params.bank.ctr_factor[hour],
        fresh=fatigue(frequency(env, state, params), params.fatigue_floor, params.fatigue_rate)[ring],
    )


def frequency(env: Lifecycle, state: State, params: Params) -> jax.Array:
    """Exposures that a user of each ring has had and not forgotten, ``[rings]``."""
    return state.ring / (params.pool / env.rings)


def quality_now(state: State, params: Params) -> jax.Array:
    """True click rate of each creative, as old as it is, over that of an average new one, ``[V]``."""
    return state.campaign.quality * age_decay(state.creatives.age, params.creative_half_life)


def exploring_mix(belief: Belief) -> jax.Array:
    """Share of each creative on explored impressions, ``[V]``: proportional to the spread of what is believed of it."""
    return belief.ctr_sd / jnp.maximum(belief.ctr_sd.sum(), 1e-12)


class Plan(NamedTuple):
    """What the campaign brings to a tick.

    Attributes:
        bid: ``[M]`` currency units per exposed impression; 0 outside the audience.
        value: ``[M]`` predicted conversions per exposed impression.
        share: ``[V, M]`` share of each creative on each impression.
        inside: ``[M]`` bool: inside the audience.
    """

    bid: jax.Array
    value: jax.Array
    share: jax.Array
    inside: jax.Array


def plan(here: Scene, controls: Controls, belief: Belief, target: jax.Array, optimism: jax.Array) -> Plan:
    """Bids of a tick: multiplier x target x predicted value, on the audience.

    On explored impressions creatives are served by `exploring_mix` and rates are taken ``optimism`` standard deviations above
    their means; on the others by the mix, at the means. Predictions know the match and the hour; who is tired, and who is far
    from the core, shows in them only through what has been counted.
    """
    explored = here.marked < controls.exploration
    served = exploring_mix(belief)
    upper = ((belief.ctr + optimism * belief.ctr_sd) @ served) * (belief.cvr + optimism * belief.cvr_sd)
    value = jnp.where(explored, upper, (belief.ctr @ controls.mix) * belief.cvr) * here.match * here.factor
    inside = here.distance <= controls.width
    bid = jnp.where(inside, jnp.exp(controls.log_multiplier) * target * value, 0.0)
    share = jnp.where(explored[None, :], served[:, None], controls.mix[:, None])
    return Plan(bid, value, share, inside)


def true_rates(state: State, params: Params, here: Scene, share: jax.Array) -> tuple[jax.Array, jax.Array]:
    """True ``(pctr, pvalue)`` of the campaign on each impression, ``[M]`` each, but for the hour's factor.

    Args:
        state: The state.
        params: The parameters.
        here: The impressions.
        share: ``[V, M]`` creatives served.
    """
    campaign = state.campaign
    served = quality_now(state, params) @ share
    pctr = jnp.minimum(campaign.ctr * here.match * here.fresh * served, _MOST_CTR)
    pcvr = jnp.minimum(campaign.cvr * lookalike_decay(here.distance, campaign.lookalike), _MOST_CTR)
    return pctr, pctr * pcvr


def rival_scale(env: Lifecycle, state: State, params: Params) -> jax.Array:
    """Currency units per conversion that each rival bids now, ``[N - 1]``."""
    tick = jnp.minimum(state.tick, env.ticks - 1)
    hour = (tick % env.ticks_per_day + 0.5) / env.ticks_per_day
    own = jnp.arange(env.rivals) / env.rivals
    level = state.luck.rival_level[:, tick // env.ticks_per_day]
    return params.rival_target * jnp.exp(level + params.rival_pattern * jnp.cos(2.0 * jnp.pi * (hour - own)))


class Outcome(NamedTuple):
    """What became of a tick. Scalars unless said; real events, weights included.

    Attributes:
        result: The market's sums by advertiser.
        exposure: ``[M]`` exposures of the campaign.
        by_creative: ``[V]`` likewise.
        trials: ``[V]`` exposures x match x hour.
        clicks: ``[V]`` clicks, expected.
        conversions: Conversions, expected.
        price_first: Sum over the audience of the least price of the first slot, currency units.
        price_last: Likewise of the last.
        worth: Sum over the audience of target x predicted value.
        offered: Impressions of the audience.
        cost_of: ``[K, M]`` what each slot would have cost the campaign at least, whether in its audience or not.
    """

    result: TickResult
    exposure: jax.Array
    by_creative: jax.Array
    trials: jax.Array
    clicks: jax.Array
    conversions: jax.Array
    price_first: jax.Array
    price_last: jax.Array
    worth: jax.Array
    offered: jax.Array
    cost_of: jax.Array


def clear(env: Lifecycle, state: State, params: Params, here: Scene, planned: Plan) -> Outcome:
    """Clears the coming tick at the campaign's bids, rivals bidding at their levels."""
    pctr, pvalue = true_rates(state, params, here, planned.share)
    bank, n = params.bank, env.rivals + 1
    row = {"pctr": pctr, "pvalue": pvalue}
    own = {name: getattr(bank, name)[here.block].at[0].set(values)[None] for name, values in row.items()}
    rest = {name: getattr(bank, name)[here.block][None] for name in ("outside", "worth", "weight")}
    number = here.block * env.impressions + jnp.arange(env.impressions)
    tick = Visit(dataclasses.replace(bank, **own, **rest), jnp.int32(0), here.weight, False, number)
    budget = jnp.concatenate([state.daily_budget[None], params.rival_budget])
    bidders = Bidders(
        scale=jnp.concatenate([jnp.zeros(1, jnp.float32), rival_scale(env, state, params)]),
        factor=jnp.full(n, here.factor),
        worth=jnp.ones(n, jnp.float32),
        remaining=jnp.where(state.exhausted, 0.0, jnp.maximum(budget - state.spent, 0.0)),
    )
    bids = jnp.full((n, env.impressions), jnp.nan, jnp.float32).at[0].set(planned.bid)
    result = run_tick(env.rules, tick, bidders, params.terms, None, bids)
    return _outcome(env, state, params, here, planned, result, pctr * here.factor)


def _outcome(
    env: Lifecycle,
    state: State,
    params: Params,
    here: Scene,
    planned: Plan,
    result: TickResult,
    pctr: jax.Array,
) -> Outcome:
    cleared = result.cleared
    assert cleared is not None
    exposure = jnp.where(cleared.winner == 0, cleared.response.exposure, 0.0).sum(axis=0)
    reserve = jnp.maximum(params.terms.reserve, params.terms.outside_price * params.bank.outside[here.block])
    least = jnp.maximum(rival_scores(cleared.ranking, jnp.int32(0)), reserve)
    weight = jnp.where(planned.inside, here.weight, 0.0)
    quality = quality_now(state, params)
    by_creative = planned.share * exposure
    served = quality @ planned.share
    # Of an impression's clicks each creative has those that its own quality brings.
    clicks = quality[:, None] * by_creative * (pctr / jnp.maximum(served, 1e-12))
    exposed = exposure_probability(params.terms.exposure, params.terms.cascade)
    # With Vickrey's and VCG prices a slot costs less than its neighbour below bids, but never less than the best loser.
    paid = least if env.mechanism in ("gsp", "first_price") else jnp.broadcast_to(least[-1], least.shape)
    return Outcome(
        result=result,
        exposure=exposure,
        by_creative=by_creative.sum(axis=1),
        trials=(by_creative * (here.match * here.factor)).sum(axis=1),
        clicks=clicks.sum(axis=1),
        conversions=result.conversion[0],
        price_first=(least[0] * weight).sum(),
        price_last=(least[-1] * weight).sum(),
        worth=state.campaign.target * (planned.value * weight).sum(),
        offered=weight.sum(),
        cost_of=paid * exposed[:, None] * here.weight,
    )


def draw_clicks(env: Lifecycle, state: State, expected: jax.Array) -> jax.Array:
    """Clicks of the coming tick by creative, ``[V]``; Poisson, by uniforms that depend on the tick alone."""
    u = jax.random.uniform(
        jax.random.fold_in(state.luck.response, jnp.minimum(state.tick, env.ticks - 1)), expected.shape
    )
    return poisson_quantile(u, expected)
