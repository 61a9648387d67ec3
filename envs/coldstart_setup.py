"""Numbers behind `adarena.envs.coldstart`: its parameters, their defaults, and what is drawn at reset."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adarena.envs import pytree
from adarena.envs.coldstart_state import REPORTED_NEVER, Side, World
from adarena.envs.market.arrivals import arrival_times
from adarena.envs.market.clearing import Terms
from adarena.envs.market.posterior import Belief, Owners, RateModel, TrueRates, believe, draw_rates
from adarena.envs.market.response import delay_distribution
from adarena.envs.market.traffic import Bank, draw_volume

if TYPE_CHECKING:
    from adarena.envs.coldstart import ColdStart

STREAMS = ("traffic", "values", "response", "rivals", "exploration")
"""Named random streams; stream ``n`` of an episode is ``fold_in(reset key, n)``."""

CONVERSIONS, CLICKS = 64, 256
"""Conversions, and clicks that do not convert, of a new ad that are single events; later ones go on as expectations."""

# AuctionNet's targets, once in each category of eight (alimama-tech/AuctionNet @ c20de63); its mean pCTR x pCVR is 5e-4.
_TARGETS = tuple(60.0 + 10.0 * step for step in (4, 1, 3, 5, 0, 7, 6, 2))

_NUMBERS = {
    "required_conversions": 10.0,
    "window_days": 3.0,
    "cpa_tolerance": 1.2,
    "exploration_budget": 0.015,
    "max_bonus": 1.0,
    "max_share": 0.15,
    "max_multiplier": 2.0,
    "ctr_level": 0.01,
    "cvr_level": 0.05,
    "category_sd": 0.15,
    "advertiser_sd": 0.15,
    "ctr_own_sd": 0.35,
    "cvr_own_sd": 0.35,
    "content_quality": 0.3,
    "evidence": 1.0,
    "history_trials": 60_000.0,
    "mature_lift": 0.7,
    "mature_bid_mean": 0.0,
    "mature_bid_noise": 0.2,
    "mature_conversions": 24.0,
    "budget_noise": 0.5,
    "new_budget": 2.5,
    "target_noise": 0.1,
    "launch_days": 7.0,
    "traffic_noise": 0.15,
    "user_share": 1.0,
    "ad_share": 1.0,
}
_IMPRESSIONS_PER_AD = 700.0
_RESERVE = 1e-4


@pytree.dataclass
class Params:
    """Numbers of a market; float32 scalars unless said. Currency units are AuctionNet's (CPA targets near 100).

    Attributes:
        bank: Impressions; their values are matches of user and ad, mean 1, so that an ad's rates are factors on them.
        terms: The platform's reserve, exposure and cascade.
        owners: Who owns which ad, launched ads last.
        base_target: ``[A]`` usual target CPA, currency units.
        delay_distribution: ``[T]`` probability that a conversion is reported after 0, 1, ... ticks.
        treated: ``[L]`` bool: which launched ads support may reach.
        required_conversions: ``N`` of the success criterion, at most 64.
        window_days: ``D``: days after launch in which they must happen.
        cpa_tolerance: Largest cost per conversion over target of a success.
        exploration_budget: Exploration fund over the revenue forecast for the episode.
        max_bonus: Bonus at action 1 over the running mean price of an exposure.
        max_share: Most of all traffic that may be protected.
        max_multiplier: Bid multiplier at action 1; its inverse at -1.
        ctr_level: Mean clicks per exposure of match 1.
        cvr_level: Mean conversions per click.
        category_sd: Standard deviation of the log of a category's factor on either rate.
        advertiser_sd: The same of an advertiser's.
        ctr_own_sd: The same of an ad's own factor on clicks per exposure.
        cvr_own_sd: The same on conversions per click.
        content_quality: Share of the own log factors' variance that content features explain.
        evidence: Share of new ads' own clicks and conversions that predictions take in. At 0 the platform never learns from
            them, which measures what learning is worth.
        history_trials: Median exposures of a mature ad before the episode.
        mature_lift: By how many standard deviations the own factors of mature ads are above those of launches: ads
            that are still there have been selected.
        mature_bid_mean: Mean log of the mature ads' bid multipliers (how hard they compete),
        mature_bid_noise: and its standard deviation.
        mature_conversions: Median daily budget of a mature ad over its target.
        budget_noise: Standard deviation of its log.
        new_budget: Budget of a new ad over its window, in targets times required conversions.
        target_noise: Standard deviation of the log of an ad's target over its usual one.
        launch_days: Ads are launched evenly over these first days.
        daily_impressions: Real impressions of a day, on average.
        traffic_noise: Standard deviation of the log of a traffic factor common to four ticks.
        revenue_rate: Forecast revenue, currency units per real impression; sets the exploration fund and the first price.
        user_share: Share of users on whose impressions support is given (for split tests).
        ad_share: Share of ``treated`` ads to which support is given, drawn at reset (for split tests).
    """

    bank: Bank
    terms: Terms
    owners: Owners
    base_target: jax.Array
    delay_distribution: jax.Array
    treated: jax.Array
    required_conversions: jax.Array
    window_days: jax.Array
    cpa_tolerance: jax.Array
    exploration_budget: jax.Array
    max_bonus: jax.Array
    max_share: jax.Array
    max_multiplier: jax.Array
    ctr_level: jax.Array
    cvr_level: jax.Array
    category_sd: jax.Array
    advertiser_sd: jax.Array
    ctr_own_sd: jax.Array
    cvr_own_sd: jax.Array
    content_quality: jax.Array
    evidence: jax.Array
    history_trials: jax.Array
    mature_lift: jax.Array
    mature_bid_mean: jax.Array
    mature_bid_noise: jax.Array
    mature_conversions: jax.Array
    budget_noise: jax.Array
    new_budget: jax.Array
    target_noise: jax.Array
    launch_days: jax.Array
    daily_impressions: jax.Array
    traffic_noise: jax.Array
    revenue_rate: jax.Array
    user_share: jax.Array
    ad_share: jax.Array

    @property
    def ctr_model(self) -> RateModel:
        """How clicks per exposure vary over ads."""
        return RateModel(self.ctr_level, self.category_sd, self.advertiser_sd, self.ctr_own_sd, self.content_quality)

    @property
    def cvr_model(self) -> RateModel:
        """How conversions per click vary over ads."""
        return RateModel(self.cvr_level, self.category_sd, self.advertiser_sd, self.cvr_own_sd, self.content_quality)


def default_params(env: ColdStart) -> Params:
    """The default numbers for the sizes of ``env``, with its bank."""
    f32 = jnp.float32
    ads = env.mature + env.launched
    exposure = np.maximum(1.0 - 0.2 * np.arange(env.slots), 0.2)
    zero, one = f32(0.0), f32(1.0)
    advertiser, category = np.arange(ads) % env.advertisers, np.arange(env.advertisers) % env.categories
    daily = _IMPRESSIONS_PER_AD * ads
    numbers = {**_NUMBERS, "daily_impressions": daily, "revenue_rate": 0.0}
    params = Params(
        bank=_bank(env),
        terms=Terms(f32(_RESERVE), one, jnp.asarray(exposure, f32), jnp.bool_(True), zero, zero, zero, one),
        owners=Owners(jnp.asarray(advertiser, jnp.int32), jnp.asarray(category, jnp.int32)),
        base_target=jnp.asarray(np.resize(np.asarray(_TARGETS), ads), f32),
        delay_distribution=jnp.asarray(delay_distribution(env.ticks, 24.0 / env.ticks_per_day)),
        treated=jnp.ones(env.launched, bool),
        **{name: f32(value) for name, value in numbers.items()},
    )
    return dataclasses.replace(params, revenue_rate=f32(_forecast(env, params)))


def _bank(env: ColdStart) -> Bank:
    """Matches of user and ad: log-normal of mean 1, with parts common to all ads and to a category."""
    rng = np.random.default_rng(env.bank_seed)
    ads, square = env.mature + env.launched, (env.blocks, env.impressions)
    category = (np.arange(ads) % env.advertisers) % env.categories
    own = np.sqrt(max(0.0, 1.0 - env.correlation - env.category_correlation))
    z = own * rng.standard_normal((env.blocks, ads, env.impressions), np.float32)
    z += np.sqrt(env.correlation) * rng.standard_normal(square, np.float32)[:, None]
    by_category = rng.standard_normal((env.blocks, env.categories, env.impressions), np.float32)
    z += np.sqrt(env.category_correlation) * by_category[:, category]
    match = jnp.asarray(np.exp(env.spread * z - 0.5 * env.spread**2), jnp.float32)
    hour = (np.arange(env.ticks_per_day) + 0.5) * 24.0 / env.ticks_per_day
    daily = 1.0 - 0.7 * np.cos((hour - 4.0) / 24.0 * 2.0 * np.pi)
    return Bank(
        pctr=match,
        pvalue=match,
        noise=None,
        level=jnp.ones(ads, jnp.float32),
        worth=jnp.ones(square, jnp.float32),
        outside=jnp.zeros(square, jnp.float32),
        weight=jnp.ones(square, jnp.float32),
        first=jnp.zeros(env.ticks, jnp.int32),
        last=jnp.full(env.ticks, env.blocks, jnp.int32),
        daily=jnp.asarray(np.tile(daily / daily.sum(), env.days), jnp.float32),
        ctr_factor=jnp.ones(env.ticks, jnp.float32),
    )


def _forecast(env: ColdStart, params: Params) -> float:
    """Revenue per real impression of the mature ads alone: what they would pay, or their budgets where those are less."""
    rng = np.random.default_rng(env.bank_seed + 1)
    n, p = env.mature, jax.device_get(params)
    match = np.concatenate(np.asarray(p.bank.pvalue[: min(env.blocks, 16), :n]), axis=1)
    worlds, impressions = 16, match.shape[1]
    sd = np.sqrt(p.ctr_own_sd**2 + p.cvr_own_sd**2 + 2.0 * p.category_sd**2 + 2.0 * p.advertiser_sd**2)
    lift = p.mature_lift * (p.ctr_own_sd + p.cvr_own_sd)
    rate = p.ctr_level * p.cvr_level * np.exp(sd * rng.standard_normal((worlds, n)) - 0.5 * sd**2 + lift)
    bid = np.exp(p.mature_bid_mean + p.mature_bid_noise * rng.standard_normal((worlds, n))) * p.base_target[:n] * rate
    budget = p.base_target[:n] * p.mature_conversions * np.exp(p.budget_noise * rng.standard_normal((worlds, n)))
    seen = np.cumprod(p.terms.exposure)
    total = 0.0
    for offered, limit in zip(bid, budget / p.daily_impressions, strict=True):
        score = offered[:, None] * match
        order = np.argsort(-score, axis=0)[: env.slots]
        ranked = np.vstack([-np.sort(-score, axis=0), np.zeros((env.slots + 1, impressions))])[: env.slots + 1]
        held = ranked[:-1] if env.mechanism == "first_price" else np.maximum(ranked[1:], p.terms.reserve)
        paid = np.where(ranked[:-1] >= p.terms.reserve, held * seen[:, None], 0.0)[: len(order)]
        by_ad = np.bincount(order.ravel(), paid.ravel(), n) / impressions
        total += float(np.minimum(by_ad, limit).sum())
    return max(total / worlds, 1e-9)


class Prediction(NamedTuple):
    """Beliefs about all ads' clicks per exposure and conversions per click."""

    ctr: Belief
    cvr: Belief


