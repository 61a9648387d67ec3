"""A roofline of AuctionNet's day: what this machine does a second, what a day needs, and the share of its time explained.

Rates are those of small kernels on arrays of the day's own shapes, compiled and threaded as the day is, in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from rich.table import Table

from adarena.envs.market.auction import rank, tie_priority
from adarena.envs.market.counter import normals
from adarena.envs.market.ledger import book
from adarena.envs.observation import LANDSCAPE
from adarena.experiments import bench_tables as shown
from adarena.experiments.bench_auctionnet import BARS, Day, build_day
from adarena.experiments.bench_market import Span, alternate, measure_calls

if TYPE_CHECKING:
    from adarena.experiments.bench import BenchConfig

MACHINE = "machine"
"""Contender of the rows that hold a rate and no part of a day."""

RANK = "rank, as it is"
"""The kernel that is the market's own code, not the least work that it could do."""

_LARGE = 1 << 26  # float32 numbers: 256 MiB, larger than any cache
_KERNEL_SECONDS, _PROGRAM_SECONDS = 0.5, 0.02
_LEAST_PASSES = 8  # of a program, which first copies what it starts from


class Shape(NamedTuple):
    """Sizes of a block of impressions.

    Attributes:
        advertisers: ``N``.
        impressions: ``M``.
        slots: ``K``.
    """

    advertisers: int
    impressions: int
    slots: int


class Kernel(NamedTuple):
    """Something whose rate is measured.

    Attributes:
        unit: What is counted.
        operations: How many of them a pass has.
        start: What the first pass takes.
        one: A pass: its number, and what the last one left; it leaves something of the same shape.
    """

    unit: str
    operations: int
    start: Any
    one: Callable[[jax.Array, Any], Any]


def kernels(shape: Shape, large: int = _LARGE) -> dict[str, Kernel]:
    """The kernels for blocks of ``shape``; an array of ``large`` numbers should fit in no cache."""
    advertisers, impressions, slots = shape
    size, square = advertisers * impressions, (advertisers, impressions)
    empty = jnp.zeros(square)
    score = jax.random.uniform(jax.random.key(0), square)
    bits = jax.lax.bitcast_convert_type(score, jnp.int32)  # as `adarena.envs.market.auction.rank` compares scores
    winner = jax.random.randint(jax.random.key(1), (slots, impressions), 0, advertisers)
    number = jnp.arange(impressions)
    priority = tie_priority(number, advertisers)
    seed = jnp.asarray([1, 2], jnp.uint32)

    def drawn(turn: jax.Array, last: jax.Array) -> jax.Array:
        return normals(seed, turn * impressions + number, advertisers)

    def threefry(turn: jax.Array, last: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(jax.random.key(0), turn), square)

    def hashed(turn: jax.Array, last: jax.Array) -> jax.Array:
        return tie_priority(turn * impressions + number, advertisers)

    def best(turn: jax.Array, last: jax.Array) -> jax.Array:
        return jnp.where(bits < last, bits, 0).max(axis=0)

    def booked(turn: jax.Array, total: jax.Array) -> jax.Array:
        return book(winner, jnp.broadcast_to(total[0] + 1.0, winner.shape), advertisers)

    def looked_up(turn: jax.Array, total: jax.Array) -> jax.Array:
        return total + score[(winner + turn) % advertisers, number]  # an index that stays would be looked up once

    def ranked(turn: jax.Array, last: jax.Array) -> jax.Array:
        ranking = rank(jnp.where(last > 0.0, score, 0.0), priority, slots)
        return ranking.score[0] + ranking.winner[0]

    return {
        "memory, large": Kernel("bytes", 8 * large, jnp.zeros(large), lambda turn, x: x + 1.0),
        "memory, a block": Kernel("bytes", 8 * size, empty, lambda turn, x: x + 1.0),
        "counter normals": Kernel("draws", size, empty, drawn),
        "threefry normals": Kernel("draws", size, empty, threefry),
        "tie hashes": Kernel("hashes", size, priority, hashed),
        "max pass": Kernel("elements", size, jnp.full(impressions, jnp.iinfo(jnp.int32).max), best),
        "scatter (book)": Kernel("amounts", slots * impressions, jnp.zeros(advertisers), booked),
        "gather": Kernel("numbers", slots * impressions, jnp.zeros((slots, impressions)), looked_up),
        RANK: Kernel("clearings", 1, jnp.ones(impressions), ranked),
    }


