"""vLLM's own server with our reasoning parser, asked by the official openai client: the lines of docs/doors.md."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="make test-doors")
pytest.importorskip("openai", reason="make test-doors")

import openai

from selfcorrect.adapters.long_cot import LongCotStream
from selfcorrect.problems.arithmetic import problems
from selfcorrect.prompts import solve
from tests.doors.page import ROOT, lines_of

ON_A_CPU = "--host 127.0.0.1 --dtype float32 --enforce-eager --no-enable-chunked-prefill"
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model after a short IFT, so that it judges itself in its message (about a minute)."""
    run = tmp_path_factory.mktemp("run")
    gen = ["gen", "embedded", "problems.count=250", "quota={d1: 48, d2: 12, d3: 48}", "baselines=false"]
    for words in (gen, ["train", "sft", "embedded-sft", "epochs=5"]):
        command = [sys.executable, "-m", "selfcorrect", *words, "--run", str(run)]
        ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    return run / "checkpoints" / "ift"


@pytest.fixture(scope="module")
def client(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The official client of the server that the page's command starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"CHECKPOINT": str(checkpoint), "FLAGS": f"--port {port} {ON_A_CPU}"}
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["bash", "-ec", lines_of("vLLM", "bash")],
            env=ENVIRONMENT | settings, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        else:
            pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def asked(question: str, **settings: Any) -> dict[str, Any]:
    message = {"role": "user", "content": solve(question)}
    return {"model": "long-cot", "messages": [message], "temperature": 0, "max_tokens": 320} | settings


def streamed(client: Any, **settings: Any) -> list[tuple[str, str]]:
    chunks = client.chat.completions.create(stream=True, **settings)
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    return [(getattr(delta, "reasoning", None) or "", delta.content or "") for delta in deltas]


def test_the_clients_see_the_last_attempt_streamed_and_not(client) -> None:  # type: ignore[no-untyped-def]
    kinds = {"fixed": 0, "kept": 0}
    for problem in problems("test", 20, seed=0):
        answer = client.chat.completions.create(**asked(problem.question))
        message, usage = answer.choices[0].message, answer.usage
        said = streamed(client, **asked(problem.question))
        assert "".join(content for _, content in said) == message.content
        assert "".join(reasoning for reasoning, _ in said) == message.reasoning
        assert message.content
        assert "[VERIFY]" not in message.content or not re.search(r"\[VERIFY\] (correct|wrong)\.", message.reasoning)
        assert 0 <= usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
        if message.content.startswith("Corrected:"):
            kinds["fixed"] += 1
            assert LongCotStream().feed(message.reasoning + message.content, ended=True)[1] == message.content
            assert sum(bool(content) for _, content in said) > 5, "a revision is content while it is written"
        elif "[VERIFY] correct." in message.reasoning:
            kinds["kept"] += 1
            assert message.reasoning.startswith(message.content)
    assert min(kinds.values()) > 0, kinds


def test_a_cut_completion_has_content_and_the_reasoning_can_be_left_out(client) -> None:  # type: ignore[no-untyped-def]
    question = problems("test", 1, seed=0)[0].question
    short = asked(question, max_tokens=4)
    assert client.chat.completions.create(**short).choices[0].message.content
    assert "".join(content for _, content in streamed(client, **short))
    plain = asked(question, extra_body={"include_reasoning": False})
    whole = client.chat.completions.create(**asked(question)).choices[0].message
    assert "".join(content for _, content in streamed(client, **plain)) == whole.content
    assert not any(reasoning for reasoning, _ in streamed(client, **plain))


def test_the_responses_api_has_a_reasoning_item(client) -> None:  # type: ignore[no-untyped-def]
    question = problems("test", 1, seed=0)[0].question
    whole = client.chat.completions.create(**asked(question)).choices[0].message
    items = client.responses.create(
        model="long-cot", input=solve(question), temperature=0, max_output_tokens=320
    ).output
    assert [(item.type, item.content[0].text) for item in items] == [
        ("reasoning", whole.reasoning),
        ("message", whole.content),
    ]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"response_format": {"type": "json_object"}}, "has no format"),
        ({"extra_body": {"chat_template_kwargs": {"horizon": "x"}}}, "a whole number from 1; got 'x'"),
    ],
)
def test_what_cannot_be_done_is_refused(client, settings, match) -> None:  # type: ignore[no-untyped-def]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=match):
            client.chat.completions.create(stream=stream, **asked("2 + 2?", **settings))


def test_the_clients_lines_of_the_page_run(client) -> None:  # type: ignore[no-untyped-def]
    url = {"OPENAI_BASE_URL": str(client.base_url), "OPENAI_API_KEY": "none"}
    command = [sys.executable, "-c", lines_of("vLLM", "python")]
    ended = subprocess.run(command, env=ENVIRONMENT | url, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "content:" in ended.stdout
    assert "\\boxed{" in ended.stdout
