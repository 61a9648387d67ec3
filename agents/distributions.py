"""Distributions of actions: Gaussian, tanh-Gaussian and Beta for a ``Box``, categorical for a ``Discrete`` space.

A distribution draws a *raw* action, of which it knows the log-probability; ``to_action`` maps the raw action to what
the policy does, in ``[-1, 1]`` for a ``Box``. Keeping the raw action avoids inverting a squashing function, which is
ill-conditioned at the ends. All are pytrees over arrays of any leading shape ``[...]`` with ``A`` action entries
last.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

Family = Literal["gaussian", "tanh_gaussian", "beta", "categorical"]
"""Name of a distribution. ``categorical`` is for a ``Discrete`` action space, the others for a ``Box``."""

FAMILIES: tuple[str, ...] = get_args(Family)
"""Every name in `Family`."""

_LOG_SQRT_TWO_PI = 0.5 * float(np.log(2.0 * np.pi))
# Gauss-Hermite rule for expectations under a standard normal; 32 points give E[log(1 - tanh^2)] to 1e-4 for sd <= 2.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_NODES, _WEIGHTS = _NODES.astype(np.float32), (_WEIGHTS / _WEIGHTS.sum()).astype(np.float32)
# Beta samples stay off the ends, where the density is zero or infinite.
_BETA_MARGIN = 1e-6


class Distribution(Protocol):
    """What every distribution here can do."""

    def sample(self, key: jax.Array) -> jax.Array:
        """A raw action, ``[..., A]`` float32 (``[...]`` int32 for `Categorical`)."""
        ...

    def mode(self) -> jax.Array:
        """The raw action that a deterministic policy takes; shape as in ``sample``."""
        ...

    def log_prob(self, raw: jax.Array) -> jax.Array:
        """Log-density (nats) of a raw action, ``[...]`` float32, summed over the action's entries."""
        ...

    def entropy(self) -> jax.Array:
        """Entropy (nats), ``[...]`` float32, summed over the action's entries."""
        ...

    def to_action(self, raw: jax.Array) -> jax.Array:
        """What the policy does for a raw action: in ``[-1, 1]``, or the index of a choice."""
        ...


