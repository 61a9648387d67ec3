"""PPO's actor as a policy, and the way from a network's numbers to an action in the environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
from flax import struct

from adarena.agents.distributions import Family
from adarena.agents.normalise import Moments, normalise
from adarena.agents.ppo_config import Config
from adarena.agents.ppo_loss import distribution_of
from adarena.envs.core import Env


@struct.dataclass
class PPOPolicy:
    """A trained actor as an `adarena.agents.policy.Policy`. A pytree: ``jax.vmap`` over one made of stacked states.

    Attributes:
        network: Parameters of `ActorCritic`.
        obs_moments: Moments that normalise the observation, ``[O]``.
        action_low: What action -1 (or choice 0) means in the environment, ``[A]`` (scalar for choices).
        action_high: What action 1 (or the last choice) means in the environment; shape as ``action_low``.
        hidden: As in `Config`. Static.
        activation: As in `Config`. Static.
        distribution: As in `Config`. Static.
        normalise_observations: As in `Config`. Static.
        stochastic: Whether actions are drawn, or the mean (the likeliest choice) is taken. Static.
        jittable: Always true. Static.
    """

    network: Any
    obs_moments: Moments
    action_low: jax.Array
    action_high: jax.Array
    hidden: tuple[int, ...] = struct.field(pytree_node=False)
    activation: str = struct.field(pytree_node=False)
    distribution: Family = struct.field(pytree_node=False)
    normalise_observations: bool = struct.field(pytree_node=False)
    stochastic: bool = struct.field(pytree_node=False, default=False)
    jittable: bool = struct.field(pytree_node=False, default=True)

    def init(self, params: Any) -> tuple[()]:
        """No carry: the policy has no memory."""
        return ()

    def act(self, key: jax.Array, carry: tuple[()], obs: jax.Array) -> tuple[tuple[()], jax.Array]:
        """The action, ``[..., A]`` float32 in the environment's range, for observations ``[..., O]`` float32."""
        # The config's numbers stay out of the policy: they have no seed dimension to map over.
        config = Config(
            hidden=self.hidden,
            activation=self.activation,
            distribution=self.distribution,
            normalise_observations=self.normalise_observations,
        )
        distribution = distribution_of(config, self.network, normalised(config, self.obs_moments, obs))
        raw = distribution.sample(key) if self.stochastic else distribution.mode()
        return carry, to_env(config, self.action_low, self.action_high, distribution.to_action(raw))


def normalised(config: Config, moments: Moments, obs: jax.Array) -> jax.Array:
    """Observations ``[..., O]`` as the network sees them."""
    return normalise(moments, obs) if config.normalise_observations else obs


def to_env(config: Config, low: jax.Array, high: jax.Array, action: jax.Array) -> jax.Array:
    """From ``[-1, 1]`` to the environment's range, or from an index to the environment's choice."""
    if config.distribution == "categorical":
        return low + action
    return low + (0.5 * (action + 1.0)) * (high - low)


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
