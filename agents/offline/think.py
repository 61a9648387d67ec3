"""The two networks of a reasoning bidder: one thinks a chain, word by word, the other acts on it.

As in LBM (Kuaishou, WWW 2026, arXiv:2603.05134), Think reads the campaign's last ticks and Act is a sequence model that
conditions on what was thought. Both are small transformers (`adarena.agents.offline.transformer`); a word depends on the
words before it in its chain. `Act` sees thoughts at its head alone: the thoughts of a step bear on that step's action.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from adarena.agents.offline.thoughts import LENGTH, SIZES, SLOTS, WIDTH
from adarena.agents.offline.transformer import Context, SequenceEncoder


class Think(nn.Module):
    """Chances of the words of a chain, each given those before it.

    Attributes:
        encoder: Reads what is asked for and seen.
    """

    encoder: SequenceEncoder

    def setup(self) -> None:
        """Declares the parts."""
        width = self.encoder.width
        self.said = [nn.Embed(size, width, embedding_init=nn.initializers.normal(0.1)) for size in SIZES[:-1]]
        self.hidden = [nn.Dense(width) for _ in SIZES]
        self.words = [nn.Dense(size, kernel_init=nn.initializers.normal(0.02)) for size in SIZES]

    def __call__(self, context: Context, chain: jax.Array) -> tuple[jax.Array, ...]:
        """Log-chances of each slot's words, ``[..., K, size]``, where chains ``[..., K, L]`` were thought."""
        return self.follow(self.read(context), chain)

    def read(self, context: Context) -> jax.Array:
        """What is known at each step, ``[..., K, width]``."""
        return self.encoder(context)

    def follow(self, state: jax.Array, chain: jax.Array) -> tuple[jax.Array, ...]:
        """Log-chances of each slot's words, ``[..., size]``, along chains ``[..., L]`` at states ``[..., width]``."""
        found = []
        for slot in range(LENGTH):
            found.append(self._next(slot, state))
            if slot < LENGTH - 1:
                state = state + self.said[slot](chain[..., slot])
        return tuple(found)

    def say(self, state: jax.Array, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Thinks at states ``[..., width]``.

        Args:
            state: As `read` gives them.
            key: Of the draws of words; without one, each word is the `middle` of those that may follow the ones before.

        Returns:
            Chains, ``[..., L]`` int32, and the chances that each slot's words had, ``[..., WIDTH]``.
        """
        chain, chances = [], []
        for slot in range(LENGTH):
            logits = self._next(slot, state)
            chance = jnp.exp(logits)
            if key is None:
                word = middle(chance, SLOTS[slot].ordered)
            else:
                word = jax.random.categorical(jax.random.fold_in(key, slot), logits).astype(jnp.int32)
            chain.append(word)
            chances.append(chance)
            if slot < LENGTH - 1:
                state = state + self.said[slot](word)
        return jnp.stack(chain, -1), jnp.concatenate(chances, -1)

    def _next(self, slot: int, state: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(self.words[slot](nn.swish(self.hidden[slot](state))))


def middle(chances: jax.Array, ordered: int) -> jax.Array:
    """The median of words in order, ``[...]`` int32, by their chances ``[..., words]``.

    The likeliest word jumps from one end to the other where both are about as likely; the median of a log of several minds
    is what lies between them. A word beyond the ``ordered`` ones is said where it is likelier than all of these together.
    """
    among = jnp.cumsum(chances[..., :ordered], -1)
    word = jnp.argmax(among >= 0.5 * among[..., -1:], -1)
    if chances.shape[-1] > ordered:
        word = jnp.where(among[..., -1] < 0.5, ordered, word)
    return word.astype(jnp.int32)


class Act(nn.Module):
    """A sequence model whose action depends on what was thought.

    Attributes:
        encoder: Reads what is asked for and seen.
        actions: ``A``.
    """

    encoder: SequenceEncoder
    actions: int

    def setup(self) -> None:
        """Declares the parts."""
        width = self.encoder.width
        self.thoughts = nn.Dense(width, use_bias=False)
        self.hidden = nn.Dense(2 * width)
        self.out = nn.Dense(self.actions)

    def __call__(self, context: Context, thoughts: jax.Array) -> jax.Array:
        """Actions in [-1, 1], ``[..., K, A]``, on thoughts ``[..., K, WIDTH]`` (all zero where nothing was thought)."""
        return self.decide(self.read(context), thoughts)

    def read(self, context: Context) -> jax.Array:
        """What is known at each step, ``[..., K, width]``."""
        return self.encoder(context)

    def decide(self, state: jax.Array, thoughts: jax.Array) -> jax.Array:
        """Actions in [-1, 1], ``[..., A]``, at states ``[..., width]`` on thoughts ``[..., WIDTH]``."""
        return jnp.tanh(self.out(nn.swish(self.hidden(state + self.thoughts(thoughts)))))


def no_thoughts(shape: tuple[int, ...]) -> jax.Array:
    """Thoughts of which there are none, ``[*shape, WIDTH]``."""
    return jnp.zeros((*shape, WIDTH))
