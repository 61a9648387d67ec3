"""Traffic: how many impressions come in each tick, and from whom.

Three sources, *synthetic*, *calibrated* and *replay*, fill one structure, a `Bank` of impressions in blocks of ``M``. A tick
visits one block of its range; the block's impressions then stand for the tick's whole traffic by their weight. A bank
drawn once and visited at random costs a copy of memory per tick where fresh draws cost more than the auction itself.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from adarena.envs import pytree
from adarena.envs.data.calibration import Calibration
from adarena.envs.market.values import ValueModel, draw_values


@pytree.dataclass
class Bank:
    """Impressions in ``G`` blocks of ``M``, seen by ``N`` advertisers over ``T`` ticks a day.

    Attributes:
        pctr: ``[G, N, M]`` float32 true click probability, given exposure.
        pvalue: ``[G, N, M]`` float32 true pCTR x pCVR: conversions per exposed impression.
        noise: ``[G, N, M]`` float32 standard normals for prediction errors, or None where predictions are exact.
        level: ``[N]`` float32 mean of ``pvalue`` over the bank.
        worth: ``[G, M]`` float32 basket size of the impression relative to the advertiser's mean, mean 1.
        outside: ``[G, M]`` float32 price offered from outside the market (or logged there), currency units per
            impression before scaling; nobody wins below it.
        weight: ``[G, M]`` float32, 1, or 0 for padding.
        first: ``[T]`` int32 first block of each tick's range.
        last: ``[T]`` int32 end (exclusive) of the range; at least ``first + 1``.
        daily: ``[T]`` float32 share of the day's impressions in each tick, sums to 1.
        ctr_factor: ``[T]`` float32 pCTR of the tick relative to the day's mean.
    """

    pctr: jax.Array
    pvalue: jax.Array
    noise: jax.Array | None
    level: jax.Array
    worth: jax.Array
    outside: jax.Array
    weight: jax.Array
    first: jax.Array
    last: jax.Array
    daily: jax.Array
    ctr_factor: jax.Array


def _blocks(values: jax.Array, blocks: int) -> jax.Array:
    """``[N, I] -> [G, N, M]``."""
    return values.reshape(values.shape[0], blocks, -1).transpose(1, 0, 2)


def generated_bank(
    key: jax.Array,
    model: ValueModel,
    category: np.ndarray,
    *,
    ticks: int,
    blocks: int,
    impressions: int,
    prediction_error: bool,
    calibration: Calibration | None,
    price_correlation: float = 0.5,
    worth_spread: float = 0.6,
) -> Bank:
    """A bank drawn from a model: *synthetic* without a calibration, *calibrated* with one.

    Synthetic: flat pCTR over the day, a sinusoidal daily curve (trough at 4 h, peak at 16 h), no outside price.
    Calibrated: daily curve, pCTR by hour, pCTR by slot visibility and the shape of prices come from ``calibration``.

    Args:
        key: JAX key.
        model: How values are drawn. Visibility's part of the spread is added on top.
        category: ``[N]`` int.
        ticks: ``T``.
        blocks: ``G``.
        impressions: ``M``.
        prediction_error: Whether to keep noise for prediction errors.
        calibration: Published or fitted facts.
        price_correlation: Rank correlation of outside price and common value (calibrated only).
        worth_spread: Standard deviation of the log of basket sizes.
    """
    if calibration is None:
        hour = (np.arange(ticks) + 0.5) * 24.0 / ticks
        daily = 1.0 - 0.7 * np.cos((hour - 4.0) / 24.0 * 2.0 * np.pi)
        daily, ctr_factor = daily / daily.sum(), np.ones(ticks)
    else:
        daily, ctr_factor = calibration.daily(ticks), calibration.ctr_factor(ticks)
    square = (blocks, impressions)
    pctr, pvalue, level, noise, worth, outside = _draw(
        key,
        model,
        category,
        int(category.max()) + 1,
        square,
        prediction_error,
        calibration,
        price_correlation,
        worth_spread,
    )
    return Bank(
        pctr=pctr,
        pvalue=pvalue,
        noise=noise,
        level=level,
        worth=worth,
        outside=outside,
        weight=jax.device_put(np.ones(square, np.float32)),
        first=jax.device_put(np.zeros(ticks, np.int32)),
        last=jax.device_put(np.full(ticks, blocks, np.int32)),
        daily=jax.device_put(np.asarray(daily, np.float32)),
        ctr_factor=jax.device_put(np.asarray(ctr_factor, np.float32)),
    )


# One program: the same operations one at a time are some eighty, each compiled on its own.
@partial(jax.jit, static_argnames=("categories", "square", "prediction_error", "calibration"))
def _draw(
    key: jax.Array,
    model: ValueModel,
    category: jax.Array,
    categories: int,
    square: tuple[int, int],
    prediction_error: bool,
    calibration: Calibration | None,
    price_correlation: float,
    worth_spread: float,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array, jax.Array]:
    """``pctr``, ``pvalue``, ``level``, ``noise``, ``worth``, ``outside`` of a `Bank`."""
    blocks, total = square[0], square[0] * square[1]
    key_common, key_values, key_noise, key_worth, key_slot, key_price = jax.random.split(key, 6)
    common = jax.random.normal(key_common, (total,))
    pctr, pvalue = draw_values(key_values, model, category, categories, common)
    worth = jnp.exp(worth_spread * jax.random.normal(key_worth, (total,)) - 0.5 * worth_spread**2)
    outside = jnp.zeros(total)
    if calibration is not None:
        share = np.asarray(calibration.visibility_share) / np.sum(calibration.visibility_share)
        ctr = np.asarray(calibration.visibility_ctr)
        relative = jnp.asarray(ctr / np.dot(share, ctr))
        visible = relative[jax.random.choice(key_slot, len(share), (total,), p=jnp.asarray(share))]
        pctr = jnp.minimum(pctr * visible, 0.95)
        pvalue = jnp.minimum(pvalue * visible, 0.95 * pctr)
        outside = _outside_price(key_price, calibration, common, price_correlation)
    noise = _blocks(jax.random.normal(key_noise, pvalue.shape), blocks) if prediction_error else None
    values = _blocks(pctr, blocks), _blocks(pvalue, blocks), pvalue.mean(axis=1)
    return *values, noise, worth.reshape(square), outside.reshape(square)


def _outside_price(key: jax.Array, calibration: Calibration, common: jax.Array, correlation: float) -> jax.Array:
    """Prices with the calibration's quantiles and mean 1, correlated with the common value by a Gaussian copula."""
    z = correlation * common + jnp.sqrt(1.0 - correlation**2) * jax.random.normal(key, common.shape)
    price = jnp.asarray(calibration.price_at(jax.scipy.stats.norm.cdf(z)), jnp.float32)
    return price / price.mean()


