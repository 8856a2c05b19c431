"""A server that speaks vLLM's routes and samples by our own engine, for test_servers.py and benchmarks/rl_scale.py.

In float32 our engine gives the same sample wherever it is asked for, so a run on such servers can be held to one that
samples from the live module. Each completion and each loading of weights is a line of LOG.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import SampleRequest
from selfcorrect.engines.local.engine import TransformersEngine
from selfcorrect.train.common.models import load_model
from selfcorrect.train.common.weights import put

ROOT = Path(__file__).parents[3]
DELAY_S = 0.1
"""Before each answer, so that a kill finds requests under way."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: TransformersEngine
    record: Path

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer({"data": [{"id": "policy", "max_model_len": 1024}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/v1/completions":
            self.complete(body)
        elif self.path == "/collective_rpc":
            assert body["method"] == "load_new_weights"
            weights = load_file(Path(body["args"][0]) / "model.safetensors")
            put(self.engine.model, weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
            self.note("weights")
            self.answer({"results": [None]})
        else:
            assert self.path == "/reset_prefix_cache"
            self.answer({"success": True})

    def complete(self, body: dict[str, Any]) -> None:
        time.sleep(DELAY_S)
        request = SampleRequest(
            tuple(body["prompt"]), body["max_tokens"], body["seed"], body["temperature"],
            stop_ids=tuple(body["stop_token_ids"]), stop_texts=tuple(body.get("stop", ())),
            watch_ids=tuple(body.get("logprob_token_ids", ())),
        )  # fmt: skip
        sample = asyncio.run(self.engine.sample(request))
        ids, scores = list(sample.token_ids), list(sample.logprobs)
        names = [f"token_id:{token}" for token in request.watch_ids]
        likeliest: list[dict[str, float]] = [dict(zip(names, watched, strict=True)) for watched in sample.watched]
        if sample.stop_id is not None:
            ids, scores = [*ids, sample.stop_id], [*scores, sample.stop_logprob]
            likeliest.append({})
        tokens = [f"token_id:{token}" for token in ids]
        choice = {
            "text": "",
            "token_ids": ids,
            "finish_reason": "length" if sample.finish == "length" else "stop",
            "stop_reason": sample.stop_id,
            "logprobs": {"tokens": tokens, "token_logprobs": scores, "top_logprobs": likeliest},
        }
        content = f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n".encode()
        self.answer_bytes(content, "text/event-stream")
        self.note("sample")

    def answer(self, value: Any) -> None:
        self.answer_bytes(json.dumps(value).encode(), "application/json")

    def answer_bytes(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def note(self, what: str) -> None:
        with self.record.open("a") as file:
            file.write(what + "\n")


def serve(model: str, port: int, record: Path) -> subprocess.Popen[bytes]:
    """Start a server in a process of its own and return it once it listens."""
    command = [sys.executable, "-m", "tests.train.rl.weights_server", model, str(port), str(record)]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.1)
    raise RuntimeError(f"the server ended with {server.returncode}")


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    model, port, record = sys.argv[1:]
    torch.set_num_threads(1)
    codec = ChatCodec.load(model)
    Handler.engine = TransformersEngine(load_model(model, "auto").eval(), codec.tokenizer)
    Handler.record = Path(record)
    ThreadingHTTPServer.request_queue_size = 256
    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