def predict(env: ColdStart, world: World, events: jax.Array, params: Params) -> Prediction:
    """Beliefs given ``[4, L]`` clicks, trials, reported conversions and clicks whose conversions are known, of new ads."""
    told = world.told.at[:, env.mature :].set(events)
    lift = lift_of(env, params)
    ctr = believe(params.ctr_model, world.owners, env.categories, world.ctr.signal, told[0], told[1], lift)
    cvr = believe(params.cvr_model, world.owners, env.categories, world.cvr.signal, told[2], told[3], lift)
    return Prediction(ctr, cvr)


def lift_of(env: ColdStart, params: Params) -> jax.Array:
    """By how much the own factors of ads are above those of launches, standard deviations, ``[A]``."""
    return jnp.where(jnp.arange(env.mature + env.launched) < env.mature, params.mature_lift, 0.0)


def draw_world(env: ColdStart, key: jax.Array, params: Params) -> World:
    """Draws truth, history, targets, budgets, launches, luck and traffic of an episode."""
    streams = {name: jax.random.fold_in(key, n) for n, name in enumerate(STREAMS)}
    truth, told = _draw_truth(env, streams["values"], params)
    target, budget, bid = _draw_bidders(env, streams["rivals"], params)
    keys = jax.random.split(streams["response"], 5)
    new = env.launched
    launch = jax.random.uniform(keys[0], (new,)) * params.launch_days * env.ticks_per_day
    lag = jnp.zeros((new, CONVERSIONS), jnp.int32)
    if env.delay:
        reported = jnp.cumsum(params.delay_distribution)
        u = jax.random.uniform(keys[1], (new, CONVERSIONS))
        lag = jnp.searchsorted(reported, u.ravel(), side="right").astype(jnp.int32).reshape(u.shape)
    split = jax.random.uniform(jax.random.fold_in(streams["exploration"], env.ticks), (new,))
    days = params.daily_impressions * env.days
    world = World(
        traffic=streams["traffic"],
        exploration=streams["exploration"],
        volume=draw_volume(
            jax.random.fold_in(streams["traffic"], env.ticks),
            params.bank,
            params.daily_impressions,
            params.traffic_noise,
        ),
        owners=params.owners,
        ctr=truth[0],
        cvr=truth[1],
        told=told,
        target=target,
        budget=budget,
        scale=jnp.zeros_like(target),
        launch=jnp.floor(launch).astype(jnp.int32),
        treated=params.treated & (split < params.ad_share),
        conversions=arrival_times(keys[2], new, CONVERSIONS),
        clicks=arrival_times(keys[3], new, CLICKS),
        lag=lag,
        fund=params.exploration_budget * params.revenue_rate * days,
    )
    belief = predict(env, world, jnp.zeros((4, new), jnp.float32), params)
    scale = bid * target * belief.ctr.mean * belief.cvr.mean
    return dataclasses.replace(world, scale=scale.at[env.mature :].set(0.0))


