"""A reasoning bidder that a language model thinks for: whole days with a stand-in that is often of no use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chat_stand_in import GOOD, StandIn, refuses, says

from adarena.agents import reasoner
from adarena.agents.language_config import make_config
from adarena.agents.language_policy import NOT_ASKED, Day, LanguagePolicy
from adarena.agents.language_think import LanguageThink, LanguageWarning
from adarena.agents.offline.data import Spec, make_data
from adarena.agents.offline.episodes import Episodes
from adarena.agents.offline.thoughts import parse, reader_of
from adarena.agents.policy import Policy
from adarena.agents.reasoner_policy import ReasoningPolicy, told
from adarena.envs.autobid import AutoBid
from adarena.experiments.rollout import rollout

pytestmark = pytest.mark.usefixtures("quick_compilation")

TICKS = 8
ENV = AutoBid(advertisers=4, impressions=8, ticks=TICKS)
PARAMS = ENV.default_params()
REASON, FOLLOW = jax.jit(ReasoningPolicy.reason), jax.jit(ReasoningPolicy.follow)
KEYS = jax.random.split(jax.random.key(3), 1)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "any")


@pytest.fixture(scope="module")
def stacked() -> Any:
    """Two untrained bidders, whose observations have the moments of made-up ones."""
    rng = np.random.default_rng(0)
    count, width = 8, len(ENV.OBSERVATION)
    terminated = np.zeros((count, TICKS), bool)
    terminated[:, -1] = True
    episodes = Episodes(
        rng.normal(size=(count, TICKS + 1, width)).astype(np.float32),
        rng.uniform(-1.0, 1.0, (count, TICKS, 1)).astype(np.float32),
        rng.normal(size=(count, TICKS)).astype(np.float32),
        terminated,
        np.full((count, TICKS), np.nan, np.float32),
        np.zeros(count, np.int32),
        np.arange(count, dtype=np.int64),
    )
    spec = Spec(width, (-1.0,), (1.0,))
    data = make_data(episodes, spec)
    config = reasoner.make_config(
        reader=reader_of(ENV, PARAMS), context=4, width=16, layers=1, heads=2, critic_hidden=(8,)
    )
    states = jax.jit(jax.vmap(lambda key: reasoner.init(config, data, key)))(jax.random.split(jax.random.key(0)))
    return reasoner.make_policy(config, spec, states)


@pytest.fixture(scope="module")
def bidder(stacked: Any) -> Any:
    return jax.tree.map(lambda x: x[1], stacked)


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


class Watched(LanguagePolicy):
    """Keeps what it carried, saw and did at each tick."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.ticks: list[tuple[Day, np.ndarray, Day, np.ndarray]] = []

    def act(self, key: Any, carry: Day, obs: Any) -> tuple[Day, Any]:
        after, action = super().act(key, carry, obs)
        self.ticks.append((carry, np.array(obs), after, np.asarray(action)))
        return after, action


def watched(bidder: Any, url: str, **changes: Any) -> Watched:
    config = make_config(**{"model": "m", "base_url": url, "retries": 0, **changes})
    return Watched(bidder, LanguageThink(config, ENV.OBSERVATION))


def play(policy: Any) -> np.ndarray:
    """The actions of one day, ``[TICKS]``."""
    return rollout(ENV, PARAMS, policy, KEYS, record=("action",), bound=False).series["action"][0, :, 0]


def test_a_day_on_which_every_third_answer_is_broken(server: StandIn, bidder: Any) -> None:
    broken = iter([says("{"), says("{"), refuses(503)])  # the first is asked again
    questions: list[str] = []

    def script(requests: list[Any]) -> Any:
        messages = requests[-1]["messages"]
        if messages[1]["content"] not in questions:
            questions.append(messages[1]["content"])
        return next(broken) if len(questions) % 3 == 0 else says(GOOD)

    server.script = script
    policy = watched(bidder, server.url)
    assert isinstance(policy, Policy)
    with pytest.warns(LanguageWarning) as told_of:
        actions = play(policy)
    sources = ["language model", "language model", "learned: malformed answer"]
    sources = (sources + sources[:2] + ["learned: HTTP 503"] + sources[:2])[:TICKS]
    day = policy.ticks[-1][2].thoughts
    assert [thought.source for thought in day] == sources
    assert len(told_of) == 2
    report = policy.think.report
    assert (report.questions, report.answered, report.asked_again) == (TICKS, 6, 1)
    assert report.fell_back == {"malformed answer": 1, "HTTP 503": 1}
    for thought, (before, obs, after, action) in zip(day, policy.ticks, strict=True):
        own, chances = REASON(bidder, before.thinking, obs)
        chain = parse(GOOD) if thought.source == "language model" else np.asarray(own)
        np.testing.assert_array_equal(thought.chain, chain)
        np.testing.assert_array_equal(after.thinking.chain, chain)
        _, expected = FOLLOW(bidder, before.thinking, obs, jnp.asarray(chain), chances)
        np.testing.assert_allclose(action, expected, atol=1e-5)
    np.testing.assert_allclose(actions, [tick[3][0] for tick in policy.ticks])
    policy.think.close()


def test_without_a_model_the_day_is_the_learned_one(bidder: Any, server: StandIn, monkeypatch: Any) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    policy = watched(bidder, server.url)
    with pytest.warns(LanguageWarning, match="no key") as told_of:
        actions = play(policy)
    assert len(told_of) == 1
    np.testing.assert_allclose(actions, play(bidder), atol=1e-5)
    assert {thought.source for thought in policy.ticks[-1][2].thoughts} == {"learned: no key"}
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    thoughtful = watched(bidder, server.url)
    assert np.abs(play(thoughtful) - actions).max() > 1e-4  # Act hears the model
    thoughtful.think.close()


def test_a_second_day_costs_nothing(bidder: Any, server: StandIn, tmp_path: Any) -> None:
    first, again = (watched(bidder, server.url, cache=str(tmp_path)) for _ in range(2))
    np.testing.assert_array_equal(play(first), play(again))
    assert len(server.requests) == TICKS
    assert {thought.source for thought in again.ticks[-1][2].thoughts} == {"cache"}
    assert again.think.report.cost == 0.0
    first.think.close()


def test_between_questions_the_learned_think_serves(bidder: Any, server: StandIn) -> None:
    policy = watched(bidder, server.url, every=3)
    play(policy)
    sources = [thought.source for thought in policy.ticks[-1][2].thoughts]
    assert sources == ["language model" if tick % 3 == 0 else NOT_ASKED for tick in range(TICKS)]
    before, obs, after, _ = policy.ticks[1]
    np.testing.assert_array_equal(after.thinking.chain, REASON(bidder, before.thinking, obs)[0])
    assert policy.think.report.questions == 3
    policy.think.close()


def test_bidders_that_would_not_listen_are_refused(stacked: Any, bidder: Any) -> None:
    think = LanguageThink(make_config(model="m"), ENV.OBSERVATION)
    with pytest.raises(ValueError, match="policy must be of one seed"):
        LanguagePolicy(stacked, think)
    for deaf in (told(bidder, "wrong"), told(bidder, "none"), bidder.replace(thoughts=False)):
        with pytest.raises(ValueError, match="policy must act on its own thoughts"):
            LanguagePolicy(deaf, think)
