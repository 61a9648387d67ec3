"""Fits a calibration to a log, and says how far it is from rows that it has not seen."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from scipy.special import ndtri

from adarena.envs.data.calibration import Calibration
from adarena.envs.data.ipinyou import Log, LogError

COMPARED_LEVELS: Final = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)
"""Probabilities at which fitted and observed prices are compared."""

_TAIL_FROM: Final = 0.99
_TAIL_LEVELS: Final = (0.9925, 0.995, 0.9975, 0.999)
_PRIOR_ROWS: Final = 500.0
"""Rows that the default's shares count for."""
_PRIOR_LEVEL_CLICKS: Final = 2.0
"""Clicks that the default's mean CTR counts for: few, since advertisers differ by a factor of ten."""
_PRIOR_CLICKS: Final = 20.0
"""Clicks that the default's profile of CTRs by visibility counts for, in each of them, at the log's own level."""
_MIN_HOURS: Final = 20
"""Hours of the day that a log must show before its daily curve replaces the default's."""
_HOUR0_LIMIT: Final = 1.25


def fit_calibration(
    log: Log,
    *,
    ticks: int = 48,
    seed: int = 0,
    winnable: float | None = None,
    default: Calibration | None = None,
) -> tuple[Calibration, pl.DataFrame]:
    """Fits the price landscape, the daily curve and the slot visibilities of a log.

    Two thirds of the rows, drawn at random, are fitted; the others are what the table calls observed.

    Prices: empirical quantiles at every hundredth, which keeps atoms as flat stretches; above .99 a log-normal tail
    through the quantiles .90 and .99, cut at the highest price seen, for a won price does not pass the bid. Shares are
    shrunk to the default's as if that were 500 rows, the mean CTR as if it were 2 clicks, and those by visibility as 20
    clicks each. The daily curve is fitted where the log shows at least 20 hours of the day; hour 0 is then taken as the
    mean of the hours beside it where an excess there shows the known artefact of the logging.

    Args:
        log: At least 30 rows.
        ticks: Parts of the day in ``daily_share``.
        seed: Seed of the split.
        winnable: P(an auction can be won). A log of won auctions cannot show it: None takes the default's, the
            published win rate, and ``sources["winnable"]`` says so.
        default: What to shrink to and to fall back on; `Calibration.default` if None.

    Returns:
        The calibration, and a table with columns ``quantity``, ``unit``, ``fitted``, ``observed`` and ``ratio`` (fitted
        over observed, null where nothing was observed).

    Raises:
        LogError: Fewer than 30 rows, or no price above 0.
        ValueError: ``ticks`` or ``winnable`` is not allowed.
    """
    _check(log, ticks, winnable)
    base = default or Calibration.default()
    held_out = np.random.default_rng(seed).permutation(len(log)) % 3 == 0
    rows = dataclasses.replace(log, frame=log.frame.filter(~held_out))
    observed = dataclasses.replace(log, frame=log.frame.filter(held_out))
    fitted = _fit(rows, ticks, winnable, base)
    return fitted, _compare(fitted, observed, log.report.clicks_known)


def _check(log: Log, ticks: int, winnable: float | None) -> None:
    if isinstance(ticks, bool) or not isinstance(ticks, int) or ticks < 1:
        raise ValueError(f"ticks must be a whole number from 1 up, got {ticks!r}")
    if winnable is not None and not 0.0 < winnable <= 1.0:
        raise ValueError(f"winnable must be a probability above 0 and up to 1, got {winnable!r}")
    if len(log) < 30:
        raise LogError(f"a calibration needs at least 30 rows, the log has {len(log)}")


