"""Hyper-parameters of the evolution strategy, and what each may be."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from flax import struct

from adarena.agents.actors import NETWORKS, NetworkKind, check_network
from adarena.agents.distributions import Family
from adarena.agents.fields import (
    ACTION,
    COUNT,
    FLAG,
    POSITIVE,
    POSITIVE_OR_INFINITE,
    WIDTHS,
    Rule,
    check_fields,
    checked_config,
    is_count,
    one_of,
)
from adarena.agents.networks import ACTIVATIONS

Shaping = Literal["ranks", "standardised"]
"""What scores count for: their centred ranks (ties share one), or their distance from the mean in standard deviations."""


def _static(default: Any) -> Any:
    return struct.field(pytree_node=False, default=default)


@struct.dataclass
class Config:
    """Hyper-parameters. A frozen pytree: sizes and names are static, numbers are leaves that `train` may sweep.

    Attributes:
        population: Candidates a generation, ``P``; even, since they come in antithetic pairs. Static.
        episodes: Episodes each candidate plays, ``E``; the same markets and luck for all candidates. Static.
        network: As in `adarena.agents.ppo_config.Config`. Static.
        hidden: Widths of the actor's hidden layers. Static.
        activation: ``"tanh"``, ``"relu"``, ``"elu"`` or ``"swish"``. Static.
        initial_action: As in `adarena.agents.ppo_config.Config`. Static.
        objective: What a whole episode is scored by: pairs of a name and a weight. Names are ``"return"`` (sum of rewards)
            and those of ``env.metrics``. Static.
        shaping: ``"ranks"`` (only order counts, so one lucky score cannot lead) or ``"standardised"``. Static.
        normalise_observations: Whether observations are put on a unit scale by running moments. Static.
        sigma: Standard deviation of the noise on every parameter.
        learning_rate: Step size of Adam.
        decay_steps: Environment steps over which the learning rate falls linearly to zero; infinite for no decay.
    """

    population: int = _static(64)
    episodes: int = _static(8)
    network: NetworkKind = _static("mlp")
    hidden: tuple[int, ...] = _static((32, 32))
    activation: str = _static("tanh")
    initial_action: tuple[float, ...] | None = _static(None)
    objective: tuple[tuple[str, float], ...] = _static((("return", 1.0),))
    shaping: Shaping = _static("ranks")
    normalise_observations: bool = _static(True)
    sigma: float = 0.02
    learning_rate: float = 0.01
    decay_steps: float = math.inf

    @property
    def distribution(self) -> Family:
        """The actor's outputs are actions, clipped to [-1, 1]."""
        return "gaussian"

    @property
    def initial_log_std(self) -> float:
        """Not used: actions are not drawn."""
        return 0.0

    def validate(self) -> None:
        """Checks every field; numbers that are being traced are left alone, arrays are checked entry by entry.

        Raises:
            ValueError: A field's value is not allowed; the message names field, value and what is allowed.
        """
        check_fields(self, _STATIC_RULES, _NUMERIC_RULES)
        check_network(self)


def make_config(**changes: Any) -> Config:
    """A checked `Config` with some fields changed from their defaults.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    return checked_config(Config, "ES", changes)


def _objective(value: Any) -> bool:
    if not isinstance(value, tuple) or not value or not all(isinstance(x, tuple) and len(x) == 2 for x in value):
        return False
    finite = all(isinstance(w, (int, float)) and not isinstance(w, bool) and math.isfinite(w) for _, w in value)
    names = [name for name, _ in value]
    return finite and all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names)


_STATIC_RULES: dict[str, Rule] = {
    "population": (lambda value: is_count(value) and value % 2 == 0, "an even whole number of at least 2"),
    "episodes": COUNT,
    "network": one_of(NETWORKS),
    "hidden": WIDTHS,
    "activation": one_of(tuple(ACTIVATIONS)),
    "initial_action": ACTION,
    "objective": (_objective, "a non-empty tuple of pairs of a name, each once, and a finite weight"),
    "shaping": one_of(get_args(Shaping)),
    "normalise_observations": FLAG,
}

_NUMERIC_RULES: dict[str, Rule] = {
    "sigma": POSITIVE,
    "learning_rate": POSITIVE,
    "decay_steps": POSITIVE_OR_INFINITE,
}
