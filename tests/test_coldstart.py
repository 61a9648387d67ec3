"""``adarena/ColdStart-v0``: its null, its money, its events, its twin, its bound, and what it refuses."""

from __future__ import annotations

import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adarena.envs
from adarena.envs.coldstart import ColdStart, neutral_action
from adarena.envs.coldstart_setup import Params
from adarena.envs.coldstart_state import PENDING, SUCCEEDED, State
from adarena.envs.market.arrivals import arrival_times, arrivals_by

ID = "adarena/ColdStart-v0"
SIZES: dict[str, Any] = {
    **{"mature": 12, "launched": 6, "days": 5, "ticks_per_day": 4, "impressions": 16, "slots": 2},
    **{"categories": 2, "advertisers": 4, "blocks": 16},
}
NUMBERS: dict[str, Any] = {"launch_days": 2.0, "daily_impressions": 30_000.0, "exploration_budget": 0.05}
EPISODES = 24
PLAIN: dict[str, Any] = {"reward": "progress", "delay": False, "twin": False}


@functools.cache
def market(**changes: Any) -> tuple[ColdStart, Params]:
    env, params = adarena.envs.make(ID, **{**SIZES, **NUMBERS, **changes})
    assert isinstance(env, ColdStart)
    return env, params


@functools.cache
def player(env: ColdStart) -> Any:
    """Plays episodes of any parameters with given actions ``[T, 3 L]``; one compilation an environment."""

    def episode(key: jax.Array, actions: jax.Array, params: Params) -> Any:
        obs, state = env.reset(key, params)

        def step(state: State, action: jax.Array) -> Any:
            result = env.step(key, state, action, params)
            return result.state, (result.obs, result.reward, result.info, result.state.side.reported)

        last, (obs_after, reward, info, reported) = jax.lax.scan(step, state, actions)
        metrics = env.metrics(last, params)
        bound = env.bound(info, last, params)
        return last, jnp.concatenate([obs[None], obs_after]), reward, info, metrics, bound, reported

    return jax.jit(jax.vmap(episode, in_axes=(0, 0, None)))


def play(env: ColdStart, params: Params, actions: Any, seed: int = 0, episodes: int = EPISODES) -> Any:
    actions = jnp.broadcast_to(jnp.asarray(actions, jnp.float32), (episodes, env.ticks, 3 * env.launched))
    return player(env)(jax.random.split(jax.random.key(seed), episodes), actions, params)


def random_actions(env: ColdStart, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (EPISODES, env.ticks, 3 * env.launched))


@functools.cache
def played(kind: str) -> Any:
    """Episodes of the recorded market with its twin, by kind of action."""
    env, params = market(record=True)
    actions: dict[str, Any] = {
        "neutral": neutral_action(env.layout),
        "random": random_actions(env),
        "bonus": jnp.tile(jnp.asarray([-0.6, -1.0, 0.0]), env.launched),
        "all": jnp.ones(3 * env.launched),
    }
    return play(env, params, actions[kind])


