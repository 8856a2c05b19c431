"""The second reader, latex2sympy2_extended, for texts that the parser cannot read. Imported in the worker only.

It reads several integrals or a trace, but it also guesses (``7 8`` is 15, ``45^\\circ`` is 45, ``3 apples`` a product
of letters). So texts with signs that it is known to drop are not given to it, and of its expressions only those are
taken that are built from the operations named here, exactly, with a finite value.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import sympy

from selfcorrect.grading.maths import parser
from selfcorrect.grading.maths.limits import Unreadable
from selfcorrect.grading.workers import symbolic

MAX_CHARS = 400
_DROPPED = re.compile(
    r"\d\s+\d|\\circ|'|\.|[;,=<>]|\\lim|\\text|\\mbox|\\frac\s*\{\s*\\?d\s*\^|(?<![\\a-zA-Z{])[a-zA-Z]{3,}"
)
"""What it leaves out or guesses: numbers side by side, degrees, primes, decimals, lists, relations, the side of a
limit, words, and higher derivatives."""
_SPACES = re.compile(r"\\[,;:! ]|\\q?quad(?![a-zA-Z])")
_SYMBOL = re.compile(r"[a-zA-Z](_\{?\w+\}?)?|alpha|beta|gamma|delta|theta|lambda|mu|sigma|phi|omega")
_OPERATIONS = (
    sympy.Add, sympy.Mul, sympy.Pow, sympy.Rational, sympy.NumberSymbol, sympy.Integral, sympy.Derivative, sympy.Sum,
    sympy.Product, sympy.Abs, sympy.exp, sympy.log, sympy.sin, sympy.cos, sympy.tan, sympy.cot, sympy.sec, sympy.csc,
    sympy.asin, sympy.acos, sympy.atan, sympy.sinh, sympy.cosh, sympy.tanh, sympy.factorial, sympy.binomial,
    sympy.Tuple,
)  # fmt: skip
_OPEN = (sympy.Integral, sympy.Derivative, sympy.Sum, sympy.Product)
_BOUNDS = (sympy.oo, -sympy.oo)


def has_value(text: str) -> bool:
    """True where the text is read and has one finite value."""
    return value_of(text) is not None


def equal(left: str, right: str) -> bool | None:
    """Return True where the two texts have the same value, False where both are numbers and differ, else None."""
    difference = value_of(left) - value_of(right)
    if difference == 0 or sympy.simplify(difference) == 0:
        return True
    return False if not difference.free_symbols and abs(difference.evalf(30)) > 1e-20 else None


def value_of(text: str) -> Any:
    """Return the finite value of a text, by the parser where it can; raises Unreadable or `symbolic.NotFinite`."""
    try:
        tree = parser.read(text)
    except Unreadable:
        return _second_value(text)
    return symbolic.to_sympy(tree, positive=False)


def _second_value(text: str) -> Any:
    text = _SPACES.sub(" ", text)
    if len(text) > MAX_CHARS or _DROPPED.search(text):
        raise Unreadable("not a text for latex2sympy")
    read = _read(text)
    if not isinstance(read, sympy.Expr):
        raise Unreadable(f"latex2sympy reads a {type(read).__name__}")
    for part in sympy.preorder_traversal(read):
        letter = isinstance(part, sympy.Symbol) and _SYMBOL.fullmatch(part.name)
        if not (letter or isinstance(part, _OPERATIONS) or part in _BOUNDS):
            raise Unreadable(f"latex2sympy reads a {type(part).__name__}")
    letters = {letter: sympy.Symbol(letter.name, real=True) for letter in read.free_symbols}
    value = read.subs({**letters, sympy.Symbol("i"): sympy.I}).doit()
    if value.has(*_OPEN, sympy.oo, sympy.zoo, sympy.nan, sympy.Piecewise, sympy.AccumBounds):
        raise Unreadable("SymPy finds no finite value")
    return value


def _read(text: str) -> Any:
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return latex2sympy(text, normalization_config=None, conversion_config=ConversionConfig(lowercase_symbols=False))


def warm_up() -> None:
    """Load the reader and the parts of SymPy that load themselves on first use."""
    symbolic.warm_up()
    _second_value(r"\int_0^1\int_0^1 x y \, dx \, dy")
