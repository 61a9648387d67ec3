"""Speed of the environment alone, and what every part of `adarena.experiments.bench` measures with."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import polars as pl
from tqdm import tqdm

from adarena.envs import make
from adarena.envs.adapters.vector import JaxVectorEnv
from adarena.envs.core import Env

if TYPE_CHECKING:
    from adarena.experiments.bench import BenchConfig

ENV_ID = "adarena/AutoBid-v0"

# AuctionNet's tick: impressions, advertisers, slots. One of its episodes (48 ticks) costs 26 of the yardstick's.
_YARDSTICK = (10_416, 48, 3)
QUICK_MARKET = {"advertisers": 4, "impressions": 8, "slots": 2, "ticks": 4, "blocks": 2}


class Span(NamedTuple):
    """A measurement.

    Attributes:
        steps: Environment steps done.
        wall: Seconds on the clock.
        cpu: CPU seconds of the process, all threads.
    """

    steps: int
    wall: float
    cpu: float

    def since(self, start: Span) -> Span:
        """What happened between two marks."""
        return Span(self.steps - start.steps, self.wall - start.wall, self.cpu - start.cpu)

    def columns(self) -> dict[str, float]:
        """Columns that every result table has."""
        return {
            "steps": self.steps,
            "wall_seconds": self.wall,
            "cpu_seconds": self.cpu,
            "steps_per_second": self.steps / self.wall,
        }


def mark(steps: int) -> Span:
    """The clocks now, after ``steps`` environment steps."""
    return Span(steps, time.perf_counter(), time.process_time())


def alternate(config: BenchConfig, contenders: list[Any], label: str) -> Iterator[tuple[int, Any]]:
    """Every contender once a repeat, in turn."""
    with tqdm(total=config.repeats * len(contenders), desc=label, unit="run", disable=None, leave=False) as bar:
        for repeat in range(config.repeats):
            for contender in contenders:
                yield repeat, contender
                bar.update()


class Played(NamedTuple):
    """An episode, summed up.

    Attributes:
        reward: Float32 scalar, sum of the rewards.
        observed: Float32 scalar, sum of all observations; it keeps the compiler from leaving them out, which a learner
            would need.
        clearings: Int32 scalar, how often a block of impressions was cleared.
    """

    reward: jax.Array
    observed: jax.Array
    clearings: jax.Array


def play_at_random(env: Env, key: jax.Array, params: Any) -> Played:
    """A whole episode of AutoBid under random actions, reset included."""
    obs, state = env.reset(key, params)
    shape = (env.max_steps(params), *(env.action_space(params).shape or ()))
    actions = jax.random.uniform(jax.random.fold_in(key, 99), shape, minval=-1.0, maxval=1.0)

    def tick(carry: tuple[Any, jax.Array], action: jax.Array) -> tuple[tuple[Any, jax.Array], Any]:
        state, total = carry
        result = env.step(key, state, action, params)
        return (result.state, total + result.obs), (result.reward, result.info["clearings"])

    (_, total), (rewards, clearings) = jax.lax.scan(tick, (state, obs), actions)
    return Played(rewards.sum(), total.sum(), clearings.sum())


@functools.lru_cache(maxsize=64)
def _program(env: Env) -> Callable[[jax.Array, Any], Played]:
    """Episodes for ``[B]`` keys in one program."""
    return jax.jit(jax.vmap(functools.partial(play_at_random, env), in_axes=(0, None)))


def _scan(env: Env, params: Any, num_envs: int) -> tuple[Callable[[], Any], int]:
    """A call that plays one episode in each environment inside one program, and the steps that it makes."""
    program = _program(env)
    keys = [jax.random.split(jax.random.key(n), num_envs) for n in range(8)]
    turn = iter(range(2**62))
    return lambda: jax.block_until_ready(program(keys[next(turn) % len(keys)], params)), num_envs * env.max_steps(
        params
    )


def _vector(num_envs: int, market: dict[str, Any]) -> tuple[Callable[[], Any], int]:
    """A call that makes one step of Gymnasium's vector API, and the steps that it makes."""
    batch = JaxVectorEnv(ENV_ID, num_envs, autoreset_mode="SameStep", **market)
    batch.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (64, num_envs, 1)).astype(np.float32)
    turn = iter(range(2**62))
    return lambda: batch.step(actions[next(turn) % len(actions)]), num_envs


