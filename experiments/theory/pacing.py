"""Budgets: first-price pacing equilibria, and the hindsight bound against linear programs."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from adarena.envs.market.auction import AuctionRules
from adarena.envs.market.hindsight import hindsight
from adarena.experiments.theory.autobidding import autobidding_rows
from adarena.experiments.theory.equilibrium import clear
from adarena.experiments.theory.row import Row

KNOWN_VALUES = np.array([[1.0, 2.0, 0.5], [2.0, 1.0, 1.0], [0.2, 0.9, 1.8]])
"""``[N, J]`` values of a market whose pacing equilibrium can be worked out by hand."""

KNOWN_BUDGETS = np.array([0.5, 0.8, 5.0])
KNOWN_MULTIPLIERS = np.array([0.45, 0.4, 1.0])
KNOWN_PRICES = np.array([0.8, 0.9, 1.8])

ROUNDS = 20_000
"""Rounds of pacing; multipliers still swing by about the inverse of it."""

PACED = 2e-3
"""How far pacing may rest off its equilibrium."""


def pacing_rows(samples: int, seed: int) -> list[Row]:
    """Truths of budgets and targets.

    Args:
        samples: Scales how often campaigns and auctions are simulated.
        seed: Of everything drawn.
    """
    rows = _known_rows() + _random_market_rows(np.random.default_rng((seed, 10)))
    rows += _bound_rows(np.random.default_rng((seed, 11))) + _dual_rows(np.random.default_rng((seed, 12)))
    return rows + autobidding_rows(samples, seed)


class Paced(NamedTuple):
    """Where pacing came to rest, for ``I`` markets of ``N`` advertisers and ``J`` items.

    Attributes:
        multiplier: ``[I, N]`` bid over value after the last round, in (0, 1].
        price: ``[I, J]`` mean payment for an item over the second half of the rounds.
        spend: ``[I, N]`` mean spend of a round over the second half.
    """

    multiplier: np.ndarray
    price: np.ndarray
    spend: np.ndarray


def pace(values: np.ndarray, budgets: np.ndarray, start: np.ndarray, rounds: int = ROUNDS) -> Paced:
    """Advertisers who pace themselves in repeated first-price auctions of the same items.

    Everybody bids a multiple of its value: its budget over its mean winnings so far, at most 1 (PACE, Gao et al.,
    "Online market equilibrium with application to fair division", 2021). Each knows only what it won.

    Args:
        values: ``[I, N, J]`` positive values.
        budgets: ``[I, N]`` money a round, positive.
        start: ``[I, N]`` first multipliers, in (0, 1].
        rounds: Rounds, 2 or more.
    """
    out = _pace(*(jnp.asarray(x, jnp.float32) for x in (values, budgets, start)), rounds)
    return Paced(*(np.asarray(x, float) for x in out))


_Means = tuple[jax.Array, jax.Array, jax.Array]  # winnings [I, N], prices [I, J], spend [I, N]


@functools.partial(jax.jit, static_argnames="rounds")
def _pace(
    values: jax.Array, budgets: jax.Array, start: jax.Array, rounds: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    markets, advertisers, items = values.shape
    rules = AuctionRules("first_price", slots=1)
    one, free = jnp.ones((1, markets * items)), jnp.zeros(markets * items)

    def turn(carry: _Means, t: jax.Array) -> tuple[_Means, None]:
        won_mean, price_mean, spend_mean = carry
        multiplier = jnp.minimum(1.0, budgets / won_mean)
        bids = jnp.moveaxis(multiplier[:, :, None] * values, 1, 0).reshape(advertisers, -1)
        cleared = clear(rules, bids, one, free, t * free.size)
        price = cleared.payment.reshape(markets, 1, items)
        held = cleared.winner.reshape(markets, 1, items) == jnp.arange(advertisers)[:, None]
        won_mean = won_mean + ((held * values).sum(-1) - won_mean) / (t + 2)
        late = jnp.where(t >= rounds // 2, 1.0 / (t - rounds // 2 + 1), 0.0)
        price_mean = price_mean + late * (price[:, 0] - price_mean)
        return (won_mean, price_mean, spend_mean + late * ((held * price).sum(-1) - spend_mean)), None

    # The start counts as one round in which everybody won what makes it bid so.
    first = (budgets / start, jnp.zeros((markets, items)), jnp.zeros_like(budgets))
    (won_mean, price, spend), _ = jax.lax.scan(turn, first, jnp.arange(rounds))
    return jnp.minimum(1.0, budgets / won_mean), price, spend


def eisenberg_gale(values: np.ndarray, budgets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pacing equilibrium as the optimum of a convex program (Conitzer et al., "Pacing equilibrium in first price
    auction markets", 2019): least sum of prices less budget-weighted logs of multipliers, no price below a paced bid.

    Args:
        values: ``[N, J]`` positive values.
        budgets: ``[N]`` positive money.

    Returns:
        Multipliers ``[N]`` and prices ``[J]``.

    Raises:
        RuntimeError: If the solver does not arrive.
    """
    advertisers, items = values.shape
    # No price below each advertiser's paced bid: one constraint for each advertiser and item.
    above = np.zeros((advertisers, items, advertisers + items))
    for i in range(advertisers):
        above[i, :, i] = -values[i]
        above[i, :, advertisers:] = np.eye(items)
    above = above.reshape(-1, advertisers + items)
    # The solver's line search may break down near the optimum on one way there, hardly on all.
    for start in (0.5, 0.9, 0.2, 0.05):
        found = optimize.minimize(
            lambda x: x[advertisers:].sum() - budgets @ np.log(x[:advertisers]),
            np.append(np.full(advertisers, start), start * values.max(axis=0)),
            jac=lambda x: np.append(-budgets / x[:advertisers], np.ones(items)),
            bounds=[(1e-4, 1.0)] * advertisers + [(0.0, None)] * items,
            constraints={"type": "ineq", "fun": lambda x: above @ x, "jac": lambda x: above},
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-12},
        )
        if found.success:
            return found.x[:advertisers], found.x[advertisers:]
    raise RuntimeError(f"the convex program of the pacing equilibrium was not solved: {found.message}")


