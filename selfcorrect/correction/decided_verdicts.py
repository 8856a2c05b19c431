"""A decided verdict in place of the sampled one: tokens rewritten from the verdict on, spans that say so.

A path goes on from what was decided, so that nothing in it contradicts its next part; what was not sampled is marked
as such, and no loss can take it for the model's own words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.correction.parsing import token_position
from selfcorrect.engines import Sample
from selfcorrect.types import Span, Verdict
from selfcorrect.verdicts import YES_NO, next_mark


def with_mark(codec: ChatCodec, sample: Sample, verdict: Verdict) -> tuple[Sample, int]:
    """Return the sample with its last mark saying ``verdict``, and the first token that is not sampled."""
    text, marks = codec.decode(sample.token_ids), list[re.Match[str]]()
    while mark := next_mark(text, marks[-1].end() if marks else 0):
        marks.append(mark)
    return _rewritten(codec, sample, text, marks[-1].start(1), f"{verdict}.")


def with_answer(codec: ChatCodec, sample: Sample, verdict: Verdict) -> tuple[Sample, int]:
    """Return the two-turn message with its answer to `prompts.SELF_QUESTION` saying ``verdict``, as `with_mark`."""
    text = codec.decode(sample.token_ids)
    word = text.rindex(prompts.SELF_QUESTION) + len(prompts.SELF_QUESTION) + 1
    sampled = YES_NO[Verdict.WRONG if verdict is Verdict.CORRECT else Verdict.CORRECT]
    return _rewritten(codec, sample, text, word, YES_NO[verdict] + text[word + len(sampled) :])


def _rewritten(codec: ChatCodec, sample: Sample, text: str, word: int, ending: str) -> tuple[Sample, int]:
    """Return the sample with ``ending`` from position ``word`` of its text on, and the first token that is not sampled.

    P(correct) stays readable: the watched log-probabilities of the step that was rewritten stand for all of ``ending``.
    """
    start = token_position(codec, sample.token_ids, word)
    if len(before := codec.decode(sample.token_ids[:start])) > word:  # the token of " correct" begins with the space
        start -= 1
        before = codec.decode(sample.token_ids[:start])
    ids = codec.encode(text[len(before) : word] + ending)
    return replace(
        sample,
        token_ids=sample.token_ids[:start] + ids,
        logprobs=sample.logprobs[:start] + (0.0,) * len(ids),
        watched=sample.watched[:start] + sample.watched[start : start + 1] * len(ids),
    ), start


def and_then(sample: Sample, ids: tuple[int, ...]) -> Sample:
    """Return the sample with tokens after it that it did not sample."""
    unseen = (-math.inf,) * len(sample.watched[-1]) if sample.watched else ()
    return replace(
        sample,
        token_ids=sample.token_ids + ids,
        logprobs=sample.logprobs + (0.0,) * len(ids),
        watched=sample.watched + (unseen,) * len(ids) if sample.watched else (),
    )


def unsampled(spans: Sequence[Span], written: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    """Return the spans with the token ranges in ``written`` as spans of their own that are not sampled."""
    out: list[Span] = []
    for span in spans:
        inside = [(a, b) for a, b in written if span.start <= a and b <= span.end and span.sampled]
        position = span.start
        for start, end in inside:
            out += [replace(span, start=position, end=start)] if position < start else []
            out.append(replace(span, start=start, end=end, sampled=False))
            position = end
        if position < span.end or not inside:
            out.append(replace(span, start=position))
    return tuple(out)
