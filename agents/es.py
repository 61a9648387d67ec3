"""An evolution strategy (Salimans et al., 2017; ranks as in Wierstra et al., JMLR 2014) as pure functions.

Every generation scores ``P`` candidates, the actor's parameters plus and minus ``P / 2`` draws of noise (antithetic pairs), by
whole episodes. All candidates meet the same markets with the same luck, every generation fresh ones. The gradient of the mean
score under the noise is estimated from the scores alone and followed by Adam. Nothing is asked of the objective between the
start and the end of an episode: it may be sparse, late, a threshold, or something that is only known at the end
(``env.metrics``). The policy is deterministic; the noise on its parameters explores.

Everything that training needs is in `State`, so saving it and going on gives the same bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import polars as pl
from flax import struct
from jax.flatten_util import ravel_pytree

from adarena.agents.actors import init_network, init_obs_moments
from adarena.agents.es_config import Config, Shaping, make_config
from adarena.agents.normalise import ObsMoments, update_obs_moments
from adarena.agents.ppo_config import Config as PPOConfig
from adarena.agents.ppo_policy import PPOPolicy, action_range
from adarena.agents.training import OnChunk, run
from adarena.envs.core import Env, episode_keys

__all__ = ["Config", "Metrics", "State", "act", "init", "make_config", "make_policy", "shape_scores", "train", "update"]


@struct.dataclass
class State:
    """All that training carries between generations.

    Attributes:
        network: Parameters of the actor of `adarena.agents.networks.ActorCritic` or
            `adarena.agents.set_networks.SetActorCritic`: the middle of the population.
        optimiser: State of Adam.
        obs_moments: As in `adarena.agents.ppo_state.State`.
        action_low: What action -1 means in the environment, ``[A]`` float32.
        action_high: What action 1 means in the environment, ``[A]`` float32.
        resting_action: As in `adarena.agents.ppo_state.State`.
        key: Typed key, scalar.
        steps: Environment steps done, scalar int32 (up to 2^31 - 1).
        updates: Generations done, scalar int32.
    """

    network: Any
    optimiser: Any
    obs_moments: ObsMoments
    action_low: jax.Array
    action_high: jax.Array
    resting_action: jax.Array | None
    key: jax.Array
    steps: jax.Array
    updates: jax.Array


@struct.dataclass
class Metrics:
    """What one generation reports: scalars, float32. The scores are those of perturbed candidates.

    Attributes:
        episode_return: Mean undiscounted return of all episodes.
        episode_length: Mean length in ticks.
        objective: Mean score of the candidates, each a mean over its episodes.
        objective_best: The best candidate's score.
        objective_sd: Standard deviation of the candidates' scores.
        gradient_norm: Norm of the estimated gradient of the shaped score.
        learning_rate: Learning rate used.
    """

    episode_return: jax.Array
    episode_length: jax.Array
    objective: jax.Array
    objective_best: jax.Array
    objective_sd: jax.Array
    gradient_norm: jax.Array
    learning_rate: jax.Array


class _Running(NamedTuple):
    """Episodes under way: leaves ``[P, E, ...]``; ``moments`` are those that the next generation will see."""

    env_state: Any
    obs: jax.Array
    over: jax.Array
    total: jax.Array
    length: jax.Array
    moments: ObsMoments


def init(config: Config, env: Env, params: Any, key: jax.Array) -> State:
    """A state before the first generation.

    Args:
        config: Hyper-parameters.
        env: The environment, which must not reset itself.
        params: Its parameters.
        key: Typed key that decides everything.

    Raises:
        ValueError: A hyper-parameter is not allowed, or ``network`` or ``objective`` does not suit the environment.
        TypeError: The action space is no bounded Box, or the observation is not a vector.
    """
    config.validate()
    _check_objective(config, env, params)
    low, high, actions = action_range(_actor_config(config), env, params)
    key_network, key_obs, key = jax.random.split(key, 3)
    obs = env.reset(key_obs, params)[0][None]
    if obs.ndim != 2:
        raise TypeError(f"ES needs a flat observation vector, got one of shape {obs.shape[1:]}")
    network, resting_action = init_network(config, env, params, key_network, obs, actions)
    network = {"actor": network["actor"]}
    return State(
        network=network,
        optimiser=optax.scale_by_adam().init(ravel_pytree(network)[0]),
        obs_moments=init_obs_moments(config, env, obs),
        action_low=low,
        action_high=high,
        resting_action=resting_action,
        key=key,
        steps=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
    )


def update(config: Config, env: Env, params: Any, state: State) -> tuple[State, Metrics]:
    """One generation: scores all candidates and moves the middle of the population.

    The observation's moments change last, so that all candidates of a generation see the same.

    Args:
        config: Hyper-parameters.
        env: The environment.
        params: Its parameters.
        state: The state to go on from.
    """
    key, key_noise, key_episodes = jax.random.split(state.key, 3)
    middle, unravel = ravel_pytree(state.network)
    noise = jax.random.normal(key_noise, (config.population // 2, middle.size))
    candidates = middle + config.sigma * jnp.concatenate([noise, -noise])
    keys = jax.random.split(key_episodes, config.episodes)
    scores, running = _score(config, env, params, state, jax.vmap(unravel)(candidates), keys)
    shaped = shape_scores(config.shaping, scores)
    better = shaped[: len(noise)] - shaped[len(noise) :]  # of each pair, the one with plus
    gradient = better @ noise / (config.population * config.sigma)
    direction, optimiser = optax.scale_by_adam().update(-gradient, state.optimiser)
    rate = config.learning_rate * jnp.maximum(0.0, 1.0 - state.steps / config.decay_steps)
    metrics = Metrics(
        episode_return=running.total.mean(),
        episode_length=running.length.mean(),
        objective=scores.mean(),
        objective_best=scores.max(),
        objective_sd=scores.std(),
        gradient_norm=jnp.linalg.norm(gradient),
        learning_rate=jnp.asarray(rate, jnp.float32),
    )
    steps = config.population * config.episodes * env.max_steps(params)
    state = dataclasses.replace(
        state,
        network=unravel(middle - rate * direction),
        optimiser=optimiser,
        obs_moments=running.moments,
        key=key,
        steps=state.steps + steps,
        updates=state.updates + 1,
    )
    return state, metrics


def shape_scores(shaping: Shaping, scores: jax.Array) -> jax.Array:
    """What scores ``[P]`` count for, ``[P]`` float32, mean zero.

    ``"ranks"``: ranks from -1/2 to 1/2; equal scores have equal ranks, so that scores which are counts push nowhere where
    noise made no difference. ``"standardised"``: in standard deviations.
    """
    if shaping == "standardised":
        return (scores - scores.mean()) / (scores.std() + 1e-8)
    below = (scores[:, None] > scores).sum(1) + 0.5 * (scores[:, None] == scores).sum(1)
    return below / len(scores) - 0.5


def act(config: Config, state: State, key: jax.Array, obs: jax.Array) -> jax.Array:
    """The policy's action, ``[..., A]`` in the environment's range, for observations ``[..., O]``; ``key`` is not used."""
    return _policy(config, state, state.network).act(key, (), obs)[1]


def make_policy(config: Config, env: Env, state: State) -> PPOPolicy:
    """The trained actor as a (deterministic) policy.

    Args:
        config: Hyper-parameters with which ``state`` was made.
        env: Not read; every algorithm has this signature.
        state: A state, or one stacked over seeds: then ``jax.vmap`` over the policy evaluates all seeds in one program.
    """
    return _policy(config, state, state.network)


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
    """Trains one policy a seed, all in one program; see `adarena.agents.training.run` for what is not said here.

    A generation uses ``population * episodes * env.max_steps(params)`` environment steps (of episodes that end earlier, all
    of them count).

    Args:
        config, env, params, seeds, total_steps, chunk_updates, on_chunk, checkpoint, resume, progress: As there.

    Returns:
        The states stacked over seeds (leaves ``[S, ...]``; ``jax.tree.map(lambda x: x[i], state)`` takes one), and the
        learning curve: one row a seed and generation, with columns ``seed``, ``update``, ``step``, those of `Metrics`, and
        ``wall_seconds``.
    """
    config.validate()
    return run(
        init,
        update,
        config,
        env,
        params,
        steps_per_update=config.population * config.episodes * env.max_steps(params),
        seeds=seeds,
        total_steps=total_steps,
        chunk_updates=chunk_updates,
        on_chunk=on_chunk,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )


def _score(
    config: Config, env: Env, params: Any, state: State, networks: Any, keys: jax.Array
) -> tuple[jax.Array, _Running]:
    """Scores candidates (leaves ``[P, ...]``) on episodes with reset keys ``[E]``: ``[P]``, and the episodes' ends."""
    step_keys = jax.vmap(lambda key: episode_keys(key, env.max_steps(params))[0], out_axes=1)(keys)
    start = jax.vmap(env.reset, (0, None))(keys, params)
    shape = (config.population, config.episodes)
    obs, env_state = jax.tree.map(lambda x: jnp.broadcast_to(x, (config.population, *x.shape)), start)
    flags, zeros = jnp.zeros(shape, bool), jnp.zeros(shape)
    running = _Running(env_state, obs, flags, zeros, zeros, state.obs_moments)
    step = jax.vmap(jax.vmap(env.step, (0, 0, 0, None)), (None, 0, 0, None))

    def tick(now: _Running, keys: jax.Array) -> tuple[_Running, None]:
        action = jax.vmap(lambda network, obs: _policy(config, state, network).act(keys[0], (), obs)[1])(
            networks, now.obs
        )
        obs, env_state, reward, terminated, truncated, _ = step(keys, now.env_state, action, params)
        live = ~now.over
        env_state, obs = jax.tree.map(
            lambda new, old: jnp.where(live.reshape(*shape, *(1,) * (new.ndim - 2)), new, old),
            (env_state, obs),
            (now.env_state, now.obs),
        )
        moments = now.moments
        if config.normalise_observations:
            moments = update_obs_moments(moments, now.obs, where=live)
        total = now.total + jnp.where(live, reward, 0.0)
        over = now.over | terminated | truncated
        return _Running(env_state, obs, over, total, now.length + live, moments), None

    running, _ = jax.lax.scan(tick, running, step_keys)
    ends = {"return": running.total}
    if hasattr(env, "metrics"):
        ends |= jax.vmap(jax.vmap(env.metrics, (0, None)), (0, None))(running.env_state, params)
    score = sum(weight * ends[name] for name, weight in config.objective)
    return jnp.asarray(score, jnp.float32).mean(1), running


def _policy(config: Config, state: State, network: Any) -> PPOPolicy:
    return PPOPolicy(
        network=network,
        obs_moments=state.obs_moments,
        action_low=state.action_low,
        action_high=state.action_high,
        hidden=config.hidden,
        activation=config.activation,
        distribution=config.distribution,
        normalise_observations=config.normalise_observations,
        kind=config.network,
        resting_action=state.resting_action,
    )


def _actor_config(config: Config) -> PPOConfig:
    return PPOConfig(network=config.network, hidden=config.hidden, distribution=config.distribution)


def _check_objective(config: Config, env: Env, params: Any) -> None:
    """Refuses an objective that an episode does not have."""
    known = {"return": ()}
    if hasattr(env, "metrics"):
        ends = jax.eval_shape(lambda: env.metrics(env.reset(jax.random.key(0), params)[1], params))
        known |= {name: end.shape for name, end in ends.items()}
    for name, _ in config.objective:
        if known.get(name) != ():
            scalars = ", ".join(sorted(each for each, shape in known.items() if shape == ()))
            raise ValueError(f"objective must name scalars that an episode ends with ({scalars}), got {name!r}")
