"""One environment as a ``gymnasium.Env``: what ``gym.make("adarena/AutoBid-v0")`` returns, inside Gymnasium's wrappers.

How random numbers reach the functional environment, here and in `adarena.envs.adapters.vector`:

- ``reset(seed=s)`` draws two words from Gymnasium's generator for ``s``; they name a root key.
- Episode ``e`` after that seeding has the key ``fold_in(root, e)``, so ``reset()`` without a seed goes on to a new one.
- Inside an episode, ``Env.reset`` gets `reset_key` of that key and tick ``t`` gets `step_key`, whatever the actions
  are: two policies that are seeded alike meet the same episodes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding

from adarena.envs.core import Env, Key, StepResult
from adarena.envs.registry import make

TOLERANCE = 1e-5
"""Share of a bound's width by which an action may miss the bound (rounding of a squashed action) and is clipped."""


class Episode(NamedTuple):
    """An episode under way.

    Attributes:
        key: Key of the episode.
        tick: Int32 scalar, steps taken so far.
        state: State of the functional environment.
    """

    key: Key
    tick: jax.Array
    state: Any


def reset_key(episode_key: Key) -> Key:
    """The key that ``Env.reset`` gets in the episode of ``episode_key``."""
    return jax.random.fold_in(episode_key, 0)


def step_key(episode_key: Key, tick: jax.Array | int) -> Key:
    """The key that ``Env.step`` gets at ``tick`` (0 is the first step) in the episode of ``episode_key``."""
    return jax.random.fold_in(episode_key, tick + 1)


def begin(env: Env, episode_key: Key, params: Any) -> tuple[jax.Array, Episode]:
    """Starts the episode of a key; returns ``(obs, episode)``."""
    obs, state = env.reset(reset_key(episode_key), params)
    return obs, Episode(episode_key, jnp.int32(0), state)


def advance(env: Env, episode: Episode, action: jax.Array, params: Any) -> StepResult:
    """One step of an episode; the result's ``state`` is the next `Episode`."""
    result = env.step(step_key(episode.key, episode.tick), episode.state, action, params)
    obs, state, reward, terminated, truncated, info = result
    return StepResult(obs, Episode(episode.key, episode.tick + 1, state), reward, terminated, truncated, info)


def episode_key(root: jax.Array, number: jax.Array) -> Key:
    """The key of episode ``number`` (int scalar) after a seeding that drew ``root`` (uint32 ``[2]``)."""
    key = jax.random.fold_in(jax.random.key(root[0]), root[1])
    return jax.random.fold_in(key, number)


def draw_root(generator: np.random.Generator) -> np.ndarray:
    """Two words, uint32 ``[2]``, from Gymnasium's generator."""
    return generator.integers(0, 2**32, size=2, dtype=np.uint32)


def root_of(seed: int) -> np.ndarray:
    """The words, uint32 ``[2]``, that ``reset(seed=seed)`` draws."""
    return draw_root(seeding.np_random(seed)[0])


class Programs(NamedTuple):
    """Compiled functions of one environment, shared by every adapter over it."""

    key: Callable[..., Key]
    begin: Callable[..., tuple[jax.Array, Episode]]
    advance: Callable[..., StepResult]


@functools.lru_cache(maxsize=64)
def _programs(env: Env) -> Programs:
    return Programs(
        jax.jit(episode_key), jax.jit(functools.partial(begin, env)), jax.jit(functools.partial(advance, env))
    )


def programs(env: Env) -> Programs:
    """The compiled functions of ``env``; equal environments get the same ones, so nothing compiles twice.

    Raises:
        TypeError: ``env`` cannot be hashed.
    """
    try:
        hash(env)
    except TypeError as error:
        raise TypeError(f"the fields of {type(env).__name__} must be hashable (tuples, not lists): {error}") from error
    return _programs(env)


def device_params(params: Any) -> Any:
    """Parameters as arrays on the device, so that no call moves them again."""
    return jax.tree.map(jnp.asarray, params)


def to_numpy(tree: Any) -> Any:
    """A writable NumPy copy of every array in ``tree``."""
    return jax.tree.map(np.array, jax.device_get(tree))


def render_modes(env: Env) -> list[str]:
    """``["rgb_array"]`` if ``env`` draws a picture."""
    return ["rgb_array"] if type(env).render is not Env.render else []


