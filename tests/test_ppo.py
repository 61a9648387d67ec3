"""PPO: learns, is exact where exactness can be had, and refuses what it cannot do."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from toy import ChoiceEnv, EndlessEnv, TargetEnv

from adarena.agents import checkpoint, ppo, ppo_loss, training
from adarena.agents.networks import orthogonal
from adarena.agents.normalise import init_moments, normalise, rescale, update_moments
from adarena.agents.policy import Policy
from adarena.agents.ppo_config import Config, make_config

SMALL: dict[str, Any] = {
    "num_envs": 32,
    "rollout_length": 10,
    "hidden": (32,),
    "minibatches": 4,
    "learning_rate": 5e-3,
    "initial_log_std": -1.0,
}
STEPS = 320  # environment steps of one update with SMALL


def bits(tree: Any) -> list[bytes]:
    plain = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)
    ]
    return [np.asarray(x).tobytes() for x in plain]


def pick(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


init = jax.jit(ppo.init, static_argnums=1)
collect = jax.jit(ppo.collect, static_argnums=1)
update = jax.jit(ppo.update, static_argnums=1)


def evaluate(policy: ppo.PPOPolicy, env: Any, episodes: int = 64) -> jax.Array:
    """Mean return of a policy over whole episodes; pure, so it can be mapped over a stacked policy."""
    params = env.default_params()

    def episode(key: jax.Array) -> jax.Array:
        obs, state = env.reset(key, params)

        def tick(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            obs, state, memory = carry
            memory, action = policy.act(key, memory, obs)
            result = env.step(key, state, action, params)
            return (result.obs, result.state, memory), result.reward

        carry = (obs, state, policy.init(params))
        return jax.lax.scan(tick, carry, jax.random.split(key, env.length))[1].sum()

    return jax.vmap(episode)(jax.random.split(jax.random.key(99), episodes)).mean()


@pytest.fixture(scope="module")
def trained() -> tuple[Config, TargetEnv, ppo.State, pl.DataFrame, list[pl.DataFrame]]:
    """Three seeds trained for 63 updates, so that the last chunk is short."""
    config, env, seen = make_config(**SMALL), TargetEnv(), []
    states, curve = ppo.train(
        config,
        env,
        env.default_params(),
        seeds=[3, 5, 8],
        total_steps=63 * STEPS - 10,
        chunk_updates=20,
        on_chunk=lambda _, rows: seen.append(rows),
        progress=False,
    )
    return config, env, states, curve, seen


# Learning ------------------------------------------------------------------------------------------------------------


def test_learns_the_target(trained: Any) -> None:
    """A perfect policy earns 10; one that stays at zero earns about 0.4; before training all are near that."""
    config, env, states, curve, _ = trained
    policy = ppo.make_policy(config, env, states)
    returns = jax.jit(jax.vmap(lambda policy: evaluate(policy, env)))(policy)
    assert returns.shape == (3,)
    assert (np.asarray(returns) > 9.5).all(), returns
    first = curve.filter(pl.col("update") == 1)["episode_return"]
    assert first.max() < 4.0  # type: ignore[operator]


def test_curve_has_a_row_a_seed_and_update(trained: Any) -> None:
    _, _, _, curve, seen = trained
    assert curve.columns[:4] == ["seed", "update", "step", "episode_return"]
    wanted = {"policy_loss", "value_loss", "entropy", "kl", "explained_variance", "wall_seconds"}
    assert wanted <= set(curve.columns)
    assert curve.height == 63 * 3
    assert curve["seed"].unique().sort().to_list() == [3, 5, 8]
    assert (curve["step"] == curve["update"] * STEPS).all()
    assert [rows.height // 3 for rows in seen] == [20, 20, 20, 3]
    assert pl.concat(seen).equals(curve)
    numbers = curve.select(pl.selectors.float()).to_numpy()
    assert np.isfinite(numbers).all()
    assert (curve["episode_length"] == 10.0).all()
    assert curve["wall_seconds"].is_sorted()


@pytest.mark.parametrize(
    "changes",
    [
        {"distribution": "tanh_gaussian", "objective": "kl"},
        {"distribution": "beta", "normalise_observations": False, "normalise_rewards": False},
        {"distribution": "categorical", "kl_stop": 0.05, "activation": "relu"},
    ],
)
def test_other_settings_learn_too(changes: dict[str, Any]) -> None:
    env = ChoiceEnv() if changes["distribution"] == "categorical" else TargetEnv()
    config = make_config(**SMALL, **changes)
    states, _ = ppo.train(
        config, env, env.default_params(), seeds=[1], total_steps=100 * STEPS, chunk_updates=50, progress=False
    )
    policy = ppo.make_policy(config, env, pick(states, 0))
    assert jax.jit(lambda policy: evaluate(policy, env))(policy) > 8.5


@pytest.mark.parametrize("terminates", [True, False])
def test_values_are_right_at_truncation_and_at_termination(terminates: bool) -> None:
    """With discount 0.8 a tick for ever is worth 5; four ticks and an end, 2.952."""
    env = EndlessEnv(limit=4)
    params = dataclasses.replace(env.default_params(), terminates=jnp.asarray(terminates))
    config = make_config(
        num_envs=16, rollout_length=6, hidden=(32,), minibatches=4, learning_rate=1e-2, decay_steps=300 * 96,
        discount=0.8, normalise_rewards=False, max_gradient_norm=float("inf"),
    )  # fmt: skip
    states, _ = ppo.train(config, env, params, seeds=[0], total_steps=300 * 96, chunk_updates=300, progress=False)
    state = pick(states, 0)
    obs = jnp.arange(4.0)[:, None] / 4
    value = ppo_loss.value_of(config, state.network, normalise(state.obs_moments, obs))
    ticks_left = np.asarray([4, 3, 2, 1])
    expected = (1 - 0.8**ticks_left) / 0.2 if terminates else np.full(4, 5.0)
    np.testing.assert_allclose(value, expected, atol=0.15)


# Advantages ----------------------------------------------------------------------------------------------------------


def slow_gae(reward: Any, value: Any, next_value: Any, terminated: Any, truncated: Any, g: float, lam: float) -> Any:
    """The definition: each tick's advantage is the discounted sum of later errors, up to the episode's end."""
    ticks, envs = reward.shape
    out = np.zeros((ticks, envs))
    for b in range(envs):
        for t in range(ticks):
            weight = 1.0
            for k in range(t, ticks):
                after = 0.0 if terminated[k, b] else next_value[k, b]
                out[t, b] += weight * (reward[k, b] + g * after - value[k, b])
                weight *= g * lam
                if terminated[k, b] or truncated[k, b]:
                    break
    return out


@pytest.mark.parametrize(("discount", "gae_lambda"), [(0.97, 0.9), (1.0, 1.0), (0.9, 0.0)])
def test_gae_matches_a_slow_reference(discount: float, gae_lambda: float) -> None:
    rng = np.random.default_rng(0)
    reward, value, next_value = rng.normal(size=(3, 12, 6))
    terminated, truncated = rng.random((2, 12, 6)) < 0.15
    got = ppo.compute_gae(
        jnp.asarray(reward, jnp.float32),
        jnp.asarray(value, jnp.float32),
        jnp.asarray(next_value, jnp.float32),
        jnp.asarray(terminated),
        jnp.asarray(truncated),
        discount=discount,
        gae_lambda=gae_lambda,
    )
    expected = slow_gae(reward, value, next_value, terminated, truncated, discount, gae_lambda)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("terminates", [True, False])
def test_rollout_bootstraps_from_the_final_observation(terminates: bool) -> None:
    env = EndlessEnv(limit=3)
    params = dataclasses.replace(env.default_params(), terminates=jnp.asarray(terminates))
    config = make_config(num_envs=4, rollout_length=7, hidden=(8,), minibatches=1)
    state = init(config, env, params, jax.random.key(0))
    after, rollout = collect(config, env, params, state)
    chex.assert_shape((rollout.obs, rollout.raw_action), [(7, 4, 1), (7, 4, 2)])
    ends = np.asarray([False, False, True, False, False, True, False])
    np.testing.assert_array_equal(rollout.terminated, np.tile(ends[:, None] & terminates, 4))
    np.testing.assert_array_equal(rollout.truncated, np.tile(ends[:, None] & (not terminates), 4))
    np.testing.assert_array_equal(rollout.episode_return[:, 0], [1, 2, 3, 1, 2, 3, 1])
    np.testing.assert_array_equal(rollout.episode_length[:, 0], [1, 2, 3, 1, 2, 3, 1])
    np.testing.assert_array_equal(after.episode_return, np.ones(4))
    shares = np.asarray([1, 2, 3, 1, 2, 3, 1]) / 3  # what the action led to, before any reset
    led_to = ppo_loss.value_of(config, state.network, jnp.asarray(shares[:, None], jnp.float32))
    live = ~ends if terminates else np.ones(7, bool)
    np.testing.assert_allclose(rollout.next_value[live, 0], led_to[live], rtol=1e-5)
    assert int(after.steps) == 28


# The update ----------------------------------------------------------------------------------------------------------


def test_shuffling_uses_every_sample_once_and_every_tick_alike() -> None:
    rows = np.asarray(ppo_loss.shuffled_rows(jax.random.key(0), 12, 20, 5))
    assert rows.shape == (5, 48)
    np.testing.assert_array_equal(np.sort(rows.reshape(-1)), np.arange(240))
    for batch in rows:
        np.testing.assert_array_equal(np.bincount(batch // 20, minlength=12), np.full(12, 4))
    assert (rows != np.asarray(ppo_loss.shuffled_rows(jax.random.key(1), 12, 20, 5))).any()


def test_first_step_has_ratio_one_and_steps_stop_at_the_kl_limit() -> None:
    """The first step sees the policy that acted; the second sees what the first did."""
    env = TargetEnv()
    params = env.default_params()
    config = make_config(**{**SMALL, "num_envs": 8, "epochs": 2})
    state, rollout = collect(config, env, params, init(config, env, params, jax.random.key(0)))
    free, _ = update(config, env, state, rollout)
    stopped, _ = update(dataclasses.replace(config, kl_stop=1e-9), env, state, rollout)
    assert (int(free.optimiser[1].count), int(stopped.optimiser[1].count)) == (8, 1)
    assert bits(stopped.network) != bits(state.network)


def test_kl_weight_follows_the_divergence() -> None:
    config = make_config(objective="kl", kl_target=0.01)
    weights = [float(ppo_loss.next_kl_weight(config, jnp.asarray(1.0), jnp.asarray(kl))) for kl in (0.02, 0.01, 0.001)]
    assert weights == [2.0, 1.0, 0.5]


def test_moments_match_numpy() -> None:
    batches = np.random.default_rng(0).normal(3.0, 5.0, (4, 7, 6, 2)).astype(np.float32)
    moments = init_moments((2,))
    for batch in batches:
        moments = update_moments(moments, jnp.asarray(batch))
    flat = batches.reshape(-1, 2)
    assert float(moments.count) == len(flat)
    np.testing.assert_allclose(moments.mean, flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, flat.var(0), rtol=1e-5)
    standard = np.asarray(normalise(moments, jnp.asarray(flat), clip=1.5))
    np.testing.assert_allclose(standard, np.clip((flat - flat.mean(0)) / flat.std(0), -1.5, 1.5), atol=1e-4)
    np.testing.assert_allclose(rescale(moments, jnp.asarray(flat)), np.clip(flat / flat.std(0), -10, 10), rtol=1e-4)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (64, 64)])
def test_orthogonal_matrices(shape: tuple[int, int]) -> None:
    matrix = np.asarray(orthogonal(2.0)(jax.random.key(0), shape))
    gram = matrix.T @ matrix if shape[0] >= shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(gram, 4.0 * np.eye(min(shape)), atol=1e-5)


# Seeds, sweeps, compilation ------------------------------------------------------------------------------------------


def test_a_seed_among_others_learns_as_it_does_alone(trained: Any) -> None:
    config, env, _, curve, _ = trained
    _, alone = ppo.train(
        config, env, env.default_params(), seeds=[5], total_steps=4 * STEPS, chunk_updates=20, progress=False
    )
    together = curve.filter((pl.col("seed") == 5) & (pl.col("update") <= 4))
    for name in ("episode_return", "value_loss", "entropy", "explained_variance"):
        np.testing.assert_allclose(alone[name], together[name], rtol=2e-3, atol=2e-4)


def test_the_same_run_twice_gives_the_same_bits(trained: Any) -> None:
    config, env, states, curve, _ = trained
    again, curve_again = ppo.train(
        config, env, env.default_params(), seeds=[3, 5, 8], total_steps=63 * STEPS, chunk_updates=20, progress=False
    )
    assert bits(again) == bits(states)
    assert curve_again.drop("wall_seconds").equals(curve.drop("wall_seconds"))


def test_learning_rates_are_swept_in_one_program(trained: Any) -> None:
    """One entry a seed, in the program that the fixture compiled: nothing is traced again."""
    _, env, _, curve, _ = trained
    config = make_config(**{**SMALL, "learning_rate": np.asarray([5e-3, 5e-3, 1e-6])})
    programs: Any = training._run_chunk
    before = programs._cache_size()
    _, swept = ppo.train(
        config, env, env.default_params(), seeds=[3, 5, 8], total_steps=10 * STEPS, chunk_updates=20, progress=False
    )
    assert programs._cache_size() == before
    rates = swept.filter(pl.col("update") == 10)["learning_rate"].to_numpy()
    np.testing.assert_allclose(rates, [5e-3, 5e-3, 1e-6], rtol=1e-6)
    same = curve.filter(pl.col("update") <= 10).drop("wall_seconds")
    changed = swept.drop("wall_seconds")
    fast, slow = pl.col("seed") != 8, pl.col("seed") == 8
    assert changed.filter(fast).equals(same.filter(fast))
    assert changed.filter(slow)["kl"].abs().max() < 1e-5 < same.filter(slow)["kl"].max()  # type: ignore[operator]


def test_an_update_is_traced_once_whatever_the_numbers() -> None:
    """Once for the metrics' shapes and once for the loop, over chunks, runs, configs and parameters."""
    chex.clear_trace_counter()
    advance = chex.assert_max_traces(ppo.advance, n=2)
    env = TargetEnv(length=3)
    for entropy, penalty in ((0.0, 1.0), (1e-2, 4.0)):
        config = make_config(num_envs=4, rollout_length=3, hidden=(4,), minibatches=2, entropy=entropy)
        params = dataclasses.replace(env.default_params(), penalty=jnp.asarray(penalty))
        training.run(
            ppo.init, advance, config, env, params,
            steps_per_update=12, seeds=[0, 1], total_steps=60, chunk_updates=2, progress=False,
        )  # fmt: skip


