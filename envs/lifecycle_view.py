"""What the placement agent of `adarena.envs.lifecycle` sees: named entries, their bounds, and how they are computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from adarena.envs import lifecycle_books as books
from adarena.envs import lifecycle_phases as phases_of
from adarena.envs import lifecycle_tick as tick_of
from adarena.envs.core import Entry
from adarena.envs.lifecycle_belief import Belief
from adarena.envs.lifecycle_phases import PHASES, Window
from adarena.envs.lifecycle_state import State

if TYPE_CHECKING:
    from adarena.envs.lifecycle import Lifecycle
    from adarena.envs.lifecycle_setup import Params

WINDOWS = {"day": 1, "three": 3, "week": 7}
"""Windows over which cost per conversion is shown, days; ``life`` besides."""

_RATIO = 4.0  # clip of logs of ratios

_CAMPAIGN = (
    *(Entry(f"phase_{name}", "flag", 0, 1, f"whether the campaign is in the phase {name}") for name in PHASES),
    *(Entry(f"passed_{name}", "flag", 0, 1, f"whether the phase {name} has been passed") for name in PHASES),
    Entry("time_left", "share of the life", 0, 1, "ticks to come over all ticks"),
    Entry("day", "days", 0, 366, "whole days since launch"),
    Entry("hour_sin", "1", -1, 1, "sine of the hour of the day"),
    Entry("hour_cos", "1", -1, 1, "cosine of the hour of the day"),
    Entry("day_left", "share of the day", 0, 1, "forecast share of the day's impressions still to come"),
    Entry("traffic_now", "share of the day", 0, 1, "forecast share of the day's impressions in the coming tick"),
    Entry("traffic_last", "share of the day", 0, 1, "forecast share of the day's impressions in the last tick"),
    Entry("phase_days", "days", 0, 366, "days since the phase was entered"),
    Entry("log_target", "log currency", -10, 20, "log of the target cost per conversion"),
    Entry("log_budget", "log conversions", -10, 20, "log of the day's budget over the target"),
    Entry("budget_left", "share", 0, 1, "share of the day's budget left"),
    Entry("pacing", "log ratio", -_RATIO, _RATIO, "share of budget left over share of the day's traffic left"),
    Entry("spend_last", "share", 0, 1, "spend of the last tick over the day's budget"),
    Entry("spend_rate", "ratio", 0, 10, "spend of the last day over a day's present budget"),
    Entry("reported", "log conversions", 0, 20, "log of 1 + conversions reported"),
    Entry("start_progress", "share", 0, 1, "conversions reported over those that end the cold start"),
    Entry("window_left", "share", 0, 1, "share of the cold start's window still to come"),
    Entry("steady_days", "share", 0, 1, "days of the stable phase's window that kept to their plan of spend"),
    Entry("growth", "log ratio", -_RATIO, _RATIO, "conversions of the last day over a stable day's; 0 before"),
)
_MARKET = (
    *(
        Entry(
            f"cost_over_target_{name}",
            "log ratio",
            -_RATIO,
            _RATIO,
            f"cost per estimated conversion, {what}; 0 if none",
        )
        for name, what in (("day", "last day"), ("three", "last three days"), ("week", "last week"), ("life", "life"))
    ),
    *(
        Entry(f"estimated_{name}", "log conversions", 0, 20, f"log of 1 + estimated conversions, {what}")
        for name, what in (("day", "last day"), ("three", "last three days"), ("week", "last week"))
    ),
    Entry("ctr", "log ratio", -_RATIO, _RATIO, "posterior click rate of an average creative over the one expected"),
    Entry("cvr", "log ratio", -_RATIO, _RATIO, "posterior conversion rate over the one expected"),
    Entry("cvr_spread", "ratio", 0, 2, "standard deviation of the posterior conversion rate over its mean"),
    Entry("frequency", "log exposures", 0, 10, "log of 1 + exposures that users of the last audience remember, mean"),
    Entry("frequency_core", "log exposures", 0, 10, "log of 1 + exposures that users of the innermost ring remember"),
    Entry(
        "reach", "share", 0, 1, "share of the pool's users that remember an exposure, by Poisson counts in each ring"
    ),
    Entry(
        "price_first", "log ratio", -_RATIO, _RATIO, "price of the first slot over target x predicted value, last tick"
    ),
    Entry(
        "price_last", "log ratio", -_RATIO, _RATIO, "price of the last slot over target x predicted value, last tick"
    ),
    Entry("win_rate", "share", 0, 1, "exposures over impressions of the audience, last tick"),
    Entry("multiplier", "log", -_RATIO, _RATIO, "log multiplier of the last tick"),
    Entry("exploration", "share", 0, 1, "exploration share of the last tick"),
    Entry("width", "share", 0, 1, "audience width of the last tick"),
)
_CREATIVE = (
    Entry("mean", "log ratio", -_RATIO, _RATIO, "posterior click rate over the one expected of a campaign"),
    Entry("spread", "ratio", 0, 2, "standard deviation of that over its mean"),
    Entry("content", "log ratio", -_RATIO, _RATIO, "quality expected by content features over the mean"),
    Entry("share", "share", 0, 1, "share of the exposures of the last tick (of the mix, without any)"),
    Entry("age", "days", 0, 366, "days in service"),
    Entry("exposure", "log ratio", 0, 10, "log of 1 + exposures over those that end the understanding"),
)


def entries(creatives: int) -> tuple[Entry, ...]:
    """The entries of the observation for ``creatives`` creatives, in order; a creative's are ``creative_0_mean`` ..."""
    by_creative = tuple(
        Entry(f"creative_{k}_{e.name}", e.unit, e.low, e.high, f"creative {k}: {e.meaning}")
        for k in range(creatives)
        for e in _CREATIVE
    )
    return _CAMPAIGN + _MARKET + by_creative


