"""Bounds that are checked BEFORE any evaluation, and the two ways in which reading an answer can end early.

Reading is linear in the length of the text; every number, power, factorial, polynomial and matrix is bounded here.
What comparing costs beyond that is counted in steps (`spend`), never in seconds: the same answer meets the same limit
on every machine. An answer over a bound is not wrong but UNGRADABLE ("limit"), and counts as unanswered.
"""

from __future__ import annotations

import math
import threading
from typing import Any

MAX_ANSWER_CHARS = 10_000
"""Longer extracted answers are not read (plain digit strings of any length still are)."""
SHORT_ANSWER_CHARS = 400
"""Answers up to this length are kept in caches; longer ones are read anew each time."""
MAX_TOKENS = 4_000
MAX_DEPTH = 40
"""Nesting of braces, brackets and functions."""
MAX_DIGITS = 3_000
"""Digits of one exact number; also bounds powers and factorials."""
MAX_FACTORIAL = 3_000
MAX_TERMS = 500
"""Terms of a polynomial normal form."""
MAX_POWER_OF_SUM = 60
MAX_LIST = 200
MAX_MATRIX_CELLS = 400
MAX_DETERMINANT = 4
MAX_PLUS_MINUS = 4
MAX_KEY_CHARS = 20_000
"""Characters of the text that stands for one opaque value of a normal form."""
MAX_STEPS = 20_000
"""Steps of one grade in the caller's process: products of terms, nodes visited at a point; some microseconds each."""
MAX_FORM_STEPS = 8_000
"""Steps of one normal form, of MAX_STEPS."""
MAX_POINT_STEPS = 1_500
"""Steps of one evaluation at a point, of MAX_STEPS."""
COMPARISON_STEPS = 20
"""What comparing two quantities costs beside that."""
MAX_WORKER_STEPS = 40_000
"""Steps of one question in a worker."""
MAX_QUESTIONS = 40
"""Questions to the worker in one grade; the first that stays open is the last."""


class TooLarge(Exception):
    """A bound of this module was reached; says which one."""


class Unreadable(Exception):
    """The text is not a mathematical answer that the reader understands; says where it stopped."""


class _Work(threading.local):
    """The steps left to the grade that runs in this thread, and what it has found out on the way."""

    left: float = math.inf

    def __init__(self) -> None:
        self.found: dict[Any, Any] = {}


_work = _Work()


def spend(steps: int) -> None:
    """Count steps of the running grade; raises TooLarge when none are left."""
    _work.left -= steps
    if _work.left < 0:
        raise TooLarge("many steps")


def steps_left() -> float:
    """Return the steps that the running grade, or its running part, has left; infinite outside a grade."""
    return _work.left


def found() -> dict[Any, Any]:
    """Return the running grade's memory: results that it would otherwise work out again and again."""
    return _work.found


class budget:
    """``with budget():`` gives a grade its steps and an empty memory; outside a grade nothing is counted."""

    __slots__ = ("before", "steps")

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.steps = steps

    def __enter__(self) -> None:
        self.before, _work.left = _work.left, self.steps
        _work.found = {}

    def __exit__(self, *_: object) -> None:
        _work.left = self.before


class at_most:
    """``with at_most(n):`` gives a part of a grade n of the steps that are left."""

    __slots__ = ("before", "given", "steps")

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __enter__(self) -> None:
        self.before = _work.left
        self.given = _work.left = min(self.before, self.steps)

    def __exit__(self, *_: object) -> None:
        _work.left = self.before - self.given + max(_work.left, 0)
