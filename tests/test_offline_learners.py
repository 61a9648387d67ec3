"""Learners from logs on problems with known answers; each algorithm is compiled once and serves all of its tests."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from offline_chain import COUNT, SPEC, WIDTHS, chain_data, episodes_of, played, reward_of

from adarena.agents.distributions import TanhGaussian
from adarena.agents.normalise import normalise
from adarena.agents.offline import bc, cql, iql, loop, td3_bc
from adarena.agents.offline.data import make_data
from adarena.agents.offline.networks import GaussianActor, Value

CHANGES: dict[ModuleType, dict[str, Any]] = {
    bc: {"learning_rate": 3e-3},
    td3_bc: {"learning_rate": 3e-3, "target_rate": 0.02, "smoothing": 0.0},
    iql: {"learning_rate": 3e-3, "target_rate": 0.02, "expectile": 0.9},
    cql: {"learning_rate": 3e-3, "actor_rate": 3e-3, "target_rate": 0.02, "alpha": 0.3, "samples": 2},
}
STEPS, SEEDS = 4000, (0, 1, 2)


def trained(algorithm: Any, data: Any, steps: int = STEPS, **changes: Any) -> tuple[Any, Any, Any]:
    """Configuration, states of three seeds, the curve. All calls share one program an algorithm."""
    config = algorithm.make_config(**WIDTHS, **(CHANGES[algorithm] | changes))
    states, curve = loop.train(algorithm, config, data, seeds=SEEDS, total_steps=steps, progress=False)
    return config, states, curve


def first(states: Any) -> Any:
    """The first seed's."""
    return jax.tree.map(lambda x: x[0], states)


