"""Compare two scalar trees in balls of many digits (Arb, through python-flint). Imported in the worker only.

A ball is a number with a bound of its error, so every statement here is proved except the last: balls that do not
overlap show a difference, a ball without a pole in it shows that there is a value, and balls that overlap within
10^-AGREED of the smallest value met on the way, less twice the spread of all values met, are taken as the same number.
A tail such as ``+ 10^{-400}``, ``\\cos 10^{-300}``, or ``+ \\ln 2`` beside ``10^{400}``, is far above that, so it is
seen; the digits grow until it is.
"""

from __future__ import annotations

from enum import Enum

import flint
from flint import acb, arb, fmpq, fmpz

from selfcorrect.grading.maths.algebra import number
from selfcorrect.grading.maths.limits import TooLarge, Unreadable
from selfcorrect.grading.maths.numeric import Point, Undefined, evaluate, has_symbols, integer_letters, mentions_i
from selfcorrect.grading.maths.tree import Node

AGREED = 100
"""Digits, beyond the smallest value and the spread of values, in which equal values agree."""
DIGITS = (130, 500, 2_000, 12_000, 40_000)
"""Working precisions, tried in turn until the question is settled."""
POINTS = 12
"""Points at which expressions with letters must agree, of at least _LEAST_DRAWS; constants are compared once."""
_LEAST_DRAWS = 24
_MOST_DRAWS = 96
_BITS = int(AGREED * 3.33)
_LARGEST_DOUBLE_FACTORIAL = 5_000
_FAILURES = (Undefined, Unreadable, TooLarge, OverflowError, ValueError, ZeroDivisionError, TypeError, ArithmeticError)
_METHODS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc", "sinh": "sinh", "cosh": "cosh",
    "tanh": "tanh", "coth": "coth", "sech": "sech", "csch": "csch", "arcsin": "asin", "arccos": "acos",
    "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "exp": "exp", "erf": "erf",
    "Gamma": "gamma", "ln": "log", "zeta": "zeta",
}  # fmt: skip
_OF_INVERSE = {"arccot": "atan", "arcsec": "acos", "arccsc": "asin", "arccoth": "atanh"}


class Sight(Enum):
    """What one point shows."""

    EQUAL = "equal"
    DIFFERENT = "different"
    OUTSIDE = "a side is not real here, or the reference has no value"
    UNSEEN = "the response has no value here, or the digits do not suffice"