def _normal_log_prob(raw: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    scaled = (raw - mean) * jnp.exp(-log_std)
    return -0.5 * jnp.square(scaled) - log_std - _LOG_SQRT_TWO_PI


def _log_tanh_slope(raw: jax.Array) -> jax.Array:
    """``log(1 - tanh(raw)^2)`` in a form that does not cancel for large ``|raw|``."""
    return 2.0 * (float(np.log(2.0)) - raw - jax.nn.softplus(-2.0 * raw))


@struct.dataclass
class Gaussian:
    """Independent normals; the action is the draw clipped to ``[-1, 1]``, its probability that of the unclipped draw.

    Attributes:
        mean: ``[..., A]`` float32.
        log_std: Log standard deviation, broadcastable to ``mean``.
    """

    mean: jax.Array
    log_std: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """A raw action, ``[..., A]``."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

    def mode(self) -> jax.Array:
        """The mean."""
        return self.mean

    def log_prob(self, raw: jax.Array) -> jax.Array:
        """Log-density of the unclipped draw."""
        return _normal_log_prob(raw, self.mean, self.log_std).sum(-1)

    def entropy(self) -> jax.Array:
        """Entropy of the unclipped normal."""
        return jnp.broadcast_to(self.log_std + 0.5 + _LOG_SQRT_TWO_PI, self.mean.shape).sum(-1)

    def to_action(self, raw: jax.Array) -> jax.Array:
        """The draw clipped to ``[-1, 1]``."""
        return jnp.clip(raw, -1.0, 1.0)


@struct.dataclass
class TanhGaussian:
    """Independent normals squashed by ``tanh``; probabilities are those of the squashed action.

    Attributes:
        mean: Mean before squashing, ``[..., A]`` float32.
        log_std: Log standard deviation before squashing, broadcastable to ``mean``.
    """

    mean: jax.Array
    log_std: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """A raw action (before squashing), ``[..., A]``."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

    def mode(self) -> jax.Array:
        """The mean before squashing, whose image is the median of the action."""
        return self.mean

    def log_prob(self, raw: jax.Array) -> jax.Array:
        """Log-density of ``tanh(raw)``."""
        return (_normal_log_prob(raw, self.mean, self.log_std) - _log_tanh_slope(raw)).sum(-1)

    def entropy(self) -> jax.Array:
        """Entropy of the squashed action, by a 32-point Gauss-Hermite rule (it has no closed form)."""
        draws = self.mean[..., None] + jnp.exp(self.log_std)[..., None] * _NODES
        normal = self.log_std + 0.5 + _LOG_SQRT_TWO_PI
        return (normal + (_log_tanh_slope(draws) * _WEIGHTS).sum(-1)).sum(-1)

    def to_action(self, raw: jax.Array) -> jax.Array:
        """``tanh(raw)``."""
        return jnp.tanh(raw)


@struct.dataclass
class Beta:
    """Independent Betas on ``[0, 1]``, stretched to ``[-1, 1]``; probabilities are those of the draw in ``[0, 1]``.

    Both concentrations exceed one, so that the density has one interior mode (Chou et al., ICML 2017).

    Attributes:
        alpha: First concentration, ``[..., A]`` float32, above one.
        beta: Second concentration, ``[..., A]`` float32, above one.
    """

    alpha: jax.Array
    beta: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """A raw action in ``(0, 1)``, ``[..., A]``."""
        return jnp.clip(jax.random.beta(key, self.alpha, self.beta), _BETA_MARGIN, 1.0 - _BETA_MARGIN)

    def mode(self) -> jax.Array:
        """The mean, which (unlike the mode) exists for a uniform Beta too."""
        return self.alpha / (self.alpha + self.beta)

    def log_prob(self, raw: jax.Array) -> jax.Array:
        """Log-density of the draw in ``(0, 1)``."""
        log_density = (self.alpha - 1.0) * jnp.log(raw) + (self.beta - 1.0) * jnp.log1p(-raw)
        return (log_density - self._log_normaliser()).sum(-1)

    def entropy(self) -> jax.Array:
        """Entropy of the draw in ``(0, 1)``."""
        digamma = jax.scipy.special.digamma
        total = self.alpha + self.beta
        entropy = self._log_normaliser() + (total - 2.0) * digamma(total)
        entropy -= (self.alpha - 1.0) * digamma(self.alpha) + (self.beta - 1.0) * digamma(self.beta)
        return entropy.sum(-1)

    def to_action(self, raw: jax.Array) -> jax.Array:
        """The draw stretched to ``[-1, 1]``."""
        return 2.0 * raw - 1.0

    def _log_normaliser(self) -> jax.Array:
        gammaln = jax.scipy.special.gammaln
        return gammaln(self.alpha) + gammaln(self.beta) - gammaln(self.alpha + self.beta)


@struct.dataclass
class Categorical:
    """One of ``A`` choices.

    Attributes:
        logits: Unnormalised log-probabilities, ``[..., A]`` float32.
    """

    logits: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """The index of a choice, ``[...]`` int32."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def mode(self) -> jax.Array:
        """The likeliest choice."""
        return jnp.argmax(self.logits, -1).astype(jnp.int32)

    def log_prob(self, raw: jax.Array) -> jax.Array:
        """Log-probability of a choice."""
        chosen = jax.nn.one_hot(raw, self.logits.shape[-1])
        return (jax.nn.log_softmax(self.logits) * chosen).sum(-1)

    def entropy(self) -> jax.Array:
        """Entropy."""
        log_probabilities = jax.nn.log_softmax(self.logits)
        return -(jnp.exp(log_probabilities) * log_probabilities).sum(-1)

    def to_action(self, raw: jax.Array) -> jax.Array:
        """The index itself."""
        return raw


@struct.dataclass
class Masked:
    """Entries of an action of which some are not there: those have no probability, no entropy, and the action 0.

    Attributes:
        entries: The distribution, with one entry a batch row: leaves ``[..., A, 1]``.
        mask: Which entries are there, ``[..., A]`` bool.
    """

    entries: Distribution
    mask: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """A raw action, ``[..., A]``; where no entry is there, a number that nothing reads."""
        return self.entries.sample(key)[..., 0]

    def mode(self) -> jax.Array:
        """The raw action that a deterministic policy takes."""
        return self.entries.mode()[..., 0]

    def log_prob(self, raw: jax.Array) -> jax.Array:
        """Log-density of the entries that are there."""
        return jnp.where(self.mask, self.entries.log_prob(raw[..., None]), 0.0).sum(-1)

    def entropy(self) -> jax.Array:
        """Entropy of the entries that are there."""
        return jnp.where(self.mask, self.entries.entropy(), 0.0).sum(-1)

    def to_action(self, raw: jax.Array) -> jax.Array:
        """What the policy does, in ``[-1, 1]``; 0 where no entry is there."""
        return jnp.where(self.mask, self.entries.to_action(raw[..., None])[..., 0], 0.0)


def output_size(family: Family, actions: int) -> int:
    """How many numbers a network must give for ``actions`` action entries (or choices)."""
    return 2 * actions if family == "beta" else actions


def make_distribution(family: Family, outputs: jax.Array, log_std: jax.Array) -> Distribution:
    """Builds a distribution from a network's outputs.

    Args:
        family: Which one.
        outputs: ``[..., output_size(family, A)]`` float32.
        log_std: ``[A]`` float32, the log standard deviation, which does not depend on the observation; read by the two
            Gaussians only.

    Raises:
        ValueError: ``family`` is unknown.
    """
    if family == "gaussian":
        return Gaussian(outputs, log_std)
    if family == "tanh_gaussian":
        return TanhGaussian(outputs, log_std)
    if family == "beta":
        alpha, beta = jnp.split(1.0 + jax.nn.softplus(outputs), 2, -1)
        return Beta(alpha, beta)
    if family == "categorical":
        return Categorical(outputs)
    raise ValueError(f"distribution must be one of {', '.join(FAMILIES)}, got {family!r}")


def make_masked(family: Family, outputs: jax.Array, log_std: jax.Array, mask: jax.Array) -> Masked:
    """Builds a distribution over the actions of items, some of which are not there.

    Args:
        family: Which one; not ``"categorical"``.
        outputs: ``[..., L, K a]`` float32: for each of an item's ``a`` actions the ``K = output_size(family, 1)`` numbers.
        log_std: ``[a]`` float32, shared by all items; read by the two Gaussians only.
        mask: Which items are there, ``[..., L]`` bool.

    Returns:
        A distribution over ``A = L a`` entries, in the order of the items.
    """
    size = output_size(family, 1)
    items, actions = outputs.shape[-2], outputs.shape[-1] // size
    spread = jnp.tile(log_std, items)[:, None]
    entries = make_distribution(family, outputs.reshape(*outputs.shape[:-2], items * actions, size), spread)
    return Masked(entries, jnp.repeat(mask, actions, axis=-1))


_ENDS = (
    0.9  # share of the way to an end of the range at which squashed actions may start: at the end they could not move
)


def outputs_at(family: Family, action: np.ndarray) -> np.ndarray:
    """The numbers that a network must give for a distribution around an action.

    Args:
        family: Which one; not ``"categorical"``. The median of ``"tanh_gaussian"`` lies there, the mean of the
            others. ``"tanh_gaussian"`` and ``"beta"`` start at most nine tenths of the way to an end.
        action: ``[a]`` in [-1, 1].

    Returns:
        ``[a, output_size(family, 1)]`` float32; zeros for the action 0.
    """
    if family == "gaussian":
        return np.asarray(action, np.float32)[:, None]
    action = np.clip(np.asarray(action, np.float64), -_ENDS, _ENDS)
    if family == "tanh_gaussian":
        return np.arctanh(action).astype(np.float32)[:, None]
    # The smaller concentration is that of outputs 0, the larger one puts the mean where it is wanted.
    high = 0.5 * (1.0 + np.stack([action, -action], -1))
    concentrations = (1.0 + np.log(2.0)) * high / high.min(-1, keepdims=True)
    return np.log(np.expm1(concentrations - 1.0)).astype(np.float32)
