"""How good the estimators of `adarena.experiments.ope` are: error, ranking of policies, coverage of intervals."""

from __future__ import annotations

import numpy as np
import polars as pl
from rich.table import Table
from scipy.stats import rankdata

from adarena.experiments import tables

NAMES = {
    "logged": "Log's own mean",
    "is": "Importance sampling",
    "wis": "IS, self-normalised",
    "pdis": "Per decision",
    "snpdis": "Per decision, self-norm.",
    "fqe": "Fitted Q",
    "dr": "Doubly robust",
    "wdr": "Doubly robust, self-norm.",
}
"""What a reader calls an estimator, in the order in which tables and figures show them."""


def quality(estimates: pl.DataFrame) -> pl.DataFrame:
    """One row an estimator and log size, over all targets and logs of that size.

    Returns:
        Columns ``log_size``, ``estimator``; ``error`` (mean absolute), ``bias``, ``rmse``, in units of the return;
        ``rank_correlation``: Spearman's, over target policies, mean over logs (null where an estimator tells none apart);
        ``coverage``: share of 95 % intervals that hold the truth; ``width`` of them, mean; ``ess``, median; ``estimates``:
        how many the row is of.
    """
    gap = pl.col("estimate") - pl.col("truth")
    covered = (pl.col("low") <= pl.col("truth")) & (pl.col("truth") <= pl.col("high"))
    by = ["log_size", "estimator"]
    found = estimates.group_by(by, maintain_order=True).agg(
        gap.abs().mean().alias("error"),
        gap.mean().alias("bias"),
        (gap**2).mean().sqrt().alias("rmse"),
        covered.fill_null(False).mean().alias("coverage"),
        (pl.col("high") - pl.col("low")).mean().alias("width"),
        pl.col("ess").median(),
        pl.len().alias("estimates"),
    )
    ranks = []
    for (size, name), rows in estimates.group_by(by, maintain_order=True):
        each = [spearman(log["estimate"].to_numpy(), log["truth"].to_numpy()) for _, log in rows.group_by("log")]
        known = [x for x in each if x is not None]
        mean = float(np.mean(known)) if len(known) == len(each) else None
        ranks.append({"log_size": size, "estimator": name, "rank_correlation": mean})
    schema = {"log_size": pl.Int64, "estimator": pl.String, "rank_correlation": pl.Float64}
    found = found.join(pl.DataFrame(ranks, schema=schema), on=by, how="left")
    order = {name: place for place, name in enumerate(NAMES)}
    place = pl.col("estimator").replace_strict(order, return_dtype=pl.Int64)
    return found.sort(pl.col("log_size"), place)


def spearman(said: np.ndarray, truth: np.ndarray) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where one side does not tell any two apart.

    Args:
        said: ``[K]``; infinite numbers rank as such.
        truth: ``[K]``.
    """
    ranks = [rankdata(x) for x in (said, truth)]
    if np.isnan(said).any() or any(np.ptp(rank) == 0.0 for rank in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def shown(found: pl.DataFrame, truths: pl.DataFrame) -> Table:
    """The quality table for people."""
    worth = truths["truth"].to_numpy()
    low, high, spread = worth.min(), worth.max(), worth.std(ddof=1)
    error = tables.number(truths["truth_se"].mean())
    table = Table(
        title=f"Estimates against the truth: {len(truths)} policies worth {low:.3g} to {high:.3g} (standard deviation "
        f"{spread:.3g}, standard error of one {error})"
    )
    table.add_column("episodes", justify="right")
    table.add_column("estimator", no_wrap=True)
    for name in ("mean error", "bias", "RMSE", "rank corr.", "coverage", "width", "ESS"):
        table.add_column(name, justify="right", no_wrap=True)
    size = None
    for row in found.iter_rows(named=True):
        table.add_row(
            "" if row["log_size"] == size else f"{row['log_size']:,}",
            NAMES[row["estimator"]],
            tables.number(row["error"]),
            tables.number(row["bias"], sign=True),
            tables.number(row["rmse"]),
            tables.number(row["rank_correlation"]),
            tables.number(row["coverage"], percent=True),
            tables.number(row["width"]),
            tables.number(row["ess"]),
        )
        size = row["log_size"]
    return table
