"""Networks of sets: all items alike, empty places count for nothing, and PPO learns with them."""

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

from adarena.agents import checkpoint, ppo, ppo_loss, training
from adarena.agents.actors import init_network, layout_of
from adarena.agents.distributions import make_distribution, make_masked, outputs_at
from adarena.agents.normalise import SetMoments, init_set_moments, normalise_obs, update_obs_moments
from adarena.agents.ppo_config import Config, make_config
from adarena.envs.core import AutoReset
from adarena.envs.sets import SetLayout

KINDS = ("deep_sets", "attention")
SMALL: dict[str, Any] = {
    "num_envs": 32, "rollout_length": 8, "hidden": (16,), "minibatches": 4, "learning_rate": 5e-3, "initial_log_std": -1.0,
}  # fmt: skip
ENV = SetEnv()
PARAMS = ENV.default_params()
init = jax.jit(ppo.init, static_argnums=1)


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest) -> tuple[Config, ppo.State]:
    """A state whose outputs and moments are not the plain ones of the start."""
    config = make_config(**SMALL, network=request.param)
    state = init(config, ENV, PARAMS, jax.random.key(0))
    network = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), state.network)
    moments = update_obs_moments(state.obs_moments, observations(64, jax.random.key(1)))
    return config, dataclasses.replace(state, network=network, obs_moments=moments)


def observations(count: int, key: jax.Array, env: SetEnv = ENV) -> jax.Array:
    return jax.vmap(env.reset, (0, None))(jax.random.split(key, count), PARAMS)[0]


def seen(config: Config, state: ppo.State, obs: jax.Array) -> tuple[Any, jax.Array]:
    """What the network makes of observations that are not normalised: distribution and value."""
    inputs = ppo.normalised(config, state.obs_moments, obs)
    return ppo_loss.distribution_of(config, state.network, inputs), ppo_loss.value_of(config, state.network, inputs)


def permuted(obs: jax.Array, order: np.ndarray) -> jax.Array:
    context, items, _ = ENV.layout.split(obs)
    return ENV.layout.join(context, items[..., order, :])


# Symmetry ------------------------------------------------------------------------------------------------------------


def test_relabelling_items_relabels_actions_and_leaves_values(made: Any) -> None:
    config, state = made
    obs, order = observations(16, jax.random.key(2)), np.random.default_rng(0).permutation(ENV.items)
    policy = ppo.make_policy(config, ENV, state)
    actions = np.asarray(policy.act(jax.random.key(0), (), obs)[1]).reshape(16, ENV.items, 2)
    again = np.asarray(policy.act(jax.random.key(0), (), permuted(obs, order))[1]).reshape(16, ENV.items, 2)
    np.testing.assert_allclose(again, actions[:, order], atol=1e-5)
    assert np.abs(actions - actions[:, order]).max() > 0.1, "items must differ, or the test says nothing"
    (one, value), (other, value_again) = seen(config, state, obs), seen(config, state, permuted(obs, order))
    np.testing.assert_allclose(value_again, value, atol=1e-5)
    assert np.ptp(value) > 0.1
    raw = jax.random.normal(jax.random.key(3), (16, ENV.items, 2))
    probability = one.log_prob(raw.reshape(16, -1))
    np.testing.assert_allclose(other.log_prob(raw[:, order].reshape(16, -1)), probability, rtol=1e-4, atol=1e-4)


def test_an_items_action_depends_on_the_others(made: Any) -> None:
    config, state = made
    obs = jnp.asarray([0.5, *[1.0, 0.2, 0.1] * ENV.items])
    alone = obs.at[4:].set(0.0)
    first = [float(seen(config, state, x)[0].mode()[0]) for x in (obs, alone)]
    assert abs(first[0] - first[1]) > 1e-3


# Empty places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dirt", [7.0, float("nan")])
def test_features_of_empty_places_change_nothing(made: Any, dirt: float) -> None:
    config, state = made
    clean = observations(16, jax.random.key(2))
    dirty = observations(16, jax.random.key(2), dataclasses.replace(ENV, dirt=dirt))
    assert not np.array_equal(clean, dirty)
    for normalise in (True, False):
        config = dataclasses.replace(config, normalise_observations=normalise)
        for act in (False, True):
            policy = ppo.make_policy(config, ENV, state, stochastic=act)
            actions = [policy.act(jax.random.key(0), (), obs)[1] for obs in (clean, dirty)]
            np.testing.assert_array_equal(*actions)
        (one, value), (other, value_again) = seen(config, state, clean), seen(config, state, dirty)
        raw = one.sample(jax.random.key(4))
        np.testing.assert_array_equal(value, value_again)
        np.testing.assert_array_equal(one.log_prob(raw), other.log_prob(raw))
        np.testing.assert_array_equal(one.entropy(), other.entropy())
    moments = [update_obs_moments(state.obs_moments, obs) for obs in (clean, dirty)]
    jax.tree.map(np.testing.assert_array_equal, *moments)


