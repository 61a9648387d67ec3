"""How a language model is asked: which, where, how often, for how much; see `adarena.agents.language_think`."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any
from urllib.parse import urlsplit

from adarena.agents.fields import COUNT, NOT_NEGATIVE, POSITIVE, check_fields, checked_config

_OPENAI, _DEEPSEEK = "api.openai.com", "api.deepseek.com"
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_OURS = {"model", "messages", "temperature", "response_format", "max_tokens", "max_completion_tokens", "n", "stream"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings, immutable and hashable. The key itself is none of them.

    Attributes:
        model: Its name at the endpoint; must be given.
        base_url: Where the endpoint is, up to but not including ``/chat/completions``.
        key_variable: Name of the environment variable that holds the key. None is ``DEEPSEEK_API_KEY`` for DeepSeek's own
            endpoint and ``OPENAI_API_KEY`` for any other.
        time_out: Seconds for one attempt: for each wait on the network, and for the whole answer. An answer that drips is
            given up with the first drop that comes after them.
        retries: Further attempts after a time-out, a lost connection, HTTP 408, 409, 429 or 5xx. How long is waited
            before each is the openai client's (see `adarena.agents.language_client`).
        temperature: Of the model's draws; None to leave it to the endpoint, which some models require.
        most_tokens: Longest answer, tokens, thoughts of the model's own included.
        input_price: Currency units for a million tokens of questions.
        output_price: Currency units for a million tokens of answers.
        ceiling: Currency units that all questions together never cost more than, if the prices are right and the endpoint
            keeps to ``most_tokens``; infinite for none. The default prices are an assumption, meant to be too high.
        cache: Folder of answers on disk; None for no cache.
        every: Ticks between questions; 1 asks at each.
        extra_body: JSON object of what else the endpoint is to be told, such as ``{"thinking": {"type": "disabled"}}``,
            without which DeepSeek's models think long before they answer.
    """

    model: str = ""
    base_url: str = f"https://{_OPENAI}/v1"
    key_variable: str | None = None
    time_out: float = 30.0
    retries: int = 2
    temperature: float | None = 0.0
    most_tokens: int = 1000
    input_price: float = 10.0
    output_price: float = 40.0
    ceiling: float = 1.0
    cache: str | None = None
    every: int = 1
    extra_body: str = "{}"

    def validate(self) -> None:
        """Checks every field.

        Raises:
            ValueError: A field's value is not allowed; the message names field, value and what is allowed. Values in which
                someone may have put a key are not shown.
        """
        if self.key_variable is not None and not _is_variable(self.key_variable):
            allowed = "None or the name of an environment variable (capitals, digits, _)"
            raise ValueError(f"key_variable must be {allowed}, got something else (not shown: it may be a key)")
        if not isinstance(self.base_url, str) or set("@?#") & set(self.base_url):
            raise ValueError(
                "base_url must be without user, query or fragment, got some (not shown: it may hold a key)"
            )
        static = {
            "model": (lambda x: isinstance(x, str) and bool(x.strip()), "the name of a model at the endpoint"),
            "base_url": (_is_address, "an address that starts with http:// or https://"),
            "retries": (lambda x: _is_whole(x) and 0 <= x <= 10, "a whole number from 0 to 10"),
            "most_tokens": COUNT,
            "every": COUNT,
            "cache": (lambda x: x is None or (isinstance(x, str) and bool(x)), "None or a folder"),
            "extra_body": (_is_extra, f"a JSON object without {', '.join(sorted(_OURS))}"),
        }
        numbers = {
            "time_out": POSITIVE,
            "input_price": NOT_NEGATIVE,
            "output_price": NOT_NEGATIVE,
            "ceiling": (lambda x: x >= 0.0, "a number of at least 0 (infinity switches it off)"),
        }
        if self.temperature is not None:
            numbers["temperature"] = (lambda x: 0.0 <= x <= 2.0, "None or a number in [0, 2]")
        check_fields(self, static, numbers)

    @property
    def own(self) -> bool:
        """Whether the endpoint is OpenAI's own."""
        return urlsplit(self.base_url).hostname == _OPENAI

    @property
    def variable(self) -> str:
        """Name of the environment variable that holds the key."""
        deepseek = urlsplit(self.base_url).hostname == _DEEPSEEK
        return self.key_variable or ("DEEPSEEK_API_KEY" if deepseek else "OPENAI_API_KEY")

    def options(self) -> dict[str, Any]:
        """Arguments of ``chat.completions.create`` besides messages and form of the answer.

        OpenAI's own endpoint calls the longest answer ``max_completion_tokens``; others know its old name, ``max_tokens``.
        """
        limit = "max_completion_tokens" if self.own else "max_tokens"
        options: dict[str, Any] = {"model": self.model, limit: self.most_tokens}
        if self.temperature is not None:
            options["temperature"] = float(self.temperature)
        extra = json.loads(self.extra_body)
        return {**options, "extra_body": extra} if extra else options

    def identity(self) -> dict[str, Any]:
        """All that an answer hangs on besides the messages, for JSON."""
        return {"base_url": self.base_url, **self.options()}

    def price(self, asked: int, answered: int) -> float:
        """Currency units for so many tokens of a question and of an answer."""
        return (asked * self.input_price + answered * self.output_price) / 1e6


def make_config(**changes: Any) -> Config:
    """A checked `Config` with some fields changed from their defaults; ``model`` must be given.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    return checked_config(Config, "language_think", changes)


def _is_variable(value: Any) -> bool:
    return isinstance(value, str) and _VARIABLE.fullmatch(value) is not None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _is_extra(value: Any) -> bool:
    try:
        extra = json.loads(value)
        json.dumps(extra, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(extra, dict) and not _OURS & set(extra)
