"""Budgets and targets: the found equilibria against worked examples, and bounds against small cases done by hand."""

import numpy as np
import pytest

from adarena.experiments.theory import autobidding, pacing

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("start", [1.0, 0.05])
def test_pacing_rests_at_the_worked_example_from_any_start(start):
    starts = np.full((1, 3), start)
    paced = pacing.pace(pacing.KNOWN_VALUES[None], pacing.KNOWN_BUDGETS[None], starts, rounds=4000)
    np.testing.assert_allclose(paced.multiplier[0], [0.45, 0.4, 1.0], atol=3e-3)
    np.testing.assert_allclose(paced.price[0], [0.8, 0.9, 1.8], atol=5e-3)
    np.testing.assert_allclose(paced.spend[0][:2], [0.5, 0.8], atol=3e-3)
    assert paced.spend[0].sum() == pytest.approx(3.5, abs=0.01)


def test_convex_program_of_one_advertiser_is_its_budget_over_its_values():
    multipliers, prices = pacing.eisenberg_gale(np.array([[1.0, 3.0]]), np.array([1.0]))
    np.testing.assert_allclose(multipliers, [0.25], atol=1e-5)
    np.testing.assert_allclose(prices, [0.25, 0.75], atol=1e-5)
    assert pacing.eisenberg_gale(np.array([[1.0, 3.0]]), np.array([9.0]))[0] == pytest.approx(1.0)


def test_convex_program_of_the_worked_example():
    multipliers, prices = pacing.eisenberg_gale(pacing.KNOWN_VALUES, pacing.KNOWN_BUDGETS)
    np.testing.assert_allclose(multipliers, pacing.KNOWN_MULTIPLIERS, atol=1e-5)
    np.testing.assert_allclose(prices, pacing.KNOWN_PRICES, atol=1e-5)


def test_exact_bound_and_dual_split_the_last_impression():
    price, value = np.array([1.0, 2.0, 4.0]), np.array([2.0, 2.0, 2.0])
    # The first whole and half of the second.
    assert pacing.exact_bound(price[:, None], value[:, None], 2.0) == pytest.approx(3.0)
    assert pacing.dual_bound(value, price, 2.0) == pytest.approx(3.0)
    # A cost of 1 a value: both and half of the third, 3 + 4 / 2 = 4 + 2 / 2.
    assert pacing.exact_bound(price[:, None], value[:, None], 9.0, 1.0) == pytest.approx(5.0)
    assert pacing.dual_bound(value, price, 100.0) == pytest.approx(6.0)


def test_exact_bound_takes_one_slot_of_an_impression():
    assert pacing.exact_bound(np.array([[1.0, 0.5]]), np.array([[2.0, 1.6]]), 9.0) == pytest.approx(2.0)


def test_fluid_problem_in_closed_form():
    assert autobidding.fluid_multiplier(0.1) == pytest.approx(0.291, abs=5e-4)
    assert autobidding.fluid_multiplier(1 / 6) == pytest.approx(0.0)
    # Where the budget does not bind, the mean of max(0, value - price) is a sixth.
    assert autobidding.fluid_utility(1 / 6) == pytest.approx(1 / 6)


def test_adaptive_pacing_lies_below_hindsight_and_that_below_the_relaxed_bound():
    found = autobidding.adaptive_pacing(1000, 64, 0.1, seed=3)
    assert (found.utility < found.hindsight).all()
    assert (found.hindsight <= found.relaxed * (1 + 1e-5)).all()
    assert found.relaxed.mean() == pytest.approx(1000 * autobidding.fluid_utility(0.1), rel=0.02)
    assert 0.3 < (found.relaxed - found.utility).mean() / 1000**0.5 < 0.41
    again = autobidding.adaptive_pacing(1000, 64, 0.1, seed=3)
    np.testing.assert_array_equal(found.utility, again.utility)


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_adaptive_pacing_names_a_rate_that_is_out_of_range(rate):
    with pytest.raises(ValueError, match=r"rate must lie in \(0, 1/6\], got"):
        autobidding.adaptive_pacing(10, 2, rate, seed=0)


def test_search_finds_the_multiplier_that_meets_the_target():
    value, rival = np.random.default_rng(0).random((2, 50_000)) * np.array([[1.0], [2.0]])
    assert autobidding.largest_multiplier(value, rival, 1.0) == pytest.approx(2.0, abs=0.05)
    assert autobidding.largest_multiplier(value, rival, 0.5) == pytest.approx(1.0, abs=0.05)
    # Any price is met: the search ends at its upper end.
    assert autobidding.largest_multiplier(value, rival, 99.0) == pytest.approx(10.0, abs=1e-3)


def test_half_the_value_is_lost_where_the_first_bids_beyond_its_values():
    values, grid = np.array([[1.0, 0.1], [0.0, 1.0]]), np.linspace(1.0, 40.0, 80)  # no tie: 10 is not on it
    won, paid = autobidding.outcome(values, np.array([11.0, 1.0]))
    np.testing.assert_allclose(won, [1.1, 0.0], rtol=1e-6)
    np.testing.assert_allclose(paid, [1.0, 0.0], rtol=1e-6)
    for advertiser in range(2):
        assert autobidding.best_response(values, np.array([11.0, 1.0]), advertiser, grid)[1] == 0.0
    # Truthful bids share the items, but the first gains a tenth by leaving them.
    choice, gain = autobidding.best_response(values, np.ones(2), 0, grid)
    assert choice > 10.0
    assert gain == pytest.approx(0.1)


def test_every_row_holds_and_none_is_there_twice():
    rows = pacing.pacing_rows(16_000, seed=1)
    assert [row for row in rows if not row.holds] == []
    assert len({(row.truth, row.setting) for row in rows}) == len(rows) > 40


def test_a_wrong_auction_is_noticed(monkeypatch):
    monkeypatch.setattr(autobidding, "clear_single", _first_price_instead(autobidding.clear_single))
    assert not all(row.holds for row in autobidding._scaling_rows(20_000, seed=1))


def _first_price_instead(clear):
    return lambda mechanism, bids, reserve: clear("first_price", bids, reserve)
