"""Write and read the verdict mark: ``[VERIFY] correct.`` / ``[VERIFY] wrong.`` (method.md, section 1).

Reading is strict: exactly one well-formed mark is a verdict, none or several is ``None``. The two-turn
chat format carries the verdict as the answer to ``prompts.SELF_QUESTION`` instead.
"""

from __future__ import annotations

import re

from selfcorrect.prompts import SELF_QUESTION
from selfcorrect.types import Verdict

PREFIX = "[VERIFY] "
MARKS = {verdict: f"{PREFIX}{verdict}." for verdict in Verdict}
YES_NO = {Verdict.CORRECT: "Yes", Verdict.WRONG: "No"}

_LONGEST = max(map(len, MARKS.values()))
_MARK = re.compile(r"\[VERIFY\] (correct|wrong)\.")
_ANY_MARK = re.compile(r"\[\s*verify\s*\]", re.IGNORECASE)
_ANSWER = re.compile(re.escape(SELF_QUESTION) + r" (Yes|No)\b")


def parse_verdict(evaluation: str) -> Verdict | None:
    """Return the verdict of a self-evaluation that holds exactly one mark, well-formed; else None."""
    marks = _MARK.findall(evaluation)
    if len(marks) != 1 or len(_ANY_MARK.findall(evaluation)) != 1:
        return None
    return Verdict(marks[0])


def next_mark(text: str, start: int = 0) -> re.Match[str] | None:
    """Return the first well-formed mark at or after ``start``."""
    return _MARK.search(text, start)


def before_mark(text: str) -> str:
    """Return a text that is still being written without the beginning of a mark at its end, if there is one."""
    begins = text.rfind("[", -_LONGEST)
    return text[:begins] if begins >= 0 and any(mark.startswith(text[begins:]) for mark in MARKS.values()) else text


def has_mark(text: str) -> bool:
    """True where the text holds any verdict mark, well-formed or not."""
    return _ANY_MARK.search(text) is not None


def parse_two_turn(turn: str) -> Verdict | None:
    """Return the verdict that ends a two-turn assistant message; None where it is missing or doubled."""
    answers = _ANSWER.findall(turn)
    if len(answers) != 1:
        return None
    return Verdict.CORRECT if answers[0] == "Yes" else Verdict.WRONG
