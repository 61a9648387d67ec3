"""Plays strategies written for AuctionNet in our markets, in any seats, against our rivals and beside our policies.

The market is compiled; strategies run in Python, tick by tick, with NumPy arrays in and out. What they see, in the terms of
`adarena.envs.adapters.auctionnet.BaseBiddingStrategy.bidding`:

- One row for each simulated impression. Exposures and conversions carry its weight, so that price x exposed sums to what the
  ledger books; predictions, bids and prices are of one impression. The preset ``auctionnet`` has weight 1 throughout.
- Where users' responses are drawn (``response="sampled"``), exposed and converted are 0 or 1, as in AuctionNet. Where they
  are booked as expected (``response="expected"``), they are those expectations: fractions, of the same mean.
- Conversions stand in the tick of their impression, whether or not the market reports them with a delay.
- Budgets follow the market's own spend rule. With less than 0.1 left a strategy is not asked and bids 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adarena.envs.adapters.auctionnet import StrategyError, imports_of
from adarena.envs.core import episode_keys

if TYPE_CHECKING:
    from adarena.agents.policy import Policy

SEAT: Final = -1
"""The controlled seat, whichever it is: named by ``params.seat``, or drawn at reset."""

MIN_REMAINING: Final = 0.1
"""Currency units; a strategy with less left bids 0 (alimama-tech/AuctionNet @ c20de63)."""

_LUCK: Final = 0xA0C71095

Strategy = Any
"""An object with AuctionNet's interface; a class of such objects; or a function without arguments that makes one."""


class Tick(NamedTuple):
    """A finished tick, its ``n`` real impressions. ``N`` advertisers, ``K`` slots; float32 unless said.

    Attributes:
        p_value: ``[N, n]`` predicted conversions per exposed impression.
        sigma: ``[N, n]`` standard deviation of the prediction.
        bid: ``[N, n]`` currency units, as the market took them.
        winner: ``[K, n]`` int32, the advertiser in each slot; -1 where it is empty.
        price: ``[K, n]`` currency units per exposed impression.
        exposure: ``[K, n]`` exposed impressions, drawn or expected, weights included.
        conversion: ``[K, n]`` likewise.
        least_winning: ``[n]`` currency units, least bid that would have won the last slot.
        remaining: ``[N]`` currency units left before the tick.
    """

    p_value: np.ndarray
    sigma: np.ndarray
    bid: np.ndarray
    winner: np.ndarray
    price: np.ndarray
    exposure: np.ndarray
    conversion: np.ndarray
    least_winning: np.ndarray
    remaining: np.ndarray


class Record(NamedTuple):
    """Everything that an episode's auctions came to; `adarena.envs.data.auctionnet.log_of` makes AuctionNet's log of it.

    Attributes:
        seat: The controlled advertiser.
        budget: ``[N]`` float32, currency units.
        target: ``[N]`` float32, target cost per conversion.
        category: ``[N]`` int32.
        ticks: The ticks, in order.
    """

    seat: int
    budget: np.ndarray
    target: np.ndarray
    category: np.ndarray
    ticks: tuple[Tick, ...]


class Played(NamedTuple):
    """What an episode came to.

    Attributes:
        metrics: What `adarena.experiments.rollout.rollout` says of a case, as floats.
        state: The environment's last state.
        record: Every auction; None if not asked for.
    """

    metrics: dict[str, float]
    state: Any
    record: Record | None


