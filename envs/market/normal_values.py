"""AuctionNet's generator: values are normal around means that move from tick to tick, independent between advertisers.

Source: alimama-tech/AuctionNet at c20de63, its traffic generator, as read in code: a mean conversion rate of 5e-4 times
U(.3, 1.7) for each category and 8 ticks, times U(.5, 1.5) for 7 of 8 advertisers of a category; a standard deviation of
N(.5, .1) of the mean by advertiser, with 20 % noise by tick; values N(mean, sd) clipped to [0, 1]; what bidders are told
beside it, a standard deviation of |N(m, m / 2)| of the value, at most .3, with m ~ N(.15, .06) by advertiser. Impressions
by tick: a daily curve times U(.6, 1.4) for every 4 ticks, brought back to the day's total.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adarena.envs import pytree
from adarena.envs.market.counter import normals, normals_of
from adarena.envs.market.traffic import Bank

MEAN_VALUE = 5e-4
"""Mean conversion rate of an exposed impression."""


class Moments(NamedTuple):
    """An episode's values; float32.

    Attributes:
        mean: ``[N, T]`` mean conversion rate.
        sd: ``[N, T]`` its standard deviation over impressions.
    """

    mean: jax.Array
    sd: jax.Array


@pytree.dataclass
class NormalBank:
    """Impressions whose values are drawn around `Moments`; stands where a `Bank` stands in the parameters.

    Attributes:
        normals: ``[G, N, M]`` float32 standard normals in blocks that are visited at random, or None: every value is
            drawn afresh, by `adarena.envs.market.counter`.
        scale: ``[N]`` float32 an advertiser's mean over its category's.
        ratio: ``[N]`` float32 standard deviation over mean.
        sigma_ratio: ``[N]`` float32 mean of the told standard deviation over the value.
        level: ``[N]`` float32 long-run mean conversion rate.
        daily: ``[T]`` float32 share of the day's impressions, sums to 1.
        ctr_factor: ``[T]`` float32, ones: no rate of this market moves by the hour alone.
    """

    normals: jax.Array | None
    scale: jax.Array
    ratio: jax.Array
    sigma_ratio: jax.Array
    level: jax.Array
    daily: jax.Array
    ctr_factor: jax.Array


def normal_bank(
    seed: int, *, advertisers: int, categories: int, daily: np.ndarray, blocks: int, impressions: int
) -> NormalBank:
    """Draws the advertisers, and ``blocks`` of normals (none with 0: fresh draws).

    Args:
        seed: Seed of both.
        advertisers: ``N``.
        categories: ``C``.
        daily: ``[T]`` impressions of each tick, in any unit.
        blocks: ``G``.
        impressions: ``M``, impressions of a block.
    """
    rng = np.random.default_rng([seed, 0xAC])
    scale = rng.uniform(0.5, 1.5, advertisers)
    category = np.arange(advertisers) * categories // advertisers
    first = np.unique(category, return_index=True)[1]
    scale[first] = 1.0  # one advertiser of each category has its category's own mean
    stored = None
    if blocks:
        stored = jax.random.normal(jax.random.key(seed), (blocks, advertisers, impressions))
    f32 = jnp.float32
    return NormalBank(
        normals=stored,
        scale=jnp.asarray(scale, f32),
        ratio=jnp.asarray(np.maximum(rng.normal(0.5, 0.1, advertisers), 0.05), f32),
        sigma_ratio=jnp.asarray(np.clip(rng.normal(0.15, 0.06, advertisers), 0.0, 0.3), f32),
        level=jnp.asarray(MEAN_VALUE * scale, f32),
        daily=jnp.asarray(daily / daily.sum(), f32),
        ctr_factor=jnp.ones(len(daily), f32),
    )


def draw_moments(key: jax.Array, bank: NormalBank, category: jax.Array, categories: int) -> Moments:
    """An episode's means and deviations; ``key`` is the episode's ``values`` stream, ``category [N]``."""
    ticks = bank.daily.shape[0]
    key_mean, key_sd = jax.random.split(key)
    by_block = jax.random.uniform(key_mean, (categories, -(-ticks // 8)), minval=0.3, maxval=1.7)
    mean = MEAN_VALUE * bank.scale[:, None] * jnp.repeat(by_block, 8, axis=1)[:, :ticks][category]
    noise = 1.0 + 0.2 * jax.random.normal(key_sd, mean.shape)
    return Moments(mean, jnp.maximum(mean * bank.ratio[:, None] * noise, 0.0))


def draw_counts(key: jax.Array, bank: NormalBank, daily_impressions: jax.Array) -> jax.Array:
    """Impressions of each tick, ``[T]`` float32, whole numbers."""
    ticks = bank.daily.shape[0]
    share = bank.daily * jnp.repeat(jax.random.uniform(key, (-(-ticks // 4),), minval=0.6, maxval=1.4), 4)[:ticks]
    return jnp.round(daily_impressions * share / share.sum())


def draw_block(
    key: jax.Array, bank: NormalBank, moments: Moments, tick: jax.Array, part: jax.Array, weight: jax.Array
) -> tuple[Bank, jax.Array]:
    """A block of impressions, as a `Bank` of one block, and the numbers of its impressions ``[M]``.

    Args:
        key: The episode's ``traffic`` stream.
        bank: Where normals come from.
        moments: The episode's.
        tick: Int32 scalar.
        part: Int32 scalar, which block of the tick this is.
        weight: ``[M]`` real impressions that each stands for; 0 pads.
    """
    advertisers, impressions = bank.scale.shape[0], weight.shape[0]
    number = _numbers(tick, part, impressions)
    if bank.normals is None:
        z = normals(_seed(key), number, advertisers)
    else:
        z = bank.normals[_drawn_block(key, bank.normals, tick, part)]
    pvalue = jnp.clip(moments.mean[:, tick][:, None] + moments.sd[:, tick][:, None] * z, 0.0, 1.0)
    one = jnp.ones((1, impressions), jnp.float32)
    whole = Bank(
        pctr=jnp.ones((1, advertisers, impressions), jnp.float32),
        pvalue=pvalue[None],
        noise=None,
        level=bank.level,
        worth=one,
        outside=0.0 * one,
        weight=weight[None],
        first=jnp.zeros_like(bank.daily, jnp.int32),
        last=jnp.ones_like(bank.daily, jnp.int32),
        daily=bank.daily,
        ctr_factor=bank.ctr_factor,
    )
    return whole, number


def draw_values_of(
    key: jax.Array,
    bank: NormalBank,
    moments: Moments,
    tick: jax.Array,
    part: jax.Array,
    impressions: int,
    seat: jax.Array,
) -> jax.Array:
    """What one advertiser's values are in `draw_block`, ``[M]``, without drawing the others'; ``seat`` int32."""
    if bank.normals is None:
        z = normals_of(_seed(key), _numbers(tick, part, impressions), bank.scale.shape[0], seat)
    else:
        z = bank.normals[_drawn_block(key, bank.normals, tick, part), seat]
    return jnp.clip(moments.mean[seat, tick] + moments.sd[seat, tick] * z, 0.0, 1.0)


def _numbers(tick: jax.Array, part: jax.Array, impressions: int) -> jax.Array:
    """Numbers of a block's impressions within the day, ``[M]``; apart for ticks of up to 1,024 blocks."""
    return (tick * 1024 + part) * impressions + jnp.arange(impressions)


def _seed(key: jax.Array) -> jax.Array:
    return jax.random.bits(key, (2,), jnp.uint32)


def _drawn_block(key: jax.Array, stored: jax.Array, tick: jax.Array, part: jax.Array) -> jax.Array:
    return jax.random.randint(jax.random.fold_in(jax.random.fold_in(key, tick), part), (), 0, stored.shape[0])


def draw_sigma(key: jax.Array, bank: NormalBank, pvalue: jax.Array) -> jax.Array:
    """What bidders are told of the spread of their values, ``[N, I]`` like ``pvalue``: ratio |N(m, m / 2)|, at most .3.

    The conversion itself is a Bernoulli draw of a normal around ``pvalue`` of that spread, cut to [0, 1]; its mean is
    ``pvalue`` to within a twentieth of a percent, so a conversion is a Bernoulli draw of ``pvalue`` itself.
    """
    z = normals(_seed(jax.random.fold_in(key, 0x51)), jnp.arange(pvalue.shape[1]), pvalue.shape[0])
    ratio = bank.sigma_ratio[:, None] * jnp.abs(1.0 + 0.5 * z)
    return pvalue * jnp.minimum(ratio, 0.3)