class Balls:
    """Complex balls at flint's current precision; ``lowest`` and ``highest`` are the bits of the values met so far."""

    def __init__(self) -> None:
        self.lowest = self.highest = 0

    def met(self, value: acb) -> acb:
        """Note the size of a value that is certainly not 0, and return it."""
        bit = _lowest_bit(value)
        if bit is not None:
            self.lowest, self.highest = min(self.lowest, bit), max(self.highest, bit)
        return value

    def margin(self) -> arb:
        """Return the gap below which two values are the same number."""
        return arb(2) ** (self.lowest - _BITS - 2 * (self.highest - self.lowest))

    def exact(self, text: str) -> acb:
        value = number(text)
        return self.met(acb(fmpq(value.numerator, value.denominator)))

    def constant(self, name: str) -> acb:
        return {"pi": acb.pi(), "e": acb(1).exp(), "i": acb(0, 1)}[name]

    def add(self, left: acb, right: acb) -> acb:
        return self.met(left + right)

    def multiply(self, left: acb, right: acb) -> acb:
        return self.met(left * right)

    def divide(self, left: acb, right: acb) -> acb:
        if right.contains(0):
            raise Undefined("a division by zero")
        return self.met(left / right)

    def power(self, base: acb, exponent: acb) -> acb:
        if base.is_zero():
            if not exponent.real > 0:
                raise Undefined("a power of zero")
            return base
        whole = _integer(exponent)
        if base.contains(0) and (whole is None or whole <= 0):
            raise Undefined("a power of what may be zero")
        return self.met(finite(base**exponent if whole is None else base**whole))

    def root(self, index: acb, radicand: acb) -> acb:
        """Return the n-th root; the real one for an odd root of a negative number."""
        if index.contains(0):
            raise Undefined("a zeroth root")
        if radicand.is_zero() and index.real > 0:
            return radicand
        degree = _integer(index)
        if degree == 2:
            return self.met(finite(radicand.sqrt()))
        if degree is not None and degree % 2 and radicand.imag.is_zero() and radicand.real < 0:
            return -self.power(-radicand, 1 / index)
        return self.power(radicand, 1 / index)

    def call(self, name: str, args: list[acb]) -> acb:
        return self.met(finite(self._called(name, args)))

    def _called(self, name: str, args: list[acb]) -> acb:
        if not args:
            raise Undefined("a function of nothing")
        first = args[0]
        if name in _METHODS and len(args) == 1:
            return getattr(first, _METHODS[name])()
        if name in _OF_INVERSE:
            return getattr(self.divide(acb(1), first), _OF_INVERSE[name])()
        if name == "lg" or (name == "log" and len(args) == 1):
            return first.log() / acb(10).log() if name == "lg" else first.log()
        if name == "log":
            if not args[1].real > 0 or not args[1].imag.is_zero():
                raise Undefined("a base that is not positive")
            return self.divide(first.log(), args[1].log())
        if name in ("Re", "Im"):
            return acb(first.real if name == "Re" else first.imag)
        if name == "abs":
            return acb(abs(first))
        if name == "fact":
            return (first + 1).gamma()
        if name in ("gcd", "lcm"):
            return acb(_common(name, [self.whole(arg) for arg in args]))
        if name == "fact2":
            return acb(_double_factorial(self.whole(first)))
        reals = [self._real(arg) for arg in args]
        if name in ("floor", "ceil"):
            return acb(self._floor(reals[0]) if name == "floor" else -self._floor(-reals[0]))
        if name == "mod":
            return acb(reals[0] - reals[1] * self._floor(self.divide(acb(reals[0]), acb(reals[1])).real))
        if name in ("max", "min"):
            best = reals[0]
            for other in reals[1:]:
                best = best.max(other) if name == "max" else best.min(other)
            return acb(best)
        if name == "sgn":
            if first.contains(0) and not first.is_zero():
                raise Undefined("the sign of what may be zero")
            return acb(reals[0].sgn())
        if name == "binom":
            return _binomial(*args)
        raise Undefined(f"function {name}")

    def whole(self, value: acb) -> int:
        number_ = self._nearest(self._real(value))
        if number_ is None or abs(number_) > 10**12:
            raise Undefined("an integer is needed")
        return number_

    def _real(self, value: acb) -> arb:
        if not value.imag.contains(0):
            raise Undefined("a real number is needed")
        return value.real

    def _nearest(self, value: arb) -> int | None:
        """Return the integer that the ball is, within the agreed digits; None for others."""
        whole = value.unique_fmpz()
        if whole is None or not (value.is_exact() or value.rad() < self.margin()):
            return None
        return int(whole)

    def _floor(self, value: arb) -> arb:
        whole = self._nearest(value)
        if whole is not None:
            return arb(whole)
        if value.contains_integer():
            raise Undefined("more digits are needed")
        return value.floor()


def finite(value: acb) -> acb:
    """Return the ball; raises Undefined where it holds an infinity or is no number."""
    if not value.is_finite():
        raise Undefined("no finite value")
    return value


def _lowest_bit(value: acb) -> int | None:
    """Return the power of two of a ball's least size; None for a ball that may be zero."""
    least = value.abs_lower().mid()
    if least.is_zero() or not least.is_finite():
        return None
    mantissa, exponent = least.man_exp()
    return int(exponent) + int(mantissa).bit_length() - 1


def _integer(value: acb) -> int | None:
    """Return the exact integer that a ball is, else None."""
    if not value.imag.is_zero() or not value.real.is_exact():
        return None
    whole = value.real.unique_fmpz()
    return None if whole is None else int(whole)


