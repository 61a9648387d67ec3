"""Reads real auction logs: iPinYou's in every layout in which it circulates.

The logs hold only auctions that iPinYou won, so a market price is known for each row and nothing about the rest. Prices
are second prices in fen CPM; here they become CNY per impression (1 fen CPM = 1e-5 CNY).

Sources: Liao, Peng, Liu and Shen, "iPinYou Global RTB Bidding Algorithm Competition Dataset" (ADKDD 2014);
Zhang, Yuan, Wang and Shen, "Real-Time Bidding Benchmarking with iPinYou Dataset" (arXiv:1407.7073); the formalised and
sparse layouts are those of the make-ipinyou-data scripts and of Ren et al., "Deep Landscape Forecasting" (KDD 2019).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl
from tqdm import tqdm

from adarena.envs.data.layouts import EXPECTED, LAYOUTS, FileLayout, Layout, LogError, detect_layout
from adarena.envs.data.parse import FEATURES, Parsed, parse_lines
from adarena.envs.data.report import BadLine, LogReport
from adarena.envs.data.stream import probe_lines, read_pieces

_SUFFIXES: Final = (".txt", ".bz2", ".log", ".tsv", ".csv", ".yzx", ".yzbx")
_KEPT_BAD_LINES: Final = 20


@dataclasses.dataclass(frozen=True)
class Log:
    """A log of won auctions, one row an impression, in the order of the files.

    Attributes:
        frame: Columns ``seconds`` (Int32, second of the day, null if unknown), ``day`` (Int32, ordinal of the date
            among those of the log), ``hour`` (Int8, 0-23), ``weekday`` (Int8, 0 is Sunday), ``price`` (Float32, market
            price, CNY per impression), ``floor`` (Float32, reserve, CNY per impression, 0 if unknown), ``click`` (Int8,
            0 or 1), ``conversions`` (Int16), ``pctr`` (Float32, null if the log brings none); the raw and formalised
            layouts add the categorical ``visibility``, ``format``, ``exchange``, ``region``, ``slot_size``, ``domain``,
            ``advertiser``; the sparse layouts add ``features`` (list of UInt32, the ids that are 1).
        layout: The layout it was read from.
        report: What was read, left out and found odd.
    """

    frame: pl.DataFrame
    layout: Layout
    report: LogReport

    def __len__(self) -> int:
        return self.frame.height

    @property
    def days(self) -> int:
        """Number of dates in the log, at least 1."""
        return int(self.frame["day"].max() or 0) + 1  # type: ignore[arg-type, operator]

    @property
    def has_time(self) -> bool:
        """Whether rows carry the time of day."""
        return self.frame["seconds"].null_count() == 0

    def of_advertiser(self, advertiser: str) -> Log:
        """The rows of one advertiser; raw daily logs hold several.

        Raises:
            LogError: The log names no advertisers, or not this one.
        """
        if "advertiser" not in self.frame.columns:
            raise LogError(f"advertiser={advertiser!r}: a log in the {self.layout} layout names no advertisers")
        rows = self.frame.filter(pl.col("advertiser").cast(pl.String) == advertiser)
        if rows.is_empty():
            known = sorted(self.frame["advertiser"].cast(pl.String).unique().to_list())
            raise LogError(f"advertiser={advertiser!r} is not in the log; it holds {', '.join(known)}")
        rows = rows.with_columns((pl.col("day").rank("dense") - 1).cast(pl.Int32).alias("day"))
        report = dataclasses.replace(self.report, rows_kept=rows.height, clicks=int(rows["click"].sum()))
        return dataclasses.replace(self, frame=rows, report=report)


def read_log(
    path: str | Path,
    *,
    layout: str = "auto",
    max_bad_share: float = 0.01,
    clicks: str | Path | None = None,
    advertiser: str | None = None,
) -> Log:
    """Reads a log, in pieces, plain or bz2.

    Args:
        path: A file, or a directory whose logs are read in the order of their names. A directory of raw logs may hold
            click and conversion logs: they are joined to the impressions, first row of equal bid id and creative.
        layout: ``"auto"``, or the name of the layout that the files must have.
        max_bad_share: Largest share of lines that may be bad, in [0, 1).
        clicks: Raw click log to join to raw impressions in one file.
        advertiser: Keep the rows of this advertiser only.

    Returns:
        The log. Blank lines are passed over.

    Raises:
        LogError: No such file, no log in it, a log of clicks alone, several layouts, or too many bad lines.
        ValueError: ``layout`` or ``max_bad_share`` is not allowed.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise ValueError(f"layout must be 'auto' or one of {', '.join(LAYOUTS)}, got {layout!r}")
    if not 0.0 <= max_bad_share < 1.0:
        raise ValueError(f"max_bad_share must be a share from 0 to below 1, got {max_bad_share!r}")
    files, skipped = _plan(Path(path), layout)
    if clicks is not None:
        files += _click_file(Path(clicks), files)
    impressions = [(file, found) for file, found in files if found.kind == "impression"]
    if not impressions:
        _refuse_clicks(files)
    reader = _Reader()
    for file, found in impressions:
        reader.read(file, found)
    joined = {kind: _joined(reader, files, kind) for kind in ("click", "conversion")}
    reader.check(max_bad_share)
    name = impressions[0][1].name
    frame, report = _finish(reader, [str(file) for file, _ in files], skipped, name, joined, impressions)
    log = Log(frame, name, report)
    return log if advertiser is None else log.of_advertiser(advertiser)


