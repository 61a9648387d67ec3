"""Stable-Baselines3 on the environments, and its models as Policies."""

from __future__ import annotations

import builtins
import pathlib
import sys
import warnings
from typing import Any

import gymnasium as gym
import jax
import minimal_env
import numpy as np
import pytest

import adarena.envs
from adarena.agents import sb3
from adarena.agents.policy import Policy
from adarena.agents.sb3 import MlpPolicy, ObsNormaliser, SB3Policy, train_sb3
from adarena.agents.sb3_vec_env import SB3VecEnv

pytestmark = pytest.mark.usefixtures("quick_compilation")

MINE = minimal_env.ENV_ID
IDS = sorted(adarena.envs.registered())
SHORT: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 32, "batch_size": 64, "n_epochs": 2, "policy_kwargs": {"net_arch": [16, 16]}},
    "sac": {"learning_starts": 64, "batch_size": 32, "buffer_size": 1000, "policy_kwargs": {"net_arch": [16]}},
}


@pytest.fixture(scope="module", params=["ppo", "sac"])
def trained(request: pytest.FixtureRequest) -> SB3Policy:
    """A policy after a few hundred steps, with observation statistics."""
    algorithm = request.param
    return train_sb3(algorithm, MINE, total_steps=256, num_envs=4, seed=3, normalise=True, hyper=SHORT[algorithm])


def some_observations(number: int = 32) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.0, 1.0, (number, 3)).astype(np.float32)


# The VecEnv -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
def test_sb3_checker_passes_without_a_warning(env_id: str) -> None:
    from stable_baselines3.common.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id).unwrapped, warn=True)


