"""Networks of the learners: a multilayer perceptron, and an actor and a critic that share no weights."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "elu": nn.elu,
    "swish": nn.swish,
}
"""Activation functions by name."""


def orthogonal(gain: float) -> Callable[..., jax.Array]:
    """Initialiser of a matrix with orthogonal columns (or rows, if it is wide), uniform among those, times ``gain``.

    Newton-Schulz iterations bring a Gaussian matrix to its polar factor with products alone. The usual QR
    factorisation is a LAPACK call, and several batched ones (a network's layers under ``jax.vmap`` over seeds) can
    lock up XLA's pool of two CPU threads for good (seen with jax 0.10.2).
    """

    def initialise(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        tall = (max(shape), min(shape))
        start = jax.random.normal(key, tall, dtype)
        start /= jnp.linalg.norm(start)

        def step(_: jax.Array, x: jax.Array) -> jax.Array:
            # Multiplies small singular values by 1.5; near one, squares the distance from one.
            return 1.5 * x - 0.5 * x @ (x.T @ x)

        matrix = gain * jax.lax.fori_loop(0, 48, step, start)
        return matrix if shape == tall else matrix.T

    return initialise


class Perceptron(nn.Module):
    """Dense layers with an activation between them.

    Weights are orthogonal with gain sqrt(2) inside and ``last_gain`` at the end, biases zero, as is usual for PPO
    (Engstrom et al., ICLR 2020; Andrychowicz et al., ICLR 2021).

    Attributes:
        hidden: Widths of the hidden layers.
        outputs: Width of the last layer.
        activation: A name in `ACTIVATIONS`.
        last_gain: Gain of the last layer; small values start an actor near the middle of its range.
        layer_norm: Whether each hidden layer is normalised before its activation.
    """

    hidden: tuple[int, ...]
    outputs: int
    activation: str
    last_gain: float
    layer_norm: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps ``[..., inputs]`` to ``[..., outputs]``, both float32."""
        activation = ACTIVATIONS[self.activation]
        for width in self.hidden:
            inputs = nn.Dense(width, kernel_init=orthogonal(2.0**0.5))(inputs)
            inputs = activation(nn.LayerNorm()(inputs) if self.layer_norm else inputs)
        return nn.Dense(self.outputs, kernel_init=orthogonal(self.last_gain))(inputs)


class ActorCritic(nn.Module):
    """An actor and a critic with no shared weights, and a log standard deviation that no observation changes.

    Attributes:
        hidden: Widths of the hidden layers of both.
        activation: A name in `ACTIVATIONS`.
        outputs: Width of the actor's last layer.
        log_stds: Entries of the log standard deviation; zero for distributions that have none.
    """

    hidden: tuple[int, ...]
    activation: str
    outputs: int
    log_stds: int

    def setup(self) -> None:
        """Declares the parameters."""
        self.actor = Perceptron(self.hidden, self.outputs, self.activation, 0.01)
        self.critic = Perceptron(self.hidden, 1, self.activation, 1.0)
        if self.log_stds:
            self.log_std = self.param("log_std", nn.initializers.zeros_init(), (self.log_stds,))

    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Actor and critic together.

        Args:
            obs: Normalised observation, ``[..., O]`` float32.

        Returns:
            ``(outputs [..., outputs], log_std [log_stds], value [...])``, all float32.
        """
        return *self.act(obs), self.value(obs)

    def act(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The actor alone: ``(outputs [..., outputs], log_std [log_stds])``."""
        return self.actor(obs), self.log_std if self.log_stds else jnp.zeros(0)

    def value(self, obs: jax.Array) -> jax.Array:
        """The critic alone: ``[...]``, in units of the normalised reward."""
        return self.critic(obs)[..., 0]
