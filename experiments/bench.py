"""``adarena bench``: speed of training and of the environment, and how it grows with the size of the market.

Every number is measured in one run, contenders alternate over the repeats, and what is reported is the median and the
range: machines that are shared are noisy. Beside wall time stands the CPU time of the process, all threads together.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import polars as pl
from rich.table import Table

from adarena.experiments import bench_tables as shown
from adarena.experiments.bench_auctionnet import auctionnet_tables, measure_auctionnet
from adarena.experiments.bench_growth import growth_tables, measure_throughput
from adarena.experiments.bench_market import measure_environment
from adarena.experiments.bench_offline import measure_offline, offline_tables
from adarena.experiments.bench_roofline import measure_roofline, roofline_tables
from adarena.experiments.bench_startup import measure_startup, startup_tables
from adarena.experiments.bench_sweep import measure_sweep, sweep_tables
from adarena.experiments.bench_training import measure_training
from adarena.experiments.offline_learners import ALGORITHMS
from adarena.experiments.store import portable
from adarena.experiments.tables import console as console_of_width

Part = Literal["training", "offline", "auctionnet", "environment", "throughput", "roofline", "startup", "sweep"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What to measure, and for how long.

    Attributes:
        parts: ``"training"``: PPO in JAX against Stable-Baselines3, end to end; ``"offline"``: gradient steps of the learners
            from logs; ``"auctionnet"``: whole days of that simulator's market against a yardstick; ``"environment"``: random
            actions; ``"throughput"``: growth of time and memory with advertisers, impressions, environments and slots;
            ``"roofline"``: this machine's rates, and the share of a day of the ``"auctionnet"`` part that they explain;
            ``"startup"``: import and first step in fresh processes; ``"sweep"``: what ``adarena sweep`` adds to its cells, and
            10,000 cells that are finished.
        seconds: Seconds of one measurement, warm-up apart.
        repeats: Measurements of each contender.
        out: Folder of the result tables (parquet) and of ``bench.json`` (configuration and versions).
        batch: Environment steps that one update of PPO uses, the same for all contenders.
        minibatch: Environment steps of a gradient step, likewise.
        epochs: Passes over a batch, likewise.
        jax_envs: Environments of PPO in JAX, one contender each.
        sb3_envs: Environments of Stable-Baselines3 with ``DummyVecEnv``.
        sb3_batch_envs: Environments of Stable-Baselines3 on the jitted batch.
        sizes: Environments at which the environment alone is measured.
        advertisers: Sizes of the market for ``"throughput"``, one axis each; `adarena.experiments.bench_growth.AXES` says
            what the others are where one varies.
        impressions: Impressions a tick.
        environments: Markets in a batch.
        slots: Slots of an impression among 48 advertisers
        crowded_slots: and among 8, so that some of them stay empty.
        blocks: Blocks of the bank of impressions of ``"environment"`` and ``"throughput"``; the others have their market's.
        learners: Learners of ``"offline"``.
        yardstick: Whether ``"environment"`` also measures NumPy on one tick of AuctionNet's size.
        quick: Whether to shrink everything, so that compiling is all that takes time; such numbers mean nothing.
    """

    parts: tuple[Part, ...] = PARTS
    seconds: float = 2.0
    repeats: int = 3
    out: str = "runs/bench"
    batch: int = 3072
    minibatch: int = 768
    epochs: int = 4
    jax_envs: tuple[int, ...] = (64, 256)
    sb3_envs: int = 8
    sb3_batch_envs: int = 64
    sizes: tuple[int, ...] = (1, 8, 64, 256, 1024)
    advertisers: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    impressions: tuple[int, ...] = (64, 256, 1024, 4096, 16384)
    environments: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 4096)
    slots: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    crowded_slots: tuple[int, ...] = (1, 2, 4, 8, 16)
    blocks: int = 16
    learners: tuple[str, ...] = tuple(ALGORITHMS)
    yardstick: bool = True
    quick: bool = False

    def __post_init__(self) -> None:
        """Refuses what cannot be measured, before anything is."""
        if not self.parts or any(part not in PARTS for part in self.parts):
            raise ValueError(f"parts must name at least one of {', '.join(PARTS)}, got {self.parts!r}")
        if not 0.0 < self.seconds <= 3600.0:
            raise ValueError(f"seconds must lie in (0, 3600], got {self.seconds!r}")
        for name in ("repeats", "batch", "minibatch", "epochs", "sb3_envs", "sb3_batch_envs", "blocks"):
            _check_count(name, getattr(self, name))
        for name in ("jax_envs", "sizes", "advertisers", "impressions", "environments", "slots", "crowded_slots"):
            if not getattr(self, name):
                raise ValueError(f"{name} must hold at least one size, got ()")
            for size in getattr(self, name):
                _check_count(name, size)
        if not self.learners or any(name not in ALGORITHMS for name in self.learners):
            raise ValueError(f"learners must name at least one of {', '.join(ALGORITHMS)}, got {self.learners!r}")
        if self.batch % self.minibatch:
            raise ValueError(f"minibatch must divide batch ({self.batch}), got {self.minibatch}")
        for name, count in (
            *(("jax_envs", count) for count in self.jax_envs),
            ("sb3_envs", self.sb3_envs),
            ("sb3_batch_envs", self.sb3_batch_envs),
        ):
            if self.batch % count:
                raise ValueError(f"{name} must divide batch ({self.batch}), got {count}")
            if name == "jax_envs" and count % (self.batch // self.minibatch):
                raise ValueError(
                    f"jax_envs must be multiples of batch / minibatch, {self.batch // self.minibatch}, got {count}"
                )


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be whole numbers of at least 1, got {value!r}")


_QUICK: dict[str, Any] = {
    "seconds": 0.02,
    "repeats": 2,
    "batch": 16,
    "minibatch": 8,
    "epochs": 1,
    "jax_envs": (2,),
    "sb3_envs": 1,
    "sb3_batch_envs": 2,
    "sizes": (2,),
    "advertisers": (4,),
    "impressions": (8,),
    "environments": (2,),
    "slots": (2,),
    "crowded_slots": (2,),
    "blocks": 2,
    "learners": ("bc",),
}


def run_bench(config: BenchConfig) -> dict[str, pl.DataFrame]:
    """Measures, prints a table for each part, and writes ``<part>.parquet`` and ``bench.json`` into ``config.out``.

    Returns:
        The measurements of each part, one row a contender (or size) and repeat. All have ``repeat``, ``steps``
        (environment steps; one steps one market by one tick; of a kernel of ``"roofline"`` its passes), ``wall_seconds``,
        ``cpu_seconds``, ``steps_per_second`` and ``warmup_seconds`` (building and compiling, not in the others);
        ``"startup"`` makes one step and counts none, ``"sweep"`` counts cells, ``"offline"`` gradient steps.

    Raises:
        ImportError: The training part is asked for and Stable-Baselines3 is not installed.
    """
    if "training" in config.parts and not importlib.util.find_spec("stable_baselines3"):
        raise ImportError(
            "bench's training part needs stable-baselines3: pip install 'adarena[sb3]', "
            "or leave it out: --parts environment throughput"
        )
    if config.quick:
        config = dataclasses.replace(config, **_QUICK)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    about = _about(config)
    (out / "bench.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    console = console_of_width()
    console.print(
        f"adarena bench: {about['cores']} cores, JAX on {about['device']}, {config.seconds:g} s a measurement"
    )
    parts: dict[str, tuple[Callable[..., pl.DataFrame], Callable[..., list[Table]]]] = {
        "training": (measure_training, _training_tables),
        "offline": (measure_offline, offline_tables),
        "environment": (measure_environment, _environment_tables),
        "throughput": (measure_throughput, growth_tables),
        "roofline": (measure_roofline, roofline_tables),
        "auctionnet": (measure_auctionnet, auctionnet_tables),
        "startup": (measure_startup, startup_tables),
        "sweep": (measure_sweep, sweep_tables),
    }
    results: dict[str, pl.DataFrame] = {}
    for part in dict.fromkeys(config.parts):
        measure, tables = parts[part]
        results[part] = measure(config)
        results[part].write_parquet(out / f"{part}.parquet")
        for table in tables(results[part], config):
            console.print(table)
    console.print(f"Results are in {out}", soft_wrap=True, highlight=False)
    return results


def _about(config: BenchConfig) -> dict[str, Any]:
    versions = {}
    for name in ("adarena", "jax", "numpy", "stable-baselines3", "torch"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "command": [portable(part) for part in sys.argv],
        "config": dataclasses.asdict(config) | {"out": portable(config.out)},
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "memory_gib": _memory(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": str(jax.devices()[0].device_kind),
    }


def _processor() -> str:
    """Its name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "not told"


def _memory() -> float | None:
    """Memory of the machine in GiB, to a tenth; None where the system does not tell it."""
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(names):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _training_tables(frame: pl.DataFrame, config: BenchConfig) -> list[Table]:
    table = shown.new_table(
        "PPO on AutoBid, end to end: median (range) over the repeats",
        *("learner", "envs x ticks", "steps/s", "times SB3", "by CPU time", "cores", "warm-up s"),
        caption=f"Same for all: {config.batch} steps a batch, minibatches of {config.minibatch}, {config.epochs} "
        "passes, actor and critic 64-64 tanh, discount 1, lambda 0.95, observations and rewards normalised. Not the "
        "same: environments x ticks of a batch; torch runs on one thread; SB3 normalises advantages by minibatch. "
        "Warm-up (building, compiling, first batch) is in no other column.",
    )
    for (name, count), rows in frame.group_by("contender", "environments", maintain_order=True):
        shape = f"{count} x {rows['rollout_length'][0]}"
        ratios = [shown.ratio(rows[column]) for column in ("ratio", "cpu_ratio")]
        warmup = shown.most(rows["warmup_seconds"])
        table.add_row(str(name), shape, shown.median(rows["steps_per_second"]), *ratios, shown.cores(rows), warmup)
    return [table]


def _environment_tables(frame: pl.DataFrame, config: BenchConfig) -> list[Table]:
    note = " The yardstick's tick is of AuctionNet's size; an episode of AuctionNet costs 26 of the yardstick's."
    table = shown.new_table(
        "AutoBid under random actions: median over the repeats",
        *("interface", "environments", "steps/s", "range", "auctions/s", "cores", "warm-up s"),
        caption="A step clears one tick of one market." + note * config.yardstick,
    )
    for (api, count), rows in frame.group_by("api", "environments", maintain_order=True):
        speed = shown.median(rows["steps_per_second"], 1 if api == "numpy yardstick" else 0)
        warmup = shown.most(rows["warmup_seconds"])
        auctions = shown.median(rows["auctions_per_second"])
        table.add_row(str(api), str(count), speed, shown.spread(rows), auctions, shown.cores(rows), warmup)
    return [table]
