"""The hindsight bound against linear programming, and against policies."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from adarena.envs.market.hindsight import Hindsight, hindsight
from adarena.envs.market.ledger import score

_bound = jax.jit(hindsight)


def bound(cost: np.ndarray, value: np.ndarray, budget: float, target: float) -> Hindsight:
    f32 = functools.partial(np.asarray, dtype=np.float32)
    return jax.tree.map(float, _bound(f32(cost), f32(value), f32(budget), f32(target)))


def programme(cost: np.ndarray, value: np.ndarray, budget: float, target: float) -> float:
    """Most value, slots of an impression sharing at most one unit, budget and target held."""
    impressions, slots = cost.shape
    rows = [cost.ravel()]
    limits = [budget]
    if np.isfinite(target):
        rows.append((cost - target * value).ravel())
        limits.append(0.0)
    one_slot = np.kron(np.eye(impressions), np.ones(slots))
    result = linprog(
        -value.ravel(), A_ub=np.vstack([*rows, one_slot]), b_ub=[*limits, *np.ones(impressions)], bounds=(0, None)
    )
    assert result.success
    return -result.fun


def market(seed: int, impressions: int = 24, slots: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Slots that cost less and bring less from top to bottom, as generalised second prices have it."""
    rng = np.random.default_rng(seed)
    exposed = np.asarray([1.0, 0.8, 0.48])[:slots]
    price = -np.sort(-rng.uniform(0.2, 3.0, (impressions, slots)), axis=1)
    return price * exposed, np.exp(rng.normal(0.0, 0.7, (impressions, 1))) * exposed


@pytest.mark.parametrize("budget", [0.05, 5.0, 15.0, 1e4])
@pytest.mark.parametrize("target", [0.3, 0.9, 2.0, np.inf])
def test_value_equals_linear_programme(budget: float, target: float) -> None:
    for seed in range(4):
        cost, value = market(seed)
        best = bound(cost, value, budget, target)
        assert best.value == pytest.approx(programme(cost, value, budget, target), rel=2e-4, abs=1e-6)
        assert best.cost <= budget * (1 + 1e-5)
        assert best.cost <= target * best.value * (1 + 1e-4) + 1e-6
        assert best.score >= best.value


def test_no_value_under_an_unreachable_target() -> None:
    cost, value = market(0)
    best = bound(cost, value, 10.0, 1e-4)
    assert best.value == pytest.approx(0.0, abs=1e-6)
    assert 0.0 < best.score < 0.1  # overshooting still scores a little


@pytest.mark.parametrize("target", [1.0, np.inf])
def test_free_impressions_and_empty_ones(target: float) -> None:
    _, value = market(1)
    free = bound(np.zeros_like(value), value, 1.0, target)
    assert free.value == pytest.approx(value[:, 0].sum(), rel=1e-5)
    assert free.score == pytest.approx(free.value)
    nothing = bound(np.zeros_like(value), np.zeros_like(value), 1.0, target)
    assert nothing == (0.0, 0.0, 0.0)
    cost, _ = market(1)
    assert bound(cost, np.zeros_like(value), 1.0, target) == (0.0, 0.0, 0.0)


def test_a_share_of_one_impression() -> None:
    """A budget below the price of the only impression buys its share, with and without a target."""
    cost, value = np.asarray([[2.0]]), np.asarray([[1.0]])
    for target in (4.0, np.inf):
        best = bound(cost, value, 0.5, target)
        assert best.value == pytest.approx(0.25, rel=1e-5)
        assert best.score == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize(("budget", "target"), [(8.0, 0.9), (30.0, 0.6), (1e4, 0.9), (8.0, np.inf), (1e4, np.inf)])
def test_no_constant_multiplier_beats_the_bound(budget: float, target: float) -> None:
    """Second price, one slot: every multiplier, spending impression by impression until the money ends."""
    for seed in range(4):
        cost, value = market(seed, impressions=60, slots=1)
        best = bound(cost, value, budget, target)
        unit = target if np.isfinite(target) else 1.0
        for multiplier in np.exp(np.linspace(-3.0, 3.0, 121)):
            spent = won = 0.0
            for price, worth in zip(cost[:, 0], value[:, 0], strict=True):
                if multiplier * unit * worth >= price:
                    if spent + price > budget:
                        break
                    spent, won = spent + price, won + worth
            reached = float(score(jnp.float32(won), jnp.float32(spent), jnp.float32(target)))
            assert reached <= best.score * (1 + 1e-3)
            if spent <= target * won:
                assert won <= best.value * (1 + 1e-5) + 1e-6


def test_score_bound_is_reached_on_the_frontier() -> None:
    """The score bound against all thresholds, where prices are so alike that overshooting the target pays."""
    rng = np.random.default_rng(3)
    cost, value = rng.uniform(0.9, 1.1, (400, 1)), np.ones((400, 1))
    target = 0.95
    best = bound(cost, value, 1e6, target)
    spent, won = np.cumsum(np.sort(cost[:, 0])), np.arange(1, 401)
    fine = (won * np.minimum(1.0, target * won / spent) ** 2).max()
    assert best.score == pytest.approx(fine, rel=5e-3)
    assert best.score > best.value * 1.2


def test_bound_grows_with_budget_and_target() -> None:
    cost, value = market(5)
    values = [
        [bound(cost, value, budget, target).value for budget in (1.0, 4.0, 16.0)] for target in (0.5, 1.0, np.inf)
    ]
    assert (np.diff(values, axis=0) >= -1e-5).all()
    assert (np.diff(values, axis=1) >= -1e-5).all()
