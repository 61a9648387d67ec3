"""What is predicted and what is seen so far: the winner's curse, and conversions that are reported late."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, stats

from adarena.envs.autobid import AutoBid
from adarena.envs.autobid_state import State
from adarena.envs.market.ledger import Accounts
from adarena.envs.market.response import delay_distribution, draw, respond
from adarena.envs.market.values import prediction_factor
from adarena.envs.rivals import KINDS
from adarena.experiments.theory.equilibrium import clear_single
from adarena.experiments.theory.row import Row, sample_row

CURSES = ((2, 0.5, 0.3), (10, 0.5, 0.3), (48, 0.5, 0.3), (10, 0.5, 0.1), (10, 0.5, 0.6), (10, 1.0, 0.3))
"""Bidders, standard deviation of log value, of log prediction error."""

PUBLISHED_CURSES = {(2, 0.5, 0.3): 0.94, (10, 0.5, 0.3): 0.83, (48, 0.5, 0.3): 0.75}

DELAYS = ((24.0, 24.0), (6.0, 24.0), (72.0, 24.0), (24.0, 168.0))
"""Mean delay and length of the campaign, hours."""


def prediction_rows(samples: int, seed: int) -> list[Row]:
    """Truths of predictions and of delayed reports.

    Args:
        samples: Auctions or clicks simulated for each setting.
        seed: Of everything drawn.
    """
    rows = []
    for number, (bidders, spread, noise) in enumerate(CURSES):
        true, predicted = winners(bidders, spread, noise, samples, (seed, 30, number))
        setting = f"{bidders} bidders, log value sd {spread:g}, log error sd {noise:g}"
        truth = "Winner's curse: mean true over mean predicted value"
        analytic, parts = curse(bidders, spread, noise), ratio_parts(true, predicted)
        rows.append(sample_row(truth, setting, analytic, parts, 1e-5))
        if (bidders, spread, noise) in PUBLISHED_CURSES:
            known = PUBLISHED_CURSES[bidders, spread, noise]
            rows.append(sample_row("Winner's curse, published figure", setting, known, parts, 5e-3))
    for number, (mean, hours) in enumerate(DELAYS):
        rows += _delay_rows(mean, hours, samples, (seed, 31, number))
    return rows + _mixture_rows() + _bookkeeping_rows(seed)


def ratio_parts(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Samples whose mean is ``mean(above) / mean(below)`` and whose spread is, to first order, that of the ratio.

    Args:
        above: ``[S]`` samples, drawn in pairs with ``below``.
        below: ``[S]`` samples of a mean other than 0.
    """
    ratio = above.mean() / below.mean()
    return ratio + (above - ratio * below) / below.mean()


