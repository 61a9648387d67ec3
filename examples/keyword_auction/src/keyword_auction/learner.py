"""A learner of one's own: an evolution strategy on a linear policy, in the loop that trains adarena's own learners."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from adarena.envs import Env


@struct.dataclass
class Config:
    """Hyper-parameters."""

    days: int = struct.field(pytree_node=False, default=16)  # played for each of the two signs, an update
    spread: float = 0.3  # standard deviation of what is tried
    rate: float = 0.3  # step size


@struct.dataclass
class State:
    """What training carries from update to update."""

    weights: jax.Array  # [entries + 1] float32
    key: jax.Array


@struct.dataclass
class Metrics:
    """What an update reports."""

    episode_return: jax.Array  # mean over the days of an update


@struct.dataclass
class Linear:
    """A policy: the action is tanh of a weighted sum of the observation's entries and 1."""

    weights: jax.Array

    jittable: ClassVar[bool] = True

    def init(self, params: Any) -> tuple[()]:
        return ()

    def act(self, key: jax.Array, carry: tuple[()], obs: jax.Array) -> tuple[tuple[()], jax.Array]:
        return carry, jnp.tanh(self.weights[:-1] @ obs + self.weights[-1])[None]


def init(config: Config, env: Env, params: Any, key: jax.Array) -> State:
    """Before the first update."""
    return State(jnp.zeros(len(env.OBSERVATION) + 1), key)


def advance(config: Config, env: Env, params: Any, state: State) -> tuple[State, Metrics]:
    """One update: every trial and its mirror image meet the same day."""
    key, key_noise, key_days = jax.random.split(state.key, 3)
    noise = jax.random.normal(key_noise, (config.days, len(state.weights)))
    days = jax.random.split(key_days, config.days)

    def play(sign: float) -> jax.Array:
        trials = state.weights + sign * config.spread * noise
        return jax.vmap(lambda weights, day: _day(env, params, Linear(weights), day))(trials, days)

    up, down = play(1.0), play(-1.0)
    advantage = (up - down) / (jnp.std(up - down) + 1e-6)
    weights = state.weights + config.rate * (advantage[:, None] * noise).mean(0)
    return State(weights, key), Metrics(0.5 * (up + down).mean())


def _day(env: Env, params: Any, policy: Linear, key: jax.Array) -> jax.Array:
    """The return of one episode; days of this auction have the same length, so that none ends early."""
    key_reset, key_steps = jax.random.split(key)
    obs, state = env.reset(key_reset, params)

    def hour(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
        obs, state = carry
        result = env.step(key, state, policy.act(key, (), obs)[1], params)
        return (result.obs, result.state), result.reward

    return jax.lax.scan(hour, (obs, state), jax.random.split(key_steps, env.max_steps(params)))[1].sum()
