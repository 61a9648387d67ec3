"""The reader of real logs: every layout, the real samples, the traps, memory."""

from __future__ import annotations

import bz2
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from log_rows import SAMPLES, formalised_row, header, raw_row, write

from adarena.envs.data import LogError, read_log
from adarena.envs.data.layouts import detect_layout
from adarena.envs.data.parse import parse_lines
from adarena.envs.data.stream import read_pieces

FORMALISED = SAMPLES / "ipinyou_formalised_2259"
RAW = SAMPLES / "ipinyou_s3_raw_2821"
needs_samples = pytest.mark.skipif(not FORMALISED.is_dir(), reason="real samples are not in ../shared/data")


@needs_samples
@pytest.mark.parametrize(
    ("path", "layout", "rows", "clicks", "days"),
    [
        (FORMALISED / "train.log.txt", "formalised", 8355, 5, 4),
        (FORMALISED / "test.log.txt", "formalised", 4171, 0, 4),
        (FORMALISED, "formalised", 12526, 5, 7),
        (RAW / "imp.20131021.adv2821.limit1000.txt", "raw", 10000, 0, 1),
        (RAW, "raw", 10000, 3, 1),
    ],
)
def test_real_samples(path: Path, layout: str, rows: int, clicks: int, days: int) -> None:
    log = read_log(path, max_bad_share=0.0)
    assert (log.layout, len(log), log.report.clicks, log.days) == (layout, rows, clicks, days)
    assert log.report.season == "3"
    assert log.report.rows_kept == rows
    assert not log.report.bad
    price = log.frame["price"]
    assert price.dtype == pl.Float32
    # Prices lie between 1 and 294 fen CPM, and their means near the published 93 and 89.
    assert 0.9e-5 < price.min() < price.max() < 295e-5  # type: ignore[operator]
    assert 80e-5 < price.mean() < 105e-5  # type: ignore[operator]


@needs_samples
def test_real_samples_show_their_oddities() -> None:
    raw = read_log(RAW).report
    assert raw.repeated_bidids == 40
    assert raw.clicks_unmatched == 430
    assert "city.en.txt" in raw.skipped
    train = read_log(FORMALISED / "train.log.txt").report
    assert train.repeated_bidids == 1
    assert train.hour0_excess == pytest.approx(592 / 311)
    assert "artefact" in str(train)


@needs_samples
def test_real_click_log_is_refused_alone_and_joined_on_request() -> None:
    clicks = RAW / "clk.20131021.adv2821.txt"
    with pytest.raises(LogError, match=r"click log \(logtype 2\).*zeros"):
        read_log(clicks)
    log = read_log(RAW / "imp.20131021.adv2821.limit1000.txt", clicks=clicks)
    assert log.report.clicks_known
    assert log.frame["click"].sum() == 3


def _lines(count: int, layout: str) -> list[str]:
    if layout == "raw":
        return [raw_row(i) for i in range(count)]
    if layout == "raw26":
        return [raw_row(i, nclick=i % 4 == 0, nconv=0).replace("True", "2").replace("False", "0") for i in range(count)]
    if layout == "formalised":
        return [formalised_row(i, click=int(i % 4 == 0)) for i in range(count)]
    if layout == "formalised29":
        return [formalised_row(i, click=int(i % 4 == 0), nclick=int(i % 4 == 0), nconv=i % 3) for i in range(count)]
    if layout == "yzx":
        return [f"{int(i % 4 == 0)} {20 + i} 0:1 {i + 1}:1" for i in range(count)]
    if layout == "yzbx":
        return [f"{int(i % 4 == 0)} {20 + i} {i} 0:1 {i + 1}:1" for i in range(count)]
    end = " 7" if layout == "pctr4" else ""
    return [f"{int(i % 4 == 0)} {20 + i} 0.00{i % 9 + 1}{end}" for i in range(count)]


