"""Five problems, what a model says to them, and an OpenAI-compatible server that says it, for the tests of the doors.

The outcomes: right; wrong, judged wrong, revised right; right, judged wrong, revised wrong; wrong, judged correct;
wrong, judged wrong, revised right. So turn 1 is right on 2 of 5 and the final answer on 3 of 5.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SCRIPT = {2: (4, "correct", 4), 3: (7, "wrong", 6), 4: (8, "wrong", 9), 5: (11, "correct", 11), 6: (1, "wrong", 12)}
"""n of "What is n + n?" -> the first answer, its verdict, the answer after a verdict wrong."""
GOLD = {n: 2 * n for n in SCRIPT}
TURN1, FINAL = [1, 0, 1, 0, 0], [1, 1, 0, 0, 1]
VERDICT = [1, 1, 0, 0, 1]
"""By problem: whether the one verdict equals the grade."""


def problem_file(folder: Path) -> Path:
    """Write the five problems as JSON lines."""
    rows = [{"id": f"p{n}", "question": f"What is {n} + {n}?", "answer": str(gold)} for n, gold in GOLD.items()]
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def attempt(n: int, value: int) -> str:
    return f"{n} + {n} = {value}. The answer is \\boxed{{{value}}}."


def reply(opening: str, said: int) -> str:
    """Return what the model says after ``said`` messages of its own in a conversation that opens so."""
    n = number(opening)
    first, verdict, second = SCRIPT[n]
    return [attempt(n, first), f"Check: {n} + {n}. [VERIFY] {verdict}.", attempt(n, second)][said]


def path(opening: str) -> str:
    """Return what the model says in one long-CoT completion."""
    n = number(opening)
    parts = [reply(opening, 0), reply(opening, 1)]
    if SCRIPT[n][1] == "wrong":
        parts += [reply(opening, 2), "Check: \\boxed{0} would be too small. [VERIFY] correct."]
    return "\n\n".join(parts)


def number(opening: str) -> int:
    return int(re.findall(r"What is (\d+) \+", opening)[-1])


class Server(ThreadingHTTPServer):
    """Answers chat/completions message by message, or by long-CoT where ``one_message``; completions by long-CoT.

    ``perfect`` answers completions by a correct attempt each.
    """

    daemon_threads = True

    def __init__(self, one_message: bool = False, perfect: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.one_message, self.bodies = one_message, list[dict[str, Any]]()
        self.path = (lambda opening: attempt(number(opening), GOLD[number(opening)])) if perfect else path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send({"object": "list", "data": [{"id": "toy", "object": "model", "created": 0, "owned_by": "test"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        about = {"id": "1", "created": 0, "model": "toy", "usage": usage}
        if self.path.endswith("/chat/completions"):
            texts = [message["content"] for message in body["messages"] if message["role"] == "user"]
            opening = texts[0] if isinstance(texts[0], str) else "".join(part["text"] for part in texts[0])
            said = sum(message["role"] == "assistant" for message in body["messages"])
            text = path(opening) if self.server.one_message else reply(opening, said)
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            if body.get("stream"):
                self.stream(about, text)
            else:
                self.send(about | {"object": "chat.completion", "choices": [choice]})
        else:
            prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
            choices = [
                {"index": i, "text": self.server.path(one), "finish_reason": "stop"} for i, one in enumerate(prompts)
            ]
            self.send(about | {"object": "text_completion", "choices": choices})

    def stream(self, about: dict[str, Any], text: str) -> None:
        """Send a chat's answer as server-sent events: the text, then the end with the usage."""
        deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": text}, None), ({}, "stop")]
        events = [
            about
            | {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            for delta, finish in deltas
        ]
        lines = [*map(json.dumps, events), "[DONE]"]
        self.send_bytes("".join(f"data: {line}\n\n" for line in lines).encode(), "text/event-stream")

    def send(self, value: Any) -> None:
        self.send_bytes(json.dumps(value).encode(), "application/json")

    def send_bytes(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
