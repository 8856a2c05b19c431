"""Hostile and broken servers: each fault has its name, is retried or given up as documented, and costs no memory."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import EngineRecipe, SampleRequest, open_engine, sample_seed
from selfcorrect.engines.scripted import ScriptedEngine
from selfcorrect.engines.server.client import OpenAIEngine
from selfcorrect.engines.server.faults import ServerFault, refusal
from selfcorrect.errors import EngineError, RecipeError, RequestRefused

spec = importlib.util.spec_from_file_location("odd_server", Path(__file__).with_name("server.py"))
assert spec
assert spec.loader
servers = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = servers
spec.loader.exec_module(servers)

DOCS = Path(__file__).parents[3] / "docs" / "engines.md"
MOST_ABOVE_START_MB = 300


def script(request: SampleRequest, prompt: str) -> str:
    return f"it is {request.seed % 97}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Any) -> str:
    path = tmp_path_factory.mktemp("odd")
    byte_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def saved_codec(folder: str) -> ChatCodec:
    return ChatCodec.load(folder)


def asked(codec: ChatCodec, n: int) -> list[SampleRequest]:
    prompt = codec.opening([{"role": "user", "content": "q?"}])
    return [
        SampleRequest(prompt, 60, seed=sample_seed("odd", i), stop_ids=codec.stop_ids, watch_ids=(65, 66))
        for i in range(n)
    ]


def connected(folder: str, *urls: str, **options: Any) -> OpenAIEngine:
    settings = {"backoff_s": 0.01, "silence_s": 20.0, "stall_s": 0.6, "total_s": 3.0} | options
    engine = open_engine(EngineRecipe(model=folder, kind="openai", endpoints=urls, options=settings))
    assert isinstance(engine, OpenAIEngine)
    return engine


@pytest.mark.parametrize("name", servers.ODD)
def test_an_odd_answer_has_its_name_and_harms_one_request_at_most(folder, saved_codec, name) -> None:
    """The first request is served; the second meets the fault; the third is served again, by the same engine."""
    fault, counted = servers.ODD[name]
    requests = asked(saved_codec, 3)
    wanted = [asyncio.run(ScriptedEngine(script, saved_codec).sample(request)) for request in requests]
    with servers.Server(saved_codec, script, servers.vllm, lambda n: fault if n == 1 else None) as server:
        engine = connected(folder, server.url)

        async def main() -> list[Any]:
            one = await engine.sample(requests[0])
            return [one, *await asyncio.gather(*map(engine.sample, requests[1:]), return_exceptions=True)]

        started = time.monotonic()
        one, *others = asyncio.run(main())
        took = time.monotonic() - started
        asyncio.run(engine.close())
    failed = [answer for answer in others if isinstance(answer, BaseException)]
    served = [one, *(answer for answer in others if not isinstance(answer, BaseException))]
    assert {sample.token_ids for sample in served} <= {sample.token_ids for sample in wanted}
    assert all(isinstance(error, EngineError) for error in failed), failed
    assert all(isinstance(error, RequestRefused) == (counted in ("refused", "prompt-too-long")) for error in failed)
    assert len(failed) == (0 if counted.startswith(("retries", "samples")) else 1)
    others_counted = {what: n for what, n in engine.counts.items() if what != "samples"}
    assert others_counted == ({} if counted == "samples" else {counted: 1})
    assert engine.counts["samples"] == len(served)
    assert took < 20


def test_the_documents_name_every_fault() -> None:
    text = DOCS.read_text(encoding="utf-8")
    names = {counted.split(": ")[-1] for _, counted in servers.ODD.values()} - {"samples"}
    names = {re.sub(r"HTTP .*", "HTTP", name) for name in names}
    assert not [name for name in sorted(names) if name not in text]


CLIENT = """
import asyncio, re, sys
from pathlib import Path
from selfcorrect.engines import EngineRecipe, SampleRequest, open_engine
from selfcorrect.errors import EngineError

folder, url, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
options = {"backoff_s": 0.01, "silence_s": 20.0, "stall_s": 1.0, "total_s": 5.0}
engine = open_engine(EngineRecipe(model=folder, kind="openai", endpoints=(url,), options=options))
prompt = engine.codec.opening([{"role": "user", "content": "q?"}])

async def main(n):
    requests = [SampleRequest(prompt, 60, seed=i, stop_ids=engine.codec.stop_ids) for i in range(n)]
    return await asyncio.gather(*map(engine.sample, requests), return_exceptions=True)