def _plan(path: Path, layout: str) -> tuple[list[tuple[Path, FileLayout]], list[str]]:
    """Files to read with their layouts, and those passed over."""
    if not path.exists():
        raise LogError(f"{path}: no such file or directory; {EXPECTED}")
    if path.is_file():
        found = detect_layout(probe_lines(path), str(path))
        if layout not in ("auto", found.name):
            raise LogError(f"layout={layout!r} was asked for, but {path} is in the {found.name} layout")
        return [(path, found)], []
    files: list[tuple[Path, FileLayout]] = []
    skipped: list[str] = []
    for file in sorted(entry for entry in path.iterdir() if entry.is_file()):
        file_layout = _layout_of(file)
        if file_layout is None or layout not in ("auto", file_layout.name):
            skipped.append(file.name)
        else:
            files.append((file, file_layout))
    if not files:
        what = "log" if layout == "auto" else f"log in the {layout} layout"
        raise LogError(f"{path}: the directory holds no {what} ({len(skipped)} other files); {EXPECTED}")
    names = {found.name: file.name for file, found in reversed(files)}
    if len(names) > 1:
        held = ", ".join(f"{name} ({file})" for name, file in sorted(names.items()))
        raise LogError(
            f"{path}: logs of several layouts, perhaps of the same rows: {held}; name one file or one layout"
        )
    return files, skipped


def _layout_of(file: Path) -> FileLayout | None:
    if file.suffix not in _SUFFIXES:
        return None
    try:
        return detect_layout(probe_lines(file), str(file))
    except LogError:
        return None


def _click_file(path: Path, files: Sequence[tuple[Path, FileLayout]]) -> list[tuple[Path, FileLayout]]:
    planned, _ = _plan(path, "raw")
    wrong = [file for file, found in planned if found.kind == "impression"]
    if wrong:
        raise LogError(f"clicks={str(path)!r} must be a raw click log (logtype 2); {wrong[0]} holds impressions")
    if files[0][1].name != "raw":
        raise LogError(f"clicks={str(path)!r} joins raw logs only; {files[0][0]} is in the {files[0][1].name} layout")
    return planned


def _refuse_clicks(files: Sequence[tuple[Path, FileLayout]]) -> None:
    file, found = files[0]
    raise LogError(
        f"{file} is a {found.kind} log (logtype {2 if found.kind == 'click' else 3}); its payprice is filled with "
        f"zeros in most rows, so it holds no prices: pass the impression log (imp.*), and this one as clicks="
    )


class _Reader:
    """Gathers rows and bad lines over the pieces of all files."""

    def __init__(self) -> None:
        self.frames: list[pl.DataFrame] = []
        self.rows = 0
        self.odd_lines = 0
        self.reasons: Counter[str] = Counter()
        self.first_bad: list[BadLine] = []

    def read(self, path: Path, layout: FileLayout) -> None:
        """Reads one file of impressions."""
        for parsed in self._pieces(path, layout):
            self.frames.append(parsed.frame)

    def keys(self, path: Path, layout: FileLayout) -> pl.Series:
        """Join keys of one file of clicks or conversions, with repeats."""
        keys = [parsed.frame["_shown"] for parsed in self._pieces(path, layout)]
        return pl.concat(keys) if keys else pl.Series("_shown", [], pl.UInt64)

    def _pieces(self, path: Path, layout: FileLayout) -> list[Parsed]:
        pieces = []
        size = path.stat().st_size
        # Bars show up only where reading takes longer than two seconds, and on a terminal.
        with tqdm(total=size, desc=path.name, unit="B", unit_scale=True, delay=2.0, disable=None, leave=False) as bar:
            header = layout.header
            for piece in read_pieces(path):
                lines, number = piece.lines, piece.first_number
                while header and lines:
                    header = not lines[0].strip()
                    lines, number = lines[1:], number + 1
                parsed = parse_lines(lines, number, layout)
                self._note(path, parsed, piece.odd_lines)
                pieces.append(parsed._replace(bad=parsed.bad.clear()))
                bar.update(piece.consumed - bar.n)
        return pieces

    def _note(self, path: Path, parsed: Parsed, odd_lines: int) -> None:
        self.rows += parsed.rows
        self.odd_lines += odd_lines
        for reason, count in parsed.bad["reason"].value_counts().iter_rows():
            self.reasons[reason] += count
        for number, reason, value in parsed.bad.head(_KEPT_BAD_LINES - len(self.first_bad)).iter_rows():
            self.first_bad.append(BadLine(path.name, number, reason, value))

    def check(self, max_bad_share: float) -> None:
        """Refuses a log with too many bad lines or without good ones."""
        bad = self.reasons.total()
        if bad > max_bad_share * self.rows or bad == self.rows:
            lines = "\n".join(f"  {line}" for line in self.first_bad[:5])
            allowed = f"{max_bad_share:.3%} allowed (max_bad_share={max_bad_share})"
            raise LogError(f"{bad} of {self.rows} lines are bad, {allowed}; the first:\n{lines}")


