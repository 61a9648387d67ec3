"""The picture of a day: drawn at any tick, from the numbers of the state, the same pixels each time."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

from adarena.envs import make
from adarena.envs.render import HEIGHT, WIDTH, day_so_far, draw_day

pytestmark = pytest.mark.usefixtures("quick_compilation")

TICKS = 6


@functools.cache
def day(objective: str) -> tuple[Any, Any, list[Any]]:
    """The environment, its parameters, and the states of one day, from reset to the last tick."""
    sizes = {"advertisers": 4, "ticks": TICKS, "impressions": 8, "slots": 2, "categories": 2, "blocks": 16}
    env, params = make("adarena/AutoBid-v0", objective=objective, **sizes)
    states = [env.reset(jax.random.key(3), params)[1]]
    step = jax.jit(env.step)
    for _ in range(TICKS):
        states.append(step(jax.random.key(0), states[-1], jnp.asarray([0.6], jnp.float32), params).state)
    return env, params, states


def play(steps: int, objective: str = "cpa") -> tuple[Any, Any, Any]:
    env, params, states = day(objective)
    return env, params, states[steps]


@pytest.mark.parametrize("steps", [0, 1, TICKS])
def test_a_picture_at_any_tick(steps: int) -> None:
    env, params, state = play(steps)
    picture = env.render(state, params)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
    assert picture.flags.writeable
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_a_tick_more_changes_the_picture_and_the_same_state_does_not() -> None:
    _, params, state = play(3)
    first = draw_day(state, params)
    np.testing.assert_array_equal(first, draw_day(state, params))
    assert (first != draw_day(play(4)[2], params)).any()


def test_the_users_matplotlib_settings_neither_matter_nor_change() -> None:
    _, params, state = play(2)
    plain = draw_day(state, params)
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 20.0, "lines.linewidth": 9.0}):
        mine = dict(matplotlib.rcParams)
        np.testing.assert_array_equal(draw_day(state, params), plain)
        assert dict(matplotlib.rcParams) == mine


def test_the_numbers_are_those_of_the_accounts() -> None:
    env, params, state = play(TICKS)
    seen, books = day_so_far(state, params), env.metrics(state, params)
    assert seen.tick == TICKS
    assert float(books["value"]) > 0.0
    np.testing.assert_allclose(seen.spend[-1], books["cost"], rtol=1e-5)
    np.testing.assert_allclose(seen.value[-1], books["value"], rtol=1e-5)
    np.testing.assert_allclose(seen.cost_over_target[-1], books["cost_over_target"], rtol=1e-4)
    np.testing.assert_allclose(seen.plan[[0, -1]], [0.0, seen.budget], rtol=1e-5)
    assert seen.hour[-1] == 24.0
    offered = np.asarray(state.history.offered, np.float64)
    np.testing.assert_allclose((seen.win_rate * offered).sum(), books["exposure"], rtol=1e-5)


def test_without_a_target_the_day_has_no_cost_over_target() -> None:
    _, params, state = play(TICKS, objective="budget")
    seen = day_so_far(state, params)
    assert np.isinf(seen.target)
    assert np.isnan(seen.cost_over_target).all()
    assert draw_day(state, params).shape == (HEIGHT, WIDTH, 3)


def test_a_batch_is_refused() -> None:
    _, params, state = play(0)
    batch = dataclasses.replace(state, tick=jnp.zeros(2, jnp.int32))
    with pytest.raises(ValueError, match=r"state must be one episode.*\(2,\)"):
        draw_day(batch, params)
