"""A chat server that fails as it is told: each request takes the next of its faults, then it answers by a script."""

from __future__ import annotations

import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COUNTS = {
    "negative count": '{"prompt_tokens": 5, "completion_tokens": -100}',
    "infinite count": '{"prompt_tokens": 1e400, "completion_tokens": 5}',
    "long count": '{"prompt_tokens": 5, "completion_tokens": 1' + "0" * 400 + "}",
}


class Upstream(ThreadingHTTPServer):
    """Says "n + n = …" like `toy.ScriptedSource`: odd n wrongly at first. ``bodies`` lists what was asked.

    Faults: a number is an HTTP status; ``cut`` ends the connection after some text, ``cut before`` before any;
    ``stall`` sends nothing more; ``garbage`` is no JSON; ``endless`` never ends, ``endless scores`` brings
    log-probabilities and no text; a name of `COUNTS` gives such counts of tokens; ``zipped`` claims an encoding;
    ``error event``; ``not chat``.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, *faults: int | str, scores: bool = True, forever: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.scores, self.forever = list(faults), scores, forever
        self.bodies: list[dict[str, Any]] = []
        self.left = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> Upstream:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.left.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Upstream
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.whole(200, {"object": "list", "data": [{"id": "deep"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        server.bodies.append(body)
        fault = (server.faults[0] if server.forever else server.faults.pop(0)) if server.faults else None
        if isinstance(fault, int):
            headers = {"retry-after": "0"} if fault == 429 else {}
            return self.whole(fault, {"error": {"message": f"no luck ({self.headers['authorization']})"}}, headers)
        if not server.scores and body.get("logprobs"):
            return self.whole(400, {"error": {"message": "logprobs are not given"}})
        if fault == "not chat":
            return self.whole(200, {"object": "text_completion"})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        if fault == "zipped":
            self.send_header("content-encoding", "gzip")
        self.end_headers()
        self.close_connection = True
        try:
            self.stream(fault, said_to(body["messages"]), body)
        except OSError:
            server.left.set()

    def stream(self, fault: str | None, text: str, body: dict[str, Any]) -> None:
        pieces = re.findall(r"\s*\S+", text)
        if fault == "cut before":
            return self.connection.shutdown(socket.SHUT_RDWR)
        for place, piece in enumerate(pieces):
            if place == 2 and fault:
                if fault == "cut":
                    return self.connection.shutdown(socket.SHUT_RDWR)
                if fault == "garbage":
                    self.line("data: {not json")
                if fault in COUNTS:
                    self.line(f'data: {{"choices": [], "usage": {COUNTS[fault]}}}')
                if fault == "error event":
                    self.line('data: {"error": {"message": "out of memory"}}')
                while fault == "endless":
                    self.event({"content": "x" * 1000})
                while fault == "endless scores":
                    self.event({}, scores("x"))
                if fault == "stall":
                    self.wfile.flush()
                    self.server.left.wait(30)
                    return None
            self.event({"content": piece}, scores(piece) if body.get("logprobs") else None)
        self.event({}, finish="stop")
        usage = {"prompt_tokens": 5, "completion_tokens": len(pieces), "total_tokens": 5 + len(pieces)}
        self.line("data: " + json.dumps({"choices": [], "usage": usage}))
        self.line("data: [DONE]")
        return None

    def event(self, delta: dict[str, str], logprobs: Any = None, finish: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        self.line("data: " + json.dumps({"choices": [choice]}))

    def line(self, text: str) -> None:
        self.wfile.write(f"{text}\n\n".encode())

    def whole(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def scores(piece: str) -> Any:
    """Return the log-probabilities of a piece: 0.2 and 0.8 for the two words of a verdict."""
    likeliest = [{"token": " wrong", "logprob": -0.2231435513}, {"token": " correct", "logprob": -1.6094379124}]
    return {"content": [{"token": piece, "logprob": -0.1, "top_logprobs": likeliest}]}


def said_to(messages: list[dict[str, str]]) -> str:
    opening = next(one["content"] for one in reversed(messages) if "What is" in one["content"])
    n = int(re.findall(r"What is (\d+)", opening)[-1])
    after = messages[[one["content"] for one in messages].index(opening) + 1 :]
    turn = sum(one["role"] == "assistant" for one in after)
    value = 2 * n + (n % 2 if turn == 0 else 0)
    if turn % 2:
        return f"Check: {n}. [VERIFY] " + ("wrong." if n % 2 else "correct.")
    return f"{n} + {n} = {value}. The answer is \\boxed{{{value}}}."
