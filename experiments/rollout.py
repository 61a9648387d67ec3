"""Evaluation: one episode for each case, all cases in one compiled program, every policy on the same markets.

A case is a reset key and, if wished, numbers of ``params`` that it replaces (a seat, a budget). The key fixes the
market: two policies that get equal keys meet the same impressions, the same noise and the same luck (common random
numbers). A policy that JAX can trace runs inside one scan; one that it cannot (a torch model, a peer's NumPy class)
meets the same cases, with the same keys, in a Python loop, and gives a result of the same structure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from adarena.agents.policy import Policy
from adarena.envs.core import AutoReset, Env, episode_keys
from adarena.experiments.series import pick
from adarena.experiments.sharding import check_devices, in_chunks, on_devices, over_cases

_LARGE = 65536  # numbers in a policy beyond which it is not copied to each of its episodes


class Rollout(NamedTuple):
    """What episodes came to. ``[C]`` below is ``[S, C]`` from `rollout_seeds`.

    Attributes:
        metrics: Name to ``[C]``: ``return`` (the sum of rewards), ``length`` (ticks until the episode ended), what
            ``env.metrics(state, params)`` says of the last state, and what ``env.bound(infos, state, params)`` says of
            the whole episode; the last two where the environment has them.
        series: Name to ``[C, T, ...]``, what was asked for in ``record``; zero after the end of an episode.
    """

    metrics: dict[str, np.ndarray]
    series: dict[str, np.ndarray]


def rollout(
    env: Env,
    params: Any,
    policy: Policy,
    keys: jax.Array,
    cases: Mapping[str, Any] | None = None,
    *,
    record: Sequence[str] = (),
    paired: bool = False,
    bound: bool = True,
    chunk: int = 256,
    label: str = "episodes",
    devices: int | None = None,
) -> Rollout:
    """Runs one episode for each case.

    A policy that is a pytree (``flax.struct.dataclass``) is compiled once; other numbers in its leaves run the same
    program. One that is no pytree is compiled in as a constant: once if it is a hashable frozen dataclass, else anew at
    each call, since nobody could tell whether it has changed.

    Args:
        env: The environment itself, not wrapped in ``AutoReset``.
        params: Its parameters. Large arrays in it are shared by all cases, never copied.
        policy: The policy; its ``jittable`` says how it runs.
        keys: ``[C]`` typed keys; each is the reset key of its case.
        cases: Name of a numeric field of ``params`` to ``[C, ...]``, the value for each case. None by default.
        record: Series to keep: ``"action"``, ``"reward"``, names of observation entries (as the policy saw them when
            it chose that tick's action) and of ``info``; ``"obs.NAME"`` or ``"info.NAME"`` where both have a name.
        paired: Whether ``policy`` is one policy a case: a jittable pytree whose every leaf is ``[C, ...]``.
        bound: Whether to compute ``env.bound`` where there is one.
        chunk: Largest number of episodes at a time; all chunks share one compilation. Results depend on it by rounding.
        label: What the progress bar, shown after two seconds, says.
        devices: Devices that the cases are split over (``chunk`` is rounded up to a multiple); None for one. A policy that
            JAX cannot trace uses one.

    Raises:
        TypeError: ``env`` is an ``AutoReset``, ``keys`` are no typed keys, or the policy has a leaf that is no array.
        ValueError: A case names no field of ``params``, or its values have another shape or are not allowed (the
            environment's ``validate_changes`` is asked); ``record`` names nothing; an action has the wrong shape.
        RuntimeError: An episode did not end within ``env.max_steps(params)``.
    """
    plan, cases = _prepare(env, params, policy, keys, cases, record, bound, chunk, devices)
    if paired and (not policy.jittable or {x.shape[:1] for x in jax.tree.leaves(_leaves(policy))} != {(len(keys),)}):
        raise ValueError(
            f"policy must be a jittable pytree with leaves [{len(keys)}, ...] where paired, got {policy!r}"
        )
    whole = None if plan.constant is not None else _leaves(policy) if policy.jittable else policy
    params, keys, cases = on_devices((params, keys, cases), plan.devices)
    whole = on_devices(whole, plan.devices)

    def run(at: np.ndarray) -> Any:
        chosen = {name: values[at] for name, values in cases.items()}
        if hasattr(policy, "run_episode"):
            return _run_whole(plan, params, policy, keys[at], chosen)
        if policy.jittable:
            mine = jax.tree.map(lambda x: x[at], whole) if paired else whole
            return _run(plan, paired, params, mine, keys[at], chosen)
        return _run_in_python(plan, params, policy, keys[at], chosen)

    return Rollout(*in_chunks(run, len(keys), chunk, label, plan.devices if policy.jittable else 0))


def rollout_seeds(
    env: Env,
    params: Any,
    policies: Policy,
    keys: jax.Array,
    cases: Mapping[str, Any] | None = None,
    *,
    record: Sequence[str] = (),
    bound: bool = True,
    chunk: int = 256,
    label: str = "episodes",
    devices: int | None = None,
) -> Rollout:
    """Runs every case for each of S policies of one structure: training seeds, or candidates of a tuner.

    Args:
        env, params, cases, record, bound, label, devices: As in `rollout`.
        policies: A jittable policy, a pytree whose every leaf has a leading axis ``[S, ...]``.
        keys: ``[C]``, the same cases for every one.
        chunk: Largest number of episodes (policies times cases) at a time; with that many or more, one compilation
            serves any number of policies and cases.

    Raises:
        TypeError: As in `rollout`, or the policy is not jittable or no pytree.
        ValueError: As in `rollout`, or leaves disagree on S.
        RuntimeError: As in `rollout`.
    """
    plan, cases = _prepare(env, params, policies, keys, cases, record, bound, chunk, devices)
    if not policies.jittable or plan.constant is not None:
        raise TypeError(f"policies must be a jittable pytree stacked over seeds, got {type(policies).__name__}")
    leaves = _leaves(policies)
    shapes = {leaf.shape for leaf in jax.tree.leaves(leaves)}
    sizes = {shape[:1] for shape in shapes}
    if len(sizes) != 1 or sizes <= {(), (0,)}:
        raise ValueError(f"leaves of policies need the same leading axis of seeds, got shapes {sorted(shapes)}")
    seeds, count = sizes.pop()[0], len(keys)
    if sum(leaf.size for leaf in jax.tree.leaves(leaves)) > seeds * _LARGE:
        each = (jax.tree.map(lambda x, s=s: x[s], leaves) for s in range(seeds))
        rest: dict[str, Any] = {"record": record, "bound": bound, "chunk": chunk, "label": label, "devices": devices}
        return jax.tree.map(lambda *x: np.stack(x), *(rollout(env, params, one, keys, cases, **rest) for one in each))
    params, leaves, keys, cases = on_devices((params, leaves, keys, cases), plan.devices)

    def run(at: np.ndarray) -> Any:
        chosen = {name: values[at % count] for name, values in cases.items()}
        mine = jax.tree.map(lambda x: x[at // count], leaves)
        return _run(plan, True, params, mine, keys[at % count], chosen)

    parts = in_chunks(run, seeds * count, chunk, label, plan.devices)
    return jax.tree.map(lambda x: x.reshape(seeds, count, *x.shape[1:]), Rollout(*parts))


@dataclasses.dataclass(frozen=True)
class _Plan:
    """All that shapes the compiled program. ``constant``: a policy without leaves to pass in. ``devices``: how many."""

    env: Env
    steps: int
    action_shape: tuple[int, ...] | None
    action_dtype: str | None
    record: tuple[str, ...]
    bound: bool
    constant: Hashable
    devices: int = 1


@dataclasses.dataclass(frozen=True, eq=False)
class _Held:  # a policy that cannot be compared by value: equal to nothing but itself, so each call compiles anew
    policy: Any


class _Running(NamedTuple):  # an episode under way
    obs: jax.Array
    state: Any
    alive: jax.Array
    total: jax.Array
    length: jax.Array


def _prepare(
    env: Env,
    params: Any,
    policy: Policy,
    keys: jax.Array,
    cases: Mapping[str, Any] | None,
    record: Sequence[str],
    bound: bool,
    chunk: int,
    devices: int | None = None,
) -> tuple[_Plan, dict[str, jax.Array]]:
    """Checks everything that can be checked before anything runs."""
    if isinstance(env, AutoReset):
        raise TypeError("env must be the environment itself, got AutoReset: it would start another episode at the end")
    if not isinstance(keys, jax.Array) or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise TypeError(f"keys must be typed keys (jax.random.key), got {getattr(keys, 'dtype', type(keys).__name__)}")
    if keys.ndim != 1 or len(keys) == 0:
        raise ValueError(f"keys must have shape [C] with at least one case, got {keys.shape}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk!r}")
    if isinstance(record, str):
        raise ValueError(f"record must be a sequence of names, got the string {record!r}")
    checked = {name: _case(env, params, name, values, len(keys)) for name, values in (cases or {}).items()}
    space = env.action_space(params)
    dtype = None if space.dtype is None else np.dtype(space.dtype).name
    spread = check_devices(devices) if policy.jittable else 1
    plan = _Plan(env, env.max_steps(params), space.shape, dtype, tuple(record), bound, _constant(policy), spread)
    return plan, checked


def _case(env: Env, params: Any, name: str, values: Any, count: int) -> jax.Array:
    """``[C, ...]`` in the dtype of the field that it replaces."""
    fields = sorted(field.name for field in dataclasses.fields(params))
    if name not in fields:
        raise ValueError(f"cases names {name!r}, which is no field of params; fields are {', '.join(fields)}")
    old = getattr(params, name)
    if old is None or not jax.tree_util.all_leaves([old]):
        raise ValueError(f"cases[{name!r}] must replace a numeric field, got one of {type(old)}")
    leaf = jnp.asarray(old)
    array = np.asarray(values)
    if array.shape != (count, *leaf.shape):
        raise ValueError(f"cases[{name!r}] must have shape {(count, *leaf.shape)}, got {array.shape}")
    if not np.can_cast(array.dtype, np.dtype(leaf.dtype), "same_kind"):
        raise ValueError(f"cases[{name!r}] must be {leaf.dtype}, got {array.dtype}")
    if np.issubdtype(array.dtype, np.inexact) and not np.all(np.isfinite(array)):
        raise ValueError(f"cases[{name!r}] must be finite, got {array[~np.isfinite(array)][0]}")
    if hasattr(env, "validate_changes"):  # JAX would clamp or drop an index that is out of range
        for value in np.unique(array, axis=0):
            env.validate_changes({name: value})
    return jnp.asarray(array, leaf.dtype)


def _constant(policy: Policy) -> Hashable:
    """``None`` for a pytree, whose leaves are passed in; else what stands for the policy in the compilation cache."""
    if not jax.tree_util.all_leaves([policy]):
        return None
    parameters: Any = getattr(policy, "__dataclass_params__", None)
    if parameters is not None and parameters.frozen and parameters.eq and not isinstance(policy, type):
        with contextlib.suppress(TypeError):  # a field that cannot be hashed
            hash(policy)
            return cast(Hashable, policy)
    return _Held(policy)


def _leaves(policy: Policy) -> Any:
    """The policy with every leaf a strongly typed array, so that 1.0 and a float32 share one compilation."""

    def array(path: Any, leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array):
            return leaf
        if not isinstance(leaf, (np.ndarray, np.generic, bool, int, float)):
            where = f"{type(policy).__name__}{jax.tree_util.keystr(path)}"
            raise TypeError(f"{where} must be an array or a field with pytree_node=False, got {type(leaf).__name__}")
        return jnp.asarray(leaf, jax.dtypes.canonicalize_dtype(np.asarray(leaf).dtype))

    return jax.tree_util.tree_map_with_path(array, policy)


def _with(params: Any, case: dict[str, jax.Array]) -> Any:
    """The parameters of one case."""
    return dataclasses.replace(params, **case)


def _begin(plan: _Plan, params: Any, key: jax.Array, case: dict[str, jax.Array]) -> _Running:
    obs, state = plan.env.reset(key, _with(params, case))
    return _Running(obs, state, jnp.asarray(True), jnp.zeros(()), jnp.zeros((), jnp.int32))


def _checked(plan: _Plan, action: Any) -> Any:
    """The action, if it has the shape that the space wants."""
    if action.shape != plan.action_shape:
        raise ValueError(f"action must have the action space's shape {plan.action_shape}, got {action.shape}")
    return action


def _tick(
    plan: _Plan, params: Any, key: jax.Array, case: dict[str, jax.Array], running: _Running, action: Any
) -> tuple[_Running, tuple[dict[str, Any], dict[str, Any]]]:
    """One step; an episode that has ended stays as it was, and what is kept of it is zero."""
    if plan.action_dtype is not None:
        action = _checked(plan, jnp.asarray(action, plan.action_dtype))
    result = plan.env.step(key, running.state, action, _with(params, case))
    alive = running.alive
    obs, state = jax.tree.map(
        lambda new, old: jnp.where(alive, new, old), (result.obs, result.state), (running.obs, running.state)
    )
    reward = jnp.where(alive, result.reward, 0.0)
    after = _Running(
        obs, state, alive & ~(result.terminated | result.truncated), running.total + reward, running.length + alive
    )
    series = {name: pick(plan.env, name, running.obs, action, reward, result.info) for name in plan.record}
    infos = dict(result.info) if plan.bound and hasattr(plan.env, "bound") else {}
    return after, jax.tree.map(lambda x: jnp.where(alive, x, jnp.zeros_like(x)), (series, infos))


def _finish(
    plan: _Plan, params: Any, case: dict[str, jax.Array], running: _Running, infos: dict[str, Any]
) -> dict[str, Any]:
    """Metrics of an episode that has ended. ``infos`` are stacked ``[T, ...]``."""
    params = _with(params, case)
    sources: list[dict[str, Any]] = [{"return": running.total, "length": running.length}]
    if hasattr(plan.env, "metrics"):
        sources.append(plan.env.metrics(running.state, params))
    if plan.bound and hasattr(plan.env, "bound"):
        sources.append(plan.env.bound(infos, running.state, params))
    metrics: dict[str, Any] = {}
    for source in sources:
        twice = sorted(set(source) & set(metrics))
        if twice:
            raise ValueError(f"{type(plan.env).__name__} gives the metric {twice[0]!r} twice; names must differ")
        metrics.update(source)
    return metrics


def _episode(plan: _Plan, params: Any, policy: Any, key: jax.Array, case: dict[str, jax.Array]) -> Any:
    """Plays one episode; returns ``(metrics, series, still alive)``."""

    def body(carry: tuple[_Running, Any], keys: tuple[jax.Array, jax.Array]) -> tuple[tuple[_Running, Any], Any]:
        running, memory = carry
        memory, action = policy.act(keys[1], memory, running.obs)
        running, kept = _tick(plan, params, keys[0], case, running, action)
        return (running, memory), kept

    start = (_begin(plan, params, key, case), policy.init(_with(params, case)))
    (running, _), (series, infos) = jax.lax.scan(body, start, episode_keys(key, plan.steps))
    return _finish(plan, params, case, running, infos), series, running.alive


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(
    plan: _Plan, stacked: bool, params: Any, policy: Any, keys: jax.Array, cases: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], jax.Array]:
    """Plays ``[C]`` episodes, of one policy or (``stacked``) each of its own; ``params`` are never batched."""

    def one(params: Any, policy: Any, key: jax.Array, case: dict[str, jax.Array]) -> Any:
        if plan.constant is not None:
            policy = plan.constant.policy if isinstance(plan.constant, _Held) else plan.constant
        return _episode(plan, params, policy, key, case)

    return over_cases(one, stacked, plan.devices)(params, policy, keys, cases)


_begin_all = jax.jit(jax.vmap(_begin, in_axes=(None, None, 0, 0)), static_argnums=0)
_tick_all = jax.jit(jax.vmap(_tick, in_axes=(None, None, 0, 0, 0, 0)), static_argnums=0)
_finish_all = jax.jit(jax.vmap(_finish, in_axes=(None, None, 0, 0, 0)), static_argnums=0)
_keys_all = jax.jit(jax.vmap(episode_keys, in_axes=(0, None), out_axes=1), static_argnums=1)


def _run_in_python(
    plan: _Plan, params: Any, policy: Policy, keys: jax.Array, cases: dict[str, jax.Array]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """`_run` for one policy that JAX cannot trace: the market is compiled, the policy is called case by case."""
    plan = dataclasses.replace(plan, constant=None)
    running = _begin_all(plan, params, keys, cases)
    step_keys, act_keys = _keys_all(keys, plan.steps)
    memories = [policy.init(_with(params, {name: x[i] for name, x in cases.items()})) for i in range(len(keys))]
    blank = np.zeros(plan.action_shape or (), plan.action_dtype or np.float32)
    kept: list[Any] = []
    for tick in range(plan.steps):
        alive, obs = np.asarray(running.alive), np.array(running.obs)
        if not alive.any():
            kept += [jax.tree.map(np.zeros_like, kept[-1])] * (plan.steps - tick)
            break
        actions: list[Any] = [blank] * len(keys)
        for i in np.flatnonzero(alive):
            memories[i], action = policy.act(act_keys[tick, i], memories[i], obs[i])
            actions[i] = _checked(plan, np.asarray(action, plan.action_dtype))
        running, out = _tick_all(plan, params, step_keys[tick], cases, running, np.stack(actions))
        kept.append(jax.tree.map(np.asarray, out))
    series, infos = jax.tree.map(lambda *ticks: np.stack(ticks, axis=1), *kept)
    metrics = _finish_all(plan, params, cases, running, infos)
    return metrics, series, np.asarray(running.alive)


def _run_whole(
    plan: _Plan, params: Any, policy: Any, keys: jax.Array, cases: dict[str, jax.Array]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """`_run` for a policy that plays whole episodes itself."""
    if plan.record:
        raise ValueError(f"record={plan.record} keeps no series of {policy.name}, which plays whole episodes")
    each = [
        policy.run_episode(plan.env, _with(params, {name: x[i] for name, x in cases.items()}), key)
        for i, key in enumerate(keys)
    ]
    return {name: np.asarray([m[name] for m in each], np.float32) for name in each[0]}, {}, np.zeros(len(keys), bool)
