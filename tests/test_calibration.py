"""Published and fitted calibrations."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from log_rows import SAMPLES, VISIBILITIES, formalised_row, raw_row, write

from adarena.envs.data import Calibration, CalibrationError, Log, LogError, fit_calibration, read_log

needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="real samples are not in ../shared/data")
DEFAULT = Calibration.default()


def test_default_holds_the_published_figures() -> None:
    assert len(DEFAULT.daily_share) == 48
    ctr = dict(zip(DEFAULT.visibility_names, DEFAULT.visibility_ctr, strict=True))
    assert [ctr[f"{name}View"] for name in ("First", "Second", "Third", "Fourth")] == [
        0.00192,
        0.00054,
        0.00033,
        0.00018,
    ]
    hourly = np.array(DEFAULT.hourly_ctr)
    assert (hourly.argmin(), hourly.argmax()) == (9, 18)
    assert hourly.max() / hourly.min() == pytest.approx(0.00099 / 0.000492, rel=1e-6)
    assert DEFAULT.winnable == pytest.approx(15_395_258 / 64_746_749, abs=1e-6)
    assert DEFAULT.mean_ctr == pytest.approx(11_557 / 15_395_258, abs=1e-8)
    # Medians 70 and 58 fen CPM, averaged by impressions; the mean agrees with the published 93.06 and 89.28.
    assert 58e-5 < DEFAULT.price_at(0.5) < 70e-5
    assert DEFAULT.mean_price == pytest.approx(90.7e-5, rel=0.05)
    share = np.array(DEFAULT.visibility_share)
    assert share @ np.array(DEFAULT.visibility_ctr) == pytest.approx(DEFAULT.mean_ctr, rel=1e-4)


def test_every_field_of_the_default_has_a_source() -> None:
    fields = {field.name for field in dataclasses.fields(Calibration)} - {"sources"}
    assert set(DEFAULT.sources) == fields
    assert "assumption" in DEFAULT.sources["hourly_ctr"].lower()
    assert all(len(text) > 20 for text in DEFAULT.sources.values())


@needs_samples
def test_default_agrees_with_the_real_samples() -> None:
    curve = json.loads((SAMPLES / "auctionnet_params" / "auctionnet_defaults.json").read_text())["traffic_share_48"]
    np.testing.assert_allclose(DEFAULT.daily_share, np.array(curve) / np.sum(curve), rtol=1e-6)
    logs = [read_log(SAMPLES / name) for name in ("ipinyou_formalised_2259", "ipinyou_s3_raw_2821")]
    weights = np.array([835_556, 1_322_561]) / (835_556 + 1_322_561)
    for level in (0.01, 0.10, 0.25, 0.50, 0.75, 0.90, 0.99):
        pooled = weights @ np.array([log.frame["price"].quantile(level, "linear") for log in logs])
        assert DEFAULT.price_at(level) == pytest.approx(pooled, rel=0.01)
    for name, share in zip(DEFAULT.visibility_names, DEFAULT.visibility_share, strict=True):
        seen = weights @ np.array(
            [int((log.frame["visibility"].cast(pl.String) == name).sum()) / len(log) for log in logs]
        )
        assert share == pytest.approx(seen, abs=1e-5)


def test_price_at_is_monotone_and_the_same_in_numpy_and_jax() -> None:
    u = np.linspace(0.0, 1.0, 101)
    prices = DEFAULT.price_at(u)
    assert (np.diff(prices) >= 0).all()
    assert prices[[0, -1]].tolist() == [DEFAULT.price_quantiles[0], DEFAULT.price_quantiles[-1]]
    traced = jax.jit(jax.vmap(DEFAULT.price_at))(jnp.asarray(u))
    assert isinstance(traced, jax.Array)
    np.testing.assert_allclose(traced, prices, rtol=1e-5)
    uniform = np.random.default_rng(0).random(200_000)
    assert DEFAULT.price_at(uniform).mean() == pytest.approx(DEFAULT.mean_price, rel=0.01)


@pytest.mark.parametrize("ticks", [1, 7, 24, 48, 96, 100])
def test_resampling_keeps_sums_and_means(ticks: int) -> None:
    daily, factor = DEFAULT.daily(ticks), DEFAULT.ctr_factor(ticks)
    assert daily.shape == factor.shape == (ticks,)
    assert daily.dtype == factor.dtype == np.float32
    assert daily.sum(dtype=np.float64) == pytest.approx(1.0, abs=1e-6)
    assert factor.mean(dtype=np.float64) == pytest.approx(1.0, abs=1e-6)


def test_resampling_adds_up_neighbours() -> None:
    np.testing.assert_allclose(DEFAULT.daily(24), np.reshape(DEFAULT.daily_share, (24, 2)).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(DEFAULT.ctr_factor(24), DEFAULT.hourly_ctr, rtol=1e-5)
    for ticks in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="ticks must be a whole number from 1 up"):
            DEFAULT.daily(ticks)  # type: ignore[arg-type]


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    DEFAULT.save(path)
    loaded = Calibration.load(path)
    assert loaded == DEFAULT
    assert hash(loaded) == hash(DEFAULT)
    assert loaded.price_quantiles == DEFAULT.price_quantiles
    assert loaded != dataclasses.replace(DEFAULT, winnable=0.5)


def _edited(**changes: Any) -> str:
    fields = {**dataclasses.asdict(DEFAULT), **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...})


MALFORMED: dict[str, tuple[str, list[str]]] = {
    "no JSON": ("{", ["not JSON, line 1"]),
    "a list": ("[1]", ["expected a JSON object", "list"]),
    "missing field": (_edited(winnable=...), ["'winnable' is missing"]),
    "unknown field": (_edited(colour=3), ["'colour' is unknown", "allowed are daily_share"]),
    "shares off": (_edited(daily_share=[0.5, 0.6]), ["daily_share must sum to 1, got 1.1"]),
    "share below 0": (_edited(daily_share=[1.5, -0.5]), ["daily_share[0] must be a number from 0 to 1, got 1.5"]),
    "share in words": (_edited(daily_share=["all"]), ["daily_share[0]", "'all'"]),
    "shares no list": (_edited(daily_share=1.0), ["daily_share must be a list of numbers, got 1.0"]),
    "empty list": (_edited(price_quantiles=[]), ["price_quantiles must be a list of numbers"]),
    "23 hours": (_edited(hourly_ctr=[1.0] * 23), ["hourly_ctr must have 24 factors", "got 23"]),
    "mean not 1": (_edited(hourly_ctr=[2.0] * 24), ["hourly_ctr must have mean 1, got 2"]),
    "nan": (_edited(hourly_ctr=[float("nan")] * 24), ["hourly_ctr[0]", "nan"]),
    "name twice": (_edited(visibility_names=["Na"] * 7), ["visibility_names must not repeat"]),
    "names missing": (_edited(visibility_names=["Na"]), ["visibility_share", "1 visibility_names, got 7"]),
    "ctr above 1": (_edited(visibility_ctr=[1.5] * 7), ["visibility_ctr[0]", "from 0 to 1", "1.5"]),
    "levels not from 0": (_edited(price_probabilities=[0.1] * 11), ["price_probabilities must run from 0 to 1"]),
    "levels repeat": (
        _edited(price_probabilities=[0, 0.5, 0.5, 1], price_quantiles=[0, 1, 2, 3]),
        ["price_probabilities must increase strictly, got 0.5 in place 2"],
    ),
    "prices fall": (
        _edited(price_probabilities=[0, 0.5, 1], price_quantiles=[1, 0.5, 2]),
        ["price_quantiles must not decrease, got 0.5 in place 1"],
    ),
    "prices too few": (_edited(price_quantiles=[0.1, 0.2]), ["price_quantiles must have one price", "got 2"]),
    "prices all 0": (_edited(price_quantiles=[0.0] * 11), ["price_quantiles must end above 0"]),
    "winnable 2": (_edited(winnable=2), ["winnable must be a number from 0 to 1, got 2"]),
    "winnable 0": (_edited(winnable=0.0), ["winnable must lie above 0"]),
    "ctr true": (_edited(mean_ctr=True), ["mean_ctr must be a number from 0 to 1, got True"]),
    "cvr none": (_edited(mean_cvr=None), ["mean_cvr must be a number", "None"]),
    "sources a list": (_edited(sources=["me"]), ["sources must map names of fields to texts"]),
    "source of nothing": (_edited(sources={"colour": "a guess"}), ["sources names 'colour', which is no field"]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_calibrations_are_refused_by_field(tmp_path: Path, name: str) -> None:
    text, parts = MALFORMED[name]
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(CalibrationError) as caught:
        Calibration.load(path)
    assert "odd.json" in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"nothing\.json: cannot be read"):
        Calibration.load(tmp_path / "nothing.json")
    (tmp_path / "odd.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(CalibrationError, match=r"odd\.json: cannot be read"):
        Calibration.load(tmp_path / "odd.json")


def _landscape(tmp_path: Path, rows: int = 9000, seed: int = 0, hours: int = 24) -> Log:
    """A log with an atom of 30 % at 31 fen, a log-normal body cut at 294, and more rows in the evening."""
    rng = np.random.default_rng(seed)
    body = np.clip(np.round(np.exp(rng.normal(4.3, 0.6, rows))), 1, 294).astype(int)
    price = np.where(rng.random(rows) < 0.3, 31, body)
    hour = 23 - np.floor(hours * rng.random(rows) ** 1.5).astype(int)
    view = rng.choice(len(VISIBILITIES), rows, p=[0.4, 0.1, 0.1, 0.1, 0.05, 0.05, 0.2])
    click = rng.random(rows) < np.where(view == 0, 0.02, 0.002)
    lines = [
        formalised_row(
            i,
            click=int(click[i]),
            timestamp=f"20131021{hour[i]:02d}{rng.integers(60):02d}00000",
            payprice=price[i],
            slotvisibility=VISIBILITIES[view[i]],
        )
        for i in range(rows)
    ]
    return read_log(write(tmp_path / "fit.txt", lines), max_bad_share=0.0)


def test_fit_recovers_prices_atoms_curve_and_visibility(tmp_path: Path) -> None:
    log = _landscape(tmp_path)
    fitted, table = fit_calibration(log)
    prices = table.filter(pl.col("quantity").str.starts_with("price"))
    assert prices.height == 10
    np.testing.assert_allclose(prices["ratio"], 1.0, atol=0.12)
    # The atom is a flat stretch as wide as its mass.
    u = np.linspace(0, 1, 2001)
    assert np.isclose(fitted.price_at(u), 31e-5, rtol=1e-6).mean() == pytest.approx(0.3, abs=0.04)
    assert fitted.price_at(1.0) <= float(log.frame["price"].max()) + 1e-12  # type: ignore[arg-type]
    seen = np.bincount(log.frame["hour"].to_numpy(), minlength=24) / len(log)
    # 500 rows of the default beside 6,000 leave a trace of less than a tenth of its largest share.
    np.testing.assert_allclose(fitted.daily(24), seen, atol=0.012)
    ctr = dict(zip(fitted.visibility_names, fitted.visibility_ctr, strict=True))
    assert 0.01 < ctr["FirstView"] < 0.025
    assert ctr["FirstView"] > 4 * ctr["SecondView"]
    share = dict(zip(fitted.visibility_names, fitted.visibility_share, strict=True))
    assert share["FirstView"] == pytest.approx(0.4, abs=0.03)
    assert fitted.mean_ctr == pytest.approx(log.report.clicks / len(log), rel=0.25)


def test_observed_rows_are_held_out(tmp_path: Path) -> None:
    log = _landscape(tmp_path, rows=600)
    _, table = fit_calibration(log, seed=0)
    _, other = fit_calibration(log, seed=1)
    prices = table.filter(pl.col("quantity").str.starts_with("price"))
    assert (prices["fitted"] != prices["observed"]).any()
    assert not table["observed"].equals(other["observed"])
    assert fit_calibration(log, seed=0)[1].equals(table)


def test_winnable_is_taken_from_elsewhere_and_says_so(tmp_path: Path) -> None:
    log = _landscape(tmp_path, rows=300)
    fitted, table = fit_calibration(log)
    assert fitted.winnable == DEFAULT.winnable
    assert "cannot show it" in fitted.sources["winnable"]
    assert table.filter(pl.col("quantity") == "winnable")["observed"].to_list() == [None]
    given, _ = fit_calibration(log, winnable=0.4)
    assert given.winnable == 0.4
    assert "given by the caller" in given.sources["winnable"]


def test_a_log_of_one_evening_keeps_the_default_curve(tmp_path: Path) -> None:
    fitted, _ = fit_calibration(_landscape(tmp_path, rows=300, hours=6), ticks=24)
    np.testing.assert_allclose(fitted.daily_share, DEFAULT.daily(24), rtol=1e-6)
    assert "kept: the log shows 6 of 24 hours" in fitted.sources["daily_share"]


def test_hour_0_artefact_is_mended(tmp_path: Path) -> None:
    hours = [hour for hour in range(24) for _ in range(100 if hour else 400)]
    lines = [formalised_row(i, timestamp=f"20131021{hour:02d}{i % 60:02d}00000") for i, hour in enumerate(hours)]
    log = read_log(write(tmp_path / "fit.txt", lines), max_bad_share=0.0)
    assert log.report.hour0_excess == pytest.approx(4.0)
    fitted, _ = fit_calibration(log, ticks=24, default=dataclasses.replace(DEFAULT, daily_share=(1 / 24,) * 24))
    assert fitted.daily(24)[0] == pytest.approx(1 / 24, rel=0.2)
    assert "hour 0" in fitted.sources["daily_share"]


def test_logs_without_clicks_times_or_visibility_keep_those_of_the_default(tmp_path: Path) -> None:
    raw = read_log(write(tmp_path / "imp.txt", [raw_row(i) for i in range(600)]))
    fitted, table = fit_calibration(raw)
    assert fitted.mean_ctr == DEFAULT.mean_ctr
    assert table.filter(pl.col("quantity") == "CTR")["observed"].to_list() == [None]
    flat = read_log(write(tmp_path / "log.txt", [f"0 {20 + i % 50} 0.001" for i in range(600)]))
    fitted, _ = fit_calibration(flat)
    assert fitted.visibility_share == DEFAULT.visibility_share
    np.testing.assert_allclose(fitted.daily_share, DEFAULT.daily_share, rtol=1e-5)
    assert 19.9e-5 <= fitted.price_at(0.0) < fitted.price_at(1.0) <= 69.1e-5


def test_a_fitted_calibration_is_saved_and_loaded(tmp_path: Path) -> None:
    fitted, _ = fit_calibration(_landscape(tmp_path, rows=300), ticks=96)
    fitted.save(tmp_path / "mine.json")
    assert Calibration.load(tmp_path / "mine.json") == fitted
    assert len(fitted.daily_share) == 96


def test_what_cannot_be_fitted_is_refused(tmp_path: Path) -> None:
    few = read_log(write(tmp_path / "few.txt", [raw_row(i) for i in range(10)]))
    with pytest.raises(LogError, match="at least 30 rows, the log has 10"):
        fit_calibration(few)
    free = read_log(write(tmp_path / "free.txt", [raw_row(i, payprice=0) for i in range(40)]))
    with pytest.raises(LogError, match="no row has a price above 0"):
        fit_calibration(free)
    log = read_log(write(tmp_path / "log.txt", [raw_row(i) for i in range(40)]))
    with pytest.raises(ValueError, match="ticks must be a whole number from 1 up, got 0"):
        fit_calibration(log, ticks=0)
    with pytest.raises(ValueError, match=r"winnable must be a probability above 0 and up to 1, got 1\.5"):
        fit_calibration(log, winnable=1.5)


@needs_samples
@pytest.mark.parametrize("name", ["ipinyou_formalised_2259", "ipinyou_s3_raw_2821"])
def test_real_samples_are_fitted_closely(name: str) -> None:
    fitted, table = fit_calibration(read_log(SAMPLES / name))
    prices = table.filter(pl.col("quantity").str.starts_with("price"))
    np.testing.assert_allclose(prices["ratio"], 1.0, atol=0.15)
    assert "shared" not in json.dumps(dict(fitted.sources))
