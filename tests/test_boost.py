"""Boosted clearing: bonuses move ranks, not prices; the platform's fund pays, in order, and never more than it has."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adarena.envs.market import tick
from adarena.envs.market.auction import AuctionRules, tie_priority
from adarena.envs.market.boost import Support, protected, rank_boosted
from adarena.envs.market.clearing import Bidders, Terms, Visit
from adarena.envs.market.tick import TickResult, run_tick
from adarena.envs.market.traffic import Bank

N, M, K = 6, 16, 2
GSP, FIRST = AuctionRules("gsp", K), AuctionRules("first_price", K)


def market(seed: int, budget: float = np.inf) -> tuple[Visit, Bidders, Terms]:
    rng = np.random.default_rng(seed)
    value = jnp.asarray(rng.lognormal(0.0, 0.7, (1, N, M)), jnp.float32)
    one, zero = jnp.ones((1, M)), jnp.zeros((1, M))
    tick = jnp.zeros(1, jnp.int32)
    day = jnp.ones(1)
    bank = Bank(value, value, None, value[0].mean(axis=1), one, zero, one, tick, tick + 1, day, day)
    weight = jnp.asarray(rng.uniform(0.5, 3.0, M), jnp.float32)
    remaining = jnp.asarray(rng.uniform(0.0, budget, N) if np.isfinite(budget) else np.full(N, np.inf), jnp.float32)
    bidders = Bidders(jnp.asarray(rng.uniform(0.5, 2.0, N), jnp.float32), jnp.ones(N), jnp.ones(N), remaining)
    f32 = jnp.float32
    number = (f32(x) for x in (0.0, 0.0, 0.0, 1.0))
    terms = Terms(f32(0.1), f32(0.0), jnp.asarray([1.0, 0.6]), jnp.bool_(True), *number)
    return Visit(bank, jnp.int32(0), weight, False), bidders, terms


def bonuses(seed: int, size: float = 2.0) -> jax.Array:
    rng = np.random.default_rng(1000 + seed)
    return jnp.asarray(rng.uniform(0.0, size, (N, M)) * rng.choice([0.0, 1.0], (N, 1)), jnp.float32)


@jax.jit
def _run(visit: tuple[Any, ...], bidders: Bidders, terms: Terms, support: Support | None) -> TickResult:
    return run_tick(GSP, Visit(*visit, False), bidders, terms, None, support=support)  # type: ignore[arg-type]


def run(case: tuple[Visit, Bidders, Terms], support: Support | None = None) -> TickResult:
    return _run(case[0][:3], case[1], case[2], support)


def by_hand(score: np.ndarray, bonus: np.ndarray, reserve: float, first_price: bool) -> list[tuple[int, float, float]]:
    """Winner, payment and charge of each slot of one impression, read off a sorted list."""
    order = sorted((n for n in range(len(score)) if score[n] > 0.0), key=lambda n: -(score[n] + bonus[n]))
    slots = []
    for k, n in enumerate(order[:K]):
        below = max([score[m] for m in order[k + 1 :]], default=0.0)
        pays = score[n] if first_price else min(score[n], max(reserve, below))
        slots.append((n, pays, max(0.0, below - score[n])))
    return slots


@pytest.mark.parametrize("rules", [GSP, FIRST], ids=lambda rules: rules.mechanism)
def test_ranks_and_prices_against_a_sorted_list(rules: AuctionRules) -> None:
    rng = np.random.default_rng(0)
    score = rng.uniform(0.0, 1.0, (N, 200)) * (rng.uniform(size=(N, 200)) < 0.7)
    score = np.where(score >= 0.1, score, 0.0).astype(np.float32)
    bonus = (rng.uniform(0.0, 1.0, (N, 200)) * (rng.uniform(size=(N, 200)) < 0.4)).astype(np.float32)
    got = rank_boosted(
        rules, jnp.asarray(score), jnp.asarray(bonus), tie_priority(jnp.arange(200), N), jnp.full(200, 0.1)
    )
    for m in range(200):
        wanted = by_hand(score[:, m], bonus[:, m], 0.1, rules is FIRST)
        for k in range(K):
            if k >= len(wanted):
                assert got.ranking.winner[k, m] == -1
                assert got.charge[k, m] == 0.0
                continue
            winner, price, charge = wanted[k]
            assert got.ranking.winner[k, m] == winner
            assert got.price[k, m] == pytest.approx(price, rel=1e-6)
            assert got.charge[k, m] == pytest.approx(charge, rel=1e-5, abs=1e-7)


def test_without_bonus_the_market_is_the_same() -> None:
    """Bitwise: with bonuses of zero, and with bonuses that an empty fund cannot pay."""
    for seed in range(4):
        case = market(seed, budget=20.0)
        want = run(case)
        for support in (Support(jnp.zeros((N, M)), jnp.float32(9.0)), Support(bonuses(seed), jnp.float32(0.0))):
            got = run(case, support)
            assert float(got.fund) == 0.0
            for name in ("spend", "exposure", "click", "conversion", "value", "short", "clearings"):
                np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
            np.testing.assert_array_equal(got.cleared.winner, want.cleared.winner)
            held = np.asarray(want.cleared.winner) >= 0
            np.testing.assert_array_equal(got.cleared.price[held], want.cleared.price[held])


def test_without_support_the_program_holds_no_fund() -> None:
    result = run_tick(GSP, *market(0), None)
    assert result.charge is None
    assert result.fund is None
    assert result.cleared.charge is None


@pytest.mark.parametrize("fund", [0.5, 3.0, 1e6])
def test_nobody_pays_more_than_it_has_or_bids(fund: float) -> None:
    for seed in range(12):
        case = market(seed, budget=30.0)
        result = run(case, Support(bonuses(seed), jnp.float32(fund)))
        assert (np.asarray(result.spend) <= np.asarray(case[1].remaining)).all()
        assert 0.0 <= float(result.fund) <= fund
        assert float(result.charge.sum()) == pytest.approx(float(result.fund), rel=1e-5, abs=1e-6)
        winner = np.asarray(result.cleared.winner)
        bid = np.asarray(case[1].scale)[:, None] * np.asarray(case[0].bank.pvalue[0])
        own = np.where(winner >= 0, np.take_along_axis(bid, np.maximum(winner, 0), axis=0), np.inf)
        assert (np.asarray(result.cleared.price) <= own * (1 + 1e-6)).all()


def test_the_fund_is_spent_in_order() -> None:
    """Up to the charge that the fund cannot pay all is as with a large fund; from there on, as with none."""
    cut = 0
    for seed in range(8):
        case, bonus = market(seed), bonuses(seed)
        rich = run(case, Support(bonus, jnp.float32(1e6)))
        none = run(case)
        fund = 0.4 * float(rich.fund)
        result = run(case, Support(bonus, jnp.float32(fund)))
        ahead = np.cumsum(np.asarray(rich.cleared.charge).sum(axis=0)) <= fund
        np.testing.assert_array_equal(result.cleared.winner, np.where(ahead, rich.cleared.winner, none.cleared.winner))
        cut += int(not ahead.all() and ahead.any())
    assert cut >= 5


def test_the_fund_is_spent_in_order_in_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many bidders a tick is settled part after part: what the fund has left goes on to the next."""
    cases = [(market(seed, budget=4.0), Support(bonuses(seed), jnp.float32(1.0))) for seed in range(6)]
    whole = [run(case, support) for case, support in cases]
    monkeypatch.setattr(tick, "_MANY", 1)
    monkeypatch.setattr(tick, "_FEW", 4)

    @jax.jit
    def parts(bank: Bank, weight: jax.Array, bidders: Bidders, terms: Terms, support: Support) -> TickResult:
        return run_tick(GSP, Visit(bank, jnp.int32(0), weight, False), bidders, terms, None, support=support)

    for ((visit, bidders, terms), support), one in zip(cases, whole, strict=True):
        two = parts(visit.bank, visit.weight, bidders, terms, support)
        np.testing.assert_array_equal(one.cleared.winner, two.cleared.winner)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert any(float(one.fund) > 0.0 for one in whole)
    assert any(bool(one.short.any()) for one in whole)


