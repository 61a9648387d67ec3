"""Logged episodes of which everything is known, for tests of sequence models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adarena.agents.offline.data import Data, Spec, make_data
from adarena.agents.offline.episodes import Episodes
from adarena.agents.offline.loop import train
from adarena.agents.offline.returns import Meter

STEPS = 6
SPEC = Spec(3, (-1.0,), (1.0,))
EARNED = Meter("entry", (0,))
_CHUNKS: dict[str, Any] = {
    "log_steps": 25,
    "chunk_updates": 1,
    "progress": False,
}  # one program for all that is trained
SMALL: dict[str, Any] = {"context": 4, "width": 16, "layers": 1, "heads": 2, "batch": 64, "learning_rate": 5e-3}


def signed_line(count: int = 256, *, level: float = 1.0, noise: float = 0.05) -> Episodes:
    """Episodes in which a step pays its action times a sign that is seen and stays.

    The observation is (earned so far, sign, noise). Each episode has a level of its own, even in [-level, level], and plays it,
    more or less, times the sign. So a return ``R`` is had by playing ``sign x R / STEPS`` at every step, and no other way.
    """
    rng = np.random.default_rng(0)
    sign = rng.choice([-1.0, 1.0], count)[:, None]
    actions = sign * rng.uniform(-level, level, (count, 1)) + noise * rng.standard_normal((count, STEPS))
    actions = np.clip(actions, -1.0, 1.0)
    rewards = actions * sign
    earned = np.concatenate([np.zeros((count, 1)), rewards.cumsum(1)], 1)
    seen = [earned, np.broadcast_to(sign, earned.shape), rng.uniform(-1.0, 1.0, earned.shape)]
    terminated = np.zeros((count, STEPS), bool)
    terminated[:, -1] = True
    return Episodes(
        np.stack(seen, -1).astype(np.float32),
        actions[..., None].astype(np.float32),
        rewards.astype(np.float32),
        terminated,
        np.full((count, STEPS), np.nan, np.float32),
        np.zeros(count, np.int32),
        np.arange(count, dtype=np.int64),
    )


def line_data(**changes: Any) -> Data:
    """`signed_line` as learners read it."""
    return make_data(signed_line(**changes), SPEC)


@jax.jit
def play(policy: Any, sign: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
    """One episode: observations ``[STEPS, 3]``, actions ``[STEPS]``, and the policy's carries ``[STEPS, ...]``."""

    def step(carry: Any, key: jax.Array) -> tuple[Any, Any]:
        memory, earned = carry
        obs = jnp.stack([earned, sign, 0.0])
        memory, action = policy.act(key, memory, obs)
        return (memory, earned + action[0] * sign), (obs, action[0], memory)

    return jax.lax.scan(step, (policy.init(None), jnp.float32(0.0)), jax.random.split(key, STEPS))[1]


def returns(policy: Any, target: float) -> np.ndarray:
    """What is earned with either sign when ``target`` is asked for, ``[2]``."""
    policy = policy.replace(target=jnp.float32(target))
    return np.asarray(
        [s * np.asarray(play(policy, jnp.float32(s), jax.random.key(0))[1]).sum() for s in (-1.0, 1.0)], np.float64
    )


def trained(algorithm: Any, config: Any, data: Data, steps: int) -> Any:
    """The state of one seed after ``steps`` gradient steps, and the learning curve."""
    states, curve = train(algorithm, config, data, seeds=[0], total_steps=steps, **_CHUNKS)
    return jax.tree.map(lambda x: x[0], states), curve


def check_resumes(algorithm: Any, config: Any, data: Data, folder: Path) -> None:
    """A run that was stopped and goes on has the bits of one that was not."""

    def run(steps: int, **rest: Any) -> Any:
        return train(algorithm, config, data, seeds=[3], total_steps=steps, **_CHUNKS, **rest)[0]

    whole = run(2 * 25)
    run(25, checkpoint=folder)
    resumed = run(2 * 25, checkpoint=folder, resume=True)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b)
