"""Exposure, clicks, conversions, and how long they take to be reported."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adarena.envs.market.response import delay_distribution, draw, exposure_probability, respond

COEFFICIENTS = jnp.asarray([1.0, 0.8, 0.6])


def test_cascade() -> None:
    np.testing.assert_allclose(exposure_probability(COEFFICIENTS, jnp.bool_(True)), [1.0, 0.8, 0.48], rtol=1e-6)
    np.testing.assert_allclose(exposure_probability(COEFFICIENTS, jnp.bool_(False)), COEFFICIENTS)


@functools.cache
def sampled(cascade: bool, weight: float) -> tuple[np.ndarray, ...]:
    """Sums over 64 impressions of exposures, clicks, conversions and squares, in 400 draws; ``[400, K]`` each."""
    winner = jnp.zeros((3, 64), jnp.int32).at[:, 0].set(-1)

    def one(key: jax.Array) -> tuple[jax.Array, ...]:
        luck = draw(key, winner.shape)
        pctr, pcvr = jnp.full(winner.shape, 0.3), jnp.full(winner.shape, 0.4)
        result = respond(winner, pctr, pcvr, jnp.full(64, weight), COEFFICIENTS, jnp.bool_(cascade), luck)
        return (*(x.sum(axis=1) for x in result), result.click, result.exposure)

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 400)))


@pytest.mark.parametrize(("cascade", "weight"), [(True, 1.0), (False, 2.5)])
def test_sampled_means_are_the_expectations(cascade: bool, weight: float) -> None:
    winner = jnp.zeros((3, 64), jnp.int32).at[:, 0].set(-1)
    rates = jnp.full(winner.shape, 0.3), jnp.full(winner.shape, 0.4)
    expected = respond(winner, *rates, jnp.full(64, weight), COEFFICIENTS, jnp.bool_(cascade), None)
    *sums, click, exposure = sampled(cascade, weight)
    for total, mean in zip(sums, expected, strict=True):
        error = total.std(axis=0) / np.sqrt(len(total))
        assert (np.abs(total.mean(axis=0) - np.asarray(mean.sum(axis=1))) <= 4.0 * error + 1e-5).all()
    assert (click <= exposure + 1e-6).all()
    assert (exposure[:, :, 0] == 0.0).all(), "empty slots show nothing"
    if weight == 1.0:
        assert set(np.unique(click)) == {0.0, 1.0}


def test_a_slot_is_seen_only_below_a_seen_one() -> None:
    exposure = sampled(True, 1.0)[-1][:, :, 1:]
    assert (exposure[:, 1:] <= exposure[:, :-1]).all()
    assert (exposure[:, 2] < exposure[:, 1]).any()


def test_certain_and_impossible_events() -> None:
    winner = jnp.asarray([[0, 1, -1]], jnp.int32)
    rates = jnp.asarray([[1.0, 0.0, 1.0]]), jnp.asarray([[1.0, 1.0, 1.0]])
    luck = draw(jax.random.key(1), (1, 3))
    result = respond(winner, *rates, jnp.asarray([7.0, 7.0, 7.0]), jnp.ones(1), jnp.bool_(True), luck)
    np.testing.assert_array_equal(result.exposure, [[7.0, 7.0, 0.0]])
    np.testing.assert_array_equal(result.click, [[7.0, 0.0, 0.0]])
    np.testing.assert_array_equal(result.conversion, [[7.0, 0.0, 0.0]])


def test_luck_is_a_function_of_the_key() -> None:
    one, two, other = draw(jax.random.key(3), (3, 8)), draw(jax.random.key(3), (3, 8)), draw(jax.random.key(4), (3, 8))
    np.testing.assert_array_equal(one.exposure, two.exposure)
    assert not np.array_equal(one.exposure, other.exposure)


def test_delays_reproduce_published_shares() -> None:
    """35 % of conversions within an hour, 50 % within a day (Chapelle 2014); ticks of a minute."""
    lag = delay_distribution(24 * 60, 1 / 60)
    assert lag[:60].sum() == pytest.approx(0.35, abs=0.02)
    assert lag.sum() == pytest.approx(0.50, abs=0.02)


def test_delay_distribution_is_a_distribution() -> None:
    coarse, fine = delay_distribution(48, 0.5), delay_distribution(24 * 60, 1 / 60)
    assert (coarse > 0.0).all()
    assert coarse.sum() < 1.0
    # A click falls anywhere in its tick, so a coarse tick reports less in its own than a delay of half an hour would.
    assert coarse[0] < fine[:30].sum()
    assert coarse[0] == pytest.approx(np.mean([fine[:minutes].sum() for minutes in range(1, 31)]), abs=0.01)
    assert delay_distribution(2 * 24 * 31, 0.5).sum() == pytest.approx(1.0, abs=1e-5)  # the window is 30 days
