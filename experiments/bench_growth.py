"""How the market's time and memory grow with its size; what `adarena.experiments.bench` calls.

One size varies, the others stay. A point is one compiled program: a day of every market of a batch, under random actions.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import polars as pl
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from rich.table import Table
from tqdm import tqdm

from adarena.envs import make
from adarena.envs.core import Env
from adarena.experiments import bench_tables as shown
from adarena.experiments.bench_market import ENV_ID, QUICK_MARKET, alternate, measure_calls, play_at_random

if TYPE_CHECKING:
    from adarena.experiments.bench import BenchConfig

EXPONENT, CLIFF = 1.1, 1.2
"""Most that growth called linear or better may show, for noise: slope in logs, and one step's growth over its size's."""

_MEMORY = ("argument_bytes", "temp_bytes", "output_bytes")


class Axis(NamedTuple):
    """One size that varies.

    Attributes:
        name: What tables call it; the field itself, or the field and what is unusual about the rest.
        field: ``"advertisers"``, ``"impressions"`` (a tick), ``"environments"`` or ``"slots"``.
        sizes: Field of `adarena.experiments.bench.BenchConfig` that holds the sizes.
        base: The other sizes. Small enough for the largest point to need a few seconds and a few GiB at most, large
            enough for the smallest to be more than the start of a program.
    """

    name: str
    field: str
    sizes: str
    base: dict[str, int]


AXES = (
    Axis("advertisers", "advertisers", "advertisers", {"impressions": 64, "environments": 16, "slots": 3}),
    Axis("impressions", "impressions", "impressions", {"advertisers": 48, "environments": 4, "slots": 3}),
    Axis("environments", "environments", "environments", {"advertisers": 48, "impressions": 16, "slots": 3}),
    Axis("slots", "slots", "slots", {"advertisers": 48, "impressions": 64, "environments": 16}),
    # Slots that nobody is left to fill: a program may take long to compile here.
    Axis("slots, 8 advertisers", "slots", "crowded_slots", {"advertisers": 8, "impressions": 64, "environments": 64}),
)
_QUICK_BASE = {"advertisers": 4, "impressions": 8, "environments": 2, "slots": 2}


class _Program(NamedTuple):
    """A compiled program of a day in every market of a batch.

    Attributes:
        call: Plays a day in each; the clearings made, all markets together.
        steps: Environment steps of a call.
        columns: What does not change from call to call.
    """

    call: Callable[[], int]
    steps: int
    columns: dict[str, Any]


def measure_throughput(config: BenchConfig) -> pl.DataFrame:
    """Growth: one size varies, the others stay; whole days under random actions inside one program.

    Impressions are counted as they are simulated (each stands for many real ones), and once, however often an auction
    is cleared again because somebody's money ran out.

    Returns:
        Also ``axis`` (see `AXES`), ``size``, ``auctions_per_second``, ``bids_per_second``, ``call_seconds`` (one call: a
        day in every market), ``clearings`` (of a tick, mean), ``compile_seconds`` (without any program kept from before),
        and what the compiled program needs: ``memory_bytes``, of which ``argument_bytes`` (bank of impressions included),
        ``temp_bytes`` and ``output_bytes``.
    """
    programs: dict[tuple[Env, int], _Program] = {}
    points = []
    wanted = [(axis, size) for axis in AXES for size in getattr(config, axis.sizes)]
    for axis, size in tqdm(wanted, desc="compiling", disable=None, leave=False):
        sizes = (_QUICK_BASE if config.quick else axis.base) | {axis.field: size}
        count = sizes.pop("environments")
        env, params = make(ENV_ID, **_fixed(config), **sizes)
        if (env, count) not in programs:
            programs[env, count] = _compile(env, params, count)
        points.append(({"axis": axis.name, "size": size}, programs[env, count]))
    rows = []
    for repeat, (name, program) in alternate(config, points, "throughput"):
        measured = measure_calls(program.call, program.steps, config.seconds).columns()
        rows.append(name | _rates(program, measured) | {"repeat": repeat} | measured | program.columns)
    return pl.DataFrame(rows).drop("auctions", "bids")


def _fixed(config: BenchConfig) -> dict[str, int]:
    return {"blocks": config.blocks} | ({"ticks": QUICK_MARKET["ticks"]} if config.quick else {})


def _rates(program: _Program, measured: dict[str, float]) -> dict[str, float]:
    per_step = measured["steps_per_second"]
    return {
        "auctions_per_second": per_step * program.columns["auctions"],
        "bids_per_second": per_step * program.columns["bids"],
        "call_seconds": program.steps / per_step,
    }


def _compile(env: Any, params: Any, count: int) -> _Program:
    keys = [jax.random.split(jax.random.key(n), count) for n in range(8)]
    started = time.perf_counter()
    with _without_cache():
        days = jax.jit(jax.vmap(functools.partial(play_at_random, env), in_axes=(0, None)))
        compiled = days.lower(keys[0], params).compile()
    compile_seconds = time.perf_counter() - started
    turn = iter(range(2**62))

    def call() -> int:
        return int(np.asarray(compiled(keys[next(turn) % len(keys)], params).clearings).sum())

    steps = count * env.ticks
    clearings = call() / steps
    analysis = compiled.memory_analysis()
    memory = {name: getattr(analysis, name.replace("_bytes", "_size_in_bytes")) for name in _MEMORY}
    columns = {
        "auctions": env.impressions,
        "bids": env.impressions * env.advertisers,
        "warmup_seconds": time.perf_counter() - started,
        "compile_seconds": compile_seconds,
        "clearings": clearings,
        "memory_bytes": sum(memory.values()),
        **memory,
    }
    return _Program(call, steps, columns)


@contextmanager
def _without_cache() -> Iterator[None]:
    """Within it programs are compiled, whatever the disk holds from before (see `adarena.envs.cache`)."""
    settings: Any = jax.config
    before = settings.jax_enable_compilation_cache
    settings.update("jax_enable_compilation_cache", False)
    reset_cache()  # JAX asks once whether there is a cache
    try:
        yield
    finally:
        settings.update("jax_enable_compilation_cache", before)
        reset_cache()


def growth(frame: pl.DataFrame) -> pl.DataFrame:
    """How fast time and memory grow on every axis of `measure_throughput`.

    Time is the least ``call_seconds`` over the repeats, which other work on the machine disturbs least.

    Returns:
        One row an axis and ``quantity`` (``"time"``, ``"memory"``): ``smallest`` and ``largest`` size; ``exponent``, the
        slope of the log of the quantity against log size over all sizes (least squares); ``last_exponent``, between the
        two largest; ``cliff``, the most by which the quantity grows in a step over what the size does; ``cliff_at``, the
        size that this step leads to; ``linear``, whether none of them says worse than linear (`EXPONENT`, `CLIFF`). Axes of
        one size have null but in the first columns.
    """
    rows = []
    for (axis,), points in frame.group_by("axis", maintain_order=True):
        least = points.group_by("size").agg(pl.col("call_seconds").min(), pl.col("memory_bytes").max()).sort("size")
        size = least["size"].to_numpy().astype(np.float64)
        for quantity, column in (("time", "call_seconds"), ("memory", "memory_bytes")):
            row = {"axis": axis, "quantity": quantity, "smallest": int(size[0]), "largest": int(size[-1])}
            rows.append(row | _slopes(size, least[column].to_numpy().astype(np.float64)))
    return pl.DataFrame(rows, infer_schema_length=None)


def _slopes(size: np.ndarray, amount: np.ndarray) -> dict[str, Any]:
    if len(size) < 2:
        return dict.fromkeys(("exponent", "last_exponent", "cliff", "cliff_at", "linear"))
    x, y = np.log(size), np.log(amount)
    steps = np.diff(y) - np.diff(x)
    worst = int(steps.argmax())
    exponent, last = float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))
    cliff = float(np.exp(steps[worst]))
    return {
        "exponent": exponent,
        "last_exponent": last,
        "cliff": cliff,
        "cliff_at": int(size[worst + 1]),
        "linear": max(exponent, last) <= EXPONENT and cliff <= CLIFF,
    }


def base_sizes(axis: Axis) -> str:
    """The sizes that stay while one varies, in words."""
    return ", ".join(f"{size} {field}" for field, size in axis.base.items())


def growth_tables(frame: pl.DataFrame, config: BenchConfig) -> list[Table]:
    """The tables of `measure_throughput`: every point, and how fast each axis grows."""
    base = "; ".join(f"{axis.name}: {base_sizes(axis)}" for axis in AXES)
    table = shown.new_table(
        "Throughput of the market: median over the repeats",
        *("axis", "size", "steps/s", "range", "auctions/s", "bids/s, M", "call s", "clearings", "MiB", "compile s"),
        "cores",
        caption=f"Impressions as simulated; clearings a tick; MiB of the compiled program. What does not vary: {base}.",
    )
    for (axis, size), rows in frame.group_by("axis", "size", maintain_order=True):
        rates = [shown.median(rows["auctions_per_second"]), shown.median(rows["bids_per_second"] / 1e6, 1)]
        rest = [
            shown.median(rows["call_seconds"], 4),
            shown.median(rows["clearings"], 2),
            shown.median(rows["memory_bytes"] / 2**20, 1),
            shown.median(rows["compile_seconds"], 1),
            shown.cores(rows),
        ]
        table.add_row(str(axis), str(size), shown.median(rows["steps_per_second"]), shown.spread(rows), *rates, *rest)
    return [table, _growth_table(frame)]


def _growth_table(frame: pl.DataFrame) -> Table:
    table = shown.new_table(
        "Growth: slope of logs (1 is linear), and the worst step",
        *("axis", "of", "sizes", "slope, all sizes", "slope, largest two", "worst step over size's", "verdict"),
        caption=f"Linear or better: slopes at most {EXPONENT}, no step above {CLIFF} times its size's. Least time of the "
        "repeats.",
    )
    for row in growth(frame).iter_rows(named=True):
        numbers = ["–"] * 4
        if row["linear"] is not None:
            verdict = "linear or better" if row["linear"] else "[bold red]worse than linear[/]"
            worst = f"{row['cliff']:.2f} (to {row['cliff_at']})"
            numbers = [f"{row['exponent']:.2f}", f"{row['last_exponent']:.2f}", worst, verdict]
        table.add_row(row["axis"], row["quantity"], f"{row['smallest']}-{row['largest']}", *numbers)
    return table
