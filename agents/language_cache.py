"""Answers of language models on disk: one JSON file for each question, named by a hash of all that the answer hangs on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adarena.agents.offline.thoughts import parse, spell


class DamagedError(ValueError):
    """A file that is not what was stored for the question."""


class AnswerCache:
    """A folder of answers.

    Args:
        folder: Where; made if there is none.

    Raises:
        ValueError: ``folder`` cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            allowed = "None or a folder that can be written to"
            raise ValueError(f"cache must be {allowed}, got {str(folder)!r}: {error.strerror}") from None

    def place(self, question: Mapping[str, Any]) -> Path:
        """The file of a question, which is anything that JSON can write."""
        canonical = json.dumps(question, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return self.folder / f"{hashlib.sha256(canonical.encode()).hexdigest()}.json"

    def get(self, question: Mapping[str, Any]) -> np.ndarray | None:
        """The chain ``[L]`` int32 that was answered; None if the question was not asked before.

        Raises:
            DamagedError: The file holds something else.
        """
        place = self.place(question)
        try:
            content = json.loads(place.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            raise DamagedError(f"{place.name} cannot be read") from None
        if not isinstance(content, dict) or content.get("question") != json.loads(json.dumps(question)):
            raise DamagedError(f"{place.name} belongs to another question")
        answer = content.get("answer")
        try:
            return parse(answer if isinstance(answer, dict) else {})
        except ValueError as error:
            raise DamagedError(f"{place.name} holds no chain: {error}") from None

    def put(self, question: Mapping[str, Any], chain: np.ndarray) -> None:
        """Stores an answer.

        Raises:
            OSError: It cannot be written.
        """
        write_json(self.place(question), {"question": question, "answer": spell(chain)})


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file whole, or not at all.

    Raises:
        OSError: It cannot be written.
    """
    text = json.dumps(content, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
