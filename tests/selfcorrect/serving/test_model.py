"""A real model behind the server: what is served is what `SelfCorrectModel` gives, and leaving frees the engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from selfcorrect.engines.scripted import Reply, ScriptedEngine
from selfcorrect.model import SelfCorrectModel
from tests.selfcorrect.serving.toy import NAME, Running, asking, joined, serving, until

pytest.importorskip("torch", reason="comes with the extra train")

from selfcorrect.correction.loop import LoopSettings
from selfcorrect.serving.sources import ModelSource, usage_of

QUESTIONS = [f"Mia has {n} shells and buys 12 more. How many shells now?" for n in (40, 41, 77)]


@pytest.fixture(scope="module")
def model() -> Iterator[SelfCorrectModel]:
    with SelfCorrectModel.load("embedded") as opened:
        yield opened


@pytest.fixture(scope="module")
def embedded(model: SelfCorrectModel) -> Iterator[Running]:
    with serving(ModelSource(model, NAME)) as server:
        yield server


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_is_served_is_what_the_loop_gives(model: SelfCorrectModel, embedded: Running, question: str) -> None:
    path = model.solve(question)
    answer = embedded.chat(question).json()
    events = embedded.stream(question)
    assert answer["choices"][0]["message"]["content"] == joined(events, "content") == path.final.text
    assert joined(events, "reasoning") == answer["choices"][0]["message"]["reasoning"]
    assert answer["selfcorrect"]["stop"] == str(path.stop)
    assert [one["text"] for one in answer["selfcorrect"]["attempts"]] == [one.text for one in path.attempts]
    usage = usage_of(path)
    assert answer["usage"]["completion_tokens"] == usage.completion == path.sampled_tokens + len(path.ends)
    assert answer["usage"]["prompt_tokens"] + usage.completion == len(path.whole()[0])
    assert len([event for event in events if isinstance(event, dict)]) > 10  # token by token


def test_the_first_attempt_alone_is_that_of_the_loop(model: SelfCorrectModel, embedded: Running) -> None:
    answer = embedded.chat(QUESTIONS[0], model=f"{NAME}-first").json()
    assert answer["choices"][0]["message"]["content"] == model.solve(QUESTIONS[0]).first.text
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_a_budget_cuts_and_says_so(embedded: Running) -> None:
    answer = embedded.chat(QUESTIONS[0], max_tokens=5).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["selfcorrect"]["attempts"][0]["cut"] is True
    response = embedded.client.post(
        "/v1/responses", json={"model": NAME, "input": QUESTIONS[0], "max_output_tokens": 5}
    ).json()
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_a_conversation_that_the_context_does_not_hold_is_refused(embedded: Running) -> None:
    for streamed in (False, True):
        answer = embedded.chat("1 + 1 = 2. " * 2000, stream=streamed)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_work_of_a_client_that_leaves_ends_in_the_engine(model: SelfCorrectModel, embedded: Running) -> None:
    engine: Any = model.engine
    for _ in range(3):
        with embedded.client.stream("POST", "/v1/chat/completions", json=asking(QUESTIONS[1], stream=True)) as answer:
            next(answer.iter_lines())
    assert until(lambda: not embedded.server.places.taken)
    assert until(lambda: engine._batch.rows == 0)


def test_a_long_cot_model_streams_its_revision_as_content(codec) -> None:  # type: ignore[no-untyped-def]
    said = "\\boxed{4}\n\nCheck: no\n[VERIFY] wrong.\n\nCorrected: \\boxed{5}\n\nCheck: yes\n[VERIFY] correct."
    engine = ScriptedEngine(lambda request, prompt: Reply(said, p_correct=0.3), codec)
    with serving(ModelSource(SelfCorrectModel(engine, codec, LoopSettings()), NAME)) as running:
        answer = running.chat("What is 2 + 3?").json()
        events = running.stream("What is 2 + 3?")
        response = running.client.post("/v1/responses", json={"model": NAME, "input": "What is 2 + 3?"}).json()
    message = answer["choices"][0]["message"]
    assert message["content"] == joined(events, "content") == "Corrected: \\boxed{5}"
    parts = ["\\boxed{4}", "Check: no\n[VERIFY] wrong.", "Check: yes\n[VERIFY] correct."]
    assert message["reasoning"] == joined(events, "reasoning") == "\n\n".join(parts)
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "reasoning"]


def test_the_command_serves_the_embedded_model() -> None:
    import httpx2

    command = [sys.executable, "-m", "selfcorrect", "serve", "embedded", "--port", "0", "--name", "small"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        said = next(line for line in lines if "http://" in line)
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert found, said
        asked = asking(QUESTIONS[0], model="small", stream=True)

        def answer() -> list[str]:
            try:
                return httpx2.post(f"{found[0]}/v1/chat/completions", json=asked, timeout=60).text.split("\n\n")
            except httpx2.ConnectError:
                return []

        assert until(lambda: bool(answer()), 30)
        events = answer()
        assert events[-2] == "data: [DONE]"
        assert json.loads(events[-3][6:])["selfcorrect"]["attempts"]
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
