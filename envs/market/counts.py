"""Counts of rare events whose luck is fixed beforehand, so that it is the same whatever a policy does."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_TERMS = 32  # probabilities summed one by one; at the mean below which they are, fewer than one draw in 1e9 lies beyond
_EXACT_BELOW = 8.0


def draw_arrivals(key: jax.Array, number: int) -> jax.Array:
    """Arrival times of a unit-rate Poisson process, ``[number]`` float32, rising.

    Events with cumulative expectation ``L(t)`` have happened ``n`` times by ``t`` where ``n`` arrivals lie at or below
    ``L(t)``: a Poisson count with mean ``L(t)``, whatever path led there.
    """
    return jnp.cumsum(jax.random.exponential(key, (number,)))


def poisson_quantile(u: jax.Array, mean: jax.Array) -> jax.Array:
    """Poisson counts from uniforms: the least count whose distribution function reaches ``u``.

    Exact for means below 8; above, the Cornish-Fisher expansion to third order, rounded, which is off by one count at
    most, and seldom. The same uniform and a larger mean give at least the same count, but for such roundings.

    Args:
        u: Uniforms in (0, 1), any shape.
        mean: Means, at least 0, of the same shape.

    Returns:
        Float32 whole numbers of that shape.
    """
    u = jnp.clip(u, 1e-6, 1.0 - 1e-6)
    small = jnp.minimum(mean, _EXACT_BELOW)[..., None]
    k = jnp.arange(_TERMS, dtype=jnp.float32)
    log_mass = k * jnp.log(jnp.maximum(small, 1e-30)) - small - jax.lax.lgamma(k + 1.0)
    counted = (jnp.cumsum(jnp.exp(log_mass), axis=-1) < u[..., None]).sum(axis=-1).astype(jnp.float32)
    sd = jnp.sqrt(jnp.maximum(mean, _EXACT_BELOW))
    z = jax.scipy.special.ndtri(u)
    expanded = mean + sd * z + (z**2 - 1.0) / 6.0 + (z - z**3) / (72.0 * sd)
    return jnp.where(mean < _EXACT_BELOW, counted, jnp.maximum(jnp.floor(expanded + 0.5), 0.0))
