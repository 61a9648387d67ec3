"""Rivals that repeat a logged day."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adarena.envs import make
from adarena.envs.core import Env
from adarena.envs.price_taking import PriceTaking, price_taking

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = {"advertisers": 6, "ticks": 8, "impressions": 16, "blocks": 8}


def _day(env: Env, params: Any, action: float) -> Any:
    """Rewards and infos of a day at one multiplier."""

    @jax.jit
    def play(action: jax.Array) -> Any:
        _, state = env.reset(jax.random.key(5), params)

        def tick(state: Any, _: None) -> Any:
            result = env.step(jax.random.key(0), state, action[None], params)
            return result.state, (result.reward, result.info["spend"])

        return jax.lax.scan(tick, state, None, length=env.max_steps(params))[1]

    return jax.tree.map(np.asarray, play(jnp.float32(action)))


@pytest.fixture(scope="module")
def market() -> tuple[Any, Any, Any]:
    env, params = make("adarena/AutoBid-v0", **SMALL)
    return env, price_taking(env, 0.1), params  # type: ignore[arg-type]


def test_the_logged_action_has_the_logged_day(market: tuple[Any, Any, Any]) -> None:
    live, taking, params = market
    for a, b in zip(_day(live, params, 0.1), _day(taking, params, 0.1), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_rivals_answer_live_and_not_in_the_log(market: tuple[Any, Any, Any]) -> None:
    """What the seat takes from rivals moves their pacing, and so their spend; in the log it moves no multiplier."""
    live, taking, params = market
    logged = _day(live, params, 0.1)[1]
    answered, repeated = (_day(env, params, 0.6)[1] for env in (live, taking))
    assert np.abs(answered - logged).max() > 1e-3
    seat = int(np.argmax(np.abs(repeated - logged).sum(axis=0)))
    rivals = np.delete(np.arange(SMALL["advertisers"]), seat)
    assert np.abs(answered - repeated)[1:, rivals].max() > 1e-3


def test_levels_are_those_of_the_log(market: tuple[Any, Any, Any]) -> None:
    _, taking, params = market
    _, state = taking.reset(jax.random.key(5), params)
    assert state.levels.shape == state.remaining.shape == (SMALL["ticks"], SMALL["advertisers"])
    later = dataclasses.replace(state, tick=jnp.int32(3), control=jax.tree.map(lambda x: x + 1.0, state.control))
    _, levels, remaining = taking._rivals(later, params)
    np.testing.assert_array_equal(levels, state.levels[3])
    seat = int(state.seat.index)
    np.testing.assert_array_equal(np.delete(remaining, seat), np.delete(state.remaining[3], seat))
    assert remaining[seat] == state.budget[seat]


def test_a_logged_action_out_of_range_is_refused(market: tuple[Any, Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"logged_action must lie in \[-1, 1\], got 1.5"):
        price_taking(market[0], 1.5)
    assert isinstance(market[1], PriceTaking)