@pytest.mark.parametrize("family", ["gaussian", "tanh_gaussian", "beta"])
def test_probability_and_entropy_are_those_of_the_items_there(family: Any) -> None:
    """Against the distribution of the items that are there, written without a mask."""
    size = 2 if family == "beta" else 1
    outputs = jax.random.normal(jax.random.key(0), (4, 2, size))  # [L, a, K]
    log_std, mask = jnp.asarray([-1.0, 0.3]), np.asarray([True, False, True, False])
    masked = make_masked(family, outputs.reshape(4, -1), log_std, jnp.asarray(mask))
    kept = (
        outputs[mask].reshape(4, size).T.reshape(-1)
    )  # a vector's outputs: first those of one kind, then of the other
    plain = make_distribution(family, kept, jnp.tile(log_std, 2))
    raw = masked.sample(jax.random.key(1))
    there = np.repeat(mask, 2)
    np.testing.assert_allclose(masked.log_prob(raw), plain.log_prob(raw[there]), rtol=1e-5)
    np.testing.assert_allclose(masked.entropy(), plain.entropy(), rtol=1e-5)
    np.testing.assert_allclose(masked.to_action(masked.mode())[there], plain.to_action(plain.mode()), rtol=1e-5)
    np.testing.assert_array_equal(masked.to_action(raw)[~there], 0.0)
    elsewhere = jnp.where(there, raw, 0.123)
    assert masked.log_prob(elsewhere) == masked.log_prob(raw)

    def total(outputs: jax.Array) -> jax.Array:
        distribution = make_masked(family, outputs.reshape(4, -1), log_std, jnp.asarray(mask))
        return distribution.log_prob(raw) + distribution.entropy()

    gradient = np.abs(jax.grad(total)(outputs))
    assert (gradient[~mask] == 0.0).all()
    assert (gradient[mask] > 0.0).any(-1).all()


def test_the_loss_has_no_gradient_through_empty_places_and_is_finite_without_items(made: Any) -> None:
    config, state = made
    obs = ppo.normalised(config, state.obs_moments, observations(8, jax.random.key(5)))
    obs = obs.at[0, 1:].set(0.0)
    distribution = ppo_loss.distribution_of(config, state.network, obs)
    assert (distribution.log_prob(distribution.sample(jax.random.key(0)))[0], distribution.entropy()[0]) == (0.0, 0.0)
    batch = ppo_loss.Minibatch(
        obs, distribution.sample(jax.random.key(6)), jnp.zeros(8), jnp.linspace(-1, 1, 8), jnp.ones(8)
    )

    @jax.jit
    def gradients(network: Any, obs: jax.Array) -> tuple[Any, jax.Array]:
        return jax.grad(lambda n, o: ppo_loss.loss(config, n, batch._replace(obs=o), jnp.ones(()))[0], (0, 1))(
            network, obs
        )

    by_network, by_obs = gradients(state.network, obs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(by_network))
    mask = np.asarray(ENV.layout.split(obs)[2])
    by_item = np.asarray(ENV.layout.split(by_obs)[1])
    assert (by_item[~mask] == 0.0).all()
    assert (np.abs(by_item[mask][:, 1:]) > 0.0).any(-1).all()


def test_empty_places_rest() -> None:
    env = dataclasses.replace(ENV, neutral_action=(-1.5, 0.5))
    config = make_config(**SMALL, network="deep_sets")
    state = init(config, env, PARAMS, jax.random.key(0))
    obs = observations(16, jax.random.key(2))
    mask = np.asarray(ENV.layout.split(obs)[2])
    drawn = ppo.make_policy(config, env, state, stochastic=True).act(jax.random.key(0), (), obs)[1]
    rest = np.asarray(drawn).reshape(16, -1, 2)[~mask]
    np.testing.assert_array_equal(rest, np.tile(np.float32([-1.5, 0.5]), (len(rest), 1)))
    other = np.asarray(ppo.act(config, init(config, ENV, PARAMS, jax.random.key(0)), jax.random.key(0), obs))
    assert (other.reshape(16, -1, 2)[~mask] == 0.0).all(), "the middle of the range, where no action is neutral"


# Normalisation -------------------------------------------------------------------------------------------------------


