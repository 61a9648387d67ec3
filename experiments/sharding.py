"""Episodes a chunk at a time, on one device or on several: a ``("data",)`` mesh splits the cases, the rest is everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from adarena.agents.shards import mesh_of

Play = Callable[[Any, Any, jax.Array, dict[str, jax.Array]], Any]
"""``play(params, policy, key, case)``: one episode, a pytree of arrays."""


def check_devices(devices: int | None) -> int:
    """The number of devices asked for; None asks for one.

    Raises:
        ValueError: There are not as many.
    """
    there = jax.device_count()
    if devices is None:
        return 1
    if isinstance(devices, bool) or not isinstance(devices, int) or not 1 <= devices <= there:
        raise ValueError(f"devices must be a whole number from 1 to {there}, those there are, got {devices!r}")
    return devices


def on_devices(tree: Any, devices: int) -> Any:
    """Puts a copy of the tree on every device, once for all calls that follow; as it is for one device."""
    return tree if devices == 1 else jax.device_put(tree, NamedSharding(mesh_of(devices), P()))


def over_cases(play: Play, stacked: bool, devices: int) -> Callable[..., Any]:
    """``play`` for ``[C]`` keys and cases, to be compiled.

    A case by itself is not batched: the market then clears one tick with no copy of it made for a batch of one.

    Args:
        play: One episode.
        stacked: Whether every case has a policy of its own (leaves ``[C, ...]``).
        devices: Divides ``C``; each plays the same number of consecutive cases.
    """
    batched = jax.vmap(play, (None, 0 if stacked else None, 0, 0))
    if devices > 1:
        apart = P("data")
        specs = (P(), apart if stacked else P(), apart, apart)
        # Not checked: environments and policies need not know of devices (see `adarena.agents.shards`).
        return jax.shard_map(batched, mesh=mesh_of(devices), in_specs=specs, out_specs=apart, check_vma=False)

    def run(params: Any, policy: Any, keys: jax.Array, cases: dict[str, jax.Array]) -> Any:
        if len(keys) > 1:
            return batched(params, policy, keys, cases)
        only = jax.tree.map(lambda x: x[0], (keys, cases, policy if stacked else None))
        alone = play(params, only[2] if stacked else policy, *only[:2])
        return jax.tree.map(lambda x: x[None], alone)

    return run


def cores() -> int:
    """How many episodes of one market may run side by side: the CPU's cores; 1 on an accelerator."""
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _calls(call: Callable[[int], Any], starts: range, beside: int) -> Iterator[Any]:
    """The calls' results in order. The first call is alone: it compiles."""
    yield call(starts[0])
    if beside == 1:
        yield from map(call, starts[1:])
        return
    with ThreadPoolExecutor(beside) as pool:
        yield from pool.map(call, starts[1:])


def in_chunks(
    run: Callable[[np.ndarray], Any], count: int, chunk: int, label: str, pad: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Calls ``run`` on indices of episodes, ``chunk`` at a time or all if fewer; joins what comes.

    Every call gets as many (the last repeats an episode), a multiple of ``pad``; where that is 0, nothing is repeated.
    Single episodes of a compiled program (``pad`` and a size of 1) run side by side, one a core.
    """
    size = min(count, chunk)
    size = size if not pad else -(-size // pad) * pad

    def call(start: int) -> tuple[int, list[dict[str, np.ndarray]]]:
        kept = min(size, count - start)
        at = np.minimum(np.arange(start, start + (size if pad else kept)), count - 1)
        metrics, series, alive = run(at)
        if np.any(np.asarray(alive)):
            raise RuntimeError("an episode did not end within env.max_steps(params); its result would be partial")
        return kept, [{name: np.asarray(x)[:kept] for name, x in part.items()} for part in (metrics, series)]

    parts: list[list[dict[str, np.ndarray]]] = []
    with tqdm(total=count, desc=label, unit="episode", delay=2.0, disable=None, leave=False) as bar:
        for kept, part in _calls(call, range(0, count, size), cores() if pad and size == 1 else 1):
            parts.append(part)
            bar.update(kept)
    metrics, series = ({name: np.concatenate([p[i][name] for p in parts]) for name in parts[0][i]} for i in (0, 1))
    return metrics, series
