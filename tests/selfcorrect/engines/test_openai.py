"""The OpenAI-compatible engine against scripted servers on loopback: dialects, faults, refusals, sharing of work."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import logging
import math
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tokenizers.normalizers import Lowercase

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import (
    Engine,
    EngineRecipe,
    Sample,
    SamplePart,
    SampleRequest,
    open_engine,
    sample_all,
    sample_seed,
)
from selfcorrect.engines.scripted import ScriptedEngine
from selfcorrect.engines.server.client import OpenAIEngine
from selfcorrect.errors import EngineError, RecipeError, RequestRefused

spec = importlib.util.spec_from_file_location("engine_test_server", Path(__file__).with_name("server.py"))
assert spec
assert spec.loader
servers = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = servers
spec.loader.exec_module(servers)

A, B = 65, 66  # what the byte tokenizer's ids of watched tokens are does not matter


def script(request: SampleRequest, prompt: str) -> str:
    rng = random.Random(request.seed)
    mark = "[VERIFY] correct." if rng.random() < 0.5 else "[VERIFY] wrong."
    return f"So {rng.randrange(10**6)} = {prompt.count('q')}. {mark} And é{rng.randrange(100)}"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Any) -> str:
    path = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def saved_codec(folder: str) -> ChatCodec:
    return ChatCodec.load(folder)


def requests(codec: ChatCodec, n: int, **settings: Any) -> list[SampleRequest]:
    prompt = codec.opening([{"role": "user", "content": "q?"}])
    settings = {"max_tokens": 200, "stop_ids": codec.stop_ids, "temperature": 1.0} | settings
    return [SampleRequest(prompt, seed=sample_seed("openai", i), **settings) for i in range(n)]


def expected(codec: ChatCodec, asked: list[SampleRequest]) -> list[Sample]:
    return sample_all(ScriptedEngine(script, codec), asked)


@contextmanager
def opened(folder: str, *running: Any, max_batch: int = 64, **options: Any) -> Iterator[OpenAIEngine]:
    recipe = EngineRecipe(
        model=folder,
        kind="openai",
        endpoints=tuple(server.url for server in running),
        max_batch=max_batch,
        options={"backoff_s": 0.01, "silence_s": 20.0} | options,
    )
    engine = open_engine(recipe)
    assert isinstance(engine, OpenAIEngine)
    assert isinstance(engine, Engine)
    try:
        yield engine
    finally:
        asyncio.run(engine.close())


def same(got: list[Sample], wanted: list[Sample]) -> bool:
    return [(s.token_ids, s.finish, s.stop_id) for s in got] == [(s.token_ids, s.finish, s.stop_id) for s in wanted]


# --- what is sampled -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["vllm", "old_vllm", "llama_cpp"])
def test_ids_ends_and_scores_are_those_of_the_server(folder, saved_codec, dialect) -> None:
    asked = [
        *requests(saved_codec, 8),
        *requests(saved_codec, 8, max_tokens=7),
        *requests(saved_codec, 8, watch_ids=(A, B)),
        *requests(saved_codec, 8, stop_texts=("[VERIFY] correct.", "[VERIFY] wrong.")),
    ]
    with (
        servers.Server(saved_codec, script, getattr(servers, dialect)) as server,
        opened(folder, server, server_stops=dialect != "llama_cpp") as engine,
    ):
        samples = sample_all(engine, asked)
        again = sample_all(engine, asked[:5])
    assert same(samples, expected(saved_codec, asked))
    assert [sample.finish for sample in samples[::8]] == ["stop", "length", "stop", "text"]
    assert same(again, samples[:5]), "another event loop gets the same"
    for request, sample in zip(asked, samples, strict=True):
        assert sample.logprobs == tuple(servers._score(token) for token in sample.token_ids)
        assert sample.stop_logprob == (servers._score(sample.stop_id) if sample.stop_id is not None else 0.0)
        watched = ((servers._score(A), servers._score(B)),) * len(sample.token_ids)
        assert sample.watched == (watched if request.watch_ids else ())
    assert all(body["prompt"] == list(asked[0].prompt_ids) for body in server.bodies), "prompts are ids, as they are"
    assert {body["temperature"] for body in server.bodies} == {1.0}
    assert sum("stop" in body for body in server.bodies) == (0 if dialect == "llama_cpp" else 8)


def test_log_probabilities_at_other_temperatures_are_unknown_and_watched_ones_known(folder, saved_codec) -> None:
    (request,) = requests(saved_codec, 1, temperature=0.7, watch_ids=(A, B))
    with servers.Server(saved_codec, script, servers.vllm) as server, opened(folder, server) as engine:
        (sample,) = sample_all(engine, [request])
    assert set(sample.logprobs) == {-math.inf}
    assert sample.stop_logprob == -math.inf
    assert sample.watched[0] == (servers._score(A), servers._score(B))


def test_text_without_ids_is_refused_and_on_demand_re_tokenised_and_counted(folder, saved_codec, caplog) -> None:
    asked = [*requests(saved_codec, 4), *requests(saved_codec, 4, stop_texts=("[VERIFY] correct.", "[VERIFY] wrong."))]
    with (
        servers.Server(saved_codec, script, servers.text_only) as server,
        opened(folder, server) as engine,
        pytest.raises(EngineError, match="token_ids=retokenize"),
    ):
        sample_all(engine, asked)
    with (
        servers.Server(saved_codec, script, servers.text_only) as server,  # another: the first may still be reading
        opened(folder, server, token_ids="retokenize") as engine,
        caplog.at_level(logging.WARNING),
    ):
        samples = sample_all(engine, asked)
    assert same(samples, expected(saved_codec, asked)), "one byte, one token: here nothing is lost"
    assert engine.counts == {"samples": 8, "re-tokenised": 8}
    assert "8 of 8 samples were re-tokenised" in caplog.text
    assert {score for sample in samples for score in sample.logprobs} == {-math.inf}
    standard = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "stream"}
    assert all(set(body) == standard for body in server.bodies), "hosted servers refuse fields that they do not know"


def test_text_that_its_ids_do_not_give_back_is_refused(folder, saved_codec) -> None:
    normalising = ChatCodec(copy.deepcopy(saved_codec.tokenizer))
    normalising.tokenizer.backend_tokenizer.normalizer = Lowercase()
    with (
        servers.Server(saved_codec, script, servers.text_only) as server,
        opened(folder, server, token_ids="retokenize") as engine,
    ):
        engine.codec = normalising
        with pytest.raises(EngineError, match="cannot be re-tokenised without a change"):
            sample_all(engine, requests(saved_codec, 1))


# --- streams ---------------------------------------------------------------------------------------------------------


def streamed(engine: OpenAIEngine, asked: list[SampleRequest]) -> list[list[SamplePart]]:
    async def parts_of(request: SampleRequest) -> list[SamplePart]:
        return [part async for part in engine.stream(request)]

    async def gather() -> list[list[SamplePart]]:
        return list(await asyncio.gather(*map(parts_of, asked)))

    return asyncio.run(gather())


@pytest.mark.parametrize("dialect", ["vllm", "old_vllm", "llama_cpp", "text_only"])
def test_a_stream_gives_the_ids_of_the_sample_as_the_server_sends_them(folder, saved_codec, dialect) -> None:
    asked = [
        *requests(saved_codec, 4, watch_ids=(A, B)),
        *requests(saved_codec, 4, max_tokens=7),
        *requests(saved_codec, 4, stop_texts=("[VERIFY] correct.", "[VERIFY] wrong.")),
    ]
    options = {"token_ids": "retokenize"} if dialect == "text_only" else {"server_stops": dialect != "llama_cpp"}
    with (
        servers.Server(saved_codec, script, getattr(servers, dialect)) as server,
        opened(folder, server, **options) as engine,
    ):
        assert engine.streams == (dialect != "text_only")
        for parts in streamed(engine, asked[:2]):
            assert len(parts) in ((1,) if dialect == "text_only" else (2, 3))
        whole = sample_all(engine, asked)
        for parts, sample in zip(streamed(engine, asked), whole, strict=True):
            assert [part.sample for part in parts] == [None] * (len(parts) - 1) + [sample]
            assert sum((part.token_ids for part in parts), ()) == sample.token_ids
            assert sum((part.watched for part in parts), ()) == sample.watched
    assert {body.get("stream_interval") for body in server.bodies[:2]} == {None if dialect == "text_only" else 1}


def test_a_stream_that_was_cut_goes_on_where_the_new_one_begins_as_it_did(folder, saved_codec) -> None:
    (request,) = requests(saved_codec, 1)
    wanted = expected(saved_codec, [request])

    def begins(ids: list[int]) -> Any:
        event = {"choices": [{"text": saved_codec.decode(ids), "token_ids": ids, "finish_reason": None}]}

        def cut(handler: Any) -> None:
            handler.stream([event], whole=False)
            handler.close_connection = True
            handler.connection.close()

        return cut

    own = list(wanted[0].token_ids[:4])
    for ids, goes_on in ((own, True), ([A, A], False)):
        faults = lambda number, ids=ids: begins(ids) if number == 0 else None
        with servers.Server(saved_codec, script, servers.vllm, faults) as server, opened(folder, server) as engine:
            if not goes_on:
                with pytest.raises(EngineError, match="other tokens than those that it had begun with"):
                    streamed(engine, [request])
                continue
            (parts,) = streamed(engine, [request])
            assert parts[0].token_ids == tuple(own)
            assert same([parts[-1].sample], wanted)
            assert sum((part.token_ids for part in parts), ()) == wanted[0].token_ids


# --- what fails on the way -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", servers.FAULTS)
def test_a_failure_is_asked_again_and_the_sample_is_the_same(folder, saved_codec, fault) -> None:
    asked = requests(saved_codec, 3)
    faults = lambda number: servers.FAULTS[fault] if number < 2 else None
    silence_s = 0.5 if "silence" in fault else 20.0
    with (
        servers.Server(saved_codec, script, servers.vllm, faults) as server,
        opened(folder, server, silence_s=silence_s) as engine,
    ):
        samples = sample_all(engine, asked)
    assert same(samples, expected(saved_codec, asked))
    assert len(server.bodies) == 5
    assert sum(n for what, n in engine.counts.items() if what.startswith("retries")) == 2
    assert engine.counts["samples"] == 3


def test_many_random_failures_at_three_servers_lose_nothing(folder, saved_codec) -> None:
    asked = requests(saved_codec, 120, max_tokens=10)
    quick = [fault for name, fault in servers.FAULTS.items() if "silence" not in name]
    rng, lock = random.Random(0), threading.Lock()

    def faults(number: int) -> Any:
        with lock:
            return rng.choice(quick) if rng.random() < 0.3 else None

    with (
        servers.Server(saved_codec, script, servers.vllm, faults) as one,
        servers.Server(saved_codec, script, servers.old_vllm, faults) as two,
        servers.Server(saved_codec, script, servers.vllm) as three,
        opened(folder, one, two, three) as engine,
    ):
        samples = sample_all(engine, asked)
    assert same(samples, expected(saved_codec, asked))
    assert engine.counts["samples"] == 120
    assert all(endpoint.counts["samples"] > 10 for endpoint in engine.endpoints), "all of them work"
    failed = sum(n for what, n in engine.counts.items() if what.startswith("retries"))
    assert failed == sum(len(server.bodies) for server in (one, two, three)) - 120 > 10


def test_a_server_that_dies_leaves_its_work_to_the_other_and_joins_again(folder, saved_codec) -> None:
    asked = requests(saved_codec, 120, max_tokens=10)
    stopped = threading.Event()
    with servers.Server(saved_codec, script, servers.vllm, delay_s=0.01) as survivor:
        first = servers.Server(saved_codec, script, servers.vllm, lambda n: servers.hangs_up if n > 20 else None)
        port = first.server_address[1]
        with first, opened(folder, first, survivor, max_batch=8) as engine:

            async def main() -> list[Sample]:
                tasks = [asyncio.create_task(engine.sample(request)) for request in asked]
                while len(first.bodies) < 20:
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(first.__exit__)
                stopped.set()
                samples = await asyncio.gather(*tasks)
                with servers.Server(saved_codec, script, servers.vllm, port=port) as reborn:
                    deadline = asyncio.get_running_loop().time() + 20
                    while not reborn.bodies and asyncio.get_running_loop().time() < deadline:
                        await asyncio.gather(*(engine.sample(request) for request in asked[:10]))
                    assert reborn.bodies, "a server that is back is used again"
                return samples

            samples = asyncio.run(main())
    assert same(samples, expected(saved_codec, asked))


def test_giving_up_names_the_server_and_the_last_failure(folder, saved_codec) -> None:
    with (
        servers.Server(
            saved_codec, script, servers.vllm, lambda n: servers.status(500, message="CUDA error")
        ) as server,
        opened(folder, server, retries=3) as engine,
        pytest.raises(
            EngineError, match=r"gave up after 4 failures; http://127\.0\.0\.1:\d+/v1: HTTP 500: .*CUDA error"
        ),
    ):
        sample_all(engine, requests(saved_codec, 1))
    assert len(server.bodies) == 4


@pytest.mark.parametrize("refusal", [servers.status(400, message="bad seed"), servers.refused_in_the_stream])
def test_a_server_that_refuses_even_one_token_ends_the_run(folder, saved_codec, refusal) -> None:
    with (
        servers.Server(saved_codec, script, servers.vllm, lambda n: refusal) as server,
        opened(folder, server) as engine,
        pytest.raises(EngineError, match=r"refuses every request: .*HTTP 400\).*bad seed") as error,
    ):
        sample_all(engine, requests(saved_codec, 1))
    assert not isinstance(error.value, RequestRefused), "it is not the outcome of one problem"
    assert [len(body["prompt"]) for body in server.bodies] == [6, 1], "asked once, and one token after one token"


# --- servers that are not what they should be ------------------------------------------------------------------------


def answering(**fields: Any) -> Any:
    """A dialect that replaces fields of the last event's choice."""
    return lambda server, ids, sample, body: servers.vllm(server, ids, sample, body) | (fields if sample else {})


