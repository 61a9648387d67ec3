"""``adarena calibrate``: from a log to a market."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from log_rows import SAMPLES, raw_row, write

from adarena import envs
from adarena.envs.data import Calibration, LogError
from adarena.experiments.calibrate import CalibrateConfig, run_calibrate

SMALL = {"advertisers": 4, "impressions": 8, "ticks": 6, "categories": 2, "blocks": 4}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    rows = [raw_row(i, payprice=50 + 10 * (i % 20), bidprice=300) for i in range(600)]
    return write(tmp_path / "imp.20131021.txt", rows)


def test_what_is_written_is_what_the_market_loads(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fitted.json"
    fitted, table = run_calibrate(CalibrateConfig(path=str(log), out=str(out), ticks=24, winnable=0.5, seed=3))
    assert Calibration.load(out) == fitted
    assert (len(fitted.daily_share), fitted.winnable) == (24, 0.5)
    # Prices are uniform on 50, 60 ... 240 fen per mille: 0.50 to 2.40 CNY.
    median = table.filter(table["quantity"] == "price q0.50").row(0, named=True)
    assert median["observed"] == pytest.approx(1.45, abs=0.15)
    assert median["fitted"] == pytest.approx(median["observed"], rel=0.15)
    printed = capsys.readouterr().out
    assert "600 lines read, 600 impressions kept" in printed
    assert "price q0.50" in printed
    assert printed.rstrip().endswith(f"adarena run autobid --traffic calibration:{out}")

    changed = envs.make("adarena/AutoBid-v0", traffic=f"calibration:{out}", **SMALL)[1].bank
    usual = envs.make("adarena/AutoBid-v0", traffic="calibrated", **SMALL)[1].bank
    np.testing.assert_allclose(changed.daily, fitted.daily(6), rtol=1e-5)
    assert np.abs(np.asarray(changed.daily) - np.asarray(usual.daily)).max() > 0.01


def test_a_path_with_a_space_can_be_pasted(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my fit.json"
    run_calibrate(CalibrateConfig(path=str(log), out=str(out)))
    assert capsys.readouterr().out.rstrip().endswith(f"--traffic 'calibration:{out}'")


def test_the_seed_chooses_the_rows_that_are_compared(log: Path, tmp_path: Path) -> None:
    tables = [
        run_calibrate(CalibrateConfig(path=str(log), out=str(tmp_path / "fit.json"), seed=seed))[1]
        for seed in (0, 0, 1)
    ]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


@pytest.mark.parametrize("name", ["ipinyou_formalised_2259", "ipinyou_s3_raw_2821"])
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="real samples are not in ../shared/data")
def test_real_samples(name: str, tmp_path: Path) -> None:
    out = tmp_path / "real.json"
    _, table = run_calibrate(CalibrateConfig(path=str(SAMPLES / name), out=str(out)))
    prices = table.filter(table["quantity"].str.starts_with("price"))
    assert prices["ratio"].min() > 0.85  # type: ignore[operator]
    assert prices["ratio"].max() < 1.15  # type: ignore[operator]
    env, params = envs.make("adarena/AutoBid-v0", traffic=f"calibration:{out}", **SMALL)
    assert np.asarray(params.bank.daily).sum() == pytest.approx(1.0, abs=1e-5)
    assert env.max_steps(params) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ticks": 0}, "ticks must be a whole number from 1 to 2880, got 0"),
        ({"ticks": 1.5}, "ticks must be a whole number"),
        ({"winnable": 0.0}, "winnable must be a probability above 0 and up to 1, got 0.0"),
        ({"winnable": 1.2}, "winnable must be a probability"),
        ({"winnable": float("nan")}, "winnable must be a probability"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"out": "no/such/folder/fit.json"}, "out must be a file in a folder that exists"),
        ({"out": "."}, "out must be a file in a folder that exists, got '.'"),
    ],
)
def test_refused_before_the_log_is_read(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CalibrateConfig(path="not read", **changes)  # type: ignore[arg-type]


def test_the_log_is_not_overwritten(log: Path) -> None:
    with pytest.raises(ValueError, match="out must not be the log itself"):
        CalibrateConfig(path=str(log), out=str(log))


def test_no_log_writes_nothing(tmp_path: Path) -> None:
    wrong = tmp_path / "notes.txt"
    shutil.copy(__file__, wrong)
    with pytest.raises(LogError, match=r"notes\.txt"):
        run_calibrate(CalibrateConfig(path=str(wrong), out=str(tmp_path / "fit.json")))
    assert not (tmp_path / "fit.json").exists()
