"""What `adarena.experiments.offline` makes of its scores: summary, published orderings, live against replayed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from rich.table import Table
from scipy.stats import kendalltau

from adarena.experiments import protocol, tables
from adarena.experiments.offline_learners import GENERATIVE, REASONER
from adarena.experiments.statistics import Bootstrap, iqm, paired_difference, stratified_bootstrap
from adarena.experiments.store import RunFolder

if TYPE_CHECKING:
    from adarena.experiments.offline import OfflineExperiment

PUBLISHED = (
    ("gave", "gas", "GAVE, table 1"),
    ("gas", "decision_transformer", "GAS, table 1"),
    ("decision_transformer", "bc", "GAS and GAVE, tables 1"),
)
"""Published orderings over learners: better, worse, where (GAS: arXiv:2412.17018, GAVE: arXiv:2504.14587)."""

PUBLISHED_CHOICES = (
    ("full", "random", "GAS, ablation"),
    ("random", "mean", "GAS, ablation"),
    ("mean", "greedy", "GAS, ablation"),
    ("full", "no_history", "GAS, ablation"),
)
"""The same over ways to choose one of GAS's candidates, and over critics with and without history."""


def kept(folder: RunFolder, table: str) -> set[str]:
    """The policies that have rows in a table of a run."""
    return set(folder.read_table(table)["policy"]) if table in folder.tables else set()


def keep(folder: RunFolder, table: str, rows: pl.DataFrame) -> None:
    """Adds the rows of policies to a table of a run, in place of those that they had."""
    if table in folder.tables:
        others = folder.read_table(table).filter(~pl.col("policy").is_in(rows["policy"].unique().to_list()))
        rows = pl.concat([others, rows], how="diagonal_relaxed")
    folder.write_table(table, rows)


def asked_frame(policy: str, targets: Sequence[float], scores: Sequence[float]) -> pl.DataFrame:
    """What each thing asked for brought on tuning markets.

    Returns:
        Columns ``policy, target, score, chosen``; the first of the best is chosen, of scores that are numbers.
    """
    best = int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))
    rows = [
        (policy, target, score, place == best)
        for place, (target, score) in enumerate(zip(targets, scores, strict=True))
    ]
    schema = {"policy": pl.String, "target": pl.Float64, "score": pl.Float64, "chosen": pl.Boolean}
    return pl.DataFrame(rows, schema, orient="row")


def derive(config: OfflineExperiment, folder: RunFolder) -> None:
    """Writes ``summary``, ``orderings`` and ``disagreement`` from the scores."""
    scores = folder.read_table("scores")
    folder.write_table("summary", protocol.summarise(scores).with_columns(pl.lit(config.mechanism).alias("mechanism")))
    studies = {name: folder.read_table(name) if name in folder.tables else None for name in _STUDIED}
    folder.write_table("orderings", orderings(scores, **studies))
    folder.write_table("disagreement", disagreement(scores, folder.read_table("replayed")))


_STUDIED = ("choices", "no_history", "to_go")


