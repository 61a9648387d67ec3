"""Behaviour policies: they choose like any policy, and say with which density.

Logged data serve importance sampling only where the density of every action is known, in the space of the actions that
the environment was given. So every policy here draws from a distribution without point masses: a draw clipped to the
action's range would have them at the ends (probability there is not density), hence normals are truncated instead.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adarena.agents.distributions import Distribution, TanhGaussian
from adarena.agents.policy import Policy
from adarena.agents.ppo_policy import PPOPolicy
from adarena.agents.rules.simple import Random

_LOG_SQRT_TWO_PI = 0.5 * float(np.log(2.0 * np.pi))
_SQRT_HALF = float(np.sqrt(0.5))
# How near to an end of the range `Stretched.log_prob` looks: there float32 cannot tell actions apart.
_MARGIN = 1e-6


class Density(Protocol):
    """A density over actions ``[A]`` in the environment's units (with respect to Lebesgue measure)."""

    def sample(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """An action ``[A]`` float32 and its log-density (nats), scalar float32."""
        ...

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-density (nats) of an action ``[A]`` inside the range, scalar."""
        ...


class Behaviour(Protocol):
    """A policy that says how it will choose before it does. Pure and vmappable; a pytree."""

    def init(self, params: Any) -> Any:
        """The carry at the start of an episode."""
        ...

    def decide(self, carry: Any, obs: jax.Array) -> tuple[Any, Density]:
        """The next carry, and the density from which the action for ``obs`` (``[O]``) is drawn."""
        ...


@struct.dataclass
class TruncatedNormal:
    """Independent normals, each conditioned on lying in ``[low, high]``.

    Attributes:
        mean: ``[A]`` float32, mean before truncation; within ``[low, high]`` (so that the mass inside never vanishes).
        std: Standard deviation before truncation, ``[A]`` or broadcastable to it, above 0.
        low: ``[A]`` lower bounds.
        high: ``[A]`` upper bounds.
    """

    mean: jax.Array
    std: jax.Array
    low: jax.Array
    high: jax.Array

    def sample(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """An action and its log-density."""
        below, above = (self.low - self.mean) / self.std, (self.high - self.mean) / self.std
        scaled = jax.random.truncated_normal(key, below, above, self.mean.shape)
        action = jnp.clip(self.mean + self.std * scaled, self.low, self.high).astype(jnp.float32)
        return action, self.log_prob(action)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-density of an action."""
        below, above = (self.low - self.mean) / self.std, (self.high - self.mean) / self.std
        # Sum of two numbers that are not negative, since the mean lies inside: nothing cancels.
        mass = 0.5 * (jax.scipy.special.erf(above * _SQRT_HALF) - jax.scipy.special.erf(below * _SQRT_HALF))
        scaled = (action - self.mean) / self.std
        return (-0.5 * jnp.square(scaled) - _LOG_SQRT_TWO_PI - jnp.log(self.std) - jnp.log(mass)).sum(-1)


@struct.dataclass
class Stretched:
    """A distribution over ``[-1, 1]`` without point masses (`TanhGaussian`, `Beta`), stretched to ``[low, high]``.

    Attributes:
        inner: The distribution.
        low: ``[A]`` what -1 means.
        high: ``[A]`` what 1 means.
        unit: Whether its raw draws lie in [0, 1] and their density is with respect to those (`Beta`); else the raw draw is
            squashed by tanh and the density is with respect to the squashed one. Static.
    """

    inner: Distribution
    low: jax.Array
    high: jax.Array
    unit: bool = struct.field(pytree_node=False)

    def sample(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """An action and its log-density, the latter from the raw draw: exact also where squashing rounds to an end."""
        raw = self.inner.sample(key)
        action = self.low + 0.5 * (self.inner.to_action(raw) + 1.0) * (self.high - self.low)
        return action.astype(jnp.float32), self._of_raw(raw)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-density of an action; one nearer to an end than a millionth of the range counts as so far from it."""
        share = jnp.clip((action - self.low) / (self.high - self.low), _MARGIN, 1.0 - _MARGIN)
        return self._of_raw(share if self.unit else jnp.arctanh(2.0 * share - 1.0))

    def _of_raw(self, raw: jax.Array) -> jax.Array:
        width = self.high - self.low
        return self.inner.log_prob(raw) - jnp.log(width if self.unit else 0.5 * width).sum(-1)


@struct.dataclass
class Box:
    """Uniform over ``[low, high]``, both ``[A]`` float32."""

    low: jax.Array
    high: jax.Array

    def sample(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """An action and its log-density."""
        action = jax.random.uniform(key, self.low.shape, jnp.float32, self.low, self.high)
        return action, self.log_prob(action)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Minus the log of the volume."""
        return -jnp.log(self.high - self.low).sum(-1)


@struct.dataclass
class Uniform:
    """Draws every action uniformly from the action space.

    Attributes:
        low: ``[A]`` float32.
        high: ``[A]`` float32.
    """

    low: jax.Array
    high: jax.Array

    def init(self, params: Any) -> tuple[()]:
        """No carry."""
        return ()

    def decide(self, carry: tuple[()], obs: jax.Array) -> tuple[tuple[()], Density]:
        """The same density always."""
        return carry, Box(self.low, self.high)


@struct.dataclass
class Noisy:
    """A policy without chance of its own, and normal noise around its action, truncated to the action space.

    What the policy remembers is what it meant to do; the noise shows in the observations alone.

    Attributes:
        policy: The policy, for example a tuned rule.
        std: Standard deviation of the noise before truncation, in units of the action; scalar float32.
        low: ``[A]`` float32.
        high: ``[A]`` float32.
    """

    policy: Any
    std: jax.Array
    low: jax.Array
    high: jax.Array

    def init(self, params: Any) -> Any:
        """The policy's carry."""
        return self.policy.init(params)

    def decide(self, carry: Any, obs: jax.Array) -> tuple[Any, Density]:
        """A truncated normal around the policy's action."""
        carry, action = self.policy.act(jax.random.key(0), carry, obs)  # not used: the policy has no chance of its own
        return carry, TruncatedNormal(jnp.clip(action, self.low, self.high), self.std, self.low, self.high)


@struct.dataclass
class PPOBehaviour:
    """PPO's stochastic policy.

    ``"tanh_gaussian"`` and ``"beta"`` are drawn as in training. ``"gaussian"`` is clipped in training, which heaps
    probability on the ends; here the same normal, its mean clipped to the range, is truncated. The two differ only where the
    noise reaches an end.

    Attributes:
        policy: The actor, of `adarena.agents.ppo.make_policy`.
    """

    policy: PPOPolicy

    def init(self, params: Any) -> tuple[()]:
        """No carry."""
        return ()

    def decide(self, carry: tuple[()], obs: jax.Array) -> tuple[tuple[()], Density]:
        """The density at an observation."""
        policy, inner = self.policy, self.policy.distribution_at(obs)
        low, high = policy.action_low, policy.action_high
        if policy.distribution != "gaussian":
            return carry, Stretched(inner, low, high, policy.distribution == "beta")
        half = 0.5 * (high - low)
        centre = low + half * (jnp.clip(inner.mean, -1.0, 1.0) + 1.0)  # type: ignore[attr-defined]
        return carry, TruncatedNormal(centre, half * jnp.exp(inner.log_std), low, high)  # type: ignore[attr-defined]


@struct.dataclass
class Varied:
    """A policy near another one: its noise moved by some of its own deviations, and wider or narrower.

    Target policies of off-policy evaluation are made so. For a truncated normal the numbers are of the normal before
    truncation (its mean stays in the range), for a squashed one of the normal before squashing. A uniform density has
    nothing to vary and stays as it is.

    Attributes:
        policy: The other one; its densities are `TruncatedNormal`, `Stretched` around a `TanhGaussian`, or `Box`.
        shift: By how many of its standard deviations the mean moves, scalar float32.
        scale: What the standard deviation is multiplied by, scalar float32 above 0.
    """

    policy: Behaviour
    shift: jax.Array
    scale: jax.Array

    def init(self, params: Any) -> Any:
        """The policy's carry."""
        return self.policy.init(params)

    def decide(self, carry: Any, obs: jax.Array) -> tuple[Any, Density]:
        """The density, varied.

        Raises:
            TypeError: It is of another kind.
        """
        carry, density = self.policy.decide(carry, obs)
        if isinstance(density, TruncatedNormal):
            mean = jnp.clip(density.mean + self.shift * density.std, density.low, density.high)
            return carry, TruncatedNormal(mean, self.scale * density.std, density.low, density.high)
        if isinstance(density, Stretched) and isinstance(density.inner, TanhGaussian):
            mean = density.inner.mean + self.shift * jnp.exp(density.inner.log_std)
            inner = TanhGaussian(mean, density.inner.log_std + jnp.log(self.scale))
            return carry, Stretched(inner, density.low, density.high, density.unit)
        if isinstance(density, Box):
            return carry, density
        raise TypeError(f"only normals, truncated or squashed, can be varied, got {type(density).__name__}")


@struct.dataclass
class Mixture:
    """Several behaviour policies, one of which plays the episode.

    All of them decide every tick (beside a market they cost next to nothing), so that one compiled program serves any
    choice; the log-density is that of the one that plays.

    Attributes:
        members: The policies.
        choice: Int32 scalar, number of the one that plays.
    """

    members: tuple[Behaviour, ...]
    choice: jax.Array

    def init(self, params: Any) -> tuple[Any, ...]:
        """Carries of all members."""
        return tuple(member.init(params) for member in self.members)

    def draw(
        self, key: jax.Array, carry: tuple[Any, ...], obs: jax.Array
    ) -> tuple[tuple[Any, ...], jax.Array, jax.Array]:
        """All carries, the action ``[A]`` of the one that plays, and its log-density, scalar."""
        decided = [member.decide(memory, obs) for member, memory in zip(self.members, carry, strict=True)]
        drawn = [density.sample(key) for _, density in decided]
        actions, log_probs = (jnp.stack([pair[i] for pair in drawn]) for i in (0, 1))
        return tuple(memory for memory, _ in decided), actions[self.choice], log_probs[self.choice]


def noisy(policy: Policy, std: float, low: jax.Array, high: jax.Array) -> Noisy:
    """A policy with truncated normal noise.

    Raises:
        ValueError: ``std`` is not above 0, or the policy draws its actions at random (their density would be another).
    """
    if not (np.isfinite(std) and std > 0.0):
        raise ValueError(f"std must be a finite number above 0, got {std!r}")
    if isinstance(policy, Random) or getattr(policy, "stochastic", False):
        raise ValueError(f"policy must have no chance of its own, got {type(policy).__name__}")
    return Noisy(policy, jnp.float32(std), low, high)


def ppo_behaviour(policy: PPOPolicy) -> PPOBehaviour:
    """The behaviour policy of a trained actor.

    Raises:
        ValueError: Its actions have no density (choices), or are of a set with places that may be empty.
    """
    if policy.distribution == "categorical" or policy.kind != "mlp":
        raise ValueError(
            "policy must have a distribution gaussian, tanh_gaussian or beta and a network mlp, "
            f"got {policy.distribution!r} and {policy.kind!r}"
        )
    return PPOBehaviour(policy)
