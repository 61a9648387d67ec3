"""A batch of environments in shards, which lie on one device or on several: ``jax.shard_map`` over a ``("data",)`` mesh.

A learner that works in shards draws its actions and its minibatches shard by shard, and averages over all of them
wherever it would average over the batch: advantages, losses, gradients, normalisers. Each shard gives every minibatch the
same number of its own samples, so a mean of means is the mean. What is computed therefore depends on the number of shards,
which is part of the learner's configuration, and not on where they lie: with two shards, one device and two make the same
gradient steps on the same minibatches, and differ by rounding only.

Inside, every function sees one shard and is given the names of the axes to average over: ``"shard"`` (those of one device,
under ``jax.vmap``) and, where there are several, ``"data"`` (devices). One that is given ``axes=()`` works on the whole batch,
as if there were no shards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

Axes = tuple[str, ...]
"""Names of the axes to average over: those that `over_shards` gives, or ``()``."""


def choose_devices(shards: int, devices: int | None) -> int:
    """How many devices ``shards`` are spread over.

    Args:
        shards: Shards of the batch.
        devices: What was asked for; None for as many as there are and as divide ``shards``.

    Raises:
        ValueError: ``devices`` does not divide ``shards``, or there are not as many.
    """
    there = jax.device_count()
    if devices is None:
        return max(count for count in range(1, min(shards, there) + 1) if shards % count == 0)
    if isinstance(devices, bool) or not isinstance(devices, int) or not 1 <= devices <= there or shards % devices:
        raise ValueError(
            f"devices must divide shards ({shards}) and be at most {there}, those there are, got {devices!r}"
        )
    return devices


def mesh_of(devices: int) -> Mesh:
    """The first ``devices`` devices in a row called ``"data"``."""
    return Mesh(np.asarray(jax.devices()[:devices]), ("data",))


def over_shards(
    function: Callable[[Axes, Any, Any], tuple[Any, Any]], own: Any, shared: Any, *, shards: int, devices: int
) -> tuple[Any, Any]:
    """Calls ``function(axes, own, shared) -> (own, shared)`` for every shard at once.

    Args:
        function: Pure. ``own`` it sees has leaves ``[B / shards, ...]``; what it returns as ``shared`` must be the same in
            every shard (averaged over ``axes``, or made of nothing but ``shared``).
        own: Leaves ``[B, ...]``, split into ``shards`` consecutive parts.
        shared: Every shard sees the whole.
        shards: Divides ``B``.
        devices: Divides ``shards``.
    """
    here = shards // devices
    axes: Axes = ("shard",) if devices == 1 else ("data", "shard")

    def on_device(own: Any, shared: Any) -> tuple[Any, Any]:
        apart = jax.tree.map(lambda x: x.reshape(here, x.shape[0] // here, *x.shape[1:]), own)
        apart, shared = jax.vmap(functools.partial(function, axes), (0, None), (0, None), axis_name="shard")(
            apart, shared
        )
        return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), apart), shared

    if devices == 1:
        return on_device(own, shared)
    # Types that vary over devices are not checked: environments, users' own included, need not know of devices. That what
    # is shared does not vary is seen to by `vmap`, which refuses it where it does.
    specs = (P("data"), P())
    mapped = jax.shard_map(on_device, mesh=mesh_of(devices), in_specs=specs, out_specs=specs, check_vma=False)
    return mapped(own, shared)


def place(own: Any, shared: Any, *, devices: int) -> tuple[Any, Any]:
    """Puts states stacked over seeds where `over_shards` wants them: ``own`` ``[S, B, ...]`` in parts, ``shared`` whole."""
    mesh = mesh_of(devices)
    parts, whole = NamedSharding(mesh, P(None, "data")), NamedSharding(mesh, P())
    return jax.device_put(own, parts), jax.device_put(shared, whole)


def number_of(axes: Axes) -> jax.Array:
    """Number of this shard, counted from 0 through all devices; scalar int32."""
    number = jnp.int32(0)
    for name in axes:
        number = number * jax.lax.axis_size(name) + jax.lax.axis_index(name)
    return number


def key_of(key: jax.Array, axes: Axes) -> jax.Array:
    """A key of the shard's own; ``key`` itself without shards."""
    return jax.random.fold_in(key, number_of(axes)) if axes else key


def average(tree: Any, axes: Axes) -> Any:
    """Mean of every leaf over the shards."""
    return jax.lax.pmean(tree, axes) if axes else tree


def total(tree: Any, axes: Axes) -> Any:
    """Sum of every leaf over the shards."""
    return jax.lax.psum(tree, axes) if axes else tree


def mean(values: jax.Array, axes: Axes, where: jax.Array | None = None) -> jax.Array:
    """Mean over all entries of all shards, scalar; of those where ``where`` is true (NaN if there are none)."""
    if not axes or where is None:
        return average(jnp.mean(values, where=where), axes)
    total, count = jax.lax.psum((jnp.sum(values, where=where), jnp.sum(where.astype(jnp.float32))), axes)
    return total / count


def variance(values: jax.Array, axes: Axes) -> jax.Array:
    """Population variance over all entries of all shards, scalar."""
    return average(jnp.square(values - mean(values, axes)).mean(), axes) if axes else jnp.var(values)
