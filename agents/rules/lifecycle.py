"""Rules for `adarena.envs.lifecycle`: what agencies and simple placement agents do; they read the observation by name."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

import flax.struct
import jax
import jax.numpy as jnp

from adarena.agents.policy import register_policy
from adarena.agents.tuner import Bound
from adarena.envs.core import Env
from adarena.envs.lifecycle_phases import BREAKOUT, COLD_START, PHASES, STABLE, UNDERSTANDING

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
        ranges = Ranges(
            jnp.log(params.max_multiplier),
            jnp.maximum(jnp.asarray(params.max_exploration), 1e-6),
            jnp.minimum(jnp.asarray(params.min_width), 1.0 - 1e-6),
            jnp.asarray(params.mix_sharpness),
        )
        return ranges, self.memory()

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

    def greedy(self, obs: jax.Array, sharpness: jax.Array | float) -> jax.Array:
        """Log weights by posterior click rates: each share in proportion to its rate to the power ``sharpness``, ``[V]``."""
        return sharpness * self.read_creatives(obs, "mean")

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


@flax.struct.dataclass
class Constant(LifecycleRule):
    """The same controls for life, all creatives alike.

    Attributes:
        level: Log multiplier.
        exploration: Exploration share.
        width: Audience width.
    """

    level: float = 0.0
    exploration: float = 0.0
    width: float = 0.5

    SPACE: ClassVar[dict[str, Bound]] = {
        "level": Bound(-1.3, 1.3, default=0.0),
        "exploration": Bound(0.0, 0.5, default=0.0),
        "width": Bound(0.05, 1.0, default=0.5),
    }

    def control(self, key: jax.Array, memory: Any, obs: jax.Array) -> tuple[Any, Wish]:
        """Always the same."""
        del key, obs
        level, exploration, width = (jnp.asarray(x) for x in (self.level, self.exploration, self.width))
        return memory, Wish(level, exploration, width, jnp.zeros(self.creatives))


@flax.struct.dataclass
class ThompsonMix(Constant):
    """The same controls for life; in every tick the creative that is best in a draw from the posteriors.

    Attributes:
        spread: Factor on the posteriors' standard deviations.
    """

    spread: float = 1.0

    SPACE: ClassVar[dict[str, Bound]] = {**Constant.SPACE, "spread": Bound(0.0, 3.0, default=1.0)}

    def control(self, key: jax.Array, memory: Any, obs: jax.Array) -> tuple[Any, Wish]:
        """Draws the creative."""
        memory, wish = Constant.control(self, key, memory, obs)
        return memory, wish._replace(weights=self.thompson(key, obs, self.spread))


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


def _fresh() -> Level:
    return Level(jnp.float32(0.0), jnp.float32(0.0), jnp.int32(-1))


@flax.struct.dataclass
class TargetPacing(LifecycleRule):
    """One controller for life: integral control on cost per conversion, a brake by pacing, shares by click rates.

    Attributes:
        level: Log multiplier at launch.
        gain: Step of the log multiplier a day, per unit of log error of the last days' cost per conversion.
        aim: Cost per conversion over target that is steered to.
        brake_gain: Log factor on the bid per unit of log overrun of the day's plan.
        exploration: Exploration share.
        width: Audience width.
        sharpness: Power of the posterior click rate by which creatives share exposures.
    """

    level: float = 0.0
    gain: float = 0.2
    aim: float = 1.0
    brake_gain: float = 0.5
    exploration: float = 0.05
    width: float = 0.4
    sharpness: float = 8.0

    SPACE: ClassVar[dict[str, Bound]] = {
        "level": Bound(-1.0, 1.3, default=0.0),
        "gain": Bound(0.01, 2.0, log=True, default=0.2),
        "aim": Bound(0.7, 1.4, default=1.0),
        "brake_gain": Bound(0.0, 2.0, default=0.5),
        "exploration": Bound(0.0, 0.5, default=0.05),
        "width": Bound(0.05, 1.0, default=0.4),
        "sharpness": Bound(0.5, 30.0, log=True, default=8.0),
    }

    def memory(self) -> Level:
        """A controller that has not begun."""
        return _fresh()

    def control(self, key: jax.Array, memory: Level, obs: jax.Array) -> tuple[Level, Wish]:
        """One step of the controller."""
        del key
        level = jnp.where(memory.phase < 0, self.level, memory.level + tracking(self, obs, self.gain, self.aim))
        level = jnp.clip(level, -2.0, 2.0)
        width, exploration = jnp.asarray(self.width), jnp.asarray(self.exploration)
        wish = Wish(level + self.brake(obs, self.brake_gain), exploration, width, self.greedy(obs, self.sharpness))
        return Level(level, width, self.phase(obs)), wish


def tracking(rule: LifecycleRule, obs: jax.Array, gain: jax.Array | float, aim: jax.Array | float) -> jax.Array:
    """Step of a log multiplier towards a cost per conversion, by that of the last three days, clipped; a day's in all ticks.

    Nothing moves while no conversion is known of.
    """
    known = rule.read(obs, "estimated_three") > 0.0
    error = jnp.clip(jnp.log(aim) - rule.read(obs, "cost_over_target_three"), -1.0, 1.0)
    return jnp.where(known, gain * error * _TICK, 0.0)


_TICK = 0.125  # days in a tick of three hours; gains are tuned where ticks are longer or shorter


@flax.struct.dataclass
class PhaseMachine(LifecycleRule):
    """What an agency does.

    It tries all creatives alike, then keeps the best; overbids until the cold start is over; then steers cost and pace; in
    breakout it widens the audience while the last days' cost per conversion allows.

    Attributes:
        try_level: Log multiplier of the understanding.
        try_width: Audience width of the understanding.
        start_level: Log multiplier at the beginning of the cold start.
        start_gain: Step a day of the log multiplier in the cold start, per unit of log error of cost per conversion.
        start_width: Audience width of the cold start.
        start_exploration: Exploration share of the cold start.
        hold_level: What is added to the log multiplier when the cold start is over.
        hold_gain: Step a day of the log multiplier afterwards.
        hold_aim: Cost per conversion over target that is steered to in the stable phase.
        hold_width: Audience width of the stable phase.
        grow_aim: Likewise in breakout.
        widen: Change a day of the width in breakout, per unit of log error of cost per conversion.
        grow_width: Audience width at the beginning of the breakout.
        exploration: Exploration share after the cold start.
        brake_gain: Log factor on the bid per unit of log overrun of the day's plan.
        sharpness: Power of the posterior click rate by which creatives share exposures after the understanding.
    """

    try_level: float = 0.3
    try_width: float = 0.3
    start_level: float = 0.3
    start_gain: float = 0.2
    start_width: float = 0.3
    start_exploration: float = 0.1
    hold_level: float = -0.1
    hold_gain: float = 0.3
    hold_aim: float = 0.95
    hold_width: float = 0.4
    grow_aim: float = 1.0
    widen: float = 0.2
    grow_width: float = 0.6
    exploration: float = 0.05
    brake_gain: float = 0.5
    sharpness: float = 10.0

    SPACE: ClassVar[dict[str, Bound]] = {
        "try_level": Bound(-0.7, 1.3, default=0.3),
        "try_width": Bound(0.05, 1.0, default=0.3),
        "start_level": Bound(-0.7, 1.3, default=0.2),
        "start_gain": Bound(0.01, 2.0, log=True, default=0.2),
        "start_width": Bound(0.05, 1.0, default=0.3),
        "start_exploration": Bound(0.0, 0.5, default=0.1),
        "hold_level": Bound(-0.7, 0.7, default=0.0),
        "hold_gain": Bound(0.01, 2.0, log=True, default=0.3),
        "hold_aim": Bound(0.7, 1.3, default=0.95),
        "hold_width": Bound(0.05, 1.0, default=0.4),
        "grow_aim": Bound(0.7, 1.4, default=1.0),
        "widen": Bound(0.0, 1.0, default=0.2),
        "grow_width": Bound(0.05, 1.0, default=0.6),
        "exploration": Bound(0.0, 0.5, default=0.05),
        "brake_gain": Bound(0.0, 2.0, default=0.5),
        "sharpness": Bound(0.5, 30.0, log=True, default=10.0),
    }

    def memory(self) -> Level:
        """A machine that has not begun."""
        return _fresh()

    def control(self, key: jax.Array, memory: Level, obs: jax.Array) -> tuple[Level, Wish]:
        """One step of the controller of the present phase."""
        del key
        phase = self.phase(obs)
        entered = phase != memory.phase
        step = jnp.stack(
            [
                jnp.float32(0.0),
                tracking(self, obs, self.start_gain, 1.0),
                tracking(self, obs, self.hold_gain, self.hold_aim),
                tracking(self, obs, self.hold_gain, self.grow_aim),
            ]
        )[phase]
        opening = jnp.stack(
            [
                jnp.asarray(self.try_level),
                jnp.asarray(self.start_level),
                memory.level + self.hold_level,
                memory.level,
            ]
        )[phase]
        level = jnp.clip(jnp.where(entered, opening, memory.level + step), -2.0, 2.0)
        widths = jnp.stack(
            [jnp.asarray(x) for x in (self.try_width, self.start_width, self.hold_width, self.grow_width)]
        )
        widened = memory.width + tracking(self, obs, self.widen, self.grow_aim)
        width = jnp.clip(jnp.where((phase == BREAKOUT) & ~entered, widened, widths[phase]), 0.05, 1.0)
        exploration = jnp.where(phase == COLD_START, self.start_exploration, self.exploration)
        weights = jnp.where(phase == UNDERSTANDING, 0.0, self.greedy(obs, self.sharpness))
        wish = Wish(level + self.brake(obs, self.brake_gain), jnp.where(phase > 0, exploration, 0.0), width, weights)
        return Level(level, width, phase), wish


@flax.struct.dataclass
class Chained(LifecycleRule):
    """The rule that is good at each phase, one after another, each with numbers of its own.

    Understanding: Thompson sampling under exploration. Cold start: overbids, less so the closer it is to its conversions,
    on the creatives that could be best (upper bounds). Stable: integral control on cost per conversion with a brake by pace.
    Breakout: the same with gains of its own. In both the audience widens as its core tires.

    Attributes:
        try_level: Log multiplier of the understanding.
        try_exploration: Its exploration share.
        try_width: Its audience width.
        try_spread: Factor on standard deviations in its Thompson sampling.
        start_level: Log multiplier of the cold start without any conversion.
        start_fall: How much lower it is when all conversions are in.
        start_width: Audience width of the cold start.
        start_bonus: Standard deviations added to click rates in it.
        hold_level: Log multiplier at the beginning of the stable phase.
        hold_gain: Step of the target's multiplier a day, per unit of log error.
        hold_aim: Cost per conversion over target that is steered to.
        hold_width: Audience width of the stable phase with rested users.
        grow_level: Log multiplier at the beginning of the breakout, over that of the stable phase's end.
        grow_gain: Step a day in breakout.
        grow_aim: Cost per conversion over target steered to in it.
        grow_width: Audience width of the breakout with rested users.
        tired: Width added per unit of the log of 1 + frequency of the core, in both.
        brake_gain: Log factor on the bid per unit of log overrun of the day's plan.
        sharpness: Power of the (upper) click rate by which creatives share exposures from the cold start on.
        exploration: Exploration share from the cold start on.
    """

    try_level: float = 0.3
    try_exploration: float = 0.2
    try_width: float = 0.3
    try_spread: float = 1.0
    start_level: float = 0.3
    start_fall: float = 0.3
    start_width: float = 0.3
    start_bonus: float = 0.5
    hold_level: float = 0.0
    hold_gain: float = 0.3
    hold_aim: float = 0.95
    hold_width: float = 0.3
    grow_level: float = 0.0
    grow_gain: float = 0.3
    grow_aim: float = 1.0
    grow_width: float = 0.4
    tired: float = 0.1
    brake_gain: float = 0.5
    sharpness: float = 10.0
    exploration: float = 0.05

    SPACE: ClassVar[dict[str, Bound]] = {
        "try_level": Bound(-0.7, 1.3, default=0.3),
        "try_exploration": Bound(0.0, 0.5, default=0.2),
        "try_width": Bound(0.05, 1.0, default=0.3),
        "try_spread": Bound(0.0, 3.0, default=1.0),
        "start_level": Bound(-0.7, 1.3, default=0.3),
        "start_fall": Bound(-0.5, 1.5, default=0.3),
        "start_width": Bound(0.05, 1.0, default=0.3),
        "start_bonus": Bound(0.0, 3.0, default=0.5),
        "hold_level": Bound(-0.7, 0.7, default=0.0),
        "hold_gain": Bound(0.01, 2.0, log=True, default=0.3),
        "hold_aim": Bound(0.7, 1.3, default=0.95),
        "hold_width": Bound(0.05, 1.0, default=0.3),
        "grow_level": Bound(-0.7, 0.7, default=0.0),
        "grow_gain": Bound(0.01, 2.0, log=True, default=0.3),
        "grow_aim": Bound(0.7, 1.4, default=1.0),
        "grow_width": Bound(0.05, 1.0, default=0.4),
        "tired": Bound(0.0, 0.5, default=0.1),
        "brake_gain": Bound(0.0, 2.0, default=0.5),
        "sharpness": Bound(0.5, 30.0, log=True, default=10.0),
        "exploration": Bound(0.0, 0.5, default=0.05),
    }

    def memory(self) -> Level:
        """A chain that has not begun."""
        return _fresh()

    def control(self, key: jax.Array, memory: Level, obs: jax.Array) -> tuple[Level, Wish]:
        """One step of the present phase's rule."""
        phase = self.phase(obs)
        level = self._level(memory, obs, phase)
        tired = self.tired * self.read(obs, "frequency_core")
        widths = [self.try_width, self.start_width, self.hold_width + tired, self.grow_width + tired]
        width = jnp.clip(jnp.stack([jnp.asarray(x) for x in widths])[phase], 0.05, 1.0)
        bonus = jnp.where(phase == COLD_START, self.start_bonus, 0.0)
        upper = self.sharpness * (self.read_creatives(obs, "mean") + bonus * self.read_creatives(obs, "spread"))
        weights = jnp.where(phase == UNDERSTANDING, self.thompson(key, obs, self.try_spread), upper)
        exploration = jnp.where(phase == UNDERSTANDING, self.try_exploration, self.exploration)
        return Level(level, width, phase), Wish(level + self.brake(obs, self.brake_gain), exploration, width, weights)

    def _level(self, memory: Level, obs: jax.Array, phase: jax.Array) -> jax.Array:
        """Log multiplier, but for pacing."""
        start = self.start_level - self.start_fall * self.read(obs, "start_progress")
        held = memory.level + tracking(self, obs, self.hold_gain, self.hold_aim)
        grown = memory.level + tracking(self, obs, self.grow_gain, self.grow_aim)
        entered = phase != memory.phase
        held = jnp.where(entered, self.hold_level, held)
        grown = jnp.where(entered, memory.level + self.grow_level, grown)
        chosen = [phase == n for n in (UNDERSTANDING, COLD_START, STABLE, BREAKOUT)]
        return jnp.clip(jnp.select(chosen, [jnp.asarray(self.try_level), start, held, grown]), -2.0, 2.0)


RULES: dict[str, type[LifecycleRule]] = {
    "lifecycle_constant": Constant,
    "lifecycle_thompson": ThompsonMix,
    "lifecycle_target": TargetPacing,
    "lifecycle_phases": PhaseMachine,
    "lifecycle_chained": Chained,
}
"""Every rule by the name that tables and the command line use."""

for _name, _rule in RULES.items():
    register_policy(_name, _rule.build)