def _joined(reader: _Reader, files: Sequence[tuple[Path, FileLayout]], kind: str) -> pl.Series | None:
    """Join keys of all click (or conversion) logs, None where there is none."""
    keys = [reader.keys(file, found) for file, found in files if found.kind == kind]
    return pl.concat(keys) if keys else None


def _finish(
    reader: _Reader,
    files: list[str],
    skipped: list[str],
    name: Layout,
    joined: dict[str, pl.Series | None],
    impressions: Sequence[tuple[Path, FileLayout]],
) -> tuple[pl.DataFrame, LogReport]:
    frame = pl.concat(reader.frames, how="vertical", rechunk=True)
    reader.frames.clear()
    frame = _join(frame, joined)
    dates = frame["_date"].drop_nulls().unique().sort()
    day = (pl.col("_date").rank("dense") - 1).fill_null(0).cast(pl.Int32).alias("day")
    columned = name in ("raw", "formalised")
    report = LogReport(
        layout=name,
        files=tuple(files),
        skipped=tuple(skipped),
        rows_read=reader.rows,
        rows_kept=frame.height,
        bad=dict(reader.reasons.most_common()),
        first_bad=tuple(reader.first_bad),
        odd_lines=reader.odd_lines,
        repeated_bidids=frame.height - frame["_bidid"].n_unique() if columned else 0,
        pay_over_bid=int(frame["_over_bid"].sum()),
        zero_price=int((frame["price"] == 0).sum()),
        null_exchange=int((frame["exchange"].cast(pl.String).str.to_lowercase() == "null").sum()) if columned else 0,
        season=_season(frame) if columned else "unknown",
        dates=tuple(str(date) for date in dates),
        hour0_excess=_hour0_excess(frame),
        clicks=int(frame["click"].sum()),
        clicks_known=all(found.name != "raw" or "nclick" in found.columns for _, found in impressions)
        or joined["click"] is not None,
        clicks_unmatched=_unmatched(frame, joined["click"]),
    )
    extra = [column for column in (*FEATURES, "features") if column in frame.columns]
    order = ["seconds", "day", "hour", "weekday", "price", "floor", "click", "conversions", "pctr", *extra]
    return frame.with_columns(day).select(order), report


def _join(frame: pl.DataFrame, joined: dict[str, pl.Series | None]) -> pl.DataFrame:
    """Books joined clicks and conversions on the first impression of their bid id and creative."""
    clicks, conversions = joined["click"], joined["conversion"]
    first = pl.col("_shown").is_first_distinct()
    if clicks is not None:
        found = pl.col("_shown").is_in(clicks.unique().implode()) & first
        frame = frame.with_columns(pl.max_horizontal("click", found.cast(pl.Int8)).alias("click"))
    if conversions is not None:
        counts = conversions.value_counts(name="_more").with_columns(pl.col("_more").cast(pl.Int16))
        frame = frame.join(counts, on="_shown", how="left", maintain_order="left")
        more = pl.when(first).then(pl.col("_more").fill_null(0)).otherwise(0)
        frame = frame.with_columns((pl.col("conversions") + more).cast(pl.Int16)).drop("_more")
    return frame


def _unmatched(frame: pl.DataFrame, clicks: pl.Series | None) -> int:
    if clicks is None:
        return 0
    keys = clicks.unique()
    return int((~keys.is_in(frame["_shown"].unique().implode())).sum())


def _season(frame: pl.DataFrame) -> str:
    numeric = frame["_season2"]
    if numeric.all():
        return "2"
    return "mixed" if numeric.any() else "3"


def _hour0_excess(frame: pl.DataFrame) -> float | None:
    """Rows of hour 0 over the mean of hours 23 and 1, a known artefact of the logging; None where it cannot be told."""
    counts = dict(frame["hour"].drop_nulls().value_counts().iter_rows())
    beside = [counts[hour] for hour in (23, 1) if hour in counts]
    return counts[0] * len(beside) / sum(beside) if 0 in counts and beside else None
