"""AuctionNet's training table for offline reinforcement learning: one row an advertiser and tick, made from a log.

Columns and meanings are those of its trajectory data (alimama-tech/AuctionNet @ c20de63). In CSV a state is written as a
Python tuple, as there.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from adarena.envs.data.auctionnet_table import (
    Column,
    Gathered,
    TableReport,
    check_format,
    checked_path,
    good_rows,
    needed,
    read_parquet,
    write_frame,
)
from adarena.envs.data.layouts import LogError

_STATE: Final = pl.Array(pl.Float64, 16)
_KEYS: Final = ("deliveryPeriodIndex", "advertiserNumber")
_NUMBERS: Final = (
    Column("deliveryPeriodIndex", pl.Int64),
    Column("advertiserNumber", pl.Int64),
    Column("advertiserCategoryIndex", pl.Int64),
    Column("budget", pl.Float64),
    Column("CPAConstraint", pl.Float64),
    Column("realAllCost", pl.Float64),
    Column("realAllConversion", pl.Float64),
    Column("timeStepIndex", pl.Int64),
    Column("action", pl.Float64),
    Column("reward", pl.Float64),
    Column("reward_continuous", pl.Float64),
    Column("done", pl.Int64, 0.0, 1.0),
)
_TYPES: Final = {column.name: column.dtype for column in _NUMBERS}

TRAINING_SCHEMA: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **{name: _TYPES[name] for name in list(_TYPES)[:8]},
    "state": _STATE,
    **{name: _TYPES[name] for name in list(_TYPES)[8:]},
    "next_state": _STATE,
}
"""Column to type, in order: 14 columns. ``state`` and ``next_state`` are as in
`adarena.envs.adapters.auctionnet_state.STATE16`; ``next_state`` is null where ``done`` is 1. ``action`` is the sum of the
tick's bids over the sum of its predictions, ``reward`` its conversions, ``reward_continuous`` the predictions of what was
exposed; ``realAllCost`` and ``realAllConversion`` are of the whole period."""


def training_table(log: pl.DataFrame, *, ticks: int = 48) -> pl.DataFrame:
    """Derives the training table from an auction log.

    Where exposures are expectations (see `adarena.envs.data.auctionnet.LOG_COLUMNS`), ``reward_continuous`` weighs
    predictions by them; with AuctionNet's 0 and 1 that is its own sum.

    Args:
        log: Columns of `adarena.envs.data.auctionnet.LOG_COLUMNS`.
        ticks: Ticks of a whole period.

    Returns:
        Columns of `TRAINING_SCHEMA`, ordered by period, advertiser, tick.

    Raises:
        LogError: A tick of the log is beyond ``ticks``, or an advertiser's ticks do not begin at 0 and follow each other.
    """
    by_tick = _by_tick(log)
    _check_ticks(by_tick, ticks)
    names = ("_bid", "_cost", "_value", "_conversion", "_won")
    past = {name: pl.col(name).cum_sum().shift(1).over(_KEYS) / pl.col("timeStepIndex") for name in names}
    last = {name: pl.mean_horizontal(pl.col(name).shift(ago).over(_KEYS) for ago in (1, 2, 3)) for name in names}
    count = pl.col("_count").cast(pl.Float64)
    left = pl.when(pl.col("budget") > 0).then(pl.col("_left") / pl.col("budget"))
    entries = [
        *((ticks - pl.col("timeStepIndex")) / ticks, left, past["_bid"], last["_bid"]),
        *(past["_cost"], past["_value"], past["_conversion"], past["_won"]),
        *(last["_cost"], last["_value"], last["_conversion"], last["_won"]),
        *(pl.col("_value"), count),
        *(count.rolling_sum(3, min_samples=1).shift(1).over(_KEYS), count.cum_sum().shift(1).over(_KEYS)),
    ]
    state = pl.concat_list(entry.cast(pl.Float64).fill_nan(0.0).fill_null(0.0) for entry in entries)
    table = by_tick.with_columns(
        state.list.to_array(16).alias("state"),
        pl.col("_spent").sum().over(_KEYS).alias("realAllCost"),
        pl.col("_all").sum().over(_KEYS).alias("realAllConversion"),
        ((pl.col("_end") == 1) | (pl.col("timeStepIndex") == ticks - 1)).cast(pl.Int64).alias("done"),
    )
    following = pl.when(pl.col("done") == 0).then(
        pl.col("state").shift(-1).over(_KEYS, mapping_strategy="group_to_rows")
    )
    return table.with_columns(following.alias("next_state")).select(list(TRAINING_SCHEMA))


def _by_tick(log: pl.DataFrame) -> pl.DataFrame:
    """One row an advertiser and tick, in order."""
    exposed = pl.col("isExposed")
    value = pl.col("pValue").sum()
    return (
        log.group_by(*_KEYS, "timeStepIndex", maintain_order=True)
        .agg(
            pl.col("advertiserCategoryIndex", "budget", "CPAConstraint").first(),
            pl.col("bid").mean().alias("_bid"),
            pl.col("leastWinningCost").mean().alias("_cost"),
            pl.col("pValue").mean().alias("_value"),
            pl.col("conversionAction").mean().alias("_conversion"),
            pl.col("xi").mean().alias("_won"),
            pl.len().alias("_count"),
            pl.col("remainingBudget").first().alias("_left"),
            pl.col("isEnd").first().alias("_end"),
            (exposed * pl.col("cost")).sum().alias("_spent"),
            pl.col("conversionAction").sum().alias("_all"),
            pl.when(value > 0).then(pl.col("bid").sum() / value).otherwise(0.0).alias("action"),
            pl.col("conversionAction").filter(exposed > 0).sum().alias("reward"),
            (exposed * pl.col("pValue")).sum().alias("reward_continuous"),
        )
        .sort(*_KEYS, "timeStepIndex")
    )


def _check_ticks(by_tick: pl.DataFrame, ticks: int) -> None:
    """Refuses a log whose ticks are not those of whole days."""
    beyond = by_tick.filter(pl.col("timeStepIndex") >= ticks)
    if beyond.height:
        raise LogError(f"timeStepIndex must be below ticks={ticks}, got {beyond['timeStepIndex'].sort()[-1]}")
    expected = pl.int_range(pl.len()).over(_KEYS)
    holes = by_tick.with_columns(expected.alias("_expected")).filter(pl.col("timeStepIndex") != pl.col("_expected"))
    if holes.height:
        columns = ("advertiserNumber", "deliveryPeriodIndex", "_expected", "timeStepIndex")
        advertiser, period, missing, found = (int(holes[name][0]) for name in columns)
        raise LogError(
            f"advertiser {advertiser} of period {period} has no rows of tick {missing}, but of tick {found}; "
            "a state needs every tick before it"
        )


def read_training(path: str | Path, *, max_bad_share: float = 0.01) -> tuple[pl.DataFrame, TableReport]:
    """Reads a training table.

    Args:
        path: ``.csv`` or ``.parquet``. Columns may stand in any order; others are passed over.
        max_bad_share: Largest share of rows that may be bad, in [0, 1).

    Returns:
        The rows, with the columns of `TRAINING_SCHEMA`, and what was left out.

    Raises:
        LogError: No such file, no such format, columns missing, or too many bad rows; the message names the first.
        ValueError: ``max_bad_share`` is not allowed.
    """
    path = checked_path(path, max_bad_share)
    gathered = Gathered(path.name)
    wanted = [Column(name, _TYPES.get(name, pl.String)) for name in TRAINING_SCHEMA]
    if path.suffix == ".parquet":
        frame, numbers = read_parquet(path), None
        others = needed(frame.columns, wanted, gathered.name)
    else:
        frame, numbers, others = _read_csv(path, wanted, gathered)
    good = _good(frame, gathered, numbers)
    gathered.others = others
    return good, gathered.report(good.height, max_bad_share)


def write_training(table: pl.DataFrame, path: str | Path) -> None:
    """Writes a training table so that `read_training` gives it back exactly.

    Args:
        table: Columns of `TRAINING_SCHEMA`.
        path: ``.csv`` or ``.parquet``.

    Raises:
        LogError: The format is unknown, or a column is missing or holds what it may not.
    """
    path = Path(path)
    check_format(path)
    gathered = Gathered("table")
    needed(table.columns, [Column(name, pl.String) for name in TRAINING_SCHEMA], "table")
    good = _good(table, gathered, None)
    gathered.report(good.height, 0.0)
    if path.suffix == ".csv":
        good = good.with_columns(_tuples(good[name]) for name in ("state", "next_state"))
    write_frame(good, path, whole=("reward", "realAllConversion"))


def _tuples(states: pl.Series) -> pl.Series:
    """States as text of Python tuples; null stays null."""
    texts = [None if state is None else repr(tuple(state)) for state in states.to_list()]
    return pl.Series(states.name, texts, pl.String)


def _read_csv(
    path: Path, wanted: Sequence[Column], gathered: Gathered
) -> tuple[pl.DataFrame, list[int], tuple[str, ...]]:
    """Fields as text, the line of each row, and the columns not wanted."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(_fields(reader, path), [])]
        others = needed(header, wanted, gathered.name)
        rows, numbers = [], []
        for fields in _fields(reader, path):
            if not any(field.strip() for field in fields):
                continue
            if len(fields) == len(header):
                rows.append(fields)
                numbers.append(reader.line_num)
            else:
                gathered.rows += 1
                gathered.bad(reader.line_num, f"a row must have {len(header)} fields", f"{len(fields)} fields")
    return pl.DataFrame(rows, schema=dict.fromkeys(header, pl.String), orient="row"), numbers, others


