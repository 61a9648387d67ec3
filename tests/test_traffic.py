"""How much traffic comes, from where, and what simulating a part of it does to totals."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adarena.envs
from adarena.agents.rules import Constant
from adarena.envs.market.traffic import Bank, draw_drift, draw_volume, visit
from adarena.experiments.rollout import rollout

pytestmark = pytest.mark.usefixtures("quick_compilation")

TICKS = 12


def small(traffic: str = "synthetic", **changes: object) -> tuple[adarena.envs.AutoBid, object]:
    sizes = {"advertisers": 4, "ticks": TICKS, "impressions": 16, "blocks": 8, "slots": 2, "categories": 2}
    return adarena.envs.make("adarena/AutoBid-v0", **{**sizes, "traffic": traffic, **changes})  # type: ignore[return-value]


@functools.cache
def bank(traffic: str = "synthetic", **changes: object) -> Bank:
    return small(traffic, **changes)[1].bank  # type: ignore[attr-defined]


@pytest.mark.parametrize("traffic", ["synthetic", "calibrated"])
def test_a_bank_is_sound(traffic: str) -> None:
    b = bank(traffic)
    assert b.pctr.shape == b.pvalue.shape == (8, 4, 16)
    assert b.noise is None
    assert float(b.daily.sum()) == pytest.approx(1.0, abs=1e-6)
    assert (np.asarray(b.daily) > 0.0).all()
    assert float((b.daily * b.ctr_factor).sum()) == pytest.approx(1.0, abs=0.1)
    assert (np.asarray(b.pvalue) < np.asarray(b.pctr)).all()
    assert (np.asarray(b.outside) >= 0.0).all()
    np.testing.assert_allclose(b.level, b.pvalue.mean(axis=(0, 2)), rtol=1e-5)
    if traffic == "calibrated":
        assert float(b.outside.mean()) == pytest.approx(1.0, abs=1e-4)
        assert len(np.unique(b.outside)) > 32
    else:
        assert not b.outside.any()


def test_the_bank_is_a_function_of_its_seed() -> None:
    same, other = small()[1], small(bank_seed=1)[1]
    np.testing.assert_array_equal(bank().pvalue, same.bank.pvalue)  # type: ignore[attr-defined]
    assert not np.array_equal(bank().pvalue, other.bank.pvalue)  # type: ignore[attr-defined]


def test_prices_and_common_values_are_correlated() -> None:
    b = bank("calibrated", advertisers=16, blocks=256)
    common = np.log(np.asarray(b.pvalue)).mean(axis=1).ravel()
    price = np.argsort(np.argsort(np.asarray(b.outside).ravel()))
    assert 0.15 < np.corrcoef(common, price)[0, 1] < 0.6


def test_volume_is_unbiased() -> None:
    keys = jax.random.split(jax.random.key(0), 4000)
    volume = np.asarray(jax.vmap(lambda key: draw_volume(key, bank(), jnp.float32(1000.0), jnp.float32(0.4)))(keys))
    error = volume.std(axis=0) / np.sqrt(len(volume))
    assert (np.abs(volume.mean(axis=0) - 1000.0 * np.asarray(bank().daily)) < 4.0 * error).all()
    factor = np.log(volume / (1000.0 * np.asarray(bank().daily)))
    np.testing.assert_allclose(factor.std(axis=0), 0.4, rtol=0.06)
    np.testing.assert_allclose(factor[:, 0], factor[:, 3], atol=1e-5)  # four ticks share a factor
    assert abs(np.corrcoef(factor[:, 3], factor[:, 4])[0, 1]) < 0.08
    still = draw_volume(keys[0], bank(), jnp.float32(1000.0), jnp.float32(0.0))
    np.testing.assert_allclose(still, 1000.0 * bank().daily, rtol=1e-6)


def test_drift_has_mean_one_and_the_stated_memory() -> None:
    keys = jax.random.split(jax.random.key(1), 4000)

    def drift(pattern: float) -> np.ndarray:
        draw = functools.partial(draw_drift, categories=3, ticks=24, block=8)
        run = jax.jit(jax.vmap(lambda key: draw(key, pattern=jnp.float32(pattern), noise=0.3, persistence=0.6)))
        return np.asarray(run(keys))

    plain = drift(0.0)
    assert plain.shape == (4000, 3, 24)
    np.testing.assert_allclose(plain.mean(axis=0), 1.0, atol=4.0 * 0.31 / np.sqrt(4000))
    logs = np.log(plain)
    np.testing.assert_allclose(logs.std(axis=0), 0.3, rtol=0.06)
    np.testing.assert_allclose(logs[..., 0], logs[..., 7], atol=1e-5)
    np.testing.assert_allclose([np.corrcoef(logs[:, c, 7], logs[:, c, 8])[0, 1] for c in range(3)], 0.6, atol=0.05)
    np.testing.assert_allclose([np.corrcoef(logs[:, 0, t], logs[:, 1, t])[0, 1] for t in (0, 20)], 0.0, atol=0.07)
    wave = np.log(drift(0.5)) - logs  # the pattern is the same in every episode
    np.testing.assert_allclose(wave, np.broadcast_to(wave[:1], wave.shape), atol=1e-4)
    assert wave[0].max() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(wave[0].mean(axis=1), 0.0, atol=1e-4)


def test_visits_stay_in_their_range_and_cover_it() -> None:
    ranged = dataclasses.replace(
        bank(), first=jnp.arange(TICKS) % 3, last=jnp.arange(TICKS) % 3 + 1 + jnp.arange(TICKS) % 5
    )
    keys = jax.random.split(jax.random.key(2), 2000)
    run = jax.jit(jax.vmap(jax.vmap(visit, (None, None, 0)), (0, None, None)))
    blocks = np.asarray(run(keys, ranged, jnp.arange(TICKS)))
    first, last = np.asarray(ranged.first), np.asarray(ranged.last)
    assert ((blocks >= first) & (blocks < last)).all()
    for tick in range(TICKS):
        span = last[tick] - first[tick]
        shares = np.bincount(blocks[:, tick] - first[tick], minlength=span) / 2000
        np.testing.assert_allclose(shares, 1.0 / span, atol=4.0 * 0.5 / np.sqrt(2000))
    np.testing.assert_array_equal(blocks, np.asarray(run(keys, ranged, jnp.arange(TICKS))))


@pytest.mark.parametrize("traffic", ["synthetic", "calibrated"])
def test_thinning_leaves_totals_unbiased(traffic: str) -> None:
    """The same bank of 2,048 impressions, visited 16 or 256 at a time: value, cost and win rate of a constant bid."""
    results = {}
    for impressions in (16, 256):
        env, params = small(
            traffic,
            impressions=impressions,
            blocks=2048 // impressions,
            ticks=4,
            objective="budget",
            base_budget=np.full(4, 1e9),  # nobody runs out, so that totals are plain sums
            rival_mix=[1.0, 0.0, 0.0, 0.0],
            seat=1,
        )
        keys = jax.random.split(jax.random.key(5), 256)
        results[impressions] = rollout(env, params, Constant.build(env), keys, bound=False).metrics
    for name in ("score", "cost", "exposure", "click"):
        few, many = results[16][name], results[256][name]
        difference = few - many  # the same volume, drift and bids in each pair
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        assert abs(difference.mean()) < 4.0 * error, name
        assert error < 0.04 * many.mean(), "the comparison should be able to see a bias of a few per cent"
