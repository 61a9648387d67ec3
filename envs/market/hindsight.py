"""The best that a seat could have done, with all prices known: a fractional knapsack over (impression, slot) pairs.

Every impression offers ``K`` slots, of which at most one is taken; slot ``k`` costs ``cost`` and brings ``value`` (both in
expectation over exposure). Maximise value subject to cost <= budget and cost <= target x value. The Lagrangian of both
constraints is proportional to ``value - theta * cost``, so one number ``theta`` (least value per unit of money) spans all
candidate solutions, and the value is concave in the money spent. Where a solution must be split, it is split linearly,
which makes the result the optimum of the linear relaxation: an upper bound for every bidder that takes prices as given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

_BISECTIONS = 40

Frontier = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""Log of the least value per unit of money -> total cost and value."""

_End = tuple[jax.Array, jax.Array, jax.Array]


class Hindsight(NamedTuple):
    """Bounds for one episode; float32 scalars.

    Attributes:
        value: Most value with budget and target (CPA, or 1 / ROAS) held.
        cost: What that costs, currency units.
        score: Most score (value x min(1, (target / cost per value)^2)) under the budget alone: at least ``value``, and
            more where overshooting the target pays.
    """

    value: jax.Array
    cost: jax.Array
    score: jax.Array


def take_all(cost: jax.Array, value: jax.Array, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Total cost and value when every impression takes the slot with the greatest ``value - theta * cost``, if positive.

    Args:
        cost: ``[I, K]`` currency units.
        value: ``[I, K]`` value; 0 where there is no such slot.
        theta: Scalar, value per currency unit.
    """
    gain = value - theta * cost
    best = gain.max(axis=-1, keepdims=True)
    # Of equally good slots the first counts; `argmax` is slow on CPU, so the first is found by a running sum.
    chosen = (gain == best) & (best > 0.0)
    chosen = chosen & (jnp.cumsum(chosen, axis=-1) == 1)
    return jnp.where(chosen, cost, 0.0).sum(), jnp.where(chosen, value, 0.0).sum()


def hindsight(cost: jax.Array, value: jax.Array, budget: jax.Array, target: jax.Array) -> Hindsight:
    """Bounds of an episode.

    Args:
        cost: ``[I, K]`` float32, what each slot of each impression would have cost, currency units.
        value: ``[I, K]`` float32, what it would have brought.
        budget: Scalar, currency units.
        target: Scalar, currency units per unit of value; infinite where only the budget binds.
    """
    positive = (value > 0.0) & (cost > 0.0)
    target = jnp.where(jnp.isfinite(target), target, 1e12)
    ratio = jnp.where(positive, value / jnp.where(positive, cost, 1.0), 0.0)
    high = jnp.log(jnp.maximum(ratio.max(), 1e-12)) + 0.1
    low = jnp.log(jnp.maximum(jnp.where(positive, ratio, ratio.max()).min(), 1e-12)) - 6.0

    def frontier(log_theta: jax.Array) -> tuple[jax.Array, jax.Array]:
        return take_all(cost, value, jnp.exp(log_theta))

    def fits(spent: jax.Array, gained: jax.Array) -> jax.Array:
        return (spent <= budget) & (spent <= target * gained)

    (infeasible, more_spent, more_gained), (_, spent, gained) = _bisect(frontier, fits, low, high)
    # Everything fits: the bisection has closed in on the lower end, where all that brings value is taken.
    step_cost = jnp.maximum(more_spent - spent, 0.0)
    step_value = jnp.maximum(more_gained - gained, 0.0)
    by_budget = (budget - spent) / jnp.maximum(step_cost, 1e-12)
    slack = target * gained - spent
    overrun = step_cost - target * step_value
    by_target = jnp.where(overrun > 0.0, slack / jnp.maximum(overrun, 1e-12), 1.0)
    share = jnp.clip(jnp.minimum(by_budget, by_target), 0.0, 1.0)
    best_value = gained + share * step_value
    best_cost = spent + share * step_cost
    return Hindsight(best_value, best_cost, _best_score(frontier, best_value, infeasible, low, budget, target))


def _bisect(frontier: Frontier, fits: Callable[..., jax.Array], low: jax.Array, high: jax.Array) -> tuple[_End, _End]:
    """The largest log threshold that does not fit and the least that does, as ``(log threshold, cost, value)``.

    What was found at both ends is carried along: found again, a tie at the margin might be rounded the other way.
    """

    def halve(ends: tuple[_End, _End], _: None) -> tuple[tuple[_End, _End], None]:
        infeasible, feasible = ends
        middle = 0.5 * (infeasible[0] + feasible[0])
        new = middle, *frontier(middle)
        ok = fits(*new[1:])
        infeasible = jax.tree.map(lambda old, x: jnp.where(ok, old, x), infeasible, new)
        return (infeasible, jax.tree.map(lambda old, x: jnp.where(ok, x, old), feasible, new)), None

    ends, _ = jax.lax.scan(halve, ((low, *frontier(low)), (high, *frontier(high))), None, length=_BISECTIONS)
    return ends


def _best_score(
    frontier: Frontier, held: jax.Array, log_theta: jax.Array, low: jax.Array, budget: jax.Array, target: jax.Array
) -> jax.Array:
    """Largest score beyond the point at which the target starts to bind, on a fine grid of ``theta``."""

    def at(log_theta: jax.Array) -> jax.Array:
        spent, gained = frontier(log_theta)
        share = jnp.minimum(1.0, budget / jnp.maximum(spent, 1e-12))  # concave: a share of both is attainable
        spent, gained = spent * share, gained * share
        ratio = target * gained / jnp.maximum(spent, 1e-12)
        return gained * jnp.minimum(1.0, ratio) ** 2

    grid = log_theta + jnp.linspace(0.0, 1.0, 65) * jnp.minimum(low - log_theta, 0.0).clip(-2.0)
    return jnp.maximum(held, jax.lax.map(at, grid).max())
