"""What a run leaves behind: one folder with its configuration, its surroundings, its tables and its checkpoints.

    RUN/config.json       the whole configuration, canonical JSON; its SHA-256 names the experiment
    RUN/manifest.json     versions, devices, seeds, wall time, status, and the SHA-256 of every file below
    RUN/NAME.parquet      tables
    RUN/checkpoints/      belongs to the trainers

Files are replaced whole or not at all, so that a run killed at any moment leaves a folder that can be gone on with. A
file that was edited or torn afterwards is refused by name. No file tells where on a machine it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import TracebackType
from typing import Any

import jax
import numpy as np
import polars as pl

_CONFIG, _MANIFEST, _SCHEMA = "config.json", "manifest.json", 1
_PACKAGES = "adarena jax jaxlib flax optax numpy scipy gymnasium polars orbax-checkpoint stable-baselines3 torch ray"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class RunFolderError(ValueError):
    """A run folder that cannot be made, or whose files are missing, torn or edited."""


class RunFolder:
    """One run's folder; a context manager that marks the run done, or failed.

    Attributes:
        path: The folder.
        config: Content of ``config.json``: ``{"class": ..., "fields": {...}}``.
        manifest: Content of ``manifest.json``.
    """

    def __init__(self, path: Path, config: dict[str, Any], manifest: dict[str, Any]) -> None:
        """Use `create` or `open`."""
        self.path, self.config, self.manifest = path, config, manifest
        self._began = time.monotonic()
        self._before = float(manifest["wall_seconds"])

    @classmethod
    def create(
        cls,
        root: str | os.PathLike[str],
        config: Any,
        name: str | None = None,
        *,
        resume: bool = False,
        seeds: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> RunFolder:
        """Makes the folder ``root/name``, or goes on with the one that is there.

        Args:
            root: Folder of the runs.
            config: A frozen dataclass of numbers, strings, enums, paths, sequences and further dataclasses.
            name: Name of the folder; the class's name and the first digits of the configuration's hash when ``None``.
            resume: Whether to go on with a folder of the same configuration. Where there is none, it is made.
            seeds: How random numbers are laid out, for the manifest.
            inputs: Name to file of what the run reads (logs), recorded by SHA-256; a resumed run must have the same.

        Raises:
            TypeError: ``config`` is not a frozen dataclass or holds something that JSON has no word for.
            RunFolderError: The folder is there already, or holds another configuration, or is damaged.
        """
        content = _json_bytes(_document(config))
        digest = _sha256(content)
        name = f"{type(config).__name__}-{digest[:10]}" if name is None else name
        if not _NAME.fullmatch(name):
            raise RunFolderError(f"name must be letters, digits, '.', '_' and '-' and start with one, got {name!r}")
        files = {key: _describe_input(key, Path(file)) for key, file in (inputs or {}).items()}
        path = Path(root) / name
        if path.exists():
            if not resume:
                raise RunFolderError(f"{name} is there already; choose another name, or go on with it (resume=True)")
            return cls._resumed(path, config, digest, files)
        manifest = {**_new_manifest(), "name": name, "config_sha256": digest, "inputs": files}
        manifest["seeds"] = _plain(seeds or {}, "seeds")
        # Filled beside its place and moved there whole: whoever finds the folder finds it complete.
        draft = path.with_name(f".{name}.{os.getpid()}.tmp")
        try:
            (draft / "checkpoints").mkdir(parents=True)
            _replace(draft / _CONFIG, content)
            run = cls(draft, json.loads(content), manifest)
            run._save()
            os.rename(draft, path)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise RunFolderError(f"{name} could not be made in {root}: {error.strerror}") from error
        run.path = path
        return run

    @classmethod
    def _resumed(cls, path: Path, config: Any, digest: str, inputs: dict[str, Any]) -> RunFolder:
        """The folder that is there, if it belongs to the same configuration and the same input."""
        run = cls.open(path)
        if run.manifest["config_sha256"] != digest:
            what = _first_difference(run.config, _document(config))
            raise RunFolderError(
                f"{path.name} holds another configuration: {what}; choose another name, or the old one"
            )
        if run.manifest["inputs"] != inputs:
            raise RunFolderError(f"{path.name} was begun on other inputs, {run.manifest['inputs']}, now got {inputs}")
        for left in path.glob(".*.tmp*"):
            left.unlink()
        if run.status == "failed":
            run.manifest |= {"status": "running", "failure": None}
            run._save()
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Opens a run folder, and refuses one with a file that is missing, torn or edited.

        Raises:
            RunFolderError: No such folder, or a file in it is not what the run wrote; the message names the file.
        """
        path = Path(path)
        if not path.is_dir():
            raise RunFolderError(f"{path} is no run folder: there is no such folder")
        manifest = _read_json(path / _MANIFEST)
        if manifest.get("schema") != _SCHEMA:
            raise RunFolderError(f"{_MANIFEST} must have schema {_SCHEMA}, got {manifest.get('schema')!r}")
        if manifest.get("sha256") != _sealed(manifest)["sha256"]:
            raise RunFolderError(f"{_MANIFEST} was edited: its content does not match its sha256")
        config = _read_json(path / _CONFIG)
        if _hash_file(path / _CONFIG) != manifest["config_sha256"]:
            raise RunFolderError(f"{_CONFIG} was edited: its SHA-256 is not the one in {_MANIFEST}")
        run = cls(path, config, manifest)
        for file in {**manifest["files"], **manifest["pending"]}:
            run._verify(file)
        run._settle()
        return run

    @property
    def status(self) -> str:
        """``"running"``, ``"done"`` or ``"failed"``. A run that was killed says ``"running"``."""
        return str(self.manifest["status"])

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that are there."""
        return tuple(sorted(name[: -len(".parquet")] for name in self.manifest["files"] if name.endswith(".parquet")))

    def write_table(self, name: str, table: pl.DataFrame) -> Path:
        """Writes ``NAME.parquet``, replacing an older one whole.

        Raises:
            RunFolderError: As `write_file`.
        """
        return self.write_file(f"{name}.parquet", lambda path: table.write_parquet(path, statistics=True))

    def read_table(self, name: str) -> pl.DataFrame:
        """Reads ``NAME.parquet`` and verifies that it is what the run wrote.

        Raises:
            RunFolderError: There is no such table, or its file is missing, torn or edited.
        """
        file = f"{name}.parquet"
        if file not in self.manifest["files"]:
            raise RunFolderError(f"the run has no table {name!r}; tables are {', '.join(self.tables) or 'none'}")
        self._verify(file)
        try:
            return pl.read_parquet(self.path / file)
        except pl.exceptions.PolarsError as error:
            raise RunFolderError(f"{file} is no parquet table: {error}") from error

    def write_file(self, name: str, write: Callable[[Path], Any]) -> Path:
        """Writes any file (a figure, a report) whole and records its SHA-256.

        ``write`` is called with the path to write to, whose suffix is that of ``name``.

        Raises:
            RunFolderError: The name is no plain name, or one of the folder's own.
        """
        if not _NAME.fullmatch(name) or name in (_CONFIG, _MANIFEST, "checkpoints"):
            raise RunFolderError(f"a file's name must be letters, digits, '.', '_', '-' and none of ours, got {name!r}")
        draft = self.path / f".{Path(name).stem}.{os.getpid()}.tmp{Path(name).suffix}"
        try:
            write(draft)
            digest = _hash_file(draft)
            # The manifest learns of the new content before the file is replaced: killed in between, both are known.
            self.manifest["pending"][name] = digest
            self._save()
            _move(draft, self.path / name)
        finally:
            draft.unlink(missing_ok=True)
        self.manifest["files"][name] = digest
        del self.manifest["pending"][name]
        self._save()
        return self.path / name

    def finish(self, failure: str | None = None) -> None:
        """Records that the run is done, or what it failed of."""
        text = failure and re.sub(r"[^\s'\",;()]+", lambda word: portable(word.group()), failure)
        self.manifest |= {"status": "failed" if failure else "done", "failure": text}
        self._save()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.finish(None if kind is None else f"{kind.__name__}: {error}")

    def _save(self) -> None:
        self.manifest["wall_seconds"] = round(self._before + time.monotonic() - self._began, 3)
        self.manifest = _sealed(self.manifest)
        _replace(self.path / _MANIFEST, _json_bytes(self.manifest))

    def _verify(self, file: str) -> None:
        """Refuses a file that is neither what was recorded nor what was being written when the run was killed."""
        known = [self.manifest[part].get(file) for part in ("files", "pending")]
        if not (self.path / file).is_file():
            if known[0] is None:
                return  # killed before its first version was in place
            raise RunFolderError(f"{file} is missing from {self.path.name}, whose {_MANIFEST} lists it")
        if _hash_file(self.path / file) not in known:
            raise RunFolderError(f"{file} was edited or torn: its SHA-256 is not the one in {_MANIFEST}")

    def _settle(self) -> None:
        """Takes over what a killed run had put in place and not yet recorded."""
        for file, digest in self.manifest["pending"].items():
            if (self.path / file).is_file() and _hash_file(self.path / file) == digest:
                self.manifest["files"][file] = digest
        self.manifest["pending"] = {}


def portable(text: str) -> str:
    """A path, or ``word:path`` or ``word=path``, whose folders are left out if it is absolute; other text as it is."""
    head, tail = re.findall(r"\A((?:[\w.-]{2,}[:=])*)(.*)", text, re.DOTALL)[0]
    kind = next((k for k in (PurePosixPath, PureWindowsPath) if k(tail).is_absolute()), None)
    return text if kind is None or tail.startswith("//") else head + kind(tail).name  # "//": an address, not a file


def _document(config: Any) -> dict[str, Any]:
    """The content of ``config.json``."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"config must be an instance of a frozen dataclass, got {config!r}")
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(f"config must be frozen, got the dataclass {type(config).__name__}, which is not")
    return {"class": type(config).__qualname__, "fields": _plain(config, "config")}


