"""The conformance suite: what every environment of adarena keeps to, and a user's own environment should.

Use it in a test of your own::

    from adarena.envs.testing import check_env

    def test_my_environment() -> None:
        check_env(MyEnv(), env_id="mine/Env-v0")
"""

from __future__ import annotations

import copy
import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.utils.env_checker import check_env as gymnasium_check
from jax.tree_util import keystr, tree_leaves_with_path

from adarena.envs.core import Entry, Env, StepResult

SWEPT_SIZE = 100_000
"""Leaves of the parameters with more elements than this (logs, banks of impressions) are not stacked for a sweep."""


class ConformanceError(AssertionError):
    """An environment breaks the contract; the message lists every way that was found.

    Attributes:
        problems: One sentence each.
    """

    def __init__(self, name: str, problems: list[str]) -> None:
        self.problems = problems
        listed = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"{name} does not keep to the contract of adarena.envs.core.Env:{listed}")


@dataclasses.dataclass(frozen=True)
class _Subject:
    """What is checked, and how."""

    env: Env
    params: Any
    seed: int
    steps: int
    env_id: str | None
    deterministic: bool
    exogenous: tuple[str, ...]

    def key(self, number: int) -> jax.Array:
        """One of the keys of the check."""
        return jax.random.fold_in(jax.random.key(self.seed), number)

    def actions(self, number: int) -> np.ndarray:
        """Random actions, ``[number, ...]``."""
        space = self.env.action_space(self.params)
        space.seed(self.seed)
        return np.stack([np.asarray(space.sample()) for _ in range(number)])


def check_env(
    env: Env,
    params: Any = None,
    *,
    seed: int = 0,
    steps: int | None = None,
    env_id: str | None = None,
    deterministic: bool = False,
    exogenous: tuple[str, ...] = (),
) -> None:
    """Checks an environment against the contract of `adarena.envs.core.Env`.

    That is: the object is a frozen, hashable, copyable dataclass; ``OBSERVATION`` and the spaces agree; the leaves of
    the parameters are numbers; ``reset`` and ``step`` return what they should, keep the structure and types of the
    state, are pure, are traced once, and run under ``jax.vmap`` (over keys, states, actions, parameters) and
    ``jax.lax.scan``; observations stay in their bounds and rewards finite, with random and with extreme actions, and
    nothing turns into NaN after the end; an episode ends within ``max_steps``; keys decide what happens.

    Args:
        env: The environment.
        params: Its parameters; by default ``env.default_params()``.
        seed: Seed of the keys and actions.
        steps: How far episodes are followed; by default ``max_steps`` and three more. With fewer than ``max_steps``,
            the end of an episode is not checked.
        env_id: The name under which it is registered; then Gymnasium's own check runs as well, warnings counting as
            errors.
        deterministic: The environment has no randomness, so different keys may give the same episode.
        exogenous: Names of entries of ``OBSERVATION`` that no action moves (time, forecast of traffic): checked to be
            the same whatever the actions are, which comparisons on common random numbers need.

    Raises:
        ConformanceError: Something is wrong; the message lists all that was found.
    """
    if not isinstance(env, Env):
        raise ConformanceError(repr(env), ["env must be an instance of a subclass of adarena.envs.core.Env"])
    problems = _collect(_check_object, env, params)
    if not problems:
        params = env.default_params() if params is None else params
        length = int(env.max_steps(params)) + 3 if steps is None else steps
        problems = _run_stages(_Subject(env, params, seed, length, env_id, deterministic, tuple(exogenous)))
    if problems:
        raise ConformanceError(type(env).__name__, problems)


def _run_stages(subject: _Subject) -> list[str]:
    """Runs the checks, each stage only if those before it found nothing on which it stands."""
    stages: tuple[tuple[Callable[[_Subject], Iterator[str]], ...], ...] = (
        (_check_spaces, _check_params),
        (_check_reset, _check_step, _check_pure),
        (_check_calls, _check_vmap, _check_episodes),
        (_check_gymnasium,),
    )
    for stage in stages:
        problems = [problem for check in stage for problem in _collect(check, subject)]
        if problems:
            return problems
    return []


def _collect(check: Callable[..., Iterator[str]], *args: Any) -> list[str]:
    """The problems that a check yields; an exception in the environment is one more."""
    problems: list[str] = []
    try:
        problems += check(*args)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        problems.append(f"{check.__name__.removeprefix('_')}: {type(error).__name__} was raised: {first}")
    return problems


