"""The winner's curse and late reports: closed forms against published figures, and rows that fail where they should."""

import numpy as np
import pytest

from adarena.experiments.theory import predictions


@pytest.mark.parametrize(("bidders", "published"), [(2, 0.94), (10, 0.83), (48, 0.75)])
def test_curse_reproduces_the_published_figures(bidders, published):
    assert predictions.curse(bidders, 0.5, 0.3) == pytest.approx(published, abs=5e-3)


def test_no_curse_without_rivals_or_without_error():
    assert predictions.curse(1, 0.5, 0.3) == pytest.approx(1.0)
    assert predictions.curse(10, 0.5, 0.0) == pytest.approx(1.0)


def test_winners_are_those_predicted_highest():
    true, predicted = predictions.winners(10, 0.5, 0.3, 30_000, (4,))
    assert true.shape == predicted.shape == (30_000,)
    assert true.mean() / predicted.mean() == pytest.approx(0.83, abs=0.01)
    true, predicted = predictions.winners(10, 0.5, 0.0, 5_000, (4,))
    np.testing.assert_allclose(true, predicted, rtol=1e-5)
    # A prediction of a single bidder is right in the mean.
    true, predicted = predictions.winners(1, 0.5, 0.3, 50_000, (4,))
    assert true.mean() / predicted.mean() == pytest.approx(1.0, abs=0.01)


def test_observed_fraction():
    assert predictions.observed_fraction(24.0, 24.0) == pytest.approx(np.exp(-1.0))
    assert 1 / predictions.observed_fraction(24.0, 24.0) == pytest.approx(2.72, abs=2e-3)
    assert predictions.observed_fraction(1e-3, 24.0) == pytest.approx(1.0, abs=1e-3)
    # A delay much longer than the campaign: half the campaign over the mean delay.
    assert predictions.observed_fraction(1e4, 2.0) == pytest.approx(1e-4, rel=1e-3)


def test_ratio_parts_have_the_mean_and_spread_of_the_ratio():
    generator = np.random.default_rng(0)
    below = generator.uniform(1.0, 2.0, (400, 500))
    above = below * generator.uniform(0.5, 1.5, (400, 500))
    ratios = above.mean(axis=1) / below.mean(axis=1)
    parts = predictions.ratio_parts(above[0], below[0])
    assert parts.mean() == pytest.approx(ratios[0])
    assert parts.std() / 500**0.5 == pytest.approx(ratios.std(), rel=0.15)


@pytest.fixture(scope="module")
def rows():
    return predictions.prediction_rows(20_000, seed=1)


def test_every_row_holds_and_none_is_there_twice(rows):
    assert [row for row in rows if not row.holds] == []
    assert len({(row.truth, row.setting) for row in rows}) == len(rows) > 15


def test_a_seed_gives_the_same_rows_again(rows):
    again = predictions.winners(2, 0.5, 0.3, 20_000, (1, 30, 0))
    assert predictions.ratio_parts(*again).mean() == rows[0].simulated


def test_a_prediction_that_is_wrong_otherwise_is_noticed(monkeypatch):
    original = predictions.prediction_factor
    monkeypatch.setattr(predictions, "prediction_factor", lambda *args: original(*args) ** 0.5)
    true, predicted = predictions.winners(10, 0.5, 0.3, 20_000, (1,))
    row = predictions.sample_row("", "", predictions.curse(10, 0.5, 0.3), predictions.ratio_parts(true, predicted))
    assert not row.holds
