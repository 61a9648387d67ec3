"""A language model as Think, against a local stand-in: what it is asked, what it may answer, and what goes wrong."""

from __future__ import annotations

import json
import logging
import math
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_stand_in import DRIPPING, GOOD, SLOW, StandIn, Step, completion, refuses, says

from adarena.agents import language_prompt
from adarena.agents.language_config import Config, make_config
from adarena.agents.language_think import LanguageThink, LanguageWarning, Thought
from adarena.agents.offline.thoughts import SLOTS, parse, spell
from adarena.envs.observation import entries

KEY = "sk-0123456789-of-nobody"
ENTRIES = entries(3)
PLACES = language_prompt.places(ENTRIES)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, and no proxy or setting of the client from outside."""
    for name in ("OPENAI_BASE_URL", "OPENAI_CUSTOM_HEADERS", "DEEPSEEK_API_KEY", "OPENAI_LOG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-nobody")


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


def seen(tick: int = 12, **values: float) -> np.ndarray:
    """An observation before a tick of 48."""
    usual = {
        "time_left": 1.0 - tick / 48,
        "log_budget": math.log(1000.0),
        "log_target": math.log(20.0),
        "has_target": 1.0,
        "budget_left": 0.8,
        "traffic_left": 0.77,
        "pacing": math.log(0.8 / 0.77),
        "progress": 0.25,
    }
    obs = np.zeros(len(ENTRIES), np.float32)
    for name, value in {**usual, **values}.items():
        obs[[entry.name for entry in ENTRIES].index(name)] = value
    return obs


def thinker(server: StandIn | str, **changes: Any) -> LanguageThink:
    url = server if isinstance(server, str) else server.url
    return LanguageThink(make_config(**{"model": "m", "base_url": url, "retries": 0, **changes}), ENTRIES)


def falls_back(think: LanguageThink, cause: str) -> str:
    """Thinks once, which fails for this cause; what is told of it."""
    with pytest.warns(LanguageWarning) as told:
        thought = think.think([seen()])
    assert thought == Thought(None, f"learned: {cause}")
    assert think.report.fell_back == {cause: 1}
    assert len(told) == 1
    assert cause in str(told[0].message)
    with warnings.catch_warnings():  # each cause is told once
        warnings.simplefilter("error")
        assert think.think([seen()]).source == f"learned: {cause}"
    assert think.report.fell_back == {cause: 2}
    think.close()
    return str(told[0].message)


def test_a_good_answer_is_the_chain(server: StandIn) -> None:
    think = thinker(server, extra_body='{"thinking": {"type": "disabled"}}')
    thought = think.think([seen()])
    assert thought.source == "language model"
    assert thought.chain is not None
    assert spell(thought.chain) == GOOD
    (request,) = server.requests
    (headers,) = server.headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert "openai-organization" not in headers  # which is OpenAI's business alone
    assert request == {
        "model": "m",
        "messages": language_prompt.question(PLACES, [seen()]),
        "max_tokens": 1000,
        "temperature": 0.0,
        "response_format": {"type": "json_object"},
        "thinking": {"type": "disabled"},
    }
    report = think.report
    assert (report.questions, report.asked, report.answered, report.asked_again) == (1, 1, 1, 0)
    assert (report.input_tokens, report.output_tokens) == (900, 60)
    assert report.cost == pytest.approx((900 * 10 + 60 * 40) / 1e6)
    assert report.cost_unheard == 0.0
    assert "1 questions, 1 answered, 0 from the cache, 0 left to the learned Think" in str(report)
    think.close()


@pytest.mark.parametrize(
    "text", ["```json\n{}\n```", "```\n{}```", "Here it is:\n```json\n{}\n```\nGood luck.", " {}\n"]
)
def test_code_fences_around_the_answer_do_not_matter(text: str) -> None:
    assert spell(language_prompt.read_answer(text.replace("{}", json.dumps(GOOD)))) == GOOD


@pytest.mark.parametrize("step", [SLOW, DRIPPING])
def test_an_answer_that_is_late_is_given_up(server: StandIn, step: Step) -> None:
    server.steps(step)
    think = thinker(server, time_out=0.15)
    falls_back(think, "time-out")
    assert think.report.cost == 0.0
    assert think.report.cost_unheard > 0.0  # it may be billed
    assert len(server.requests) == 2


BROKEN = [
    *(says(text) for text in ("{", "[1, 2]", "[" * 100_000, "", None)),
    says(json.dumps(GOOD)[:-20], finish="length"),
    says({**GOOD, "pace": ["on"]}),
    completion([]),
    completion(None),
    completion([{"message": "hello"}]),
    Step(b"<html>hello</html>", headers={"Content-Type": "text/html"}),
    Step(b"{"),
    Step(b"7"),
]


@pytest.mark.parametrize("step", BROKEN)
def test_an_answer_of_no_use_is_asked_again_once(server: StandIn, step: Step) -> None:
    server.steps(step)
    think = thinker(server)
    falls_back(think, "malformed answer")
    assert len(server.requests) == 4
    assert (think.report.asked, think.report.asked_again, think.report.answered) == (2, 2, 0)
    server.steps(step, says(GOOD))
    server.requests.clear()
    assert think.think([seen()]).source == "language model"
    first, second = (request["messages"] for request in server.requests)
    assert second[: len(first)] == first
    assert "could not be used" in second[-1]["content"]
    think.close()


def test_a_wrong_word_is_told_to_the_model(server: StandIn) -> None:
    server.steps(says({**GOOD, "pace": "fast"}), says(GOOD))
    think = thinker(server)
    assert think.think([seen()]).source == "language model"
    again = server.requests[1]["messages"]
    assert again[-2] == {"role": "assistant", "content": json.dumps({**GOOD, "pace": "fast"})}
    assert "pace must be one of 'behind', 'on', 'ahead', got 'fast'" in again[-1]["content"]
    report = think.report
    assert (report.questions, report.asked, report.asked_again, report.answered) == (1, 1, 1, 1)
    assert report.input_tokens == 1800  # both were paid for
    think.close()


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 503])
def test_a_refused_question_is_left_to_the_learned_think(server: StandIn, status: int) -> None:
    server.steps(refuses(status))
    think = thinker(server)
    falls_back(think, f"HTTP {status}")
    assert len(server.requests) == 2
    assert (think.report.cost_unheard > 0.0) == (status >= 500)


@pytest.mark.parametrize("step", [says(None, refusal="I will not"), says("{}", finish="content_filter")])
def test_a_refused_content_is_not_asked_for_again(server: StandIn, step: Step) -> None:
    server.steps(step)
    think = thinker(server)
    falls_back(think, "content refused")
    assert len(server.requests) == 2
    assert think.report.input_tokens == 1800


@pytest.mark.parametrize("bad", [refuses(429, Retry_After="0"), refuses(500, retry_after_ms="5")])
def test_what_may_pass_is_tried_again(server: StandIn, bad: Step) -> None:
    server.steps(bad, says(GOOD))
    think = thinker(server, retries=1)
    assert think.think([seen()]).source == "language model"
    assert len(server.requests) == 2
    assert server.requests[0] == server.requests[1]
    assert (think.report.asked, think.report.asked_again) == (1, 0)
    assert (think.report.cost_unheard > 0.0) == (bad.status >= 500)
    think.close()


def test_retry_after_is_honoured(server: StandIn) -> None:
    server.steps(refuses(429, Retry_After="3600"))  # too long to be waited for
    falls_back(thinker(server, retries=5), "HTTP 429")
    assert len(server.requests) == 2  # one for each of two questions


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    think = thinker(f"http://127.0.0.1:{port}/v1")
    falls_back(think, "no connection")
    assert think.report.cost_unheard == 0.0


def test_without_a_key_or_the_extra_nothing_is_asked(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adarena.agents.language_client", None)
    assert "pip install 'adarena[llm]'" in falls_back(thinker(server), "extra not installed")
    for key in ("", "  ", "clé"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        assert "OPENAI_API_KEY" in falls_back(thinker(server), "no key")
    assert "MY_KEY" in falls_back(thinker(server, key_variable="MY_KEY"), "no key")
    assert not server.requests


def test_the_ceiling_is_never_passed(server: StandIn) -> None:
    server.script = lambda requests: says(GOOD, usage={"prompt_tokens": 5000, "completion_tokens": 1000})
    think = thinker(server, ceiling=0.5, retries=3)
    with pytest.warns(LanguageWarning, match="ceiling reached: .* ceiling=0.5"):
        sources = [think.think([seen(tick)]).source for tick in range(1, 12)]
    cost = (5000 * 10 + 1000 * 40) / 1e6
    answered = sources.count("language model")
    assert sources == ["language model"] * answered + ["learned: ceiling reached"] * (11 - answered)
    assert len(server.requests) == answered == think.report.answered
    assert think.report.cost == pytest.approx(answered * cost)
    assert 0.5 - 2 * cost < think.report.cost <= 0.5
    think.close()


def test_attempts_that_may_be_billed_count_against_the_ceiling(server: StandIn) -> None:
    server.steps(refuses(500, retry_after_ms="1"))
    think = thinker(server, ceiling=0.25, retries=10)
    with pytest.warns(LanguageWarning):
        sources = [think.think([seen()]).source for _ in range(3)]
    assert sources[-1] == "learned: ceiling reached"
    most = think.report.cost_unheard / len(server.requests)
    assert 0.25 - most < think.report.cost_unheard <= 0.25
    assert set(think.report.fell_back) == {"HTTP 500", "ceiling reached"}
    assert "may have cost up to" in str(think.report)
    free = thinker(server, ceiling=0.0, input_price=0.0, output_price=0.0)
    falls_back(free, "HTTP 500")  # what costs nothing has no ceiling
    think.close()


def test_an_answer_whose_tokens_are_not_counted_costs_the_most(server: StandIn) -> None:
    for usage in (None, {}, {"prompt_tokens": -1, "completion_tokens": 5}):
        server.script = lambda requests, usage=usage: says(GOOD, usage=usage)
        think = thinker(server)
        assert think.think([seen()]).source == "language model"
        assert think.report.cost == 0.0
        size = sum(len(message["content"].encode()) for message in server.requests[-1]["messages"])
        assert think.report.cost_unheard > (size * 10 + 1000 * 40) / 1e6
        think.close()


def test_the_same_question_is_asked_once(server: StandIn, tmp_path: Path) -> None:
    folder = str(tmp_path / "deep" / "cache")
    think = thinker(server, cache=folder)
    first = think.think([seen()])
    think.close()
    later = thinker(server, cache=folder)
    again = later.think([seen()])
    assert (first.source, again.source) == ("language model", "cache")
    np.testing.assert_array_equal(first.chain, again.chain)
    assert len(server.requests) == 1
    assert (later.report.questions, later.report.from_cache, later.report.asked) == (1, 1, 0)
    (file,) = Path(folder).iterdir()
    assert json.loads(file.read_text())["answer"] == GOOD
    for change in ({"model": "n"}, {"temperature": 1.0}, {"most_tokens": 9}, {"extra_body": '{"top_p": 0.5}'}):
        other = thinker(server, **{"cache": folder, **change})
        assert other.think([seen()]).source == "language model"
        other.close()
    assert later.think([seen(13)]).source == "language model"  # another question
    assert len(server.requests) == 6
    later.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda old: b"",
        lambda old: old[:-9],
        lambda old: b"[]",
        lambda old: b"\xff",
        lambda old: old.replace(b"up", b"??"),
    ],
)
def test_a_damaged_cache_is_asked_anew(server: StandIn, tmp_path: Path, damage: Any) -> None:
    think = thinker(server, cache=str(tmp_path))
    think.think([seen()])
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    with pytest.warns(LanguageWarning, match="asked anew"):
        assert think.think([seen()]).source == "language model"
    assert file.read_bytes() == whole
    assert think.think([seen()]).source == "cache"
    assert len(server.requests) == 2
    think.close()


def test_a_useless_answer_is_not_kept(server: StandIn, tmp_path: Path) -> None:
    server.steps(says("{"))
    falls_back(thinker(server, cache=str(tmp_path)), "malformed answer")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_loses_no_thought(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    think = thinker(server, cache=str(tmp_path))

    def full(*args: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("adarena.agents.language_cache.os.fsync", full)
    with pytest.warns(LanguageWarning, match="could not be stored"):
        assert think.think([seen()]).source == "language model"
    assert not list(tmp_path.iterdir())
    think.close()


def test_the_key_is_nowhere(server: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    cache = tmp_path / "cache"
    think = thinker(server, cache=str(cache))
    bad = [refuses(status, f"{KEY} is no key") for status in (401, 403, 429, 500)]
    bad += [says({**GOOD, "pace": KEY}), says({**GOOD, "pace": KEY}), says(None, refusal=KEY), says(KEY), says(KEY)]
    server.steps(*bad, says({**GOOD, "more": KEY}))
    with pytest.warns(LanguageWarning) as told:
        sources = [think.think([seen()]).source for _ in range(8)]
    assert sources[-1] == "language model"
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}  # it was used
    think.report.save(tmp_path / "report.json")
    shown = [str(one.message) for one in told] + sources
    shown += [repr(think.config), repr(think), str(think.report), repr(think.report), caplog.text]
    shown += [file.read_text() for file in tmp_path.rglob("*.json")]
    assert len(list(tmp_path.rglob("*.json"))) == 2
    assert json.loads((tmp_path / "report.json").read_text())["fell_back"]["malformed answer"] == 2
    assert not [text for text in shown if KEY in text]
    think.close()


def test_the_same_days_are_told_alike() -> None:
    days = [[seen(tick, budget_left=0.9 - 0.01 * tick) for tick in range(8, 14)] for _ in range(2)]
    first, second = (language_prompt.question(PLACES, day) for day in days)
    assert first == second
    assert language_prompt.question(PLACES, days[0][2:]) == first  # the last four ticks
    assert language_prompt.question(PLACES, days[0][3:]) != first
    nearly = [obs * np.float32(1 + 1.2e-7) for obs in days[0]]
    assert language_prompt.question(PLACES, nearly) == first  # rounding does not matter


def test_the_campaign_is_told_in_words_and_units() -> None:
    obs = seen(27, cost_over_target=math.log(1.08), spend_last=0.019, win_rate_last=0.123, price_last=math.log(0.9))
    told = language_prompt.question(PLACES, [seen(0, progress=0.0, pacing=0.0), obs])[1]["content"]
    for part in (
        "budget for the day is 1,000 currency units; its target cost is 20.00 currency units per unit of value",
        "At 00:00",
        "nothing has been bought or measured yet",
        "At 13:30, with 43.8 % of the day to come",
        "80.0 % of the budget and 77.0 % of the day's traffic are left",
        "share of traffic left is 3.8 % below the share of budget left",
        "won 12.3 % of the impressions and spent 1.9 % of the budget, at a cost per value 10.0 % below the target",
        "cost per unit of value is 8.0 % above the target",
        "its value is 25.0 % of what the whole budget buys",
    ):
        assert part in told
    free = language_prompt.question(PLACES, [seen(has_target=0.0, log_target=0.0, win_rate_last=0.1)])[1]["content"]
    assert "no target cost binds" in free
    assert "cost per unit of value is unknown" in free
    assert "1.00 currency" not in free


def test_every_word_is_documented() -> None:
    rules = language_prompt.question(PLACES, [seen()])[0]["content"]
    for slot in SLOTS:
        assert slot.meaning in rules
        assert all(f'"{word}"' in rules for word in slot.words)
    assert "json" in rules  # some endpoints insist
    shape = rules[rules.rindex("{") :]
    assert parse(json.loads(shape)).shape == (len(SLOTS),)


def test_other_things_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model must be"):
        LanguageThink(Config(), ENTRIES)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cache must be None or a folder that can be written to"):
        LanguageThink(make_config(model="m", cache=str(tmp_path / "file")), ENTRIES)
    with pytest.raises(KeyError, match="multiplier_last"):
        LanguageThink(make_config(model="m"), [entry for entry in ENTRIES if entry.name != "multiplier_last"])
