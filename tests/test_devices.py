"""Shards of a batch: the same numbers on one device and on two, and the same update as of the batch in one piece."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import TargetEnv

from adarena.agents import ppo
from adarena.agents.checkpoint import CheckpointError
from adarena.agents.normalise import init_moments, update_moments
from adarena.agents.ppo_config import Config, make_config
from adarena.agents.ppo_loss import shuffled_rows
from adarena.agents.ppo_state import join_state, split_state
from adarena.agents.shards import Axes, choose_devices, key_of, mean, number_of, over_shards, variance
from adarena.agents.training import _as_known
from adarena.envs import AutoBid
from adarena.experiments.rollout import rollout

SMALL: dict[str, Any] = {"num_envs": 8, "rollout_length": 10, "hidden": (16,), "minibatches": 2}

# Runs in a process of its own that sees two devices, and prints what differs between one and two of them.
_TWO_DEVICES = """
import json, sys
import jax, numpy as np
from adarena.agents import ppo
from adarena.agents.ppo_config import make_config
from adarena.envs import make
from adarena.experiments.rollout import rollout, rollout_seeds

def plain(tree):
    is_key = lambda x: jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x, np.float64).tolist() for x in jax.tree.leaves(tree)]

small, folder = json.loads(sys.argv[1]), sys.argv[2]
small["hidden"] = tuple(small["hidden"])
env, params = make(
    "adarena/AutoBid-v0", advertisers=4, ticks=4, impressions=8, blocks=4, slots=2, categories=2, traffic="synthetic"
)
config = make_config(**small, shards=4)
steps = config.num_envs * config.rollout_length

def train(devices, updates, **more):
    more = {"seeds": [3, 5], "chunk_updates": 3, "progress": False, "devices": devices} | more
    return ppo.train(config, env, params, total_steps=updates * steps, **more)

