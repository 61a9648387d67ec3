"""From lines of a log to typed columns, with a reason for every line that is not one."""

from __future__ import annotations

from typing import Final, NamedTuple

import polars as pl

from adarena.envs.data.layouts import FileLayout

FEN_PER_MILLE: Final = 1e-5
"""CNY per impression in one fen CPM: a hundredth of a yuan for a thousand impressions."""

_MAX_FEN: Final = 1_000_000
"""Largest price in fen CPM that can be one (10 CNY an impression; iPinYou bids at most 300)."""

_PRICE_RULE: Final = f"a whole number of fen CPM from 0 to {_MAX_FEN}"

_SEASON2_VISIBILITY: Final = {
    "0": "Na",
    "1": "FirstView",
    "2": "SecondView",
    "3": "ThirdView",
    "4": "FourthView",
    "5": "FifthView",
    "255": "OtherView",
}
"""Season 2 writes exchange codes, which iPinYou does not explain; 1 and 2 are above and below the fold."""

FEATURES: Final = ("visibility", "format", "exchange", "region", "slot_size", "domain", "advertiser")
"""Categorical columns of the layouts that carry them."""


class Parsed(NamedTuple):
    """What one piece of a file holds.

    Attributes:
        frame: Good rows, typed; private columns start with an underscore.
        bad: Bad lines: ``number`` (1-based), ``reason``, ``value``.
        rows: Lines that were not blank.
    """

    frame: pl.DataFrame
    bad: pl.DataFrame
    rows: int


class _Check(NamedTuple):
    reason: str
    wrong: pl.Expr
    value: pl.Expr


def parse_lines(lines: list[str], first_number: int, layout: FileLayout) -> Parsed:
    """Reads lines of one file.

    Args:
        lines: Lines without line ends; blank ones are passed over.
        first_number: 1-based number of the first.
        layout: The file's layout.

    Returns:
        Good rows, bad lines and the count of both.
    """
    frame = pl.DataFrame({"line": pl.Series("line", lines, pl.String)}).with_row_index("number", offset=first_number)
    frame = frame.filter(pl.col("line").str.contains(r"\S"))
    if layout.name == "yzx" or layout.name == "yzbx":
        frame, checks, columns = _sparse(frame, layout)
    elif layout.name == "pctr":
        frame, checks, columns = _pctr(frame, layout)
    else:
        frame, checks, columns = _columns(frame, layout)
    reason = pl.coalesce([pl.when(check.wrong.fill_null(True)).then(pl.lit(check.reason)) for check in checks])
    value = pl.coalesce([pl.when(check.wrong.fill_null(True)).then(check.value.fill_null("")) for check in checks])
    frame = frame.with_columns(reason.alias("reason"))
    bad = frame.filter(pl.col("reason").is_not_null()).select("number", "reason", value.str.slice(0, 60).alias("value"))
    good = frame.filter(pl.col("reason").is_null()).select(columns)
    return Parsed(good, bad, frame.height)


def _text(name: str) -> pl.Expr:
    return pl.col(name).str.strip_chars()


def _integer(name: str) -> pl.Expr:
    return _text(name).cast(pl.Int64, strict=False)


def _outside(value: pl.Expr, low: float, high: float) -> pl.Expr:
    return ~value.is_between(low, high)


def _money(value: pl.Expr) -> pl.Expr:
    return (value * FEN_PER_MILLE).cast(pl.Float32)


def _no_time() -> list[pl.Expr]:
    return [
        pl.lit(None, pl.Int32).alias("seconds"),
        pl.lit(None, pl.Date).alias("_date"),
        pl.lit(None, pl.Int8).alias("hour"),
        pl.lit(None, pl.Int8).alias("weekday"),
    ]


def _columns(frame: pl.DataFrame, layout: FileLayout) -> tuple[pl.DataFrame, list[_Check], list[pl.Expr]]:
    """Raw and formalised logs."""
    names, width = layout.columns, len(layout.columns)
    fields = pl.col("line").str.split_exact("\t", width - 1).struct.rename_fields(list(names)).alias("fields")
    count = pl.col("line").str.count_matches("\t", literal=True).cast(pl.Int64) + 1
    frame = frame.select("number", count.alias("_count"), fields).unnest("fields")
    clock = _text("timestamp").str.slice(8, 6)
    frame = frame.with_columns(
        _text("timestamp").str.slice(0, 8).str.to_date("%Y%m%d", strict=False).alias("_date"),
        clock.str.slice(0, 2).cast(pl.Int32, strict=False).alias("_hour"),
        clock.str.slice(2, 2).cast(pl.Int32, strict=False).alias("_minute"),
        clock.str.slice(4, 2).cast(pl.Int32, strict=False).alias("_second"),
        _integer("payprice").alias("_pay"),
        _integer("bidprice").alias("_bid"),
        _floor().alias("_floor"),
    )
    return frame, _column_checks(layout), _column_values(layout)