def megabytes(what):
    return int(re.search(what + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

asyncio.run(main(2))
Path("/proc/self/clear_refs").write_text("5")  # forget the peak of starting up
start = megabytes("VmRSS")
answers = asyncio.run(main(n))
asyncio.run(engine.close())
assert all(isinstance(answer, EngineError) or hasattr(answer, "token_ids") for answer in answers), answers
print(megabytes("VmHWM") - start)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc to measure memory")
def test_a_client_stays_small_whatever_servers_send(folder, saved_codec) -> None:
    """Every odd answer once, eight requests at a time, from a process of its own."""
    kinds = list(servers.ODD.values())
    faults = lambda n: kinds[n - 2][0] if 2 <= n < len(kinds) + 2 else None
    with servers.Server(saved_codec, script, servers.vllm, faults) as server:
        command = [sys.executable, "-c", CLIENT, folder, server.url, str(len(kinds))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(server.bodies) > len(kinds), "every fault was met"
    assert int(done.stdout) <= MOST_ABOVE_START_MB


@pytest.mark.parametrize(
    "listing",
    [
        *map(servers.status, (301, 401, 403, 404, 405, 500, 501)),
        servers.raw(b"<html>Welcome</html>"),
        servers.raw(b'{"object": "list"}'),
        servers.raw(b'{"data": null}'),
        servers.raw(b""),
    ],
)
def test_a_server_without_a_list_of_models_serves_the_one_that_is_named(folder, saved_codec, listing) -> None:
    with servers.Server(saved_codec, script, servers.vllm) as server:
        server.listing = listing
        with pytest.raises(EngineError, match=r"does not list its models .*name .* engine\.options\.served_model"):
            connected(folder, server.url)
        engine = connected(folder, server.url, served_model="toy")
        asyncio.run(engine.sample(asked(saved_codec, 1)[0]))
        asyncio.run(engine.close())
    assert server.bodies[0]["model"] == "toy"


@pytest.mark.parametrize(
    "listing",
    [
        servers.bomb(200),
        servers.endless(b"x" * (1 << 20), kind="application/json"),
        servers.endless(b" ", 0.01, kind="application/json"),
        servers.raw(b"[" * 200_000),
        servers.raw(b'{"data": 5}'),
        servers.raw(b'{"data": [' + b"9" * 6000 + b"]}"),
        servers.status(500),
    ],
)
def test_a_list_of_models_is_read_within_bounds(folder, saved_codec, listing) -> None:
    with servers.Server(saved_codec, script, servers.vllm) as server:
        server.listing = listing
        started = time.monotonic()
        with pytest.raises(EngineError, match=r"no endpoint (answers|says what it serves)"):
            connected(folder, server.url)
        assert time.monotonic() - started < 10


def test_hostile_numbers_in_a_list_of_models_are_no_context(folder, saved_codec) -> None:
    with servers.Server(saved_codec, script, servers.vllm) as server:
        for odd in (-5, True, 1e9, "4096", None, 0):
            server.listing = servers.listed({"id": "toy", "max_model_len": odd})
            engine = connected(folder, server.url)
            assert engine.context is None
            asyncio.run(engine.close())


def test_the_pause_that_a_server_asks_for_is_bounded() -> None:
    for said, rest_s in [("7", 7.0), ("9" * 400, 60.0), ("-1", None), ("soon", None), ("Wed, 21 Oct 2026", None)]:
        fault = refusal(503, "busy", said)
        assert isinstance(fault, ServerFault)
        assert fault.rest_s == rest_s


def test_cookies_are_not_kept(folder, saved_codec) -> None:
    with servers.Server(saved_codec, script, servers.vllm, lambda n: servers.with_cookies if n % 2 else None) as server:
        engine = connected(folder, server.url)
        for request in asked(saved_codec, 4):
            asyncio.run(engine.sample(request))
        asyncio.run(engine.close())
    assert len(server.headers) == 7, "three were asked again"
    assert not [headers for headers in server.headers if "Cookie" in headers]


# --- keys and passwords ----------------------------------------------------------------------------------------------

KEY = "sk-MARKEDKEY-0123456789abcdef"


def test_a_key_is_stripped_and_one_that_cannot_be_sent_is_refused_unseen(folder, saved_codec, monkeypatch) -> None:
    with servers.Server(saved_codec, script, servers.vllm) as server:
        for set_to in (f"{KEY}\n", f" {KEY}\r\n", f"\t{KEY}"):
            monkeypatch.setenv("OPENAI_API_KEY", set_to)
            engine = connected(folder, server.url)
            asyncio.run(engine.sample(asked(saved_codec, 1)[0]))
            asyncio.run(engine.close())
            assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
        for odd in (f"{KEY[:10]}\n{KEY[10:]}", f"{KEY}é", f"{KEY} x", f"{KEY}\x7f"):
            monkeypatch.setenv("OPENAI_API_KEY", odd)
            with pytest.raises(RecipeError, match="the API key in the environment variable OPENAI_API_KEY") as error:
                connected(folder, server.url)
            assert "MARKED" not in str(error.value)
        monkeypatch.setenv("OPENAI_API_KEY", " \n")
        engine = connected(folder, server.url)
        asyncio.run(engine.sample(asked(saved_codec, 1)[0]))
        asyncio.run(engine.close())
        assert "Authorization" not in server.headers[-1]


def test_a_server_that_sends_the_secrets_back_does_not_bring_them_into_messages(
    folder, saved_codec, monkeypatch, caplog
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    secrets = (KEY, "hunter22")
    echo = f"wrong key {KEY} of bob:hunter22 \x1b]0;title\x07"
    faults = [
        servers.status(401, message=echo),
        servers.status(500, message=echo),
        servers.status(400, message=echo),
        servers.raw(servers.event(echo)),
        servers.raw(f'data: {{"error": "{KEY} hunter22"}}\n\n'.encode()),
        servers.with_last(finish_reason=echo),
        servers.with_last(text=echo),
    ]
    for fault in faults:
        with servers.Server(saved_codec, script, servers.vllm, lambda n, fault=fault: fault) as server:
            engine = connected(folder, server.url.replace("http://", "http://bob:hunter22@"), retries=1)
            with pytest.raises(EngineError) as error:
                asyncio.run(engine.sample(asked(saved_codec, 1)[0]))
            asyncio.run(engine.close())
        whole = "".join(_told(error.value))
        assert not [secret for secret in secrets if secret in whole], whole
        assert "\x1b" not in str(error.value)
        assert "***" in str(error.value)
        assert server.headers[0]["Authorization"].startswith("Basic ")
    for url in ("ftp://bob:hunter22@h/v1", "http://bob:hunter22@127.0.0.1:9/v1"):
        with pytest.raises((EngineError, RecipeError)) as error:
            connected(folder, url)
        assert "hunter22" not in "".join(_told(error.value))
    assert "hunter22" not in caplog.text


def _told(error: BaseException) -> list[str]:
    """Return what a traceback of an error shows: its own text and its causes'."""
    import traceback

    return traceback.format_exception(error)
