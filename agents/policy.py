"""What a policy is: rules, trained networks, SB3 models and peers' classes all look like this."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax

from adarena.envs.core import Env
from adarena.envs.plugins import Plugins


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


def _check(name: str, loaded: Any) -> None:
    if not callable(getattr(loaded, "build", loaded)):
        raise TypeError(f"a policy is a class with build(env), such as a rule, or a function of env, got {loaded!r}")


PLUGINS = Plugins("adarena.policies", _check)
"""Policies that installed packages bring: a class with ``build(env)`` (a rule, if it has ``space()`` too), or a function of
the environment. A name that adarena has itself means adarena's own policy."""


def register_policy(name: str, factory: PolicyFactory) -> None:
    """Makes a policy known to the experiments and the command line by ``name``.

    Raises:
        ValueError: The name is empty or taken by another factory.
    """
    if not name:
        raise ValueError("name must not be empty, got ''")
    if _POLICIES.get(name, factory) != factory:
        raise ValueError(f"policy name {name!r} is taken; choose another")
    _POLICIES[name] = factory


def make_policy(name: str, env: Env) -> Policy:
    """Builds the policy registered as ``name``, or brought by an installed package as ``name``, for ``env``.

    Raises:
        KeyError: No such policy.
        adarena.envs.plugins.PluginError: An installed package brings it, and it cannot be used.
    """
    _register_rules()
    if name in _POLICIES:
        return _POLICIES[name](env)
    if name not in PLUGINS.found():
        raise KeyError(f"no policy is called {name!r}; known are {', '.join(registered_policies()) or 'none'}")
    loaded = PLUGINS.load(name)
    return getattr(loaded, "build", loaded)(env)


def registered_policies() -> tuple[str, ...]:
    """Names of every known policy, those that installed packages bring included."""
    _register_rules()
    return tuple(sorted({*_POLICIES, *PLUGINS.names(_POLICIES)}))


def policies_of_packages() -> tuple[dict[str, str], list[str]]:
    """Name and package of every policy that an installed package brings; one sentence for each that cannot be used."""
    _register_rules()
    return PLUGINS.packages(_POLICIES)


def _register_rules() -> None:
    """Adarena's own rules come first, whoever asks for a policy."""
    importlib.import_module("adarena.agents.rules")
