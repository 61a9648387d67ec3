"""``adarena sweep`` in processes of its own, for tests that kill them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from adarena.experiments import cli

TESTS = Path(__file__).resolve().parent
PATIENCE = (
    120.0  # seconds after which a process that should have done something is given up; never reached when it does
)


def until(holds: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def command(root: Path, ledger: Path, values: int, seconds: float, *more: str, act: str = "nothing") -> list[str]:
    axis = "value=" + ",".join(map(str, range(values)))
    grid = [axis, f"seconds={seconds}", f"act={act}", f"ledger={ledger}"]
    return ["toy_experiment:toy", "--grid", *grid, "--folder", str(root), "--tensorboard", "off", *more]


@contextlib.contextmanager
def driver(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """``adarena sweep`` in a process group of its own, which is gone at the end."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "adarena.experiments.cli", "sweep", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def here(arguments: list[str]) -> None:
    """``adarena sweep`` in this process (its workers are others)."""
    cli.main(["sweep", *arguments])


def states(root: Path) -> dict[int, str]:
    table = pl.read_parquet(root / "cells.parquet")
    return dict(zip(table["config.value"], table["state"], strict=True))
