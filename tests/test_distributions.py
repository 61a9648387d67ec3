"""Log-probabilities, entropies and draws of the action distributions, against SciPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from adarena.agents.distributions import (
    FAMILIES,
    Beta,
    Categorical,
    Family,
    Gaussian,
    TanhGaussian,
    make_distribution,
    output_size,
)

MEAN = np.asarray([[-1.5, 0.2], [0.0, 0.9], [2.0, -0.4]], np.float32)
LOG_STD = np.asarray([-1.2, 0.3], np.float32)
ALPHA = np.asarray([[1.0, 1.5], [3.0, 20.0], [200.0, 1.01]], np.float32)
BETA = np.asarray([[1.0, 2.5], [1.2, 30.0], [150.0, 7.0]], np.float32)
LOGITS = np.asarray([[0.0, 1.0, -2.0], [3.0, 3.0, 3.0], [-30.0, 0.0, 10.0]], np.float32)


def squashed_entropy(mean: float, std: float) -> float:
    """Entropy of tanh(normal) by adaptive integration over the normal."""

    def minus_log_density(x: float) -> float:
        log_slope = 2.0 * (np.log(2.0) - x - np.logaddexp(0.0, -2.0 * x))
        return scipy.stats.norm.pdf(x, mean, std) * (log_slope - scipy.stats.norm.logpdf(x, mean, std))

    return scipy.integrate.quad(minus_log_density, mean - 12 * std, mean + 12 * std, limit=200)[0]


def test_gaussian_matches_scipy() -> None:
    distribution = Gaussian(jnp.asarray(MEAN), jnp.asarray(LOG_STD))
    raw = np.asarray([[-1.0, 0.5], [3.0, -2.0], [2.0, -0.4]], np.float32)
    reference = scipy.stats.norm(MEAN, np.exp(LOG_STD))
    np.testing.assert_allclose(distribution.log_prob(jnp.asarray(raw)), reference.logpdf(raw).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(distribution.entropy(), reference.entropy().sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(distribution.mode(), MEAN)
    np.testing.assert_array_equal(distribution.to_action(jnp.asarray(raw)), np.clip(raw, -1, 1))


def test_tanh_gaussian_log_prob_is_the_density_of_the_squashed_action() -> None:
    distribution = TanhGaussian(jnp.asarray(MEAN), jnp.asarray(LOG_STD))
    raw = np.asarray([[-1.0, 0.5], [1.0, -2.0], [2.0, -0.4]], np.float64)
    density = scipy.stats.norm(MEAN, np.exp(LOG_STD)).logpdf(raw) - np.log1p(-np.square(np.tanh(raw)))
    np.testing.assert_allclose(distribution.log_prob(jnp.asarray(raw, jnp.float32)), density.sum(-1), rtol=1e-4)
    far = distribution.log_prob(jnp.full((3, 2), 40.0))
    assert np.isfinite(far).all()


def test_tanh_gaussian_entropy_matches_integration() -> None:
    distribution = TanhGaussian(jnp.asarray(MEAN), jnp.asarray(LOG_STD))
    expected = [[squashed_entropy(m, s) for m, s in zip(row, np.exp(LOG_STD), strict=True)] for row in MEAN]
    np.testing.assert_allclose(distribution.entropy(), np.sum(expected, -1), atol=2e-3)


def test_beta_matches_scipy() -> None:
    distribution = Beta(jnp.asarray(ALPHA), jnp.asarray(BETA))
    raw = np.asarray([[0.3, 0.9], [0.01, 0.4], [0.55, 0.2]], np.float32)
    reference = scipy.stats.beta(ALPHA.astype(np.float64), BETA.astype(np.float64))
    np.testing.assert_allclose(
        distribution.log_prob(jnp.asarray(raw)), reference.logpdf(raw).sum(-1), rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(distribution.entropy(), reference.entropy().sum(-1), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(distribution.mode(), reference.mean(), rtol=1e-5)
    np.testing.assert_allclose(distribution.to_action(jnp.asarray([0.0, 0.5, 1.0])), [-1.0, 0.0, 1.0])


def test_categorical_matches_scipy() -> None:
    distribution = Categorical(jnp.asarray(LOGITS))
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    choice = np.asarray([1, 2, 0], np.int32)
    np.testing.assert_allclose(
        distribution.log_prob(jnp.asarray(choice)), np.log(probabilities[np.arange(3), choice]), rtol=1e-5
    )
    np.testing.assert_allclose(distribution.entropy(), scipy.stats.entropy(probabilities, axis=-1), atol=1e-5)
    np.testing.assert_array_equal(distribution.mode(), [1, 0, 2])


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_follow_the_log_prob(family: Family) -> None:
    """The mean of -log_prob over draws is the entropy, and draws map into the action's range."""
    outputs = jnp.tile(jnp.asarray([[0.3, -0.8]]), (40_000, output_size(family, 2) // 2))
    distribution = make_distribution(family, outputs, jnp.asarray([-0.5, 0.1]))
    raw = distribution.sample(jax.random.key(3))
    surprise = -np.asarray(distribution.log_prob(raw), np.float64)
    tolerance = 5 * surprise.std() / np.sqrt(len(surprise)) + 2e-3
    assert abs(surprise.mean() - float(distribution.entropy()[0])) < tolerance
    action = np.asarray(distribution.to_action(raw))
    if family == "categorical":
        assert set(np.unique(action)) == {0, 1}
    else:
        assert action.min() >= -1.0
        assert action.max() <= 1.0


def test_gaussian_draws_pass_kolmogorov_smirnov() -> None:
    distribution = Gaussian(jnp.full((20_000, 1), 0.4), jnp.asarray([-0.7]))
    draws = np.asarray(distribution.sample(jax.random.key(0)))[:, 0]
    assert scipy.stats.kstest(draws, scipy.stats.norm(0.4, np.exp(-0.7)).cdf).pvalue > 1e-3


def test_unknown_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match="distribution must be one of gaussian, tanh_gaussian, beta, categorical"):
        make_distribution("laplace", jnp.zeros(1), jnp.zeros(1))  # type: ignore[arg-type]
