"""The inside of a PPO update: network, advantages, minibatches, loss, gradient steps. All pure functions."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adarena.agents.actors import module_of
from adarena.agents.distributions import Distribution, make_distribution, make_masked
from adarena.agents.ppo_config import Config
from adarena.agents.set_networks import SetActorCritic
from adarena.agents.shards import Axes, average, key_of
from adarena.envs.sets import layout_in


class Minibatch(NamedTuple):
    """``N`` samples of a rollout.

    Attributes:
        obs: Normalised observations, ``[N, O]`` float32.
        raw_action: Actions as drawn, ``[N, A]`` float32 (``[N]`` int32 for choices).
        log_prob: Log-probabilities when drawn (nats), ``[N]`` float32.
        advantage: ``[N]`` float32, mean zero and standard deviation one over the rollout.
        target: What the value should be, ``[N]`` float32.
    """

    obs: jax.Array
    raw_action: jax.Array
    log_prob: jax.Array
    advantage: jax.Array
    target: jax.Array


class Learner(NamedTuple):
    """What a gradient step changes.

    Attributes:
        network: Parameters of `ActorCritic` or `SetActorCritic`.
        optimiser: State of gradient clipping and Adam.
        stopped: Whether the KL divergence has passed ``kl_stop`` in this rollout, scalar bool.
    """

    network: Any
    optimiser: Any
    stopped: jax.Array


def _apply(config: Config, network: Any, obs: jax.Array, method: str) -> Any:
    return module_of(config, network).apply({"params": network}, obs, method=method)


def distribution_of(config: Config, network: Any, obs: jax.Array) -> Distribution:
    """The distribution of raw actions for normalised observations ``[..., O]``."""
    return _distribution(config, network, obs, *_apply(config, network, obs, "act"))


def _distribution(config: Config, network: Any, obs: jax.Array, outputs: jax.Array, log_std: jax.Array) -> Distribution:
    module = module_of(config, network)
    if isinstance(module, SetActorCritic):
        mask = layout_in(obs, module.context, module.features).split(obs)[2]
        return make_masked(config.distribution, outputs, log_std, mask)
    return make_distribution(config.distribution, outputs, log_std)


def value_of(config: Config, network: Any, obs: jax.Array) -> jax.Array:
    """Values ``[...]`` of normalised observations ``[..., O]``, in units of the normalised reward."""
    return _apply(config, network, obs, "value")


def optimiser_of(config: Config) -> optax.GradientTransformation:
    """Global-norm clipping, then Adam's direction; the learning rate is applied by the gradient step."""
    return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.scale_by_adam(eps=1e-5))


