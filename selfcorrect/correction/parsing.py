"""Read what a model wrote as a trajectory: parts, marks, token positions, P(correct). Pure but for the codec."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.engines import Sample
from selfcorrect.grading import extract_answer
from selfcorrect.grading.thoughts import thought_spans
from selfcorrect.trajectory import TrajectoryBuilder
from selfcorrect.types import Attempt, Problem, Role, SelfEvaluation, StopReason, Trajectory, Verdict
from selfcorrect.verdicts import MARKS, YES_NO, has_mark, next_mark, parse_two_turn, parse_verdict


def parse_path(
    problem: Problem,
    codec: ChatCodec,
    prompt_ids: Sequence[int],
    sample: Sample,
    horizon: int,
    seed: int | None = None,
) -> Trajectory:
    """Read a long-CoT completion as a trajectory, cut at the first of: judged correct, horizon, missing mark.

    A part ends at its verdict mark. Within it the attempt ends where the self-evaluation begins (`_attempt_end`).
    The separator belongs to the part that it opens. Everything after the stop decision is dropped from the record,
    as the loop would never have sampled it. An attempt that the token budget cut answers only what it states.
    """
    text = codec.decode(sample.token_ids)
    attempts: list[Attempt] = []
    evaluations: list[SelfEvaluation] = []
    cuts: list[tuple[Role, int]] = []  # (role, end position in text)
    position, stop = 0, StopReason.UNKNOWN
    while stop is StopReason.UNKNOWN:
        mark = next_mark(text, position)
        attempt_end, part_end = part_at(text, position)
        attempt = text[position:attempt_end].strip()
        if attempts and not attempt:
            stop = StopReason.LENGTH if sample.finish == "length" else StopReason.NO_REVISION
            break
        cut = sample.finish == "length" and mark is None and not text[attempt_end:part_end].strip()
        attempts.append(Attempt(attempt, extract_answer(attempt, source=problem.source, cut=cut), cut=cut))
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
            stop = StopReason.VERDICT
        elif mark is None and sample.finish == "length":
            stop = StopReason.LENGTH
        elif last:
            stop = StopReason.HORIZON
        elif verdict is None:
            stop = StopReason.NO_VERDICT
        position = part_end
    return _record(problem, codec, tuple(prompt_ids), sample, seed, stop, attempts, evaluations, cuts)


def part_at(text: str, start: int) -> tuple[int, int]:
    """Return where the attempt ends that begins at ``start``, and where its self-evaluation does: at its mark."""
    mark = next_mark(text, start)
    end = mark.end() if mark else len(text)
    return _attempt_end(text, start, mark.start() if mark else end), end


def _record(
    problem: Problem,
    codec: ChatCodec,
    prompt_ids: tuple[int, ...],
    sample: Sample,
    seed: int | None,
    stop: StopReason,
    attempts: list[Attempt],
    evaluations: list[SelfEvaluation],
    cuts: list[tuple[Role, int]],
) -> Trajectory:
    builder = TrajectoryBuilder(problem, prompt_ids, seed)
    builder.attempts, builder.evaluations = attempts, evaluations
    ends = [(role, token_position(codec, sample.token_ids, end)) for role, end in cuts]
    take_message(builder, sample, ends)
    return builder.build(stop)


def take_message(
    builder: TrajectoryBuilder, sample: Sample, parts: Sequence[tuple[Role, int]], written: int | None = None
) -> None:
    """Append an assistant's message part by part, and its end where nothing else follows the last part.

    ``parts`` are roles with the token at which each ends. From token ``written`` on the message is not the policy's:
    a verdict that was decided otherwise.
    """
    start = 0
    for role, end in parts:
        end = max(start, end)
        own = end if written is None else min(max(start, written), end)
        if own > start or end == start:
            builder.take(role, sample.token_ids[start:own], sample.logprobs[start:own])
        if own < end:
            builder.take(role, sample.token_ids[own:end], sampled=False)
        start = end
    if start == len(sample.token_ids) and written is None and sample.finish == "stop":
        builder.end_message(sample.stop_id, sample.stop_logprob)


def read_attempt(text: str, source: str, cut: bool) -> Attempt:
    """Return an attempt with the answer found in it; ``cut`` where the token budget ended it in the middle."""
    return Attempt(text, extract_answer(text, source=source, cut=cut), cut=cut)


def parse_two_turn_message(
    codec: ChatCodec, sample: Sample, source: str, watch_ids: tuple[int, int]
) -> tuple[Attempt, SelfEvaluation | None, int]:
    """Return the attempt in a two-turn message, its self-evaluation, and the token at which the second begins.

    The self-evaluation begins with the (last) `prompts.SELF_QUESTION`. Without the question, or where the message was
    cut, there is none: all of the message is the attempt.
    """
    text = codec.decode(sample.token_ids)
    asks = text.rfind(prompts.SELF_QUESTION)
    if asks < 0 or sample.finish == "length":
        return read_attempt(text, source, sample.finish == "length"), None, len(sample.token_ids)
    attempt = text[:asks].rstrip()
    middle = token_position(codec, sample.token_ids, len(attempt))
    verdict = parse_two_turn(text)
    p_correct = verdict_probability(codec, sample, middle, len(sample.token_ids), watch_ids) if verdict else None
    return (
        read_attempt(attempt.strip(), source, cut=False),
        SelfEvaluation(text[asks:].strip(), verdict, p_correct),
        middle,
    )


_BOX = re.compile(r"\\f?boxed\s*\{")
_BRACE = re.compile(r"[{}]")
_OPENER = re.compile(
    r"\n\n\s*[*_#\s]*(?:\[\s*verify\s*\]|check|self-evaluation|verif|evaluation\b"
    r"|(?:now |so )?(?:let me|let us|let's|i will|i'll) "
    r"(?:now )?(?:re-?)?(?:check|verif|evaluat|review)|to verify\b)",
    re.IGNORECASE,
)
"""How a self-evaluation opens: the paragraph that `data_gen` writes, a mark (even a malformed one), and the wordings of
models that are asked."""


def _attempt_end(text: str, start: int, end: int) -> int:
    """Return where the attempt in ``text[start:end]`` ends and its self-evaluation begins; ``end`` is the mark.

    Boxes in thinking and empty boxes are passed over; thinking that is still open is all attempt. After the first box,
    a paragraph that opens a check begins the self-evaluation. Where none does, the attempt ends with the paragraph of
    its LAST box; a box in the paragraph of the mark belongs to the self-evaluation if an earlier one answers. Without a
    box the last paragraph judges.
    """
    thoughts = thought_spans(text, start, end)
    boxes = _boxes(text, start, end, thoughts)
    start = max([start, *(last for _, last, closed in thoughts if closed)])
    marked = has_mark(text[end : end + 12])
    if boxes:
        opener = _OPENER.search(text, boxes[0], end)
        if opener:
            boxes = [closed for closed in boxes if closed <= opener.start()]
        elif marked and len(boxes) > 1:
            last = text.rfind(prompts.SEPARATOR, start, end)
            boxes = [closed for closed in boxes if closed <= last] or boxes
        closed = boxes[-1]
        paragraph = text.find(prompts.SEPARATOR, closed, end)
        return opener.start() if opener else paragraph if paragraph >= 0 else closed if marked else end
    if end == len(text) or (thoughts and not thoughts[-1][2]):
        return end
    paragraph = text.rfind(prompts.SEPARATOR, start, end)
    return paragraph if paragraph > start else end


def attempt_so_far(text: str) -> tuple[int, bool]:
    """Return up to where a part under way is attempt, whatever follows, and whether its self-evaluation begins there.

    `_attempt_end` never ends an attempt earlier than it would if the mark stood right here: more text moves the last
    paragraph, the last box and the end of thinking to the right. It ends there for certain once a paragraph after the
    first box opens a check. Not foreseen: thinking that ends without having begun, which makes an attempt of it all.
    """
    end = len(text)
    boxes = _boxes(text, 0, end, thought_spans(text))
    opener = _OPENER.search(text, boxes[0]) if boxes else None
    if opener and opener.end() < end:
        return opener.start(), True
    return _attempt_end(text + MARKS[Verdict.WRONG], 0, end), False


def _boxes(text: str, start: int, end: int, thoughts: Sequence[tuple[int, int, bool]]) -> list[int]:
    """Return where each box ends that is whole, holds something and stands in no thinking."""
    boxes: list[int] = []
    for box in _BOX.finditer(text, start, end):
        closed = _closing_brace(text, box.end(), end)
        if any(first <= box.start() < last for first, last, _ in thoughts):
            continue
        if closed is not None and text[box.end() : closed - 1].strip() and (not boxes or closed > boxes[-1]):
            boxes.append(closed)
    return boxes


def _closing_brace(text: str, start: int, end: int) -> int | None:
    depth = 1
    for brace in _BRACE.finditer(text, start, end):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return brace.end()
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
