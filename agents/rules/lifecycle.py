"""Rules for `adarena.envs.lifecycle`: what agencies and simple placement agents do, each with the space it is tuned in."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from adarena.agents.rules.lifecycle_base import Level, LifecycleRule, Wish, begin, tracking
from adarena.agents.tuner import Bound
from adarena.envs.lifecycle_phases import BREAKOUT, COLD_START, STABLE, UNDERSTANDING


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
        return begin()

    def control(self, key: jax.Array, memory: Level, obs: jax.Array) -> tuple[Level, Wish]:
        """One step of the controller."""
        del key
        level = jnp.where(memory.phase < 0, self.level, memory.level + tracking(self, obs, self.gain, self.aim))
        level = jnp.clip(level, -2.0, 2.0)
        width, exploration = jnp.asarray(self.width), jnp.asarray(self.exploration)
        wish = Wish(level + self.brake(obs, self.brake_gain), exploration, width, self.greedy(obs, self.sharpness))
        return Level(level, width, self.phase(obs)), wish


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
        return begin()

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
        return begin()

    def control(self, key: jax.Array, memory: Level, obs: jax.Array) -> tuple[Level, Wish]:
        """One step of the present phase's rule."""
        phase = self.phase(obs)
        level = self._level(memory, obs, phase)
        tired = self.tired * self.read(obs, "frequency_core")
        widths = [self.try_width, self.start_width, self.hold_width + tired, self.grow_width + tired]
        width = jnp.clip(jnp.stack([jnp.asarray(x) for x in widths])[phase], 0.05, 1.0)
        bonus = jnp.where(phase == COLD_START, self.start_bonus, 0.0)
        upper = self.greedy(obs, self.sharpness, bonus)
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


LIFECYCLE_RULES: dict[str, type[LifecycleRule]] = {
    "lifecycle_constant": Constant,
    "lifecycle_thompson": ThompsonMix,
    "lifecycle_target": TargetPacing,
    "lifecycle_phases": PhaseMachine,
    "lifecycle_chained": Chained,
}
"""Every rule by the name that tables and the command line use."""