def test_vec_env_equals_dummy_vec_env() -> None:
    """Rewards, observations, ends and infos, over episodes that end at different times, terminated and truncated."""
    from stable_baselines3.common.env_util import make_vec_env

    changes: dict[str, Any] = {"ticks": 7, "budget": 0.6}
    ours, theirs = SB3VecEnv(MINE, 4, full_info=True, **changes), make_vec_env(MINE, 4, seed=5, env_kwargs=changes)
    ours.seed(5)
    np.testing.assert_allclose(ours.reset(), theirs.reset(), rtol=1e-5, atol=1e-6)
    kinds = set()
    generator = np.random.default_rng(0)
    for _ in range(30):
        actions = generator.uniform(-1.0, 1.0, (4, 1)).astype(np.float32)
        mine, other = ours.step(actions), theirs.step(actions)
        for a, b in zip(mine[:3], other[:3], strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        for a, b in zip(mine[3], other[3], strict=True):
            assert set(a) == set(b)
            assert a["TimeLimit.truncated"] == b["TimeLimit.truncated"]
            np.testing.assert_allclose(a["cost"], b["cost"], rtol=1e-4, atol=1e-5)
            if "episode" in b:
                kinds.add(a["TimeLimit.truncated"])
                assert a["episode"]["l"] == b["episode"]["l"]
                assert a["episode"]["r"] == pytest.approx(b["episode"]["r"], rel=1e-4, abs=1e-4)
                np.testing.assert_allclose(a["terminal_observation"], b["terminal_observation"], rtol=1e-4, atol=1e-5)
    assert kinds == {True, False}


def test_vec_env_returns_writable_copies_and_short_infos() -> None:
    envs = SB3VecEnv(MINE, 2, ticks=2, budget=100.0)
    obs = envs.reset()
    obs[...] = 0.0
    first = envs.step(np.zeros((2, 1), np.float32))
    kept = first[0].copy()
    second = envs.step(np.zeros((2, 1), np.float32))
    np.testing.assert_array_equal(first[0], kept)  # a later step does not write into it
    first[0][...] = 0.0
    assert first[3] == [{"TimeLimit.truncated": False}] * 2
    assert second[2].all()
    assert set(second[3][0]) == {"TimeLimit.truncated", "terminal_observation", "episode", "cost", "won"}
    assert second[3][0]["terminal_observation"][0] == 1.0
    assert second[0][0, 0] == 0.0


def test_vec_env_says_what_a_batch_cannot_do() -> None:
    envs = SB3VecEnv(MINE, 2, render_mode="rgb_array")
    assert envs.get_attr("num_envs") == [2, 2]
    assert envs.has_attr("params")
    assert not envs.has_attr("absent")
    with pytest.raises(AttributeError, match="'x' cannot be set: the environments are one batch"):
        envs.set_attr("x", 1)
    with pytest.raises(AttributeError, match="'x' cannot be called"):
        envs.env_method("x")
    with pytest.raises(ValueError, match=r"action must have shape \(2, 1\), got shape \(2, 3\)"):
        envs.reset() is not None and envs.step(np.zeros((2, 3)))
    picture = envs.render()
    assert picture is not None
    assert picture.ndim == 3
    envs.close()


def test_sb3_evaluates_on_the_batch(trained: SB3Policy) -> None:
    from stable_baselines3.common.evaluation import evaluate_policy

    returns, lengths = evaluate_policy(trained.model, SB3VecEnv(MINE, 4), 8, return_episode_rewards=True)
    assert len(returns) == 8
    assert max(lengths) <= 12


# Training -------------------------------------------------------------------------------------------------------------


def test_training_runs_and_keeps_statistics(trained: SB3Policy) -> None:
    assert isinstance(trained, Policy)
    assert not trained.jittable
    assert trained.model.num_timesteps >= 256
    assert trained.normaliser is not None
    assert trained.normaliser.mean.shape == (3,)
    assert 0.3 < trained.normaliser.mean[2] < 0.7  # values are uniform between 0 and 1
    assert trained.normaliser.variance[2] == pytest.approx(1 / 12, rel=0.3)
    assert trained.model.ep_info_buffer  # episodes were counted


def test_the_same_seed_trains_the_same_policy() -> None:
    def run(seed: int) -> np.ndarray:
        policy = train_sb3("ppo", MINE, total_steps=128, num_envs=4, seed=seed, hyper=SHORT["ppo"])
        return policy.act(jax.random.key(0), (), some_observations())[1]

    first, again, other = run(1), run(1), run(2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_dummy_backend_trains_on_gymnasiums_environments() -> None:
    seen: list[int] = []
    policy = train_sb3(
        "ppo",
        MINE,
        changes={"ticks": 5},
        total_steps=64,
        num_envs=2,
        backend="dummy",
        hyper=SHORT["ppo"],
        callback=lambda locals_, globals_: seen.append(locals_["self"].num_timesteps),
    )
    assert policy.normaliser is None
    assert seen == list(range(2, 65, 2))
    assert max(info["l"] for info in policy.model.ep_info_buffer) == 5


def test_reward_scaling_leaves_observations_alone() -> None:
    policy = train_sb3("ppo", MINE, total_steps=64, num_envs=2, normalise_reward=True, hyper=SHORT["ppo"])
    assert policy.normaliser is None


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"algorithm": "dqn"}, ValueError, "algorithm must be one of ppo, sac, got 'dqn'"),
    ({"backend": "subproc"}, ValueError, "backend must be one of batch, dummy, got 'subproc'"),
    ({"total_steps": 0}, ValueError, "total_steps must be a whole number from 1 to .*, got 0"),
    ({"total_steps": 1e5}, ValueError, "total_steps must be a whole number from 1 to .*, got 100000.0"),
    ({"seed": -1}, ValueError, "seed must be a whole number from 0 to 4294967295, got -1"),
    ({"num_envs": 0}, ValueError, "num_envs must be a whole number from 1 to .*, got 0"),
    ({"hyper": {"learning_rat": 1e-3}}, ValueError, "hyper must name arguments of PPO .*, got 'learning_rat'"),
    ({"hyper": {"seed": 3}}, ValueError, "hyper must name arguments of PPO .*, got 'seed'"),
    ({"changes": {"bugdet": 1.0}}, TypeError, "has no field 'bugdet'"),
    ({"env_id": "mine/Absent-v0"}, KeyError, "no environment is called 'mine/Absent-v0'"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train_sb3(**{"env_id": MINE, **arguments})


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "stable_baselines3":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'adarena\[sb3\]'"):
        train_sb3("ppo", MINE)
    with pytest.raises(ImportError, match=r"pip install 'adarena\[sb3\]'"):
        sb3.SB3VecEnv  # noqa: B018


def test_importing_the_module_imports_no_torch() -> None:
    import subprocess

    code = "import sys, adarena.agents.sb3; print('torch' in sys.modules, 'stable_baselines3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "False"]


def test_lazy_attributes() -> None:
    assert sb3.SB3VecEnv is SB3VecEnv
    with pytest.raises(AttributeError, match="has no attribute 'Absent'"):
        sb3.Absent  # noqa: B018


# Policies -------------------------------------------------------------------------------------------------------------


def test_saved_policy_acts_alike(trained: SB3Policy, tmp_path: pathlib.Path) -> None:
    trained.save(tmp_path / "sub" / "model")
    again = SB3Policy.load(tmp_path / "sub" / "model.zip")
    assert type(again.model) is type(trained.model)
    obs = some_observations()
    np.testing.assert_array_equal(again.act(jax.random.key(0), (), obs)[1], trained.act(jax.random.key(1), (), obs)[1])
    assert again.normaliser is not None
    SB3Policy(trained.model).save(tmp_path / "sub" / "model")  # statistics of the former policy do not linger
    assert SB3Policy.load(tmp_path / "sub" / "model").normaliser is None


def test_bad_files_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path must name a \.zip of a Stable-Baselines3 model"):
        SB3Policy.load(tmp_path / "absent.zip")
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(ValueError, match="wasn't a zip-file"):
        SB3Policy.load(tmp_path / "text.zip")


def test_act_takes_one_or_many(trained: SB3Policy) -> None:
    obs = some_observations(4)
    carry, many = trained.act(jax.random.key(0), trained.init(None), obs)
    assert carry == ()
    assert many.shape == (4, 1)
    for one, expected in zip(obs, many, strict=True):
        action = trained.act(jax.random.key(0), (), one)[1]
        assert action.shape == (1,)
        np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(many).max() <= 1.0


def test_stochastic_actions_come_from_the_key(trained: SB3Policy) -> None:
    policy = SB3Policy(trained.model, trained.normaliser, deterministic=False)
    obs = some_observations(8)
    first, again, other = (policy.act(jax.random.key(seed), (), obs)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_converted_policy_takes_the_same_actions(trained: SB3Policy) -> None:
    generator = np.random.default_rng(1)
    parameters = trained.model.policy.state_dict()
    import torch

    with torch.no_grad():  # larger weights than a short run leaves, so that bounds and squashing count
        for value in parameters.values():
            value += 0.5 * torch.as_tensor(generator.normal(size=tuple(value.shape)), dtype=value.dtype)
    obs = 3.0 * some_observations(200) - 1.0
    converted = trained.to_jax()
    assert isinstance(converted, MlpPolicy)
    assert isinstance(converted, Policy)
    assert converted.jittable
    expected = trained.act(jax.random.key(0), (), obs)[1]
    got = jax.jit(jax.vmap(lambda one: converted.act(jax.random.key(0), (), one)[1]))(obs)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.std(expected) > 0.1


def test_converted_policy_without_statistics() -> None:
    policy = train_sb3("ppo", MINE, total_steps=64, num_envs=2, hyper=SHORT["ppo"])
    obs = some_observations()
    got = jax.vmap(lambda one: policy.to_jax().act(jax.random.key(0), (), one)[1])(obs)
    np.testing.assert_allclose(got, policy.act(jax.random.key(0), (), obs)[1], atol=1e-5)


def test_converted_policy_runs_in_the_scan() -> None:
    policy = train_sb3("ppo", MINE, total_steps=64, num_envs=2, hyper=SHORT["ppo"]).to_jax()
    env, params = adarena.envs.make(MINE)

    def tick(carry: Any, key: jax.Array) -> Any:
        state, held, obs = carry
        held, action = policy.act(key, held, obs)
        result = env.step(key, state, action, params)
        return (result.state, held, result.obs), result.reward

    obs, state = env.reset(jax.random.key(0), params)
    rewards = jax.lax.scan(tick, (state, policy.init(params), obs), jax.random.split(jax.random.key(1), 12))[1]
    assert np.isfinite(rewards).all()


def test_other_networks_are_not_converted() -> None:
    from torch import nn

    hyper = {**SHORT["ppo"], "policy_kwargs": {"net_arch": [8], "activation_fn": nn.ELU}}
    with pytest.raises(TypeError, match="only linear layers with Tanh or ReLU between them can be converted"):
        train_sb3("ppo", MINE, total_steps=64, num_envs=2, hyper=hyper).to_jax()
    hyper = {**SHORT["ppo"], "use_sde": True}
    with pytest.raises(TypeError, match="only MlpPolicy without gSDE can be converted"):
        train_sb3("ppo", MINE, total_steps=64, num_envs=2, hyper=hyper).to_jax()


def test_linear_policy_is_converted() -> None:
    hyper = {**SHORT["ppo"], "policy_kwargs": {"net_arch": []}}
    policy = train_sb3("ppo", MINE, total_steps=64, num_envs=2, hyper=hyper)
    obs = some_observations(5)
    got = jax.vmap(lambda one: policy.to_jax().act(jax.random.key(0), (), one)[1])(obs)
    np.testing.assert_allclose(got, policy.act(jax.random.key(0), (), obs)[1], atol=1e-5)


def test_normaliser_equals_vec_normalize() -> None:
    from stable_baselines3.common.vec_env import VecNormalize

    envs = VecNormalize(SB3VecEnv(MINE, 4), clip_obs=1.0)
    envs.seed(0)
    envs.reset()
    for _ in range(10):
        envs.step(np.zeros((4, 1), np.float32))
    normaliser = ObsNormaliser.of(envs)
    assert normaliser is not None
    np.testing.assert_array_equal(normaliser(envs.get_original_obs()), envs.normalize_obs(envs.get_original_obs()))
    assert ObsNormaliser.of(VecNormalize(SB3VecEnv(MINE, 2), norm_obs=False)) is None