def play(
    env: Any,
    params: Any,
    key: jax.Array,
    strategies: Mapping[int, Strategy],
    seat_policy: Policy | None = None,
    *,
    record: bool = True,
) -> Played:
    """Plays one episode.

    Strategies may draw from ``numpy.random``, ``random`` and torch: these generators are seeded from ``key`` for the time
    of the episode and put back as they were.

    Args:
        env: A market with ``offers`` and ``step_bids`` (`adarena.envs.autobid.AutoBid`), not wrapped.
        params: Its parameters.
        key: Reset key: it fixes the market, as in a rollout.
        strategies: Advertiser, or `SEAT`, to its strategy. A class is made anew, an object goes on and is ``reset()``. Who
            is not named keeps its own control law; the seat, if neither it nor ``seat_policy`` is given, bids its target.
        seat_policy: A policy of ours for the seat. This, like a strategy for `SEAT`, goes before one for that advertiser.
        record: Whether to keep every auction of every advertiser (about 300 MB for a whole day of 500,000 impressions).

    Raises:
        TypeError: ``env`` takes no bids.
        ValueError: An advertiser is none of the market's, one object holds two seats, or the seat is given twice.
        StrategyError: A strategy raises, or its bids have the wrong shape or are not finite.
    """
    _check(env, strategies, seat_policy)
    obs, state = _reset(env, key, params)
    seat, chosen = int(state.seat.index), dict(strategies)
    chosen[seat] = chosen.pop(SEAT, chosen.get(seat)) if seat_policy is None else None
    steps, episode = env.max_steps(params), _Episode(env, params, record)
    step_keys, act_keys = _episode_keys(key, steps)
    carry = seat_policy.init(params) if seat_policy is not None else None
    with _seeded(key):
        hosts = [
            _Host(seat, strategy, state, params) for seat, strategy in sorted(chosen.items()) if strategy is not None
        ]
        for tick in range(steps):
            action: Any = np.zeros(1, np.float32)
            if seat_policy is not None:
                shown: Any = obs if seat_policy.jittable else np.array(obs)
                carry, action = seat_policy.act(act_keys[tick], carry, shown)
            obs, state, over = episode.advance(step_keys[tick], state, action, hosts)
            if over:
                return episode.finish(state)
    raise RuntimeError(f"the episode did not end within env.max_steps(params) = {steps}")


@dataclasses.dataclass(frozen=True, eq=False)
class StrategyPolicy:
    """A strategy as a policy: on the same cases, with the same keys, in the same tables as ours.

    Its bids are one for each impression, so it plays whole episodes (`run_episode`) instead of giving actions.

    Attributes:
        strategy: The seat's strategy (see `Strategy`), or a policy of ours that is to meet strategies.
        name: Its name in tables; the class's by default.
        rivals: Advertiser to strategy, for those that shall not keep their control laws. The seat is never a rival.
        jittable: False.
    """

    strategy: Strategy
    name: str = ""
    rivals: Mapping[int, Strategy] = dataclasses.field(default_factory=dict)
    jittable: bool = dataclasses.field(default=False, init=False)

    def __post_init__(self) -> None:
        """Names it after the class."""
        if not self.name:
            strategy = self.strategy
            own = getattr(strategy, "__name__", type(strategy).__name__)
            object.__setattr__(self, "name", own)

    def run_episode(self, env: Any, params: Any, key: jax.Array) -> dict[str, float]:
        """Plays the case of ``key`` and ``params``; returns its metrics. Errors are those of `play`."""
        ours = hasattr(self.strategy, "act") and not hasattr(self.strategy, "bidding")
        strategies = dict(self.rivals) if ours else {**self.rivals, SEAT: self.strategy}
        return play(env, params, key, strategies, self.strategy if ours else None, record=False).metrics

    def init(self, params: Any) -> Any:
        """No carry."""
        return ()

    def act(self, key: jax.Array, carry: Any, obs: Any) -> tuple[Any, Any]:
        """Not to be used.

        Raises:
            TypeError: Always.
        """
        raise TypeError(f"{self.name} bids on each impression and gives no action; call run_episode(env, params, key)")


