"""AuctionNet's tables: exact round trips, rows that are none, and logs of episodes that were played."""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest
from auctionnet_market import SmallMarket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adarena.envs.adapters.auctionnet import BaseBiddingStrategy
from adarena.envs.adapters.auctionnet_host import Record, play
from adarena.envs.adapters.auctionnet_state import STATE16, state16
from adarena.envs.data import auctionnet_table
from adarena.envs.data.auctionnet import LOG_COLUMNS, LOG_SCHEMA, log_of, read_log, write_log
from adarena.envs.data.auctionnet_training import TRAINING_SCHEMA, read_training, training_table, write_training
from adarena.envs.data.layouts import LogError

ENV = SmallMarket(ticks=6, tick_impressions=9)
HEADER = ",".join(LOG_SCHEMA)
GOOD = "3,48,6,7500.00,40.00,1,7500.00,3,0.0054324,0,0.1924,1,1,0.1673,1,1,0.1454,0"


class Recorder(BaseBiddingStrategy):
    """Bids its target; keeps the state that it could have seen."""

    def reset(self) -> None:
        self.states: list[np.ndarray] = []

    def bidding(self, timeStepIndex, pValues, pValueSigmas, *histories):  # type: ignore[no-untyped-def]
        money = self.remaining_budget, self.budget
        self.states.append(state16(timeStepIndex, pValues, *money, *histories, ticks=ENV.ticks))
        return self.cpa * pValues * (1.0 + 0.1 * timeStepIndex)


@functools.cache
def _played() -> tuple[Record, Recorder]:
    recorder = Recorder()
    record = play(ENV, ENV.default_params(), jax.random.key(5), {1: recorder}).record
    assert record is not None
    return record, recorder


def _values(column: auctionnet_table.Column) -> st.SearchStrategy[float]:
    if column.dtype == pl.Int64:
        return st.integers(int(column.low), int(min(column.high, 2**53 - 1)))
    return st.floats(0.0, 1e308, allow_subnormal=True).map(abs)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(*map(_values, LOG_COLUMNS)), max_size=5), suffix=st.sampled_from([".csv", ".parquet"]))
def test_a_log_comes_back_to_the_last_bit(tmp_path: Path, rows: list[tuple[float, ...]], suffix: str) -> None:
    log = pl.DataFrame(rows, schema=LOG_SCHEMA, orient="row")
    write_log(log, tmp_path / f"log{suffix}")
    back, report = read_log(tmp_path / f"log{suffix}")
    assert back.schema == log.schema
    assert back.rows() == log.rows()
    assert (report.rows_read, report.rows_kept, report.bad) == (len(rows), len(rows), {})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    state=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=16, max_size=16),
    following=st.booleans(),
    suffix=st.sampled_from([".csv", ".parquet"]),
)
def test_a_training_table_comes_back_to_the_last_bit(
    tmp_path: Path, state: list[float], following: bool, suffix: str
) -> None:
    row = [0, 1, 2, 100.1, 7.3, 0.1 + 0.2, 2.0, 5, state, 1 / 3, 1.0, 5e-324, int(not following)]
    rows = [[*row, state[::-1] if following else None]]
    table = pl.DataFrame(rows, schema=TRAINING_SCHEMA, orient="row")
    write_training(table, tmp_path / f"rl{suffix}")
    back, _ = read_training(tmp_path / f"rl{suffix}")
    assert back.schema == table.schema
    assert back.rows() == table.rows()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_as_auctionnet_writes_them(tmp_path: Path, end: str) -> None:
    (tmp_path / "log.csv").write_bytes(end.join([HEADER, GOOD, GOOD.replace(",3,0.005", ",4,0.005")]).encode())
    log, report = read_log(tmp_path / "log.csv")
    assert log["pvIndex"].to_list() == [3, 4]
    assert log.row(0)[:6] == (3, 48, 6, 7500.0, 40.0, 1)
    assert log.row(0)[8:] == (0.0054324, 0.0, 0.1924, 1, 1, 0.1673, 1.0, 1.0, 0.1454, 0)
    assert report.bad == {}
    write_log(log, tmp_path / "again.csv")
    line = (tmp_path / "again.csv").read_text().splitlines()[1]
    assert line == "3,48,6,7500.0,40.0,1,7500.0,3,0.0054324,0.0,0.1924,1,1,0.1673,1,1,0.1454,0"


def _changed(column: str, value: str) -> str:
    fields = GOOD.split(",")
    fields[list(LOG_SCHEMA).index(column)] = value
    return ",".join(fields)


