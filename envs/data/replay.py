"""A log as a bank of impressions: the arrays that a replay environment visits tick by tick."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from adarena.envs.data.ipinyou import Log, LogError

_DAY_SECONDS = 86_400


class ReplayArrays(NamedTuple):
    """A log's rows in ``G`` blocks of ``M`` impressions, over ``T`` ticks of the day. NumPy.

    Replaying it: a bid wins an impression iff it reaches ``price``, and pays ``price``. Only auctions that the log's
    owner won are in it.

    Attributes:
        pctr: ``[G, 1, M]`` float32 click probability, 0 in padding.
        price: ``[G, M]`` float32 the larger of market price and floor, CNY per impression, 0 in padding.
        click: ``[G, M]`` float32 1 where the logged impression was clicked.
        weight: ``[G, M]`` float32 1, or 0 for padding, which stands at the end of a block.
        first: ``[T]`` int32 first block of each tick.
        last: ``[T]`` int32 end (exclusive) of its blocks; at least ``first + 1``.
        volume: ``[T]`` float32 logged impressions of the tick, per day.
        log_cost: What all impressions of the log cost per day, CNY.
        mean_ecpc: Their cost over their expected clicks (the sum of ``pctr``), CNY per click.
    """

    pctr: np.ndarray
    price: np.ndarray
    click: np.ndarray
    weight: np.ndarray
    first: np.ndarray
    last: np.ndarray
    volume: np.ndarray
    log_cost: float
    mean_ecpc: float


def replay_bank(
    log: Log,
    pctr: np.ndarray,
    *,
    ticks: int,
    impressions: int,
    seed: int,
    day: int | None = None,
) -> ReplayArrays:
    """Deals the rows of a log into blocks.

    Rows are grouped by the tick of the day that they fall in (all days folded into one unless ``day`` is given; a log
    without times is spread over the ticks in file order). The rows of a tick are dealt at random into as few blocks as
    hold them, equally to within one row, so that every block is as good a sample of its tick; a block keeps the order
    of time and is padded with weight 0. A tick without rows borrows the nearest tick's blocks, with volume 0.
    With ``impressions`` as large as the largest tick, the bank is the log itself.

    Args:
        log: The log.
        pctr: ``[rows]`` click probability of each of the log's rows, in [0, 1].
        ticks: Ticks in the day, from 1 up.
        impressions: Impressions in a block, from 1 up.
        seed: Seed of the deal.
        day: Ordinal of the one day to use, from 0.

    Returns:
        The arrays.

    Raises:
        ValueError: An argument is not allowed.
        LogError: The log has no rows, or none on that day.
    """
    pctr = _checked(log, pctr, ticks, impressions)
    frame = log.frame.select("seconds", "day", "price", "floor", "click").with_columns(pl.Series("pctr", pctr))
    if day is not None:
        frame = frame.filter(pl.col("day") == day)
    if frame.is_empty():
        allowed = f"days of the log are 0 to {log.days - 1}" if len(log) else "it has no rows at all"
        raise LogError(f"day={day!r} holds no rows of the log; {allowed}")
    tick, frame = _by_tick(frame, int(ticks), log.has_time)
    days = log.days if day is None else 1
    return _laid_out(frame, tick, int(ticks), int(impressions), days, np.random.default_rng(seed))


def _checked(log: Log, pctr: np.ndarray, ticks: int, impressions: int) -> np.ndarray:
    for name, value in (("ticks", ticks), ("impressions", impressions)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be a whole number from 1 up, got {value!r}")
    pctr = np.asarray(pctr, np.float32)
    if pctr.shape != (len(log),):
        raise ValueError(f"pctr must have shape ({len(log)},), one value for each row of the log, got {pctr.shape}")
    if len(log) and not (pctr.min() >= 0.0 and pctr.max() <= 1.0):
        raise ValueError(f"pctr must lie from 0 to 1, got {pctr.min()} to {pctr.max()}")
    return pctr


def _laid_out(
    frame: pl.DataFrame, tick: np.ndarray, ticks: int, impressions: int, days: int, rng: np.random.Generator
) -> ReplayArrays:
    """Rows, ordered by tick and time, as blocks."""
    price = np.maximum(frame["price"].to_numpy(), frame["floor"].to_numpy())
    pctr, click = frame["pctr"].to_numpy(), frame["click"].to_numpy()
    counts = np.bincount(tick, minlength=ticks)
    block, place, blocks = _deal(counts, impressions, rng)
    first, last = _ranges(counts, blocks)
    cost, expected = (float(values.sum(dtype=np.float64)) for values in (price, pctr))
    padded = np.zeros((4, int(blocks.sum()), impressions), np.float32)
    for array, values in zip(padded, (pctr, price, click, 1.0), strict=True):
        array[block, place] = values
    return ReplayArrays(
        pctr=padded[0][:, None, :],
        price=padded[1],
        click=padded[2],
        weight=padded[3],
        first=first,
        last=last,
        volume=(counts / days).astype(np.float32),
        log_cost=cost / days,
        mean_ecpc=cost / expected if expected > 0 else 0.0,
    )


def _by_tick(frame: pl.DataFrame, ticks: int, has_time: bool) -> tuple[np.ndarray, pl.DataFrame]:
    """The tick of each row, and the rows, both in order of the time of day (of the file where there is none)."""
    if not has_time:
        return np.arange(frame.height, dtype=np.int64) * ticks // frame.height, frame
    frame = frame.sort("seconds", maintain_order=True)
    return frame["seconds"].to_numpy().astype(np.int64) * ticks // _DAY_SECONDS, frame


def _deal(counts: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Block and place of each row, rows ordered by tick and time, and the number of blocks of each tick."""
    blocks = -(-counts // size)
    block = np.empty(int(counts.sum()), np.int64)
    place = np.empty_like(block)
    start = base = 0
    for count, number in zip(counts.tolist(), blocks.tolist(), strict=True):
        if not count:
            continue
        own = rng.permutation(count) % number
        # Rows of one block, in the order in which they came, take its places 0, 1, 2, ...
        order = np.argsort(own, kind="stable")
        sizes = np.bincount(own, minlength=number)
        within = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        block[start : start + count] = base + own
        place[start + order] = within
        start, base = start + count, base + number
    return block, place, blocks


def _ranges(counts: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last block of each tick; ticks without rows take those of the nearest tick that has some."""
    last = np.cumsum(blocks)
    first = last - blocks
    filled = np.flatnonzero(counts)
    nearest = filled[np.abs(np.arange(len(counts))[:, None] - filled[None, :]).argmin(axis=1)]
    return first[nearest].astype(np.int32), last[nearest].astype(np.int32)
