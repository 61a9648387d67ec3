"""Fitted Q evaluation: the value of a fixed policy, learnt from logs.

Le, Voloshin and Yue, "Batch Policy Learning under Constraints", ICML 2019 (arXiv:1903.08738), algorithm 3: regress

    Q(s_t, a_t)  on  r_t + E_{a' ~ pi} Q'(s_{t+1}, a'),

with the target policy ``pi`` fixed and a prime for older parameters, which here follow slowly instead of being replaced
after every regression. The horizon is finite and nothing is discounted: the share of the episode that has passed is an
input, and ``Q`` is the steps left times a network's output, so that nothing is left at the end and all outputs are of the
size of one reward.

The target policy is known by its draws: some actions for every logged observation, drawn with all that the policy would
remember of the logged episode by then. So it may be stochastic and have a memory. ``Q`` itself sees the observation (and
what ``context`` says of the episode) alone: where those are no full state, it is biased.

One program trains any number of evaluations: ``target``, ``first`` and ``episodes`` of `Config` say which policy, and from
which episodes, and may have one entry a seed.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adarena.agents.fields import (
    COUNT,
    FLAG,
    POSITIVE,
    POSITIVE_SHARE,
    WIDTHS,
    Rule,
    check_fields,
    checked_config,
    one_of,
)
from adarena.agents.networks import ACTIVATIONS, Perceptron
from adarena.agents.offline.data import Data, Spec
from adarena.agents.offline.learner import (
    Common,
    Trained,
    applied,
    descend,
    follow,
    init_common,
    init_trained,
    next_common,
)
from adarena.agents.policy import Policy


@struct.dataclass
class PolicyData(Data):
    """Logged episodes, and what ``K`` target policies would do in them.

    Attributes:
        target_actions: ``[K, E, T + 1, M, A]`` float32 in [-1, 1] of the bounds: ``M`` draws for each observation.
        context: ``[K, E, C]`` float32, what ``Q`` may know of an episode beside its observations; ``C`` may be 0.
    """

    target_actions: jax.Array
    context: jax.Array


def policy_data(data: Data, target_actions: np.ndarray, context: np.ndarray | None = None) -> PolicyData:
    """Joins logged episodes and the draws of target policies.

    Args:
        data: The episodes (`adarena.agents.offline.data.make_data`).
        target_actions: ``[K, E, T + 1, M, A]`` in the environment's bounds.
        context: ``[K, E, C]``; none by default.

    Raises:
        ValueError: Shapes do not fit, or an action is not finite.
    """
    shape = np.shape(target_actions)
    wanted = (data.count, data.steps + 1, data.spec.actions)
    if len(shape) != 5 or (*shape[1:3], shape[4]) != wanted or not all(shape):
        raise ValueError(f"target_actions must be [K, E, T + 1, M, A] with E, T + 1, A = {wanted}, got {shape}")
    if not np.isfinite(target_actions).all():
        raise ValueError("target_actions must be finite, got NaN or infinity")
    known = np.zeros((shape[0], data.count, 0)) if context is None else np.asarray(context)
    if known.ndim != 3 or known.shape[:2] != shape[:2]:
        raise ValueError(f"context must be [K, E, C] with K, E = {shape[:2]}, got {known.shape}")
    fields = {name: getattr(data, name) for name in Data.__dataclass_fields__}
    unit = np.clip(data.spec.to_unit(np.asarray(target_actions)), -1.0, 1.0)
    return PolicyData(**fields, target_actions=jnp.asarray(unit), context=jnp.asarray(known, jnp.float32))


def _static(default: Any) -> Any:
    return struct.field(pytree_node=False, default=default)


@struct.dataclass
class Config:
    """Hyper-parameters. A frozen pytree: sizes and names are static, numbers are leaves.

    Attributes:
        hidden: Widths of the hidden layers. Static.
        activation: A name in `adarena.agents.networks.ACTIVATIONS`. Static.
        batch: Steps of a gradient step. Static.
        layer_norm: Whether hidden layers are normalised. Static.
        learning_rate: Step size of Adam.
        target_rate: Share of the way that the older parameters move at each gradient step.
        target: Number of the target policy, below ``K``.
        first: First episode to learn from.
        episodes: How many episodes to learn from, from ``first`` on; 0 for all that are left.
    """

    hidden: tuple[int, ...] = _static((64, 64))
    activation: str = _static("relu")
    batch: int = _static(128)
    layer_norm: bool = _static(False)
    learning_rate: float = 1e-3
    target_rate: float = 0.05
    target: float = 0
    first: float = 0
    episodes: float = 0

    def validate(self) -> None:
        """Checks every field.

        Raises:
            ValueError: A field's value is not allowed; the message names field, value and what is allowed.
        """
        static = {"hidden": WIDTHS, "activation": one_of(tuple(ACTIVATIONS)), "batch": COUNT, "layer_norm": FLAG}
        whole: Rule = (lambda x: 0.0 <= x < 2.0**24 and x == int(x), "a whole number from 0 to 2^24 - 1")
        numbers = {
            "learning_rate": POSITIVE,
            "target_rate": POSITIVE_SHARE,
            **dict.fromkeys(("target", "first", "episodes"), whole),
        }
        check_fields(self, static, numbers)


def make_config(**changes: Any) -> Config:
    """A checked `Config` with some fields changed from their defaults.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    return checked_config(Config, "fitted_q", changes)


@struct.dataclass
class State:
    """All that training carries between gradient steps.

    Attributes:
        q: Parameters of the network, and Adam.
        target_q: Parameters that follow them.
        common: Moments, key and steps.
    """

    q: Trained
    target_q: Any
    common: Common


