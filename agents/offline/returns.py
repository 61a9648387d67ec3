"""What a sequence model is conditioned on: how returns become its goals, and what is asked for when it acts.

Three kinds of goals, by the name that a configuration gives in ``conditioning``:

- ``"to_go"``: the return to go over the spread of whole returns, as in Decision Transformer (Chen et al., NeurIPS 2021).
  When it acts, the goal starts at the return asked for and falls by what has been earned, which a `Meter` reads off the
  observation. Rewards of `adarena.envs.autobid` add up to the day's score undiscounted, so there these are GAVE's scores to
  go ``r_t = S_T - S_{t-1}`` (Gao et al., SIGIR 2025, arXiv:2504.14587, section 3.2); `value_rewards` makes the raw ones,
  which leave the target out.
- ``"relative"``: the whole episode's return over what its first observation foretells, in standard deviations. Returns of
  markets differ by budget and seat more than by skill, so a raw return says more of the seat than of the action; this one
  asks how well the seat is to be played.
- ``"advantage"``: the same at every step: the return to go over what that step's observation foretells.

What an observation foretells is a ridge regression a step, of the return to go and of the size of its error. So ``target``,
what is asked for, is in standard deviations above the expected return for all three kinds.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adarena.agents.offline.data import Data
from adarena.agents.offline.episodes import Episodes
from adarena.envs.core import Env

Conditioning = Literal["to_go", "relative", "advantage"]
"""Name of a kind of goals."""

CONDITIONINGS: tuple[str, ...] = get_args(Conditioning)
"""Every name in `Conditioning`."""

METERS = ("score", "value", "entry")
"""Kinds of `Meter`."""

_VALUE = ("progress", "log_budget", "log_target")
_READ: dict[str, tuple[str, ...]] = {"score": (*_VALUE, "cost_over_target"), "value": _VALUE}
_RIDGE = 1e-2  # weight of squared weights beside the mean squared error, observations being on a unit scale
_NARROW = 0.1  # least spread that is foretold, of that of whole returns
_CLIP = 4.0


@dataclasses.dataclass(frozen=True)
class Meter:
    """Reads what an episode has earned so far off its observation. Hashable.

    Attributes:
        kind: ``"score"`` (value so far x min(1, (target / cost per value)^2), the sum of AutoBid's rewards), ``"value"`` (the
            value alone), or ``"entry"`` (one entry of the observation as it stands).
        places: Where the entries that it reads stand in the observation.
    """

    kind: str
    places: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raises:
        ValueError: No such kind, or as many places as it does not read.
        """
        wanted = len(_READ.get(self.kind, ("",)))
        if self.kind not in METERS:
            raise ValueError(f"kind must be one of {', '.join(METERS)}, got {self.kind!r}")
        if len(self.places) != wanted or min(self.places) < 0:
            raise ValueError(f"places must be {wanted} numbers of at least 0 for {self.kind!r}, got {self.places!r}")

    def __call__(self, obs: jax.Array) -> jax.Array:
        """What was earned so far, ``[...]`` float32, in the unit of rewards, by observations ``[..., O]`` not normalised."""
        if self.kind == "entry":
            return obs[..., self.places[0]]
        value = obs[..., self.places[0]] * jnp.exp(obs[..., self.places[1]] - obs[..., self.places[2]])
        if self.kind == "value":
            return value
        return value * jnp.minimum(1.0, jnp.exp(-2.0 * obs[..., self.places[3]]))


def meter_of(env: Env, kind: str) -> Meter:
    """The meter of an environment.

    Args:
        env: Has the entries of `adarena.envs.observation.entries`; or one that ``kind`` names.
        kind: ``"score"``, ``"value"``, or the name of an entry that tells what was earned so far.

    Raises:
        KeyError: The observation lacks an entry that the meter reads.
    """
    places = {entry.name: place for place, entry in enumerate(env.OBSERVATION)}
    names = _READ.get(kind, (kind,))
    missing = [name for name in names if name not in places]
    if missing:
        raise KeyError(f"meter {kind!r} reads the observation entry {missing[0]!r}, which {type(env).__name__} lacks")
    return Meter(kind if kind in _READ else "entry", tuple(places[name] for name in names))


def value_rewards(episodes: Episodes, env: Env) -> Episodes:
    """Episodes whose rewards are the value that each step brought, whatever it cost: raw returns to go, not scores.

    Raises:
        KeyError: The observation does not tell.
    """
    meter = meter_of(env, "value")
    earned = np.asarray(meter(jnp.asarray(episodes.observations)))
    return dataclasses.replace(episodes, rewards=np.diff(earned, axis=1).astype(np.float32))


