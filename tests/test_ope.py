"""Off-policy evaluation: estimators on problems with known values, fitted Q on a small chain, and a run to its tables."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from offline_chain import COUNT, SPEC, chain

from adarena import envs
from adarena.agents import behaviour
from adarena.agents.distributions import Beta, TanhGaussian
from adarena.agents.offline import fitted_q, ope
from adarena.agents.offline.data import Data, make_data
from adarena.agents.offline.loop import train
from adarena.agents.rules import RULES
from adarena.experiments import collect, ope_tables
from adarena.experiments import ope as experiment
from adarena.experiments.ope_targets import Target, along
from adarena.experiments.store import RunFolder

pytestmark = pytest.mark.usefixtures("quick_compilation")

WEIGHING = ("is", "wis", "pdis", "snpdis")
QUICK = ope.Intervals(resamples=2)


class Logs(NamedTuple):
    """``E`` episodes of two steps: densities, rewards, and the target's exact values; all ``[E, 2]``."""

    target: np.ndarray
    behaviour: np.ndarray
    rewards: np.ndarray
    q: np.ndarray
    v: np.ndarray


PROB = 0.8  # of action 1 under the target; 0.5 under behaviour


def two_steps(count: int, seed: int, slip: float) -> Logs:
    """The first action, 0 or 1, pays itself and is the next state but for a slip; there the second pays twice the state."""
    draw = np.random.default_rng(seed)
    first, second = draw.integers(0, 2, (2, count))
    state = np.where(draw.uniform(size=count) < slip, 1 - first, first)
    actions = np.stack([first, second], 1)
    after = 2.0 * PROB * np.where(first == 1, 1.0 - slip, slip)
    q = np.stack([first + after, 2.0 * state * second], 1)
    start = PROB + 2.0 * PROB * (PROB * (1.0 - slip) + (1.0 - PROB) * slip)
    v = np.stack([np.full(count, start), 2.0 * PROB * state], 1)
    target = np.log(np.where(actions == 1, PROB, 1.0 - PROB))
    rewards = np.stack([first, 2.0 * state * second], 1).astype(np.float32)
    return Logs(target, np.full_like(target, math.log(0.5)), rewards, q, v)


def said(name: str, log: Logs, intervals: ope.Intervals = QUICK, **changes: Any) -> ope.Estimate:
    log = log._replace(**changes)
    weights = ope.log_weights(log.target, log.behaviour)
    return ope.estimate(name, weights, log.rewards, log.q, log.v, intervals=intervals)


@pytest.mark.parametrize("name", [*WEIGHING, "dr", "wdr"])
def test_the_behaviour_policy_is_worth_the_mean_of_its_log(name: str) -> None:
    log = two_steps(40, 0, 0.2)
    nothing = np.zeros_like(log.q)
    found = said(name, log, target=log.behaviour, q=nothing, v=nothing)
    assert found.value == pytest.approx(log.rewards.sum(1).mean(), abs=1e-12)
    assert found.ess == pytest.approx(40.0)


def test_every_estimator_by_hand() -> None:
    ratio = np.asarray([[2.0, 0.5], [0.5, 1.0]])  # weights: 2, 1 and 0.5, 0.5
    rewards, q, v = np.asarray([[1.0, 4.0], [3.0, 2.0]]), np.asarray([[2.0, 1.0], [1.0, 3.0]]), np.full((2, 2), 1.5)
    weights = ope.log_weights(np.log(ratio), np.zeros((2, 2)))
    found = {name: ope.estimate(name, weights, rewards, q, v, intervals=QUICK) for name in ope.ESTIMATORS}
    assert found["is"].value == pytest.approx((1.0 * 5.0 + 0.5 * 5.0) / 2.0)
    assert found["wis"].value == pytest.approx(5.0)
    assert found["pdis"].value == pytest.approx((2.0 + 4.0 + 1.5 + 1.0) / 2.0)
    assert found["snpdis"].value == pytest.approx(3.5 / 2.5 + 5.0 / 1.5)
    assert found["fqe"].value == 1.5
    first = 2.0 * (1.0 - 2.0) + 1.5 + 1.0 * (4.0 - 1.0) + 2.0 * 1.5
    second = 0.5 * (3.0 - 1.0) + 1.5 + 0.5 * (2.0 - 3.0) + 0.5 * 1.5
    assert found["dr"].value == pytest.approx((first + second) / 2.0)
    assert found["wdr"].value == pytest.approx((-2.0 + 1.0) / 2.5 + 1.5 + (3.0 - 0.5) / 1.5 + 1.5)
    assert found["is"].ess == pytest.approx(1.5**2 / 1.25)
    assert math.isnan(found["fqe"].ess)