@struct.dataclass
class Metrics:
    """What a gradient step reports: scalars, float32.

    Attributes:
        loss: Mean squared error, in units of the scaled reward, over the square of the steps of an episode.
        q: Mean value of the logged actions, in units of the scaled reward.
    """

    loss: jax.Array
    q: jax.Array


def init(config: Config, data: PolicyData, key: jax.Array) -> State:
    """The state of one seed before the first gradient step."""
    key, key_q = jax.random.split(key)
    zero = jnp.zeros((), jnp.int32)
    q = init_trained(_network(config), key_q, _inputs(data, zero, zero, zero, data.actions[0, 0]))
    return State(q, q.params, init_common(data, key))


def update(config: Config, data: PolicyData, state: State) -> tuple[State, Metrics]:
    """One gradient step of one seed. Pure; ``jax.vmap`` over ``config`` and ``state`` for several seeds."""
    key, key_batch = jax.random.split(state.common.key)
    target, first, episodes = (jnp.asarray(x, jnp.int32) for x in (config.target, config.first, config.episodes))
    episodes = jnp.where(episodes > 0, episodes, data.count - first)
    index = jax.random.randint(key_batch, (config.batch,), 0, episodes * data.steps)
    episode, step = first + index // data.steps, index % data.steps
    after = _state_value(config, data, state.target_q, target, episode, step + 1)
    aim = data.rewards[episode, step] + jnp.where(data.terminated[episode, step], 0.0, after)

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        q = _action_value(config, data, params, target, episode, step, data.actions[episode, step])
        return jnp.square((q - aim) / data.steps).mean(), q.mean()

    q, error, mean = descend(loss, state.q, config.learning_rate)
    followed = follow(state.target_q, q.params, config.target_rate)
    return State(q, followed, next_common(state.common, key)), Metrics(error, mean)


def make_policy(config: Config, spec: Spec, state: State) -> Policy:
    """There is none: an evaluation learns no policy.

    Raises:
        TypeError: Always.
    """
    raise TypeError("fitted_q evaluates a policy and learns none; see fitted_q.values")


def values(config: Config, data: PolicyData, states: State, *, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of the target policy in the environment's unit.

    Args:
        config: As in training; a leaf is one number, or has one entry a seed.
        data: As in training.
        states: Trained states, stacked over ``S`` seeds.
        episodes: ``N``, how many episodes to look at, from each seed's ``first`` on.

    Returns:
        ``Q(s_t, a_t)`` of the logged actions and ``V(s_t)``, the mean of ``Q`` over the target's draws; ``[S, N, T]``
        float32.

    Raises:
        ValueError: There are not so many episodes.
    """
    seeds = len(states.common.steps)
    chosen = [np.broadcast_to(np.asarray(getattr(config, name), np.int32), seeds) for name in ("target", "first")]
    if not 1 <= episodes <= data.count - int(chosen[1].max()):
        raise ValueError(f"episodes must lie in [1, {data.count - int(chosen[1].max())}], got {episodes!r}")
    sizes = config.replace(target=0, first=0, episodes=0, learning_rate=0.0, target_rate=0.0)  # type: ignore[attr-defined]
    q, v = _values(sizes, data, states.q.params, *chosen, episodes)
    return np.asarray(q), np.asarray(v)


@functools.partial(jax.jit, static_argnums=5)
def _values(config: Config, data: PolicyData, params: Any, target: Any, first: Any, count: int) -> Any:
    def one(inputs: tuple[Any, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        params, target, first = inputs
        episode, step = jnp.broadcast_arrays(first + jnp.arange(count)[:, None], jnp.arange(data.steps))
        q = _action_value(config, data, params, target, episode, step, data.actions[episode, step])
        v = _state_value(config, data, params, target, episode, step)
        return data.reward_scale * q, data.reward_scale * v

    return jax.lax.map(one, (params, target, first))


class _Network(nn.Module):
    """A number for inputs ``[..., I]``."""

    hidden: tuple[int, ...]
    activation: str
    layer_norm: bool

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return Perceptron(self.hidden, 1, self.activation, 1.0, self.layer_norm)(inputs)[..., 0]


def _network(config: Config) -> _Network:
    return _Network(config.hidden, config.activation, config.layer_norm)


def _inputs(data: PolicyData, target: jax.Array, episode: jax.Array, step: jax.Array, action: jax.Array) -> jax.Array:
    """What the network sees at steps ``[...]`` of episodes ``[...]``: share passed, observation, context, action."""
    passed = (step / data.steps)[..., None].astype(jnp.float32)
    return jnp.concatenate([passed, data.observations[episode, step], data.context[target, episode], action], -1)


def _action_value(
    config: Config, data: PolicyData, params: Any, target: Any, episode: Any, step: Any, action: Any
) -> jax.Array:
    """``Q`` of actions ``[..., A]`` at steps ``[...]``, scaled."""
    rate = applied(_network(config), params, _inputs(data, target, episode, step, action))
    return (data.steps - step) * rate


def _state_value(config: Config, data: PolicyData, params: Any, target: Any, episode: Any, step: Any) -> jax.Array:
    """``V`` at steps ``[...]``: the mean of ``Q`` over the target policy's draws, scaled."""
    draws = jnp.moveaxis(data.target_actions[target, episode, step], -2, 0)
    each = jax.vmap(lambda action: _action_value(config, data, params, target, episode, step, action))
    return each(draws).mean(0)
