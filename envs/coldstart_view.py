"""What the placement agent of `adarena.envs.coldstart` sees: a context, and the same features of every launched ad.

All of it is known to the platform: predictions, reported events, money, prices; nothing is the truth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from adarena.envs.coldstart_state import State
from adarena.envs.coldstart_tick import in_window, window_ticks
from adarena.envs.core import Entry
from adarena.envs.sets import SetLayout

if TYPE_CHECKING:
    from adarena.envs.coldstart import ColdStart
    from adarena.envs.coldstart_setup import Params

_RATIO = 4.0  # clip of logs of ratios

CONTEXT: tuple[Entry, ...] = (
    Entry("hour_sin", "1", -1, 1, "sine of the coming tick's hour"),
    Entry("hour_cos", "1", -1, 1, "cosine of the coming tick's hour"),
    Entry("time_left", "share", 0, 1, "share of the episode's ticks that are still to come"),
    Entry("fund_left", "share", 0, 1, "share of the exploration budget left (0 where there is none)"),
    Entry("fund_pace", "log ratio", -_RATIO, _RATIO, "share of the budget left over share of windows' time left"),
    Entry("live", "share", 0, 1, "launched ads in their windows, over all places"),
    Entry("price", "log ratio", -_RATIO, _RATIO, "running mean price of an exposure over its forecast"),
    Entry("revenue", "ratio", 0, 5, "revenue of the last full day over its forecast (1 on the first day)"),
    Entry("traffic", "ratio", 0, 10, "forecast traffic of the coming tick over a mean tick's"),
    Entry("log_required", "log", 0, 6, "log of the conversions that a success takes"),
    Entry("window", "weeks", 0, 10, "days of a window over seven"),
)

FEATURES: tuple[Entry, ...] = (
    Entry("live", "flag", 0, 1, "1 while the ad is in its window; else all its features are 0"),
    Entry("age", "share", 0, 1, "age over window"),
    Entry("value", "log ratio", -_RATIO, _RATIO, "predicted conversions per exposure over the mean of all ads"),
    Entry("news", "log ratio", -_RATIO, _RATIO, "prediction over what it would be without the ad's own events"),
    Entry("ctr_spread", "ratio", 0, 2, "posterior sd of clicks per exposure over its mean"),
    Entry("cvr_spread", "ratio", 0, 2, "posterior sd of conversions per click over its mean"),
    Entry("exposures", "log", 0, 20, "log of 1 + exposures so far"),
    Entry("clicks", "log", 0, 20, "log of 1 + clicks so far"),
    Entry("reported", "ratio", 0, 10, "conversions reported so far over those required"),
    Entry("conversions", "ratio", 0, 10, "reported and, by prediction, not yet reported ones, over those required"),
    Entry("projected", "ratio", 0, 10, "the same at the end of the window if it goes on like the last day"),
    Entry("cost_over_target", "ratio", 0, 5, "spend over target x conversions, reported or predicted; 0 without"),
    Entry("budget_used", "share", 0, 1, "spend of the day over the daily budget"),
    Entry("target", "log ratio", -_RATIO, _RATIO, "target over the mean of all ads' usual targets"),
    Entry("score", "log ratio", -_RATIO, _RATIO, "score at match 1 over the running mean price of an exposure"),
    Entry("win_share", "share", 0, 1, "exposures of the last tick over its impressions"),
    Entry("charge_last", "ratio", 0, 10, "the fund's charge for the ad in the last tick over an even plan for all"),
    Entry("charge", "share", 0, 1, "the fund's charges for the ad so far over the exploration budget"),
)

TRUTH: tuple[Entry, ...] = (
    Entry("true_value", "log ratio", -_RATIO, _RATIO, "true conversions per exposure over the mean of all ads"),
    Entry("true_pending", "ratio", 0, 10, "expected conversions not yet reported, by true rates, over those required"),
)
"""More features of an ad, which nobody but an oracle knows; shown with ``truth`` alone."""


def features(truth: bool = False) -> tuple[Entry, ...]:
    """The features of an ad, in order."""
    return FEATURES + TRUTH if truth else FEATURES


def layout(launched: int, truth: bool = False) -> SetLayout:
    """Where things lie in observation and action."""
    return SetLayout(context=len(CONTEXT), items=launched, features=len(features(truth)), actions=3)


def entries(launched: int, truth: bool = False) -> tuple[Entry, ...]:
    """The entries of the observation, in order: the context, then ``ad00.live``, ``ad00.age``, ..."""
    digits, each = max(2, len(str(launched - 1))), features(truth)
    return CONTEXT + tuple(
        entry._replace(name=f"ad{i:0{digits}d}.{entry.name}") for i in range(launched) for entry in each
    )


def _log_ratio(a: jax.Array, b: jax.Array | float) -> jax.Array:
    return jnp.log(jnp.maximum(a, 1e-12) / jnp.maximum(b, 1e-12))


def _clipped(values: list[jax.Array], named: tuple[Entry, ...]) -> jax.Array:
    stacked = jnp.stack([jnp.asarray(x, jnp.float32) for x in values], axis=-1)
    low, high = (jnp.asarray([getattr(e, end) for e in named], jnp.float32) for end in ("low", "high"))
    return jnp.clip(stacked, low, high)


def observe(env: ColdStart, state: State, params: Params) -> jax.Array:
    """The observation vector, float32, in the order of `entries`."""
    items = _items(env, state, params)
    if env.truth:
        items = jnp.concatenate([items, _truth(env, state, params)], axis=-1)
    items = jnp.where(in_window(env, state.world, state.tick, params)[:, None], items, 0.0)
    return env.layout.join(_context(env, state, params), items)


def _truth(env: ColdStart, state: State, params: Params) -> jax.Array:
    ctr, cvr = env.true_rates(state)
    pending = jnp.maximum(state.side.click - state.side.mature_clicks, 0.0) * cvr
    shown = [_log_ratio(ctr * cvr, params.ctr_level * params.cvr_level), pending / params.required_conversions]
    return _clipped(shown, TRUTH)


def _context(env: ColdStart, state: State, params: Params) -> jax.Array:
    world, side, tick = state.world, state.side, state.tick
    now = jnp.minimum(tick, env.ticks - 1)
    hour = 2.0 * jnp.pi * (now % env.ticks_per_day + 0.5) / env.ticks_per_day
    left = jnp.where(world.fund > 0.0, 1.0 - side.fund_spent / jnp.maximum(world.fund, 1e-9), 0.0)
    last_close = params.launch_days * env.ticks_per_day + window_ticks(env, params)
    day = tick // env.ticks_per_day
    yesterday = side.revenue[jnp.maximum(jnp.minimum(day, env.days) - 1, 0)]
    forecast = params.revenue_rate * params.daily_impressions
    shown = jnp.cumprod(params.terms.exposure).sum()
    return _clipped(
        [
            jnp.sin(hour),
            jnp.cos(hour),
            1.0 - tick / env.ticks,
            left,
            _log_ratio(left, jnp.maximum(1.0 - tick / last_close, 1.0 / last_close)),
            in_window(env, world, tick, params).mean(),
            _log_ratio(side.price, params.revenue_rate / shown),
            jnp.where(day > 0, yesterday / jnp.maximum(forecast, 1e-9), 1.0),
            params.bank.daily[now] * env.ticks_per_day,
            jnp.log(params.required_conversions),
            params.window_days / 7.0,
        ],
        CONTEXT,
    )


def _items(env: ColdStart, state: State, params: Params) -> jax.Array:
    world, side, tick = state.world, state.side, state.tick
    belief, new = side.beliefs, slice(env.mature, None)
    value = belief.ctr * belief.cvr
    required, target = params.required_conversions, world.target[new]
    age = jnp.clip((tick - world.launch) / window_ticks(env, params), 0.0, 1.0)
    conversions = side.reported + jnp.maximum(side.click - side.mature_clicks, 0.0) * belief.cvr
    to_come = jnp.maximum(world.launch + window_ticks(env, params) - tick, 0)
    volume = world.volume[jnp.maximum(tick - 1, 0)]  # of a tick that is over
    plan = world.fund / env.ticks
    return _clipped(
        [
            jnp.ones_like(value),
            age,
            _log_ratio(value, params.ctr_level * params.cvr_level),
            _log_ratio(value, belief.prior),
            jax.lax.rsqrt(belief.ctr_shape),
            jax.lax.rsqrt(belief.cvr_shape),
            jnp.log1p(side.exposure),
            jnp.log1p(side.click),
            side.reported / required,
            conversions / required,
            (conversions + side.rate * to_come) / required,
            jnp.where(conversions > 0.0, side.spend[new] / jnp.maximum(target * conversions, 1e-9), 0.0),
            side.today[new] / world.budget[new],
            _log_ratio(target, params.base_target.mean()),
            _log_ratio(target * value, side.price),
            side.last[0] / jnp.maximum(volume, 1e-9),
            jnp.where(plan > 0.0, side.last[2] / jnp.maximum(plan, 1e-9), 0.0),
            jnp.where(plan > 0.0, side.charge / jnp.maximum(world.fund, 1e-9), 0.0),
        ],
        FEATURES,
    )
