"""Streaming: events add up to the trajectory that `solve` returns, whatever the method, the text and the pieces."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.correction.events import (
    AttemptText,
    EvaluationText,
    Event,
    Final,
    Judged,
    RevisionText,
    Superseded,
)
from selfcorrect.correction.judges import Judge
from selfcorrect.correction.loop import LoopSettings, solve
from selfcorrect.correction.streaming import stream
from selfcorrect.engines import Engine, Sample, SamplePart, SampleRequest
from selfcorrect.engines.scripted import Reply, ScriptedEngine
from selfcorrect.errors import RequestRefused
from selfcorrect.types import Problem, SelfEvaluation, StopReason, Trajectory, Verdict
from selfcorrect.verdicts import MARKS

PROBLEM = Problem("p", "What is 2+2?", "4", "math")
WRONG, RIGHT = MARKS[Verdict.WRONG], MARKS[Verdict.CORRECT]
YES, NO = f"{prompts.SELF_QUESTION} Yes", f"{prompts.SELF_QUESTION} No"


def events_of(engine: Engine, codec: ChatCodec, settings: LoopSettings, judge: Judge | None = None) -> list[Event]:
    async def collect() -> list[Event]:
        return [event async for event in stream(PROBLEM, engine, codec, settings, 3, judge)]

    return asyncio.run(collect())


def check_adds_up(events: Sequence[Event]) -> Trajectory:
    """Check that the events say what the trajectory holds, in the order in which it was written; return it."""
    assert isinstance(events[-1], Final)
    trajectory = events[-1].trajectory
    said = {}
    for event in events[:-1]:
        if isinstance(event, AttemptText | RevisionText | EvaluationText):
            assert event.text
            assert "\ufffd" not in event.text
            assert isinstance(event, AttemptText) == (event.index == 0 and not isinstance(event, EvaluationText))
            kind = "evaluation" if isinstance(event, EvaluationText) else "attempt"
            said[kind, event.index] = said.get((kind, event.index), "") + event.text
    for kind, parts in (("attempt", trajectory.attempts), ("evaluation", trajectory.evaluations)):
        for index, part in enumerate(parts):
            assert said.pop((kind, index), "") == part.text.strip()
    assert not said
    judged = [event for event in events if isinstance(event, Judged)]
    assert judged == [Judged(i, e.verdict, e.p_correct) for i, e in enumerate(trajectory.evaluations)]
    superseded = [event.index for event in events if isinstance(event, Superseded)]
    assert superseded == list(range(len(trajectory.attempts) - 1))
    places = [_place(event) for event in events]
    assert places == sorted(places)
    assert (events[-1].answer, events[-1].text) == (trajectory.final.answer, trajectory.final.text)
    assert events[-1].stop is trajectory.stop
    return trajectory


def _place(event: Event) -> tuple[int, int]:
    if isinstance(event, Final):
        return 10**6, 0
    order = (AttemptText, RevisionText, EvaluationText, Judged, Superseded)
    return event.index, max(1, order.index(type(event)))


class Pieces(ScriptedEngine):
    """Streams in pieces of random sizes, or all at once."""

    def __init__(self, *arguments, longest: int, **settings) -> None:
        super().__init__(*arguments, **settings)
        self.longest, self.random = longest, random.Random(0)

    async def stream(self, request: SampleRequest):
        sample = await self.sample(request)
        start = 0
        while start < len(sample.token_ids):
            end = min(start + self.random.randint(1, self.longest), len(sample.token_ids))
            yield SamplePart(sample.token_ids[start:end], sample.watched[start:end], sample if end == start else None)
            start = end
        yield SamplePart((), (), sample)


B5, B4 = "Two and two: é√².\n\\boxed{5}", "Again.\n\\boxed{4}"
LONG_COTS = [
    f"{B5}\n\nCheck: 5 not ok\n{WRONG}\n\n{B4}",
    f"{B5}\n\nCheck: not ok\n{WRONG}\n\n{B4}\n\nLet me verify: ok\n{RIGHT}",
    f"{B4}\n\nok\n{RIGHT}",
    f"{B4}\n\nok\n{RIGHT} and then \\boxed{{9}}",
    B5,
    f"{B5}\n\nI wonder",
    f"{B5}\n\n[VERIFY] maybe.",
    f"{B5}\n\n[ verify ] correct\n{RIGHT}",
    f"{B5}\n\nCheck\n{WRONG}",
    f"{B5}\n\nCheck\n{WRONG}\n\n",
    f"{B5}\n{WRONG}\n{B4}",
    f"I add two and two.\n\nThat is four, I think.\n\nIs it? No.\n{WRONG}\n\n{B4}",
    f"Let me check what is asked.\n\nLet me verify the sum.\n\nSo \\boxed{{4}}.\n\nCheck: fine\n{RIGHT}",
    f"A draft \\boxed{{3}}\n\nno: \\boxed{{4}}, so it is.\n\nTo verify, add.\n{RIGHT}",
    f"Put it in \\boxed{{}}.\n\nSo \\boxed{{4}}.\n\nEvaluations differ.\n\nEvaluation: fine\n{RIGHT}",
    f"<think>perhaps \\boxed{{3}}?\n\nCheck: no</think>\n\nIt is \\boxed{{4}}.\n\nCheck <think>hm</think> ok\n{RIGHT}",
    f"  \n{B4}  \n\n  Check [VERIFY [VERIFY] not yet \n\n{RIGHT}  ",
    "",
    RIGHT,
    f"{WRONG}{WRONG}",
    "[VERIFY] wron",
]


@pytest.mark.parametrize("longest", [1, 3, 7, 1000])
@pytest.mark.parametrize("text", LONG_COTS)
@pytest.mark.parametrize("settings", [{}, {"one_pass": False}, {"stop": "argmax"}, {"stop": "never", "horizon": 3}])
def test_a_long_cot_is_divided_while_it_is_written(codec: ChatCodec, settings, text: str, longest: int) -> None:
    def script(request: SampleRequest, prompt: str) -> Reply:
        said = prompt.rpartition("<|assistant|>")[2]
        return Reply(text[len(said) :] if text.startswith(said) else "\n\nElse \\boxed{7}", p_correct=0.3)

    settings = LoopSettings("self-rewarding", **settings)
    events = events_of(Pieces(script, codec, longest=longest), codec, settings)
    whole = asyncio.run(solve(PROBLEM, ScriptedEngine(script, codec), codec, settings, 3))
    assert check_adds_up(events) == whole


@pytest.mark.parametrize("max_tokens", [4, 20, 31, 60, 90])
def test_a_long_cot_that_is_cut_anywhere(codec: ChatCodec, max_tokens: int) -> None:
    for text in LONG_COTS:
        settings = LoopSettings("self-rewarding", max_tokens=max_tokens)
        engine = ScriptedEngine(lambda request, prompt, text=text: text, codec)
        assert check_adds_up(events_of(engine, codec, settings)) == asyncio.run(
            solve(PROBLEM, engine, codec, settings, 3)
        )


class Fixed:
    """A judge that finds every attempt wrong."""

    async def judge(self, problem: Problem, attempt: str) -> SelfEvaluation:
        return SelfEvaluation("", Verdict.WRONG, 0.25)

    async def close(self) -> None:
        pass


CHATS = {
    "asked": ["\n2+2=5 é ", f"Check é\n{WRONG}", " 2+2=4\n", f"ok {RIGHT}"],
    "asked, no verdict": ["2+2=5", "I cannot tell."],
    "asked, empty revision": ["2+2=5", f"no {WRONG}", "", f"ok {RIGHT}"],
    "two-turn": [f"So 5. {NO}", f" So 4.\n\n{YES}"],
    "two-turn, asked twice": [f"So 5. {YES} Hm. {NO} "],
    "two-turn, not asked": ["  So 5. Is my most recent"],
    "intrinsic": ["5", "4"],
    "misleading": ["5", "4"],
    "judged": ["5", "4"],
    "single-turn": ["5 é"],
    "gold": ["So \\boxed{5}", "So \\boxed{4}"],
}


@pytest.mark.parametrize("stop", ["sampled", "threshold", "argmax", "never"])
@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("max_tokens", [12, 500])
def test_a_chat_is_told_message_by_message(codec: ChatCodec, name: str, stop: str, max_tokens: int) -> None:
    method = name.partition(",")[0]
    if stop != "sampled" and method not in ("asked", "two-turn"):
        return

    def script(request: SampleRequest, prompt: str) -> Reply:
        return Reply(CHATS[name][min(prompt.count("<|assistant|>") - 1, len(CHATS[name]) - 1)], p_correct=0.7)

    settings = LoopSettings(method, horizon=3, stop=stop, max_tokens=max_tokens)
    judge = Fixed() if method == "judged" else None
    engine = ScriptedEngine(script, codec)
    whole = asyncio.run(solve(PROBLEM, engine, codec, settings, 3, judge))
    assert check_adds_up(events_of(engine, codec, settings, judge)) == whole


def test_text_comes_while_it_is_written_and_the_verdict_before_the_revision(codec: ChatCodec) -> None:
    text = f"{B5}\n\nCheck: 5 not ok\n{WRONG}\n\n{B4}"
    engine = ScriptedEngine(lambda request, prompt: Reply(text, p_correct=0.25), codec)
    first: dict[type, int] = {}

    async def read() -> None:
        async for event in stream(PROBLEM, engine, codec, LoopSettings(), 0):
            first.setdefault(type(event), engine.streamed)

    asyncio.run(read())
    tokens = lambda part: len(codec.encode(text[: text.index(part) + len(part)]))
    assert first[AttemptText] == 1
    assert first[EvaluationText] == tokens("Check") + 1  # one character more says that it is no longer word
    assert first[Judged] == tokens(WRONG)
    assert first[Superseded] == first[RevisionText] == tokens(f"{WRONG}\n\nA")


def test_an_engine_that_does_not_stream_gives_whole_parts(codec: ChatCodec) -> None:
    class Whole(ScriptedEngine):
        streams = False
        stream = Engine.stream

    events = events_of(Whole(lambda request, prompt: f"{B5}\n\nCheck\n{WRONG}\n\n{B4}", codec), codec, LoopSettings())
    assert [type(event) for event in events] == [AttemptText, EvaluationText, Judged, Superseded, RevisionText, Final]


def test_closing_the_events_closes_the_stream_of_the_engine(codec: ChatCodec) -> None:
    closed = []

    class Watched(ScriptedEngine):
        async def stream(self, request: SampleRequest):
            try:
                async for part in super().stream(request):
                    yield part
            finally:
                closed.append(request)

    async def leave() -> None:
        engine = Watched(lambda request, prompt: B5, codec)
        async with aclosing(stream(PROBLEM, engine, codec, LoopSettings("asked"), 0)) as events:
            async for _ in events:
                break
        assert len(closed) == 1

    asyncio.run(leave())


def test_a_refusal_ends_the_trajectory_where_it_stands(codec: ChatCodec) -> None:
    class Refuses(ScriptedEngine):
        async def sample(self, request: SampleRequest) -> Sample:
            if self.requests:
                raise RequestRefused("no", "refused")
            return await super().sample(request)

    engine = Refuses(lambda request, prompt: "2+2=5", codec)
    trajectory = check_adds_up(events_of(engine, codec, LoopSettings("asked")))
    assert (trajectory.stop, trajectory.final.text) == (StopReason.REFUSED, "2+2=5")
