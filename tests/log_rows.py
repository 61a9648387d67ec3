"""Writes synthetic log rows in every layout, for tests; none is taken from a real log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adarena.envs.data.layouts import RAW_COLUMNS

SAMPLES = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
VISIBILITIES = ("FirstView", "SecondView", "ThirdView", "FourthView", "FifthView", "OtherView", "Na")


def raw_fields(i: int = 0, **changes: Any) -> dict[str, str]:
    """The 24 fields of row ``i``: five minutes apart within one day."""
    minute = i * 5 % 1440
    fields = {
        "bidid": f"bid{i:08d}",
        "timestamp": f"20131021{minute // 60:02d}{minute % 60:02d}07123",
        "logtype": "1",
        "ipinyouid": f"user{i % 11}",
        "useragent": "Mozilla/5.0 (synthetic)",
        "IP": "10.0.0.*",
        "region": str(1 + i % 3),
        "city": str(1 + i % 7),
        "adexchange": str(1 + i % 4),
        "domain": f"domain{i % 5}",
        "url": f"url{i % 13}",
        "urlid": "null",
        "slotid": f"slot{i % 17}",
        "slotwidth": "300",
        "slotheight": "250",
        "slotvisibility": VISIBILITIES[i % 7],
        "slotformat": "Na",
        "slotprice": str(i % 3 * 10),
        "creative": f"creative{i % 2}",
        "bidprice": "294",
        "payprice": str(20 + i % 200),
        "keypage": "null",
        "advertiser": "9999",
        "usertag": "10063,10083",
    }
    return {**fields, **{name: str(value) for name, value in changes.items() if name in fields}}


def raw_row(i: int = 0, **changes: Any) -> str:
    """A line of 24 columns; ``nclick`` and ``nconv`` make it 26."""
    after = [str(changes[name]) for name in ("nclick", "nconv") if name in changes]
    return "\t".join([*raw_fields(i, **changes).values(), *after])


def formalised_row(i: int = 0, *, click: Any = 0, weekday: Any = 1, hour: Any = None, **changes: Any) -> str:
    """A line of 27 columns; ``nclick`` and ``nconv`` make it 29."""
    own_hour = raw_fields(i, **changes)["timestamp"][8:10] if hour is None else hour
    return "\t".join([str(click), str(weekday), str(own_hour), raw_row(i, **changes)])


def header(*, before: bool, after: bool = False) -> str:
    """A line of column names, as make-ipinyou-data writes it."""
    first = ("click", "weekday", "hour") if before else ()
    return "\t".join([*first, *RAW_COLUMNS, *(("nclick", "nconversation") if after else ())])


def write(path: Path, lines: list[str], end: str = "\n") -> Path:
    """Writes lines, each ended."""
    path.write_bytes("".join(line + end for line in lines).encode())
    return path
