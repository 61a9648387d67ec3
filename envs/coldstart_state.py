"""The state of an episode of `adarena.envs.coldstart`."""

from __future__ import annotations

import jax

from adarena.envs import pytree
from adarena.envs.core import Key
from adarena.envs.market.posterior import Owners, TrueRates

PENDING, SUCCEEDED, FAILED = 0, 1, 2
"""What became of a launched ad: its window has not closed, it succeeded and stays, it failed and has left."""


@pytree.dataclass
class World:
    """What is fixed at reset. ``A = mature + launched`` ads, the launched ones last; ``L`` launched, ``T`` ticks.

    Attributes:
        traffic: Key of the stream that chooses impressions.
        exploration: Key of the stream that says which impressions are whose protected ones, and which users are treated.
        volume: ``[T]`` real impressions of each tick.
        owners: Who owns which ad.
        ctr: True clicks per exposure, and content signals; ``[A]``.
        cvr: True conversions per click, and content signals; ``[A]``.
        told: Events and trials of the mature ads' history, ``[4, A]``: clicks, exposures, conversions, clicks; 0 for new ads.
        target: ``[A]`` target CPA, currency units.
        budget: ``[A]`` currency units a day.
        scale: ``[A]`` bid of the mature ads on an exposure of match 1, currency units; 0 for new ads.
        launch: ``[L]`` int32 tick of launch.
        treated: ``[L]`` bool: whether support may reach the ad.
        conversions: ``[L, K]`` expected conversions at which each conversion happens.
        clicks: ``[L, J]`` the same for clicks that do not convert.
        lag: ``[L, K]`` int32 ticks from each conversion to its report.
        fund: Exploration budget, currency units; scalar.
    """

    traffic: Key
    exploration: Key
    volume: jax.Array
    owners: Owners
    ctr: TrueRates
    cvr: TrueRates
    told: jax.Array
    target: jax.Array
    budget: jax.Array
    scale: jax.Array
    launch: jax.Array
    treated: jax.Array
    conversions: jax.Array
    clicks: jax.Array
    lag: jax.Array
    fund: jax.Array


@pytree.dataclass
class Beliefs:
    """What the platform predicts of the new ads; ``[L]`` float32.

    Attributes:
        prior: Predicted conversions per exposure of match 1 without the ad's own events.
        ctr: Posterior mean of clicks per exposure.
        cvr: Posterior mean of conversions per click.
        ctr_shape: Shape of the posterior of ``ctr``; relative variance is its inverse.
        cvr_shape: Shape of the posterior of ``cvr``.
    """

    prior: jax.Array
    ctr: jax.Array
    cvr: jax.Array
    ctr_shape: jax.Array
    cvr_shape: jax.Array


@pytree.dataclass
class Side:
    """One market, with exploration or without (the twin). ``[L]`` float32 unless said; money in currency units.

    Attributes:
        spend: ``[A]`` paid since the start of the episode.
        today: ``[A]`` paid since the start of the day; never above the daily budget.
        exhausted: ``[A]`` bool: met a charge today that it could not pay.
        trials: ``[A]`` exposures, each times its match.
        treated_trials: Those on treated users.
        exposure: Exposures.
        click: Clicks.
        click_history: ``[T, L]`` clicks by tick.
        report: ``[L, K]`` int32 tick in which each conversion is reported; ``REPORTED_NEVER`` before it happens.
        conversion: Conversions, reported or not, by time of click.
        reported: Conversions reported by now.
        mature_clicks: Clicks times the share of their conversions that is reported by now.
        beliefs: Predictions for the coming tick.
        outcome: Int32, `PENDING`, `SUCCEEDED` or `FAILED`.
        reached: Days from launch to the last conversion required; infinite while there are fewer.
        at_close: ``[L, 2]`` conversions and spend when the window closed.
        expected_close: True expected conversions then.
        at_week: ``[L, 2]`` conversions and spend at an age of seven days.
        rate: Running mean of predicted conversions per tick.
        last: ``[3, L]`` the last tick's exposures, spend and charges.
        charge: Charged to the fund for the ad.
        fund_spent: Charged to the fund; scalar, never above it.
        revenue: ``[days]`` paid by all advertisers on each day.
        price: Running mean price of an exposure; scalar.
    """

    spend: jax.Array
    today: jax.Array
    exhausted: jax.Array
    trials: jax.Array
    treated_trials: jax.Array
    exposure: jax.Array
    click: jax.Array
    click_history: jax.Array
    report: jax.Array
    conversion: jax.Array
    reported: jax.Array
    mature_clicks: jax.Array
    beliefs: Beliefs
    outcome: jax.Array
    reached: jax.Array
    at_close: jax.Array
    expected_close: jax.Array
    at_week: jax.Array
    rate: jax.Array
    last: jax.Array
    charge: jax.Array
    fund_spent: jax.Array
    revenue: jax.Array
    price: jax.Array


@pytree.dataclass
class State:
    """State of an episode.

    Attributes:
        tick: Int32, ticks cleared.
        world: What is fixed at reset.
        side: The market with exploration.
        twin: The market without, on the same random numbers; None where the environment keeps none.
    """

    tick: jax.Array
    world: World
    side: Side
    twin: Side | None


REPORTED_NEVER = (1 << 31) - 1
