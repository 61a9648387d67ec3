"""Running moments that put observations and rewards on a unit scale."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from adarena.agents.shards import Axes, average

_EPSILON = 1e-8


@struct.dataclass
class Moments:
    """Mean and variance of all that was seen so far.

    Attributes:
        count: How many samples were seen, scalar float32.
        mean: ``[...]`` float32.
        variance: Population variance, ``[...]`` float32; one before the first sample.
    """

    count: jax.Array
    mean: jax.Array
    variance: jax.Array


def init_moments(shape: tuple[int, ...] = ()) -> Moments:
    """Moments of no samples: mean zero, variance one, so that normalising with them changes nothing."""
    return Moments(jnp.zeros(()), jnp.zeros(shape), jnp.ones(shape))


def update_moments(moments: Moments, samples: jax.Array, axes: Axes = ()) -> Moments:
    """Adds a batch of samples (parallel rule of Chan, Golub and LeVeque, 1979).

    Args:
        moments: Moments of shape ``[...]``.
        samples: ``[batch dimensions, ...]`` float32; leading dimensions are averaged over.
        axes: Shards that the batch is split into (see `adarena.agents.shards`); each adds as many samples.
    """
    leading = tuple(range(samples.ndim - moments.mean.ndim))
    shards = jax.lax.axis_size(axes) if axes else 1
    size = shards * (samples.size // max(moments.mean.size, 1))
    mean = average(samples.mean(leading), axes)
    variance = average(jnp.square(samples - mean).mean(leading), axes)
    total = moments.count + size
    share = size / total
    delta = mean - moments.mean
    new_variance = (1.0 - share) * moments.variance + share * variance + share * (1.0 - share) * jnp.square(delta)
    return Moments(total, moments.mean + share * delta, new_variance)


def normalise(moments: Moments, values: jax.Array, clip: float = 10.0) -> jax.Array:
    """``(values - mean) / sd``, clipped to ``[-clip, clip]``."""
    return jnp.clip((values - moments.mean) * jax.lax.rsqrt(moments.variance + _EPSILON), -clip, clip)


def rescale(moments: Moments, values: jax.Array, clip: float = 10.0) -> jax.Array:
    """``values / sd``, clipped to ``[-clip, clip]``: keeps the sign, which matters for rewards."""
    return jnp.clip(values * jax.lax.rsqrt(moments.variance + _EPSILON), -clip, clip)