def played_by_all(algorithm: Any, config: Any, states: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wanted places ``[25]``, and means over seeds of actions ``[25, 2]`` and returns ``[25]``."""
    policy = algorithm.make_policy(config, SPEC, states)
    each = [played(jax.tree.map(lambda x, s=s: x[s], policy)) for s in range(len(SEEDS))]
    return each[0][0], np.mean([x[1] for x in each], 0), np.mean([x[2] for x in each], 0)


@pytest.fixture(scope="module")
def on_chain() -> dict[ModuleType, tuple[Any, Any, Any]]:
    """Every algorithm, trained on the chain."""
    data = chain_data()
    return {algorithm: trained(algorithm, data) for algorithm in (bc, td3_bc, iql, cql)}


def test_bc_finds_mean_and_deviation() -> None:
    draw = np.random.default_rng(1)
    obs = draw.uniform(-1.0, 1.0, (COUNT, 3, 3))
    mean = 0.6 * np.sin(2.0 * obs[:, :2, 0])
    unit = np.clip(mean + 0.15 * draw.normal(size=mean.shape), -1.0, 1.0)
    data = make_data(episodes_of(obs, 2.0 * unit[..., None], np.ones((COUNT, 2))), SPEC)
    config, state, _ = trained(bc, data, learning_rate=1e-3)
    state = first(state)
    policy = bc.make_policy(config, SPEC, state)
    at = jnp.stack([jnp.linspace(-0.9, 0.9, 19), jnp.full(19, 0.3), jnp.full(19, -0.5)], -1)
    action = np.asarray(policy.act(jax.random.key(0), (), at)[1])[:, 0] / 2.0
    np.testing.assert_allclose(action, 0.6 * np.sin(2.0 * np.asarray(at)[:, 0]), atol=0.05)
    seen = GaussianActor(config.hidden, 1).apply({"params": state.actor.params}, normalise(data.obs_moments, at))
    assert float(jnp.exp(seen.log_std[0])) == pytest.approx(0.15, rel=0.1)  # type: ignore[union-attr]


def test_bc_on_even_draws_does_nothing(on_chain: Any) -> None:
    config, state, _ = on_chain[bc]
    actions = played_by_all(bc, config, state)[1]
    assert np.abs(actions).max() < 0.15


@pytest.mark.parametrize("algorithm", [td3_bc, iql, cql])
def test_learners_find_what_no_logged_episode_did(on_chain: Any, algorithm: Any) -> None:
    """The mean of the logged returns is -2.6; the best is 1; the first action pays only through the second's value."""
    config, state, _ = on_chain[algorithm]
    wanted, actions, returns = played_by_all(algorithm, config, state)
    assert returns.mean() > 0.85
    np.testing.assert_allclose(actions[:, 0], wanted, atol=0.25)
    np.testing.assert_allclose(actions[:, 1], -wanted, atol=0.25)


def test_td3_bc_weighs_value_against_imitation_as_equation_5_says() -> None:
    """Even draws pull to 0 and ``lambda x 4 (a - wanted)^2`` to the best: both actions are a known share of it."""
    draw = np.random.default_rng(5)
    wanted, start, second = draw.uniform(-0.6, 0.6, 20000), *draw.uniform(-1.0, 1.0, (2, 20000))
    share, alpha = 1.0, 0.5
    for _ in range(50):  # the share changes the first step's values, which lambda depends on
        values = reward_of(start, wanted, second), reward_of(start, wanted, -share * wanted)
        pull = 4.0 * alpha / np.mean(np.abs(values))
        share = pull / (pull + 1.0)
    assert 0.4 < share < 0.55  # twice lambda, or half, would be 0.14 or more away
    config, states, _ = trained(td3_bc, chain_data(), alpha=alpha)
    wanted, actions, _ = played_by_all(td3_bc, config, states)
    slope = (actions * wanted[:, None]).sum(0) / np.square(wanted).sum()
    np.testing.assert_allclose(slope, [share, -share], atol=0.08)


def test_iql_values_are_the_expectile_of_the_logged_actions(on_chain: Any) -> None:
    config, state, _ = on_chain[iql]
    at = jnp.asarray([[0.2, 0.3, 1.0], [-0.4, 0.1, 1.0], [0.5, -0.4, 1.0]])
    rewards = np.asarray([reward_of(float(x), float(c), np.linspace(-1.0, 1.0, 2001)) for x, c, _ in at])
    state = first(state)
    values = Value(config.hidden).apply({"params": state.value.params}, normalise(state.common.obs_moments, at))
    np.testing.assert_allclose(values, expectile(rewards, 0.9), atol=0.25)


def expectile(samples: np.ndarray, share: float) -> np.ndarray:
    """The root, by bisection, of ``share E(x - e)+ = (1 - share) E(e - x)+`` in each row."""
    low, high = samples.min(1), samples.max(1)
    for _ in range(60):
        middle = 0.5 * (low + high)
        gap = samples - middle[:, None]
        above = share * np.maximum(gap, 0.0).mean(1) > (1.0 - share) * np.maximum(-gap, 0.0).mean(1)
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return low


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_expectile_loss_is_least_at_the_expectile(share: float) -> None:
    """Of an even distribution on [0, 1] it is sqrt(t) / (sqrt(t) + sqrt(1 - t))."""
    known = np.sqrt(share) / (np.sqrt(share) + np.sqrt(1.0 - share))
    samples = (np.arange(4000) + 0.5) / 4000
    candidates = np.linspace(0.0, 1.0, 201)
    losses = iql.expectile_loss(jnp.asarray(samples[None] - candidates[:, None]), share).mean(1)
    assert candidates[int(losses.argmin())] == pytest.approx(known, abs=0.006)


@pytest.mark.parametrize(("mean", "log_std"), [(0.1, -0.2), (-0.8, 0.0)])
def test_cql_penalty_against_the_integral(mean: float, log_std: float) -> None:
    def value_of(action: jax.Array) -> jax.Array:
        square = jnp.square(action[..., 0] - 0.2)
        return jnp.stack([-3.0 * square, 1.0 + 2.0 * action[..., 0]])

    policy = TanhGaussian(jnp.full((1, 1), mean), jnp.full((1, 1), log_std))
    logged = jnp.asarray([[0.5], [-0.5]])
    found = cql.penalty(value_of, logged, policy, jax.random.key(0), 20000)
    grid = -1.0 + (np.arange(4000) + 0.5) / 2000
    values = np.asarray(value_of(jnp.asarray(grid, jnp.float32)[:, None]), np.float64)
    known = np.log(np.exp(values).mean(1) * 2.0)[:, None] - np.asarray(logged)
    np.testing.assert_allclose(found, known, atol=0.03)
    actions, densities = cql.candidates(policy, jax.random.key(0), 4)
    assert actions.shape == (8, 1, 1)
    np.testing.assert_allclose(densities[:4], np.log(0.5), rtol=1e-6)


@pytest.mark.parametrize("algorithm", [td3_bc, iql, cql])
def test_values_go_on_after_a_cut_and_end_with_a_termination(algorithm: Any) -> None:
    """One a step, discount a half: 1 / (1 - 1/2) where episodes are cut; 1.5 and 1 where they end after two steps."""
    changes = {"discount": 0.5, "target_rate": 0.1, **({"alpha": 0.0} if algorithm is cql else {})}
    obs = np.zeros((COUNT, 3, 3))
    obs[:, :, 2] = np.arange(3) % 2  # after the second step things are as before the first
    actions = np.random.default_rng(0).uniform(-2.0, 2.0, (COUNT, 2, 1))
    for terminated, known in ((False, 2.0), (True, 1.25)):
        data = make_data(episodes_of(obs, actions, np.ones((COUNT, 2)), terminated), SPEC)
        curve = trained(algorithm, data, 1000, **changes)[2]
        found = curve["value" if algorithm is iql else "q"][-3:].mean()
        assert found == pytest.approx(known, abs=0.08)


@pytest.mark.parametrize(
    ("algorithm", "changes", "message"),
    [
        (bc, {"learning_rate": 0.0}, "learning_rate must be a finite number above 0, got 0.0"),
        (bc, {"hidden": ()}, "hidden must be a non-empty tuple"),
        (bc, {"activation": "sine"}, "activation must be one of"),
        (td3_bc, {"delay": 0}, "delay must be a whole number of at least 1, got 0"),
        (td3_bc, {"alpha": -1.0}, "alpha must be a finite number of at least 0, got -1.0"),
        (td3_bc, {"target_rate": 0.0}, "target_rate must be a number above 0, at most 1, got 0.0"),
        (iql, {"expectile": 1.0}, "expectile must be a number strictly between 0 and 1, got 1.0"),
        (iql, {"discount": 1.1}, r"discount must be a number in \[0, 1\], got 1.1"),
        (cql, {"samples": 2.5}, "samples must be a whole number of at least 1, got 2.5"),
        (cql, {"layer_norm": 1}, "layer_norm must be True or False, got 1"),
    ],
)
def test_bad_numbers_are_refused(algorithm: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        algorithm.make_config(**changes)
    with pytest.raises(TypeError, match="config has no field 'nothing'"):
        algorithm.make_config(nothing=1)
