"""Malformed logs: each is refused, or its bad lines counted, and the message says where, what and what is allowed."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from log_rows import formalised_row, header, raw_row, write

from adarena.envs.data import LogError, read_log

EXPECTS = "expected one of: raw season 2 or 3"


def _text(text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "log.txt").write_text(text)
        return folder / "log.txt"

    return make


def _bytes(data: bytes, name: str = "log.txt") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def _folder(*files: tuple[str, str]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name, text in files:
            (folder / name).write_text(text)
        return folder

    return make


def _rows(**changes: object) -> str:
    return "\n".join(raw_row(i, **changes) for i in range(5)) + "\n"


_PACKED = bz2.compress(("\n".join(raw_row(i) for i in range(3000))).encode())

REFUSED: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "missing": (lambda folder: folder / "nothing.txt", ["nothing.txt", "no such file or directory", EXPECTS]),
    "empty": (_text(""), ["log.txt is empty", EXPECTS]),
    "blank": (_text("\n \n\n"), ["log.txt is empty", EXPECTS]),
    "empty directory": (_folder(), ["the directory holds no log (0 other files)", EXPECTS]),
    "directory without logs": (
        _folder(("README.md", "hello"), ("notes.txt", "a b\n")),
        ["holds no log (2 other files)"],
    ),
    "binary": (_bytes(b"\x00\x01\x02" * 100), ["log.txt is not text", "zero bytes", EXPECTS]),
    "gzip": (_bytes(gzip.compress(b"0 1 2:1\n"), "log.gz"), ["log.gz is a gzip archive", ".txt or .bz2"]),
    "bz2 in name only": (_bytes(b"0 70 1:1\n", "log.bz2"), ["log.bz2 is named .bz2 but holds no bz2 stream"]),
    "cut bz2": (_bytes(_PACKED[: len(_PACKED) // 2], "imp.bz2"), ["imp.bz2", "damaged or cut bz2 stream"]),
    "five columns": (_text("a\tb\tc\td\te\n" * 5), ["no iPinYou log", "5 tab-separated columns", EXPECTS]),
    "prose": (_text("It was a dark and stormy night.\n"), ["no iPinYou log", "It was a dark", EXPECTS]),
    "24 columns of nothing": (
        _text("\t".join("abcdefghijklmnopqrstuvwx") + "\n"),
        ["column 2 (timestamp)", "'b'", "yyyyMMddHHmmssSSS"],
    ),
    "unknown logtype": (_text(_rows(logtype=9)), ["logtype is '9'", "1 (impression), 2 (click), 3 (conversion)"]),
    "click log": (_text(_rows(logtype=2)), ["click log (logtype 2)", "zeros", "clicks="]),
    "conversion log": (_text(_rows(logtype=3)), ["conversion log (logtype 3)", "pass the impression log"]),
    "unknown header": (
        _text(header(before=True).replace("payprice", "paid") + "\n" + formalised_row(0) + "\n"),
        ["header column 'paid'", "payprice"],
    ),
    "header alone": (_text(header(before=True) + "\n"), ["a header and no rows"]),
    "header of pctr": (
        _text("price click pctr\n70 0 0.1\n"),
        ["header names price, click, pctr", "click, price, pctr"],
    ),
    "several layouts": (
        _folder(("a.txt", formalised_row(0) + "\n"), ("b.yzx.txt", "0 70 1:1\n")),
        ["logs of several layouts", "formalised (a.txt)", "yzx (b.yzx.txt)"],
    ),
    "line without end": (_text("x" * (20 << 20)), ["longer than", "no line of a log"]),
    "prices all bad": (_text("0 free 0.1\n0 1 2\n0 1 3\n0 1 4\n"), ["4 of 4 lines are bad", "line 2", "pctr must be"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_log_is_refused_with_what_was_expected(tmp_path: Path, name: str) -> None:
    make, parts = REFUSED[name]
    path = make(tmp_path)
    with pytest.raises(LogError) as caught:
        read_log(path)
    for part in parts:
        assert part in str(caught.value)


def _formalised(i: int, **changes: object) -> str:
    return formalised_row(i, **{"nclick": 0, "nconv": 0, **changes})  # type: ignore[arg-type]


def _yzx(i: int) -> str:
    return f"0 {i} 1:1 2:1"


def _yzbx(i: int) -> str:
    return f"0 {i} 30 1:1 2:1"


def _pctr(i: int) -> str:
    return f"0 {i} 0.001"


BAD_LINES: dict[str, tuple[Callable[[int], str], str, str, str]] = {
    "too few columns": (raw_row, raw_row(5).rpartition("\t")[0], "24 tab-separated columns expected", "23"),
    "too many columns": (raw_row, raw_row(5) + "\tx", "24 tab-separated columns expected", "25"),
    "words": (raw_row, "what is this", "24 tab-separated columns expected", "1"),
    "empty bidid": (raw_row, raw_row(5, bidid=""), "bidid must not be empty", ""),
    "month 13": (raw_row, raw_row(5, timestamp="20131321120000000"), "timestamp must be yyyyMMddHHmmssSSS", "20131321"),
    "hour 25": (raw_row, raw_row(5, timestamp="20131021250000000"), "timestamp must be", "20131021250000000"),
    "short timestamp": (raw_row, raw_row(5, timestamp="20131021"), "timestamp must be", "20131021"),
    "click among impressions": (raw_row, raw_row(5, logtype=2), "logtype must be 1 (impression)", "2"),
    "price in words": (
        raw_row,
        raw_row(5, payprice="cheap"),
        "payprice must be a whole number of fen CPM from 0",
        "cheap",
    ),
    "price below 0": (raw_row, raw_row(5, payprice=-3), "payprice must be", "-3"),
    "price empty": (raw_row, raw_row(5, payprice=""), "payprice must be", ""),
    "price beyond reason": (raw_row, raw_row(5, payprice=10**12), "from 0 to 1000000", "1000000000000"),
    "floor in words": (raw_row, raw_row(5, slotprice="low"), "slotprice must be", "low"),
    "bid with a fraction": (raw_row, raw_row(5, bidprice="2.5"), "bidprice must be", "2.5"),
    "click 2": (_formalised, _formalised(5, click=2), "click must be 0 or 1", "2"),
    "weekday 7": (_formalised, _formalised(5, weekday=7), "weekday must be 0 (Sunday) to 6", "7"),
    "hour of another": (_formalised, _formalised(5, hour=17), "hour must be the timestamp's", "17"),
    "clicks below 0": (_formalised, _formalised(5, nclick=-1), "nclick must be a whole number from 0", "-1"),
    "conversions in words": (_formalised, _formalised(5, nconv="many"), "nconv must be a whole number", "many"),
    "y 3": (_yzx, "3 70 1:1", "y (click) must be 0 or 1", "3"),
    "z in words": (_yzx, "0 dear 1:1", "z (market price) must be", "dear"),
    "feature in words": (_yzx, "0 70 a:1", "features must read id:1", "a:1"),
    "feature of weight 2": (_yzx, "0 70 5:2", "features must read id:1", "5:2"),
    "no features": (_yzx, "0 70", "'y z id:1 id:1 ...' expected", "0 70"),
    "b in words": (_yzbx, "0 70 high 1:1", "b (bid) must be", "high"),
    "pctr above 1": (_pctr, "0 70 1.5", "pctr must be a probability from 0 to 1", "1.5"),
    "pctr nan": (_pctr, "0 70 nan", "pctr must be a probability", "nan"),
    "price infinite": (_pctr, "0 inf 0.1", "price must be a number of fen CPM", "inf"),
    "click in words": (_pctr, "yes 70 0.1", "click must be 0 or 1", "yes"),
    "five fields": (_pctr, "0 70 0.1 4 5", "3 columns expected", "5"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_and_skipped_up_to_the_allowed_share(tmp_path: Path, name: str) -> None:
    row, bad, reason, value = BAD_LINES[name]
    lines = [row(i) for i in range(50)]
    lines.insert(29, bad)
    path = write(tmp_path / "some.txt", lines)
    with pytest.raises(LogError) as caught:
        read_log(path)  # One of 51 lines is more than 1 %.
    message = str(caught.value)
    assert "1 of 51 lines are bad" in message
    assert "max_bad_share=0.01" in message
    assert "some.txt, line 30" in message
    assert reason in message
    log = read_log(path, max_bad_share=0.02)
    assert len(log) == log.report.rows_kept == 50
    assert log.report.rows_read == 51
    (found,) = log.report.first_bad
    assert found.number == 30
    assert reason in found.reason
    assert value in found.value
    assert list(log.report.bad.values()) == [1]
    assert "line 30" in str(log.report)


def test_first_twenty_bad_lines_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    lines = [raw_row(i) for i in range(100)] + [raw_row(i, payprice="x") for i in range(30)] + ["y"] * 10
    report = read_log(write(tmp_path / "imp.txt", lines), max_bad_share=0.5).report
    assert [line.number for line in report.first_bad] == list(range(101, 121))
    assert sorted(report.bad.values()) == [10, 30]
    assert report.rows_kept == 100


def test_the_share_is_exact(tmp_path: Path) -> None:
    path = write(tmp_path / "imp.txt", [raw_row(i) for i in range(99)] + ["y"])
    assert len(read_log(path, max_bad_share=0.01)) == 99
    with pytest.raises(LogError, match=r"1 of 100 lines are bad, 0.900% allowed"):
        read_log(path, max_bad_share=0.009)


def test_bad_lines_of_a_joined_click_log_count_too(tmp_path: Path) -> None:
    imp = write(tmp_path / "imp.txt", [raw_row(i) for i in range(10)])
    clk = write(tmp_path / "clk.txt", [raw_row(1, logtype=2), raw_row(2, logtype=2), raw_row(3, logtype=1)])
    with pytest.raises(LogError, match=r"1 of 13 lines are bad(.|\n)*clk.txt, line 3: logtype must be 2 \(click\)"):
        read_log(imp, clicks=clk)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "csv"}, "layout must be 'auto' or one of raw, formalised, yzx, yzbx, pctr, got 'csv'"),
        ({"layout": "yzx"}, "layout='yzx' was asked for, but .* is in the raw layout"),
        ({"max_bad_share": 1.0}, "max_bad_share must be a share from 0 to below 1, got 1.0"),
        ({"max_bad_share": -0.1}, "max_bad_share must be a share .* got -0.1"),
        ({"max_bad_share": float("nan")}, "max_bad_share must be a share .* got nan"),
        ({"advertiser": "1458"}, "advertiser='1458' is not in the log; it holds 9999"),
        ({"clicks": "imp.txt"}, "clicks=.* must be a raw click log .* holds impressions"),
    ],
)
def test_options_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "imp.txt", [raw_row(i) for i in range(10)])
    with pytest.raises(ValueError, match=message):
        read_log(path, **options)  # type: ignore[arg-type]


def test_options_that_a_layout_cannot_serve(tmp_path: Path) -> None:
    formalised = write(tmp_path / "train.txt", [formalised_row(i) for i in range(10)])
    clicks = write(tmp_path / "clk.txt", [raw_row(0, logtype=2)])
    with pytest.raises(LogError, match=r"joins raw logs only; .* is in the formalised layout"):
        read_log(formalised, clicks=clicks)
    sparse = write(tmp_path / "log.txt", ["0 70 1:1"])
    with pytest.raises(LogError, match="advertiser='1458': a log in the yzx layout names no advertisers"):
        read_log(sparse, advertiser="1458")


def test_a_directory_names_no_log_of_the_asked_layout(tmp_path: Path) -> None:
    write(tmp_path / "imp.txt", [raw_row(0)])
    with pytest.raises(LogError, match="holds no log in the pctr layout"):
        read_log(tmp_path, layout="pctr")