def yardstick_tick(rng: np.random.Generator, impressions: int, advertisers: int, slots: int) -> float:
    """One tick of auctions in plain NumPy, one thread: draw, sort twice, price, expose; returns the money paid.

    What a market written for NumPy has to do at least; speeds over its own compare across machines.
    """
    bids = np.abs(1.0 + 0.3 * rng.standard_normal((impressions, advertisers)))
    order = np.argsort(-bids, axis=1)
    place = np.argsort(order, axis=1)  # of each advertiser in each auction
    price = np.take_along_axis(bids, order[:, 1 : slots + 1], axis=1)
    seen = rng.random((impressions, slots)) < np.linspace(1.0, 0.6, slots)
    return float((price * seen).sum()) if (place < slots).any() else 0.0


def measure_calls(call: Callable[[], Any], steps: int, seconds: float) -> Span:
    """Calls for ``seconds``, at least twice; ``steps`` is what one call makes."""
    start, calls = mark(0), 0
    while calls < 2 or time.perf_counter() - start.wall < seconds:
        call()
        calls += 1
    return mark(calls * steps).since(start)


def measure_environment(config: BenchConfig) -> pl.DataFrame:
    """Random actions in the default market: inside one program, and through Gymnasium's vector API.

    Returns:
        Also ``api`` (``"scan"``, ``"gymnasium vector"`` or ``"numpy yardstick"``, whose step is a tick of 10,416
        impressions), ``environments``, ``auctions_per_second`` and ``bids_per_second``.
    """
    market = QUICK_MARKET if config.quick else {"blocks": config.blocks}
    env: Any
    env, params = make(ENV_ID, **market)
    points: list[tuple[dict[str, Any], Callable[[], Any], int, float, int, int]] = []
    for count in tqdm(config.sizes, desc="compiling", disable=None, leave=False):
        for api, build in (
            ("scan", lambda n: _scan(env, params, n)),
            ("gymnasium vector", lambda n: _vector(n, market)),
        ):
            call, steps, warmup = _warm(functools.partial(build, count), env.ticks)
            points.append(({"api": api, "environments": count}, call, steps, warmup, env.impressions, env.advertisers))
    if config.yardstick:
        size = (64, 4, 2) if config.quick else _YARDSTICK
        rng = np.random.default_rng(0)
        name = {"api": "numpy yardstick", "environments": 1}
        points.append((name, lambda: yardstick_tick(rng, *size), 1, 0.0, size[0], size[1]))
    return _measure_points(config, points, "environment")


def _warm(build: Callable[[], tuple[Callable[[], Any], int]], ticks: int) -> tuple[Callable[[], Any], int, float]:
    """Builds and compiles: a whole episode passes, so that the programs of a reset are compiled as well."""
    started = time.perf_counter()
    call, steps = build()
    for _ in range(ticks + 1):
        call()
    return call, steps, time.perf_counter() - started


def _measure_points(config: BenchConfig, points: list[Any], label: str) -> pl.DataFrame:
    rows = []
    for repeat, (name, call, steps, warmup, impressions, advertisers) in alternate(config, points, label):
        columns = measure_calls(call, steps, config.seconds).columns()
        auctions = columns["steps_per_second"] * impressions
        rate = {"auctions_per_second": auctions, "bids_per_second": auctions * advertisers}
        rows.append(name | rate | {"repeat": repeat} | columns | {"warmup_seconds": warmup})
    return pl.DataFrame(rows)
