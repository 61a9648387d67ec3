"""Numbers behind `adarena.envs.autobid`: its parameters, their defaults and checks, and what is drawn at reset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adarena.envs import pytree
from adarena.envs.autobid_checks import TERMS, is_replay
from adarena.envs.data.calibration import Calibration, auctionnet_facts
from adarena.envs.market.clearing import Terms
from adarena.envs.market.normal_values import NormalBank, draw_counts, draw_moments, normal_bank
from adarena.envs.market.response import delay_distribution
from adarena.envs.market.traffic import Bank, draw_drift, draw_volume, generated_bank
from adarena.envs.market.values import ValueModel
from adarena.envs.observation import Seat
from adarena.envs.rivals import KINDS

if TYPE_CHECKING:
    from adarena.envs.autobid import AutoBid

STREAMS = ("traffic", "values", "response", "rivals")
"""Named random streams; stream ``n`` of an episode is ``fold_in(reset key, n)``."""

# AuctionNet's config: 48 advertisers, CPA targets 60 ... 130 once in each category of eight, budget about 280,000 / CPA;
# 10,416 impressions a tick and 48 advertisers; mean pCTR x pCVR 5e-4 (alimama-tech/AuctionNet @ c20de63).
_CPA = tuple(60.0 + 10.0 * step for step in (4, 1, 3, 5, 0, 7, 6, 2))
_BUDGET_TIMES_CPA = 280_000.0
_IMPRESSIONS_PER_ADVERTISER = 10_416.0
_MEAN_CTR, _MEAN_CVR = 0.01, 0.05

_NUMBERS = {
    "budget_scale_low": 0.5,
    "budget_scale_high": 1.5,
    "target_scale_low": 0.75,
    "target_scale_high": 1.33,
    "max_multiplier": 8.0,
    "rival_budget_noise": 0.2,
    "rival_target_noise": 0.1,
    "rival_start_mean": -0.2,
    "rival_start_noise": 0.3,
    "day_scale_low": 1.0,
    "day_scale_high": 1.0,
    "traffic_noise": 0.15,
    "drift_pattern": 0.5,
    "drift_noise": 0.15,
    "drift_persistence": 0.5,
    "winnable": 1.0,
}
_TERMS = {
    "reserve": 1e-4,
    "kappa": 1.0,
    "outside_price": 0.02,
    "error_bias": 0.0,
    "error_noise": 0.3,
    "error_slope": 1.0,
}


@pytree.dataclass
class Params:
    """Numbers of a market; float32 scalars unless said. Currency units are AuctionNet's (CPA targets near 100).

    Attributes:
        bank: Impressions, or (traffic ``"auctionnet"``) what they are drawn from.
        terms: The platform's numbers: reserve, kappa, exposure, cascade, outside price, prediction error.
        category: ``[N]`` int32.
        base_budget: ``[N]`` usual budget, currency units a day.
        base_target: ``[N]`` usual target, currency units per unit of value (CPA; 1 / ROAS).
        base_worth: ``[N]`` currency units that a conversion is worth (objective ``"roas"``).
        seat: Int32, the controlled advertiser; -1 draws one per episode.
        budget_scale_low: Seat's budget over its usual one is log-uniform between this
        budget_scale_high: and this.
        target_scale_low: Seat's target over its usual one is log-uniform between this
        target_scale_high: and this.
        max_multiplier: Multiplier at action 1; its inverse at -1.
        rival_budget_noise: Standard deviation of the log of a rival's budget over its usual one.
        rival_target_noise: Likewise for its target.
        rival_start_mean: Mean log multiplier at which rivals start the day.
        rival_start_noise: Its standard deviation.
        rival_mix: ``[4]`` shares of `adarena.envs.rivals.KINDS`.
        daily_impressions: Real impressions of a day, on average.
        day_scale_low: Size of a day (impressions and all budgets alike) over the usual one is log-uniform between this
        day_scale_high: and this; 1 and 1 by default. A learner that trains on days of many sizes relies on no amount.
        traffic_noise: Standard deviation of the log of a traffic factor common to four ticks.
        drift_pattern: Amplitude, in logs, of each category's own daily pattern of values.
        drift_noise: Standard deviation, in logs, of the random drift of each category's values, per eight ticks.
        drift_persistence: Correlation of that drift from one eight ticks to the next.
        winnable: Share of auctions that can be won at all; the rest lower the win rate seen and nothing else.
        delay_distribution: ``[T]`` probability that a conversion is reported after 0, 1, ... ticks.
    """

    bank: Bank | NormalBank
    terms: Terms
    category: jax.Array
    base_budget: jax.Array
    base_target: jax.Array
    base_worth: jax.Array
    seat: jax.Array
    budget_scale_low: jax.Array
    budget_scale_high: jax.Array
    target_scale_low: jax.Array
    target_scale_high: jax.Array
    max_multiplier: jax.Array
    rival_budget_noise: jax.Array
    rival_target_noise: jax.Array
    rival_start_mean: jax.Array
    rival_start_noise: jax.Array
    rival_mix: jax.Array
    daily_impressions: jax.Array
    day_scale_low: jax.Array
    day_scale_high: jax.Array
    traffic_noise: jax.Array
    drift_pattern: jax.Array
    drift_noise: jax.Array
    drift_persistence: jax.Array
    winnable: jax.Array
    delay_distribution: jax.Array


def default_params(env: AutoBid) -> Params:
    """The default numbers for the sizes of ``env``, with its bank."""
    if is_replay(env):
        from adarena.envs.replay import replay_params

        return replay_params(env)
    if env.traffic == "auctionnet":
        return _auctionnet_params(env)
    rng = np.random.default_rng(env.bank_seed)
    n = env.advertisers
    category = np.arange(n) * env.categories // n
    cpa = np.resize(np.asarray(_CPA), n)
    level = np.exp(rng.normal(0.0, 0.3, n))
    bank = _bank(env, category, level)
    worth = 2.0 * cpa if env.objective == "roas" else np.ones(n)
    return params_of(
        env,
        bank,
        category=category,
        base_budget=_BUDGET_TIMES_CPA / cpa,
        base_target=np.full(n, 0.5) if env.objective == "roas" else cpa,
        base_worth=worth,
        daily_impressions=_IMPRESSIONS_PER_ADVERTISER * n,
    )


def _auctionnet_params(env: AutoBid) -> Params:
    """AuctionNet's advertisers and traffic; markets of other sizes repeat its lists."""
    n = env.advertisers
    facts = auctionnet_facts()
    hour = (np.arange(env.ticks) + 0.5) * 48.0 / env.ticks
    bank = normal_bank(
        env.bank_seed,
        advertisers=n,
        categories=env.categories,
        daily=np.interp(hour, np.arange(48) + 0.5, facts["daily"]),
        blocks=0 if env.fresh_draws else env.blocks,
        impressions=env.impressions,
    )
    return params_of(
        env,
        bank,
        category=np.arange(n) * env.categories // n,
        base_budget=np.resize(np.asarray(facts["budget"]), n),
        base_target=np.resize(np.asarray(facts["cpa"]), n),
        base_worth=np.ones(n),
        daily_impressions=500_000.0 * n / 48 * env.ticks / 48,
        rival_budget_noise=0.0,
        rival_target_noise=0.0,
        target_scale_low=1.0,
        target_scale_high=1.0,
        outside_price=0.0,
        void_at_reserve=True,
    )


