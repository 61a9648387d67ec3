"""What a sweep leaves on disk for each cell, and how one cell is run: by whichever process, of whichever engine.

    ROOT/NAME/                  the cell's run folder (`adarena.experiments.store.RunFolder`); `adarena gather` reads it
    ROOT/NAME/tensorboard/      its learning curves for TensorBoard
    ROOT/sweep/records/NAME     how it ended, and the sizes and times of its files
    ROOT/sweep/logs/NAME.log    what it printed, and the traceback if it failed
    ROOT/sweep/locks/NAME       there and locked while it runs
    ROOT/sweep/set_aside/       folders that were torn or edited

A cell's record is written last. So a cell without one is gone on with, or finished by looking at its run folder; one whose
files are not as the record says is verified by their hashes, and if they are not what was written it is run anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pickle
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import polars as pl

from adarena.envs.cache import drop_programs
from adarena.experiments import locks, tensorboard_logs
from adarena.experiments.store import RunFolder, RunFolderError, document_sha256
from adarena.experiments.sweep_plan import PLACE, Cell, experiment_named
from adarena.experiments.whole_files import sha256, write_whole

CHECKED_TABLES = ("curves", "scores", "truths", "estimates")
"""Tables in which a number that is not one means that the cell failed,"""

MAY_BE_NAN = frozenset({"episode_return", "ess"})
"""but for these columns: no episode ended in a row of learning curves, an estimator without weights."""

_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)

Cause = Literal["", "cell", "machine", "full disk"]


@dataclasses.dataclass(frozen=True)
class Task:
    """One cell, as an engine sends it to another process.

    Attributes:
        root: Absolute path of the sweep's folder.
        name: The cell's name.
        digest: The cell's hash.
        experiment: Name of its experiment.
        source: File or module that registers the experiment; nothing for a built-in one.
        config: The pickled configuration.
        folder: Working directory, to which paths in the configuration may be relative.
        again: Whether to run a cell again that failed of itself.
        verify: Whether to verify a finished cell by its hashes though sizes and times are as they were.
        tensorboard: Whether to write logs for TensorBoard.
    """

    root: str
    name: str
    digest: str
    experiment: str
    source: str
    config: bytes
    folder: str
    again: bool = False
    verify: bool = False
    tensorboard: bool = False

    @classmethod
    def of(cls, cell: Cell, root: Path, source: str, **options: bool) -> Task:
        """The task of a cell in the sweep's folder."""
        config = pickle.dumps(cell.placed(root))
        return cls(str(root), cell.name, cell.digest, cell.experiment, source, config, os.getcwd(), **options)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        state: ``"done"``, ``"failed"``, or ``"elsewhere"``: another process is running it now.
        cause: Of a failure. ``"cell"``: it raised, or a table holds NaN, and would again; ``"machine"``: a file could not be
            written or read, memory was short, a package is missing, a worker died; ``"full disk"``. Those of the latter
            two kinds are run again when the sweep is.
        error: Of a failure, in one line.
        seconds: Its own time, from the start of the experiment to its end.
        ran: Whether it was run now; otherwise it was found finished.
    """

    state: Literal["done", "failed", "elsewhere"]
    cause: Cause = ""
    error: str = ""
    seconds: float = 0.0
    ran: bool = False


def known(root: Path, name: str, digest: str) -> Outcome | None:
    """How a cell ended, if its record says so and its files have the sizes and times that the record names."""
    record = _read_record(root, name)
    if record is None or record.get("digest") != digest or record["cause"] not in ("", "cell"):
        return None
    if record["state"] == "done" and stats(root / name, record["files"]) != record["files"]:
        return None
    return Outcome(record["state"], record["cause"], record["error"], record["seconds"])


def failed(root: Path) -> dict[str, Outcome]:
    """Cells of a sweep's folder that are recorded as failed, by name; empty where it is no sweep's folder."""
    found = {}
    for path in sorted((root / "sweep" / "records").glob("*")):
        record = _read_record(root, path.name)
        if record is not None and record["state"] == "failed":
            found[path.name] = Outcome("failed", record["cause"], record["error"], record["seconds"])
    return found


def is_running(root: Path, name: str) -> bool:
    """Whether some process is running the cell."""
    return locks.is_held(_side(root, "locks", name))


def count_running(root: Path) -> int:
    """How many cells are being run, by whatever process."""
    folder = root / "sweep" / "locks"
    return sum(locks.is_held(path) for path in folder.iterdir()) if folder.is_dir() else 0


def log_of(root: Path, name: str) -> Path:
    """The file with what the cell printed."""
    return _side(root, "logs", f"{name}.log")


def run_cell(task: Task) -> Outcome:
    """Runs a cell, unless another process does or it is finished. Raises nothing that the cell raises.

    All that a cell leaves is on disk before this returns; killed at any moment, it can be called again.
    """
    root = Path(task.root)
    try:
        with locks.hold(_side(root, "locks", task.name)) as held:
            if not held:
                return Outcome("elsewhere")
            found = None if task.verify else known(root, task.name, task.digest)
            if found is not None and not (task.again and found.state == "failed"):
                return found
            return _run_held(task, root)
    except OSError as error:  # of the lock or the record itself
        return _failure(error, 0.0)


def record_failure(task: Task, outcome: Outcome) -> None:
    """Records a failure that the cell could not record itself, because its process died."""
    root = Path(task.root)
    with contextlib.suppress(OSError), locks.hold(_side(root, "locks", task.name)) as held:
        if held and known(root, task.name, task.digest) is None:
            _write_record(root, task, outcome, {})


def _run_held(task: Task, root: Path) -> Outcome:
    """What `run_cell` does while it holds the cell's lock."""
    began = time.perf_counter()
    record = _read_record(root, task.name) or {"state": "waiting", "seconds": None}
    finished = _look_at(task, root, failed=record["state"] == "failed")
    ran = finished is None
    seconds = 0.0 if finished is None else float(record["seconds"] or finished.manifest["wall_seconds"])
    try:
        with _printing_to(log_of(root, task.name)), contextlib.chdir(task.folder):
            try:
                if finished is None:
                    drop_programs()
                    _execute(task, root)
                    seconds = time.perf_counter() - began
                outcome, files = _conclude(task, root, seconds, ran)
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                outcome, files = _failure(error, time.perf_counter() - began), {}
        _write_record(root, task, outcome, files)
    except OSError as error:
        return _failure(error, time.perf_counter() - began)
    return outcome


