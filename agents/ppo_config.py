"""Hyper-parameters of PPO, and what each may be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import numpy as np
from flax import struct

from adarena.agents.distributions import FAMILIES, Family
from adarena.agents.networks import ACTIVATIONS

Objective = Literal["clip", "kl"]
"""How a step is kept near the policy that collected the data: clipped ratio, or adaptive KL penalty."""


def _static(default: Any) -> Any:
    return struct.field(pytree_node=False, default=default)


@struct.dataclass
class Config:
    """Hyper-parameters. A frozen pytree: sizes and names are static, numbers are leaves.

    So ``jax.vmap`` sweeps seeds and numbers at once: in `train`, any number may be an array with one entry a seed.
    Build one with `make_config`, or call `validate` yourself.

    Attributes:
        num_envs: Environments that run side by side, ``B``; a multiple of ``minibatches * shards``. Static.
        rollout_length: Ticks collected from each before an update, ``T``. Static.
        epochs: Passes over a rollout. Static.
        minibatches: Gradient steps a pass. Static.
        shards: Parts of the batch that draw and shuffle by themselves, so that they may lie on several devices. Results
            depend on it, not on the number of devices (but by rounding); see `adarena.agents.shards`. Static.
        hidden: Widths of the hidden layers of actor and critic. Static.
        activation: ``"tanh"``, ``"relu"``, ``"elu"`` or ``"swish"``. Static.
        distribution: ``"gaussian"`` (draw clipped to the action's range), ``"tanh_gaussian"``, ``"beta"``, or
            ``"categorical"`` for a ``Discrete`` action space. Static.
        objective: ``"clip"`` or ``"kl"`` (the adaptive penalty of Schulman et al., 2017, section 4). Static.
        normalise_observations: Whether observations are put on a unit scale by running moments. Static.
        normalise_rewards: Whether rewards are divided by the running standard deviation of discounted returns. Static.
        learning_rate: Step size of Adam.
        decay_steps: Environment steps over which the learning rate falls linearly to zero; infinite for no decay.
        discount: Discount factor a tick, in [0, 1]. One suits episodes that end.
        gae_lambda: Lambda of generalised advantage estimation, in [0, 1].
        clip: Largest change of the probability ratio that is rewarded (objective ``"clip"``).
        entropy: Weight of the entropy bonus.
        value: Weight of the value loss.
        max_gradient_norm: Global norm above which a gradient is scaled down.
        kl_target: KL divergence (nats) a rollout that the penalty aims at (objective ``"kl"``).
        kl_stop: KL divergence (nats) of a minibatch after which the rest of a rollout's steps are skipped; infinite for
            never.
        initial_log_std: Log standard deviation that the Gaussians start with, on the action's scale of [-1, 1].
    """

    num_envs: int = _static(256)
    rollout_length: int = _static(48)
    epochs: int = _static(4)
    minibatches: int = _static(8)
    shards: int = _static(1)
    hidden: tuple[int, ...] = _static((64, 64))
    activation: str = _static("tanh")
    distribution: Family = _static("gaussian")
    objective: Objective = _static("clip")
    normalise_observations: bool = _static(True)
    normalise_rewards: bool = _static(True)
    learning_rate: float = 3e-4
    decay_steps: float = math.inf
    discount: float = 1.0
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 1e-3
    value: float = 0.5
    max_gradient_norm: float = 0.5
    kl_target: float = 0.01
    kl_stop: float = math.inf
    initial_log_std: float = -0.5

    def validate(self) -> None:
        """Checks every field; numbers that are being traced are left alone, arrays are checked entry by entry.

        Raises:
            ValueError: A field's value is not allowed; the message names field, value and what is allowed.
        """
        for name, (accepts, allowed) in _STATIC_RULES.items():
            value = getattr(self, name)
            if not accepts(value):
                raise ValueError(f"{name} must be {allowed}, got {value!r}")
        for name, (accepts, allowed) in _NUMERIC_RULES.items():
            value = getattr(self, name)
            if not isinstance(value, jax.core.Tracer) and not _all_numbers(value, accepts):
                raise ValueError(f"{name} must be {allowed}, got {value!r}")
        if self.num_envs % self.minibatches:
            raise ValueError(f"num_envs must be a multiple of minibatches ({self.minibatches}), got {self.num_envs}")
        if self.num_envs % (self.minibatches * self.shards):
            each = f"minibatches * shards ({self.minibatches} * {self.shards})"
            raise ValueError(f"num_envs must be a multiple of {each}, got {self.num_envs}")


def make_config(**changes: Any) -> Config:
    """A checked `Config` with some fields changed from their defaults.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    unknown = sorted(set(changes) - set(Config.__dataclass_fields__))
    if unknown:
        raise TypeError(f"PPO's config has no field {unknown[0]!r}; fields: {', '.join(Config.__dataclass_fields__)}")
    config = Config(**changes)
    config.validate()
    return config


def numeric_fields() -> tuple[str, ...]:
    """Names of the fields that are leaves (numbers that ``jax.vmap`` can sweep)."""
    return tuple(_NUMERIC_RULES)


def _all_numbers(value: Any, accepts: Callable[[float], bool]) -> bool:
    """Whether ``value`` is a real number, or a non-empty vector of them, and each is accepted."""
    if isinstance(value, (bool, str)) or value is None:
        return False
    array = np.asarray(value)
    numeric = array.dtype.kind in "fiu" or array.dtype == jax.numpy.bfloat16
    return numeric and array.ndim <= 1 and array.size > 0 and all(accepts(float(x)) for x in array.reshape(-1))


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _widths(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(_count(width) for width in value)


def _one_of(names: tuple[str, ...]) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, str) and value in names, f"one of {', '.join(names)}"


_COUNT = (_count, "a whole number of at least 1")
_FLAG = (lambda value: isinstance(value, bool), "True or False")
_STATIC_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_envs": _COUNT,
    "rollout_length": _COUNT,
    "epochs": _COUNT,
    "minibatches": _COUNT,
    "shards": _COUNT,
    "hidden": (_widths, "a non-empty tuple of whole numbers of at least 1"),
    "activation": _one_of(tuple(ACTIVATIONS)),
    "distribution": _one_of(FAMILIES),
    "objective": _one_of(get_args(Objective)),
    "normalise_observations": _FLAG,
    "normalise_rewards": _FLAG,
}

_SHARE = (lambda x: 0.0 <= x <= 1.0, "a number in [0, 1]")
_POSITIVE = (lambda x: 0.0 < x < math.inf, "a finite number above 0")
_POSITIVE_OR_INFINITE = (lambda x: x > 0.0, "a number above 0 (infinity switches it off)")
_NOT_NEGATIVE = (lambda x: 0.0 <= x < math.inf, "a finite number of at least 0")
_NUMERIC_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "learning_rate": _POSITIVE,
    "decay_steps": _POSITIVE_OR_INFINITE,
    "discount": _SHARE,
    "gae_lambda": _SHARE,
    "clip": (lambda x: 0.0 < x < 1.0, "a number strictly between 0 and 1"),
    "entropy": _NOT_NEGATIVE,
    "value": _NOT_NEGATIVE,
    "max_gradient_norm": _POSITIVE_OR_INFINITE,
    "kl_target": _POSITIVE,
    "kl_stop": _POSITIVE_OR_INFINITE,
    "initial_log_std": (lambda x: -10.0 <= x <= 2.0, "a number in [-10, 2]"),
}