def _plain(value: Any, where: str) -> Any:
    """A value in JSON's words; ``where`` names it in errors."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        return _plain(np.asarray(value).tolist(), where)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where} must be finite to be stored as JSON, got {value!r}")
        return value
    if isinstance(value, (str, os.PathLike)):
        return portable(os.fspath(value))
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise TypeError(f"{where} must be made of numbers, strings, enums, paths, sequences and dataclasses, got {value!r}")


def _first_difference(old: Any, new: Any, where: str = "") -> str:
    """The first field in which two documents differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                inner = where if key == "fields" else f"{where}.{key}".lstrip(".")
                return _first_difference(old.get(key), new.get(key), inner)
    return f"{where} was {old!r} and is {new!r}"


def _describe_input(name: str, file: Path) -> dict[str, Any]:
    """Name, bytes and SHA-256 of a file that the run reads."""
    try:
        return {"file": file.name, "bytes": file.stat().st_size, "sha256": _hash_file(file)}
    except OSError as error:
        problem = f"{file.name}: {error.strerror}"
        raise RunFolderError(f"inputs[{name!r}] must be a file that can be read, got {problem}") from error


def _new_manifest() -> dict[str, Any]:
    """A run that has begun, and what it depends on beside its configuration."""
    versions: dict[str, str] = {}
    for package in _PACKAGES.split():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    devices = jax.devices()
    return {
        "schema": _SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [portable(part) for part in sys.argv],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "devices": [device.device_kind for device in devices],
        "backend": devices[0].platform,
        "x64": jax.config.read("jax_enable_x64"),
        "xla_flags": [portable(flag) for flag in os.environ.get("XLA_FLAGS", "").split()],
        "cpu_count": os.cpu_count(),
        "git": _git_revision(),
        "status": "running",
        "failure": None,
        "wall_seconds": 0.0,
        "files": {},
        "pending": {},
    }


