"""The lifecycle as a learner steers it: five numbers a tick instead of one for every creative.

A network that names a weight for each creative has to find out, place by place, that a higher believed click rate deserves
more exposures. Here the mix follows the beliefs by construction, as the rules' does, and the learner says how: how sharply,
and how many standard deviations up. What it does with multiplier, exploration and width is its own affair.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from adarena.agents.rules.lifecycle_base import LifecycleRule, Ranges, Wish, ranges_of
from adarena.envs.core import Key, StepResult, Wrapper
from adarena.envs.lifecycle import Lifecycle

ENTRIES = ("multiplier", "exploration", "width", "sharpness", "bonus")
"""What a steering action holds, each in [-1, 1]; see `Steering.wish`."""

_LEAST_SHARPNESS, _MOST_SHARPNESS, _MOST_BONUS = 0.5, 50.0, 2.0


@flax.struct.dataclass
class Steering(LifecycleRule):
    """A policy of the lifecycle by one that steers.

    Attributes:
        policy: A policy whose action is ``[5]``, see `ENTRIES`.
    """

    policy: Any = None

    def init(self, params: Any) -> Any:
        """Memory at the start of a life: what actions stand for, and the policy's own."""
        return ranges_of(params), self.policy.init(params)

    def act(self, key: jax.Array, carry: Any, obs: jax.Array) -> tuple[Any, jax.Array]:
        """Next memory and the action ``[3 + V]``."""
        ranges, memory = carry
        memory, steering = self.policy.act(key, memory, obs)
        return (ranges, memory), ranges.action(self.wish(ranges, steering, obs))

    def wish(self, ranges: Ranges, steering: jax.Array, obs: jax.Array) -> Wish:
        """What five numbers mean."""
        a = jnp.clip(steering, -1.0, 1.0)
        part = 0.5 * (a + 1.0)
        sharpness = _LEAST_SHARPNESS * (_MOST_SHARPNESS / _LEAST_SHARPNESS) ** part[3]
        return Wish(
            log_multiplier=a[0] * ranges.log_multiplier,
            exploration=jnp.square(part[1]) * ranges.exploration,
            width=ranges.width + part[2] * (1.0 - ranges.width),
            weights=self.greedy(obs, sharpness, _MOST_BONUS * a[4]),
        )


@dataclasses.dataclass(frozen=True)
class Steered(Wrapper):
    """The lifecycle with steering actions.

    Attributes:
        env: The lifecycle underneath.
    """

    env: Lifecycle

    def reset(self, key: Key, params: Any) -> tuple[jax.Array, Any]:
        """Launches a campaign; the state keeps what was seen last, by which creatives are weighed."""
        obs, state = self.env.reset(key, params)
        return obs, (state, obs)

    def step(self, key: Key, state: Any, action: jax.Array, params: Any) -> StepResult:
        """One tick under a steering action ``[5]``."""
        (inner, seen), ranges = state, ranges_of(params)
        wish = Steering.build(self.env).wish(ranges, action, seen)
        result = self.env.step(key, inner, ranges.action(wish), params)
        return result._replace(state=(result.state, result.obs))

    def action_space(self, params: Any) -> gymnasium.Space:
        """``Box(-1, 1, (5,))``."""
        return gymnasium.spaces.Box(-1.0, 1.0, (len(ENTRIES),), np.float32)
