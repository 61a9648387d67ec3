"""Rules of new ads' placement: alike for all ads, silent without a fund, and SBL as published."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import adarena.envs
from adarena.agents.policy import make_policy, registered_policies
from adarena.agents.rules import COLDSTART_RULES, ORACLES
from adarena.agents.rules.coldstart import dual_step, gamma_of_mean_one
from adarena.agents.rules.one_of import OneOf, stack
from adarena.agents.rules.placement import PlacementRule
from adarena.agents.rules.rescue import chance_of
from adarena.agents.tuner import check_space
from adarena.envs.coldstart import ColdStart, neutral_action
from adarena.envs.core import Entry
from adarena.experiments.rollout import rollout_seeds

pytestmark = pytest.mark.usefixtures("quick_compilation")

ALL = {**COLDSTART_RULES, **ORACLES}
SIZES: dict[str, Any] = {
    **{"mature": 10, "launched": 6, "days": 10, "ticks_per_day": 4, "impressions": 16, "blocks": 8},
    **{"categories": 2, "advertisers": 4, "daily_impressions": 60_000.0, "twin": False},
}
EPISODES = 16
ORDER = np.asarray([3, 0, 5, 1, 4, 2])
KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def market() -> tuple[ColdStart, Any]:
    env, params = adarena.envs.make("adarena/ColdStart-v0", truth=True, **SIZES)
    assert isinstance(env, ColdStart)
    return env, params


@pytest.fixture(scope="module")
def built(market: tuple[ColdStart, Any]) -> dict[str, PlacementRule]:
    return {name: rule.build(market[0]) for name, rule in ALL.items()}


@pytest.fixture(scope="module")
def played(market: tuple[ColdStart, Any], built: dict[str, PlacementRule]) -> dict[str, dict[str, np.ndarray]]:
    """Every rule on the same markets, the first half of them without a fund; every number ``[EPISODES, ...]``."""
    env, params = market
    policies = stack([OneOf(tuple(built.values()), jnp.float32(number)) for number in range(len(built))])
    keys = jnp.tile(jax.random.split(jax.random.key(0), EPISODES // 2), 2)
    fund = np.repeat(np.asarray([0.0, 0.1], np.float32), EPISODES // 2)
    record = ("action", "info.revenue", "info.charge")
    out = rollout_seeds(env, params, policies, keys, {"exploration_budget": fund}, record=record, bound=False)
    columns = {**out.metrics, **out.series}
    return {name: {column: x[n] for column, x in columns.items()} for n, name in enumerate(built)}


@pytest.fixture(scope="module")
def observations(market: tuple[ColdStart, Any]) -> np.ndarray:
    """``[T, obs]`` likely numbers in the range of each entry; half of the places are empty."""
    env = market[0]
    rng = np.random.default_rng(0)
    low, high = (np.asarray([getattr(entry, end) for entry in env.OBSERVATION]) for end in ("low", "high"))
    low, high = np.maximum(low, -1.5), np.minimum(high, 1.5)
    drawn = rng.uniform(low, high, (12, len(low))).astype(np.float32)
    context, items, _ = env.layout.split(jnp.asarray(drawn))
    live = rng.integers(0, 2, items.shape[:2])
    items = items.at[..., 0].set(1.0) * live[..., None]
    return np.asarray(env.layout.join(context, items))


def relabelled(env: ColdStart, observations: np.ndarray, order: np.ndarray) -> np.ndarray:
    context, items, _ = env.layout.split(jnp.asarray(observations))
    return np.asarray(env.layout.join(context, items[:, order]))


@pytest.fixture(scope="module")
def given(
    market: tuple[ColdStart, Any], built: dict[str, PlacementRule], observations: np.ndarray
) -> dict[str, np.ndarray]:
    """Actions ``[2, T, L, 3]`` of every rule that meets these observations, memory and all, and that meets them relabelled."""
    env, params = market
    rules = {**built, "still": built["thompson"].replace(scale=0.0)}  # type: ignore[attr-defined]

    def of(rule: PlacementRule, seen: jax.Array) -> jax.Array:
        out = jax.lax.scan(lambda carry, obs: rule.act(KEY, carry, obs), rule.init(params), seen)[1]
        return out.reshape(len(observations), env.launched, 3)

    both = jnp.stack([observations, relabelled(env, observations, ORDER)])
    every = jax.jit(jax.vmap(lambda seen: {name: of(rule, seen) for name, rule in rules.items()}))
    return {name: np.asarray(out) for name, out in every(both).items()}


@pytest.mark.parametrize("name", ALL)
def test_registered_with_a_space_that_the_tuner_takes(market: tuple[ColdStart, Any], name: str) -> None:
    assert name in registered_policies()
    policy = make_policy(name, market[0])
    assert type(policy) is ALL[name]
    if name == "none":
        assert not ALL[name].space()
        return
    check_space(policy, ALL[name].space())
    for parameter, bound in ALL[name].space().items():
        assert getattr(policy, parameter) == bound.default


@pytest.mark.parametrize("name", [name for name in ALL if name != "thompson"])
def test_ads_are_treated_alike(given: dict[str, np.ndarray], name: str) -> None:
    straight, turned = given[name]
    np.testing.assert_allclose(turned, straight[:, ORDER], atol=1e-5)
    assert name == "none" or np.ptp(straight) > 0.0


def test_thompson_draws_by_each_ads_own_posterior(
    market: tuple[ColdStart, Any],
    built: dict[str, PlacementRule],
    observations: np.ndarray,
    given: dict[str, np.ndarray],
) -> None:
    """Draws are each ad's own, so over many of them relabelling ads relabels the mean support."""
    env, params = market
    rule = built["thompson"]
    busiest = observations[np.asarray(env.layout.split(jnp.asarray(observations))[2]).sum(axis=1).argmax()]

    def mean(obs: jax.Array) -> jax.Array:
        draw = jax.vmap(lambda key: rule.act(key, rule.init(params), obs)[1])
        return draw(jax.random.split(jax.random.key(2), 4096)).reshape(4096, -1, 3).mean(axis=0)

    both = jnp.stack([busiest, relabelled(env, busiest[None], ORDER)[0]])
    straight, turned = np.asarray(jax.jit(jax.vmap(mean))(both))
    assert straight[:, 0].max() > -1.0
    np.testing.assert_allclose(turned, straight[ORDER], atol=0.1 * (straight[:, 0].max() + 1.0))
    np.testing.assert_array_equal(given["still"][..., :2], -1.0)