BAD = {
    _changed("pValue", "abc"): ("pValue must be a number of at least 0", "abc"),
    _changed("pValue", ""): ("pValue must be a number of at least 0", ""),
    _changed("bid", "nan"): ("bid must be a number of at least 0", "nan"),
    _changed("cost", "-0.1"): ("cost must be a number of at least 0", "-0.1"),
    _changed("budget", "inf"): ("budget must be a number of at least 0", "inf"),
    _changed("xi", "2"): ("xi must be a whole number from 0 to 1", "2"),
    _changed("isEnd", "0.5"): ("isEnd must be a whole number from 0 to 1", "0.5"),
    _changed("timeStepIndex", "-1"): ("timeStepIndex must be a whole number of at least 0", "-1"),
    GOOD[:-2]: ("a row must have 18 fields", "17 fields"),
    GOOD + ",9": ("a row must have 18 fields", "19 fields"),
    "garbage": ("a row must have 18 fields", "1 fields"),
}


@pytest.mark.parametrize("bad", list(BAD))
@pytest.mark.parametrize("chunk", [32 << 20, 200])
def test_a_malformed_row_is_left_out_with_its_line_column_and_reason(
    tmp_path: Path, bad: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auctionnet_table, "_CHUNK", chunk)
    lines = [HEADER, *[GOOD] * 4, "", bad, *[GOOD] * 4]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    log, report = read_log(tmp_path / "log.csv", max_bad_share=0.5)
    assert (log.height, report.rows_read, report.rows_kept) == (8, 9, 8)
    reason, value = BAD[bad]
    (line,) = report.first_bad
    assert (line.file, line.number, line.reason) == ("log.csv", 7, reason)
    assert line.value.startswith(value)
    assert report.bad == {reason: 1}
    assert f"log.csv, line 7: {reason}" in str(report)
    with pytest.raises(LogError, match=r"1 of 9 rows are bad, 1\.000% allowed.*\n.*line 7"):
        read_log(tmp_path / "log.csv")


