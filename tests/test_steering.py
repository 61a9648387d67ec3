"""A steered lifecycle: what five numbers mean, and that wrapper and policy mean the same."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adarena import envs
from adarena.agents.rules.lifecycle_base import ranges_of
from adarena.agents.steering import ENTRIES, Steered, Steering
from adarena.envs.lifecycle import Lifecycle

pytestmark = pytest.mark.usefixtures("quick_compilation")


@flax.struct.dataclass
class Fixed:
    """The same five numbers in every tick; counts its ticks."""

    action: jax.Array

    jittable: ClassVar[bool] = True

    def init(self, params: Any) -> jax.Array:
        return jnp.int32(0)

    def act(self, key: jax.Array, carry: jax.Array, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        return carry + 1, self.action


@functools.cache
def campaign() -> tuple[Lifecycle, Any]:
    env, params = envs.make("adarena/Lifecycle-v0", rivals=3, creatives=3, days=2, ticks_per_day=4, impressions=16)
    assert isinstance(env, Lifecycle)
    return env, params


def rule_of(env: Lifecycle, action: Any) -> Steering:
    return dataclasses.replace(Steering.build(env), policy=Fixed(jnp.asarray(action, jnp.float32)))


def test_what_five_numbers_mean() -> None:
    env, params = campaign()
    obs = env.reset(jax.random.key(0), params)[0]
    rule = Steering.build(env)
    ranges = ranges_of(params)
    low, middle, high = (rule.wish(ranges, jnp.full(5, a), obs) for a in (-1.0, 0.0, 1.0))
    multiplier = float(np.log(params.max_multiplier))
    np.testing.assert_allclose([w.log_multiplier for w in (low, middle, high)], [-multiplier, 0.0, multiplier])
    most = float(params.max_exploration)
    np.testing.assert_allclose([w.exploration for w in (low, middle, high)], [0.0, 0.25 * most, most], rtol=1e-6)
    least = float(params.min_width)
    np.testing.assert_allclose([w.width for w in (low, middle, high)], [least, 0.5 + 0.5 * least, 1.0], rtol=1e-6)
    mean, spread = rule.read_creatives(obs, "mean"), rule.read_creatives(obs, "spread")
    np.testing.assert_allclose(low.weights, 0.5 * (mean - 2.0 * spread), rtol=1e-5)
    np.testing.assert_allclose(middle.weights, 5.0 * mean, rtol=1e-5)
    np.testing.assert_allclose(high.weights, 50.0 * (mean + 2.0 * spread), rtol=1e-5)


def test_sharpness_serves_the_creative_believed_best() -> None:
    env, params = campaign()
    obs = env.reset(jax.random.key(1), params)[0]
    rules = [rule_of(env, [0.0, -1.0, 0.0, sharpness, 0.0]) for sharpness in (-1.0, 1.0)]
    mix = [rule.act(jax.random.key(0), rule.init(params), obs)[1] for rule in rules]
    best = int(jnp.argmax(Steering.build(env).read_creatives(obs, "mean")))
    for action in mix:
        assert action.shape == (6,)
        assert int(jnp.argmax(action[3:])) == best
    assert float(jnp.ptp(mix[1][3:])) > float(jnp.ptp(mix[0][3:]))


def test_the_wrapper_and_the_policy_mean_the_same() -> None:
    """A life under steering actions is the life of the lifecycle under the policy that steers."""
    env, params = campaign()
    steered, key = Steered(env), jax.random.key(3)
    actions = jax.random.uniform(jax.random.key(4), (env.ticks, 5), minval=-1.0, maxval=1.0)

    def wrapped(state: Any, action: jax.Array) -> Any:
        result = steered.step(key, state, action, params)
        return result.state, (result.obs, result.reward)

    def plain(carry: Any, action: jax.Array) -> Any:
        (state, obs), (memory) = carry
        memory, chosen = rule_of(env, action).act(key, memory, obs)
        result = env.step(key, state, chosen, params)
        return ((result.state, result.obs), memory), (result.obs, result.reward)

    obs, start = steered.reset(key, params)
    _, one = jax.jit(lambda: jax.lax.scan(wrapped, start, actions))()
    memory = rule_of(env, actions[0]).init(params)
    (_, memory), other = jax.jit(lambda: jax.lax.scan(plain, ((start[0], obs), memory), actions))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)
    assert int(memory[1]) == env.ticks
    assert float(one[1].sum()) > 0.0


def test_spaces() -> None:
    env, params = campaign()
    steered = Steered(env)
    assert steered.action_space(params).shape == (len(ENTRIES),)
    assert steered.OBSERVATION == env.OBSERVATION
    assert steered.max_steps(params) == env.ticks
