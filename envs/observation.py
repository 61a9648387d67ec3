"""What a bidding seat sees: named entries, their bounds, and how they are computed from its history.

The seat knows what AuctionNet's bidders know (its values, every impression's least winning price, its own results) and
what they are not told: target, budget on a log scale, category, and the forecast of traffic.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adarena.envs import pytree
from adarena.envs.core import Entry

LANDSCAPE = (0.125, 0.25, 0.5, 0.707, 1.0, 1.414, 2.0, 4.0)
"""Multipliers at which the last ticks' bid landscape is shown."""

WINDOWS = ("last", "three", "all")
_RATIO = 4.0  # clip of logs of ratios


class Seat(NamedTuple):
    """What does not change within an episode; scalars.

    Attributes:
        index: Int32 number of the advertiser.
        category: Int32.
        budget: Currency units.
        target: Currency units allowed per unit of value.
        level: Mean predicted pCTR x pCVR of the advertiser (historical), times the worth of a conversion.
    """

    index: jax.Array  # type: ignore[assignment]  # tuple.index is not needed here
    category: jax.Array
    budget: jax.Array
    target: jax.Array
    level: jax.Array


@pytree.dataclass
class History:
    """What the seat has seen, tick by tick, zero for ticks to come; ``[T]`` float32 unless said.

    Attributes:
        offered: Real impressions.
        exposure: Exposed ads of its own.
        cost: Currency units paid.
        value: Value won (reported or not, as the tick brought it).
        potential: Predicted value of all impressions offered, one slot-1 exposure each.
        least_price: Sum over impressions of the least winning price (per exposure), currency units.
        log_multiplier: Log of the multiplier bid.
        landscape_value: ``[T, J]`` value that each multiplier of `LANDSCAPE` would have won.
        landscape_cost: ``[T, J]`` currency units that it would have paid.
    """

    offered: jax.Array
    exposure: jax.Array
    cost: jax.Array
    value: jax.Array
    potential: jax.Array
    least_price: jax.Array
    log_multiplier: jax.Array
    landscape_value: jax.Array
    landscape_cost: jax.Array


def empty_history(ticks: int) -> History:
    """A history of ``ticks`` ticks in which nothing has happened yet."""
    zero = jnp.zeros(ticks, jnp.float32)
    grid = jnp.zeros((ticks, len(LANDSCAPE)), jnp.float32)
    return History(zero, zero, zero, zero, zero, zero, zero, grid, grid)


class Outlook(NamedTuple):
    """Time and traffic before a tick is cleared; scalars unless said.

    Attributes:
        tick: Int32, ticks cleared so far.
        daily: ``[T]`` forecast share of the day's impressions in each tick.
        daily_impressions: Real impressions expected in a day.
        volume_now: Real impressions of the coming tick.
        value_now: Mean predicted value per exposed impression of the coming tick.
        budget_left: Share of the budget left.
        cost_over_target: Cost per unit of reported value so far over the target; 1 while nothing is known.
        progress: Reported value so far over ``budget / target``.
    """

    tick: jax.Array
    daily: jax.Array
    daily_impressions: jax.Array
    volume_now: jax.Array
    value_now: jax.Array
    budget_left: jax.Array
    cost_over_target: jax.Array
    progress: jax.Array


