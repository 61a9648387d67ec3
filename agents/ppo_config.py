"""Hyper-parameters of PPO, and what each may be."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from flax import struct

from adarena.agents.actors import NETWORKS, NetworkKind, check_network
from adarena.agents.distributions import FAMILIES, Family
from adarena.agents.fields import (
    ACTION,
    COUNT,
    FLAG,
    NOT_NEGATIVE,
    OPEN_SHARE,
    POSITIVE,
    POSITIVE_OR_INFINITE,
    SHARE,
    WIDTHS,
    Rule,
    check_fields,
    checked_config,
    one_of,
)
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
        network: ``"mlp"``, or for environments of alike items (those with a ``layout``, `adarena.envs.sets`) ``"deep_sets"`` or
            ``"attention"``, which treat all items alike; see `adarena.agents.set_networks`. Static.
        hidden: Widths of the hidden layers of actor and critic. Static.
        activation: ``"tanh"``, ``"relu"``, ``"elu"`` or ``"swish"``. Static.
        distribution: ``"gaussian"`` (draw clipped to the action's range), ``"tanh_gaussian"``, ``"beta"``, or
            ``"categorical"`` for a ``Discrete`` action space. Static.
        initial_action: What the policy does at first, on the action's scale of [-1, 1]: one number for all entries, one for
            each action of an item, or one for each entry. None: the environment's ``neutral_action`` where it names one,
            else the middle of the range. Static.
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
    network: NetworkKind = _static("mlp")
    hidden: tuple[int, ...] = _static((64, 64))
    activation: str = _static("tanh")
    distribution: Family = _static("gaussian")
    initial_action: tuple[float, ...] | None = _static(None)
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
        check_fields(self, _STATIC_RULES, _NUMERIC_RULES)
        check_network(self)
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
    return checked_config(Config, "PPO", changes)


def numeric_fields() -> tuple[str, ...]:
    """Names of the fields that are leaves (numbers that ``jax.vmap`` can sweep)."""
    return tuple(_NUMERIC_RULES)


_STATIC_RULES: dict[str, Rule] = {
    "num_envs": COUNT,
    "rollout_length": COUNT,
    "epochs": COUNT,
    "minibatches": COUNT,
    "shards": COUNT,
    "network": one_of(NETWORKS),
    "hidden": WIDTHS,
    "activation": one_of(tuple(ACTIVATIONS)),
    "distribution": one_of(FAMILIES),
    "initial_action": ACTION,
    "objective": one_of(get_args(Objective)),
    "normalise_observations": FLAG,
    "normalise_rewards": FLAG,
}

_NUMERIC_RULES: dict[str, Rule] = {
    "learning_rate": POSITIVE,
    "decay_steps": POSITIVE_OR_INFINITE,
    "discount": SHARE,
    "gae_lambda": SHARE,
    "clip": OPEN_SHARE,
    "entropy": NOT_NEGATIVE,
    "value": NOT_NEGATIVE,
    "max_gradient_norm": POSITIVE_OR_INFINITE,
    "kl_target": POSITIVE,
    "kl_stop": POSITIVE_OR_INFINITE,
    "initial_log_std": (lambda x: -10.0 <= x <= 2.0, "a number in [-10, 2]"),
}