def draw_day(env: AutoBid, streams: dict[str, jax.Array], params: Params, scale: jax.Array) -> tuple[Any, jax.Array]:
    """How values move through the day, and the impressions of each tick ``[T]``.

    Returns:
        ``[C, T]`` factors on each category's pCTR, or the `Moments` of AuctionNet's generator; impressions.
    """
    volume = jax.random.fold_in(streams["traffic"], env.ticks)
    daily = params.daily_impressions * scale
    if isinstance(params.bank, NormalBank):
        moments = draw_moments(streams["values"], params.bank, params.category, env.categories)
        return moments, draw_counts(volume, params.bank, daily)
    drift = draw_drift(
        streams["values"],
        env.categories,
        env.ticks,
        params.drift_pattern,
        params.drift_noise,
        params.drift_persistence,
    )
    return drift, draw_volume(volume, params.bank, daily, params.traffic_noise)


def params_of(
    env: AutoBid,
    bank: Bank | NormalBank,
    *,
    category: np.ndarray,
    base_budget: np.ndarray,
    base_target: np.ndarray,
    base_worth: np.ndarray,
    daily_impressions: float,
    **changes: Any,
) -> Params:
    """Fills in every number that does not depend on where the traffic comes from."""
    numbers = {"seat": jax.device_put(np.int32(-1)), **_NUMBERS, "daily_impressions": daily_impressions, **changes}
    terms = {**_TERMS, **{name: numbers.pop(name) for name in TERMS if name in numbers}}
    exposure = np.maximum(1.0 - 0.2 * np.arange(env.slots), 0.2)
    f32 = _float32
    return Params(
        bank=bank,
        terms=Terms(
            exposure=f32(exposure),
            cascade=jax.device_put(np.bool_(True)),
            void_at_reserve=jax.device_put(np.bool_(terms.pop("void_at_reserve", False))),
            **{k: f32(v) for k, v in terms.items()},
        ),
        category=jax.device_put(np.asarray(category, np.int32)),
        base_budget=f32(base_budget),
        base_target=f32(base_target),
        base_worth=f32(base_worth),
        rival_mix=f32(np.full(len(KINDS), 1.0 / len(KINDS))),
        delay_distribution=f32(delay_distribution(env.ticks, 24.0 / env.ticks)),
        **{k: v if k == "seat" else f32(v) for k, v in numbers.items()},
    )