def winners(
    bidders: int, spread: float, noise: float, samples: int, seed: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted values, ``[samples]`` each, of those whose prediction is the highest.

    Predictions are right in the mean: the error's bias in logs is less half its variance.

    Args:
        bidders: Number of bidders.
        spread: Standard deviation of the log of the true values.
        noise: Standard deviation of the log of the prediction error.
        samples: Number of auctions.
        seed: Of values and errors.
    """
    generator = np.random.default_rng(seed)
    numbers = [jnp.float32(x) for x in (-0.5 * noise**2, noise, 1.0)]  # bias, standard deviation, slope
    true, predicted = [], []
    for part in np.array_split(np.arange(samples), max(1, samples // 20_000)):
        normal, error = generator.standard_normal((2, bidders, len(part)), dtype=np.float32)
        value = np.exp(spread * normal)
        factor = prediction_factor(value, error, jnp.ones(bidders), *numbers)
        bids = value * np.asarray(factor)
        winner = clear_single("first_price", bids, 0.0)[0]
        true.append(value[winner, np.arange(len(part))])
        predicted.append(bids[winner, np.arange(len(part))])
    return np.concatenate(true).astype(float), np.concatenate(predicted).astype(float)


def curse(bidders: int, spread: float, noise: float) -> float:
    """Mean true over mean predicted value of winners, by quadrature over the highest of ``bidders`` normals.

    Log predictions are normal; given one, the log of the true value is normal around its regression on it.
    """
    total = np.hypot(spread, noise)
    share = (spread / total) ** 2

    def mean_at_highest(slope: float) -> float:
        law = stats.norm()

        def weighed(z: float) -> float:
            return float(np.exp(slope * z) * bidders * law.pdf(z) * law.cdf(z) ** (bidders - 1))

        return float(integrate.quad(weighed, -10.0, 12.0)[0])

    true = np.exp(0.5 * spread**2 * (1.0 - share)) * mean_at_highest(share * total)
    return float(true / (np.exp(-0.5 * noise**2) * mean_at_highest(total)))


def observed_fraction(mean: float, hours: float) -> float:
    """Share of the conversions of ``hours`` of even spend that is reported by their end, delays exponential of ``mean``."""
    length = hours / mean
    return 1.0 + float(np.expm1(-length)) / length


def _delay_rows(mean: float, hours: float, samples: int, seed: tuple[int, ...]) -> list[Row]:
    """Every impression costs the same and is clicked; half the clicks convert."""
    generator = np.random.default_rng(seed)
    clicked, delay = generator.uniform(0.0, hours, samples), generator.exponential(mean, samples)
    ones = jnp.ones((1, samples))
    luck = draw(jax.random.key(int(generator.integers(2**31))), (1, samples))
    winner = jnp.zeros((1, samples), jnp.int32)
    response = respond(winner, ones, 0.5 * ones, ones[0], jnp.ones(1), jnp.bool_(False), luck)
    converted = np.asarray(response.conversion[0], float)
    reported = np.where(clicked + delay <= hours, converted, 0.0)
    setting = f"exponential delay of mean {mean:g} h, {hours:g} h of even spend"
    share = observed_fraction(mean, hours)
    # Spend is the same in both costs per conversion, so their ratio is that of the conversions.
    return [
        sample_row("Delayed conversions: share reported", setting, share, ratio_parts(reported, converted)),
        sample_row("Delayed conversions: naive over true CPA", setting, 1 / share, ratio_parts(converted, reported)),
    ]


def _mixture_rows() -> list[Row]:
    """The market's own delays, added up tick by tick, against the integral over the mixture that they come from."""

    def cdf(hours: float) -> float:
        return 0.4 * stats.expon.cdf(hours, scale=0.52) + 0.6 * stats.weibull_min.cdf(hours, 0.81, scale=8.3 * 24.0)

    share = integrate.quad(cdf, 0.0, 24.0)[0] / 24.0 / cdf(30.0 * 24.0)
    rows = []
    for ticks in (24, 48, 96):
        by_lag = np.cumsum(delay_distribution(ticks, 24.0 / ticks).astype(float))
        setting = f"the market's delays, 24 h of even spend in {ticks} ticks"
        rows.append(Row("Delayed conversions: share reported", setting, share, float(by_lag.mean()), 0.0, 5e-4))
    return rows


def _bookkeeping_rows(seed: int, mean: float = 24.0) -> list[Row]:
    """The accounts of AutoBid at the end of a day whose ticks are all alike: what it shows as cost per conversion."""
    env = AutoBid(ticks=24, advertisers=4, slots=1, impressions=64, delay=True, blocks=1)
    step = 24.0 / env.ticks / mean
    # Clicks fall evenly within their tick; these are the shares reported by the end of that tick, the next one ...
    by_lag = 1.0 + np.exp(-step * np.arange(env.ticks)) * np.expm1(-step) / step
    params, even = env.default_params(), jnp.full(env.ticks, 1.0 / env.ticks)
    params = dataclasses.replace(
        params,
        delay_distribution=jnp.asarray(np.diff(by_lag, prepend=0.0), jnp.float32),
        # One block, as many impressions each tick, as many clicks, multipliers that stay, money enough: spend is even.
        bank=dataclasses.replace(params.bank, daily=even, ctr_factor=jnp.ones(env.ticks)),
        base_budget=1e4 * params.base_budget,
        rival_mix=jnp.asarray([float(kind == "constant") for kind in KINDS]),
        **dict.fromkeys(("traffic_noise", "drift_pattern", "drift_noise"), jnp.float32(0.0)),
    )
    still = jnp.zeros(env.action_space(params).shape)

    @jax.jit
    def day(key: jax.Array) -> tuple[Accounts, Accounts]:
        def tick(state: State, key: jax.Array) -> tuple[State, Accounts]:
            state = env.step(key, state, still, params).state
            return state, state.accounts

        keys = jax.random.split(key, env.ticks + 1)
        state, history = jax.lax.scan(tick, env.reset(keys[0], params)[1], keys[1:])
        return state.accounts, history

    accounts, history = jax.tree.map(lambda x: np.asarray(x, float).sum(axis=-1), day(jax.random.key(seed)))
    setting = f"AutoBid, exponential delay of mean {mean:g} h, 24 h of even spend in {env.ticks} ticks"
    uneven = float(abs(np.diff(history.spend, prepend=0.0) * env.ticks / accounts.spend - 1.0).max())
    naive = (accounts.spend / accounts.reported) / (accounts.spend / accounts.value)
    share = observed_fraction(mean, 24.0)
    return [
        Row(
            "Delayed conversions: spend of a tick off the even, at most",
            setting,
            0.0,
            uneven,
            0,
            1e-3,
        ),
        Row("Delayed conversions: share reported", setting, share, float(1 / naive), 0.0, 1e-4),
        Row("Delayed conversions: naive over true CPA", setting, 1 / share, float(naive), 0.0, 1e-3),
    ]
