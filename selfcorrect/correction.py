"""THE loop: attempt → self-evaluate → stop or revise, written against `Engine` and `ChatCodec`.

`solve` runs one problem by one method and returns its Trajectory (ungraded, except that the gold-verdict
baseline must look at the reference answer to decide). Many problems run at once: start many `solve` tasks,
the engine keeps its batch full and nothing waits for a turn to end everywhere.

| method | after an attempt | revision asked by |
| --- | --- | --- |
| ``self-rewarding`` | judges itself inside the same completion (long-CoT); the learned stop decision | itself |
| ``asked`` | judges itself when asked to (`prompts.EVALUATE`): the three-step base model | `prompts.REVISE` |
| ``two-turn`` | answers `prompts.SELF_QUESTION` at the end of its message | `prompts.two_turn_reply` |
| ``gold`` | the checker judges against the reference answer | `prompts.REVISE` |
| ``intrinsic`` | nobody judges; always revises (also STaR/RAFT) | `prompts.INTRINSIC` |
| ``misleading`` | nobody judges; always told that it was wrong (p c→i) | `prompts.REVISE` |
| ``single-turn`` | stops | – |
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from selfcorrect import prompts
from selfcorrect.engines import Engine, Sample, SampleRequest, sample_seed
from selfcorrect.grading import extract_answer, grade, grade_many
from selfcorrect.tokens import ChatCodec
from selfcorrect.types import Attempt, Problem, Role, SelfEvaluation, Span, Trajectory, Verdict
from selfcorrect.verdicts import MARKS, has_mark, next_mark, parse_two_turn, parse_verdict

Method = Literal["self-rewarding", "asked", "two-turn", "gold", "intrinsic", "misleading", "single-turn"]


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How the loop samples. ``max_tokens`` bounds one completion: a path in long-CoT, a message elsewhere."""

    method: Method = "self-rewarding"
    horizon: int = 2
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 1024
    one_pass: bool = True  # long-CoT: sample the path in one completion, or stop at each mark and continue


async def solve(problem: Problem, engine: Engine, codec: ChatCodec, settings: LoopSettings, seed: int) -> Trajectory:
    """Return the path of one problem. The same problem, settings and seed give the same path."""
    path = _Path(problem, codec, settings, seed, codec.opening(prompts.solve_messages(problem.question)))
    if settings.method == "self-rewarding":
        return await _long_cot(path, engine)
    return await _chat(path, engine)


async def _long_cot(path: _Path, engine: Engine) -> Trajectory:
    settings = path.settings
    if settings.one_pass:
        sample = await engine.sample(path.request())
        return parse_path(path.problem, path.codec, path.ids, sample, settings.horizon, seed=path.seed)
    prompt = path.ids
    whole = await engine.sample(path.request(stop_texts=tuple(MARKS.values())))
    while True:
        trajectory = parse_path(path.problem, path.codec, prompt, whole, settings.horizon, seed=path.seed)
        undecided = trajectory.stop == "no-revision" and whole.finish == "text"
        if not undecided or len(whole.token_ids) >= settings.max_tokens:
            return trajectory
        path.ids = prompt + whole.token_ids
        more = await engine.sample(
            path.request(stop_texts=tuple(MARKS.values()), budget=settings.max_tokens - len(whole.token_ids))
        )
        whole = replace(
            more,
            token_ids=whole.token_ids + more.token_ids,
            logprobs=whole.logprobs + more.logprobs,
            watched=whole.watched + more.watched,
        )


async def _chat(path: _Path, engine: Engine) -> Trajectory:
    method, horizon = path.settings.method, path.settings.horizon
    while True:
        sample = await engine.sample(path.request())
        path.take(sample, Role.REVISION if path.attempts else Role.ATTEMPT)
        text = path.codec.decode(sample.token_ids)
        path.attempts.append(Attempt(text, extract_answer(text, source=path.problem.source)))
        if sample.finish == "length":
            return path.end("length")
        if method == "two-turn":
            path.evaluations.append(SelfEvaluation("", parse_two_turn(text)))
        if method == "single-turn" or (method != "asked" and len(path.attempts) == horizon):
            return path.end("horizon" if method != "single-turn" else "end")
        if method == "gold" and grade(text, path.problem.gold, source=path.problem.source).correct:
            return path.end("end")
        if method == "asked":
            if len(path.attempts) == horizon:
                return path.end("horizon")
            path.say(prompts.EVALUATE)
            sample = await engine.sample(path.request(stop_texts=tuple(MARKS.values())))
            start = len(path.ids)
            path.take(sample, Role.EVALUATION)
            text = path.codec.decode(sample.token_ids)
            p_correct = verdict_probability(path.codec, sample, 0, len(path.ids) - start)
            path.evaluations.append(SelfEvaluation(text, parse_verdict(text), p_correct))
        if path.evaluations:
            verdict = path.evaluations[-1].verdict
            if verdict is None:
                return path.end("no-verdict")
            if verdict is Verdict.CORRECT:
                return path.end("verdict")
        path.say(
            prompts.INTRINSIC
            if method == "intrinsic"
            else prompts.two_turn_reply(Verdict.WRONG)
            if method == "two-turn"
            else prompts.REVISE
        )


