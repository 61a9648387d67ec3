"""What a platform believes about the rates of its ads: hierarchical gamma credibility (Buehlmann-Straub, Jewell).

The true rate of ad ``i`` (clicks per exposure, or conversions per click) is a product of factors of mean 1::

    rate_i = level x category factor x advertiser factor x own factor

each log-normal, independent of the others; an advertiser sells in one category. Content features of the creative tell part
of the own factor: the platform sees ``signal_i``, a standard normal whose correlation with the log of the own factor is
``sqrt(content_quality)``, so the expectation of the own factor given the signal is ``exp(r x - r^2 / 2)`` with
``r = own_sd sqrt(content_quality)``, and the rest has relative variance ``exp(own_sd^2 (1 - content_quality)) - 1``.

Events are counts with mean ``rate x trials``. In units of what was expected, ``E = level x content factor x trials``, an ad's
ratio ``events / E`` has mean (category x advertiser factor) and variance ``1 / E + 1 / a``, ``a`` the inverse of the rest's
relative variance. The best linear estimate of a factor weighs each ratio by its inverse variance against a prior of mean 1:

    W_j = sum of E_i / (1 + E_i / a)                    what the ads of advertiser j tell
    category factor = (k_c + sum_j T_j / (1 + W_j v)) / (k_c + sum_j W_j / (1 + W_j v)),  v = 1 / k_a
    advertiser factor = (k_a + T_j) / (k_a + category factor x W_j)

with ``T_j`` the like sum of events and ``k_c``, ``k_a`` the inverse relative variances of the two factors. The product is the
mean of the ad's prior; its own events then update a gamma of shape ``a``: ``(a + events) / (a + prior mean x trials)``
times the prior mean. Means are exact to first order in the factors' errors (tests measure the bias), and a prior mean
may use the ad's own events: that is how a linear Bayes estimate of two levels decomposes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adarena.envs import pytree

_LEAST_VARIANCE = 1e-6  # of a factor, relative: a prior that knows everything keeps finite shapes


@pytree.dataclass
class RateModel:
    """How a rate varies over ads; float32 scalars.

    Attributes:
        level: Mean rate over all ads (clicks per exposure, or conversions per click).
        category_sd: Standard deviation of the log of the category factor.
        advertiser_sd: Standard deviation of the log of the advertiser factor.
        own_sd: Standard deviation of the log of the ad's own factor.
        content_quality: Share of the own log factor's variance that content features explain, in [0, 1].
    """

    level: jax.Array
    category_sd: jax.Array
    advertiser_sd: jax.Array
    own_sd: jax.Array
    content_quality: jax.Array


class Owners(NamedTuple):
    """Who owns which ad.

    Attributes:
        advertiser: ``[A]`` int32 owner of each ad, in ``[0, J)``.
        category: ``[J]`` int32 category of each advertiser, in ``[0, C)``.
    """

    advertiser: jax.Array
    category: jax.Array


class Belief(NamedTuple):
    """Posterior of every ad's rate, a gamma; ``[A]`` float32.

    Attributes:
        prior: Mean before the ad's own events: level x category x advertiser x content factor.
        mean: Posterior mean of the rate.
        shape: Shape of a gamma with that mean and the posterior's variance; relative variance is ``1 / shape``.
    """

    prior: jax.Array
    mean: jax.Array
    shape: jax.Array


class TrueRates(NamedTuple):
    """Rates drawn from a model and what the platform sees of them; ``[A]`` float32.

    Attributes:
        rate: The true rate.
        signal: Content signal, standard normal.
    """

    rate: jax.Array
    signal: jax.Array


def relative_variance(sd: jax.Array) -> jax.Array:
    """Variance of a log-normal of mean 1 whose log has standard deviation ``sd``."""
    return jnp.maximum(jnp.expm1(jnp.square(sd)), _LEAST_VARIANCE)


def own_shape(model: RateModel) -> jax.Array:
    """Shape ``a`` of the own factor's prior gamma, given content features; scalar."""
    rest = model.own_sd * jnp.sqrt(jnp.maximum(1.0 - model.content_quality, 0.0))
    return 1.0 / relative_variance(rest)


