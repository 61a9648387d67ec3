"""Files as pieces of whole lines: plain or bz2, never in memory at once."""

from __future__ import annotations

import bz2
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, NamedTuple, cast

from adarena.envs.data.layouts import EXPECTED, PROBE_LINES, LogError

CHUNK_BYTES: Final = 8 << 20
"""Bytes of text held at once; a longer line is refused."""

_ARCHIVES: Final = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z",
    b"\xfd7zX": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


class Piece(NamedTuple):
    """Consecutive whole lines of a file.

    Attributes:
        lines: Lines without their ends.
        first_number: 1-based number of the first.
        odd_lines: Lines that are not UTF-8; their odd bytes read as U+FFFD.
        consumed: Bytes of the file on disk read so far.
    """

    lines: list[str]
    first_number: int
    odd_lines: int
    consumed: int


def probe_lines(path: Path) -> list[str]:
    """The first lines of a file, from which its layout is told."""
    for piece in read_pieces(path, 1 << 18):
        return piece.lines[:PROBE_LINES]
    return []


def read_pieces(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Piece]:
    """Reads a file in pieces of about ``chunk_bytes`` of text.

    Raises:
        LogError: The file is binary, an archive, a damaged bz2 stream, or holds a line longer than a piece.
    """
    number, rest = 1, b""
    with path.open("rb") as file:
        stream = _open(file, path)
        while block := _read(stream, chunk_bytes, path, number):
            if b"\0" in block:
                raise LogError(f"{path} is not text: it holds zero bytes after line {number}; {EXPECTED}")
            block = rest + block
            end = block.rfind(b"\n") + 1
            block, rest = block[:end], block[end:]
            if len(rest) > CHUNK_BYTES:
                raise LogError(f"{path}, line {number}: longer than {CHUNK_BYTES} bytes, no line of a log; {EXPECTED}")
            if block:
                piece = _piece(block, number, file.tell())
                yield piece
                number += len(piece.lines)
        if rest:
            yield _piece(rest, number, file.tell())


def _open(file: IO[bytes], path: Path) -> IO[bytes]:
    magic = file.read(4)
    file.seek(0)
    for mark, name in _ARCHIVES.items():
        if magic.startswith(mark):
            raise LogError(f"{path} is a {name} archive; unpack it, or pass .txt or .bz2")
    if magic.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.BZ2File(file))
    if path.suffix == ".bz2" and magic:
        raise LogError(f"{path} is named .bz2 but holds no bz2 stream (it starts with {magic!r})")
    return file


def _read(stream: IO[bytes], size: int, path: Path, number: int) -> bytes:
    try:
        return stream.read(size)
    except (OSError, EOFError) as error:
        raise LogError(f"{path}: damaged or cut bz2 stream after line {number - 1} ({error})") from error


def _piece(block: bytes, number: int, consumed: int) -> Piece:
    odd = 0
    try:
        text = block.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        text = block.decode("utf-8", errors="replace").removeprefix("\ufeff")
    text = text.removesuffix("\n")
    lines = text.split("\n")
    if "\ufffd" in text:
        odd = sum("\ufffd" in line for line in lines)
    return Piece(lines, number, odd, consumed)
