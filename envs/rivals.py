"""Control laws: how a bidder moves its bid multiplier from tick to tick, given its accounts.

Plain functions over arrays of any shape. The rivals inside a market run them for all advertisers at once; the rules in
`adarena.agents.rules` run the same functions for one seat, fed from the entries of its observation.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Number = jax.Array | float
"""A gain: a number, or an array that broadcasts with the signals."""

KINDS = ("constant", "pacer", "pid_target", "min_pacing")
"""Kinds of rivals, in the order of ``rival_mix``."""


class Signals(NamedTuple):
    """What a control law sees; float32 arrays of one shape.

    Attributes:
        started: 0 before the first tick has been cleared, else 1.
        budget_left: Share of the budget left, in [0, 1].
        traffic_left: Share of the day's impressions still to come, as forecast.
        spend_last: Spend of the last tick over the budget.
        traffic_last: Share of the day's impressions that the last tick was forecast to have.
        cost_over_target: Cost per unit of value so far over its target; 1 while nothing is known.
    """

    started: jax.Array
    budget_left: jax.Array
    traffic_left: jax.Array
    spend_last: jax.Array
    traffic_last: jax.Array
    cost_over_target: jax.Array


class Control(NamedTuple):
    """Memory of a control law; arrays of the shape of the signals.

    Attributes:
        level: Log multiplier (of the budget, for min-pacing).
        target_level: Log multiplier that the target allows (min-pacing).
        integral: Sum of errors.
        error: Last error.
    """

    level: jax.Array
    target_level: jax.Array
    integral: jax.Array
    error: jax.Array


LIMIT = 3.0
"""Log multipliers stay within +- this, so that a law that has lost control can come back."""


def begin(start: jax.Array) -> Control:
    """Memory at the start of a day with log multiplier ``start``."""
    zero = jnp.zeros_like(start)
    return Control(start, start, zero, zero)


def planned(signals: Signals) -> jax.Array:
    """Projected spend over what is left: 1 if the last tick's rate, carried on, just uses up the budget."""
    rate = signals.spend_last / jnp.maximum(signals.traffic_last, 1e-6)
    return rate * signals.traffic_left / jnp.maximum(signals.budget_left, 1e-6)


def pacer(
    control: Control, signals: Signals, low: Number, high: Number, up: Number, down: Number
) -> tuple[Control, jax.Array]:
    """Budget pacer of AuctionNet's rule set: projected use below ``low`` -> multiply by ``up``, above ``high`` -> ``down``.

    Defaults there: 0.7, 1.1, 1.2, 0.7.
    """
    use = planned(signals)
    move = jnp.where(use < low, jnp.log(up), jnp.where(use > high, jnp.log(down), 0.0))
    level = jnp.clip(control.level + signals.started * move, -LIMIT, LIMIT)
    return control._replace(level=level), level


def pid(
    control: Control,
    signals: Signals,
    error: jax.Array,
    proportional: Number,
    integral: Number,
    derivative: Number,
) -> tuple[Control, jax.Array]:
    """PID controller of the log multiplier around its start; ``error`` is positive where the bid should rise."""
    total = jnp.clip(control.integral + signals.started * error, -20.0, 20.0)
    change = jnp.where(signals.started > 0.0, error - control.error, 0.0)
    correction = proportional * error + integral * total + derivative * change
    level = jnp.clip(control.level + signals.started * correction, -LIMIT, LIMIT)
    return control._replace(integral=total, error=error), level


def target_error(signals: Signals) -> jax.Array:
    """Log of target over cost per value so far: positive where the bid may rise."""
    return -jnp.log(jnp.clip(signals.cost_over_target, 0.1, 10.0))


def pacing_error(signals: Signals) -> jax.Array:
    """Log of what is left over projected spend: positive where the bid should rise."""
    return -jnp.log(jnp.clip(planned(signals), 0.1, 10.0))


def min_pacing(
    control: Control, signals: Signals, budget_gain: Number, target_gain: Number
) -> tuple[Control, jax.Array]:
    """Min-pacing: one multiplier for the budget, one for the target, the smaller one bids (arXiv:2302.08530).

    Each is moved by a dual step on the log scale: down where its constraint is overrun, up where there is room.
    """
    budget_step = budget_gain * jnp.clip(pacing_error(signals), -1.0, 1.0)
    target_step = target_gain * jnp.clip(target_error(signals), -1.0, 1.0)
    level = jnp.clip(control.level + signals.started * budget_step, -LIMIT, LIMIT)
    target_level = jnp.clip(control.target_level + signals.started * target_step, -LIMIT, LIMIT)
    multiplier = jnp.minimum(level, target_level)
    # The slack one follows at a distance, so that it can take over within a few ticks.
    room = 0.5
    return (
        control._replace(
            level=jnp.minimum(level, multiplier + room), target_level=jnp.minimum(target_level, multiplier + room)
        ),
        multiplier,
    )


def rival_step(control: Control, signals: Signals, kind: jax.Array) -> tuple[Control, jax.Array]:
    """Moves every rival by the law of its kind, with the gains in the sources above.

    Args:
        control: Memory, arrays ``[N]``.
        signals: Arrays ``[N]``.
        kind: ``[N]`` int32 index into `KINDS`.

    Returns:
        Memory and log multipliers ``[N]``.
    """
    options = [
        (control, control.level),
        pacer(control, signals, 0.7, 1.1, 1.2, 0.7),
        pid(control, signals, target_error(signals), 0.5, 0.05, 0.2),
        min_pacing(control, signals, 0.3, 0.2),
    ]
    choose = [kind == index for index in range(len(KINDS))]
    return jax.tree.map(lambda *leaves: jnp.select(choose, leaves), *options)
