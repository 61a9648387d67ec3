"""Tables for people: rich text from the frames that `adarena.experiments.protocol` makes."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from adarena.experiments.autobid import AutoBidExperiment
    from adarena.experiments.store import RunFolder


def console() -> Console:
    """A console wide enough for a comparison, also where the output is no terminal."""
    plain = Console()
    return plain if plain.width >= _WIDTH else Console(width=_WIDTH)


_WIDTH = 150


def finish(folder: RunFolder, figures: bool, started: float, plain: Console) -> None:
    """The end of an experiment: draws its figures where asked to, says how long it took and where the results are.

    Args:
        folder: The run's folder, tables written.
        figures: Whether to draw.
        started: ``time.perf_counter()`` at the start.
        plain: Where to say it.
    """
    if figures:
        from adarena.paper_figs.make import draw_all

        draw_all(folder.path, folder.path / "figures")
    took = time.perf_counter() - started
    plain.print(f"Finished in {took / 60:.1f} min. Tables, checkpoints and figures are in {folder.path}")


def comparison(summary: pl.DataFrame, mechanism: str, config: AutoBidExperiment) -> Table:
    """The comparison of one mechanism; IQM scores, 95 % intervals, columns kept apart.

    ``held`` is the headroom against the bound that holds budget and target; ``headroom closed`` is against the larger one,
    which may overrun the target where the score pays for it.
    """
    unit = "expected clicks" if config.replays else {"roas": "currency units"}.get(config.objective, "conversions")
    table = Table(title=f"{mechanism}: score in {unit} a day (IQM, 95 % interval)")
    for name in ("policy", "score", "vs best rule", "headroom closed", "held", "value", "cost", "cost/target"):
        table.add_column(name, no_wrap=True, justify="left" if name == "policy" else "right")
    table.add_column("over target", justify="right")
    table.add_column("budget used", justify="right")
    for row in summary.iter_rows(named=True):
        table.add_row(
            row["policy"],
            with_interval(row, "score"),
            "" if row["kind"] == "bound" else with_interval(row, "difference", sign=True),
            "100 %" if row["kind"] == "bound" else with_interval(row, "headroom", percent=True),
            number(row["headroom_held"], percent=True),
            number(row["value"]),
            number(row["cost"]),
            number(row["cost_over_target"]),
            number(row["over_target"], percent=True),
            number(row["budget_used"], percent=True),
            style={"learner": "bold", "oracle": "dim", "bound": "dim"}.get(row["kind"], ""),
        )
    return table


def number(x: Any, *, percent: bool = False, sign: bool = False) -> str:
    """A number as people read it; a dash for what is not known."""
    if x is None or (isinstance(x, float) and not math.isfinite(x)):
        return "–"
    if percent:
        return f"{100.0 * x:.0f} %"
    digits = 3 if abs(x) < 1.0 else (2 if abs(x) < 100.0 else 0)
    return f"{x:+.{digits}f}" if sign else f"{x:,.{digits}f}"


def with_interval(row: dict[str, Any], name: str, *, percent: bool = False, sign: bool = False) -> str:
    """``estimate [low, high]``; the estimate alone where there is no interval."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    estimate = number(row[name], percent=percent, sign=sign)
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return estimate
    ends = [number(end, percent=percent, sign=sign).removesuffix(" %") for end in (low, high)]
    return f"{estimate} [{ends[0]}, {ends[1]}]"