def visit(key: jax.Array, bank: Bank, tick: jax.Array) -> jax.Array:
    """The block that a tick visits, int32, uniform over the tick's range; a function of key and tick alone."""
    span = bank.last[tick] - bank.first[tick]
    u = jax.random.uniform(jax.random.fold_in(key, tick))
    return bank.first[tick] + jnp.minimum((u * span).astype(jnp.int32), span - 1)


def draw_volume(
    key: jax.Array, bank: Bank, daily_impressions: jax.Array, noise: jax.Array, block: int = 4
) -> jax.Array:
    """Real impressions in each tick of an episode.

    Args:
        key: JAX key.
        bank: Daily curve.
        daily_impressions: Impressions in a day, on average.
        noise: Standard deviation of the log of a factor common to ``block`` ticks (mean of the factor is 1).
        block: Ticks that share a factor (AuctionNet's generator: 4).

    Returns:
        ``[T]`` float32.
    """
    ticks = bank.daily.shape[0]
    z = jnp.repeat(jax.random.normal(key, (-(-ticks // block),)), block)[:ticks]
    return daily_impressions * bank.daily * jnp.exp(noise * z - 0.5 * noise**2)


def draw_drift(
    key: jax.Array,
    categories: int,
    ticks: int,
    pattern: jax.Array,
    noise: jax.Array,
    persistence: jax.Array,
    block: int = 8,
) -> jax.Array:
    """How the value of each category moves through a day: a daily pattern of its own, and a random part.

    Args:
        key: JAX key.
        categories: ``C``.
        ticks: ``T``.
        pattern: Amplitude, in logs, of a sinusoid over the day whose peak is shifted by ``1 / C`` of a day from one
            category to the next: what a bidder can know beforehand.
        noise: Standard deviation, in logs, of the random part, constant over ``block`` ticks.
        persistence: Correlation of the random part from one block to the next, in [0, 1).
        block: Ticks in a block (AuctionNet's generator: 8).

    Returns:
        ``[C, T]`` float32 factors.
    """
    phase = jnp.arange(categories)[:, None] / categories
    wave = pattern * jnp.cos(2.0 * jnp.pi * ((jnp.arange(ticks) + 0.5)[None, :] / ticks - phase))
    shocks = jax.random.normal(key, (-(-ticks // block), categories))

    def advance(level: jax.Array, shock: jax.Array) -> tuple[jax.Array, jax.Array]:
        level = persistence * level + jnp.sqrt(1.0 - persistence**2) * shock
        return level, level

    _, later = jax.lax.scan(advance, shocks[0], shocks[1:])
    level = jnp.concatenate([shocks[:1], later])
    level = jnp.repeat(level, block, axis=0)[:ticks].T
    return jnp.exp(wave + noise * level - 0.5 * noise**2).astype(jnp.float32)
