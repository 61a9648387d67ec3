"""Observations and actions of environments that hold a variable number of alike items (ads, say): a set in a flat vector.

The vector is ``[context, item 0, item 1, ...]``; every item has the same features, the first of which says whether the
item is there (1) or its place is empty (0; then the item's other features are 0 as well). The action vector has the same
order of items, a few numbers each. Relabelling the items relabels observation and action alike, so a policy may, and
should, be permutation-equivariant.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class SetLayout(NamedTuple):
    """Where things lie in the flat vectors of an environment whose attribute ``layout`` this is; whole numbers.

    Attributes:
        context: Entries that belong to no item; they come first.
        items: Places for items, ``L``.
        features: Entries of each item, ``F``; the first is the mask.
        actions: Numbers that an action has for each item.
    """

    context: int
    items: int
    features: int
    actions: int

    def split(self, obs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Takes observations apart.

        Args:
            obs: ``[..., context + L F]`` float32.

        Returns:
            Context ``[..., context]``, items ``[..., L, F]`` (the mask's column included) and mask ``[..., L]`` bool.
        """
        width = self.context + self.items * self.features
        if obs.shape[-1] != width:
            raise ValueError(f"obs must end in {width} entries (a context and {self.items} items), got {obs.shape}")
        items = obs[..., self.context :].reshape(*obs.shape[:-1], self.items, self.features)
        return obs[..., : self.context], items, items[..., 0] > 0.5

    def join(self, context: jax.Array, items: jax.Array) -> jax.Array:
        """The inverse of `split`: ``[..., context]`` and ``[..., L, F]`` to ``[..., context + L F]``."""
        return jnp.concatenate([context, items.reshape(*items.shape[:-2], -1)], axis=-1)


def layout_in(obs: jax.Array, context: int, features: int) -> SetLayout:
    """Where things lie in observations ``[..., context + L features]``; of actions it says nothing."""
    return SetLayout(context, (obs.shape[-1] - context) // features, features, 0)
