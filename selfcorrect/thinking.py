"""Thinking, counted apart: how many of a path's sampled tokens stand between the marks of `grading.thoughts`."""

from __future__ import annotations

from selfcorrect.chat import ChatCodec
from selfcorrect.correction.parsing import token_position
from selfcorrect.grading.thoughts import MARK, closes, thought_spans
from selfcorrect.types import Role, Trajectory

_OPENING_TOKENS = 16
"""More tokens than ``<think>`` and a line break have: what an opening that begins the thinking ends with."""


def thinking_tokens(codec: ChatCodec, path: Trajectory) -> int:
    """Return how many tokens of a path's messages think, their marks included.

    Thinking that the opening begins counts from the first sampled token; thinking that nothing ends, to the end of its
    message.
    """
    text = codec.decode(path.token_ids)
    if not MARK.search(text):
        return 0
    total = 0
    for start, end in _messages(path):
        begun = _opening_mark(codec.decode(path.token_ids[max(0, start - _OPENING_TOKENS) : start]).rstrip())
        message = codec.decode(path.token_ids[start:end])
        for span in thought_spans(begun + message, opened_before=False):
            first, last = (max(0, position - len(begun)) for position in span[:2])
            ids = path.token_ids[start:end]
            total += token_position(codec, ids, last) - token_position(codec, ids, first)
    return total


def _opening_mark(opening: str) -> str:
    """Return the mark of thinking that a message's opening ends with, else nothing."""
    marks = [mark for mark in MARK.finditer(opening) if mark.end() == len(opening) and not closes(mark)]
    return marks[-1].group() if marks else ""


def _messages(path: Trajectory) -> list[tuple[int, int]]:
    """Return the token ranges of a path's assistant messages: what the spans of users leave, joined."""
    ranges: list[tuple[int, int]] = []
    for span in path.spans:
        if span.role is Role.EXTERNAL:
            continue
        if ranges and ranges[-1][1] == span.start:
            ranges[-1] = (ranges[-1][0], span.end)
        else:
            ranges.append((span.start, span.end))
    return ranges
