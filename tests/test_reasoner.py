"""The reasoning bidder: thoughts are learnt and acted on, grading finds the better plan, runs resume, nonsense is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from offline_chain import episodes_of
from toy_sequences import SMALL, check_resumes, trained

from adarena.agents import reasoner
from adarena.agents.offline import thoughts
from adarena.agents.offline.data import Data, Spec, make_data
from adarena.agents.offline.thoughts import LENGTH, READ, SLOTS, WIDTH, Reader
from adarena.agents.reasoner_policy import shuffled, told

pytestmark = pytest.mark.usefixtures("quick_compilation")

TICKS = 8  # of three hours: a plan's two hours are one tick
SPEC = Spec(len(READ), (-1.0,), (1.0,))
READER = Reader(tuple(range(len(READ))), float(np.log(8.0)))
CONFIG = reasoner.make_config(reader=READER, target=0.0, behaviour_steps=150.0, critic_hidden=(32,), **SMALL)
UP = len(thoughts._CHANGES) // 2 + 1  # the first word that raises


@pytest.fixture(scope="module")
def data() -> Data:
    """Each tick the multiplier is doubled or halved, by a coin; it pays 1 if doubled and nothing else.

    So the log's plan is even, and the better one is known.
    """
    rng = np.random.default_rng(0)
    count = 256
    side = rng.choice([-1.0, 1.0], (count, TICKS))
    actions = side / 3.0 + 0.02 * rng.standard_normal((count, TICKS))  # 8 ** (1 / 3) = 2
    seen = {name: np.zeros((count, TICKS + 1)) for name in READ}
    seen["pacing"] = rng.choice([-0.5, 0.0, 0.5], (count, TICKS + 1))
    seen["budget_left"] = np.broadcast_to(np.linspace(1.0, 0.3, TICKS + 1), (count, TICKS + 1))
    seen["has_target"] = seen["progress"] = np.ones((count, TICKS + 1))
    observations = np.stack([seen[name] for name in READ], -1)
    return make_data(episodes_of(observations, actions[..., None], (side > 0).astype(float)), SPEC)


@pytest.fixture(scope="module")
def states(data: Data) -> dict[str, Any]:
    """Trained on behaviour alone, and with grading."""
    never = CONFIG.replace(behaviour_steps=float("inf"))  # type: ignore[attr-defined]
    return {"graded": trained(reasoner, CONFIG, data, 450), "behaviour": trained(reasoner, never, data, 450)}


def _reasoned(state: Any, pacing: float = 0.5) -> tuple[np.ndarray, np.ndarray, float]:
    """The first chain of a day, its words' chances and the action."""
    policy = reasoner.make_policy(CONFIG, SPEC, state)
    obs = jnp.zeros(len(READ)).at[jnp.asarray([0, 2, 3, 7])].set(jnp.asarray([pacing, 1.0, 1.0, 1.0]))
    carry, action = policy.act(jax.random.key(0), policy.init(None), obs)
    return np.asarray(carry.chain), np.asarray(carry.chances), float(action[0])


def _chances(chances: np.ndarray, name: str) -> np.ndarray:
    place = [slot.name for slot in SLOTS].index(name)
    start = sum(thoughts.SIZES[:place])
    return chances[start : start + thoughts.SIZES[place]]


def test_grading_finds_the_better_plan(states: dict[str, Any]) -> None:
    _, before, _ = _reasoned(states["behaviour"][0])
    chain, after, action = _reasoned(states["graded"][0])
    assert 0.3 < _chances(before, "change")[UP:].sum() < 0.7
    assert _chances(after, "change")[UP:].sum() > 0.8
    assert chain[6] >= UP
    assert action == pytest.approx(1.0 / 3.0, abs=0.12)


def test_thoughts_are_true(states: dict[str, Any]) -> None:
    for state, curve in states.values():
        for pacing, word in ((0.5, "behind"), (0.0, "on"), (-0.5, "ahead")):
            chain, chances, _ = _reasoned(state, pacing)
            said = thoughts.spell(chain)
            assert said["pace"] == word
            assert (said["budget"], said["final cost"]) == ("some left", "at")  # 30 % is left at the end
            assert chances.sum() == pytest.approx(LENGTH, rel=1e-4)
        assert curve["diagnosis"].to_numpy()[-1] < 0.1


def test_a_critic_knows_what_plans_are_worth(states: dict[str, Any]) -> None:
    _, curve = states["graded"]
    assert curve["kept"].to_numpy()[-1] > 0.5
    assert states["behaviour"][1]["kept"].to_numpy().max() == 0.0  # never graded


