"""Target policies of `adarena.experiments.ope`, and what they would have done in logged episodes."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adarena.agents.behaviour import Behaviour, Varied
from adarena.agents.offline.episodes import Episodes

OWN = "own"
"""Name of the target that varies, in each episode, the policy that played it."""


class Target(NamedTuple):
    """A target policy.

    Attributes:
        policy: ``own`` or the name of a behaviour policy.
        shift: By how many standard deviations the mean of the noise moves.
        scale: What its standard deviation is multiplied by.
    """

    policy: str
    shift: float
    scale: float

    @property
    def name(self) -> str:
        """For people: ``"own +0.2 sd, width 0.8"``."""
        return f"{self.policy} {self.shift:+g} sd, width {self.scale:g}"

    def members(self, behaviours: dict[str, Behaviour]) -> tuple[Behaviour, ...]:
        """All behaviour policies, varied."""
        shift, scale = jnp.float32(self.shift), jnp.float32(self.scale)
        return tuple(Varied(member, shift, scale) for member in behaviours.values())

    def choice(self, behaviours: dict[str, Behaviour], played: np.ndarray) -> np.ndarray:
        """Which of them the target plays in each episode, ``[E]`` int32, where the log played ``played``."""
        if self.policy == OWN:
            return played
        return np.full_like(played, list(behaviours).index(self.policy))


def along(
    members: tuple[Behaviour, ...], params: Any, choice: np.ndarray, log: Episodes, key: jax.Array, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """What a policy would have done in logged episodes, given all that it would have seen by then.

    Args:
        members: Policies.
        params: Parameters of the environment.
        choice: ``[E]`` int32, which of them.
        log: The episodes.
        key: For the draws.
        draws: ``M``, actions to draw at each observation.

    Returns:
        Log densities of the logged actions, ``[E, T]`` float32; actions drawn, ``[E, T + 1, M, A]`` float32.
    """
    keys = jax.random.split(key, log.count)
    arrays = (jnp.asarray(x) for x in (choice, log.observations, log.actions))
    density, actions = _along(draws, members, params, keys, *arrays)
    return np.asarray(density), np.asarray(actions)


@functools.partial(jax.jit, static_argnums=0)
def _along(
    draws: int, members: Any, params: Any, keys: Any, choice: Any, observations: Any, actions: Any
) -> tuple[jax.Array, jax.Array]:
    def episode(key: jax.Array, choice: jax.Array, seen: jax.Array, done: jax.Array) -> Any:
        def step(carry: Any, inputs: Any) -> Any:
            key, obs, action = inputs
            decided = [member.decide(memory, obs) for member, memory in zip(members, carry, strict=True)]
            density = jnp.stack([one.log_prob(action) for _, one in decided])[choice]
            drawn = jnp.stack([jax.vmap(one.sample)(jax.random.split(key, draws))[0] for _, one in decided])[choice]
            return tuple(memory for memory, _ in decided), (density, drawn)

        padded = jnp.concatenate([done, done[-1:]])  # nothing was done after the last observation
        inputs = jax.random.split(key, len(seen)), seen, padded
        _, (density, drawn) = jax.lax.scan(step, tuple(member.init(params) for member in members), inputs)
        return density[:-1], drawn

    return jax.vmap(episode)(keys, choice, observations, actions)
