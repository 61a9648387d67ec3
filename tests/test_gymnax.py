"""The gymnax adapter, with rejax 0.1.3 and gymnax 0.0.9 as its clients."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import minimal_env
import numpy as np
import pytest

import adarena.envs
from adarena.envs.adapters.gymnax import GymnaxEnv, to_gymnax

pytestmark = pytest.mark.usefixtures("quick_compilation")

MINE = minimal_env.ENV_ID
IDS = sorted(adarena.envs.registered())


def adapted(env_id: str = MINE, **changes: Any) -> tuple[GymnaxEnv, Any]:
    return to_gymnax(*adarena.envs.make(env_id, **changes))


def test_hashable_and_safe_to_copy() -> None:
    env, params = adapted()
    twin = copy.deepcopy(env)
    assert hash(env) == hash(env)
    assert twin.env == env.env
    assert {env: 1}[env] == 1
    assert params.max_steps_in_episode == 12
    assert env.default_params is params
    assert env.name == "SecondPriceEnv"
    assert env.num_actions == 1


def test_spaces_are_gymnaxs() -> None:
    from gymnax.environments import spaces

    env, params = adapted()
    space = env.action_space(params)
    assert isinstance(space, spaces.Box)
    assert (space.low, space.high, space.shape, space.dtype) == (-1.0, 1.0, (1,), np.float32)
    assert env.observation_space(params).shape == (3,)
    assert space.sample(jax.random.key(0)).shape == (1,)


def test_step_resets_inside_and_says_why() -> None:
    env, params = adapted(ticks=3, budget=100.0)
    step = jax.jit(jax.vmap(env.step, in_axes=(0, 0, 0, None)))
    keys = jax.random.split(jax.random.key(0), 4)
    obs, state = jax.vmap(env.reset, in_axes=(0, None))(keys, params)
    dones = []
    for tick in range(6):
        keys = jax.random.split(jax.random.key(tick), 4)
        obs, state, reward, done, info = step(keys, state, jnp.zeros((4, 1)), params)
        dones.append(bool(done.all()))
        assert reward.shape == (4,)
        np.testing.assert_array_equal(info["truncated"], done)
        np.testing.assert_allclose(obs[:, 0], (tick + 1) % 3 / 3, rtol=1e-6)
        np.testing.assert_allclose(info["final_obs"][:, 0], (tick % 3 + 1) / 3, rtol=1e-6)
    assert dones == [False, False, True] * 2


def test_action_may_lack_its_axis_and_is_clipped() -> None:
    env, _ = adapted()
    _, state = env.reset(jax.random.key(0))
    results = [env.step(jax.random.key(1), state, action)[1:3] for action in (jnp.ones(1), jnp.float32(7.0))]
    assert float(results[0][1]) == float(results[1][1])
    assert float(results[0][0].left) == float(results[1][0].left)


def test_other_spaces_are_refused() -> None:
    class Odd(minimal_env.SecondPriceEnv):
        def action_space(self, params: Any) -> gymnasium.Space:
            return gymnasium.spaces.MultiBinary(3)

    with pytest.raises(TypeError, match="action space must be Box or Discrete"):
        to_gymnax(Odd(), minimal_env.Params())


def test_rejax_ppo_learns_unchanged() -> None:
    """With a budget that is short, bidding at value wastes it; PPO has to find that out."""
    import rejax

    env, params = adapted(ticks=40, budget=0.5)
    algo = rejax.PPO.create(
        env=env,
        env_params=params,
        agent_kwargs={"hidden_layer_sizes": (32,)},
        total_timesteps=32_768,
        eval_freq=32_768,
        num_envs=64,
        num_steps=16,
        num_minibatches=2,
        num_epochs=2,
        learning_rate=1e-2,
        gamma=1.0,
        ent_coef=0.0,
    )
    state, (lengths, returns) = jax.jit(algo.train)(jax.random.key(0))
    assert int(state.global_step) == 32_768
    assert returns.shape == (2, 128)
    assert (np.asarray(lengths) <= 40).all()
    before, after = np.asarray(returns).mean(axis=1)
    assert after > before + 0.4  # 1.9 and 2.8 when this was written, standard error 0.08


@pytest.mark.parametrize("env_id", [env_id for env_id in IDS if env_id != MINE])
def test_rejax_trains_on_every_registered_environment(env_id: str) -> None:
    import rejax

    env, params = adapted(env_id)
    algo = rejax.PPO.create(
        env=env,
        env_params=params,
        total_timesteps=512,
        eval_freq=512,
        skip_initial_evaluation=True,
        num_envs=8,
        num_steps=16,
        num_minibatches=2,
        num_epochs=1,
    )
    state = jax.jit(lambda key: algo.train_iteration(algo.init_state(key)))(jax.random.key(0))
    assert int(state.global_step) == 128
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.actor_ts.params))