def _look_at(task: Task, root: Path, failed: bool) -> RunFolder | None:
    """The cell's run folder if it is finished and whole. One that is damaged, or of no use to go on with, is set aside."""
    path = root / task.name
    if not path.exists():
        return None
    try:
        run = RunFolder.open(path)
        whole = document_sha256(run.config, PLACE) == task.digest and run.config["fields"]["name"] == task.name
    except (RunFolderError, KeyError):
        whole = False
    if whole and run.status == "done" and not (failed and task.again):
        return run
    # A finished run that failed (it has NaN) is not gone on with: it would only be found finished. Nor one that was moved
    # here from a sweep of another name, half finished: its configuration is not quite the same.
    moved = whole and run.config["fields"]["runs"] != root.name
    if not whole or moved or run.status == "done":
        _set_aside(root, task.name)
    return None


def _execute(task: Task, root: Path) -> None:
    """Runs the experiment, in this process."""
    from adarena.agents.checkpoint import CheckpointError  # heavy, and only needed where cells run
    from adarena.envs.cache import enable_compilation_cache

    enable_compilation_cache()
    experiment = experiment_named(task.experiment, task.source)
    config = pickle.loads(task.config)
    existed = (root / task.name).exists()
    try:
        experiment.run(config, resume=True)
    except CheckpointError:
        if not existed:
            raise
        _set_aside(root, task.name)  # what it was to go on with is damaged
        experiment.run(config, resume=True)


