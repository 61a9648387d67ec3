"""What PPO carries, gathers and reports: `State`, `Rollout`, `Metrics`."""

from __future__ import annotations

from typing import Any

import jax
from flax import struct

from adarena.agents.normalise import Moments, ObsMoments


@struct.dataclass
class State:
    """All that training carries between updates. ``B`` environments, ``O`` observation entries, ``A`` action entries.

    Attributes:
        network: Parameters of `ActorCritic` or `SetActorCritic`.
        optimiser: State of gradient clipping and Adam.
        obs_moments: Moments of the observation, ``[O]``; of its context and its items' features for a network of a set.
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
        resting_action: What empty places of a set do, ``[A]`` float32 in the environment's units; None for ``"mlp"``.
    """

    network: Any
    optimiser: Any
    obs_moments: ObsMoments
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
    resting_action: jax.Array | None = None


_OWN = ("env_state", "obs", "discounted_return", "episode_return", "episode_length")


def split_state(state: State) -> tuple[dict[str, Any], State]:
    """What belongs to single environments (leaves ``[B, ...]``), by name of the field, and the state without it."""
    return {name: getattr(state, name) for name in _OWN}, state.replace(**dict.fromkeys(_OWN))  # type: ignore[attr-defined]


def join_state(own: dict[str, Any], rest: State) -> State:
    """Undoes `split_state`."""
    return rest.replace(**own)  # type: ignore[attr-defined, no-any-return]


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
