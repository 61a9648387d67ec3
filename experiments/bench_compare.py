"""``adarena bench --compare OLD NEW``: two results of ``adarena bench`` side by side."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.table import Table

from adarena.experiments import bench_tables as shown
from adarena.experiments.tables import console as console_of_width
from adarena.experiments.tables import number

ABOUT = "bench.json"
"""Configuration, versions and machine of a result, in its folder."""

KEYS: dict[str, tuple[str, ...]] = {
    "training": ("contender", "environments"),
    "offline": ("contender",),
    "auctionnet": ("contender",),
    "environment": ("api", "environments"),
    "throughput": ("axis", "size"),
    "roofline": ("contender", "part"),
    "startup": ("stage",),
    "sweep": ("contender", "cells"),
}
"""Part to the columns that name what was measured."""

MEASURES = ("steps_per_second", "wall_seconds", "rate", "ratio", "cpu_ratio")
"""Columns that are compared where a part has them; of the first two one only, see `_measures`."""

_SECONDS = ("startup", "sweep", "roofline")  # parts that are read in seconds


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Which results to compare.

    Attributes:
        compare: Two folders that ``adarena bench`` wrote, the older first.
    """

    compare: tuple[str, str]


def run_compare(config: CompareConfig) -> pl.DataFrame:
    """Prints what two results say side by side.

    Returns:
        As `comparison`.

    Raises:
        FileNotFoundError: One of them is not a folder with results of ``adarena bench``.
        ValueError: They have no part in common, or one of their files cannot be read.
    """
    old, new = (_Result.load(Path(folder)) for folder in config.compare)
    console = console_of_width()
    console.print(
        f"Comparing {config.compare[0]} (old) with {config.compare[1]} (new)", soft_wrap=True, highlight=False
    )
    frame = comparison(old.tables, new.tables)
    console.print(_facts(old.about, new.about))
    for (part,), rows in frame.group_by("part", maintain_order=True):
        console.print(_table(str(part), rows))
    for name, result, other in (("old", old, new), ("new", new, old)):
        missing = [part for part in result.tables if part not in other.tables]
        if missing:
            console.print(f"Only the {name} one has {', '.join(missing)}.")
    return frame


@dataclasses.dataclass(frozen=True)
class _Result:
    about: dict[str, Any]
    tables: dict[str, pl.DataFrame]

    @classmethod
    def load(cls, folder: Path) -> _Result:
        if not (folder / ABOUT).is_file():
            raise FileNotFoundError(f"compare must name folders that adarena bench wrote, got {folder} without {ABOUT}")
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            parts = about["config"]["parts"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / ABOUT} is damaged: {error!r}") from None
        tables = {}
        for part in KEYS:
            path = folder / f"{part}.parquet"
            # What an earlier run left beside it was measured with something else.
            if part in parts and path.is_file():
                try:
                    tables[part] = pl.read_parquet(path)
                except pl.exceptions.PolarsError as error:
                    raise ValueError(f"{path} is damaged: {error}") from None
        return cls(about, tables)


def comparison(old: dict[str, pl.DataFrame], new: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Both results' numbers of whatever both have measured.

    Args:
        old: Part to its table, as `adarena.experiments.bench.run_bench` returns them.
        new: Likewise.

    Returns:
        One row a part, thing measured and measure: ``part``, ``what``, ``measure`` (a column of the part's table), medians
        ``old`` and ``new`` over the repeats with least and most (``_low``, ``_high``), and ``change``, new over old.

    Raises:
        ValueError: They have nothing in common.
    """
    rows = []
    for part, keys in KEYS.items():
        if part not in old or part not in new:
            continue
        groups = [table.partition_by(keys, as_dict=True, maintain_order=True) for table in (old[part], new[part])]
        for key in groups[0]:
            if key not in groups[1]:
                continue
            for measure in _measures(part):
                ends = [_ends(group[key], measure) for group in groups]
                if ends[0] is not None and ends[1] is not None:
                    rows.append(_row(part, ", ".join(map(str, key)), measure, ends[0], ends[1]))
    if not rows:
        raise ValueError(f"compare must name results of the same parts, got {', '.join(old)} and {', '.join(new)}")
    return pl.DataFrame(rows)


def _measures(part: str) -> tuple[str, ...]:
    skipped = "steps_per_second" if part in _SECONDS else "wall_seconds"
    return tuple(name for name in MEASURES if name != skipped)


def _ends(rows: pl.DataFrame, measure: str) -> np.ndarray | None:
    """Median, least and most; None where it was not measured."""
    values = rows[measure].drop_nulls() if measure in rows.columns else pl.Series([], dtype=pl.Float64)
    return np.quantile(values.to_numpy(), (0.5, 0.0, 1.0)) if len(values) else None


def _row(part: str, what: str, measure: str, old: np.ndarray, new: np.ndarray) -> dict[str, Any]:
    named: dict[str, Any] = {"part": part, "what": what, "measure": measure}
    for name, ends in (("old", old), ("new", new)):
        named |= dict(zip((name, f"{name}_low", f"{name}_high"), ends.tolist(), strict=True))
    return {**named, "change": float(new[0] / old[0]) if old[0] else None}


def _facts(old: dict[str, Any], new: dict[str, Any]) -> Table:
    """Machines, versions and settings, those that differ marked."""
    table = shown.new_table(
        "What was measured with", "", "old", "new", "", caption="!: differs; then compare ratios only."
    )
    flat = [_flat(about) for about in (old, new)]
    for name in dict.fromkeys([*flat[0], *flat[1]]):
        both = [about.get(name, "not told") for about in flat]
        # Settings of one part or another matter where they differ.
        if both[0] != both[1] or not name.startswith("config."):
            table.add_row(name, *both, "!" if both[0] != both[1] else "")
    return table


def _flat(about: dict[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in about.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": str(x) for inner, x in value.items()}
        elif name != "command":
            flat[name] = str(value)
    return flat


def _table(part: str, rows: pl.DataFrame) -> Table:
    table = shown.new_table(
        f"{part}: median (least-most) over the repeats", *("", "measure", "old", "new", "new / old"), caption="", left=2
    )
    for row in rows.iter_rows(named=True):
        both = [f"{number(row[n])} ({number(row[f'{n}_low'])}-{number(row[f'{n}_high'])})" for n in ("old", "new")]
        change = "" if row["change"] is None else f"{row['change']:.2f}"
        table.add_row(row["what"], row["measure"].replace("_", " "), *both, change)
    return table
