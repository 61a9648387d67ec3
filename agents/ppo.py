"""Proximal policy optimisation (Schulman et al., 2017) as pure functions: ``init``, ``collect``, ``update``, ``act``.

Advantages are estimated with truncation and termination apart (`compute_gae`). Observations and rewards are
normalised by running moments. Everything that training needs is in `State`, so saving it and going on gives the same
bits. `train` (from `adarena.agents.training`) runs the loop over several seeds at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import polars as pl
from flax import struct

from adarena.agents.distributions import output_size
from adarena.agents.networks import ActorCritic
from adarena.agents.normalise import Moments, init_moments, rescale, update_moments
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


@struct.dataclass
class State:
    """All that training carries between updates. ``B`` environments, ``O`` observation entries, ``A`` action entries.

    Attributes:
        network: Parameters of `ActorCritic`.
        optimiser: State of gradient clipping and Adam.
        obs_moments: Moments of the observation, ``[O]``.
        return_moments: Moments of the running discounted return, scalar.
        kl_weight: Weight of the KL penalty (objective ``"kl"``), scalar float32.
        action_low: What action -1 (or choice 0) means in the environment, ``[A]`` float32 (scalar int32 for choices).
        action_high: What action 1 (or the last choice) means in the environment; shape as ``action_low``.
        env_state: States of the environments, leaves ``[B, ...]``.
        obs: Observations on which the next actions are chosen, ``[B, O]`` float32, not normalised.
        discounted_return: Discounted return of the running episodes, ``[B]`` float32, in units of the reward.
        episode_return: Undiscounted return of the running episodes, ``[B]`` float32, in units of the reward.
        episode_length: Ticks of the running episodes, ``[B]`` int32.
        key: Typed key, scalar.
        steps: Environment steps done, scalar int32 (up to 2^31 - 1).
        updates: Updates done, scalar int32.
    """

    network: Any
    optimiser: Any
    obs_moments: Moments
    return_moments: Moments
    kl_weight: jax.Array
    action_low: jax.Array
    action_high: jax.Array
    env_state: Any
    obs: jax.Array
    discounted_return: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array
    key: jax.Array
    steps: jax.Array
    updates: jax.Array


@struct.dataclass
class Rollout:
    """What one `collect` gathered: ``T`` ticks of ``B`` environments, time first.

    Attributes:
        obs: Observations on which actions were chosen, ``[T, B, O]`` float32, not normalised.
        raw_action: Actions as the distribution drew them, ``[T, B, A]`` float32 (``[T, B]`` int32 for choices).
        log_prob: Their log-probabilities when drawn (nats), ``[T, B]`` float32.
        value: Values of ``obs``, ``[T, B]`` float32, in units of the normalised reward.
        next_value: Values of what the actions led to, before any reset, ``[T, B]`` float32. Where an episode
            terminated, the entry is that of the next episode's start, which `compute_gae` ignores.
        reward: ``[T, B]`` float32, not normalised.
        terminated: The task itself was over, ``[T, B]`` bool.
        truncated: The episode was cut by a limit of time, ``[T, B]`` bool.
        discounted_return: Discounted return since the episode's start, this tick included, ``[T, B]`` float32.
        episode_return: Undiscounted return since the episode's start, this tick included, ``[T, B]`` float32.
        episode_length: Ticks since the episode's start, this one included, ``[T, B]`` int32.
    """

    obs: jax.Array
    raw_action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    next_value: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    discounted_return: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array


@struct.dataclass
class Metrics:
    """What one update reports: scalars, float32. Losses and KL are means over all its gradient steps.

    Attributes:
        episode_return: Mean undiscounted return of the episodes that ended in the rollout (NaN where none did).
        episode_length: Their mean length in ticks (NaN where none ended).
        policy_loss: Surrogate loss, KL penalty included.
        value_loss: Half the mean squared error of the value, in units of the normalised reward.
        entropy: Entropy of the policy (nats).
        kl: Estimated KL divergence from the policy that collected to the policy that is trained (nats).
        clip_fraction: Share of samples whose ratio left the clipping interval.
        explained_variance: 1 - variance(target - value) / variance(target), before the update.
        gradient_norm: Global norm of the gradient before clipping.
        learning_rate: Learning rate used.
    """

    episode_return: jax.Array
    episode_length: jax.Array
    policy_loss: jax.Array
    value_loss: jax.Array
    entropy: jax.Array
    kl: jax.Array
    clip_fraction: jax.Array
    explained_variance: jax.Array
    gradient_norm: jax.Array
    learning_rate: jax.Array


def init(config: Config, env: Env, params: Any, key: jax.Array) -> State:
    """A state before the first update: fresh network, environments reset.

    Args:
        config: Hyper-parameters.
        env: The environment; it is wrapped in `AutoReset` unless it is one.
        params: Its parameters.
        key: Typed key that decides everything.

    Raises:
        ValueError: A hyper-parameter is not allowed.
        TypeError: The action space does not suit ``config.distribution``, or the observation is not a vector.
    """
    config.validate()
    low, high, actions = action_range(config, env, params)
    key_network, key_envs, key = jax.random.split(key, 3)
    obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(key_envs, config.num_envs), params)
    if obs.ndim != 2:
        raise TypeError(f"PPO needs a flat observation vector, got one of shape {obs.shape[1:]}")
    gaussian = config.distribution in ("gaussian", "tanh_gaussian")
    outputs = output_size(config.distribution, actions)
    module = ActorCritic(config.hidden, config.activation, outputs, actions if gaussian else 0)
    network = module.init(key_network, obs[:1])["params"]
    if gaussian:
        network = {**network, "log_std": jnp.full(actions, config.initial_log_std, jnp.float32)}
    zeros = jnp.zeros(config.num_envs)
    return State(
        network=network,
        optimiser=optimiser_of(config).init(network),
        obs_moments=init_moments(obs.shape[1:]),
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
    )


def collect(config: Config, env: Env, params: Any, state: State) -> tuple[State, Rollout]:
    """Runs the policy for ``config.rollout_length`` ticks in every environment.

    Returns:
        The state with environments, key and step count moved on, and what was seen.
    """
    env = env if isinstance(env, AutoReset) else AutoReset(env)
    key, key_rollout = jax.random.split(state.key)

    def tick(carry: State, key_tick: jax.Array) -> tuple[State, tuple[jax.Array, ...]]:
        key_act, key_env = jax.random.split(key_tick)
        distribution = distribution_of(config, state.network, normalised(config, state.obs_moments, carry.obs))
        raw = distribution.sample(key_act)
        action = to_env(config, state.action_low, state.action_high, distribution.to_action(raw))
        keys = jax.random.split(key_env, config.num_envs)
        obs, env_state, reward, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
            keys, carry.env_state, action, params
        )
        # Only the value of a truncated episode's last observation cannot be read off the next tick.
        final_value = jax.lax.cond(
            jnp.any(truncated),
            lambda: value_of(config, state.network, normalised(config, state.obs_moments, info["final_obs"])),
            lambda: jnp.zeros(config.num_envs),
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


def update(config: Config, env: Env, state: State, rollout: Rollout) -> tuple[State, Metrics]:
    """Improves the policy on one rollout and brings the normalisers up to date.

    The observation's moments change last, so that all gradient steps see the policy that acted.

    Args:
        config: Hyper-parameters.
        env: Not read; every algorithm has this signature.
        state: The state that `collect` returned.
        rollout: What `collect` gathered.
    """
    return_moments = update_moments(state.return_moments, rollout.discounted_return)
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
    samples = _samples(config, state, rollout, advantage, target)
    key, key_shuffle = jax.random.split(state.key)
    rate = config.learning_rate * jnp.maximum(0.0, 1.0 - (state.steps - rollout.reward.size) / config.decay_steps)
    learner = Learner(state.network, state.optimiser, jnp.zeros((), bool))
    learner, losses = fit(config, learner, samples, key_shuffle, rate, state.kl_weight)
    ended = rollout.terminated | rollout.truncated
    metrics = Metrics(
        episode_return=jnp.mean(rollout.episode_return, where=ended),
        episode_length=jnp.mean(rollout.episode_length.astype(jnp.float32), where=ended),
        explained_variance=1.0 - jnp.var(target - rollout.value) / jnp.maximum(jnp.var(target), 1e-8),
        learning_rate=jnp.asarray(rate, jnp.float32),
        **{name: loss.mean() for name, loss in losses.items()},
    )
    state = dataclasses.replace(
        state,
        network=learner.network,
        optimiser=learner.optimiser,
        obs_moments=update_moments(state.obs_moments, rollout.obs)
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


def advance(config: Config, env: Env, params: Any, state: State) -> tuple[State, Metrics]:
    """One `collect` and one `update`."""
    state, rollout = collect(config, env, params, state)
    return update(config, env, state, rollout)


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
) -> tuple[State, pl.DataFrame]:
    """Trains one policy a seed, all in one program; see `adarena.agents.training.run` for every argument.

    Returns:
        The states stacked over seeds (leaves ``[S, ...]``; ``jax.tree.map(lambda x: x[i], state)`` takes one), and the
        learning curve: one row a seed and update, with columns ``seed``, ``update``, ``step``, those of `Metrics`, and
        ``wall_seconds``.
    """
    config.validate()
    return run(
        init,
        advance,
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
    )


def _samples(config: Config, state: State, rollout: Rollout, advantage: jax.Array, target: jax.Array) -> Minibatch:
    """The whole rollout as samples for gradient steps, leaves ``[T * B, ...]``."""
    samples = Minibatch(
        obs=normalised(config, state.obs_moments, rollout.obs),
        raw_action=rollout.raw_action,
        log_prob=rollout.log_prob,
        advantage=(advantage - advantage.mean()) / (advantage.std() + 1e-8),
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
    )
