"""Logged episodes on the device: normalised arrays, and minibatches of transitions and of windows drawn from them."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adarena.agents.normalise import Moments, init_moments, normalise
from adarena.agents.offline.episodes import Episodes
from adarena.envs.core import Env

_SPREAD = 1e-3  # added to each entry's deviation, as Fujimoto and Gu (2021) do: entries that never changed stay small
_EDGE = 1e-4  # how far beyond the bounds an action may lie, of half their range, by rounding


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a learner from logs must know of the environment: sizes and bounds. Hashable.

    Attributes:
        observations: ``O``.
        low: Lower bound of each of the ``A`` entries of an action.
        high: Upper bounds.
    """

    observations: int
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raises:
        ValueError: Sizes or bounds make no sense.
        """
        if self.observations < 1:
            raise ValueError(f"observations must be at least 1, got {self.observations}")
        if not self.low or len(self.low) != len(self.high):
            raise ValueError(f"low and high must be as long, and not empty, got {self.low} and {self.high}")
        if not all(-np.inf < a < b < np.inf for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low must be below high, both finite, got {self.low} and {self.high}")

    @property
    def actions(self) -> int:
        """``A``."""
        return len(self.low)

    def to_unit(self, actions: np.ndarray) -> np.ndarray:
        """Actions ``[..., A]`` of the environment on the scale of [-1, 1]."""
        low, high = np.asarray(self.low, np.float64), np.asarray(self.high, np.float64)
        return (2.0 * (actions - low) / (high - low) - 1.0).astype(np.float32)


def spec_of(env: Env, params: Any) -> Spec:
    """What learners must know of an environment.

    Raises:
        TypeError: Its actions are no bounded ``Box`` of one dimension.
    """
    space, seen = env.action_space(params), env.observation_space(params)
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1 or not space.is_bounded("both"):
        raise TypeError(f"learners from logs need a bounded Box of one dimension as action space, got {space}")
    low, high = (tuple(float(x) for x in bound) for bound in (space.low, space.high))
    return Spec(int(np.prod(seen.shape or ())), low, high)


@struct.dataclass
class Data:
    """Whole episodes as learners read them. A pytree of device arrays; ``E`` episodes of ``T`` steps.

    Attributes:
        observations: ``[E, T + 1, O]`` float32, normalised by ``obs_moments``.
        actions: ``[E, T, A]`` float32 in [-1, 1] of the bounds.
        rewards: ``[E, T]`` float32, divided by ``reward_scale``.
        returns_to_go: ``[E, T]`` float32, undiscounted sum of ``rewards`` from each step on, that step's included. Where
            rewards are changes of a running score (as in `adarena.envs.autobid`) these are the scores to go
            ``S_T - S_{t-1}`` of Gao et al. (SIGIR 2025, arXiv:2504.14587).
        terminated: ``[E, T]`` bool.
        obs_moments: Moments that normalise an observation, over all steps of all episodes.
        reward_scale: Scalar float32, what one unit of ``rewards`` is in the environment's unit.
        spec: Sizes and bounds. Static.
    """

    observations: jax.Array
    actions: jax.Array
    rewards: jax.Array
    returns_to_go: jax.Array
    terminated: jax.Array
    obs_moments: Moments
    reward_scale: jax.Array
    spec: Spec = struct.field(pytree_node=False)

    @property
    def count(self) -> int:
        """``E``."""
        return self.actions.shape[0]

    @property
    def steps(self) -> int:
        """``T``."""
        return self.actions.shape[1]


def make_data(episodes: Episodes, spec: Spec, *, reward_scale: float | None = None) -> Data:
    """Puts episodes on the device: observations normalised, actions on [-1, 1], rewards of size one.

    Args:
        episodes: Whole episodes.
        spec: Sizes and bounds of the environment they were played in.
        reward_scale: What rewards are divided by. The default is their mean absolute value per step: the size at which
            the published temperatures and weights were chosen (Kostrikov et al., 2021, scale returns to the episode's
            length), wherever in an episode rewards fall. One where all rewards are zero.

    Raises:
        ValueError: The episodes do not fit ``spec``, or ``reward_scale`` is not above 0.
    """
    if episodes.observations.shape[2] != spec.observations or episodes.actions.shape[2] != spec.actions:
        raise ValueError(
            f"episodes must have observations of {spec.observations} entries and actions of {spec.actions}, got "
            f"{episodes.observations.shape[2]} and {episodes.actions.shape[2]}"
        )
    unit = spec.to_unit(episodes.actions)
    if np.abs(unit).max() > 1.0 + _EDGE:
        worst = episodes.actions.reshape(-1, spec.actions)[np.abs(unit).reshape(-1, spec.actions).max(1).argmax()]
        raise ValueError(f"actions must lie between {spec.low} and {spec.high}, got {tuple(map(float, worst))}")
    if reward_scale is None:
        reward_scale = float(np.abs(episodes.rewards).mean(dtype=np.float64)) or 1.0
    if not 0.0 < reward_scale < np.inf:
        raise ValueError(f"reward_scale must be a finite number above 0, got {reward_scale!r}")
    moments = _moments(episodes.observations[:, :-1])
    rewards = (episodes.rewards / reward_scale).astype(np.float32)
    return Data(
        observations=normalise(moments, jnp.asarray(episodes.observations)),
        actions=jnp.asarray(np.clip(unit, -1.0, 1.0)),
        rewards=jnp.asarray(rewards),
        returns_to_go=jnp.asarray(to_go(rewards)),
        terminated=jnp.asarray(episodes.terminated),
        obs_moments=moments,
        reward_scale=jnp.float32(reward_scale),
        spec=spec,
    )


def shapes_of(spec: Spec, steps: int) -> Data:
    """`Data` of one episode without numbers, leaves ``jax.ShapeDtypeStruct``: what a learner's state is shaped by."""

    def made() -> Data:
        return Data(
            observations=jnp.zeros((1, steps + 1, spec.observations)),
            actions=jnp.zeros((1, steps, spec.actions)),
            rewards=jnp.zeros((1, steps)),
            returns_to_go=jnp.zeros((1, steps)),
            terminated=jnp.zeros((1, steps), bool),
            obs_moments=init_moments((spec.observations,)),
            reward_scale=jnp.ones(()),
            spec=spec,
        )

    return jax.eval_shape(made)