@pytest.mark.parametrize("packed", [False, True], ids=["txt", "bz2"])
@pytest.mark.parametrize(
    ("layout", "family"),
    [
        ("raw", "raw"),
        ("raw26", "raw"),
        ("formalised", "formalised"),
        ("formalised29", "formalised"),
        ("yzx", "yzx"),
        ("yzbx", "yzbx"),
        ("pctr3", "pctr"),
        ("pctr4", "pctr"),
    ],
)
def test_every_layout(tmp_path: Path, layout: str, family: str, packed: bool) -> None:
    text = "\n".join(_lines(100, layout)) + "\n"
    path = tmp_path / ("log.txt.bz2" if packed else "log.txt")
    path.write_bytes(bz2.compress(text.encode()) if packed else text.encode())
    log = read_log(path, max_bad_share=0.0)
    assert log.layout == family
    assert len(log) == 100
    np.testing.assert_allclose(log.frame["price"].to_numpy(), (20 + np.arange(100)) * 1e-5, rtol=1e-6)
    clicks = [int(i % 4 == 0 and layout != "raw") for i in range(100)]
    assert log.frame["click"].to_list() == clicks
    assert log.report.clicks_known == (layout != "raw")
    assert log.has_time == (family in ("raw", "formalised"))
    if log.has_time:
        assert log.frame["seconds"].to_list() == [300 * i + 7 for i in range(100)]
        assert log.frame["hour"].to_list() == [i // 12 for i in range(100)]
        assert set(log.frame["weekday"]) == {1}  # 21 October 2013 was a Monday.
        np.testing.assert_allclose(log.frame["floor"].to_numpy(), [i % 3 * 1e-4 for i in range(100)], rtol=1e-6)
        assert log.frame["slot_size"].cast(pl.String).unique().to_list() == ["300x250"]
    if layout == "formalised29":
        assert log.frame["conversions"].to_list() == [i % 3 for i in range(100)]
    if family == "pctr":
        np.testing.assert_allclose(log.frame["pctr"], [(i % 9 + 1) * 1e-3 for i in range(100)], rtol=1e-6)
    if family in ("yzx", "yzbx"):
        assert log.frame["features"].to_list() == [[0, i + 1] for i in range(100)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("after", [False, True])
def test_header_and_line_ends(tmp_path: Path, end: str, after: bool) -> None:
    extra = {"nclick": 0, "nconv": 1} if after else {}
    lines = [header(before=True, after=after), *(formalised_row(i, **extra) for i in range(30))]
    log = read_log(write(tmp_path / "log.txt", lines, end), max_bad_share=0.0)
    assert len(log) == log.report.rows_read == 30
    assert log.frame["conversions"].sum() == (30 if after else 0)


def test_header_of_a_pctr_log_and_its_separators(tmp_path: Path) -> None:
    for separator in (" ", "\t", ","):
        lines = ["click price pctr", "0 70 0.001", "1 31 0.02"]
        log = read_log(write(tmp_path / "log.csv", [line.replace(" ", separator) for line in lines]))
        assert log.frame["click"].to_list() == [0, 1]
        np.testing.assert_allclose(log.frame["price"], [70e-5, 31e-5], rtol=1e-6)


def test_blank_lines_and_a_missing_last_line_end_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("\n" + raw_row(0) + "\n\n" + raw_row(1))
    assert read_log(path, max_bad_share=0.0).report.rows_read == 2


def test_season_2_codes_become_names(tmp_path: Path) -> None:
    codes = ["0", "1", "2", "255"]
    lines = [raw_row(i, slotvisibility=code) for i, code in enumerate(codes)]
    log = read_log(write(tmp_path / "imp.txt", lines))
    assert log.report.season == "2"
    assert log.frame["visibility"].cast(pl.String).to_list() == ["Na", "FirstView", "SecondView", "OtherView"]
    both = read_log(write(tmp_path / "imp.txt", [*lines, raw_row(9)]))
    assert both.report.season == "mixed"


def test_oddities_are_kept_counted_and_told(tmp_path: Path) -> None:
    lines = [
        raw_row(0),
        raw_row(0, timestamp="20131021120000000"),
        raw_row(1, payprice=300, bidprice=294),
        raw_row(2, adexchange="null", bidprice="null"),
        raw_row(3, payprice=0),
        raw_row(4, slotprice="null"),
    ]
    log = read_log(write(tmp_path / "imp.txt", lines), max_bad_share=0.0)
    report = log.report
    assert len(log) == 6
    assert (report.repeated_bidids, report.pay_over_bid, report.null_exchange, report.zero_price) == (1, 1, 1, 1)
    assert log.frame["floor"][5] == 0.0
    text = str(report)
    for part in ("repeat an earlier bid id", "paid more than was bid", "null exchange", "clicks unknown"):
        assert part in text


def test_odd_bytes_in_a_user_agent_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "imp.txt"
    odd = raw_row(1, useragent="Moz@@illa").encode().replace(b"@@", b"\xff\xfe")
    utf8 = raw_row(2, useragent="浏览器").encode()
    path.write_bytes(b"\n".join([raw_row(0).encode(), odd, utf8]) + b"\n")
    log = read_log(path, max_bad_share=0.0)
    assert len(log) == 3
    assert log.report.odd_lines == 1


def test_days_are_ordinals_of_dates(tmp_path: Path) -> None:
    dates = ["20131024", "20131021", "20131024", "20131026"]
    lines = [raw_row(i, timestamp=f"{date}120000000") for i, date in enumerate(dates)]
    log = read_log(write(tmp_path / "imp.txt", lines))
    assert log.frame["day"].to_list() == [1, 0, 1, 2]
    assert log.report.dates == ("2013-10-21", "2013-10-24", "2013-10-26")
    assert log.days == 3


def test_directory_is_read_in_name_order_with_clicks_and_conversions_joined(tmp_path: Path) -> None:
    write(tmp_path / "imp.2.txt", [raw_row(i, payprice=200 + i) for i in range(10, 20)])
    write(tmp_path / "imp.1.txt", [raw_row(i) for i in range(10)] + [raw_row(3)])
    # Bid 3 was shown twice; the click is booked once. The click of bid 99 was on no impression here.
    write(tmp_path / "clk.1.txt", [raw_row(i, logtype=2, payprice=0) for i in (3, 12, 12, 99)])
    write(tmp_path / "conv.1.txt", [raw_row(i, logtype=3, payprice=0) for i in (12, 12)])
    (tmp_path / "README.txt").write_text("not a log\n")
    log = read_log(tmp_path, max_bad_share=0.0)
    assert len(log) == 21
    np.testing.assert_allclose(log.frame["price"][11], 210e-5, rtol=1e-6)
    assert np.flatnonzero(log.frame["click"].to_numpy()).tolist() == [3, 13]
    assert log.frame["conversions"].to_list() == [2 if i == 13 else 0 for i in range(21)]
    assert log.report.clicks_unmatched == 1
    assert log.report.skipped == ("README.txt",)


def test_one_advertiser_of_several(tmp_path: Path) -> None:
    lines = [raw_row(i, advertiser=1458 + i % 2) for i in range(10)]
    log = read_log(write(tmp_path / "imp.txt", lines), advertiser="1459")
    assert len(log) == 5
    np.testing.assert_allclose(log.frame["price"], [(20 + i) * 1e-5 for i in range(1, 10, 2)], rtol=1e-6)


def test_pieces_hold_every_line_once_and_number_them(tmp_path: Path) -> None:
    lines = [f"{i} " + "x" * (i % 37) for i in range(500)]
    path = write(tmp_path / "file.txt", lines)
    seen: list[str] = []
    for piece in read_pieces(path, 97):
        assert piece.first_number == len(seen) + 1
        seen += piece.lines
    assert seen == lines


def test_parsing_in_pieces_equals_parsing_at_once() -> None:
    lines = [formalised_row(i, click=i % 2) for i in range(50)]
    lines[20] = "broken"
    layout = detect_layout(lines, "log")
    whole = parse_lines(lines, 1, layout)
    parts = [parse_lines(lines[start : start + 7], start + 1, layout) for start in range(0, 50, 7)]
    assert pl.concat([part.frame for part in parts]).equals(whole.frame)
    assert pl.concat([part.bad for part in parts]).equals(whole.bad)
    assert whole.bad["number"].to_list() == [21]


_MEASURE = """
import resource, sys
import polars
from adarena.envs.data import read_log
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = len(read_log(sys.argv[1]))
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read in Linux's units")
def test_three_million_rows_would_fit_in_two_gibibytes(tmp_path: Path) -> None:
    block = (
        "\n".join(raw_row(i, useragent="Mozilla/4.0 " + "x" * 120, usertag="10063," * 20) for i in range(1000)) + "\n"
    )
    peaks = {}
    for rows in (30_000, 180_000):
        path = tmp_path / "imp.txt"
        with path.open("w") as file:
            for _ in range(rows // 1000):
                file.write(block)
        done = subprocess.run([sys.executable, "-c", _MEASURE, str(path)], capture_output=True, text=True, check=True)
        count, peak = done.stdout.split()
        assert int(count) == rows
        peaks[rows] = int(peak)
    a_row = max(0.0, (peaks[180_000] - peaks[30_000]) / 150_000)
    assert peaks[30_000] + 3_000_000 * a_row < 2 * 2**30
    assert peaks[180_000] < 512 * 2**20
