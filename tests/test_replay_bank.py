"""Click probabilities for the rows of a log, and banks of impressions to replay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from log_rows import SAMPLES, formalised_row, raw_row, write

from adarena.envs.data import Calibration, Log, fit_pctr, read_log, replay_bank

pytestmark = pytest.mark.usefixtures("quick_compilation")

FORMALISED = SAMPLES / "ipinyou_formalised_2259"
RAW = SAMPLES / "ipinyou_s3_raw_2821"
needs_samples = pytest.mark.skipif(not FORMALISED.is_dir(), reason="real samples are not in ../shared/data")


@needs_samples
@pytest.mark.parametrize("path", [FORMALISED / "train.log.txt", RAW], ids=["2259", "2821"])
def test_real_samples_through_pctr_and_bank(path: Path) -> None:
    log = read_log(path)
    model = fit_pctr(log)
    pctr = model.predict(log)
    assert pctr.shape == (len(log),)
    assert pctr.dtype == np.float32
    # Few clicks: the predictions stay within a few times the published rates.
    assert 2e-5 < pctr.min() < pctr.max() < 1e-2
    assert 0.5 < pctr.sum() / log.report.clicks < 2.0
    bank = replay_bank(log, pctr, ticks=48, impressions=64, seed=0)
    assert bank.weight.sum() == len(log)
    assert bank.volume.sum() * log.days == pytest.approx(len(log))
    assert 0.5 < bank.mean_ecpc < 10.0


def _log(tmp_path: Path, lines: list[str]) -> Log:
    return read_log(write(tmp_path / "log.txt", lines), max_bad_share=0.0)


def test_pctr_finds_a_planted_signal(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rich = rng.random(8000) < 0.2
    click = rng.random(8000) < np.where(rich, 0.08, 0.005)
    lines = [formalised_row(i, click=int(click[i]), domain="rich" if rich[i] else "poor") for i in range(8000)]
    log = _log(tmp_path, lines)
    model = fit_pctr(log)
    pctr = model.predict(log)
    assert pctr[rich].mean() > 6 * pctr[~rich].mean()
    assert model.report.calibration == pytest.approx(1.0, abs=0.1)
    assert model.report.log_loss < 0.8 * model.report.prior_log_loss  # type: ignore[operator]
    assert "predicted/observed" in str(model.report)
    np.testing.assert_array_equal(fit_pctr(log).predict(log), pctr)
    # Sampling the rows without a click must not move the level.
    sampled = fit_pctr(log, max_rows=2000).predict(log)
    assert sampled.mean() == pytest.approx(pctr.mean(), rel=0.1)


def test_pctr_of_a_sparse_log_uses_its_features(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rich = rng.random(6000) < 0.3
    click = rng.random(6000) < np.where(rich, 0.1, 0.01)
    lines = [f"{int(click[i])} 70 {17 if rich[i] else 18}:1 {i % 50 + 100}:1" for i in range(6000)]
    log = _log(tmp_path, lines)
    pctr = fit_pctr(log).predict(log)
    assert pctr[rich].mean() > 4 * pctr[~rich].mean()


def test_pctr_without_clicks_shrinks_and_without_knowledge_is_the_prior(tmp_path: Path) -> None:
    silent = _log(tmp_path, [formalised_row(i) for i in range(2000)])
    unknown = _log(tmp_path, [raw_row(i) for i in range(2000)])
    prior = fit_pctr(unknown)
    fitted = fit_pctr(silent)
    assert prior.report.source == "prior"
    assert prior.report.log_loss is None
    low, high = fitted.predict(silent).mean(), prior.predict(unknown).mean()
    assert 0.2 * high < low < high
    default = Calibration.default()
    row = unknown.frame["visibility"].cast(pl.String).to_list().index("FirstView")
    hour = unknown.frame["hour"][row]
    expected = default.visibility_ctr[default.visibility_names.index("FirstView")] * default.hourly_ctr[hour]
    assert prior.predict(unknown)[row] == pytest.approx(expected, rel=1e-4)


def test_a_logs_own_pctr_is_used(tmp_path: Path) -> None:
    log = _log(tmp_path, ["1 70 0.25", "0 31 0.125"])
    model = fit_pctr(log)
    assert model.report.source == "log"
    assert model.report.calibration == pytest.approx(0.375)
    assert model.predict(log).tolist() == [0.25, 0.125]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"penalty": 0.0}, "penalty must be a number above 0, got 0.0"),
        ({"penalty": float("nan")}, "penalty must be"),
        ({"buckets": 0}, "buckets must be a whole number from 1 up, got 0"),
        ({"max_rows": 1.5}, "max_rows must be a whole number from 1 up, got 1.5"),
    ],
)
def test_pctr_options_are_checked(tmp_path: Path, option: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_pctr(_log(tmp_path, [formalised_row(0)]), **option)  # type: ignore[arg-type]


def _timed_log(tmp_path: Path, rows: int = 500) -> Log:
    """Rows of three days, in the hours 6 to 20, in no order of time; prices tell rows apart."""
    rng = np.random.default_rng(3)
    lines = []
    for i in range(rows):
        stamp = f"201310{21 + i % 3}{rng.integers(6, 20):02d}{rng.integers(60):02d}{rng.integers(60):02d}000"
        lines.append(formalised_row(i, weekday=1, timestamp=stamp, payprice=i + 1, slotprice=0, click=int(i % 50 == 0)))
    return _log(tmp_path, lines)


@pytest.mark.parametrize("impressions", [1, 7, 32, 1000])
def test_bank_holds_every_row_once(tmp_path: Path, impressions: int) -> None:
    log = _timed_log(tmp_path)
    pctr = np.linspace(0.001, 0.01, len(log), dtype=np.float32)
    bank = replay_bank(log, pctr, ticks=24, impressions=impressions, seed=0)
    kept = bank.weight > 0
    assert bank.pctr.shape == (len(bank.price), 1, impressions)
    rows = np.round(bank.price[kept] * 1e5).astype(int) - 1
    assert sorted(rows) == list(range(len(log)))
    np.testing.assert_array_equal(bank.pctr[:, 0][kept], pctr[rows])
    np.testing.assert_array_equal(bank.click[kept], log.frame["click"].to_numpy()[rows])
    for padding in (bank.pctr[:, 0], bank.price, bank.click, bank.weight):
        assert not padding[~kept].any()
    assert bool((np.diff(bank.weight, axis=1) <= 0).all()), "padding stands at the end of a block"
    assert set(np.unique(bank.weight)) <= {0.0, 1.0}


def test_bank_groups_rows_by_tick_in_order_of_time(tmp_path: Path) -> None:
    log = _timed_log(tmp_path)
    seconds = log.frame["seconds"].to_numpy()
    bank = replay_bank(log, np.zeros(len(log)), ticks=24, impressions=8, seed=5)
    counts = np.bincount(seconds // 3600, minlength=24)
    np.testing.assert_allclose(bank.volume * log.days, counts, rtol=1e-6)
    assert bank.volume.sum() * 3 == pytest.approx(len(log))
    assert bank.first.dtype == bank.last.dtype == np.int32
    assert (bank.last > bank.first).all()
    for tick in range(24):
        if not counts[tick]:
            nearest = 6 if tick < 6 else 19
            assert (bank.first[tick], bank.last[tick]) == (bank.first[nearest], bank.last[nearest])
            assert bank.volume[tick] == 0.0
            continue
        blocks = slice(bank.first[tick], bank.last[tick])
        sizes = bank.weight[blocks].sum(axis=1)
        assert sizes.sum() == counts[tick]
        assert sizes.max() - sizes.min() <= 1, "rows are dealt equally"
        for price, weight in zip(bank.price[blocks], bank.weight[blocks], strict=True):
            times = seconds[np.round(price[weight > 0] * 1e5).astype(int) - 1]
            assert (times // 3600 == tick).all()
            assert (np.diff(times) >= 0).all()


def test_bank_with_blocks_large_enough_is_the_log(tmp_path: Path) -> None:
    log = _timed_log(tmp_path)
    order = np.argsort(log.frame["seconds"].to_numpy(), kind="stable")
    bank = replay_bank(log, np.full(len(log), 0.002), ticks=4, impressions=500, seed=0)
    kept = bank.weight > 0
    np.testing.assert_array_equal(bank.price[kept], log.frame["price"].to_numpy()[order])
    assert len(bank.price) == int((bank.volume > 0).sum())
    cost = float(log.frame["price"].cast(pl.Float64).sum())
    assert bank.log_cost == pytest.approx(cost / 3)
    assert bank.mean_ecpc == pytest.approx(cost / (500 * 0.002), rel=1e-5)


def test_bank_is_a_function_of_its_seed(tmp_path: Path) -> None:
    log = _timed_log(tmp_path)
    banks = [replay_bank(log, np.zeros(len(log)), ticks=4, impressions=16, seed=seed) for seed in (1, 1, 2)]
    for first, second in zip(banks[0], banks[1], strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(banks[0].price, banks[2].price)


def test_bank_price_is_the_larger_of_market_price_and_floor(tmp_path: Path) -> None:
    log = _log(tmp_path, [formalised_row(0, payprice=30, slotprice=50), formalised_row(0, payprice=60, slotprice=50)])
    bank = replay_bank(log, np.zeros(2), ticks=1, impressions=2, seed=0)
    np.testing.assert_allclose(bank.price, [[50e-5, 60e-5]], rtol=1e-6)
    assert bank.log_cost == pytest.approx(110e-5, rel=1e-6)


def test_bank_of_one_day_and_of_a_log_without_times(tmp_path: Path) -> None:
    log = _timed_log(tmp_path)
    bank = replay_bank(log, np.zeros(len(log)), ticks=24, impressions=8, seed=0, day=1)
    assert bank.volume.sum() == bank.weight.sum() == (log.frame["day"] == 1).sum()
    flat = _log(tmp_path, [f"0 {i + 1} 0.001" for i in range(10)])
    spread = replay_bank(flat, np.full(10, 0.001), ticks=5, impressions=4, seed=0)
    np.testing.assert_array_equal(spread.volume, np.full(5, 2.0))
    np.testing.assert_allclose(spread.price[:, 0], [1e-5, 3e-5, 5e-5, 7e-5, 9e-5], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ticks": 0}, "ticks must be a whole number from 1 up, got 0"),
        ({"impressions": 2.5}, "impressions must be a whole number from 1 up, got 2.5"),
        ({"pctr": np.zeros(3)}, r"pctr must have shape \(500,\).*got \(3,\)"),
        ({"pctr": np.full(500, 1.5)}, "pctr must lie from 0 to 1, got 1.5"),
        ({"pctr": np.full(500, np.nan)}, "pctr must lie from 0 to 1"),
        ({"day": 3}, "day=3 holds no rows of the log; days of the log are 0 to 2"),
    ],
)
def test_bank_arguments_are_checked(tmp_path: Path, change: dict[str, object], message: str) -> None:
    arguments = {"pctr": np.zeros(500), "ticks": 24, "impressions": 8, "seed": 0, **change}
    with pytest.raises(ValueError, match=message):
        replay_bank(_timed_log(tmp_path), **arguments)  # type: ignore[arg-type]