def compute_gae(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    discount: jax.Array | float,
    gae_lambda: jax.Array | float,
) -> jax.Array:
    """Generalised advantage estimation (Schulman et al., ICLR 2016), truncation and termination apart.

    A terminated episode is worth nothing from there on. A truncated one would have gone on: its last tick counts the
    value of what it led to, but no advantage flows back over the cut from the episode that follows.

    Args:
        reward: ``[T, B]``.
        value: Value of the observation before the action, ``[T, B]``.
        next_value: Value of the observation after it and before any reset, ``[T, B]``.
        terminated: ``[T, B]`` bool.
        truncated: ``[T, B]`` bool.
        discount: Discount factor a tick.
        gae_lambda: Weight of longer estimates, 0 (one tick) to 1 (Monte Carlo).

    Returns:
        Advantages ``[T, B]``; the value's target is advantage + value.
    """
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    decay = jnp.where(terminated | truncated, 0.0, discount * gae_lambda)

    def backwards(advantage: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        advantage = now[0] + now[1] * advantage
        return advantage, advantage

    return jax.lax.scan(backwards, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)[1]


def shuffled_rows(key: jax.Array, ticks: int, envs: int, minibatches: int) -> jax.Array:
    """Which samples of a rollout go into which minibatch, every one once.

    A permutation of the environments, rolled by a random amount in each tick: each minibatch has the same number of
    samples of every tick. Sorting ``envs`` keys costs a fraction of permuting all ``ticks * envs`` samples.

    Returns:
        Indices into samples laid out ``[T * B]``, time first: ``[minibatches, ticks * envs / minibatches]`` int32.
    """
    key_order, key_roll = jax.random.split(key)
    order = jax.random.permutation(key_order, envs)
    roll = jax.random.randint(key_roll, (ticks, 1), 0, envs)
    chosen = order[(jnp.arange(envs) + roll) % envs] + envs * jnp.arange(ticks)[:, None]
    grouped = chosen.reshape(ticks, minibatches, envs // minibatches)
    return grouped.swapaxes(0, 1).reshape(minibatches, -1)


def loss(
    config: Config, network: Any, batch: Minibatch, kl_weight: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The scalar that a gradient step lowers, and its parts (scalars, float32)."""
    outputs, log_std, value = _apply(config, network, batch.obs, "__call__")
    distribution = _distribution(config, network, batch.obs, outputs, log_std)
    log_ratio = distribution.log_prob(batch.raw_action) - batch.log_prob
    ratio = jnp.exp(log_ratio)
    # Unbiased, never negative, and of the KL divergence's gradient, whatever the distribution.
    kl = jnp.mean(ratio - 1.0 - log_ratio)
    if config.objective == "clip":
        clipped = jnp.clip(ratio, 1.0 - config.clip, 1.0 + config.clip)
        policy_loss = -jnp.mean(jnp.minimum(ratio * batch.advantage, clipped * batch.advantage))
    else:
        policy_loss = -jnp.mean(ratio * batch.advantage) + kl_weight * kl
    value_loss = 0.5 * jnp.mean(jnp.square(value - batch.target))
    entropy = jnp.mean(distribution.entropy())
    parts = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "kl": kl,
        "clip_fraction": jnp.mean(jnp.abs(ratio - 1.0) > config.clip),
    }
    return policy_loss + config.value * value_loss - config.entropy * entropy, parts


def gradient_step(
    config: Config, learner: Learner, batch: Minibatch, rate: jax.Array, kl_weight: jax.Array, axes: Axes = ()
) -> tuple[Learner, dict[str, jax.Array]]:
    """One step of Adam on one minibatch; none once the KL divergence has passed ``kl_stop``.

    With ``axes``, ``batch`` is a shard's part of the minibatch, and the gradient is averaged over the shards.
    """
    (_, parts), gradient = jax.value_and_grad(loss, argnums=1, has_aux=True)(config, learner.network, batch, kl_weight)
    parts, gradient = average((parts, gradient), axes)
    direction, optimiser = optimiser_of(config).update(gradient, learner.optimiser)
    stopped = learner.stopped | (parts["kl"] > config.kl_stop)
    network = jax.tree.map(lambda old, step: old - rate * step, learner.network, direction)
    network, optimiser = jax.tree.map(
        lambda new, old: jnp.where(stopped, old, new), (network, optimiser), (learner.network, learner.optimiser)
    )
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    return Learner(network, optimiser, stopped), {**parts, "gradient_norm": norm}


def fit(
    config: Config,
    learner: Learner,
    samples: Minibatch,
    key: jax.Array,
    rate: jax.Array,
    kl_weight: jax.Array,
    axes: Axes = (),
) -> tuple[Learner, dict[str, jax.Array]]:
    """All gradient steps on one rollout.

    Args:
        config: Hyper-parameters.
        learner: Where to start.
        samples: The whole rollout, leaves ``[T * B, ...]``, time first.
        key: Typed key that shuffles.
        rate: Learning rate, scalar.
        kl_weight: Weight of the KL penalty, scalar.
        axes: Shards of the rollout, of which ``samples`` are one; each gives every minibatch as many samples.

    Returns:
        The learner, and the parts of the loss, ``[epochs, minibatches]`` each.
    """
    envs = len(samples.log_prob) // config.rollout_length
    shape = (config.rollout_length, envs, config.minibatches)
    keys = jax.random.split(key_of(key, axes), config.epochs)
    rows = jax.vmap(lambda key: shuffled_rows(key, *shape))(keys)
    packed, unpack = _pack(samples)

    def step(learner: Learner, chosen: jax.Array) -> tuple[Learner, dict[str, jax.Array]]:
        batch = unpack(packed.at[chosen].get(mode="promise_in_bounds"))
        return gradient_step(config, learner, batch, rate, kl_weight, axes)

    learner, parts = jax.lax.scan(step, learner, rows.reshape(-1, rows.shape[-1]))
    return learner, jax.tree.map(lambda part: part.reshape(config.epochs, config.minibatches), parts)


def _pack(samples: Minibatch) -> tuple[jax.Array, Any]:
    """One float32 row a sample, so that a minibatch is one gather, and the inverse."""
    choices = samples.raw_action.ndim == 1
    raw = samples.raw_action[:, None].astype(jnp.float32) if choices else samples.raw_action
    numbers = jnp.stack([samples.log_prob, samples.advantage, samples.target], -1)
    width = samples.obs.shape[-1]

    def unpack(rows: jax.Array) -> Minibatch:
        action = rows[:, width].astype(jnp.int32) if choices else rows[:, width:-3]
        return Minibatch(rows[:, :width], action, rows[:, -3], rows[:, -2], rows[:, -1])

    return jnp.concatenate([samples.obs, raw, numbers], -1), unpack


def next_kl_weight(config: Config, kl_weight: jax.Array, kl: jax.Array) -> jax.Array:
    """The penalty's weight for the next rollout: doubled or halved where KL left [2/3, 3/2] of the target.

    Schulman et al. (2017), section 4; kept in [1e-4, 1e4].
    """
    factor = jnp.where(kl > 1.5 * config.kl_target, 2.0, jnp.where(kl < config.kl_target / 1.5, 0.5, 1.0))
    return jnp.clip(kl_weight * factor, 1e-4, 1e4) if config.objective == "kl" else kl_weight