def _floor() -> pl.Expr:
    """Floor in fen; exchanges that tell none leave it empty or write a word for nothing."""
    empty = _text("slotprice").str.to_lowercase().is_in(["", "na", "null"])
    return pl.when(empty).then(0).otherwise(_integer("slotprice"))


def _column_checks(layout: FileLayout) -> list[_Check]:
    width = len(layout.columns)
    kind = {"impression": "1", "click": "2", "conversion": "3"}[layout.kind]
    stamp = _text("timestamp").str.contains(r"^\d{14}(\d{3})?$") & pl.col("_date").is_not_null()
    clock = (pl.col("_hour") < 24) & (pl.col("_minute") < 60) & (pl.col("_second") < 61)
    unnamed = _text("bidprice").str.to_lowercase().is_in(["", "null"])
    checks = [
        _Check(f"{width} tab-separated columns expected", pl.col("_count") != width, pl.col("_count").cast(pl.String)),
        _Check("bidid must not be empty", _text("bidid") == "", pl.col("bidid")),
        _Check("timestamp must be yyyyMMddHHmmssSSS", ~(stamp & clock), pl.col("timestamp")),
        _Check(f"logtype must be {kind} ({layout.kind})", _text("logtype") != kind, pl.col("logtype")),
        _Check(f"payprice must be {_PRICE_RULE}", _outside(pl.col("_pay"), 0, _MAX_FEN), pl.col("payprice")),
        _Check(f"slotprice must be {_PRICE_RULE}", _outside(pl.col("_floor"), 0, _MAX_FEN), pl.col("slotprice")),
        _Check(
            f"bidprice must be {_PRICE_RULE}",
            ~unnamed & _outside(pl.col("_bid"), 0, _MAX_FEN).fill_null(True),
            pl.col("bidprice"),
        ),
    ]
    if layout.name == "formalised":
        hour = _integer("hour")
        checks += [
            _Check("click must be 0 or 1", ~_text("click").is_in(["0", "1"]), pl.col("click")),
            _Check("weekday must be 0 (Sunday) to 6", _outside(_integer("weekday"), 0, 6), pl.col("weekday")),
            _Check("hour must be the timestamp's, 0 to 23", hour != pl.col("_hour"), pl.col("hour")),
        ]
    for name in ("nclick", "nconv"):
        if name in layout.columns:
            checks.append(
                _Check(
                    f"{name} must be a whole number from 0 to 32767", _outside(_integer(name), 0, 32767), pl.col(name)
                )
            )
    return checks


def _column_values(layout: FileLayout) -> list[pl.Expr]:
    nothing = pl.lit(0, pl.Int8)
    if layout.name == "formalised":
        click = _integer("click").cast(pl.Int8)
    else:
        click = (_integer("nclick") > 0).cast(pl.Int8) if "nclick" in layout.columns else nothing
    conversions = _integer("nconv") if "nconv" in layout.columns else pl.lit(0)
    visibility = _text("slotvisibility")
    features = [
        visibility.replace(_SEASON2_VISIBILITY).alias("visibility"),
        _text("slotformat").alias("format"),
        _text("adexchange").alias("exchange"),
        _text("region").alias("region"),
        pl.concat_str([_text("slotwidth"), _text("slotheight")], separator="x").alias("slot_size"),
        _text("domain").alias("domain"),
        _text("advertiser").alias("advertiser"),
    ]
    return [
        (pl.col("_hour") * 3600 + pl.col("_minute") * 60 + pl.col("_second").clip(0, 59)).alias("seconds"),
        pl.col("_date"),
        pl.col("_hour").cast(pl.Int8).alias("hour"),
        (pl.col("_date").dt.weekday() % 7).cast(pl.Int8).alias("weekday"),
        _money(pl.col("_pay")).alias("price"),
        _money(pl.col("_floor")).alias("floor"),
        click.alias("click"),
        conversions.cast(pl.Int16).alias("conversions"),
        pl.lit(None, pl.Float32).alias("pctr"),
        *[feature.cast(pl.Categorical) for feature in features],
        pl.col("bidid").hash(0).alias("_bidid"),
        pl.concat_str([_text("bidid"), _text("creative")], separator="-").hash(0).alias("_shown"),
        (pl.col("_pay") > pl.col("_bid")).fill_null(False).alias("_over_bid"),
        visibility.str.contains(r"^\d+$").alias("_season2"),
    ]