def test_malformed_rows_of_parquet_and_frames(tmp_path: Path) -> None:
    log = pl.concat([log_of(_played()[0])] * 2).with_columns(pl.col("bid").cast(pl.Float32))
    odd = log.with_columns(pl.when(pl.int_range(pl.len()) == 3).then(-1.0).otherwise("bid").alias("bid"))
    odd.with_columns(pl.lit(1).alias("more")).write_parquet(tmp_path / "log.parquet")
    back, report = read_log(tmp_path / "log.parquet", max_bad_share=0.1)
    assert (back.height, report.others, report.first_bad[0].number) == (log.height - 1, ("more",), 4)
    with pytest.raises(LogError, match=r"bid must be a number of at least 0, got .-1\.0."):
        write_log(odd, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_columns_in_any_order_and_what_is_no_log(tmp_path: Path) -> None:
    columns = ["", *reversed(LOG_SCHEMA)]
    (tmp_path / "log.csv").write_text(",".join(columns) + "\n" + ",".join(["0", *reversed(GOOD.split(","))]))
    log, report = read_log(tmp_path / "log.csv")
    assert (log.columns, log["cost"].item(), report.others) == (list(LOG_SCHEMA), 0.1673, ("",))
    (tmp_path / "short.csv").write_text(HEADER.replace(",bid", "") + "\n")
    (tmp_path / "twice.csv").write_text(HEADER + ",bid\n")
    (tmp_path / "not.parquet").write_text("no")
    (tmp_path / "log.txt").write_text(HEADER)
    cases = {
        "short.csv": "no column bid; the table has 18 columns",
        "twice.csv": "the column bid stands there twice",
        "not.parquet": "is no parquet file",
        "log.txt": ".csv or .parquet, got .txt",
        "nothing.csv": "no such file",
    }
    for name, words in cases.items():
        with pytest.raises(LogError, match=words):
            read_log(tmp_path / name)
    with pytest.raises(ValueError, match="max_bad_share"):
        read_log(tmp_path / "log.csv", max_bad_share=1.0)
    with pytest.raises(LogError, match="no column bid"):
        write_log(log.drop("bid"), tmp_path / "out.csv")
    (tmp_path / "empty.csv").write_text(HEADER + "\n")
    assert read_log(tmp_path / "empty.csv")[0].height == 0


def test_the_log_of_an_episode_adds_up() -> None:
    record, recorder = _played()
    log = log_of(record, period=7)
    sizes = [ENV.tick_impressions - t for t in range(ENV.ticks)]
    assert log.height == ENV.advertisers * sum(sizes)
    assert log.schema == LOG_SCHEMA
    assert log["deliveryPeriodIndex"].unique().to_list() == [7]
    one = log.filter(pl.col("advertiserNumber") == 1)
    assert one["pvIndex"].to_list() == list(range(sum(sizes)))
    spend = one.group_by("timeStepIndex", maintain_order=True).agg((pl.col("cost") * pl.col("isExposed")).sum())
    left = one.group_by("timeStepIndex", maintain_order=True).agg(pl.col("remainingBudget").first())["remainingBudget"]
    np.testing.assert_allclose(left[:-1] - left[1:], spend["cost"][:-1], rtol=1e-4)
    winners = log.group_by("timeStepIndex", "pvIndex").agg(pl.col("xi").sum(), pl.col("adSlot").sum())
    assert (winners["xi"].unique().to_list(), winners["adSlot"].unique().to_list()) == ([2], [3])
    assert one.filter(pl.col("isEnd") == 1)["timeStepIndex"].unique().to_list() == [ENV.ticks - 1]
    np.testing.assert_allclose(one["bid"][:9] / one["pValue"][:9], recorder.cpa, rtol=1e-5)
    assert log_of(record, advertisers=[1]).equals(one.with_columns(pl.lit(0, pl.Int64).alias("deliveryPeriodIndex")))
    with pytest.raises(ValueError, match="advertisers must be from 0 to 3, got 4"):
        log_of(record, advertisers=[4])


def test_a_log_says_when_money_has_run_out() -> None:
    params = ENV.default_params()
    params = dataclasses.replace(params, base_budget=params.base_budget.at[2].set(5.0))
    record = play(ENV, params, jax.random.key(5), {}).record
    assert record is not None
    rows = log_of(record, advertisers=[2])
    out = rows["remainingBudget"] < 0.1
    assert 0 < out.sum() < len(out)
    assert rows["isEnd"].to_list() == (out | (rows["timeStepIndex"] == ENV.ticks - 1)).cast(pl.Int64).to_list()


def test_the_training_table_holds_the_states_that_the_strategy_saw() -> None:
    record, recorder = _played()
    log = log_of(record)
    table = training_table(log, ticks=ENV.ticks)
    assert table.schema == TRAINING_SCHEMA
    assert table.height == ENV.advertisers * ENV.ticks
    mine = table.filter(pl.col("advertiserNumber") == 1)
    states = np.stack(mine["state"].to_numpy())
    np.testing.assert_allclose(states, np.stack(recorder.states), rtol=1e-9)
    np.testing.assert_array_equal(np.stack(mine["next_state"][:-1].to_numpy()), states[1:])
    assert mine["next_state"][-1] is None
    assert mine["done"].to_list() == [0] * (ENV.ticks - 1) + [1]
    np.testing.assert_allclose(mine["action"], recorder.cpa * (1.0 + 0.1 * np.arange(ENV.ticks)), rtol=1e-5)
    rows = log.filter(pl.col("advertiserNumber") == 1)
    spent = (rows["cost"] * rows["isExposed"]).sum()
    assert mine["realAllCost"].unique().to_list() == pytest.approx([spent])
    assert mine["realAllConversion"][0] == pytest.approx(mine["reward"].sum())
    np.testing.assert_allclose(mine["reward_continuous"], mine["reward"], rtol=1e-6)  # conversions are as predicted


def test_an_advertiser_out_of_money_is_done(tmp_path: Path) -> None:
    log = log_of(_played()[0]).with_columns(
        pl.when((pl.col("advertiserNumber") == 2) & (pl.col("timeStepIndex") >= 2))
        .then(1)
        .otherwise("isEnd")
        .alias("isEnd")
    )
    table = training_table(log, ticks=ENV.ticks).filter(pl.col("advertiserNumber") == 2)
    assert table["done"].to_list() == [0, 0, 1, 1, 1, 1]
    assert table["next_state"].is_null().to_list() == [False, False, True, True, True, True]
    write_training(table, tmp_path / "rl.csv")
    back, _ = read_training(tmp_path / "rl.csv")
    assert back.equals(table)
    text = pl.read_csv(tmp_path / "rl.csv", infer_schema=False)
    assert ast.literal_eval(text["state"][3]) == tuple(table["state"][3].to_list())


def test_a_log_with_holes_is_refused() -> None:
    log = log_of(_played()[0])
    with pytest.raises(LogError, match="advertiser 3 of period 0 has no rows of tick 2, but of tick 3"):
        training_table(log.filter((pl.col("advertiserNumber") != 3) | (pl.col("timeStepIndex") != 2)), ticks=6)
    with pytest.raises(LogError, match="timeStepIndex must be below ticks=4, got 5"):
        training_table(log, ticks=4)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("state", "(1.0, 2.0)", "state must be 16 numbers"),
        ("state", "", "state must be 16 numbers"),
        ("next_state", "(" + "nan, " * 15 + "1.0)", "next_state must be 16 numbers"),
        ("action", "x", "action must be a number"),
        ("done", "2", "done must be a whole number from 0 to 1"),
    ],
)
def test_malformed_training_rows(tmp_path: Path, column: str, value: str, reason: str) -> None:
    table = training_table(log_of(_played()[0]), ticks=ENV.ticks)
    write_training(table, tmp_path / "rl.csv")
    text = pl.read_csv(tmp_path / "rl.csv", infer_schema=False)
    changed = pl.when(pl.int_range(pl.len()) == 4).then(pl.lit(value)).otherwise(column).alias(column)
    text.with_columns(changed).write_csv(tmp_path / "rl.csv")
    back, report = read_training(tmp_path / "rl.csv", max_bad_share=0.1)
    assert (back.height, report.rows_read) == (table.height - 1, table.height)
    assert back.equals(table.with_row_index().filter(pl.col("index") != 4).drop("index"))
    (line,) = report.first_bad
    assert line.number == 6
    assert line.reason.startswith(reason)
    with pytest.raises(LogError, match="line 6"):
        read_training(tmp_path / "rl.csv")


