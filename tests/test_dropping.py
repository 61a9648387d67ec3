"""AuctionNet's way with overspending."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adarena.envs import make
from adarena.envs.market.auction import rank, tie_priority
from adarena.envs.market.dropping import LEAST_MONEY, choose, settle_dropping

SLOTS = 2


def test_choose_takes_the_share_of_each_slots_wins_rounded_up() -> None:
    winner = jnp.asarray(np.random.default_rng(0).integers(-1, 5, (3, 500)), jnp.int32)
    share = jnp.asarray([0.0, 1.0, 0.5, 1e-6, 0.123])
    dropped = np.asarray(choose(jax.random.key(0), winner, share))
    for slot, chosen in zip(np.asarray(winner), dropped, strict=True):
        for n in range(5):
            wins = slot == n
            assert chosen[wins].sum() == np.ceil(wins.sum() * float(share[n]))
        assert not chosen[slot < 0].any()
    again = np.asarray(choose(jax.random.key(1), winner, share))
    assert (again.sum(axis=1) == dropped.sum(axis=1)).all()
    assert (again != dropped).any(), "which ones is a matter of the key"
    late = np.flatnonzero(dropped[0] & (np.asarray(winner[0]) == 2))
    assert late.min() < 100 < 400 < late.max(), "wins of the whole tick are dropped, not of one end"


def clear(score: jax.Array, withdrawn: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Everybody pays the next score, halved in the second slot."""
    ranking = rank(jnp.where(withdrawn, 0.0, score), tie_priority(jnp.arange(score.shape[1]), len(score)), SLOTS)
    charge = ranking.score[1:] * jnp.asarray([1.0, 0.5])[:, None]
    return ranking.winner, ranking.winner, jnp.where(ranking.winner < 0, 0.0, charge)


def by_hand(score: np.ndarray, money: np.ndarray, key: jax.Array) -> tuple[np.ndarray, int]:
    """The same in loops: money spent, rounds."""
    bids, rounds = score.copy(), 0
    while True:
        rounds += 1
        spend, wins = np.zeros(len(money)), np.full((SLOTS, score.shape[1]), -1)
        for m, column in enumerate(bids.T):
            order = np.argsort(-column)
            for k in range(SLOTS):
                price = column[order[k + 1]] * (1.0, 0.5)[k]
                if column[order[k]] > 0.0 and price > 0.0:
                    wins[k, m] = order[k]
                    spend[order[k]] += price
        over = spend > money
        if not over.any():
            return spend, rounds
        share = np.where(over, 1.0 - money / np.maximum(spend, 1e-30), 0.0)
        chosen = np.asarray(choose(jax.random.fold_in(key, rounds), jnp.asarray(wins, jnp.int32), jnp.asarray(share)))
        for k, m in np.argwhere(chosen):
            bids[wins[k, m], m] = 0.0


@functools.cache
def _settle(impressions: int) -> Any:
    return jax.jit(lambda score, money, key: settle_dropping(clear, score, money, impressions, key))


@pytest.mark.parametrize("seed", range(4))
def test_settles_as_a_loop_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.uniform(0.0, 1.0, (6, 64)).astype(np.float32)
    money = rng.uniform(1.0, 12.0, 6).astype(np.float32)
    result = _settle(64)(score, money, jax.random.key(seed))
    spend, rounds = by_hand(score, money, jax.random.key(seed))
    np.testing.assert_allclose(result.spend, spend, rtol=1e-5)
    assert int(result.clearings) == rounds > 1
    assert (np.asarray(result.spend) <= money).all()
    np.testing.assert_array_equal(result.leaves_at, np.where(money - np.asarray(result.spend) >= LEAST_MONEY, 64, 0))


def test_a_batch_is_its_members_and_who_can_pay_is_left_alone() -> None:
    rng = np.random.default_rng(9)
    score = jnp.asarray(rng.uniform(0.0, 1.0, (3, 6, 64)), jnp.float32)
    money = jnp.asarray([[100.0] * 6, [2.0] * 6, [5.0] * 6])
    keys = jax.random.split(jax.random.key(0), 3)
    batch = jax.jit(jax.vmap(lambda *args: settle_dropping(clear, *args[:2], 64, args[2])))(score, money, keys)
    assert batch.clearings[0] == 1
    for b in range(3):
        alone = _settle(64)(score[b], money[b], keys[b])
        np.testing.assert_array_equal(batch.spend[b], alone.spend)
        assert int(batch.clearings[b]) == int(alone.clearings)


@functools.cache
def day(overspend: str, response: str = "expected", budget: float = 0.5) -> tuple[Any, dict[str, jax.Array]]:
    sizes: dict[str, Any] = {"advertisers": 6, "categories": 2, "impressions": 64, "tick_blocks": 2, "ticks": 8}
    env, params = make(
        *("adarena/AutoBid-v0",),
        **sizes,
        **{"traffic": "auctionnet", "fresh_draws": True, "daily_impressions": 700.0},
        **{"overspend": overspend, "response": response, "base_budget": np.full(6, budget)},
    )

    def tick(state: Any, _: None) -> tuple[Any, dict[str, jax.Array]]:
        result = env.step(jax.random.key(0), state, jnp.zeros(1), params)
        return result.state, result.info

    @jax.jit
    def play() -> tuple[Any, dict[str, jax.Array]]:
        return jax.lax.scan(tick, env.reset(jax.random.key(3), params)[1], None, length=8)

    return play()


@pytest.mark.parametrize("response", ["expected", "sampled"])
def test_a_day_keeps_to_its_budgets(response: str) -> None:
    state, info = day("drop", response)
    assert (state.accounts.spend <= state.budget).all()
    assert info["clearings"].max() > 1
    ended = state.budget - state.accounts.spend < LEAST_MONEY
    np.testing.assert_array_equal(state.exhausted, ended)
    assert ended.any()


def test_where_nobody_is_short_both_ways_are_one() -> None:
    (dropped, _), (ordered, _) = day("drop", budget=1e4), day("in_order", budget=1e4)
    np.testing.assert_allclose(dropped.accounts.spend, ordered.accounts.spend, rtol=1e-5)
    (dropped, _), (ordered, _) = day("drop"), day("in_order")
    assert np.abs(dropped.accounts.spend / ordered.accounts.spend - 1.0).max() > 1e-3


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ValueError, match="overspend must be one of in_order, drop, got 'random'"):
        make("adarena/AutoBid-v0", overspend="random")
