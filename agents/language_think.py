"""A language model as Think: it is told the last ticks in words and answers with a chain; optional, and never needed.

Any endpoint that speaks OpenAI's ``/chat/completions`` will do. Needs ``pip install 'adarena[llm]'``, and a key in the
environment (an endpoint without keys, such as a local one, takes any word)::

    export DEEPSEEK_API_KEY=...
    config = make_config(model="deepseek-chat", base_url="https://api.deepseek.com")
    policy = LanguagePolicy(one_seed, LanguageThink(config, env.OBSERVATION))  # adarena.agents.language_policy

Whatever goes wrong (no key, no extra, a refusal, an answer that is late or of no use, the ceiling of the cost), there is no
chain and the cause is named; the learned Think then serves. Each cause is told once, as a `LanguageWarning`, and counted in
a `Report`. Nothing of the key, and nothing that an endpoint says when it refuses, is kept or shown.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from adarena.agents.language_cache import AnswerCache, DamagedError, write_json
from adarena.agents.language_config import Config
from adarena.agents.language_prompt import Message, asked_again, places, question, read_answer
from adarena.envs.core import Entry

if TYPE_CHECKING:
    from adarena.agents.language_client import Endpoint, Reply

_BESIDE = 256  # tokens with which a template may surround a conversation
_PER_MESSAGE = 16  # and each of its messages


class LanguageWarning(UserWarning):
    """A language model could not be used for a tick, or its cache was damaged."""


class _NoAnswerError(Exception):
    """Why the model does not think: the cause, and what to do about it."""


class Thought(NamedTuple):
    """What was thought for one tick.

    Attributes:
        chain: ``[L]`` int32; None where the learned Think must serve.
        source: ``"language model"``, ``"cache"`` or ``"learned: CAUSE"``.
    """

    chain: np.ndarray | None
    source: str


@dataclasses.dataclass
class Report:
    """What became of all questions. ``questions`` are answered, taken from the cache, or fallen back from.

    Attributes:
        questions: Ticks for which the model was to think.
        from_cache: Answered from disk.
        asked: Put to the endpoint.
        asked_again: Put to it a second time, since the first answer could not be used.
        answered: Answered by the endpoint.
        fell_back: Cause to how often the learned Think served.
        input_tokens: Tokens of questions, as the endpoint counted them.
        output_tokens: Tokens of answers likewise.
        cost: What these cost at the configured prices.
        cost_unheard: The most that the attempts may have cost which were sent and not counted (time-outs, HTTP 5xx).
    """

    questions: int = 0
    from_cache: int = 0
    asked: int = 0
    asked_again: int = 0
    answered: int = 0
    fell_back: dict[str, int] = dataclasses.field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    cost_unheard: float = 0.0

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it as a JSON file, whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        write_json(Path(path), dataclasses.asdict(self))

    def __str__(self) -> str:
        """Two or three lines for people."""
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(self.fell_back.items()))
        lines = [
            f"language model: {self.questions} questions, {self.answered} answered, {self.from_cache} from the cache, "
            f"{sum(self.fell_back.values())} left to the learned Think" + (f" ({causes})" if causes else ""),
            f"{self.asked} asked, {self.asked_again} of them twice; {self.input_tokens} tokens in, "
            f"{self.output_tokens} out; cost {self.cost:.4f}",
        ]
        if self.cost_unheard > 0.0:
            lines.append(f"attempts without an answer may have cost up to {self.cost_unheard:.4f} more")
        return "\n".join(lines)


class LanguageThink:
    """Asks a language model for chains.

    Attributes:
        config: Its configuration.
        report: What became of the questions so far, over all days; the ceiling is on their cost.

    Args:
        config: Checked here.
        entries: Of the environment's observation, ``env.OBSERVATION``.

    Raises:
        ValueError: A field of ``config`` is not allowed, or its cache cannot be written to.
        KeyError: The observation lacks an entry that the model is told.
    """

    def __init__(self, config: Config, entries: Sequence[Entry]) -> None:
        config.validate()
        self.config, self.report = config, Report()
        self._places = places(entries)
        self._cache = None if config.cache is None else AnswerCache(config.cache)
        self._endpoint: Endpoint | None = None
        self._told: set[str] = set()

    def think(self, observations: Sequence[np.ndarray]) -> Thought:
        """Thinks about the last of some observations, ``[O]`` each in the environment's units, in order of time."""
        self.report.questions += 1
        messages = question(self._places, observations)
        identity = {**self.config.identity(), "messages": messages}
        chain = self._cached(identity)
        if chain is not None:
            self.report.from_cache += 1
            return Thought(chain, "cache")
        try:
            chain = self._ask(messages)
        except _NoAnswerError as error:
            return self._fall_back(*error.args)
        self.report.answered += 1
        self._keep(identity, chain)
        return Thought(chain, "language model")

    def close(self) -> None:
        """Closes the connection; it is opened again when needed."""
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None

    def _ask(self, messages: list[Message]) -> np.ndarray:
        """A chain.

        Raises:
            _NoAnswerError: There is none.
        """
        wrong = ""
        for again in (False, True):
            attempts, endpoint = self._affordable(messages), self._connected()
            if not attempts:
                allowed = f"the next question could cost more than ceiling={self.config.ceiling} allows"
                raise _NoAnswerError("ceiling reached", allowed)
            self.report.asked_again += again
            self.report.asked += not again
            reply = endpoint.ask(messages, self.config.options(), attempts - 1)
            self._account(messages, reply)
            if reply.cause:
                raise _NoAnswerError(reply.cause, _ADVICE.get(reply.cause, ""))
            try:
                return read_answer(reply.text)
            except ValueError as error:
                wrong = str(error)
                messages = asked_again(messages, reply.text, wrong)
        raise _NoAnswerError("malformed answer", wrong.split(", got ")[0])  # what was got is the endpoint's own words

    def _connected(self) -> Endpoint:
        """The endpoint.

        Raises:
            _NoAnswerError: The key or the extra is missing.
        """
        variable = self.config.variable
        key = os.environ.get(variable, "").strip()
        if not key:
            raise _NoAnswerError("no key", f"set the environment variable {variable}")
        if not (key.isascii() and key.isprintable()):  # no header can hold it, and errors about headers show them
            raise _NoAnswerError("no key", f"the environment variable {variable} holds no plain text")
        if self._endpoint is None:
            try:
                from adarena.agents.language_client import Endpoint
            except ImportError:
                raise _NoAnswerError("extra not installed", "pip install 'adarena[llm]'") from None
            config = self.config
            self._endpoint = Endpoint(config.base_url, key, config.time_out, config.own)
        return self._endpoint

    def _most(self, messages: Sequence[Message]) -> float:
        """The most that one attempt can cost: a token is at least one byte."""
        size = sum(len(part.encode()) for message in messages for part in message.values())
        return self.config.price(size + _PER_MESSAGE * len(messages) + _BESIDE, self.config.most_tokens)

    def _affordable(self, messages: Sequence[Message]) -> int:
        """How many attempts fit under the ceiling, whatever they cost; at most ``retries + 1``."""
        attempts, most = self.config.retries + 1, self._most(messages)
        spent = self.report.cost + self.report.cost_unheard
        while attempts and spent + attempts * most > self.config.ceiling:
            attempts -= 1
        return attempts

    def _account(self, messages: Sequence[Message], reply: Reply) -> None:
        report = self.report
        counted = reply.tokens is not None
        report.cost_unheard += (reply.sent + (reply.heard and not counted)) * self._most(messages)
        if reply.tokens is not None:
            report.input_tokens += reply.tokens[0]
            report.output_tokens += reply.tokens[1]
            report.cost += self.config.price(*reply.tokens)

    def _cached(self, identity: dict[str, Any]) -> np.ndarray | None:
        try:
            return None if self._cache is None else self._cache.get(identity)
        except DamagedError as error:
            warnings.warn(f"cache: {error}; the question is asked anew", LanguageWarning, stacklevel=3)
            return None

    def _keep(self, identity: dict[str, Any], chain: np.ndarray) -> None:
        try:
            if self._cache is not None:
                self._cache.put(identity, chain)
        except OSError as error:
            self._tell("cache", f"cache: an answer could not be stored ({error.strerror}); it is used all the same")

    def _fall_back(self, cause: str, why: str) -> Thought:
        self.report.fell_back[cause] = self.report.fell_back.get(cause, 0) + 1
        reason = f"{cause}: {why}" if why else cause
        self._tell(cause, f"the learned Think serves where the language model does not ({reason}); told once per cause")
        return Thought(None, f"learned: {cause}")

    def _tell(self, about: str, message: str) -> None:
        if about not in self._told:
            self._told.add(about)
            warnings.warn(message, LanguageWarning, stacklevel=4)


_ADVICE = {
    "HTTP 401": "the endpoint does not accept the key",
    "HTTP 402": "the endpoint wants to be paid",
    "HTTP 403": "the endpoint does not allow it",
    "HTTP 404": "the endpoint knows no such model, or base_url is not where it is",
    "HTTP 429": "the endpoint is asked too often, or the key's quota is spent",
    "time-out": "time_out and retries say how long is waited",
}