def _git_revision() -> dict[str, Any] | None:
    """Revision of the repository that this very file is tracked in, and whether its files were changed."""
    here = Path(__file__).resolve()

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # not some other repository that we are installed in
        return {"revision": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    if not path.is_file():
        raise RunFolderError(f"{path.name} is missing from {path.parent.name}: this is no run folder")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _json_bytes(content)  # refuses NaN, which json.loads takes
    except ValueError as error:
        raise RunFolderError(f"{path.name} is no valid JSON, torn or edited: {error}") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path.name} must hold a JSON object, got {type(content).__name__}")
    return content


def _json_bytes(content: Any) -> bytes:
    """Canonical JSON: sorted keys, two spaces, no NaN, a newline at the end."""
    return (json.dumps(content, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sealed(manifest: dict[str, Any]) -> dict[str, Any]:  # with the hash of all else in it
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return {**rest, "sha256": _sha256(_json_bytes(rest))}


def _replace(path: Path, content: bytes) -> None:
    """Writes a file whole: beside its place, then moved there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_bytes(content)
    _move(draft, path)


def _move(draft: Path, path: Path) -> None:
    """Puts a finished file in its place, once it is on the disk."""
    with draft.open("rb+") as handle:
        os.fsync(handle.fileno())
    os.replace(draft, path)
