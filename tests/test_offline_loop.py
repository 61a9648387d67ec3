"""The loop of learning from logs: stopped runs go on bit for bit, others are refused, policies play."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from offline_chain import COUNT, SPEC, chain_data, episodes_of
from toy import TargetEnv

from adarena.agents.checkpoint import CheckpointError
from adarena.agents.offline import bc, cql, iql, loop, td3_bc
from adarena.agents.offline.data import Data, make_data, spec_of
from adarena.agents.policy import Policy
from adarena.experiments.rollout import rollout_seeds

WIDTHS: dict[str, Any] = {"hidden": (8,), "batch": 16}


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def data() -> Data:
    """The chain."""
    return chain_data()


def trained(algorithm: Any, data: Data, steps: int, **rest: Any) -> tuple[Any, Any]:
    """States of two seeds and the curve. All calls share one program an algorithm."""
    config = algorithm.make_config(**WIDTHS, **rest.pop("changes", {}))
    sizes: dict[str, Any] = {"seeds": [3, 5], "log_steps": 5, "chunk_updates": 2, "progress": False}
    return loop.train(algorithm, config, data, total_steps=steps, **(sizes | rest))


def bits(tree: Any) -> list[np.ndarray]:
    """Leaves as NumPy arrays, keys by their data."""
    leaves = jax.tree.leaves(tree)
    keys = (jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves)
    return [np.asarray(jax.random.key_data(leaf) if key else leaf) for leaf, key in zip(leaves, keys, strict=True)]


@pytest.mark.parametrize("algorithm", [bc, td3_bc, iql, cql])
def test_a_stopped_run_goes_on_bit_for_bit(algorithm: Any, data: Data, tmp_path: Path) -> None:
    whole, curve = trained(algorithm, data, 35)
    trained(algorithm, data, 15, checkpoint=tmp_path)
    resumed, again = trained(algorithm, data, 35, checkpoint=tmp_path, resume=True)
    for a, b in zip(bits(whole), bits(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert curve.drop("wall_seconds").equals(again.drop("wall_seconds"))
    assert curve["step"].to_list() == [n for n in range(5, 36, 5) for _ in range(2)]
    assert np.asarray(whole.common.steps).tolist() == [35, 35]
    first, second = (jax.tree.map(lambda x, s=s: x[s], whole.actor.params) for s in range(2))
    assert any((a != b).any() for a, b in zip(bits(first), bits(second), strict=True))


_KILLED = """
import os, pathlib, signal, sys
import jax
import test_offline_loop as here
from adarena.agents.offline import iql

jax.config.update("jax_disable_most_optimizations", True)  # as `quick_compilation` does: other programs, other bits
chunks = []
def killing(*_):
    chunks.append(1)
    if len(chunks) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

