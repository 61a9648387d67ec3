"""Revenue and welfare of a whole tick of the market: bids, auction, response and money, as every environment runs it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from adarena.envs.market.auction import AuctionRules
from adarena.envs.market.clearing import Bidders, Terms, Visit
from adarena.envs.market.tick import TickResult, run_tick
from adarena.envs.market.traffic import Bank
from adarena.experiments.theory.positions import EXAMPLE_EXPOSURE, EXAMPLE_VALUES
from adarena.experiments.theory.row import Row, sample_row
from adarena.experiments.theory.single_item import uniform_revenue, uniform_welfare

EXAMPLE_REVENUE = {"first_price": 19.4, "second_price": 4.8, "gsp": 13.2, "vcg": 7.2}
"""Of the three-slot example when bids are the values: 10 + .8 x 8 + .6 x 5; 2.4 x 2; 8 + .8 x 5 + .6 x 2; 3.8 + 2.2 + 1.2."""

IMPRESSIONS = 1_000
"""Of one tick."""


COUNT = len(EXAMPLE_VALUES)
"""Advertisers; as many as in the example, and slots likewise, so that a mechanism is one program."""

ONE_SEEN = (1.0, 0.0, 0.0)
ALIKE = (1.0, 1.0, 1.0)
"""Exposure of the slots."""

RESERVES = (0.0, 0.4, 0.7)


def tick_rows(samples: int, seed: int) -> list[Row]:
    """Truthful bids in ticks of the market.

    Args:
        samples: Ten times the impressions simulated for each setting.
        seed: Of all values drawn.
    """
    rows, ticks = _example_rows(), max(samples // (10 * IMPRESSIONS), 1)
    for number, reserve in enumerate(RESERVES):
        values = np.random.default_rng((seed, 40, number)).random((COUNT, ticks * IMPRESSIONS))
        for mechanism in ("first_price", "gsp", "vcg"):
            rows += _single_rows(mechanism, values, reserve)
    values = np.random.default_rng((seed, 41)).random((COUNT, ticks * IMPRESSIONS))
    # Each of k like items goes for the highest losing bid, of mean (n - k) / (n + 1).
    slots = len(ALIKE)
    revenue = slots * (COUNT - slots) / (COUNT + 1)
    for mechanism in ("second_price", "vcg"):
        paid = _sold(mechanism, values, ALIKE, 0.0)[0]
        setting = f"{COUNT} bidders, {slots} slots alike"
        rows.append(sample_row(f"Tick, truthful bids, {mechanism}: revenue", setting, revenue, paid, 1e-6))
    return rows


def _single_rows(mechanism: str, values: np.ndarray, reserve: float) -> list[Row]:
    """One slot that is seen, ``values [N, M]``."""
    paid, won, off = _sold(mechanism, values, ONE_SEEN, reserve)
    welfare = uniform_welfare(COUNT, reserve)
    # Where the truth is bid and paid, all that is won is paid.
    revenue = welfare if mechanism == "first_price" else uniform_revenue(COUNT, reserve)
    name = f"Tick, truthful bids, {mechanism}"
    setting = f"{COUNT} bidders" + (f", reserve {reserve:g}" if reserve else "")
    return [
        sample_row(f"{name}: revenue", setting, revenue, paid, 1e-6),
        sample_row(f"{name}: value won", setting, welfare, won, 1e-6),
        Row(f"{name}: accounts relatively off the payments", setting, 0.0, off, 0.0, 1e-5),
    ]


@functools.partial(jax.jit, static_argnums=0)
def run_truthful(rules: AuctionRules, values: jax.Array, exposure: jax.Array, reserve: jax.Array) -> TickResult:
    """One tick in which everybody bids its values and has money enough.

    Args:
        rules: Mechanism and slots ``K``.
        values: ``[N, M]`` float32, currency units of an exposure.
        exposure: ``[K]`` float32, exposure of the slots, falling.
        reserve: Float32 scalar, least bid that takes part.
    """
    advertisers, impressions = values.shape
    each, row, nothing = jnp.ones(advertisers), jnp.ones((1, impressions)), jnp.float32(0.0)
    bank = Bank(
        pctr=jnp.ones((1, advertisers, impressions)),
        pvalue=values[None],
        noise=None,
        level=values.mean(axis=1),
        worth=row,
        outside=0.0 * row,
        weight=row,
        first=jnp.zeros(1, jnp.int32),
        last=jnp.ones(1, jnp.int32),
        daily=jnp.ones(1),
        ctr_factor=jnp.ones(1),
    )
    terms = Terms(
        reserve=reserve,
        kappa=nothing,
        exposure=exposure,
        cascade=jnp.bool_(False),
        outside_price=nothing,
        error_bias=nothing,
        error_noise=nothing,
        error_slope=jnp.float32(1.0),
    )
    visit = Visit(bank, jnp.int32(0), row[0], basket=False)
    return run_tick(rules, visit, Bidders(each, each, each, 1e6 * each), terms, None)


def _truthful(mechanism: str, values: np.ndarray, exposure: tuple[float, ...], reserve: float) -> TickResult:
    numbers = (jnp.asarray(x, jnp.float32) for x in (values, exposure, reserve))
    return run_truthful(AuctionRules(mechanism, slots=len(exposure)), *numbers)


def _sold(
    mechanism: str, values: np.ndarray, exposure: tuple[float, ...], reserve: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Payments and value won of each impression, ``[M]``, and how far the accounts lie off the payments, relatively."""
    paid, won, booked = [], [], 0.0
    for part in np.split(values, values.shape[1] // IMPRESSIONS, axis=1):
        result = _truthful(mechanism, part, exposure, reserve)
        assert result.cleared is not None
        response = result.cleared.response
        paid.append(np.asarray(result.cleared.price * response.exposure, float).sum(axis=0))
        won.append(np.asarray(response.conversion, float).sum(axis=0))
        booked += float(np.asarray(result.spend, float).sum())
    total = np.concatenate(paid)
    return total, np.concatenate(won), abs(booked / total.sum() - 1.0)


def _example_rows() -> list[Row]:
    """A tick of the three-slot example, each impression of which brings the same."""
    values = np.repeat(np.asarray(EXAMPLE_VALUES)[:, None], IMPRESSIONS, axis=1)
    rows = []
    for mechanism, revenue in EXAMPLE_REVENUE.items():
        result = _truthful(mechanism, values, EXAMPLE_EXPOSURE, 0.0)
        spent = float(np.asarray(result.spend, float).sum()) / IMPRESSIONS
        rows.append(Row(f"Tick, truthful bids, {mechanism}: revenue", "three-slot example", revenue, spent, 0.0, 5e-4))
    return rows
