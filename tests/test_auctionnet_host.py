"""Strategies in AuctionNet's style play in a market: what they are shown, what is asked of them, and luck of their own."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import jax
import numpy as np
import pytest
from auctionnet_market import EXPOSURE, SmallMarket

from adarena.agents.policy import Policy
from adarena.envs.adapters.auctionnet import BaseBiddingStrategy, StrategyError
from adarena.envs.adapters.auctionnet_host import SEAT, StrategyPolicy, play
from adarena.envs.core import AutoReset
from adarena.experiments.rollout import rollout

pytestmark = pytest.mark.usefixtures("quick_compilation")

ENV = SmallMarket()
PARAMS = ENV.default_params()
KEY = jax.random.key(3)


class Target(BaseBiddingStrategy):
    """Bids its target, as the market's own bidders do; keeps what it was shown."""

    factor = 1.0

    def reset(self) -> None:
        self.calls: list[Any] = []
        self.resets = getattr(self, "resets", 0) + 1

    def bidding(self, timeStepIndex: int, pValues: Any, pValueSigmas: Any, *histories: Any) -> Any:
        self.calls.append((timeStepIndex, pValues.copy(), pValueSigmas, self.remaining_budget, histories))
        return self.factor * self.cpa * pValues


class Fixed:
    """A policy of ours."""

    jittable = True

    def init(self, params: Any) -> Any:
        return ()

    def act(self, key: Any, carry: Any, obs: Any) -> Any:
        return carry, jax.random.uniform(key, (1,), minval=-1.0)


def test_a_strategy_that_bids_as_the_market_does_changes_nothing() -> None:
    alone = play(ENV, PARAMS, KEY, {})
    with_strategies = play(ENV, PARAMS, KEY, {0: Target, 2: Target, SEAT: Target})
    for name, value in alone.metrics.items():
        np.testing.assert_allclose(with_strategies.metrics[name], value, rtol=1e-5, err_msg=name)
    assert alone.metrics["length"] == ENV.ticks


@pytest.mark.parametrize("seat", [0, 3])
def test_what_a_strategy_is_told_before_it_bids(seat: int) -> None:
    strategy = Target()
    played = play(ENV, PARAMS, KEY, {seat: strategy})
    assert played.record is not None
    assert (strategy.budget, strategy.cpa, strategy.category) == (200.0, 60.0 + 10.0 * seat, seat // 2)
    assert [call[0] for call in strategy.calls] == list(range(ENV.ticks))
    spent = 0.0
    for t, (_, p_values, sigmas, remaining, histories) in enumerate(strategy.calls):
        count = ENV.tick_impressions - t  # padding is never shown
        assert p_values.shape == sigmas.shape == (count,)
        assert p_values.dtype == np.float64
        assert np.all(p_values > 0.0)
        assert remaining == pytest.approx(200.0 - spent, rel=1e-5)
        assert [len(history) for history in histories] == [t] * 5
        tick = played.record.ticks[t]
        mine = tick.winner == seat
        spent += float((mine * tick.price * tick.exposure).sum())
        np.testing.assert_array_equal(tick.p_value[seat], p_values.astype(np.float32))
    assert float(played.state.accounts.spend[seat]) == pytest.approx(spent, rel=1e-5)


def test_histories_are_the_auctions_own() -> None:
    strategy = Target()
    record = play(ENV, PARAMS, KEY, {1: strategy}).record
    assert record is not None
    infos, bids, auctions, impressions, least = strategy.calls[-1][-1]
    won_any = 0
    for t in range(ENV.ticks - 1):
        tick, n = record.ticks[t], ENV.tick_impressions - t
        assert infos[t].shape == impressions[t].shape == (n, 2)
        assert auctions[t].shape == (n, 3)
        np.testing.assert_array_equal(infos[t][:, 0], tick.p_value[1])
        np.testing.assert_array_equal(bids[t], tick.bid[1])
        for i in range(n):  # each auction by hand: two slots, the price is the next bid
            order = np.argsort(-tick.bid[:, i], kind="stable")
            rank = int(np.flatnonzero(order == 1)[0])
            won = rank < 2
            won_any += won
            price = tick.bid[order[rank + 1], i] if won else 0.0
            np.testing.assert_allclose(auctions[t][i], [won, rank + 1 if won else 0, price], rtol=1e-6)
            shown = EXPOSURE[rank] if won else 0.0
            np.testing.assert_allclose(impressions[t][i], [shown, shown * tick.p_value[1, i]], rtol=1e-6)
            assert least[t][i] == tick.bid[order[1], i]
    assert won_any > 5


def test_with_too_little_left_a_strategy_is_not_asked() -> None:
    params = dataclasses.replace(PARAMS, base_budget=PARAMS.base_budget.at[0].set(0.05))
    strategy = Target()
    record = play(ENV, params, KEY, {0: strategy}).record
    assert record is not None
    assert strategy.calls == []
    assert all(np.all(tick.bid[0] == 0.0) for tick in record.ticks)


def test_negative_bids_are_floored() -> None:
    class Negative(Target):
        factor = -1.0

    played = play(ENV, PARAMS, KEY, {SEAT: Negative})
    assert played.metrics["cost"] == 0.0
    assert played.record is not None
    assert all(np.all(tick.bid >= 0.0) for tick in played.record.ticks)


def _bad(value: Any) -> type:
    class Wrong(Target):
        def bidding(self, timeStepIndex: int, pValues: Any, pValueSigmas: Any, *histories: Any) -> Any:
            if isinstance(value, Exception):
                raise value
            return value(pValues) if timeStepIndex == 2 else pValues

    return Wrong


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda p: p[:-1], ["Wrong in seat 1, tick 2", "10 finite numbers", "shape (9,)"]),
        (lambda p: p[:, None], ["tick 2", "shape (10, 1)"]),
        (lambda p: 0.5, ["tick 2", "shape ()"]),
        (lambda p: None, ["tick 2", "shape () with 1"]),
        (lambda p: np.where(p > 0, np.nan, p), ["Wrong in seat 1, tick 2", "shape (10,) with 10", "nan"]),
        (lambda p: p * np.inf, ["inf"]),
        (lambda p: ["x"] * len(p), ["list"]),
        (KeyError("model"), ["Wrong in seat 1, tick 0: bidding(...) raised KeyError: 'model'"]),
    ],
)
def test_bids_that_are_none_are_refused(value: Any, words: list[str]) -> None:
    with pytest.raises(StrategyError) as error:
        play(ENV, PARAMS, KEY, {1: _bad(value)})
    for word in words:
        assert word in str(error.value)


