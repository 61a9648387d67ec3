"""What the platform believes of a campaign: credibility estimates of its click rates, by creative, and of its conversion rate.

Rates are gamma distributed around what is expected beforehand, counts are Poisson, so posterior means are credibility
weighted: ``(shape + events) / (shape + expected events) x prior mean`` (Buehlmann and Straub). The campaign's click rate is
shared by its creatives: a creative's counts inform it, discounted for the creative's own spread.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

LARGEST_SHAPE = 1e4
"""Shape of a prior that leaves no doubt."""


class Belief(NamedTuple):
    """Posteriors; float32.

    Attributes:
        campaign: Click rate of an average creative over the one expected beforehand.
        ctr: ``[V]`` posterior mean of each creative's click rate, match 1, as it now is (worn and aged).
        ctr_sd: ``[V]`` its standard deviation.
        cvr: Posterior mean of conversions per click.
        cvr_sd: Its standard deviation.
    """

    campaign: jax.Array
    ctr: jax.Array
    ctr_sd: jax.Array
    cvr: jax.Array
    cvr_sd: jax.Array


def prior_shape(sd_log: jax.Array) -> jax.Array:
    """Shape of the gamma distribution of mean 1 that has the variance of a log-normal: ``1 / (exp(sd^2) - 1)``."""
    return jnp.minimum(1.0 / jnp.maximum(jnp.expm1(sd_log**2), 1e-12), LARGEST_SHAPE)


def campaign_factor(clicks: jax.Array, expected: jax.Array, own: jax.Array, shape: jax.Array) -> jax.Array:
    """Posterior mean of the factor that a campaign's creatives share.

    Args:
        clicks: ``[V]`` clicks by creative.
        expected: ``[V]`` clicks expected of each at factor 1.
        own: Shape of the prior of a creative's own factor.
        shape: Shape of the prior of the common one.
    """
    weight = own / (own + expected)  # what a creative says of the campaign, beside what it says of itself
    return (shape + (weight * clicks).sum()) / (shape + (weight * expected).sum())


def creative_rates(
    clicks: jax.Array, expected: jax.Array, prior: jax.Array, own: jax.Array, factor: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Posterior mean and standard deviation of each creative's click rate, ``[V]`` each.

    Args:
        clicks: ``[V]`` clicks.
        expected: ``[V]`` clicks expected at the prior mean and factor 1.
        prior: ``[V]`` prior means at factor 1.
        own: Shape of the prior of a creative's own factor.
        factor: The campaign's.
    """
    mean = (own + clicks) / (own + factor * expected) * factor * prior
    return mean, mean / jnp.sqrt(own + clicks)


def conversion_rate(
    reported: jax.Array, clicks: jax.Array, prior: jax.Array, shape: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Posterior mean and standard deviation of conversions per click.

    Args:
        reported: Conversions reported.
        clicks: Clicks, each counted by the probability that its conversion is reported by now.
        prior: Prior mean.
        shape: Shape of the prior.
    """
    mean = (shape + reported) / (shape + prior * clicks) * prior
    return mean, mean / jnp.sqrt(shape + reported)
