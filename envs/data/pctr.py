"""Click probabilities for the rows of a log: a ridge-penalised logistic regression around published CTRs."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any, Final

import numpy as np
import polars as pl
from scipy import optimize, sparse, special
from tqdm import tqdm

from adarena.envs.data.calibration import Calibration
from adarena.envs.data.ipinyou import Log, LogError

_COLUMNS: Final = ("hour", "weekday", "visibility", "format", "exchange", "region", "slot_size", "domain", "advertiser")
_LOWEST, _HIGHEST = 1e-6, 0.5


@dataclasses.dataclass(frozen=True)
class PctrReport:
    """How well click probabilities fit.

    Attributes:
        source: ``"log"`` (the log's own pctr), ``"fitted"``, or ``"prior"`` (clicks unknown: published CTRs alone).
        rows: Rows of the log.
        clicks: Clicks in them.
        log_loss: Mean negative log-likelihood, nats a row, of rows held out of the fit (of all rows for a log's own
            pctr); None where clicks are unknown or no row was held out.
        prior_log_loss: The same for the published CTRs alone.
        calibration: Predicted over observed clicks, all rows; None without clicks.
        tested_clicks: Clicks in the rows behind ``log_loss``: with few, the loss is mostly luck.
    """

    source: str
    rows: int
    clicks: int
    log_loss: float | None
    prior_log_loss: float | None
    calibration: float | None
    tested_clicks: int | None

    def __str__(self) -> str:
        if self.log_loss is None:
            return f"pCTR: {self.source}; {self.rows} rows, clicks unknown or none held out"
        ratio = "no clicks" if self.calibration is None else f"predicted/observed clicks {self.calibration:.3f}"
        return (
            f"pCTR: {self.source}; {self.rows} rows, {self.clicks} clicks; log loss {self.log_loss:.6f} on rows with "
            f"{self.tested_clicks} clicks (published CTRs {self.prior_log_loss:.6f}); {ratio}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class PctrModel:
    """Predicts click probabilities.

    Attributes:
        weights: ``[buckets + 1]`` float64 log-odds of each hashed feature, the intercept last; zeros are the prior.
        calibration: The CTRs by visibility and hour that the prior is made of.
        report: How well it fits the log it was fitted to.
    """

    weights: np.ndarray
    calibration: Calibration
    report: PctrReport

    def predict(self, log: Log) -> np.ndarray:
        """Click probability of each row, ``[rows]`` float32; the log's own pctr where it brings one."""
        own = _own_pctr(log)
        if own is not None:
            return own
        return _rates(log.frame, self.calibration, self.weights)


def fit_pctr(
    log: Log,
    *,
    penalty: float = 4.0,
    buckets: int = 1 << 16,
    max_rows: int = 500_000,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> PctrModel:
    """Fits click probabilities to a log's clicks.

    The prior of a row is the published CTR of its slot visibility times the factor of its hour. Hour, weekday,
    visibility, format, exchange, region, slot size, domain and advertiser (or a sparse log's ids), hashed, and an
    intercept move its log-odds; each weight is drawn to 0 by a normal prior of variance ``1 / penalty``, so that few
    clicks change little. A fifth of the rows is held out to measure the fit, which is then repeated on all.

    Args:
        log: The log. One that brings pctr is not fitted: its values are used. One whose clicks are unknown gets the
            prior.
        penalty: Ridge penalty on each weight, above 0.
        buckets: Hashed features, a power of two is usual.
        max_rows: Beyond so many rows, rows without a click are sampled, and weighted to make up for it.
        seed: Seed of the sample and of the hold-out.
        calibration: Published CTRs; `Calibration.default` if None.

    Returns:
        The model; ``str(model.report)`` is fit to print.

    Raises:
        ValueError: ``penalty``, ``buckets`` or ``max_rows`` is not allowed.
        LogError: The log has no rows.
    """
    _check_options(penalty, buckets, max_rows)
    if len(log) == 0:
        raise LogError("pCTR cannot be fitted to a log without rows")
    base = calibration or Calibration.default()
    nothing = np.zeros(buckets + 1)
    clicks = log.frame["click"].to_numpy().astype(np.float64)
    own = _own_pctr(log)
    if own is not None:
        loss, prior = _log_loss(own.astype(np.float64), clicks), _log_loss(np.full(len(log), base.mean_ctr), clicks)
        return PctrModel(nothing, base, _report("log", clicks, own, loss, prior, int(clicks.sum())))
    if not log.report.clicks_known:
        return PctrModel(nothing, base, PctrReport("prior", len(log), 0, None, None, None, None))
    return _fitted(log, base, clicks, _sampled(clicks, max_rows, seed), penalty=penalty, buckets=buckets, seed=seed)


def _fitted(
    log: Log,
    base: Calibration,
    clicks: np.ndarray,
    sample: tuple[np.ndarray, np.ndarray],
    *,
    penalty: float,
    buckets: int,
    seed: int,
) -> PctrModel:
    rows, importance = sample
    design, offset, y = _design(log.frame[rows], buckets), _prior_logits(log.frame[rows], base), clicks[rows]
    kept, tested = _split(y, np.random.default_rng([seed, 1]))
    weights = _solve(design[kept], offset[kept], y[kept], importance[kept], penalty, np.zeros(buckets + 1))
    logits = offset[tested] + weights[-1] + design[tested] @ weights[:-1]
    loss = _log_loss(special.expit(logits), y[tested], importance[tested])
    prior_loss = _log_loss(special.expit(offset[tested]), y[tested], importance[tested])
    weights = _solve(design, offset, y, importance, penalty, weights)
    predicted = _rates(log.frame, base, weights)
    return PctrModel(weights, base, _report("fitted", clicks, predicted, loss, prior_loss, int(y[tested].sum())))


def _split(y: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit on and rows to test on: every fifth at random, of those with a click and of those without alike."""
    shuffled = rng.permutation(len(y))
    by_class = shuffled[np.argsort(-y[shuffled], kind="stable")]
    tested = np.zeros(len(y), bool)
    tested[by_class[::5]] = True
    return np.flatnonzero(~tested), np.flatnonzero(tested)


def _check_options(penalty: float, buckets: int, max_rows: int) -> None:
    if not (np.isfinite(penalty) and penalty > 0):
        raise ValueError(f"penalty must be a number above 0, got {penalty!r}")
    for name, value in (("buckets", buckets), ("max_rows", max_rows)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number from 1 up, got {value!r}")


def _rates(frame: pl.DataFrame, calibration: Calibration, weights: np.ndarray) -> np.ndarray:
    """Click probabilities ``[rows]`` float32, a quarter of a million rows at a time."""
    rates = np.empty(frame.height, np.float32)
    for start in range(0, frame.height, 250_000):
        part = frame.slice(start, 250_000)
        logits = _prior_logits(part, calibration) + weights[-1] + _design(part, len(weights) - 1) @ weights[:-1]
        rates[start : start + part.height] = np.clip(special.expit(logits), _LOWEST, _HIGHEST)
    return rates


def _own_pctr(log: Log) -> np.ndarray | None:
    pctr = log.frame["pctr"]
    return pctr.to_numpy().astype(np.float32) if len(pctr) and pctr.null_count() == 0 else None


def _report(
    source: str, clicks: np.ndarray, predicted: np.ndarray, loss: float | None, prior: float | None, tested: int
) -> PctrReport:
    total = float(clicks.sum())
    ratio = float(predicted.sum(dtype=np.float64)) / total if total else None
    return PctrReport(source, len(clicks), int(total), loss, prior, ratio, tested)


def _sampled(clicks: np.ndarray, max_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit on, in order, and what each stands for; every row with a click is kept."""
    rows = np.arange(len(clicks))
    if len(rows) <= max_rows:
        return rows, np.ones(len(rows))
    silent = np.flatnonzero(clicks == 0)
    count = max(1, min(len(silent), max_rows - (len(rows) - len(silent))))
    chosen = np.random.default_rng([seed, 2]).choice(silent, count, replace=False)
    rows = np.sort(np.concatenate([np.flatnonzero(clicks > 0), chosen]))
    return rows, np.where(clicks[rows] > 0, 1.0, len(silent) / count)


def _prior_logits(frame: pl.DataFrame, calibration: Calibration) -> np.ndarray:
    """Log-odds of the published CTR of each row, float64."""
    rates = np.full(frame.height, calibration.mean_ctr)
    if "visibility" in frame.columns:
        table = dict(zip(calibration.visibility_names, calibration.visibility_ctr, strict=True))
        text = frame["visibility"].cast(pl.String)
        rates = text.replace_strict(table, default=calibration.mean_ctr, return_dtype=pl.Float64).to_numpy()
    if frame["hour"].null_count() == 0:
        rates = rates * np.asarray(calibration.hourly_ctr)[frame["hour"].to_numpy()]
    return special.logit(np.clip(rates, _LOWEST, _HIGHEST))


def _bucket(text: str, buckets: int) -> int:
    return zlib.crc32(text.encode()) % buckets


def _design(frame: pl.DataFrame, buckets: int) -> Any:
    """One-hot features, hashed: a CSR matrix ``[rows, buckets]`` float32."""
    if "features" in frame.columns:
        lengths = frame["features"].list.len().to_numpy()
        ids = frame["features"].explode().to_numpy().astype(np.int64)
        # Multiplying by an odd number spreads neighbouring ids over the buckets (Fibonacci hashing).
        columns = ((ids * 2654435761) & 0xFFFFFFFF) % buckets
    else:
        used = [name for name in _COLUMNS if name in frame.columns and frame[name].null_count() == 0]
        blocks = [_column_buckets(frame[name], buckets) for name in used]
        columns = np.stack(blocks, axis=1).reshape(-1) if blocks else np.zeros(0, np.int64)
        lengths = np.full(frame.height, len(blocks))
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    values = np.ones(len(columns), np.float32)
    shape = (frame.height, buckets)
    return sparse.csr_matrix((values, columns.astype(np.int32), starts.astype(np.int32)), shape=shape)


def _column_buckets(column: pl.Series, buckets: int) -> np.ndarray:
    text = column.cast(pl.String)
    levels = text.unique().sort()
    places = [_bucket(f"{column.name}={level}", buckets) for level in levels.to_list()]
    return text.replace_strict(levels, places, return_dtype=pl.Int64).to_numpy()


def _solve(
    design: Any, offset: np.ndarray, y: np.ndarray, importance: np.ndarray, penalty: float, start: np.ndarray
) -> np.ndarray:
    """Maximum a posteriori weights, ``[buckets + 1]``, by Newton's method with conjugate gradients.

    (L-BFGS-B reaches the same weights, but spends its time in vector operations that fight over threads.)
    """
    # Buckets without a row keep weight 0, so only the others are solved for.
    used = np.append(np.unique(design.indices), len(start) - 1)
    design = design[:, used[:-1]].tocsr()
    transposed = design.T.tocsr()

    def times(weights: np.ndarray) -> np.ndarray:
        return weights[-1] + design @ weights[:-1]

    def summed(residual: np.ndarray) -> np.ndarray:
        return np.append(transposed @ residual, residual.sum())

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = offset + times(weights)
        loss = importance @ (np.logaddexp(0.0, logits) - y * logits) + 0.5 * penalty * weights @ weights
        return float(loss), summed(importance * (special.expit(logits) - y)) + penalty * weights

    def curvature(weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
        rates = special.expit(offset + times(weights))
        return summed(importance * rates * (1.0 - rates) * times(direction)) + penalty * direction

    # The bar shows up only where the fit takes longer than two seconds, and on a terminal.
    with tqdm(desc="pCTR fit", unit=" iterations", delay=2.0, disable=None, leave=False) as bar:
        found = optimize.minimize(
            objective,
            start[used],
            jac=True,
            hessp=curvature,
            method="Newton-CG",
            callback=lambda _: bar.update(1),
            options={"xtol": 1e-7, "maxiter": 100},
        )
    weights = np.zeros_like(start)
    weights[used] = found.x
    return weights


def _log_loss(rates: np.ndarray, clicks: np.ndarray, importance: np.ndarray | None = None) -> float | None:
    if not len(rates):
        return None
    rates = np.clip(rates, 1e-12, 1 - 1e-12)
    losses = -(clicks * np.log(rates) + (1 - clicks) * np.log1p(-rates))
    return float(np.average(losses, weights=importance))