def test_a_constructor_that_fails_is_named() -> None:
    class NoModel(Target):
        def __init__(self) -> None:
            raise FileNotFoundError("model.pth")

    with pytest.raises(StrategyError, match=r"NoModel in seat 2, its constructor raised FileNotFoundError: model\.pth"):
        play(ENV, PARAMS, KEY, {2: NoModel})


def test_luck_comes_from_the_key_and_the_generators_are_put_back() -> None:
    class Lucky(Target):
        def __init__(self) -> None:
            super().__init__()
            self.level = np.random.uniform(0.5, 2.0)

        def bidding(self, timeStepIndex: int, pValues: Any, pValueSigmas: Any, *histories: Any) -> Any:
            return self.level * self.cpa * pValues * np.random.uniform(size=len(pValues)) * random.uniform(0.5, 1.0)

    def run(seed: int) -> dict[str, float]:
        return play(ENV, dataclasses.replace(PARAMS, seat=np.int32(1)), jax.random.key(seed), {SEAT: Lucky}).metrics

    def draws() -> tuple[float, float]:
        return np.random.uniform(), random.random()

    np.random.seed(11)
    random.seed(11)
    first = run(3)
    after = draws()
    np.random.seed(11)
    random.seed(11)
    assert draws() == after
    assert run(3) == first
    assert run(4) != first


def test_a_strategy_cannot_spoil_its_memory() -> None:
    class Careless(Target):
        def bidding(self, timeStepIndex: int, pValues: Any, pValueSigmas: Any, *histories: Any) -> Any:
            assert [len(history) for history in histories] == [timeStepIndex] * 5
            for history in histories:
                history.append("junk")
            pValues *= 2.0
            return self.cpa * pValues / 2.0

    careless, plain = (play(ENV, PARAMS, KEY, {SEAT: cls}).metrics for cls in (Careless, Target))
    assert careless == plain


def test_an_object_goes_on_and_a_class_starts_anew() -> None:
    strategy = Target()
    for _ in range(2):
        play(ENV, PARAMS, KEY, {0: strategy, 1: Target, 2: Target}, record=False)
    assert strategy.resets == 2
    with pytest.raises(ValueError, match="object once"):
        play(ENV, PARAMS, KEY, {0: strategy, 1: strategy})


def test_what_is_no_market_or_no_seat_is_refused() -> None:
    with pytest.raises(TypeError, match=r"takes bids .* got AutoReset"):
        play(AutoReset(ENV), PARAMS, KEY, {})
    for seat in (4, -2, "0", True):
        with pytest.raises(ValueError, match=r"advertisers 0 to 3, or -1"):
            play(ENV, PARAMS, KEY, {seat: Target})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="the seat has both"):
        play(ENV, PARAMS, KEY, {SEAT: Target}, Fixed())


def test_a_policy_of_ours_meets_strategies_and_acts_as_in_a_rollout() -> None:
    keys = jax.random.split(jax.random.key(8), 3)
    table = rollout(ENV, PARAMS, Fixed(), keys).metrics
    for i, key in enumerate(keys):
        metrics = play(ENV, PARAMS, key, {}, Fixed()).metrics
        assert set(metrics) == set(table)
        for name, value in metrics.items():
            np.testing.assert_allclose(value, table[name][i], rtol=1e-5, err_msg=name)
    mixed = play(ENV, PARAMS, keys[0], dict.fromkeys(range(4), Target), Fixed())
    alone = play(ENV, PARAMS, keys[0], {}, Fixed())
    np.testing.assert_allclose(mixed.metrics["value"], alone.metrics["value"], rtol=1e-5)


def test_strategy_policy_is_a_policy_that_plays_episodes() -> None:
    policy = StrategyPolicy(Target, rivals=dict.fromkeys(range(4), Target))
    assert isinstance(policy, Policy)
    assert (policy.jittable, policy.name) == (False, "Target")
    metrics = policy.run_episode(ENV, dataclasses.replace(PARAMS, seat=np.int32(2)), KEY)
    assert metrics["seat"] == 2.0
    assert all(isinstance(value, float) for value in metrics.values())
    ours = StrategyPolicy(Fixed(), "fixed", {0: Target, 1: Target, 2: Target, 3: Target})
    assert ours.run_episode(ENV, PARAMS, KEY)["value"] != pytest.approx(policy.run_episode(ENV, PARAMS, KEY)["value"])
    with pytest.raises(TypeError, match="run_episode"):
        policy.act(KEY, (), np.zeros(1))
