"""A completions server on loopback that answers by a script, in the dialect of a real one, and fails when told to."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import Sample, SampleRequest
from selfcorrect.engines.scripted import Script, ScriptedEngine

Fault = Callable[["Handler"], None]
Dialect = Callable[["Server", Sequence[int], Sample | None, dict[str, Any]], dict[str, Any]]


class Server(ThreadingHTTPServer):
    """``faults`` maps the number of a request (from 0) to what goes wrong with it; None: it is answered."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self,
        codec: ChatCodec,
        script: Script,
        dialect: Dialect,
        faults: Callable[[int], Fault | None] = lambda number: None,
        models: Sequence[str] = ("toy",),
        port: int = 0,
        delay_s: float = 0.0,
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.codec, self.dialect, self.faults, self.models, self.delay_s = codec, dialect, faults, models, delay_s
        self.engine = ScriptedEngine(script, codec)
        self.listing: Fault | None = None  # what answers GET /v1/models in place of the list
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.listing is not None:
            self.server.listing(self)
            return
        self.send_json(200, {"data": [{"id": model, "max_model_len": 4096} for model in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            time.sleep(server.delay_s)
            fault = server.faults(number)
            self.body = body
            if fault is not None:
                fault(self)
                return
            self.stream(self.events(body))
        finally:
            with server.lock:
                server.under_way -= 1

    def events(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the stream's events: two parts of the tokens, then the end."""
        server = self.server
        request = SampleRequest(
            tuple(body["prompt"]),
            body["max_tokens"],
            body["seed"],
            body["temperature"],
            stop_ids=tuple(body.get("stop_token_ids", server.codec.stop_ids)),
            stop_texts=tuple(body.get("stop", ())),
            watch_ids=tuple(body.get("logprob_token_ids", ())),
        )
        sample = asyncio.run(server.engine.sample(request))
        ids = [*sample.token_ids, *((sample.stop_id,) if sample.stop_id is not None else ())]
        half = len(ids) // 2
        events = [server.dialect(server, ids[:half], None, body), server.dialect(server, ids[half:], sample, body)]
        return [{"choices": [event]} for event in events]

    def stream(self, events: Sequence[dict[str, Any]], *, whole: bool = True) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            self.chunk(f"data: {json.dumps(event)}\n\n")
        if whole:
            self.chunk("data: [DONE]\n\n")
            self.chunk("")

    def chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
        self.wfile.flush()

    def send_json(self, status: int, value: Any, **headers: str) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, header in headers.items():
            self.send_header(name.replace("_", "-"), header)
        self.end_headers()
        self.wfile.write(content)


# --- dialects: one event's choice from its ids; the last one has the sample ------------------------------------------


def vllm(server: Server, ids: Sequence[int], sample: Sample | None, body: dict[str, Any]) -> dict[str, Any]:
    return _named(server, ids, sample, body) | {"token_ids": list(ids), "stop_reason": sample and sample.stop_id}


def old_vllm(server: Server, ids: Sequence[int], sample: Sample | None, body: dict[str, Any]) -> dict[str, Any]:
    return _named(server, ids, sample, body) | {"stop_reason": sample and sample.stop_id}


def _named(server: Server, ids: Sequence[int], sample: Sample | None, body: dict[str, Any]) -> dict[str, Any]:
    watched = body.get("logprob_token_ids", ())
    names = [f"token_id:{token}" for token in ids]
    return _choice(server, ids, sample) | {
        "logprobs": {
            "tokens": names,
            "token_logprobs": [_score(token) for token in ids],
            "top_logprobs": [
                {name: _score(token)} | {f"token_id:{w}": _score(w) for w in watched}
                for name, token in zip(names, ids, strict=True)
            ],
        }
    }


def llama_cpp(server: Server, ids: Sequence[int], sample: Sample | None, body: dict[str, Any]) -> dict[str, Any]:
    likeliest = [{"id": w, "token": server.codec.decode((w,)), "logprob": _score(w)} for w in (65, 66)]
    steps = [
        {"id": token, "token": server.codec.decode((token,)), "logprob": _score(token), "top_logprobs": likeliest}
        for token in ids
    ]
    return _choice(server, ids, sample) | {"logprobs": {"content": steps}}


def text_only(server: Server, ids: Sequence[int], sample: Sample | None, body: dict[str, Any]) -> dict[str, Any]:
    if sample is not None and sample.stop_id is not None:
        ids = ids[:-1]
    return _choice(server, ids, sample)


def _choice(server: Server, ids: Sequence[int], sample: Sample | None) -> dict[str, Any]:
    finish = None if sample is None else "length" if sample.finish == "length" else "stop"
    return {"index": 0, "text": server.codec.decode(ids), "finish_reason": finish}


def _score(token: int) -> float:
    """The log-probability that these servers give a token: any number that tells tokens apart."""
    return -1.0 - token / 1000


# --- faults ----------------------------------------------------------------------------------------------------------


def status(code: int, retry_after: str | None = None, message: str = "no") -> Fault:
    headers = {} if retry_after is None else {"Retry_After": retry_after}
    return lambda handler: handler.send_json(code, {"error": {"message": message}}, **headers)


def silence(handler: Handler) -> None:
    time.sleep(1.5)


def silence_within(handler: Handler) -> None:
    handler.stream([{"choices": [{"text": "a", "token_ids": [65], "finish_reason": None}]}], whole=False)
    time.sleep(1.5)


def cut(handler: Handler) -> None:
    handler.stream([{"choices": [{"text": "a", "token_ids": [65], "finish_reason": None}]}], whole=False)
    handler.close_connection = True
    handler.connection.close()


def ends_early(handler: Handler) -> None:
    handler.stream([{"choices": [{"text": "a", "token_ids": [65], "finish_reason": None}]}])


def hangs_up(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


def garbage(handler: Handler) -> None:
    handler.stream([])
    handler.close_connection = True


def error_event(handler: Handler) -> None:
    handler.stream([{"error": {"message": "engine dead", "code": 500}}])


def refused_in_the_stream(handler: Handler) -> None:
    """What vLLM does with a prompt that it cannot take: the stream has begun when it finds out."""
    handler.stream([{"error": {"message": "bad seed", "type": "BadRequestError", "code": 400}}])


def aborted(handler: Handler) -> None:
    handler.stream([{"choices": [{"text": "", "token_ids": [], "finish_reason": "abort"}]}])


def not_a_stream(handler: Handler) -> None:
    handler.send_json(200, "<html>Bad gateway</html>")


FAULTS: dict[str, Fault] = {
    "HTTP 429": status(429, "0"),
    "HTTP 500": status(500),
    "HTTP 503": status(503),
    "silence": silence,
    "silence within the stream": silence_within,
    "a cut stream": cut,
    "a stream without an end": ends_early,
    "a connection that is hung up": hangs_up,
    "an empty stream": garbage,
    "an error in the stream": error_event,
    "an aborted request": aborted,
    "something else than a stream": not_a_stream,
}


# --- odd answers: what a hostile or broken server can send -----------------------------------------------------------

ONE = {"text": "a", "token_ids": [65], "finish_reason": None}


def headed(handler: Handler, code: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
    """Begin an answer whose body goes on until the connection ends."""
    handler.send_response(code)
    handler.send_header("Content-Type", kind)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True


def endless(
    what: bytes, pause_s: float = 0.0, code: int = 200, kind: str = "text/event-stream", seconds: float = 30.0
) -> Fault:
    """Send the same bytes again and again, until the client hangs up (or, so that no test hangs, the time is over)."""

    def fault(handler: Handler) -> None:
        headed(handler, code, kind)
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            handler.wfile.write(what)
            time.sleep(pause_s)

    return fault


def event(choices: Any, **fields: Any) -> bytes:
    return f"data: {json.dumps({'choices': choices} | fields)}\n\n".encode()


def raw(*parts: bytes, hold_s: float = 0.0) -> Fault:
    """Send an event stream of these bytes; ``hold_s`` keeps the connection open after them."""

    def fault(handler: Handler) -> None:
        headed(handler)
        for part in parts:
            handler.wfile.write(part)
        handler.wfile.flush()
        time.sleep(hold_s)

    return fault


def bomb(code: int) -> Fault:
    """Answer 400 MB of blanks in 400 kB of gzip."""

    def fault(handler: Handler) -> None:
        headed(handler, code, Content_Encoding="gzip")
        packer = zlib.compressobj(level=1, wbits=31)
        for _ in range(400):
            handler.wfile.write(packer.compress(b"\n" * (1 << 20)))
        handler.wfile.write(packer.flush())

    return fault


def with_last(**fields: Any) -> Fault:
    """Serve the request, with fields of the last event's choice replaced; a function gets the choice."""

    def fault(handler: Handler) -> None:
        *events, last = handler.events(handler.body)
        (choice,) = last["choices"]
        changed = {name: value(choice) if callable(value) else value for name, value in fields.items()}
        handler.stream([*events, {"choices": [choice | changed]}])

    return fault


def with_events(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Fault:
    """Serve the request, with the list of its events changed."""
    return lambda handler: handler.stream(change(handler.events(handler.body)))


def listed(*models: dict[str, Any]) -> Fault:
    """List these models."""
    return lambda handler: handler.send_json(200, {"data": models})


def with_cookies(handler: Handler) -> None:
    """Fail with a hundred cookies."""
    handler.send_response(500)
    for n in range(100):
        handler.send_header("Set-Cookie", f"c{n}=x; Path=/")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def informational(handler: Handler) -> None:
    """Send 100 Continue without end."""
    ends_at = time.monotonic() + 30
    while time.monotonic() < ends_at:
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.01)


def endless_headers(handler: Handler) -> None:
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    ends_at = time.monotonic() + 30
    while time.monotonic() < ends_at:
        handler.wfile.write(b"X-More: yes\r\n" * 1000)


def without_done(handler: Handler) -> None:
    """Serve the request and keep the connection open, without the end of the stream."""
    handler.stream(handler.events(handler.body), whole=False)
    time.sleep(8)


def scored(value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the choice's log-probabilities, the first of them replaced."""
    return lambda choice: choice["logprobs"] | {"token_logprobs": [value, *choice["logprobs"]["token_logprobs"][1:]]}


USAGE = {"choices": None, "usage": {"prompt_tokens": 6, "completion_tokens": 20}}
COUNTED = {"choices": [], "usage": {"prompt_tokens": 6, "completion_tokens": 20}}

ODD: dict[str, tuple[Fault, str]] = {
    # what passes: asked again, counted as a retry of this name
    "an error of 1.5 GB": (endless(b"x" * (1 << 20), code=500), "retries: HTTP 500"),
    "an error that unpacks to 400 MB": (bomb(500), "retries: HTTP 500"),
    "a stream that unpacks to 400 MB": (bomb(200), "retries: garbled stream"),
    "comments without end": (endless(b": ping\n\n", 0.005), "retries: no progress"),
    "many comments without end": (endless(b": ping\n\n" * 4096), "retries: no progress"),
    "empty events without end": (endless(event([]), 0.005), "retries: no progress"),
    "null events without end": (endless(event(None), 0.005), "retries: no progress"),
    "empty tokens without end": (endless(event([{"text": "", "finish_reason": None}]), 0.005), "retries: no progress"),
    "100 Continue without end": (informational, "retries: no progress"),
    "an error that trickles": (endless(b"x", 0.01, code=500), "retries: no progress"),
    "headers without end": (endless_headers, "retries: cut stream"),
    "a line without end": (endless(b"x" * (1 << 20)), "retries: garbled stream"),
    "an event without end": (endless(b"data: x\n" * 4096), "retries: garbled stream"),
    "an event of 2 MB": (raw(event([ONE | {"text": "a" * (2 << 20)}])), "retries: garbled stream"),
    "deep JSON": (raw(b'data: {"choices": ' + b"[" * 100_000 + b"\n\n"), "retries: garbled stream"),
    "a number of 6,000 digits": (
        raw(b'data: {"choices": [{"token_ids": [' + b"9" * 6000 + b"]}]}\n\n"),
        "retries: garbled stream",
    ),
    "broken JSON": (raw(b'data: {"choices": [}\n\n'), "retries: garbled stream"),
    "bytes that are no text": (raw(b"data: \xff\xfe\x00\n\n"), "retries: garbled stream"),
    "an error event without a code": (raw(b'data: {"error": "dead"}\n\n'), "retries: error event"),
    "an error event with a code of its own": (
        raw(b'data: {"error": {"code": "\\u001b]0;", "message": "dead"}}\n\n'),
        "retries: error event",
    ),
    "an error event with a number that is no status": (
        raw(b'data: {"error": {"code": 1000000000000, "message": "dead"}}\n\n'),
        "retries: error event",
    ),
    # what does not pass: an error at once, counted under this name
    "tokens without end": (endless(event([ONE]) * 64), "errors: no end"),
    "text without end": (endless(event([{"text": "a" * 65536, "finish_reason": None}])), "errors: no end"),
    "tokens that hardly come": (endless(event([ONE]), 0.1), "errors: too slow"),
    "two choices in an event": (
        with_events(lambda events: [{"choices": events[0]["choices"] * 2}]),
        "errors: two choices",
    ),
    "a second choice in turn": (
        with_events(lambda events: [events[0], {"choices": [ONE | {"index": 1}]}, events[1]]),
        "errors: two choices",
    ),
    "tokens after the end": (with_events(lambda events: [*events, {"choices": [ONE]}]), "errors: events after the end"),
    "a second end": (with_events(lambda events: [*events, events[1]]), "errors: events after the end"),
    "a log-probability that is NaN": (with_last(logprobs=scored(math.nan)), "errors: impossible log-probability"),
    "a log-probability above 0": (with_last(logprobs=scored(2.5)), "errors: impossible log-probability"),
    "a log-probability of infinity": (with_last(logprobs=scored(math.inf)), "errors: impossible log-probability"),
    "a log-probability in words": (with_last(logprobs=scored("low")), "errors: malformed event"),
    "an id beyond the vocabulary": (with_last(token_ids=[300], logprobs=None), "errors: impossible token id"),
    "an id of 10^12": (with_last(token_ids=[10**12], logprobs=None), "errors: impossible token id"),
    "an id of 10^12 in floating point": (with_last(token_ids=[1e12], logprobs=None), "errors: impossible token id"),
    "an id below 0": (with_last(token_ids=[-1], logprobs=None), "errors: impossible token id"),
    "half a surrogate": (with_last(text="\ud800"), "errors: malformed event"),
    "an end in numbers": (with_last(finish_reason=7), "errors: malformed event"),
    "choices that are a text": (raw(event("abc")), "errors: two choices"),
    "an event that is a list": (raw(b"data: [1]\n\n"), "errors: malformed event"),
    "a redirect": (lambda handler: handler.send_json(307, {}, Location="http://127.0.0.1:9/"), "errors: HTTP 307"),
    "a key that is not taken": (status(401, message="no such key"), "errors: HTTP 401"),
    # what refuses one request: the outcome of its problem
    "a refused request": (status(400, message="cannot do this"), "refused"),
    "a filtered request": (with_last(finish_reason="content_filter"), "refused"),
    "a context that is too short": (status(400, message="maximum context length is 20 tokens"), "prompt-too-long"),
    # what is not wrong: served
    "usage with choices null": (with_events(lambda events: [USAGE, events[0], USAGE, events[1], USAGE]), "samples"),
    "usage alone": (with_events(lambda events: [*events, {"usage": {"completion_tokens": 20}}]), "samples"),
    "signs of life": (
        with_events(lambda events: [{"type": "ping"}, events[0], {"type": "ping"}, events[1]]),
        "samples",
    ),
    "usage with no choices": (with_events(lambda events: [COUNTED, *events, COUNTED]), "samples"),
    "a stream that stays open": (without_done, "samples"),
    "an end said twice": (
        with_events(lambda events: [*events, {"choices": [{"text": "", "finish_reason": "stop"}]}]),
        "samples",
    ),
    "a log-probability rounded above 0": (with_last(logprobs=scored(1e-6)), "samples"),
}
"""Odd answers by what they are, each with the name under which the engine counts it."""
