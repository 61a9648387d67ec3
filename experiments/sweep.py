"""``adarena sweep``: many configurations, each run once, on this machine or on a cluster.

A cell is one configuration; a hash of its content names its run folder. Whatever is killed, the same command goes on: cells
that are finished are not run again, one that was being run goes on from its checkpoints, and one whose files were torn or
edited is run anew. Several sweeps may share a folder, one after the other or at once: a cell is run by one of them.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from adarena.experiments import tables, tensorboard_logs
from adarena.experiments.sweep_cells import Outcome, Task, count_running, is_running, known, log_of, record_failure
from adarena.experiments.sweep_engines import Engine, LocalEngine
from adarena.experiments.sweep_plan import PLACE, Cell, cells_of_file, cells_of_grid
from adarena.experiments.whole_files import move_whole

_SHOWN = 20  # cells in a table for people; all are in cells.parquet
_LOOK_EVERY = 1.0  # seconds between two looks at cells that other processes run, and at how many are running


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """A sweep: ``adarena sweep experiments/sweeps/NAME.py``, or ``adarena sweep autobid --grid train_steps=10000,20000``.

    Attributes:
        target: A file whose ``cells()`` yields configurations; or the name of an experiment, ``MODULE:NAME`` for one that a
            module of your own registers.
        grid: Of an experiment: ``FIELD=VALUE,VALUE`` for each field that varies, or is set; members of a tuple are joined by
            ``+``, so ``mechanisms=gsp,gsp+vcg`` is two values.
        preset: Of an experiment: where all other fields come from.
        folder: Where everything goes; ``runs/sweeps/NAME`` when empty.
        engine: ``"local"``: worker processes on this machine; ``"ray"``: a Ray cluster.
        jobs: Worker processes of the local engine. Each has one GPU where there are any.
        retries: How often a cell is begun again after its process or machine died.
        retry_failed: Whether cells that raised, or ended in NaN, are run again (the latter are set aside, not deleted).
        verify: Whether to verify finished cells by their hashes, also those whose files have the sizes and times they had.
        list: Whether only to say how far the sweep is.
        tensorboard: Logs for TensorBoard in the run folders; ``"auto"``: if tensorboardX is installed.
        ray_address: Of a cluster, ``HOST:PORT``; empty: one that ``RAY_ADDRESS`` names or that runs on this machine, or else
            a new one of this machine alone.
        cpus: CPU cores that Ray gives a cell.
        gpus: GPUs that Ray gives a cell.
    """

    target: Annotated[str, tyro.conf.Positional]
    grid: tuple[str, ...] = ()
    preset: str = "default"
    folder: str = ""
    engine: Literal["local", "ray"] = "local"
    jobs: int = 1
    retries: int = 2
    retry_failed: bool = False
    verify: bool = False
    list: bool = False
    tensorboard: Literal["auto", "on", "off"] = "auto"
    ray_address: str = ""
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what cannot run, before anything does."""
        for field, least in (("jobs", 1), ("retries", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} must be a whole number of at least {least}, got {getattr(self, field)!r}")
        if self.engine not in ("local", "ray"):
            raise ValueError(f"engine must be local or ray, got {self.engine!r}")
        if self.tensorboard not in ("auto", "on", "off"):
            raise ValueError(f"tensorboard must be auto, on or off, got {self.tensorboard!r}")
        if self.cpus < 0.0 or self.gpus < 0.0:
            raise ValueError(f"cpus and gpus must not be negative, got {self.cpus!r} and {self.gpus!r}")
        if self.is_file and (self.grid or self.preset != "default"):
            raise ValueError(f"grid and preset are of an experiment's name, and {self.target} is a file")
        if self.engine == "local" and self.ray_address:
            raise ValueError(f"ray_address is of --engine ray, got {self.ray_address!r} with the engine local")

    @property
    def is_file(self) -> bool:
        """Whether the target is a file."""
        return self.target.endswith(".py")

    @property
    def source(self) -> str:
        """What a process imports that runs a cell: the file's path, a module, or nothing."""
        return str(Path(self.target).absolute()) if self.is_file else self.target.rpartition(":")[0]

    @property
    def root(self) -> Path:
        """The sweep's folder, absolute."""
        name = Path(self.target).stem if self.is_file else self.target.rpartition(":")[2]
        return Path(self.folder or Path("runs", "sweeps", name)).absolute()

    def cells(self) -> tuple[Cell, ...]:
        """The cells, each once, in the order in which they are named."""
        if self.is_file:
            return tuple(cells_of_file(self.target))
        axes: dict[str, Any] = {}
        for word in self.grid:
            field, equals, values = word.partition("=")
            if not equals or not values:
                raise ValueError(f"grid must be made of FIELD=VALUE,VALUE, got {word!r}")
            if field in axes:
                raise ValueError(f"grid must name each field once, got {field!r} twice")
            axes[field] = values.split(",")
        return tuple(cells_of_grid(self.target.rpartition(":")[2], self.source, self.preset, axes))


def run_sweep(config: SweepConfig) -> pl.DataFrame:
    """Runs what is not finished, and says how all of it ended.

    Returns:
        A row a cell, also in ``cells.parquet``: ``cell``, ``experiment``, ``state`` (``"done"``, ``"failed"``,
        ``"running"``, ``"waiting"``), ``seconds`` (its own time), ``cause`` and ``error`` of a failure, and the fields of the
        configurations that vary.

    Raises:
        SystemExit: Ctrl-C (130), or the disk is full (1); the same command goes on.
        ImportError: What an option asks for is not installed.
        TypeError: The sweep file yields something that is no configuration.
        ValueError: The file or the grid is wrong; the message says how.
    """
    if config.tensorboard == "on" and not tensorboard_logs.available():
        raise ImportError("--tensorboard on needs tensorboardX: pip install 'adarena[tensorboard]'")
    console, root, cells = tables.console(), config.root, config.cells()
    root.mkdir(parents=True, exist_ok=True)
    outcomes = {cell.name: found for cell in cells if (found := known(root, cell.name, cell.digest))}
    todo = [cell for cell in cells if _is_to_run(config, outcomes.get(cell.name))]
    console.print(_first_line(config, cells, outcomes, len(todo)), highlight=False, soft_wrap=True)
    if todo and not config.list:
        for cell in todo:
            outcomes.pop(cell.name, None)
        options = {
            "again": config.retry_failed,
            "verify": config.verify,
            "tensorboard": config.tensorboard != "off" and tensorboard_logs.available(),
        }
        tasks = (Task.of(cell, root, config.source, **options) for cell in todo)
        _run(config, tasks, outcomes, len(cells), console)
    table = _table(root, cells, outcomes)
    _write_table(root / "cells.parquet", table)
    _last_words(root, table, console)
    return table


def _is_to_run(config: SweepConfig, found: Outcome | None) -> bool:
    """Whether a cell goes to a worker: it is not finished, or is to be looked at again."""
    return found is None or (config.retry_failed if found.state == "failed" else config.verify)


def _first_line(config: SweepConfig, cells: tuple[Cell, ...], outcomes: dict[str, Outcome], todo: int) -> str:
    failed = sum(outcome.state == "failed" for outcome in outcomes.values())
    workers = "Ray" if config.engine == "ray" else f"{config.jobs} worker process{'es' * (config.jobs > 1)}"
    hint = " (--retry-failed runs them again)" if failed and not config.retry_failed else ""
    return (
        f"Sweep {config.root.name}: {len(cells):,} cells, {len(outcomes) - failed:,} done, {failed:,} failed before{hint}, "
        f"{todo:,} to {'verify or run' if config.verify else 'run'} with {workers}; results go to {config.root}"
    )


def _run(
    config: SweepConfig, tasks: Iterable[Task], outcomes: dict[str, Outcome], total: int, console: Console
) -> None:
    """Has the engine run the tasks, and adds to ``outcomes`` how they ended."""
    engine = _engine(config)
    try:
        with tqdm(total=total, initial=len(outcomes), desc="sweep", unit="cell", disable=None) as bar:
            for task, outcome in _ended(engine, tasks, bar):
                outcomes[task.name] = outcome
                if outcome.cause == "machine":
                    record_failure(task, outcome)
                if outcome.cause == "full disk":
                    raise OSError(outcome.error)
                bar.update()
    except KeyboardInterrupt:
        console.print(f"Stopped with {len(outcomes):,} of {total:,} cells ended; the same command goes on.")
        raise SystemExit(130) from None
    except OSError as error:
        console.print(
            f"Stopped: {error}. {len(outcomes):,} of {total:,} cells ended; once that is mended, the same command goes on."
        )
        raise SystemExit(1) from error
    finally:
        engine.close()


def _engine(config: SweepConfig) -> Engine:
    if config.engine == "ray":
        from adarena.experiments.sweep_ray import RayEngine

        return RayEngine(config.ray_address, config.cpus, config.gpus, config.retries)
    return LocalEngine(config.jobs, config.retries, config.root / "sweep" / "workers.log")


def _ended(engine: Engine, tasks: Iterable[Task], bar: tqdm[Any]) -> Iterable[tuple[Task, Outcome]]:
    """Tasks as they end. One that another process runs is asked after until that process has ended it, or died."""
    pending: dict[str, Task] = {}
    elsewhere: dict[str, Task] = {}
    for task in tasks:
        engine.submit(task)
        pending[task.name] = task
    failed, looked = 0, time.monotonic()
    while pending or elsewhere:
        for task, outcome in engine.wait(_LOOK_EVERY):
            del pending[task.name]
            if outcome.state == "elsewhere":
                elsewhere[task.name] = task
                continue
            failed += outcome.state == "failed"
            yield task, outcome
        if time.monotonic() - looked >= _LOOK_EVERY:
            root = Path(next(iter((pending or elsewhere).values())).root) if pending or elsewhere else None
            bar.set_postfix(running=count_running(root) if root else 0, failed=failed)
            for name in [name for name, task in elsewhere.items() if not is_running(Path(task.root), name)]:
                pending[name] = elsewhere.pop(name)
                engine.submit(pending[name])
            looked = time.monotonic()


def _table(root: Path, cells: tuple[Cell, ...], outcomes: dict[str, Outcome]) -> pl.DataFrame:
    """A row a cell."""
    waiting = [cell.name for cell in cells if cell.name not in outcomes]
    running = {name for name in waiting if is_running(root, name)}
    rows = []
    for cell in cells:
        outcome = outcomes.get(cell.name)
        state = "running" if cell.name in running else outcome.state if outcome else "waiting"
        seconds = outcome.seconds if outcome else None
        causes = {"cause": outcome.cause, "error": outcome.error} if outcome else {"cause": "", "error": ""}
        rows.append({"cell": cell.name, "experiment": cell.experiment, "state": state, "seconds": seconds, **causes})
    return pl.DataFrame(rows, schema_overrides={"seconds": pl.Float64}).hstack(_varying(cells))


def _varying(cells: tuple[Cell, ...]) -> pl.DataFrame:
    """The fields that are not the same in all cells; what is no number, word or truth value as a word."""
    names = dict.fromkeys(
        field.name for kind in {type(c.config): c for c in cells} for field in dataclasses.fields(kind)
    )
    columns = []
    for name in (name for name in names if name not in PLACE):
        values = [getattr(cell.config, name, None) for cell in cells]
        if all(value == values[0] for value in values):
            continue
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) > 1 or not kinds <= {bool, int, float, str}:
            values = [value if value is None else _word(value) for value in values]
        columns.append(pl.Series(f"config.{name}", values, strict=False))
    return pl.DataFrame(columns)


