"""The evolution strategy: learns, meets the same markets with all candidates, goes on where it was, refuses bad input."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import ChoiceEnv, TargetEnv
from toy_set import SetEnv

from adarena.agents import checkpoint, es
from adarena.agents.policy import Policy

ENV = SetEnv()
PARAMS = ENV.default_params()
SMALL: dict[str, Any] = {"population": 32, "episodes": 8, "hidden": (16,)}
OBJECTIVE = (("score", 1.0), ("missed", -0.1))
STEPS = 32 * 8 * 8  # of a generation with SMALL
update = jax.jit(es.update, static_argnums=1)
init = jax.jit(es.init, static_argnums=1)


def bits(tree: Any) -> list[bytes]:
    plain = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)
    ]
    return [np.asarray(x).tobytes() for x in plain]


def test_learns_a_set_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """A policy that stays at zero earns about 0 to 1 of 8, less a tenth of what it missed by."""
    config = es.make_config(**SMALL, network="deep_sets", objective=OBJECTIVE)
    arguments: dict[str, Any] = {"seeds": [1, 4], "chunk_updates": 20, "progress": False}
    states, curve = es.train(config, ENV, PARAMS, total_steps=60 * STEPS, **arguments)
    assert curve.columns[:4] == ["seed", "update", "step", "episode_return"]
    assert curve["step"].max() == 60 * STEPS == int(states.steps[0])
    scores = curve["objective"].to_numpy().reshape(60, 2)
    assert (scores[0] < 1.0).all()
    assert (scores[-1] > 5.0).all()
    assert (curve["objective_best"] >= curve["objective"]).all()
    assert (curve["objective"] < curve["episode_return"]).all(), "the objective counts misses once more"
    es.train(config, ENV, PARAMS, total_steps=20 * STEPS, **arguments, checkpoint=tmp_path)
    resumed, again = es.train(
        config, ENV, PARAMS, total_steps=60 * STEPS, **arguments, checkpoint=tmp_path, resume=True
    )
    assert bits(resumed) == bits(states)
    assert again.drop("wall_seconds").equals(curve.drop("wall_seconds"))
    other = dataclasses.replace(config, shaping="standardised")
    with pytest.raises(checkpoint.CheckpointError, match="shaping was ranks, now standardised"):
        es.train(other, ENV, PARAMS, total_steps=60 * STEPS, **arguments, checkpoint=tmp_path, resume=True)
    policy = es.make_policy(config, ENV, states)
    assert isinstance(policy, Policy)
    obs = ENV.reset(jax.random.key(0), PARAMS)[0]
    actions = jax.vmap(lambda policy: policy.act(jax.random.key(0), (), obs)[1])(policy)
    assert actions.shape == (2, 12)
    one = jax.tree.map(lambda x: x[1], states)
    np.testing.assert_allclose(es.act(config, one, jax.random.key(1), obs), actions[1], atol=1e-5)


@dataclasses.dataclass(frozen=True)
class EarlyEnv(TargetEnv):
    """Terminates after ``length`` ticks of the ``length + 5`` that an episode may have."""

    def max_steps(self, params: Any) -> int:
        return self.length + 5


def test_learns_with_a_perceptron_and_counts_nothing_after_the_end() -> None:
    env = EarlyEnv(length=5)
    config = es.make_config(**SMALL, shaping="standardised", normalise_observations=False, sigma=0.05)
    states, curve = es.train(
        config, env, env.default_params(), seeds=[0], total_steps=60 * 2560, chunk_updates=60, progress=False
    )
    returns = curve["episode_return"].to_numpy()
    assert returns[0] < 2.0
    assert 4.0 < returns[-1] <= 5.0, "one a tick at most, for five ticks"
    assert (curve["episode_length"] == 5.0).all()
    np.testing.assert_allclose(curve["objective"], returns, rtol=1e-5)
    assert int(states.steps[0]) == 60 * 2560


def test_all_candidates_meet_the_same_markets_with_the_same_luck() -> None:
    """Candidates that hardly differ score hardly differently; from one generation to the next, markets do change."""
    config = es.make_config(**SMALL, network="deep_sets", objective=OBJECTIVE, sigma=1e-7, normalise_observations=False)
    state = init(config, ENV, PARAMS, jax.random.key(0))
    first, metrics = update(config, ENV, PARAMS, state)
    _, later = update(config, ENV, PARAMS, dataclasses.replace(first, network=state.network))
    assert float(metrics.objective_sd) < 1e-4
    assert abs(float(later.objective - metrics.objective)) > 1e-2


def test_observations_of_all_candidates_go_into_the_moments() -> None:
    config = es.make_config(**SMALL, network="deep_sets")
    state, _ = update(config, ENV, PARAMS, init(config, ENV, PARAMS, jax.random.key(0)))
    assert float(state.obs_moments.context.count) == STEPS
    np.testing.assert_allclose(state.obs_moments.context.mean, 3.5 / 8, rtol=1e-5)
    assert 0.3 * 6 * STEPS < float(state.obs_moments.items.count) < 0.7 * 6 * STEPS
    np.testing.assert_allclose(state.obs_moments.items.mean[0], 1.0, rtol=1e-5)


def test_ranks_are_shared_and_centred() -> None:
    ranks = es.shape_scores("ranks", jnp.asarray([3.0, 1.0, 3.0, 50.0]))
    np.testing.assert_allclose(ranks, [0.0, -0.375, 0.0, 0.375])
    np.testing.assert_array_equal(es.shape_scores("ranks", jnp.full(6, 2.0)), np.zeros(6))
    scores = np.asarray([3.0, 1.0, 5.0, 7.0])
    np.testing.assert_allclose(
        es.shape_scores("standardised", jnp.asarray(scores)), (scores - 4) / scores.std(), rtol=1e-6
    )
    np.testing.assert_array_equal(es.shape_scores("standardised", jnp.full(6, 2.0)), np.zeros(6))


def test_scores_that_are_all_the_same_move_nothing() -> None:
    """Nothing is gained where no item ever is: the parameters stay as they are, bit for bit."""
    config = es.make_config(**SMALL, network="deep_sets")
    params = dataclasses.replace(PARAMS, share=jnp.asarray(0.0))
    state = init(config, ENV, params, jax.random.key(0))
    after, metrics = update(config, ENV, params, state)
    assert float(metrics.gradient_norm) == 0.0
    assert bits(after.network) == bits(state.network)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("population", 7, "an even whole number of at least 2"),
        ("population", 0, "an even whole number of at least 2"),
        ("episodes", 0, "a whole number of at least 1"),
        ("network", "rnn", "one of mlp, deep_sets, attention"),
        ("hidden", (), "a non-empty tuple"),
        ("activation", "sine", "one of tanh, relu, elu, swish"),
        ("initial_action", (2.0,), r"numbers in \[-1, 1\]"),
        ("objective", (), "a non-empty tuple of pairs"),
        ("objective", (("score", float("nan")),), "a finite weight"),
        ("objective", (("score", 1.0), ("score", 2.0)), "each once"),
        ("shaping", "raw", "one of ranks, standardised"),
        ("normalise_observations", 1, "True or False"),
        ("sigma", 0.0, "a finite number above 0"),
        ("learning_rate", -1.0, "a finite number above 0"),
        ("decay_steps", 0.0, "a number above 0"),
    ],
)
def test_bad_hyper_parameters_are_named(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be .*{allowed}.*got ") as caught:
        es.make_config(**{field: value})
    assert repr(value) in str(caught.value)


def test_unknown_hyper_parameter() -> None:
    with pytest.raises(TypeError, match="no field 'sgima'; fields: population"):
        es.make_config(sgima=1.0)


@pytest.mark.parametrize(
    ("env", "changes", "error", "reason"),
    [
        (
            ENV,
            {"objective": (("scor", 1.0),)},
            ValueError,
            r"objective must name .* \(missed, return, score\), got 'scor'",
        ),
        (TargetEnv(), {"objective": (("score", 1.0),)}, ValueError, r"objective must name .* \(return\), got 'score'"),
        (TargetEnv(), {"network": "deep_sets"}, ValueError, "network must be 'mlp' for TargetEnv"),
        (ChoiceEnv(), {}, TypeError, "distribution must be 'categorical' for action space Discrete"),
    ],
)
def test_what_does_not_suit_the_environment_is_refused(env: Any, changes: Any, error: Any, reason: str) -> None:
    with pytest.raises(error, match=reason):
        es.init(es.make_config(**SMALL, **changes), env, env.default_params(), jax.random.key(0))
