"""Proximal policy optimisation (Schulman et al., 2017) as pure functions: ``init``, ``collect``, ``update``, ``act``.

Advantages are estimated with truncation and termination apart (`compute_gae`). Observations and rewards are
normalised by running moments. Everything that training needs is in `State`, so saving it and going on gives the same
bits. `train` (from `adarena.agents.training`) runs the loop over several seeds at once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import polars as pl

from adarena.agents.actors import init_network, init_obs_moments
from adarena.agents.normalise import init_moments, rescale, update_moments, update_obs_moments
from adarena.agents.ppo_config import Config, make_config
from adarena.agents.ppo_loss import (
    Learner,
    Minibatch,
    compute_gae,
    distribution_of,
    fit,
    next_kl_weight,
    optimiser_of,
    value_of,
)
from adarena.agents.ppo_policy import PPOPolicy, action_range, normalised, to_env
from adarena.agents.ppo_state import Metrics, Rollout, State, join_state, split_state
from adarena.agents.shards import Axes, choose_devices, key_of, mean, number_of, over_shards, place, variance
from adarena.agents.training import OnChunk, run
from adarena.envs.core import AutoReset, Env

__all__ = [
    "Config",
    "Metrics",
    "PPOPolicy",
    "Rollout",
    "State",
    "act",
    "collect",
    "compute_gae",
    "init",
    "make_config",
    "make_policy",
    "train",
    "update",
]


def init(config: Config, env: Env, params: Any, key: jax.Array) -> State:
    """A state before the first update: fresh network, environments reset.

    Args:
        config: Hyper-parameters.
        env: The environment; it is wrapped in `AutoReset` unless it is one.
        params: Its parameters.
        key: Typed key that decides everything.

    Raises:
        ValueError: A hyper-parameter is not allowed, or ``config.network`` does not suit the environment.
        TypeError: The action space does not suit ``config.distribution``, or the observation is not a vector.
    """
    config.validate()
    low, high, actions = action_range(config, env, params)
    key_network, key_envs, key = jax.random.split(key, 3)
    obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(key_envs, config.num_envs), params)
    if obs.ndim != 2:
        raise TypeError(f"PPO needs a flat observation vector, got one of shape {obs.shape[1:]}")
    network, resting_action = init_network(config, env, params, key_network, obs, actions)
    zeros = jnp.zeros(config.num_envs)
    return State(
        network=network,
        optimiser=optimiser_of(config).init(network),
        obs_moments=init_obs_moments(config, env, obs),
        return_moments=init_moments(),
        kl_weight=jnp.ones(()),
        action_low=low,
        action_high=high,
        env_state=env_state,
        obs=obs,
        discounted_return=zeros,
        episode_return=zeros,
        episode_length=jnp.zeros(config.num_envs, jnp.int32),
        key=key,
        steps=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
        resting_action=resting_action,
    )


def collect(config: Config, env: Env, params: Any, state: State, *, axes: Axes = ()) -> tuple[State, Rollout]:
    """Runs the policy for ``config.rollout_length`` ticks in every environment.

    Args:
        config: Hyper-parameters.
        env: The environment.
        params: Its parameters.
        state: The state to go on from; with ``axes``, one shard of it.
        axes: Shards of the batch (see `adarena.agents.shards`); none where the batch is whole.

    Returns:
        The state with environments, key and step count moved on, and what was seen.
    """
    env = env if isinstance(env, AutoReset) else AutoReset(env)
    key, key_rollout = jax.random.split(state.key)
    envs = len(state.obs)

    def tick(carry: State, key_tick: jax.Array) -> tuple[State, tuple[jax.Array, ...]]:
        key_act, key_env = jax.random.split(key_tick)
        distribution = distribution_of(config, state.network, normalised(config, state.obs_moments, carry.obs))
        raw = distribution.sample(key_of(key_act, axes))
        action = to_env(config, state, distribution, raw)
        keys = jax.random.split(key_env, config.num_envs)
        if axes:  # an environment has the same keys in whichever shard it is
            keys = keys.reshape(config.shards, envs)[number_of(axes)]
        obs, env_state, reward, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
            keys, carry.env_state, action, params
        )
        # Only the value of a truncated episode's last observation cannot be read off the next tick.
        final_value = jax.lax.cond(
            jnp.any(truncated),
            lambda: value_of(config, state.network, normalised(config, state.obs_moments, info["final_obs"])),
            lambda: jnp.zeros(envs),
        )
        discounted = carry.discounted_return * config.discount + reward
        episode_return, length = carry.episode_return + reward, carry.episode_length + 1
        over = terminated | truncated
        seen = (carry.obs, raw, distribution.log_prob(raw), reward, terminated, truncated, final_value)
        carry = dataclasses.replace(
            carry,
            env_state=env_state,
            obs=obs,
            discounted_return=jnp.where(over, 0.0, discounted),
            episode_return=jnp.where(over, 0.0, episode_return),
            episode_length=jnp.where(over, 0, length),
        )
        return carry, (*seen, discounted, episode_return, length)

    carry, (obs, raw, log_prob, reward, terminated, truncated, final_value, *totals) = jax.lax.scan(
        tick, state, jax.random.split(key_rollout, config.rollout_length)
    )
    seen_obs = normalised(config, state.obs_moments, jnp.concatenate([obs, carry.obs[None]]))
    value = value_of(config, state.network, seen_obs)
    next_value = jnp.where(truncated, final_value, value[1:])
    steps = state.steps + config.num_envs * config.rollout_length
    rollout = Rollout(obs, raw, log_prob, value[:-1], next_value, reward, terminated, truncated, *totals)
    return dataclasses.replace(carry, key=key, steps=steps), rollout


def update(config: Config, env: Env, state: State, rollout: Rollout, *, axes: Axes = ()) -> tuple[State, Metrics]:
    """Improves the policy on one rollout and brings the normalisers up to date.

    The observation's moments change last, so that all gradient steps see the policy that acted.

    Args:
        config: Hyper-parameters.
        env: Not read; every algorithm has this signature.
        state: The state that `collect` returned.
        rollout: What `collect` gathered.
        axes: As in `collect`.
    """
    return_moments = update_moments(state.return_moments, rollout.discounted_return, axes)
    reward = rescale(return_moments, rollout.reward) if config.normalise_rewards else rollout.reward
    advantage = compute_gae(
        reward,
        rollout.value,
        rollout.next_value,
        rollout.terminated,
        rollout.truncated,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
    )
    target = advantage + rollout.value
    samples = _samples(config, state, rollout, advantage, target, axes)
    key, key_shuffle = jax.random.split(state.key)
    before = state.steps - rollout.reward.size * (config.shards if axes else 1)
    rate = config.learning_rate * jnp.maximum(0.0, 1.0 - before / config.decay_steps)
    learner = Learner(state.network, state.optimiser, jnp.zeros((), bool))
    learner, losses = fit(config, learner, samples, key_shuffle, rate, state.kl_weight, axes)
    ended = rollout.terminated | rollout.truncated
    metrics = Metrics(
        episode_return=mean(rollout.episode_return, axes, ended),
        episode_length=mean(rollout.episode_length.astype(jnp.float32), axes, ended),
        explained_variance=1.0 - variance(target - rollout.value, axes) / jnp.maximum(variance(target, axes), 1e-8),
        learning_rate=jnp.asarray(rate, jnp.float32),
        **{name: loss.mean() for name, loss in losses.items()},
    )
    state = dataclasses.replace(
        state,
        network=learner.network,
        optimiser=learner.optimiser,
        obs_moments=update_obs_moments(state.obs_moments, rollout.obs, axes)
        if config.normalise_observations
        else state.obs_moments,
        return_moments=return_moments,
        kl_weight=next_kl_weight(config, state.kl_weight, losses["kl"][-1].mean()),
        key=key,
        updates=state.updates + 1,
    )
    return state, metrics


def act(config: Config, state: State, key: jax.Array, obs: jax.Array, *, stochastic: bool = True) -> jax.Array:
    """The policy's action, ``[..., A]`` in the environment's range, for observations ``[..., O]`` (not normalised)."""
    return _policy(config, state, stochastic).act(key, (), obs)[1]


def make_policy(config: Config, env: Env, state: State, *, stochastic: bool = False) -> PPOPolicy:
    """The trained actor as a policy: deterministic unless ``stochastic``.

    Args:
        config: Hyper-parameters with which ``state`` was made.
        env: Not read; every algorithm has this signature.
        state: A state, or one stacked over seeds: then ``jax.vmap`` over the policy evaluates all seeds in one program.
        stochastic: Whether actions are drawn from the distribution.
    """
    return _policy(config, state, stochastic)


def advance(config: Config, env: Env, params: Any, state: State, *, devices: int = 1) -> tuple[State, Metrics]:
    """One `collect` and one `update`, of all shards at once where there are several.

    Args:
        config: Hyper-parameters.
        env: The environment.
        params: Its parameters.
        state: The state to go on from.
        devices: How many devices ``config.shards`` are spread over; divides it.
    """
    if config.shards == 1:
        state, rollout = collect(config, env, params, state)
        return update(config, env, state, rollout)

    def shard(axes: Axes, own: dict[str, Any], shared: Any) -> tuple[dict[str, Any], Any]:
        config, params, rest = shared
        state, rollout = collect(config, env, params, join_state(own, rest), axes=axes)
        state, metrics = update(config, env, state, rollout, axes=axes)
        own, rest = split_state(state)
        return own, (rest, metrics)

    own, rest = split_state(state)
    own, (rest, metrics) = over_shards(shard, own, (config, params, rest), shards=config.shards, devices=devices)
    return join_state(own, rest), metrics


@functools.lru_cache
def _advance_on(devices: int) -> Callable[..., tuple[State, Metrics]]:
    """`advance` on so many devices; one function a number, since programs are cached by it."""
    return functools.partial(advance, devices=devices) if devices > 1 else advance


def train(
    config: Config,
    env: Env,
    params: Any,
    *,
    seeds: Sequence[int],
    total_steps: int,
    chunk_updates: int = 10,
    on_chunk: OnChunk | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    devices: int | None = None,
) -> tuple[State, pl.DataFrame]:
    """Trains one policy a seed, all in one program; see `adarena.agents.training.run` for what is not said here.

    Args:
        config, env, params, seeds, total_steps, chunk_updates, on_chunk, checkpoint, resume, progress: As there.
        devices: Devices that ``config.shards`` are spread over, each of which holds the same share of the environments and
            all parameters; divides ``config.shards``. None: as many as there are. A checkpoint may be resumed on another
            number; it is bit for bit the same run only on the same one.

    Returns:
        The states stacked over seeds (leaves ``[S, ...]``; ``jax.tree.map(lambda x: x[i], state)`` takes one), and the
        learning curve: one row a seed and update, with columns ``seed``, ``update``, ``step``, those of `Metrics`, and
        ``wall_seconds``.
    """
    config.validate()
    devices = choose_devices(config.shards, devices)
    states, curve = run(
        init,
        _advance_on(devices),
        config,
        env,
        params,
        steps_per_update=config.num_envs * config.rollout_length,
        seeds=seeds,
        total_steps=total_steps,
        chunk_updates=chunk_updates,
        on_chunk=on_chunk,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
        place=functools.partial(_place, devices) if devices > 1 else None,
    )
    return (jax.device_put(states, jax.devices()[0]) if devices > 1 else states), curve


def _place(devices: int, states: State) -> State:
    return join_state(*place(*split_state(states), devices=devices))


def _samples(
    config: Config, state: State, rollout: Rollout, advantage: jax.Array, target: jax.Array, axes: Axes
) -> Minibatch:
    """The whole rollout as samples for gradient steps, leaves ``[T * B, ...]``."""
    samples = Minibatch(
        obs=normalised(config, state.obs_moments, rollout.obs),
        raw_action=rollout.raw_action,
        log_prob=rollout.log_prob,
        advantage=(advantage - mean(advantage, axes)) / (jnp.sqrt(variance(advantage, axes)) + 1e-8),
        target=target,
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), samples)


def _policy(config: Config, state: State, stochastic: bool) -> PPOPolicy:
    return PPOPolicy(
        network=state.network,
        obs_moments=state.obs_moments,
        action_low=state.action_low,
        action_high=state.action_high,
        hidden=config.hidden,
        activation=config.activation,
        distribution=config.distribution,
        normalise_observations=config.normalise_observations,
        stochastic=stochastic,
        kind=config.network,
        resting_action=state.resting_action,
    )
