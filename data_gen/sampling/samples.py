"""Single samples, each made once: `PartSampler` asks the engine, judges what came, and journals it under its identity.

Keys are ``<problem>/<index>`` with ``/evaluation/<j>``, ``/revision/<j>`` or ``/blind/<j>`` after it. A part that
stands in a journal is read, one that is on its way is awaited, and only what is neither is sampled: the seed is
derived from the key, so an interrupted run samples what an uninterrupted one would have sampled.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from selfcorrect.data_gen.classes import BaseSample, PartOutcome, SampledPart
from selfcorrect.data_gen.sampling.requests import Ids, RequestBuilder
from selfcorrect.engines import Engine, Sample, SampleRequest, sample_seed
from selfcorrect.errors import RequestRefused
from selfcorrect.prompts import SELF_QUESTION
from selfcorrect.runs.jsonl import Journal
from selfcorrect.types import Grade, Outcome, Problem, Verdict, to_json
from selfcorrect.verdicts import MARKS, has_mark, parse_verdict

REMEMBERED = 20_000
"""Parts kept in memory between the work ahead and the commit."""

STAGES = ("attempts", "evaluations", "revisions", "blind")

OUTCOMES = {
    Outcome.CORRECT: PartOutcome.CORRECT,
    Outcome.WRONG: PartOutcome.WRONG,
    Outcome.UNGRADABLE: PartOutcome.UNGRADABLE,
}


class GradeMany(Protocol):
    """Grades (response, reference answer) pairs of one problem set: `grading.grade_many`, or a test's own."""

    def __call__(
        self, pairs: Sequence[tuple[str, str]], *, source: str, tolerance: Sequence[str | None] | None
    ) -> Sequence[Grade]: ...


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How every part is sampled."""

    seed: int
    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class PromptedModel:
    """A model and what builds its prompts, with its own tokenizer and chat template."""

    engine: Engine
    builder: RequestBuilder


class PartSampler:
    """The samples of one run; a context manager that opens its journals ``<folder>/<stage>.jsonl``.

    A ``teacher`` writes the revisions in the model's place. It reads text and gives text, which is encoded with the
    model's own tokenizer: no token of it was sampled by the model that will learn it (`SampledPart.own`).
    ``seen`` is called with (stage, tokens) for each new sample; ``sampled`` and ``tokens`` count new samples by stage.
    """

    def __init__(
        self,
        folder: Path,
        model: PromptedModel,
        settings: SamplingSettings,
        grade: GradeMany,
        teacher: PromptedModel | None = None,
        seen: Callable[[str, int], None] = lambda stage, tokens: None,
    ) -> None:
        self.model, self.teacher, self.settings, self.seen = model, teacher, settings, seen
        self.journals = {stage: Journal(folder / f"{stage}.jsonl") for stage in STAGES}
        self.sampled: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self._grades = GradeQueue(grade)
        self._recent: dict[str, SampledPart] = {}
        self._under_way: dict[str, asyncio.Task[SampledPart]] = {}
        self._open = ExitStack()

    def __enter__(self) -> PartSampler:
        with ExitStack() as stack:
            for journal in self.journals.values():
                stack.enter_context(journal)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    async def attempt(self, base: BaseSample) -> SampledPart:
        """Return the first attempt of a base sample."""
        prompt = lambda: self.model.builder.attempt(base.problem.question)
        return await self._part("attempts", base.id, prompt, base.problem)

    async def evaluation(self, base: BaseSample, attempt: SampledPart, j: int) -> SampledPart:
        """Return the j-th self-evaluation; in-path, the first is what the attempt's sample went on with."""
        if self.model.builder.in_path and j == 0:
            text = self.model.builder.codec.decode(attempt.after)
            return SampledPart(f"{base.id}/evaluation/0", "evaluations", attempt.after, text, verdict=verdict_of(text))
        prompt = lambda: self.model.builder.evaluation(base.problem.question, attempt.token_ids)
        return await self._part("evaluations", f"{base.id}/evaluation/{j}", prompt)

    async def revision(
        self, base: BaseSample, attempt: SampledPart, evaluation: SampledPart | None, j: int
    ) -> SampledPart:
        """Return the j-th revision after a self-evaluation that says wrong; None: the verdict is stated."""
        prompt = lambda: self._revision_prompt(base, attempt, evaluation)
        return await self._part("revisions", f"{base.id}/revision/{j}", prompt, base.problem)

    async def unjudged_revision(self, base: BaseSample, attempt: SampledPart, j: int) -> SampledPart:
        """Return the j-th revision of an attempt that nobody judged."""
        prompt = lambda: self.model.builder.unjudged_revision(base.problem.question, attempt.token_ids)
        return await self._part("blind", f"{base.id}/blind/{j}", prompt, base.problem)

    def _revision_prompt(self, base: BaseSample, attempt: SampledPart, evaluation: SampledPart | None) -> Ids:
        builder = (self.teacher or self.model).builder
        ids = (lambda part: builder.codec.encode(part.text)) if self.teacher else (lambda part: part.token_ids)
        after = () if self.teacher else attempt.after
        verdict = ids(evaluation) if evaluation else builder.stated(Verdict.WRONG, after)
        return builder.revision(base.problem.question, ids(attempt), verdict)

    async def _part(
        self, stage: str, key: str, prompt: Callable[[], Ids], solves: Problem | None = None
    ) -> SampledPart:
        if key in self._recent:
            return self._recent[key]
        if key in self.journals[stage]:
            return self._remember(_read(stage, self.journals[stage].rows[key]))
        if key not in self._under_way:
            task = asyncio.ensure_future(self._sample(stage, key, prompt(), solves))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._under_way.pop(key, None))
        return await self._under_way[key]

    async def _sample(self, stage: str, key: str, prompt: Ids, solves: Problem | None) -> SampledPart:
        taught = self.teacher if stage == "revisions" else None
        model, settings = taught or self.model, self.settings
        codec = model.builder.codec
        request = SampleRequest(
            prompt_ids=prompt,
            max_tokens=settings.max_tokens,
            seed=sample_seed(settings.seed, stage, key),
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop_ids=codec.stop_ids,
            stop_texts=model.builder.stop_texts if solves else tuple(MARKS.values()),
            watch_ids=() if solves else codec.verdict_ids,
        )
        try:
            sample = await model.engine.sample(request)
        except RequestRefused as refused:
            row: dict[str, Any] = {
                "text": "",
                "finish": refused.outcome,
                "token_ids": [],
                "logprobs": [],
                "fate": refused.outcome,
            }
            return self._recorded(stage, key, row, tokens=0)
        ids, after = model.builder.cut(sample) if solves else (sample.token_ids, ())
        text = codec.decode(ids)
        own = {"token_ids": list(ids), "logprobs": [round(logprob, 5) for logprob in sample.logprobs[: len(ids)]]}
        row = {
            "text": text,
            "finish": sample.finish,
            **({"token_ids": list(self.model.builder.codec.encode(text)), "teacher": True} if taught else own),
        }
        if solves:
            finish = "stop" if sample.finish == "text" or after else sample.finish
            outcome, grade = await self._outcome(text, finish, solves)
            row |= {"fate": outcome, "grade": to_json(grade)} | ({"after": list(after)} if after else {})
        else:
            row |= {"verdict": verdict_of(text), "p_correct": p_correct(sample, codec.verdict_ids)}
        return self._recorded(stage, key, row, len(sample.token_ids))

    def _recorded(self, stage: str, key: str, row: dict[str, Any], tokens: int) -> SampledPart:
        """Return the part of a new sample, once it is in its journal and counted."""
        self.sampled[stage] += 1
        self.tokens[stage] += tokens
        self.seen(stage, tokens)
        return self._remember(_read(stage, self.journals[stage].append(key, row)))

    def _remember(self, part: SampledPart) -> SampledPart:
        """Keep a part for the commit that follows soon; older ones are read from the journal again."""
        self._recent[part.key] = part
        if len(self._recent) > REMEMBERED:
            del self._recent[next(iter(self._recent))]
        return part

    async def _outcome(self, text: str, finish: str, problem: Problem) -> tuple[PartOutcome, Grade | None]:
        if finish != "stop":
            return PartOutcome.CUT, None
        if has_mark(text) or SELF_QUESTION in text:
            return PartOutcome.MARKED, None
        grade = await self._grades.grade(text, problem)
        return OUTCOMES[grade.outcome], grade