def test_gamma_of_mean_one() -> None:
    z = jax.random.normal(jax.random.key(0), (200_000,))
    for sd in (0.2, 0.5, 1.0):
        draws = np.asarray(gamma_of_mean_one(z, jnp.float32(sd)))
        assert draws.mean() == pytest.approx(1.0, abs=0.01)
        assert draws.std() == pytest.approx(sd, rel=0.03)
        exact = stats.gamma(sd**-2, scale=sd**2).ppf([0.25, 0.5, 0.75, 0.95])
        np.testing.assert_allclose(np.quantile(draws, [0.25, 0.5, 0.75, 0.95]), exact, rtol=0.04)


@pytest.mark.parametrize("name", ALL)
def test_without_a_fund_all_coincide(played: dict[str, dict[str, np.ndarray]], name: str) -> None:
    half = EPISODES // 2
    for column in ("info.revenue", "successes", "revenue", "exploration_cost"):
        np.testing.assert_array_equal(played[name][column][:half], played["none"][column][:half], err_msg=column)
    assert (played[name]["exploration_cost"][:half] == 0.0).all()


@pytest.mark.parametrize("name", ALL)
def test_rule_runs_with_a_fund(played: dict[str, dict[str, np.ndarray]], name: str) -> None:
    half = EPISODES // 2
    mine, nobody = played[name], played["none"]
    assert np.isfinite(mine["action"]).all()
    assert (np.abs(mine["action"]) <= 1.0).all()
    assert (mine["exploration_budget_used"] <= 1.0 + 1e-6).all()
    changed = (mine["info.revenue"][half:] != nobody["info.revenue"][half:]).any()
    assert changed == (name != "none")
    if name not in ("none", "auction_ucb"):  # its advertisers pay for its optimism, as far as the multiplier goes
        assert mine["exploration_cost"][half:].sum() > 0.0


