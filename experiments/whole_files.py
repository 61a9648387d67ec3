"""Files that are there whole or not at all, and the hashes that tell whether they are still what was written."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def json_bytes(content: Any) -> bytes:
    """Canonical JSON: sorted keys, two spaces, no NaN, a newline at the end.

    Raises:
        ValueError: A number is not finite.
    """
    return (json.dumps(content, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with the hash of all else in it under ``"sha256"``."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return {**rest, "sha256": sha256(json_bytes(rest))}


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole: beside its place, then moved there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_bytes(content)
    move_whole(draft, path)


def move_whole(draft: Path, path: Path) -> None:
    """Puts a finished file in its place, once it is on the disk."""
    with draft.open("rb+") as handle:
        os.fsync(handle.fileno())
    os.replace(draft, path)
