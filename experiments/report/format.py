"""Tables as text: intervals beside their estimates, digits that the interval can bear, words for codes.

The page and the LaTeX export share it, so that they say the same.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import polars as pl

from adarena.paper_figs import style

UNKNOWN = "–"
_FIRST = ("mechanism", "policy", "kind", "seeds")


class Column(NamedTuple):
    """One column of a table for readers.

    Attributes:
        name: Its heading, words apart.
        cells: Text of each row.
        numeric: Whether the cells are numbers, to be set flush right.
    """

    name: str
    cells: list[str]
    numeric: bool


def columns_of(table: pl.DataFrame) -> list[Column]:
    """The columns of a table for readers: words first, then numbers, ``X_low`` and ``X_high`` folded into ``X``.

    Args:
        table: Any table.
    """
    bounds = {name: ends for name in table.columns if (ends := _ends(name, table.columns))}
    folded = {end for ends in bounds.values() for end in ends}
    kept = [name for name in table.columns if name not in folded]
    words = [name for name in kept if not table.schema[name].is_numeric() or name in _FIRST]
    words.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    return [_column(table, name, bounds.get(name)) for name in [*words, *(n for n in kept if n not in words)]]


def number(x: float | int | None) -> str:
    """A number to four digits; `UNKNOWN` for none."""
    if x is None or (isinstance(x, float) and math.isnan(x)):
        return UNKNOWN
    if isinstance(x, float) and math.isinf(x):
        return "∞" if x > 0 else "-∞"
    if isinstance(x, int):
        return str(x)
    if abs(x) >= 1000.0:
        return f"{x:,.0f}"
    return f"{x + 0.0:.4g}" if x else "0"


def interval(estimate: float | None, low: float | None, high: float | None) -> str:
    """``estimate [low, high]`` with as many decimals as leave two digits of the interval's width; see `number` without one."""
    if estimate is None or low is None or high is None or not all(map(math.isfinite, (estimate, low, high))):
        return number(estimate)
    width = high - low
    if width <= 0.0:
        return f"{number(estimate)} [{number(low)}, {number(high)}]"
    decimals = min(max(1 - math.floor(math.log10(width)), 0), 8)
    ends = [f"{x:,.{decimals}f}" for x in (estimate, low, high)]
    return "{} [{}, {}]".format(*(end.removeprefix("-") if float(end.replace(",", "")) == 0.0 else end for end in ends))


def percent(estimate: float | None, low: float | None = None, high: float | None = None) -> str:
    """A share in per cent, with its interval where there is one."""
    times = [None if x is None else 100.0 * x for x in (estimate, low, high)]
    if times[0] is None or not math.isfinite(times[0]):
        return UNKNOWN
    shown = [f"{x:.0f}" if x is not None and math.isfinite(x) else None for x in times]
    shown = ["0" if x == "-0" else x for x in shown]
    return f"{shown[0]} %" if None in shown else f"{shown[0]} % [{shown[1]}, {shown[2]}]"


def heading(name: str) -> str:
    """A column's name in words."""
    return name.replace("_", " ")


def _ends(name: str, columns: list[str]) -> tuple[str, str] | None:
    """The columns with the ends of a column's interval."""
    pairs = [(f"{name}_low", f"{name}_high")] + ([("low", "high")] if name == "estimate" else [])
    return next((pair for pair in pairs if pair[0] in columns and pair[1] in columns), None)


def _column(table: pl.DataFrame, name: str, ends: tuple[str, str] | None) -> Column:
    values = table[name].to_list()
    if ends is not None:
        low, high = (table[end].to_list() for end in ends)
        return Column(heading(name), [interval(*x) for x in zip(values, low, high, strict=True)], True)
    numeric = table.schema[name].is_numeric()
    return Column(heading(name), [number(x) if numeric else _word(name, x) for x in values], numeric)


def _word(name: str, value: Any) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in ("policy", "better", "worse"):
        return style.look(value).name
    return style.mechanism_name(value) if name == "mechanism" else str(value)