def _common(name: str, numbers: list[int]) -> fmpz:
    total = fmpz(numbers[0])
    for other in numbers[1:]:
        total = total.gcd(other) if name == "gcd" else total.lcm(other)
    return abs(total)


def _double_factorial(of: int) -> fmpz:
    if not 0 <= of <= _LARGEST_DOUBLE_FACTORIAL:
        raise Undefined("a large double factorial")
    product = fmpz(1)
    for factor in range(of, 1, -2):
        product *= factor
    return product


def _binomial(above: acb, below: acb) -> acb:
    n, k = _integer(above), _integer(below)
    if n is not None and k is not None and n >= 0:
        if not 0 <= k <= n:
            raise Undefined("a choice of more than there are")
        if n <= 100_000:
            return acb(fmpz.bin_uiui(n, k))
    return finite((above + 1).gamma()) * (below + 1).rgamma() * (above - below + 1).rgamma()


# -- comparing -------------------------------------------------------------------------------------------


def equal(response: Node, gold: Node, *, positive: bool) -> tuple[bool | None, str]:
    """Return True, False or None (not settled), and what showed it."""
    integers = integer_letters(response, gold)
    symbols = has_symbols(response) or has_symbols(gold)
    if not symbols or mentions_i(response) or mentions_i(gold):
        return _at_points(response, gold, integers, positive, real=False, wanted=POINTS if symbols else 1)
    verdict, how = _at_points(response, gold, integers, positive, real=True, wanted=POINTS)
    if how == _NOWHERE_REAL:
        return _at_points(response, gold, integers, positive, real=False, wanted=POINTS)
    return verdict, how


_NOWHERE_REAL = "no point where both are real"


def _at_points(
    response: Node, gold: Node, integers: frozenset[str], positive: bool, *, real: bool, wanted: int
) -> tuple[bool | None, str]:
    agreed = 0
    draws = _LEAST_DRAWS if wanted > 1 else 1
    for index in range(_MOST_DRAWS if wanted > 1 else 1):
        signed = not positive and index // 4 % 2 == 1
        sight = _look(response, gold, Point(index, integers=integers, positive=not signed), real)
        if sight is Sight.DIFFERENT:
            return False, "at a point" if wanted > 1 else "in their digits"
        if sight is Sight.UNSEEN:
            return None, "no value was found at a point" if wanted > 1 else "no finite value was found"
        agreed += sight is Sight.EQUAL
        if agreed >= wanted and index + 1 >= draws:
            return True, f"at {agreed} points to {AGREED} digits" if wanted > 1 else f"to {AGREED} digits"
    return None, _NOWHERE_REAL if not agreed else "few points where both have a value"


def _look(response: Node, gold: Node, point: Point, real: bool) -> Sight:
    """Compare at one point, with more and more digits."""
    valued = [False, False]
    for digits in DIGITS:
        flint.ctx.dps = digits
        balls = Balls()
        values: list[acb | None] = []
        for place, node in enumerate((response, gold)):
            try:
                values.append(finite(evaluate(node, point, balls)))
                valued[place] = True
            except _FAILURES:
                values.append(None)
        value_r, value_g = values
        if value_r is None or value_g is None:
            continue
        if real and not (value_r.imag.contains(0) and value_g.imag.contains(0)):
            return Sight.OUTSIDE
        gap = value_r - value_g
        if not gap.contains(0):
            return Sight.DIFFERENT
        if gap.abs_upper() < balls.margin():
            return Sight.EQUAL
    return Sight.UNSEEN if valued[1] else Sight.OUTSIDE


def has_value(node: Node) -> bool:
    """True where a tree has a finite value at a point in general position."""
    integers = integer_letters(node, node)
    for index in range(4 if has_symbols(node) else 1):
        for digits in DIGITS[:3]:
            flint.ctx.dps = digits
            try:
                finite(evaluate(node, Point(index, integers=integers), Balls()))
            except _FAILURES:
                continue
            return True
    return False
