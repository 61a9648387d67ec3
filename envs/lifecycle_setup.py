"""Numbers behind `adarena.envs.lifecycle`: its parameters, their defaults, and what is drawn at reset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from adarena.envs import pytree
from adarena.envs.data.calibration import Calibration
from adarena.envs.lifecycle_state import Campaign, Luck
from adarena.envs.market.clearing import Terms
from adarena.envs.market.counts import draw_arrivals
from adarena.envs.market.response import delay_distribution
from adarena.envs.market.traffic import Bank, generated_bank
from adarena.envs.market.values import ValueModel

if TYPE_CHECKING:
    from adarena.envs.lifecycle import Lifecycle

STREAMS = ("traffic", "exploration", "response", "rivals", "campaign")
"""Named random streams; stream ``n`` of an episode is ``fold_in(reset key, n)``."""

# AuctionNet's config, as in `adarena.envs.autobid_setup`: CPA targets 60 ... 130, budget about 280,000 / CPA a day, 10,416
# impressions a tick and 48 advertisers, mean pCTR x pCVR 5e-4.
_CPA = tuple(60.0 + 10.0 * step for step in (4, 1, 3, 5, 0, 7, 6, 2))
_BUDGET_TIMES_CPA = 280_000.0
_IMPRESSIONS_PER_ADVERTISER = 10_416.0
_MEAN_CTR, _MEAN_CVR = 0.01, 0.05
_SPREAD, _CORRELATION, _CATEGORY_CORRELATION = 0.7, 0.3, 0.2

NUMBERS = {
    "target_low": 60.0,
    "target_high": 130.0,
    "launch_conversions": 6.0,
    "budget_noise": 0.2,
    "failed_budget": 0.5,
    "stable_budget": 2.0,
    "breakout_budget": 2.0,
    "max_multiplier": 4.0,
    "max_exploration": 0.5,
    "min_width": 0.05,
    "mix_sharpness": 4.0,
    "optimism": 1.0,
    "mean_ctr": _MEAN_CTR,
    "mean_cvr": _MEAN_CVR,
    "ctr_spread": 0.25,
    "cvr_spread": 0.3,
    "creative_spread": 0.4,
    "content_quality": 0.3,
    "lookalike": 1.5,
    "lookalike_spread": 0.4,
    "pool": 60_000.0,
    "frequency_half_life": 4.0,
    "fatigue_floor": 0.3,
    "fatigue_rate": 0.089,
    "creative_half_life": 20.0,
    "memory_half_life": 6.0,
    "understanding_exposures": 500.0,
    "understanding_days": 1.0,
    "required_conversions": 10.0,
    "window_days": 3.0,
    "cpa_tolerance": 1.2,
    "stable_days": 7.0,
    "stable_tolerance": 1.2,
    "pacing_low": 0.5,
    "pacing_high": 1.6,
    "breakout_days": 3.0,
    "breakout_growth": 1.3,
    "daily_impressions": 0.0,
    "traffic_noise": 0.15,
    "rival_start_mean": -0.6,
    "rival_start_noise": 0.3,
    "rival_pattern": 0.25,
    "rival_drift": 0.2,
    "rival_persistence": 0.9,
}
"""Default numbers that are no arrays; ``daily_impressions`` goes by the size of the market."""
_TERMS = {"reserve": 1e-4, "outside_price": 0.02}


@pytree.dataclass
class Params:
    """Numbers of a campaign and its market; float32 scalars unless said. Money in AuctionNet's currency units.

    Attributes:
        bank: Impressions, seen by the seat (row 0) and its rivals.
        match: ``[G, M]`` how well each impression's user matches the campaign, mean 1; the platform knows it.
        audience: ``[G, M]`` distance of each user from the campaign's core, uniform in [0, 1].
        terms: The platform's numbers: reserve, exposure, cascade, outside price.
        rival_budget: ``[N - 1]`` daily budgets of the rivals, currency units.
        rival_target: ``[N - 1]`` currency units per conversion that they bid at level 0.
        target_low: The campaign's target is log-uniform between this
        target_high: and this, currency units per conversion.
        launch_conversions: Daily budget at launch, in conversions at target.
        budget_noise: Standard deviation of its log.
        failed_budget: Factor on the daily budget after a failed cold start.
        stable_budget: Factor after a cold start that was passed.
        breakout_budget: Further factor after the stable phase was passed.
        max_multiplier: Multiplier at action 1; its inverse at -1.
        max_exploration: Exploration share at action 1; 0 at -1.
        min_width: Audience width at action -1; 1 at action 1.
        mix_sharpness: The creative mix is the softmax of the actions times this.
        optimism: Standard deviations that explored impressions' predictions lie above the mean.
        mean_ctr: Click rate that the platform expects of a campaign, match 1.
        mean_cvr: Conversions per click that it expects of core users.
        ctr_spread: Standard deviation of the log of the campaign's click rate around that.
        cvr_spread: Likewise of its conversion rate.
        creative_spread: Likewise of each creative's click rate around the campaign's.
        content_quality: Share of the variance of the creatives' log click rates that content features explain, in [0, 1].
        lookalike: Slope of log conversion rate with distance from the core: median over campaigns,
        lookalike_spread: and standard deviation of its log.
        pool: Users within distance 1.
        frequency_half_life: Days after which half of a user's exposures are forgotten.
        fatigue_floor: Share of the click rate that is left after very many exposures.
        fatigue_rate: Wear of one exposure.
        creative_half_life: Days in service that halve a creative's click rate.
        memory_half_life: Days after which what was seen counts half in the platform's predictions.
        understanding_exposures: Exposures of every active creative that end the understanding.
        understanding_days: Days after which it has failed.
        required_conversions: Reported conversions that end the cold start.
        window_days: Days since launch after which it has failed.
        cpa_tolerance: Most cost per conversion over target of a cold start that is passed.
        stable_days: Days of the stable phase's test, whole.
        stable_tolerance: Most cost per conversion over target in them.
        pacing_low: Least spend over plan at noon and midnight of each of those days,
        pacing_high: and most.
        breakout_days: Days of the breakout's test, whole.
        breakout_growth: Conversions a day over those of the stable phase that pass it.
        daily_impressions: Real impressions of a day, on average.
        traffic_noise: Standard deviation of the log of each day's traffic.
        rival_start_mean: Mean log bid level of the rivals,
        rival_start_noise: standard deviation over rivals,
        rival_pattern: amplitude of each one's own daily pattern,
        rival_drift: standard deviation of its drift,
        rival_persistence: and the drift's correlation from one day to the next.
        delay_distribution: ``[T]`` probability that a conversion is reported after 0, 1, ... ticks.
    """

    bank: Bank
    match: jax.Array
    audience: jax.Array
    terms: Terms
    rival_budget: jax.Array
    rival_target: jax.Array
    target_low: jax.Array
    target_high: jax.Array
    launch_conversions: jax.Array
    budget_noise: jax.Array
    failed_budget: jax.Array
    stable_budget: jax.Array
    breakout_budget: jax.Array
    max_multiplier: jax.Array
    max_exploration: jax.Array
    min_width: jax.Array
    mix_sharpness: jax.Array
    optimism: jax.Array
    mean_ctr: jax.Array
    mean_cvr: jax.Array
    ctr_spread: jax.Array
    cvr_spread: jax.Array
    creative_spread: jax.Array
    content_quality: jax.Array
    lookalike: jax.Array
    lookalike_spread: jax.Array
    pool: jax.Array
    frequency_half_life: jax.Array
    fatigue_floor: jax.Array
    fatigue_rate: jax.Array
    creative_half_life: jax.Array
    memory_half_life: jax.Array
    understanding_exposures: jax.Array
    understanding_days: jax.Array
    required_conversions: jax.Array
    window_days: jax.Array
    cpa_tolerance: jax.Array
    stable_days: jax.Array
    stable_tolerance: jax.Array
    pacing_low: jax.Array
    pacing_high: jax.Array
    breakout_days: jax.Array
    breakout_growth: jax.Array
    daily_impressions: jax.Array
    traffic_noise: jax.Array
    rival_start_mean: jax.Array
    rival_start_noise: jax.Array
    rival_pattern: jax.Array
    rival_drift: jax.Array
    rival_persistence: jax.Array
    delay_distribution: jax.Array


def default_params(env: Lifecycle) -> Params:
    """The default numbers for the sizes of ``env``, with its bank."""
    f32 = jnp.float32
    n = env.rivals + 1
    bank = _bank(env)
    match = bank.pvalue[:, 0] / bank.pvalue[:, 0].mean()
    audience = jax.random.uniform(jax.random.fold_in(jax.random.key(env.bank_seed), 1), match.shape)
    target = np.resize(np.asarray(_CPA), env.rivals)
    exposure = np.maximum(1.0 - 0.2 * np.arange(env.slots), 0.2)
    numbers = NUMBERS | {"daily_impressions": _IMPRESSIONS_PER_ADVERTISER * n}
    return Params(
        bank=bank,
        match=match,
        audience=audience,
        terms=Terms(
            exposure=jnp.asarray(exposure, f32),
            cascade=jnp.bool_(True),
            kappa=f32(1.0),
            error_bias=f32(0.0),
            error_noise=f32(0.0),
            error_slope=f32(1.0),
            void_at_reserve=jnp.bool_(False),
            **{name: f32(value) for name, value in _TERMS.items()},
        ),
        rival_budget=jnp.asarray(_BUDGET_TIMES_CPA / target, f32),
        rival_target=jnp.asarray(target, f32),
        delay_distribution=jnp.asarray(delay_distribution(env.ticks, 24.0 / env.ticks_per_day)),
        **{name: f32(value) for name, value in numbers.items()},
    )


def _bank(env: Lifecycle) -> Bank:
    """Impressions as in AutoBid's default market: calibrated daily curve, click rates by hour and visibility, prices."""
    n = env.rivals + 1
    level = np.exp(np.random.default_rng(env.bank_seed).normal(0.0, 0.3, n))
    level[0] = 1.0
    model = ValueModel(
        mean_ctr=jnp.asarray(_MEAN_CTR * np.sqrt(level), jnp.float32),
        mean_cvr=jnp.asarray(_MEAN_CVR * np.sqrt(level), jnp.float32),
        spread=_SPREAD,
        correlation=_CORRELATION,
        category_correlation=_CATEGORY_CORRELATION,
    )
    return generated_bank(
        jax.random.key(env.bank_seed),
        model,
        np.arange(n) * min(3, n) // n,
        ticks=env.ticks_per_day,
        blocks=env.blocks,
        impressions=env.impressions,
        prediction_error=False,
        calibration=Calibration.default(),
    )


