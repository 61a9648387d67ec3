"""PPO's actor as a policy, and the way from a network's numbers to an action in the environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
from flax import struct

from adarena.agents.actors import NetworkKind
from adarena.agents.distributions import Distribution, Family, Masked
from adarena.agents.normalise import ObsMoments, normalise_obs
from adarena.agents.ppo_config import Config
from adarena.agents.ppo_loss import distribution_of
from adarena.agents.ppo_state import State
from adarena.envs.core import Env


@struct.dataclass
class PPOPolicy:
    """A trained actor as an `adarena.agents.policy.Policy`. A pytree: ``jax.vmap`` over one made of stacked states.

    Attributes:
        network: Parameters of `ActorCritic` or `SetActorCritic`; the actor's are enough.
        obs_moments: Moments that normalise the observation, as in `adarena.agents.ppo_state.State`.
        action_low: What action -1 (or choice 0) means in the environment, ``[A]`` (scalar for choices).
        action_high: What action 1 (or the last choice) means in the environment; shape as ``action_low``.
        hidden: As in `Config`. Static.
        activation: As in `Config`. Static.
        distribution: As in `Config`. Static.
        normalise_observations: As in `Config`. Static.
        stochastic: Whether actions are drawn, or the mean (the likeliest choice) is taken. Static.
        jittable: Always true. Static.
        kind: ``network`` in `Config`. Static.
        resting_action: What empty places of a set do, ``[A]``; None for ``"mlp"``.
    """

    network: Any
    obs_moments: ObsMoments
    action_low: jax.Array
    action_high: jax.Array
    hidden: tuple[int, ...] = struct.field(pytree_node=False)
    activation: str = struct.field(pytree_node=False)
    distribution: Family = struct.field(pytree_node=False)
    normalise_observations: bool = struct.field(pytree_node=False)
    stochastic: bool = struct.field(pytree_node=False, default=False)
    jittable: bool = struct.field(pytree_node=False, default=True)
    kind: NetworkKind = struct.field(pytree_node=False, default="mlp")
    resting_action: jax.Array | None = None

    def init(self, params: Any) -> tuple[()]:
        """No carry: the policy has no memory."""
        return ()

    def act(self, key: jax.Array, carry: tuple[()], obs: jax.Array) -> tuple[tuple[()], jax.Array]:
        """The action, ``[..., A]`` float32 in the environment's range, for observations ``[..., O]`` float32."""
        distribution = self.distribution_at(obs)
        raw = distribution.sample(key) if self.stochastic else distribution.mode()
        return carry, to_env(self._config(), self, distribution, raw)

    def distribution_at(self, obs: jax.Array) -> Distribution:
        """The distribution of raw actions for observations ``[..., O]``."""
        config = self._config()
        return distribution_of(config, self.network, normalised(config, self.obs_moments, obs))

    def _config(self) -> Config:
        # The config's numbers stay out of the policy: they have no seed dimension to map over.
        return Config(
            network=self.kind,
            hidden=self.hidden,
            activation=self.activation,
            distribution=self.distribution,
            normalise_observations=self.normalise_observations,
        )


def normalised(config: Config, moments: ObsMoments, obs: jax.Array) -> jax.Array:
    """Observations ``[..., O]`` as the network sees them."""
    return normalise_obs(moments, obs) if config.normalise_observations else obs


def to_env(config: Config, source: State | PPOPolicy, distribution: Distribution, raw: jax.Array) -> jax.Array:
    """What a raw action is in the environment: in its range, or its choice; empty places of a set rest."""
    action, low = distribution.to_action(raw), source.action_low
    if config.distribution == "categorical":
        return low + action
    action = low + (0.5 * (action + 1.0)) * (source.action_high - low)
    if not isinstance(distribution, Masked) or source.resting_action is None:
        return action
    return jnp.where(distribution.mask, action, source.resting_action)


def action_range(config: Config, env: Env, params: Any) -> tuple[jax.Array, jax.Array, int]:
    """Bounds of the action space, and how many entries (or choices) it has.

    Raises:
        TypeError: The space is of a kind that PPO does not act in, or does not suit ``config.distribution``.
    """
    space = env.action_space(params)
    if isinstance(space, gymnasium.spaces.Discrete):
        if config.distribution != "categorical":
            raise TypeError(f"distribution must be 'categorical' for action space {space}, got {config.distribution!r}")
        low = jnp.asarray(int(space.start), jnp.int32)
        return low, low + int(space.n) - 1, int(space.n)
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1 or not space.is_bounded("both"):
        raise TypeError(f"PPO needs a bounded Box of one dimension or a Discrete action space, got {space}")
    if config.distribution == "categorical":
        raise TypeError(
            f"distribution must be 'gaussian', 'tanh_gaussian' or 'beta' for action space {space}, got 'categorical'"
        )
    return jnp.asarray(space.low, jnp.float32), jnp.asarray(space.high, jnp.float32), int(space.shape[0])
