"""Several rules in one compiled program, one of them chosen by a number."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from adarena.agents.policy import Policy


@flax.struct.dataclass
class OneOf:
    """Runs every rule on the observation and takes the action of one. Rules cost nothing beside the market.

    One compilation then serves the tuning and the evaluation of all rules.

    Attributes:
        rules: The rules, or other policies that JAX can trace, all with actions of one shape.
        choice: Number of the one that acts; float32, so that populations stack like any parameter.
    """

    rules: tuple[Policy, ...]
    choice: jax.Array

    jittable: ClassVar[bool] = True

    def init(self, params: Any) -> tuple[Any, ...]:
        """Memories of all rules."""
        return tuple(rule.init(params) for rule in self.rules)

    def act(self, key: jax.Array, carry: tuple[Any, ...], obs: jax.Array) -> tuple[tuple[Any, ...], jax.Array]:
        """All memories, and the chosen rule's action."""
        moved = [rule.act(key, memory, obs) for rule, memory in zip(self.rules, carry, strict=True)]
        chosen = [self.choice == number for number in range(len(self.rules))]
        return tuple(memory for memory, _ in moved), jnp.select(chosen, [action for _, action in moved])


def stack(rules: list[OneOf]) -> OneOf:
    """A population as one pytree with a leading axis; parameters as float32."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x, jnp.float32) for x in leaves]), *rules)