def orderings(
    scores: pl.DataFrame,
    choices: pl.DataFrame | None = None,
    no_history: pl.DataFrame | None = None,
    to_go: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Published orderings, and the comparisons that this project asks for, on the same cases.

    Returns:
        One row a pair: ``better`` and ``worse`` (as claimed), ``source``, ``metric``; ``difference``, paired, with its 95 %
        interval over training seeds (over markets where neither learns); ``holds``: whether the interval lies above zero;
        ``reversed``: whether it lies below.
    """
    rows = []
    for better, worse, source in PUBLISHED:
        rows += _pair(scores, better, worse, source)
    for study in (choices, no_history):
        if study is not None:
            for better, worse, source in PUBLISHED_CHOICES:
                rows += _pair(study, better, worse, source)
    if to_go is not None:
        rows += _pair(to_go, "score", "value", "GAVE: trained on what is counted")
        rows += _pair(to_go, "value", "score", "GAVE: trained on what is counted", "value")
    best, learners = best_of(scores, GENERATIVE), _learners(scores)
    others = [name for name in learners if name not in (*GENERATIVE, "ppo")]
    rivals = [*others, protocol.best_rule(scores), "ppo"]
    if best is not None:  # the reasoning bidder meets whatever the best generative one meets, and that one
        for bidder in dict.fromkeys((best, REASONER)):
            for rival in rivals if bidder == best else [*rivals, best]:
                rows += _pair(scores, bidder, rival, "asked here")
    return pl.DataFrame(rows, schema=_ORDERINGS)


_ORDERINGS: dict[str, Any] = dict.fromkeys(("better", "worse", "source", "metric"), pl.String)
_ORDERINGS |= dict.fromkeys(("difference", "difference_low", "difference_high"), pl.Float64)
_ORDERINGS |= dict.fromkeys(("holds", "reversed"), pl.Boolean)


def best_of(scores: pl.DataFrame, names: Sequence[str]) -> str | None:
    """The one with the highest IQM score, of those that are there."""
    there = [name for name in _learners(scores) if name in names]
    return max(there, key=lambda name: float(iqm(protocol.matrix(scores, name))), default=None)


def _learners(scores: pl.DataFrame) -> list[str]:
    return scores.filter(pl.col("kind") == "learner")["policy"].unique(maintain_order=True).to_list()


def _pair(scores: pl.DataFrame, better: str, worse: str, source: str, metric: str = "score") -> list[dict[str, Any]]:
    """The row of a pair; none where one of them is not there."""
    if not {better, worse} <= set(scores["policy"]):
        return []
    first, second = (protocol.matrix(scores, name, metric) for name in (better, worse))
    if set(scores.filter(pl.col("policy") == worse)["kind"]) != {"learner"}:
        second = second[0]
    found = paired_difference(first, second, options=Bootstrap(resample="seeds"))
    row = {"better": better, "worse": worse, "source": source, "metric": metric}
    return [row | protocol.named("difference", found) | {"holds": found.low > 0.0, "reversed": found.high < 0.0}]


def markets(folders: Sequence[RunFolder]) -> pl.DataFrame:
    """One table of several runs: every policy in every market, at all budgets together and at each.

    Args:
        folders: Finished runs, each of other traffic, rewards or auction.

    Returns:
        Columns ``traffic``, ``response`` and ``mechanism`` as the runs were told, ``budget_scale`` (over the usual budget;
        null: all of them), then those of `adarena.experiments.protocol.summarise`.

    Raises:
        ValueError: Two runs are of one market.
    """
    parts: dict[tuple[str, ...], pl.DataFrame] = {}
    for folder in folders:
        fields = folder.config["fields"]
        market = tuple(fields[name] for name in _MARKET)
        if market in parts:
            raise ValueError(f"runs must each be of another market, got {' '.join(market)} again in {folder.path.name}")
        scores = folder.read_table("scores")
        budgets = [None, *scores["budget_scale"].unique().sort().to_list()]
        rows = [
            protocol.summarise(scores if budget is None else scores.filter(pl.col("budget_scale") == budget)).select(
                pl.lit(budget, pl.Float64).alias("budget_scale"), pl.all()
            )
            for budget in budgets
        ]
        named = [pl.lit(value).alias(name) for name, value in zip(_MARKET, market, strict=True)]
        parts[market] = pl.concat(rows, how="diagonal_relaxed").select(*named, pl.all())
    return pl.concat(parts.values(), how="diagonal_relaxed")


_MARKET = ("traffic", "response", "mechanism")


def disagreement(scores: pl.DataFrame, replayed: pl.DataFrame) -> pl.DataFrame:
    """How far playing a logged day misjudges policies.

    Returns:
        One row a policy: ``live`` and ``replayed`` IQM scores, their ``live_rank`` and ``replayed_rank`` (1 is best), and
        ``bias``, replayed less live, paired, with a 95 % interval (over training seeds; over markets for rules).
    """
    rows = []
    for name in replayed["policy"].unique(maintain_order=True):
        kind = replayed.filter(pl.col("policy") == name)["kind"][0]
        live, logged = (protocol.matrix(table, name) for table in (scores, replayed))
        market = scores.filter(pl.col("policy") == name).sort("seed", "case")["market"].to_numpy()[: live.shape[1]]
        if kind == "rule":
            live, logged = live[0], logged[0]
        by: Literal["seeds", "markets"] = "seeds" if kind == "learner" or len(set(market)) == 1 else "markets"
        # One seed's two scores belong together: it is the same policy.
        bias = stratified_bootstrap(logged - live, markets=market, options=Bootstrap(resample=by))
        row = {"policy": name, "kind": kind, "live": float(iqm(live)), "replayed": float(iqm(logged))}
        rows.append(row | protocol.named("bias", bias))
    ranks = [pl.col(name).rank("min", descending=True).alias(f"{name}_rank") for name in ("live", "replayed")]
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(ranks).sort("live_rank")


def shown(folder: RunFolder, config: OfflineExperiment) -> list[Table]:
    """Tables for people; those of controls, search, GAVE's drift and training times where the run has them."""
    comparison = tables.comparison(folder.read_table("summary"), config.mechanism, config.online())
    found = [
        comparison,
        _orderings_table(folder.read_table("orderings")),
        _disagreement_table(folder.read_table("disagreement")),
    ]
    more = (("controls", _controls_table), ("search", _search_table), ("drift", _drift_table), ("times", _times_table))
    return found + [make(folder.read_table(name)) for name, make in more if name in folder.tables]


def _controls_table(frame: pl.DataFrame) -> Table:
    table = Table(title="The reasoning bidder and its controls (IQM, 95 % interval over training seeds)")
    for name in ("told", "score", "less own thoughts'"):
        table.add_column(name, justify="left" if name == "told" else "right")
    for row in frame.iter_rows(named=True):
        gap = tables.with_interval(row, "difference", sign=True)
        table.add_row(row["control"], tables.with_interval(row, "score"), gap)
    return table


def _search_table(frame: pl.DataFrame) -> Table:
    """The setting chosen for each learner, beside the module's own, which is tried first."""
    table = Table(title="Settings chosen on tuning markets (mean score after the search's gradient steps)")
    for name in ("policy", "tried", "own settings", "chosen", "setting"):
        table.add_column(name, justify="left" if name in ("policy", "setting") else "right")
    for rows in frame.partition_by("policy", maintain_order=True):
        best = rows.filter("chosen").row(0, named=True)
        scores = [tables.number(score) for score in (rows["score"][0], best["score"])]
        table.add_row(best["policy"], str(len(rows)), *scores, best["setting"])
    return table


def _drift_table(frame: pl.DataFrame) -> Table:
    table = Table(
        title="GAVE by how far it explores and whether it sees its own multiplier",
        caption="Means over seeds and cases; log multipliers over the day's first and last quarter",
    )
    for name in ("explores", "own multiplier", "score", "log multiplier first", "last"):
        table.add_column(name, justify="left" if name == "own multiplier" else "right")
    means = frame.group_by("explore", "hidden", maintain_order=True).mean()
    for row in means.iter_rows(named=True):
        shown = [tables.number(row[name]) for name in ("score", "log_multiplier_first", "log_multiplier_last")]
        table.add_row(f"{row['explore']:g}", "hidden" if row["hidden"] else "seen", *shown)
    return table


def _times_table(frame: pl.DataFrame) -> Table:
    table = Table(
        title="Training times",
        caption="With compilation, and with what a killed run had trained; in a search seeds are settings of one seed each",
    )
    for name in ("policy", "stage", "seeds", "gradient steps", "wall [s]", "CPU [s]", "wall a seed [s]"):
        table.add_column(name, justify="left" if name in ("policy", "stage") else "right")
    for row in frame.iter_rows(named=True):
        times = [f"{row[name]:.1f}" for name in ("wall_seconds", "cpu_seconds", "seconds_a_seed")]
        table.add_row(row["policy"], row["stage"], str(row["seeds"]), f"{row['gradient_steps']:,}", *times)
    return table


def _orderings_table(frame: pl.DataFrame) -> Table:
    table = Table(title="Orderings: paired difference (IQM, 95 % interval over training seeds)")
    for name in ("claimed better", "than", "metric", "difference", "verdict", "source"):
        table.add_column(name)
    for row in frame.iter_rows(named=True):
        verdict = "holds" if row["holds"] else ("reversed" if row["reversed"] else "not told apart")
        difference = tables.with_interval(row, "difference", sign=True)
        table.add_row(row["better"], row["worse"], row["metric"], difference, verdict, row["source"])
    return table


def _disagreement_table(frame: pl.DataFrame) -> Table:
    tau = (
        float(kendalltau(frame["live"].to_numpy(), frame["replayed"].to_numpy()).statistic)
        if len(frame) > 1
        else np.nan
    )
    table = Table(
        title="The same policies against rivals who respond (live) and against a logged day (replayed)",
        caption=f"Kendall's tau of the two orders: {tau:.2f}",
    )
    for name in ("policy", "live", "rank", "replayed", "rank", "replayed less live"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for row in frame.iter_rows(named=True):
        table.add_row(
            row["policy"],
            tables.number(row["live"]),
            f"{row['live_rank']}",
            tables.number(row["replayed"]),
            f"{row['replayed_rank']}",
            tables.with_interval(row, "bias", sign=True),
        )
    return table
