"""Evaluate a scalar tree at a point, in floats (here) or in balls of many digits (`highprecision`, in a worker).

Used where normal forms prove nothing. A clear difference at one point proves inequality; agreement proves nothing in
floats. What has no finite value (underflow, overflow, poles, sums without terms) raises `Undefined`: it never counts as
agreement. Points at which a side is not real lie outside the common real domain and are not compared, unless the
imaginary unit is written.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping
from typing import Any, Protocol
from zlib import crc32

from selfcorrect.grading.maths.algebra import based_number, number
from selfcorrect.grading.maths.limits import MAX_POINT_STEPS, TooLarge, Unreadable, at_most, spend
from selfcorrect.grading.maths.tree import Node, show

MAX_SUM_TERMS = 300
_WHOLE_CALLS = frozenset(["binom", "gcd", "lcm", "fact2"])
_ROUNDING_CALLS = frozenset(["floor", "ceil", "mod"])
_USUAL_INTEGERS = frozenset("jklmnKLMN")
_NO_NUMBERS = frozenset(["oo", "...", "RR", "ZZ", "QQ", "NN", "CC", "EMPTY", "NONE", "circ"])
_FAR = 1e12
"""A float beyond this, or a divisor that far below the largest summand, may hide a pole."""


class Undefined(Exception):
    """The tree has no usable value at the point."""


class Arithmetic(Protocol):
    """What the evaluator needs from a number system: floats or balls."""

    def exact(self, text: str) -> Any: ...
    def constant(self, name: str) -> Any: ...
    def add(self, left: Any, right: Any) -> Any: ...
    def multiply(self, left: Any, right: Any) -> Any: ...
    def divide(self, left: Any, right: Any) -> Any: ...
    def power(self, base: Any, exponent: Any) -> Any: ...
    def root(self, index: Any, radicand: Any) -> Any: ...
    def call(self, name: str, args: list[Any]) -> Any: ...
    def whole(self, value: Any) -> int: ...


class Floats:
    """Complex floats; every result is checked for overflow and underflow.

    ``careful`` refuses what may hide a pole: then a result says that the tree has a value. ``biggest`` is the largest
    summand met: differences far below it are rounding.
    """

    def __init__(self, *, careful: bool = False) -> None:
        self.careful = careful
        self.biggest = 0.0

    def exact(self, text: str) -> complex:
        value = number(text)
        result = complex(float(value))
        if value and not result:
            raise Undefined("underflow")
        return result

    def constant(self, name: str) -> complex:
        return {"pi": complex(math.pi), "e": complex(math.e), "i": 1j}[name]

    def add(self, left: complex, right: complex) -> complex:
        self.biggest = max(self.biggest, abs(left), abs(right))
        return left + right

    def multiply(self, left: complex, right: complex) -> complex:
        product = left * right
        if product == 0 and left != 0 and right != 0:
            raise Undefined("underflow")
        return product

    def divide(self, left: complex, right: complex) -> complex:
        if right == 0 or self._may_be_zero(right):
            raise Undefined("a division by zero")
        quotient = left / right
        if quotient == 0 and left != 0:
            raise Undefined("underflow")
        return quotient

    def power(self, base: complex, exponent: complex) -> complex:
        if base == 0:
            if exponent.real <= 0:
                raise Undefined("a power of zero")
            return 0j
        if self._may_be_zero(base):
            raise Undefined("a power of next to nothing")
        if exponent.imag == 0 and exponent.real == int(exponent.real) and abs(exponent.real) < 2**53:
            result = base ** int(exponent.real)
        else:
            result = cmath.exp(exponent * cmath.log(base))
        if result == 0:
            raise Undefined("underflow")
        return result

    def root(self, index: complex, radicand: complex) -> complex:
        """Return the n-th root; the real one for an odd root of a negative number."""
        if index == 0:
            raise Undefined("a zeroth root")
        if radicand == 0:
            if index.real < 0:
                raise Undefined("a division by zero")
            return radicand
        degree = index.real
        real = index.imag == radicand.imag == 0
        if real and degree == int(degree) and int(degree) % 2 and radicand.real < 0:
            return -self.power(-radicand, 1 / index)
        return self.power(radicand, 1 / index)

    def call(self, name: str, args: list[complex]) -> complex:
        if name in _REAL_CALLS:
            if any(abs(arg.imag) > 1e-12 * max(1.0, abs(arg.real)) for arg in args):
                raise Undefined(f"{name} of a complex number")
            result = complex(_REAL_CALLS[name](*(arg.real for arg in args)))
        else:
            function = _COMPLEX_CALLS.get(name)
            if function is None:
                raise Undefined(f"function {name}")
            if name in ("ln", "lg", "log") and any(map(self._may_be_zero, args)):
                raise Undefined("a logarithm of next to nothing")
            result = complex(function(*args))
        if not cmath.isfinite(result) or (self.careful and abs(result) > _FAR):
            raise Undefined("an infinite value")
        return result

    def whole(self, value: complex) -> int:
        return _whole(value.real)

    def _may_be_zero(self, value: complex) -> bool:
        return self.careful and abs(value) < max(1.0, self.biggest) / _FAR


def _gamma(value: float) -> float:
    return math.gamma(value + 1)


def _whole(value: float) -> int:
    if abs(value - round(value)) > 1e-9 or abs(value) > 1e12:
        raise Undefined("an integer is needed")
    return round(value)


_REAL_CALLS: Mapping[str, Any] = {
    "floor": lambda x: math.floor(x + 1e-12),
    "ceil": lambda x: math.ceil(x - 1e-12),
    "fact": _gamma,
    "binom": lambda n, k: _gamma(n) / _gamma(k) / _gamma(n - k),
    "mod": lambda a, b: a - b * math.floor(a / b + 1e-12),
    "gcd": lambda *v: math.gcd(*map(_whole, v)),
    "lcm": lambda *v: math.lcm(*map(_whole, v)),
    "max": max,
    "min": min,
    "Gamma": math.gamma,
    "erf": math.erf,
    "sgn": lambda x: (x > 0) - (x < 0),
}
_COMPLEX_CALLS: Mapping[str, Any] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh,
    "cot": lambda x: 1 / cmath.tan(x), "sec": lambda x: 1 / cmath.cos(x), "csc": lambda x: 1 / cmath.sin(x),
    "coth": lambda x: 1 / cmath.tanh(x), "sech": lambda x: 1 / cmath.cosh(x), "csch": lambda x: 1 / cmath.sinh(x),
    "arcsin": cmath.asin, "arccos": cmath.acos, "arctan": cmath.atan, "arccot": lambda x: cmath.atan(1 / x),
    "arcsec": lambda x: cmath.acos(1 / x), "arccsc": lambda x: cmath.asin(1 / x), "arcsinh": cmath.asinh,
    "arccosh": cmath.acosh, "arctanh": cmath.atanh, "arccoth": lambda x: cmath.atanh(1 / x), "exp": cmath.exp,
    "ln": cmath.log, "abs": abs, "lg": cmath.log10, "Re": lambda z: z.real, "Im": lambda z: z.imag,
    "log": lambda x, b=math.e: cmath.log(x) / cmath.log(b), "sgn": lambda x: x / abs(x),
}  # fmt: skip


class Point:
    """One assignment of values to whatever symbols a tree has; the same name has the same value on both sides.

    Letters in ``integers`` are whole numbers. Of four points in turn the first takes all others from (0, 3), the
    second from (0, 1), the fourth from (10, 5000), the third from anywhere. Where not ``positive``, half are negative.
    """

    def __init__(self, index: int, *, integers: frozenset[str] = frozenset(), positive: bool = True) -> None:
        self.index = index
        self.integers = integers
        self.positive = positive

    def ratio(self, name: str) -> tuple[int, int]:
        """Return the symbol's value as a fraction of small integers."""
        seed = crc32(f"{name}|{self.index}".encode("utf-8", "surrogatepass"))
        if name in self.integers:
            return (2 + seed % 11, 1) if self.index % 2 == 0 else (4 + seed % 89, 1)
        region = self.index % 4
        if region == 2:
            region = (0, 1, 3)[(seed >> 8) % 3]
        top = {0: 331 + seed % 1999, 1: 37 + seed % 701, 3: 7970 + seed % 3_970_000}[region]
        if not self.positive and (seed >> 16) & 1:
            top = -top
        return top, 797


