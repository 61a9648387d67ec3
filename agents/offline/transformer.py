"""A small causal transformer over what was asked, seen and done: the body of the sequence models.

An episode is read as in Decision Transformer (Chen et al., NeurIPS 2021, section 3): step ``t`` gives up to three tokens,
the return asked for, the observation and the action, each projected to one width and given the embedding of its step of
the episode. Blocks are pre-norm. What is predicted for step ``t`` is read at its observation's token, which has seen that
step's return and observation and everything before, but not the step's own action.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Context(NamedTuple):
    """``K`` steps in a row, the oldest first; a leading batch ``[...]`` is allowed.

    Attributes:
        goal: What is asked for at each step, on a unit scale, ``[..., K]`` float32.
        obs: Normalised observations, ``[..., K, O]`` float32.
        action: Actions in [-1, 1], ``[..., K, A]`` float32; those of steps to come may be anything.
        time: Step of the episode of the first entry, ``[...]`` int32.
    """

    goal: jax.Array
    obs: jax.Array
    action: jax.Array
    time: jax.Array


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and added to what came in.

    Attributes:
        width: Width of the tokens.
        heads: Attention heads; they divide ``width``.
        causal: Whether a token sees only itself and those before it.
    """

    width: int
    heads: int
    causal: bool = True

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """``[..., L, width]`` to the same shape."""
        length, size = tokens.shape[-2], self.width // self.heads
        normed = nn.LayerNorm(use_bias=False)(tokens)
        parts = nn.Dense(3 * self.width)(normed).reshape(*tokens.shape[:-1], 3, self.heads, size)
        query, key, value = parts[..., 0, :, :], parts[..., 1, :, :], parts[..., 2, :, :]
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key) * size**-0.5
        if self.causal:
            seen = jnp.tril(jnp.ones((length, length), bool))
            scores = jnp.where(seen, scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(scores), value).reshape(tokens.shape)
        tokens = tokens + nn.Dense(self.width, kernel_init=_SMALL)(mixed)
        hidden = nn.swish(nn.Dense(2 * self.width)(nn.LayerNorm(use_bias=False)(tokens)))
        return tokens + nn.Dense(self.width, kernel_init=_SMALL)(hidden)


_SMALL = nn.initializers.normal(0.02)  # blocks start near the identity


class Transformer(nn.Module):
    """Blocks, then a layer norm.

    Attributes:
        width: Width of the tokens.
        layers: Number of blocks.
        heads: Attention heads.
        causal: Whether a token sees only itself and those before it.
    """

    width: int
    layers: int
    heads: int
    causal: bool = True

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """``[..., L, width]`` to the same shape."""
        for _ in range(self.layers):
            tokens = Block(self.width, self.heads, self.causal)(tokens)
        return nn.LayerNorm(use_bias=False)(tokens)


class SequenceEncoder(nn.Module):
    """What a step's observation token knows, for every step of a context.

    Attributes:
        steps: ``T``, steps of an episode.
        width: Width of the tokens.
        layers: Number of blocks.
        heads: Attention heads.
        goals: Whether there are tokens of what is asked for.
        actions: Whether there are tokens of past actions. A model that sees its last action in smooth data may learn to
            repeat it and little else ("copycat": de Haan et al., NeurIPS 2019; Wen et al., NeurIPS 2020).
    """

    steps: int
    width: int
    layers: int
    heads: int
    goals: bool = True
    actions: bool = True

    @nn.compact
    def __call__(self, context: Context) -> jax.Array:
        """Hidden states at the observations' tokens, ``[..., K, width]`` float32."""
        length = context.obs.shape[-2]
        time = jnp.minimum(context.time[..., None] + jnp.arange(length), self.steps - 1)
        when = nn.Embed(self.steps, self.width, embedding_init=nn.initializers.normal(0.5))(time)
        parts = [nn.Dense(self.width)(context.obs) + when]
        if self.goals:
            parts.insert(0, nn.Dense(self.width)(context.goal[..., None]) + when)
        if self.actions:
            parts.append(nn.Dense(self.width)(context.action) + when)
        kinds = self.param("kinds", nn.initializers.normal(0.1), (len(parts), self.width))
        tokens = jnp.stack(parts, -2) + kinds
        flat = tokens.reshape(*tokens.shape[:-3], length * len(parts), self.width)
        hidden = Transformer(self.width, self.layers, self.heads)(flat)
        return hidden.reshape(tokens.shape)[..., 1 if self.goals else 0, :]


def begin(length: int, observations: int, actions: int) -> Context:
    """The empty context of an episode, for acting: ``length`` places, none of them filled."""
    return Context(
        jnp.zeros(length), jnp.zeros((length, observations)), jnp.zeros((length, actions)), jnp.zeros((), jnp.int32)
    )


def push(context: Context, step: jax.Array, goal: jax.Array, obs: jax.Array) -> tuple[Context, jax.Array]:
    """Adds what is asked for and seen at a step; a full context forgets its oldest step.

    Args:
        context: Contexts of earlier steps, filled from the front.
        step: Step of the episode, scalar int32.
        goal: Scalar float32.
        obs: Normalised observation, ``[O]``.

    Returns:
        The context, and the place of this step in it, scalar int32.
    """
    length = context.goal.shape[0]
    full = step >= length
    kept = jax.tree.map(lambda x: jnp.where(full, jnp.roll(x, -1, 0), x), context[:3])
    place = jnp.minimum(step, length - 1)
    goals, observations, actions = kept
    return Context(
        goals.at[place].set(goal), observations.at[place].set(obs), actions.at[place].set(0.0), step - place
    ), place


def remember(context: Context, place: jax.Array, action: jax.Array) -> Context:
    """Puts the action taken, ``[A]`` in [-1, 1], beside its observation."""
    return context._replace(action=context.action.at[place].set(action))