class _Episode:
    """The market's side of an episode under way."""

    def __init__(self, env: Any, params: Any, record: bool) -> None:
        self.env, self.params, self.record = env, params, record
        self.rewards: list[float] = []
        self.infos: list[dict[str, Any]] = []
        self.ticks: list[Tick] = []

    def advance(self, key: jax.Array, state: Any, action: Any, hosts: list[_Host]) -> tuple[Any, Any, bool]:
        """Asks for bids, clears a tick and tells the strategies; returns ``(obs, state, over)``."""
        offers = [np.asarray(x) for x in _offers(self.env, state, self.params)]
        p_value, sigma, weight = offers
        count = int(np.count_nonzero(weight > 0.0))
        tick, left = int(state.tick), _left(state)
        bids = np.full(p_value.shape, np.nan, np.float32)
        for host in hosts:
            bids[host.seat] = 0.0
            bids[host.seat, :count] = host.bids(tick, p_value[host.seat, :count], sigma[host.seat, :count], left)
        action = jnp.asarray(action, jnp.float32).reshape(1)
        result, outcome = _step(self.env, key, state, action, bids, self.params)
        parts = [np.asarray(x)[..., :count] for x in (p_value, sigma, *outcome)]
        seen = Tick._make([*parts, left])
        for host in hosts:
            host.learn(seen)
        if self.record:
            self.ticks.append(seen)
        self.rewards.append(float(result.reward))
        if getattr(self.env, "record", False):
            self.infos.append(jax.tree.map(np.asarray, dict(result.info)))
        return result.obs, result.state, bool(result.terminated | result.truncated)

    def finish(self, state: Any) -> Played:
        """Metrics of the episode, which has ended."""
        found: dict[str, Any] = {"return": np.sum(self.rewards), "length": len(self.rewards)}
        found |= _metrics(self.env, state, self.params)
        if self.infos:  # stacked to the length of a whole episode, zero after its end, as in a rollout
            missing = self.env.max_steps(self.params) - len(self.infos)
            infos = self.infos + [jax.tree.map(np.zeros_like, self.infos[-1])] * missing
            found |= _bound(self.env, jax.tree.map(lambda *x: np.stack(x), *infos), state, self.params)
        record = None
        if self.record:
            budget, target, category = (np.asarray(x) for x in (state.budget, state.target, self.params.category))
            record = Record(int(state.seat.index), budget, target, category, tuple(self.ticks))
        return Played({name: float(value) for name, value in found.items()}, state, record)


class _Host:
    """One strategy in its seat, with the history that it is shown."""

    def __init__(self, seat: int, strategy: Strategy, state: Any, params: Any) -> None:
        self.seat = seat
        self.label = f"seat {seat}"
        self.strategy = strategy
        made = strategy if _is_object(strategy) else self._call(strategy, "its constructor")
        self.strategy, self.label = made, f"{type(made).__name__} in seat {seat}"
        budget, target, category = (np.asarray(x)[seat] for x in (state.budget, state.target, params.category))
        made.budget, made.cpa, made.category = float(budget), float(target), int(category)
        self._call(made.reset, "reset()")
        self.shown: tuple[list[np.ndarray], ...] = ([], [], [], [], [])

    def bids(self, tick: int, p_value: np.ndarray, sigma: np.ndarray, left: np.ndarray) -> np.ndarray:
        """``[n]`` float32 bids."""
        self.strategy.remaining_budget = float(left[self.seat])
        count = len(p_value)
        if left[self.seat] < MIN_REMAINING or count == 0:
            return np.zeros(count, np.float32)
        arrays = p_value.astype(np.float64), sigma.astype(np.float64)
        histories = [list(history) for history in self.shown]  # lists of their own: a strategy may change them
        raw = self._call(lambda: self.strategy.bidding(tick, *arrays, *histories), f"tick {tick}: bidding(...)")
        with contextlib.suppress(TypeError, ValueError):
            bids = np.asarray(raw, np.float64)
            if bids.shape == (count,) and np.all(np.isfinite(bids)) and np.all(bids <= np.finfo(np.float32).max):
                return np.maximum(bids, 0.0).astype(np.float32)
        raise StrategyError(f"{self.label}, tick {tick}: bids must be {count} finite numbers, got {_described(raw)}")

    def learn(self, seen: Tick) -> None:
        """Adds a finished tick to the history."""
        mine = seen.winner == self.seat
        slot = (mine * np.arange(1, len(mine) + 1)[:, None]).sum(axis=0)
        price, exposed, converted = (
            np.where(mine, part, 0.0).sum(axis=0, dtype=np.float64)
            for part in (seen.price, seen.exposure, seen.conversion)
        )
        rows = (
            np.stack([seen.p_value[self.seat], seen.sigma[self.seat]], axis=1).astype(np.float64),
            seen.bid[self.seat].astype(np.float64),
            np.stack([mine.any(axis=0), slot, price], axis=1).astype(np.float64),
            np.stack([exposed, converted], axis=1),
            seen.least_winning.astype(np.float64),
        )
        for history, row in zip(self.shown, rows, strict=True):
            history.append(row)

    def _call(self, function: Callable[[], Any], what: str) -> Any:
        try:
            with imports_of(self.strategy):
                return function()
        except Exception as error:
            name = getattr(self.strategy, "__name__", type(self.strategy).__name__)
            raise StrategyError(f"{name} in seat {self.seat}, {what} raised {type(error).__name__}: {error}") from error