@pytest.mark.parametrize("name", ["is", "pdis", "dr"])
def test_estimators_are_unbiased(name: str) -> None:
    """Over many small logs; doubly robust also where its values are wrong (``V`` being the mean of ``Q``)."""
    truth = two_steps(1, 0, 0.2).v[0, 0]
    assert truth == pytest.approx(0.8 + 1.6 * 0.68)
    logs = [two_steps(10, seed, 0.2) for seed in range(600)]
    found = np.asarray([said(name, log, q=0.5 * log.q + 1.0, v=0.5 * log.v + 1.0).value for log in logs])
    assert abs(found.mean() - truth) < 3.5 * found.std() / math.sqrt(len(found))
    wrong = np.asarray([said(name, log, target=log.behaviour).value for log in logs])
    assert name == "dr" or abs(wrong.mean() - truth) > 3.5 * wrong.std() / math.sqrt(len(wrong)), (
        "the test tells biases"
    )


def test_per_decision_has_less_variance_and_self_normalised_estimates_stay_in_range() -> None:
    logs = [two_steps(6, seed, 0.2) for seed in range(300)]
    found = {name: np.asarray([said(name, log).value for log in logs]) for name in WEIGHING}
    assert found["pdis"].std() < found["is"].std()
    assert found["wis"].std() < found["is"].std()
    assert found["is"].max() > 3.0, "plain weights leave the range of returns"
    for log, whole, step in zip(logs, found["wis"], found["snpdis"], strict=True):
        returns = log.rewards.sum(1)
        assert returns.min() - 1e-9 <= whole <= returns.max() + 1e-9
        assert log.rewards.min(0).sum() - 1e-9 <= step <= log.rewards.max(0).sum() + 1e-9


def test_doubly_robust_with_exact_values_has_no_variance_whatever_the_weights() -> None:
    log = two_steps(50, 1, 0.0)
    for target in (log.target, np.zeros_like(log.target), log.target - 3.0):
        found = said("dr", log, ope.Intervals(50), target=target)
        assert np.allclose([found.value, found.low, found.high], log.v[0, 0], atol=1e-6)
    assert said("is", log, target=log.target - 3.0).value < 0.1 * log.v[0, 0], "the weights are bad"


def test_doubly_robust_with_weights_one_is_fitted_q_and_what_it_got_wrong() -> None:
    log = two_steps(30, 2, 0.2)
    q, v = log.q + 0.3, log.v - 0.4
    residual = log.rewards[:, 0] + v[:, 1] - q[:, 0] + log.rewards[:, 1] - q[:, 1]
    direct = said("fqe", log, q=q, v=v).value
    assert said("dr", log, target=log.behaviour, q=q, v=v).value == pytest.approx(direct + residual.mean(), abs=1e-6)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """A bandit: two arms that pay 0.2 and 1 with noise, logged evenly; the target takes the second nine times of ten."""
    covered = {"pdis": 0, "snpdis": 0}
    for seed in range(200):
        draw = np.random.default_rng(seed)
        arm = draw.integers(0, 2, (80, 1))
        rewards = np.where(arm == 1, 1.0, 0.2) + 0.3 * draw.standard_normal((80, 1))
        weights = ope.log_weights(np.log(np.where(arm == 1, 0.9, 0.1)), np.full((80, 1), math.log(0.5)))
        for name in covered:
            one = ope.estimate(name, weights, rewards, intervals=ope.Intervals(200, seed=seed))
            assert one.low <= one.value <= one.high
            covered[name] += one.low <= 0.92 <= one.high
    assert all(0.89 <= count / 200 <= 0.99 for count in covered.values()), covered


