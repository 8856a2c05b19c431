"""A completions server on loopback that answers by a script, in the dialect of a real one, and fails when told to."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from selfcorrect.engines import Sample, SampleRequest
from selfcorrect.engines.scripted import Script, ScriptedEngine
from selfcorrect.tokens import ChatCodec

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
