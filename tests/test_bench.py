"""``adarena bench``: what it measures, writes and refuses. Speeds themselves are no matter of tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest

from adarena.experiments import bench
from adarena.experiments.bench import PARTS, BenchConfig, run_bench
from adarena.experiments.bench_market import yardstick_tick
from adarena.experiments.bench_training import REFERENCE

CLOCKS = {"repeat", "steps", "wall_seconds", "cpu_seconds", "steps_per_second", "warmup_seconds"}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, pl.DataFrame], Path]:
    pytest.importorskip("stable_baselines3")
    out = tmp_path_factory.mktemp("bench") / "results"
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is nearly all that this costs
    try:
        return run_bench(BenchConfig(quick=True, out=str(out))), out
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def test_every_part_is_written_as_it_is_returned(quick: tuple[dict[str, pl.DataFrame], Path]) -> None:
    results, out = quick
    assert set(results) == set(PARTS)
    for part, frame in results.items():
        assert frame.equals(pl.read_parquet(out / f"{part}.parquet"))
        assert sorted(set(frame["repeat"])) == [0, 1]
        assert (frame["wall_seconds"] > 0).all()
        if part == "startup":
            continue
        assert set(frame.columns) >= CLOCKS
        np.testing.assert_allclose(frame["steps_per_second"], frame["steps"] / frame["wall_seconds"])
        assert (frame["steps"] > 0).all()
    about = json.loads((out / "bench.json").read_text())
    assert about["config"]["quick"] is True
    assert about["versions"]["jax"].count(".") == 2
    assert about["cores"] >= 1


def test_training_alternates_and_refers_to_sb3_of_the_same_repeat(
    quick: tuple[dict[str, pl.DataFrame], Path],
) -> None:
    frame = quick[0]["training"]
    names = frame["contender"].to_list()
    assert names[:3] == [REFERENCE, "SB3 PPO, adarena's batch", "PPO in JAX"]
    assert names[3:] == names[:3]
    assert (frame["steps"] % frame["batch"] == 0).all()  # whole updates only
    assert (frame["environments"] * frame["rollout_length"] == frame["batch"]).all()
    for rows in frame.partition_by("repeat"):
        reference = rows.filter(pl.col("contender") == REFERENCE)
        np.testing.assert_allclose(rows["ratio"], rows["steps_per_second"] / reference["steps_per_second"][0])
        cpu = rows["steps"] / rows["cpu_seconds"]
        np.testing.assert_allclose(rows["cpu_ratio"], cpu / (reference["steps"][0] / reference["cpu_seconds"][0]))
    assert frame.filter(pl.col("contender") == REFERENCE)["ratio"].to_list() == [1.0, 1.0]


def test_rates_follow_from_steps_and_sizes(quick: tuple[dict[str, pl.DataFrame], Path]) -> None:
    market = quick[0]["environment"]
    assert set(market["api"]) == {"scan", "gymnasium vector", "numpy yardstick"}
    own = market.filter(pl.col("api") != "numpy yardstick")
    np.testing.assert_allclose(own["auctions_per_second"], own["steps_per_second"] * 8)
    frame = quick[0]["throughput"]
    assert set(frame["axis"]) == {"advertisers", "impressions", "environments", "slots"}
    assert sorted(set(frame.filter(pl.col("axis") == "environments")["size"])) == [2]
    np.testing.assert_allclose(frame["auctions_per_second"], frame["steps_per_second"] * 8)
    np.testing.assert_allclose(frame["bids_per_second"], frame["auctions_per_second"] * 4)


def test_the_yardstick_pays_what_slots_cost() -> None:
    paid = [yardstick_tick(np.random.default_rng(seed), 500, 6, 2) for seed in (0, 0, 1)]
    assert paid[0] == paid[1] != paid[2]
    # The second and third highest of six bids near 1 lie between 1 and 1.3; slots are seen with 1 and 0.6.
    assert 500 * 1.6 * 0.95 < paid[0] < 500 * 1.6 * 1.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": ()}, "parts must name at least one of training, auctionnet, environment, throughput, startup"),
        ({"parts": ("trainnig",)}, "parts must name .* got \\('trainnig',\\)"),
        ({"seconds": 0.0}, r"seconds must lie in \(0, 3600\], got 0.0"),
        ({"seconds": float("nan")}, "seconds must lie in"),
        ({"repeats": 0}, "repeats must be whole numbers of at least 1, got 0"),
        ({"slots": (1, 0)}, "slots must be whole numbers of at least 1, got 0"),
        ({"sizes": ()}, "sizes must hold at least one size"),
        ({"minibatch": 1000}, r"minibatch must divide batch \(3072\), got 1000"),
        ({"sb3_envs": 7}, r"sb3_envs must divide batch \(3072\), got 7"),
        ({"jax_envs": (6,)}, "jax_envs must be multiples of batch / minibatch, 4, got 6"),
    ],
)
def test_refused_before_anything_is_measured(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchConfig(**changes)


def test_without_sb3_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"adarena\[sb3\]"):
        run_bench(BenchConfig(out=str(tmp_path / "none")))
    assert not (tmp_path / "none").exists()