def test_market_data_is_an_argument_and_not_a_constant() -> None:
    env = TargetEnv(length=3)
    bank = jnp.asarray(np.random.default_rng(0).uniform(-0.8, 0.8, 200_000), jnp.float32)
    params = dataclasses.replace(env.default_params(), bank=bank)
    config = make_config(num_envs=4, rollout_length=3, hidden=(4,), minibatches=2)
    config = jax.tree.map(lambda leaf: jnp.full(2, leaf, jnp.float32), config)
    states = training._init_all(ppo.init, env, config, params, jnp.arange(2, dtype=jnp.uint32))
    program = training._run_chunk.lower(ppo.advance, env, 2, config, params, states, 2).as_text()
    assert "tensor<200000xf32>" in program
    assert "tensor<2x200000xf32>" not in program
    assert len(program) < 800_000  # the bank alone would be 1.6 MB of hexadecimal


# Policies ------------------------------------------------------------------------------------------------------------


def test_policies_act_within_the_action_space() -> None:
    env = EndlessEnv()
    params = env.default_params()
    config = make_config(**SMALL)
    state = init(config, env, params, jax.random.key(0))
    mean = ppo.make_policy(config, env, state)
    drawn = ppo.make_policy(config, env, state, stochastic=True)
    assert isinstance(mean, Policy)
    assert mean.jittable
    obs = jnp.full(1, 0.5)
    centre = mean.act(jax.random.key(1), mean.init(params), obs)[1]
    np.testing.assert_allclose(centre, [0.5, 0.5], atol=0.1)  # near the middle of [-2, 3] before training
    np.testing.assert_array_equal(centre, mean.act(jax.random.key(2), (), obs)[1])
    wide = dataclasses.replace(drawn, network={**state.network, "log_std": jnp.full(2, 2.0)})
    actions = np.asarray(jax.vmap(lambda key: wide.act(key, (), obs)[1])(jax.random.split(jax.random.key(3), 200)))
    assert actions.min() == -2.0
    assert actions.max() == 3.0
    assert env.action_space(params).contains(actions[0])
    np.testing.assert_array_equal(
        ppo.act(config, state, jax.random.key(4), obs), drawn.act(jax.random.key(4), (), obs)[1]
    )


