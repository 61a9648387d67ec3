"""The response of users: exposure, click, conversion, and how long a conversion takes to be reported."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

RESPONSES = ("expected", "sampled")

# Mixture of an exponential and a Weibull, truncated at 30 days; reproduces 35 % within an hour and 50 % within a day
# (Chapelle 2014, Criteo): weight, mean in hours, shape, scale in hours, window in hours.
_EXPONENTIAL_WEIGHT, _EXPONENTIAL_MEAN = 0.40, 0.52
_WEIBULL_SHAPE, _WEIBULL_SCALE = 0.81, 8.3 * 24.0
_WINDOW = 30.0 * 24.0


class Response(NamedTuple):
    """What came of the ads shown, per slot and simulated impression, in real events (weights included).

    Attributes:
        exposure: ``[K, M]`` float32 exposed ads.
        click: ``[K, M]`` float32 clicks.
        conversion: ``[K, M]`` float32 conversions.
    """

    exposure: jax.Array
    click: jax.Array
    conversion: jax.Array


class ResponseDraws(NamedTuple):
    """The luck of a tick, drawn before the auction, so that it is the same whoever wins.

    Attributes:
        exposure: ``[K, M]`` uniforms for exposure.
        click: ``[P]`` keys for the clicks of each of ``P`` parts of the impressions, equally long.
        conversion: ``[P]`` keys for conversions, likewise.
    """

    exposure: jax.Array
    click: jax.Array
    conversion: jax.Array


def exposure_probability(coefficients: jax.Array, cascade: jax.Array) -> jax.Array:
    """Probability that an ad in each slot is exposed.

    With a cascade, a slot is seen only where the one above was: coefficients (1, .8, .6) give (1, .8, .48), as
    AuctionNet measures (1, .799, .486).

    Args:
        coefficients: ``[K]`` in [0, 1].
        cascade: Bool scalar.
    """
    return jnp.where(cascade, jnp.cumprod(coefficients), coefficients)


def draw(key: jax.Array, shape: tuple[int, int]) -> ResponseDraws:
    """Draws a tick's luck for ``shape = (K, M)``."""
    exposure, click, conversion = jax.random.split(key, 3)
    return ResponseDraws(jax.random.uniform(exposure, shape), click[None], conversion[None])


def draw_parts(keys: jax.Array, shape: tuple[int, int]) -> ResponseDraws:
    """Luck of ``[P]`` parts of ``shape = (K, M)`` side by side: what `draw` gives each, for ``P M`` impressions."""
    exposure, click, conversion = jax.vmap(lambda key: draw(key, shape))(keys)
    return ResponseDraws(_joined(exposure), click[:, 0], conversion[:, 0])


def _joined(parts: jax.Array) -> jax.Array:
    """``[P, K, M] -> [K, P M]``."""
    return jnp.moveaxis(parts, 0, 1).reshape(parts.shape[1], -1)


def _binomial(keys: jax.Array, count: jax.Array, p: jax.Array) -> jax.Array:
    """Binomial draws, ``[K, P M]``; those of each part are a function of its own key."""

    def one(key: jax.Array, count: jax.Array, p: jax.Array) -> jax.Array:
        return jax.random.binomial(key, count, jnp.clip(p, 0.0, 1.0), dtype=jnp.float32)

    if len(keys) == 1:
        return one(keys[0], count, p)
    apart = (jnp.moveaxis(x.reshape(len(x), len(keys), -1), 1, 0) for x in (count, p))
    return _joined(jax.vmap(one)(keys, *apart))


def respond(
    winner: jax.Array,
    pctr: jax.Array,
    pcvr: jax.Array,
    weight: jax.Array,
    coefficients: jax.Array,
    cascade: jax.Array,
    draws: ResponseDraws | None,
) -> Response:
    """Exposure, clicks and conversions of the ads in the slots.

    Args:
        winner: ``[K, M]`` int32, -1 for an empty slot.
        pctr: ``[K, M]`` true click probability of the winners, given exposure.
        pcvr: ``[K, M]`` true conversion probability of the winners, given a click.
        weight: ``[M]`` real impressions that a simulated one stands for.
        coefficients: ``[K]`` exposure coefficients.
        cascade: Bool scalar, see `exposure_probability`.
        draws: ``None`` for expectations; else luck. A sampled impression is exposed as one, and has Binomial(weight)
            clicks (a fractional weight is rounded), so that at weight 1 every event is a Bernoulli draw.
    """
    filled = winner >= 0
    if draws is None:
        exposure = jnp.where(filled, exposure_probability(coefficients, cascade)[:, None] * weight, 0.0)
        click = exposure * pctr
        return Response(exposure, click, click * pcvr)
    seen = draws.exposure < coefficients[:, None]
    seen = jnp.where(cascade, jnp.cumprod(seen, axis=0) > 0, seen)
    exposure = jnp.where(filled & seen, weight, 0.0)
    whole = jnp.maximum(jnp.round(exposure), jnp.where(exposure > 0.0, 1.0, 0.0))
    scale = exposure / jnp.maximum(whole, 1.0)
    clicks = _binomial(draws.click, whole, pctr)
    conversions = _binomial(draws.conversion, clicks, pcvr)
    return Response(exposure, clicks * scale, conversions * scale)


def delay_distribution(ticks: int, hours_per_tick: float) -> np.ndarray:
    """Probability that a conversion is reported ``0 ... ticks - 1`` ticks after its click; the rest comes later.

    A click falls anywhere in its tick, so lag ``d`` collects the delays from ``d - u`` to ``d + 1 - u`` ticks with
    ``u`` uniform; the integral is taken numerically. Source: the mixture 0.40 Exp(mean .52 h) + 0.60 Weibull(.81, 8.3 d)
    truncated at 30 days, which reproduces Chapelle (2014).

    Returns:
        ``[ticks]`` float32.
    """
    u = (np.arange(64) + 0.5) / 64

    def cdf(hours: np.ndarray) -> np.ndarray:
        hours = np.clip(hours, 0.0, _WINDOW)

        def mixture(h: np.ndarray) -> np.ndarray:
            exponential = 1.0 - np.exp(-h / _EXPONENTIAL_MEAN)
            weibull = 1.0 - np.exp(-((h / _WEIBULL_SCALE) ** _WEIBULL_SHAPE))
            return _EXPONENTIAL_WEIGHT * exponential + (1.0 - _EXPONENTIAL_WEIGHT) * weibull

        return mixture(hours) / mixture(np.asarray(_WINDOW))

    edges = np.arange(ticks + 1)[:, None] - u[None, :]
    reported = cdf(edges * hours_per_tick).mean(axis=1)
    reported[0] = 0.0
    return np.diff(reported).astype(np.float32)
