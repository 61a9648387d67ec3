"""Auctions whose prices a user states: accepted where they keep to the contract, priced alike everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import market_cases
import numpy as np
import pytest

from adarena import envs
from adarena.envs.market import mechanisms as registered
from adarena.envs.market.auction import AuctionRules, mechanisms, payment_score, register_mechanism
from adarena.envs.market.opportunities import opportunities
from adarena.experiments.autobid import AutoBidExperiment


def midway(score: jax.Array, exposure: jax.Array, reserve: jax.Array) -> jax.Array:
    below = jnp.maximum(score[1:], reserve)
    return 0.5 * (below + below[-1])


CASE = dataclasses.replace(
    market_cases.random_case(np.random.default_rng(5), 3), remaining=np.full(market_cases.ADVERTISERS, np.inf)
)


def played(mechanism: str) -> tuple[np.ndarray, Any]:
    """Spend by advertiser of one tick, nobody short of money, and what its slots would have cost advertiser 1."""
    rules = AuctionRules(mechanism, 3)

    @jax.jit
    def play(case: dict[str, jax.Array]) -> Any:
        visit, bidders, terms, _ = market_cases.market(case)
        result = market_cases.fast_tick(rules, case)
        assert result.cleared is not None
        return result.spend, opportunities(rules, visit, jnp.int32(1), bidders, terms, result.cleared.ranking)

    case = jax.tree.map(lambda x: x[0], market_cases.stacked([CASE]))
    return jax.tree.map(np.asarray, play(case))


def as_builtin(name: str) -> registered.Payment:
    """A built-in auction as a user would state it."""

    def payment(score: jax.Array, exposure: jax.Array, reserve: jax.Array) -> jax.Array:
        return payment_score(AuctionRules(name, len(exposure)), score, exposure, reserve)

    return payment


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    before = dict(registered.PAYMENTS)
    yield
    registered.PAYMENTS.clear()
    registered.PAYMENTS.update(before)


def test_a_registered_mechanism_prices_slots() -> None:
    register_mechanism("midway_prices", midway)
    register_mechanism("midway_prices", midway)  # once more is no mistake: a module may be run twice
    assert "midway_prices" in mechanisms()
    score = jnp.asarray([[8.0], [4.0], [2.0], [1.0]])
    paid = payment_score(AuctionRules("midway_prices", 3), score, jnp.asarray([1.0, 0.8, 0.4]), jnp.asarray([0.5]))
    assert paid.ravel().tolist() == [2.5, 1.5, 1.0]
    env, _ = envs.make("adarena/AutoBid-v0", mechanism="midway_prices")
    assert env.mechanism == "midway_prices"  # type: ignore[attr-defined]
    assert AutoBidExperiment(mechanisms=("midway_prices",)).mechanisms == ("midway_prices",)


@pytest.mark.parametrize("name", ["gsp", "second_price", "vcg"])
def test_what_slots_would_have_cost_a_seat(name: str) -> None:
    """Ticks and hindsight prices of a built-in auction and of its copy by a user are the same."""
    copy = f"copy_of_{name}"
    register_mechanism(copy, as_builtin(name))
    found = [played(mechanism) for mechanism in (name, copy)]
    for own, copied in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(copied, own, rtol=1e-5, atol=1e-7)
    assert found[0][0].sum() > 0.0


def test_revenue_lies_between_that_of_the_auctions_it_mixes() -> None:
    register_mechanism("midway_revenue", midway)
    revenue = [float(played(name)[0].sum()) for name in ("second_price", "midway_revenue", "gsp")]
    assert revenue[0] < revenue[1] < revenue[2]
    assert revenue[1] == pytest.approx(0.5 * (revenue[0] + revenue[2]), rel=1e-4)


BAD: list[tuple[str, Any, type[Exception], str]] = [
    ("gsp", midway, ValueError, "mechanism name 'gsp' is taken"),
    ("not a name", midway, ValueError, "name of a mechanism must be an identifier, got 'not a name'"),
    ("number", 3, TypeError, "payment must be a function of score, exposure and reserve, got 3"),
    ("own", lambda s, e, r: s[:-1], ValueError, "must not let the price of a slot depend on its holder's own score"),
    ("more", lambda s, e, r: s[1:] + 0.1, ValueError, "must not charge a holder more than its own score"),
    ("nothing", lambda s, e, r: s[1:] / 0.0, ValueError, "must give prices that are finite and not negative"),
    ("negative", lambda s, e, r: -s[1:], ValueError, "must give prices that are finite and not negative"),
    ("shape", lambda s, e, r: s, ValueError, r"must give float32 prices \[1, 64\], got float32 of shape \(2, 64\)"),
    ("few", lambda s: s, TypeError, "positional argument"),
]


@pytest.mark.parametrize(("name", "payment", "error", "message"), BAD, ids=lambda x: str(x)[:8])
def test_bad_mechanisms_are_refused(name: str, payment: Callable, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        register_mechanism(name, payment)
    assert name not in registered.PAYMENTS


def test_an_impression_is_priced_by_itself() -> None:
    """A price that looks at the neighbouring impression."""

    def neighbour(score: jax.Array, exposure: jax.Array, reserve: jax.Array) -> jax.Array:
        return jnp.minimum(score[1:], jnp.roll(score[1:], 1, axis=1))

    with pytest.raises(ValueError, match="must price each impression by that impression alone"):
        register_mechanism("neighbour", neighbour)


def test_a_name_keeps_its_meaning_and_other_environments_refuse_it() -> None:
    register_mechanism("midway_taken", midway)
    with pytest.raises(ValueError, match="mechanism name 'midway_taken' is taken"):
        register_mechanism("midway_taken", as_builtin("gsp"))
    with pytest.raises(ValueError, match=r"mechanism must be one of first_price, .*, got 'midway_taken'"):
        envs.make("adarena/Lifecycle-v0", mechanism="midway_taken")
    with pytest.raises(ValueError, match=r"mechanism must be one of .*, got 'midway_taken'"):
        envs.make("adarena/ColdStart-v0", mechanism="midway_taken")
    with pytest.raises(ValueError, match=r"mechanism must be one of .*midway_taken, got 'nothing'"):
        envs.make("adarena/AutoBid-v0", mechanism="nothing")