def test_the_action_follows_what_is_told(data: Data, states: dict[str, Any]) -> None:
    policy = reasoner.make_policy(CONFIG, SPEC, states["behaviour"][0])
    obs = jnp.zeros(len(READ)).at[jnp.asarray([2, 3, 7])].set(1.0)
    carry = policy.init(None)
    chain, chances = policy.reason(carry, obs)

    def on(change: str) -> float:
        said = chain.at[6].set(SLOTS[6].words.index(change))
        return float(policy.follow(carry, obs, said, chances)[1][0])

    assert on("far up") == pytest.approx(1.0 / 3.0, abs=0.1)
    assert on("far down") == pytest.approx(-1.0 / 3.0, abs=0.1)
    key = jax.random.key(0)
    own = policy.act(key, carry, obs)
    wrong, action = told(policy, "wrong plan").act(key, carry, obs)
    np.testing.assert_array_equal(wrong.chain, thoughts.opposite(own[0].chain, ("plan",)))
    assert abs(action[0] - own[1][0]) > 0.4
    silent = told(policy, "none").act(key, carry, obs)[1]
    assert not np.array_equal(silent, own[1])
    others = shuffled(policy, CONFIG, data, jax.random.key(1), count=16)
    assert others.bank.shape == (16, TICKS, LENGTH)
    said = np.asarray([others.act(jax.random.key(n), carry, obs)[0].chain for n in range(8)])
    assert len(np.unique(said[:, 0])) > 1  # other states' diagnoses
    assert all((chain == others.bank[:, 0]).all(-1).any() for chain in said)


def test_without_thoughts_nothing_is_told(data: Data) -> None:
    config = CONFIG.replace(thoughts=0.0)  # type: ignore[attr-defined]
    state, _ = trained(reasoner, config, data, 50)
    with_thoughts, _ = trained(reasoner, CONFIG, data, 50)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(s.act.params)) for s in (state, with_thoughts)]
    assert sizes[0] == sizes[1]
    policy = reasoner.make_policy(config, SPEC, state)
    obs, key = jnp.zeros(len(READ)), jax.random.key(0)
    actions = [told(policy, mode).act(key, policy.init(None), obs)[1] for mode in ("own", "none", "wrong")]
    np.testing.assert_array_equal(actions[0], actions[1])
    np.testing.assert_array_equal(actions[0], actions[2])


def test_acting_step_by_step_is_what_training_saw(data: Data, states: dict[str, Any]) -> None:
    """A chain's chances when acting are those of the network on the whole window."""
    state = states["behaviour"][0]
    policy = reasoner.make_policy(CONFIG, SPEC, state)
    module = reasoner._think(CONFIG, TICKS)
    raw = np.asarray(data.observations[0]) * np.sqrt(data.obs_moments.variance) + np.asarray(data.obs_moments.mean)
    carry = policy.init(None)
    for tick in range(CONFIG.context):
        carry, _ = policy.act(jax.random.key(0), carry, jnp.asarray(raw[tick], jnp.float32))
    read = module.apply({"params": state.think.params}, carry.context, method="read")
    along: Any = module.apply({"params": state.think.params}, read[-1], carry.chain, method="follow")
    np.testing.assert_allclose(np.exp(np.concatenate(along)), carry.chances, rtol=2e-4, atol=2e-6)
    assert carry.chances.shape == (WIDTH,)


def test_a_stopped_run_goes_on(tmp_path: Any, data: Data) -> None:
    check_resumes(reasoner, CONFIG.replace(behaviour_steps=30.0), data, tmp_path)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reader": None}, r"reader must be a Reader \(adarena.agents.offline.thoughts.reader_of\), got None"),
        ({"thoughts": 0.5}, "thoughts must be 0 or 1, got 0.5"),
        ({"chains": 0}, "chains must be a whole number of at least 1, got 0"),
        ({"behaviour_steps": 0.0}, "behaviour_steps must be a number above 0"),
        ({"anchor": -0.1}, "anchor must be a finite number of at least 0, got -0.1"),
        ({"truth_weight": float("inf")}, "truth_weight must be a finite number of at least 0, got inf"),
        ({"heads": 3}, r"width must be a multiple of heads \(3\), got 16"),
    ],
)
def test_bad_numbers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reasoner.make_config(**({"reader": READER, **SMALL} | changes))


def test_bad_modes_are_refused(states: dict[str, Any]) -> None:
    policy = reasoner.make_policy(CONFIG, SPEC, states["behaviour"][0])
    for mode in ("shuffled", "louder"):
        with pytest.raises(ValueError, match=rf"mode must be one of own, none, wrong, .*, got '{mode}'"):
            told(policy, mode)
