"""Decision Transformer: what is asked for is what is done, the past alone is read, and what it refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_sequences import EARNED, SMALL, SPEC, STEPS, check_resumes, line_data, play, returns, signed_line, trained

from adarena.agents.offline import decision_transformer as dt
from adarena.agents.offline.data import make_data
from adarena.agents.offline.returns import Meter, fit_goals, meter_of, value_rewards
from adarena.agents.offline.transformer import Context, SequenceEncoder
from adarena.envs.autobid import AutoBid
from adarena.envs.observation import entries


@pytest.fixture(scope="module")
def data() -> Any:
    """Logged episodes."""
    return line_data()


@pytest.fixture(scope="module", params=["to_go", "relative"])
def policy(request: pytest.FixtureRequest, data: Any) -> Any:
    """A trained model."""
    past = request.param == "to_go"
    config = dt.make_config(conditioning=request.param, meter=EARNED if past else None, past_actions=past, **SMALL)
    return dt.make_policy(config, SPEC, trained(dt, config, data, 400)[0])


def test_the_return_asked_for_is_the_return_had(policy: Any, data: Any) -> None:
    spread = float(data.returns_to_go[:, 0].std()) * float(data.reward_scale)
    for target in (-1.2, 0.0, 1.2):
        wanted = target * spread + float(data.returns_to_go[:, 0].mean()) * float(data.reward_scale)
        np.testing.assert_allclose(returns(policy, target), wanted, atol=0.15 * STEPS)
    assert returns(policy, 1.2).min() > 3.0  # the good actions, with either sign
    assert returns(policy, -1.2).max() < -3.0


def test_acting_step_by_step_gives_what_a_window_gives(policy: Any) -> None:
    length = policy.context
    observations, actions, (contexts, _) = play(policy, jnp.float32(1.0), jax.random.key(0))
    step = np.arange(STEPS)
    goals = np.asarray(contexts.goal)[step, np.minimum(step, length - 1)]
    moments = jax.tree.map(np.asarray, policy.obs_moments)
    seen = (np.asarray(observations) - moments.mean) / np.sqrt(moments.variance)
    first = np.maximum(step - length + 1, 0)
    # Places after the step are filled with what comes later: a causal model does not look there.
    at = np.minimum(first[:, None] + np.arange(length), STEPS - 1)
    windows = Context(*(jnp.asarray(x) for x in (goals[at], seen[at], np.asarray(actions)[at][..., None], first)))
    chosen = jax.jit(policy.module.apply)({"params": policy.network}, windows)
    np.testing.assert_allclose(chosen[step, step - first, 0], actions, atol=2e-5)


def test_what_comes_later_changes_nothing() -> None:
    encoder = SequenceEncoder(steps=8, width=16, layers=2, heads=2)
    keys = jax.random.split(jax.random.key(0), 8)
    context = Context(
        jax.random.normal(keys[0], (5,)),
        jax.random.normal(keys[1], (5, 3)),
        jax.random.normal(keys[2], (5, 1)),
        jnp.int32(2),
    )
    params = jax.jit(encoder.init)(keys[3], context)
    apply = jax.jit(lambda context: encoder.apply(params, context))
    before = np.asarray(apply(context))
    later = context._replace(
        goal=context.goal.at[3:].add(1.0), obs=context.obs.at[3:].add(1.0), action=context.action.at[2:].add(1.0)
    )
    after = np.asarray(apply(later))
    np.testing.assert_array_equal(before[:3], after[:3])  # the third step does not see its own action

    def moves(changed: Context, steps: slice) -> bool:
        return bool((np.abs(np.asarray(apply(changed)) - before)[steps].max(-1) > 1e-5).all())

    assert moves(later, slice(3, 5))
    assert moves(context._replace(goal=context.goal.at[2].add(1.0)), slice(2, 5))
    assert moves(context._replace(obs=context.obs.at[2].add(1.0)), slice(2, 5))
    assert moves(context._replace(action=context.action.at[1].add(1.0)), slice(2, 5))
    assert moves(context._replace(time=jnp.int32(0)), slice(0, 5))


def test_first_and_last_steps_are_seen_about_as_often_as_others(data: Any) -> None:
    config = dt.make_config(**{**SMALL, "batch": 4096})
    sample = jax.jit(lambda key: dt.sample_contexts(config, fit_goals(data), data, key)[1])
    windows = sample(jax.random.key(0))
    assert bool(windows.mask.all())
    seen = np.bincount(np.asarray(windows.time).reshape(-1), minlength=STEPS) / windows.time.size
    # Nine ends of windows, of which four are moved to the first window's and four to the last one's.
    np.testing.assert_allclose(seen, np.asarray([4, 5, 9, 9, 5, 4]) / 36, atol=0.01)


def test_goals_take_out_what_the_observation_foretells(data: Any) -> None:
    episodes = signed_line()
    rich = np.linspace(0.5, 3.0, episodes.count, dtype=np.float32)[:, None]  # what a budget would be
    seen = episodes.observations.copy()
    seen[..., 2] = rich
    rewards = episodes.rewards * (0.2 * rich) + rich
    known = make_data(dataclasses.replace(episodes, observations=seen, rewards=rewards), SPEC)
    goals = jax.jit(fit_goals)(known)
    z = np.asarray(goals.relative(known.observations[:, 0], known.returns_to_go[:, 0], jnp.zeros(episodes.count, int)))
    skill = episodes.returns()
    assert abs(np.corrcoef(z, rich[:, 0])[0, 1]) < 0.1
    assert np.corrcoef(z, skill)[0, 1] > 0.95
    assert np.corrcoef(known.returns_to_go[:, 0], skill)[0, 1] < 0.5
    np.testing.assert_allclose(z.std(), 1.0, atol=0.15)


def test_meters_read_what_was_earned() -> None:
    env = AutoBid(advertisers=4, impressions=8)
    names = [entry.name for entry in entries(env.categories)]
    obs = np.zeros(len(names), np.float32)
    for name, value in (("progress", 0.3), ("log_budget", np.log(1000.0)), ("log_target", np.log(50.0))):
        obs[names.index(name)] = value
    for over, share in ((0.5, 1.0), (1.0, 1.0), (2.0, 0.25)):
        obs[names.index("cost_over_target")] = np.log(over)
        assert float(meter_of(env, "value")(jnp.asarray(obs))) == pytest.approx(6.0, rel=1e-5)
        assert float(meter_of(env, "score")(jnp.asarray(obs))) == pytest.approx(6.0 * share, rel=1e-5)
    with pytest.raises(KeyError, match="reads the observation entry 'earned', which AutoBid lacks"):
        meter_of(env, "earned")
    played = np.zeros((2, 3, len(names)), np.float32)
    played[:, :, names.index("progress")] = [0.0, 0.5, 2.0]
    episodes = dataclasses.replace(
        signed_line(2),
        observations=played,
        **{name: getattr(signed_line(2), name)[:, :2] for name in ("actions", "rewards", "log_probs")},
        terminated=np.asarray([[False, True]] * 2),
    )
    np.testing.assert_allclose(value_rewards(episodes, env).rewards, [[0.5, 1.5]] * 2)


def test_a_stopped_run_goes_on(tmp_path: Any, data: Any) -> None:
    check_resumes(dt, dt.make_config(**SMALL), data, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, r"width must be a multiple of heads \(3\), got 64"),
        ({"conditioning": "to_go"}, "meter must be given where conditioning is 'to_go', got None"),
        ({"conditioning": "best"}, "conditioning must be one of to_go, relative, advantage, got 'best'"),
        ({"meter": "score"}, "meter must be None or a Meter, got 'score'"),
        ({"context": 0}, "context must be a whole number of at least 1, got 0"),
        ({"target": 11.0}, r"target must be a number in \[-10, 10\], got 11.0"),
        ({"past_actions": 1}, "past_actions must be True or False, got 1"),
    ],
)
def test_bad_numbers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dt.make_config(**changes)


def test_what_does_not_fit_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="context must be at most an episode's 6 steps, got 7"):
        jax.eval_shape(lambda key: dt.init(dt.make_config(**{**SMALL, "context": 7}), data, key), jax.random.key(0))
    with pytest.raises(ValueError, match="kind must be one of score, value, entry, got 'sum'"):
        Meter("sum", (0,))
    with pytest.raises(ValueError, match="places must be 1 numbers of at least 0 for 'entry'"):
        Meter("entry", (0, 1))
