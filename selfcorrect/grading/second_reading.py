"""The second reader: latex2sympy2_extended, in a worker, for what the parser cannot read. Off unless it is asked for.

    SELFCORRECT_LATEX=1 selfcorrect grade '\\boxed{\\int_0^1\\int_0^1 xy\\,dx\\,dy}' '\\frac14'

It needs the extra ``latex``. It never changes a grade that the parser reached: only a response or a reference that the
parser cannot read is given to it. Rows that it helped to grade have a fingerprint of their own.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version

from selfcorrect.errors import InputError
from selfcorrect.extras import needs
from selfcorrect.types import Grade, Outcome

SWITCH = "SELFCORRECT_LATEX"
LATEX = "latex2sympy"
"""The ``method`` of a grade that the second reader decided."""
PACKAGE = "latex2sympy2_extended"


def is_on() -> bool:
    """True where the second reader is asked for; raises InputError for another value than 0 or 1."""
    return _switched(os.environ.get(SWITCH, ""))


@lru_cache(maxsize=8)
def _switched(value: str) -> bool:
    if value not in ("", "0", "1"):
        raise InputError(f"{SWITCH}: expected 1 (the second reader is on) or 0, got {value!r}")
    if value == "1":
        needs("latex")
    return value == "1"


def mark() -> str:
    """Return what the second reader adds to the grader's fingerprint."""
    return f"+{LATEX}-{version(PACKAGE)}" if is_on() else ""


@lru_cache(maxsize=8192)
def reads(text: str) -> bool:
    """True where the second reader finds one finite value in a text."""
    from selfcorrect.grading.workers import pool

    return bool(text) and pool.second_reading([text]).verdict is True


def read_again(unread: Grade, answer: str, gold: str) -> Grade:
    """Return the grade by the second reader; ``unread``, the parser's, where it decides nothing either."""
    from selfcorrect.grading.workers import pool

    found = pool.second_reading([answer, gold])
    if found.verdict is None:
        return unread
    outcome = Outcome.CORRECT if found.verdict else Outcome.WRONG
    return replace(unread, outcome=outcome, reason=f"{found.how}, read by latex2sympy", method=LATEX)
