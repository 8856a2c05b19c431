"""Read what a model wrote as a trajectory: parts, marks, token positions, P(correct). Pure but for the codec."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from selfcorrect import prompts
from selfcorrect.engines import Sample
from selfcorrect.grading import extract_answer
from selfcorrect.tokens import ChatCodec
from selfcorrect.types import Attempt, Problem, Role, SelfEvaluation, Span, Trajectory, Verdict
from selfcorrect.verdicts import YES_NO, has_mark, next_mark, parse_verdict


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


def yes_no_ids(codec: ChatCodec) -> tuple[int, int]:
    """Return the ids of the first token in which the two answers to `prompts.SELF_QUESTION` differ (Yes, No)."""
    yes, no = (
        codec.encode(f"{prompts.SELF_QUESTION} {YES_NO[verdict]}") for verdict in (Verdict.CORRECT, Verdict.WRONG)
    )
    return next((a, b) for a, b in zip(yes, no, strict=False) if a != b)


def verdict_probability(
    codec: ChatCodec, sample: Sample, start: int, end: int, ids: tuple[int, int] | None = None
) -> float | None:
    """Return P(correct) / (P(correct) + P(wrong)) at the last verdict token of ``sample.token_ids[start:end]``.

    ``ids`` are the tokens that say correct and wrong where they are not those of the mark (`yes_no_ids`).
    """
    for position in range(min(end, len(sample.watched)) - 1, start - 1, -1):
        if sample.token_ids[position] in (ids or codec.verdict_ids):
            correct, wrong = sample.watched[position]
            if math.isinf(correct) and math.isinf(wrong):
                return None
            return 1 / (1 + math.exp(min(wrong - correct, 700.0)))
    return None
