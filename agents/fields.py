"""Rules for the fields of learners' configurations: what a static field may be, and what a number may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

import jax
import numpy as np


class Validated(Protocol):
    """A configuration that can check itself."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def validate(self) -> None: ...  # noqa: D102


C = TypeVar("C", bound=Validated)

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value is allowed, and what is allowed in words."""


def check_fields(config: Any, static: Mapping[str, Rule], numeric: Mapping[str, Rule]) -> None:
    """Checks every field; numbers that are being traced are left alone, arrays are checked entry by entry.

    Args:
        config: Anything with these attributes.
        static: Name of a field to the rule for its value.
        numeric: Name of a field to the rule for each of its numbers.

    Raises:
        ValueError: A field's value is not allowed; the message names field, value and what is allowed.
    """
    for name, (accepts, allowed) in static.items():
        value = getattr(config, name)
        if not accepts(value):
            raise ValueError(f"{name} must be {allowed}, got {value!r}")
    for name, (accepts, allowed) in numeric.items():
        value = getattr(config, name)
        if not isinstance(value, jax.core.Tracer) and not _all_numbers(value, accepts):
            raise ValueError(f"{name} must be {allowed}, got {value!r}")


def checked_config(kind: type[C], owner: str, changes: Mapping[str, Any]) -> C:
    """A configuration with some fields changed from their defaults, checked by its own ``validate``.

    Args:
        kind: Its class, a dataclass.
        owner: Whose it is, for the message.
        changes: Fields and values.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise TypeError(f"{owner}'s config has no field {unknown[0]!r}; fields: {', '.join(known)}")
    config = kind(**changes)
    config.validate()
    return config


def _all_numbers(value: Any, accepts: Callable[[float], bool]) -> bool:
    """Whether ``value`` is a real number, or a non-empty vector of them, and each is accepted."""
    if isinstance(value, (bool, str)) or value is None:
        return False
    array = np.asarray(value)
    numeric = array.dtype.kind in "fiu" or array.dtype == jax.numpy.bfloat16
    return numeric and array.ndim <= 1 and array.size > 0 and all(accepts(float(x)) for x in array.reshape(-1))


def is_count(value: Any) -> bool:
    """Whether ``value`` is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _widths(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(is_count(width) for width in value)


def _unit_range(value: Any) -> bool:
    numbers = isinstance(value, tuple) and len(value) > 0 and not any(isinstance(x, (bool, str)) for x in value)
    return value is None or (numbers and _all_numbers(np.asarray(value), lambda x: -1.0 <= x <= 1.0))


def one_of(names: tuple[str, ...]) -> Rule:
    """The rule of a field that is one of ``names``."""
    return lambda value: isinstance(value, str) and value in names, f"one of {', '.join(names)}"


COUNT: Rule = (is_count, "a whole number of at least 1")
FLAG: Rule = (lambda value: isinstance(value, bool), "True or False")
WIDTHS: Rule = (_widths, "a non-empty tuple of whole numbers of at least 1")
ACTION: Rule = (_unit_range, "None or a non-empty tuple of numbers in [-1, 1]")
SHARE: Rule = (lambda x: 0.0 <= x <= 1.0, "a number in [0, 1]")
OPEN_SHARE: Rule = (lambda x: 0.0 < x < 1.0, "a number strictly between 0 and 1")
POSITIVE_SHARE: Rule = (lambda x: 0.0 < x <= 1.0, "a number above 0, at most 1")
POSITIVE: Rule = (lambda x: 0.0 < x < float("inf"), "a finite number above 0")
POSITIVE_OR_INFINITE: Rule = (lambda x: x > 0.0, "a number above 0 (infinity switches it off)")
NOT_NEGATIVE: Rule = (lambda x: 0.0 <= x < float("inf"), "a finite number of at least 0")