def test_states_as_numpy_2_prints_them(tmp_path: Path) -> None:
    table = training_table(log_of(_played()[0]), ticks=ENV.ticks)
    write_training(table, tmp_path / "rl.csv")
    text = pl.read_csv(tmp_path / "rl.csv", infer_schema=False)
    wrapped = pl.col("state").str.replace_all(r"([0-9.e+-]+)", "np.float64($1)")
    text.with_columns(wrapped).write_csv(tmp_path / "numpy.csv")
    assert "np.float64(" in (tmp_path / "numpy.csv").read_text()
    assert read_training(tmp_path / "numpy.csv")[0].equals(table)


def test_state16_by_hand() -> None:
    def history(*ticks: list[float]) -> list[np.ndarray]:
        return [np.asarray(tick, np.float64) for tick in ticks]

    bids = history([1.0, 3.0], [4.0], [6.0], [10.0, 10.0])
    pairs = [np.stack([bid / 100.0, np.zeros(len(bid))], axis=1) for bid in bids]
    auctions = [np.stack([bid > 3.0, bid > 3.0, bid], axis=1).astype(float) for bid in bids]
    impressions = [np.stack([np.ones(len(bid)), bid / 10.0], axis=1) for bid in bids]
    arguments = (
        np.array([0.2, 0.4, 0.6]),
        25.0,
        100.0,
        pairs,
        bids,
        auctions,
        impressions,
        [2.0 * bid for bid in bids],
    )
    state = dict(zip(STATE16, state16(4, *arguments, ticks=10), strict=True))
    expected = {
        "time_left": 0.6,
        "budget_left": 0.25,
        "bid_mean": 5.5,
        "bid_mean_last3": 20.0 / 3.0,
        "least_winning_cost_mean": 11.0,
        "p_value_mean": 0.055,
        "conversion_mean": 0.55,
        "won_mean": 0.75,
        "least_winning_cost_mean_last3": 40.0 / 3.0,
        "p_value_mean_last3": 0.2 / 3.0,
        "conversion_mean_last3": 2.0 / 3.0,
        "won_mean_last3": 1.0,
        "current_p_value_mean": 0.4,
        "current_impressions": 3.0,
        "last3_impressions": 4.0,
        "total_impressions": 6.0,
    }
    assert state == pytest.approx(expected)
    opening = state16(4, *arguments, ticks=10, opening=True)
    assert opening[3] == pytest.approx(4.0)
    first = state16(0, np.array([0.5]), 100.0, 100.0, [], [], [], [], [])
    assert first.tolist() == [1.0, 1.0, *[0.0] * 10, 0.5, 1.0, 0.0, 0.0]
    assert not any(math.isnan(x) for x in state16(0, np.array([]), 0.0, 0.0, [], [], [], [], []))
    with pytest.raises(ValueError, match="history_bid must hold one array for each of the 1 finished ticks, got 0"):
        state16(1, np.array([0.5]), 1.0, 1.0, pairs[:1], [], auctions[:1], impressions[:1], bids[:1])
    with pytest.raises(ValueError, match="tick must be from 0 to ticks - 1 = 47, got 48"):
        state16(48, np.array([0.5]), 1.0, 1.0, [], [], [], [], [])