class Part(NamedTuple):
    """A part of a day.

    Attributes:
        name: What it does.
        kernel: Name of the kernel that sets its rate.
        operations: How many of that kernel's units a day needs.
    """

    name: str
    kernel: str
    operations: float


def parts(contender: str, shape: Shape, blocks: float, clearings: float) -> list[Part]:
    """What a day needs: the least that this design can do with, each array of a block passed over as often as it must be.

    Args:
        contender: ``"bank"`` or ``"fresh"``.
        shape: Sizes of a block.
        blocks: Blocks that the day visits.
        clearings: Clearings that it makes: one for each block, and one for each time that somebody's money ran out.

    Returns:
        The parts, each at the rate of the nearest kernel. The last, `RANK`, is no further one: it is the market's own code
        for the best bids, timed alone.
    """
    advertisers, impressions, slots = shape
    size, filled = advertisers * impressions, slots * impressions
    halvings = 1 + (impressions - 1).bit_length()
    fresh = contender == "fresh"
    values = Part("values", *(("counter normals", blocks * size) if fresh else ("memory, large", 4 * blocks * size)))
    seen = ("counter normals", blocks * impressions) if fresh else ("memory, large", 4 * blocks * impressions)
    return [
        values,
        Part("the seat's values, to be shown", *seen),
        Part("order of ties", "tie hashes", blocks * size),
        Part("scores and order written", "memory, a block", 8 * blocks * size),
        Part("best bids: a pass a score, one a winner", "max pass", clearings * (2 * slots + 1) * size),
        Part("winners taken out: a write a column", "scatter (book)", clearings * filled),
        Part("winners' values looked up", "gather", clearings * filled),
        Part("charges and events booked", "scatter (book)", (clearings + 3 * blocks) * filled),
        Part("who has to leave: charges booked", "scatter (book)", (clearings - blocks) * halvings * filled),
        Part("bid landscape: value and cost", "max pass", 2 * len(LANDSCAPE) * blocks * filled),
        Part(RANK, RANK, clearings),
    ]


def measure_roofline(config: BenchConfig) -> pl.DataFrame:
    """Rates of the machine, days of the ``auctionnet`` preset, and what of a day's time its parts would take at those rates.

    Returns:
        Also ``contender``: `MACHINE` for a rate, or ``"bank"``, ``"fresh"`` for a part of such a day; ``part``;
        ``kernel``, its rate's name; ``unit`` of the operations; ``operations`` of a pass, or of a day; ``rate``, operations a
        second; ``ideal_seconds``, their quotient; ``share`` of the day's seconds; ``counted``, whether it adds to the share
        that is explained (`RANK` does not: it is the code behind another part). The clocks of a part are its day's. A
        machine's step is a pass.
    """
    days = {name: build_day(config, name) for name in BARS}
    env = days["bank"].env
    shape = Shape(env.advertisers, env.impressions, env.slots)
    measured = {name: _Passes(kernel) for name, kernel in kernels(shape, 1 << 12 if config.quick else _LARGE).items()}
    played = {name: _Days(day) for name, day in days.items()}
    rows: list[dict[str, Any]] = []
    rates: dict[str, float] = {}
    # Kernels come first in every repeat, so that each day is held against the rates of its own.
    for repeat, (name, contender) in alternate(config, [*measured.items(), *played.items()], "roofline"):
        if isinstance(contender, _Passes):
            row = contender.measure(min(config.seconds, _KERNEL_SECONDS))
            rates[name] = row["rate"]
            rows.append({"contender": MACHINE, "part": name, "kernel": name} | row | {"repeat": repeat})
            continue
        columns, seconds = contender.measure(config.seconds)
        for part in parts(name, shape, contender.blocks, contender.clearings):
            ideal = part.operations / rates[part.kernel]
            row = {"contender": name, "part": part.name, "kernel": part.kernel, "operations": part.operations}
            row |= {"unit": measured[part.kernel].kernel.unit, "rate": rates[part.kernel], "ideal_seconds": ideal}
            rows.append(row | {"share": ideal / seconds, "counted": part.name != RANK, "repeat": repeat} | columns)
    return pl.DataFrame(rows, infer_schema_length=None)