def same(one: Any, two: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_without_a_fund_all_policies_coincide() -> None:
    """Bitwise, whatever the actions are."""
    env, params = market(record=True)
    params = params.replace(exploration_budget=jnp.float32(0.0))  # type: ignore[attr-defined]
    neutral = play(env, params, neutral_action(env.layout))
    other = play(env, params, random_actions(env))
    same(neutral[0].side, other[0].side)
    same(neutral[1:], other[1:])
    same(neutral[0].side, neutral[0].twin)
    assert float(neutral[0].side.fund_spent.max()) == 0.0


def test_a_platform_that_takes_in_no_evidence_predicts_what_it_did_at_launch() -> None:
    env, params = market(record=True)
    actions = jnp.tile(jnp.asarray([-0.6, -1.0, 0.0]), env.launched)
    deaf = play(env, params.replace(evidence=jnp.float32(0.0)), actions)[0]  # type: ignore[attr-defined]
    first = jax.jit(jax.vmap(lambda key: env.reset(key, params)[1]))(jax.random.split(jax.random.key(0), EPISODES))
    for belief, at_launch in zip(*(jax.tree.leaves(x.side.beliefs) for x in (deaf, first)), strict=True):
        np.testing.assert_allclose(belief, at_launch, rtol=1e-5)
    heard = played("bonus")[0]
    assert float(np.abs(np.asarray(heard.side.beliefs.ctr / deaf.side.beliefs.ctr) - 1.0).mean()) > 0.05
    assert float(np.asarray(deaf.side.click).sum()) > 0.0  # there was something to hear


def test_where_every_rate_is_known_evidence_changes_nothing() -> None:
    """What support brings then is subsidy; there is nothing to learn."""
    env, params = market(record=True)
    known = {
        name: jnp.float32(value)
        for name, value in (("content_quality", 1.0), ("category_sd", 0.0), ("advertiser_sd", 0.0))
    }
    params = params.replace(**known)  # type: ignore[attr-defined]
    actions = jnp.tile(jnp.asarray([-0.6, -1.0, 0.0]), env.launched)
    heard, deaf = (play(env, params.replace(evidence=jnp.float32(x)), actions) for x in (1.0, 0.0))  # type: ignore[attr-defined]
    np.testing.assert_allclose(heard[0].side.beliefs.ctr, deaf[0].side.beliefs.ctr, rtol=1e-3)
    np.testing.assert_allclose(heard[4]["success_rate"], deaf[4]["success_rate"], atol=1e-6)
    np.testing.assert_allclose(heard[4]["expected_conversions"], deaf[4]["expected_conversions"], rtol=5e-3)


def test_the_twin_is_the_market_under_neutral_actions() -> None:
    last = played("neutral")[0]
    same(last.side, last.twin)
    busy = played("random")[0]
    same(busy.twin, last.twin)
    assert (np.asarray(busy.side.spend) != np.asarray(busy.twin.spend)).any()


@pytest.mark.parametrize("kind", ["random", "bonus", "all"])
def test_money_is_never_overspent(kind: str) -> None:
    env, _ = market(record=True)
    last, _, _, info, *_ = played(kind)
    world, side = last.world, last.side
    assert (np.asarray(side.fund_spent) <= np.asarray(world.fund)).all()
    np.testing.assert_allclose(np.asarray(info["charge"]).sum(axis=1), side.fund_spent, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(side.charge).sum(axis=1), side.fund_spent, rtol=1e-5)
    assert (np.asarray(side.spend) <= np.asarray(world.budget) * env.days * (1 + 1e-6)).all()
    np.testing.assert_allclose(np.asarray(side.revenue).sum(axis=1), np.asarray(side.spend).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(info["arm_revenue"]).sum(axis=(2, 3)), info["revenue"], rtol=1e-4)
    assert float(np.asarray(side.fund_spent).sum()) > 0.0


def test_support_helps() -> None:
    shown = [np.asarray(played(kind)[0].side.exposure).mean() for kind in ("neutral", "bonus")]
    assert shown[1] > 1.05 * shown[0]
    gain = np.asarray(played("bonus")[4]["success_rate_gain"])
    assert gain.mean() > 0.0
    np.testing.assert_array_equal(np.asarray(played("neutral")[4]["success_rate_gain"]), 0.0)


def test_success_is_a_threshold_in_expectation() -> None:
    """Whatever the policy, an ad has its n-th conversion once its true expected conversions reach a number fixed at reset."""
    env, params = market(record=True)
    for kind in ("neutral", "random", "bonus"):
        last = played(kind)[0]
        side, world = last.side, last.world
        assert (np.asarray(side.outcome) != PENDING).all()
        threshold = np.asarray(world.conversions)[:, :, int(params.required_conversions) - 1]
        conversions, spend = np.moveaxis(np.asarray(side.at_close), 2, 0)
        reached = conversions >= float(params.required_conversions)
        np.testing.assert_array_equal(reached, np.asarray(side.expected_close) >= threshold)
        target = np.asarray(world.target)[:, env.mature :]
        cheap = spend <= 1.2 * target * conversions * (1 + 1e-6)
        np.testing.assert_array_equal(np.asarray(side.outcome) == SUCCEEDED, reached & cheap)
    np.testing.assert_array_equal(played("neutral")[0].world.conversions, played("random")[0].world.conversions)


def test_failed_ads_leave_and_successes_stay() -> None:
    env, params = market(record=True)
    last, obs, _, info, *_ = played("bonus")
    expected, outcome = np.asarray(info["expected"]), np.asarray(last.side.outcome)
    window = int(params.window_days * env.ticks_per_day)
    for e in range(EPISODES):
        for i in range(env.launched):
            start = int(last.world.launch[e, i])
            assert start == 0 or expected[e, start - 1, i] == 0.0
            after = expected[e, -1, i] - expected[e, start + window - 1, i]
            assert (after > 0.0) <= (outcome[e, i] == SUCCEEDED)
            live = np.asarray(env.layout.split(obs[e])[2])[:, i]
            np.testing.assert_array_equal(
                live, (np.arange(len(live)) >= start) & (np.arange(len(live)) < start + window)
            )


@pytest.mark.parametrize("kind", ["neutral", "bonus"])
def test_rewards_add_up_to_successes(kind: str) -> None:
    last, _, reward, *_ = played(kind)
    successes = (np.asarray(last.side.outcome) == SUCCEEDED).sum(axis=1)
    np.testing.assert_array_equal(np.asarray(reward).sum(axis=1), successes)
    env, params = market(**PLAIN)
    action = {"neutral": neutral_action(env.layout), "bonus": jnp.tile(jnp.asarray([-0.6, -1.0, 0.0]), env.launched)}
    last, _, progress, *_ = play(env, params, action[kind])
    successes = (np.asarray(last.side.outcome) == SUCCEEDED).sum(axis=1)
    np.testing.assert_allclose(np.asarray(progress).sum(axis=1), successes, atol=1e-4)
    assert (np.asarray(progress) % 1.0 != 0.0).any()


def test_no_policy_exceeds_the_bound() -> None:
    for kind in ("neutral", "random", "bonus", "all"):
        _, _, _, _, metrics, bound, _ = played(kind)
        assert (np.asarray(metrics["successes"]) <= np.asarray(bound["bound_successes"]) + 1e-4).all()
        assert (np.asarray(bound["bound_successes"]) <= market()[0].launched).all()
        assert (np.asarray(bound["bound_rate"]) >= np.asarray(bound["bound_free_rate"]) - 1e-6).all()
    bound = played("neutral")[5]
    assert (np.asarray(bound["bound_rate"]) <= np.asarray(bound["bound_unlimited_rate"]) + 1e-6).all()


def test_reports_come_late_and_none_is_lost() -> None:
    last, _, _, info, _, _, reported = played("neutral")
    happened, known = np.asarray(info["conversions"]), np.asarray(reported)
    assert (known <= happened + 1e-4).all()
    assert (np.diff(known, axis=1) >= -1e-4).all()
    assert known[:, -1].sum() < 0.95 * happened[:, -1].sum()
    env, params = market(**PLAIN)
    last, *_, reported = play(env, params, neutral_action(env.layout))
    np.testing.assert_array_equal(np.asarray(reported)[:, -1], last.side.conversion)


def test_counts_are_poisson() -> None:
    times = jax.jit(arrival_times, static_argnums=(1, 2))(jax.random.key(0), 4000, 32)
    assert (np.diff(np.asarray(times), axis=1) > 0.0).all()
    for level in (2.0, 8.0):
        counts = np.asarray(arrivals_by(times, jnp.full(4000, level)))
        assert counts.mean() == pytest.approx(level, rel=0.03)
        assert counts.var() == pytest.approx(level, rel=0.08)
    at_ten = (np.asarray(arrivals_by(times, jnp.full(4000, 8.0))) >= 10).mean()
    assert at_ten == pytest.approx(0.283, abs=0.025)
    far = np.asarray(arrivals_by(times, jnp.full(4000, 100.0)))
    np.testing.assert_allclose(far, 32.0 + 100.0 - np.asarray(times)[:, -1], rtol=1e-5)
    with pytest.raises(ValueError, match="count must be a positive multiple of 16, got 10"):
        arrival_times(jax.random.key(0), 3, 10)


def test_predictions_of_the_market_are_unbiased_at_launch() -> None:
    """Ads as believed before they are shown: what is predicted is true on average."""
    _, _, _, info, *_ = played("neutral")
    predicted, true = np.asarray(info["predicted"])[:, 0], np.asarray(info["true_value"])[:, 0]
    assert predicted.mean() / true.mean() == pytest.approx(1.0, abs=0.15)


def test_a_bonus_never_hides_its_ad() -> None:
    """One ad alone is supported: its expectation never falls behind the twin's, tick by tick, while the fund lasts."""
    env, params = market(record=True)
    rich = params.replace(exploration_budget=jnp.float32(1e3))  # type: ignore[attr-defined]
    action = np.asarray(neutral_action(env.layout)).copy().reshape(-1, 3)
    action[2, 0] = 0.5
    last, *_ = play(env, rich, action.ravel())
    assert (np.asarray(last.side.exposure)[:, 2] >= np.asarray(last.twin.exposure)[:, 2] - 1e-3).mean() > 0.95


def test_relabelling_ads_relabels_observations() -> None:
    """Two launched ads that swap all they are swap features, bit for bit but for rounding of sums over ads."""
    env, params = market(record=True)
    _, state = env.reset(jax.random.key(3), params)
    order = np.arange(env.launched)
    order[[1, 4]] = [4, 1]
    ads = np.concatenate([np.arange(env.mature), env.mature + order])

    def moved(leaf: jax.Array, axis_of: tuple[int, ...]) -> jax.Array:
        for axis, size in enumerate(leaf.shape):
            if size in axis_of:
                leaf = jnp.take(leaf, order if size == env.launched else ads, axis=axis)
        return leaf

    sizes = (env.launched, env.mature + env.launched)
    swapped = jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else moved(x, sizes),
        state,
    )
    from adarena.envs.coldstart_view import observe

    state, swapped = (x.replace(tick=jnp.int32(6)) for x in (state, swapped))
    context, items, mask = env.layout.split(observe(env, state, params))
    other_context, other_items, other_mask = env.layout.split(observe(env, swapped, params))
    np.testing.assert_allclose(context, other_context, rtol=1e-5)
    np.testing.assert_allclose(items[order], other_items, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mask[order], other_mask)
    assert mask.any()