def _draw_truth(env: ColdStart, key: jax.Array, params: Params) -> tuple[tuple[TrueRates, TrueRates], jax.Array]:
    """True rates of clicks and of conversions, and the mature ads' history ``[4, A]``."""
    keys = jax.random.split(key, 4)
    mature = (jnp.arange(env.mature + env.launched) < env.mature).astype(jnp.float32)
    lift = lift_of(env, params)
    ctr = draw_rates(keys[0], params.ctr_model, params.owners, env.categories, lift)
    cvr = draw_rates(keys[1], params.cvr_model, params.owners, env.categories, lift)
    ctr, cvr = (x._replace(rate=jnp.minimum(x.rate, 0.95)) for x in (ctr, cvr))
    trials = params.history_trials * mature * jnp.exp(0.5 * jax.random.normal(keys[2], mature.shape))

    def count(mean: jax.Array, z: jax.Array) -> jax.Array:
        # Histories are long, so a rounded normal stands for a Poisson count.
        return jnp.maximum(jnp.round(mean + jnp.sqrt(mean) * z), 0.0)

    z = jax.random.normal(keys[3], (2, *mature.shape))
    clicks = count(ctr.rate * trials, z[0])
    conversions = jnp.minimum(count(cvr.rate * clicks, z[1]), clicks)
    return (ctr, cvr), jnp.stack([clicks, trials, conversions, clicks])


