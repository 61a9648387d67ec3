"""An experiment of milliseconds for tests of sweeps. It counts its runs in a file, and misbehaves when told to."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from adarena.experiments.store import RunFolder
from adarena.experiments.sweep_plan import register


@dataclasses.dataclass(frozen=True)
class Toy:
    """``act``: what else the run does. ``ledger``: file that gets a line ``value pid event`` for each start and end."""

    value: int = 0
    act: str = "nothing"
    seconds: float = 0.0
    rates: tuple[float, ...] = (0.5,)
    flag: bool = False
    ledger: str = ""
    runs: str = "runs"
    name: str = ""


PRESETS: dict[str, Toy] = {"default": Toy()}


def run(config: Toy, *, resume: bool = False) -> Path:
    with RunFolder.create(config.runs, config, config.name or None, resume=resume) as folder:
        _note(config, "start")
        print(f"value {config.value}")
        if "half" not in folder.tables:
            folder.write_table("half", pl.DataFrame({"value": [config.value]}))
            _note(config, "half")
        for _ in tqdm(range(1), "toy", disable=None):
            _act(config, folder)
        deadline = time.monotonic() + config.seconds
        while time.monotonic() < deadline:
            time.sleep(0.01)
        score = float("nan") if config.act == "nan" else float(config.value)
        folder.write_table("scores", pl.DataFrame({"policy": ["toy"], "score": [score]}))
        curves = {"seed": [0, 0, 1, 1], "step": [0, 10] * 2, "loss": [1.0, float(config.value), 3.0, 4.0]}
        folder.write_table("curves", pl.DataFrame(curves | {"episode_return": [float("nan")] * 2 + [1.0] * 2}))
    _note(config, "end")
    return folder.path


def _note(config: Toy, event: str) -> None:
    if config.ledger:
        with open(config.ledger, "a") as file:
            file.write(f"{config.value} {os.getpid()} {event}\n")


def _act(config: Toy, folder: RunFolder) -> None:
    if config.act == "raise":
        raise ArithmeticError(f"value {config.value} is wrong")
    if config.act == "exit":
        raise SystemExit(3)
    if config.act == "full":
        with open("/dev/full", "w") as file:
            file.write("no room")
    if config.act == "meet":  # waits until another process has begun a cell, too
        deadline = time.monotonic() + 120.0
        while len(set(pids(Path(config.ledger)).values())) < 2:
            if time.monotonic() > deadline:
                raise TimeoutError("nobody came")
            time.sleep(0.01)
    if config.act == "gate":  # waits to be let through
        deadline = time.monotonic() + 240.0
        while not os.path.exists(f"{config.ledger}.open"):
            if time.monotonic() > deadline:
                raise TimeoutError("nobody opened")
            time.sleep(0.01)
    if config.act == "big":
        folder.write_file("big.bin", lambda path: path.write_bytes(os.urandom(300_000)))


def events(ledger: Path, event: str) -> list[int]:
    """Values that noted an event, in order."""
    lines = [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []
    return [int(line[0]) for line in lines if line[2] == event]


def pids(ledger: Path) -> dict[int, int]:
    """Value to the process that noted it last."""
    return {int(line.split()[0]): int(line.split()[1]) for line in ledger.read_text().splitlines()}


this: Any = sys.modules[__name__]
register("toy", this)