def evaluate(node: Node, point: Point, maths: Arithmetic, bound: Mapping[str, Any] | None = None) -> Any:
    """Return the value of a scalar tree at a point; raises Undefined, Unreadable or TooLarge."""
    spend(1)
    kind, args = node.kind, node.args
    if kind == "num":
        return maths.exact(node.value)
    if kind == "sym":
        if bound and node.value in bound:
            return bound[node.value]
        if node.value in ("pi", "e", "i"):
            return maths.constant(node.value)
        if node.value in _NO_NUMBERS:
            raise Undefined(node.value)
        return _at_point(node.value, point, maths)
    if kind in ("add", "mul"):
        combine = maths.add if kind == "add" else maths.multiply
        total = evaluate(args[0], point, maths, bound)
        for arg in args[1:]:
            total = combine(total, evaluate(arg, point, maths, bound))
        return total
    if kind == "apply":
        return _at_point(show(node), point, maths)
    if kind == "big":
        return _big(node, point, maths, bound or {})
    values = [evaluate(arg, point, maths, bound) for arg in args]
    if kind == "neg":
        return -values[0]
    if kind == "div":
        return maths.divide(values[0], values[1])
    if kind == "pow":
        return maths.power(values[0], values[1])
    if kind == "pct":
        return values[0] / 100
    if kind == "deg":
        return values[0] * maths.constant("pi") / 180
    if kind == "unit":
        return values[0]
    if kind == "fact":
        return maths.call("fact", values)
    if kind == "base":
        return maths.exact(str(based_number(node)))
    if kind == "call":
        return maths.root(values[0], values[1]) if node.value == "root" else maths.call(node.value, values)
    raise Undefined(kind)


