"""Bounds that are checked BEFORE any evaluation, and the two ways in which reading an answer can end early.

Every loop over model text is linear in its length; every number, power, factorial, polynomial and matrix is
bounded here. Over a bound the answer is not wrong but UNGRADABLE ("limit").
"""

from __future__ import annotations

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


class TooLarge(Exception):
    """A bound of this module was reached; says which one."""


class Unreadable(Exception):
    """The text is not a mathematical answer that the reader understands; says where it stopped."""