def to_go(values: np.ndarray) -> np.ndarray:
    """Undiscounted sums over ``[E, T]`` from each step to the end of its episode, float32."""
    return np.cumsum(values[:, ::-1], axis=1, dtype=np.float64)[:, ::-1].astype(np.float32)


def _moments(observations: np.ndarray) -> Moments:
    flat = observations.reshape(-1, observations.shape[-1]).astype(np.float64)
    variance = np.square(flat.std(0) + _SPREAD)
    return Moments(*(jnp.asarray(x, jnp.float32) for x in (len(flat), flat.mean(0), variance)))


@struct.dataclass
class Transitions:
    """Single steps, leaves ``[B, ...]``.

    Attributes:
        obs: ``[B, O]`` float32, normalised.
        action: ``[B, A]`` float32 in [-1, 1].
        reward: ``[B]`` float32, scaled.
        next_obs: ``[B, O]`` float32, normalised.
        terminated: ``[B]`` bool: nothing comes after.
    """

    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    next_obs: jax.Array
    terminated: jax.Array


def sample_transitions(data: Data, key: jax.Array, batch: int) -> Transitions:
    """``batch`` steps, each drawn evenly from all steps, with replacement."""
    index = jax.random.randint(key, (batch,), 0, data.count * data.steps)
    episode, step = index // data.steps, index % data.steps
    return Transitions(
        obs=data.observations[episode, step],
        action=data.actions[episode, step],
        reward=data.rewards[episode, step],
        next_obs=data.observations[episode, step + 1],
        terminated=data.terminated[episode, step],
    )


@struct.dataclass
class Windows:
    """``K`` consecutive steps each; a window that begins before its episode is padded on the left with zeros.

    Attributes:
        obs: ``[B, K, O]`` float32, normalised.
        action: ``[B, K, A]`` float32 in [-1, 1].
        reward: ``[B, K]`` float32, scaled.
        returns_to_go: ``[B, K]`` float32, scaled.
        time: ``[B, K]`` int32, which step of the episode; 0 where padded.
        next_obs: ``[B, K, O]`` float32, normalised.
        terminated: ``[B, K]`` bool.
        mask: ``[B, K]`` bool, whether the step is there; the last of a window always is.
    """

    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    returns_to_go: jax.Array
    time: jax.Array
    next_obs: jax.Array
    terminated: jax.Array
    mask: jax.Array


def sample_windows(data: Data, key: jax.Array, batch: int, length: int) -> Windows:
    """``batch`` windows of ``length`` steps, whose last steps are drawn evenly from all steps, with replacement."""
    index = jax.random.randint(key, (batch,), 0, data.count * data.steps)
    return windows_at(data, index // data.steps, index % data.steps, length)


def windows_at(data: Data, episode: jax.Array, last: jax.Array, length: int) -> Windows:
    """The windows of ``length`` steps that end at steps ``last`` of episodes ``episode``, both ``[B]`` int32."""
    at = last[:, None] + jnp.arange(1 - length, 1)
    mask, time = at >= 0, jnp.maximum(at, 0)

    def taken(values: jax.Array, shift: int = 0) -> jax.Array:
        found = values[episode[:, None], time + shift]
        return jnp.where(mask.reshape(*mask.shape, *(1,) * (found.ndim - 2)), found, jnp.zeros_like(found))

    return Windows(
        obs=taken(data.observations),
        action=taken(data.actions),
        reward=taken(data.rewards),
        returns_to_go=taken(data.returns_to_go),
        time=time,
        next_obs=taken(data.observations, 1),
        terminated=taken(data.terminated),
        mask=mask,
    )