def check_render_mode(env: Env, render_mode: str | None) -> None:
    """Refuses a mode that ``env`` does not have.

    Raises:
        TypeError: ``env`` draws no picture at all (as if the argument did not exist, which Stable-Baselines3 expects).
        ValueError: No such mode.
    """
    if render_mode is None:
        return
    allowed, name = render_modes(env), type(env).__name__
    if not allowed:
        raise TypeError(f"render_mode must be None, for {name} draws no picture, got {render_mode!r}")
    if render_mode not in allowed:
        raise ValueError(f"render_mode must be None or one of {allowed} for {name}, got {render_mode!r}")


def check_action(action: Any, space: gymnasium.Space, *, batch: int | None = None, skip: Any = None) -> np.ndarray:
    """The action as an array that lies in ``space``.

    Args:
        action: What the user gave: ``space.shape``, after an axis ``[batch]`` if there is one.
        space: Space of one action: ``Box`` or ``Discrete``; of any other, ``contains`` decides.
        batch: Number of environments, or None for a single one.
        skip: Bool ``[batch]``: environments whose action does not count.

    Returns:
        An array of the space's dtype, clipped where it missed a bound by rounding (`TOLERANCE`).

    Raises:
        TypeError: Not an array of numbers (for ``Discrete``: of whole numbers).
        ValueError: Wrong shape, not finite, or out of range.
    """
    if not isinstance(space, gymnasium.spaces.Box | gymnasium.spaces.Discrete):
        return _check_other(action, space, batch)
    array = _as_numbers(action, space)
    shape = (space.shape or ()) if batch is None else (batch, *(space.shape or ()))
    if array.shape != shape:
        raise ValueError(f"action must have shape {shape}, got shape {array.shape}: {action!r}")
    if isinstance(space, gymnasium.spaces.Box):
        low, high = space.low, space.high
        slack = TOLERANCE * (high - low)
    else:
        low, high, slack = np.asarray(space.start), np.asarray(space.start + space.n - 1), np.asarray(0)
    counted = np.ones(shape, bool)
    if skip is not None:
        counted &= ~np.reshape(skip, (-1,) + (1,) * (len(shape) - 1))
    _refuse(array, ~np.isfinite(array) & counted, "finite", batch)
    outside = ((array < low - slack) | (array > high + slack)) & counted
    _refuse(array, outside, f"between {_short(low)} and {_short(high)}", batch)
    return np.clip(np.where(counted, array, low), low, high).astype(space.dtype)


def _as_numbers(action: Any, space: gymnasium.Space) -> np.ndarray:
    """The action as a numeric array, of whole numbers if the space is discrete."""
    kinds, what = ("iu", "whole numbers") if isinstance(space, gymnasium.spaces.Discrete) else ("fiu", "real numbers")
    try:
        array = np.asarray(action)
    except (ValueError, TypeError) as error:
        raise TypeError(f"action must be an array of {what}, got {action!r}") from error
    if array.dtype.kind not in kinds:
        raise TypeError(f"action must be an array of {what}, got dtype {array.dtype}: {action!r}")
    return array


def _check_other(action: Any, space: gymnasium.Space, batch: int | None) -> np.ndarray:
    """Lets the space itself decide."""
    parts = [action] if batch is None else list(action)
    if len(parts) != (batch or 1) or not all(space.contains(part) for part in parts):
        raise ValueError(f"action must lie in {space}{f', {batch} times' if batch else ''}, got {action!r}")
    return np.asarray(action)


def _refuse(array: np.ndarray, bad: np.ndarray, allowed: str, batch: int | None) -> None:
    """Raises for the first entry that is bad."""
    if not bad.any():
        return
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    where = f"action[{', '.join(map(str, index))}]" if index else "action"
    environment = "" if batch is None else f" of environment {index[0]}"
    raise ValueError(f"{where}{environment} must be {allowed}, got {array[index]}")


def _short(bound: np.ndarray) -> str:
    """A bound as one number if it is the same everywhere."""
    values = np.unique(bound)
    return str(values[0]) if values.size == 1 else np.array2string(bound, threshold=8)


