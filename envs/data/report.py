"""What a reader says about the log that it read."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple


class BadLine(NamedTuple):
    """A line that was left out.

    Attributes:
        file: Name of its file.
        number: 1-based number in it.
        reason: What a good line has there.
        value: What stands there, cut to 60 characters.
    """

    file: str
    number: int
    reason: str
    value: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.number}: {self.reason}, got {self.value!r}"


@dataclasses.dataclass(frozen=True)
class LogReport:
    """What was read, left out and found odd.

    Attributes:
        layout: Layout of the files.
        files: Files read, in order.
        skipped: Files of the directory that are no such log.
        rows_read: Lines that were not blank, headers not counted; clicks and conversions that were joined included.
        rows_kept: Impressions in the log.
        bad: Bad lines left out, by reason.
        first_bad: The first 20 of them.
        odd_lines: Lines that are not UTF-8 (kept).
        repeated_bidids: Impressions whose bid id stood in an earlier row (kept).
        pay_over_bid: Impressions that paid more than was bid (kept; 1.24 % of iPinYou's).
        zero_price: Impressions with a market price of 0 (kept).
        null_exchange: Impressions whose exchange is null (kept; advertiser 2997).
        season: ``"2"`` (numeric slot visibility), ``"3"`` (names), ``"mixed"`` or ``"unknown"``.
        dates: Dates of the log, ISO, in order; empty where rows carry no time.
        hour0_excess: Rows of hour 0 over the mean of hours 23 and 1 (1 expected); None where unknown.
        clicks: Impressions with a click.
        clicks_known: Whether the layout brings clicks or a click log was joined; otherwise ``click`` is 0 throughout.
        clicks_unmatched: Clicks of the joined log that belong to no impression read.
    """

    layout: str
    files: tuple[str, ...]
    skipped: tuple[str, ...]
    rows_read: int
    rows_kept: int
    bad: dict[str, int]
    first_bad: tuple[BadLine, ...]
    odd_lines: int
    repeated_bidids: int
    pay_over_bid: int
    zero_price: int
    null_exchange: int
    season: str
    dates: tuple[str, ...]
    hour0_excess: float | None
    clicks: int
    clicks_known: bool
    clicks_unmatched: int

    def __str__(self) -> str:
        share = f"{self.clicks} with a click" if self.clicks_known else "clicks unknown: no click log was joined"
        lines = [
            f"{len(self.files)} file{'s' * (len(self.files) != 1)}, {self.layout} layout, season {self.season}",
            f"{self.rows_read} lines read, {self.rows_kept} impressions kept, {share}",
        ]
        if self.dates:
            lines.append(f"{len(self.dates)} day{'s' * (len(self.dates) != 1)}: {self.dates[0]} to {self.dates[-1]}")
        if self.skipped:
            lines.append(f"passed over in the directory: {', '.join(self.skipped)}")
        lines += [f"{count} bad lines left out: {reason}" for reason, count in self.bad.items()]
        lines += [f"  {line}" for line in self.first_bad]
        lines += [f"{count} {text}" for count, text in self._oddities() if count]
        if self.hour0_excess is not None:
            note = "; an artefact of the logging is known there" if self.hour0_excess > 1.25 else ""
            lines.append(f"hour 0 holds {self.hour0_excess:.2f} times the rows of the hours beside it{note}")
        return "\n".join(lines)

    def _oddities(self) -> list[tuple[int, str]]:
        return [
            (self.odd_lines, "lines are not UTF-8 (kept)"),
            (self.repeated_bidids, "rows repeat an earlier bid id (kept)"),
            (self.pay_over_bid, "rows paid more than was bid (kept)"),
            (self.zero_price, "rows have a market price of 0 (kept)"),
            (self.null_exchange, "rows have a null exchange (kept)"),
            (self.clicks_unmatched, "clicks of the joined log belong to no impression read"),
        ]