def test_a_batch_is_traced_once() -> None:
    env, params = market(**PLAIN)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(state: State, action: jax.Array) -> Any:
        return jax.vmap(lambda s, a: env.step(jax.random.key(0), s, a, params))(state, action)

    chex.clear_trace_counter()
    keys = jax.random.split(jax.random.key(0), 256)
    obs, state = jax.jit(jax.vmap(lambda key: env.reset(key, params)))(keys)
    for tick in range(3):
        obs, state, *_ = step(state, jnp.full((256, 3 * env.launched), 0.1 * tick))
    assert obs.shape == (256, len(env.OBSERVATION))


def test_arms_of_split_tests() -> None:
    """Without treated ads nothing is charged; support on half of the users reaches those alone."""
    env, params = market(record=True)
    nobody = params.replace(treated=jnp.zeros(env.launched, bool))  # type: ignore[attr-defined]
    last, _, _, info, *_ = play(env, nobody, random_actions(env))
    assert float(last.side.fund_spent.max()) == 0.0
    assert float(np.asarray(info["arm_conversions"])[:, :, 2].max()) == 0.0
    half = params.replace(user_share=jnp.float32(0.5))  # type: ignore[attr-defined]
    last, _, _, info, *_ = play(env, half, jnp.tile(jnp.asarray([-0.6, -1.0, 0.0]), env.launched))
    control, treated = np.asarray(info["arm_conversions"])[:, :, 2].sum(axis=(0, 1))
    assert treated > 1.1 * control
    on_treated = np.asarray(info["expected_treated_users"])[:, -1].sum()
    np.testing.assert_allclose(on_treated, treated, rtol=1e-3)


