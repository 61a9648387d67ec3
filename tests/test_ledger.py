"""Money: nobody overspends, and what is charged is what is paid."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market_cases import ADVERTISERS, fast_tick, random_case, stacked

from adarena.envs.market.auction import AuctionRules
from adarena.envs.market.ledger import book, open_accounts, score, settle

RULES = AuctionRules("gsp", 2, "click")
_tick = jax.jit(lambda case: fast_tick(RULES, case))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    budgets=st.lists(st.floats(0.0, 2.0, width=32), min_size=ADVERTISERS, max_size=ADVERTISERS),
    reserve=st.floats(0.0, 0.5, width=32),
)
def test_spend_never_exceeds_budget(seed: int, budgets: list[float], reserve: float) -> None:
    case = random_case(np.random.default_rng(seed), RULES.slots)
    case = dataclasses.replace(case, remaining=np.asarray(budgets), reserve=reserve)
    result = jax.tree.map(np.asarray, _tick({name: x[0] for name, x in stacked([case]).items()}))
    assert (result.spend <= np.asarray(budgets, np.float32)).all()
    assert (result.spend >= 0.0).all()
    # What the slots cost is what the advertisers pay, and what they have won is what was shown.
    cleared = result.cleared
    charges = np.where(cleared.ranking.winner >= 0, cleared.price * cleared.response.click, 0.0)
    np.testing.assert_allclose(charges.sum(), result.spend.sum(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cleared.response.exposure.sum(), result.exposure.sum(), rtol=1e-5, atol=1e-6)
    assert (result.spend[np.asarray(budgets) == 0.0] == 0.0).all()
    assert 1 <= result.clearings <= ADVERTISERS + 1


def test_budgets_bind_in_the_property_above() -> None:
    """The property is not empty: without budgets the same ticks cost more than many of the budgets."""
    free = random_case(np.random.default_rng(0), RULES.slots)
    tight = dataclasses.replace(free, remaining=np.full(ADVERTISERS, 0.3))
    spends = []
    for case in (free, tight):
        spends.append(np.asarray(_tick({name: x[0] for name, x in stacked([case]).items()}).spend))
    assert spends[0].max() > 0.3 >= spends[1].max() > 0.0


def test_book_sums_by_advertiser() -> None:
    winner = jnp.asarray([[0, 2, -1, 2], [1, -1, -1, 0]], jnp.int32)
    amounts = jnp.asarray([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]])
    np.testing.assert_array_equal(book(winner, amounts, 4), [129.0, 16.0, 10.0, 0.0])


@pytest.mark.parametrize("impressions", [40, 600])
def test_settle_stops_at_the_first_charge_that_is_too_much(impressions: int) -> None:
    """One advertiser who wins all at a price of 1, in ticks short and long."""

    def clear(
        inputs: tuple[jax.Array, jax.Array], leaves_at: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        price, money = inputs
        stays = (jnp.arange(impressions) < (impressions if leaves_at is None else leaves_at[0])) & (money > 0.0)
        winner = jnp.where(stays, 0, -1)[None]
        return winner, winner, jnp.where(stays, price, 0.0)[None]

    for money, expected in (
        (0.0, 0),
        (0.5, 0),
        (1.0, 1),
        (7.25, 7),
        (float(impressions), impressions),
        (1e6, impressions),
    ):
        result = settle(clear, (jnp.float32(1.0), jnp.float32(money)), jnp.asarray([money]), impressions)
        assert result.spend[0] == expected
        assert result.leaves_at[0] == expected
        assert result.clearings == (1 if expected == impressions or money == 0.0 else 2)


def test_score_is_auctionnets() -> None:
    value, target = jnp.asarray([10.0, 10.0, 10.0, 0.0, 0.0]), jnp.asarray([2.0, 2.0, 2.0, 2.0, 2.0])
    spend = jnp.asarray([10.0, 20.0, 40.0, 5.0, 0.0])
    np.testing.assert_allclose(score(value, spend, target), [10.0, 10.0, 2.5, 0.0, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(score(value, spend, jnp.full(5, jnp.inf)), value)  # no target, and no NaN at nothing


def test_accounts_open_empty() -> None:
    accounts = open_accounts(3)
    for field in dataclasses.fields(accounts):
        array = getattr(accounts, field.name)
        assert array.shape == (3,)
        assert array.dtype == jnp.float32
        assert not array.any()
