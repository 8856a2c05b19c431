"""Thinking, counted apart: how many of a path's sampled tokens stand between ``<think>`` and ``</think>``."""

from __future__ import annotations

import re

from selfcorrect.parsing import token_position
from selfcorrect.tokens import ChatCodec
from selfcorrect.types import Role, Trajectory

_THINKING = re.compile(r"<think>(?P<thought>.*?)(?:</think>|\Z)", re.DOTALL)

_OPENING_TOKENS = 16
"""More tokens than ``<think>`` and a line break have: what an opening that begins the thinking ends with."""


def thinking_tokens(codec: ChatCodec, path: Trajectory) -> int:
    """Return how many tokens of a path's messages think, their marks included.

    Thinking that the opening begins counts from the first sampled token; thinking that nothing ends, to the end of its
    message.
    """
    text = codec.decode(path.token_ids)
    if "<think>" not in text and "</think>" not in text:
        return 0
    total = 0
    for start, end in _messages(path):
        opened = codec.decode(path.token_ids[max(0, start - _OPENING_TOKENS) : start]).rstrip().endswith("<think>")
        message = codec.decode(path.token_ids[start:end])
        begun = "<think>" if opened else ""
        for found in _THINKING.finditer(begun + message):
            first, last = (max(0, position - len(begun)) for position in found.span())
            ids = path.token_ids[start:end]
            total += token_position(codec, ids, last) - token_position(codec, ids, first)
    return total


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
