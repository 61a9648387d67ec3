"""What the first use costs: importing, and the way to the first step; what `adarena.experiments.bench` calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from rich.table import Table

from adarena.experiments.bench_market import ENV_ID, QUICK_MARKET, alternate

if TYPE_CHECKING:
    from adarena.experiments.bench import BenchConfig

STAGES = ("import", "no cache", "empty cache", "filled cache")
"""``import adarena.envs``; then ``gym.make``, ``reset`` and the first ``step`` without JAX's persistent cache, with an
empty one, and with the one that the process before has filled."""

_PROGRAM = """
import json, sys, time
def clock(): marks.append(time.time())
started, cache, market = float(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
marks = [started]
import adarena.envs
clock()
if market is not None:
    import gymnasium
    if cache:
        from adarena.envs.cache import enable_compilation_cache
        enable_compilation_cache(cache)
    env = gymnasium.make(sys.argv[4], **market)
    clock()
    env.reset(seed=0)
    clock()
    env.step(env.action_space.low)
    clock()
spans = [after - before for before, after in zip(marks, marks[1:])]
print(json.dumps({"wall": marks[-1] - started, "cpu": time.process_time(), "spans": spans}))
"""


def measure_startup(config: BenchConfig) -> pl.DataFrame:
    """Seconds from the start of a fresh process to the end of ``import adarena.envs``, and to the end of the first step.

    Args:
        config: ``repeats`` rounds of all `STAGES` are run, one process at a time, in the default market (a small one where
            ``quick``). ``seconds`` is not used.

    Returns:
        One row a stage and repeat: ``stage``, ``repeat``, ``wall_seconds`` and ``cpu_seconds`` (all threads, the
        interpreter's start included), and the parts of the former: ``import_seconds``, ``make_seconds``,
        ``reset_seconds``, ``step_seconds`` (null where the stage has no such part).

    Raises:
        RuntimeError: A process failed; the message ends with what it said.
    """
    market = QUICK_MARKET if config.quick else {}
    rows = []
    with tempfile.TemporaryDirectory(prefix="adarena-startup-") as folder:
        for repeat, stage in alternate(config, list(STAGES), "startup"):
            cache = os.path.join(folder, str(repeat)) if stage.endswith(" cache") and stage != "no cache" else ""
            rows.append({"stage": stage, "repeat": repeat} | _start(cache, None if stage == "import" else market))
    return pl.DataFrame(rows, infer_schema_length=None)


def _start(cache: str, market: dict[str, int] | None) -> dict[str, float | None]:
    """Columns of one fresh process. Caches that the user has set up are left out of it."""
    environment = {name: value for name, value in os.environ.items() if "_CACHE" not in name or "JAX" not in name}
    arguments = [repr(time.time()), cache, json.dumps(market), ENV_ID]
    done = subprocess.run([sys.executable, "-c", _PROGRAM, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a process to measure start-up failed: {done.stderr.strip()[-500:]}")
    measured = json.loads(done.stdout.splitlines()[-1])
    parts = dict(zip(("import", "make", "reset", "step"), measured["spans"], strict=False))
    spans = {f"{name}_seconds": parts.get(name) for name in ("import", "make", "reset", "step")}
    return {"wall_seconds": measured["wall"], "cpu_seconds": measured["cpu"], **spans}


def startup_tables(frame: pl.DataFrame, config: BenchConfig) -> list[Table]:
    """The table of `measure_startup`."""
    table = Table(
        title="First use, each in a fresh process: median (least-most) over the repeats",
        caption="To the end of the import; to the end of the first step, compiling included, by JAX's persistent cache.",
        caption_justify="left",
    )
    for place, title in enumerate(("stage", "seconds", "import", "make", "reset", "step")):
        table.add_column(title, justify="right" if place else "left")
    for (stage,), rows in frame.group_by("stage", maintain_order=True):
        low, middle, high = np.quantile(rows["wall_seconds"].to_numpy(), (0.0, 0.5, 1.0))
        parts = [rows[f"{part}_seconds"].cast(pl.Float64).to_numpy() for part in ("import", "make", "reset", "step")]
        shown = ["" if np.isnan(part).any() else f"{np.median(part):.2f}" for part in parts]
        table.add_row(str(stage), f"{middle:.2f} ({low:.2f}-{high:.2f})", *shown)
    return [table]
