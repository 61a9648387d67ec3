"""A diffusion planner: plans end where they are asked to, actions lead there, and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_sequences import SPEC, STEPS, check_resumes, line_data, returns, trained

from adarena.agents.offline import diffusion

CONFIG = diffusion.make_config(
    planned=(0,),
    width=16,
    layers=1,
    hidden=(32,),
    noise_steps=20,
    sample_steps=5,
    batch=64,
    learning_rate=5e-3,
    guidance=0.0,
    conditioning="relative",
)


@pytest.fixture(scope="module")
def data() -> Any:
    """What is earned moves by the action times the sign: a linear system."""
    return line_data()


@pytest.fixture(scope="module")
def policy(data: Any) -> Any:
    """A trained planner."""
    return diffusion.make_policy(CONFIG, SPEC, trained(diffusion, CONFIG, data, 700)[0])


def test_the_inverse_dynamics_of_a_linear_system(policy: Any) -> None:
    sign = np.asarray([-1.0, 1.0, -1.0, 1.0])
    action = np.asarray([-0.6, -0.3, 0.2, 0.7])
    before = np.asarray([0.5, -1.0, 1.0, 0.0])
    seen = np.stack([before, sign, np.zeros(4)], -1)
    moments = policy.obs_moments
    deviation = np.sqrt(np.asarray(moments.variance))
    now = (seen - np.asarray(moments.mean)) / deviation
    then = (before + sign * action - float(moments.mean[0])) / deviation[0]
    pairs = jnp.asarray(np.concatenate([now, then[:, None]], 1), jnp.float32)
    found = jnp.tanh(policy.dynamics.apply({"params": policy.inverse}, pairs))[:, 0]
    np.testing.assert_allclose(found, action, atol=0.1)


def test_plans_end_where_they_are_asked_to_and_keep_what_was(policy: Any) -> None:
    moments = policy.obs_moments
    mean, deviation = float(moments.mean[0]), float(jnp.sqrt(moments.variance[0]))
    first = (jnp.asarray([0.0, 1.0, 0.0]) - moments.mean) / jnp.sqrt(moments.variance)
    lived = jnp.zeros((STEPS + 1, 1)).at[0].set(first[0])

    @jax.jit
    def plans(target: jax.Array, keys: jax.Array) -> jax.Array:
        asked = policy.replace(target=target)
        return jax.vmap(lambda key: asked.plan(key, lived, first, jnp.int32(0)))(keys)

    keys = jax.random.split(jax.random.key(0), 16)
    low, high = (np.asarray(plans(jnp.float32(z), keys))[..., 0] * deviation + mean for z in (-1.2, 1.2))
    seen = jnp.append(first, 1.0)
    expected, spread = (
        float((w[0] * seen).sum() * policy.goals.reward_scale) for w in (policy.goals.mean, policy.goals.spread)
    )
    assert spread == pytest.approx(2.0 / np.sqrt(12.0) * STEPS, rel=0.1)  # of returns: levels are even in [-1, 1]
    assert high[:, -1].mean() == pytest.approx(expected + 1.2 * spread, abs=0.25 * spread)
    assert low[:, -1].mean() == pytest.approx(expected - 1.2 * spread, abs=0.25 * spread)
    assert (high.mean(0)[1:] > low.mean(0)[1:]).all()
    assert np.abs(high[:, 0]).max() < 1e-5


def test_what_is_asked_for_is_had(policy: Any) -> None:
    assert returns(policy, 1.2).min() > 2.5
    assert returns(policy, -1.2).max() < -2.5
    assert np.abs(returns(policy, 0.0)).max() < 1.5


def test_the_noise_schedule() -> None:
    share = diffusion.signal_share(50)
    assert share[0] == 1.0
    assert share[-1] < 1e-3
    assert (np.diff(share) < 0.0).all()
    assert share[25] == pytest.approx(0.5, abs=0.02)  # the cosine is slow at both ends


def test_a_stopped_run_goes_on(tmp_path: Any, data: Any) -> None:
    check_resumes(diffusion, CONFIG, data, tmp_path)


def test_entries_that_are_not_there_are_refused(data: Any) -> None:
    config = diffusion.make_config(planned=(0, 3))
    with pytest.raises(ValueError, match=r"planned must be below the observation's 3 entries, got \(0, 3\)"):
        diffusion.init(config, data, jax.random.key(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"planned": ()}, "planned must be None or a non-empty tuple"),
        ({"planned": (1, 1)}, "planned must be None or a non-empty tuple"),
        ({"sample_steps": 51}, r"sample_steps must be at most noise_steps \(50\), got 51"),
        ({"heads": 3}, r"width must be a multiple of heads \(3\), got 64"),
        ({"conditioning": "advantage"}, "conditioning must be one of to_go, relative, got 'advantage'"),
        ({"untold": 1.5}, r"untold must be a number in \[0, 1\], got 1.5"),
        ({"guidance": -1.0}, "guidance must be a finite number of at least 0, got -1.0"),
    ],
)
def test_bad_numbers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diffusion.make_config(**changes)
