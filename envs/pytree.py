"""Frozen dataclasses that are JAX pytrees, for the states and numbers of environments.

`flax.struct.dataclass` does the same, but importing it loads all of flax, a fifth of what ``import adarena.envs`` took;
environments need no networks. Policies, whose package imports flax in any case, use flax's.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

_Class = TypeVar("_Class", bound=type[Any])


@dataclass_transform(frozen_default=True)
def dataclass(cls: _Class) -> _Class:
    """Make of a class a frozen dataclass whose fields are all children of a pytree.

    Args:
        cls: A class with annotated fields, as for `dataclasses.dataclass`. Changed copies come from `dataclasses.replace` or,
            as users of gymnax and flax write it, from ``instance.replace(field=value)``.

    Returns:
        The same class.
    """
    dataclasses.dataclass(frozen=True)(cls)
    cls.replace = dataclasses.replace  # type: ignore[attr-defined]
    return jax.tree_util.register_dataclass(cls, [field.name for field in dataclasses.fields(cls)], [])
