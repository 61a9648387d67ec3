"""Implicit Q-learning: values of the better logged actions, never of others (Kostrikov et al., ICLR 2022,
arXiv:2110.06169).

With ``L_tau(u) = |tau - 1(u < 0)| u^2`` the losses of values and critics are, equations 5 and 6,

    E[L_tau(min_i Q'_i(s, a) - V(s))],    E[(r + gamma (1 - terminated) V(s') - Q_i(s, a))^2],

with a prime for slowly following targets: ``V(s)`` is the ``tau``-expectile of the values of logged actions. The policy
is taken out by weighted imitation, equation 7,

    -E[min(exp(beta (min_i Q'_i(s, a) - V(s))), 100) log pi(a | s)],

with the bound of 100 of the authors' program. Order of the steps as there: values, actor, critics, targets. Left out:
dropout, and the decay of the actor's step size, which is off by default (``decay_steps``).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from adarena.agents.fields import NOT_NEGATIVE, OPEN_SHARE, POSITIVE, POSITIVE_OR_INFINITE, check_fields, checked_config
from adarena.agents.offline.data import Data, Spec, sample_transitions
from adarena.agents.offline.learner import (
    CRITIC_RULES,
    CRITIC_STATIC_RULES,
    ActorPolicy,
    Common,
    Trained,
    actor_policy,
    applied,
    descend,
    follow,
    init_common,
    init_trained,
    next_common,
)
from adarena.agents.offline.networks import Critics, GaussianActor, Value


def _static(default: Any) -> Any:
    return struct.field(pytree_node=False, default=default)


@struct.dataclass
class Config:
    """Hyper-parameters. A frozen pytree: sizes and names are static, numbers are leaves. Defaults are the paper's for
    locomotion but for widths, the discount, and where stated.

    Attributes:
        hidden: Widths of the hidden layers of all networks (the paper's are 256 twice). Static.
        activation: A name in `adarena.agents.networks.ACTIVATIONS`. Static.
        batch: Transitions of a gradient step. Static.
        layer_norm: Whether hidden layers of critics and values are normalised (not in the paper). Static.
        learning_rate: Step size of Adam, for all networks.
        decay_steps: Gradient steps over which the actor's step size falls to zero along half a cosine; infinite for no
            decay. The paper takes the length of training.
        discount: ``gamma``. One by default: a day of bidding is finite and its score is not discounted; where episodes
            are cut instead of terminated it must be lower.
        target_rate: Share of the way that targets move.
        expectile: ``tau``; 0.5 is the mean, near 1 the best logged action.
        beta: Inverse temperature of the policy, per unit of the scaled reward; 0 clones behaviour.
        greatest_weight: Bound of a logged action's weight.
    """

    hidden: tuple[int, ...] = _static((128, 128))
    activation: str = _static("relu")
    batch: int = _static(256)
    layer_norm: bool = _static(False)
    learning_rate: float = 3e-4
    decay_steps: float = math.inf
    discount: float = 1.0
    target_rate: float = 0.005
    expectile: float = 0.7
    beta: float = 3.0
    greatest_weight: float = 100.0

    def validate(self) -> None:
        """Checks every field.

        Raises:
            ValueError: A field's value is not allowed; the message names field, value and what is allowed.
        """
        own = {
            "decay_steps": POSITIVE_OR_INFINITE,
            "expectile": OPEN_SHARE,
            "beta": NOT_NEGATIVE,
            "greatest_weight": POSITIVE,
        }
        check_fields(self, CRITIC_STATIC_RULES, {**CRITIC_RULES, **own})


def make_config(**changes: Any) -> Config:
    """A checked `Config` with some fields changed from their defaults.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    return checked_config(Config, "iql", changes)


@struct.dataclass
class State:
    """All that training carries between gradient steps.

    Attributes:
        actor: Parameters of `GaussianActor`, and Adam.
        critics: Parameters of `Critics`, and Adam.
        value: Parameters of `Value`, and Adam.
        target_critics: Parameters that follow the critics'.
        common: Moments, key and steps.
    """

    actor: Trained
    critics: Trained
    value: Trained
    target_critics: Any
    common: Common


@struct.dataclass
class Metrics:
    """What a gradient step reports: scalars, float32.

    Attributes:
        critic_loss: Mean squared error of the critics, summed over the two.
        value_loss: Mean expectile loss of the values.
        value: Mean ``V(s)``, in units of the scaled reward.
        weight: Mean weight of a logged action in the policy's loss.
        log_prob: Mean log density (nats) of the logged actions, on the scale of [-1, 1].
    """

    critic_loss: jax.Array
    value_loss: jax.Array
    value: jax.Array
    weight: jax.Array
    log_prob: jax.Array


def init(config: Config, data: Data, key: jax.Array) -> State:
    """The state of one seed before the first gradient step."""
    key, key_actor, key_critics, key_value = jax.random.split(key, 4)
    obs, action = data.observations[0, 0], data.actions[0, 0]
    actor = init_trained(_actor(config, data.spec), key_actor, obs)
    critics = init_trained(_critics(config), key_critics, obs, action)
    value = init_trained(_value(config), key_value, obs)
    return State(actor, critics, value, critics.params, init_common(data, key))


def expectile_loss(gap: jax.Array, expectile: jax.Array | float) -> jax.Array:
    """``L_tau(gap)``, of the same shape: squares, weighted ``tau`` above zero and ``1 - tau`` below."""
    return jnp.where(gap < 0.0, 1.0 - expectile, expectile) * jnp.square(gap)


def update(config: Config, data: Data, state: State) -> tuple[State, Metrics]:
    """One gradient step of one seed. Pure; ``jax.vmap`` over ``config`` and ``state`` for several seeds."""
    key, key_batch = jax.random.split(state.common.key)
    batch = sample_transitions(data, key_batch, config.batch)
    q = applied(_critics(config), state.target_critics, batch.obs, batch.action).min(0)

    def value_loss(params: Any) -> tuple[jax.Array, None]:
        return expectile_loss(q - applied(_value(config), params, batch.obs), config.expectile).mean(), None

    def actor_loss(params: Any) -> tuple[jax.Array, jax.Array]:
        log_prob = applied(_actor(config, data.spec), params, batch.obs).log_prob(batch.action)
        return -(weight * log_prob).mean(), log_prob.mean()

    def critic_loss(params: Any) -> tuple[jax.Array, None]:
        return jnp.square(applied(_critics(config), params, batch.obs, batch.action) - target).mean(-1).sum(), None

    value, loss_value, _ = descend(value_loss, state.value, config.learning_rate)
    worth = applied(_value(config), value.params, batch.obs)
    weight = jnp.minimum(jnp.exp(config.beta * (q - worth)), config.greatest_weight)
    done = jnp.minimum(state.common.steps / config.decay_steps, 1.0)
    rate = config.learning_rate * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
    actor, _, log_prob = descend(actor_loss, state.actor, rate)
    after = applied(_value(config), value.params, batch.next_obs)
    target = batch.reward + config.discount * jnp.where(batch.terminated, 0.0, after)
    critics, loss_critic, _ = descend(critic_loss, state.critics, config.learning_rate)
    target_critics = follow(state.target_critics, critics.params, config.target_rate)
    metrics = Metrics(loss_critic, loss_value, worth.mean(), weight.mean(), log_prob)
    return State(actor, critics, value, target_critics, next_common(state.common, key)), metrics


def make_policy(config: Config, spec: Spec, state: State) -> ActorPolicy:
    """The actor's mean as a policy, in the bounds of ``spec``; ``state`` may be stacked over seeds."""
    return actor_policy(_actor(config, spec), state.actor.params, state.common, spec)


def _actor(config: Config, spec: Spec) -> GaussianActor:
    return GaussianActor(config.hidden, spec.actions, config.activation)


def _critics(config: Config) -> Critics:
    return Critics(config.hidden, 2, config.activation, config.layer_norm)


def _value(config: Config) -> Value:
    return Value(config.hidden, config.activation, config.layer_norm)