# Going on ------------------------------------------------------------------------------------------------------------


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from toy import TargetEnv
from adarena.agents import ppo
env = TargetEnv(length=5)
def stop(states, rows):
    if rows["update"].max() == 6:
        os._exit(9)
config = ppo.make_config(num_envs=8, rollout_length=5, hidden=(8,), minibatches=2, decay_steps=200.0)
ppo.train(config, env, env.default_params(), seeds=[2, 7], total_steps=400, chunk_updates=2,
          checkpoint={folder!r}, on_chunk=stop, progress=False)
"""


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """A process dies in its third chunk; another resumes after the second and ends as a run that nothing stopped."""
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 9
    assert checkpoint.steps(tmp_path) == [2, 4]
    env = TargetEnv(length=5)
    config = make_config(num_envs=8, rollout_length=5, hidden=(8,), minibatches=2, decay_steps=200.0)
    arguments: dict[str, Any] = {"seeds": [2, 7], "total_steps": 400, "chunk_updates": 2, "progress": False}
    straight, curve = ppo.train(config, env, env.default_params(), **arguments)
    resumed, curve_resumed = ppo.train(config, env, env.default_params(), **arguments, checkpoint=tmp_path, resume=True)
    assert bits(resumed) == bits(straight)
    rates = curve.filter(pl.col("seed") == 7)["learning_rate"]  # falls to zero over the first half
    np.testing.assert_allclose(rates[:6], [3e-4, 2.4e-4, 1.8e-4, 1.2e-4, 6e-5, 0.0], rtol=1e-5, atol=1e-12)
    assert curve_resumed.drop("wall_seconds").equals(curve.drop("wall_seconds"))
    # A finished run is only read back; one of another make is refused, and so is a damaged one.
    finished, _ = ppo.train(config, env, env.default_params(), **arguments, checkpoint=tmp_path, resume=True)
    assert bits(finished) == bits(straight)
    others: list[tuple[dict[str, Any], str]] = [
        ({"config": dataclasses.replace(config, clip=0.3)}, "clip was"),
        ({"config": dataclasses.replace(config, epochs=2)}, "epochs was 4, now 2"),
        ({"env": TargetEnv(length=6)}, "env was"),
        ({"params": dataclasses.replace(env.default_params(), penalty=jnp.asarray(1.0))}, "params was"),
        ({"seeds": [2, 8]}, "seeds was"),
    ]
    for changes, reason in others:
        given = {"config": config, "env": env, "params": env.default_params(), **arguments, **changes}
        with pytest.raises(checkpoint.CheckpointError, match=reason) as caught:
            ppo.train(**given, checkpoint=tmp_path, resume=True)
        assert str(tmp_path) in str(caught.value)
    for file in (tmp_path / f"{checkpoint.steps(tmp_path)[-1]:09d}" / "arrays").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(checkpoint.CheckpointError, match="000000010: its arrays cannot be read"):
        ppo.train(config, env, env.default_params(), **arguments, checkpoint=tmp_path, resume=True)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("num_envs", 0, "a whole number of at least 1"),
        ("num_envs", 2.0, "a whole number of at least 1"),
        ("num_envs", 100, "a multiple of minibatches"),
        ("rollout_length", -1, "a whole number of at least 1"),
        ("epochs", True, "a whole number of at least 1"),
        ("minibatches", "8", "a whole number of at least 1"),
        ("hidden", [64, 64], "a non-empty tuple"),
        ("hidden", (64, 0), "a non-empty tuple"),
        ("activation", "sine", "one of tanh, relu, elu, swish"),
        ("distribution", "laplace", "one of gaussian, tanh_gaussian, beta, categorical"),
        ("objective", "trust", "one of clip, kl"),
        ("normalise_rewards", 1, "True or False"),
        ("learning_rate", 0.0, "a finite number above 0"),
        ("learning_rate", float("nan"), "a finite number above 0"),
        ("learning_rate", np.asarray([1e-3, -1e-3]), "a finite number above 0"),
        ("decay_steps", 0.0, "a number above 0"),
        ("discount", 1.01, r"a number in \[0, 1\]"),
        ("gae_lambda", -0.1, r"a number in \[0, 1\]"),
        ("clip", 1.0, "strictly between 0 and 1"),
        ("entropy", -1e-3, "a finite number of at least 0"),
        ("value", None, "a finite number of at least 0"),
        ("max_gradient_norm", "big", "a number above 0"),
        ("kl_target", float("inf"), "a finite number above 0"),
        ("kl_stop", -1.0, "a number above 0"),
        ("initial_log_std", 5.0, r"a number in \[-10, 2\]"),
    ],
)
def test_bad_hyper_parameters_are_named(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be .*{allowed}.*got ") as caught:
        make_config(**{field: value})
    assert repr(value) in str(caught.value)


def test_unknown_hyper_parameter() -> None:
    with pytest.raises(TypeError, match="no field 'learning_rat'; fields: num_envs"):
        make_config(learning_rat=1.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seeds": []}, r"seeds must be distinct whole numbers .* got \[\]"),
        ({"seeds": [1, 1]}, r"seeds must be distinct .* got \[1, 1\]"),
        ({"seeds": [-1]}, r"seeds must be .* got \[-1\]"),
        ({"seeds": [0.5]}, r"seeds must be .* got \[0.5\]"),
        ({"total_steps": 0}, "total_steps must be a whole number of at least 1, got 0"),
        ({"total_steps": 2**31}, r"total_steps must be below 2\^31, got 2147483648"),
        ({"chunk_updates": 0}, "chunk_updates must be a whole number of at least 1, got 0"),
        ({"resume": True}, "checkpoint must name a folder when resume is True, got None"),
        ({"config": Config(clip=2.0)}, "clip must be"),
        ({"config": Config(clip=np.asarray([0.1, 0.2]))}, r"clip must be one number or one a seed \(1\)"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments_of_train(changes: dict[str, Any], reason: str) -> None:
    env = TargetEnv()
    given = {"config": Config(), "env": env, "params": env.default_params(), "seeds": [0], "total_steps": 10, **changes}
    with pytest.raises(ValueError, match=reason):
        ppo.train(**given)


@pytest.mark.parametrize(
    ("env", "distribution", "reason"),
    [
        (ChoiceEnv(), "gaussian", "distribution must be 'categorical' for action space Discrete.*got 'gaussian'"),
        (TargetEnv(), "categorical", "distribution must be 'gaussian', 'tanh_gaussian' or 'beta' .*got 'categorical'"),
    ],
)
def test_distribution_must_suit_the_action_space(env: Any, distribution: str, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        ppo.init(make_config(distribution=distribution), env, env.default_params(), jax.random.key(0))
