"""Hyper-parameters of Q-learning item by item under a shared budget, and what each may be."""

from __future__ import annotations

import itertools
import math
from typing import Any

from flax import struct

from adarena.agents.fields import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_OR_INFINITE,
    SHARE,
    WIDTHS,
    Rule,
    check_fields,
    checked_config,
)


def _static(default: Any) -> Any:
    return struct.field(pytree_node=False, default=default)


def choices_of(*axes: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """Every combination of the numbers that an item's action may have, one tuple of numbers in [-1, 1] an entry."""
    return tuple(itertools.product(*(tuple(float(x) for x in axis) for axis in axes)))


_BONUS = (-1.0, -0.85, -0.7, -0.6, -0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.2, 0.5)


@struct.dataclass
class Config:
    """Hyper-parameters. A frozen pytree: sizes are static, numbers are leaves that `train` may sweep.

    Attributes:
        choices: What an item's action may be, ``[K][a]`` in [-1, 1] of the action's range; the default suits
            `adarena.envs.coldstart.ColdStart`: twelve bonuses, no protected traffic, three bid multipliers. Static.
        hidden: Widths of the network's hidden layers. Static.
        episodes: Episodes side by side, of which every update plays one each. Static.
        gradient_steps: Gradient steps of an update. Static.
        minibatch: Items at a time of a gradient step. Static.
        price_low: Least price of the budget in training, rewards for an even part of it; drawn anew every episode,
        price_high: and the highest, uniform between in logs.
        pace: How far the price in training follows the budget's use: times ``exp(-pace x fund_pace)``.
        trace: ``lambda`` of the returns: 0 trusts the next value alone, 1 waits for the end.
        explore: Share of items and ticks whose choice is drawn at random; it falls linearly to
        explore_end: this one, over ``decay_steps``.
        hold: Ticks that a random choice is held, on average: what one tick brings is too little to be told from luck.
        cost_weight: Weight of the squared error of costs beside the cross entropy of rewards.
        learning_rate: Step size of Adam, falling linearly to zero over ``decay_steps``.
        max_gradient_norm: Gradients are clipped to this norm.
        decay_steps: Environment steps; infinite for no decay.
    """

    choices: tuple[tuple[float, ...], ...] = _static(choices_of(_BONUS, (-1.0,), (-0.5, 0.0, 0.5)))
    hidden: tuple[int, ...] = _static((64, 64))
    episodes: int = _static(32)
    gradient_steps: int = _static(32)
    minibatch: int = _static(2048)
    price_low: float = 0.02
    price_high: float = 0.8
    pace: float = 1.0
    trace: float = 1.0
    hold: float = 10.0
    explore: float = 0.5
    explore_end: float = 0.1
    cost_weight: float = 0.2
    learning_rate: float = 1e-3
    max_gradient_norm: float = 10.0
    decay_steps: float = math.inf

    def validate(self) -> None:
        """Checks every field; numbers that are being traced are left alone, arrays are checked entry by entry.

        Raises:
            ValueError: A field's value is not allowed; the message names field, value and what is allowed.
        """
        check_fields(self, _STATIC_RULES, _NUMERIC_RULES)
        low, high = self.price_low, self.price_high
        if isinstance(low, (int, float)) and isinstance(high, (int, float)) and low > high:
            raise ValueError(f"price_low must be at most price_high ({high!r}), got {low!r}")


def make_config(**changes: Any) -> Config:
    """A checked `Config` with some fields changed from their defaults.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    return checked_config(Config, "dual_q", changes)


def _choices(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) < 2 or not all(isinstance(row, tuple) and row for row in value):
        return False
    numbers = [x for row in value for x in row]
    real = all(isinstance(x, (int, float)) and not isinstance(x, bool) and -1.0 <= x <= 1.0 for x in numbers)
    return real and len({len(row) for row in value}) == 1 and len(set(value)) == len(value)


_STATIC_RULES: dict[str, Rule] = {
    "choices": (_choices, "a tuple of at least two distinct tuples of equally many numbers in [-1, 1]"),
    "hidden": WIDTHS,
    "episodes": COUNT,
    "gradient_steps": COUNT,
    "minibatch": COUNT,
}

_NUMERIC_RULES: dict[str, Rule] = {
    "price_low": POSITIVE,
    "price_high": POSITIVE,
    "pace": NOT_NEGATIVE,
    "trace": SHARE,
    "hold": (lambda x: 1.0 <= x < float("inf"), "a finite number of at least 1"),
    "explore": (lambda x: 0.0 <= x <= 0.9, "a number in [0, 0.9]"),
    "explore_end": (lambda x: 0.0 <= x <= 0.9, "a number in [0, 0.9]"),
    "cost_weight": POSITIVE,
    "learning_rate": POSITIVE,
    "max_gradient_norm": POSITIVE,
    "decay_steps": POSITIVE_OR_INFINITE,
}
