"""`stream`: drives the loop as `solve` does, and tells what is written while it is written (`events`).

What the model has written of a message is divided by the rules of `parsing`, as far as they are certain whatever
follows; the rest waits. When the message is whole, the loop reads it, and what it read is told to the end. So the
events add up to the trajectory, which is the one that `solve` returns.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing

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
from selfcorrect.correction.loop import LoopSettings, Turns, advance, require
from selfcorrect.correction.parsing import attempt_so_far, part_at, token_position, verdict_probability
from selfcorrect.engines import Engine, Sample, SamplePart, SampleRequest
from selfcorrect.errors import RequestRefused
from selfcorrect.types import Attempt, Problem, SelfEvaluation, Trajectory, Verdict
from selfcorrect.verdicts import before_mark, next_mark, parse_verdict


async def stream(
    problem: Problem,
    engine: Engine,
    codec: ChatCodec,
    settings: LoopSettings,
    seed: int,
    judge: Judge | None = None,
    opening: Sequence[int] | None = None,
) -> AsyncGenerator[Event, None]:
    """Give the events of one problem's trajectory, `Final` at last; the arguments and errors are those of `solve`.

    Closing the generator ends the work in the engine. A message that a server refuses in its middle leaves what was
    told of it; the trajectory then ends before it.
    """
    require(codec, settings, judge)
    turns, told = Turns(problem, codec, settings, seed, opening), _Told()
    loop = turns.steps()
    state = advance(loop)
    while not isinstance(state, Trajectory):
        answer: Sample | SelfEvaluation | RequestRefused | None = None
        try:
            if isinstance(state, SampleRequest):
                written, read = _Written(codec), _reader(turns, state, told)
                async with aclosing(engine.stream(state)) as parts:
                    async for part in parts:
                        answer = part.sample
                        if answer is None and written.add(part):
                            for event in read(written):
                                yield event
            else:
                assert judge is not None
                answer = await judge.judge(state.problem, state.attempt)
        except RequestRefused as refused:
            answer = refused
        state = advance(loop, answer)
        whole = (state.attempts, state.evaluations) if isinstance(state, Trajectory) else turns.parts
        for event in told.to_the_end(*whole):
            yield event
    yield Final(state.final.answer, state.final.text, state)


class _Told:
    """What was told of each part: each method gives the events of what is new."""

    def __init__(self) -> None:
        self._attempts: dict[int, str] = {}
        self._evaluations: dict[int, str] = {}
        self._judged = 0

    def attempt(self, index: int, text: str) -> Iterator[Event]:
        """``text``: what an attempt is up to here."""
        if index and text.strip():
            yield from self.superseded(index - 1)
        if new := _new(self._attempts, index, text):
            yield RevisionText(index, new) if index else AttemptText(index, new)

    def superseded(self, index: int) -> Iterator[Event]:
        """The next attempt has begun."""
        if index + 1 not in self._attempts:
            self._attempts[index + 1] = ""
            yield Superseded(index)

    def evaluation(self, index: int, text: str) -> Iterator[Event]:
        """``text``: what the self-evaluation of an attempt is up to here."""
        if new := _new(self._evaluations, index, text):
            yield EvaluationText(index, new)

    def judged(self, index: int, verdict: Verdict | None, p_correct: float | None) -> Iterator[Event]:
        """An attempt is judged; told once."""
        if self._judged == index:
            self._judged += 1
            yield Judged(index, verdict, p_correct)

    def to_the_end(self, attempts: Sequence[Attempt], evaluations: Sequence[SelfEvaluation]) -> Iterator[Event]:
        """These parts are whole."""
        for index, attempt in enumerate(attempts):
            if index:
                yield from self.superseded(index - 1)
            yield from self.attempt(index, attempt.text)
            if index < len(evaluations):
                evaluation = evaluations[index]
                yield from self.evaluation(index, evaluation.text)
                yield from self.judged(index, evaluation.verdict, evaluation.p_correct)


def _new(told: dict[int, str], index: int, text: str) -> str:
    """Return what a text adds to what was told of it, and note it; blanks at its end wait for what follows."""
    text, before = text.strip(), told.get(index, "")
    if len(text) <= len(before) or not text.startswith(before):
        return ""
    told[index] = text
    return text[len(before) :]


class _Written:
    """The text of a sample under way. Ids that end in the middle of a character wait for the next ones."""

    def __init__(self, codec: ChatCodec) -> None:
        self.codec = codec
        self.text = ""
        self._ids: list[int] = []
        self._watched: list[tuple[float, ...]] = []
        self._known = self._read = 0  # ids[:read] are text; ids[known:read] are decoded again, for what joins them

    def add(self, part: SamplePart) -> bool:
        """Take a part; return whether it brought text."""
        self._ids += part.token_ids
        self._watched += part.watched
        before, after = (self.codec.decode(self._ids[self._known : end]) for end in (self._read, len(self._ids)))
        if after.endswith("\ufffd") or len(after) <= len(before):
            return False
        self.text += after[len(before) :]
        self._known, self._read = self._read, len(self._ids)
        return True

    def p_correct(self, start: int, end: int) -> float | None:
        """Return P(correct) at the verdict in ``text[start:end]``."""
        sample = Sample(tuple(self._ids), (), "", watched=tuple(self._watched))
        first, last = (token_position(self.codec, sample.token_ids, place) for place in (start, end))
        return verdict_probability(self.codec, sample, first, last)


_Read = Callable[[_Written], Iterator[Event]]


def _reader(turns: Turns, request: SampleRequest, told: _Told) -> _Read:
    """Return what reads the message that a request asks for, while it is written."""
    settings, (attempts, evaluations) = turns.settings, turns.parts
    index = len(attempts)
    if settings.method == "self-rewarding":
        return _LongCot(turns, request, told).read
    if settings.method == "two-turn":
        return lambda written: told.attempt(index, _before(written.text, prompts.SELF_QUESTION))
    if settings.method == "asked" and len(evaluations) < len(attempts):
        certain = before_mark if settings.stop == "sampled" else _undecided
        return lambda written: told.evaluation(index - 1, certain(written.text))
    return lambda written: told.attempt(index, written.text)


def _before(text: str, ending: str) -> str:
    """Return a text up to where ``ending`` stands in it, or may begin at its end."""
    found = text.find(ending)
    if found >= 0:
        return text[:found]
    longest = next((n for n in range(min(len(ending), len(text)), 0, -1) if text.endswith(ending[:n])), 0)
    return text[: len(text) - longest]


def _undecided(text: str) -> str:
    """Return a self-evaluation up to its mark, which the stop decision may rewrite."""
    mark = next_mark(text)
    return text[: mark.start()] if mark else before_mark(text)


class _LongCot:
    """Reads a long-CoT completion, or what follows in it after a decision."""

    def __init__(self, turns: Turns, request: SampleRequest, told: _Told) -> None:
        self.told, self.horizon = told, turns.settings.horizon
        self.decided = turns.settings.stop != "sampled"
        opening = next(span.end for span in turns.path.spans)
        self._before = turns.codec.decode(request.prompt_ids[opening:])  # what was written before this request
        self._position, self._index, self._ended = 0, 0, False
        while mark := next_mark(self._before, self._position):
            self._position, self._index = mark.end(), self._index + 1

    def read(self, written: _Written) -> Iterator[Event]:
        """Tell what is certain: parts up to their marks, and of the last one what `attempt_so_far` says."""
        text = self._before + written.text
        while not self._ended and (mark := next_mark(text, self._position)):
            if self.decided:
                break
            yield from self._part(text, written, mark.end())
        if not self._ended:
            yield from self._under_way(_undecided(text[self._position :]))

    def _part(self, text: str, written: _Written, end: int) -> Iterator[Event]:
        """Tell a part that ends with its mark, and note whether the loop would go on after it."""
        start, index = self._position, self._index
        attempt_end, _ = part_at(text, start)
        evaluation = text[attempt_end:end].strip()
        if index and not text[start:attempt_end].strip():
            self._ended = True
            return
        verdict, shift = parse_verdict(evaluation), len(self._before)
        yield from self.told.attempt(index, text[start:attempt_end])
        yield from self.told.evaluation(index, evaluation)
        p_correct = written.p_correct(attempt_end - shift, end - shift) if verdict else None
        yield from self.told.judged(index, verdict, p_correct)
        self._position, self._index = end, index + 1
        self._ended = verdict is not Verdict.WRONG or self._index == self.horizon

    def _under_way(self, part: str) -> Iterator[Event]:
        attempt_end, ends = attempt_so_far(part)
        yield from self.told.attempt(self._index, part[:attempt_end])
        if ends:
            yield from self.told.evaluation(self._index, part[attempt_end:])
