"""One tick of one market of `adarena.envs.coldstart`: support, clearing, events, and what the platform learns from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from adarena.envs.coldstart_setup import predict
from adarena.envs.coldstart_state import FAILED, PENDING, SUCCEEDED, Beliefs, Side, World
from adarena.envs.market.arrivals import arrivals_by
from adarena.envs.market.boost import Support, protected
from adarena.envs.market.clearing import Bidders, Visit
from adarena.envs.market.ledger import book
from adarena.envs.market.tick import TickResult, run_tick
from adarena.envs.market.traffic import visit

if TYPE_CHECKING:
    from adarena.envs.coldstart import ColdStart
    from adarena.envs.coldstart_setup import Params

_PROTECTED = 1e4
"""Bonus of protected traffic, in running mean prices: above every score, so that its ad ranks first."""

_LEAST_FUND = 1e-3
"""Share of the exploration fund below which it counts as used up."""


class Controls(NamedTuple):
    """What the placement agent decides for a tick; ``[L]`` float32.

    Attributes:
        bonus: Added to the score of an exposure of match 1 (times the match elsewhere), in running mean prices.
        share: Share of the traffic that is protected for the ad.
        log_multiplier: Log of the factor on the ad's bid.
    """

    bonus: jax.Array
    share: jax.Array
    log_multiplier: jax.Array


class Moment(NamedTuple):
    """The impressions of a tick and whose they are.

    Attributes:
        visit: The impressions.
        place: ``[M]`` uniforms that say for whom an impression is protected.
        treated: ``[M]`` bool: whether support may be given on it.
    """

    visit: Visit
    place: jax.Array
    treated: jax.Array


def moment(env: ColdStart, world: World, tick: jax.Array, params: Params) -> Moment:
    """The impressions of a tick: a function of tick and reset alone."""
    now = jnp.minimum(tick, env.ticks - 1)
    block = visit(world.traffic, params.bank, now)
    weight = params.bank.weight[block] * world.volume[now] / env.impressions
    place, user = jax.random.uniform(jax.random.fold_in(world.exploration, now), (2, env.impressions))
    return Moment(Visit(params.bank, block, weight, False), place, user < params.user_share)


def window_ticks(env: ColdStart, params: Params) -> jax.Array:
    """Ticks from launch to the end of the window, int32."""
    return jnp.round(params.window_days * env.ticks_per_day).astype(jnp.int32)


def in_window(env: ColdStart, world: World, tick: jax.Array, params: Params) -> jax.Array:
    """``[L]`` bool: launched, and the window has not closed."""
    return (tick >= world.launch) & (tick < world.launch + window_ticks(env, params))


def controls(env: ColdStart, world: World, side: Side, tick: jax.Array, action: jax.Array, params: Params) -> Controls:
    """What an action means: nothing for ads out of their window or not treated, or once the fund is used up."""
    a = jnp.clip(action.reshape(env.launched, 3), -1.0, 1.0)
    funded = (world.fund > 0.0) & (world.fund - side.fund_spent > _LEAST_FUND * world.fund)
    on = in_window(env, world, tick, params) & world.treated & funded
    part = jnp.where(on[:, None], jnp.square(0.5 * (a[:, :2] + 1.0)), 0.0)
    share = params.max_share * part[:, 1]
    share = share * jnp.minimum(1.0, params.max_share / jnp.maximum(share.sum(), 1e-9))
    log_multiplier = jnp.where(on, a[:, 2] * jnp.log(params.max_multiplier), 0.0)
    return Controls(params.max_bonus * part[:, 0], share, log_multiplier)


def no_controls(env: ColdStart) -> Controls:
    """No support at all."""
    zero = jnp.zeros(env.launched, jnp.float32)
    return Controls(zero, zero, zero)


def beliefs_of(env: ColdStart, world: World, events: jax.Array, params: Params) -> Beliefs:
    """What the platform predicts of new ads given their ``[4, L]`` events, see `predict`."""
    p = predict(env, world, events, params)
    ctr, cvr = (jax.tree.map(lambda x: x[env.mature :], belief) for belief in p)
    return Beliefs(ctr.prior * cvr.prior, ctr.mean, cvr.mean, ctr.shape, cvr.shape)


def clear(
    env: ColdStart, world: World, side: Side, now: Moment, tick: jax.Array, control: Controls, params: Params
) -> TickResult:
    """Clears a tick; ``click`` of the result holds exposures times matches."""
    present = in_window(env, world, tick, params) | (side.outcome == SUCCEEDED)
    own = world.target[env.mature :] * side.beliefs.ctr * side.beliefs.cvr * jnp.exp(control.log_multiplier)
    scale = jnp.concatenate([world.scale[: env.mature], jnp.where(present, own, 0.0)])
    left = jnp.where(side.exhausted, 0.0, jnp.maximum(world.budget - side.today, 0.0))
    one = jnp.ones_like(scale)
    match = now.visit.bank.pvalue[now.visit.block, env.mature :]
    bonus = jnp.where(now.treated, control.bonus[:, None] * match, 0.0)
    bonus = jnp.where(protected(now.place, control.share, now.treated), _PROTECTED, bonus) * side.price
    support = Support(jnp.pad(bonus, ((env.mature, 0), (0, 0))), world.fund - side.fund_spent)
    return run_tick(env.rules, now.visit, Bidders(scale, one, one, left), params.terms, None, support=support)


def advance(
    env: ColdStart, world: World, side: Side, now: Moment, tick: jax.Array, control: Controls, params: Params
) -> tuple[Side, TickResult]:
    """One tick of one market: the state after it, and how it cleared."""
    result = clear(env, world, side, now, tick, control, params)
    assert result.fund is not None
    assert result.charge is not None
    new = slice(env.mature, None)
    day = jnp.minimum(tick // env.ticks_per_day, env.days - 1)
    over = (tick + 1) % env.ticks_per_day == 0  # budgets are filled again for the next day
    revenue, exposures = result.spend.sum(), result.exposure.sum()
    price = revenue / jnp.maximum(exposures, 1e-9)
    side = side.replace(  # type: ignore[attr-defined]
        spend=side.spend + result.spend,
        today=jnp.where(over, 0.0, jnp.minimum(side.today + result.spend, world.budget)),
        exhausted=(side.exhausted | result.short) & ~over,
        trials=side.trials + result.click,
        treated_trials=side.treated_trials + _on_treated(env, result, now),
        exposure=side.exposure + result.exposure[new],
        last=jnp.stack([result.exposure[new], result.spend[new], result.charge[new]]),
        charge=side.charge + result.charge[new],
        fund_spent=jnp.minimum(side.fund_spent + result.fund, world.fund),
        revenue=side.revenue.at[day].add(revenue),
        price=jnp.where(exposures > 0.0, side.price + (price - side.price) / env.ticks_per_day, side.price),
    )
    return judge(env, world, learn(env, world, side, result.click[new], tick, params), tick, params), result


def _on_treated(env: ColdStart, result: TickResult, now: Moment) -> jax.Array:
    """Exposures times matches of new ads on treated users, ``[L]``."""
    assert result.cleared is not None
    ads = env.mature + env.launched
    return book(result.cleared.winner, result.cleared.response.click * now.treated, ads)[env.mature :]


def expected_conversions(env: ColdStart, world: World, trials: jax.Array) -> jax.Array:
    """True expected conversions after so many exposures times matches; ``[L] -> [L]``."""
    return world.ctr.rate[env.mature :] * world.cvr.rate[env.mature :] * trials


def learn(env: ColdStart, world: World, side: Side, won: jax.Array, tick: jax.Array, params: Params) -> Side:
    """Events of the tick, reports by its end, and the predictions that follow; ``won [L]`` exposures times matches."""
    new = slice(env.mature, None)
    trials, ctr, cvr = side.trials[new], world.ctr.rate[new], world.cvr.rate[new]
    conversion = arrivals_by(world.conversions, ctr * cvr * trials)
    click = conversion + arrivals_by(world.clicks, ctr * (1.0 - cvr) * trials)
    history = side.click_history.at[tick].set(click - side.click)
    number = jnp.arange(world.lag.shape[1])
    happened = (number >= side.conversion[:, None]) & (number < conversion[:, None])
    report = jnp.where(happened, tick + world.lag, side.report)
    known, singly = click, conversion
    if env.delay:
        age = tick - jnp.arange(env.ticks)
        reported = jnp.cumsum(params.delay_distribution)
        part = jnp.where(age >= 0, reported[jnp.clip(age, 0, env.ticks - 1)], 0.0)
        known = jnp.matmul(part, history, precision="highest")
        singly = (report <= tick).sum(axis=1).astype(jnp.float32)
        # Beyond the conversions that are single events, as many are reported as of the clicks' conversions at large.
        singly = singly + jnp.maximum(conversion - number.size, 0.0) * known / jnp.maximum(click, 1.0)
    beliefs = beliefs_of(env, world, params.evidence * jnp.stack([click, trials, singly, known]), params)
    predicted = won * beliefs.ctr * beliefs.cvr
    return side.replace(  # type: ignore[attr-defined]
        click=click,
        click_history=history,
        report=report,
        conversion=conversion,
        reported=singly,
        mature_clicks=known,
        beliefs=beliefs,
        rate=side.rate + (predicted - side.rate) / env.ticks_per_day,
    )


def judge(env: ColdStart, world: World, side: Side, tick: jax.Array, params: Params) -> Side:
    """Closes windows that end with this tick, and notes conversions and spend at fixed ages."""
    new = slice(env.mature, None)
    age = tick + 1 - world.launch
    enough = side.conversion >= params.required_conversions
    account = jnp.stack([side.conversion, side.spend[new]], axis=1)
    won = succeeds(account, params.required_conversions, world.target[new], params)
    closes = age == window_ticks(env, params)
    outcome = jnp.where(closes & (side.outcome == PENDING), jnp.where(won, SUCCEEDED, FAILED), side.outcome)
    first = enough & jnp.isinf(side.reached)
    return side.replace(  # type: ignore[attr-defined]
        outcome=outcome,
        reached=jnp.where(first, age / env.ticks_per_day, side.reached),
        at_close=jnp.where(closes[:, None], account, side.at_close),
        expected_close=jnp.where(closes, expected_conversions(env, world, side.trials[new]), side.expected_close),
        at_week=jnp.where((age == 7 * env.ticks_per_day)[:, None], account, side.at_week),
    )


def succeeds(account: jax.Array, required: jax.Array | float, target: jax.Array, params: Params) -> jax.Array:
    """``[L]`` bool: at least ``required`` conversions at a cost of at most tolerance x target each; ``account [L, 2]``."""
    conversions, spend = account[:, 0], account[:, 1]
    return (conversions >= required) & (spend <= params.cpa_tolerance * target * conversions)