def _draw_bidders(env: ColdStart, key: jax.Array, params: Params) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Targets, daily budgets and bid multipliers, ``[A]`` each; new ads bid at multiplier 1."""
    keys = jax.random.split(key, 3)
    ads = env.mature + env.launched
    mature = jnp.arange(ads) < env.mature
    target = params.base_target * jnp.exp(params.target_noise * jax.random.normal(keys[0], (ads,)))
    usual = params.mature_conversions * jnp.exp(params.budget_noise * jax.random.normal(keys[1], (ads,)))
    fresh = params.new_budget * params.required_conversions / params.window_days
    log_bid = params.mature_bid_mean + params.mature_bid_noise * jax.random.normal(keys[2], (ads,))
    return target, target * jnp.where(mature, usual, fresh), jnp.where(mature, jnp.exp(log_bid), 1.0)


def open_side(env: ColdStart, world: World, params: Params) -> Side:
    """A market in which nothing has happened yet."""
    from adarena.envs.coldstart_tick import beliefs_of

    new, ads = env.launched, env.mature + env.launched
    each, every = jnp.zeros(new, jnp.float32), jnp.zeros(ads, jnp.float32)
    shown = jnp.cumprod(params.terms.exposure).sum()
    return Side(
        spend=every,
        today=every,
        exhausted=jnp.zeros(ads, bool),
        trials=every,
        treated_trials=each,
        exposure=each,
        click=each,
        click_history=jnp.zeros((env.ticks, new), jnp.float32),
        report=jnp.full((new, CONVERSIONS), REPORTED_NEVER, jnp.int32),
        conversion=each,
        reported=each,
        mature_clicks=each,
        beliefs=beliefs_of(env, world, jnp.zeros((4, new), jnp.float32), params),
        outcome=jnp.zeros(new, jnp.int32),
        reached=jnp.full(new, jnp.inf, jnp.float32),
        at_close=jnp.zeros((new, 2), jnp.float32),
        expected_close=each,
        at_week=jnp.zeros((new, 2), jnp.float32),
        rate=each,
        last=jnp.zeros((3, new), jnp.float32),
        charge=each,
        fund_spent=jnp.float32(0.0),
        revenue=jnp.zeros(env.days, jnp.float32),
        price=params.revenue_rate / shown,
    )
