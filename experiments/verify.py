"""``adarena verify``: what auction theory says, what the market does, and whether the two agree."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Callable
from pathlib import Path

import polars as pl
from rich.table import Table
from tqdm import tqdm

from adarena.experiments import tables
from adarena.experiments.theory.row import STANDARD_ERRORS, Row
from adarena.experiments.theory.single_item import BATCHES

LEAST_SAMPLES = 10 * BATCHES
"""Fewer leave parts of the sample too small for a standard error."""


@dataclasses.dataclass(frozen=True)
class VerifyConfig:
    """How much is simulated, and from which seed.

    Attributes:
        samples: Auctions simulated for each setting; where instances are solved one by one, fewer.
        seed: Of all that is drawn.
        out: Folder of the table (``verify.parquet``) and of ``verify.json`` (configuration and versions).
    """

    samples: int = 200_000
    seed: int = 0
    out: str = "runs/verify"

    def __post_init__(self) -> None:
        """Refuses what cannot be simulated.

        Raises:
            ValueError: If a field is out of range.
        """
        for name, least in (("samples", LEAST_SAMPLES), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}")
        if not self.out:
            raise ValueError("out must name a folder, got ''")
        if Path(self.out).exists() and not Path(self.out).is_dir():
            raise ValueError(f"out must be a folder, got the file {self.out!r}")


Group = Callable[[int, int], list[Row]]


def groups() -> dict[str, Group]:
    """What is verified: name to a function of samples and seed."""
    from adarena.experiments.theory.pacing import pacing_rows
    from adarena.experiments.theory.positions import position_rows
    from adarena.experiments.theory.predictions import prediction_rows
    from adarena.experiments.theory.single_item import single_item_rows
    from adarena.experiments.theory.whole_tick import tick_rows

    return {
        "one item": single_item_rows,
        "slots": position_rows,
        "whole tick": tick_rows,
        "budgets and pacing": pacing_rows,
        "predictions": prediction_rows,
    }


def run_verify(config: VerifyConfig) -> pl.DataFrame:
    """Verifies every truth, prints the table and leaves it in ``config.out``.

    Args:
        config: What to simulate.

    Returns:
        One row a truth and setting: group, truth, setting, analytic, simulated, error, tolerance, holds.
    """
    console = tables.console()
    out = Path(config.out)
    console.print(f"Comparing the market with auction theory, {config.samples:,} samples a setting", highlight=False)
    records = []
    for name, rows in tqdm(groups().items(), desc="verify", unit="group", leave=False):
        for row in rows(config.samples, config.seed):
            records.append({"group": name, **row._asdict(), "holds": row.holds})
    floats = ("analytic", "simulated", "error", "tolerance")
    table = pl.DataFrame(records, schema_overrides=dict.fromkeys(floats, pl.Float64), infer_schema_length=None)
    console.print(_printed(table))
    out.mkdir(parents=True, exist_ok=True)
    table.write_parquet(out / "verify.parquet")
    about = {"config": dataclasses.asdict(config), "versions": _versions(), "python": platform.python_version()}
    (out / "verify.json").write_text(json.dumps(about, indent=2) + "\n")
    holding = int(table["holds"].sum())
    console.print(f"{holding} of {len(table)} hold; the table is in {out}", soft_wrap=True, highlight=False)
    return table


def _printed(table: pl.DataFrame) -> Table:
    title = f"Theory and market (holds: within {STANDARD_ERRORS:g} standard errors and the tolerance)"
    shown = Table(title=title, show_lines=False)
    shown.add_column("truth")
    shown.add_column("setting")
    for name in ("analytic", "simulated", "SE", "tolerance"):
        shown.add_column(name, justify="right")
    shown.add_column("verdict")
    last = None
    for row in table.iter_rows(named=True):
        if last not in (None, row["group"]):
            shown.add_section()
        last = row["group"]
        error = f"{row['error']:.5f}" if row["error"] else "none"
        verdict = "holds" if row["holds"] else "[bold red]FAILS[/]"
        numbers = (f"{row['analytic']:.5f}", f"{row['simulated']:.5f}", error, f"{row['tolerance']:.2g}")
        shown.add_row(row["truth"], row["setting"], *numbers, verdict)
    return shown


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("adarena", "jax", "jaxlib", "numpy", "scipy", "polars")}
