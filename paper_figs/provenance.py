"""Where a figure comes from: the commands, configurations and versions behind its table, and what drew it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adarena.experiments.results import records_for
from adarena.experiments.whole_files import hash_file

_DRAWN_WITH = ("adarena", "matplotlib", "numpy", "polars")


def provenance(results: Path, name: str, table: str) -> dict[str, Any]:
    """What made a figure; the same for the same results.

    Keys: ``figure``; ``table`` and its ``table_sha256``; ``drawn_with``, versions; ``made_by``, one entry a run behind the
    table: its ``name``, ``command`` (empty where none was recorded), ``config_sha256``, ``versions``, ``git`` revision.

    Args:
        results: Folder with the table.
        name: The figure's name.
        table: File name of the table that it is drawn from.

    Raises:
        RunFolderError: The folder's ``runs.json``, manifest or configuration is torn or edited.
    """
    file = Path(results) / table
    made_by = [
        {
            "name": one.name,
            "command": shlex.join(one.command),
            "config_sha256": one.config_sha256,
            "versions": one.versions,
            "git": one.about.get("git"),
        }
        for one in records_for(Path(results), file.stem)
    ]
    return {
        "figure": name,
        "table": table,
        "table_sha256": hash_file(file) if file.is_file() else None,
        "drawn_with": dict(_drawn_with()),
        "made_by": made_by,
    }


def _drawn_with() -> Iterator[tuple[str, str]]:
    for package in _DRAWN_WITH:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # a checkout that is not installed
            yield package, importlib.metadata.version(package)


def metadata(about: dict[str, Any], ending: str) -> dict[str, str | None]:
    """`provenance` as fields of a file's own metadata, time stamps left out.

    Args:
        about: What `provenance` gives; nothing but the absence of time stamps where it is empty.
        ending: ``"pdf"``, ``"png"`` or ``"svg"``.
    """
    none: dict[str, dict[str, str | None]] = {
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
    }
    if not about:
        return none[ending]
    runs = [
        f"{one['name']}: {one['command'] or 'command not recorded'}; configuration SHA-256 {one['config_sha256']}; "
        + ", ".join(f"{name} {version}" for name, version in sorted(one["versions"].items()))
        for one in about["made_by"]
    ]
    title = f"adarena: {about['figure']}"
    drawn = ", ".join(f"{name} {version}" for name, version in sorted(about["drawn_with"].items()))
    text = " | ".join([f"{about['table']} SHA-256 {about['table_sha256']}", *runs, f"drawn with {drawn}"])
    hashes = " ".join(one["config_sha256"] for one in about["made_by"])
    fields: dict[str, dict[str, str | None]] = {
        "pdf": {"Title": title, "Subject": text, "Keywords": hashes},
        "png": {"Title": title, "Description": text},
        "svg": {"Title": title, "Description": text},
    }
    return {**none[ending], **fields[ending]}
