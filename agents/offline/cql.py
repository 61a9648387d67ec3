"""Conservative Q-learning, CQL(H), on soft actor-critic (Kumar et al., NeurIPS 2020, arXiv:2006.04779).

Each critic minimises equation 4,

    alpha E[log int exp Q(s, a) da - Q(s, a_logged)] + 1/2 E[(Q(s, a) - y)^2],
    y = r + gamma (1 - terminated) min_i Q'_i(s', a'),    a' ~ pi(. | s'),

with primes for slowly following targets. The integral over all actions is estimated as in its appendix F, half of the
``2 N`` draws even over the range and half from the policy, each weighted by the density it was drawn from:

    log (1 / 2N) [sum_{a_i ~ U} exp Q(s, a_i) / U(a_i) + sum_{a_i ~ pi} exp Q(s, a_i) / pi(a_i | s)].

The actor is that of soft actor-critic (Haarnoja et al., 2018, arXiv:1812.05905): it minimises
``E[entropy log pi(a | s) - min_i Q_i(s, a)]``. Left out, of what the authors' program does: draws from the policy at
``s'`` in the integral, a Lagrange multiplier for ``alpha``, a tuned entropy weight (here it is a number, and as there
no part of ``y``), and cloning before training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adarena.agents.distributions import TanhGaussian
from adarena.agents.fields import COUNT, NOT_NEGATIVE, POSITIVE, check_fields, checked_config
from adarena.agents.offline.data import Data, Spec, Transitions, sample_transitions
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
from adarena.agents.offline.networks import Critics, TanhGaussianActor


def _static(default: Any) -> Any:
    return struct.field(pytree_node=False, default=default)


@struct.dataclass
class Config:
    """Hyper-parameters. A frozen pytree: sizes and names are static, numbers are leaves.

    Attributes:
        hidden: Widths of the hidden layers of all networks (the paper's are 256 three times). Static.
        activation: A name in `adarena.agents.networks.ACTIVATIONS`. Static.
        batch: Transitions of a gradient step. Static.
        layer_norm: Whether the critics' hidden layers are normalised (not in the paper). Static.
        samples: ``N``, draws of each kind for the integral (the paper's are 10). Static.
        learning_rate: Step size of Adam, for the critics.
        actor_rate: Step size of Adam, for the actor.
        discount: ``gamma``. One by default: a day of bidding is finite and its score is not discounted; where episodes
            are cut instead of terminated it must be lower.
        target_rate: Share of the way that targets move.
        alpha: Weight of the penalty, in units of the scaled reward; 0 is soft actor-critic.
        entropy: Weight of the policy's entropy against values, in units of the scaled reward.
    """

    hidden: tuple[int, ...] = _static((128, 128))
    activation: str = _static("relu")
    batch: int = _static(256)
    layer_norm: bool = _static(False)
    samples: int = _static(4)
    learning_rate: float = 3e-4
    actor_rate: float = 1e-4
    discount: float = 1.0
    target_rate: float = 0.005
    alpha: float = 1.0
    entropy: float = 0.05

    def validate(self) -> None:
        """Checks every field.

        Raises:
            ValueError: A field's value is not allowed; the message names field, value and what is allowed.
        """
        own = {"actor_rate": POSITIVE, "alpha": NOT_NEGATIVE, "entropy": NOT_NEGATIVE}
        check_fields(self, {**CRITIC_STATIC_RULES, "samples": COUNT}, {**CRITIC_RULES, **own})


def make_config(**changes: Any) -> Config:
    """A checked `Config` with some fields changed from their defaults.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    return checked_config(Config, "cql", changes)


@struct.dataclass
class State:
    """All that training carries between gradient steps.

    Attributes:
        actor: Parameters of `TanhGaussianActor`, and Adam.
        critics: Parameters of `Critics`, and Adam.
        target_critics: Parameters that follow the critics'.
        common: Moments, key and steps.
    """

    actor: Trained
    critics: Trained
    target_critics: Any
    common: Common


@struct.dataclass
class Metrics:
    """What a gradient step reports: scalars, float32.

    Attributes:
        critic_loss: Mean squared error of the critics, summed over the two.
        penalty: Mean over the critics of what ``alpha`` weighs.
        q: Mean value of the logged actions, in units of the scaled reward.
        entropy: Mean of ``-log pi`` (nats) of the policy's own draws, on the scale of [-1, 1].
    """

    critic_loss: jax.Array
    penalty: jax.Array
    q: jax.Array
    entropy: jax.Array


def init(config: Config, data: Data, key: jax.Array) -> State:
    """The state of one seed before the first gradient step."""
    key, key_actor, key_critics = jax.random.split(key, 3)
    obs, action = data.observations[0, 0], data.actions[0, 0]
    actor = init_trained(_actor(config, data.spec), key_actor, obs)
    critics = init_trained(_critics(config), key_critics, obs, action)
    return State(actor, critics, critics.params, init_common(data, key))


def candidates(policy: TanhGaussian, key: jax.Array, samples: int) -> tuple[jax.Array, jax.Array]:
    """Actions at which the integral is estimated, and the densities they were drawn from.

    Args:
        policy: Distribution of actions ``[B, A]``.
        key: Typed key.
        samples: ``N``.

    Returns:
        Actions ``[2N, B, A]`` in [-1, 1], first the even ones, and their log densities ``[2N, B]`` (nats).
    """
    key_even, key_policy = jax.random.split(key)
    shape = (samples, *policy.mean.shape)
    even = jax.random.uniform(key_even, shape, minval=-1.0, maxval=1.0)
    spread = TanhGaussian(jnp.broadcast_to(policy.mean, shape), jnp.broadcast_to(policy.log_std, shape))
    raw = spread.sample(key_policy)
    log_even = jnp.full(shape[:-1], -shape[-1] * float(np.log(2.0)))
    log_density = jnp.concatenate([log_even, spread.log_prob(raw)])
    return jnp.concatenate([even, spread.to_action(raw)]), log_density


def log_integral(q: jax.Array, log_density: jax.Array) -> jax.Array:
    """``log int exp Q(s, a) da`` from values ``[..., 2N, B]`` at draws of log density ``[2N, B]``: ``[..., B]``."""
    return jax.nn.logsumexp(q - log_density, axis=-2) - float(np.log(q.shape[-2]))


def penalty(
    value_of: Callable[[jax.Array], jax.Array], logged: jax.Array, policy: TanhGaussian, key: jax.Array, samples: int
) -> jax.Array:
    """What ``alpha`` weighs in equation 4, before its expectation.

    Args:
        value_of: Actions ``[2N, B, A]`` to values ``[C, 2N, B]``.
        logged: Values of the logged actions, ``[C, B]``.
        policy: Distribution of actions ``[B, A]``, to draw from.
        key: Typed key.
        samples: ``N``.

    Returns:
        ``[C, B]``.
    """
    action, log_density = jax.lax.stop_gradient(candidates(policy, key, samples))
    return log_integral(value_of(action), log_density) - logged


def update(config: Config, data: Data, state: State) -> tuple[State, Metrics]:
    """One gradient step of one seed. Pure; ``jax.vmap`` over ``config`` and ``state`` for several seeds."""
    key, key_batch, key_target, key_penalty, key_actor = jax.random.split(state.common.key, 5)
    batch = sample_transitions(data, key_batch, config.batch)
    critics, (loss, gap, q) = _improve_critics(config, data, state, batch, key_target, key_penalty)

    def actor_loss(params: Any) -> tuple[jax.Array, jax.Array]:
        policy = applied(_actor(config, data.spec), params, batch.obs)
        raw = policy.sample(key_actor)
        log_prob = policy.log_prob(raw)
        value = applied(_critics(config), critics.params, batch.obs, policy.to_action(raw)).min(0)
        return (config.entropy * log_prob - value).mean(), -log_prob.mean()

    actor, _, entropy = descend(actor_loss, state.actor, config.actor_rate)
    target_critics = follow(state.target_critics, critics.params, config.target_rate)
    return State(actor, critics, target_critics, next_common(state.common, key)), Metrics(loss, gap, q, entropy)


def _improve_critics(
    config: Config, data: Data, state: State, batch: Transitions, key_target: jax.Array, key_penalty: jax.Array
) -> tuple[Trained, tuple[jax.Array, ...]]:
    """One gradient step of the critics; also squared error, penalty and mean value."""
    actor = _actor(config, data.spec)
    following = applied(actor, state.actor.params, batch.next_obs)
    action = following.to_action(following.sample(key_target))
    after = applied(_critics(config), state.target_critics, batch.next_obs, action).min(0)
    target = batch.reward + config.discount * jnp.where(batch.terminated, 0.0, after)
    policy = applied(actor, state.actor.params, batch.obs)

    def loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        def value_of(action: jax.Array) -> jax.Array:
            obs = jnp.broadcast_to(batch.obs, (*action.shape[:-1], batch.obs.shape[-1]))
            return applied(_critics(config), params, obs, action)

        q = applied(_critics(config), params, batch.obs, batch.action)
        gap = penalty(value_of, q, policy, key_penalty, config.samples)
        squared = jnp.square(q - target).mean(-1).sum()
        return config.alpha * gap.mean(-1).sum() + 0.5 * squared, (squared, gap.mean(), q.mean())

    critics, _, metrics = descend(loss, state.critics, config.learning_rate)
    return critics, metrics


def make_policy(config: Config, spec: Spec, state: State) -> ActorPolicy:
    """The actor's median as a policy, in the bounds of ``spec``; ``state`` may be stacked over seeds."""
    return actor_policy(_actor(config, spec), state.actor.params, state.common, spec)


def _actor(config: Config, spec: Spec) -> TanhGaussianActor:
    return TanhGaussianActor(config.hidden, spec.actions, config.activation)


def _critics(config: Config) -> Critics:
    return Critics(config.hidden, 2, config.activation, config.layer_norm)