def _check_object(env: Env, params: Any) -> Iterator[str]:
    """A frozen, hashable, copyable dataclass with a bound on its steps."""
    parameters = getattr(type(env), "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        yield f"{type(env).__name__} must be a dataclass with frozen=True"
    try:
        hash(env)
    except TypeError as error:
        yield f"the environment must be hashable (fields of tuples, not of lists or arrays): {error}"
        return
    twin = copy.deepcopy(env)
    if twin != env or hash(twin) != hash(env):
        yield "a deep copy of the environment must be equal to it and have the same hash"
    bound = env.max_steps(env.default_params() if params is None else params)
    if isinstance(bound, bool) or not isinstance(bound, int | np.integer) or bound < 1:
        yield f"max_steps must return a whole number of at least 1, got {bound!r}"


def _check_spaces(subject: _Subject) -> Iterator[str]:
    """Entries and spaces agree."""
    entries = tuple(subject.env.OBSERVATION)
    if not entries or not all(isinstance(entry, Entry) for entry in entries):
        yield "OBSERVATION must be a non-empty tuple of adarena.envs.core.Entry"
        return
    names = [entry.name for entry in entries]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"OBSERVATION names {name!r} more than once"
    for entry in entries:
        if not (np.isfinite(entry.low) and np.isfinite(entry.high) and entry.low < entry.high):
            yield f"OBSERVATION entry {entry.name!r} must have finite low < high, got {entry.low} and {entry.high}"
    for name in sorted(set(subject.exogenous) - set(names)):
        yield f"exogenous names {name!r}, which is no entry of OBSERVATION"
    space = subject.env.observation_space(subject.params)
    if not isinstance(space, gymnasium.spaces.Box) or space.dtype != np.float32 or len(space.shape) != 1:
        yield f"observation_space must be a flat float32 Box, got {space}"
    elif space.shape != (len(entries),):
        yield f"OBSERVATION has {len(entries)} entries, observation_space has shape {space.shape}"
    else:
        bounds = np.asarray([(entry.low, entry.high) for entry in entries], np.float32).T
        if not (np.allclose(bounds[0], space.low) and np.allclose(bounds[1], space.high)):
            yield "observation_space must have the bounds that the entries of OBSERVATION state"
    space = subject.env.action_space(subject.params)
    if not isinstance(space, gymnasium.Space):
        yield f"action_space must return a gymnasium space, got {space!r}"
    elif isinstance(space, gymnasium.spaces.Box):
        if space.dtype != np.float32:
            yield f"action_space must have dtype float32, got {space.dtype}"
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            yield f"action_space must have finite bounds, got {space}"


def _check_params(subject: _Subject) -> Iterator[str]:
    """Leaves are numbers, so that one compiled program sweeps them."""
    for path, leaf in tree_leaves_with_path(subject.params):
        dtype = getattr(leaf, "dtype", None)
        number = isinstance(leaf, bool | int | float | np.ndarray | np.generic | jax.Array)
        if not number or (dtype is not None and not isinstance(leaf, jax.Array) and dtype.kind not in "biuf"):
            yield f"params{keystr(path)} must be a number or a numeric array, got {leaf!r}"


def _check_reset(subject: _Subject) -> Iterator[str]:
    """Two values; an observation in its space; the same key, the same episode."""
    run = jax.jit(subject.env.reset)
    returned = run(subject.key(0), subject.params)
    if not isinstance(returned, tuple) or len(returned) != 2:
        yield f"reset must return (obs, state), got {type(returned).__name__} of {len(returned)} values"
        return
    obs, space = returned[0], subject.env.observation_space(subject.params)
    if getattr(obs, "dtype", None) != jnp.float32 or obs.shape != space.shape:
        what = f"{getattr(obs, 'dtype', type(obs).__name__)} of shape {getattr(obs, 'shape', None)}"
        yield f"reset must return a float32 observation of shape {space.shape}, got {what}"
    else:
        yield from _check_bounds(np.asarray(obs)[None], subject, "reset")
    if not _same(returned, run(subject.key(0), subject.params)):
        yield "reset with the same key must return the same bits"


def _check_bounds(stream: np.ndarray, subject: _Subject, where: str) -> Iterator[str]:
    """Every entry of observations ``[N, entries]`` within its bounds."""
    for column, entry in enumerate(subject.env.OBSERVATION):
        values = stream[:, column]
        slack = 1e-5 * (entry.high - entry.low)
        wrong = ~((values >= entry.low - slack) & (values <= entry.high + slack))
        if wrong.any():
            yield f"{where}: {entry.name!r} must lie between {entry.low} and {entry.high}, got {values[wrong][0]}"


def _check_step(subject: _Subject) -> Iterator[str]:
    """Six values of the right shapes and types; the state keeps its own."""
    env, params = subject.env, subject.params
    obs, state = jax.jit(env.reset)(subject.key(0), params)
    action = subject.actions(1)[0]
    returned = jax.eval_shape(env.step, subject.key(1), state, action, params)
    if not isinstance(returned, tuple) or len(returned) != 6:
        yield "step must return (obs, state, reward, terminated, truncated, info), a StepResult"
        return
    result = StepResult(*returned)
    if result.obs.shape != obs.shape or result.obs.dtype != obs.dtype:
        yield f"step must return an observation like reset's, got {result.obs.dtype} of shape {result.obs.shape}"
    for name, dtype in (("reward", jnp.float32), ("terminated", jnp.bool_), ("truncated", jnp.bool_)):
        value = getattr(result, name)
        if value.shape != () or value.dtype != dtype:
            yield f"step must return {name} as a scalar of {dtype.__name__}, got {value.dtype} of shape {value.shape}"
    info = result.info
    if not (isinstance(info, dict) and all(isinstance(k, str) and hasattr(v, "dtype") for k, v in info.items())):
        yield "info must be a flat dictionary from names to arrays"
    if _structure(state) != _structure(result.state):
        yield "step must return a state of the same tree structure as reset's, or jax.lax.scan cannot carry it"
        return
    for (path, old), new in zip(tree_leaves_with_path(state), jax.tree.leaves(result.state), strict=True):
        one, two = (f"{leaf.dtype}{list(leaf.shape)}" for leaf in (old, new))
        if one != two:
            yield f"state{keystr(path)} must keep shape and dtype: reset gives {one}, step gives {two}"


def _check_pure(subject: _Subject) -> Iterator[str]:
    """Nothing outside the arguments counts, and nothing outside the result changes."""
    env, params = subject.env, subject.params
    before = copy.deepcopy(vars(env))
    copied = jax.tree.map(lambda leaf: np.array(leaf) if isinstance(leaf, np.ndarray) else leaf, params)
    action = subject.actions(1)[0]
    first, second = (_program(lambda key: _reset_and_step(env, key, action, params), subject.key(0)) for _ in range(2))
    if first[0] != second[0] or not _same(first[1], second[1]):
        yield "reset and step must be pure: two traces differ, so something outside their arguments counts"
    if vars(env) != before:
        yield "reset and step must not change the environment"
    if not _same(params, copied):
        yield "reset and step must not change the parameters in place"


def _reset_and_step(env: Env, key: jax.Array, action: Any, params: Any) -> Any:
    """One reset and one step."""
    key_reset, key_step = jax.random.split(key)
    return tuple(env.step(key_step, env.reset(key_reset, params)[1], action, params))


def _program(function: Callable[..., Any], *args: Any) -> tuple[str, list[Any]]:
    """What a function computes, as text without addresses, and its constants."""
    closed = jax.make_jaxpr(function)(*args)
    return re.sub(r"0x[0-9a-fA-F]+", "", str(closed)), [np.asarray(const) for const in map(_data, closed.consts)]


def _data(leaf: Any) -> Any:
    """Keys as numbers, everything else as it is."""
    is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _structure(tree: Any) -> Any:
    """Structure of a tree."""
    return jax.tree.structure(tree)


def _same(one: Any, two: Any) -> bool:
    """The same tree with the same bits."""
    left, right = jax.tree.map(_data, one), jax.tree.map(_data, two)
    if _structure(left) != _structure(right):
        return False
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def _check_calls(subject: _Subject) -> Iterator[str]:
    """``step`` is traced once, whether its state comes from ``reset`` or ``step``, and repeats its results."""
    traces = {"reset": 0, "step": 0}

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def traced(*args: Any) -> Any:
            traces[name] += 1
            return function(*args)

        return jax.jit(traced)

    reset, step = counted("reset", subject.env.reset), counted("step", subject.env.step)
    for episode in range(2):
        state = reset(subject.key(episode), subject.params)[1]
        for tick, action in enumerate(subject.actions(3)):
            before, key = state, subject.key(10 + tick)
            first = step(key, before, action, subject.params)
            state = first[1]
    if not _same(tuple(first), tuple(step(key, before, action, subject.params))):
        yield "step with the same key, state and action must return the same bits"
    for name, count in traces.items():
        if count != 1:
            yield f"{name} must be traced once, was traced {count} times: a type of the state is weak or changes"


def _check_vmap(subject: _Subject) -> Iterator[str]:
    """``reset`` and ``step`` over keys, states, actions and stacked parameters (traced, not run)."""
    number = 3
    leaves, structure = jax.tree.leaves(subject.params), _structure(subject.params)
    small = [np.size(_data(leaf)) <= SWEPT_SIZE for leaf in leaves]
    stacked = [jnp.stack([jnp.asarray(leaf)] * number) if ok else leaf for leaf, ok in zip(leaves, small, strict=True)]
    keys, actions = jax.random.split(subject.key(0), number), subject.actions(number)
    for over, params, axes in (
        ("keys, states and actions", subject.params, None),
        ("parameters too", structure.unflatten(stacked), structure.unflatten([0 if ok else None for ok in small])),
    ):
        run = jax.vmap(lambda key, action, own: _reset_and_step(subject.env, key, action, own), in_axes=(0, 0, axes))
        obs, _, reward, *_ = jax.eval_shape(run, keys, actions, params)
        if obs.shape[0] != number or reward.shape != (number,):
            yield f"vmap over {number} {over} must give {number} observations and rewards, got {reward.shape}"


def _check_episodes(subject: _Subject) -> Iterator[str]:
    """Whole episodes, with random, lowest and highest actions, and beyond their end."""
    space = subject.env.action_space(subject.params)
    random = subject.actions(subject.steps)
    plans = {"random actions": random}
    if isinstance(space, gymnasium.spaces.Box):
        plans |= {"lowest actions": np.broadcast_to(space.low, random.shape)}
        plans |= {"highest actions": np.broadcast_to(space.high, random.shape)}
    run = jax.jit(jax.vmap(lambda key, actions: _episode(subject, key, actions), in_axes=(None, 0)))
    actions = np.stack(list(plans.values()))
    obs, rewards, done, valid = (np.asarray(part) for part in run(subject.key(0), actions))
    bound = int(subject.env.max_steps(subject.params))
    ends = [int(np.argmax(row)) + 1 if row.any() else row.size for row in done]
    for name, stream, reward, ended, row, end in zip(plans, obs, rewards, done, valid, ends, strict=True):
        yield from _check_bounds(stream[:end], subject, name)
        if not (row.all() and np.isfinite(reward).all() and np.isfinite(stream).all()):
            yield f"{name}: rewards and observations must stay finite and info free of NaN, also after the end"
        if subject.steps >= bound and not ended[:bound].any():
            yield f"{name}: an episode must end (terminated or truncated) within max_steps = {bound} steps"
    for column, entry in enumerate(subject.env.OBSERVATION):
        shared = obs[:, : min(ends), column]
        if entry.name in subject.exogenous and not np.allclose(shared, shared[0], rtol=1e-5, atol=1e-6):
            yield f"observation {entry.name!r} was said to be exogenous, but depends on the actions"
    if not subject.deterministic:
        other = run(subject.key(1), actions)
        if np.array_equal(obs, np.asarray(other[0])) and np.array_equal(rewards, np.asarray(other[1])):
            yield "different keys must give different episodes; pass deterministic=True if there is no randomness"


def _episode(subject: _Subject, key: jax.Array, actions: jax.Array) -> tuple[jax.Array, ...]:
    """Observations, rewards, ends, and whether info is free of NaN, one row a step, in one scan."""
    env, params = subject.env, subject.params
    key_reset, key_steps = jax.random.split(key)

    def step(state: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, tuple[jax.Array, ...]]:
        obs, state, reward, terminated, truncated, info = env.step(inputs[0], state, inputs[1], params)
        valid = [~jnp.isnan(leaf).any() for leaf in jax.tree.leaves(info)]
        return state, (obs, reward, terminated | truncated, jnp.stack([*valid, jnp.bool_(True)]).all())

    _, state = env.reset(key_reset, params)
    return jax.lax.scan(step, state, (jax.random.split(key_steps, actions.shape[0]), actions))[1]


def _check_gymnasium(subject: _Subject) -> Iterator[str]:
    """Gymnasium's own check of what the name makes."""
    if subject.env_id is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made: Any = gymnasium.make(subject.env_id).unwrapped
        if type(made.functional) is not type(subject.env):
            yield f"{subject.env_id} is registered for {type(made.functional).__name__}, not for this environment"
            return
        gymnasium_check(made)
