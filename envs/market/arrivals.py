"""Sparse events as Poisson processes in cumulative expectation: the luck of an ad is fixed before anybody bids.

An ad's events (conversions, say) are a Poisson process of rate 1 in its cumulative expected events: the count so far is the
number of arrival times at or below that expectation. Arrival times are drawn at reset, so two policies that bring an ad to
the same expectation bring it the same events, and "at least n events" is a threshold in expectation. Kinds of event that
thin one process (clicks that convert and clicks that do not) are independent processes; their sum is exact.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adarena.envs.market.counter import uniforms

_BLOCK = 16


def arrival_times(key: jax.Array, rows: int, count: int) -> jax.Array:
    """The first ``count`` arrival times of ``rows`` processes of rate 1, ``[rows, count]`` float32, rising.

    Args:
        key: JAX key.
        rows: Processes.
        count: Arrivals of each, a multiple of 16.

    Raises:
        ValueError: ``count`` is no positive multiple of 16.
    """
    if count < 1 or count % _BLOCK:
        raise ValueError(f"count must be a positive multiple of {_BLOCK}, got {count!r}")
    gaps = -jnp.log(uniforms(jax.random.bits(key, (2,)), jnp.arange(count), rows))
    # Sums of sums by products with triangles of ones: a running sum along so short an axis is slow on CPU.
    blocks = gaps.reshape(rows, -1, _BLOCK)
    within = jnp.matmul(blocks, _until(_BLOCK), precision="highest")
    total = within[..., -1]
    before = jnp.matmul(total, _until(total.shape[1]), precision="highest") - total
    return (within + before[..., None]).reshape(rows, count)


def _until(size: int) -> jax.Array:
    order = jnp.arange(size)
    return (order[:, None] <= order[None, :]).astype(jnp.float32)


def arrivals_by(times: jax.Array, level: jax.Array) -> jax.Array:
    """Arrivals up to a level of expectation; beyond the last time drawn, counts go on with the expectation.

    Args:
        times: ``[L, K]`` from `arrival_times`.
        level: ``[L]`` cumulative expectation.

    Returns:
        ``[L]`` float32, whole up to ``K``.
    """
    count = (times <= level[:, None]).sum(axis=1).astype(jnp.float32)
    return count + jnp.maximum(level - times[:, -1], 0.0)