def test_moments_are_those_of_a_feature_over_the_items_there() -> None:
    moments = init_set_moments(ENV.layout)
    batches = [observations(50, jax.random.key(i)).reshape(5, 10, -1) for i in range(3)]
    empty = jnp.zeros((2, 19))
    for batch in (empty, *batches):
        moments = update_obs_moments(moments, batch)
    assert isinstance(moments, SetMoments)
    _, items, mask = (np.asarray(x) for x in ENV.layout.split(jnp.concatenate(batches).reshape(150, -1)))
    there = items[mask]
    assert float(moments.items.count) == len(there)
    assert float(moments.context.count) == 152.0
    np.testing.assert_allclose(moments.items.mean, there.mean(0), atol=1e-5)
    np.testing.assert_allclose(moments.items.variance, there.var(0), rtol=1e-4, atol=1e-6)
    scaled = np.asarray(normalise_obs(moments, batches[0][0]))
    shown, there = (np.asarray(ENV.layout.split(x)[1]) for x in (scaled, batches[0][0]))
    np.testing.assert_array_equal(shown[..., 0], there[..., 0])
    assert (shown[there[..., 0] == 0.0] == 0.0).all()
    expected = (there - np.asarray(moments.items.mean)) / np.sqrt(np.asarray(moments.items.variance) + 1e-8)
    np.testing.assert_allclose(shown[there[..., 0] == 1.0][:, 1:], expected[there[..., 0] == 1.0][:, 1:], rtol=1e-4)


def test_shards_with_different_numbers_of_items_have_the_moments_of_the_whole() -> None:
    obs = observations(40, jax.random.key(0))
    obs = obs.at[:20, 7:].set(0.0)
    start = init_set_moments(ENV.layout)
    whole = update_obs_moments(start, obs)
    parts = jax.vmap(lambda part: update_obs_moments(start, part, ("shard",)), axis_name="shard")(
        obs.reshape(2, 20, -1)
    )
    for part in (jax.tree.map(lambda x, i=i: x[i], parts) for i in range(2)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), part, whole)


# Where a policy starts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gaussian", "tanh_gaussian", "beta"])
def test_outputs_put_a_distribution_where_it_is_wanted(family: Any) -> None:
    wanted = np.asarray([-1.0, -0.5, 0.0, 0.3, 1.0])
    numbers = outputs_at(family, wanted)
    assert numbers.shape == (5, 2 if family == "beta" else 1)
    np.testing.assert_allclose(numbers[2], 0.0, atol=1e-6)
    distribution = make_distribution(family, jnp.asarray(numbers.T.reshape(-1)), jnp.zeros(5))
    reached = wanted if family == "gaussian" else np.clip(wanted, -0.9, 0.9)
    np.testing.assert_allclose(distribution.to_action(distribution.mode()), reached, atol=1e-5)


@pytest.mark.parametrize("network", ["mlp", "deep_sets"])
@pytest.mark.parametrize("family", ["gaussian", "beta"])
def test_a_policy_starts_at_the_neutral_action_or_where_it_is_told(network: Any, family: Any) -> None:
    obs = jnp.asarray([[0.5, *[1.0, 0.2, 0.1] * ENV.items]])

    def start(neutral: Any, told: Any) -> np.ndarray:
        env = dataclasses.replace(ENV, neutral_action=neutral)
        config = make_config(**SMALL, network=network, distribution=family, initial_action=told)
        return np.asarray(ppo.act(config, init(config, env, PARAMS, jax.random.key(1)), KEY, obs, stochastic=False))[0]

    np.testing.assert_allclose(start((-1.5, 0.5), None), [-1.5, 0.5] * ENV.items, atol=0.05)
    np.testing.assert_allclose(start((-1.5, 0.5), (0.0, -0.5)), [0.0, -1.0] * ENV.items, atol=0.05)
    np.testing.assert_allclose(start(None, None), np.zeros(12), atol=0.05)


KEY = jax.random.key(7)


# Learning ------------------------------------------------------------------------------------------------------------


def test_ppo_learns_a_set_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """A policy that stays at zero earns about 0 to 1; noise takes it below at first."""
    config = make_config(**SMALL, network="deep_sets")
    arguments: dict[str, Any] = {"seeds": [1], "chunk_updates": 20, "progress": False}
    states, curve = ppo.train(config, ENV, PARAMS, total_steps=60 * 256, **arguments)
    returns = curve["episode_return"].to_numpy()
    assert returns[0] < 0.0
    assert returns[-3:].mean() > 5.0
    assert np.isfinite(curve["kl"].to_numpy()).all()
    ppo.train(config, ENV, PARAMS, total_steps=20 * 256, **arguments, checkpoint=tmp_path)
    resumed, again = ppo.train(config, ENV, PARAMS, total_steps=60 * 256, **arguments, checkpoint=tmp_path, resume=True)
    assert bits(resumed) == bits(states)
    assert again.drop("wall_seconds").equals(curve.drop("wall_seconds"))
    other = dataclasses.replace(config, initial_action=(0.1,))
    with pytest.raises(checkpoint.CheckpointError, match=r"initial_action was None, now \(0.1,\)"):
        ppo.train(other, ENV, PARAMS, total_steps=60 * 256, **arguments, checkpoint=tmp_path, resume=True)


