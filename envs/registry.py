"""One call makes an environment known to JAX, Gymnasium, Gymnasium's vector API, the command line and every trainer."""

from __future__ import annotations

import dataclasses
import importlib
import logging
from typing import Any

import gymnasium

from adarena.envs.core import Env
from adarena.envs.plugins import Plugins

_REGISTRY: dict[str, tuple[type[Env], dict[str, Any]]] = {}


def register(env_id: str, env_class: type[Env], **defaults: Any) -> None:
    """Makes ``env_class`` known as ``env_id``, in JAX (`make`) and in Gymnasium (``gym.make``, ``gym.make_vec``).

    Args:
        env_id: Name with a version, ``"mine/Env-v0"``.
        env_class: A frozen dataclass that extends `adarena.envs.core.Env`.
        **defaults: Values of fields of the environment or of its parameters that this name stands for (a preset).

    Raises:
        TypeError: ``env_class`` is not a frozen dataclass that extends ``Env``.
        ValueError: ``env_id`` has no version suffix, or names another class already.
    """
    _check(env_id, env_class)
    known = _REGISTRY.get(env_id)
    if known is not None and known[0].__qualname__ != env_class.__qualname__:
        raise ValueError(f"env_id {env_id!r} is taken by {known[0].__qualname__}; choose another name or version")
    package = PLUGINS.package(env_id)
    if package is not None and PLUGINS.attribute(env_id) != env_class.__qualname__:
        raise ValueError(f"env_id {env_id!r} is taken by {package}; choose another name or version")
    _REGISTRY[env_id] = (env_class, defaults)
    _tell_gymnasium(env_id)


def _check(env_id: str, env_class: Any) -> None:
    """Refuses what is no environment, or has no proper name."""
    frozen = isinstance(env_class, type) and issubclass(env_class, Env) and dataclasses.is_dataclass(env_class)
    if not frozen or not env_class.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(f"env_class must be a frozen dataclass that extends adarena.envs.core.Env, got {env_class!r}")
    if not _is_versioned(env_id):
        raise ValueError(f"env_id must look like 'namespace/Name-v0', got {env_id!r}")


def _is_versioned(env_id: str) -> bool:
    name, _, version = env_id.rpartition("-v")
    return bool(name) and version.isdigit()


def _tell_gymnasium(env_id: str) -> None:
    """Gymnasium builds whatever `make` knows by that name then."""
    gymnasium.registry.pop(env_id, None)  # registering a class again is silent here: a module may be run twice
    gymnasium.register(
        id=env_id,
        entry_point="adarena.envs.adapters.gymnasium:GymnasiumEnv",
        vector_entry_point="adarena.envs.adapters.vector:JaxVectorEnv",
        kwargs={"env_id": env_id},
        order_enforce=True,
    )


PLUGINS = Plugins("adarena.environments", _check)
"""Environments that installed packages bring: the name of an entry point is the environment's, its object the class."""

_own: frozenset[str] = frozenset()


def add_plugins() -> None:
    """Tells Gymnasium the names of environments that installed packages bring; called once adarena's own are registered.

    Their modules are imported by `make`. A name of adarena's own, or one that two packages offer, is refused by a warning
    in the log.
    """
    global _own
    _own = frozenset(_REGISTRY)
    for name in PLUGINS.found():
        refusal = PLUGINS.refusal(name, _own)
        if refusal is not None:
            logging.getLogger(__name__).warning(refusal)
        elif _is_versioned(name):
            _tell_gymnasium(name)


def registered() -> dict[str, type[Env]]:
    """Every known name and its class; those of installed packages that can be used included (see `problems`)."""
    for name in PLUGINS.load_all(_own)[0]:
        _load(name)
    return {env_id: env_class for env_id, (env_class, _) in sorted(_REGISTRY.items())}


def problems() -> list[str]:
    """One sentence for each environment of an installed package that cannot be used."""
    return PLUGINS.load_all(_own)[1]


def package_of(env_id: str) -> str:
    """Which package brings a registered environment, ``"keyword-auction 0.1.0"``; else the module that registered it."""
    brought = None if env_id in _own else PLUGINS.package(env_id)
    return brought or _REGISTRY[env_id][0].__module__.partition(".")[0]


def _load(name: str) -> None:
    """Registers what a package brings as ``name``, unless its module has done so itself when it was imported."""
    env_class = PLUGINS.load(name)
    if name not in _REGISTRY:
        register(name, env_class)


def make(env_id: str, **changes: Any) -> tuple[Env, Any]:
    """Builds an environment and its parameters.

    Args:
        env_id: A registered name, or ``"module:name"``, which imports ``module`` first (so that it can register).
        **changes: Any field of the environment (static: sizes, mechanism) or of its parameters (numeric).

    Returns:
        ``(env, params)``.

    Raises:
        KeyError: No such name.
        PluginError: An installed package brings it, and it cannot be used.
        TypeError: A change names no field of either.
        ValueError: A field's value is not allowed; the message names field, value and what is allowed.
    """
    module, colon, name = env_id.partition(":")
    if colon:
        importlib.import_module(module)
    else:
        name = env_id
    if name not in _REGISTRY and name in PLUGINS.found():
        _load(name)
    if name not in _REGISTRY:
        known = sorted({*_REGISTRY, *PLUGINS.names(_own)})
        raise KeyError(f"no environment is called {name!r}; known are {', '.join(known)}")
    env_class, defaults = _REGISTRY[name]
    changes = {**defaults, **changes}
    static_names = {field.name for field in dataclasses.fields(env_class)}  # type: ignore[arg-type]
    env = env_class(**{key: value for key, value in changes.items() if key in static_names})
    params = env.default_params()
    numeric = {key: value for key, value in changes.items() if key not in static_names}
    nested = getattr(env, "NESTED", {})
    allowed = {field.name for field in dataclasses.fields(params)} | set(nested)
    unknown = sorted(set(numeric) - allowed)
    if unknown:
        raise TypeError(
            f"{name} has no field {unknown[0]!r}; static fields: {', '.join(sorted(static_names))}; "
            f"numeric fields: {', '.join(sorted(allowed))}"
        )
    validate = getattr(env, "validate_changes", None)
    if validate is not None:
        numeric = validate(numeric)
    own = {key: value for key, value in numeric.items() if key not in nested}
    params = dataclasses.replace(params, **own) if own else params
    for key in set(numeric) - set(own):
        inner = dataclasses.replace(getattr(params, nested[key]), **{key: numeric[key]})
        params = dataclasses.replace(params, **{nested[key]: inner})
    return env, params