def test_weights_are_added_in_float64_and_clipped_only_where_asked() -> None:
    step = np.full((1, 5000), 0.1, np.float32)
    weights = ope.log_weights(step, np.zeros_like(step))
    assert weights.dtype == np.float64
    assert weights[0, -1] == pytest.approx(5000 * float(np.float32(0.1)), rel=1e-12)
    assert ope.estimate("is", weights[:, -1:], np.ones((1, 1)), intervals=QUICK).value == pytest.approx(
        math.exp(500.0), rel=1e-4
    )
    clipped = ope.log_weights(step, np.zeros_like(step), clip=10.0)
    assert ope.estimate("is", clipped[:, -1:], np.ones((1, 1)), intervals=QUICK).value == pytest.approx(10.0)
    apart = np.asarray([[-4000.0], [-3999.0]])  # both vanish in float64; their ratio does not
    found = ope.estimate("wis", apart, np.asarray([[0.0], [1.0]]), intervals=QUICK)
    assert found.value == pytest.approx(math.e / (1.0 + math.e))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ope.log_weights(x, x[:, :1]), r"must be \[E, T\], not empty, got \(2, 2\) and \(2, 1\)"),
        (lambda x: ope.log_weights(x, np.nan * x), "behaviour must hold finite log densities, got NaN"),
        (lambda x: ope.log_weights(np.inf + x, x), "target must hold log densities below infinity"),
        (lambda x: ope.log_weights(x, x, clip=0.0), "clip must be None or a number above 0, got 0.0"),
        (lambda x: ope.estimate("ipw", x, x), "name must be one of is, wis, .* got 'ipw'"),
        (lambda x: ope.estimate("dr", x, x), "q and v must be given for dr, got None"),
        (
            lambda x: ope.estimate("dr", x, x, x, x[:1]),
            r"v must be finite numbers of shape \(2, 2\), got shape \(1, 2\)",
        ),
        (lambda x: ope.estimate("is", x, np.nan * x), "rewards must be finite"),
        (lambda x: ope.Intervals(resamples=0), "resamples must be a whole number of at least 1, got 0"),
        (lambda x: ope.Intervals(level=1.0), "level must lie strictly between 0 and 1, got 1.0"),
        (lambda x: fitted_q.make_config(target=0.5), r"target must be a whole number from 0 to 2\^24 - 1, got 0.5"),
        (lambda x: fitted_q.make_config(hidden=()), "hidden must be a non-empty tuple"),
    ],
)
def test_bad_arguments_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(np.zeros((2, 2)))


def test_varied_policies() -> None:
    low, high, one = jnp.asarray([-1.0]), jnp.asarray([1.0]), jnp.ones(1)
    obs = jnp.zeros(3)

    class Fixed(NamedTuple):
        density: Any

        def init(self, params: Any) -> tuple[()]:
            return ()

        def decide(self, carry: Any, obs: jax.Array) -> Any:
            return carry, self.density

    def varied(density: Any, shift: float, scale: float) -> Any:
        return behaviour.Varied(Fixed(density), jnp.float32(shift), jnp.float32(scale)).decide((), obs)[1]

    normal = behaviour.TruncatedNormal(0.2 * one, 0.1 * one, low, high)
    found = varied(normal, -2.0, 3.0)
    assert (float(found.mean[0]), float(found.std[0])) == pytest.approx((0.0, 0.3))
    assert float(varied(normal, 90.0, 1.0).mean[0]) == 1.0
    squashed = behaviour.Stretched(TanhGaussian(0.2 * one, jnp.log(0.5) * one), low, high, False)
    found = varied(squashed, 2.0, 0.5).inner
    assert (float(found.mean[0]), float(jnp.exp(found.log_std)[0])) == pytest.approx((1.2, 0.25))
    box = behaviour.Box(low, high)
    assert varied(box, 1.0, 2.0) is box
    with pytest.raises(TypeError, match="only normals, truncated or squashed, can be varied, got Stretched"):
        varied(behaviour.Stretched(Beta(2.0 * one, 2.0 * one), low, high, True), 0.0, 1.0)