@struct.dataclass
class Goals:
    """What returns are compared with; in the unit of `Data.rewards`.

    Attributes:
        mean: ``[T, O + 1]`` weights of the return to go foretold by a step's normalised observation, the constant last.
        spread: ``[T, O + 1]`` weights of the standard deviation of its error.
        expected: Mean return of an episode, scalar.
        unit: Standard deviation of returns, scalar.
        reward_scale: As in `Data`.
    """

    mean: jax.Array
    spread: jax.Array
    expected: jax.Array
    unit: jax.Array
    reward_scale: jax.Array

    def forecast(self, obs: jax.Array, time: jax.Array) -> jax.Array:
        """Returns to go foretold at steps ``time`` ``[...]`` by observations ``[..., O]``, in units of ``unit``."""
        return _linear(self.mean[time], obs) / self.unit

    def relative(self, obs: jax.Array, to_go: jax.Array, time: jax.Array) -> jax.Array:
        """Returns to go ``[...]`` at steps ``time`` with observations ``[..., O]``, in deviations above what these foretell."""
        expected = _linear(self.mean[time], obs)
        spread = jnp.maximum(_linear(self.spread[time], obs), _NARROW * self.unit)
        return jnp.clip((to_go - expected) / spread, -_CLIP, _CLIP)


def fit_goals(data: Data) -> Goals:
    """What the data's observations foretell: a ridge regression a step, and one of its absolute errors."""
    to_go = data.returns_to_go
    inputs = _with_one(data.observations[:, :-1])
    mean = _ridge(inputs, to_go)
    error = jnp.abs(to_go - jnp.einsum("etf,tf->et", inputs, mean))
    whole = to_go[:, 0]
    unit = jnp.maximum(whole.std(), 1e-6)
    size = _ridge(inputs, error)  # larger where returns are, but as a mean of absolute values too small
    share = error / jnp.maximum(jnp.einsum("etf,tf->et", inputs, size), _NARROW * unit)
    return Goals(
        mean=mean,
        spread=size * jnp.sqrt(jnp.square(share).mean(0))[:, None],
        expected=whole.mean(),
        unit=unit,
        reward_scale=data.reward_scale,
    )


def goal_labels(kind: str, goals: Goals, data: Data, episode: jax.Array, time: jax.Array) -> jax.Array:
    """Goals of steps ``time`` ``[B, K]`` of episodes ``[B]`` as training is told them, ``[B, K]`` float32."""
    to_go = data.returns_to_go[episode[:, None], time]
    if kind == "to_go":
        return to_go / goals.unit
    if kind == "relative":
        first = goals.relative(data.observations[episode, 0], data.returns_to_go[episode, 0], jnp.zeros_like(episode))
        return jnp.broadcast_to(first[:, None], time.shape)
    return goals.relative(data.observations[episode[:, None], time], to_go, time)


def goal_asked(kind: str, goals: Goals, meter: Meter | None, target: jax.Array, obs: jax.Array) -> jax.Array:
    """The goal of a step when acting, scalar; ``obs`` ``[O]`` as the environment gave it."""
    if kind != "to_go" or meter is None:
        return jnp.asarray(target, jnp.float32)
    return goals.expected / goals.unit + target - meter(obs) / (goals.reward_scale * goals.unit)


def _with_one(obs: jax.Array) -> jax.Array:
    return jnp.concatenate([obs, jnp.ones_like(obs[..., :1])], -1)


def _linear(weights: jax.Array, obs: jax.Array) -> jax.Array:
    return (weights * _with_one(obs)).sum(-1)


def _ridge(inputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Weights ``[T, F]`` of regressions over episodes, one a step, of ``[E, T, F]`` on ``[E, T]``.

    By conjugate gradients: products alone, where batched factorisations can lock up XLA's CPU threads (see
    `adarena.agents.networks.orthogonal`).
    """
    count = inputs.shape[0]
    gram = jnp.einsum("etf,etg->tfg", inputs, inputs) / count + _RIDGE * jnp.eye(inputs.shape[-1])
    moment = jnp.einsum("etf,et->tf", inputs, targets) / count

    def solve(gram: jax.Array, moment: jax.Array) -> jax.Array:
        return jax.scipy.sparse.linalg.cg(lambda x: gram @ x, moment, tol=1e-6, maxiter=2 * moment.shape[0])[0]

    return jax.vmap(solve)(gram, moment)
