"""`selfcorrect serve` by clients as they are: openai, LiteLLM, curl, lm_eval, inspect_ai; fuzzed by its own schema."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

openai = pytest.importorskip("openai", reason="make test-doors")
litellm = pytest.importorskip("litellm", reason="make test-doors")

from tests.doors.scripted import problem_file  # noqa: E402
from tests.selfcorrect.serving.toy import NAME, WRONG_FIRST, Running, said, serving  # noqa: E402

KEY = "key-of-the-tests-1"
ASKED = [{"role": "user", "content": WRONG_FIRST}]
ANSWER, REASONING = said(3, 6), f"{said(3, 7)}\n\nCheck: 3. [VERIFY] wrong."


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(keys=[KEY]) as server:
        yield server


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def client(running: Running):  # type: ignore[no-untyped-def]
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0)


# --- openai


def test_openai_chat(client) -> None:  # type: ignore[no-untyped-def]
    assert [model.id for model in client.models.list()] == [NAME, f"{NAME}-first"]
    answer = client.chat.completions.create(model=NAME, messages=ASKED, extra_body={"selfcorrect": {"horizon": 2}})
    message = answer.choices[0].message
    assert (message.content, message.reasoning, message.reasoning_content) == (ANSWER, REASONING, REASONING)
    assert 0 < answer.usage.completion_tokens_details.reasoning_tokens < answer.usage.completion_tokens
    assert answer.selfcorrect["first_answer"] == "7"
    first = client.chat.completions.create(model=f"{NAME}-first", messages=ASKED)
    assert first.choices[0].message.content == said(3, 7)


def test_openai_stream(client) -> None:  # type: ignore[no-untyped-def]
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model=NAME, messages=ASKED, stream=True, stream_options=options))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == ANSWER
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == REASONING
    assert chunks[-1].usage.total_tokens > 0
    with client.chat.completions.stream(model=NAME, messages=ASKED) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == ANSWER


def test_openai_async(running: Running) -> None:
    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=KEY) as client:
            whole = await client.chat.completions.create(model=NAME, messages=ASKED)
            stream = await client.chat.completions.create(model=NAME, messages=ASKED, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
            return whole.choices[0].message.content, "".join(pieces)

    assert asyncio.run(ask()) == (ANSWER, ANSWER)


def test_openai_responses(client) -> None:  # type: ignore[no-untyped-def]
    answer = client.responses.create(model=NAME, input=WRONG_FIRST)
    assert answer.output_text == ANSWER
    assert answer.output[0].content[0].text == REASONING
    with client.responses.stream(model=NAME, input=ASKED) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == ANSWER
    assert kinds.count("response.output_text.delta") > 1
    again = client.responses.create(model=NAME, input=[*ASKED, *final.output, *ASKED])
    assert again.output_text == ANSWER


def test_openai_errors(client, running: Running) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="other", messages=ASKED)
    assert missing.value.request_id.startswith("req_")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="another", max_retries=0).models.list()
    with pytest.raises(openai.BadRequestError, match="not done here"):
        client.chat.completions.create(model=NAME, messages=ASKED, logprobs=True)
    late = [{"role": "user", "content": "break late: What is 2 + 2?"}]
    with pytest.raises(openai.APIError, match="the engine broke"):
        list(client.chat.completions.create(model=NAME, messages=late, stream=True))
    with pytest.raises(openai.APIStatusError, match="the engine broke"):
        client.chat.completions.create(model=NAME, messages=late)


# --- others


def test_litellm(running: Running) -> None:
    words = {"model": f"openai/{NAME}", "messages": ASKED, "api_base": f"{running.url}/v1", "api_key": KEY}
    message = litellm.completion(**words).choices[0].message
    assert (message.content, message.reasoning_content) == (ANSWER, REASONING)
    deltas = [chunk.choices[0].delta for chunk in litellm.completion(**words, stream=True)]
    assert "".join(delta.content or "" for delta in deltas) == ANSWER
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == REASONING


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
def test_curl(running: Running) -> None:
    def curl(body: object) -> str:
        words = ["curl", "-sSN", f"{running.url}/v1/chat/completions", "-H", f"Authorization: Bearer {KEY}"]
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout

    asked = {"model": NAME, "messages": ASKED}
    assert json.loads(curl(asked))["choices"][0]["message"]["content"] == ANSWER
    lines = [line for line in curl(asked | {"stream": True}).splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"


@pytest.mark.parametrize(("model", "final"), [(NAME, 1.0), (f"{NAME}-first", 0.6)])
def test_lm_eval(running: Running, tmp_path: Path, model: str, final: float) -> None:
    problem_file(tmp_path)
    address = f"{running.url}/v1/chat/completions"
    line = f"""lm_eval run --include_path "$(python -m selfcorrect.adapters.lm_eval)" --tasks selfcorrect_math \\
      --metadata '{{"problems": "problems.jsonl"}}' --model local-chat-completions --apply_chat_template \\
      --model_args model={model},base_url={address},num_concurrent=4 --output_path outputs"""
    ended = subprocess.run(
        ["bash", "-ec", line], env=os.environ | {"OPENAI_API_KEY": KEY}, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-3000:]
    (results,) = (tmp_path / "outputs").rglob("results_*.json")
    assert json.loads(results.read_text())["results"]["selfcorrect_math"]["final,none"] == pytest.approx(final)


@pytest.mark.parametrize("provider", ["openai", "openai-api/local"])
@pytest.mark.parametrize(("model", "right"), [(NAME, 5), (f"{NAME}-first", 3)])
def test_inspect_ai(running: Running, tmp_path: Path, provider: str, model: str, right: int) -> None:
    from inspect_ai import Task, eval  # noqa: A004
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import get_model
    from inspect_ai.solver import generate

    from selfcorrect.adapters.inspect_ai import final_answer

    rows = [json.loads(line) for line in problem_file(tmp_path).read_text().splitlines()]
    samples = [Sample(row["question"], target=row["answer"], id=row["id"]) for row in rows]
    opened = get_model(f"{provider}/{model}", base_url=f"{running.url}/v1", api_key=KEY)
    (log,) = eval(Task(MemoryDataset(samples), solver=generate(), scorer=final_answer()), model=opened)
    assert log.status == "success", log.error
    scores = [sample.scores["final_answer"].value for sample in log.samples]
    assert [score in ("C", 1) for score in scores].count(True) == right


def test_fuzzed_by_its_own_schema(running: Running, tmp_path: Path) -> None:
    """At least 1,000 requests: no 5xx, only documented answers, what breaks the schema is refused."""
    program = Path(sys.executable).with_name("st")
    words = [program, "run", f"{running.url}/v1/openapi.json", "-H", f"Authorization: Bearer {KEY}", "--seed", "1"]
    words += ["--phases", "coverage,fuzzing", "--max-examples", "100", "--continue-on-failure", "--no-color"]
    words += ["--exclude-checks", "positive_data_acceptance,ignored_auth"]  # the last message must be the user's
    ended = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-1000:]
    found = re.search(r"(\d+) generated", ended.stdout)
    assert found
    assert int(found[1]) >= 1000
    assert len(running.server.source.seen) > 100  # they reach the model
    assert running.server.places.taken == {}
    assert running.client.get("/health").status_code == 200
