"""Running moments that put observations and rewards on a unit scale."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from adarena.agents.shards import Axes, average, total
from adarena.envs.sets import SetLayout, layout_in

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


@struct.dataclass
class SetMoments:
    """Moments of observations of a set (`adarena.envs.sets.SetLayout`): a feature has the same for all items.

    Attributes:
        context: Moments of the entries that belong to no item, ``[G]``.
        items: Moments of the features, ``[F]``, over the items that were there; the mask's are kept and not used.
    """

    context: Moments
    items: Moments


ObsMoments = Moments | SetMoments
"""Moments of observations: of a vector's entries, or of a set."""


def init_moments(shape: tuple[int, ...] = ()) -> Moments:
    """Moments of no samples: mean zero, variance one, so that normalising with them changes nothing."""
    return Moments(jnp.zeros(()), jnp.zeros(shape), jnp.ones(shape))


def init_set_moments(layout: SetLayout) -> SetMoments:
    """Moments of no samples, for observations of a set."""
    return SetMoments(init_moments((layout.context,)), init_moments((layout.features,)))


def update_obs_moments(
    moments: ObsMoments, obs: jax.Array, axes: Axes = (), *, where: jax.Array | None = None
) -> ObsMoments:
    """Adds observations ``[batch dimensions, O]`` to moments of either kind; the rest as in `update_moments`."""
    if isinstance(moments, Moments):
        return update_moments(moments, obs, axes, where=where)
    context, items, mask = _layout(moments, obs).split(obs)
    there = mask if where is None else mask & where[..., None]
    return SetMoments(
        update_moments(moments.context, context, axes, where=where),
        update_moments(moments.items, items, axes, where=there),
    )


def update_moments(moments: Moments, samples: jax.Array, axes: Axes = (), *, where: jax.Array | None = None) -> Moments:
    """Adds a batch of samples (parallel rule of Chan, Golub and LeVeque, 1979).

    Args:
        moments: Moments of shape ``[...]``.
        samples: ``[batch dimensions, ...]`` float32; leading dimensions are averaged over.
        axes: Shards that the batch is split into (see `adarena.agents.shards`); each adds as many samples.
        where: Which samples count, ``[batch dimensions]`` bool; all by default.
    """
    if where is not None:
        return _update_masked(moments, samples, where, axes)
    leading = tuple(range(samples.ndim - moments.mean.ndim))
    shards = jax.lax.axis_size(axes) if axes else 1
    size = shards * (samples.size // max(moments.mean.size, 1))
    mean = average(samples.mean(leading), axes)
    variance = average(jnp.square(samples - mean).mean(leading), axes)
    count = moments.count + size
    return _combine(moments, count, size / count, mean, variance)


def _update_masked(moments: Moments, samples: jax.Array, where: jax.Array, axes: Axes) -> Moments:
    """`update_moments` on the samples where ``where`` is true, of which shards may have different numbers."""
    leading = tuple(range(where.ndim))
    there = where.reshape(*where.shape, *(1,) * moments.mean.ndim)
    size = total(where.sum().astype(jnp.float32), axes)
    least = jnp.maximum(size, 1.0)
    mean = total(jnp.where(there, samples, 0.0).sum(leading), axes) / least
    variance = total(jnp.where(there, jnp.square(samples - mean), 0.0).sum(leading), axes) / least
    count = moments.count + size
    return _combine(moments, count, size / jnp.maximum(count, 1.0), mean, variance)


def _combine(moments: Moments, count: jax.Array, share: jax.Array, mean: jax.Array, variance: jax.Array) -> Moments:
    """Adds samples of this mean and variance, which are ``share`` of all ``count``."""
    delta = mean - moments.mean
    new_variance = (1.0 - share) * moments.variance + share * variance + share * (1.0 - share) * jnp.square(delta)
    return Moments(count, moments.mean + share * delta, new_variance)


def normalise_obs(moments: ObsMoments, obs: jax.Array) -> jax.Array:
    """Observations ``[..., O]`` on a unit scale. Of a set, masks stay as they are, and empty places are zero."""
    if isinstance(moments, Moments):
        return normalise(moments, obs)
    layout = _layout(moments, obs)
    context, items, mask = layout.split(obs)
    scaled = normalise(moments.items, items).at[..., 0].set(1.0)
    return layout.join(normalise(moments.context, context), jnp.where(mask[..., None], scaled, 0.0))


def _layout(moments: SetMoments, obs: jax.Array) -> SetLayout:
    """Where things lie in observations ``[..., O]``, by the sizes of their moments."""
    return layout_in(obs, moments.context.mean.shape[-1], moments.items.mean.shape[-1])


def normalise(moments: Moments, values: jax.Array, clip: float = 10.0) -> jax.Array:
    """``(values - mean) / sd``, clipped to ``[-clip, clip]``."""
    return jnp.clip((values - moments.mean) * jax.lax.rsqrt(moments.variance + _EPSILON), -clip, clip)


def rescale(moments: Moments, values: jax.Array, clip: float = 10.0) -> jax.Array:
    """``values / sd``, clipped to ``[-clip, clip]``: keeps the sign, which matters for rewards."""
    return jnp.clip(values * jax.lax.rsqrt(moments.variance + _EPSILON), -clip, clip)
