"""Replay of logs: one seat against logged prices. ``adarena/Replay-v0`` is `adarena.envs.autobid.AutoBid` over this bank.

A bid wins an impression iff it reaches max(market price, floor), and pays that. Only auctions that the log's owner won are
in a log; the others (one minus the win rate) could not be won at any price seen, so they lower the win rate that the seat
observes, and nothing else. Currency units are CNY, value is the expected number of clicks (pCTR), budgets are fractions of
what the log's impressions cost per day (1/2, 1/8, 1/32 in the literature, arXiv:1407.7073).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
import polars as pl
from scipy.stats import norm

from adarena.envs.autobid_checks import LOG_PARTS
from adarena.envs.data.calibration import Calibration
from adarena.envs.data.ipinyou import Log, LogError, read_log
from adarena.envs.data.pctr import fit_pctr
from adarena.envs.data.replay import ReplayArrays, replay_bank
from adarena.envs.data.report import LogReport
from adarena.envs.market.traffic import Bank

if TYPE_CHECKING:
    from adarena.envs.autobid import AutoBid
    from adarena.envs.autobid_setup import Params

BUDGET_FRACTIONS = (1 / 2, 1 / 8, 1 / 32)
"""Budgets over the log's cost per day, as in the RTB literature."""

_DRAWN_ROWS = 60_000


def replay_params(env: AutoBid) -> Params:
    """Parameters of a market that replays a log (``traffic="ipinyou:PATH"``) or a drawn one (``"replay"``).

    Raises:
        LogError: The file is no log, or too damaged, or the part asked for is empty.
    """
    from adarena.envs.autobid_setup import params_of

    arrays, winnable = _arrays(env.traffic, env.log_part, env.ticks, env.impressions, env.bank_seed)
    total = float(arrays.volume.sum())
    kept = max(float(arrays.weight.sum()), 1.0)
    # Multiplier 1 bids a quarter of the log's cost per click: the middle, in logs, of what the budgets allow.
    reference = arrays.mean_ecpc / 4.0
    return params_of(
        env,
        _bank(env, arrays, float((arrays.pctr[:, 0] * arrays.weight).sum() / kept)),
        category=np.zeros(1, np.int32),
        base_budget=np.asarray([arrays.log_cost]),
        base_target=np.asarray([reference]),
        base_worth=np.ones(1),
        daily_impressions=total,
        budget_scale_low=BUDGET_FRACTIONS[-1],
        budget_scale_high=BUDGET_FRACTIONS[0],
        max_multiplier=32.0,
        traffic_noise=0.0,
        drift_pattern=0.0,
        drift_noise=0.0,
        outside_price=1.0,
        reserve=0.0,
        winnable=winnable,
    )


def _bank(env: AutoBid, arrays: ReplayArrays, mean_pctr: float) -> Bank:
    pctr = jnp.asarray(np.clip(arrays.pctr, 1e-9, 0.95))
    square = arrays.weight.shape
    noise = None
    if env.prediction_error:
        draws = np.random.default_rng(env.bank_seed).standard_normal(pctr.shape)
        noise = jnp.asarray(draws, jnp.float32)
    return Bank(
        pctr=pctr,
        pvalue=pctr,
        noise=noise,
        level=jnp.asarray([mean_pctr], jnp.float32),
        worth=jnp.ones(square, jnp.float32),
        outside=jnp.asarray(arrays.price),
        weight=jnp.asarray(arrays.weight),
        first=jnp.asarray(arrays.first),
        last=jnp.asarray(arrays.last),
        daily=jnp.asarray(arrays.volume / max(arrays.volume.sum(), 1e-9), jnp.float32),
        ctr_factor=jnp.ones(env.ticks, jnp.float32),
    )


@functools.lru_cache(maxsize=8)
def _arrays(traffic: str, part: str, ticks: int, impressions: int, seed: int) -> tuple[ReplayArrays, float]:
    source, _, path = traffic.partition(":")
    calibration = Calibration.default()
    log = read_log(path) if source == "ipinyou" else drawn_log(calibration, _DRAWN_ROWS, seed)
    model = fit_pctr(part_of(log, "all" if part == "all" else "train"), calibration=calibration)
    chosen = part_of(log, part)
    arrays = replay_bank(chosen, model.predict(chosen), ticks=ticks, impressions=impressions, seed=seed)
    return arrays, float(calibration.winnable)


def part_of(log: Log, part: str) -> Log:
    """One part of a log, by `LOG_PARTS`.

    Raises:
        ValueError: No such part.
        LogError: The part has no rows.
    """
    if part not in LOG_PARTS:
        raise ValueError(f"log_part must be one of {', '.join(LOG_PARTS)}, got {part!r}")
    if part == "all":
        return log
    if log.days > 2:
        later = log.frame["day"] >= log.days - max(1, log.days // 3)
    else:
        later = pl.Series(np.random.default_rng(0).random(len(log)) < 1.0 / 3.0)
    frame = log.frame.filter(later if part == "test" else ~later)
    if frame.height == 0:
        raise LogError(f"log_part {part!r} of a log of {len(log)} rows is empty; give a longer log or log_part='all'")
    return Log(frame, log.layout, log.report)


def drawn_log(calibration: Calibration, rows: int, seed: int) -> Log:
    """A log drawn from a calibration, for use without a file: prices, visibility, CTR and daily curve as published.

    pCTR is the published rate of the slot's visibility and hour times a log-normal factor (sd 0.6); the price has rank
    correlation about .3 with it.
    """
    rng = np.random.default_rng([seed, 7])
    daily = calibration.daily(48)
    seconds = np.sort((rng.choice(48, rows, p=daily / daily.sum()) + rng.random(rows)) * 1800.0)
    share = np.asarray(calibration.visibility_share) / np.sum(calibration.visibility_share)
    slot = rng.choice(len(share), rows, p=share)
    z = rng.standard_normal(rows)
    hourly = np.asarray(calibration.ctr_factor(48))[(seconds / 1800.0).astype(int)]
    pctr = np.asarray(calibration.visibility_ctr)[slot] * hourly * np.exp(0.6 * z - 0.18)
    price = np.asarray(calibration.price_at(norm.cdf(0.3 * z + np.sqrt(1 - 0.09) * rng.standard_normal(rows))))
    frame = pl.DataFrame(
        {
            "seconds": seconds.astype(np.float32),
            "day": np.zeros(rows, np.int32),
            "hour": (seconds // 3600).astype(np.int32),
            "weekday": np.zeros(rows, np.int32),
            "price": price.astype(np.float32),
            "floor": np.zeros(rows, np.float32),
            "click": (rng.random(rows) < pctr).astype(np.int8),
            "conversions": np.zeros(rows, np.int16),
            "pctr": pctr.astype(np.float32),
        }
    )
    report = _drawn_report(rows, int(frame["click"].sum()))
    return Log(frame, "prices", report)  # type: ignore[arg-type]  # drawn, not read from a file of some layout


def _drawn_report(rows: int, clicks: int) -> LogReport:
    return LogReport(
        layout="drawn from a calibration",
        files=(),
        skipped=(),
        rows_read=rows,
        rows_kept=rows,
        bad={},
        first_bad=(),
        odd_lines=0,
        repeated_bidids=0,
        pay_over_bid=0,
        zero_price=0,
        null_exchange=0,
        season="unknown",
        dates=(),
        hour0_excess=None,
        clicks=clicks,
        clicks_known=True,
        clicks_unmatched=0,
    )
