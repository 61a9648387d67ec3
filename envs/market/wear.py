"""Wear: users tire of a campaign, creatives grow old, and users far from its core convert less."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Number = jax.Array | float
"""A number, or an array that broadcasts with the rest."""


def fatigue(exposures: jax.Array, floor: Number, rate: Number) -> jax.Array:
    """CTR of a user's next exposure over that of the first: ``floor + (1 - floor) exp(-rate (k - 1))``.

    Args:
        exposures: Exposures that a user has had (and not forgotten), ``k - 1``; any shape.
        floor: What is left of the CTR after very many, in [0, 1].
        rate: Wear of one exposure; published fits lie near .089 (range .03 to .2).
    """
    return floor + (1.0 - floor) * jnp.exp(-rate * exposures)


def age_decay(age: jax.Array, half_life: Number) -> jax.Array:
    """CTR of a creative of ``age`` over that of a new one; age and half-life in days in service."""
    return jnp.exp2(-age / half_life)


def aged(age: jax.Array, share: jax.Array, days: float) -> jax.Array:
    """Ages ``[V]`` after ``days`` in which each of ``V`` creatives had ``share`` of the exposures.

    A creative with its equal share or more grows older by a day a day; one with less by that much less, and one that rests
    does not: what wears out is being seen.
    """
    return age + days * jnp.minimum(1.0, share.shape[-1] * share)


def lookalike_decay(distance: jax.Array, slope: Number) -> jax.Array:
    """Conversion rate of users at a distance from the core, over that of the core: ``exp(-slope x distance)``.

    Args:
        distance: In [0, 1]: the share of the pool that is closer to the core.
        slope: At least 0.
    """
    return jnp.exp(-slope * distance)


def forget(ticks: Number, half_life: Number) -> jax.Array:
    """Share of a memory left after ``ticks``; half-life in ticks."""
    return jnp.exp2(-ticks / jnp.asarray(half_life, jnp.float32))
