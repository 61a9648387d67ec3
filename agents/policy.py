"""What a policy is: rules, trained networks, SB3 models and peers' classes all look like this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax

from adarena.envs.core import Env


@runtime_checkable
class Policy(Protocol):
    """Chooses actions for one seat. Pure and vmappable unless ``jittable`` is false.

    Attributes:
        jittable: Whether ``act`` can run inside ``jax.jit`` and ``jax.lax.scan``. What cannot (a torch model, a peer's
            NumPy class) runs through the Gymnasium adapter on the same markets and lands in the same table.
    """

    @property
    def jittable(self) -> bool:
        """See the class; an attribute will do."""
        ...

    def init(self, params: Any) -> Any:
        """The carry at the start of an episode, a pytree, from the environment's parameters."""
        ...

    def act(self, key: jax.Array, carry: Any, obs: jax.Array) -> tuple[Any, jax.Array]:
        """The next carry and the action, ``[action]`` float32, for one observation ``[obs]`` float32."""
        ...


PolicyFactory = Callable[[Env], Policy]
"""Builds a policy for an environment (whose ``OBSERVATION`` it reads by name)."""

_POLICIES: dict[str, PolicyFactory] = {}


def register_policy(name: str, factory: PolicyFactory) -> None:
    """Makes a policy known to the experiments and the command line by ``name``.

    Raises:
        ValueError: The name is empty or taken by another factory.
    """
    if not name:
        raise ValueError("name must not be empty, got ''")
    if _POLICIES.get(name, factory) is not factory:
        raise ValueError(f"policy name {name!r} is taken; choose another")
    _POLICIES[name] = factory


def make_policy(name: str, env: Env) -> Policy:
    """Builds the policy registered as ``name`` for ``env``.

    Raises:
        KeyError: No such policy.
    """
    if name not in _POLICIES:
        raise KeyError(f"no policy is called {name!r}; known are {', '.join(sorted(_POLICIES)) or 'none'}")
    return _POLICIES[name](env)


def registered_policies() -> tuple[str, ...]:
    """Names of every known policy."""
    return tuple(sorted(_POLICIES))