def content_factor(model: RateModel, signal: jax.Array, lift: jax.Array | float = 0.0) -> jax.Array:
    """Expected own factor given the content signal, ``[A] -> [A]``; ``lift`` as in `draw_rates`."""
    known = model.own_sd * jnp.sqrt(model.content_quality)
    # A lift moves the signal along by its part; the rest of it has to be known otherwise.
    return jnp.exp(known * signal - 0.5 * known**2 + model.own_sd * lift * (1.0 - model.content_quality))


def draw_rates(
    key: jax.Array, model: RateModel, owners: Owners, categories: int, lift: jax.Array | float = 0.0
) -> TrueRates:
    """Draws true rates and content signals from the model.

    Args:
        key: JAX key.
        model: The model.
        owners: Who owns which ad.
        categories: ``C``.
        lift: ``[A]`` or scalar, added to the standard normal behind each ad's own factor (survivors are better than
            the average launch); the signal moves along. 0 draws from the model itself.
    """
    keys = jax.random.split(key, 4)
    ads, advertisers = owners.advertiser.shape[0], owners.category.shape[0]
    own = jax.random.normal(keys[0], (ads,)) + lift
    noise = jax.random.normal(keys[1], (ads,))
    quality = model.content_quality
    by_category = jnp.exp(model.category_sd * jax.random.normal(keys[2], (categories,)) - 0.5 * model.category_sd**2)
    by_advertiser = jax.random.normal(keys[3], (advertisers,))
    by_advertiser = jnp.exp(model.advertiser_sd * by_advertiser - 0.5 * model.advertiser_sd**2)
    rate = model.level * jnp.exp(model.own_sd * own - 0.5 * model.own_sd**2)
    rate = rate * (by_advertiser * by_category[owners.category])[owners.advertiser]
    signal = jnp.sqrt(quality) * own + jnp.sqrt(jnp.maximum(1.0 - quality, 0.0)) * noise
    return TrueRates(rate, signal)


def believe(
    model: RateModel,
    owners: Owners,
    categories: int,
    signal: jax.Array,
    events: jax.Array,
    trials: jax.Array,
    lift: jax.Array | float = 0.0,
) -> Belief:
    """The posterior of every ad's rate.

    Args:
        model: How rates vary.
        owners: Who owns which ad.
        categories: ``C``.
        signal: ``[A]`` content signal.
        events: ``[A]`` clicks, or conversions reported by now.
        trials: ``[A]`` exposures (times their known match), or clicks times the share of their conversions that is
            reported by now (so that a delay does not look like a low rate).
        lift: ``[A]`` or scalar, as in `draw_rates`: known to the platform, which would otherwise take the survivors' luck
            for their category's.
    """
    shape = own_shape(model)
    base = model.level * content_factor(model, signal, lift)
    expected = base * trials
    discount = 1.0 / (1.0 + expected / shape)
    # Products with zeros and ones: sums over so few ads are faster than a scatter.
    member = (owners.advertiser[None, :] == jnp.arange(owners.category.shape[0])[:, None]).astype(jnp.float32)
    told, weight = member @ (events * discount), member @ (expected * discount)  # [J]
    k_category = 1.0 / relative_variance(model.category_sd)
    k_advertiser = 1.0 / relative_variance(model.advertiser_sd)
    discount = 1.0 / (1.0 + weight / k_advertiser)
    within = (owners.category[None, :] == jnp.arange(categories)[:, None]).astype(jnp.float32)
    precision = k_category + within @ (weight * discount)
    by_category = ((k_category + within @ (told * discount)) / precision)[owners.category]
    by_advertiser = (k_advertiser + told) / (k_advertiser + by_category * weight)
    prior = base * (by_category * by_advertiser)[owners.advertiser]
    left = shape / (shape + prior * trials)  # weight of the prior in the posterior
    mean = prior * (shape + events) / (shape + prior * trials)
    # What is not known of the two factors adds to the ad's own variance as far as the prior still counts.
    unknown = 1.0 / (k_advertiser + weight) + (k_advertiser / (k_advertiser + weight)) ** 2 / precision[owners.category]
    # The maximum changes no value. It keeps compilers from joining product and sum into one operation of another rounding
    # in one place and not in another: a market and its twin must agree in every bit.
    shared = jnp.maximum(left**2 * unknown[owners.advertiser], 0.0)
    variance = 1.0 / (shape + events) + shared
    return Belief(prior, mean, 1.0 / variance)
