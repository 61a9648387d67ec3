"""Off-policy evaluation: what a policy would have earned, from episodes that another policy played.

``E`` episodes of ``T`` steps, undiscounted. With ``rho_t`` the ratio of the target's density of the logged action to the
behaviour's, both given all that was seen, and the weight ``w_t = rho_0 ... rho_t`` (``w_{-1} = 1``):

- ``is``     mean of ``w_{T-1} (r_0 + ... + r_{T-1})``: importance sampling by the whole episode
  (Precup, Sutton and Singh, ICML 2000, section 2).
- ``wis``    the same over the mean of ``w_{T-1}``: self-normalised, also called weighted (ibid.). Biased, consistent.
- ``pdis``   mean of ``sum_t w_t r_t``: per decision (ibid., section 3). A reward answers for no later action.
- ``snpdis`` ``sum_t mean(w_t r_t) / mean(w_t)``: per decision, weights normalised step by step (consistent weighted
  per-decision importance sampling: Thomas, PhD thesis, University of Massachusetts Amherst, 2015, section 3.10).
- ``fqe``    mean of ``V(s_0)``, the direct method with fitted Q (`adarena.agents.offline.fitted_q`).
- ``dr``     mean of ``sum_t w_t (r_t - Q(s_t, a_t)) + w_{t-1} V(s_t)``: doubly robust, equation 10 of Jiang and Li
  (ICML 2016, arXiv:1511.03722) with the recursion written out. Unbiased if the densities are right, ``V`` is the mean of
  ``Q`` over the target's actions and ``Q`` was fitted on other episodes, however wrong ``Q`` is; without variance if ``Q``
  is right and rewards and moves have no chance of their own.
- ``wdr``    the same with both weights normalised step by step (Thomas and Brunskill, ICML 2016, arXiv:1604.00923,
  section 5).

No weight is clipped unless ``clip`` says so: logs of the weights are summed in float64.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from adarena.agents.fields import is_count

NEEDS_VALUES = ("fqe", "dr", "wdr")
"""Estimators that take the values ``Q`` and ``V`` of the target policy."""

ESTIMATORS = ("is", "wis", "pdis", "snpdis", *NEEDS_VALUES)
"""Every estimator here."""


class Estimate(NamedTuple):
    """What an estimator says of a target policy.

    Attributes:
        value: Estimated expected undiscounted return.
        low: Lower end of the interval.
        high: Upper end.
        ess: Effective number of episodes, ``(sum w)^2 / sum w^2`` of the weights of whole episodes (Kong, 1992); NaN for
            ``fqe``, which weighs nothing.
    """

    value: float
    low: float
    high: float
    ess: float


@dataclasses.dataclass(frozen=True)
class Intervals:
    """How intervals are made: percentiles over resamples of whole episodes. ``Q`` and ``V`` are kept as they are, so that
    what their fit adds to the error is not in the interval.

    Attributes:
        resamples: Number of resamples.
        level: Probability that the interval is meant to hold the truth with.
        seed: Of NumPy's generator. The same seed resamples the same episodes for every estimator and policy.
    """

    resamples: int = 500
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises:
        ValueError: A field's value is not allowed.
        """
        if not is_count(self.resamples):
            raise ValueError(f"resamples must be a whole number of at least 1, got {self.resamples!r}")
        if not 0.0 < self.level < 1.0:
            raise ValueError(f"level must lie strictly between 0 and 1, got {self.level!r}")


def log_weights(target: np.ndarray, behaviour: np.ndarray, *, clip: float | None = None) -> np.ndarray:
    """Logs of the weights ``w_t``, ``[E, T]`` float64.

    Args:
        target: ``[E, T]`` log densities (nats) of the logged actions under the target policy; minus infinity where it
            cannot choose the action.
        behaviour: ``[E, T]`` the same under the policy that chose them; finite.
        clip: Largest weight ``w_t``; larger ones are cut to it, which biases all estimators. None cuts nothing.

    Raises:
        ValueError: Shapes differ, a density is not known, or ``clip`` is not above 0.
    """
    target, behaviour = np.asarray(target, np.float64), np.asarray(behaviour, np.float64)
    if target.ndim != 2 or target.shape != behaviour.shape or not target.size:
        raise ValueError(f"target and behaviour must be [E, T], not empty, got {target.shape} and {behaviour.shape}")
    if not np.isfinite(behaviour).all():
        raise ValueError("behaviour must hold finite log densities, got NaN or infinity: propensities are not known")
    if np.isnan(target).any() or (target == np.inf).any():
        raise ValueError("target must hold log densities below infinity, got NaN or infinity")
    if clip is not None and not clip > 0.0:
        raise ValueError(f"clip must be None or a number above 0, got {clip!r}")
    total = np.cumsum(target - behaviour, axis=1)
    return total if clip is None else np.minimum(total, np.log(clip))


def effective_size(log_weight: np.ndarray) -> float:
    """``(sum w)^2 / sum w^2`` of logs of weights ``[E]``; 0 if all weights are 0."""
    weight = _scaled(np.asarray(log_weight, np.float64)[:, None])[0][:, 0]
    return float(weight.sum() ** 2 / np.square(weight).sum()) if weight.any() else 0.0


