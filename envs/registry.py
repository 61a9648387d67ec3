"""One call makes an environment known to JAX, Gymnasium, Gymnasium's vector API, the command line and every trainer."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import gymnasium

from adarena.envs.core import Env

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
    frozen = isinstance(env_class, type) and issubclass(env_class, Env) and dataclasses.is_dataclass(env_class)
    if not frozen or not env_class.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(f"env_class must be a frozen dataclass that extends adarena.envs.core.Env, got {env_class!r}")
    name, _, version = env_id.rpartition("-v")
    if not name or not version.isdigit():
        raise ValueError(f"env_id must look like 'namespace/Name-v0', got {env_id!r}")
    known = _REGISTRY.get(env_id)
    if known is not None and known[0].__qualname__ != env_class.__qualname__:
        raise ValueError(f"env_id {env_id!r} is taken by {known[0].__qualname__}; choose another name or version")
    _REGISTRY[env_id] = (env_class, defaults)
    gymnasium.registry.pop(env_id, None)  # registering a class again is silent here: a module may be run twice
    gymnasium.register(
        id=env_id,
        entry_point="adarena.envs.adapters.gymnasium:GymnasiumEnv",
        vector_entry_point="adarena.envs.adapters.vector:JaxVectorEnv",
        kwargs={"env_id": env_id},
        order_enforce=True,
    )


def registered() -> dict[str, type[Env]]:
    """Every known name and its class."""
    return {env_id: env_class for env_id, (env_class, _) in sorted(_REGISTRY.items())}


def make(env_id: str, **changes: Any) -> tuple[Env, Any]:
    """Builds an environment and its parameters.

    Args:
        env_id: A registered name, or ``"module:name"``, which imports ``module`` first (so that it can register).
        **changes: Any field of the environment (static: sizes, mechanism) or of its parameters (numeric).

    Returns:
        ``(env, params)``.

    Raises:
        KeyError: No such name.
        TypeError: A change names no field of either.
        ValueError: A field's value is not allowed; the message names field, value and what is allowed.
    """
    module, colon, name = env_id.partition(":")
    if colon:
        importlib.import_module(module)
    else:
        name = env_id
    if name not in _REGISTRY:
        raise KeyError(f"no environment is called {name!r}; known are {', '.join(registered()) or 'none'}")
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
