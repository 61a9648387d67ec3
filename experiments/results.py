"""Reads what runs left: run folders, folders of gathered tables, and folders of such folders, whole or damaged.

Nothing is dropped in silence: a run that failed, was killed or was edited, and a table that cannot be read, are returned
with what is wrong with them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from adarena.experiments.store import RunFolder, RunFolderError
from adarena.experiments.sweep_cells import failed
from adarena.experiments.whole_files import json_bytes, sha256

_RUNS, _CONFIG, _MANIFEST = "runs.json", "config.json", "manifest.json"
DONE, RUNNING, FAILED, DAMAGED = "done", "running", "failed", "damaged"
"""What a folder may be: ``"running"`` also where a run was killed; ``"damaged"``: missing, torn or edited files."""


class Record(NamedTuple):
    """One command behind a folder's tables.

    Attributes:
        name: The run's name.
        kind: Class of its configuration; the file's name where there is none.
        config: Fields of the configuration.
        config_sha256: SHA-256 of the configuration.
        command: Words of the command line; empty where it was not recorded.
        versions: Packages and Python by name.
        about: What else the manifest says.
        parts: Tables that the record is about; None: all that no other record names.
    """

    name: str
    kind: str
    config: dict[str, Any]
    config_sha256: str
    command: tuple[str, ...]
    versions: dict[str, str]
    about: dict[str, Any]
    parts: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Folder:
    """One folder of results.

    Attributes:
        path: Where it is.
        name: What a reader calls it.
        status: One of `DONE`, `RUNNING`, `FAILED`, `DAMAGED`.
        failure: What is wrong; empty if nothing is.
        tables: Name to table, in the order of their names.
        damaged: Name to what is wrong with a table that cannot be read.
        records: The commands behind the tables.
    """

    path: Path
    name: str
    status: str
    failure: str
    tables: dict[str, pl.DataFrame]
    damaged: dict[str, str]
    records: tuple[Record, ...]


def read_all(paths: Sequence[str | Path]) -> list[Folder]:
    """Reads folders; one that holds folders of results (a sweep's, or ``paper_figs/results``) stands for these as well.

    Raises:
        ValueError: No path, a path that is no folder, or a folder without any results.
    """
    if not paths:
        raise ValueError("runs must name at least one folder, got none")
    folders = []
    for name in paths:
        found = [read(path) for path in _found(Path(name))]
        folders += [*found, *_lost(Path(name), {folder.name for folder in found})]
    return folders


def _lost(root: Path, known: set[str]) -> list[Folder]:
    """Cells of a sweep that failed before they had a run folder."""
    return [
        Folder(root / name, name, FAILED, outcome.error or outcome.cause, {}, {}, ())
        for name, outcome in failed(root).items()
        if name not in known
    ]


def read(path: Path) -> Folder:
    """Reads one run folder, or one folder of gathered tables.

    Args:
        path: A folder for which `is_results` holds.
    """
    if _is_run(path):
        return _run(path)
    tables, damaged = _tables(path)
    try:
        records = tuple(records_of(path))
    except RunFolderError as error:
        damaged[_RUNS], records = str(error), ()
    failure = "; ".join(f"{name}: {what}" for name, what in damaged.items())
    return Folder(path, path.resolve().name, DAMAGED if damaged else DONE, failure, tables, damaged, records)


def is_results(path: Path) -> bool:
    """Whether a folder is one of a run or of tables."""
    return _is_run(path) or (path / _RUNS).is_file() or any(path.glob("*.parquet"))


def records_of(path: Path) -> Iterator[Record]:
    """The commands behind a folder's tables: its own, those in ``runs.json``, or those of ``adarena bench`` and ``verify``.

    Raises:
        RunFolderError: A file that should tell is no valid JSON, or not of the form that we write.
    """
    if (path / _MANIFEST).is_file() and (path / _CONFIG).is_file():
        config, manifest = _json(path / _CONFIG), _json(path / _MANIFEST)
        yield _record({"name": path.resolve().name, "config": config, "manifest": manifest}, path / _MANIFEST)
        return
    for file in sorted(path.glob("*.json")):
        content = _json(file)
        for one in content if isinstance(content, list) else [content]:
            if isinstance(one, dict) and "config" in one:
                yield _record(one, file)


def records_for(path: Path, table: str) -> list[Record]:
    """The records that a table of a folder comes from; see `records_of`."""
    records = list(records_of(path))
    own = [one for one in records if one.parts is not None and table in one.parts]
    return own or [one for one in records if one.parts is None]


def experiment_config(record: Record, kind: type[Any]) -> Any:
    """A record's configuration as the frozen dataclass that it was.

    Args:
        record: One whose ``kind`` is the class's name.
        kind: The class; its fields are numbers, strings and tuples of them.

    Raises:
        TypeError: The class has no such field any more.
        ValueError: It refuses a value.
    """
    return kind(**{name: tuple(x) if isinstance(x, list) else x for name, x in record.config.items()})


def _is_run(path: Path) -> bool:
    """Whether a folder is a run's; one of the two files may have been lost."""
    return (path / _CONFIG).is_file() or (path / _MANIFEST).is_file()


def _found(path: Path) -> list[Path]:
    if not path.is_dir():
        raise ValueError(f"runs must be folders, got {str(path)!r}: there is no such folder")
    if _is_run(path):
        return [path]
    inside = [one for one in sorted(path.iterdir()) if one.is_dir() and not one.name.startswith(".")]
    found = [one for one in [path, *inside] if is_results(one)]
    if not found and not failed(path):
        raise ValueError(
            f"runs must be run folders or folders of tables, got {str(path)!r}: "
            f"it has no {_MANIFEST}, no {_RUNS}, no table, and no folder in it has"
        )
    return found


def _run(path: Path) -> Folder:
    """A run folder, every file of which is compared with what the run wrote."""
    name = path.resolve().name
    try:
        run = RunFolder.open(path)
        tables = {table: run.read_table(table) for table in run.tables}
        records = tuple(records_of(path))
    except RunFolderError as error:
        return Folder(path, name, DAMAGED, str(error), {}, {}, ())
    failure = str(run.manifest["failure"] or "")
    if run.status == RUNNING:
        failure = "not finished: still running, or killed"
    return Folder(path, name, run.status, failure, tables, {}, records)


def _tables(path: Path) -> tuple[dict[str, pl.DataFrame], dict[str, str]]:
    tables, damaged = {}, {}
    for file in sorted(path.glob("*.parquet")):
        try:
            tables[file.stem] = pl.read_parquet(file)
        except (pl.exceptions.PolarsError, OSError) as error:
            damaged[file.name] = f"cannot be read: {str(error).splitlines()[0]}"
    return tables, damaged


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"{file.name} is no valid JSON, torn or edited: {error}") from error


def _record(document: dict[str, Any], file: Path) -> Record:
    """A record from what ``runs.json``, a manifest, or ``bench.json`` says."""
    config, about = document["config"], dict(document.get("manifest", document))
    if not isinstance(config, dict) or not isinstance(about, dict):
        raise RunFolderError(f"{file.name} must hold objects named config and manifest, got {config!r}")
    fields = config.get("fields", config)
    digest = about.get("config_sha256") or sha256(json_bytes(config))
    versions = dict(about.get("packages") or about.get("versions") or {})
    versions["python"] = str(about.get("python", "unknown"))
    known = {
        "config",
        "config_sha256",
        "command",
        "packages",
        "versions",
        "python",
        "files",
        "pending",
        "sha256",
        "name",
    }
    return Record(
        name=str(document.get("name", file.stem)),
        kind=str(config.get("class", file.stem)),
        config=fields,
        config_sha256=str(digest),
        command=tuple(about.get("command") or ()),
        versions=versions,
        about={name: value for name, value in about.items() if name not in known},
        parts=tuple(fields["parts"]) if file.name.startswith("bench") else None,
    )
