"""Tables of a cold-start run, made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from adarena.experiments.coldstart_ab import DESIGNS, PUBLISHED
from adarena.experiments.coldstart_eval import METRICS

LIFT = {"none": 0.0, "constant_boost": 0.03, "sbl": 0.08, "rescue": 0.14, "ppo": 0.17, "es": 0.15, "oracle": 0.26}
BUDGETS = (0.0, 0.005, 0.015, 0.04)


def kind_of(policy: str) -> str:
    return {"ppo": "learner", "es": "learner", "oracle": "oracle"}.get(policy, "rule")


def score_table(markets: int = 6, seeds: int = 3, scale: float = 1.0) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    base = np.clip(0.2 + 0.04 * rng.normal(size=markets), 0.05, 1.0)
    parts = []
    for policy, lift in LIFT.items():
        kind = kind_of(policy)
        for seed in range(seeds) if kind == "learner" else [-1]:
            rate = base + scale * (lift + 0.01 * (policy != "none") * rng.normal(size=markets))
            values = {name: np.full(markets, 0.1) for name in METRICS}
            values |= {"success_rate": rate, "success_20_7": 0.7 * rate, "success_50_7": 0.3 * rate}
            values |= {
                "exploration_cost": np.full(markets, 1e4 * scale * (policy != "none")),
                "revenue_twin": np.full(markets, 1e6),
            }
            values |= {"revenue_loss": 0.04 * scale * lift + 0.001 * rng.normal(size=markets)}
            columns = {name: x.astype(np.float32) for name, x in values.items()}
            who = {
                "policy": policy,
                "kind": kind,
                "seed": seed,
                "case": np.arange(markets),
                "market": np.arange(markets),
            }
            parts.append(pl.DataFrame(who | columns))
    bound = {"policy": "hindsight", "kind": "bound", "seed": -1, "case": [0], "market": [0], "success_rate": [0.7]}
    return pl.concat([*parts, pl.DataFrame(bound)], how="diagonal_relaxed")


def frontier_table() -> pl.DataFrame:
    parts = []
    for budget in BUDGETS:
        table = score_table(scale=float(np.sqrt(budget / 0.015))).filter(pl.col("kind") != "bound")
        parts.append(table.with_columns(exploration_budget=pl.lit(budget)))
    return pl.concat(parts)


def revenue_table(markets: int = 6, days: int = 14) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    market, day = np.divmod(np.arange(markets * days), days)
    parts = []
    for policy in ("none", "rescue", "ppo"):
        twin = 1e5 * np.exp(0.1 * rng.normal(size=len(day)))
        change = 0.0 if policy == "none" else np.where(day < 9, -0.012, 0.015) + 0.004 * rng.normal(size=len(day))
        columns = {"policy": policy, "market": market, "day": day, "revenue": twin * (1 + change), "revenue_twin": twin}
        parts.append(pl.DataFrame(columns | {"charge": np.where(day < 9, 0.01, 0.0) * twin}))
    return pl.concat(parts)


def posterior_table() -> pl.DataFrame:
    day = np.arange(1, 49) / 8.0
    parts = []
    for policy, pace in (("none", 0.2), ("rescue", 1.0), ("ppo", 1.2)):
        exposures = 4000.0 * pace * day
        weight = exposures / (exposures + 3000.0)
        truth = 6e-4
        predicted = truth * weight + 3e-4 * (1 - weight)
        columns = {
            "policy": [policy] * len(day),
            "ad": [3] * len(day),
            "day": day,
            "predicted": predicted,
            "sd": 0.5 * predicted * np.sqrt(1 - weight),
            "truth": [truth] * len(day),
            "exposures": exposures,
            "conversions": np.floor(truth * exposures),
            "window": [3.0] * len(day),
        }
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def split_table(markets: int = 40) -> pl.DataFrame:
    rng = np.random.default_rng(2)
    parts = []
    for policy in ("sbl", "rescue", "ppo"):
        for design in DESIGNS:
            ads = np.full(markets, 24.0)
            off = rng.binomial(24, 0.2, markets)
            on = rng.binomial(24, 0.2 + PUBLISHED[design], markets)
            columns = {"policy": [policy] * markets, "design": [design] * markets, "market": np.arange(markets)}
            twins = [rng.binomial(24, 0.2, markets) for _ in range(2)]
            for arm, won in zip(("on", "off", "twin_on", "twin_off"), (on, off, *twins), strict=True):
                sums = {"ads": ads, "successes": won * 1.0, "conversions": 30.0 * won, "expected": 30.0 * won + 1.0}
                columns |= {f"{arm}_{name}": x for name, x in sums.items()}
            parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def write_tables(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"scores": score_table, "frontier": frontier_table, "revenue": revenue_table}
    tables |= {"posterior": posterior_table, "ab": split_table}
    for name, make in tables.items():
        make().write_parquet(folder / f"{name}.parquet")
    return folder
