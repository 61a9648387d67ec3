"""Series that a rollout keeps: action, reward, entries of the observation and of ``info``, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from adarena.envs.core import Env


def pick(env: Env, name: str, obs: jax.Array, action: Any, reward: Any, info: Mapping[str, Any]) -> Any:
    """The value that ``record`` of `adarena.experiments.rollout.rollout` calls ``name``.

    Runs while JAX traces, so a wrong name stops before any episode.

    Raises:
        ValueError: Nothing is called so, or several things are.
    """
    entries = [entry.name for entry in env.OBSERVATION]
    found = [value for word, value in (("action", action), ("reward", reward)) if word == name]
    plain = name.partition(".")[2] if name.startswith(("obs.", "info.")) else name
    if plain in entries and not name.startswith("info."):
        found.append(obs[entries.index(plain)])
    if plain in info and not name.startswith("obs."):
        found.append(info[plain])
    if len(found) > 1:
        raise ValueError(f"record names {name!r}, which means several things; say 'obs.{name}' or 'info.{name}'")
    if not found:
        raise ValueError(
            f"record names {name!r}, which nothing is called; names are action, reward, "
            f"observation entries {', '.join(entries)} and info entries {', '.join(sorted(info))}"
        )
    return found[0]
