"""Densities of behaviour policies: they integrate to one, are those of the draws, and are of what the environment gets."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from toy import TargetEnv

from adarena.agents import behaviour, ppo
from adarena.agents.distributions import Beta, TanhGaussian
from adarena.agents.rules.simple import Random

pytestmark = pytest.mark.usefixtures("quick_compilation")

LOW, HIGH = jnp.asarray([-2.0]), jnp.asarray([3.0])


@functools.cache
def densities() -> dict[str, Any]:
    one = jnp.ones(1)
    return {
        "truncated in the middle": behaviour.TruncatedNormal(0.3 * one, 0.7 * one, LOW, HIGH),
        "truncated at the end": behaviour.TruncatedNormal(HIGH, 0.2 * one, LOW, HIGH),
        "truncated and wide": behaviour.TruncatedNormal(LOW, 9.0 * one, LOW, HIGH),
        "squashed": behaviour.Stretched(TanhGaussian(0.4 * one, -0.3 * one), LOW, HIGH, False),
        "beta": behaviour.Stretched(Beta(2.5 * one, 1.4 * one), LOW, HIGH, True),
        "uniform": behaviour.Box(LOW, HIGH),
    }


NAMES = list(densities())


@pytest.mark.parametrize("name", NAMES)
def test_density_integrates_to_one(name: str) -> None:
    grid = np.linspace(-2.0, 3.0, 20_001)
    density = np.exp(
        np.asarray(jax.vmap(densities()[name].log_prob)(jnp.asarray(grid[:, None], jnp.float32)), np.float64)
    )
    assert scipy.integrate.simpson(density, x=grid) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_draws_follow_the_density_and_it_is_of_the_action_taken(name: str) -> None:
    """The empirical distribution is the integral of the density; what is logged is the density of what came out."""
    density = densities()[name]
    actions, log_probs = jax.vmap(density.sample)(jax.random.split(jax.random.key(1), 20_000))
    assert actions.dtype == jnp.float32
    assert float(actions.min()) >= -2.0
    assert float(actions.max()) <= 3.0
    inside = np.asarray((actions[:, 0] > -1.999) & (actions[:, 0] < 2.999))
    again = jax.vmap(density.log_prob)(actions)
    np.testing.assert_allclose(log_probs[inside], again[inside], atol=2e-3)
    grid = np.linspace(-2.0, 3.0, 20_001)
    values = np.exp(np.asarray(jax.vmap(density.log_prob)(jnp.asarray(grid[:, None], jnp.float32)), np.float64))
    cumulated = scipy.integrate.cumulative_simpson(values, x=grid, initial=0.0)
    test = scipy.stats.kstest(np.asarray(actions[:, 0]), lambda x: np.interp(x, grid, cumulated))
    assert test.pvalue > 1e-3


def test_truncated_normal_is_scipys() -> None:
    mean, std = np.asarray([0.5, -1.0]), np.asarray([0.4, 2.0])
    density = behaviour.TruncatedNormal(*(jnp.asarray(x, jnp.float32) for x in (mean, std, [-1.0, -1.0], [1.0, 1.0])))
    action = np.asarray([0.9, 0.1])
    expected = scipy.stats.truncnorm.logpdf(action, (-1 - mean) / std, (1 - mean) / std, mean, std).sum()
    assert float(density.log_prob(jnp.asarray(action, jnp.float32))) == pytest.approx(expected, abs=1e-5)


def test_importance_weights_of_the_logged_densities_have_mean_one() -> None:
    """Reweighing draws of one policy to another is unbiased only if both densities are exact."""
    here, there = densities()["squashed"], densities()["truncated in the middle"]
    actions, log_probs = jax.vmap(here.sample)(jax.random.split(jax.random.key(2), 40_000))
    weights = np.exp(np.asarray(jax.vmap(there.log_prob)(actions) - log_probs, np.float64))
    assert weights.mean() == pytest.approx(1.0, abs=5 * weights.std() / 200)
    mean = (weights * np.asarray(actions[:, 0])).mean()
    truth = scipy.stats.truncnorm.mean((-2 - 0.3) / 0.7, (3 - 0.3) / 0.7, 0.3, 0.7)
    assert mean == pytest.approx(truth, abs=0.03)


@pytest.fixture(scope="module")
def actors() -> dict[str, Any]:
    """Untrained actors of each distribution, whose actions mean -2 to 3."""
    env = TargetEnv()
    params = env.default_params()
    made = {}
    for family in ("gaussian", "tanh_gaussian", "beta"):
        config = ppo.make_config(num_envs=2, minibatches=1, hidden=(4,), distribution=family, initial_log_std=0.3)
        state = jax.jit(ppo.init, static_argnums=1)(config, env, params, jax.random.key(3))
        policy = ppo.make_policy(config, env, state, stochastic=True)
        made[family] = policy.replace(action_low=LOW, action_high=HIGH)  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("family", ["tanh_gaussian", "beta"])
def test_the_learners_own_draws_follow_the_behaviours_density(actors: dict[str, Any], family: str) -> None:
    policy, obs = actors[family], jnp.asarray([0.5, 0.2, -1.0])
    _, density = behaviour.ppo_behaviour(policy).decide((), obs)
    keys = jax.random.split(jax.random.key(4), 2_000)
    own = jax.vmap(lambda key: policy.act(key, (), obs)[1])(keys)
    drawn, log_probs = jax.vmap(density.sample)(keys)
    np.testing.assert_allclose(own, drawn, atol=1e-6)
    grid = np.linspace(-2.0, 3.0, 4001)
    values = np.exp(np.asarray(jax.vmap(density.log_prob)(jnp.asarray(grid[:, None], jnp.float32)), np.float64))
    cumulated = scipy.integrate.cumulative_simpson(values, x=grid, initial=0.0)
    assert scipy.stats.kstest(np.asarray(own[:, 0]), lambda x: np.interp(x, grid, cumulated)).pvalue > 1e-3
    assert np.isfinite(np.asarray(log_probs)).all()


def test_a_clipped_gaussian_becomes_a_truncated_one(actors: dict[str, Any]) -> None:
    policy, obs = actors["gaussian"], jnp.asarray([0.5, 0.2, -1.0])
    _, density = behaviour.ppo_behaviour(policy).decide((), obs)
    best = policy.replace(stochastic=False).act(jax.random.key(0), (), obs)[1]
    np.testing.assert_allclose(density.mean, best, atol=1e-6)  # type: ignore[attr-defined]
    np.testing.assert_allclose(density.std, 2.5 * np.exp(0.3), rtol=1e-5)  # type: ignore[attr-defined]
    actions, _ = jax.vmap(density.sample)(jax.random.split(jax.random.key(5), 4_000))
    ends = np.asarray((actions <= LOW) | (actions >= HIGH))
    assert ends.mean() < 1e-3, "no probability may be heaped on the ends"


def test_the_member_that_plays_gives_action_and_density() -> None:
    members = (behaviour.Uniform(LOW, HIGH), behaviour.noisy(_Fixed(), 0.01, LOW, HIGH))
    obs = jnp.zeros(3)

    def draw(choice: int) -> tuple[float, float, float]:
        mixture = behaviour.Mixture(members, jnp.int32(choice))
        _, action, log_prob = mixture.draw(jax.random.key(7), mixture.init(None), obs)
        own = members[choice].decide(mixture.init(None)[choice], obs)[1].log_prob(action)
        return float(action[0]), float(log_prob), float(own)

    action, log_prob, own = draw(1)
    assert action == pytest.approx(1.5, abs=0.06)
    assert log_prob == pytest.approx(own, abs=1e-5)
    assert draw(0)[1] == pytest.approx(-np.log(5.0))


def test_policies_without_a_density_are_refused(actors: dict[str, Any]) -> None:
    for std in (0.0, float("nan")):
        with pytest.raises(ValueError, match="std must be a finite number above 0, got"):
            behaviour.noisy(_Fixed(), std, LOW, HIGH)
    for policy in (Random(), actors["beta"]):
        with pytest.raises(ValueError, match="policy must have no chance of its own, got"):
            behaviour.noisy(policy, 0.1, LOW, HIGH)
    with pytest.raises(ValueError, match=r"distribution gaussian, tanh_gaussian or beta .* got 'categorical'"):
        behaviour.ppo_behaviour(actors["beta"].replace(distribution="categorical"))


class _Fixed:
    """Always 1.5."""

    jittable = True

    def init(self, params: Any) -> tuple[()]:
        return ()

    def act(self, key: jax.Array, carry: tuple[()], obs: jax.Array) -> tuple[tuple[()], jax.Array]:
        return carry, jnp.asarray([1.5])