_CONTEXT = (
    Entry("time_left", "share of the day", 0, 1, "ticks to come over ticks in the day"),
    Entry("hour_sin", "1", -1, 1, "sine of the hour of the day"),
    Entry("hour_cos", "1", -1, 1, "cosine of the hour of the day"),
    Entry("traffic_left", "share of the day", 0, 1, "forecast share of impressions still to come"),
    Entry("traffic_now", "share of the day", 0, 1, "forecast share of impressions in the coming tick"),
    Entry("traffic_last", "share of the day", 0, 1, "forecast share of impressions in the last tick"),
    Entry("traffic_coming", "log ratio", -_RATIO, _RATIO, "forecast of the next four ticks over the day's mean"),
    Entry("volume_now", "log ratio", -_RATIO, _RATIO, "impressions of the coming tick over their forecast"),
    Entry(
        "value_now",
        "log ratio",
        -_RATIO,
        _RATIO,
        "mean predicted value of the coming tick over the seat's long-run mean",
    ),
    Entry("log_budget", "log currency", -10, 20, "log of the day's budget"),
    Entry("log_target", "log currency per value", -10, 20, "log of the target cost per unit of value (0 if none)"),
    Entry("has_target", "flag", 0, 1, "whether a target binds at all"),
    Entry("richness", "log ratio", -10, 10, "budget over target x mean value x forecast impressions of the day"),
    Entry("budget_left", "share", 0, 1, "share of the budget left"),
    Entry("pacing", "log ratio", -_RATIO, _RATIO, "share of budget left over share of traffic left"),
    Entry("cost_over_target", "log ratio", -_RATIO, _RATIO, "cost per reported value so far over target; 0 if unknown"),
    Entry("progress", "share", 0, 10, "reported value so far over budget / target"),
    Entry("spend_last", "share", 0, 1, "spend of the last tick over the budget"),
)
_PLANS = tuple(
    Entry(
        f"plan_{w}",
        "log",
        -_RATIO,
        _RATIO,
        f"log of the largest multiplier that would keep budget and target to the "
        f"end of the day if it went on like the {m}; 0 before the first tick",
    )
    for w, m in (("three", "last three ticks"), ("all", "whole day so far"))
)
_WINDOWED = (
    Entry("spend_rate", "ratio", 0, 10, "spend over an even plan by forecast traffic"),
    Entry("win_rate", "share", 0, 1, "own exposed ads over impressions"),
    Entry("price", "log ratio", -_RATIO, _RATIO, "cost per value over target; 0 without wins"),
    Entry("market", "log ratio", -_RATIO, _RATIO, "mean least winning price over target x mean predicted value"),
    Entry("value", "log ratio", -_RATIO, _RATIO, "mean predicted value over the seat's long-run mean"),
    Entry("multiplier", "log", -_RATIO, _RATIO, "mean log multiplier bid"),
)


def entries(categories: int) -> tuple[Entry, ...]:
    """The entries of the observation for a market of ``categories`` categories, in order."""
    windowed = tuple(
        Entry(f"{e.name}_{w}", e.unit, e.low, e.high, f"{e.meaning}, {_WINDOW_MEANING[w]}")
        for w in WINDOWS
        for e in _WINDOWED
    )
    landscape = tuple(
        Entry(f"landscape_{what}_{g:g}", "share", 0, high, f"{meaning} at multiplier {g:g}, last three ticks")
        for what, high, meaning in (
            ("value", 1, "value that would have been won over all value offered,"),
            ("cost", 10, "cost over target x all value offered,"),
        )
        for g in LANDSCAPE
    )
    one_hot = tuple(
        Entry(f"category_{c}", "flag", 0, 1, f"whether the advertiser belongs to category {c}")
        for c in range(categories)
    )
    return _CONTEXT + windowed + landscape + _PLANS + one_hot


_WINDOW_MEANING = {"last": "last tick", "three": "last three ticks", "all": "all ticks so far"}


def _log_ratio(a: jax.Array, b: jax.Array | float, known: jax.Array | bool = True) -> jax.Array:
    """Clipped log of ``a / b``; 0 where either is not positive or the ratio is not known."""
    usable = (a > 0.0) & (b > 0.0) & known
    ratio = jnp.where(usable, a, 1.0) / jnp.where(usable, b, 1.0)
    return jnp.clip(jnp.log(ratio), -_RATIO, _RATIO)


def target_or_level(target: jax.Array) -> jax.Array:
    """The target, or 1 where none binds (infinite), so that ratios to it stay finite."""
    return jnp.where(jnp.isfinite(target), target, 1.0)