class _Path:
    """A chat path that grows token by token: prompt, sampled messages, user messages between them."""

    def __init__(
        self, problem: Problem, codec: ChatCodec, settings: LoopSettings, seed: int, opening: tuple[int, ...]
    ) -> None:
        self.problem, self.codec, self.settings, self.seed = problem, codec, settings, seed
        self.ids = opening
        self.logprobs: tuple[float, ...] = (0.0,) * len(opening)
        self.spans: list[Span] = [Span(Role.EXTERNAL, 0, len(opening), sampled=False)]
        self.attempts: list[Attempt] = []
        self.evaluations: list[SelfEvaluation] = []

    def request(self, stop_texts: tuple[str, ...] = (), budget: int | None = None) -> SampleRequest:
        return SampleRequest(
            prompt_ids=self.ids,
            max_tokens=budget or self.settings.max_tokens,
            seed=sample_seed(self.seed, self.problem.id, len(self.ids)),  # methods share their first attempts
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            stop_ids=self.codec.stop_ids,
            stop_texts=stop_texts,
            watch_ids=self.codec.verdict_ids,
        )

    def take(self, sample: Sample, role: Role) -> None:
        self.spans.append(Span(role, len(self.ids), len(self.ids) + len(sample.token_ids)))
        self.ids += sample.token_ids
        self.logprobs += sample.logprobs

    def say(self, user: str) -> None:
        ids = self.codec.reply(user)
        self.spans.append(Span(Role.EXTERNAL, len(self.ids), len(self.ids) + len(ids), sampled=False))
        self.ids += ids
        self.logprobs += (0.0,) * len(ids)

    def end(self, stop: str) -> Trajectory:
        return Trajectory(
            problem=self.problem,
            attempts=tuple(self.attempts),
            evaluations=tuple(self.evaluations),
            stop=stop,
            token_ids=self.ids,
            logprobs=self.logprobs,
            spans=tuple(self.spans),
            seed=self.seed,
        )


def parse_path(
    problem: Problem,
    codec: ChatCodec,
    prompt_ids: Sequence[int],
    sample: Sample,
    horizon: int,
    seed: int | None = None,
) -> Trajectory:
    """Read a long-CoT completion as a trajectory, cut at the first of: judged correct, horizon, missing mark.

    A part ends at its verdict mark. Within it the attempt ends with the paragraph of its first complete
    ``\\boxed{}``, and the rest is the self-evaluation. The separator belongs to the part that it opens.
    Everything after the stop decision is dropped from the record, as the loop would never have sampled it.
    """
    text = codec.decode(sample.token_ids)
    attempts: list[Attempt] = []
    evaluations: list[SelfEvaluation] = []
    cuts: list[tuple[Role, int]] = []  # (role, end position in text)
    position, stop = 0, ""
    while not stop:
        mark = next_mark(text, position)
        part_end = mark.end() if mark else len(text)
        attempt_end = _attempt_end(text, position, mark.start() if mark else part_end)
        attempt = text[position:attempt_end].strip()
        if attempts and not attempt:
            stop = "length" if sample.finish == "length" else "no-revision"
            break
        attempts.append(Attempt(attempt, extract_answer(attempt, source=problem.source)))
        cuts.append((Role.REVISION if len(attempts) > 1 else Role.ATTEMPT, attempt_end))
        last = len(attempts) == horizon
        evaluation = text[attempt_end:part_end].strip()
        verdict = parse_verdict(evaluation) if mark else None
        if evaluation:
            p_correct = verdict_probability(
                codec,
                sample,
                token_position(codec, sample.token_ids, attempt_end),
                token_position(codec, sample.token_ids, part_end),
            )
            evaluations.append(SelfEvaluation(evaluation, verdict, p_correct if verdict else None))
            cuts.append((Role.EVALUATION, part_end))
        if verdict is Verdict.CORRECT:
            stop = "verdict"
        elif mark is None and sample.finish == "length":
            stop = "length"
        elif last:
            stop = "horizon"
        elif verdict is None:
            stop = "no-verdict"
        position = part_end
    return _record(problem, codec, tuple(prompt_ids), sample, seed, stop, attempts, evaluations, cuts)