seen = []
runs = [train(1, 5), train(2, 5, on_chunk=lambda states, _: seen.append(len(states.obs.sharding.device_set)))]
train(None, 3, checkpoint=folder)
resumed = train(2, 5, checkpoint=folder, resume=True)
said = {
    "devices": jax.device_count(),
    "spread": seen,
    "trained": [[plain(states), curve.drop("wall_seconds").to_numpy().tolist()] for states, curve in runs],
    "resumed": plain(resumed[0]),
}
policies = ppo.make_policy(config, env, runs[1][0])
first = jax.tree.map(lambda x: x[0], policies)
cases, keys = {"seat": np.asarray([0, 1, 2, 3, 0])}, jax.random.split(jax.random.key(1), 5)
results = [rollout(env, params, first, keys, cases, record=("action",), devices=d) for d in (None, 2)]
several = rollout_seeds(env, params, policies, keys, cases, record=("action",), chunk=4, devices=2)
results.append([{key: x[0] for key, x in part.items()} for part in several])
said["rollouts"] = [{key: x.tolist() for part in result for key, x in part.items()} for result in results]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program above says."""
    variables = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",  # compiling is nearly all that this costs
    }
    folder = tmp_path_factory.mktemp("devices") / "checkpoint"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", _TWO_DEVICES, json.dumps(SMALL), str(folder)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["devices"] == 2
    return said


def near(one: Any, other: Any, tolerance: float = 1e-4) -> None:
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance)


def test_two_devices_learn_what_one_learns(two: dict[str, Any]) -> None:
    """Every leaf of the state (parameters, optimiser, normalisers, environments, keys) and every number of the curve."""
    (one_state, one_curve), (two_state, two_curve) = two["trained"]
    near(one_state, two_state)
    near(one_curve, two_curve)


def test_environments_lie_on_both_devices_and_a_run_goes_on(two: dict[str, Any]) -> None:
    assert two["spread"] == [2, 2]
    for one, other in zip(two["resumed"], two["trained"][1][0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_episodes_on_two_devices_are_those_on_one(two: dict[str, Any]) -> None:
    """An odd number of them, in their order; also by chunks, for several policies at once."""
    one, *others = two["rollouts"]
    assert np.shape(one["return"]) == (5,)
    assert np.ptp(one["seat"]) == 3
    for other in others:
        assert set(one) == set(other)
        for key, value in one.items():
            np.testing.assert_allclose(value, other[key], rtol=1e-4, atol=1e-4, err_msg=key)


# What shards are -----------------------------------------------------------------------------------------------------


def test_averages_over_shards_are_those_of_the_whole() -> None:
    values = jax.random.normal(jax.random.key(0), (12, 5)) + 3.0
    chosen = jnp.arange(12) % 5 == 0

    def shard(axes: Axes, own: Any, shared: Any) -> tuple[Any, Any]:
        numbers = {
            "mean": mean(own[0], axes),
            "where": mean(own[0], axes, own[1][:, None] & jnp.ones(5, bool)),
            "variance": variance(own[0], axes),
            "moments": update_moments(update_moments(init_moments((5,)), own[0], axes), 2.0 * own[0], axes),
        }
        drawn = jax.random.uniform(key_of(shared, axes), (len(own[0]),))
        return (jnp.full(len(own[0]), number_of(axes)), drawn), numbers

    (number, drawn), numbers = over_shards(shard, (values, chosen), jax.random.key(1), shards=4, devices=1)
    np.testing.assert_array_equal(number, np.repeat(np.arange(4), 3))
    assert len(np.unique(drawn)) == 12, "each shard draws for itself"
    np.testing.assert_allclose(numbers["mean"], values.mean(), rtol=1e-5)
    np.testing.assert_allclose(numbers["where"], values[chosen].mean(), rtol=1e-5)
    np.testing.assert_allclose(numbers["variance"], values.var(), rtol=1e-5)
    whole = update_moments(update_moments(init_moments((5,)), values), 2.0 * values)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), numbers["moments"], whole)


def test_what_differs_between_shards_is_not_shared() -> None:
    with pytest.raises(ValueError, match="out_axes is None"):
        over_shards(lambda axes, own, shared: (own, own.mean()), jnp.arange(4.0), None, shards=2, devices=1)


def test_an_update_in_shards_is_that_of_the_whole_batch() -> None:
    """One minibatch, so that it does not matter how it is shuffled: same parameters, normalisers and metrics."""
    env = TargetEnv()
    params = env.default_params()
    config = make_config(**{**SMALL, "minibatches": 1}, epochs=2, decay_steps=1e4, entropy=0.1)
    sharded = dataclasses.replace(config, shards=4)
    state, seen = jax.jit(lambda: ppo.collect(config, env, params, ppo.init(config, env, params, jax.random.key(2))))()
    whole, metrics = jax.jit(lambda: ppo.update(config, env, state, seen))()

    def shard(axes: Axes, own: Any, rest: Any) -> tuple[Any, Any]:
        mine, rows = own
        gathered = jax.tree.map(lambda x: x.swapaxes(0, 1), rows)
        new, metrics = ppo.update(sharded, env, join_state(mine, rest), gathered, axes=axes)
        mine, rest = split_state(new)
        return mine, (rest, metrics)

    own, rest = split_state(state)
    by_env = jax.tree.map(lambda x: x.swapaxes(0, 1), seen)
    own, (rest, other) = jax.jit(lambda: over_shards(shard, (own, by_env), rest, shards=4, devices=1))()
    pairs = ((join_state(own, rest), whole), (other, metrics))
    for one, two in pairs:
        for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
            if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-5, err_msg=jax.tree_util.keystr(path))


def test_every_sample_is_used_once_a_pass_and_shards_shuffle_apart() -> None:
    def shard(axes: Axes, own: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        rows = shuffled_rows(key_of(key, axes), 5, len(own), 2)
        return own.repeat(5).reshape(-1, 5).T.reshape(-1)[rows].T.reshape(len(own), -1), None

    used, _ = over_shards(shard, jnp.arange(8), jax.random.key(0), shards=2, devices=1)
    np.testing.assert_array_equal(np.bincount(np.asarray(used).ravel()), np.full(8, 5))
    assert not np.array_equal(used[:4], used[4:] - 4)


def test_shards_learn(tmp_path: Path) -> None:
    """On the one device that there is; another number of shards is another run."""
    config = make_config(num_envs=32, rollout_length=10, hidden=(32,), minibatches=4, learning_rate=5e-3, shards=4)
    env = TargetEnv()
    arguments: dict[str, Any] = {"seeds": [3], "total_steps": 320 * 40, "progress": False, "checkpoint": tmp_path}
    _, curve = ppo.train(config, env, env.default_params(), chunk_updates=40, **arguments)
    assert curve["episode_return"][-1] > 7.0 > 3.0 > curve["episode_return"][0]
    whole = dataclasses.replace(config, shards=1)
    with pytest.raises(CheckpointError, match="another run: shards was 4, now 1"):
        ppo.train(whole, env, env.default_params(), resume=True, **arguments)


def test_a_case_by_itself_is_what_it_is_among_others() -> None:
    """Which is played without a batch, for large markets."""
    env = TargetEnv()
    policy = ppo.make_policy(make_config(**SMALL), env, ppo.init(make_config(**SMALL), env, env.default_params(), KEY))
    keys = jax.random.split(jax.random.key(4), 3)
    together, apart = (rollout(env, env.default_params(), policy, keys, record=("action",), chunk=n) for n in (3, 1))
    for name in together.metrics:
        np.testing.assert_allclose(together.metrics[name], apart.metrics[name], rtol=1e-5)
    np.testing.assert_allclose(together.series["action"], apart.series["action"], rtol=1e-5)


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_config(shards=0), "shards must be a whole number of at least 1, got 0"),
        (lambda: make_config(num_envs=16, shards=4), r"multiple of minibatches \* shards \(8 \* 4\), got 16"),
        (lambda: choose_devices(4, 3), r"devices must divide shards \(4\) and be at most \d+, .* got 3"),
        (lambda: choose_devices(1, 2), r"devices must divide shards \(1\)"),
        (lambda: choose_devices(2, True), "got True"),
        (
            lambda: rollout(TargetEnv(), TargetEnv().default_params(), _policy(), jax.random.split(KEY, 2), devices=0),
            "devices must be a whole number from 1 to .* got 0",
        ),
    ],
)
def test_what_cannot_be_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_as_many_devices_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert [choose_devices(shards, None) for shards in (1, 2, 3, 4, 6, 8)] == [1, 2, 3, 4, 3, 4]


def _policy() -> ppo.PPOPolicy:
    config: Config = make_config(**SMALL)
    env = TargetEnv()
    return ppo.make_policy(config, env, ppo.init(config, env, env.default_params(), KEY))


def test_a_field_that_came_later_leaves_old_checkpoints_usable() -> None:
    env = AutoBid(advertisers=5)
    assert _as_known(env, repr(env)) == repr(env)
    old = repr(env).replace(", observation='full'", "").replace(", overspend='in_order'", "")
    assert _as_known(env, old) == old
    assert _as_known(dataclasses.replace(env, overspend="drop"), old) != old, "a field that matters still does"