def test_a_bonus_never_lowers_the_ads_rank() -> None:
    for seed in range(10):
        case = market(seed)
        ranks = []
        for size in (0.0, 0.3, 1.0, 4.0):
            support = Support(jnp.zeros((N, M)).at[2].set(size), jnp.float32(1e6))
            winner = np.asarray(run(case, support).cleared.winner)
            ranks.append(np.where((winner == 2).any(axis=0), (winner == 2).argmax(axis=0), K))
        assert (np.diff(np.stack(ranks), axis=0) <= 0).all()
    assert ranks[0].mean() > ranks[-1].mean()


def test_protected_traffic_ranks_first() -> None:
    u = jax.random.uniform(jax.random.key(0), (4000,))
    share = jnp.asarray([0.05, 0.0, 0.1])
    mine = np.asarray(protected(u, share))
    assert mine.sum(axis=0).max() == 1
    np.testing.assert_allclose(mine.mean(axis=1), share, atol=0.015)
    assert not np.asarray(protected(u, share, u > 1.0)).any()
    case = market(0)
    given = protected(jnp.linspace(0.0, 0.99, M), jnp.zeros(N).at[4].set(0.3))
    support = Support(jnp.where(given, 1e3, 0.0), jnp.float32(1e6))
    winner = np.asarray(run(case, support).cleared.winner)
    assert (winner[0][np.asarray(given)[4]] == 4).all()