def _at_point(name: str, point: Point, maths: Arithmetic) -> Any:
    top, bottom = point.ratio(name)
    return maths.divide(maths.exact(str(top)), maths.exact(str(bottom)))


def _big(node: Node, point: Point, maths: Arithmetic, bound: Mapping[str, Any]) -> Any:
    """Return a finite sum or product of 1 to MAX_SUM_TERMS terms; everything else is left to SymPy."""
    variable, lower, upper, body = node.args
    if node.value not in ("sum", "prod") or variable.kind != "sym" or "NONE" in (variable.value, upper.value):
        raise Undefined(f"a {node.value}")
    if upper == Node("sym", "oo"):
        raise Undefined("an infinite sum")
    first, last = (maths.whole(evaluate(arg, point, maths, bound)) for arg in (lower, upper))
    if not 1 <= last - first + 1 <= MAX_SUM_TERMS:
        raise Undefined("a sum without terms, or a long one")
    combine = maths.add if node.value == "sum" else maths.multiply
    total = None
    for step in range(first, last + 1):
        term = evaluate(body, point, maths, {**bound, variable.value: maths.exact(str(step))})
        total = term if total is None else combine(total, term)
    return total


def integer_letters(response: Node, gold: Node) -> frozenset[str]:
    """Return the letters that stand for whole numbers on both sides.

    Those that the reference puts where only a whole number has a meaning (a factorial, a bound of a sum, the exponent
    of a negative number), and those of the usual names j to n that either side puts there or rounds.
    """
    by_gold, by_response = _whole_letters(gold), _whole_letters(response)
    return frozenset(by_gold[0] | ((by_gold[1] | by_response[0] | by_response[1]) & _USUAL_INTEGERS))


