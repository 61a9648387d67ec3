"""Logged episodes on the device: scales, sums, minibatches, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from minimal_env import SecondPriceEnv
from offline_chain import SPEC, episodes_of
from toy import TargetEnv

from adarena.agents.normalise import normalise
from adarena.agents.offline.data import (
    Spec,
    make_data,
    sample_transitions,
    sample_windows,
    spec_of,
    windows_at,
)
from adarena.agents.offline.episodes import Episodes

E, T = 5, 4


@pytest.fixture(scope="module")
def logged() -> Episodes:
    """Observations that name their episode and step: ``(e, t, 7)``."""
    draw = np.random.default_rng(3)
    e, t = np.meshgrid(np.arange(E), np.arange(T + 1), indexing="ij")
    obs = np.stack([e, t, np.full_like(e, 7)], -1)
    return episodes_of(obs, draw.uniform(-2.0, 2.0, (E, T, 1)), draw.normal(size=(E, T)))


def test_scales(logged: Episodes) -> None:
    data = make_data(logged, SPEC)
    seen = np.asarray(data.observations)[:, :-1].reshape(-1, 3)
    np.testing.assert_allclose(seen.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(seen.std(0), [1.0, 1.0, 0.0], atol=2e-3)  # the last entry never changes
    raw = np.asarray(logged.observations[2, 3])
    np.testing.assert_allclose(normalise(data.obs_moments, jnp.asarray(raw)), data.observations[2, 3], rtol=1e-6)
    beyond = normalise(data.obs_moments, jnp.asarray([0.0, 0.0, 7.0001]))
    assert abs(float(beyond[2])) < 0.2  # a hair's breadth in an entry that never changed stays small
    np.testing.assert_allclose(data.actions, logged.actions / 2.0, rtol=1e-6)
    assert float(jnp.abs(data.rewards).mean()) == pytest.approx(1.0)
    np.testing.assert_allclose(data.rewards * data.reward_scale, logged.rewards, rtol=1e-5)
    np.testing.assert_allclose(data.returns_to_go[:, 0] * data.reward_scale, logged.returns(), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(data.returns_to_go[:, -1], data.rewards[:, -1])
    assert float(make_data(dataclasses.replace(logged, rewards=0.0 * logged.rewards), SPEC).reward_scale) == 1.0


def test_uneven_bounds() -> None:
    spec = Spec(1, (0.0, -1.0), (4.0, 0.0))
    np.testing.assert_allclose(spec.to_unit(np.asarray([1.0, -0.25])), [-0.5, 0.5])


def test_transitions_are_steps_of_the_data_drawn_evenly(logged: Episodes) -> None:
    data = make_data(logged, SPEC)
    batch = jax.jit(sample_transitions, static_argnums=2)(data, jax.random.key(0), 4000)
    there = np.asarray(data.observations)[:, :, None].reshape(E * (T + 1), 3)
    which = np.abs(np.asarray(batch.obs)[:, None] - there).sum(-1).argmin(1)
    episode, step = which // (T + 1), which % (T + 1)
    np.testing.assert_array_equal(batch.next_obs, np.asarray(data.observations)[episode, step + 1])
    np.testing.assert_array_equal(batch.action, np.asarray(data.actions)[episode, step])
    np.testing.assert_array_equal(batch.reward, np.asarray(data.rewards)[episode, step])
    np.testing.assert_array_equal(batch.terminated, step == T - 1)
    counts = np.bincount(episode * T + step, minlength=E * T)
    assert counts.min() > 140  # 200 expected of each of 20, standard deviation 14
    assert counts.max() < 260


def test_windows_are_padded_on_the_left(logged: Episodes) -> None:
    data = make_data(logged, SPEC)
    windows = jax.jit(windows_at, static_argnums=3)(data, jnp.asarray([1, 4]), jnp.asarray([1, 3]), 3)
    np.testing.assert_array_equal(windows.mask, [[False, True, True], [True, True, True]])
    np.testing.assert_array_equal(windows.time, [[0, 0, 1], [1, 2, 3]])
    np.testing.assert_array_equal(windows.obs[0, 1:], data.observations[1, :2])
    np.testing.assert_array_equal(windows.next_obs[0, 1:], data.observations[1, 1:3])
    np.testing.assert_array_equal(windows.obs[1], data.observations[4, 1:4])
    np.testing.assert_array_equal(windows.returns_to_go[1], data.returns_to_go[4, 1:4])
    np.testing.assert_array_equal(windows.terminated[1], [False, False, True])
    for leaf in (windows.obs, windows.next_obs, windows.action, windows.reward, windows.returns_to_go):
        assert not np.asarray(leaf[0, 0]).any()
    drawn = jax.jit(sample_windows, static_argnums=(2, 3))(data, jax.random.key(1), 600, 3)
    assert np.asarray(drawn.mask)[:, -1].all()
    # The last step is drawn evenly: a quarter of the windows hold one step, a quarter two, the rest three.
    share = np.bincount(np.asarray(drawn.mask).sum(1), minlength=4) / 600
    np.testing.assert_allclose(share, [0.0, 0.25, 0.25, 0.5], atol=0.07)


def test_spec_of_an_environment() -> None:
    env = TargetEnv()
    assert spec_of(env, env.default_params()) == Spec(3, (-1.0,), (1.0,))

    class Choices(SecondPriceEnv):
        def action_space(self, params: Any) -> Any:
            return gymnasium.spaces.Discrete(3)

    choices = Choices()
    with pytest.raises(TypeError, match=r"need a bounded Box of one dimension as action space, got Discrete\(3\)"):
        spec_of(choices, choices.default_params())


def test_what_does_not_fit_is_refused(logged: Episodes) -> None:
    with pytest.raises(ValueError, match=r"observations of 4 entries and actions of 1, got 3 and 1"):
        make_data(logged, Spec(4, (-2.0,), (2.0,)))
    far = logged.actions.copy()
    far[1, 2] = 2.5
    with pytest.raises(ValueError, match=r"actions must lie between \(-2.0,\) and \(2.0,\), got \(2.5,\)"):
        make_data(dataclasses.replace(logged, actions=far), SPEC)
    with pytest.raises(ValueError, match=r"reward_scale must be a finite number above 0, got 0.0"):
        make_data(logged, SPEC, reward_scale=0.0)
    with pytest.raises(ValueError, match=r"low must be below high"):
        Spec(1, (1.0,), (1.0,))
    with pytest.raises(ValueError, match=r"low and high must be as long"):
        Spec(1, (1.0,), (2.0, 3.0))
    with pytest.raises(ValueError, match=r"observations must be at least 1, got 0"):
        Spec(0, (1.0,), (2.0,))
