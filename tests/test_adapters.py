"""Gymnasium adapters: single and batched, on every registered environment."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import minimal_env
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import adarena.envs
from adarena.envs.adapters.gymnasium import (
    GymnasiumEnv,
    check_action,
    check_render_mode,
    programs,
    reset_key,
    step_key,
)
from adarena.envs.adapters.vector import JaxVectorEnv
from adarena.envs.core import Env

pytestmark = pytest.mark.usefixtures("quick_compilation")

IDS = sorted(adarena.envs.registered())
MINE = minimal_env.ENV_ID


def fixed_actions(space: gym.Space, number: int) -> list[Any]:
    space.seed(7)
    return [space.sample() for _ in range(number)]


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_checker_passes_without_a_warning(env_id: str) -> None:
    env = gym.make(env_id).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)


@pytest.mark.parametrize("env_id", IDS)
def test_types_and_writable_arrays(env_id: str) -> None:
    env = gym.make(env_id)
    obs, info = env.reset(seed=3)
    assert info == {}
    results = [env.step(action) for action in fixed_actions(env.action_space, 2)]
    for obs_next, reward, terminated, truncated, info in results:
        assert type(reward) is float
        assert type(terminated) is bool
        assert type(truncated) is bool
        assert all(isinstance(value, np.ndarray) for value in info.values())
        for array in (obs, obs_next, *info.values()):
            array[...] = 0  # raises if the array is read-only
    assert "jax" not in env.metadata


@pytest.mark.parametrize("env_id", IDS)
def test_a_seed_gives_the_same_sequence_of_episodes(env_id: str) -> None:
    def run(seed: int) -> list[np.ndarray]:
        env = gym.make(env_id)
        record = [env.reset(seed=seed)[0]]
        for action in fixed_actions(env.action_space, 3):
            record.append(env.step(action)[0])
        return [*record, env.reset()[0], env.reset()[0]]

    first, again, other = run(5), run(5), run(6)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_episodes_of_one_seed_differ() -> None:
    env = GymnasiumEnv(MINE)
    first, second, third = env.reset(seed=1)[0], env.reset()[0], env.reset()[0]
    assert len({float(obs[2]) for obs in (first, second, third)}) == 3


def test_a_key_gives_the_episode_of_the_functional_environment() -> None:
    adapter = GymnasiumEnv(MINE)
    env, params = adarena.envs.make(MINE)
    key = jax.random.key(11)
    obs, state = env.reset(reset_key(key), params)
    got, _ = adapter.reset(options={"key": key})
    np.testing.assert_allclose(got, obs, rtol=1e-6)
    for tick in range(4):
        action = np.full(1, 0.3, np.float32)
        obs, state, reward, *_ = env.step(step_key(key, tick), state, jnp.asarray(action), params)
        got, got_reward, *_ = adapter.step(action)
        np.testing.assert_allclose(got, obs, rtol=1e-6)
        assert got_reward == pytest.approx(float(reward), rel=1e-6)


def test_equal_environments_share_compiled_code() -> None:
    one, two = GymnasiumEnv(MINE, ticks=5), GymnasiumEnv(MINE, ticks=5, budget=4.0)
    assert one._programs is two._programs
    for env in (one, two):
        env.reset(seed=0)
        env.step(np.zeros(1, np.float32))
    assert one._programs.advance._cache_size() == 1  # type: ignore[attr-defined]
    assert GymnasiumEnv(MINE, ticks=6)._programs is not one._programs


def test_unhashable_environment_is_refused_by_name() -> None:
    env = minimal_env.SecondPriceEnv(ticks=[3])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="fields of SecondPriceEnv must be hashable"):
        programs(env)


class Undrawn(minimal_env.SecondPriceEnv):
    render = Env.render


def test_render_modes() -> None:
    env = gym.make(MINE, render_mode="rgb_array")
    env.reset(seed=0)
    picture: Any = env.render()
    assert picture.shape == (16, 64, 3)
    assert picture.dtype == np.uint8
    assert GymnasiumEnv(MINE).render() is None
    with pytest.raises(ValueError, match="render_mode must be None or one of"):
        GymnasiumEnv(MINE, render_mode="human")
    check_render_mode(Undrawn(), None)
    with pytest.raises(TypeError, match="render_mode must be None, for Undrawn draws no picture, got 'rgb_array'"):
        check_render_mode(Undrawn(), "rgb_array")
    batch = JaxVectorEnv(MINE, num_envs=2, render_mode="rgb_array")
    with pytest.raises(ResetNeeded):
        batch.render()
    batch.reset(seed=0)
    assert [frame.shape for frame in batch.render() or ()] == [(16, 64, 3)] * 2


BAD_ACTIONS: list[tuple[Any, type[Exception], str]] = [
    (np.array([np.nan], np.float32), ValueError, r"action\[0\] must be finite, got nan"),
    (np.array([np.inf], np.float32), ValueError, r"action\[0\] must be finite, got inf"),
    (np.array([1.5], np.float32), ValueError, r"action\[0\] must be between -1.0 and 1.0, got 1.5"),
    (np.array([-1.01]), ValueError, r"action\[0\] must be between -1.0 and 1.0, got -1.01"),
    (np.zeros(2, np.float32), ValueError, r"action must have shape \(1,\), got shape \(2,\)"),
    (0.5, ValueError, r"action must have shape \(1,\), got shape \(\)"),
    (np.zeros((1, 1), np.float32), ValueError, r"action must have shape \(1,\), got shape \(1, 1\)"),
    (["high"], TypeError, "action must be an array of real numbers, got dtype"),
    (None, TypeError, "action must be an array of real numbers, got dtype object"),
    (np.array([1j]), TypeError, "action must be an array of real numbers, got dtype complex128"),
    (np.array([True]), TypeError, "action must be an array of real numbers, got dtype bool"),
    ([[0.1], [0.2, 0.3]], TypeError, "action must be an array of real numbers"),
]


@pytest.mark.parametrize(("action", "error", "message"), BAD_ACTIONS)
def test_bad_action_is_refused(action: Any, error: type[Exception], message: str) -> None:
    env = GymnasiumEnv(MINE)
    env.reset(seed=0)
    before = env.state
    with pytest.raises(error, match=message):
        env.step(action)
    assert env.state is before  # nothing ran


def test_rounding_beyond_a_bound_is_clipped() -> None:
    space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    clipped = check_action(np.array([1.0 + 1e-6]), space)
    assert clipped.dtype == np.float32
    assert clipped[0] == 1.0
    assert check_action([1], space)[0] == 1.0  # whole numbers are numbers


def test_discrete_actions_are_checked() -> None:
    space = gym.spaces.Discrete(3, start=1)
    assert check_action(3, space) == 3
    with pytest.raises(ValueError, match="action must be between 1 and 3, got 0"):
        check_action(0, space)
    with pytest.raises(TypeError, match="whole numbers, got dtype float64"):
        check_action(1.0, space)
    with pytest.raises(ValueError, match="action must lie in MultiBinary"):
        check_action(np.array([2, 0]), gym.spaces.MultiBinary(2))


def test_calls_out_of_order_are_refused() -> None:
    env = GymnasiumEnv(MINE, ticks=2)
    with pytest.raises(ResetNeeded, match=r"call reset\(\) before step\(\): no episode has begun"):
        env.step(np.zeros(1, np.float32))
    with pytest.raises(ResetNeeded, match="no episode has begun"):
        env.state  # noqa: B018
    env.reset(seed=0)
    ended = False
    while not ended:
        _, _, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
        ended = terminated or truncated
    with pytest.raises(ResetNeeded, match="the episode ended"):
        env.step(np.zeros(1, np.float32))
    env.reset()
    env.step(np.zeros(1, np.float32))


def test_bad_reset_options_are_refused() -> None:
    env = GymnasiumEnv(MINE)
    with pytest.raises(ValueError, match="options of reset may hold 'key' only, got 'speed'"):
        env.reset(options={"speed": 3})
    with pytest.raises(ValueError, match="must be a scalar key"):
        env.reset(options={"key": 3})
    with pytest.raises(ValueError, match="must be a scalar key"):
        env.reset(options={"key": jnp.zeros(2, jnp.uint32)})


def test_unknown_change_is_refused() -> None:
    with pytest.raises(TypeError, match="has no field 'bugdet'"):
        gym.make(MINE, bugdet=3.0)
    with pytest.raises(KeyError, match="no environment is called"):
        GymnasiumEnv("mine/Absent-v0")


# The batch ------------------------------------------------------------------------------------------------------------


def same_infos(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        if isinstance(value, dict):
            same_infos(ours[name], value)
        elif value.dtype == object:
            assert ours[name].dtype == object
            for mine, other in zip(ours[name], value, strict=True):
                assert (mine is None) == (other is None)
                if mine is not None:
                    np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)
        else:
            assert ours[name].dtype == value.dtype
            np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_batch_equals_gymnasiums_sync_vector_env(mode: str) -> None:
    """Rewards, observations, ends and infos, over several episodes that end at different times."""
    changes: dict[str, Any] = {"ticks": 7, "budget": 0.6}
    theirs = gym.make_vec(
        MINE, num_envs=4, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **changes
    )
    ours = gym.make_vec(MINE, num_envs=4, vectorization_mode="vector_entry_point", autoreset_mode=mode, **changes)
    assert isinstance(ours.unwrapped, JaxVectorEnv)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"] == AutoresetMode(mode)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    np.testing.assert_allclose(ours.reset(seed=21)[0], theirs.reset(seed=21)[0], rtol=1e-5, atol=1e-6)
    alone = 0
    for actions in fixed_actions(ours.action_space, 30):
        mine, other = ours.step(actions), theirs.step(actions)
        for a, b in zip(mine[:4], other[:4], strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        same_infos(mine[4], other[4])
        ends = (mine[2] | mine[3]).sum()
        alone += 0 < ends < 4
    assert alone >= 3  # some environments ended while others went on: the case that must not lose steps


def test_partial_reset_equals_gymnasiums() -> None:
    theirs = gym.make_vec(MINE, num_envs=3, vectorization_mode="sync", ticks=5)
    ours = JaxVectorEnv(MINE, num_envs=3, ticks=5)
    mask = np.array([False, True, False])
    actions = np.full((3, 1), 0.2, np.float32)
    for envs in (theirs, ours):
        envs.reset(seed=4)
        envs.step(actions)
    a, b = ours.reset(options={"reset_mask": mask})[0], theirs.reset(options={"reset_mask": mask})[0]
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    a, b = ours.reset(seed=9, options={"reset_mask": mask})[0], theirs.reset(seed=9, options={"reset_mask": mask})[0]
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for _ in range(6):
        for x, y in zip(ours.step(actions)[:4], theirs.step(actions)[:4], strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("env_id", IDS)
def test_batch_through_make_vec(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs: Any = gym.make_vec(env_id, num_envs=3, vectorization_mode="vector_entry_point")
    obs, infos = envs.reset(seed=2)
    assert infos == {}
    assert obs in envs.observation_space
    assert "jax" not in envs.metadata
    for actions in fixed_actions(envs.action_space, 3):
        obs, rewards, terminated, truncated, infos = envs.step(actions)
        assert obs in envs.observation_space
        for array in (obs, rewards, terminated, truncated, *infos.values()):
            assert array.shape[0] == 3
            array[...] = 0  # raises if the array is read-only


@pytest.mark.parametrize("env_id", IDS)
def test_batch_member_has_the_rewards_of_its_own_seed(env_id: str) -> None:
    single, envs = gym.make(env_id), JaxVectorEnv(env_id, num_envs=2)
    np.testing.assert_allclose(envs.reset(seed=30)[0][1], single.reset(seed=31)[0], rtol=1e-4, atol=1e-5)
    for action in fixed_actions(single.action_space, 4):
        mine, other = envs.step(np.stack([action, action])), single.step(action)
        np.testing.assert_allclose(mine[0][1], other[0], rtol=1e-3, atol=1e-4)
        assert mine[1][1] == pytest.approx(other[1], rel=1e-3, abs=1e-4)
        if other[2] or other[3]:
            break


def test_statistics_wrapper_counts_whole_episodes() -> None:
    envs = gym.wrappers.vector.RecordEpisodeStatistics(JaxVectorEnv(MINE, num_envs=2, ticks=4, budget=100.0))
    envs.reset(seed=0)
    lengths: list[int] = []
    for _ in range(10):
        infos = envs.step(np.zeros((2, 1), np.float32))[4]
        lengths += infos["episode"]["l"][infos["_episode"]].tolist() if "episode" in infos else []
    assert lengths == [4] * 4


def test_disabled_mode_waits_for_the_user() -> None:
    envs = JaxVectorEnv(MINE, num_envs=2, ticks=2, budget=100.0, autoreset_mode=AutoresetMode.DISABLED)
    actions = np.zeros((2, 1), np.float32)
    envs.reset(seed=0)
    envs.step(actions)
    assert envs.step(actions)[3].all()
    with pytest.raises(ResetNeeded, match=r"reset environments \[0, 1\] first"):
        envs.step(actions)
    envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded, match=r"reset environments \[1\] first"):
        envs.step(actions)
    envs.reset(options={"reset_mask": np.array([False, True])})
    envs.step(actions)


def test_keys_of_a_batch_are_those_of_single_environments() -> None:
    keys = jax.random.split(jax.random.key(3), 2)
    envs, single = JaxVectorEnv(MINE, num_envs=2), GymnasiumEnv(MINE)
    obs = envs.reset(options={"keys": keys})[0]
    for i in range(2):
        np.testing.assert_allclose(single.reset(options={"key": keys[i]})[0], obs[i], rtol=1e-6)


def test_an_ended_environments_action_does_not_count() -> None:
    envs = JaxVectorEnv(MINE, num_envs=2, ticks=1, budget=100.0)
    envs.reset(seed=0)
    envs.step(np.zeros((2, 1), np.float32))
    obs, rewards, terminated, truncated, infos = envs.step(np.full((2, 1), np.nan, np.float32))
    assert rewards.tolist() == [0.0, 0.0]
    assert not (terminated | truncated).any()
    assert infos == {}
    assert np.isfinite(obs).all()


BAD_BATCHES: list[tuple[Any, type[Exception], str]] = [
    (np.zeros((3, 1), np.float32), ValueError, r"action must have shape \(2, 1\), got shape \(3, 1\)"),
    (np.zeros(2, np.float32), ValueError, r"action must have shape \(2, 1\), got shape \(2,\)"),
    (np.array([[0.0], [np.nan]]), ValueError, r"action\[1, 0\] of environment 1 must be finite, got nan"),
    (np.array([[9.0], [0.0]]), ValueError, r"action\[0, 0\] of environment 0 must be between -1.0 and 1.0, got 9.0"),
    ([["a"], ["b"]], TypeError, "action must be an array of real numbers"),
]


@pytest.mark.parametrize(("actions", "error", "message"), BAD_BATCHES)
def test_bad_actions_of_a_batch_are_refused(actions: Any, error: type[Exception], message: str) -> None:
    envs = JaxVectorEnv(MINE, num_envs=2)
    with pytest.raises(ResetNeeded, match="no episode has begun"):
        envs.step(actions)
    envs.reset(seed=0)
    with pytest.raises(error, match=message):
        envs.step(actions)


def test_bad_calls_of_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="num_envs must be a whole number of at least 1, got 0"):
        JaxVectorEnv(MINE, num_envs=0)
    with pytest.raises(ValueError, match="one of 'NextStep', 'SameStep', 'Disabled', got 'Later'"):
        JaxVectorEnv(MINE, autoreset_mode="Later")
    envs = JaxVectorEnv(MINE, num_envs=2)
    with pytest.raises(ResetNeeded, match="without a reset_mask first"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ValueError, match="seed must be one number or 2 of them, got 3"):
        envs.reset(seed=[1, 2, 3])
    with pytest.raises(TypeError, match="must be a NumPy array of bool"):
        envs.reset(options={"reset_mask": [True, True]})
    with pytest.raises(ValueError, match=r"must have shape \(2,\) and a true entry"):
        envs.reset(options={"reset_mask": np.zeros(2, bool)})
    with pytest.raises(ValueError, match="may hold 'reset_mask' and 'keys' only, got 'key'"):
        envs.reset(options={"key": 1})
    with pytest.raises(ValueError, match="must be 2 keys"):
        envs.reset(options={"keys": jax.random.split(jax.random.key(0), 3)})


def test_a_copied_environment_goes_its_own_way() -> None:
    env = GymnasiumEnv(MINE)
    env.reset(seed=1)
    twin = copy.deepcopy(env)
    action = np.full(1, 0.5, np.float32)
    first, second = env.step(action), twin.step(action)
    np.testing.assert_array_equal(first[0], second[0])
    env.step(action)
    np.testing.assert_array_equal(env.reset()[0], twin.reset()[0])