def _known_rows() -> list[Row]:
    starts = np.array([[1.0, 1.0, 1.0], [0.1, 0.1, 0.1], [0.9, 0.1, 0.5], [0.05, 1.0, 0.2]])
    values, budgets = (np.broadcast_to(x, (len(starts), *x.shape)) for x in (KNOWN_VALUES, KNOWN_BUDGETS))
    paced = pace(values, budgets, starts)
    multipliers, prices = eisenberg_gale(KNOWN_VALUES, KNOWN_BUDGETS)
    name, setting = "First-price pacing", "3 advertisers, 3 items"
    rows = []
    for way, found, price, tolerance in (
        ("by pacing", paced.multiplier[0], paced.price[0], 2e-3),
        ("by Eisenberg-Gale", multipliers, prices, 1e-5),
    ):
        for i, analytic in enumerate(KNOWN_MULTIPLIERS):
            rows.append(Row(f"{name}: multiplier {i + 1}", f"{setting}, {way}", analytic, found[i], 0.0, tolerance))
        for j, analytic in enumerate(KNOWN_PRICES):
            rows.append(Row(f"{name}: price {j + 1}", f"{setting}, {way}", analytic, price[j], 0.0, tolerance))
        rows.append(Row(f"{name}: revenue", f"{setting}, {way}", 3.5, float(price.sum()), 0.0, 3 * tolerance))
    apart = float(np.ptp(paced.multiplier, axis=0).max())
    return [*rows, Row(f"{name}: multipliers apart", f"{setting}, {len(starts)} starts", 0.0, apart, 0.0, 2e-3)]


def _random_market_rows(generator: np.random.Generator) -> list[Row]:
    """Markets that pace themselves from three starts each."""
    rows = []
    for advertisers, items in ((2, 4), (3, 6), (5, 10)):
        values = generator.uniform(0.1, 1.0, (20, advertisers, items))
        # Between starved and rich, so that about half the multipliers are below 1.
        budgets = generator.uniform(0.1, 1.2, (20, advertisers)) * items / advertisers
        starts = np.concatenate(
            [np.ones_like(budgets), 0.05 + 0 * budgets, generator.uniform(0.05, 1.0, budgets.shape)]
        )
        paced = Paced(
            *(x.reshape(3, 20, -1) for x in pace(np.tile(values, (3, 1, 1)), np.tile(budgets, (3, 1)), starts))
        )
        solved = np.array([eisenberg_gale(v, b)[0] for v, b in zip(values, budgets, strict=True)])
        share = paced.spend / budgets
        held_back = paced.multiplier < 0.995
        away = float(np.abs(paced.multiplier - solved).max())
        unspent = float(np.abs(share - 1.0)[held_back].max())
        apart = float(np.ptp(paced.multiplier, axis=0).max())
        name, setting = "First-price pacing", f"20 markets, 3 starts, {advertisers} advertisers, {items} items"
        rows += [
            Row(f"{name}: off Eisenberg-Gale, at most", setting, 0.0, away, 0.0, PACED),
            Row(f"{name}: |spend/budget - 1| if paced", setting, 0.0, unspent, 0.0, PACED),
            Row(f"{name}: overspend, at most", setting, 0.0, max(0.0, float(share.max()) - 1), 0.0, PACED),
            Row(f"{name}: multipliers apart", setting, 0.0, apart, 0.0, PACED),
        ]
    return rows


