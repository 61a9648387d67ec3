"""Tables of a lifecycle run, made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from adarena.envs.lifecycle_phases import PHASES
from adarena.experiments.lifecycle_tables import BOUND, METRICS, SUCCESSES

QUALITY = {"lifecycle_constant": 0.4, "lifecycle_target": 0.6, "lifecycle_chained": 0.65, "ppo": 0.75, "oracle": 0.95}
DAYS, TICKS, CREATIVES = 30, 8, 5


def score_table(lives: int = 8, seeds: int = 3) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    most = 150.0 * np.exp(0.2 * rng.normal(size=lives))
    parts = []
    for policy, quality in QUALITY.items():
        kind = {"ppo": "learner", "oracle": "oracle"}.get(policy, "rule")
        for seed in range(seeds) if kind == "learner" else [-1]:
            values = {name: np.full(lives, 0.5) for name in METRICS}
            values |= {"score": most * (quality + 0.02 * rng.normal(size=lives))}
            values |= {name: (rng.random(lives) < quality / (1 + n)) * 1.0 for n, name in enumerate(SUCCESSES)}
            values |= {BOUND: 1.1 * most if kind != "oracle" else np.full(lives, np.nan)}
            who = {"policy": policy, "kind": kind, "seed": seed, "case": np.arange(lives), "market": np.arange(lives)}
            parts.append(pl.DataFrame(who | {name: x.astype(np.float32) for name, x in values.items()}))
    return pl.concat(parts)


def life_table() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    tick = np.arange(DAYS * TICKS)
    parts = []
    for policy, stable in (("lifecycle_chained", 12), ("ppo", 8)):
        phase = np.select([tick < 2, tick < 20, tick < (3 + stable) * TICKS], [0, 1, 2], 3)
        budget = np.select([phase < 2, phase == 2], [500.0, 1000.0], 2000.0)
        shares = rng.dirichlet(np.ones(CREATIVES), len(tick))
        spend = budget / TICKS * rng.uniform(0.6, 1.0, len(tick))
        columns = {
            "policy": policy,
            "case": 3,
            "tick": tick,
            "day": tick / TICKS,
            "phase": phase.astype(np.int32),
            "spend": spend,
            "conversions": rng.poisson(spend / 90.0) * 1.0,
            "exposure": rng.uniform(500.0, 900.0, len(tick)),
            "multiplier": np.exp(0.2 * rng.normal(size=len(tick))),
            "exploration": np.full(len(tick), 0.1),
            "width": 0.3 + 0.1 * phase,
            "daily_budget": budget,
            "target": np.full(len(tick), 95.0),
            "best": np.where(tick < 100, 1, 4),
        }
        columns |= {f"share_{k}": share for k, share in enumerate(shares.T)}
        columns |= {f"passed_{name}": phase > n for n, name in enumerate(PHASES)}
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def write_tables(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    score_table().write_parquet(folder / "scores.parquet")
    life_table().write_parquet(folder / "life.parquet")
    return folder