@pytest.mark.parametrize(
    ("dialect", "message"),
    [
        (answering(prompt_token_ids=[0, 0, 1]), "changed the prompt: sent .* tokens"),
        (answering(text="something else entirely"), "has another tokenizer"),
        (answering(token_ids=[A] * 500, text="", stop_reason=0), "asked for at most 200 tokens"),
        (answering(token_ids=[A, B], text="", stop_reason=None), "at none of the stop ids"),
        (answering(text="a" * 300_000), "does not end at max_tokens=200"),
        (answering(text="\ud800"), "not an answer of /v1/completions"),
        (answering(token_ids=["A"]), "a token id is a natural number"),
        (answering(token_ids=[-1]), "a token id is a natural number"),
        (answering(token_ids=[True]), "a token id is a natural number"),
        (answering(logprobs={"tokens": 3}), "not an answer of /v1/completions"),
        (lambda *_: "text", "not an answer of /v1/completions"),
    ],
)
def test_answers_that_cannot_be_trusted_are_errors(folder, saved_codec, dialect, message) -> None:
    with (
        servers.Server(saved_codec, script, dialect) as server,
        opened(folder, server) as engine,
        pytest.raises(EngineError, match=message),
    ):
        sample_all(engine, requests(saved_codec, 1))


def test_the_served_model_is_found_or_must_be_named(folder, saved_codec, monkeypatch) -> None:
    monkeypatch.setenv("TOY_KEY", "a-secret")
    with servers.Server(saved_codec, script, servers.vllm, models=("other", "toy")) as server:
        with pytest.raises(EngineError, match=r"serves other, toy; expected one model"), opened(folder, server):
            pass
        tiny = opened(folder, server, served_model="tiny")
        with pytest.raises(EngineError, match=r"serves other, toy; expected 'tiny'"), tiny:
            pass
        with opened(folder, server, served_model="toy", api_key_env="TOY_KEY", extra={"priority": 3}) as engine:
            sample_all(engine, requests(saved_codec, 1))
            assert engine.context == 4096
            with pytest.raises(EngineError, match="the context of openai:toy holds 4096"):
                sample_all(engine, requests(saved_codec, 1, max_tokens=5000))
    assert server.bodies[0]["model"] == "toy"
    assert server.bodies[0]["priority"] == 3
    assert server.headers[0]["Authorization"] == "Bearer a-secret"