def test_ppo_learns_a_set_with_attention() -> None:
    config = make_config(**{**SMALL, "learning_rate": 2e-3}, network="attention")
    _, curve = ppo.train(config, ENV, PARAMS, seeds=[1], total_steps=60 * 256, chunk_updates=60, progress=False)
    returns = curve["episode_return"].to_numpy()
    assert returns[0] < 0.0
    assert returns[-3:].mean() > 3.0


def bits(tree: Any) -> list[bytes]:
    plain = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)
    ]
    return [np.asarray(x).tobytes() for x in plain]


def test_checkpoints_from_before_there_was_a_choice_of_networks_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, config = TargetEnv(length=3), make_config(num_envs=4, rollout_length=3, hidden=(4,), minibatches=2)
    arguments: dict[str, Any] = {"seeds": [1], "chunk_updates": 2, "progress": False, "checkpoint": tmp_path}
    now = training._identity

    def before(*given: Any) -> dict[str, Any]:
        return {name: value for name, value in now(*given).items() if name not in ("network", "initial_action")}

    with monkeypatch.context() as patch:
        patch.setattr(training, "_identity", before)
        states, _ = ppo.train(config, env, env.default_params(), total_steps=24, **arguments)
    assert states.resting_action is None, "no leaf that old checkpoints lack"
    assert "network" not in checkpoint.read_metadata(tmp_path)["identity"]
    _, curve = ppo.train(config, env, env.default_params(), total_steps=48, **arguments, resume=True)
    assert curve.height == 4
    other = dataclasses.replace(config, initial_action=(0.5,))
    with pytest.raises(checkpoint.CheckpointError, match="initial_action was None, now"):
        ppo.train(other, env, env.default_params(), total_steps=48, **arguments, resume=True)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"network": "transformer"}, "network must be one of mlp, deep_sets, attention, got 'transformer'"),
        ({"network": "attention", "hidden": (16, 6)}, r"hidden must end in a multiple of 4 .* got \(16, 6\)"),
        ({"initial_action": (0.0, 1.5)}, r"initial_action must be None or .* in \[-1, 1\], got \(0.0, 1.5\)"),
        ({"initial_action": [0.0]}, r"initial_action must be None or a non-empty tuple .* got \[0.0\]"),
        ({"initial_action": (float("nan"),)}, r"initial_action must be .* got \(nan,\)"),
        ({"initial_action": ("0",)}, r"initial_action must be .* got \('0',\)"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_config(**changes)


@dataclasses.dataclass(frozen=True)
class WrongEnv(SetEnv):
    @property
    def layout(self) -> SetLayout:
        return SetLayout(context=2, items=self.items, features=3, actions=2)


@pytest.mark.parametrize(
    ("env", "changes", "error", "reason"),
    [
        (TargetEnv(), {"network": "deep_sets"}, ValueError, "network must be 'mlp' for TargetEnv, which has no layout"),
        (AutoReset(TargetEnv()), {"network": "attention"}, ValueError, "for TargetEnv, .* got 'attention'"),
        (
            WrongEnv(),
            {"network": "deep_sets"},
            ValueError,
            r"layout must fit 19 observation and 12 action entries, got Set",
        ),
        (
            ENV,
            {"network": "deep_sets", "initial_action": (0.0,) * 3},
            ValueError,
            "initial_action must have 1 or 2 or 12",
        ),
        (ENV, {"network": "deep_sets", "initial_action": (0.0,) * 11 + (0.5,)}, ValueError, "the same for all items"),
        (SetEnv(neutral_action=(0.0,) * 5), {}, ValueError, "neutral_action must have 1 or 2 or 12 numbers, got"),
        (
            ChoiceEnv(),
            {"distribution": "categorical", "initial_action": (0.0,)},
            TypeError,
            "must be None for a Discrete",
        ),
    ],
)
def test_what_does_not_suit_the_environment_is_refused(env: Any, changes: Any, error: Any, reason: str) -> None:
    with pytest.raises(error, match=reason):
        ppo.init(make_config(**SMALL, **changes), env, env.default_params(), KEY)


def test_layouts_are_found_below_the_reset_wrapper() -> None:
    assert layout_of(AutoReset(ENV)) == ENV.layout
    assert layout_of(TargetEnv()) is None
    network, rest = init_network(make_config(**SMALL), AutoReset(ENV), PARAMS, KEY, jnp.zeros((1, 19)), 12)
    assert rest is None
    assert set(network) == {"actor", "critic", "log_std"}
