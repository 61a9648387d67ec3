"""`adarena verify`: equilibria are found, the market agrees with theory, and what does not agree is said to fail."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from adarena.experiments import cli, verify
from adarena.experiments.theory import positions, single_item, whole_tick
from adarena.experiments.theory.equilibrium import balanced_bids, first_price_bids
from adarena.experiments.theory.row import Row


@pytest.mark.parametrize(("bidders", "reserve"), [(2, 0.0), (4, 0.0), (3, 0.4)])
def test_first_price_bids_are_found_from_starts_far_apart(bidders: int, reserve: float) -> None:
    found = first_price_bids(bidders, reserve, starts=(0.05, 1.0), seed=7, samples=128, points=21, search=50, rest=20)
    assert found.bids.shape == (2, 21)
    for value in (0.55, 0.7, 0.85, 1.0):
        theory = single_item.uniform_bid(value, bidders, reserve)
        np.testing.assert_allclose(found.at(value), theory, atol=0.01)
        assert found(np.array(value)) == pytest.approx(found.at(value).mean())
    assert (np.diff(found.bids, axis=1) >= 0.0).all()
    assert found(np.array(reserve - 0.01)) == 0.0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"bidders": 1}, "bidders"),
        ({"reserve": 1.0}, "reserve"),
        ({"starts": (0.0,)}, "starts"),
        ({"starts": ()}, "starts"),
    ],
)
def test_first_price_bids_refuse(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        first_price_bids(**{"bidders": 2, **changes})


def test_departures_from_wrong_bids_gain_and_from_the_equilibrium_do_not() -> None:
    values = np.random.default_rng(0).random((3, 8000), np.float32)
    gains = {
        share: single_item.best_departure("first_price", lambda v, s=share: s * v, values, 0.0)
        for share in (0.4, 2 / 3, 0.9)
    }
    mean = {share: gain.mean() for share, gain in gains.items()}
    assert abs(mean[2 / 3]) < 3e-3
    # At 0.4 of the value, value 1 wins all by a hair more; below 0.9 it is best to bid two thirds: 1/3 (2/3 / .9) ** 2.
    assert mean[0.9] == pytest.approx((1 - 2 / 3) * (2 / 3 / 0.9) ** 2 - 0.1, abs=0.01)
    assert mean[0.4] > 0.01


@pytest.mark.parametrize(("bidders", "revenue"), [(2, 0.41667), (3, 0.53125), (5, 0.671875)])
def test_revenue_at_the_best_reserve(bidders: int, revenue: float) -> None:
    assert single_item.uniform_revenue(bidders, 0.5) == pytest.approx(revenue, abs=1e-5)
    grid = np.linspace(0, 1, 1001)
    assert grid[np.argmax([single_item.uniform_revenue(bidders, r) for r in grid])] == pytest.approx(0.5)


def test_best_reserve_of_a_revenue_without_noise() -> None:
    found = single_item.best_reserve(lambda r: np.full(400, single_item.uniform_revenue(5, r)), 1.0)
    np.testing.assert_allclose(found, 0.5, atol=1e-6)


def test_balanced_bids_of_the_example() -> None:
    values, exposure = np.array([[10.0], [8.0], [5.0], [2.0]]), np.array([[1.0], [0.8], [0.6]])
    np.testing.assert_allclose(balanced_bids(values, exposure).bids[1:, 0], [3.8, 2.75, 2.0], atol=1e-5)
    with pytest.raises(ValueError, match="values must have more rows"):
        balanced_bids(values[:3], exposure)


def test_truth_is_best_in_vcg_and_not_in_gsp() -> None:
    instances = positions.random_instances(50, 2, 4, 0.0, seed=0)
    assert positions.largest_gain("vcg", instances).max() <= positions.ROUNDING
    assert (positions.largest_gain("gsp", instances) > 1e-3).mean() > 0.5
    assert positions.largest_gain("first_price", instances).max() > 0.1


@pytest.mark.parametrize("rows", [single_item.single_item_rows, positions.position_rows, whole_tick.tick_rows])
def test_rows_hold(rows: verify.Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_item, "SETTINGS", ((2, 0.0), (3, 0.3)))
    found = rows(20_000, 1)
    assert [row for row in found if not row.holds] == []
    assert len({(row.truth, row.setting) for row in found}) == len(found)
    assert {row.error > 0 for row in found} == ({False} if rows is positions.position_rows else {True, False})


@pytest.mark.parametrize(
    ("row", "holds"),
    [
        (Row("t", "s", 1.0, 1.39, 0.1, 0.0), True),
        (Row("t", "s", 1.0, 1.41, 0.1, 0.0), False),
        (Row("t", "s", 1.0, 1.41, 0.1, 0.02), True),
        (Row("t", "s", 1.0, math.nan, 0.1), False),
        (Row("t", "s", 1.0, 1.0, math.nan), False),
    ],
)
def test_verdict(row: Row, holds: bool) -> None:
    assert row.holds is holds


@pytest.mark.parametrize("analytic", [0.5, 0.6])
def test_command_tells_right_from_wrong(
    analytic: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Row("a truth", "a setting", analytic, 0.5, 0.01), Row("another", "a setting", 1, 1)]
    monkeypatch.setattr(verify, "groups", lambda: {"made up": lambda samples, seed: rows})
    out = tmp_path / "deep" / "out"
    words = ["verify", "--samples", "1000", "--out", str(out)]
    if analytic == 0.5:
        cli.main(words)
    else:
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert ("FAILS" in printed) is (analytic != 0.5)
    assert printed.startswith("Comparing the market")
    assert printed.strip().splitlines()[-1] == f"{2 if analytic == 0.5 else 1} of 2 hold; the table is in {out}"
    assert pl.read_parquet(out / "verify.parquet")["holds"].to_list() == [analytic == 0.5, True]
    about = json.loads((out / "verify.json").read_text())
    assert about["config"]["samples"] == 1000
    assert "jax" in about["versions"]


@pytest.mark.parametrize(("field", "value"), [("samples", 10), ("samples", True), ("seed", -1), ("out", "")])
def test_bad_config(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} must"):
        verify.VerifyConfig(**{field: value})


def test_bad_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", "--out", str(tmp_path / "file")])
    assert stop.value.code == 2
    assert "out must be a folder" in capsys.readouterr().err
