"""An auction of one's own: who wins what stays as it is, what a slot costs is new."""

import jax
import jax.numpy as jnp


def midway(score: jax.Array, exposure: jax.Array, reserve: jax.Array) -> jax.Array:
    """Half-way between the next lower score (GSP) and the best score that wins no slot (Vickrey, like slots).

    Args:
        score: ``[K + 1, M]`` falling scores of M impressions, the first K of which hold the slots.
        exposure: ``[K]`` probability that an ad in the slot is seen.
        reserve: ``[M]`` least score that may hold a slot.

    Returns:
        ``[K, M]`` what the holder of each slot pays.
    """
    below = jnp.maximum(score[1:], reserve)
    return 0.5 * (below + below[-1])
