"""``adarena run offline``: what it makes of scores, what it refuses, and a run from log to tables."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from adarena.experiments import offline, offline_tables
from adarena.experiments.offline import PRESETS, OfflineExperiment
from adarena.experiments.store import RunFolder

pytestmark = pytest.mark.usefixtures("quick_compilation")


def _scores(means: dict[str, float], *, seeds: int = 3, kind: str = "learner", noise: float = 0.01) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    cases = 12
    parts = []
    for name, mean in means.items():
        for seed in range(seeds if kind == "learner" else 1):
            score = (mean + noise * rng.standard_normal(cases)).astype(np.float32)
            frame = pl.DataFrame({"case": np.arange(cases), "market": np.arange(cases) // 6, "score": score})
            who = {"policy": name, "kind": kind, "seed": seed if kind == "learner" else -1}
            parts.append(
                frame.with_columns(**{key: pl.lit(value) for key, value in who.items()}, value=pl.col("score"))
            )
    return pl.concat(parts)


def test_orderings_hold_are_reversed_or_are_not_told_apart() -> None:
    learners = _scores({"bc": 1.0, "decision_transformer": 2.0, "gas": 1.5, "gave": 1.5, "ppo": 3.0, "iql": 1.2})
    scores = pl.concat([learners, _scores({"constant": 0.5, "min_pacing": 1.9}, kind="rule")])
    choices = _scores({"full": 2.0, "random": 1.0, "mean": 1.0})
    found = offline_tables.orderings(scores, choices, None)
    verdict = {(row["better"], row["worse"]): (row["holds"], row["reversed"]) for row in found.iter_rows(named=True)}
    assert verdict["decision_transformer", "bc"] == (True, False)
    assert verdict["gas", "decision_transformer"] == (False, True)
    assert verdict["gave", "gas"] == (False, False)
    assert verdict["full", "random"] == (True, False)
    assert ("mean", "greedy") not in verdict, "a pair of which one is not there has no row"
    # The best generative bidder against the best offline learner, the best rule and PPO.
    assert verdict["decision_transformer", "iql"] == (True, False)
    assert verdict["decision_transformer", "min_pacing"] == (True, False)
    assert verdict["decision_transformer", "ppo"] == (False, True)


def test_disagreement_is_replayed_less_live_with_both_orders() -> None:
    names = {"bc": 1.0, "gas": 2.0}
    live = pl.concat([_scores(names, noise=0.3), _scores({"constant": 3.0}, kind="rule")])
    replayed = live.with_columns(
        pl.when(pl.col("policy") == "bc").then(pl.col("score") + 1.5).otherwise(pl.col("score")).alias("score")
    )
    table = {row["policy"]: row for row in offline_tables.disagreement(live, replayed).iter_rows(named=True)}
    assert table["bc"]["bias"] == pytest.approx(1.5, abs=1e-5)
    # The same policies and luck: noise that both share is no reason for doubt.
    assert table["bc"]["bias_high"] - table["bc"]["bias_low"] < 1e-4
    assert table["constant"]["bias"] == 0.0
    assert [table[name]["live_rank"] for name in ("constant", "gas", "bc")] == [1, 2, 3]
    assert [table[name]["replayed_rank"] for name in ("constant", "bc", "gas")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tier": "best"}, "tier must be among random, medium, expert, mixed, rules, got 'best'"),
        ({"response": "sparse"}, "response must be one of expected, sampled, got 'sparse'"),
        ({"algorithms": ("bc", "dqn")}, "algorithms must be distinct, of bc, .* got"),
        ({"algorithms": ()}, "algorithms must be distinct, of bc, .* got"),
        ({"log_steps": 0}, "log_steps must be a whole number of at least 1, got 0"),
        ({"asked_markets": 0}, "asked_markets must be a whole number of at least 1, got 0"),
        ({"asked": (11.0,)}, r"asked must name numbers in \[-10, 10\], at least one, got"),
        ({"gradient_steps": 0.0}, r"gradient_steps must lie in \(0, 100\], got 0.0"),
        ({"traffic": "replay"}, "traffic must not be the replay of a log, got 'replay'"),
        ({"budgets": ()}, "budgets must name at least one"),
        ({"seeds": (1, 1)}, "seeds must be distinct"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_does(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["smoke"], **changes)


def test_a_run_from_log_to_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = OfflineExperiment(
        log_steps=768,
        log_seed=3,
        tier="random",
        impressions=8,
        algorithms=("bc", "decision_transformer"),
        gradient_steps=0.002,
        seeds=(0, 1),
        asked=(0.0, 2.0),
        asked_markets=4,
        train_steps=3072,
        rules=("constant",),
        tune_episodes=288,
        markets=1,
        seat_step=24,
        studies=False,
        runs=str(tmp_path),
        name="run",
        figures=False,
    )
    folder = RunFolder.open(offline.run(config))
    scores, asked = folder.read_table("scores"), folder.read_table("asked")
    assert set(scores["policy"]) == {"bc", "decision_transformer", "ppo", "constant", "best_constant"}
    cases = 2 * 3  # seats, budgets
    assert len(scores.filter(pl.col("policy") == "bc")) == cases * len(config.seeds)
    assert np.isfinite(scores["score"].to_numpy()).all()
    assert asked["target"].to_list() == [0.0, 2.0]
    assert asked["chosen"].sum() == 1
    chosen = asked.filter(pl.col("chosen"))["score"][0]
    assert chosen == asked["score"].max()
    assert {"summary", "orderings", "disagreement", "curves", "tuning"} <= set(folder.tables)
    text = capsys.readouterr().out
    assert "a log of 768 steps" in text
    assert "Tables, checkpoints and figures are in" in text
    before = folder.read_table("scores")
    again = RunFolder.open(offline.run(config, resume=True))
    assert again.read_table("scores").equals(before)