def _word(value: Any) -> str:
    """As the grid's command line has it."""
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _write_table(path: Path, table: pl.DataFrame) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        table.write_parquet(draft)
        move_whole(draft, path)
    except OSError:  # of a full disk; the records of the cells say the same
        draft.unlink(missing_ok=True)
        raise


def _last_words(root: Path, table: pl.DataFrame, console: Console) -> None:
    """What failed, how many cells are in which state, and where everything is."""
    counts = dict(table["state"].value_counts().iter_rows())
    failed = table.filter(pl.col("state") == "failed")
    if len(failed):
        shown = Table(title="Failed cells" if len(failed) <= _SHOWN else f"{_SHOWN} of {len(failed):,} failed cells")
        for column in ("cell", "cause", "error"):
            shown.add_column(column, no_wrap=column != "error", overflow="fold")
        for row in failed.head(_SHOWN).iter_rows(named=True):
            shown.add_row(row["cell"], row["cause"], row["error"])
        console.print(shown)
        log = log_of(root, "CELL").relative_to(root)
        console.print(f"Tracebacks are in {log}; --retry-failed runs again what failed of itself.", highlight=False)
    said = ", ".join(
        f"{counts[state]:,} {state}" for state in ("done", "failed", "running", "waiting") if state in counts
    )
    console.print(f"{said}. Run folders and cells.parquet are in {root}", highlight=False, soft_wrap=True)
