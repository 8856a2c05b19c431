"""Text that reads like control tokens stays text: a question with ``<|im_end|>`` in it does not end its own turn.

A chat template writes control tokens as text, and a tokenizer reads them out of all of the rendered chat, whoever wrote
it. So a mark is put after the first character of every control string in a message's content before the template sees
it; the rendered chat is cut at the marks, and its pieces, in which no such string is whole, are encoded one by one. A
chat without such text is rendered and encoded as it is, token for token as before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from selfcorrect.types import Message

_BRACKETED = re.compile(r"[<\[{｜|].*[>\]}｜|]", re.DOTALL)
_MARKS = tuple(map(chr, range(0xE000, 0xF8FF)))
"""Private-use characters: no text in a language has them."""


def control_pattern(tokenizer: Any, special_alone: bool = False) -> re.Pattern[str]:
    """Return what finds every place where a control string of a tokenizer begins.

    Control strings are its special tokens and the added tokens in brackets (``<think>``, ``<｜User｜>``); runs of
    blanks and words that were added to a vocabulary are none. ``special_alone``: not those in brackets, for what an
    assistant says, whose own the thinking marks are.
    """
    added = tokenizer.added_tokens_decoder.values()
    found = {str(token.content) for token in added if token.special}
    if not special_alone:
        found |= {str(token.content) for token in added if _BRACKETED.fullmatch(token.content)}
    found |= set(tokenizer.all_special_tokens)
    texts = sorted((text for text in found if len(text) > 1), key=len, reverse=True)
    return re.compile(f"(?={'|'.join(map(re.escape, texts))})" if texts else r"(?!)")


def apart(
    messages: Sequence[Message], of_others: re.Pattern[str], of_assistant: re.Pattern[str]
) -> tuple[list[Message], str]:
    """Return the messages with control strings cut by a mark, and the mark; an empty mark where there are none."""
    patterns = [of_assistant if message["role"] == "assistant" else of_others for message in messages]
    if not any(pattern.search(message["content"]) for pattern, message in zip(patterns, messages, strict=True)):
        return list(messages), ""
    said = "".join(message["content"] for message in messages)
    mark = next(mark for mark in _MARKS if mark not in said)
    return [
        {**message, "content": _cut(message["content"], pattern, mark)}
        for pattern, message in zip(patterns, messages, strict=True)
    ], mark


def _cut(text: str, pattern: re.Pattern[str], mark: str) -> str:
    starts = [found.start() + 1 for found in pattern.finditer(text)]
    return mark.join(text[start:end] for start, end in zip([0, *starts], [*starts, len(text)], strict=True))