def _conclude(task: Task, root: Path, seconds: float, ran: bool) -> tuple[Outcome, dict[str, list[int]]]:
    """Judges a finished run, and lists its files."""
    path = root / task.name
    if not path.exists():
        raise RunFolderError(f"{task.experiment}'s run left no folder config.runs/config.name, which is {task.name}")
    run = RunFolder.open(path)
    if run.status != "done":
        raise RunFolderError(f"{task.experiment}'s run returned and left its folder {run.status}")
    if task.tensorboard and "curves" in run.tables:
        tensorboard_logs.write(run.read_table("curves"), path / "tensorboard")
    problem = _nan_in(run)
    files = stats(path, ["config.json", "manifest.json", *run.manifest["files"]])
    return Outcome("failed" if problem else "done", "cell" if problem else "", problem, seconds, ran), files


def _nan_in(run: RunFolder) -> str:
    """The first number of a result that is not one, in words; nothing if there is none."""
    for name in (table for table in CHECKED_TABLES if table in run.tables):
        table = run.read_table(name).with_row_index("row")
        for column in table.columns:
            if table[column].dtype.is_float() and column not in MAY_BE_NAN and table[column].is_nan().any():
                first = table.filter(pl.col(column).is_nan()).row(0, named=True)
                where = [f"{key} {first[key]}" for key in ("row", "policy", "seed", "step") if key in first]
                return f"NaN in {name}.parquet, column {column}, first in {', '.join(where)}"
    return ""


def _failure(error: BaseException, seconds: float) -> Outcome:
    """The outcome of a cell that raised."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    full = any(
        getattr(link, "errno", None) in _DISK_IS_FULL or "No space left on device" in str(link) for link in chain
    )
    machine = any(
        isinstance(link, (OSError, MemoryError, ImportError)) or _OUT_OF_MEMORY in str(link) for link in chain
    )
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return Outcome("failed", "full disk" if full else "machine" if machine else "cell", text, seconds, True)


_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # XLA's word


def _set_aside(root: Path, name: str) -> None:
    """Moves a run folder out of the way; nothing is deleted."""
    folder = root / "sweep" / "set_aside"
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + sum(path.name.rpartition(".")[0] == name for path in folder.iterdir())
    os.rename(root / name, folder / f"{name}.{number}")


def stats(folder: Path, files: Iterable[str]) -> dict[str, list[int]]:
    """Size, and times of the last change of content and of the file, for each file that is there."""
    found = {}
    for file in files:
        with contextlib.suppress(OSError):
            status = os.stat(f"{folder}/{file}")
            found[file] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return found


def _read_record(root: Path, name: str) -> dict[str, Any] | None:
    """A cell's record; None if there is none or it is torn or edited."""
    try:
        with open(_side(root, "records", name), "rb") as handle:
            content, _, seal = handle.read().rpartition(b"\n")
        return json.loads(content) if sha256(content).encode() == seal else None
    except FileNotFoundError:
        return None


def record_bytes(digest: str, outcome: Outcome, files: dict[str, list[int]]) -> bytes:
    """A record's content: one line of JSON and its SHA-256.

    Args:
        digest: The cell's hash.
        outcome: How it ended.
        files: What `stats` says of its files.
    """
    words = {"digest": digest, "files": files, **dataclasses.asdict(outcome)}
    content = json.dumps({key: value for key, value in words.items() if key != "ran"}).encode()
    return content + b"\n" + sha256(content).encode()


def _write_record(root: Path, task: Task, outcome: Outcome, files: dict[str, list[int]]) -> None:
    path = _side(root, "records", task.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, record_bytes(task.digest, outcome, files))


def _side(root: Path, kind: str, name: str) -> Path:
    return root / "sweep" / kind / name


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Sends what is printed to a file, after what it holds already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield
