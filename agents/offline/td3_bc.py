"""TD3+BC: TD3 whose actor is held near the logged actions (Fujimoto and Gu, NeurIPS 2021, arXiv:2106.06860).

Critics ``Q_1, Q_2`` are those of TD3 (Fujimoto et al., ICML 2018, arXiv:1802.09477, algorithm 1), on the squared error
from

    y = r + gamma (1 - terminated) min_i Q'_i(s', clip(pi'(s') + clip(sigma n, -c, c), -1, 1)),    n ~ N(0, 1),

with primes for slowly following targets. The actor maximises equation 5,

    E[lambda Q_1(s, pi(s)) - (pi(s) - a)^2],    lambda = alpha / mean |Q_1(s_i, a_i)|    over the minibatch, no gradient,

once every ``delay`` gradient steps, and targets move with it. Observations are normalised as in its section 4.2. As
printed, ``lambda`` is of the logged actions; the authors' program takes those of the actor.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from adarena.agents.fields import COUNT, NOT_NEGATIVE, check_fields, checked_config
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
from adarena.agents.offline.networks import Critics, DeterministicActor


def _static(default: Any) -> Any:
    return struct.field(pytree_node=False, default=default)


@struct.dataclass
class Config:
    """Hyper-parameters. A frozen pytree: sizes and names are static, numbers are leaves. Defaults are the paper's but
    for widths, the discount, and where stated.

    Attributes:
        hidden: Widths of the hidden layers of all networks (the paper's are 256 twice). Static.
        activation: A name in `adarena.agents.networks.ACTIVATIONS`. Static.
        batch: Transitions of a gradient step. Static.
        layer_norm: Whether the critics' hidden layers are normalised (not in the paper). Static.
        delay: Gradient steps of the critics for one of the actor and of the targets. Static.
        learning_rate: Step size of Adam, for all networks.
        discount: ``gamma``. One by default: a day of bidding is finite and its score is not discounted; where episodes
            are cut instead of terminated it must be lower.
        target_rate: Share of the way that targets move.
        alpha: Weight of the value against imitation; 0 clones behaviour.
        smoothing: ``sigma`` of the noise on the target's action, on the scale of [-1, 1].
        smoothing_clip: ``c``, its largest size.
    """

    hidden: tuple[int, ...] = _static((128, 128))
    activation: str = _static("relu")
    batch: int = _static(256)
    layer_norm: bool = _static(False)
    delay: int = _static(2)
    learning_rate: float = 3e-4
    discount: float = 1.0
    target_rate: float = 0.005
    alpha: float = 2.5
    smoothing: float = 0.2
    smoothing_clip: float = 0.5

    def validate(self) -> None:
        """Checks every field.

        Raises:
            ValueError: A field's value is not allowed; the message names field, value and what is allowed.
        """
        own = {"alpha": NOT_NEGATIVE, "smoothing": NOT_NEGATIVE, "smoothing_clip": NOT_NEGATIVE}
        check_fields(self, {**CRITIC_STATIC_RULES, "delay": COUNT}, {**CRITIC_RULES, **own})


def make_config(**changes: Any) -> Config:
    """A checked `Config` with some fields changed from their defaults.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    return checked_config(Config, "td3_bc", changes)


@struct.dataclass
class State:
    """All that training carries between gradient steps.

    Attributes:
        actor: Parameters of `DeterministicActor`, and Adam.
        critics: Parameters of `Critics`, and Adam.
        target_actor: Parameters that follow the actor's.
        target_critics: Parameters that follow the critics'.
        common: Moments, key and steps.
    """

    actor: Trained
    critics: Trained
    target_actor: Any
    target_critics: Any
    common: Common


@struct.dataclass
class Metrics:
    """What a gradient step reports: scalars, float32.

    Attributes:
        critic_loss: Mean squared error of the critics, summed over the two.
        q: Mean value of the logged actions, in units of the scaled reward.
        mse: Mean squared distance of the actor from them, on the scale of [-1, 1].
    """

    critic_loss: jax.Array
    q: jax.Array
    mse: jax.Array


def init(config: Config, data: Data, key: jax.Array) -> State:
    """The state of one seed before the first gradient step."""
    key, key_actor, key_critics = jax.random.split(key, 3)
    obs, action = data.observations[0, 0], data.actions[0, 0]
    actor = init_trained(_actor(config, data.spec), key_actor, obs)
    critics = init_trained(_critics(config), key_critics, obs, action)
    return State(actor, critics, actor.params, critics.params, init_common(data, key))


def update(config: Config, data: Data, state: State) -> tuple[State, Metrics]:
    """One gradient step of one seed. Pure; ``jax.vmap`` over ``config`` and ``state`` for several seeds."""
    key, key_batch, key_noise = jax.random.split(state.common.key, 3)
    batch = sample_transitions(data, key_batch, config.batch)
    target = _target(config, data, state, batch, key_noise)

    def critic_loss(params: Any) -> tuple[jax.Array, jax.Array]:
        q = applied(_critics(config), params, batch.obs, batch.action)
        return jnp.square(q - target).mean(-1).sum(), q[0]

    def actor_loss(params: Any) -> tuple[jax.Array, jax.Array]:
        action = applied(_actor(config, data.spec), params, batch.obs)
        value = applied(_critics(config), critics.params, batch.obs, action)[0].mean()
        mse = jnp.square(action - batch.action).mean()
        return mse - weight * value, mse

    critics, loss, q = descend(critic_loss, state.critics, config.learning_rate)
    weight = config.alpha / jnp.maximum(jnp.abs(q).mean(), 1e-6)
    actor, _, mse = descend(actor_loss, state.actor, config.learning_rate)
    moved = (
        actor,
        follow(state.target_actor, actor.params, config.target_rate),
        follow(state.target_critics, critics.params, config.target_rate),
    )
    due = (state.common.steps + 1) % config.delay == 0
    kept = (state.actor, state.target_actor, state.target_critics)
    actor, target_actor, target_critics = jax.tree.map(lambda new, old: jnp.where(due, new, old), moved, kept)
    state = State(actor, critics, target_actor, target_critics, next_common(state.common, key))
    return state, Metrics(loss, q.mean(), mse)


def _target(config: Config, data: Data, state: State, batch: Transitions, key: jax.Array) -> jax.Array:
    """``y``, ``[B]``."""
    action = applied(_actor(config, data.spec), state.target_actor, batch.next_obs)
    noise = config.smoothing * jax.random.normal(key, action.shape)
    noise = jnp.clip(noise, -config.smoothing_clip, config.smoothing_clip)
    smoothed = jnp.clip(action + noise, -1.0, 1.0)
    after = applied(_critics(config), state.target_critics, batch.next_obs, smoothed).min(0)
    return batch.reward + config.discount * jnp.where(batch.terminated, 0.0, after)


def make_policy(config: Config, spec: Spec, state: State) -> ActorPolicy:
    """The actor as a policy, in the bounds of ``spec``; ``state`` may be stacked over seeds."""
    return actor_policy(_actor(config, spec), state.actor.params, state.common, spec)


def _actor(config: Config, spec: Spec) -> DeterministicActor:
    return DeterministicActor(config.hidden, spec.actions, config.activation)


def _critics(config: Config) -> Critics:
    return Critics(config.hidden, 2, config.activation, config.layer_norm)
