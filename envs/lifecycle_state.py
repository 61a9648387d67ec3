"""The state of an episode of `adarena.envs.lifecycle`. ``V`` creatives, ``T`` ticks, ``N`` advertisers (the seat is 0)."""

from __future__ import annotations

import jax

from adarena.envs import pytree
from adarena.envs.core import Key
from adarena.envs.lifecycle_phases import Phases


@pytree.dataclass
class Campaign:
    """What does not change in the life of a campaign. The policy sees none of it but what the observation shows.

    Attributes:
        target: Currency units per conversion.
        budget: Daily budget at launch, currency units.
        ctr: True click rate of an average creative with a user of match 1 who has not seen the campaign.
        cvr: True conversions per click of core users.
        quality: ``[V]`` true CTR of each new creative over the average one's.
        content: ``[V]`` what the platform expects of ``quality`` by the creatives' content features.
        lookalike: Slope of the conversion rate with distance from the core, see `adarena.envs.market.wear`.
    """

    target: jax.Array
    budget: jax.Array
    ctr: jax.Array
    cvr: jax.Array
    quality: jax.Array
    content: jax.Array
    lookalike: jax.Array


@pytree.dataclass
class Luck:
    """What reset draws, the same whatever is done.

    Attributes:
        traffic: Key of the stream that chooses impressions.
        exploration: Key of the stream that marks impressions for exploration.
        response: Key of the stream of users' clicks.
        volume: ``[T]`` real impressions of each tick.
        rival_level: ``[N - 1, days]`` log bid levels of the rivals, day by day.
        arrivals: ``[C]`` arrival times of conversions, in units of expected conversions.
        delay: ``[C]`` int32 ticks after which each conversion is reported; ``T`` or more: after the end.
    """

    traffic: Key
    exploration: Key
    response: Key
    volume: jax.Array
    rival_level: jax.Array
    arrivals: jax.Array
    delay: jax.Array


@pytree.dataclass
class Creatives:
    """What has become of each creative; ``[V]`` float32.

    Attributes:
        exposure: Exposures since launch.
        trials: Exposures x match of user, older ones discounted: what clicks are compared with.
        clicks: Clicks, older ones discounted alike.
        age: Days in service.
    """

    exposure: jax.Array
    trials: jax.Array
    clicks: jax.Array
    age: jax.Array


@pytree.dataclass
class History:
    """The campaign's days, tick by tick, zero for ticks to come; ``[T]`` float32.

    Attributes:
        cost: Currency units paid.
        clicks: Clicks.
        surplus: Conversions beyond the last arrival that was drawn (expected ones; as a rule none).
    """

    cost: jax.Array
    clicks: jax.Array
    surplus: jax.Array


@pytree.dataclass
class Last:
    """What the last tick was like; float32 scalars unless said.

    Attributes:
        log_multiplier: Log of the multiplier bid.
        exploration: Share of impressions set aside for exploration.
        width: Width of the audience.
        share: ``[V]`` share of the exposures that each creative had (the mix that was asked for, without exposures).
        win_rate: Exposures over impressions of the audience.
        price_first: Least price of the first slot over target x predicted value, means over the audience, log.
        price_last: Likewise of the last slot.
    """

    log_multiplier: jax.Array
    exploration: jax.Array
    width: jax.Array
    share: jax.Array
    win_rate: jax.Array
    price_first: jax.Array
    price_last: jax.Array


@pytree.dataclass
class State:
    """State of an episode.

    Attributes:
        tick: Int32, ticks cleared.
        campaign: The campaign's truth.
        luck: What reset drew.
        phases: Phase, entries, successes.
        creatives: Counts by creative.
        ring: ``[rings]`` exposures that users of each ring remember, core first.
        expected: Expected conversions so far.
        occurred: ``[C]`` int32 tick of each conversion; ``T`` where it has not happened.
        history: Cost, clicks and conversions by tick.
        steady: ``[days]`` bool: whether the day's spend kept to its plan.
        stable_value: Conversions a day of the stable phase, as known when it was passed.
        daily_budget: Budget of the present day, currency units.
        budgets: Sum of the budgets of the days begun, currency units.
        spent: ``[N]`` currency units paid today.
        exhausted: ``[N]`` bool: met a charge today that it could not pay.
        last: The last tick.
        served_quality: Sum over exposures of the true CTR factor (quality x age) of the creatives served.
        best_quality: Sum over exposures of the best creative's.
        score: Score so far, of the conversions reported.
    """

    tick: jax.Array
    campaign: Campaign
    luck: Luck
    phases: Phases
    creatives: Creatives
    ring: jax.Array
    expected: jax.Array
    occurred: jax.Array
    history: History
    steady: jax.Array
    stable_value: jax.Array
    daily_budget: jax.Array
    budgets: jax.Array
    spent: jax.Array
    exhausted: jax.Array
    last: Last
    served_quality: jax.Array
    best_quality: jax.Array
    score: jax.Array
