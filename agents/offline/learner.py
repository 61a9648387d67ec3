"""What a learner from logs is, and the pieces that all of them share: one gradient step, targets, the trained policy.

An algorithm is a module with four functions, as in `Algorithm`, a ``Config`` and a ``State``. ``Config`` is a frozen
pytree whose sizes are static and whose numbers are leaves (as in `adarena.agents.ppo_config`), so that one program
trains all seeds and sweeps numbers. ``State`` is a pytree with the fields of `Common`; all that a run needs to go on
is in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from adarena.agents.fields import COUNT, FLAG, POSITIVE, POSITIVE_SHARE, SHARE, WIDTHS, Rule, one_of
from adarena.agents.networks import ACTIVATIONS
from adarena.agents.normalise import Moments, normalise
from adarena.agents.offline.data import Data, Spec
from adarena.agents.policy import Policy


class Algorithm(Protocol):
    """A module that learns from logs. `adarena.agents.offline.loop.train` asks for no more than this."""

    __name__: str

    def init(self, config: Any, data: Any, key: jax.Array) -> Any:
        """The state of one seed before the first gradient step."""
        ...

    def update(self, config: Any, data: Any, state: Any) -> tuple[Any, Any]:
        """One gradient step of one seed: the state after it, and metrics, a dataclass of scalars, float32."""
        ...

    def make_policy(self, config: Any, spec: Spec, state: Any) -> Policy:
        """The trained policy; all its leaves are stacked over seeds where those of ``state`` are."""
        ...


@struct.dataclass
class Common:
    """What every state has besides its networks.

    Attributes:
        obs_moments: Moments of the data that normalise an observation.
        key: Typed key, scalar.
        steps: Gradient steps done, scalar int32.
    """

    obs_moments: Moments
    key: jax.Array
    steps: jax.Array


def init_common(data: Data, key: jax.Array) -> Common:
    """Before the first gradient step."""
    return Common(data.obs_moments, key, jnp.zeros((), jnp.int32))


def next_common(common: Common, key: jax.Array) -> Common:
    """After one more gradient step, with the next key."""
    return Common(common.obs_moments, key, common.steps + 1)


@struct.dataclass
class Trained:
    """Parameters and what Adam (Kingma and Ba, 2015) knows of their gradients.

    Attributes:
        params: Parameters of a network.
        adam: State of the optimiser.
    """

    params: Any
    adam: Any


def init_trained(module: nn.Module, key: jax.Array, *inputs: Any) -> Trained:
    """A network's first parameters, for inputs like these."""
    params = module.init(key, *inputs)["params"]
    return Trained(params, optax.scale_by_adam().init(params))


def descend(
    loss: Callable[[Any], tuple[jax.Array, Any]], trained: Trained, rate: jax.Array | float
) -> tuple[Trained, jax.Array, Any]:
    """One step of Adam.

    Args:
        loss: Of parameters, ``(loss, anything else)``.
        trained: Parameters before the step.
        rate: Step size, which may be traced.

    Returns:
        Parameters after the step, the loss before it, and what else ``loss`` gave.
    """
    (value, rest), gradient = jax.value_and_grad(loss, has_aux=True)(trained.params)
    direction, adam = optax.scale_by_adam().update(gradient, trained.adam)
    params = jax.tree.map(lambda p, d: p - rate * d, trained.params, direction)
    return Trained(params, adam), value, rest


def follow(target: Any, params: Any, share: jax.Array | float) -> Any:
    """Target parameters moved by ``share`` of the way to ``params`` (Polyak averaging)."""
    return jax.tree.map(lambda old, new: old + share * (new - old), target, params)


def applied(module: nn.Module, params: Any, *inputs: Any) -> Any:
    """What a network says of ``inputs``."""
    return module.apply({"params": params}, *inputs)


@struct.dataclass
class ActorPolicy:
    """A trained actor without memory as an `adarena.agents.policy.Policy`: its most likely action, or its mean.

    A pytree: ``jax.vmap`` over one made of stacked states. One compiled program evaluates all of one kind and size.

    Attributes:
        network: The actor's parameters.
        obs_moments: Moments that normalise an observation.
        low: What -1 means in the environment, ``[A]``.
        high: What 1 means in the environment, ``[A]``.
        actor: The network, which has a method ``mode`` from observations to actions in [-1, 1]. Static.
    """

    network: Any
    obs_moments: Moments
    low: jax.Array
    high: jax.Array
    actor: nn.Module = struct.field(pytree_node=False)

    jittable: ClassVar[bool] = True

    def init(self, params: Any) -> tuple[()]:
        """No carry: the policy has no memory."""
        return ()

    def act(self, key: jax.Array, carry: tuple[()], obs: jax.Array) -> tuple[tuple[()], jax.Array]:
        """The action ``[..., A]`` float32, inside the bounds, for observations ``[..., O]``."""
        seen = normalise(self.obs_moments, obs)
        unit: Any = self.actor.apply({"params": self.network}, seen, method="mode")
        return carry, from_unit(unit, self.low, self.high)


def from_unit(unit: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Actions ``[..., A]`` in [-1, 1], clipped to there, in the environment's bounds."""
    return jnp.clip(low + 0.5 * (jnp.clip(unit, -1.0, 1.0) + 1.0) * (high - low), low, high)


def bounds(spec: Spec, steps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Bounds of the actions, repeated for each seed where ``steps`` of a state is stacked over seeds."""
    shape = (*jnp.shape(steps), spec.actions)
    low, high = (jnp.broadcast_to(jnp.asarray(x, jnp.float32), shape) for x in (spec.low, spec.high))
    return low, high


def actor_policy(actor: nn.Module, network: Any, common: Common, spec: Spec) -> ActorPolicy:
    """The policy of an actor's parameters, which may be stacked over seeds."""
    low, high = bounds(spec, common.steps)
    return ActorPolicy(network, common.obs_moments, low, high, actor=actor)


STATIC_RULES: dict[str, Rule] = {
    "hidden": WIDTHS,
    "activation": one_of(tuple(ACTIVATIONS)),
    "batch": COUNT,
}
"""Rules of the static fields that every configuration has."""

CRITIC_STATIC_RULES: dict[str, Rule] = {**STATIC_RULES, "layer_norm": FLAG}
"""Rules of the static fields of configurations with critics."""

CRITIC_RULES: dict[str, Rule] = {
    "learning_rate": POSITIVE,
    "discount": SHARE,
    "target_rate": POSITIVE_SHARE,
}
"""Rules of the numbers that every configuration with critics has."""
