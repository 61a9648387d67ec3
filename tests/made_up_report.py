"""Run folders of made-up numbers, as `adarena run autobid` leaves them: what the report and the export read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from adarena.experiments.autobid import AutoBidExperiment
from adarena.experiments.store import RunFolder

TICKS, ADVERTISERS, SEAT = 6, 5, 2
SPEND = np.arange(TICKS * ADVERTISERS, dtype=np.float64).reshape(TICKS, ADVERTISERS)
WINS = 10.0 * (1.0 + np.arange(TICKS * ADVERTISERS, dtype=np.float64).reshape(TICKS, ADVERTISERS) % 7)
WINS[3] = 0.0  # a tick without any


def summary_table() -> pl.DataFrame:
    """A comparison of one mechanism; a policy's name asks for escapes."""
    rows = [
        ("hindsight", "bound", 0, 40.0, None, None, 1.0, None, None),
        ("ppo", "learner", 2, 34.176, 33.96, 34.393, 0.44, 0.412, 0.469),
        ("min_pacing", "rule", 0, 30.0, 28.0, 34.0, 0.0, 0.0, 0.0),
        ("<b>50% & more_</b>", "rule", 0, 20.0, 19.0, 21.0, -1.5, -1.75, -1.25),
    ]
    names = ("policy", "kind", "seeds", "score", "score_low", "score_high", "headroom", "headroom_low", "headroom_high")
    return pl.DataFrame(rows, schema=names, orient="row").with_columns(mechanism=pl.lit("gsp"))


def market_table() -> pl.DataFrame:
    """A day of every advertiser under one policy."""
    kind = ["constant", "pacer", "seat", "pid_target", "min_pacing"]
    return pl.DataFrame(
        {
            "policy": ["ppo"] * SPEND.size,
            "tick": np.repeat(np.arange(TICKS, dtype=np.int32), ADVERTISERS),
            "advertiser": np.tile(np.arange(ADVERTISERS, dtype=np.int32), TICKS),
            "kind": kind * TICKS,
            "spend": SPEND.reshape(-1),
            "value": SPEND.reshape(-1) / 100.0,
            "exposure": WINS.reshape(-1),
            "multiplier": np.exp(0.1 * (SPEND.reshape(-1) % 11)),
            "budget": [1000.0, 500.0, 110.0, 400.0, 90.0] * TICKS,
            "mechanism": ["gsp"] * SPEND.size,
        }
    )


def curve_table() -> pl.DataFrame:
    """Learning curves of two seeds; long enough for a table that a page does not show."""
    steps = np.tile(np.arange(1, 41) * 1000, 2)
    return pl.DataFrame({"seed": np.repeat([0, 1], 40), "step": steps, "episode_return": np.log(steps)}).with_columns(
        mechanism=pl.lit("gsp")
    )


def write_run(root: Path, name: str, failure: str | None = None) -> Path:
    """A finished run, or one that failed after it had written its first table."""
    config = AutoBidExperiment(seeds=(0, 1), runs="runs", name=name)
    with RunFolder.create(root, config, name) as folder:
        folder.write_table("curves", curve_table())
        if failure is None:
            folder.write_table("summary", summary_table())
            folder.write_table("market", market_table())
    folder.finish(failure)
    return folder.path


def tear(path: Path) -> None:
    """Cuts a file's end off."""
    path.write_bytes(path.read_bytes()[:-40])
