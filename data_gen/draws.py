"""Single samples, each drawn once: `Draws` asks the engine, judges what came, and journals it under its identity.

Keys are ``<problem>/<index>`` with ``/evaluation/<j>``, ``/revision/<j>`` or ``/blind/<j>`` after it. A sample that
stands in a journal is read, one that is on its way is awaited, and only what is neither is drawn: the seed is
derived from the key, so an interrupted run draws what an uninterrupted one would have drawn.
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
from typing import Any

from selfcorrect.data_gen.asking import Asking, Ids
from selfcorrect.data_gen.selection import Base, Draw, Fate
from selfcorrect.engines import Engine, Sample, SampleRequest, sample_seed
from selfcorrect.errors import RequestRefused
from selfcorrect.jsonl import Journal
from selfcorrect.prompts import SELF_QUESTION
from selfcorrect.types import Grade, Outcome, Problem, Verdict, to_json
from selfcorrect.verdicts import MARKS, has_mark, parse_verdict

GradeMany = Callable[[Sequence[tuple[str, str]], str, Sequence[str | None]], Sequence[Grade]]
"""Grades (response, gold) pairs of one source: ``grade(pairs, source, tolerances)``, a tolerance or None a pair."""

REMEMBERED = 20_000
"""Draws kept in memory between the work ahead and the commit."""

STAGES = ("attempts", "evaluations", "revisions", "blind")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How every part is sampled."""

    seed: int
    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A model and how it is asked: with its own tokenizer and chat template."""

    engine: Engine
    asking: Asking


class Draws:
    """The samples of one run; a context manager that opens its journals ``<folder>/<stage>.jsonl``.

    A ``teacher`` writes the revisions in the model's place. It reads text and gives text, which is encoded with the
    model's own tokenizer: no token of it was sampled by the model that will learn it (`Draw.own`).
    ``seen`` is called with (stage, tokens) for each new sample; ``drawn`` and ``tokens`` count new samples by stage.
    """

    def __init__(
        self,
        folder: Path,
        model: Asked,
        sampling: Sampling,
        grade: GradeMany,
        teacher: Asked | None = None,
        seen: Callable[[str, int], None] = lambda stage, tokens: None,
    ) -> None:
        self.model, self.teacher, self.sampling, self.seen = model, teacher, sampling, seen
        self.journals = {stage: Journal(folder / f"{stage}.jsonl") for stage in STAGES}
        self.drawn: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self._grades = GradeQueue(grade)
        self._recent: dict[str, Draw] = {}
        self._under_way: dict[str, asyncio.Task[Draw]] = {}
        self._open = ExitStack()

    def __enter__(self) -> Draws:
        with ExitStack() as stack:
            for journal in self.journals.values():
                stack.enter_context(journal)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    async def attempt(self, base: Base) -> Draw:
        """Return the first attempt of a base sample."""
        prompt = lambda: self.model.asking.attempt(base.problem.question)
        return await self._draw("attempts", base.id, prompt, base.problem)

    async def evaluation(self, base: Base, attempt: Draw, j: int) -> Draw:
        """Return the j-th self-evaluation; in-path, the first is what the attempt's sample went on with."""
        if self.model.asking.in_path and j == 0:
            text = self.model.asking.codec.decode(attempt.after)
            return Draw(f"{base.id}/evaluation/0", "evaluations", attempt.after, text, verdict=verdict_of(text))
        prompt = lambda: self.model.asking.evaluation(base.problem.question, attempt.token_ids)
        return await self._draw("evaluations", f"{base.id}/evaluation/{j}", prompt)

    async def revision(self, base: Base, attempt: Draw, evaluation: Draw | None, j: int) -> Draw:
        """Return the j-th revision after a self-evaluation that says wrong; None: the verdict is stated."""
        return await self._draw(
            "revisions", f"{base.id}/revision/{j}", lambda: self._revise(base, attempt, evaluation), base.problem
        )

    async def blind_revision(self, base: Base, attempt: Draw, j: int) -> Draw:
        """Return the j-th revision of an attempt that nobody judged."""
        prompt = lambda: self.model.asking.blind_revision(base.problem.question, attempt.token_ids)
        return await self._draw("blind", f"{base.id}/blind/{j}", prompt, base.problem)

    def _revise(self, base: Base, attempt: Draw, evaluation: Draw | None) -> Ids:
        asking = (self.teacher or self.model).asking
        ids = (lambda draw: asking.codec.encode(draw.text)) if self.teacher else (lambda draw: draw.token_ids)
        after = () if self.teacher else attempt.after
        said = ids(evaluation) if evaluation else asking.stated(Verdict.WRONG, after)
        return asking.revision(base.problem.question, ids(attempt), said)

    async def _draw(self, stage: str, key: str, prompt: Callable[[], Ids], solves: Problem | None = None) -> Draw:
        if key in self._recent:
            return self._recent[key]
        if key in self.journals[stage]:
            return self._remember(_read(stage, self.journals[stage].rows[key]))
        if key not in self._under_way:
            task = asyncio.ensure_future(self._sample(stage, key, prompt(), solves))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._under_way.pop(key, None))
        return await self._under_way[key]

    async def _sample(self, stage: str, key: str, prompt: Ids, solves: Problem | None) -> Draw:
        taught = self.teacher if stage == "revisions" else None
        asked, settings = taught or self.model, self.sampling
        codec = asked.asking.codec
        request = SampleRequest(
            prompt_ids=prompt,
            max_tokens=settings.max_tokens,
            seed=sample_seed(settings.seed, stage, key),
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop_ids=codec.stop_ids,
            stop_texts=asked.asking.stop_texts if solves else tuple(MARKS.values()),
            watch_ids=() if solves else codec.verdict_ids,
        )
        try:
            sample = await asked.engine.sample(request)
        except RequestRefused as refused:
            row: dict[str, Any] = {
                "text": "",
                "finish": refused.outcome,
                "token_ids": [],
                "logprobs": [],
                "fate": refused.outcome,
            }
            return self._recorded(stage, key, row, tokens=0)
        ids, after = asked.asking.cut(sample) if solves else (sample.token_ids, ())
        text = codec.decode(ids)
        own = {"token_ids": list(ids), "logprobs": [round(logprob, 5) for logprob in sample.logprobs[: len(ids)]]}
        row = {
            "text": text,
            "finish": sample.finish,
            **({"token_ids": list(self.model.asking.codec.encode(text)), "teacher": True} if taught else own),
        }
        if solves:
            finish = "stop" if sample.finish == "text" or after else sample.finish
            fate, grade = await self._fate(text, finish, solves)
            row |= {"fate": fate, "grade": to_json(grade)} | ({"after": list(after)} if after else {})
        else:
            row |= {"verdict": verdict_of(text), "p_correct": p_correct(sample, codec.verdict_ids)}
        return self._recorded(stage, key, row, len(sample.token_ids))

    def _recorded(self, stage: str, key: str, row: dict[str, Any], tokens: int) -> Draw:
        """Return the draw of a new sample, once it is in its journal and counted."""
        self.drawn[stage] += 1
        self.tokens[stage] += tokens
        self.seen(stage, tokens)
        return self._remember(_read(stage, self.journals[stage].append(key, row)))

    def _remember(self, draw: Draw) -> Draw:
        """Keep a draw for the commit that follows soon; older ones are read from the journal again."""
        self._recent[draw.key] = draw
        if len(self._recent) > REMEMBERED:
            del self._recent[next(iter(self._recent))]
        return draw

    async def _fate(self, text: str, finish: str, problem: Problem) -> tuple[Fate, Grade | None]:
        if finish != "stop":
            return Fate.CUT, None
        if has_mark(text) or SELF_QUESTION in text:
            return Fate.MARKED, None
        grade = await self._grades.grade(text, problem)
        fates = {Outcome.CORRECT: Fate.RIGHT, Outcome.WRONG: Fate.WRONG, Outcome.UNGRADABLE: Fate.UNGRADABLE}
        return fates[grade.outcome], grade


