"""Values: what an impression is worth to each advertiser, and how wrong the prediction of it is.

The log of an advertiser's pCTR x pCVR is normal around its own mean; its variance is shared out between a component common
to all advertisers (a good user is good for everybody), one common to its category, and its own.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class ValueModel(NamedTuple):
    """How values are drawn.

    Attributes:
        mean_ctr: ``[N]`` mean pCTR by advertiser.
        mean_cvr: ``[N]`` mean pCVR (conversions per click) by advertiser.
        spread: Standard deviation of log(pCTR x pCVR) over impressions.
        correlation: Share of that variance common to all advertisers, in [0, 1].
        category_correlation: Share common to a category; both shares together at most 1.
    """

    mean_ctr: jax.Array
    mean_cvr: jax.Array
    spread: float
    correlation: float
    category_correlation: float


# Share of the log-variance that lies in pCTR; the rest is pCVR's. Clicks vary more than conversions given a click.
_CTR_SHARE = 0.7


def draw_values(
    key: jax.Array, model: ValueModel, category: jax.Array, categories: int, common: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draws the true pCTR and pCTR x pCVR of every (impression, advertiser).

    Args:
        key: JAX key.
        model: Means, spread, correlations.
        category: ``[N]`` int category of each advertiser.
        categories: Number of categories.
        common: ``[I]`` standard normal common component of each impression.

    Returns:
        ``(pctr, pvalue)``, each ``[N, I]`` float32 in (0, 1).
    """
    key_category, key_own, key_split = jax.random.split(key, 3)
    impressions = common.shape[0]
    by_category = jax.random.normal(key_category, (categories, impressions))[category]
    shape = (category.shape[0], impressions)
    own = jnp.sqrt(jnp.maximum(0.0, 1.0 - model.correlation - model.category_correlation)) * jax.random.normal(
        key_own, shape
    )
    z = jnp.sqrt(model.correlation) * common + jnp.sqrt(model.category_correlation) * by_category + own
    # Two independent normals with variances share and 1 - share that sum to z: its parts in pCTR and in pCVR.
    apart = jnp.sqrt(_CTR_SHARE * (1.0 - _CTR_SHARE)) * jax.random.normal(key_split, shape)
    ctr_part = model.spread * (_CTR_SHARE * z + apart)
    pctr = model.mean_ctr[:, None] * jnp.exp(ctr_part - 0.5 * _CTR_SHARE * model.spread**2)
    pvalue = (model.mean_ctr * model.mean_cvr)[:, None] * jnp.exp(model.spread * z - 0.5 * model.spread**2)
    pctr = jnp.clip(pctr, 1e-7, 0.95)
    return pctr.astype(jnp.float32), jnp.minimum(pvalue, 0.95 * pctr).astype(jnp.float32)


def prediction_factor(
    pvalue: jax.Array, noise: jax.Array, level: jax.Array, bias: jax.Array, sd: jax.Array, slope: jax.Array
) -> jax.Array:
    """Predicted over true value: ``exp(bias + sd * noise) * (true / level)^(slope - 1)``.

    ``bias`` is in logs; ``sd`` is the standard deviation of the log error; ``slope`` below 1 is the usual miscalibration
    (high values predicted too low), above 1 the reverse. With ``bias = 0, slope = 1`` the error is pure noise with median 1,
    so a bidder that wins where its prediction is highest overpays by a known factor (the winner's curse).

    Args:
        pvalue: ``[N, M]`` true values.
        noise: ``[N, M]`` standard normals.
        level: ``[N]`` each advertiser's mean value, the fixed point of the miscalibration.
        bias: Scalar.
        sd: Scalar, at least 0.
        slope: Scalar, above 0.
    """
    return jnp.exp(bias + sd * noise + (slope - 1.0) * jnp.log(pvalue / level[:, None]))
