"""The phases of a campaign's life: when each begins and ends, by what the platform can measure. Plain functions.

``understanding`` ends when every active creative (one with at least half its equal share of the mix) has had its
least number of exposures: passed; or when its time is up: failed. ``cold_start`` ends when enough conversions have
been reported at a cost of at most the tolerance x target each: passed; or when the window since launch has closed:
failed. ``stable`` ends when the last few whole days, pooled, kept the target within the tolerance, and each of them
kept to its plan of spend: passed; it has no end otherwise. ``breakout`` lasts to the end, and is passed once some
days in a row brought a multiple of the stable days' conversions within the target. A campaign that fails a phase goes
on to the next.

Cost per conversion is measured against conversions reported, divided by the share of them that the delay lets be
known by now, since cost is known at once and conversions are not. Days are pooled because the count of a single day
is mostly luck.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adarena.envs import pytree

PHASES = ("understanding", "cold_start", "stable", "breakout")
"""Names of the phases, in order; the state holds the index."""

UNDERSTANDING, COLD_START, STABLE, BREAKOUT = range(4)


@pytree.dataclass
class Phases:
    """Where a campaign stands.

    Attributes:
        index: Int32 index into `PHASES`.
        entered: ``[4]`` int32 tick at which each phase was entered; -1 if it has not been.
        passed: ``[4]`` bool: whether it was passed.
        passed_at: ``[4]`` int32 tick at which it was passed; -1 if it has not been.
    """

    index: jax.Array
    entered: jax.Array
    passed: jax.Array
    passed_at: jax.Array


class Evidence(NamedTuple):
    """What decides whether a phase is passed or over; bool scalars.

    Attributes:
        understood: Every active creative has had its exposures.
        understanding_over: The time for that is up.
        started: Enough conversions within the tolerance.
        start_over: The window since launch has closed.
        steady: The last days kept target and plan.
        grown: The last days brought the growth that is asked for.
    """

    understood: jax.Array
    understanding_over: jax.Array
    started: jax.Array
    start_over: jax.Array
    steady: jax.Array
    grown: jax.Array


class Window(NamedTuple):
    """Some ticks of a campaign, as far as they are known; float32 scalars.

    Attributes:
        cost: Currency units.
        clicks: Clicks.
        reported: Conversions of those ticks that have been reported.
        estimated: ``reported`` over the share of conversions that are reported by now.
    """

    cost: jax.Array
    clicks: jax.Array
    reported: jax.Array
    estimated: jax.Array


LEAST_MATURE = 0.05
"""Least share of conversions reported by which reported ones are divided."""


def launch() -> Phases:
    """The phases at launch."""
    return Phases(
        index=jnp.int32(UNDERSTANDING),
        entered=jnp.asarray([0, -1, -1, -1], jnp.int32),
        passed=jnp.zeros(4, bool),
        passed_at=jnp.full(4, -1, jnp.int32),
    )


def advance(phases: Phases, evidence: Evidence, tick: jax.Array) -> Phases:
    """The phases after ``tick`` ticks have been cleared; at most one step at a time."""
    passed_now = jnp.stack([evidence.understood, evidence.started, evidence.steady, evidence.grown])
    never = jnp.bool_(False)
    over_now = jnp.stack([evidence.understanding_over, evidence.start_over, never, never])
    here = jnp.arange(4) == phases.index
    newly = here & passed_now & ~phases.passed
    leave = (here & (passed_now | over_now)).any() & (phases.index < BREAKOUT)
    index = phases.index + leave.astype(jnp.int32)
    entering = leave & (jnp.arange(4) == index)
    return Phases(
        index=index,
        entered=jnp.where(entering, tick, phases.entered).astype(jnp.int32),
        passed=phases.passed | newly,
        passed_at=jnp.where(newly, tick, phases.passed_at).astype(jnp.int32),
    )


def active_understood(mix: jax.Array, exposure: jax.Array, least: jax.Array) -> jax.Array:
    """Whether every active creative has had ``least`` exposures: those with half their equal share of ``mix``, ``[V]``."""
    active = mix * mix.shape[0] >= 0.5
    return (~active | (exposure >= least)).all()


def mature(clicks: jax.Array, known: jax.Array) -> jax.Array:
    """Share of the conversions of some clicks that are reported by now; at least `LEAST_MATURE`.

    Args:
        clicks: ``[T]`` clicks by tick.
        known: ``[T]`` probability that a conversion of each tick's clicks is reported by now.
    """
    total = clicks.sum()
    return jnp.where(total > 0.0, jnp.maximum((clicks * known).sum() / jnp.maximum(total, 1e-9), LEAST_MATURE), 1.0)


def within(window: Window, target: jax.Array, tolerance: jax.Array | float) -> jax.Array:
    """Whether cost per estimated conversion is at most ``tolerance`` x target, and there is a conversion at all."""
    return (window.estimated > 0.0) & (window.cost <= tolerance * target * window.estimated)


def keeps_plan(
    spend: jax.Array, daily: jax.Array, budget: jax.Array, low: jax.Array | float, high: jax.Array | float
) -> jax.Array:
    """Whether a day's spend over its plan by forecast traffic lay in [low, high] at noon and at midnight.

    Args:
        spend: ``[ticks_per_day]`` currency units.
        daily: ``[ticks_per_day]`` forecast share of the day's impressions.
        budget: Currency units of the day.
        low: Least spend over plan.
        high: Most spend over plan.
    """
    noon = spend.shape[0] // 2
    plan = budget * jnp.stack([daily[:noon].sum(), daily.sum()])
    ratio = jnp.stack([spend[:noon].sum(), spend.sum()]) / jnp.maximum(plan, 1e-9)
    return ((ratio >= low) & (ratio <= high)).all()


def budget_factor(
    phases: Phases, failed: jax.Array | float, stable: jax.Array | float, breakout: jax.Array | float
) -> jax.Array:
    """The day's budget over the one at launch: what the advertiser makes of how the campaign has fared.

    Args:
        phases: Where the campaign stands.
        failed: Factor after a failed cold start.
        stable: Factor after a cold start that was passed.
        breakout: Further factor after the stable phase was passed.
    """
    over = phases.index > COLD_START
    start = jnp.where(phases.passed[COLD_START], stable, jnp.where(over, failed, 1.0))
    return start * jnp.where(phases.passed[STABLE], breakout, 1.0)
