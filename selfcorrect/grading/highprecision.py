"""Compare two scalar trees in many digits (mpmath). Imported in the worker only.

Two readable expressions that agree to 270 of 300 digits at several points are taken as equal; constants at one
point. A tail such as ``+ 10^{-100}`` is far above that threshold, so it is seen.
"""

from __future__ import annotations

from typing import Any

import mpmath

from selfcorrect.grading.algebra import number
from selfcorrect.grading.limits import TooLarge, Unreadable
from selfcorrect.grading.nodes import Node
from selfcorrect.grading.numeric import Point, Undefined, evaluate, has_symbols, needs_integers

LOW_DIGITS, HIGH_DIGITS = 40, 300
_POINTS = 5
_NAMES = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc",
    "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "arccoth": "acoth", "Gamma": "gamma", "abs": "fabs",
    "ln": "ln", "lg": "log10", "sgn": "sign", "Re": "re", "Im": "im", "fact": "factorial", "fact2": "fac2",
    "floor": "floor", "ceil": "ceil", "binom": "binomial", "log": "log",
}  # fmt: skip
_SAME = frozenset(
    ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch", "exp", "erf"]
)
_ROUNDED = frozenset(["floor", "ceil"])
_FAILURES = (Undefined, Unreadable, TooLarge, OverflowError, ValueError, ZeroDivisionError, TypeError, ArithmeticError)


class Digits:
    """mpmath numbers at its current precision; exponents are bounded before a power is taken."""

    def exact(self, text: str) -> Any:
        value = number(text)
        return mpmath.mpc(mpmath.mpf(value.numerator) / value.denominator)

    def constant(self, name: str) -> Any:
        return {"pi": mpmath.mpc(mpmath.pi), "e": mpmath.mpc(mpmath.e), "i": mpmath.mpc(0, 1)}[name]

    def power(self, base: Any, exponent: Any) -> Any:
        if base == 0:
            if exponent.real <= 0:
                raise Undefined("a power of zero")
            return base
        if abs(exponent) * (abs(mpmath.log(base)) + 1) > 1e6:
            raise Undefined("a large power")
        if exponent.imag == 0 and exponent.real == int(exponent.real):
            return base ** int(exponent.real)
        return mpmath.power(base, exponent)

    def call(self, name: str, args: list[Any]) -> Any:
        if any(abs(arg) > 1e5 for arg in args) and name not in ("ln", "lg", "log", "abs", "floor", "ceil"):
            raise Undefined("a large argument")
        if name in _SAME or name in _NAMES:
            plain = [arg.real if arg.imag == 0 else arg for arg in args]
            if name in _ROUNDED:
                near = mpmath.nint(plain[0].real)
                if abs(plain[0] - near) < mpmath.mpf(10) ** (10 - mpmath.mp.dps):
                    return mpmath.mpc(near)
            return mpmath.mpc(getattr(mpmath, _NAMES.get(name, name))(*plain))
        raise Undefined(f"function {name}")


def equal(left: Node, right: Node, *, positive: bool) -> bool | None:
    """Return True or False, None where no point gave values on both sides."""
    integers = needs_integers(left) or needs_integers(right)
    points = _POINTS if has_symbols(left) or has_symbols(right) else 1
    agreed = 0
    for index in range(10, 10 + 3 * points):
        verdict = _at(left, right, index, integers, positive=True)
        if verdict is False:
            return False
        agreed += verdict is True
        if agreed == points:
            break
    if agreed < min(points, 2):
        return None
    if not integers and not positive and points > 1:
        for index in range(30, 34):
            if _at(left, right, index, integers, positive=False) is False:
                return False
    return True


def _at(left: Node, right: Node, index: int, integers: bool, *, positive: bool) -> bool | None:
    for digits in (LOW_DIGITS, HIGH_DIGITS):
        with mpmath.workdps(digits):
            point = Point(index, integers=integers, positive=positive, exact=True)
            try:
                value_l, value_r = (evaluate(node, point, Digits()) for node in (left, right))
            except _FAILURES:
                return None
            gap, size = abs(value_l - value_r), max(abs(value_l), abs(value_r))
            margin = mpmath.mpf(10) ** (30 - digits) if digits == HIGH_DIGITS else mpmath.mpf(10) ** -25
            if gap > margin * max(size, mpmath.mpf(point.biggest) * margin):
                if not positive and (abs(value_l.imag) > margin * size or abs(value_r.imag) > margin * size):
                    return None
                return False
    return True