def observe(seat: Seat, outlook: Outlook, history: History, reference: jax.Array, categories: int) -> jax.Array:
    """The observation vector, float32, in the order of `entries`.

    Args:
        seat: The advertiser.
        outlook: Time, traffic and accounts.
        history: What it has seen.
        reference: Currency units per unit of value to which the multiplier is relative (the target where there is one).
        categories: Number of categories.
    """
    daily, tick = outlook.daily, outlook.tick
    ticks = daily.shape[0]
    index = jnp.arange(ticks)
    to_come = jnp.where(index >= tick, daily, 0.0).sum()
    last = jnp.where(index == tick - 1, daily, 0.0).sum()
    now = jnp.where(index == tick, daily, 0.0).sum()
    coming = jnp.where((index >= tick) & (index < tick + 4), daily, 0.0).sum()
    hour = 2.0 * jnp.pi * (tick + 0.5) / ticks
    context = [
        1.0 - tick / ticks,
        jnp.sin(hour),
        jnp.cos(hour),
        to_come,
        now,
        last,
        _log_ratio(coming, jnp.minimum(4.0, ticks - tick) / ticks),
        _log_ratio(outlook.volume_now, now * outlook.daily_impressions),
        _log_ratio(outlook.value_now, seat.level),
        jnp.log(seat.budget),
        jnp.where(jnp.isfinite(seat.target), jnp.log(target_or_level(seat.target)), 0.0),
        jnp.isfinite(seat.target),
        jnp.log(seat.budget / (reference * seat.level * outlook.daily_impressions)),
        outlook.budget_left,
        _log_ratio(outlook.budget_left, to_come, tick < ticks),
        _log_ratio(outlook.cost_over_target, 1.0),
        outlook.progress,
        jnp.where(index == tick - 1, history.cost, 0.0).sum() / seat.budget,
    ]
    windowed = [_window(seat, history, daily, reference, mask) for mask in _masks(index, tick)]
    three = (index >= tick - 3) & (index < tick)
    one_hot = (jnp.arange(categories) == seat.category).astype(jnp.float32)
    parts = [jnp.stack([jnp.asarray(x, jnp.float32) for x in context]), *windowed]
    landscapes = [_landscape(history, reference, three), _landscape(history, reference, index < tick)]
    # The rest of the day in units of the budget: what multiplier 1 would spend if it won everything.
    ahead = to_come * reference * seat.level * outlook.daily_impressions / seat.budget
    spent = 1.0 - outlook.budget_left
    plans = [
        planned_multiplier(value, cost, ahead, spent, outlook.progress, jnp.isfinite(seat.target))
        for value, cost in landscapes
    ]
    parts += [*landscapes[0], jnp.where(tick > 0, jnp.stack(plans), 0.0), one_hot]
    vector = jnp.concatenate(parts)
    low, high = _bounds(categories)
    return jnp.clip(vector, jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32))


def _bounds(categories: int) -> tuple[list[float], list[float]]:
    named = entries(categories)
    return [e.low for e in named], [e.high for e in named]


def _masks(index: jax.Array, tick: jax.Array) -> list[jax.Array]:
    done = index < tick
    return [done & (index >= tick - 1), done & (index >= tick - 3), done]


def _window(seat: Seat, history: History, daily: jax.Array, reference: jax.Array, mask: jax.Array) -> jax.Array:
    """The windowed entries over the ticks in ``mask``, ``[6]``."""
    m = mask.astype(jnp.float32)
    total = jnp.stack(
        [history.offered, history.exposure, history.cost, history.value, history.potential, history.least_price]
    )
    offered, exposure, cost, value, potential, least = total @ m
    planned = (daily @ m) * seat.budget
    return jnp.stack(
        [
            cost / jnp.maximum(planned, 1e-9),
            exposure / jnp.maximum(offered, 1e-9),
            _log_ratio(cost, reference * value),
            _log_ratio(least, reference * potential),
            _log_ratio(potential, seat.level * offered),
            (history.log_multiplier @ m) / jnp.maximum(m.sum(), 1.0),
        ]
    )


def planned_multiplier(
    value: jax.Array,
    cost: jax.Array,
    ahead: jax.Array,
    spent: jax.Array,
    won: jax.Array,
    has_target: jax.Array,
    margin: float | jax.Array = 1.0,
    aim: float | jax.Array = 1.0,
) -> jax.Array:
    """Log of the largest multiplier whose projected day keeps budget and target, by a bid landscape.

    Args:
        value: ``[J]`` share of the value offered that each multiplier of `LANDSCAPE` wins.
        cost: ``[J]`` its cost over target x value offered.
        ahead: Value still to be offered, times target, over the day's budget.
        spent: Share of the budget spent.
        won: Value won so far, times target, over the budget.
        has_target: Whether the target binds.
        margin: Factor on the money left.
        aim: Factor on the target.
    """
    grid = jnp.log(jnp.asarray(LANDSCAPE))
    fine = jnp.linspace(grid[0], grid[-1], _FINE)
    value, cost = jnp.interp(fine, grid, value) * ahead, jnp.interp(fine, grid, cost) * ahead
    affordable = cost <= margin * (1.0 - spent)
    worthwhile = ~has_target | (spent + cost <= aim * (won + value))
    return jnp.where(affordable & worthwhile, fine, fine[0]).max()


_FINE = 49  # multipliers considered between the landscape's ends


def _landscape(history: History, reference: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Value and cost of each multiplier over the ticks in ``mask``, ``[J]`` each, as `planned_multiplier` takes them."""
    m = mask.astype(jnp.float32)
    potential = jnp.maximum(history.potential @ m, 1e-12)
    value = (m @ history.landscape_value) / potential
    cost = (m @ history.landscape_cost) / (reference * potential)
    return value, cost
