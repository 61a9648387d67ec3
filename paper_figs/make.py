"""Draws every figure whose table a results folder holds: ``python -m adarena.paper_figs.make [RESULTS] [OUT]``."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from types import ModuleType

import polars as pl
import tyro
from tqdm import tqdm

from adarena.paper_figs import (
    fig_curves,
    fig_day,
    fig_definitions,
    fig_explain,
    fig_frontier,
    fig_lifecycle,
    fig_markets,
    fig_offline,
    fig_ope,
    fig_posterior,
    fig_reasoning,
    fig_revenue,
    fig_scores,
    fig_splits,
    fig_throughput,
    style,
)
from adarena.paper_figs.provenance import provenance

FIGURES = (fig_scores, fig_day, fig_curves, fig_throughput)
"""One module a figure: ``NAME``, ``TABLE``, ``draw(results)``."""

COLDSTART_FIGURES = (fig_frontier, fig_definitions, fig_revenue, fig_posterior, fig_splits)
"""Those of ``adarena run coldstart``."""

LIFECYCLE_FIGURES = (fig_lifecycle,)
"""Those of ``adarena run lifecycle``."""

OFFLINE_FIGURES = (fig_offline, fig_reasoning)
"""Those of ``adarena run offline``."""

MARKETS_FIGURES = (fig_markets,)
"""Those of several runs of ``adarena run offline``, gathered."""

EXPLAIN_FIGURES = (fig_explain,)
"""Those of ``adarena explain``."""

OPE_FIGURES = (fig_ope,)
"""Those of ``adarena run ope``."""


def draw_all(results: Path, out: Path) -> list[Path]:
    """Draws every figure whose table is in ``results``, and says which are not.

    Args:
        results: A folder with tables: that of a run, or the committed results.
        out: Folder for the pictures, made if need be.

    Returns:
        What was written: for each figure a PDF, a PNG, and a JSON file with the commands and versions behind it.

    Raises:
        NotADirectoryError: ``results`` is no folder.
        ValueError: A table lacks a column or a case.
    """
    results, out = Path(results), Path(out)
    if not results.is_dir():
        raise NotADirectoryError(f"results must be a folder with tables, got {str(results)!r}")
    written: list[Path] = []
    for figure in tqdm(figures_of(results), desc="figures", leave=False):
        if not (results / figure.TABLE).is_file():
            tqdm.write(f"figure {figure.NAME} skipped: no {figure.TABLE} in {results}")
            continue
        about = provenance(results, figure.NAME, figure.TABLE)
        written += style.save(figure.draw(results), out, figure.NAME, about)
    return written


def figures_of(results: Path) -> tuple[ModuleType, ...]:
    """The figures of the experiment whose tables a folder holds, by its tables and its columns of scores."""
    path = Path(results)
    scores = path / fig_definitions.TABLE
    columns = pl.read_parquet_schema(scores) if scores.is_file() else {}
    return _chosen({file.stem for file in path.glob("*.parquet")}, columns)


def figures_of_tables(tables: Mapping[str, pl.DataFrame]) -> tuple[ModuleType, ...]:
    """`figures_of` for tables that have been read, by their names."""
    scores = Path(fig_definitions.TABLE).stem
    return _chosen(tables, tables[scores].columns if scores in tables else ())


def _chosen(tables: Container[str], columns: Container[str]) -> tuple[ModuleType, ...]:
    if Path(fig_offline.TABLE).stem in tables:
        return OFFLINE_FIGURES
    if Path(fig_markets.TABLE).stem in tables:
        return MARKETS_FIGURES
    if Path(fig_explain.TABLE).stem in tables:
        return EXPLAIN_FIGURES
    if Path(fig_ope.TABLE).stem in tables:
        return OPE_FIGURES
    if "success_breakout" in columns:
        return LIFECYCLE_FIGURES
    return COLDSTART_FIGURES if "success_rate" in columns else FIGURES


def main(
    results: tyro.conf.Positional[Path] = style.DEFAULT_RESULTS, out: tyro.conf.Positional[Path | None] = None
) -> None:
    """Draws every figure whose table is there.

    Args:
        results: Folder with the tables.
        out: Folder for the pictures; ``figures`` beside the tables by default.
    """
    for path in draw_all(results, results / "figures" if out is None else out):
        print(path)


if __name__ == "__main__":
    tyro.cli(main)