def _log_ratio(a: jax.Array, b: jax.Array | float) -> jax.Array:
    """Clipped log of ``a / b``; 0 where either is not positive."""
    usable = (a > 0.0) & (b > 0.0)
    return jnp.clip(jnp.log(jnp.where(usable, a, 1.0) / jnp.where(usable, b, 1.0)), -_RATIO, _RATIO)


def observe(env: Lifecycle, state: State, params: Params, known: jax.Array, belief: Belief) -> jax.Array:
    """The observation vector, float32, in the order of `entries`."""
    ago = {name: state.tick - days * env.ticks_per_day for name, days in WINDOWS.items()}
    windows = {name: books.window(state, known, first) for name, first in (ago | {"life": jnp.int32(0)}).items()}
    parts = [
        *_campaign(env, state, params, windows),
        *_costs(state, windows),
        *_market(env, state, params, belief),
    ]
    vector = jnp.concatenate(
        [jnp.stack([jnp.asarray(x, jnp.float32) for x in parts]), _creatives(state, params, belief)]
    )
    named = env.OBSERVATION
    low, high = (jnp.asarray([getattr(e, end) for e in named], jnp.float32) for end in ("low", "high"))
    return jnp.clip(vector, low, high)


def _campaign(env: Lifecycle, state: State, params: Params, windows: dict[str, Window]) -> list[jax.Array]:
    campaign, phases, tick, day = state.campaign, state.phases, state.tick, env.ticks_per_day
    hour, index = tick % day, jnp.arange(day)
    daily, whole_days = params.bank.daily, tick // day
    left = jnp.where(index >= hour, daily, 0.0).sum()
    budget_left = 1.0 - state.spent[0] / state.daily_budget
    angle = 2.0 * jnp.pi * (hour + 0.5) / day
    entered = phases.entered[phases.index]
    of_window = (jnp.arange(env.days) >= whole_days - jnp.round(params.stable_days)) & (
        (jnp.arange(env.days) + 1) * day <= tick
    )
    last_cost = jnp.where(jnp.arange(env.ticks) == tick - 1, state.history.cost, 0.0).sum()
    growing = phases.passed[phases_of.STABLE]
    return [
        *(phases.index == jnp.arange(4)),
        *phases.passed,
        1.0 - tick / env.ticks,
        whole_days,
        jnp.sin(angle),
        jnp.cos(angle),
        left,
        daily[hour],
        jnp.where(tick > 0, daily[(hour - 1) % day], 0.0),
        (tick - entered) / day,
        jnp.log(campaign.target),
        jnp.log(state.daily_budget / campaign.target),
        budget_left,
        _log_ratio(budget_left, left),
        last_cost / state.daily_budget,
        windows["day"].cost / state.daily_budget,
        jnp.log1p(windows["life"].reported),
        windows["life"].reported / params.required_conversions,
        1.0 - tick / (params.window_days * day),
        (of_window & state.steady).sum() / params.stable_days,
        jnp.where(growing, _log_ratio(windows["day"].estimated, state.stable_value), 0.0),
    ]


def _costs(state: State, windows: dict[str, Window]) -> list[jax.Array]:
    target = state.campaign.target
    costs = [_log_ratio(windows[name].cost, target * windows[name].estimated) for name in (*WINDOWS, "life")]
    return costs + [jnp.log1p(windows[name].estimated) for name in WINDOWS]


def _market(env: Lifecycle, state: State, params: Params, belief: Belief) -> list[jax.Array]:
    last = state.last
    tired = tick_of.frequency(env, state, params)
    # A ring counts by the share of it that lies inside the audience.
    inside = jnp.clip(last.width * env.rings - jnp.arange(env.rings), 0.0, 1.0)
    return [
        _log_ratio(belief.campaign, 1.0),
        _log_ratio(belief.cvr, params.mean_cvr),
        belief.cvr_sd / belief.cvr,
        jnp.log1p((tired * inside).sum() / jnp.maximum(inside.sum(), 1e-6)),
        jnp.log1p(tired[0]),
        (1.0 - jnp.exp(-tired)).mean(),
        last.price_first,
        last.price_last,
        last.win_rate,
        last.log_multiplier,
        last.exploration,
        last.width,
    ]


def _creatives(state: State, params: Params, belief: Belief) -> jax.Array:
    """The creatives' entries, ``[V x 6]``."""
    columns = [
        _log_ratio(belief.ctr, params.mean_ctr),
        belief.ctr_sd / belief.ctr,
        jnp.log(state.campaign.content),
        state.last.share,
        state.creatives.age,
        jnp.log1p(state.creatives.exposure / params.understanding_exposures),
    ]
    return jnp.stack(columns, axis=1).ravel()
