"""`Engine.stream`: the ids of its parts are those of the sample that `sample` returns, and leaving frees the engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from selfcorrect.engines import Engine, Sample, SamplePart, SampleRequest, sample_seed

pytest.importorskip("torch", reason="comes with the extra train")

from selfcorrect.chat import ChatCodec
from selfcorrect.engines.local.engine import TransformersEngine
from selfcorrect.errors import EngineError, RequestRefused
from selfcorrect.problems.arithmetic import problems
from selfcorrect.prompts import solve_messages
from selfcorrect.verdicts import MARKS


@pytest.fixture(scope="module")
def embedded() -> ChatCodec:
    return ChatCodec.load("embedded")


@pytest.fixture
def engine() -> Iterator[TransformersEngine]:
    opened = TransformersEngine.load("embedded", threads=1, max_batch=8)
    yield opened
    asyncio.run(opened.close())


def requests(codec: ChatCodec, n: int, max_tokens: int = 80) -> list[SampleRequest]:
    return [
        SampleRequest(
            codec.opening(solve_messages(problem.question)),
            max_tokens,
            seed=sample_seed("stream", place),
            temperature=1.0,
            stop_ids=codec.stop_ids,
            stop_texts=tuple(MARKS.values()) if place % 2 else (),
            watch_ids=codec.verdict_ids if place % 3 else (),
        )
        for place, problem in enumerate(problems("test", n, seed=0))
    ]


async def parts_of(engine: Engine, request: SampleRequest) -> list[SamplePart]:
    return [part async for part in engine.stream(request)]


def check(parts: list[SamplePart], sample: Sample) -> None:
    assert [part.sample for part in parts] == [None] * (len(parts) - 1) + [sample]
    assert sum((part.token_ids for part in parts), ()) == sample.token_ids
    assert sum((part.watched for part in parts), ()) == sample.watched
    for part in parts:
        assert len(part.watched) in (0, len(part.token_ids))


def test_streams_beside_samples_give_the_same_tokens_and_log_probabilities(engine, embedded: ChatCodec) -> None:
    asked = requests(embedded, 20)  # more than the batch holds
    alone = engine.sample_many(asked)

    async def both() -> None:
        found = await asyncio.gather(
            *(parts_of(engine, request) for request in asked), *(engine.sample(request) for request in asked)
        )
        for parts, sample, expected in zip(found[:20], found[20:], alone, strict=True):
            check(parts, parts[-1].sample)
            for one in (parts[-1].sample, sample):  # another batch rounds otherwise
                assert (one.token_ids, one.finish) == (expected.token_ids, expected.finish)
                assert one.logprobs == pytest.approx(expected.logprobs, abs=1e-3)

    asyncio.run(both())


def test_the_same_batch_gives_the_same_sample_to_the_last_bit(engine, embedded: ChatCodec) -> None:
    for request in requests(embedded, 4):
        engine.sample_many([request])  # the prompt is cached from here on
        check(asyncio.run(parts_of(engine, request)), engine.sample_many([request])[0])


def test_tokens_come_one_by_one(engine, embedded: ChatCodec) -> None:
    (request,) = requests(embedded, 1)
    parts = asyncio.run(parts_of(engine, request))
    assert len(parts) > len(parts[-1].sample.token_ids) / 2  # a crowded machine may join some


def test_a_reader_that_sleeps_gets_longer_parts_and_loses_nothing(engine, embedded: ChatCodec) -> None:
    (request,) = requests(embedded, 1)

    async def slowly() -> list[SamplePart]:
        parts = []
        async for part in engine.stream(request):
            parts.append(part)
            await asyncio.sleep(0.05)
        return parts

    parts = asyncio.run(slowly())
    check(parts, parts[-1].sample)
    assert parts[-1].sample.token_ids == engine.sample_many([request])[0].token_ids
    assert len(parts) < len(parts[-1].sample.token_ids)


def test_a_reader_that_leaves_frees_its_row(engine, embedded: ChatCodec) -> None:
    request = SampleRequest(requests(embedded, 1)[0].prompt_ids, 700)  # no end but its length
    steps = []
    step = engine._batch.step
    engine._batch.step = lambda: steps.append(len(engine._batch.live)) or step()

    async def leave() -> int:
        stays = asyncio.ensure_future(engine.sample(request))
        async with aclosing(engine.stream(request)) as parts:
            async for _ in parts:
                break
        left = len(steps)
        await stays
        return left

    left = asyncio.run(leave())
    assert len(steps) > left + 2, "the other one goes on"
    assert steps[-1] == 1
    assert steps[left:].count(2) < 100, "of 700: the reader's thread may wait for its turn"
    assert not engine._unanswered
    assert not engine._streamed


def test_rows_that_were_left_are_forgotten_while_others_go_on(engine, embedded: ChatCodec) -> None:
    request = SampleRequest(requests(embedded, 1)[0].prompt_ids, 90)

    async def leave() -> int:
        stays = asyncio.ensure_future(engine.sample(request))
        for _ in range(10):
            async with aclosing(engine.stream(request)) as parts:
                async for _ in parts:
                    break
        async for _ in engine.stream(SampleRequest(request.prompt_ids, 3)):
            pass
        known = len(engine._unanswered)
        await stays
        return known

    assert asyncio.run(leave()) <= 3


def test_threads_with_loops_of_their_own_stream_at_once(engine, embedded: ChatCodec) -> None:
    asked = requests(embedded, 8)
    expected = engine.sample_many(asked)
    found: dict[int, list[SamplePart]] = {}

    def work(place: int) -> None:
        found[place] = asyncio.run(parts_of(engine, asked[place]))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, sample in enumerate(expected):
        check(found[place], found[place][-1].sample)
        assert found[place][-1].sample.token_ids == sample.token_ids


def test_errors_reach_the_reader(engine, embedded: ChatCodec) -> None:
    (request,) = requests(embedded, 1)
    with pytest.raises(RequestRefused):
        asyncio.run(parts_of(engine, SampleRequest(request.prompt_ids * 50, 5)))

    async def closed_under_way() -> None:
        async for _ in engine.stream(request):
            await engine.close()

    with pytest.raises(EngineError, match="closed"):
        asyncio.run(closed_under_way())


def test_an_engine_that_does_not_stream_says_so_and_gives_one_part() -> None:
    class Whole(Engine):
        name = "whole"
        context = None

        async def sample(self, request: SampleRequest) -> Sample:
            return Sample((1, 2), (0.0, 0.0), "length")

        async def close(self) -> None:
            pass

    assert not Whole.streams
    check(asyncio.run(parts_of(Whole(), SampleRequest((1,), 2))), Sample((1, 2), (0.0, 0.0), "length"))