def exact_bound(cost: np.ndarray, value: np.ndarray, budget: float, target: float = np.inf) -> float:
    """The most value of a fractional choice of slots, by linear programming.

    Args:
        cost: ``[I, K]`` money.
        value: ``[I, K]`` value; at most one slot of an impression is taken.
        budget: Money.
        target: Most money per value; infinite for none.
    """
    impressions, slots = cost.shape
    limits = [np.repeat(np.eye(impressions), slots, axis=1), cost.reshape(1, -1)]
    bounds = [*np.ones(impressions), budget]
    if np.isfinite(target):
        limits.append((cost - target * value).reshape(1, -1))
        bounds.append(0.0)
    found = optimize.linprog(-value.ravel(), np.concatenate(limits), bounds)
    if not found.success:
        raise RuntimeError(f"the linear program of the hindsight bound was not solved: {found.message}")
    return -float(found.fun)


_bound = jax.jit(jax.vmap(hindsight))


def _bound_rows(generator: np.random.Generator) -> list[Row]:
    """Small random auctions in which lower slots bring less and cost less."""
    rows = []
    for slots in (1, 3):
        exposure = np.array([1.0, 0.8, 0.6])[:slots]
        value = generator.lognormal(0.0, 0.7, (40, 15, 1)) * exposure
        cost = np.sort(generator.lognormal(0.0, 0.7, (40, 15, slots)))[..., ::-1] * exposure
        budget = cost[..., 0].sum(axis=1) * generator.uniform(0.05, 1.1, 40)
        for target in (np.full(40, np.inf), generator.uniform(0.3, 1.2, 40)):
            ours = np.asarray(_bound(*(x.astype(np.float32) for x in (cost, value, budget, target))).value)
            exact = np.array([exact_bound(*x) for x in zip(cost, value, budget, target, strict=True)])
            away = float((np.abs(ours - exact) / np.maximum(exact, 1e-3)).max())
            limits = "budget and target" if np.isfinite(target[0]) else "budget"
            setting = f"40 cases, 15 impressions, {slots} slots, {limits}"
            rows.append(Row("Hindsight bound: relatively off the linear program", setting, 0.0, away, 0.0, 1e-4))
    return rows


def dual_bound(value: np.ndarray, price: np.ndarray, budget: float) -> float:
    """``min over mu >= 0 of mu x budget + sum max(0, value - mu x price)``: what a budget can buy at given prices.

    Piecewise linear, so the least lies at a kink.

    Args:
        value: ``[M]`` what winning brings.
        price: ``[M]`` what it costs.
        budget: Money.
    """
    kinks = np.append(0.0, np.maximum(value, 0.0) / price)
    return float((kinks * budget + np.maximum(value - kinks[:, None] * price, 0.0).sum(axis=1)).min())


def _dual_rows(generator: np.random.Generator) -> list[Row]:
    rows = []
    for aim in ("value", "value less price"):
        worth, price = generator.random((2, 40, 30))
        gain = worth if aim == "value" else np.maximum(worth - price, 0.0)
        budget = generator.uniform(0.5, 16.0, 40)
        dual = np.array([dual_bound(*x) for x in zip(gain, price, budget, strict=True)])
        exact = np.array([exact_bound(g[:, None], v[:, None], b) for g, v, b in zip(price, gain, budget, strict=True)])
        inputs = (price[..., None], gain[..., None], budget, np.full(40, np.inf))
        ours = np.asarray(_bound(*(x.astype(np.float32) for x in inputs)).value)
        for name, other in (("hindsight bound", ours), ("linear program", exact)):
            away = float((np.abs(dual - other) / exact).max())
            setting = f"40 cases, 30 impressions, maximising {aim}"
            rows.append(Row(f"Budgeted second price: dual relatively off the {name}", setting, 0.0, away, 0.0, 1e-4))
    return rows
