"""Rules that move the multiplier by what the accounts say: pacers, PID controllers, dual steps."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from adarena.agents.rules.base import Rule
from adarena.agents.tuner import Bound
from adarena.envs import rivals
from adarena.envs.rivals import LIMIT, Control


@flax.struct.dataclass
class Feedback(Rule):
    """A rule around one of the control laws of `adarena.envs.rivals`."""

    def memory(self) -> Control:
        """Memory of the law; its levels are set from the first observation."""
        return rivals.begin(jnp.float32(0.0))

    def control(self, key: jax.Array, memory: Control, obs: jax.Array) -> tuple[Control, jax.Array]:
        """Opens by context, then follows the law."""
        del key
        signals = self.signals(obs)
        opened = rivals.begin(self.opening(obs))
        memory = jax.tree.map(lambda old, new: jnp.where(signals.started > 0.0, old, new), memory, opened)
        return self.law(memory, signals)

    def law(self, memory: Control, signals: rivals.Signals) -> tuple[Control, jax.Array]:
        """Next memory and log multiplier."""
        raise NotImplementedError


@flax.struct.dataclass
class BudgetPacer(Feedback):
    """Budget pacer: raise the bid where projected spend is below ``low`` of what is left, lower it above ``high``.

    Defaults are those of AuctionNet's rule set (0.7, 1.1, x1.2, x0.7).

    Attributes:
        low: Projected spend over what is left, below which the bid is raised.
        high: Above which it is lowered.
        up: Factor of a raise.
        down: Factor of a cut.
    """

    low: float = 0.7
    high: float = 1.1
    up: float = 1.2
    down: float = 0.7

    SPACE = {  # noqa: RUF012
        "low": Bound(0.4, 1.0, default=0.7),
        "high": Bound(1.0, 2.0, default=1.1),
        "up": Bound(1.005, 1.5, default=1.2),
        "down": Bound(0.5, 0.995, default=0.7),
    }

    def law(self, memory: Control, signals: rivals.Signals) -> tuple[Control, jax.Array]:
        """`adarena.envs.rivals.pacer`."""
        return rivals.pacer(memory, signals, self.low, self.high, self.up, self.down)


@flax.struct.dataclass
class PIDTarget(Feedback):
    """PID controller on the log of target over cost per value so far.

    Attributes:
        proportional: Gain of the error.
        integral: Gain of its sum.
        derivative: Gain of its change.
    """

    proportional: float = 0.1
    integral: float = 0.01
    derivative: float = 0.1

    SPACE = {  # noqa: RUF012
        "proportional": Bound(1e-3, 1.0, log=True, default=0.1),
        "integral": Bound(1e-5, 0.1, log=True, default=1e-3),
        "derivative": Bound(1e-3, 1.0, log=True, default=0.1),
    }

    def law(self, memory: Control, signals: rivals.Signals) -> tuple[Control, jax.Array]:
        """`adarena.envs.rivals.pid` on the target."""
        error = rivals.target_error(signals)
        return rivals.pid(memory, signals, error, self.proportional, self.integral, self.derivative)


@flax.struct.dataclass
class PIDPacing(PIDTarget):
    """PID controller on the log of money left over projected spend."""

    def law(self, memory: Control, signals: rivals.Signals) -> tuple[Control, jax.Array]:
        """`adarena.envs.rivals.pid` on pacing."""
        error = rivals.pacing_error(signals)
        return rivals.pid(memory, signals, error, self.proportional, self.integral, self.derivative)


@flax.struct.dataclass
class MinPacing(Feedback):
    """Min-pacing: the smaller of a budget multiplier and a target multiplier (arXiv:2302.08530), the strong rule.

    Attributes:
        budget_gain: Step of the budget's multiplier, in logs per unit of log pacing error.
        target_gain: Step of the target's multiplier.
        aim: Factor on the target that the rule steers to; above 1 where a small overrun pays.
    """

    budget_gain: float = 0.3
    target_gain: float = 0.2
    aim: float = 1.0

    SPACE = {  # noqa: RUF012
        "budget_gain": Bound(0.01, 1.0, log=True, default=0.3),
        "target_gain": Bound(0.01, 1.0, log=True, default=0.2),
        "aim": Bound(0.8, 1.4, default=1.0),
    }

    def law(self, memory: Control, signals: rivals.Signals) -> tuple[Control, jax.Array]:
        """`adarena.envs.rivals.min_pacing`."""
        signals = signals._replace(cost_over_target=signals.cost_over_target / self.aim)
        return rivals.min_pacing(memory, signals, self.budget_gain, self.target_gain)


@flax.struct.dataclass
class DualDescent(Feedback):
    """Dual descent on budget and target: multiplier = (1 + mu) / (lambda + mu), each dual moved against its slack.

    ``lambda <- [lambda - step (1 - spend / plan)]+``, ``mu <- [mu - step (1 - cost / (aim x target x value))]+``; the bid is
    the optimum of the Lagrangian in a second-price auction. Memory: ``level`` holds lambda, ``target_level`` mu.

    Attributes:
        budget_step: Step of lambda.
        target_step: Step of mu.
        aim: Factor on the target.
    """

    budget_step: float = 0.1
    target_step: float = 0.1
    aim: float = 1.0

    SPACE = {  # noqa: RUF012
        "budget_step": Bound(0.003, 1.0, log=True, default=0.144),  # 48 ** -0.5
        "target_step": Bound(0.003, 1.0, log=True, default=0.144),
        "aim": Bound(0.8, 1.4, default=1.0),
    }

    def control(self, key: jax.Array, memory: Control, obs: jax.Array) -> tuple[Control, jax.Array]:
        """Opens with lambda at the inverse of the opening multiplier and mu at 0."""
        del key
        signals = self.signals(obs)
        start = jnp.exp(-self.opening(obs))
        fresh = memory._replace(level=start, target_level=jnp.zeros_like(start))
        memory = jax.tree.map(lambda old, new: jnp.where(signals.started > 0.0, old, new), memory, fresh)
        return self.law(memory, signals)

    def law(self, memory: Control, signals: rivals.Signals) -> tuple[Control, jax.Array]:
        """One dual step and the bid that goes with it."""
        plan = jnp.clip(rivals.planned(signals), 0.0, 3.0)
        over = jnp.clip(signals.cost_over_target / self.aim, 0.0, 3.0)
        budget_dual = memory.level - signals.started * self.budget_step * (1.0 - plan)
        target_dual = memory.target_level - signals.started * self.target_step * (1.0 - over)
        budget_dual, target_dual = jnp.maximum(budget_dual, 0.0), jnp.maximum(target_dual, 0.0)
        multiplier = (1.0 + target_dual) / jnp.maximum(budget_dual + target_dual, 0.05)
        level = jnp.clip(jnp.log(multiplier), -LIMIT, LIMIT)
        return memory._replace(level=budget_dual, target_level=target_dual), level