def _fit(log: Log, ticks: int, winnable: float | None, base: Calibration) -> Calibration:
    where = f"fitted to {len(log)} won impressions of {_named(log.report.files)}"
    sources = {name: f"{text} (the default, not fitted)" for name, text in base.sources.items()}
    fields: dict[str, Any] = {}
    parts = [*_fit_prices(log, where), *_fit_daily(log, ticks, base, where), *_fit_visibility(log, base, where)]
    for name, value, source in parts:
        fields[name] = value
        sources[name] = source or sources.get(name, "default")
    if winnable is not None:
        fields["winnable"] = float(winnable)
        sources["winnable"] = "given by the caller; a log of won auctions cannot show it"
    else:
        sources["winnable"] = (
            f"a log of won auctions cannot show it; the default's: {base.sources.get('winnable', 'unknown source')}"
        )
    return dataclasses.replace(base, **fields, sources=sources)


def _named(files: tuple[str, ...]) -> str:
    names = [Path(file).name for file in files]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more files" if len(names) > 3 else "")


_Fitted = list[tuple[str, object, str | None]]


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _fit_prices(log: Log, where: str) -> _Fitted:
    prices = log.frame["price"].to_numpy().astype(np.float64)
    highest = float(prices.max())
    if highest <= 0.0:
        raise LogError("no row has a price above 0: is it a click log, whose prices are zero-filled?")
    body = np.linspace(0.0, _TAIL_FROM, 100)
    quantiles = np.quantile(prices, body)
    q90, q99 = np.quantile(prices, [0.90, _TAIL_FROM])
    spread = math.log(q99 / q90) / float(ndtri(_TAIL_FROM) - ndtri(0.90)) if q90 > 0 else 0.0
    tail = q99 * np.exp(spread * (ndtri(_TAIL_LEVELS) - ndtri(_TAIL_FROM)))
    quantiles = np.maximum.accumulate(np.concatenate([quantiles, np.minimum(tail, highest), [highest]]))
    probabilities = np.concatenate([body, _TAIL_LEVELS, [1.0]])
    text = f"{where}: empirical quantiles; log-normal tail above .99 (log sd {spread:.3f}), cut at the highest price"
    return [
        ("price_probabilities", _floats(probabilities), where),
        ("price_quantiles", _floats(quantiles), text),
    ]