def _fields(reader: Any, path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise LogError(f"{path}, line {reader.line_num}: no CSV, {error!s}") from error


def _good(frame: pl.DataFrame, gathered: Gathered, numbers: Sequence[int] | None) -> pl.DataFrame:
    """Good rows in the types of the table; states first, since what they hold is checked apart."""
    numbers = list(range(1, frame.height + 1)) if numbers is None else list(numbers)
    states = {name: _states(frame[name], name == "next_state") for name in ("state", "next_state")}
    bad = np.zeros(frame.height, bool)
    for name, (_, wrong) in states.items():
        for row in np.flatnonzero(wrong & ~bad):
            gathered.rows += 1
            gathered.bad(numbers[row], f"{name} must be 16 numbers", frame[name][int(row)])
        bad |= wrong
    kept = pl.Series(~bad)
    columns = {name: pl.Series(name, values, _STATE).filter(kept) for name, (values, _) in states.items()}
    numbers = [number for number, good in zip(numbers, kept, strict=True) if good]
    index = pl.int_range(len(numbers), dtype=pl.Int64, eager=True).cast(pl.Float64).alias("_row")
    rest = frame.filter(kept).select([*_TYPES]).with_columns(index)
    good = good_rows(rest, [*_NUMBERS, Column("_row", pl.Int64)], gathered, numbers)
    states_kept = [column.gather(good["_row"]) for column in columns.values()]
    return good.with_columns(states_kept).select(list(TRAINING_SCHEMA))


def _states(column: pl.Series, optional: bool) -> tuple[list[list[float] | None], np.ndarray]:
    """Each row's state, and whether what stands there is none; nothing at all is allowed where ``optional``."""
    values: list[list[float] | None] = []
    wrong = np.zeros(len(column), bool)
    for row, raw in enumerate(column.to_list()):
        if raw is None or (isinstance(raw, str) and raw.strip().lower() in ("", "nan", "none")):
            values.append(None)
            wrong[row] = not optional
            continue
        try:
            numbers = [float(part) for part in (_parts(raw) if isinstance(raw, str) else raw)]
        except (TypeError, ValueError):
            numbers = []
        wrong[row] = len(numbers) != 16 or not np.all(np.isfinite(numbers))
        values.append(None if wrong[row] else numbers)
    return values, wrong


def _parts(text: str) -> list[str]:
    """The fields of ``"(a, b, ...)"``; NumPy 2 writes ``np.float64(a)``."""
    return text.replace("np.float64(", "").replace(")", "").strip("([ ]").split(",")
