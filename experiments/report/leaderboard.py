"""The leaderboard: every policy of every environment, with the headroom to hindsight that it closes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import polars as pl

from adarena.experiments.report.format import UNKNOWN, interval, percent
from adarena.experiments.results import DONE, Folder
from adarena.paper_figs import style

_SCORES = ("score", "success_rate")
_HEADROOM = ("headroom", "gap_closed")
_ENVIRONMENTS = {
    "AutoBidExperiment": "AutoBid-v0",
    "ColdStartExperiment": "ColdStart-v0",
    "LifecycleExperiment": "Lifecycle-v0",
    "OfflineExperiment": "AutoBid-v0, learners from logs",
}


class Entry(NamedTuple):
    """One policy in one environment.

    Attributes:
        policy: What a reader calls it.
        kind: Rule, learner, or who knows more than a policy may: oracle, hindsight.
        seeds: Training seeds; 0 for what is not trained.
        score: With its interval.
        of_hindsight: Score over hindsight's.
        headroom: Share of the way from the best rule to the board's reference, with its interval.
        bar: That share and its ends within [-1, 1], for a picture; None where it is not known.
    """

    policy: str
    kind: str
    seeds: int
    score: str
    of_hindsight: str
    headroom: str
    bar: tuple[float, ...] | None


class Board(NamedTuple):
    """One environment's policies, best first.

    Attributes:
        environment: What a reader calls it.
        folder: Name of the folder that its scores come from.
        measure: What the score is.
        reference: Who closes all headroom.
        entries: The policies.
    """

    environment: str
    folder: str
    measure: str
    reference: str
    entries: list[Entry]


def boards(folders: list[Folder]) -> list[Board]:
    """A board for every environment of every finished folder that compared policies.

    Args:
        folders: Folders of results; those that failed are not ranked.
    """
    found = []
    for folder in folders:
        summary = folder.tables.get("summary")
        if folder.status != DONE or summary is None or not {"policy", "kind"} <= {*summary.columns}:
            continue
        score = next((name for name in _SCORES if name in summary.columns), None)
        if score is None:
            continue
        parts = summary.partition_by("mechanism", maintain_order=True) if "mechanism" in summary.columns else [summary]
        found += [_board(folder, part, score) for part in parts]
    return found


def environment_of(folder: Folder) -> str:
    """What a reader calls the environment that a folder is about; the folder's name where that is not known."""
    for record in folder.records:
        if record.kind in _ENVIRONMENTS:
            traffic = record.config.get("traffic")
            kind = "" if traffic in (None, "calibrated") else f", {str(traffic).partition(':')[0]} traffic"
            return f"{_ENVIRONMENTS[record.kind]}{kind}"
    return folder.name


def _board(folder: Folder, summary: pl.DataFrame, score: str) -> Board:
    mechanism = summary["mechanism"][0] if "mechanism" in summary.columns else None
    name = environment_of(folder) + (f", {style.mechanism_name(mechanism)}" if mechanism else "")
    measure = "success rate of new ads" if score == "success_rate" else "score a day"
    if any(record.kind == "LifecycleExperiment" for record in folder.records):
        measure = "score a life"
    # Where an oracle plays with true rates, headroom is to it: hindsight's bound is one that nobody could reach there.
    to_oracle = bool({"gap_closed", "headroom_bound"} & {*summary.columns})
    reference = "the oracle, who knows the true rates" if to_oracle else "hindsight"
    bounds = summary.filter(pl.col("kind") == "bound")[score].to_list()
    bound = bounds[0] if bounds else None
    rows = summary.sort(score, descending=True, nulls_last=True).iter_rows(named=True)
    return Board(name, folder.name, measure, reference, [_entry(row, score, bound) for row in rows])


def _entry(row: dict[str, Any], score: str, bound: float | None) -> Entry:
    name = next((name for name in _HEADROOM if row.get(name) is not None), None)
    share = None if name is None else float(row[name])
    low, high = (row.get(f"{name}_{end}") for end in ("low", "high"))
    if share is None or low is None or high is None:
        low = high = share
    bar = None
    if share is not None and low is not None and high is not None and math.isfinite(share):
        bar = tuple(min(max(float(x), -1.0), 1.0) for x in (low, share, high))
    return Entry(
        policy="Hindsight" if row["policy"] == "hindsight" else style.look(row["policy"]).name,
        kind="hindsight" if row["kind"] == "bound" else row["kind"],
        seeds=int(row.get("seeds") or 0),
        score=interval(row[score], row.get(f"{score}_low"), row.get(f"{score}_high")),
        of_hindsight=percent(row[score] / bound) if bound and row[score] is not None else UNKNOWN,
        headroom=percent(share, *([] if row["kind"] == "bound" else [low, high])),
        bar=bar,
    )
