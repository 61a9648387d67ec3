"""``adarena bench``: what it measures, writes and refuses. Speeds themselves are no matter of tests."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from rich.console import Console

from adarena.experiments import bench, bench_growth, bench_roofline, bench_startup, bench_sweep
from adarena.experiments.bench import PARTS, BenchConfig, run_bench
from adarena.experiments.bench_growth import AXES, growth
from adarena.experiments.bench_market import yardstick_tick
from adarena.experiments.bench_training import REFERENCE

CLOCKS = {"repeat", "steps", "wall_seconds", "cpu_seconds", "steps_per_second", "warmup_seconds"}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, pl.DataFrame], Path]:
    pytest.importorskip("stable_baselines3")
    out = tmp_path_factory.mktemp("bench") / "results"
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is nearly all that this costs
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # likewise in the processes that measure start-up
        patch.setattr(bench_startup, "STAGES", ("import", "no cache"))  # `tests/test_startup.py` has the other stages
        patch.setattr(bench_sweep, "BARS", {"run": 1.05, "list": 5.0})  # "resume" is "list" and an option less
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
    assert about["processor"]
    assert about["memory_gib"] is None or about["memory_gib"] > 0.1
    assert results["offline"]["contender"].to_list() == ["bc", "bc"]


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


def test_sweeps_are_measured_against_their_own_cells(quick: tuple[dict[str, pl.DataFrame], Path]) -> None:
    frame = quick[0]["sweep"]
    assert list(zip(frame["contender"], frame["cells"], strict=True)) == [("run", 4), ("list", 9)] * 2
    ratios = frame.partition_by("contender", as_dict=True)
    assert (ratios["run",]["ratio"] > 1.0).all()
    assert ratios["list",]["ratio"].null_count() == 2


def test_rates_follow_from_steps_and_sizes(quick: tuple[dict[str, pl.DataFrame], Path]) -> None:
    market = quick[0]["environment"]
    assert set(market["api"]) == {"scan", "gymnasium vector", "numpy yardstick"}
    own = market.filter(pl.col("api") != "numpy yardstick")
    np.testing.assert_allclose(own["auctions_per_second"], own["steps_per_second"] * 8)
    frame = quick[0]["throughput"]
    assert set(frame["axis"]) == {axis.name for axis in AXES}
    assert sorted(set(frame.filter(pl.col("axis") == "environments")["size"])) == [2]
    np.testing.assert_allclose(frame["auctions_per_second"], frame["steps_per_second"] * 8)
    np.testing.assert_allclose(frame["bids_per_second"], frame["auctions_per_second"] * 4)
    # A call is a day of four ticks in each of two markets.
    np.testing.assert_allclose(frame["call_seconds"] * frame["steps_per_second"], 8.0)
    assert (frame["clearings"] >= 1.0).all()
    assert frame["memory_bytes"].equals(frame["argument_bytes"] + frame["temp_bytes"] + frame["output_bytes"])
    # The bank alone, pctr and pvalue: 2 blocks of 4 x 8 float32.
    assert (frame["argument_bytes"] > 2 * 2 * 4 * 8 * 4).all()
    assert (frame["compile_seconds"] <= frame["warmup_seconds"]).all()


def test_growth_tells_linear_from_worse_and_finds_the_cliff() -> None:
    size = np.array([8, 16, 64, 256])
    steps = np.array([1.0, 2.0, 2.0, 3.0])
    axes = {"linear": 1e-3 * size, "flat": 0.0 * size + 0.1, "square": 1e-6 * size**2.0, "cliff": 1e-3 * size * steps}
    noise = [1.0, 1.3]  # the slower repeat does not count
    frame = pl.DataFrame(
        [
            {"axis": axis, "size": n, "call_seconds": at * slower, "memory_bytes": 1000 + 10 * n, "repeat": repeat}
            for axis, amounts in axes.items()
            for n, at in zip(size, amounts, strict=True)
            for repeat, slower in enumerate(noise)
        ]
    )
    found = {(row["axis"], row["quantity"]): row for row in growth(frame).iter_rows(named=True)}
    assert {axis: found[axis, "time"]["linear"] for axis in axes} == {
        "linear": True,
        "flat": True,
        "square": False,
        "cliff": False,
    }
    exponents = [found[axis, "time"]["exponent"] for axis in ("linear", "flat", "square")]
    np.testing.assert_allclose(exponents, [1.0, 0.0, 2.0], atol=1e-12)
    cliff = found["cliff", "time"]
    assert (cliff["smallest"], cliff["largest"], cliff["cliff_at"]) == (8, 256, 16)
    assert cliff["cliff"] == pytest.approx(2.0)
    assert cliff["last_exponent"] == pytest.approx(1.0 + np.log(1.5) / np.log(4.0))
    memory = found["flat", "memory"]
    assert memory["linear"]
    assert memory["last_exponent"] == pytest.approx(np.log(3560 / 1640) / np.log(4.0))
    single = growth(frame.filter(pl.col("size") == 8))
    assert single["exponent"].is_null().all()
    assert single["linear"].is_null().all()


def test_the_growth_tables_name_what_is_worse_than_linear(quick: tuple[dict[str, pl.DataFrame], Path]) -> None:
    frame = quick[0]["throughput"]
    larger = frame.filter(pl.col("axis") == "slots").with_columns(size=4 * pl.col("size"), call_seconds=1e3)
    console = Console(width=200, file=io.StringIO())
    for table in bench_growth.growth_tables(pl.concat([frame, larger]), BenchConfig(quick=True)):
        console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    verdicts = [line for line in lines if "time" in line and "slots" in line and "advertisers" not in line]
    assert len(verdicts) == 1
    assert "2-8" in verdicts[0]
    assert "worse than linear" in verdicts[0]
    memory = next(line for line in lines if "memory" in line and "slots" in line and "2-8" in line)
    assert "linear or better" in memory


def test_growth_compiles_whatever_is_kept_on_disk() -> None:
    settings: Any = jax.config
    before = settings.jax_enable_compilation_cache
    with bench_growth._without_cache():
        assert settings.jax_enable_compilation_cache is False
    assert settings.jax_enable_compilation_cache is before


def test_the_roofline_divides_work_by_rates(quick: tuple[dict[str, pl.DataFrame], Path]) -> None:
    frame = quick[0]["roofline"]
    machine, days = (frame.filter((pl.col("contender") == bench_roofline.MACHINE) == own) for own in (True, False))
    assert set(days["contender"]) == {"bank", "fresh"}
    np.testing.assert_allclose(machine["rate"], machine["operations"] * machine["steps_per_second"])
    np.testing.assert_allclose(days["ideal_seconds"], days["operations"] / days["rate"])
    # A day is four ticks here; a part's clocks are its day's.
    np.testing.assert_allclose(days["share"], days["ideal_seconds"] * days["steps_per_second"] / 4)
    for row in days.iter_rows(named=True):
        rate = machine.filter((pl.col("part") == row["kernel"]) & (pl.col("repeat") == row["repeat"]))
        assert (row["rate"], row["unit"]) == (rate["rate"][0], rate["unit"][0])
    own = days.filter(~pl.col("counted"))
    assert set(own["part"]) == {bench_roofline.RANK}
    assert (own["operations"] >= 4).all()  # a tick is cleared at least once


def test_a_days_work_follows_from_its_sizes() -> None:
    shape = bench_roofline.Shape(advertisers=5, impressions=7, slots=2)
    parts = {kind: bench_roofline.parts(kind, shape, blocks=10.0, clearings=12.0) for kind in ("bank", "fresh")}
    work = {kind: {(part.kernel, part.operations) for part in listed} for kind, listed in parts.items()}
    shared = {
        ("tie hashes", 350.0),
        ("memory, a block", 2800.0),  # scores and order, 4 bytes each
        ("max pass", 12 * 5 * 35.0),  # three best scores, two winners
        ("gather", 12 * 14.0),
        ("scatter (book)", 12 * 14.0),
        ("scatter (book)", (12 + 30) * 14.0),
        (
            "scatter (book)",
            (12 - 10) * 4 * 14.0,
        ),  # each who left was found by halving seven impressions, and one look more
        ("max pass", 2 * 8 * 10 * 14.0),  # eight multipliers
        (bench_roofline.RANK, 12.0),
    }
    assert work["bank"] == shared | {("memory, large", 1400.0), ("memory, large", 280.0)}
    assert work["fresh"] == shared | {("counter normals", 350.0), ("counter normals", 70.0)}
    assert {part.kernel for listed in parts.values() for part in listed} <= set(bench_roofline.kernels(shape, 64))


def test_kernels_do_the_work_that_they_are_named_for() -> None:
    kernels = bench_roofline.kernels(bench_roofline.Shape(advertisers=6, impressions=50, slots=2), 64)
    # The second of two max passes finds the second best score of every impression.
    passed = kernels["max pass"]
    score = np.asarray(jax.random.uniform(jax.random.key(0), (6, 50)))
    second = passed.one(jnp.int32(1), passed.one(jnp.int32(0), passed.start))
    np.testing.assert_array_equal(np.asarray(second).view(np.float32), np.sort(score, axis=0)[-2])
    booked = kernels["scatter (book)"]
    assert float(booked.one(jnp.int32(0), booked.start).sum()) == booked.operations == 100
    for name in ("counter normals", "threefry normals"):
        drawn = np.asarray(kernels[name].one(jnp.int32(0), kernels[name].start))
        assert drawn.shape == (6, 50)
        assert 0.8 < drawn.std() < 1.2
        assert not np.array_equal(drawn, kernels[name].one(jnp.int32(1), kernels[name].start))
    ranked = kernels[bench_roofline.RANK]
    assert ranked.one(jnp.int32(0), ranked.start).shape == (50,)


def test_the_yardstick_pays_what_slots_cost() -> None:
    paid = [yardstick_tick(np.random.default_rng(seed), 500, 6, 2) for seed in (0, 0, 1)]
    assert paid[0] == paid[1] != paid[2]
    # The second and third highest of six bids near 1 lie between 1 and 1.3; slots are seen with 1 and 0.6.
    assert 500 * 1.6 * 0.95 < paid[0] < 500 * 1.6 * 1.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"parts": ()},
            "parts must name at least one of training, offline, auctionnet, environment, throughput, roofline, startup",
        ),
        ({"parts": ("trainnig",)}, "parts must name .* got \\('trainnig',\\)"),
        ({"seconds": 0.0}, r"seconds must lie in \(0, 3600\], got 0.0"),
        ({"seconds": float("nan")}, "seconds must lie in"),
        ({"repeats": 0}, "repeats must be whole numbers of at least 1, got 0"),
        ({"slots": (1, 0)}, "slots must be whole numbers of at least 1, got 0"),
        ({"crowded_slots": ()}, "crowded_slots must hold at least one size"),
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