def verdict_of(evaluation: str) -> Verdict | None:
    """Return the verdict of a self-evaluation that ends with its one well-formed mark, else None.

    A token that carries text past the mark would stand in the middle of the joined trajectory, so it does not count.
    """
    return parse_verdict(evaluation) if evaluation.endswith(tuple(MARKS.values())) else None


def p_correct(sample: Sample, verdict_ids: tuple[int, int]) -> float | None:
    """Return P(correct) / (P(correct) + P(wrong)) at the last verdict token, None where it cannot be told."""
    for token, watched in zip(reversed(sample.token_ids), reversed(sample.watched), strict=False):
        if token in verdict_ids and max(watched) > -math.inf:
            return round(1 / (1 + math.exp(min(watched[1] - watched[0], 700.0))), 5)
    return None


def _read(stage: str, row: dict[str, Any]) -> SampledPart:
    """Return the part that a journal row records; the row's key ``fate`` is the outcome."""
    outcome, verdict = row.get("fate"), row.get("verdict")
    return SampledPart(
        row["key"],
        stage,
        tuple(row["token_ids"]),
        row["text"],
        None if outcome is None else PartOutcome(outcome),
        None if verdict is None else Verdict(verdict),
        own=not row.get("teacher", False),
        after=tuple(row.get("after", ())),
    )


class GradeQueue:
    """Grades off the event loop: while one batch is with the grader, the next one gathers."""

    def __init__(self, grade: GradeMany) -> None:
        self._grade = grade
        self._waiting: list[tuple[str, Problem, asyncio.Future[Grade]]] = []
        self._worker: asyncio.Task[None] | None = None

    def grade(self, text: str, problem: Problem) -> Awaitable[Grade]:
        """Return the grade of a solution; an error of the grader is raised here."""
        future: asyncio.Future[Grade] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, problem, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._work())
        return future

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                for source in sorted({problem.source for _, problem, _ in batch}):
                    mine = [item for item in batch if item[1].source == source]
                    pairs = [(text, problem.gold) for text, problem, _ in mine]
                    tolerances = [problem.meta.get("tolerance") for _, problem, _ in mine]
                    grades = await asyncio.to_thread(self._grade, pairs, source=source, tolerance=tolerances)
                    for (_, _, future), grade in zip(mine, grades, strict=True):
                        if not future.done():
                            future.set_result(grade)
            except Exception as error:  # noqa: BLE001 - whatever it was, those who wait must learn of it
                for _, _, future in [*batch, *self._waiting]:
                    if not future.done():
                        future.set_exception(error)
                self._waiting.clear()