def test_batches_are_the_markets_one_by_one() -> None:
    """Under vmap the funds of many markets run out one after another, as each alone."""
    cases = [market(seed, budget=30.0) for seed in range(16)]
    supports = [Support(bonuses(seed), jnp.float32(0.2 * seed)) for seed in range(16)]
    weight, scale, remaining = (
        jnp.stack(x) for x in zip(*((c[0].weight, c[1].scale, c[1].remaining) for c in cases), strict=True)
    )
    bonus, fund = jnp.stack([s.bonus for s in supports]), jnp.stack([s.fund for s in supports])

    def one(weight: jax.Array, scale: jax.Array, remaining: jax.Array, bonus: jax.Array, fund: jax.Array) -> TickResult:
        here, bidders, terms = cases[0]
        bring = bidders._replace(scale=scale, remaining=remaining)
        return run_tick(GSP, here._replace(weight=weight), bring, terms, None, support=Support(bonus, fund))

    batch = jax.jit(jax.vmap(one))(weight, scale, remaining, bonus, fund)
    single = jax.jit(one)
    for i in range(16):
        alone = single(weight[i], scale[i], remaining[i], bonus[i], fund[i])
        np.testing.assert_allclose(batch.spend[i], alone.spend, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.fund[i], alone.fund, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(batch.cleared.winner[i], alone.cleared.winner)


@pytest.mark.parametrize("mechanism", ["vcg", "second_price"])
def test_other_mechanisms_are_refused(mechanism: str) -> None:
    with pytest.raises(
        ValueError, match=rf"mechanism must be one of gsp, first_price where ranks are .* got '{mechanism}'"
    ):
        run_tick(AuctionRules(mechanism, K), *market(0), None, support=Support(bonuses(0), jnp.float32(1.0)))


def test_other_charges_and_dropping_are_refused() -> None:
    support = Support(bonuses(0), jnp.float32(1.0))
    with pytest.raises(ValueError, match=r"charge must be 'impression' .* got charge='click'"):
        run_tick(AuctionRules("gsp", K, "click"), *market(0), None, support=support)
    with pytest.raises(ValueError, match="dropping must be None where ranks are boosted"):
        run_tick(GSP, *market(0), None, dropping=jax.random.key(0), support=support)
