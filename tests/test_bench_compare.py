"""``adarena bench --compare``: two results side by side, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from adarena.experiments import cli
from adarena.experiments.bench import PARTS
from adarena.experiments.bench_compare import ABOUT, KEYS, comparison

SPEEDS = {"old": (90.0, 100.0, 130.0), "new": (200.0, 150.0, 210.0)}


def training(speeds: tuple[float, ...]) -> pl.DataFrame:
    """Two contenders, the second three times as fast as the first."""
    rows = [
        {"contender": name, "environments": 8, "repeat": repeat, "steps_per_second": times * speed, "ratio": times}
        for repeat, speed in enumerate(speeds)
        for name, times in (("SB3", 1.0), ("JAX", 3.0))
    ]
    return pl.DataFrame(rows)


def sweep(seconds: float) -> pl.DataFrame:
    return pl.DataFrame(
        {"contender": ["run"], "cells": [100], "wall_seconds": [seconds], "steps_per_second": [1.0], "ratio": [1.02]}
    )


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two results; the newer is of other versions and has a part more."""
    paths = []
    parts = {"old": ["training"], "new": ["training", "sweep"]}
    for name, jax in (("old", "0.10.1"), ("new", "0.10.2")):
        path = tmp_path / name
        path.mkdir()
        training(SPEEDS[name]).write_parquet(path / "training.parquet")
        about = {
            "command": [name],
            "cores": 2,
            "versions": {"jax": jax},
            "config": {"parts": parts[name], "repeats": 3},
        }
        (path / ABOUT).write_text(json.dumps(about))
        paths.append(path)
        sweep(50.0).write_parquet(path / "sweep.parquet")  # the older one's is left from another run
    return paths


def test_every_part_can_be_compared() -> None:
    assert set(KEYS) == set(PARTS)


def test_medians_ranges_and_their_change() -> None:
    frame = comparison(
        {"training": training(SPEEDS["old"]), "sweep": sweep(60.0)},
        {"sweep": sweep(45.0), "training": training(SPEEDS["new"])},
    )
    rows = {(row["what"], row["measure"]): row for row in frame.iter_rows(named=True)}
    assert list(rows) == [
        ("SB3, 8", "steps_per_second"),
        ("SB3, 8", "ratio"),
        ("JAX, 8", "steps_per_second"),
        ("JAX, 8", "ratio"),
        ("run, 100", "wall_seconds"),  # a sweep is read in seconds
        ("run, 100", "ratio"),
    ]
    fast = rows["JAX, 8", "steps_per_second"]
    assert [fast[name] for name in ("old", "old_low", "old_high")] == pytest.approx([300.0, 270.0, 390.0])
    assert [fast[name] for name in ("new", "new_low", "new_high")] == pytest.approx([600.0, 450.0, 630.0])
    assert fast["change"] == pytest.approx(2.0)
    assert rows["JAX, 8", "ratio"]["change"] == pytest.approx(1.0)
    assert rows["run, 100", "wall_seconds"]["change"] == pytest.approx(0.75)


def test_what_only_one_has_measured_is_left_out() -> None:
    old = training(SPEEDS["old"])
    frame = comparison({"training": old}, {"training": old.filter(pl.col("contender") == "JAX").drop("ratio")})
    assert frame.select("what", "measure").rows() == [("JAX, 8", "steps_per_second")]
    with pytest.raises(ValueError, match="results of the same parts, got training and sweep"):
        comparison({"training": old}, {"sweep": sweep(1.0)})


def test_the_command_prints_both_and_what_differs(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["bench", "--compare", *map(str, folders)])
    lines = capsys.readouterr().out.splitlines()
    assert any("JAX, 8" in line and "300" in line and "600" in line and "2.00" in line for line in lines)
    facts = {line.split("│")[1].strip(): line for line in lines if line.count("│") == 5}
    assert "!" in facts["versions.jax"]
    assert "!" not in facts["cores"]
    assert "config.parts" in facts
    assert "config.repeats" not in facts, "settings that are the same are of no interest"
    assert any("Only the new one has sweep." in line for line in lines)


def test_what_is_no_result_is_refused(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    old, new = map(str, folders)
    for words, message in (
        ([old, str(folders[0].parent / "none")], "folders that adarena bench wrote, got"),
        ([old], "--compare"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["bench", "--compare", *words])
        assert message in capsys.readouterr().err
    (folders[1] / "training.parquet").write_bytes(b"torn")
    with pytest.raises(SystemExit):
        cli.main(["bench", "--compare", old, new])
    assert "training.parquet is damaged" in capsys.readouterr().err
    (folders[1] / ABOUT).write_text("{")
    with pytest.raises(SystemExit):
        cli.main(["bench", "--compare", old, new])
    assert "bench.json is damaged" in capsys.readouterr().err
