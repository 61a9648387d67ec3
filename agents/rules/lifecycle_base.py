"""What the rules for `adarena.envs.lifecycle` share: they read the observation by name and say what they want of a tick."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

import flax.struct
import jax
import jax.numpy as jnp

from adarena.agents.tuner import Bound
from adarena.envs.core import Env
from adarena.envs.lifecycle_phases import PHASES

NEVER = -100.0
"""Log weight of a creative that is not to be served; the environment's sharpness sets how little it is served then."""


class Wish(NamedTuple):
    """What a rule wants of a tick.

    Attributes:
        log_multiplier: Log of bid over target x predicted value.
        exploration: Share of impressions for exploration.
        width: Audience width.
        weights: ``[V]`` log weights of the creatives, up to a constant.
    """

    log_multiplier: jax.Array
    exploration: jax.Array
    width: jax.Array
    weights: jax.Array


class Ranges(NamedTuple):
    """What actions stand for, from the parameters of the environment; scalars."""

    log_multiplier: jax.Array
    exploration: jax.Array
    width: jax.Array
    sharpness: jax.Array

    def action(self, wish: Wish) -> jax.Array:
        """The action ``[3 + V]`` that comes closest to a wish."""
        half = jnp.stack([wish.exploration / self.exploration, (wish.width - self.width) / (1.0 - self.width)])
        mix = 1.0 + (wish.weights - wish.weights.max()) / self.sharpness
        parts = [(wish.log_multiplier / self.log_multiplier)[None], 2.0 * half - 1.0, mix]
        return jnp.clip(jnp.concatenate(parts), -1.0, 1.0).astype(jnp.float32)


def ranges_of(params: Any) -> Ranges:
    """What actions stand for under the parameters of a lifecycle."""
    return Ranges(
        jnp.log(params.max_multiplier),
        jnp.maximum(jnp.asarray(params.max_exploration), 1e-6),
        jnp.minimum(jnp.asarray(params.min_width), 1.0 - 1e-6),
        jnp.asarray(params.mix_sharpness),
    )


@flax.struct.dataclass
class LifecycleRule:
    """A policy of a few numbers. Leaves are its parameters, so a population of candidates is one stacked pytree.

    Attributes:
        index: Place of each observation entry, by name.
        creatives: ``V``.
    """

    index: tuple[tuple[str, int], ...] = flax.struct.field(pytree_node=False, default=())
    creatives: int = flax.struct.field(pytree_node=False, default=1)

    jittable: ClassVar[bool] = True
    SPACE: ClassVar[dict[str, Bound]] = {}
    """What the tuner may change."""

    @classmethod
    def build(cls, env: Env) -> Self:
        """The rule with its default numbers, for an environment whose observation has the entries that it reads."""
        index = tuple((entry.name, place) for place, entry in enumerate(env.OBSERVATION))
        creatives = sum(name.startswith("creative_") and name.endswith("_mean") for name, _ in index)
        defaults = {name: bound.default for name, bound in cls.space().items() if bound.default is not None}
        return cls(index=index, creatives=creatives, **defaults)

    @classmethod
    def space(cls) -> dict[str, Bound]:
        """Search space of the tuner."""
        return dict(cls.SPACE)

    def init(self, params: Any) -> Any:
        """Memory at the start of a life: what actions stand for, and the rule's own."""
        return ranges_of(params), self.memory()

    def act(self, key: jax.Array, carry: Any, obs: jax.Array) -> tuple[Any, jax.Array]:
        """Next memory and the action ``[3 + V]``."""
        ranges, memory = carry
        memory, wish = self.control(key, memory, obs)
        return (ranges, memory), ranges.action(wish)

    def memory(self) -> Any:
        """The rule's own memory at launch; nothing by default."""
        return ()

    def control(self, key: jax.Array, memory: Any, obs: jax.Array) -> tuple[Any, Wish]:
        """Next memory and what the rule wants of the coming tick."""
        raise NotImplementedError

    def read(self, obs: jax.Array, name: str) -> jax.Array:
        """One entry of the observation.

        Raises:
            KeyError: The environment shows no such entry.
        """
        places = dict(self.index)
        if name not in places:
            raise KeyError(f"{type(self).__name__} reads the observation entry {name!r}, which this environment lacks")
        return obs[places[name]]

    def read_creatives(self, obs: jax.Array, name: str) -> jax.Array:
        """One entry of every creative, ``[V]``."""
        return jnp.stack([self.read(obs, f"creative_{k}_{name}") for k in range(self.creatives)])

    def phase(self, obs: jax.Array) -> jax.Array:
        """Index of the phase, int32."""
        flags = jnp.stack([self.read(obs, f"phase_{name}") for name in PHASES])
        return (flags @ jnp.arange(len(PHASES))).astype(jnp.int32)

    def greedy(self, obs: jax.Array, sharpness: jax.Array | float, bonus: jax.Array | float = 0.0) -> jax.Array:
        """Log weights by posterior click rates: each share in proportion to its rate to the power ``sharpness``, ``[V]``.

        Args:
            obs: The observation.
            sharpness: The power.
            bonus: How many standard deviations the rates are taken up.
        """
        return sharpness * (self.read_creatives(obs, "mean") + bonus * self.read_creatives(obs, "spread"))

    def thompson(self, key: jax.Array, obs: jax.Array, spread: jax.Array | float) -> jax.Array:
        """Log weights that serve the creative that is best in one draw from the posteriors, ``[V]``.

        Args:
            key: Key of the draw.
            obs: The observation.
            spread: Factor on the posteriors' standard deviations.
        """
        sd = spread * self.read_creatives(obs, "spread")
        drawn = self.read_creatives(obs, "mean") + sd * jax.random.normal(key, (self.creatives,))
        return jnp.where(jnp.arange(self.creatives) == jnp.argmax(drawn), 0.0, NEVER)

    def brake(self, obs: jax.Array, gain: jax.Array | float) -> jax.Array:
        """Log factor on the bid by pacing: negative where the day's money runs out before its traffic does."""
        return gain * jnp.minimum(self.read(obs, "pacing"), 0.0)


class Level(NamedTuple):
    """Memory of a controller; scalars.

    Attributes:
        level: Log multiplier.
        width: Audience width.
        phase: Int32, the phase of the last tick; -1 before the first.
    """

    level: jax.Array
    width: jax.Array
    phase: jax.Array


def begin() -> Level:
    """A controller that has not begun."""
    return Level(jnp.float32(0.0), jnp.float32(0.0), jnp.int32(-1))


def tracking(rule: LifecycleRule, obs: jax.Array, gain: jax.Array | float, aim: jax.Array | float) -> jax.Array:
    """Step of a log multiplier towards a cost per conversion, by that of the last three days, clipped; a day's in all ticks.

    Nothing moves while no conversion is known of.
    """
    known = rule.read(obs, "estimated_three") > 0.0
    error = jnp.clip(jnp.log(aim) - rule.read(obs, "cost_over_target_three"), -1.0, 1.0)
    return jnp.where(known, gain * error * _TICK, 0.0)


_TICK = 0.125  # days in a tick of three hours; gains are tuned where ticks are longer or shorter