def estimate(
    name: str,
    log_weight: np.ndarray,
    rewards: np.ndarray,
    q: np.ndarray | None = None,
    v: np.ndarray | None = None,
    *,
    intervals: Intervals | None = None,
) -> Estimate:
    """Estimates the expected return of the target policy.

    Args:
        name: One of `ESTIMATORS`.
        log_weight: ``[E, T]`` of `log_weights`.
        rewards: ``[E, T]``.
        q: ``[E, T]`` the target's value of the logged action ``Q(s_t, a_t)``: rewards from that step's on. For
            `NEEDS_VALUES` only.
        v: ``[E, T]`` the target's value ``V(s_t)`` of what was seen before it. For `NEEDS_VALUES` only.
        intervals: How intervals are made; the defaults of `Intervals` if None.

    Raises:
        ValueError: No such estimator, shapes differ, numbers are not finite, or values are missing.
    """
    parts = _parts(name, log_weight, rewards, q, v)
    options = intervals or Intervals()
    count = len(rewards)
    value = float(_combine(name, parts, np.ones((1, count)))[0])
    draws = np.random.default_rng(options.seed).multinomial(count, np.full(count, 1.0 / count), options.resamples)
    drawn = _combine(name, parts, draws.astype(np.float64))
    tail = 0.5 * (1.0 - options.level)
    # A resample without any weight says nothing: self-normalised estimates are 0 / 0 there.
    ends = np.nanquantile(drawn, [tail, 1.0 - tail]) if np.isfinite(drawn).any() else np.full(2, np.nan)
    ess = np.nan if name == "fqe" else effective_size(log_weight[:, -1])
    return Estimate(value, float(ends[0]), float(ends[1]), float(ess))


class _Parts(NamedTuple):
    """Columns that an estimator sums over episodes: ``sum_c scale_c mean(top_c) / mean(bottom_c)``.

    Attributes:
        top: ``[E, C]``.
        bottom: ``[E, C]`` weights of self-normalised columns; None for plain means.
        scale: ``[C]`` largest weights, taken out so that none overflows; 1 where ``bottom`` takes them out again.
    """

    top: np.ndarray
    bottom: np.ndarray | None
    scale: np.ndarray


def _scaled(log_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights over the largest of their column, and the log of that, ``[C]`` (0 for a column of no weight)."""
    largest = log_weight.max(0)
    largest = np.where(np.isfinite(largest), largest, 0.0)
    return np.exp(log_weight - largest), largest


def _parts(
    name: str, log_weight: np.ndarray, rewards: np.ndarray, q: np.ndarray | None, v: np.ndarray | None
) -> _Parts:
    """What an estimator sums, checked."""
    if name not in ESTIMATORS:
        raise ValueError(f"name must be one of {', '.join(ESTIMATORS)}, got {name!r}")
    rewards = np.asarray(rewards, np.float64)
    if rewards.ndim != 2 or rewards.shape != np.shape(log_weight):
        raise ValueError(f"log_weight and rewards must be [E, T], got {np.shape(log_weight)} and {rewards.shape}")
    given: dict[str, np.ndarray] = {"rewards": rewards}
    if name in NEEDS_VALUES:
        if q is None or v is None:
            raise ValueError(f"q and v must be given for {name}, got None")
        given |= {"q": np.asarray(q, np.float64), "v": np.asarray(v, np.float64)}
    for field, array in given.items():
        if array.shape != rewards.shape or not np.isfinite(array).all():
            raise ValueError(f"{field} must be finite numbers of shape {rewards.shape}, got shape {array.shape}")
    if name == "fqe":
        return _Parts(given["v"][:, :1], None, np.ones(1))
    # Columns: a reward each, or one for the whole episode; in doubly robust forms the values besides.
    if name in ("is", "wis"):
        logs, gains = log_weight[:, -1:], rewards.sum(1, keepdims=True)
    elif name in ("pdis", "snpdis"):
        logs, gains = log_weight, rewards
    else:
        before = np.concatenate([np.zeros((len(rewards), 1)), log_weight[:, :-1]], 1)
        logs = np.concatenate([log_weight, before], 1)
        gains = np.concatenate([rewards - given["q"], given["v"]], 1)
    weight, largest = _scaled(logs)
    normalised = name in ("wis", "snpdis", "wdr")
    with np.errstate(over="ignore"):  # infinity is what such weights come to, and is shown
        scale = np.ones(len(largest)) if normalised else np.exp(largest)
    return _Parts(weight * gains, weight if normalised else None, scale)


def _combine(name: str, parts: _Parts, counts: np.ndarray) -> np.ndarray:
    """The estimate of each resample, ``[B]``; ``counts`` ``[B, E]`` says how often it holds each episode."""
    top = counts @ parts.top
    if parts.bottom is None:
        return (top / counts.sum(1, keepdims=True)) @ parts.scale
    with np.errstate(invalid="ignore", divide="ignore"):
        return (top / (counts @ parts.bottom)).sum(1)
