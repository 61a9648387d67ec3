"""Values of impressions, and predictions of them with a known error."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adarena.envs.market.auction import rank, tie_priority
from adarena.envs.market.values import ValueModel, draw_values, prediction_factor

CATEGORY = np.asarray([0, 0, 1, 1])
IMPRESSIONS = 40_000


def drawn(correlation: float, category_correlation: float, spread: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    model = ValueModel(
        mean_ctr=jnp.asarray([0.01, 0.01, 0.02, 0.004]),
        mean_cvr=jnp.asarray([0.05, 0.02, 0.05, 0.05]),
        spread=spread,
        correlation=correlation,
        category_correlation=category_correlation,
    )
    common = jax.random.normal(jax.random.key(1), (IMPRESSIONS,))
    pctr, pvalue = draw_values(jax.random.key(2), model, jnp.asarray(CATEGORY), 2, common)
    return np.asarray(pctr, np.float64), np.asarray(pvalue, np.float64)


@pytest.mark.parametrize(("common", "category"), [(0.0, 0.0), (0.3, 0.2), (0.6, 0.4)])
def test_correlation_across_advertisers_is_the_parameter(common: float, category: float) -> None:
    _, pvalue = drawn(common, category)
    measured = np.corrcoef(np.log(pvalue))
    same = CATEGORY[:, None] == CATEGORY[None, :]
    expected = np.where(same, common + category, common)
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(measured, expected, atol=4.0 / np.sqrt(IMPRESSIONS))


def test_moments() -> None:
    """Means as asked; the log's spread as asked, 70 % of its variance in pCTR, pCTR and pCVR independent."""
    pctr, pvalue = drawn(0.3, 0.2)
    np.testing.assert_allclose(pctr.mean(axis=1), [0.01, 0.01, 0.02, 0.004], rtol=0.02)
    np.testing.assert_allclose(pvalue.mean(axis=1), [5e-4, 2e-4, 1e-3, 2e-4], rtol=0.02)
    logs, ctr = np.log(pvalue), np.log(pctr)
    np.testing.assert_allclose(logs.std(axis=1), 0.7, rtol=0.02)
    np.testing.assert_allclose(ctr.var(axis=1), 0.7 * 0.49, rtol=0.04)
    for n in range(4):
        assert abs(np.corrcoef(ctr[n], logs[n] - ctr[n])[0, 1]) < 4.0 / np.sqrt(IMPRESSIONS)


def test_values_are_probabilities_and_conversions_need_clicks() -> None:
    pctr, pvalue = drawn(0.3, 0.2, spread=3.0)
    assert ((pctr > 0.0) & (pctr <= 0.95)).all()
    assert ((pvalue > 0.0) & (pvalue < pctr)).all()


@pytest.mark.parametrize(("bias", "sd", "slope"), [(0.0, 0.3, 1.0), (0.2, 0.1, 0.6), (-0.1, 0.0, 1.3)])
def test_prediction_error_is_recovered(bias: float, sd: float, slope: float) -> None:
    """A regression of log prediction on log truth finds the bias at the mean, the slope and the noise."""
    _, pvalue = drawn(0.3, 0.2)
    noise = jax.random.normal(jax.random.key(3), pvalue.shape)
    level = pvalue.mean(axis=1)
    factor = prediction_factor(jnp.asarray(pvalue, jnp.float32), noise, jnp.asarray(level), bias, sd, slope)
    x = np.log(pvalue / level[:, None]).ravel()
    y = np.log(np.asarray(factor, np.float64) * pvalue / level[:, None]).ravel()
    found_slope, found_bias = np.polyfit(x, y, 1)
    assert found_slope == pytest.approx(slope, abs=0.005)
    assert found_bias == pytest.approx(bias, abs=0.005)
    assert np.std(y - found_slope * x - found_bias) == pytest.approx(sd, abs=0.003)


@pytest.mark.parametrize(("advertisers", "expected"), [(2, 0.94), (10, 0.83), (48, 0.75)])
def test_winners_curse(advertisers: int, expected: float) -> None:
    """True over predicted value of what is won: value sd .5, error sd .3 with mean 1, values independent (in logs)."""
    impressions, sd = 30_000, 0.3
    key_value, key_noise = jax.random.split(jax.random.key(4))
    value = jnp.exp(0.5 * jax.random.normal(key_value, (advertisers, impressions)))
    noise = jax.random.normal(key_noise, value.shape)
    predicted = value * prediction_factor(value, noise, jnp.ones(advertisers), -0.5 * sd**2, sd, 1.0)
    winner = rank(predicted, tie_priority(jnp.arange(impressions), advertisers), 1).winner
    true, believed = (jnp.take_along_axis(x, winner, axis=0).sum() for x in (value, predicted))
    assert float(true / believed) == pytest.approx(expected, abs=0.01)
