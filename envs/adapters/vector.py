"""Many environments as one ``gymnasium.vector.VectorEnv``: one jitted batch, autoreset as Gymnasium 1.x defines it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from adarena.envs.adapters.gymnasium import (
    Episode,
    advance,
    begin,
    check_action,
    check_render_mode,
    device_params,
    draw_root,
    episode_key,
    is_key,
    programs,
    render_modes,
    root_of,
    to_numpy,
)
from adarena.envs.core import Env, StepResult
from adarena.envs.registry import make


class BatchPrograms(NamedTuple):
    """Compiled functions of a batch, shared by every adapter over an equal environment."""

    key: Callable[..., jax.Array]
    begin: Callable[..., tuple[jax.Array, Episode]]
    restart: Callable[..., tuple[jax.Array, Episode]]
    advance: Callable[..., StepResult]


@functools.lru_cache(maxsize=64)
def _batch_programs(env: Env) -> BatchPrograms:
    def restart(mask: jax.Array, key: jax.Array, obs: jax.Array, episode: Episode, params: Any) -> Any:
        fresh = begin(env, key, params)
        return jax.tree.map(lambda new, old: jnp.where(mask, new, old), fresh, (obs, episode))

    return BatchPrograms(
        jax.jit(jax.vmap(episode_key)),
        jax.jit(jax.vmap(functools.partial(begin, env), in_axes=(0, None))),
        jax.jit(jax.vmap(restart, in_axes=(0, 0, 0, 0, None))),
        jax.jit(jax.vmap(functools.partial(advance, env), in_axes=(0, 0, None))),
    )


class JaxVectorEnv(VectorEnv[np.ndarray, Any, np.ndarray]):
    """``num_envs`` copies of a registered environment in one jitted batch.

    Seeding is that of ``gymnasium.vector.SyncVectorEnv``: with ``reset(seed=s)``, environment ``i`` runs through the
    episodes that `GymnasiumEnv` runs through after ``reset(seed=s + i)``, up to the rounding of batched arithmetic.
    An environment is reset when it alone ended; the others' steps count. Three modes of autoreset:

    - ``NEXT_STEP`` (the default, as in Gymnasium): the step after the end ignores that environment's action, starts its
      next episode, and returns the first observation with reward 0.
    - ``SAME_STEP``: the step that ends an episode returns the next one's first observation; what the old one showed
      last is in ``infos["final_obs"]`` and ``infos["final_info"]``, with masks ``infos["_final_obs"]`` and
      ``infos["_final_info"]``.
    - ``DISABLED``: the user resets, by ``reset(options={"reset_mask": mask})``.

    ``infos[name]`` holds ``[num_envs, ...]`` and ``infos["_" + name]`` says where it counts.

    Attributes:
        functional: The functional environment.
        params: Its parameters, on the device, the same for the whole batch.
        autoreset_mode: The mode in force, also in ``metadata``.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        env_id: str,
        num_envs: int = 1,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        **changes: Any,
    ) -> None:
        """Builds the batch.

        Args:
            env_id: A registered name, or ``"module:name"``.
            num_envs: Number of environments, at least 1.
            render_mode: None, or ``"rgb_array"`` if the environment draws a picture.
            autoreset_mode: A ``gymnasium.vector.AutoresetMode`` or its value.
            **changes: As for `adarena.envs.make`.

        Raises:
            KeyError: No such name.
            TypeError: A change names no field.
            ValueError: A change's value, ``num_envs``, the render mode or the autoreset mode is not allowed.
        """
        super().__init__()
        if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
            raise ValueError(f"num_envs must be a whole number of at least 1, got {num_envs!r}")
        self.functional, params = make(env_id, **changes)
        check_render_mode(self.functional, render_mode)
        programs(self.functional)  # refuses what cannot be hashed
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {  # type: ignore[misc]
            **type(self).metadata,
            "render_modes": render_modes(self.functional),
            "autoreset_mode": self.autoreset_mode,
        }
        self.params = device_params(params)
        self.render_mode = render_mode
        self.num_envs = int(num_envs)
        self.single_observation_space = self.functional.observation_space(params)
        self.single_action_space = self.functional.action_space(params)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._programs = _batch_programs(self.functional)
        self._roots: np.ndarray | None = None  # [num_envs, 2] uint32
        self._numbers = np.zeros(self.num_envs, np.int32)  # episodes begun since the last seeding
        self._ended = np.zeros(self.num_envs, bool)
        self._obs: jax.Array | None = None
        self._episodes: Episode | None = None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode in every environment, or in those of a mask.

        Args:
            seed: Environment ``i`` gets ``seed + i``; or one seed each; None goes on in the present sequences.
            options: None, or a dictionary with ``"reset_mask"`` (bool ``[num_envs]``, which environments to reset)
                and ``"keys"`` (typed JAX keys ``[num_envs]``, keys of the episodes, see `GymnasiumEnv`).

        Returns:
            ``(obs, infos)``, ``obs`` ``[num_envs, ...]``; ``infos`` is empty.

        Raises:
            ResetNeeded: A mask that leaves environments out, before the first full reset.
            TypeError: The mask is no bool array.
            ValueError: An option is unknown, or mask, keys or seeds have the wrong length.
        """
        options = dict(options or {})
        mask = self._check_mask(options.pop("reset_mask", None))
        keys = self._check_keys(options.pop("keys", None))
        if options:
            raise ValueError(f"options of reset may hold 'reset_mask' and 'keys' only, got {sorted(options)[0]!r}")
        if self._episodes is None and not mask.all():
            raise ResetNeeded("call reset() without a reset_mask first: no episode has begun")
        super().reset(seed=int(seed) if isinstance(seed, int | np.integer) else None)
        self._seed(seed, mask)
        if self._episodes is None:
            self._obs, self._episodes = self._programs.begin(self._next_keys(mask, keys), self.params)
        else:
            self._restart(mask, keys)
        self._ended = self._ended & ~mask
        return np.array(self._obs), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advances every environment one tick.

        Args:
            actions: ``[num_envs, ...]``, each in ``single_action_space``.

        Returns:
            ``(obs, rewards, terminations, truncations, infos)``: ``[num_envs, ...]`` of the space's dtype, float64,
            bool and bool ``[num_envs]``, and a dictionary.

        Raises:
            ResetNeeded: Before the first ``reset``; with ``DISABLED``, when an environment that ended was not reset.
            TypeError: The actions are no array of numbers.
            ValueError: The actions have a wrong shape, are not finite, or are out of range.
        """
        if self._episodes is None:
            raise ResetNeeded("call reset() before step(): no episode has begun")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._ended.any():
            raise ResetNeeded(f"reset environments {np.flatnonzero(self._ended).tolist()} first: their episodes ended")
        resetting = self._ended
        actions = check_action(actions, self.single_action_space, batch=self.num_envs, skip=resetting)
        result = self._programs.advance(self._episodes, actions, self.params)
        self._obs, self._episodes = result.obs, result.state
        active = ~resetting
        rewards, terminated, truncated, info = to_numpy(
            (result.reward, result.terminated, result.truncated, result.info)
        )
        rewards = np.where(active, rewards, 0.0).astype(np.float64)
        terminated, truncated = terminated & active, truncated & active
        ended = terminated | truncated
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            infos = self._final(np.array(result.obs), info, ended)
            self._restart(ended)
            self._ended = np.zeros(self.num_envs, bool)
        else:
            infos = _masked(info, active)
            self._restart(resetting)
            self._ended = ended
        return np.array(self._obs), rewards, terminated, truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """One picture an environment, uint8 ``[H, W, 3]``, or None without a render mode.

        Raises:
            ResetNeeded: Before the first ``reset``.
        """
        if self.render_mode is None:
            return None
        if self._episodes is None:
            raise ResetNeeded("call reset() before render(): no episode has begun")
        states = [jax.tree.map(lambda leaf, i=i: leaf[i], self._episodes.state) for i in range(self.num_envs)]
        return tuple(np.array(self.functional.render(state, self.params)) for state in states)

    def _final(self, obs: np.ndarray, info: dict[str, np.ndarray], ended: np.ndarray) -> dict[str, Any]:
        """The infos of a step that resets in the same step."""
        infos = _masked(info, ~ended)
        if ended.any():
            final_obs = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(ended):
                final_obs[i] = obs[i].copy()
            infos |= {"final_obs": final_obs, "_final_obs": ended.copy()}
            infos |= {"final_info": _masked(info, ended), "_final_info": ended.copy()}
        return infos

    def _restart(self, mask: np.ndarray, keys: jax.Array | None = None) -> None:
        """Starts new episodes where ``mask`` is true."""
        if mask.any():
            keys = self._next_keys(mask, keys)
            self._obs, self._episodes = self._programs.restart(mask, keys, self._obs, self._episodes, self.params)

    def _next_keys(self, mask: np.ndarray, keys: jax.Array | None) -> jax.Array:
        """Keys of the next episodes, given or drawn; counts those that are drawn."""
        if keys is None:
            keys = self._programs.key(self._roots, self._numbers)
            self._numbers = self._numbers + mask.astype(np.int32)
        return keys

    def _seed(self, seed: int | Sequence[int | None] | None, mask: np.ndarray) -> None:
        """Sets the roots of the environments that are seeded anew."""
        if isinstance(seed, int | np.integer):
            seed = [int(seed) + i for i in range(self.num_envs)]
        seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed must be one number or {self.num_envs} of them, got {len(seeds)}")
        if self._roots is None:
            self._roots = np.stack([draw_root(self.np_random) for _ in range(self.num_envs)])
        self._roots, self._numbers = self._roots.copy(), self._numbers.copy()
        for i, own in enumerate(seeds):
            if own is not None and mask[i]:
                self._roots[i], self._numbers[i] = root_of(own), 0

    def _check_mask(self, mask: Any) -> np.ndarray:
        """The option ``reset_mask``, checked; everything if it is not given."""
        if mask is None:
            return np.ones(self.num_envs, bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"options['reset_mask'] must be a NumPy array of bool, got {mask!r}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"options['reset_mask'] must have shape ({self.num_envs},) and a true entry, got {mask!r}")
        return mask

    def _check_keys(self, keys: Any) -> jax.Array | None:
        """The option ``keys``, checked."""
        if keys is not None and not (is_key(keys) and keys.shape == (self.num_envs,)):
            raise ValueError(f"options['keys'] must be {self.num_envs} keys of jax.random.key, got {keys!r}")
        return keys


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """The mode by its value, checked."""
    try:
        return AutoresetMode(mode)
    except ValueError:
        allowed = ", ".join(repr(known.value) for known in AutoresetMode)
        raise ValueError(f"autoreset_mode must be one of {allowed}, got {mode!r}") from None


def _masked(info: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, Any]:
    """Gymnasium's vector infos: zero where the mask is false, the mask beside it; nothing if it is false everywhere."""
    if not mask.any():
        return {}
    infos: dict[str, Any] = {}
    for name, value in info.items():
        wide = mask.reshape((-1,) + (1,) * (value.ndim - 1))
        infos[name] = np.where(wide, value, np.zeros((), value.dtype))
        infos[f"_{name}"] = mask.copy()
    return infos
