"""A local HTTP server that speaks ``/v1/chat/completions``, well or badly, as a test tells it."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = {
    "pace": "behind",
    "cost": "under",
    "market": "steady",
    "traffic": "usual",
    "budget": "much left",
    "final cost": "far under",
    "change": "up",
    "until": "2 h",
}
"""An answer in the vocabulary."""

USAGE = {"prompt_tokens": 900, "completion_tokens": 60, "total_tokens": 960}


@dataclasses.dataclass(frozen=True)
class Step:
    """What the server does with one request.

    Attributes:
        body: What it sends; None for nothing at all until the server is closed.
        status: HTTP status.
        headers: Further headers.
        drips: Whether blank bytes come forever before the body.
    """

    body: bytes | None
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    drips: bool = False


def says(content: Any, *, usage: Any = USAGE, finish: str = "stop", refusal: str | None = None) -> Step:
    """A chat completion with this content: text, or what is written as JSON."""
    text = content if isinstance(content, str) or content is None else json.dumps(content)
    message = {"role": "assistant", "content": text, "refusal": refusal}
    choice = {"index": 0, "finish_reason": finish, "message": message}
    return completion([choice], usage)


def completion(choices: Any, usage: Any = USAGE) -> Step:
    """A chat completion with these choices."""
    whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices, "usage": usage}
    return Step(json.dumps(whole).encode())


def refuses(status: int, text: str = "no", **headers: str) -> Step:
    """An error."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Step(json.dumps({"error": {"message": text, "type": "error", "code": text}}).encode(), status, named)


SLOW = Step(None)
DRIPPING = Step(None, drips=True)


class StandIn:
    """The server, in threads of its own.

    Attributes:
        script: From the requests so far, the new one last, to what is done with it.
        requests: Bodies, as parsed.
        headers: Headers of each, by their names in small letters.
    """

    def __init__(self) -> None:
        self.script: Callable[[list[Any]], Step] = lambda requests: says(GOOD)
        self.requests: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self._over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def steps(self, *steps: Step) -> None:
        """Does these in turn, and the last one ever after."""
        self.script = lambda requests: steps[min(len(requests), len(steps)) - 1]


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that gave up
            super().handle_error(request, client_address)


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            stand_in.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            stand_in.headers.append({name.lower(): value for name, value in self.headers.items()})
            found = self.path == "/v1/chat/completions"
            step = stand_in.script(stand_in.requests) if found else refuses(404)
            if step.body is None and not step.drips:
                stand_in._over.wait(30)
                return
            self.send_response(step.status)
            for name, value in {"Content-Type": "application/json", **step.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            while step.drips and not stand_in._over.wait(0.02):
                self.wfile.write(b"\n")
            self.wfile.write(step.body or b"")

        def log_message(self, *args: Any) -> None:
            pass

    return Handler
