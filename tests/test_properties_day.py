"""What must hold in every day, whatever the numbers: budgets, any currency, and which random stream decides what."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import adarena.envs
from adarena.envs.autobid import AutoBid, State
from adarena.envs.market.auction import MECHANISMS
from adarena.envs.market.response import draw as draw_luck
from adarena.envs.market.traffic import visit

_FAST_COMPILE = {"xla_backend_optimization_level": 0}

some = settings(deadline=None, max_examples=30, derandomize=True)
fewer = settings(deadline=None, max_examples=12, derandomize=True)

# Money ---------------------------------------------------------------------------------------------------------------

SIZES: dict[str, Any] = {"advertisers": 6, "ticks": 6, "impressions": 12, "blocks": 8, "slots": 2, "categories": 2}


@functools.cache
def made(**static: Any) -> tuple[AutoBid, Any]:
    env, params = adarena.envs.make("adarena/AutoBid-v0", **{**SIZES, **static})
    assert isinstance(env, AutoBid)
    return env, params


@functools.cache
def player(mechanism: str) -> Callable[..., Any]:
    """A day of given actions, ``[T]``: first state, later states, info."""
    env, _ = made(mechanism=mechanism)

    def play(key: jax.Array, actions: jax.Array, params: Any) -> Any:
        _, start = env.reset(key, params)

        def step(state: State, action: jax.Array) -> tuple[State, Any]:
            result = env.step(key, state, action[None], params)
            return result.state, (result.state.accounts, result.info)

        return start, jax.lax.scan(step, start, actions)[1]

    return jax.jit(play, compiler_options=_FAST_COMPILE)


days = given(
    seed=st.integers(0, 2**32 - 1),
    actions=arrays(np.float32, SIZES["ticks"], elements=st.floats(-1.0, 1.0, width=32)),
    rich=st.sampled_from([0.01, 0.1, 0.5, 2.0]),
)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_day_keeps_to_every_budget(mechanism: str) -> None:
    _, params = made(mechanism=mechanism)
    exhausted = 0

    @some
    @days
    def holds(seed: int, actions: np.ndarray, rich: float) -> None:
        nonlocal exhausted
        poor = dataclasses.replace(params, base_budget=params.base_budget * rich)
        start, (accounts, info) = player(mechanism)(jax.random.key(seed), actions, poor)
        spend, budget = np.asarray(accounts.spend), np.asarray(start.budget)
        assert (spend <= budget).all()
        np.testing.assert_allclose(np.cumsum(info["spend"], axis=0), spend, rtol=1e-5, atol=1e-3)
        # What the platform takes in a tick is what the advertisers pay in it.
        sold = np.asarray(info["exposure"]).sum(axis=1)
        np.testing.assert_allclose(np.asarray(info["price"]) * sold, np.asarray(info["spend"]).sum(axis=1), rtol=1e-5)
        exhausted += int((spend[-1] > 0.95 * budget).any())

    holds()
    assert exhausted > 0


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_day_in_another_currency_is_the_same_day(mechanism: str) -> None:
    """Rivals included: their control laws look at ratios only."""
    _, params = made(mechanism=mechanism)

    @fewer
    @days
    def holds(seed: int, actions: np.ndarray, rich: float) -> None:
        poor = dataclasses.replace(params, base_budget=params.base_budget * rich)
        other = dataclasses.replace(
            poor,
            base_budget=poor.base_budget * 4.0,
            base_target=poor.base_target * 4.0,
            terms=dataclasses.replace(
                poor.terms, reserve=poor.terms.reserve * 4.0, outside_price=poor.terms.outside_price * 4.0
            ),
        )
        one, two = (player(mechanism)(jax.random.key(seed), actions, p)[1] for p in (poor, other))
        np.testing.assert_array_equal(one[0].spend * 4.0, two[0].spend)
        for name in ("exposure", "conversion", "value"):
            np.testing.assert_array_equal(getattr(one[0], name), getattr(two[0], name), err_msg=name)

    holds()


# Named random streams ------------------------------------------------------------------------------------------------

STREAM_NUMBERS = {
    "traffic": {"traffic_noise": (0.0, 0.5), "daily_impressions": (1e4, 1e6)},
    "values": {"drift_pattern": (0.0, 1.0), "drift_noise": (0.0, 1.0), "drift_persistence": (0.0, 0.9)},
    "rivals": {
        "rival_budget_noise": (0.0, 0.5),
        "rival_target_noise": (0.0, 0.5),
        "rival_start_mean": (-1.0, 1.0),
        "rival_start_noise": (0.0, 0.5),
        "budget_scale_low": (0.25, 1.0),
        "budget_scale_high": (1.0, 2.0),
    },
}
"""Numbers that change what is made of the draws of one stream."""

STATIC = ({}, {"response": "sampled"}, {"mechanism": "vcg"}, {"delay": True}, {"record": True}, {"objective": "roas"})
"""Changes of the environment that have no say in what any stream draws."""


@functools.cache
def resetter(number: int) -> Callable[..., Any]:
    """What each stream draws for a day, and the parameters of the environment with a static change."""
    env, params = made(**STATIC[number])

    def draws(key: jax.Array, params: Any) -> dict[str, Any]:
        _, state = env.reset(key, params)
        ticks = jnp.arange(env.ticks)
        luck = jax.vmap(lambda t: draw_luck(jax.random.fold_in(state.response, t), (env.slots, env.impressions)))(ticks)
        blocks = jax.vmap(lambda t: visit(state.traffic, params.bank, t))(ticks)
        return {
            "traffic": {"volume": state.volume, "block": blocks},
            "values": {"drift": state.drift},
            "response": {
                "exposure": luck.exposure,
                "click": jax.vmap(jax.random.bits)(luck.click[:, 0]),
                "conversion": jax.vmap(jax.random.bits)(luck.conversion[:, 0]),
            },
            "rivals": {
                "seat": state.seat.index,
                "budget": state.budget,
                "target": state.target,
                "kind": state.kind,
                "start": state.control.level,
            },
        }

    return functools.partial(jax.jit(draws, compiler_options=_FAST_COMPILE), params=params)


@st.composite
def changes_of_one_stream(draw: Callable[..., Any]) -> tuple[str, dict[str, np.float32]]:
    """The name of a stream, and other values of numbers that belong to it."""
    stream = draw(st.sampled_from(sorted(STREAM_NUMBERS)))
    numbers = STREAM_NUMBERS[stream]
    names = draw(st.sets(st.sampled_from(sorted(numbers)), min_size=1))
    return stream, {name: np.float32(draw(st.floats(*numbers[name]))) for name in sorted(names)}


def test_what_one_stream_draws_leaves_the_others_as_they_were() -> None:
    changed = 0

    @settings(some, max_examples=60)
    @given(st.integers(0, 2**32 - 1), changes_of_one_stream())
    def holds(seed: int, change: tuple[str, dict[str, np.float32]]) -> None:
        nonlocal changed
        stream, numbers = change
        reset = resetter(0)
        params = reset.keywords["params"]
        before = reset(jax.random.key(seed))
        after = reset(jax.random.key(seed), params=dataclasses.replace(params, **numbers))
        for name in set(before) - {stream}:
            jax.tree.map(np.testing.assert_array_equal, before[name], after[name])
        changed += any(not np.array_equal(before[stream][name], after[stream][name]) for name in before[stream])

    holds()
    assert changed > 20, "the numbers should make a difference to their own stream"


@pytest.mark.parametrize("number", range(1, len(STATIC)), ids=lambda n: str(STATIC[n]))
def test_how_the_market_runs_leaves_every_draw_as_it_was(number: int) -> None:
    for seed in (0, 1, 2**32 - 1):
        one, two = (resetter(i)(jax.random.key(seed)) for i in (0, number))
        if "objective" in STATIC[number]:  # targets are in other units
            one["rivals"].pop("target"), two["rivals"].pop("target")
        jax.tree.map(np.testing.assert_array_equal, one, two)


def test_the_impressions_met_do_not_depend_on_the_rivals() -> None:
    """Played, not only reset: other rivals and other bids, the same keys after every tick."""
    _, params = made(mechanism="gsp")
    key = jax.random.key(3)
    other = dataclasses.replace(
        params, rival_budget_noise=jnp.float32(1.0), rival_mix=jnp.asarray([1.0, 0.0, 0.0, 0.0], jnp.float32)
    )
    one = player("gsp")(key, np.zeros(6, np.float32), params)
    two = player("gsp")(key, np.ones(6, np.float32), other)
    assert not np.array_equal(one[1][0].spend, two[1][0].spend)
    for name in ("traffic", "response"):
        keys = [jax.random.key_data(getattr(start, name)) for start, _ in (one, two)]
        np.testing.assert_array_equal(*keys)
    np.testing.assert_array_equal(one[0].volume, two[0].volume)


def test_streams_are_not_correlated() -> None:
    """Over 4,096 days, within four standard errors of zero between any numbers of two streams."""
    days = 4096
    reset = resetter(0)
    keys = jax.random.split(jax.random.key(7), days)
    draws = jax.vmap(reset.func.__wrapped__, (0, None))  # type: ignore[attr-defined]
    drawn = jax.tree.map(np.asarray, jax.jit(draws, compiler_options=_FAST_COMPILE)(keys, reset.keywords["params"]))
    own = drawn["rivals"]["seat"] == 0  # a seat's budget is scaled, a rival's is noisy; kept apart, both are drawn
    budget = np.where(own, 0.0, np.log(drawn["rivals"]["budget"][:, 0]))
    columns = {
        "traffic": [np.log(drawn["traffic"]["volume"][:, 0]), *drawn["traffic"]["block"][:, [0, 1, 5]].T],
        "values": [*np.log(drawn["values"]["drift"][:, :, 0]).T],
        "response": [
            drawn["response"]["exposure"][:, 0, 0, 0],
            drawn["response"]["exposure"][:, 5, 1, 11],
            drawn["response"]["click"][:, 0] / 2**32,
            drawn["response"]["conversion"][:, 0] / 2**32,
        ],
        "rivals": [budget, drawn["rivals"]["seat"], drawn["rivals"]["kind"][:, 2], drawn["rivals"]["start"][:, 1]],
    }
    stream = np.repeat(np.arange(len(columns)), [len(x) for x in columns.values()])
    table = np.asarray([column.astype(float) for several in columns.values() for column in several])
    assert (table.std(axis=1) > 0.0).all()
    correlation = np.corrcoef(table)
    between = stream[:, None] < stream[None, :]
    assert np.abs(correlation[between]).max() < 4.0 / np.sqrt(days)