def _float32(x: Any) -> jax.Array:
    """Numbers on the device, as ``jnp.asarray`` puts them there but without compiling a program for each shape."""
    return jax.device_put(np.asarray(x, np.float32))


def _bank(env: AutoBid, category: np.ndarray, level: np.ndarray) -> Bank:
    source, _, path = env.traffic.partition(":")
    calibration = None
    if source != "synthetic":
        calibration = Calibration.load(path) if source == "calibration" else Calibration.default()
    model = ValueModel(
        mean_ctr=_float32(_MEAN_CTR * np.sqrt(level)),
        mean_cvr=_float32(_MEAN_CVR * np.sqrt(level)),
        spread=env.spread,
        correlation=env.correlation,
        category_correlation=env.category_correlation,
    )
    return generated_bank(
        jax.random.key(env.bank_seed),
        model,
        category,
        ticks=env.ticks,
        blocks=env.blocks,
        impressions=env.impressions,
        prediction_error=env.prediction_error,
        calibration=calibration,
    )


class Draws(NamedTuple):
    """What the ``rivals`` stream decides at reset; arrays ``[N]`` unless said (see `adarena.envs.autobid.State`)."""

    seat: Seat
    day_scale: jax.Array
    budget: jax.Array
    target: jax.Array
    kind: jax.Array
    start: jax.Array


def draw_advertisers(env: AutoBid, key: jax.Array, params: Params) -> Draws:
    """Draws the seat, the day's size, everybody's budget and target, the rivals' kinds and opening multipliers."""
    keys = jax.random.split(key, 7)
    n = env.advertisers
    drawn = jax.random.randint(keys[0], (), 0, n)
    seat = jnp.where(params.seat >= 0, params.seat, drawn).astype(jnp.int32)

    def own(key: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
        drawn = jnp.exp(jax.random.uniform(key, (), minval=jnp.log(low), maxval=jnp.log(high)))
        return jnp.where(high > low, drawn, low)

    day_scale = own(jax.random.fold_in(key, len(keys)), params.day_scale_low, params.day_scale_high)
    budget = day_scale * params.base_budget * jnp.exp(params.rival_budget_noise * jax.random.normal(keys[1], (n,)))
    target = params.base_target * jnp.exp(params.rival_target_noise * jax.random.normal(keys[2], (n,)))
    scale = own(keys[3], params.budget_scale_low, params.budget_scale_high)
    aim = own(keys[4], params.target_scale_low, params.target_scale_high)
    budget = budget.at[seat].set(day_scale * params.base_budget[seat] * scale)
    target = target.at[seat].set(params.base_target[seat] * aim)
    edges = jnp.cumsum(params.rival_mix)[:-1]
    kind = (jax.random.uniform(keys[5], (n, 1)) > edges).sum(axis=1).astype(jnp.int32)
    start = params.rival_start_mean + params.rival_start_noise * jax.random.normal(keys[6], (n,))
    worth = params.base_worth[seat] if env.objective == "roas" else 1.0
    return Draws(
        seat=Seat(
            index=seat,
            category=params.category[seat],
            budget=budget[seat],
            target=jnp.float32(jnp.inf) if env.objective == "budget" else target[seat],
            level=params.bank.level[seat] * worth,
        ),
        day_scale=day_scale,
        budget=budget,
        target=target,
        kind=kind,
        start=start,
    )