def test_no_server_and_wrong_settings_are_named(folder, saved_codec) -> None:
    nobody = servers.Server(saved_codec, script, servers.vllm)
    nobody.server_close()
    message = r"no endpoint answers:\nhttp://127\.0\.0\.1:\d+/v1/models: ConnectError"
    with pytest.raises(EngineError, match=message), opened(folder, nobody):
        pass
    for settings, message in [
        ({"options": {"token_id": "required"}}, 'did you mean "token_ids"'),
        ({"options": {"token_ids": "guess"}}, "expected required or retokenize"),
        ({"options": {"silence_s": 0}}, "silence_s, stall_s and total_s positive"),
        ({"endpoints": ()}, "expected URLs like"),
        ({"endpoints": ("localhost:8000",)}, "expected URLs like"),
    ]:
        values = {"model": folder, "kind": "openai", "endpoints": (nobody.url,)} | settings
        with pytest.raises(RecipeError, match=message):
            open_engine(EngineRecipe(**values))


# --- how much at once ------------------------------------------------------------------------------------------------


def test_a_server_gets_more_while_it_answers_and_never_more_than_allowed(folder, saved_codec) -> None:
    asked = requests(saved_codec, 120, max_tokens=10)
    with (
        servers.Server(saved_codec, script, servers.vllm, delay_s=0.02) as server,
        opened(folder, server, max_batch=24) as engine,
    ):
        sample_all(engine, asked)
    assert engine.endpoints[0].limit == 24
    assert server.most_under_way <= 24


