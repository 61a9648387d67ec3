"""Lifecycle: what a campaign's life promises, whatever is done with it."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import chex
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adarena.envs
from adarena.agents.policy import make_policy
from adarena.agents.rules.lifecycle import LIFECYCLE_RULES, ThompsonMix
from adarena.agents.rules.lifecycle_base import NEVER, Ranges, Wish
from adarena.envs.lifecycle import Lifecycle, State
from adarena.envs.lifecycle_oracle import oracle_action
from adarena.envs.lifecycle_report import true_rates
from adarena.envs.lifecycle_tick import controls_of, quality_now
from adarena.envs.market.ledger import score

pytestmark = pytest.mark.usefixtures("quick_compilation")

ID = "adarena/Lifecycle-v0"
SIZES: dict[str, Any] = {
    "rivals": 3,
    "creatives": 3,
    "days": 4,
    "ticks_per_day": 4,
    "impressions": 16,
    "slots": 2,
    "rings": 4,
    "blocks": 8,
    "arrivals": 64,
}
# A life so short that all phases fit in it.
QUICK: dict[str, Any] = {
    "stable_days": 1,
    "breakout_days": 1,
    "understanding_exposures": 10.0,
    "required_conversions": 1.0,
    "cpa_tolerance": 10.0,
    "stable_tolerance": 10.0,
    "pacing_low": 0.0,
    "pacing_high": 10.0,
    "breakout_growth": 0.1,
}
EXOGENOUS = ("time_left", "day", "hour_sin", "hour_cos", "day_left", "traffic_now", "log_target", "creative_0_content")
CASES = 6
Play = Callable[..., dict[str, Any]]


def market(**changes: Any) -> tuple[Lifecycle, Any]:
    env, params = adarena.envs.make(ID, **{**SIZES, **changes})
    assert isinstance(env, Lifecycle)
    return env, params


@functools.cache
def small() -> tuple[Lifecycle, Any, Callable[..., Any], Callable[..., Any]]:
    """The small market, its reset and its step, compiled once for the tests that play single ticks."""
    env, params = market()
    return env, params, jax.jit(env.reset), jax.jit(env.step)


def player(env: Lifecycle) -> Play:
    """Episodes of given actions ``[C, T, 3 + V]``, one program."""

    def episode(params: Any, key: jax.Array, actions: jax.Array) -> dict[str, Any]:
        obs, first = env.reset(key, params)

        def step(state: State, action: jax.Array) -> tuple[State, Any]:
            result = env.step(key, state, action, params)
            kept = dataclasses.replace(result.state, luck=None)  # keys are no numbers
            return result.state, result._replace(state=kept)

        last, results = jax.lax.scan(step, first, actions)
        found = {
            "obs": jnp.concatenate([obs[None], results.obs]),
            "state": results.state,
            "reward": results.reward,
            "terminated": results.terminated,
            "info": results.info,
            "metrics": env.metrics(last, params),
            "bound": env.bound(results.info, last, params),
            "arrivals": first.luck.arrivals,
            "volume": first.luck.volume,
            "budget": first.campaign.budget,
            "target": first.campaign.target,
        }
        return found

    run = jax.jit(jax.vmap(episode, (None, 0, 0)))

    def play(params: Any, actions: Any, seed: int = 0) -> dict[str, Any]:
        keys = jax.random.split(jax.random.key(seed), CASES)
        plan = np.broadcast_to(np.asarray(actions, np.float32), (CASES, env.ticks, 3 + env.creatives))
        return jax.tree.map(np.asarray, run(params, keys, plan))

    return play


@pytest.fixture(scope="module")
def quick() -> tuple[Lifecycle, Any, Play]:
    env, params = market(record=True, **QUICK)
    return env, params, player(env)


def random_actions(env: Lifecycle, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (CASES, env.ticks, 3 + env.creatives))


# `tests/test_conformance.py` runs the conformance suite and Gymnasium's checker on every registered environment.


def test_time_and_traffic_do_not_depend_on_actions(quick: tuple[Lifecycle, Any, Play]) -> None:
    env, params, play = quick
    one, two = (play(params, random_actions(env, seed))["obs"] for seed in (0, 1))
    space = env.observation_space(params)
    for place, entry in enumerate(env.OBSERVATION):
        assert (one[..., place] >= space.low[place]).all(), entry.name
        assert (one[..., place] <= space.high[place]).all(), entry.name
        if entry.name in EXOGENOUS:
            np.testing.assert_array_equal(one[..., place], two[..., place], err_msg=entry.name)


def test_gymnasium_and_vector_interface() -> None:
    single = gym.make(ID, **SIZES)
    obs, _ = single.reset(seed=0)
    assert single.observation_space.contains(obs)
    _, reward, terminated, truncated, _ = single.step(np.zeros(6, np.float32))
    assert np.isfinite(reward)
    assert not terminated
    assert not truncated
    batch = gym.make_vec(ID, num_envs=3, vectorization_mode="vector_entry_point", **SIZES)
    batch.reset(seed=0)
    ends = np.zeros(3, bool)
    for _ in range(SIZES["days"] * SIZES["ticks_per_day"]):
        ends = batch.step(np.zeros((3, 6), np.float32))[2]
    assert ends.all()


def test_a_batch_is_traced_once() -> None:
    env, params = market()
    step = jax.jit(jax.vmap(chex.assert_max_traces(env.step, 1), (0, 0, 0, None)))
    keys = jax.random.split(jax.random.key(0), 256)
    states = jax.jit(jax.vmap(env.reset, (0, None)))(keys, params)[1]
    for tick in range(3):
        states = step(keys, states, jnp.full((256, 6), 0.1 * tick), params).state
    assert states.tick.tolist() == [3] * 256


def test_rewards_add_up_to_the_score_and_it_is_what_it_says(quick: tuple[Lifecycle, Any, Play]) -> None:
    env, params, play = quick
    run = play(params, random_actions(env))
    metrics = run["metrics"]
    np.testing.assert_allclose(run["reward"].sum(axis=1), metrics["score"], rtol=1e-4, atol=1e-4)
    wanted = score(metrics["value"], metrics["cost"], metrics["target"])
    np.testing.assert_allclose(metrics["score"], wanted, rtol=1e-5)
    np.testing.assert_allclose(metrics["cost"], run["info"]["spend"].sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(metrics["expected_value"], run["info"]["value"].sum(axis=1), rtol=1e-4)
    assert run["terminated"][:, :-1].sum() == 0
    assert run["terminated"][:, -1].all()
    assert metrics["value"].sum() > 0


@pytest.mark.parametrize("level", [-1.0, 0.0, 1.0])
def test_no_day_costs_more_than_its_budget(quick: tuple[Lifecycle, Any, Play], level: float) -> None:
    env, params, play = quick
    actions = random_actions(env)
    actions[..., 0] = level
    run = play(params, actions)
    by_day = run["info"]["spend"].reshape(CASES, env.days, env.ticks_per_day)
    budget = run["info"]["daily_budget"].reshape(CASES, env.days, env.ticks_per_day)
    assert (budget == budget[..., :1]).all()  # a day's budget does not change within it
    assert (by_day.sum(axis=2) <= budget[..., 0] * (1 + 1e-5)).all()
    if level == 1.0:
        assert (by_day.sum(axis=2) > 0.3 * budget[..., 0]).any()


def test_conversions_are_the_arrivals_below_what_was_expected(quick: tuple[Lifecycle, Any, Play]) -> None:
    env, params, play = quick
    run = play(params, random_actions(env))
    expected = np.cumsum(run["info"]["value"], axis=1)
    counted = (run["arrivals"][:, None, :] <= expected[..., None] + 1e-5).sum(axis=2)
    beyond = np.maximum(expected - run["arrivals"][:, -1:], 0.0)
    np.testing.assert_allclose(run["info"]["conversions"], counted + beyond, atol=1e-3)
    assert (run["info"]["reported"] <= run["info"]["conversions"]).all()
    assert (np.diff(run["info"]["reported"], axis=1) >= 0).all()


def test_luck_and_market_do_not_depend_on_actions(quick: tuple[Lifecycle, Any, Play]) -> None:
    env, params, play = quick
    one, two = play(params, random_actions(env, 0)), play(params, random_actions(env, 1))
    for name in ("arrivals", "volume", "budget", "target"):
        np.testing.assert_array_equal(one[name], two[name])
    again = play(params, random_actions(env, 0))
    chex.assert_trees_all_equal(one, again)


def test_without_delay_all_is_reported_at_once(quick: tuple[Lifecycle, Any, Play]) -> None:
    env, params, play = quick
    at_once = params.replace(delay_distribution=jnp.zeros(env.ticks).at[0].set(1.0))
    run = play(at_once, 0.3)
    np.testing.assert_array_equal(run["info"]["reported"], run["info"]["conversions"])
    assert (play(params, 0.3)["info"]["reported"] < run["info"]["reported"]).any()
    undelayed, _ = market(delay=False)
    assert jax.jit(undelayed.reset)(jax.random.key(0), params)[1].luck.delay.tolist() == [0] * env.arrivals


def test_width_keeps_others_out_and_rings_tire(quick: tuple[Lifecycle, Any, Play]) -> None:
    env, params, play = quick
    action = np.array([1.0, -1.0, -0.5, 0.0, 0.0, 0.0])  # width .2875 of four rings: the first two
    run = play(params, action)
    frequencies = run["info"]["frequencies"]
    np.testing.assert_allclose(run["info"]["width"], 0.05 + 0.95 * 0.25, rtol=1e-6)
    assert (frequencies[:, -1, :2].sum(axis=1) > 0).any()
    assert (frequencies[..., 2:] == 0).all()
    users = float(params.pool) / env.rings
    seen = run["info"]["exposure"][:, 0] / users * 2.0 ** (-1 / (env.ticks_per_day * params.frequency_half_life))
    np.testing.assert_allclose(frequencies[:, 1].sum(axis=1), seen, rtol=1e-5)


def test_a_creative_is_served_by_its_share_and_ages_by_it(quick: tuple[Lifecycle, Any, Play]) -> None:
    env, params, play = quick
    run = play(params, np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0]))
    mix = np.exp(4.0 * np.array([1.0, -1.0, -1.0]))
    served = run["info"]["exposure"] > 0
    np.testing.assert_allclose(
        run["info"]["shares"][served], np.broadcast_to(mix / mix.sum(), (served.sum(), 3)), rtol=1e-4
    )
    days = served[:, :-1].sum(axis=1) / env.ticks_per_day
    ages = run["info"]["ages"][:, -1]
    np.testing.assert_allclose(ages[:, 0], days, rtol=1e-4)
    assert (ages[:, 1] < 0.01).all()
    assert (run["metrics"]["creative_regret"] >= -1e-5).all()


def test_all_phases_can_be_passed_and_budgets_follow(quick: tuple[Lifecycle, Any, Play]) -> None:
    env, params, play = quick
    run = play(params, np.array([-0.2, -1.0, 0.0, 0.0, 0.0, 0.0]))
    metrics, info = run["metrics"], run["info"]
    assert metrics["success_stable"].any()
    assert metrics["success_breakout"].any()
    for case in np.flatnonzero(metrics["success_stable"]):
        days = [metrics[f"days_{name}"][case] for name in ("understanding", "cold_start", "stable")]
        assert days == sorted(days)
        last = info["daily_budget"][case, -1] / run["budget"][case]
        wanted = params.stable_budget * params.breakout_budget
        np.testing.assert_allclose(last, wanted if days[-1] < env.days - 1 else last, rtol=1e-5)
    assert (np.diff(info["phase"], axis=1) >= 0).all()
    assert (np.diff(info["phase"], axis=1) <= 1).all()


def test_a_failed_start_costs_budget(quick: tuple[Lifecycle, Any, Play]) -> None:
    env, params, play = quick
    # Nothing is bought: the phases run out of time.
    run = play(params.replace(terms=params.terms.replace(reserve=jnp.float32(1e6))), 0.0)
    assert run["metrics"]["cost"].sum() == 0
    assert run["info"]["phase"][:, -1].tolist() == [2] * CASES
    assert run["metrics"]["success_understanding"].sum() == run["metrics"]["success_cold_start"].sum() == 0
    assert run["metrics"]["days_cold_start"].tolist() == [env.days] * CASES
    np.testing.assert_allclose(run["info"]["daily_budget"][:, -1], params.failed_budget * run["budget"], rtol=1e-6)


def test_bound_holds(quick: tuple[Lifecycle, Any, Play]) -> None:
    env, params, play = quick
    for level in (-0.3, 0.2, 0.8):
        actions = random_actions(env)
        actions[..., 0] = level
        run = play(params, actions)
        expected, metrics = run["metrics"]["expected_value"], run["metrics"]
        reached = score(expected, metrics["cost"], metrics["target"])
        assert (reached <= run["bound"]["hindsight_score"] * (1 + 1e-4)).all()
        assert (run["bound"]["hindsight_score"] >= run["bound"]["hindsight_value"] * (1 - 1e-5)).all()


def test_observation_holds_nothing_hidden() -> None:
    env, params, reset, _ = small()
    _, state = reset(jax.random.key(0), params)
    names = ("ctr", "cvr", "quality", "lookalike")
    other = state.campaign.replace(**{name: 2.0 * getattr(state.campaign, name) for name in names})
    observe = jax.jit(env._observe)
    one, two = (observe(x, params) for x in (state, state.replace(campaign=other)))
    np.testing.assert_array_equal(one, two)


def test_content_tells_all_or_nothing() -> None:
    _, params, reset, _ = small()
    key = jax.random.key(3)
    perfect = reset(key, params.replace(content_quality=jnp.float32(1.0)))[1].campaign
    np.testing.assert_allclose(perfect.content, perfect.quality, rtol=1e-4)
    useless = reset(key, params.replace(content_quality=jnp.float32(0.0)))[1].campaign
    np.testing.assert_allclose(useless.content, 1.0, rtol=1e-6)
    np.testing.assert_allclose(useless.quality, perfect.quality, rtol=1e-6)


def test_picture() -> None:
    env, params, reset, step = small()
    key = jax.random.key(0)
    _, state = reset(key, params)
    first = env.render(state, params)
    for _ in range(5):
        state = step(key, state, jnp.zeros(6), params).state
    picture = env.render(state, params)
    for drawn in (first, picture):
        assert drawn.shape == (480, 720, 3)
        assert drawn.dtype == np.uint8
        assert drawn.std() > 10
    assert (first != picture).any()
    np.testing.assert_array_equal(env.render(state, params), picture)
    with pytest.raises(ValueError, match=r"state must be one episode, .* got a batch"):
        env.render(jax.tree.map(lambda x: x[None], state), params)


# Rules and oracle ----------------------------------------------------------------------------------------------------


def test_actions_stand_for_wishes() -> None:
    params = small()[1]
    ranges, _ = ThompsonMix().init(params)
    assert isinstance(ranges, Ranges)
    wish = Wish(jnp.float32(0.4), jnp.float32(0.1), jnp.float32(0.3), jnp.asarray([0.0, -1.0, NEVER]))
    controls = controls_of(ranges.action(wish), params)
    np.testing.assert_allclose(controls.log_multiplier, 0.4, rtol=1e-5)
    np.testing.assert_allclose(controls.exploration, 0.1, rtol=1e-5)
    np.testing.assert_allclose(controls.width, 0.3, rtol=1e-5)
    wanted = np.exp([0.0, -1.0, -8.0])  # what is never wanted is served as little as the sharpness lets it
    np.testing.assert_allclose(controls.mix, wanted / wanted.sum(), rtol=1e-4)


@pytest.mark.parametrize("name", sorted(LIFECYCLE_RULES))
def test_rules_act_within_bounds_and_tune_what_they_have(name: str) -> None:
    env, params, reset, step = small()
    rule = make_policy(name, env)
    assert set(LIFECYCLE_RULES[name].space()) <= {field.name for field in dataclasses.fields(rule)}  # type: ignore[arg-type]
    space = env.action_space(params)
    key = jax.random.key(0)
    obs, state = reset(key, params)
    carry, act = rule.init(params), jax.jit(rule.act)
    for tick in range(3):
        carry, action = act(jax.random.fold_in(key, tick), carry, obs)
        assert space.contains(np.asarray(action)), action
        obs, state, *_ = step(key, state, action, params)


def test_rules_name_what_they_miss() -> None:
    env, _ = adarena.envs.make("adarena/AutoBid-v0", advertisers=4, ticks=4, impressions=8, blocks=4, categories=2)
    rule = LIFECYCLE_RULES["lifecycle_phases"].build(env)
    with pytest.raises(KeyError, match="entry 'phase_understanding', which this environment lacks"):
        rule.control(jax.random.key(0), rule.memory(), jnp.zeros(len(env.OBSERVATION)))


def test_oracle_serves_the_best_creative_within_the_plan() -> None:
    env, params, reset, step = small()
    key = jax.random.key(0)
    _, state = reset(key, params)
    action = jax.jit(lambda s: oracle_action(env, s, params, jnp.float32(1.2), jnp.float32(1.0)))(state)
    assert int(jnp.argmax(action[3:])) == int(jnp.argmax(quality_now(state, params)))
    result = step(key, state, action, params)
    assert float(result.info["spend"]) <= float(params.bank.daily[0] * state.daily_budget) * (1 + 1e-5)
    truth = true_rates(env, state, params)
    np.testing.assert_allclose(truth.ctr, state.campaign.ctr * state.campaign.quality, rtol=1e-5)
    assert (np.diff(truth.cvr) < 0).all()


# Bad input -----------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"creatives": 0}, "a whole number from 1 to 64", "0"),
    ({"rivals": -1}, "a whole number from 1 to 1023", "-1"),
    ({"days": 1}, "a whole number from 2 to 366", "1"),
    ({"days": 2.5}, "a whole number from 2 to 366", "2.5"),
    ({"ticks_per_day": 1}, "a whole number from 2 to 96", "1"),
    ({"impressions": True}, "a whole number from 1 to 65536", "True"),
    ({"slots": 65}, "a whole number from 1 to 64", "65"),
    ({"rings": 0}, "a whole number from 1 to 256", "0"),
    ({"arrivals": 0}, "a whole number from 1 to 65536", "0"),
    ({"blocks": 1 << 16, "impressions": 1 << 16}, "at most 268435456", "65536 x 4 x 65536"),
    ({"mechanism": "english"}, "first_price, second_price, gsp, vcg", "'english'"),
    ({"delay": 1}, "True or False", "1"),
    ({"record": "yes"}, "True or False", "'yes'"),
    ({"required_conversions": 0}, "[1e-12, inf]", "0"),
    ({"required_conversions": NAN}, "finite", "nan"),
    ({"window_days": 0}, "[0.125, 366]", "0"),
    ({"window_days": 5}, "at most 4 (days of the campaign)", "5"),
    ({"stable_days": 1.5}, "a whole number of days", "1.5"),
    ({"breakout_days": -2}, "[0.125, 366]", "-2"),
    ({"cpa_tolerance": -1.0}, "[1e-12, inf]", "-1.0"),
    ({"content_quality": 1.5}, "[0, 1]", "1.5"),
    ({"fatigue_floor": -0.1}, "[0, 1]", "-0.1"),
    ({"max_exploration": 2}, "[0, 1]", "2"),
    ({"min_width": 0.0}, "[0.001, 1]", "0.0"),
    ({"max_multiplier": 1.0}, "[1, 1000]", "1.0"),
    ({"pool": 0}, "[1e-12, inf]", "0"),
    ({"creative_half_life": INF}, "finite", "inf"),
    ({"stable_budget": -3}, "[1e-12, inf]", "-3"),
    ({"target_low": 200.0}, "target_low must be at most target_high", "200 and 130"),
    ({"pacing_low": 1.0, "pacing_high": 0.5}, "pacing_low must be at most pacing_high", "1 and 0.5"),
    ({"rival_budget": [1.0, 2.0]}, "an array of shape (3,)", "[1.0, 2.0]"),
    ({"rival_target": [1.0, 0.0, 1.0]}, "[1e-12, inf]", "0.0"),
    ({"audience": np.zeros((8, 15))}, "an array of shape (8, 16)", "(8, 15)"),
    ({"match": [[1.0], [1.0, 2.0]]}, "an array of shape (8, 16)", "[[1.0], [1.0, 2.0]]"),
    ({"exposure": [0.5, 0.8]}, "not rise from one slot to the next", "[0.5, 0.8]"),
    ({"delay_distribution": np.full(16, 0.5)}, "sum to at most 1 over ticks", "(sum 8)"),
    ({"cascade": 1}, "True or False", "1"),
    ({"lookalike": "far"}, "a number", "'far'"),
    ({"bank": None}, "adarena.envs.market.traffic.Bank", "None"),
]


@pytest.mark.parametrize(("changes", "allowed", "value"), BAD, ids=lambda case: str(case)[:40])
def test_refusal_names_field_value_and_what_is_allowed(changes: dict[str, Any], allowed: str, value: str) -> None:
    with pytest.raises(ValueError, match=re.escape(next(iter(changes)))) as caught:
        market(**changes)
    assert allowed in str(caught.value)
    assert value in str(caught.value).partition("got")[2]