class GymnasiumEnv(gymnasium.Env[np.ndarray, Any]):
    """A registered functional environment as a ``gymnasium.Env``.

    Arrays that it returns are writable NumPy copies; the reward is a Python float, ``terminated`` and ``truncated`` are
    Python bools, ``info`` holds NumPy arrays. Compiled code is shared between instances of equal environments.

    ``reset(options={"key": key})`` starts the episode of a typed JAX key instead of the next one of the seed; a loop
    over the functional environment that uses `reset_key` and `step_key` of the same key meets the same episode.

    Attributes:
        functional: The functional environment.
        params: Its parameters, on the device.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 4}  # type: ignore[misc]

    def __init__(self, env_id: str, render_mode: str | None = None, **changes: Any) -> None:
        """Builds the environment.

        Args:
            env_id: A registered name, or ``"module:name"``.
            render_mode: None, or ``"rgb_array"`` if the environment draws a picture.
            **changes: As for `adarena.envs.make`.

        Raises:
            KeyError: No such name.
            TypeError: A change names no field, or a render mode is given and the environment draws no picture.
            ValueError: A change's value or the render mode is not allowed.
        """
        self.functional, params = make(env_id, **changes)
        check_render_mode(self.functional, render_mode)
        self.params = device_params(params)
        self.render_mode = render_mode
        self.metadata = {**type(self).metadata, "render_modes": render_modes(self.functional)}  # type: ignore[misc]
        self.observation_space = self.functional.observation_space(params)
        self.action_space = self.functional.action_space(params)
        self._programs = programs(self.functional)
        self._root: np.ndarray | None = None
        self._number = 0
        self._episode: Episode | None = None
        self._ended = False

    @property
    def state(self) -> Any:
        """State of the functional environment.

        Raises:
            ResetNeeded: Before the first ``reset``.
        """
        if self._episode is None:
            raise ResetNeeded("call reset() first: no episode has begun")
        return self._episode.state

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Starts the sequence of episodes of this seed; None goes on in the present one.
            options: None, or ``{"key": key}`` with a typed JAX key, the key of the episode.

        Returns:
            ``(obs, info)``; ``info`` is empty.

        Raises:
            ValueError: An option is unknown, or the key is no typed scalar key.
        """
        super().reset(seed=seed)
        key = _key_option(options)
        if seed is not None or self._root is None:
            self._root, self._number = draw_root(self.np_random), 0
        if key is None:
            key = self._programs.key(self._root, self._number)
            self._number += 1
        obs, self._episode = self._programs.begin(key, self.params)
        self._ended = False
        return np.array(obs), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advances one tick.

        Args:
            action: An array in ``action_space``.

        Returns:
            ``(obs, reward, terminated, truncated, info)``.

        Raises:
            ResetNeeded: Before the first ``reset`` or after the end of the episode.
            TypeError: The action is no array of numbers.
            ValueError: The action has a wrong shape, is not finite, or is out of range.
        """
        if self._episode is None:
            raise ResetNeeded("call reset() before step(): no episode has begun")
        if self._ended:
            raise ResetNeeded("call reset() before step(): the episode ended (terminated or truncated was true)")
        action = check_action(action, self.action_space)
        result = self._programs.advance(self._episode, action, self.params)
        self._episode = result.state
        outcome = (result.obs, result.reward, result.terminated, result.truncated, result.info)
        obs, reward, terminated, truncated, info = to_numpy(outcome)
        self._ended = bool(terminated | truncated)
        return obs, float(reward), bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """The picture of the episode so far, uint8 ``[H, W, 3]``, or None without a render mode.

        Raises:
            ResetNeeded: Before the first ``reset``.
        """
        if self.render_mode is None:
            return None
        return np.array(self.functional.render(self.state, self.params))


def _key_option(options: dict[str, Any] | None) -> Key | None:
    """The option ``key``, checked."""
    unknown = sorted(set(options or {}) - {"key"})
    if unknown:
        raise ValueError(f"options of reset may hold 'key' only, got {unknown[0]!r}")
    key = (options or {}).get("key")
    if key is not None and not (is_key(key) and key.shape == ()):
        raise ValueError(f"options['key'] must be a scalar key of jax.random.key, got {key!r}")
    return key


def is_key(value: Any) -> bool:
    """Whether ``value`` is an array of typed JAX keys."""
    return isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
