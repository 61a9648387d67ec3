"""What iPinYou logs look like: column names, and how a file's layout is told from its first lines."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal

Layout = Literal["raw", "formalised", "yzx", "yzbx", "pctr"]
Kind = Literal["impression", "click", "conversion"]

RAW_COLUMNS: Final = (
    *("bidid", "timestamp", "logtype", "ipinyouid", "useragent", "IP", "region", "city", "adexchange", "domain"),
    *("url", "urlid", "slotid", "slotwidth", "slotheight", "slotvisibility", "slotformat", "slotprice"),
    *("creative", "bidprice", "payprice", "keypage", "advertiser", "usertag"),
)
"""The 24 columns of the season 2 and 3 impression, click and conversion logs (Liao et al., ADKDD 2014)."""

_BEFORE: Final = ("click", "weekday", "hour")
_AFTER: Final = ("nclick", "nconv")
_COLUMNS: Final[dict[int, tuple[Layout, tuple[str, ...]]]] = {
    24: ("raw", RAW_COLUMNS),
    26: ("raw", RAW_COLUMNS + _AFTER),
    27: ("formalised", _BEFORE + RAW_COLUMNS),
    29: ("formalised", _BEFORE + RAW_COLUMNS + _AFTER),
}
_SYNONYMS: Final = {"nconversation": "nconv", "nconversion": "nconv", "ip": "IP"}
_KINDS: Final[dict[str, Kind]] = {"1": "impression", "2": "click", "3": "conversion"}
_PCTR_COLUMNS: Final = ("click", "price", "pctr", "index")

LAYOUTS: Final[tuple[Layout, ...]] = ("raw", "formalised", "yzx", "yzbx", "pctr")

EXPECTED: Final = (
    "expected one of: raw season 2 or 3 (24 tab-separated columns, 26 with nclick and nconv); "
    "formalised make-ipinyou-data (27, or 29 with nclick and nconv); "
    "'y z x...' or 'y z b x...' (features as id:1); 'click price pctr [index]' (3 or 4 columns)"
)

PROBE_LINES: Final = 50
"""Lines of a file from which its layout is told."""


class LogError(ValueError):
    """A file is no such log, or holds too many bad lines."""


@dataclasses.dataclass(frozen=True)
class FileLayout:
    """How one file is laid out.

    Attributes:
        name: Family of layouts.
        columns: Column names in the file's order; empty for the sparse layouts.
        header: Whether the first line names the columns.
        kind: What its rows are; only raw logs hold anything but impressions.
    """

    name: Layout
    columns: tuple[str, ...]
    header: bool
    kind: Kind


def detect_layout(lines: Sequence[str], where: str) -> FileLayout:
    """Tells the layout of a file from its first lines.

    Args:
        lines: The first lines, without line ends; `PROBE_LINES` are enough.
        where: How messages name the file.

    Returns:
        The layout.

    Raises:
        LogError: The lines belong to no known layout; the message says what was found and what was expected.
    """
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise LogError(f"{where} is empty; {EXPECTED}")
    widths = Counter(line.count("\t") + 1 for line in lines)
    width = widths.most_common(1)[0][0]
    if width in _COLUMNS:
        return _detect_columns(lines, width, where)
    families = Counter(_family(line) for line in lines)
    strange = families.pop(None, 0)
    family, count = families.most_common(1)[0] if families else (None, 0)
    # A header is one strange line, and may stand above a single row.
    family = family if count >= strange else None
    if family == "yzx" or family == "yzbx":
        return FileLayout(family, (), _family(lines[0]) is None and lines[0].strip()[:1].isalpha(), "impression")
    if family == "pctr":
        return _detect_pctr(lines, where)
    found = f"{width} tab-separated column{'s' if width > 1 else ''}"
    raise LogError(f"{where} is no iPinYou log: it holds {found}, first line {_short(lines[0])!r}; {EXPECTED}")


def _detect_columns(lines: Sequence[str], width: int, where: str) -> FileLayout:
    name, columns = _COLUMNS[width]
    first = [_SYNONYMS.get(field.strip().lower(), field.strip().lower()) for field in lines[0].split("\t")]
    header = "timestamp" in first or "bidid" in first
    if header:
        unknown = sorted(set(first) - set(columns)) or sorted(set(columns) - set(first))
        if unknown:
            raise LogError(
                f"{where}: header column {unknown[0]!r} is unknown or missing; "
                f"a header of {width} columns names {', '.join(columns)}"
            )
        columns = tuple(first)
    rows = [line.split("\t") for line in lines[header:] if line.count("\t") + 1 == width]
    if not rows:
        raise LogError(f"{where} holds a header and no rows")
    stamp = columns.index("timestamp")
    if sum(bool(re.fullmatch(r"\d{14}(\d{3})?", row[stamp])) for row in rows) * 2 < len(rows):
        raise LogError(
            f"{where} has {width} tab-separated columns like a {name} log, but column {stamp + 1} (timestamp) holds "
            f"{_short(rows[0][stamp])!r}; expected yyyyMMddHHmmssSSS; {EXPECTED}"
        )
    logtype = Counter(row[columns.index("logtype")] for row in rows).most_common(1)[0][0]
    if logtype not in _KINDS:
        raise LogError(
            f"{where}: logtype is {_short(logtype)!r}; allowed are 1 (impression), 2 (click), 3 (conversion)"
        )
    return FileLayout(name, columns, header, _KINDS[logtype])


def _detect_pctr(lines: Sequence[str], where: str) -> FileLayout:
    widths = Counter(len(tokens(line)) for line in lines if _family(line) == "pctr")
    columns = _PCTR_COLUMNS[: widths.most_common(1)[0][0]]
    header = _family(lines[0]) is None and lines[0].strip()[:1].isalpha()
    if header:
        named = tuple(field.lower() for field in tokens(lines[0]))
        if named != columns:
            raise LogError(f"{where}: header names {', '.join(named)}; expected {', '.join(columns)}, in that order")
    return FileLayout("pctr", columns, header, "impression")


def _family(line: str) -> Layout | None:
    """The layout that one line looks like, among those that are not told by their count of tabs."""
    fields = line.split()
    if len(fields) >= 3 and ":" in fields[2]:
        return "yzx"
    if len(fields) >= 4 and ":" in fields[3]:
        return "yzbx"
    fields = tokens(line)
    if len(fields) in (3, 4) and all(_is_number(field) for field in fields[:3]):
        return "pctr"
    return None


def tokens(line: str) -> list[str]:
    """Fields of a ``click price pctr`` line, whose separator is a space, a tab or a comma."""
    return line.replace(",", " ").split()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _short(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