@pytest.fixture(scope="module")
def chain_of_two() -> tuple[fitted_q.PolicyData, np.ndarray]:
    """The chain; rewards of its second half are larger by 5 a step. Targets: the best policy, and one of chance."""
    log = chain()
    more = np.where(np.arange(COUNT) < COUNT // 2, 0.0, 5.0)[:, None].astype(np.float32)
    log = dataclasses.replace(log, rewards=log.rewards + more)
    wanted = log.observations[:, 0, 1]
    draws = np.zeros((2, COUNT, 3, 4, 1), np.float32)
    draws[0, :, 0] = 2.0 * wanted[:, None, None]
    draws[1, :, 0] = np.random.default_rng(5).uniform(-1.0, 1.0, (COUNT, 4, 1))  # on the scale of [-1, 1]: half of that
    draws[:, :, 1] = -2.0 * wanted[:, None, None]
    return fitted_q.policy_data(make_data(log, SPEC, reward_scale=1.0), draws), wanted


def test_fitted_q_recovers_the_values_of_a_chain(chain_of_two: tuple[fitted_q.PolicyData, np.ndarray]) -> None:
    """Two target policies on the first half of the log, and one on the second, in one program."""
    data, wanted = chain_of_two
    half = COUNT // 2
    places = {"target": jnp.asarray([0, 1, 0]), "first": jnp.asarray([0, 0, half]), "episodes": half}
    config = fitted_q.make_config(hidden=(32, 32), learning_rate=3e-3, **places)
    states, curve = train(fitted_q, config, data, seeds=[0, 1, 2], total_steps=1200, log_steps=100, progress=False)
    q, v = fitted_q.values(config, data, states, episodes=half)
    assert q.shape == v.shape == (3, half, 2)
    # Best: every episode is worth 1. Of chance: the next place is even over [-0.5, 0.5].
    chance = (1.0 - 4.0 * (1.0 / 12.0 + wanted[:half] ** 2)).mean()
    assert v[:, :, 0].mean(1) == pytest.approx([1.0, chance, 11.0], abs=0.12)
    last = np.asarray(data.rewards)[:half, 1]
    assert np.abs(q[0, :, 1] - last).mean() < 0.2, "the last step's value is its reward"
    assert curve["loss"].to_numpy()[-3:].max() < curve["loss"].to_numpy()[:3].min()
    with pytest.raises(ValueError, match=rf"episodes must lie in \[1, {half}\], got {half + 1}"):
        fitted_q.values(config, data, states, episodes=half + 1)


def test_fitted_q_refuses_what_does_not_fit() -> None:
    data: Data = make_data(chain(), SPEC)
    with pytest.raises(ValueError, match=r"target_actions must be \[K, E, T \+ 1, M, A\] .* got \(1, 2048, 2, 4, 1\)"):
        fitted_q.policy_data(data, np.zeros((1, COUNT, 2, 4, 1)))
    with pytest.raises(ValueError, match="target_actions must be finite"):
        fitted_q.policy_data(data, np.full((1, COUNT, 3, 4, 1), np.nan))
    with pytest.raises(ValueError, match=r"context must be \[K, E, C\]"):
        fitted_q.policy_data(data, np.zeros((1, COUNT, 3, 4, 1)), np.zeros((1, 3, 2)))
    with pytest.raises(TypeError, match="evaluates a policy and learns none"):
        fitted_q.make_policy(fitted_q.make_config(), SPEC, None)  # type: ignore[arg-type]


def test_quality_by_hand() -> None:
    rows = [
        {"estimator": name, "policy": policy, "log_size": 4, "log": 0, "estimate": value, "low": value - 1.0}
        | {"high": value + 1.0, "ess": 2.0, "truth": truth}
        for name, policy, value, truth in [
            ("is", "a", 1.0, 1.5),
            ("is", "b", 5.0, 3.0),
            ("is", "c", 2.0, 4.0),
            ("logged", "a", 2.0, 1.5),
            ("logged", "b", 2.0, 3.0),
            ("logged", "c", 2.0, 4.0),
        ]
    ]
    found = {row["estimator"]: row for row in ope_tables.quality(pl.DataFrame(rows)).iter_rows(named=True)}
    assert list(found) == ["logged", "is"]
    assert found["is"]["error"] == pytest.approx(1.5)
    assert found["is"]["bias"] == pytest.approx(-0.5 / 3.0)
    assert found["is"]["rmse"] == pytest.approx(math.sqrt(8.25 / 3.0))
    assert found["is"]["rank_correlation"] == pytest.approx(0.5)
    assert found["is"]["coverage"] == pytest.approx(1.0 / 3.0)
    assert found["logged"]["rank_correlation"] is None


SMOKE = experiment.PRESETS["smoke"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tier": "random"}, "tier must be among medium, expert, mixed, rules, got 'random'"),
        ({"tier": "best"}, "tier must be among random, medium, expert, mixed, rules, got 'best'"),
        ({"policies": ("expert",)}, r"policies must be of own, constant, min_pacing, at least one, got \('expert',\)"),
        ({"log_sizes": (8, 8)}, "log_sizes must be distinct whole numbers of at least 2"),
        ({"log_sizes": ()}, "log_sizes must be distinct whole numbers of at least 2"),
        ({"replicates": 0}, "replicates must be a whole number of at least 1, got 0"),
        ({"shifts": (6.0,)}, r"shifts must be numbers in \[-5, 5\]"),
        ({"scales": (0.0,)}, r"scales must be numbers in \[0.1, 10\]"),
        ({"shifts": (0.1, 0.1)}, "policies, shifts and scales must name at least two targets, all distinct"),
        ({"shifts": (0.1,)}, "policies, shifts and scales must name at least two targets"),
        ({"clip": -1.0}, "clip must be 0 or a finite number above it, got -1.0"),
        ({"noise": 0.0}, r"noise must lie in \(0, 10\], got 0.0"),
        ({"traffic": "replay"}, "traffic must not be the replay of a log, got 'replay'"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_does(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **changes)  # type: ignore[arg-type]


def test_a_run_from_log_to_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With rules that are not tuned, one of which has a memory."""
    env, params = envs.make("adarena/AutoBid-v0", traffic="synthetic", impressions=4)
    low, high = jnp.asarray([-1.0]), jnp.asarray([1.0])
    members = {name: behaviour.noisy(RULES[name].build(env), 0.2, low, high) for name in ("constant", "pid_pacing")}
    choice = (np.arange(8) % 2).astype(np.int32)
    log = collect.play(env, params, tuple(members.values()), np.arange(8), choice)
    settings: dict[str, Any] = {"runs": str(tmp_path), "name": "run", "log_sizes": (2, 4), "truth_episodes": 8}
    config = dataclasses.replace(
        SMOKE, rules=tuple(members), policies=("own", "constant"), shifts=(0.0, 0.5), gradient_steps=10, **settings
    )

    def make(config: Any, folder: Any, console: Any, resume: bool) -> experiment.Bench:
        return experiment.Bench(config, folder, console, resume, env, params, members, log)

    monkeypatch.setattr(experiment.Bench, "make", make)
    folder = RunFolder.open(experiment.run(config))
    truths, estimates, quality = (folder.read_table(name) for name in ("truths", "estimates", "quality"))
    targets = config.targets()
    assert truths["policy"].to_list() == [target.name for target in targets]
    assert len(estimates) == len(targets) * 2 * 2 * (len(ope.ESTIMATORS) + 1)
    assert len(quality) == 2 * (len(ope.ESTIMATORS) + 1)
    same = estimates.filter((pl.col("policy") == targets[0].name) & (pl.col("log_size") == 4) & (pl.col("log") == 1))
    value = dict(zip(same["estimator"], same["estimate"], strict=True))
    mean = float(log.returns()[4:].mean())
    # The behaviour itself: its weights are one, what its rules remember included.
    assert [value[name] for name in (*WEIGHING, "logged")] == pytest.approx([mean] * 5, rel=1e-3)
    for target, expected in ((targets[0], choice), (Target("constant", 0.0, 1.0), np.zeros(8, np.int32))):
        assert (target.choice(members, choice) == expected).all()
    density, drawn = along(targets[0].members(members), params, choice, log, jax.random.key(0), config.draws)
    np.testing.assert_allclose(density, log.log_probs, atol=2e-3)
    assert drawn.shape == (8, log.steps + 1, config.draws, 1)
    assert (folder.path / "figures" / "ope.png").is_file()
    text = capsys.readouterr().out
    assert "Estimates against the truth: 4 policies" in text
    before = estimates
    again = RunFolder.open(experiment.run(config, resume=True))
    assert again.read_table("estimates").equals(before)