def draw_campaign(env: Lifecycle, key: jax.Array, params: Params) -> Campaign:
    """Draws a campaign: target, budget, and the truth about its rates and creatives."""
    keys = jax.random.split(key, 6)
    low, high = jnp.log(params.target_low), jnp.log(params.target_high)
    target = jnp.exp(low + (high - low) * jax.random.uniform(keys[0]))
    luck = jax.random.normal(keys[1], (4,))
    own, seen = jax.random.normal(keys[2], (env.creatives,)), jax.random.normal(keys[3], (env.creatives,))
    spread, share = params.creative_spread, params.content_quality
    signal = jnp.sqrt(share) * own + jnp.sqrt(1.0 - share) * seen
    return Campaign(
        target=target,
        budget=params.launch_conversions * target * _log_normal(luck[0], params.budget_noise),
        ctr=params.mean_ctr * _log_normal(luck[1], params.ctr_spread),
        cvr=params.mean_cvr * _log_normal(luck[2], params.cvr_spread),
        quality=_log_normal(own, spread),
        # The mean of the quality given the signal: the regression of one normal on the other, in logs.
        content=_log_normal(signal, spread * jnp.sqrt(share)),
        lookalike=params.lookalike * jnp.exp(params.lookalike_spread * luck[3]),
    )


