"""Behaviour cloning: the policy under which the logged actions are most likely (Pomerleau, NeurIPS 1988).

The actor is a normal with mean ``tanh(f(s))`` and one deviation an entry of the action, and the loss its negative log
likelihood, ``-E[log pi(a | s)]``. The gradient of the mean is that of the squared error, so at the optimum the mean is
``E[a | s]`` and the deviation what is left; this is the policy loss of IQL (`adarena.agents.offline.iql`) with all
weights one. The trained policy plays the mean.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from adarena.agents.fields import POSITIVE, check_fields, checked_config
from adarena.agents.offline.data import Data, Spec, sample_transitions
from adarena.agents.offline.learner import (
    STATIC_RULES,
    ActorPolicy,
    Common,
    Trained,
    actor_policy,
    applied,
    descend,
    init_common,
    init_trained,
    next_common,
)
from adarena.agents.offline.networks import GaussianActor


@struct.dataclass
class Config:
    """Hyper-parameters. A frozen pytree: sizes and names are static, numbers are leaves.

    Attributes:
        hidden: Widths of the hidden layers. Static.
        activation: A name in `adarena.agents.networks.ACTIVATIONS`. Static.
        batch: Transitions of a gradient step. Static.
        learning_rate: Step size of Adam.
    """

    hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(128, 128))
    activation: str = struct.field(pytree_node=False, default="relu")
    batch: int = struct.field(pytree_node=False, default=256)
    learning_rate: float = 3e-4

    def validate(self) -> None:
        """Checks every field.

        Raises:
            ValueError: A field's value is not allowed; the message names field, value and what is allowed.
        """
        check_fields(self, STATIC_RULES, {"learning_rate": POSITIVE})


def make_config(**changes: Any) -> Config:
    """A checked `Config` with some fields changed from their defaults.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    return checked_config(Config, "bc", changes)


@struct.dataclass
class State:
    """All that training carries between gradient steps.

    Attributes:
        actor: Parameters of `GaussianActor`, and Adam.
        common: Moments, key and steps.
    """

    actor: Trained
    common: Common


@struct.dataclass
class Metrics:
    """What a gradient step reports: scalars, float32.

    Attributes:
        log_prob: Mean log density (nats) of the batch's actions, on the scale of [-1, 1].
        mse: Mean squared distance of the actor's mean from them, on that scale, summed over entries.
    """

    log_prob: jax.Array
    mse: jax.Array


def init(config: Config, data: Data, key: jax.Array) -> State:
    """The state of one seed before the first gradient step."""
    key, key_actor = jax.random.split(key)
    return State(init_trained(_actor(config, data.spec), key_actor, data.observations[0, 0]), init_common(data, key))


def update(config: Config, data: Data, state: State) -> tuple[State, Metrics]:
    """One gradient step of one seed. Pure; ``jax.vmap`` over ``config`` and ``state`` for several seeds."""
    key, key_batch = jax.random.split(state.common.key)
    batch = sample_transitions(data, key_batch, config.batch)

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        policy = applied(_actor(config, data.spec), params, batch.obs)
        log_prob = policy.log_prob(batch.action).mean()
        return -log_prob, Metrics(log_prob, jnp.square(policy.mean - batch.action).sum(-1).mean())

    actor, _, metrics = descend(loss, state.actor, config.learning_rate)
    return State(actor, next_common(state.common, key)), metrics


def make_policy(config: Config, spec: Spec, state: State) -> ActorPolicy:
    """The actor's mean as a policy, in the bounds of ``spec``; ``state`` may be stacked over seeds."""
    return actor_policy(_actor(config, spec), state.actor.params, state.common, spec)


def _actor(config: Config, spec: Spec) -> GaussianActor:
    return GaussianActor(config.hidden, spec.actions, config.activation)