def _whole_letters(node: Node) -> tuple[set[str], set[str]]:
    """Return the letters in places for whole numbers, and those that are rounded."""
    needed: set[str] = set()
    rounded: set[str] = set()
    if node.kind == "fact" or (node.kind == "call" and node.value in _WHOLE_CALLS):
        needed |= letters(node)
    elif node.kind == "call" and node.value in _ROUNDING_CALLS:
        rounded |= letters(node)
    elif node.kind == "big" and node.value in ("sum", "prod"):
        needed |= letters(node.args[1]) | letters(node.args[2])
    elif node.kind == "pow" and node.args[0].kind == "neg":
        needed |= letters(node.args[1])
    for arg in node.args:
        inner = _whole_letters(arg)
        needed |= inner[0]
        rounded |= inner[1]
    return needed, rounded


def letters(node: Node) -> set[str]:
    """Return the names of the symbols in a tree that are no constants."""
    if node.kind == "sym":
        return set() if node.value in ("pi", "e", "i") or node.value in _NO_NUMBERS else {node.value}
    return set().union(*(letters(arg) for arg in node.args))


def mentions_i(node: Node) -> bool:
    """True where the imaginary unit is written."""
    return node == Node("sym", "i") or any(mentions_i(arg) for arg in node.args)


FAILURES = (Undefined, Unreadable, TooLarge, OverflowError, ValueError, ZeroDivisionError, TypeError, ArithmeticError)
"""What an evaluation may raise where there is no value."""


def differ(response: Node, gold: Node, *, positive: bool = False) -> bool | None:
    """Return True where a point shows a clear difference, False where all points agree, None without evidence."""
    integers = integer_letters(response, gold)
    complex_too = mentions_i(response) or mentions_i(gold) or not (has_symbols(response) or has_symbols(gold))
    agreed = 0
    for index in range(6):
        point = Point(index, integers=integers, positive=positive or index < 4)
        floats = Floats()
        try:
            with at_most(MAX_POINT_STEPS):
                value_r = evaluate(response, point, floats)
                value_g = evaluate(gold, point, floats)
        except FAILURES:
            continue
        gap, size = abs(value_r - value_g), max(abs(value_r), abs(value_g))
        if not math.isfinite(gap) or not math.isfinite(size) or not math.isfinite(floats.biggest):
            continue
        if not complex_too and (abs(value_r.imag) > 1e-9 * size or abs(value_g.imag) > 1e-9 * size):
            continue
        if gap > 1e-6 * size and gap > 1e-9 * floats.biggest:
            return True
        agreed += 1
    return False if agreed >= 2 else None


def has_value(node: Node) -> bool:
    """True where floats show that the tree has a finite value, away from poles, at a point in general position."""
    integers = integer_letters(node, node)
    for index in range(4):
        try:
            with at_most(MAX_POINT_STEPS):
                value = evaluate(node, Point(index, integers=integers), Floats(careful=True))
        except FAILURES:
            continue
        if cmath.isfinite(value):
            return True
    return False


def real_value(node: Node) -> float | None:
    """Return the float value of a constant, None where it has symbols or no finite real value."""
    if has_symbols(node):
        return None
    try:
        with at_most(MAX_POINT_STEPS):
            value = evaluate(node, Point(0), Floats(careful=True))
    except FAILURES:
        return None
    if abs(value.imag) > 1e-12 * max(abs(value), 1e-300) or not math.isfinite(value.real):
        return None
    return float(value.real)


def has_symbols(node: Node) -> bool:
    """True where the tree has a free letter or an unknown function."""
    if node.kind == "sym":
        return node.value not in ("pi", "e", "i", "oo")
    if node.kind == "apply":
        return True
    if node.kind == "big":
        return any(has_symbols(arg) and arg != node.args[0] for arg in node.args[1:3])
    return any(has_symbols(arg) for arg in node.args)
