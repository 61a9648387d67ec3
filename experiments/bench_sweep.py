"""What a sweep costs beside its cells, and how fast it finds 10,000 finished; what `adarena.experiments.bench` calls."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from rich.table import Table

from adarena.experiments import bench_tables as shown
from adarena.experiments.bench_market import alternate
from adarena.experiments.store import RunFolder
from adarena.experiments.sweep_cells import Outcome, record_bytes, stats
from adarena.experiments.sweep_plan import Cell, cells_of_grid, register
from adarena.experiments.whole_files import json_bytes, sealed, sha256

if TYPE_CHECKING:
    from adarena.experiments.bench import BenchConfig

BARS = {"run": 1.05, "list": 5.0, "resume": 5.0}
"""Most of the cells' own time that 100 cells may take; most seconds for 10,000 finished ones, the process's start included."""

_TABLES = 10  # files of a finished run of AutoBid beside its configuration and manifest
_MODULE = "adarena.experiments.bench_sweep"


@dataclasses.dataclass(frozen=True)
class Idle:
    """A cell that waits and writes one small table.

    Attributes:
        value: What tells it from others.
        seconds: How long it waits.
        runs: Folder of the runs.
        name: Name of the run.
    """

    value: int = 0
    seconds: float = 1.0
    runs: str = "runs"
    name: str = ""


PRESETS: dict[str, Idle] = {"default": Idle()}
"""For `adarena.experiments.sweep_plan.register`."""


def run(config: Idle, *, resume: bool = False) -> Path:
    """Runs the cell; returns its folder."""
    with RunFolder.create(config.runs, config, config.name or None, resume=resume) as folder:
        time.sleep(config.seconds)
        folder.write_table("scores", pl.DataFrame({"policy": ["idle"], "score": [float(config.value)]}))
    return folder.path


def measure_sweep(config: BenchConfig) -> pl.DataFrame:
    """``"run"``: 100 cells that each wait for half of ``seconds``, by one worker; ``"list"`` and ``"resume"``: finished ones.

    Each is ``adarena sweep`` in a fresh process, from its start to its end, imports included. The finished cells are made up:
    configurations of AutoBid, with as many files as its runs have.

    Returns:
        Also ``contender``, ``cells`` and ``ratio``: of ``"run"``, wall time over the sum of the cells' own times; null of the
        others. ``steps`` are cells. ``warmup_seconds`` of the others: making them up.

    Raises:
        RuntimeError: A sweep failed; the message ends with what it said.
    """
    cells, finished, wait = (4, 9, 0.01) if config.quick else (100, 10_000, config.seconds / 2)
    with tempfile.TemporaryDirectory(prefix="adarena-sweep-") as folder:
        began, root = time.perf_counter(), Path(folder, "finished").absolute()
        grid = _make_up(root, finished)
        warmup = time.perf_counter() - began
        rows = []
        for repeat, name in alternate(config, list(BARS), "sweep"):
            if name == "run":
                place = Path(folder, f"run{repeat}")
                values = ",".join(map(str, range(cells)))
                words = [f"{_MODULE}:idle", "--grid", f"value={values}", f"seconds={wait}", "--folder", str(place)]
            else:
                place = root
                words = ["autobid", "--grid", *grid, "--folder", str(root), *(["--list"] if name == "list" else [])]
            clocks = _sweep(words)
            table = pl.read_parquet(place / "cells.parquet")
            if (table["state"] != "done").any():
                raise RuntimeError(f"cells of the sweep {name!r} are not done: {table['state'].value_counts()}")
            own = {"ratio": clocks["wall_seconds"] / float(table["seconds"].sum()) if name == "run" else None}
            about = {"contender": name, "cells": len(table), "repeat": repeat, "steps": len(table), **clocks, **own}
            about["steps_per_second"] = len(table) / clocks["wall_seconds"]
            rows.append(about | {"warmup_seconds": 0.0 if name == "run" else warmup})
    return pl.DataFrame(rows, schema_overrides={"ratio": pl.Float64})


def _sweep(words: list[str]) -> dict[str, float]:
    """Wall and CPU seconds of a command, its own processes included."""
    command = [sys.executable, "-m", "adarena.experiments.cli", "sweep", *words, "--tensorboard", "off"]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"a sweep to measure failed: {(done.stdout + done.stderr).strip()[-500:]}")
    return {
        "wall_seconds": wall,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def _make_up(root: Path, count: int) -> list[str]:
    """Finished cells of AutoBid; returns the grid that names them."""
    side = round(count**0.5)
    axes = {"market_seed": [str(i) for i in range(side)], "train_steps": [str(i + 1) for i in range(side)]}
    cells = cells_of_grid("autobid", "", "default", axes)
    with RunFolder.create(root, cells[0].placed(root), cells[0].name) as first:
        for number in range(_TABLES):
            first.write_table(f"table{number}", pl.DataFrame({"policy": ["ppo"], "score": [1.0]}))
    for cell in cells[1:]:
        _copy(first, cell, root)
    records = root / "sweep" / "records"
    records.mkdir(parents=True)
    files = ["config.json", "manifest.json", *first.manifest["files"]]
    for cell in cells:  # last, because a link changes the times of what it points to
        content = record_bytes(cell.digest, Outcome("done", seconds=1.0), stats(root / cell.name, files))
        (records / cell.name).write_bytes(content)
    return [f"{field}={','.join(values)}" for field, values in axes.items()]


def _copy(first: RunFolder, cell: Cell, root: Path) -> None:
    """A run folder as another cell's would be; tables are links to those of the first, to save room."""
    path = root / cell.name
    path.mkdir()
    changes: dict[str, Any] = {"market_seed": cell.config.market_seed, "train_steps": cell.config.train_steps}
    document = {**first.config, "fields": {**first.config["fields"], **changes, "name": cell.name}}
    content = json_bytes(document)
    (path / "config.json").write_bytes(content)
    manifest = sealed({**first.manifest, "name": cell.name, "config_sha256": sha256(content)})
    (path / "manifest.json").write_bytes(json.dumps(manifest).encode())
    for file in first.manifest["files"]:
        os.link(first.path / file, path / file)


def sweep_tables(frame: pl.DataFrame, config: BenchConfig) -> list[Table]:
    """The table of `measure_sweep`."""
    table = shown.new_table(
        "Sweeps: median (range) over the repeats",
        *("sweep", "cells", "seconds", "over the cells' own time", "CPU s"),
        caption=f"From the start of the process to its end. Bars: {BARS['run']:.2f} times the cells' own time for 100 "
        f"cells of {config.seconds / 2:g} s, {BARS['list']:g} s for 10,000 that are finished.",
    )
    for name in frame["contender"].unique(maintain_order=True):
        rows = frame.filter(pl.col("contender") == name)
        low, middle, high = np.quantile(rows["wall_seconds"].to_numpy(), (0.0, 0.5, 1.0))
        ratio = rows["ratio"].drop_nulls()
        ends = np.quantile(ratio.to_numpy(), (0.5, 0.0, 1.0)) if len(ratio) else ()
        over = "{:.3f} ({:.3f}-{:.3f})".format(*ends) if len(ratio) else ""
        seconds = f"{middle:.2f} ({low:.2f}-{high:.2f})"
        table.add_row(name, f"{rows['cells'][0]:,}", seconds, over, shown.median(rows["cpu_seconds"], 1))
    return [table]


register("idle", sys.modules[__name__])  # type: ignore[arg-type]