def _sparse(frame: pl.DataFrame, layout: FileLayout) -> tuple[pl.DataFrame, list[_Check], list[pl.Expr]]:
    """``y z x...`` and ``y z b x...``; features go to a list column, for the pCTR model."""
    fields = ["y", "z", "b"][: 3 if layout.name == "yzbx" else 2]
    clean = pl.col("line").str.replace_all(r"\s+", " ").str.strip_chars()
    split = clean.str.splitn(" ", len(fields) + 1).struct.rename_fields([*fields, "x"])
    frame = frame.with_columns(split.alias("fields")).unnest("fields")
    checks = [
        _Check("'" + " ".join(fields) + " id:1 id:1 ...' expected", pl.col("x").is_null(), pl.col("line")),
        _Check("y (click) must be 0 or 1", ~pl.col("y").is_in(["0", "1"]), pl.col("y")),
        _Check(f"z (market price) must be {_PRICE_RULE}", _outside(_integer("z"), 0, _MAX_FEN), pl.col("z")),
    ]
    if "b" in fields:
        checks.append(_Check(f"b (bid) must be {_PRICE_RULE}", _outside(_integer("b"), 0, _MAX_FEN), pl.col("b")))
    whole = pl.col("x").str.contains(r"^[0-9]{1,9}:1( [0-9]{1,9}:1)*$")
    checks.append(_Check("features must read id:1, id a whole number", ~whole, pl.col("x")))
    features = pl.col("x").str.replace_all(":1", "", literal=True)
    values = [
        *_no_time(),
        _money(_integer("z")).alias("price"),
        pl.lit(0.0, pl.Float32).alias("floor"),
        pl.col("y").cast(pl.Int8, strict=False).alias("click"),
        pl.lit(0, pl.Int16).alias("conversions"),
        pl.lit(None, pl.Float32).alias("pctr"),
        features.str.split(" ").cast(pl.List(pl.UInt32)).alias("features"),
        pl.lit(False).alias("_over_bid"),
    ]
    return frame, checks, values


def _pctr(frame: pl.DataFrame, layout: FileLayout) -> tuple[pl.DataFrame, list[_Check], list[pl.Expr]]:
    """``click price pctr [index]``, separated by spaces, tabs or commas; the index is not used."""
    width = len(layout.columns)
    clean = pl.col("line").str.replace_all(r"[,\s]+", " ").str.strip_chars()
    fields = clean.str.split_exact(" ", width - 1).struct.rename_fields(list(layout.columns)).alias("fields")
    count = clean.str.count_matches(" ", literal=True).cast(pl.Int64) + 1
    frame = frame.with_columns(count.alias("_count"), fields).unnest("fields")
    price, pctr = (pl.col(name).cast(pl.Float64, strict=False) for name in ("price", "pctr"))
    rule = f"a number of fen CPM from 0 to {_MAX_FEN}"
    checks = [
        _Check(f"{width} columns expected", pl.col("_count") != width, pl.col("_count").cast(pl.String)),
        _Check("click must be 0 or 1", ~pl.col("click").is_in(["0", "1"]), pl.col("click")),
        _Check(f"price must be {rule}", _outside(price, 0, _MAX_FEN), pl.col("price")),
        _Check("pctr must be a probability from 0 to 1", _outside(pctr, 0, 1), pl.col("pctr")),
    ]
    values = [
        *_no_time(),
        _money(price).alias("price"),
        pl.lit(0.0, pl.Float32).alias("floor"),
        pl.col("click").cast(pl.Int8, strict=False).alias("click"),
        pl.lit(0, pl.Int16).alias("conversions"),
        pctr.cast(pl.Float32).alias("pctr"),
        pl.lit(False).alias("_over_bid"),
    ]
    return frame, checks, values