@pytest.mark.parametrize("name", ALL)
def test_empty_places_get_the_neutral_action(
    market: tuple[ColdStart, Any], observations: np.ndarray, given: dict[str, np.ndarray], name: str
) -> None:
    env = market[0]
    live = np.asarray(env.layout.split(jnp.asarray(observations))[2])
    assert 0 < live.sum() < live.size
    neutral = np.asarray(neutral_action(env.layout)).reshape(-1, 3)
    mine = given[name][0]
    np.testing.assert_array_equal(mine[~live], np.broadcast_to(neutral[0], mine[~live].shape))
    if name == "none":
        np.testing.assert_array_equal(mine, np.broadcast_to(neutral, mine.shape))


def observation(rule: PlacementRule, context: dict[str, float], ads: list[dict[str, float]]) -> jax.Array:
    """An observation with these entries; all others are 0."""
    first = [context.get(name, 0.0) for name in rule.context_names]
    rows = [{"live": 1.0, **ad}.get(name, 0.0) for ad in ads for name in rule.feature_names]
    empty = [0.0] * len(rule.feature_names) * (rule.layout.items - len(ads))
    return jnp.asarray(first + rows + empty, jnp.float32)


def test_dual_step_by_hand() -> None:
    before = jnp.asarray([0.1, 0.1, 0.0, 0.9])
    after = dual_step(before, jnp.float32(0.5), jnp.asarray([0.2, 0.8, 1.0, 0.0]), 0.4, 1.0)
    np.testing.assert_allclose(after, [0.22, 0.0, 0.0, 1.0], atol=1e-6)


def test_sbl_by_hand(market: tuple[ColdStart, Any], built: dict[str, PlacementRule]) -> None:
    """Three ticks of three ads: N = 12 in a window of 3 x 4 ticks, so alpha is 1 a mean tick; eta .1, cap .14."""
    params = market[1]
    rule = built["sbl"].replace(eta=0.1, cap=0.14)  # type: ignore[attr-defined]
    base = {"log_required": float(np.log(12.0)), "window": 3.0 / 7.0}
    score, carry, act = np.log([0.5, 1.0, 2.0]), rule.init(params), jax.jit(rule.act)

    def tick(number: int, traffic: float, rates: list[float], reported: list[float]) -> np.ndarray:
        nonlocal carry
        age, to_come = number / 12.0, 12.0 - number
        ads = [
            {"age": age, "score": s, "conversions": 0.1, "projected": 0.1 + r * to_come / 12.0, "reported": n}
            for s, r, n in zip(score, rates, reported, strict=True)
        ]
        carry, action = act(KEY, carry, observation(rule, {**base, "traffic": traffic}, ads))
        rows = np.asarray(action).reshape(-1, 3)
        np.testing.assert_array_equal(rows[:, 1:], np.broadcast_to([-1.0, 0.0], rows[:, 1:].shape))
        return np.square(0.5 * (rows[:3, 0] + 1.0)) * float(params.max_bonus)  # running mean prices

    np.testing.assert_allclose(tick(0, 1.5, [0.0, 0.0, 0.0], [0.0] * 3), 0.0, atol=1e-6)
    # Running means over four ticks: what they say was shown is 4 x .1, 4 x .5, 0 conversions; alpha = 1 x 1.5.
    bonus = tick(1, 1.0, [0.1, 0.5, 0.0], [0.0] * 3)
    np.testing.assert_allclose(
        bonus, [0.5 * 0.11, 0.0, 2.0 * 0.14], atol=1e-5
    )  # the second falls to 0, the third meets cap
    # Shown: .1 + 4 (.275 - .1) = .8 and .5 + 4 (.4 - .5) = .1; alpha = 1; the third has succeeded.
    bonus = tick(2, 1.0, [0.275, 0.4, 0.0], [0.0, 0.0, 1.0])
    np.testing.assert_allclose(bonus, [0.5 * (0.11 + 0.1 * 0.2), 0.1 * 0.9, 0.0], atol=1e-5)


