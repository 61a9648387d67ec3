"""AutoBid: what an episode promises, whatever is bid in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adarena.envs
from adarena.envs.autobid import AutoBid, State
from adarena.envs.market.ledger import score
from adarena.envs.testing import check_env

SIZES: dict[str, Any] = {"advertisers": 6, "ticks": 6, "impressions": 16, "blocks": 8, "slots": 2, "categories": 2}
CASES = 6
EXOGENOUS = (
    "time_left",
    "hour_sin",
    "hour_cos",
    "traffic_left",
    "traffic_now",
    "traffic_last",
    "traffic_coming",
    "volume_now",
    "value_now",
    "log_budget",
    "log_target",
    "has_target",
    "richness",
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """An environment, its parameters, and a compiled player of many episodes."""

    env: AutoBid
    params: Any
    play: Callable[..., dict[str, Any]]
    reset: Callable[..., Any]

    def __call__(self, actions: Any, *, luck: int = 0, seed: int = 0, **changes: Any) -> dict[str, Any]:
        """Episodes of one plan of actions, on the same keys each time; ``[C, T, ...]``."""
        keys = jax.random.split(jax.random.key(seed), CASES)
        plan = np.broadcast_to(np.asarray(actions, np.float32), (self.env.ticks,))
        changes = self.env.validate_changes(changes)
        params = dataclasses.replace(self.params, **changes)
        return jax.tree.map(_numbers, self.play(params, keys, plan, luck))


def _numbers(leaf: jax.Array) -> np.ndarray:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def subject(**changes: Any) -> Subject:
    env, params = adarena.envs.make("adarena/AutoBid-v0", **{**SIZES, **changes})
    assert isinstance(env, AutoBid)

    def episode(params: Any, key: jax.Array, actions: jax.Array, luck: jax.Array) -> dict[str, Any]:
        obs, state = env.reset(key, params)
        state = dataclasses.replace(state, response=jax.random.fold_in(state.response, luck))

        def step(state: State, action: jax.Array) -> tuple[State, Any]:
            result = env.step(key, state, action[None], params)
            return result.state, result

        last, results = jax.lax.scan(step, state, actions)
        return {
            "first": state,
            "obs": jnp.concatenate([obs[None], results.obs]),
            "state": results.state,
            "reward": results.reward,
            "terminated": results.terminated,
            "truncated": results.truncated,
            "info": results.info,
            "metrics": env.metrics(last, params) | env.bound(results.info, last, params),
        }

    play = jax.jit(jax.vmap(episode, (None, 0, None, None)))
    return Subject(env, params, play, jax.jit(jax.vmap(env.reset, (0, None))))


@pytest.fixture(scope="module")
def plain() -> Subject:
    return subject(record=True)


@pytest.fixture(scope="module")
def late() -> Subject:
    return subject(
        objective="roas", mechanism="first_price", charge="conversion", delay=True, slots=1, traffic="synthetic"
    )


@pytest.fixture(scope="module")
def lucky() -> Subject:
    return subject(
        objective="budget",
        mechanism="vcg",
        charge="click",
        quality_ranking=True,
        response="sampled",
        prediction_error=True,
        record=True,
    )


@pytest.fixture(params=["plain", "late", "lucky"])
def each(request: pytest.FixtureRequest) -> Subject:
    return request.getfixturevalue(request.param)


def plans(env: AutoBid) -> dict[str, Any]:
    random = np.random.default_rng(0).uniform(-1.0, 1.0, env.ticks)
    return {"zero": 0.0, "lowest": -1.0, "highest": 1.0, "random": random}


def test_return_is_the_score(each: Subject) -> None:
    for name, plan in plans(each.env).items():
        out = each(plan)
        metrics = out["metrics"]
        np.testing.assert_allclose(out["reward"].sum(axis=1), metrics["score"], rtol=1e-4, atol=1e-5, err_msg=name)
        expected = score(metrics["value"], metrics["cost"], metrics["target"])
        np.testing.assert_allclose(metrics["score"], expected, rtol=1e-5, err_msg=name)
        assert np.isfinite(out["reward"]).all()
    if each.env.objective == "budget":
        np.testing.assert_array_equal(metrics["score"], metrics["value"])


def test_observations_are_named_and_within_bounds(each: Subject) -> None:
    names = [entry.name for entry in each.env.OBSERVATION]
    assert len(set(names)) == len(names)
    assert all(entry.unit and entry.meaning for entry in each.env.OBSERVATION)
    space = each.env.observation_space(each.params)
    for name, plan in plans(each.env).items():
        obs = each(plan)["obs"]
        assert obs.shape == (CASES, each.env.ticks + 1, len(names))
        for row in obs.reshape(-1, len(names)):
            assert space.contains(row), [
                names[i] for i in np.flatnonzero((row < space.low) | (row > space.high))
            ] or name


def test_observations_say_what_happened(plain: Subject) -> None:
    out = plain(0.3)
    place = {entry.name: n for n, entry in enumerate(plain.env.OBSERVATION)}
    state, obs, metrics = out["state"], out["obs"], out["metrics"]
    cases = np.arange(CASES)
    seat = out["first"].seat.index
    spent = state.accounts.spend[cases, :, seat]
    np.testing.assert_allclose(obs[:, 1:, place["budget_left"]], 1.0 - spent / metrics["budget"][:, None], atol=1e-5)
    np.testing.assert_allclose(obs[:, 0, place["log_budget"]], np.log(metrics["budget"]), rtol=1e-5)
    np.testing.assert_allclose(obs[:, 0, place["log_target"]], np.log(metrics["target"]), rtol=1e-5)
    np.testing.assert_allclose(
        obs[:, :, place["time_left"]], np.broadcast_to(1 - np.arange(7) / 6, (CASES, 7)), atol=1e-6
    )
    np.testing.assert_allclose(obs[:, 1:, place["multiplier_last"]], 0.3 * np.log(8.0), rtol=1e-5)
    hot = obs[:, :, [place["category_0"], place["category_1"]]]
    np.testing.assert_array_equal(hot.sum(axis=2), 1.0)
    np.testing.assert_array_equal(hot[cases, 0, out["first"].seat.category], 1.0)
    shown = out["info"]["exposure"][cases, :, seat].sum(axis=1)
    expected = shown / out["first"].volume.sum(axis=1)
    np.testing.assert_allclose(obs[:, -1, place["win_rate_all"]], expected, rtol=1e-4)
    # The landscape at the multiplier that was bid is what the bid won and paid.
    bid_one = plain(0.0, base_budget=np.full(6, 1e9))
    history = bid_one["state"].history
    at_one = 4  # multiplier 1 in the landscape's grid
    last = history.landscape_value[:, -1, :, at_one], history.landscape_cost[:, -1, :, at_one]
    np.testing.assert_allclose(last[0], history.value[:, -1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(last[1], history.cost[:, -1], rtol=1e-4, atol=1e-6)


def test_nobody_overspends(each: Subject) -> None:
    some_short = False
    for plan in plans(each.env).values():
        out = each(plan, base_budget=np.asarray(each.params.base_budget) * 0.3)
        accounts, budget = out["state"].accounts, out["first"].budget
        assert (accounts.spend <= budget[:, None]).all()
        assert (np.diff(accounts.spend, axis=1) >= 0.0).all()
        np.testing.assert_allclose(out["info"]["spend"].sum(axis=1), accounts.spend[:, -1], rtol=1e-4, atol=1e-4)
        exhausted = out["state"].exhausted
        after = np.concatenate([np.zeros_like(exhausted[:, :1]), exhausted[:, :-1]], axis=1)
        assert (out["info"]["exposure"][after] == 0.0).all(), (
            "who has met a charge that it could not pay pauses for the day"
        )
        some_short |= bool(exhausted.any())
    assert some_short


def test_an_episode_ends_with_the_day(plain: Subject) -> None:
    out = plain(0.0)
    np.testing.assert_array_equal(out["terminated"], np.arange(6)[None] == 5 + np.zeros((CASES, 1)))
    assert not out["truncated"].any()


def test_policies_meet_the_same_market(each: Subject) -> None:
    """Common random numbers: one reset key, whatever is bid."""
    outs = [each(plan) for plan in plans(each.env).values()]
    place = [n for n, entry in enumerate(each.env.OBSERVATION) if entry.name in EXOGENOUS]
    assert len(place) == len(EXOGENOUS)
    for other in outs[1:]:
        jax.tree.map(np.testing.assert_array_equal, outs[0]["first"], other["first"])
        np.testing.assert_allclose(outs[0]["obs"][:, :, place], other["obs"][:, :, place], rtol=1e-5, atol=1e-6)
        for name in ("volume", "drift", "budget", "target", "kind", "traffic", "response"):
            before, after = getattr(other["first"], name), getattr(other["state"], name)
            np.testing.assert_array_equal(np.broadcast_to(before[:, None], after.shape), after, err_msg=name)
    again = each(0.0)
    jax.tree.map(np.testing.assert_array_equal, outs[0], again)
    different = each(0.0, seed=1)["first"]
    for name in ("volume", "drift", "budget", "traffic", "response"):
        assert not np.array_equal(getattr(different, name), getattr(outs[0]["first"], name)), name


def test_streams_are_independent(lucky: Subject) -> None:
    """Other luck leaves traffic, drift, rivals and the seat as they were, and changes what comes of the ads."""
    one, two = lucky(0.0), lucky(0.0, luck=1)
    for name in ("volume", "drift", "budget", "target", "kind", "traffic"):
        np.testing.assert_array_equal(getattr(one["first"], name), getattr(two["first"], name), err_msg=name)
    place = [n for n, entry in enumerate(lucky.env.OBSERVATION) if entry.name in EXOGENOUS]
    np.testing.assert_allclose(one["obs"][:, :, place], two["obs"][:, :, place], rtol=1e-5, atol=1e-6)
    assert not np.array_equal(one["metrics"]["value"], two["metrics"]["value"])


def test_delayed_conversions_arrive_and_none_is_lost(late: Subject) -> None:
    out = late(0.5)
    accounts, pending = out["state"].accounts, out["state"].pending
    assert (accounts.reported <= accounts.value * (1 + 1e-5)).all()
    assert (accounts.reported[:, -1] < accounts.value[:, -1]).any()
    assert (np.diff(accounts.reported, axis=1) >= 0.0).all()
    beyond = np.zeros_like(accounts.value)  # what only the days after this one will report
    share = np.asarray(late.params.delay_distribution)
    won = out["info"]["value"]
    for tick in range(late.env.ticks):
        beyond[:, tick:] += won[:, [tick]] * (1.0 - share.sum())
    np.testing.assert_allclose(accounts.reported + pending.sum(axis=2) + beyond, accounts.value, rtol=1e-4, atol=1e-5)
    # Reported by the end of tick t: what was won at s, times the probability of a delay of at most t - s.
    expected = np.zeros_like(won)
    for now in range(late.env.ticks):
        for then in range(now + 1):
            expected[:, now] += won[:, then] * share[: now - then + 1].sum()
    np.testing.assert_allclose(accounts.reported, expected, rtol=1e-4, atol=1e-5)
    # The running score counts what is reported; the last tick counts everything.
    np.testing.assert_allclose(out["metrics"]["score"], out["state"].score[:, -1], rtol=1e-5)


def test_hindsight_is_a_bound(plain: Subject, lucky: Subject) -> None:
    for plan in np.linspace(-1.0, 1.0, 9):
        metrics = plain(plan)["metrics"]
        assert (metrics["score"] <= metrics["hindsight_score"] * (1 + 1e-3)).all()
        kept = metrics["cost_over_target"] <= 1.0
        assert (metrics["value"][kept] <= metrics["hindsight_value"][kept] * (1 + 1e-4)).all()
        assert (metrics["hindsight_value"] <= metrics["hindsight_score"] * (1 + 1e-6)).all()
        assert (metrics["hindsight_cost"] <= metrics["budget"] * (1 + 1e-5)).all()
    assert np.isfinite(lucky(-1.0)["metrics"]["hindsight_score"]).all()


def test_higher_bids_are_shown_more(plain: Subject) -> None:
    """With constant rivals and money for all, exposure and spend do not fall with the bid."""
    ample = {"base_budget": np.full(6, 1e9), "rival_mix": [1.0, 0.0, 0.0, 0.0]}
    levels = np.linspace(-1.0, 1.0, 9)
    metrics = [plain(level, **ample)["metrics"] for level in levels]
    for name in ("exposure", "cost", "value"):
        rising = np.stack([m[name] for m in metrics])
        assert (np.diff(rising, axis=0) >= -1e-4 * rising[:-1] - 1e-6).all(), name
        assert (rising[-1] > rising[0]).all(), name


def test_seat_is_who_it_says(plain: Subject) -> None:
    """``seat=k`` bids with category, level, budget and target of advertiser k; -1 draws one per episode."""
    same = dict.fromkeys(("budget_scale_low", "budget_scale_high", "target_scale_low", "target_scale_high"), 1.0)
    keys = jax.random.split(jax.random.key(3), 100)
    params = dataclasses.replace(plain.params, **plain.env.validate_changes(same))
    for seat in range(6):
        _, state = plain.reset(keys, dataclasses.replace(params, seat=jnp.int32(seat)))
        assert (state.seat.index == seat).all()
        assert (state.seat.category == params.category[seat]).all()
        np.testing.assert_allclose(state.seat.budget, params.base_budget[seat], rtol=1e-5)
        np.testing.assert_allclose(state.seat.target, params.base_target[seat], rtol=1e-5)
        np.testing.assert_allclose(state.seat.level, params.bank.level[seat], rtol=1e-6)
        np.testing.assert_array_equal(state.budget[:, seat], state.seat.budget)
    _, state = plain.reset(keys, params)
    assert set(np.asarray(state.seat.index)) == set(range(6))
    others = np.asarray(state.budget)[np.arange(6)[None] != np.asarray(state.seat.index)[:, None]]
    assert len(np.unique(others)) > 64


def test_a_day_of_another_size_is_the_same_day(plain: Subject) -> None:
    """Impressions and budgets grow together, so nothing that is relative changes."""
    usual, large = plain(0.1), plain(0.1, day_scale_low=4.0, day_scale_high=4.0)
    for name in ("value", "cost", "score", "budget", "exposure", "hindsight_value"):
        np.testing.assert_allclose(large["metrics"][name], 4.0 * usual["metrics"][name], rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(large["reward"], usual["reward"], rtol=1e-3, atol=1e-6)
    amounts = [n for n, entry in enumerate(plain.env.OBSERVATION) if entry.name == "log_budget"]
    difference = large["obs"] - usual["obs"]
    np.testing.assert_allclose(difference[..., amounts], np.log(4.0), rtol=1e-4)
    np.testing.assert_allclose(np.delete(difference, amounts, axis=-1), 0.0, atol=1e-3)
    drawn = plain(0.1, day_scale_low=0.25, day_scale_high=4.0)["first"].day_scale
    assert ((drawn >= 0.25) & (drawn <= 4.0)).all()
    assert len(np.unique(drawn)) == CASES


def test_ranges_of_budget_and_target_are_kept(plain: Subject) -> None:
    _, state = plain.reset(jax.random.split(jax.random.key(4), 100), plain.params)
    budget = np.asarray(state.seat.budget / plain.params.base_budget[state.seat.index])
    target = np.asarray(state.seat.target / plain.params.base_target[state.seat.index])
    assert 0.5 - 1e-4 <= budget.min() < 0.6 < 1.3 < budget.max() <= 1.5 + 1e-4
    assert 0.75 - 1e-4 <= target.min() < 0.82 < 1.25 < target.max() <= 1.33 + 1e-4
    kinds = np.bincount(np.asarray(state.kind).ravel(), minlength=4) / state.kind.size
    np.testing.assert_allclose(kinds, 0.25, atol=0.08)


def test_step_is_traced_once(plain: Subject) -> None:
    step = jax.jit(chex.assert_max_traces(plain.env.step, n=1))
    _, states = plain.reset(jax.random.split(jax.random.key(0), 100), plain.params)
    for case in range(2):
        state = jax.tree.map(lambda x, at=case: x[at], states)
        for action in (0.0, 0.5, -1.0):
            _, state, *_ = step(jax.random.key(9), state, jnp.full(1, action), plain.params)
    assert int(state.tick) == 3


def test_actions_beyond_the_space_count_as_its_ends(plain: Subject) -> None:
    jax.tree.map(np.testing.assert_array_equal, plain(5.0)["metrics"], plain(1.0)["metrics"])


def test_check_env() -> None:
    """The public conformance suite, on a market with everything switched on and on one with a single bidder."""
    full = subject(
        objective="roas", delay=True, prediction_error=True, charge="click", quality_ranking=True, record=True
    )
    check_env(full.env, full.params, exogenous=EXOGENOUS)


def test_a_single_bidder_pays_the_reserve() -> None:
    alone = subject(advertisers=1, categories=1, slots=3, traffic="synthetic", objective="budget")
    out = alone(1.0)
    metrics = out["metrics"]
    assert (metrics["exposure"] > 0.0).all()
    reserve = float(alone.params.terms.reserve)
    np.testing.assert_allclose(metrics["cost"], reserve * metrics["exposure"], rtol=1e-4)
    np.testing.assert_allclose(metrics["exposure"], out["first"].volume.sum(axis=1), rtol=1e-4)
