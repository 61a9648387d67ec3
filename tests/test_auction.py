"""Ranking, prices and ties of single auctions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adarena.envs.market.auction import (
    MECHANISMS,
    AuctionRules,
    eligible,
    payment_score,
    rank,
    rival_scores,
    tie_priority,
)

EXPOSURE = jnp.asarray([1.0, 0.8, 0.6])


def prices(mechanism: str, bids: list[float], reserve: float = 0.0, slots: int = 3) -> np.ndarray:
    """Price per exposure of each slot for one impression."""
    score = jnp.asarray(bids, jnp.float32)[:, None]
    ranking = rank(score, tie_priority(jnp.zeros(1, jnp.int32), len(bids)), slots)
    paid = payment_score(AuctionRules(mechanism, slots), ranking.score, EXPOSURE[:slots], jnp.full(1, reserve))
    return np.asarray(paid[:, 0])


def test_known_prices() -> None:
    """Bids 10, 8, 5, 2 on slots with exposure 1, .8, .6: VCG payments 3.8, 2.2, 1.2; truthful GSP pays 13.2 in all."""
    bids = [5.0, 10.0, 2.0, 8.0]
    np.testing.assert_allclose(prices("vcg", bids) * EXPOSURE, [3.8, 2.2, 1.2], rtol=1e-6)
    np.testing.assert_allclose(prices("gsp", bids), [8.0, 5.0, 2.0])
    assert float((prices("gsp", bids) * EXPOSURE).sum()) == pytest.approx(13.2)
    np.testing.assert_allclose(prices("second_price", bids), [2.0, 2.0, 2.0])
    np.testing.assert_allclose(prices("first_price", bids), [10.0, 8.0, 5.0])


def test_reserve_is_the_least_price() -> None:
    for mechanism in ("gsp", "second_price", "vcg"):
        assert prices(mechanism, [10.0, 0.0, 0.0], reserve=3.0)[0] == pytest.approx(3.0)
    score = eligible(jnp.asarray([[2.9], [3.0], [5.0]]), jnp.asarray([3.0]))
    np.testing.assert_array_equal(score[:, 0], [0.0, 3.0, 5.0])


def test_one_slot_makes_second_price_gsp_and_vcg_the_same() -> None:
    bids = [3.0, 7.0, 4.0]
    for mechanism in ("second_price", "gsp", "vcg"):
        assert prices(mechanism, bids, slots=1)[0] == 4.0


def test_truth_is_the_best_bid_under_vcg_and_not_under_gsp() -> None:
    """Utility of advertiser 0, worth 8 per exposure, by its bid."""
    rivals = [10.0, 5.0, 2.0, 1.0]

    def utility(mechanism: str, bid: float) -> float:
        score = jnp.asarray([bid, *rivals])[:, None]
        ranking = rank(score, tie_priority(jnp.zeros(1, jnp.int32), 5), 3)
        paid = payment_score(AuctionRules(mechanism, 3), ranking.score, EXPOSURE, jnp.zeros(1))
        mine = np.asarray(ranking.winner[:, 0]) == 0
        return float((np.asarray(EXPOSURE) * (8.0 - np.asarray(paid[:, 0])))[mine].sum())

    others = [0.5, 1.5, 3.0, 4.9, 6.0, 9.0, 11.0]
    assert all(utility("vcg", 8.0) >= utility("vcg", bid) - 1e-5 for bid in others)
    assert utility("gsp", 3.0) > utility("gsp", 8.0)


def test_expected_revenue_of_uniform_bidders() -> None:
    """Four truthful bidders on U[0, 1]: mean second price (n - 1) / (n + 1); with a reserve of 1/2, .612 of it analytically."""
    n, auctions = 4, 20_000
    score = jax.random.uniform(jax.random.key(0), (n, auctions))
    priority = tie_priority(jnp.arange(auctions), n)
    rules = AuctionRules("second_price", 1)
    for reserve in (0.0, 0.5):
        least = jnp.full(auctions, reserve)
        ranking = rank(eligible(score, least), priority, 1)
        paid = payment_score(rules, ranking.score, jnp.ones(1), least)
        revenue = float(jnp.where(ranking.winner >= 0, paid, 0.0).mean())
        r, expected = reserve, (n - 1) / (n + 1) + reserve**n * (1 - 2 * n * reserve / (n + 1))
        assert revenue == pytest.approx(expected, abs=0.005), r


@pytest.mark.parametrize("slots", [1, 3, 6])
def test_rank_sorts(slots: int) -> None:
    """Against a sort by (score, priority), with ties and with more slots than bidders."""
    rng = np.random.default_rng(slots)
    advertisers, impressions = 5, 200
    score = rng.choice([0.0, 0.25, 0.5, 0.75], (advertisers, impressions)).astype(np.float32)
    priority = np.asarray(tie_priority(jnp.arange(impressions), advertisers))
    ranking = rank(jnp.asarray(score), jnp.asarray(priority), slots)
    for m in range(impressions):
        order = sorted(range(advertisers), key=lambda n: (score[n, m], priority[n, m]), reverse=True)
        order = [n for n in order if score[n, m] > 0.0]
        winners = [*order, *[-1] * (slots + 1)][:slots]
        scores = [*(score[n, m] for n in order), *[0.0] * (slots + 1)][: slots + 1]
        np.testing.assert_array_equal(ranking.winner[:, m], winners)
        np.testing.assert_array_equal(ranking.score[:, m], scores)
    # What each slot would take, leaving one advertiser out, against ranking without it.
    for seat in range(advertisers):
        without = score.copy()
        without[seat] = 0.0
        expected = rank(jnp.asarray(without), jnp.asarray(priority), slots).score[:-1]
        np.testing.assert_array_equal(rival_scores(ranking, jnp.int32(seat)), expected)


@pytest.mark.parametrize("tied", [2, 3, 5, 48])
def test_ties_are_fair_and_deterministic(tied: int) -> None:
    """Each of n tied bidders takes the first slot on about one impression in n, whoever else takes part."""
    impressions, advertisers = 9600, 48
    members = np.random.default_rng(tied).choice(advertisers, tied, replace=False)
    score = np.full((advertisers, impressions), 0.5, np.float32)
    score[members] = 1.0
    priority = tie_priority(jnp.arange(impressions), advertisers)
    assert (np.asarray(priority) >= 0).all()
    assert all(len(set(column)) == advertisers for column in np.asarray(priority)[:, :20].T)
    winner = np.asarray(rank(jnp.asarray(score), priority, 1).winner[0])
    np.testing.assert_array_equal(priority, tie_priority(jnp.arange(impressions), advertisers))
    wins = np.bincount(winner, minlength=advertisers)
    assert wins[members].sum() == impressions
    expected = impressions / tied
    statistic = ((wins[members] - expected) ** 2 / expected).sum()
    freedom = tied - 1
    assert statistic < freedom + 4.0 * np.sqrt(2.0 * freedom), wins[members]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mechanism": "english"}, "mechanism must be one of first_price, second_price, gsp, vcg, got 'english'"),
        ({"charge": "view"}, "charge must be one of impression, click, conversion, got 'view'"),
        ({"slots": 0}, r"slots must be a whole number .* got 0"),
        ({"slots": 2.0}, r"slots must be a whole number .* got 2.0"),
        ({"slots": True}, r"slots must be a whole number .* got True"),
    ],
)
def test_rules_refuse_what_they_do_not_know(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AuctionRules(**changes)


def test_mechanisms_order_revenue() -> None:
    """At equal bids first price takes most, then GSP, then VCG, then the uniform price of the best loser."""
    bids = [9.0, 7.0, 6.0, 4.0, 1.0]
    revenue = {name: float((prices(name, bids) * EXPOSURE).sum()) for name in MECHANISMS}
    assert revenue["first_price"] > revenue["gsp"] > revenue["vcg"]
    assert revenue["gsp"] > revenue["second_price"]
