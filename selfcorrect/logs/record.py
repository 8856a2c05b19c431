"""`Response` and `Log`: what every reader gives back, whichever tool wrote the log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfcorrect.types import Grade


@dataclass(frozen=True, slots=True)
class Response:
    """One response of a log, with its problem.

    ``id`` is the log's name of the problem, ``reference`` the reference answer as the log has it (empty: the log does
    not say), ``score`` what the log itself says of the response (None: nothing), ``repeat`` counts several responses to
    one problem, ``cut`` is True where the log says that the token limit ended it. ``grade`` is ours, where the log is
    our own and holds one.
    """

    id: str
    question: str
    reference: str
    text: str
    score: float | None = None
    repeat: int = 0
    cut: bool = False
    source: str = "math"
    grade: Grade | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Log:
    """The responses of one log. ``metric`` names the score that was read; ``dropped`` counts what was left out."""

    place: Path
    tool: str
    task: str
    model: str
    metric: str
    responses: tuple[Response, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name for tables: model and task, as far as the log tells them."""
        return " on ".join(part for part in (self.model, self.task) if part) or self.place.name


def number(value: Any) -> float | None:
    """Return a score as a number: true, ``C`` and 1 are 1.0, ``I`` and ``N`` 0.0, ``P`` 0.5; None for what is none."""
    if isinstance(value, (bool, int, float)):
        with suppress(OverflowError):
            return float(value) if math.isfinite(value) else None
        return None
    return {"C": 1.0, "CORRECT": 1.0, "I": 0.0, "INCORRECT": 0.0, "N": 0.0, "P": 0.5}.get(str(value).strip().upper())


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a JSON object, an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def text_of(content: Any) -> str:
    """Return the text of a message's content: text as it is, of a list its text parts, of anything else nothing."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    return ""


def question_of(messages: Any) -> str:
    """Return the last user message of a chat, or a prompt that is text."""
    if isinstance(messages, str):
        return messages
    if isinstance(messages, list):
        asked = [text_of(m.get("content")) for m in messages if isinstance(m, Mapping) and m.get("role") == "user"]
        return asked[-1] if asked else ""
    return ""