def _record(
    problem: Problem,
    codec: ChatCodec,
    prompt_ids: tuple[int, ...],
    sample: Sample,
    seed: int | None,
    stop: str,
    attempts: list[Attempt],
    evaluations: list[SelfEvaluation],
    cuts: list[tuple[Role, int]],
) -> Trajectory:
    offset = len(prompt_ids)
    spans = [Span(Role.EXTERNAL, 0, offset, sampled=False)]
    for role, end in cuts:
        start = spans[-1].end
        spans.append(Span(role, start, max(start, offset + token_position(codec, sample.token_ids, end))))
    kept = spans[-1].end - offset
    return Trajectory(
        problem=problem,
        attempts=tuple(attempts),
        evaluations=tuple(evaluations),
        stop=stop,
        token_ids=prompt_ids + sample.token_ids[:kept],
        logprobs=(0.0,) * offset + sample.logprobs[:kept],
        spans=tuple(spans),
        seed=seed,
    )


_BOX = re.compile(r"\\f?boxed\s*\{")


def _attempt_end(text: str, start: int, end: int) -> int:
    """Return where the attempt in ``text[start:end]`` ends: with the paragraph of its first complete box."""
    box = _BOX.search(text, start, end)
    if box and (closed := _closing_brace(text, box.end(), end)) is not None:
        paragraph = text.find(prompts.SEPARATOR, closed, end)
        return paragraph if paragraph >= 0 else end if not has_mark(text[end : end + 12]) else closed
    if end == len(text):
        return end
    paragraph = text.rfind(prompts.SEPARATOR, start, end)
    return paragraph if paragraph > start else end


def _closing_brace(text: str, start: int, end: int) -> int | None:
    depth = 1
    for position in range(start, end):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position + 1
    return None


def token_position(codec: ChatCodec, ids: Sequence[int], end: int) -> int:
    """Return the least t such that ``decode(ids[:t])`` has at least ``end`` characters.

    A token that straddles a cut therefore belongs to the part before it.
    """
    lengths = codec.piece_lengths(ids)
    if lengths is not None:
        total = 0
        for count, length in enumerate(lengths):
            if total >= end:
                return count
            total += length
        return len(ids)
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(codec.decode(ids[:middle])) >= end:
            high = middle
        else:
            low = middle + 1
    return low


def verdict_probability(codec: ChatCodec, sample: Sample, start: int, end: int) -> float | None:
    """Return P(correct) / (P(correct) + P(wrong)) at the last verdict token of ``sample.token_ids[start:end]``."""
    for position in range(min(end, len(sample.watched)) - 1, start - 1, -1):
        if sample.token_ids[position] in codec.verdict_ids:
            correct, wrong = sample.watched[position]
            if math.isinf(correct) and math.isinf(wrong):
                return None
            return 1 / (1 + math.exp(min(wrong - correct, 700.0)))
    return None


def grade_trajectories(trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    """Return the trajectories with every attempt graded against its problem's reference answer."""
    ungraded = list(trajectories)
    by_source: dict[str, list[tuple[int, int]]] = {}
    for i, trajectory in enumerate(ungraded):
        for h in range(len(trajectory.attempts)):
            by_source.setdefault(trajectory.problem.source, []).append((i, h))
    graded = {i: list(trajectory.attempts) for i, trajectory in enumerate(ungraded)}
    for source, places in by_source.items():
        pairs = [(ungraded[i].attempts[h].text, ungraded[i].problem.gold) for i, h in places]
        for (i, h), result in zip(places, grade_many(pairs, source=source), strict=True):
            graded[i][h] = replace(graded[i][h], grade=result, answer=result.extracted)
    return [replace(trajectory, attempts=tuple(graded[i])) for i, trajectory in enumerate(ungraded)]