def _log_normal(normal: jax.Array, sd: jax.Array) -> jax.Array:
    """Log-normals with mean 1."""
    return jnp.exp(sd * normal - 0.5 * sd**2)


def draw_luck(env: Lifecycle, streams: dict[str, jax.Array], params: Params) -> Luck:
    """Draws traffic, rivals and users' luck for a campaign's whole life."""
    daily = jnp.tile(params.bank.daily, env.days)
    noise = jax.random.normal(jax.random.fold_in(streams["traffic"], env.ticks), (env.days,))
    volume = params.daily_impressions * daily * jnp.repeat(_log_normal(noise, params.traffic_noise), env.ticks_per_day)
    arrivals, reported = jax.random.split(jax.random.fold_in(streams["response"], env.ticks))
    known = jnp.cumsum(params.delay_distribution)
    u = jax.random.uniform(reported, (env.arrivals,))
    delay = jnp.searchsorted(known, u, side="right").astype(jnp.int32)
    return Luck(
        traffic=streams["traffic"],
        exploration=streams["exploration"],
        response=streams["response"],
        volume=volume,
        rival_level=_draw_levels(env, streams["rivals"], params),
        arrivals=draw_arrivals(arrivals, env.arrivals),
        delay=delay if env.delay else jnp.zeros_like(delay),
    )


def _draw_levels(env: Lifecycle, key: jax.Array, params: Params) -> jax.Array:
    """Log bid levels of the rivals, ``[N - 1, days]``: where each starts, and a drift from day to day."""
    start, drift = jax.random.split(key)
    shocks = jax.random.normal(drift, (env.days, env.rivals))
    rho = params.rival_persistence

    def advance(level: jax.Array, shock: jax.Array) -> tuple[jax.Array, jax.Array]:
        level = rho * level + jnp.sqrt(1.0 - rho**2) * shock
        return level, level

    _, later = jax.lax.scan(advance, shocks[0], shocks[1:])
    walk = jnp.concatenate([shocks[:1], later]).T
    opening = params.rival_start_mean + params.rival_start_noise * jax.random.normal(start, (env.rivals, 1))
    return opening + params.rival_drift * walk