def test_metrics_hold_no_nan() -> None:
    for kind in ("neutral", "all"):
        metrics = played(kind)[4]
        assert {"success_rate", "score", "revenue_loss", "mature_value_loss", "time_to_success"} <= set(metrics)
        for name, value in metrics.items():
            assert np.isfinite(np.asarray(value)).all(), name
        np.testing.assert_array_equal(metrics["score"], metrics["success_rate"])


def test_oracle_sees_the_truth() -> None:
    env, _ = market(record=True)
    last, _, _, info, *_ = played("neutral")
    state = jax.tree.map(lambda x: x[0], last)
    ctr, cvr = env.true_rates(state)
    np.testing.assert_allclose(ctr * cvr, info["true_value"][0, 0], rtol=1e-6)


def test_picture() -> None:
    env, params = market(record=True)
    state = jax.tree.map(lambda x: x[0], played("bonus")[0])
    picture = env.render(state, params)
    assert picture.shape == (480, 720, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 10
    with pytest.raises(ValueError, match=r"state must be one episode, .* got a batch"):
        env.render(played("bonus")[0], params)


NAN = float("nan")
BAD: list[tuple[dict[str, Any], str]] = [
    ({"launched": 0}, "launched must be a whole number from 1 to 4096, got 0"),
    ({"mature": 0}, "mature must be a whole number from 1 to 4096, got 0"),
    ({"days": 2.5}, "days must be a whole number from 1 to 365, got 2.5"),
    ({"mechanism": "vcg"}, "mechanism must be one of gsp, first_price where ranks are boosted, got 'vcg'"),
    ({"reward": "money"}, "reward must be one of success, progress, got 'money'"),
    ({"twin": 1}, "twin must be True or False, got 1"),
    (
        {"correlation": 0.7, "category_correlation": 0.6},
        "correlation + category_correlation must be at most 1, got 1.3",
    ),
    ({"spread": NAN}, "spread must lie in [0, 3], got nan"),
    ({"categories": 9}, "categories must be at most advertisers (4), got 9"),
    ({"required_conversions": 0}, "required_conversions must be finite and lie in [1, 64], got 0"),
    ({"required_conversions": -3}, "required_conversions must be finite and lie in [1, 64], got -3"),
    ({"required_conversions": 9.5}, "required_conversions must be a whole number, got 9.5"),
    ({"window_days": 0.0}, "window_days must be finite and lie in [0.001, inf], got 0.0"),
    ({"window_days": -1.0}, "window_days must be finite and lie in [0.001, inf], got -1.0"),
    ({"window_days": 5.0}, "window_days must leave every window time to close"),
    ({"exploration_budget": -0.01}, "exploration_budget must be finite and lie in [0, inf], got -0.01"),
    ({"exploration_budget": NAN}, "exploration_budget must be finite and lie in [0, inf], got nan"),
    ({"max_share": 1.5}, "max_share must be finite and lie in [0, 1], got 1.5"),
    ({"user_share": -0.1}, "user_share must be finite and lie in [0, 1], got -0.1"),
    ({"ad_share": 2.0}, "ad_share must be finite and lie in [0, 1], got 2.0"),
    ({"content_quality": 1.2}, "content_quality must be finite and lie in [0, 1], got 1.2"),
    ({"max_multiplier": 0.5}, "max_multiplier must be finite and lie in [1, 1000], got 0.5"),
    ({"treated": [True] * 5}, "treated must be an array of 6 bools, one a launched ad, got [True"),
    ({"treated": [1.0] * 6}, "treated must be an array of 6 bools, one a launched ad, got [1.0"),
    ({"base_target": [100.0]}, "base_target must be an array of shape (18,), got [100.0]"),
    ({"reserve": "low"}, "reserve must be a number, got 'low'"),
    ({"exposure": [0.5, 0.8]}, "exposure must not rise from one slot to the next, got [0.5, 0.8]"),
    ({"bank": 3}, "bank must be a adarena.envs.market.traffic.Bank, got 3"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda x: re.sub(r"\s+", " ", str(x))[:50])
def test_bad_input_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        adarena.envs.make(ID, **{**SIZES, **NUMBERS, **changes})


def test_windows_must_close_in_short_episodes() -> None:
    with pytest.raises(ValueError, match=r"days must leave every window time to close: .* = 5, got 7 \+ 3"):
        adarena.envs.make(ID, **{**SIZES, "days": 5})