def verdict_of(evaluation: str) -> Verdict | None:
    """Return the verdict of a self-evaluation that ends with its one well-formed mark, else None.

    A token that carries text past the mark would stand in the middle of the joined path, so it does not count.
    """
    return parse_verdict(evaluation) if evaluation.endswith(tuple(MARKS.values())) else None


def p_correct(sample: Sample, verdict_ids: tuple[int, int]) -> float | None:
    """Return P(correct) / (P(correct) + P(wrong)) at the last verdict token, None where it cannot be told."""
    for token, watched in zip(reversed(sample.token_ids), reversed(sample.watched), strict=False):
        if token in verdict_ids and max(watched) > -math.inf:
            return round(1 / (1 + math.exp(min(watched[1] - watched[0], 700.0))), 5)
    return None


def _read(stage: str, row: dict[str, Any]) -> Draw:
    fate, verdict = row.get("fate"), row.get("verdict")
    return Draw(
        row["key"],
        stage,
        tuple(row["token_ids"]),
        row["text"],
        None if fate is None else Fate(fate),
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
                    grades = await asyncio.to_thread(self._grade, pairs, source, tolerances)
                    for (_, _, future), grade in zip(mine, grades, strict=True):
                        if not future.done():
                            future.set_result(grade)
            except Exception as error:  # noqa: BLE001 - whatever it was, those who wait must learn of it
                for _, _, future in [*batch, *self._waiting]:
                    if not future.done():
                        future.set_exception(error)
                self._waiting.clear()
