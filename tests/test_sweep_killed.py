"""``adarena sweep`` survives: workers and drivers are killed, disks full, sweeps meet. No Ray in here."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import polars as pl
import pytest
from sweep_processes import PATIENCE, command, driver, here, is_alive, states, until
from toy_experiment import events, pids


def test_failed_cells_stop_nobody_and_a_killed_worker_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, ledger = tmp_path / "sweep", tmp_path / "ledger"
    arguments = ["toy_experiment:toy", "--grid", "value=0,1", "act=nan,nothing,raise", f"ledger={ledger}"]
    with driver([*arguments, "seconds=1.0", "--folder", str(root)]) as process:
        until(lambda: events(ledger, "half"), "a cell to begin")
        os.kill(pids(ledger)[0], signal.SIGKILL)  # the worker, in the middle of a cell: the first two take a second
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1  # for what failed
    assert "2 done, 4 failed" in output
    assert "leaked" not in output, "workers that are killed leave nothing of the system's behind"
    table = pl.read_parquet(root / "cells.parquet")
    ended = list(zip(table["config.value"], table["config.act"], table["state"], table["cause"], strict=True))
    kinds = [("nan", "failed", "cell"), ("nothing", "done", ""), ("raise", "failed", "cell")]
    assert ended == [(value, *kind) for value in (0, 1) for kind in kinds]
    started = events(ledger, "start")
    assert len(started) == 7  # one of them twice, and every other one once
    with pytest.raises(SystemExit) as error:
        here([*arguments, "seconds=1.0", "--folder", str(root)])
    assert error.value.code == 1
    assert "6 cells, 2 done, 4 failed before (--retry-failed runs them again), 0 to run" in capsys.readouterr().out
    assert events(ledger, "start") == started


def test_a_cell_that_kills_its_workers_is_given_up_and_waits_for_the_next_sweep(tmp_path: Path) -> None:
    root, ledger = tmp_path / "sweep", tmp_path / "ledger"
    with driver(command(root, ledger, 2, 1.0, "--retries", "0")) as process:
        until(lambda: events(ledger, "start"), "a cell to begin")
        os.kill(pids(ledger)[0], signal.SIGKILL)
        output, _ = process.communicate(timeout=PATIENCE)
    assert "its worker died 1 times, the last time with exit code -9" in " ".join(output.split()).replace(" │ ", " ")
    assert states(root) == {0: "failed", 1: "done"}
    here(command(root, ledger, 2, 1.0))
    assert states(root) == {0: "done", 1: "done"}
    assert events(ledger, "end") == [1, 0]


def test_ctrl_c_and_kill_nine_of_the_sweep_lose_nothing_and_nothing_is_run_twice(tmp_path: Path) -> None:
    root, ledger = tmp_path / "sweep", tmp_path / "ledger"
    arguments = command(root, ledger, 8, 0.4, "--jobs", "2")
    with driver(arguments) as process:
        until(lambda: len(events(ledger, "end")) >= 2, "two cells to end")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the sweep and to its workers
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
    assert "the same command goes on" in output
    assert "Traceback" not in output
    workers = set(pids(ledger).values())
    until(lambda: not any(map(is_alive, workers)), "the workers to end")
    begun = len(events(ledger, "end"))
    with driver(arguments) as process:
        until(lambda: len(events(ledger, "end")) >= begun + 2, "two more cells to end")
        process.kill()
        workers = set(pids(ledger).values())
        until(lambda: not any(map(is_alive, workers)), "the workers to end with the sweep")
    here(arguments)
    assert states(root) == dict.fromkeys(range(8), "done")
    ended = events(ledger, "end")
    assert sorted(set(ended)) == list(range(8))
    # Between the end of a run and its record lie milliseconds, in which it may be killed; it is not run again even so.
    assert len(ended) == 8
    # Cells that were killed half done went on from there. One killed between a table and its line in the ledger lacks the line.
    half = events(ledger, "half")
    assert len(half) == len(set(half)) >= 7


def test_two_sweeps_on_one_folder_share_its_cells(tmp_path: Path) -> None:
    root, ledger = tmp_path / "sweep", tmp_path / "ledger"
    arguments = command(root, ledger, 6, 0.1, act="meet")
    with driver(arguments) as other:
        here(arguments)
        output, _ = other.communicate(timeout=PATIENCE)
        assert other.returncode == 0
    assert "6 done" in output
    assert states(root) == dict.fromkeys(range(6), "done")
    assert sorted(events(ledger, "start")) == list(
        range(6)
    )  # each once, by one of them; none ended before both had one


def test_a_sweep_goes_on_when_there_is_room_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk, ledger = tmp_path / "disk", tmp_path / "ledger"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a small file system to fill can only be mounted by root")
    arguments = ["toy_experiment:toy", "--grid", "value=0,1,2,3,4", "act=big", f"ledger={ledger}"]
    arguments += ["--folder", str(disk / "sweep"), "--tensorboard", "off"]
    try:
        with pytest.raises(SystemExit) as error:
            here(arguments)
        assert error.value.code == 1
        output = " ".join(capsys.readouterr().out.split())
        assert "No space left on device" in output
        assert "the same command goes on" in output
        before = events(ledger, "end")
        assert 0 < len(before) < 5
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        here(arguments)
        assert set(states(disk / "sweep").values()) == {"done"}
        assert events(ledger, "end") == [0, 1, 2, 3, 4]  # nothing twice
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
