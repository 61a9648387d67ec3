"""An environment for clients of gymnax (rejax and the like): five values, auto-reset inside the step.

Written for gymnax 0.0.9 and rejax 0.1.3, which trains on it unchanged::

    env, params = to_gymnax(*adarena.envs.make("adarena/AutoBid-v0"))
    algo = rejax.PPO.create(env=env, env_params=params, total_timesteps=100_000)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adarena.envs.core import AutoReset, Env, Key


@struct.dataclass
class GymnaxParams:
    """Parameters as clients of gymnax expect them.

    Attributes:
        env: Parameters of the functional environment.
        max_steps_in_episode: Upper bound on the steps of an episode.
    """

    env: Any
    max_steps_in_episode: int


@dataclasses.dataclass(frozen=True, eq=False)
class GymnaxEnv:
    """A functional environment with gymnax 0.0.9's methods. Hashable (by identity) and safe to copy.

    ``step`` merges ``terminated`` and ``truncated`` into ``done``; both stand in ``info``, beside ``final_obs``, the
    observation before the reset. Actions are clipped to the space and may lack the axis of a one-dimensional action.

    Attributes:
        env: The functional environment, which does not reset by itself.
        own_params: What ``default_params`` gives.
    """

    env: Env
    own_params: GymnaxParams = dataclasses.field(repr=False)

    @property
    def default_params(self) -> GymnaxParams:
        """The parameters that `to_gymnax` was given."""
        return self.own_params

    @property
    def name(self) -> str:
        """Name of the functional environment's class."""
        return type(self.env).__name__

    @property
    def num_actions(self) -> int:
        """Number of actions, or of entries of a continuous action."""
        space = self.env.action_space(self.own_params.env)
        return int(space.n) if isinstance(space, gymnasium.spaces.Discrete) else int(np.prod(space.shape or ()))

    def reset(self, key: Key, params: GymnaxParams | None = None) -> tuple[jax.Array, Any]:
        """Starts an episode; returns ``(obs, state)``."""
        return self.env.reset(key, self._inner(params))

    def step(
        self, key: Key, state: Any, action: jax.Array, params: GymnaxParams | None = None
    ) -> tuple[jax.Array, Any, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Advances one tick and resets where the episode ended; returns ``(obs, state, reward, done, info)``."""
        inner = self._inner(params)
        space = self.env.action_space(inner)
        action = jnp.reshape(jnp.asarray(action), space.shape or ())
        if isinstance(space, gymnasium.spaces.Box):
            action = jnp.clip(action, space.low, space.high)
        elif isinstance(space, gymnasium.spaces.Discrete):
            action = action + space.start  # gymnax counts from zero
        obs, state, reward, terminated, truncated, info = AutoReset(self.env).step(key, state, action, inner)
        info = {**info, "terminated": terminated, "truncated": truncated}
        return obs, state, reward, terminated | truncated, info

    def action_space(self, params: GymnaxParams | None = None) -> Any:
        """The action space as a gymnax space."""
        return _gymnax_space(self.env.action_space(self._inner(params)), "action space")

    def observation_space(self, params: GymnaxParams | None = None) -> Any:
        """The observation space as a gymnax space."""
        return _gymnax_space(self.env.observation_space(self._inner(params)), "observation space")

    def _inner(self, params: GymnaxParams | None) -> Any:
        """The functional environment's parameters."""
        return (self.own_params if params is None else params).env


def to_gymnax(env: Env, params: Any) -> tuple[GymnaxEnv, GymnaxParams]:
    """A functional environment and its parameters for a client of gymnax.

    Args:
        env: The environment.
        params: Its parameters.

    Returns:
        ``(env, params)`` with gymnax 0.0.9's methods and fields.

    Raises:
        ImportError: gymnax is not installed.
        TypeError: A space is neither ``Box`` nor ``Discrete``.
    """
    wrapped = GymnaxParams(params, int(env.max_steps(params)))  # type: ignore[call-arg]
    adapter = GymnaxEnv(env, wrapped)
    adapter.action_space(wrapped), adapter.observation_space(wrapped)  # refuses a space that gymnax cannot say
    return adapter, wrapped


def _gymnax_space(space: gymnasium.Space, what: str) -> Any:
    """The gymnax space that says the same."""
    try:
        from gymnax.environments import spaces
    except ImportError as error:
        raise ImportError("to_gymnax needs gymnax: pip install 'gymnax==0.0.9', or 'adarena[dev]'") from error
    if isinstance(space, gymnasium.spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if not isinstance(space, gymnasium.spaces.Box):
        raise TypeError(f"{what} must be Box or Discrete to be used through gymnax, got {space}")
    return spaces.Box(_bound(space.low), _bound(space.high), space.shape, space.dtype)


def _bound(bound: np.ndarray) -> Any:
    """One float if the bound is the same everywhere: rejax keeps bounds in static fields, which must be hashable."""
    values = np.unique(bound)
    return float(values[0]) if values.size == 1 else bound
