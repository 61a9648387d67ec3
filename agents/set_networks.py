"""Networks for sets of alike items: deep sets (Zaheer et al., NeurIPS 2017) and masked self-attention (Vaswani et al., 2017).

An observation ``[context, item 0, item 1, ...]`` (`adarena.envs.sets.SetLayout`) is taken apart; one network with the same
weights for all reads each item together with the context, and what it makes of them is pooled over the items that are there.
The actor gives every item numbers of its own from the item and the pool: relabelling the items relabels the numbers. The
critic sees the pool alone: relabelling changes nothing. Empty places are taken out before anything is computed.
"""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from adarena.agents.networks import ACTIVATIONS, orthogonal
from adarena.envs.sets import layout_in

SetKind = Literal["deep_sets", "attention"]
"""How items learn of each other: by their pool alone, or also by looking at each other before they are pooled."""

HEADS = 4
"""Heads of the attention; the width of the items' vectors must be a multiple."""

_GAIN = 2.0**0.5


class Attention(nn.Module):
    """One block: every item looks at all that are there, then is worked on by itself. Both add to what was there before.

    Layers are normalised first (Xiong et al., ICML 2020), which makes training steady without a warm-up.

    Attributes:
        activation: A name in `ACTIVATIONS`.
    """

    activation: str

    @nn.compact
    def __call__(self, vectors: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps ``[..., L, H]`` float32 to the same shape; items where ``mask [..., L]`` is false are not looked at."""
        width = vectors.shape[-1]
        inputs = nn.LayerNorm()(vectors)
        parts = nn.Dense(3 * width, kernel_init=orthogonal(1.0), name="look")(inputs)
        query, key, content = jnp.split(parts.reshape(*parts.shape[:-1], HEADS, -1), 3, -1)
        scores = jnp.einsum("...ihd,...jhd->...hij", query, key) * (width // HEADS) ** -0.5
        weights = jax.nn.softmax(jnp.where(mask[..., None, None, :], scores, -1e9), -1)
        seen = jnp.einsum("...hij,...jhd->...ihd", weights, content).reshape(vectors.shape)
        vectors = vectors + nn.Dense(width, kernel_init=orthogonal(1.0), name="seen")(seen)
        inner = nn.Dense(width, kernel_init=orthogonal(_GAIN), name="inner")(nn.LayerNorm()(vectors))
        return vectors + nn.Dense(width, kernel_init=orthogonal(1.0), name="outer")(ACTIVATIONS[self.activation](inner))


class Encoder(nn.Module):
    """A vector for every item, and their pool.

    Attributes:
        kind: ``"deep_sets"`` or ``"attention"``.
        hidden: Widths of the layers that read an item with the context.
        activation: A name in `ACTIVATIONS`.
    """

    kind: SetKind
    hidden: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, context: jax.Array, items: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Reads all items.

        Args:
            context: ``[..., G]`` float32.
            items: ``[..., L, F]`` float32.
            mask: ``[..., L]`` bool.

        Returns:
            Vectors ``[..., L, H]``, zero at empty places, and their pool ``[..., 3 H + 1]``: mean and maximum over the items
            that are there (zero if there are none), sum divided by ``L``, and share of the places that are taken.
        """
        activation = ACTIVATIONS[self.activation]
        there = mask[..., None]
        vectors = nn.Dense(self.hidden[0], kernel_init=orthogonal(_GAIN), name="items")(jnp.where(there, items, 0.0))
        if context.shape[-1]:  # a kernel of its own, so that the context is not read once for every item
            shared = nn.Dense(self.hidden[0], use_bias=False, kernel_init=orthogonal(_GAIN), name="context")(context)
            vectors = vectors + shared[..., None, :]
        vectors = activation(vectors)
        for width in self.hidden[1:]:
            vectors = activation(nn.Dense(width, kernel_init=orthogonal(_GAIN))(vectors))
        if self.kind == "attention":
            vectors = Attention(self.activation, name="attention")(vectors, mask)
        vectors = jnp.where(there, vectors, 0.0)
        share = mask.mean(-1, keepdims=True)
        total = vectors.mean(-2)
        mean = total / jnp.maximum(share, 1.0 / mask.shape[-1])
        largest = jnp.where(share > 0.0, jnp.where(there, vectors, -jnp.inf).max(-2), 0.0)
        return vectors, jnp.concatenate([mean, largest, total, share], -1)


class SetActor(nn.Module):
    """Numbers for every item.

    Attributes:
        kind: As in `Encoder`.
        hidden: As in `Encoder`; the layer that joins item and pool is as wide as the last.
        activation: As in `Encoder`.
        outputs: How many numbers an item gets.
    """

    kind: SetKind
    hidden: tuple[int, ...]
    activation: str
    outputs: int

    @nn.compact
    def __call__(self, context: jax.Array, items: jax.Array, mask: jax.Array) -> jax.Array:
        """``[..., L, outputs]`` float32; arguments as in `Encoder`. What is said of empty places means nothing."""
        vectors, pool = Encoder(self.kind, self.hidden, self.activation, name="encoder")(context, items, mask)
        own = nn.Dense(self.hidden[-1], kernel_init=orthogonal(_GAIN), name="own")(vectors)
        shared = nn.Dense(self.hidden[-1], use_bias=False, kernel_init=orthogonal(_GAIN), name="pool")(pool)
        joined = ACTIVATIONS[self.activation](own + shared[..., None, :])
        return nn.Dense(self.outputs, kernel_init=orthogonal(0.01), name="out")(joined)


class SetCritic(nn.Module):
    """One number for the set.

    Attributes:
        kind: As in `Encoder`.
        hidden: As in `Encoder`; the layer that joins context and pool is as wide as the last.
        activation: As in `Encoder`.
    """

    kind: SetKind
    hidden: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, context: jax.Array, items: jax.Array, mask: jax.Array) -> jax.Array:
        """``[...]`` float32; arguments as in `Encoder`."""
        _, pool = Encoder(self.kind, self.hidden, self.activation, name="encoder")(context, items, mask)
        joined = nn.Dense(self.hidden[-1], kernel_init=orthogonal(_GAIN), name="pool")(
            jnp.concatenate([context, pool], -1)
        )
        return nn.Dense(1, kernel_init=orthogonal(1.0), name="out")(ACTIVATIONS[self.activation](joined))[..., 0]