class _Passes:
    """A kernel, compiled: passes one after another inside one program, as many as fill `_PROGRAM_SECONDS`."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._program = jax.jit(lambda passes, start: jax.lax.fori_loop(0, passes, kernel.one, start))
        started = time.perf_counter()
        self._run(1)
        self._warmup = time.perf_counter() - started
        seconds = min(measure_calls(lambda: self._run(4), 4, 0.0).wall / 8 for _ in range(2))
        self._passes = max(_LEAST_PASSES, round(_PROGRAM_SECONDS / seconds))

    def _run(self, passes: int) -> None:
        jax.block_until_ready(self._program(passes, self.kernel.start))

    def measure(self, seconds: float) -> dict[str, Any]:
        columns = measure_calls(lambda: self._run(self._passes), self._passes, seconds).columns()
        rate = columns["steps_per_second"] * self.kernel.operations
        about = {"unit": self.kernel.unit, "operations": float(self.kernel.operations), "rate": rate}
        return about | columns | {"warmup_seconds": self._warmup}


class _Days:
    """Days, one after another, and what they were made of: blocks visited and clearings made, means of those played."""

    def __init__(self, day: Day) -> None:
        self._day = day
        state = jax.jit(jax.vmap(lambda key: day.env.reset(key, day.params)[1].volume))(day.keys)
        blocks = np.ceil(np.asarray(state) / day.env.impressions)
        self._blocks = np.clip(blocks, 1, day.env.tick_blocks).sum(axis=1)
        self.blocks = self.clearings = 0.0

    def measure(self, seconds: float) -> tuple[dict[str, float], float]:
        """The clocks, and seconds of one day."""
        played: list[tuple[float, int]] = []

        def call() -> None:
            turn = len(played) % len(self._day.keys)
            done = self._day.play(self._day.keys[turn], self._day.params)
            played.append((self._blocks[turn], int(done.clearings)))

        span: Span = measure_calls(call, self._day.env.ticks, seconds)
        self.blocks, self.clearings = (float(mean) for mean in np.mean(played, axis=0))
        return span.columns() | {"warmup_seconds": self._day.warmup}, span.wall / len(played)


def roofline_tables(frame: pl.DataFrame, config: BenchConfig) -> list[Table]:
    """The tables of `measure_roofline`: the machine's rates, and one accounting for each kind of day."""
    table = shown.new_table(
        "What this machine does: median over the repeats",
        *("kernel", "unit", "millions a second", "range", "cores"),
        caption="All threads that XLA uses; memory counts what is read and what is written.",
        left=2,
    )
    for (name,), rows in frame.filter(contender=MACHINE).group_by("part", maintain_order=True):
        rate = shown.median(rows["rate"] / 1e6, 3 if name == RANK else 0)
        table.add_row(str(name), rows["unit"][0], rate, shown.spread(rows), shown.cores(rows))
    found = frame.filter(pl.col("contender") != MACHINE).partition_by("contender", maintain_order=True)
    return [table, *(_accounting(rows) for rows in found)]


def _accounting(frame: pl.DataFrame) -> Table:
    days = frame.group_by("repeat").agg(
        pl.col("ideal_seconds").filter(pl.col("counted")).sum(), pl.col("share").filter(pl.col("counted")).sum()
    )
    seconds = np.median((frame["ideal_seconds"] / frame["share"]).to_numpy())
    table = shown.new_table(
        f"A day of AuctionNet's market, values from {frame['contender'][0]}: {1e3 * seconds:.1f} ms",
        *("part", "kernel", "millions a day", "millions a second", "ideal ms", "share of the day"),
        caption=f"Median over the repeats. '{RANK}' is the market's own code for the best bids, alone; not in the sum.",
        left=2,
    )
    by_part = list(frame.group_by("part", "kernel", maintain_order=True))
    for (part, kernel), rows in [one for one in by_part if one[1]["counted"][0]]:
        table.add_row(str(part), str(kernel), *_numbers(rows))
    explained = [shown.median(1e3 * days["ideal_seconds"], 2), f"{shown.median(100.0 * days['share'], 1)} %"]
    table.add_row("explained", "", "", "", *explained, style="bold", end_section=True)
    for (part, _), rows in [one for one in by_part if not one[1]["counted"][0]]:
        table.add_row(str(part), "", *_numbers(rows), style="dim")
    return table


def _numbers(rows: pl.DataFrame) -> list[str]:
    operations, rate = (np.median(rows[name].to_numpy()) / 1e6 for name in ("operations", "rate"))
    share = shown.median(100.0 * rows["share"], 1)
    return [f"{operations:,.4g}", f"{rate:,.4g}", shown.median(1e3 * rows["ideal_seconds"], 2), f"{share} %"]
