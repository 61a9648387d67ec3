"""``adarena calibrate PATH``: fits the price landscape and the daily curve of a log, for the market to load."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import polars as pl
import tyro
from rich.console import Console
from rich.table import Table

from adarena.envs.data import Calibration, fit_calibration, read_log
from adarena.experiments.tables import number


@dataclasses.dataclass(frozen=True)
class CalibrateConfig:
    """What to fit, and where to write it.

    Attributes:
        path: Log of won auctions, or a folder of them, in any of iPinYou's layouts.
        out: File of the calibration (JSON).
        ticks: Parts of the day in the daily curve; a market with other ticks resamples it.
        winnable: P(an auction can be won at all), in (0, 1]. A log of won auctions cannot show it: the published win
            rate where it is not given.
        seed: Seed of the split into rows that are fitted and rows that they are compared with.
    """

    path: tyro.conf.Positional[str]
    out: str = "calibration.json"
    ticks: int = 48
    winnable: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what cannot be fitted or written, before a long log is read."""
        if isinstance(self.ticks, bool) or not isinstance(self.ticks, int) or not 1 <= self.ticks <= 2880:
            raise ValueError(f"ticks must be a whole number from 1 to 2880, got {self.ticks!r}")
        if self.winnable is not None and not 0.0 < self.winnable <= 1.0:
            raise ValueError(f"winnable must be a probability above 0 and up to 1, got {self.winnable!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0, got {self.seed!r}")
        out = Path(self.out)
        if out.is_dir() or not out.parent.is_dir():
            raise ValueError(f"out must be a file in a folder that exists, got {self.out!r}")
        if out.exists() and Path(self.path).exists() and out.samefile(self.path):
            raise ValueError(f"out must not be the log itself, got {self.out!r}")


def run_calibrate(config: CalibrateConfig) -> tuple[Calibration, pl.DataFrame]:
    """Reads the log, fits, prints fitted against observed, and writes the calibration.

    Returns:
        The calibration, and the table of `adarena.envs.data.fit_calibration` (columns ``quantity``, ``unit``,
        ``fitted``, ``observed``, ``ratio``).

    Raises:
        adarena.envs.data.LogError: The path holds no such log, too many of its lines are bad, or it has too few rows.
    """
    console = Console()
    log = read_log(config.path)
    console.print(str(log.report), markup=False, highlight=False, soft_wrap=True)
    calibration, table = fit_calibration(log, ticks=config.ticks, seed=config.seed, winnable=config.winnable)
    console.print(comparison(table))
    for name in ("daily_share", "winnable"):  # what a log may be too short, or unable, to show
        console.print(f"{name}: {calibration.sources[name]}", markup=False, highlight=False)
    calibration.save(config.out)
    traffic = shlex.quote(f"calibration:{config.out}")
    console.print(
        f"The calibration is in {config.out}; use it with: adarena run autobid --traffic {traffic}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return calibration, table


def comparison(table: pl.DataFrame) -> Table:
    """Fitted quantities beside those of the rows held out; a dash where the log shows none."""
    shown = Table(title="Fitted (two thirds of the rows) against observed (the others)")
    for name in ("quantity", "unit", "fitted", "observed", "fitted / observed"):
        shown.add_column(name, justify="left" if name in ("quantity", "unit") else "right")
    for row in table.iter_rows(named=True):
        values = [_figures(row["fitted"]), _figures(row["observed"]), number(row["ratio"])]
        shown.add_row(row["quantity"], row["unit"], *values)
    return shown


def _figures(x: float | None) -> str:
    """Four significant figures: CTRs lie near 1e-3, prices near 100."""
    return number(None) if x is None else f"{x:.4g}"
