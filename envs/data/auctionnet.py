"""AuctionNet's auction log: 18 columns, one row an advertiser and impression, as CSV or parquet.

Column names and meanings are those of its data description (alimama-tech/AuctionNet @ c20de63). A log that is written and read
again is the same to the last bit: floats are written with the fewest digits that name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from adarena.envs.data.auctionnet_table import (
    Column,
    Gathered,
    TableReport,
    check_format,
    checked_path,
    csv_frames,
    good_rows,
    read_parquet,
    write_frame,
)

if TYPE_CHECKING:
    from adarena.envs.adapters.auctionnet_host import Record

LOG_COLUMNS: Final = (
    Column("deliveryPeriodIndex", pl.Int64),
    Column("advertiserNumber", pl.Int64),
    Column("advertiserCategoryIndex", pl.Int64),
    Column("budget", pl.Float64),
    Column("CPAConstraint", pl.Float64),
    Column("timeStepIndex", pl.Int64),
    Column("remainingBudget", pl.Float64),
    Column("pvIndex", pl.Int64),
    Column("pValue", pl.Float64),
    Column("pValueSigma", pl.Float64),
    Column("bid", pl.Float64),
    Column("xi", pl.Int64, 0.0, 1.0),
    Column("adSlot", pl.Int64),
    Column("cost", pl.Float64),
    Column("isExposed", pl.Float64),
    Column("conversionAction", pl.Float64),
    Column("leastWinningCost", pl.Float64),
    Column("isEnd", pl.Int64, 0.0, 1.0),
)
"""The log's columns, in order. ``cost`` is the price if exposed: spend is ``cost`` x ``isExposed``. ``isExposed`` and
``conversionAction`` are 0 or 1 in AuctionNet's own logs and expectations, weights included, where our market books those.
``remainingBudget`` is before the tick; ``isEnd`` is 1 in the last tick and where less than 0.1 is left."""

LOG_SCHEMA: Final = {column.name: column.dtype for column in LOG_COLUMNS}
"""Column to type, for polars."""


def read_log(path: str | Path, *, max_bad_share: float = 0.01) -> tuple[pl.DataFrame, TableReport]:
    """Reads an auction log.

    Args:
        path: ``.csv`` or ``.parquet``. Columns may stand in any order; others are passed over.
        max_bad_share: Largest share of rows that may be bad, in [0, 1).

    Returns:
        The rows, with the columns of `LOG_COLUMNS`, and what was left out: rows with a field missing or too many, or with
        a value that its column does not allow.

    Raises:
        LogError: No such file, no such format, columns missing, or too many bad rows; the message names the first.
        ValueError: ``max_bad_share`` is not allowed.
    """
    path = checked_path(path, max_bad_share)
    gathered = Gathered(path.name)
    if path.suffix == ".parquet":
        frames = [good_rows(read_parquet(path), LOG_COLUMNS, gathered)]
    else:
        frames = list(csv_frames(path, LOG_COLUMNS, gathered))
    whole = pl.concat([pl.DataFrame(schema=LOG_SCHEMA), *frames], rechunk=True)
    return whole, gathered.report(whole.height, max_bad_share)


def write_log(log: pl.DataFrame, path: str | Path) -> None:
    """Writes an auction log so that `read_log` gives it back exactly.

    Args:
        log: The columns of `LOG_COLUMNS`, as `log_of` and `read_log` give them.
        path: ``.csv`` or ``.parquet``.

    Raises:
        LogError: The format is unknown, or a column is missing or holds what it may not.
    """
    path = Path(path)
    check_format(path)
    gathered = Gathered("log")
    good = good_rows(log, LOG_COLUMNS, gathered)
    gathered.report(good.height, 0.0)
    write_frame(good, path, whole=("isExposed", "conversionAction"))


def log_of(record: Record, *, advertisers: Sequence[int] | None = None, period: int = 0) -> pl.DataFrame:
    """The auction log of an episode that `adarena.envs.adapters.auctionnet_host.play` recorded.

    Args:
        record: The record.
        advertisers: Whose rows; everybody's by default. A whole day of 500,000 impressions and 48 advertisers makes 24
            million rows, 3.5 GB.
        period: ``deliveryPeriodIndex`` of all rows.

    Returns:
        Columns of `LOG_COLUMNS`; rows by tick, then advertiser, then impression. Every index counts from 0, ``adSlot``
        from 1.

    Raises:
        ValueError: An advertiser is none of the record's.
    """
    everybody = range(len(record.budget))
    chosen = list(everybody) if advertisers is None else [int(n) for n in advertisers]
    strange = [n for n in chosen if n not in everybody]
    if strange:
        raise ValueError(f"advertisers must be from 0 to {len(everybody) - 1}, got {strange[0]}")
    frames, first = [pl.DataFrame(schema=LOG_SCHEMA)], 0
    for step in range(len(record.ticks)):
        frames += [_rows_of(record, step, n, first, period) for n in chosen]
        first += len(record.ticks[step].least_winning)
    return pl.concat(frames, rechunk=True)


def _rows_of(record: Record, step: int, advertiser: int, first: int, period: int) -> pl.DataFrame:
    """Rows of one advertiser in one tick."""
    tick = record.ticks[step]
    count = len(tick.least_winning)
    mine = tick.winner == advertiser
    left = float(tick.remaining[advertiser])
    end = step == len(record.ticks) - 1 or left < 0.1

    def won(part: np.ndarray) -> np.ndarray:
        return np.where(mine, part, 0.0).sum(axis=0, dtype=np.float64)

    values = {
        "deliveryPeriodIndex": period,
        "advertiserNumber": advertiser,
        "advertiserCategoryIndex": int(record.category[advertiser]),
        "budget": float(record.budget[advertiser]),
        "CPAConstraint": float(record.target[advertiser]),
        "timeStepIndex": step,
        "remainingBudget": left,
        "pvIndex": np.arange(first, first + count),
        "pValue": tick.p_value[advertiser],
        "pValueSigma": tick.sigma[advertiser],
        "bid": tick.bid[advertiser],
        "xi": mine.any(axis=0),
        "adSlot": (mine * np.arange(1, len(mine) + 1)[:, None]).sum(axis=0),
        "cost": won(tick.price),
        "isExposed": won(tick.exposure),
        "conversionAction": won(tick.conversion),
        "leastWinningCost": tick.least_winning,
        "isEnd": int(end),
    }
    kinds = {pl.Int64: np.int64, pl.Float64: np.float64}
    columns = {n: np.broadcast_to(np.asarray(v, kinds[LOG_SCHEMA[n]]), (count,)) for n, v in values.items()}  # type: ignore[index]
    return pl.DataFrame(columns, schema=LOG_SCHEMA)
