"""Weights through vLLM's own transfer: what is sent to its routes, in which order, and what comes out at the other end.

The stand-in servers read every request with vLLM's own models and receive the tensors by gloo, which `GlooReceiver`
does in a real worker (see `test_a_vllm_server_samples_from_the_weights_that_it_was_sent`). NCCL needs a GPU.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from selfcorrect.chat import EMBEDDED, ChatCodec
from selfcorrect.engines import SampleRequest
from selfcorrect.engines.local.engine import TransformersEngine
from selfcorrect.engines.server.client import OpenAIEngine
from selfcorrect.engines.server.transfer import Transfer
from selfcorrect.errors import EngineError
from selfcorrect.problems.arithmetic import problems
from selfcorrect.prompts import solve_messages
from selfcorrect.train.common.models import load_model
from selfcorrect.train.rl.samplers import open_sampler

pytest.importorskip("vllm", reason="vLLM is not installed: make test-engines")
pytestmark = pytest.mark.slow

WEIGHTS = [("embed", torch.randn(5, 3)), ("norm", torch.randn(7).bfloat16()), ("strided", torch.randn(4, 6).t())]
ROUND = ["/start_weight_update", "/update_weights", "/finish_weight_update", "/reset_prefix_cache"]


class StandIn:
    """A server with vLLM's routes for weights: what it was asked, and what it received. ``workers``: gloo ranks."""

    def __init__(self, workers: int = 1) -> None:
        self.workers, self.version = workers, "default"
        self.asked: list[str] = []
        self.received: list[dict[str, Tensor]] = []  # of the latest round, for each worker
        self.refuses = ""
        self.dies_at = ""
        self._receivers: list[Any] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                told = {
                    "/v1/models": {"data": [{"id": "policy", "max_model_len": 64}]},
                    "/get_world_size": {"world_size": stand_in.workers},
                    "/weight_info": {"weight_version": stand_in.version},
                }
                self.answer(told[self.path])

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                stand_in.asked.append(self.path)
                if self.path == stand_in.dies_at:
                    threading.Thread(target=stand_in.http.shutdown).start()
                    stand_in.http.socket.close()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if self.path == stand_in.refuses:
                    self.send_error(500, "no")
                    return
                getattr(stand_in, self.path[1:])(**body)
                self.answer({"message": "done", "success": True})

            def answer(self, value: Any) -> None:
                content = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        from selfcorrect.engines.vllm_gloo import GlooReceiver

        def worker(rank: int) -> Any:
            parallel = SimpleNamespace(data_parallel_index=0, world_size=self.workers, rank=rank)
            about = SimpleNamespace(parallel_config=parallel, model_config=None)
            model: Any = SimpleNamespace(load_weights=self.received[rank].update)
            return GlooReceiver(None, about, torch.device("cpu"), model)  # type: ignore[arg-type]

        self.received = [{} for _ in range(self.workers)]
        self._receivers = [worker(rank) for rank in range(self.workers)]
        info = self._receivers[0].parse_init_info(init_info)  # vLLM's own check
        self._all(lambda receiver: receiver.init_transfer_engine(info))

    def start_weight_update(self) -> None:
        for received in self.received:
            received.clear()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._all(lambda receiver: receiver.update_weights(update_info))

    def finish_weight_update(self, weight_version: str) -> None:
        self.version = weight_version

    def reset_prefix_cache(self) -> None:
        pass

    def shutdown_weight_transfer_engine(self) -> None:
        for receiver in self._receivers:
            receiver.shutdown()
        self._receivers = []

    def _all(self, work: Any) -> None:
        errors: list[Exception] = []

        def run(receiver: Any) -> None:
            try:
                work(receiver)
            except Exception as error:  # noqa: BLE001 - the request must hear of it
                errors.append(error)

        threads = [threading.Thread(target=run, args=(receiver,)) for receiver in self._receivers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


@pytest.fixture
def two() -> Iterator[tuple[StandIn, StandIn]]:
    servers = StandIn(workers=2), StandIn()
    yield servers
    for server in servers:
        server.http.shutdown()


def connected(servers: tuple[StandIn, ...]) -> tuple[OpenAIEngine, Transfer]:
    engine = OpenAIEngine.connect("embedded", [one.url for one in servers], stall_s=60.0)
    return engine, Transfer(engine, "gloo")


def has(received: dict[str, Tensor], factor: float = 1.0) -> bool:
    """True where the weights came, each once, bit for bit, in dtype and shape."""
    wanted = {name: tensor * factor for name, tensor in WEIGHTS}
    return received.keys() == wanted.keys() and all(
        received[name].dtype == tensor.dtype and torch.equal(received[name], tensor) for name, tensor in wanted.items()
    )


def test_every_worker_of_every_server_gets_the_weights_and_the_routes_are_asked_in_vllms_order(two) -> None:
    _engine, transfer = connected(two)
    assert transfer.send(WEIGHTS) == [True, True]
    for one in two:
        assert one.asked == ["/init_weight_transfer_engine", *ROUND]
        assert (one.version, all(map(has, one.received))) == ("1", True)
    assert transfer.send([(name, tensor * 2) for name, tensor in WEIGHTS]) == [True, True]
    for one in two:
        assert one.asked == ["/init_weight_transfer_engine", *ROUND, *ROUND]
        assert (one.version, all(has(received, 2.0) for received in one.received)) == ("2", True)
    transfer.close()
    assert two[0].asked[-1] == "/shutdown_weight_transfer_engine"


def test_a_server_that_was_started_again_gets_the_weights_in_a_new_group(two) -> None:
    _engine, transfer = connected(two)
    transfer.send(WEIGHTS)
    two[1].version, two[1]._receivers, two[1].received = "default", [], []
    assert transfer.send(WEIGHTS) == [True, True]
    first = ["/init_weight_transfer_engine", *ROUND]
    assert two[0].asked == [*first, "/shutdown_weight_transfer_engine", *first]
    assert has(two[1].received[0])
    transfer.close()


def test_a_server_that_dies_while_weights_are_announced_is_left_out_and_the_other_gets_them(two) -> None:
    engine, transfer = connected(two)
    transfer.send(WEIGHTS)
    two[1].dies_at = "/start_weight_update"
    assert transfer.send(WEIGHTS) == [True, False]
    assert all(map(has, two[0].received))
    assert [endpoint.left_out for endpoint in engine.endpoints] == [False, True]
    transfer.close()


def test_a_server_that_refuses_is_an_error_and_not_asked_for_ever(two) -> None:
    _engine, transfer = connected(two)
    two[0].refuses = "/finish_weight_update"
    with pytest.raises(EngineError, match=r"could not be sent by gloo: .*/finish_weight_update: HTTP 500"):
        transfer.send(WEIGHTS)


def test_a_vllm_server_samples_from_the_weights_that_it_was_sent(tmp_path: Path) -> None:
    """vLLM's own server on the CPU, its routes, its layerwise reload; twice, and a prompt that it had cached."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(EMBEDDED)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--no-enable-chunked-prefill", "--served-model-name", "toy", "--kv-cache-memory-bytes", str(1 << 26)]
    command += ["--worker-extension-cls", "selfcorrect.engines.vllm_worker.NewWeights"]
    command += ["--weight-transfer-config", json.dumps({"backend": "gloo"})]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        wait_for_server(server, port, log)
        sample_twice(f"http://127.0.0.1:{port}/v1")
    except EngineError:
        print(log.read_text()[-6000:])
        raise
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


def wait_for_server(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")


def sample_twice(url: str) -> None:
    codec = ChatCodec.load("embedded")
    model: Any = load_model("embedded", "auto").float().eval()
    asked = [
        SampleRequest(codec.opening(solve_messages(p.question)), 80, temperature=0.0, stop_ids=codec.stop_ids)
        for p in problems("train", 24, seed=0)
    ]
    sampler = open_sampler("servers", codec, "embedded", 16, {"endpoints": [url], "weights": "gloo"})
    apart = []
    for factor in (1.03, 0.96):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(factor)
        sampler.follow(model)
        wanted = TransformersEngine(model, codec.tokenizer).sample_many(asked)
        got = sampler.sample_many(asked)
        assert [s.token_ids for s in got] == [s.token_ids for s in wanted]
        apart += [
            abs(a - b) for x, y in zip(got, wanted, strict=True) for a, b in zip(x.logprobs, y.logprobs, strict=True)
        ]
    print(f"largest difference of a log-probability: {max(apart):.1e}")
    assert max(apart) < 2e-3
    sampler.close()
