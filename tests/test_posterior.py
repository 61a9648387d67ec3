"""The platform's beliefs about rates: unbiased, narrowing with data, and right where the prior knows everything."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adarena.envs.market.posterior import (
    Belief,
    Owners,
    RateModel,
    TrueRates,
    believe,
    content_factor,
    draw_rates,
    own_shape,
    relative_variance,
)

ADS, ADVERTISERS, CATEGORIES, WORLDS = 60, 12, 4, 400
OWNERS = Owners(jnp.arange(ADS) % ADVERTISERS, jnp.arange(ADVERTISERS) % CATEGORIES)


def model(**changes: float) -> RateModel:
    numbers = {
        "level": 0.01,
        "category_sd": 0.3,
        "advertiser_sd": 0.25,
        "own_sd": 0.5,
        "content_quality": 0.5,
        **changes,
    }
    return RateModel(**{name: jnp.float32(x) for name, x in numbers.items()})


def worlds(rates: RateModel, trials: jax.Array, seed: int = 0) -> tuple[TrueRates, Belief]:
    """Many random truths with Poisson events and what is believed of them, ``[W, A]`` each."""

    truth = _draw(jax.random.split(jax.random.key(seed), WORLDS), rates)
    events = np.random.default_rng(seed).poisson(np.asarray(truth.rate) * np.asarray(trials)).astype(np.float32)
    return truth, _believe(rates, truth.signal, events, trials)


@jax.jit
def _draw(keys: jax.Array, rates: RateModel) -> TrueRates:
    return jax.vmap(lambda key: draw_rates(key, rates, OWNERS, CATEGORIES))(keys)


@jax.jit
def _believe(rates: RateModel, signal: jax.Array, events: jax.Array, trials: jax.Array) -> Belief:
    return jax.vmap(lambda *seen: believe(rates, OWNERS, CATEGORIES, *seen, trials))(signal, events)


MIXED = jnp.where(jnp.arange(ADS) < ADS // 2, 20_000.0, 300.0)  # ads with a history, and new ones


def errors(truth: TrueRates, belief: Belief, part: slice) -> np.ndarray:
    return np.asarray(truth.rate / belief.mean)[:, part] - 1.0


@pytest.mark.parametrize("quality", [0.0, 0.5, 0.9])
def test_beliefs_are_unbiased_whatever_is_believed(quality: float) -> None:
    """Among ads believed to be worth the same, the truth is worth that on average: low, middle and high beliefs alike."""
    truth, belief = worlds(model(content_quality=quality), MIXED)
    for part in (slice(0, ADS // 2), slice(ADS // 2, ADS)):
        mean, rate = np.asarray(belief.mean)[:, part].ravel(), np.asarray(truth.rate)[:, part].ravel()
        order = np.argsort(mean)
        for group in np.array_split(order, 4):
            assert rate[group].mean() / mean[group].mean() == pytest.approx(1.0, abs=0.06)


def test_stated_variance_is_the_squared_error() -> None:
    truth, belief = worlds(model(), MIXED)
    stated = 1.0 / np.asarray(belief.shape)
    for part in (slice(0, ADS // 2), slice(ADS // 2, ADS)):
        error = (errors(truth, belief, part) ** 2).mean()
        assert error == pytest.approx(stated[:, part].mean(), rel=0.2)


def test_beliefs_narrow_with_data_and_find_the_truth() -> None:
    spread, error = [], []
    for trials in (0.0, 1_000.0, 30_000.0, 3e6):
        truth, belief = worlds(model(), jnp.full(ADS, trials))
        spread.append(float((1.0 / belief.shape).mean()))
        error.append(float(np.abs(errors(truth, belief, slice(None))).mean()))
    assert spread == sorted(spread, reverse=True)
    assert error == sorted(error, reverse=True)
    assert error[-1] < 0.01


def test_a_perfect_prior_is_the_truth() -> None:
    """Where content tells everything and categories and advertisers do not differ, the prior is the truth."""
    certain = model(content_quality=1.0, category_sd=0.0, advertiser_sd=0.0)
    truth, belief = worlds(certain, jnp.zeros(ADS))
    np.testing.assert_allclose(belief.prior, truth.rate, rtol=1e-4)
    np.testing.assert_allclose(belief.mean, truth.rate, rtol=1e-4)
    # With informed factors, a new ad's prior comes close.
    truth, belief = worlds(model(content_quality=1.0), jnp.where(jnp.arange(ADS) < ADS // 2, 1e6, 0.0))
    assert np.abs(np.asarray(belief.prior / truth.rate) - 1.0)[:, ADS // 2 :].mean() < 0.02


def test_a_useless_prior_knows_the_group_only() -> None:
    signal = jnp.linspace(-2.0, 2.0, ADS)
    belief = believe(model(content_quality=0.0), OWNERS, CATEGORIES, signal, jnp.zeros(ADS), jnp.zeros(ADS))
    np.testing.assert_allclose(belief.mean, 0.01, rtol=1e-6)


def test_without_data_the_prior_is_the_content() -> None:
    rates, signal = model(), jnp.linspace(-2.0, 2.0, ADS)
    belief = believe(rates, OWNERS, CATEGORIES, signal, jnp.zeros(ADS), jnp.zeros(ADS))
    np.testing.assert_allclose(belief.mean, 0.01 * content_factor(rates, signal), rtol=1e-6)
    parts = [float(relative_variance(rates.category_sd)), float(relative_variance(rates.advertiser_sd))]
    wanted = 1.0 / float(own_shape(rates)) + sum(parts)
    np.testing.assert_allclose(1.0 / belief.shape, wanted, rtol=1e-4)


def test_one_ad_against_the_formula_written_out() -> None:
    """One advertiser with two ads in a category of its own, in plain arithmetic."""
    rates = model()
    trials, events, signal = np.array([5_000.0, 0.0]), np.array([90.0, 0.0]), np.array([0.4, -0.3])
    owners = Owners(jnp.array([0, 0]), jnp.array([0]))
    a = 1.0 / np.expm1(0.25 * 0.5)
    k_c, k_a = 1.0 / np.expm1(0.09), 1.0 / np.expm1(0.0625)
    r = 0.5 * np.sqrt(0.5)
    base = 0.01 * np.exp(r * signal - r**2 / 2)
    expected = base * trials
    told, weight = (events / (1 + expected / a)).sum(), (expected / (1 + expected / a)).sum()
    f_c = (k_c + told / (1 + weight / k_a)) / (k_c + weight / (1 + weight / k_a))
    f_a = (k_a + told) / (k_a + f_c * weight)
    prior = base * f_c * f_a
    belief = believe(rates, owners, 1, jnp.asarray(signal), jnp.asarray(events), jnp.asarray(trials))
    np.testing.assert_allclose(belief.prior, prior, rtol=1e-5)
    np.testing.assert_allclose(belief.mean, prior * (a + events) / (a + prior * trials), rtol=1e-5)


@pytest.mark.parametrize("who", [lambda ad: ad % ADVERTISERS == 0, lambda ad: (ad % ADVERTISERS) % CATEGORIES == 0])
def test_good_news_spreads_to_relatives(who: Callable[[np.ndarray], np.ndarray]) -> None:
    """Clicks of one ad raise what is believed of its owner's and, less, of its category's other ads, and of no others."""
    trials = jnp.zeros(ADS).at[0].set(10_000.0)
    zero = jnp.zeros(ADS)
    few, many = (
        np.asarray(believe(model(), OWNERS, CATEGORIES, zero, zero.at[0].set(clicks), trials).mean)
        for clicks in (100.0, 300.0)
    )
    ads = np.arange(ADS)
    assert (many[who(ads)] > few[who(ads)]).all()
    outside = (ads % ADVERTISERS) % CATEGORIES != 0
    np.testing.assert_array_equal(many[outside], few[outside])
    gain = many / few
    assert gain[ADVERTISERS] > gain[CATEGORIES] > 1.0  # same owner; same category, another owner


def test_permuting_ads_permutes_beliefs() -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(ADS)
    signal, trials = rng.standard_normal(ADS), rng.uniform(0.0, 1e4, ADS)
    events = rng.poisson(0.01 * trials).astype(float)
    one = believe(model(), OWNERS, CATEGORIES, *(jnp.asarray(x) for x in (signal, events, trials)))
    moved = Owners(OWNERS.advertiser[order], OWNERS.category)
    two = believe(model(), moved, CATEGORIES, *(jnp.asarray(x[order]) for x in (signal, events, trials)))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(np.asarray(a)[order], b, rtol=1e-5)