def _fit_daily(log: Log, ticks: int, base: Calibration, where: str) -> _Fitted:
    prior = base.daily(ticks).astype(np.float64)
    prior /= prior.sum()
    hours = log.frame["hour"].n_unique() if log.has_time else 0
    if hours < _MIN_HOURS:
        kept = f"kept: the log shows {hours} of 24 hours, {_MIN_HOURS} are needed"
        text = f"{base.sources.get('daily_share', 'default')} ({kept})"
        return [("daily_share", _floats(prior), text)]
    seconds, note = log.frame["seconds"].to_numpy(), ""
    counts = np.bincount(seconds.astype(np.int64) * ticks // 86400, minlength=ticks).astype(np.float64)
    excess = log.report.hour0_excess
    if excess is not None and excess > _HOUR0_LIMIT and ticks >= 24 and ticks % 24 == 0:
        width = ticks // 24
        # The excess is told by the hours beside that have rows; the same hours replace it.
        counts[:width] *= 1.0 / excess
        note = "; hour 0 taken as the mean of the hours beside it (artefact of the logging)"
    share = (counts + _PRIOR_ROWS * prior) / (counts.sum() + _PRIOR_ROWS)
    text = f"{where}, {log.days} days folded, shrunk to the default as {_PRIOR_ROWS:g} rows{note}"
    return [("daily_share", _floats(share / share.sum()), text)]


def _fit_visibility(log: Log, base: Calibration, where: str) -> _Fitted:
    rows, clicks = len(log), int(log.frame["click"].sum())
    known, text = log.report.clicks_known, None
    mean, profile_text = base.mean_ctr, "the default's profile at the default's CTR: clicks of the log are unknown"
    if known:
        # One level for the whole log first, then each visibility around the default's profile at that level.
        mean = (clicks + _PRIOR_LEVEL_CLICKS) / (rows + _PRIOR_LEVEL_CLICKS / base.mean_ctr)
        text = f"{where} with {clicks} clicks, shrunk to the default as {_PRIOR_LEVEL_CLICKS:g} clicks"
        profile_text = f"{where} with {clicks} clicks, shrunk to the default's profile as {_PRIOR_CLICKS:g} clicks each"
    level: _Fitted = [("mean_ctr", mean, text)]
    names, profile = base.visibility_names, np.array(base.visibility_ctr)
    if "visibility" not in log.frame.columns:
        scaled = np.minimum(profile * mean / base.mean_ctr, 1.0)
        return [*level, ("visibility_ctr", _floats(scaled), "the default's profile at the log's CTR")]
    seen = _by_visibility(log, names)
    share = (seen[:, 0] + _PRIOR_ROWS * np.array(base.visibility_share)) / (rows + _PRIOR_ROWS)
    share /= share.sum()
    rates = np.maximum(profile * mean / float(share @ profile), 1e-12)
    if known:
        rates = (seen[:, 1] + _PRIOR_CLICKS) / (seen[:, 0] + _PRIOR_CLICKS / rates)
    return [
        *level,
        ("visibility_share", _floats(share), f"{where}, shrunk to the default as {_PRIOR_ROWS:g} rows"),
        ("visibility_ctr", _floats(np.minimum(rates, 1.0)), profile_text),
    ]


def _by_visibility(log: Log, names: tuple[str, ...]) -> np.ndarray:
    """Impressions and clicks of each visibility, ``[names, 2]``; values without a name count as Na."""
    other = "Na" if "Na" in names else names[-1]
    view = log.frame.select(pl.col("visibility").cast(pl.String), pl.col("click").cast(pl.Int64))
    view = view.with_columns(pl.when(pl.col("visibility").is_in(names)).then("visibility").otherwise(pl.lit(other)))
    grouped = view.group_by("visibility").agg(pl.len(), pl.col("click").sum())
    counts = {name: (rows, clicks) for name, rows, clicks in grouped.iter_rows()}
    return np.array([counts.get(name, (0, 0)) for name in names], np.float64)


def _compare(fitted: Calibration, observed: Log, clicks_known: bool) -> pl.DataFrame:
    prices = observed.frame["price"].to_numpy().astype(np.float64)
    per_mille = 1000.0
    rows: list[tuple[str, str, float, float | None]] = [
        (f"price q{level:.2f}", "CNY per mille", float(fitted.price_at(level)) * per_mille, float(seen) * per_mille)
        for level, seen in zip(COMPARED_LEVELS, np.quantile(prices, COMPARED_LEVELS), strict=True)
    ]
    rows.append(("price mean", "CNY per mille", fitted.mean_price * per_mille, float(prices.mean()) * per_mille))
    parts = fitted.daily(6)
    seen_parts: list[float | None] = [None] * 6
    if observed.has_time:
        counts = np.bincount(observed.frame["seconds"].to_numpy().astype(np.int64) // 14400, minlength=6)
        seen_parts = [float(value) for value in counts / counts.sum()]
    rows += [
        (f"hours {4 * part:02d}-{4 * part + 4:02d}", "share of impressions", float(parts[part]), seen_parts[part])
        for part in range(6)
    ]
    has_view = "visibility" in observed.frame.columns
    view = observed.frame["visibility"].cast(pl.String) if has_view else None
    for name, share in zip(fitted.visibility_names, fitted.visibility_share, strict=True):
        rows.append(
            (name, "share of impressions", share, None if view is None else int((view == name).sum()) / len(observed))
        )  # type: ignore[arg-type]
    ctr = float(observed.frame["click"].cast(pl.Int64).sum()) / len(observed) if clicks_known else None
    rows.append(("CTR", "clicks per impression", fitted.mean_ctr, ctr))
    rows.append(("winnable", "share of auctions (not in a log of won auctions)", fitted.winnable, None))
    schema = {"quantity": pl.String, "unit": pl.String, "fitted": pl.Float64, "observed": pl.Float64}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    ratio = pl.when(pl.col("observed") > 0).then(pl.col("fitted") / pl.col("observed"))
    return table.with_columns(ratio.alias("ratio"))
