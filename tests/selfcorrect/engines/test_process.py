"""`ProcessEngine` gives what the engine in this process gives, and its process ends with whoever started it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from multiprocessing import Pipe

import pytest

pytest.importorskip("torch", reason="comes with the extra train")

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import EngineRecipe, Sample, SampleRequest
from selfcorrect.engines.local.engine import TransformersEngine
from selfcorrect.engines.process import ProcessEngine
from selfcorrect.errors import EngineError, ModelError, RequestRefused
from tests.selfcorrect.engines.test_streams import check, parts_of, requests

RECIPE = EngineRecipe("embedded", threads=1, max_batch=8)


@pytest.fixture(scope="module")
def codec() -> ChatCodec:
    return ChatCodec.load("embedded")


@pytest.fixture(scope="module")
def engine() -> Iterator[ProcessEngine]:
    opened = ProcessEngine.start(RECIPE)
    yield opened
    asyncio.run(opened.close())  # a second time: the last test closes it


def test_streams_beside_samples_give_what_the_engine_in_this_process_gives(engine, codec: ChatCodec) -> None:
    asked = requests(codec, 12)  # more than the batch holds
    local = TransformersEngine.load("embedded", threads=1, max_batch=8)
    expected = local.sample_many(asked)
    asyncio.run(local.close())

    async def both() -> None:
        found = await asyncio.gather(
            *(parts_of(engine, request) for request in asked), *(engine.sample(request) for request in asked)
        )
        for parts, sample, there in zip(found[:12], found[12:], expected, strict=True):
            check(parts, parts[-1].sample)
            for one in (parts[-1].sample, sample):  # another batch rounds otherwise
                assert (one.token_ids, one.finish, one.stop_id) == (there.token_ids, there.finish, there.stop_id)
                assert one.logprobs == pytest.approx(there.logprobs, abs=1e-3)

    asyncio.run(both())
    assert (engine.name, engine.context) == (local.name, local.context)


def test_tokens_come_while_the_sample_is_under_way(engine, codec: ChatCodec) -> None:
    (request,) = requests(codec, 1)
    assert len(asyncio.run(parts_of(engine, request))) > 5  # a crowded machine joins some


def test_what_is_left_ends_in_the_engine(engine, codec: ChatCodec) -> None:
    """Eight rows are all that the batch holds: the last one would wait for those that were left, were they live."""
    long = SampleRequest(requests(codec, 1)[0].prompt_ids, 700)  # no end but its length

    async def leave() -> tuple[int, int]:
        tasks = [asyncio.create_task(engine.sample(long)) for _ in range(4)]
        for _ in range(4):
            async with aclosing(engine.stream(long)) as parts:
                async for _ in parts:
                    break
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tokens = 0
        async with aclosing(engine.stream(long)) as others:
            async for part in others:
                tokens += len(part.token_ids)
                if tokens > 20:
                    break
        return tokens, len(engine._asked)

    tokens, known = asyncio.run(leave())
    assert 20 < tokens < 700
    assert known == 0


def test_a_request_that_is_refused_there_is_refused_here(engine, codec: ChatCodec) -> None:
    (request,) = requests(codec, 1)
    for ask in (engine.sample, lambda one: parts_of(engine, one)):
        with pytest.raises(RequestRefused) as found:
            asyncio.run(ask(SampleRequest(request.prompt_ids * 50, 5)))
        assert found.value.outcome == "prompt-too-long"
    with pytest.raises(EngineError, match="TypeError"):  # nobody waits for an answer that never comes
        asyncio.run(engine.sample(SampleRequest(request.prompt_ids, 3, stop_texts=(3,))))  # type: ignore[arg-type]
    assert asyncio.run(engine.sample(SampleRequest(request.prompt_ids, 3))).finish == "length"


def test_what_cannot_be_loaded_is_said_as_without_the_process() -> None:
    with pytest.raises(ModelError, match="no/such/model"):
        ProcessEngine.start(EngineRecipe("./no/such/model"))


def test_a_process_that_dies_fails_what_is_under_way_and_whatever_is_asked_then(codec: ChatCodec) -> None:
    engine = ProcessEngine.start(RECIPE)
    request = SampleRequest(requests(codec, 1)[0].prompt_ids, 700)

    async def killed_under_way() -> list[object]:
        async def streamed() -> None:
            async for _ in engine.stream(request):
                engine.process.kill()

        return await asyncio.gather(engine.sample(request), streamed(), return_exceptions=True)

    assert engine.is_alive
    for error in asyncio.run(killed_under_way()):
        assert isinstance(error, EngineError)
        assert "killed by signal 9" in str(error)
    assert not engine.is_alive
    with pytest.raises(EngineError, match="killed by signal 9"):
        asyncio.run(engine.sample(request))
    asyncio.run(engine.close())


def test_much_at_once_in_both_directions_does_not_stop_the_two_processes() -> None:
    """Either end may have to wait until the other reads: ours reads whatever it is sending itself."""
    ours, theirs = Pipe()
    engine = ProcessEngine(subprocess.Popen(["sleep", "0"]), ours, "pipe", None)
    whole = Sample((5,) * 200_000, (-0.5,) * 200_000, "length")  # more than a line takes in unread
    large = SampleRequest((5,) * 200_000, 1)

    async def ask() -> list[Sample]:
        return await asyncio.gather(engine.sample(large), engine.sample(large))

    def say_much_and_then_read() -> None:
        theirs.recv()  # the first request; the second one waits until more is read
        for _ in range(3):
            theirs.send(([], [(99, whole)]))
        theirs.recv()
        theirs.send(([], [(0, whole), (1, whole)]))

    line = socket.socket(fileno=os.dup(theirs.fileno()))
    watch = threading.Timer(30, line.shutdown, [socket.SHUT_RDWR])
    watch.start()
    with line, theirs, ThreadPoolExecutor(1) as pool:
        said = pool.submit(say_much_and_then_read)
        assert asyncio.run(ask()) == [whole, whole]
        said.result()
        watch.cancel()
    asyncio.run(engine.close())


def test_what_cannot_be_read_fails_what_is_under_way() -> None:
    ours, theirs = Pipe()
    engine = ProcessEngine(subprocess.Popen(["sleep", "60"]), ours, "pipe", None)

    async def ask() -> Sample:
        asking = asyncio.create_task(engine.sample(SampleRequest((5,), 1)))
        await asyncio.to_thread(theirs.recv)
        theirs.send_bytes(b"no pickle")
        return await asyncio.wait_for(asking, 60)

    with pytest.raises(EngineError, match="the process of the engine pipe ended: it said what cannot be read"):
        asyncio.run(ask())
    assert not engine.is_alive
    asyncio.run(engine.close())
    assert engine.process.returncode == -signal.SIGKILL


def test_the_process_ends_when_the_one_that_started_it_is_gone() -> None:
    engine = ProcessEngine.start(RECIPE)
    with socket.socket(fileno=os.dup(engine._line.fileno())) as line:
        line.shutdown(socket.SHUT_WR)  # as when the other process is killed
    assert engine.process.wait(60) == 0
    asyncio.run(engine.close())


def test_closing_fails_what_is_under_way_and_twice_is_harmless(engine, codec: ChatCodec) -> None:
    request = SampleRequest(requests(codec, 1)[0].prompt_ids, 700)

    async def closed_under_way() -> None:
        async for _ in engine.stream(request):
            await engine.close()

    with pytest.raises(EngineError, match="closed"):
        asyncio.run(closed_under_way())
    assert engine.process.returncode == 0
    assert not engine.is_alive
