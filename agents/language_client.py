"""One question to a chat endpoint, with the openai client: its retries, a time-out that holds, and what was sent counted.

Needs ``pip install 'adarena[llm]'``; `adarena.agents.language_think` imports this module when it first asks.

The client tries again after time-outs, lost connections and HTTP 408, 409, 429 and 5xx, waits as ``Retry-After`` says (up
to two minutes; longer ones are not waited for) or else 0.5 s, doubled each time up to 8 s (openai 3.57,
``_base_client.py``). Its time-out is one of silence: an endpoint that sends a blank line now and then while it is busy, as
DeepSeek's does (api-docs.deepseek.com, "Rate Limit"), would never be given up. `_Wire` bounds the whole attempt.
"""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import httpx2
import openai

from adarena.agents.language_prompt import Message


class Reply(NamedTuple):
    """What came of one question.

    Attributes:
        text: The answer; empty where there is none.
        cause: Why there is no answer; empty where there is one, usable or not.
        tokens: Tokens of the question and of the answer, as the endpoint counted them; None if it did not.
        sent: Attempts of which the endpoint may have done its work (and may bill it) without our getting the answer.
        heard: Whether the endpoint completed an answer, of which ``tokens`` are.
    """

    text: str
    cause: str
    tokens: tuple[int, int] | None
    sent: int
    heard: bool


class Endpoint:
    """A connection to one model.

    Args:
        base_url: Where the endpoint is.
        key: Its key; kept in the client's memory alone.
        time_out: Seconds for one attempt.
        own: Whether it is OpenAI's own, which alone is told ``OPENAI_ORG_ID`` and ``OPENAI_PROJECT_ID``.
    """

    def __init__(self, base_url: str, key: str, time_out: float, own: bool) -> None:
        self._wire = _Wire(time_out)
        # An empty admin key keeps OPENAI_ADMIN_KEY, which no chat needs, out of the client.
        self._client = openai.OpenAI(
            api_key=key, admin_api_key="", base_url=base_url, timeout=time_out, http_client=self._wire
        )
        if not own:
            self._client.organization = self._client.project = None
        self.close = weakref.finalize(self, self._wire.close)
        """Closes the connection, which is closed at the latest when this is dropped."""

    def ask(self, messages: Sequence[Message], options: Mapping[str, Any], retries: int) -> Reply:
        """Asks, and asks again at most ``retries`` times where the client holds that it may help.

        Args:
            messages: The conversation.
            options: Further arguments of ``chat.completions.create``.
            retries: How often.
        """
        self._wire.unheard = 0
        self._client.max_retries = retries  # a copy (with_options) would read the environment again
        create: Any = self._client.chat.completions.with_raw_response.create
        try:
            raw = create(messages=list(messages), response_format={"type": "json_object"}, **options)
        except openai.APITimeoutError:
            return Reply("", "time-out", None, self._wire.unheard, False)
        except openai.APIStatusError as error:  # its message may quote what was sent
            return Reply("", f"HTTP {error.status_code}", None, self._wire.unheard, False)
        except openai.OpenAIError:
            return Reply("", "no connection", None, self._wire.unheard, False)
        return _read(raw.text, self._wire.unheard)


def _read(body: str, sent: int) -> Reply:
    """What a chat completion says; of one that is none, nothing."""
    try:
        completion: Any = json.loads(body)
    except (ValueError, RecursionError):
        completion = None
    completion = completion if isinstance(completion, dict) else {}
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    refused = bool(message.get("refusal")) or choice.get("finish_reason") == "content_filter"
    content = message.get("content")
    text = content if isinstance(content, str) and not refused else ""
    return Reply(text, "content refused" if refused else "", _tokens(completion.get("usage")), sent, True)


def _tokens(usage: Any) -> tuple[int, int] | None:
    if not isinstance(usage, dict):
        return None
    counted = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    if not all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in counted):
        return None
    return counted[0], counted[1]  # type: ignore[return-value]


class _Wire(openai.DefaultHttpxClient):
    """The client's HTTP client: gives up an attempt in time, and counts those that the endpoint got and did not answer."""

    def __init__(self, time_out: float) -> None:
        super().__init__(timeout=time_out)
        self._seconds = time_out
        self.unheard = 0

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Sends one attempt, whole.

        Raises:
            httpx2.HTTPError: It could not be sent, or there was no answer, or none in time.
        """
        end = time.monotonic() + self._seconds
        try:
            response = super().send(request, stream=True, **options)
            assert isinstance(response.stream, httpx2.SyncByteStream)
            response.stream = _Timed(response.stream, end, request)
            try:
                response.read()
            except BaseException:
                response.close()
                raise
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            raise  # nobody was asked
        except httpx2.HTTPError:
            self.unheard += 1
            raise
        self.unheard += response.status_code >= 500
        return response


class _Timed(httpx2.SyncByteStream):
    """A body that must have come by a certain time."""

    def __init__(self, stream: httpx2.SyncByteStream, end: float, request: httpx2.Request) -> None:
        self._stream, self._end, self._request = stream, end, request

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            yield part
            if time.monotonic() > self._end:
                raise httpx2.ReadTimeout("the answer took too long", request=self._request)

    def close(self) -> None:
        """Closes the body."""
        self._stream.close()
