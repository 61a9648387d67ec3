"""What training cost: a table ``times`` in a run's folder, kept as training goes on and added to by a resumed run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import polars as pl

from adarena.experiments.store import RunFolder

_SCHEMA: dict[str, Any] = {"policy": pl.String, "stage": pl.String, "seeds": pl.Int64, "gradient_steps": pl.Int64}
_SCHEMA |= dict.fromkeys(("wall_seconds", "cpu_seconds", "seconds_a_seed"), pl.Float64)


def clock(folder: RunFolder, policy: str, stage: str, seeds: int, steps: int) -> Callable[..., None]:
    """Begins to measure; what comes back writes the time since, added to what the table says of earlier work.

    To be called while training goes on (``on_chunk`` of `adarena.agents.offline.loop.train`): a run that is killed then
    loses no more than a chunk's time, and one that is resumed adds to the time before. A learner that had been finished
    makes no chunk, so its time stays as it was.

    Args:
        folder: The run's folder. Its table ``times`` has a row a policy and stage: ``policy``, ``stage``, ``seeds``,
            ``gradient_steps`` (a seed), ``wall_seconds`` and ``cpu_seconds`` (of all cores) for all seeds together,
            compilation included, and ``seconds_a_seed``, wall seconds over seeds.
        policy: Whose training.
        stage: What the training is for, ``"training"`` or ``"search"``.
        seeds: Training seeds; in a search, settings.
        steps: Gradient steps a seed.
    """
    earlier = folder.read_table("times") if "times" in folder.tables else pl.DataFrame(schema=_SCHEMA)
    same = (pl.col("policy") == policy) & (pl.col("stage") == stage)
    before = earlier.filter(same).select("wall_seconds", "cpu_seconds").sum().row(0)
    began = time.perf_counter(), time.process_time()

    def write(*_: Any) -> None:
        wall = before[0] + time.perf_counter() - began[0]
        cpu = before[1] + time.process_time() - began[1]
        row = (policy, stage, seeds, steps, wall, cpu, wall / seeds)
        new = pl.DataFrame([row], schema=_SCHEMA, orient="row")
        folder.write_table("times", pl.concat([earlier.filter(~same), new]))

    return write