here.trained(iql, here.chain_data(), 65, checkpoint=pathlib.Path(sys.argv[1]), on_chunk=killing)
"""


def test_a_process_killed_in_training_goes_on_bit_for_bit(data: Data, tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path)], env=environ, capture_output=True, text=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    chunks: list[Any] = []
    resumed, again = trained(iql, data, 65, checkpoint=tmp_path, resume=True, on_chunk=lambda *_: chunks.append(1))
    assert 0 < len(chunks) < 7, "of seven chunks some had been done"
    whole, curve = trained(iql, data, 65)
    for a, b in zip(bits(whole), bits(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert curve.drop("wall_seconds").equals(again.drop("wall_seconds"))


def test_a_checkpoint_of_another_run_is_refused(data: Data, tmp_path: Path) -> None:
    trained(bc, data, 10, checkpoint=tmp_path)
    other = chain_data(seed=1)
    cases: list[tuple[Any, Data, dict[str, Any], str]] = [
        (bc, other, {}, r"checkpoint of another run: data was [0-9a-f]{8}, now [0-9a-f]{8}"),
        (iql, data, {}, "checkpoint of another run: algorithm was bc, now iql"),
        (bc, data, {"changes": {"learning_rate": 0.1}}, "another run: learning_rate was"),
        (bc, data, {"log_steps": 10}, "another run: log_steps was 5, now 10"),
        (bc, data, {"seeds": [3, 4]}, "another run: seeds was"),
    ]
    for algorithm, given, rest, message in cases:
        with pytest.raises(CheckpointError, match=message):
            trained(algorithm, given, 20, checkpoint=tmp_path, resume=True, **rest)


def test_one_changed_reward_is_other_data(data: Data, tmp_path: Path) -> None:
    trained(bc, data, 10, checkpoint=tmp_path)
    changed = dataclasses.replace(data, rewards=data.rewards.at[7, 1].add(1e-3))
    with pytest.raises(CheckpointError, match="another run: data was"):
        trained(bc, changed, 20, checkpoint=tmp_path, resume=True)


def test_a_damaged_checkpoint_is_refused(data: Data, tmp_path: Path) -> None:
    trained(bc, data, 10, checkpoint=tmp_path)
    largest = max((p for p in tmp_path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    largest.write_bytes(content)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        trained(bc, data, 20, checkpoint=tmp_path, resume=True)


def test_numbers_may_differ_by_seed(data: Data) -> None:
    changes = {"learning_rate": jnp.asarray([1e-9, 1e-2])}
    actor = trained(bc, data, 10, changes=changes)[0].actor.params
    start = trained(bc, data, 10, changes={"learning_rate": 1e-9})[0].actor.params
    moved = [np.abs(a - b).max((*range(1, a.ndim),)) for a, b in zip(bits(actor), bits(start), strict=True)]
    assert max(m[0] for m in moved) == 0.0
    assert max(m[1] for m in moved) > 1e-3


def test_what_makes_no_sense_is_refused(data: Data) -> None:
    with pytest.raises(ValueError, match="log_steps must be a whole number of at least 1, got 0"):
        trained(bc, data, 10, log_steps=0)
    with pytest.raises(ValueError, match="total_steps must be a whole number of at least 1, got 0"):
        trained(bc, data, 0)
    cut = dataclasses.replace(data, terminated=jnp.zeros_like(data.terminated))
    with pytest.raises(ValueError, match=r"discount must be below 1 where no episode is terminated, got 1.0"):
        trained(iql, cut, 10)
    with pytest.raises(ValueError, match=r"batch must be a whole number of at least 1, got 0"):
        loop.train(bc, bc.Config(batch=0), data, seeds=[0], total_steps=1)


def test_policies_of_all_seeds_play_in_an_environment() -> None:
    """Cloned from actions at the target, with noise, the policy reaches nearly the best return, 10."""
    env = TargetEnv()
    params = env.default_params()
    draw = np.random.default_rng(0)
    obs = draw.uniform(-0.8, 0.8, (COUNT, 3, 3))
    unit = np.clip(obs[:, :2, :1] + 0.1 * draw.normal(size=(COUNT, 2, 1)), -1.0, 1.0)
    data = make_data(episodes_of(obs, 2.0 * unit, np.ones((COUNT, 2))), SPEC)
    config = bc.make_config(**WIDTHS, learning_rate=1e-2)
    states, _ = trained(bc, data, 1500, changes={"learning_rate": 1e-2})
    policy = bc.make_policy(config, spec_of(env, params), states)  # where 1 means 1, not 2
    assert isinstance(policy, Policy)
    result = rollout_seeds(env, params, policy, jax.random.split(jax.random.key(0), 8), record=["action"], chunk=16)
    assert result.metrics["return"].shape == (2, 8)
    assert result.metrics["return"].mean() > 9.5
    wide = bc.make_policy(config, SPEC, jax.tree.map(lambda x: x[0], states))
    far = jax.vmap(lambda obs: wide.act(jax.random.key(0), (), obs)[1])(
        100.0 * jax.random.normal(jax.random.key(1), (64, 3))
    )
    assert float(jnp.abs(far).max()) <= 2.0
    assert float(jnp.abs(far).max()) > 1.0  # -1 and 1 mean the ends of the bounds
