"""Networks that the learners from logs share: actors of three kinds, and an ensemble of critics."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from adarena.agents.distributions import Gaussian, TanhGaussian
from adarena.agents.networks import Perceptron

_LOG_STD = (-5.0, 2.0)
"""Least and greatest log standard deviation of an actor, as usual (Haarnoja et al., 2018; Kostrikov et al., 2021)."""
_SMALL = 0.01  # gain of an actor's last layer: it starts near the middle of its range


class GaussianActor(nn.Module):
    """A normal around a mean in [-1, 1], with a deviation that no observation changes; draws are clipped.

    The actor of Kostrikov et al. (2021) for continuous actions.

    Attributes:
        hidden: Widths of the hidden layers.
        actions: ``A``.
        activation: A name in `adarena.agents.networks.ACTIVATIONS`.
    """

    hidden: tuple[int, ...]
    actions: int
    activation: str = "relu"

    @nn.compact
    def __call__(self, obs: jax.Array) -> Gaussian:
        """The distribution of actions ``[..., A]`` for observations ``[..., O]``."""
        mean = jnp.tanh(Perceptron(self.hidden, self.actions, self.activation, _SMALL)(obs))
        log_std = self.param("log_std", nn.initializers.zeros_init(), (self.actions,))
        return Gaussian(mean, jnp.clip(log_std, *_LOG_STD))

    def mode(self, obs: jax.Array) -> jax.Array:
        """The mean, ``[..., A]``."""
        return self(obs).mean


class TanhGaussianActor(nn.Module):
    """A normal squashed by ``tanh``, of which both mean and deviation depend on the observation.

    The actor of soft actor-critic (Haarnoja et al., 2018, arXiv:1812.05905, appendix C).

    Attributes:
        hidden, actions, activation: As in `GaussianActor`.
    """

    hidden: tuple[int, ...]
    actions: int
    activation: str = "relu"

    @nn.compact
    def __call__(self, obs: jax.Array) -> TanhGaussian:
        """The distribution of actions ``[..., A]`` for observations ``[..., O]``."""
        out = Perceptron(self.hidden, 2 * self.actions, self.activation, _SMALL)(obs)
        mean, log_std = jnp.split(out, 2, -1)
        return TanhGaussian(mean, jnp.clip(log_std, *_LOG_STD))

    def mode(self, obs: jax.Array) -> jax.Array:
        """The median, ``[..., A]``."""
        return jnp.tanh(self(obs).mean)


class DeterministicActor(nn.Module):
    """One action, in [-1, 1] (Fujimoto et al., 2018).

    Attributes:
        hidden, actions, activation: As in `GaussianActor`.
    """

    hidden: tuple[int, ...]
    actions: int
    activation: str = "relu"

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """The action ``[..., A]`` for observations ``[..., O]``."""
        return jnp.tanh(Perceptron(self.hidden, self.actions, self.activation, _SMALL)(obs))

    def mode(self, obs: jax.Array) -> jax.Array:
        """The action, ``[..., A]``."""
        return self(obs)


class Critics(nn.Module):
    """Several estimates of the value of an action, with no shared weights.

    Attributes:
        hidden: Widths of the hidden layers.
        count: ``C``, how many.
        activation: A name in `adarena.agents.networks.ACTIVATIONS`.
        layer_norm: Whether hidden layers are normalised, which bounds the value of actions far from all data (Ball et
            al., ICML 2023).
    """

    hidden: tuple[int, ...]
    count: int = 2
    activation: str = "relu"
    layer_norm: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Values ``[C, ...]`` of actions ``[..., A]`` at observations ``[..., O]``."""
        ensemble = nn.vmap(
            Perceptron,
            in_axes=None,
            axis_size=self.count,
            variable_axes={"params": 0},
            split_rngs={"params": True},
        )
        inputs = jnp.concatenate([obs, action], -1)
        return ensemble(self.hidden, 1, self.activation, 1.0, self.layer_norm)(inputs)[..., 0]


class Value(nn.Module):
    """One estimate of the value of an observation.

    Attributes:
        hidden, activation, layer_norm: As in `Critics`.
    """

    hidden: tuple[int, ...]
    activation: str = "relu"
    layer_norm: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Values ``[...]`` of observations ``[..., O]``."""
        return Perceptron(self.hidden, 1, self.activation, 1.0, self.layer_norm)(obs)[..., 0]