def test_a_slow_server_is_given_little_and_holds_nobody_up(folder, saved_codec) -> None:
    """It has its first 8 requests at once and then one for each answer; half of 400 would take it 25 answers of 3 s."""
    asked = requests(saved_codec, 400, max_tokens=10)
    with (
        servers.Server(saved_codec, script, servers.vllm, delay_s=3.0) as slow,
        servers.Server(saved_codec, script, servers.vllm, delay_s=0.01) as quick,
        opened(folder, slow, quick, max_batch=16) as engine,
    ):
        started = time.monotonic()
        samples = sample_all(engine, asked)
        rounds = 1 + int((time.monotonic() - started) / 3.0)
    assert same(samples, expected(saved_codec, asked))
    assert len(slow.bodies) <= 8 + 16 * (rounds - 1)
    assert 3 * len(slow.bodies) < len(quick.bodies)


def test_an_overloaded_server_gets_less_and_all_is_served(folder, saved_codec) -> None:
    asked = requests(saved_codec, 120, max_tokens=10)
    server = servers.Server(saved_codec, script, servers.vllm, delay_s=0.01)
    server.faults = lambda number: servers.status(429) if server.under_way > 6 else None
    with server, opened(folder, server, max_batch=128) as engine:
        samples = sample_all(engine, asked)
    assert same(samples, expected(saved_codec, asked))
    assert engine.endpoints[0].limit < 16
    assert engine.counts["retries: HTTP 429"] < 100, "a server that says no is not asked at once again"


def test_cancelled_tasks_leave_their_places_and_closing_fails_the_rest(folder, saved_codec) -> None:
    asked = requests(saved_codec, 40)
    with (
        servers.Server(saved_codec, script, servers.vllm, delay_s=0.1) as server,
        opened(folder, server, max_batch=4) as engine,
    ):

        async def main() -> list[Any]:
            tasks = [asyncio.create_task(engine.sample(request)) for request in asked]
            await asyncio.sleep(0.03)
            for task in tasks[:36]:
                task.cancel()
            kept = await asyncio.gather(*tasks[36:])
            rest = [asyncio.create_task(engine.sample(request)) for request in asked[:8]]
            await asyncio.sleep(0.03)
            await engine.close()
            return [*kept, *await asyncio.gather(*rest, return_exceptions=True)]

        *kept, a, b, c, d, e, f, g, h = asyncio.run(main())
    assert same(kept, expected(saved_codec, asked[36:]))
    assert {type(error) for error in (a, b, c, d, e, f, g, h)} == {EngineError}
    assert engine.endpoints[0].under_way == 0
    assert len(server.bodies) < 20, "what was cancelled while it waited was never asked"
    with pytest.raises(EngineError, match="is closed"):
        sample_all(engine, asked[:1])