def test_chance_of_enough_conversions() -> None:
    for mean, sd in ((8.0, 0.0), (10.0, 0.3), (15.0, 0.5), (4.0, 0.3)):
        exact = stats.poisson(mean).sf(9) if sd == 0.0 else stats.nbinom(sd**-2, 1.0 / (1.0 + mean * sd**2)).sf(9)
        given = float(chance_of(jnp.float32(10.0), jnp.float32(mean), jnp.float32(sd), 0.0))
        assert given == pytest.approx(exact, abs=0.05)


def test_rescue_supports_whom_it_can_carry_over(market: tuple[ColdStart, Any], built: dict[str, PlacementRule]) -> None:
    params = dataclasses.replace(market[1], exploration_budget=jnp.float32(0.05))
    rule = built["rescue"]
    context = {"log_required": float(np.log(10.0)), "window": 3.0 / 7.0}
    usual = {"age": 0.25, "score": float(np.log(0.2)), "conversions": 0.3, "reported": 0.2}
    usual |= {"ctr_spread": 0.2, "cvr_spread": 0.3}
    ads = [
        usual,
        {**usual, "conversions": 2.0, "reported": 1.9},  # has succeeded
        {**usual, "age": 0.95, "conversions": 0.0, "reported": 0.0},  # cannot succeed
        {**usual, "score": float(np.log(0.02)), "value": -2.3},  # far too dear
    ]
    _, action = jax.jit(rule.act)(KEY, rule.init(params), observation(rule, context, ads))
    bonus = np.asarray(action).reshape(-1, 3)[:4, 0]
    assert bonus[0] > -1.0
    np.testing.assert_array_equal(bonus[1:], -1.0)


def test_truth_is_shown_to_oracles_only(market: tuple[ColdStart, Any]) -> None:
    env, params = market
    plain, its = adarena.envs.make("adarena/ColdStart-v0", **SIZES)
    assert not any("true" in entry.name for entry in plain.OBSERVATION)
    policy, ignorant = make_policy("oracle", plain), jnp.zeros(len(plain.OBSERVATION))
    carry = policy.init(its)
    with pytest.raises(KeyError, match="'true_pending', which this environment lacks"):
        policy.act(KEY, carry, ignorant)
    key = jax.random.key(3)
    (seen, state), (known, same) = (jax.jit(e.reset)(key, p) for e, p in ((plain, its), (env, params)))
    equal = jax.jit(lambda one, other: jax.tree.map(lambda x, y: (x == y).all(), one, other))(state, same)
    assert all(jax.tree.leaves(equal))
    (_, items, live), (_, more, _) = plain.layout.split(seen), env.layout.split(known)
    np.testing.assert_array_equal(items, more[:, :-2])
    ctr, cvr = env.true_rates(state)
    expected = np.where(live, np.log(ctr * cvr / (params.ctr_level * params.cvr_level)), 0.0)
    np.testing.assert_allclose(more[:, -2], expected, atol=1e-5)


def test_an_environment_without_ads_is_refused() -> None:
    env = types.SimpleNamespace(OBSERVATION=(Entry("live", "flag", 0, 1, "there"),), layout=None)
    with pytest.raises(TypeError, match="layout of items with three actions each, got SimpleNamespace"):
        make_policy("rescue", env)  # type: ignore[arg-type]