class SetActorCritic(nn.Module):
    """An actor and a critic of a set that share no weights; as `adarena.agents.networks.ActorCritic` is of a vector.

    The log standard deviations are those of an item's actions: all items have the same.

    Attributes:
        kind: As in `Encoder`.
        hidden: As in `Encoder`.
        activation: As in `Encoder`.
        context: Entries of the context.
        features: Entries of an item.
        outputs: How many numbers the actor gives an item.
        log_stds: Entries of the log standard deviation; zero for distributions that have none.
    """

    kind: SetKind
    hidden: tuple[int, ...]
    activation: str
    context: int
    features: int
    outputs: int
    log_stds: int

    def setup(self) -> None:
        """Declares the parameters."""
        self.actor = SetActor(self.kind, self.hidden, self.activation, self.outputs)
        self.critic = SetCritic(self.kind, self.hidden, self.activation)
        if self.log_stds:
            self.log_std = self.param("log_std", nn.initializers.zeros_init(), (self.log_stds,))

    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Actor and critic together.

        Args:
            obs: Normalised observation, ``[..., O]`` float32.

        Returns:
            ``(outputs [..., L, outputs], log_std [log_stds], value [...])``, all float32.
        """
        return *self.act(obs), self.value(obs)

    def act(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The actor alone: ``(outputs [..., L, outputs], log_std [log_stds])``."""
        parts = layout_in(obs, self.context, self.features).split(obs)
        return self.actor(*parts), self.log_std if self.log_stds else jnp.zeros(0)

    def value(self, obs: jax.Array) -> jax.Array:
        """The critic alone: ``[...]``, in units of the normalised reward."""
        return self.critic(*layout_in(obs, self.context, self.features).split(obs))
