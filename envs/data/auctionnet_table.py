"""Reading and writing of AuctionNet's tables: every row that is not one is left out, counted, and named."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from tqdm import tqdm

from adarena.envs.data.layouts import LogError
from adarena.envs.data.report import BadLine

_FIRST_BAD: Final = 20
_CHUNK: Final = 32 << 20  # bytes of text parsed at once
_WHOLE: Final = float(2**53)

SUFFIXES: Final = (".csv", ".parquet")
"""Formats, by the end of the file's name."""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: AuctionNet's name.
        dtype: Type in a frame.
        low: Smallest value allowed.
        high: Largest.
    """

    name: str
    dtype: type[pl.DataType]
    low: float = 0.0
    high: float = np.inf

    @property
    def allowed(self) -> str:
        """What may stand there, in words."""
        kind = "a whole number" if self.dtype == pl.Int64 else "a number"
        if np.isinf(self.low):
            return f"{self.name} must be {kind}"
        return f"{self.name} must be {kind} " + (
            f"of at least {self.low:g}" if np.isinf(self.high) else f"from {self.low:g} to {self.high:g}"
        )


@dataclasses.dataclass(frozen=True)
class TableReport:
    """What was read and what was left out.

    Attributes:
        file: Name of the file.
        rows_read: Lines that are not blank, without the header.
        rows_kept: Rows in the frame.
        bad: Rows left out, by the first thing wrong with each.
        first_bad: The first 20 of them.
        others: Columns that the table does not have, passed over.
    """

    file: str
    rows_read: int
    rows_kept: int
    bad: dict[str, int]
    first_bad: tuple[BadLine, ...]
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.file}: {self.rows_read} rows read, {self.rows_kept} kept"]
        if self.others:
            lines.append(f"columns passed over: {', '.join(self.others)}")
        lines += [f"{count} bad rows left out: {reason}" for reason, count in self.bad.items()]
        lines += [f"  {line}" for line in self.first_bad]
        return "\n".join(lines)


class Gathered:
    """What is found while a file is read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = 0
        self.reasons: Counter[str] = Counter()
        self.first: list[BadLine] = []
        self.others: tuple[str, ...] = ()

    def bad(self, number: int, reason: str, value: object) -> None:
        """Notes a bad row."""
        self.reasons[reason] += 1
        if len(self.first) < _FIRST_BAD:
            self.first.append(BadLine(self.name, number, reason, str(value)[:60]))

    def report(self, kept: int, max_bad_share: float) -> TableReport:
        """The report; refuses a table with too many bad rows.

        Raises:
            LogError: So many are bad.
        """
        bad = self.reasons.total()
        if bad > max_bad_share * self.rows or (bad and bad == self.rows):
            lines = "\n".join(f"  {line}" for line in self.first[:5])
            raise LogError(
                f"{bad} of {self.rows} rows are bad, {max_bad_share:.3%} allowed (max_bad_share={max_bad_share}); "
                f"the first:\n{lines}"
            )
        return TableReport(self.name, self.rows, kept, dict(self.reasons.most_common()), tuple(self.first), self.others)


def checked_path(path: str | Path, max_bad_share: float) -> Path:
    """The path of a table to read, if it and the share are allowed."""
    if not 0.0 <= max_bad_share < 1.0:
        raise ValueError(f"max_bad_share must be a share from 0 to below 1, got {max_bad_share!r}")
    path = Path(path)
    if not path.is_file():
        raise LogError(f"{path}: no such file; expected a table of AuctionNet, .csv or .parquet")
    check_format(path)
    return path


def check_format(path: Path) -> None:
    """Refuses a path that names no format."""
    if path.suffix not in SUFFIXES:
        raise LogError(f"{path}: tables are written as {' or '.join(SUFFIXES)}, got {path.suffix or 'no suffix'}")


def read_parquet(path: Path) -> pl.DataFrame:
    """A parquet file as it is.

    Raises:
        LogError: It is none.
    """
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise LogError(f"{path} is no parquet file: {error}") from error