def _described(raw: Any) -> str:
    try:
        array = np.asarray(raw, np.float64)
    except (TypeError, ValueError):
        return f"{type(raw).__name__} {str(raw)[:60]!r}"
    bad = array[~(np.abs(array) <= np.finfo(np.float32).max)]
    return f"shape {array.shape}" + (f" with {len(bad)} that are not, the first {bad[0]}" if len(bad) else "")


def _check(env: Any, strategies: Mapping[int, Strategy], seat_policy: Any) -> None:
    if not (hasattr(env, "offers") and hasattr(env, "step_bids")):
        raise TypeError(f"env must be a market that takes bids (offers, step_bids), got {type(env).__name__}")
    for seat in strategies:
        if isinstance(seat, bool) or not isinstance(seat, int | np.integer) or not SEAT <= seat < env.advertisers:
            raise ValueError(
                f"strategies must name advertisers 0 to {env.advertisers - 1}, or {SEAT} for the seat, got {seat!r}"
            )
    if SEAT in strategies and seat_policy is not None:
        raise ValueError(f"the seat has both a strategy ({SEAT}) and seat_policy; give one")
    objects = [id(strategy) for strategy in strategies.values() if _is_object(strategy)]
    if len(set(objects)) < len(objects):
        raise ValueError("strategies must hold an object once: in two seats it would mix its memories; give its class")


def _is_object(strategy: Strategy) -> bool:
    return not isinstance(strategy, type) and hasattr(strategy, "bidding")


def _left(state: Any) -> np.ndarray:
    return np.maximum(np.asarray(state.budget) - np.asarray(state.accounts.spend), 0.0)


@contextlib.contextmanager
def _seeded(key: jax.Array) -> Iterator[None]:
    """Seeds the generators that strategies share with everybody else, and puts them back."""
    seed = int(jax.random.bits(jax.random.fold_in(key, _LUCK), dtype=jnp.uint32))
    numpy_state, python_state = np.random.get_state(), random.getstate()
    np.random.seed(seed)
    random.seed(seed)
    torch = sys.modules.get("torch")
    with contextlib.nullcontext() if torch is None else torch.random.fork_rng(devices=[]):
        if torch is not None:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


_episode_keys = jax.jit(episode_keys, static_argnums=1)


@functools.partial(jax.jit, static_argnums=0)
def _reset(env: Any, key: jax.Array, params: Any) -> Any:
    return env.reset(key, params)


@functools.partial(jax.jit, static_argnums=0)
def _offers(env: Any, state: Any, params: Any) -> Any:
    offers = env.offers(state, params)
    return offers.pvalue, offers.sigma, offers.weight


@functools.partial(jax.jit, static_argnums=0)
def _step(env: Any, key: jax.Array, state: Any, action: jax.Array, bids: Any, params: Any) -> Any:
    result, out = env.step_bids(key, state, action, bids, params)
    return result, (out.bid, out.winner, out.price, out.exposure, out.conversion, out.least_winning)


@functools.partial(jax.jit, static_argnums=0)
def _metrics(env: Any, state: Any, params: Any) -> Any:
    return env.metrics(state, params) if hasattr(env, "metrics") else {}


@functools.partial(jax.jit, static_argnums=0)
def _bound(env: Any, infos: Any, state: Any, params: Any) -> Any:
    return env.bound(infos, state, params) if hasattr(env, "bound") else {}
