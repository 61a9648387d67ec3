"""Q-learning item by item under a budget that all items share: dual descent with learned values.

Items (new ads, say) meet in one thing alone, the budget for their support. Put a price on it, and what is left of the
problem falls apart into one decision process an item: its own reward less the price of what it takes (Lagrangian
decomposition of weakly coupled processes: Hawkins, 2003; Adelman and Mersereau, Operations Research 2008). Every item of
every episode is then an example for one Q-function with one reward of its own, where a policy that is paid for the sum
has to find out which of forty-eight ads it owes it to.

Two values are learnt of every choice, the chance of the item's reward and the cost to its end, each a polynomial of the
action in the item's state, so every choice teaches about its neighbours; the price puts them together. The network reads
an item, what all share, and the price, so one training serves all prices (as universal value functions do, Schaul et al.,
ICML 2015). It learns from parallel episodes without replay or target network, which layer normalisation keeps steady (PQN:
Gallici et al., ICLR 2025). Random choices are held for some ticks, since what one tick brings cannot be told from luck, and
returns are those to the end by default (``trace`` 1). When it acts, the price follows the budget's use; its two numbers
(`DualQPolicy.price`, ``pace``) are tuned like a rule's.

Environments need a ``layout`` (`adarena.envs.sets.SetLayout`), ``item_outcomes(before, after, params)`` (each item's
reward, and what it took of the budget over an even part of it), and an entry ``fund_pace`` in the observation's context.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import polars as pl
from flax import struct

from adarena.agents.actors import layout_of, resting_action
from adarena.agents.dual_q_config import Config, choices_of, make_config
from adarena.agents.dual_q_policy import (
    DualQPolicy,
    action_of,
    best_choice,
    inputs_of,
    layout_by,
    module_of,
    outlook_of,
    terms,
)
from adarena.agents.normalise import SetMoments, init_set_moments, update_obs_moments
from adarena.agents.training import OnChunk, run
from adarena.envs.core import Env
from adarena.envs.sets import SetLayout

__all__ = [
    "Config",
    "DualQPolicy",
    "Metrics",
    "State",
    "choices_of",
    "init",
    "make_config",
    "make_policy",
    "terms",
    "train",
    "update",
]


@struct.dataclass
class State:
    """All that training carries between updates.

    Attributes:
        network: Parameters of `QNetwork`.
        optimiser: State of Adam.
        obs_moments: Moments that normalise context and features.
        resting_action: What empty places do, ``[A]``.
        key: Typed key, scalar.
        steps: Environment steps done, scalar int32.
        updates: Updates done, scalar int32.
    """

    network: Any
    optimiser: Any
    obs_moments: SetMoments
    resting_action: jax.Array
    key: jax.Array
    steps: jax.Array
    updates: jax.Array


@struct.dataclass
class Metrics:
    """What one update reports: scalars, float32, of the exploring policy at all prices.

    Attributes:
        episode_return: Mean over episodes of the items' rewards, summed.
        cost: Mean over episodes of the items' costs, as a share of the budget.
        reward_explained: Share of the variance of rewards to come that the Q-function explained,
        cost_explained: and of costs to come.
        learning_rate: Learning rate used.
    """

    episode_return: jax.Array
    cost: jax.Array
    reward_explained: jax.Array
    cost_explained: jax.Array
    learning_rate: jax.Array


class _Seen(NamedTuple):
    """Episodes, leaves ``[T, B, ...]``: observations, choices ``[T, B, L]``, rewards and costs likewise."""

    obs: jax.Array
    choice: jax.Array
    reward: jax.Array
    cost: jax.Array


def init(config: Config, env: Env, params: Any, key: jax.Array) -> State:
    """A state before the first update.

    Args:
        config: Hyper-parameters.
        env: The environment, which must not reset itself.
        params: Its parameters.
        key: Typed key that decides everything.

    Raises:
        ValueError: A hyper-parameter is not allowed, or ``choices`` do not suit the environment's actions.
        TypeError: The environment has no items with outcomes of their own.
    """
    config.validate()
    layout = _checked_layout(config, env)
    key_network, key = jax.random.split(key)
    network = module_of(config).init(key_network, jnp.zeros((1, layout.context + 1 + layout.features)))["params"]
    return State(
        network=network,
        optimiser=_optimiser(config).init(network),
        obs_moments=init_set_moments(layout),
        resting_action=resting_action(env, params, layout.items * layout.actions),
        key=key,
        steps=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
    )


def update(config: Config, env: Env, params: Any, state: State) -> tuple[State, Metrics]:
    """Plays one episode in each environment, each at a price of its own, and learns from them.

    Args:
        config: Hyper-parameters.
        env: The environment.
        params: Its parameters.
        state: The state to go on from.
    """
    key, key_price, key_play, key_fit = jax.random.split(state.key, 4)
    done = jnp.minimum(state.steps / config.decay_steps, 1.0)
    low, high = jnp.log(config.price_low), jnp.log(config.price_high)
    log_price = jax.random.uniform(key_price, (config.episodes,), minval=low, maxval=high)
    explore = config.explore + (config.explore_end - config.explore) * done
    seen = _play(config, env, params, state, log_price, explore, key_play)
    log_price = log_price - config.pace * seen.obs[..., _pace_entry(env, _checked_layout(config, env))]
    reward, cost, live = _targets(config, state, seen, log_price)
    rate = config.learning_rate * (1.0 - done)
    inputs = inputs_of(state.obs_moments, seen.obs, log_price)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), (inputs, seen.choice, reward, cost, live))
    network, optimiser, wrong, dear = _fit(config, state, flat, rate, key_fit)
    metrics = Metrics(
        episode_return=seen.reward.sum((0, 2)).mean(),
        cost=seen.cost.sum((0, 2)).mean() / seen.cost.shape[2],
        reward_explained=1.0 - wrong / _variance(reward, live),
        cost_explained=1.0 - dear / _variance(cost, live),
        learning_rate=jnp.asarray(rate, jnp.float32),
    )
    state = dataclasses.replace(
        state,
        network=network,
        optimiser=optimiser,
        obs_moments=update_obs_moments(state.obs_moments, seen.obs),  # type: ignore[arg-type]
        key=key,
        steps=state.steps + config.episodes * env.max_steps(params),
        updates=state.updates + 1,
    )
    return state, metrics


def _play(
    config: Config, env: Env, params: Any, state: State, log_price: jax.Array, explore: jax.Array, key: jax.Array
) -> _Seen:
    """Whole episodes, side by side, with random choices mixed in."""
    layout, table = layout_of(env), jnp.asarray(config.choices, jnp.float32)
    assert layout is not None
    rest, batch, pace_entry = state.resting_action, config.episodes, _pace_entry(env, layout)
    key_reset, key_steps = jax.random.split(key)
    obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(key_reset, batch), params)
    start = (obs, env_state, jnp.full((batch, layout.items), -1))

    def tick(carry: tuple[Any, ...], key: jax.Array) -> tuple[tuple[Any, ...], _Seen]:
        obs, before, held = carry
        key_step, key_which, key_choice, key_end = jax.random.split(key, 4)
        price = log_price - config.pace * obs[:, pace_entry]
        best = best_choice(config, state.network, inputs_of(state.obs_moments, obs, price), price)
        drawn = jax.random.randint(key_choice, best.shape, 0, len(table))
        # Spells of random choice begin and end so that they are this share of the ticks.
        ends = jax.random.uniform(key_end, best.shape) < 1.0 / config.hold
        begins = jax.random.uniform(key_which, best.shape) < explore / (config.hold * (1.0 - explore))
        held = jnp.where((held >= 0) & ~ends, held, jnp.where(begins, drawn, -1))
        choice = jnp.where(held >= 0, held, best)
        action = action_of(table, layout, rest, obs, choice)
        keys = jax.random.split(key_step, batch)
        after, state_after, *_ = jax.vmap(env.step, (0, 0, 0, None))(keys, before, action, params)
        outcomes: Any = env
        reward, cost = jax.vmap(outcomes.item_outcomes, (0, 0, None))(before, state_after, params)
        return (after, state_after, held), _Seen(obs, choice, reward, cost)

    return jax.lax.scan(tick, start, jax.random.split(key_steps, env.max_steps(params)))[1]


def _targets(config: Config, state: State, seen: _Seen, log_price: jax.Array) -> tuple[jax.Array, ...]:
    """Rewards and costs to come, to be predicted (Peng's Q(lambda), undiscounted), and which items were there.

    All ``[T, B, L]``.
    """
    inputs = inputs_of(state.obs_moments, seen.obs, log_price)
    best = outlook_of(config, state.network, inputs, best_choice(config, state.network, inputs, log_price))
    live = layout_by(state.obs_moments, seen.obs).split(seen.obs)[2]

    def back(later: tuple[jax.Array, ...], now: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, ...], jax.Array]:
        target, value, there = later
        gained, best, live = now
        target = gained + jnp.where(there, config.trace * target + (1.0 - config.trace) * value, 0.0)
        return (target, best, live), target

    def returns(gained: jax.Array, best: jax.Array) -> jax.Array:
        nothing = jnp.zeros_like(best[0])
        end: tuple[jax.Array, ...] = (nothing, nothing, jnp.zeros(nothing.shape, bool))
        steps: tuple[jax.Array, ...] = (gained, best, live)
        return jax.lax.scan(back, end, steps, reverse=True)[1]

    return returns(seen.reward, nn.sigmoid(best.logit)), returns(seen.cost, best.cost), live


def _fit(
    config: Config, state: State, samples: tuple[jax.Array, ...], rate: jax.Array, key: jax.Array
) -> tuple[Any, Any, jax.Array, jax.Array]:
    """Gradient steps on items that were there, drawn with replacement; parameters, optimiser, mean squared errors."""
    inputs, choice, reward, cost, live = samples
    rank = jnp.cumsum(live)

    def loss(network: Any, at: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        seen = outlook_of(config, network, inputs[at], choice[at])
        entropy = optax.sigmoid_binary_cross_entropy(seen.logit, reward[at]).mean()
        errors = (jnp.square(x).mean() for x in (nn.sigmoid(seen.logit) - reward[at], seen.cost - cost[at]))
        wrong, dear = errors
        return entropy + config.cost_weight * dear, (wrong, dear)

    def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], tuple[jax.Array, jax.Array]]:
        network, optimiser = carry
        chosen = jax.random.randint(key, (config.minibatch,), 1, jnp.maximum(rank[-1], 1) + 1)
        at = jnp.minimum(jnp.searchsorted(rank, chosen), len(live) - 1)
        (_, errors), gradient = jax.value_and_grad(loss, has_aux=True)(network, at)
        direction, optimiser = _optimiser(config).update(gradient, optimiser)
        return (jax.tree.map(lambda p, d: p - rate * d, network, direction), optimiser), errors

    carry, errors = jax.lax.scan(step, (state.network, state.optimiser), jax.random.split(key, config.gradient_steps))
    return *carry, errors[0].mean(), errors[1].mean()


def make_policy(config: Config, env: Env, state: State) -> DualQPolicy:
    """The trained values as a policy, at the default price.

    Args:
        config: Hyper-parameters with which ``state`` was made.
        env: The environment.
        state: A state, or one stacked over seeds: then all leaves of the policy are.
    """
    layout, bounds = _checked_layout(config, env), DualQPolicy.SPACE
    shape = jnp.shape(state.steps)

    def repeated(x: Any) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(x, jnp.float32), (*shape, *jnp.shape(x)))

    return DualQPolicy(
        price=repeated(bounds["price"].default),
        pace=repeated(bounds["pace"].default),
        network=state.network,
        obs_moments=state.obs_moments,
        resting_action=state.resting_action,
        price_low=repeated(config.price_low),
        price_high=repeated(config.price_high),
        choices=config.choices,
        hidden=config.hidden,
        pace_entry=_pace_entry(env, layout),
    )


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
    """Trains one Q-function a seed, all in one program; see `adarena.agents.training.run` for what is not said here.

    Args:
        config, env, params, seeds, total_steps, chunk_updates, on_chunk, checkpoint, resume, progress: As there.

    Returns:
        The states stacked over seeds, and the learning curve: one row a seed and update, with columns ``seed``,
        ``update``, ``step``, those of `Metrics`, and ``wall_seconds``.
    """
    config.validate()
    return run(
        init,
        update,
        config,
        env,
        params,
        steps_per_update=config.episodes * env.max_steps(params),
        seeds=seeds,
        total_steps=total_steps,
        chunk_updates=chunk_updates,
        on_chunk=on_chunk,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )


def _variance(values: jax.Array, where: jax.Array) -> jax.Array:
    count = jnp.maximum(where.sum(), 1)
    mean = jnp.where(where, values, 0.0).sum() / count
    return jnp.maximum(jnp.where(where, jnp.square(values - mean), 0.0).sum() / count, 1e-8)


def _optimiser(config: Config) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.scale_by_adam())


def _pace_entry(env: Env, layout: SetLayout) -> int:
    return [entry.name for entry in env.OBSERVATION[: layout.context]].index("fund_pace")


def _checked_layout(config: Config, env: Env) -> SetLayout:
    """The environment's layout, if this learner can learn there."""
    layout, name = layout_of(env), type(env).__name__
    if layout is None or not hasattr(env, "item_outcomes"):
        raise TypeError(f"env must have a layout of items and item_outcomes(before, after, params), which {name} lacks")
    if "fund_pace" not in [entry.name for entry in env.OBSERVATION[: layout.context]]:
        raise TypeError(f"env must show fund_pace in its observation's context, which {name} does not")
    if len(config.choices[0]) != layout.actions:
        raise ValueError(f"choices must have {layout.actions} numbers each for {name}, got {config.choices[0]!r}")
    return layout