def write_frame(frame: pl.DataFrame, path: Path, whole: Sequence[str] = ()) -> None:
    """Writes a frame; in CSV those of the columns ``whole`` that hold only whole numbers are written without a point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        frame.write_parquet(path)
        return
    plain = [n for n in whole if bool((frame[n] == frame[n].round()).all()) and bool((frame[n].abs() < _WHOLE).all())]
    frame.with_columns(pl.col(plain).cast(pl.Int64)).write_csv(path)


def needed(columns: Sequence[str], wanted: Sequence[Column], name: str) -> tuple[str, ...]:
    """The columns that are not wanted.

    Raises:
        LogError: One that is wanted is missing, or stands there twice.
    """
    names = [column.name for column in wanted]
    missing = [column for column in names if column not in columns]
    if missing:
        raise LogError(
            f"{name}: no column {', '.join(missing)}; the table has {len(names)} columns: {', '.join(names)}"
        )
    twice = [column for column in columns if list(columns).count(column) > 1]
    if twice:
        raise LogError(f"{name}: the column {twice[0]} stands there twice")
    return tuple(column for column in columns if column not in names)


def good_rows(
    frame: pl.DataFrame, wanted: Sequence[Column], gathered: Gathered, numbers: Sequence[int] | None = None
) -> pl.DataFrame:
    """The rows of a frame that hold what they may, in the columns and types wanted; the others are noted.

    Args:
        frame: Columns of numbers, or of strings that may name numbers.
        wanted: The columns.
        gathered: Where to note bad rows.
        numbers: Line of each row; 1, 2, ... by default.
    """
    gathered.others = needed(frame.columns, wanted, gathered.name)
    gathered.rows += frame.height
    typed = frame.select(_typed(column, frame.schema[column.name]) for column in wanted)
    wrong = typed.select(_wrong(column) for column in wanted)
    bad = wrong.select(pl.any_horizontal(pl.all())).to_series()
    if not bad.any():
        return typed
    for row in bad.arg_true():
        column = next(column for column in wanted if wrong[column.name][row])
        gathered.bad(numbers[row] if numbers is not None else row + 1, column.allowed, frame[column.name][row])
    return typed.filter(~bad)


def _typed(column: Column, dtype: pl.DataType) -> pl.Expr:
    """The column in its type; null where it cannot be."""
    value = pl.col(column.name)
    if dtype == pl.String:
        value = value.str.strip_chars(' "\r').cast(pl.Float64, strict=False)
    elif not dtype.is_numeric() and dtype != pl.Boolean and dtype != pl.Null:
        return pl.lit(None, column.dtype).alias(column.name)
    if column.dtype != pl.Int64 or dtype.is_integer():
        return value.cast(column.dtype, strict=False)
    number = value.cast(pl.Float64, strict=False)
    whole = number.is_finite() & (number == number.round()) & (number.abs() < _WHOLE)
    return pl.when(whole).then(number).cast(pl.Int64, strict=False).alias(column.name)


def _wrong(column: Column) -> pl.Expr:
    """Whether the value may not stand in the column."""
    value = pl.col(column.name)
    within = (value >= column.low) & (value <= column.high)
    if column.dtype == pl.Float64:
        within &= value.is_finite()
    return (~within).fill_null(True).alias(column.name)


def csv_frames(path: Path, wanted: Sequence[Column], gathered: Gathered) -> Iterator[pl.DataFrame]:
    """Good rows of a CSV file of numbers, piece by piece.

    Raises:
        LogError: There is no header, or it lacks columns.
    """
    with (
        path.open("rb") as file,
        tqdm(
            total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, delay=2.0, disable=None, leave=False
        ) as bar,
    ):
        header = [name.strip(' "\r\n') for name in file.readline().decode("utf-8-sig", "replace").split(",")]
        gathered.others = needed(header, wanted, gathered.name)
        number = 2
        while block := file.read(_CHUNK):
            block += file.readline()  # up to the end of a line
            yield _block(block, header, wanted, gathered, number)
            number += block.count(b"\n")
            bar.update(len(block))


def _block(block: bytes, header: list[str], wanted: Sequence[Column], gathered: Gathered, number: int) -> pl.DataFrame:
    """Good rows of whole lines of text, the first of which is line ``number``."""
    types = {column.name: column.dtype for column in wanted}
    schema = {name: types.get(name, pl.String) for name in header}
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    try:  # nearly every block is in order, and polars reads it at once; it would not say which line is not
        frame = pl.read_csv(block, has_header=False, schema=schema, quote_char=None).select(list(types))
    except pl.exceptions.PolarsError:
        frame = None
    any_wrong = pl.any_horizontal(_wrong(column).any() for column in wanted)
    if frame is not None and frame.height == lines and not frame.select(any_wrong).item():
        gathered.rows += lines
        return frame
    return _line_by_line(block.decode("utf-8", "replace"), header, wanted, gathered, number)


def _line_by_line(
    text: str, header: list[str], wanted: Sequence[Column], gathered: Gathered, number: int
) -> pl.DataFrame:
    rows, numbers, others = [], [], gathered.others
    for at, line in enumerate(text.removesuffix("\n").split("\n"), start=number):
        if not line.strip():
            continue
        fields = line.split(",")
        if len(fields) == len(header):
            rows.append(fields)
            numbers.append(at)
        else:
            gathered.rows += 1
            gathered.bad(at, f"a row must have {len(header)} fields", f"{len(fields)} fields: {line.strip()}")
    frame = pl.DataFrame(rows, schema=dict.fromkeys(header, pl.String), orient="row")
    good = good_rows(frame, wanted, gathered, numbers)
    gathered.others = others
    return good
