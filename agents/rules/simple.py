"""Rules without feedback."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax

from adarena.agents.rules.base import Rule
from adarena.agents.tuner import Bound


@flax.struct.dataclass
class Constant(Rule):
    """One multiplier for the whole day, by richness of the budget."""

    def control(self, key: jax.Array, memory: Any, obs: jax.Array) -> tuple[Any, jax.Array]:
        """The opening multiplier, always."""
        del key
        return memory, self.opening(obs)


@flax.struct.dataclass
class Random(Rule):
    """A normal log multiplier, drawn anew each tick around the opening one.

    Attributes:
        spread: Standard deviation of the log multiplier.
    """

    spread: float = 1.0

    SPACE = {"spread": Bound(0.2, 2.0, default=1.0)}  # noqa: RUF012

    def control(self, key: jax.Array, memory: Any, obs: jax.Array) -> tuple[Any, jax.Array]:
        """A draw."""
        return memory, self.opening(obs) + self.spread * jax.random.normal(key)
