"""Speed like for like with AuctionNet: whole days of the preset ``auctionnet`` beside a yardstick in NumPy, in one run."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import polars as pl
from rich.table import Table

from adarena.envs import PRESETS, AutoBid, make
from adarena.experiments.bench_market import ENV_ID, Played, alternate, measure_calls, play_at_random, yardstick_tick
from adarena.experiments.sharding import cores

if TYPE_CHECKING:
    from adarena.experiments.bench import BenchConfig

YARDSTICK = "numpy yardstick"

BESIDE = ", a day a core"
"""What the names of contenders end with that play several days side by side, one on each core, as `rollout` does."""

BARS = {"bank": 0.104, "fresh": 0.217}
"""Most of the yardstick's time that a day may take: an episode of AuctionNet costs 26 of the yardstick's (measured, one core:
20,000 auctions a second), so these are 250 and 120 times AuctionNet's auctions a second."""

_TICKS, _IMPRESSIONS = 48, 10_416
_QUICK = {"advertisers": 4, "impressions": 16, "tick_blocks": 2, "blocks": 2, "ticks": 4, "daily_impressions": 100.0}


def measure_auctionnet(config: BenchConfig) -> pl.DataFrame:
    """Days of about 500,000 impressions and 48 bidders, every one of which bids, wins, pays in order and is observed.

    The yardstick's day: 48 ticks of 10,416 impressions in plain NumPy, one thread: draw, sort twice, price, expose.

    Returns:
        Also ``contender`` (``"numpy yardstick"``, ``"bank"``: values visited in a bank, ``"fresh"``: drawn anew; each
        once a day at a time and once with `BESIDE`), ``auctions_per_second``, and ``ratio``: seconds a day over the
        yardstick's of the same repeat; less is better.
    """
    days: list[tuple[str, Callable[[], Any], int, int, float]] = [_yardstick(config)]
    days += [day for name in BARS for day in _days(config, name)]
    rows: list[dict[str, Any]] = []
    seconds: dict[int, float] = {}
    for repeat, (name, call, steps, impressions, warmup) in alternate(config, days, "auctionnet"):
        columns = measure_calls(call, steps, config.seconds).columns()
        each = _ticks(config) / columns["steps_per_second"]
        if name == YARDSTICK:
            seconds[repeat] = each
        rate = {"auctions_per_second": impressions / each, "ratio": each / seconds[repeat]}
        rows.append({"contender": name, "repeat": repeat} | columns | rate | {"warmup_seconds": warmup})
    return pl.DataFrame(rows)


def _ticks(config: BenchConfig) -> int:
    return 4 if config.quick else _TICKS


def _yardstick(config: BenchConfig) -> tuple[str, Callable[[], Any], int, int, float]:
    rng = np.random.default_rng(0)
    ticks, size = _ticks(config), (16, 4, 2) if config.quick else (_IMPRESSIONS, 48, 3)

    def call() -> None:
        for _ in range(ticks):
            yardstick_tick(rng, *size)

    return YARDSTICK, call, ticks, ticks * size[0], 0.0


class Day(NamedTuple):
    """Days of AuctionNet's market, compiled and played once.

    Attributes:
        env: The environment.
        params: Its parameters.
        keys: Keys of several days.
        play: ``play(key, params)``: what `adarena.experiments.bench_market.play_at_random` sums up.
        warmup: Seconds that compiling and the first day took.
    """

    env: AutoBid
    params: Any
    keys: jax.Array
    play: Callable[[jax.Array, Any], Played]
    warmup: float


@functools.lru_cache(maxsize=2)  # two parts of one bench play the same days
def build_day(config: BenchConfig, name: str) -> Day:
    """Days with values from a bank (``name="bank"``) or drawn anew (``"fresh"``)."""
    env: Any
    preset: dict[str, Any] = {
        **PRESETS["auctionnet"],
        "fresh_draws": name == "fresh",
        **(_QUICK if config.quick else {}),
    }
    env, params = make(ENV_ID, **preset)
    play = jax.jit(functools.partial(play_at_random, env))
    keys = jax.random.split(jax.random.key(0), 8)
    started = time.perf_counter()
    jax.block_until_ready(play(keys[0], params))
    return Day(env, params, keys, play, time.perf_counter() - started)


def _days(config: BenchConfig, name: str) -> list[tuple[str, Callable[[], Any], int, int, float]]:
    """Contenders: one day at a time, all cores at its auctions; and a day a core, as policies are compared."""
    env, params, keys, play, warmup = build_day(config, name)
    turn = iter(range(2**62))

    def one(_: int = 0) -> None:
        jax.block_until_ready(play(keys[next(turn) % len(keys)], params))

    pool = ThreadPoolExecutor(cores())

    def several() -> None:
        list(pool.map(one, range(len(keys))))

    auctions = round(float(params.daily_impressions))
    return [
        (name, one, env.ticks, auctions, warmup),
        (name + BESIDE, several, len(keys) * env.ticks, auctions, warmup),
    ]


def auctionnet_tables(frame: pl.DataFrame, config: BenchConfig) -> list[Table]:
    """The table of `measure_auctionnet`."""
    table = Table(
        title="A day of AuctionNet's market (500,000 auctions of 48 bidders): median (least-most) over the repeats",
        caption="Ratio: seconds a day over the yardstick's in the same repeat; an episode of AuctionNet is 26 yardsticks.",
        caption_justify="left",
    )
    columns = ("seconds a day", "auctions/s", "ratio", "at most", "times AuctionNet", "cores", "compile s")
    for place, title in enumerate(("contender", *columns)):
        table.add_column(title, justify="right" if place else "left")
    for (name,), rows in frame.group_by("contender", maintain_order=True):
        ratio = rows["ratio"].to_numpy()
        low, middle, high = np.quantile(ratio, (0.0, 0.5, 1.0))
        wall, cpu = rows["wall_seconds"].to_numpy(), rows["cpu_seconds"].to_numpy()
        per_day = wall * _ticks(config) / rows["steps"].to_numpy()
        bar = BARS.get(str(name).removesuffix(BESIDE))
        table.add_row(
            str(name),
            f"{np.median(per_day):.3f}",
            f"{np.median(rows['auctions_per_second'].to_numpy()):,.0f}",
            f"{middle:.3f} ({low:.3f}-{high:.3f})",
            f"{bar}" if bar else "",
            f"{26.0 / middle:.0f}",
            f"{cpu.sum() / wall.sum():.2f}",
            f"{rows['warmup_seconds'].to_numpy().max():.1f}",
        )
    return [table]
