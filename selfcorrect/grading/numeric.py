"""Evaluate a scalar tree at a point, in floats (here) or in many digits (`highprecision`, in a worker).

Used where normal forms prove nothing. A clear difference at one point proves inequality; agreement proves
nothing in floats. Underflow, overflow and undefined points raise `Undefined`: they never count as agreement.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping
from typing import Any, Protocol
from zlib import crc32

from selfcorrect.grading.algebra import based_number, number
from selfcorrect.grading.limits import TooLarge, Unreadable
from selfcorrect.grading.nodes import Node, contains, show

MAX_SUM_TERMS = 300
INTEGER_KINDS = frozenset(["fact"])
INTEGER_CALLS = frozenset(["floor", "ceil", "binom", "mod", "gcd", "lcm", "fact2"])


_NO_NUMBERS = frozenset(["oo", "...", "RR", "ZZ", "QQ", "NN", "CC", "EMPTY", "NONE", "circ"])


class Undefined(Exception):
    """The tree has no usable value at the point."""


class Arithmetic(Protocol):
    """What the evaluator needs from a number system: floats or mpmath."""

    def exact(self, text: str) -> Any: ...
    def power(self, base: Any, exponent: Any) -> Any: ...
    def call(self, name: str, args: list[Any]) -> Any: ...
    def constant(self, name: str) -> Any: ...


class Floats:
    """Complex floats; every result is checked for overflow and underflow."""

    def exact(self, text: str) -> complex:
        value = number(text)
        result = complex(float(value))
        if value and not result:
            raise Undefined("underflow")
        return result

    def constant(self, name: str) -> complex:
        return {"pi": complex(math.pi), "e": complex(math.e), "i": 1j}[name]

    def power(self, base: complex, exponent: complex) -> complex:
        if base == 0:
            if exponent.real <= 0:
                raise Undefined("a power of zero")
            return 0j
        if exponent.imag == 0 and exponent.real == int(exponent.real) and abs(exponent.real) < 2**53:
            result = base ** int(exponent.real)
        else:
            result = cmath.exp(exponent * cmath.log(base))
        if result == 0:
            raise Undefined("underflow")
        return result

    def call(self, name: str, args: list[complex]) -> complex:
        if name in _REAL_CALLS:
            if any(abs(arg.imag) > 1e-12 * max(1.0, abs(arg.real)) for arg in args):
                raise Undefined(f"{name} of a complex number")
            return complex(_REAL_CALLS[name](*(arg.real for arg in args)))
        function = _COMPLEX_CALLS.get(name)
        if function is None:
            raise Undefined(f"function {name}")
        return complex(function(*args))


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
    """One assignment of values to whatever symbols a tree has; the same name has the same value on both sides."""

    def __init__(self, index: int, *, integers: bool = False, positive: bool = True, exact: bool = False) -> None:
        self.index = index
        self.integers = integers
        self.positive = positive
        self.biggest = 0.0

    def ratio(self, name: str) -> tuple[int, int]:
        """Return the symbol's value as a fraction of small integers."""
        seed = crc32(f"{name}|{self.index}".encode())
        if self.integers:
            return 2 + seed % 11, 1
        top, bottom = 331 + seed % 1999, 797
        if not self.positive and (seed >> 16) & 1:
            top = -top
        return top, bottom


def evaluate(node: Node, point: Point, maths: Arithmetic, bound: Mapping[str, Any] | None = None) -> Any:
    """Return the value of a scalar tree at a point; raises Undefined, Unreadable or TooLarge."""
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
        top, bottom = point.ratio(node.value)
        return maths.exact(str(top)) / maths.exact(str(bottom))
    if kind in ("add", "mul"):
        values = [evaluate(arg, point, maths, bound) for arg in args]
        total = values[0]
        for value in values[1:]:
            if kind == "add":
                point.biggest = max(point.biggest, float(abs(total)), float(abs(value)))
                total = total + value
            else:
                product = total * value
                if product == 0 and total != 0 and value != 0:
                    raise Undefined("underflow")
                total = product
        return total
    if kind == "apply":
        top, bottom = point.ratio(show(node))
        return maths.exact(str(top)) / maths.exact(str(bottom))
    if kind == "big":
        return _big(node, point, maths, bound or {})
    values = [evaluate(arg, point, maths, bound) for arg in args]
    if kind == "neg":
        return -values[0]
    if kind == "div":
        if values[1] == 0:
            raise Undefined("a division by zero")
        quotient = values[0] / values[1]
        if quotient == 0 and values[0] != 0:
            raise Undefined("underflow")
        return quotient
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
        if node.value == "root":
            if values[0] == 0:
                raise Undefined("a zeroth root")
            return _root(values[0], values[1], maths)
        return maths.call(node.value, values)
    raise Undefined(kind)


def _root(index: Any, radicand: Any, maths: Arithmetic) -> Any:
    """Return the n-th root; the real one for an odd root of a negative number."""
    one = maths.exact("1")
    if radicand == 0:
        return radicand
    degree = index.real
    if index.imag == 0 and degree == int(degree) and int(degree) % 2 and radicand.imag == 0 and radicand.real < 0:
        return -maths.power(-radicand, one / index)
    return maths.power(radicand, one / index)


def _big(node: Node, point: Point, maths: Arithmetic, bound: Mapping[str, Any]) -> Any:
    """Return a finite sum or product of at most MAX_SUM_TERMS terms; everything else is left to SymPy."""
    variable, lower, upper, body = node.args
    if node.value not in ("sum", "prod") or variable.kind != "sym" or "NONE" in (variable.value, upper.value):
        raise Undefined(f"a {node.value}")
    if upper == Node("sym", "oo"):
        raise Undefined("an infinite sum")
    start, end = (evaluate(arg, point, maths, bound) for arg in (lower, upper))
    first, last = _whole(float(start.real)), _whole(float(end.real))
    if not 0 <= last - first + 1 <= MAX_SUM_TERMS:
        raise Undefined("a long sum")
    total = maths.exact("0" if node.value == "sum" else "1")
    for step in range(first, last + 1):
        term = evaluate(body, point, maths, {**bound, variable.value: maths.exact(str(step))})
        total = total + term if node.value == "sum" else total * term
    return total


def needs_integers(node: Node) -> bool:
    """True where the tree only makes sense at integers: factorials, floors, sums up to n, (-1)^n."""
    if node.kind in INTEGER_KINDS or (node.kind == "call" and node.value in INTEGER_CALLS) or node.kind == "big":
        return True
    if node.kind == "pow" and node.args[0].kind == "neg" and contains(node.args[1], frozenset(["sym"])):
        return True
    return any(needs_integers(arg) for arg in node.args)


def differ(left: Node, right: Node, *, positive: bool = False) -> bool | None:
    """Return True where a point shows a clear difference, False where all points agree, None without evidence."""
    integers = needs_integers(left) or needs_integers(right)
    agreed = 0
    floats = Floats()
    for index in range(6):
        negative = index >= 4 and not integers and not positive
        if index >= 4 and not negative:
            break
        point = Point(index, integers=integers, positive=not negative)
        try:
            value_l = evaluate(left, point, floats)
            value_r = evaluate(right, point, floats)
        except (Undefined, Unreadable, TooLarge, OverflowError, ValueError, ZeroDivisionError, TypeError):
            continue
        gap, size = abs(value_l - value_r), max(abs(value_l), abs(value_r))
        if not math.isfinite(gap) or not math.isfinite(size):
            continue
        if gap > 1e-6 * size and gap > 1e-9 * point.biggest:
            if negative and (abs(value_l.imag) > 1e-9 * size or abs(value_r.imag) > 1e-9 * size):
                continue
            return True
        agreed += 1
    return False if agreed >= 2 else None


def real_value(node: Node) -> float | None:
    """Return the float value of a constant, None where it has symbols or no finite real value."""
    if has_symbols(node):
        return None
    try:
        value = evaluate(node, Point(0), Floats())
    except (Undefined, Unreadable, TooLarge, OverflowError, ValueError, ZeroDivisionError, TypeError):
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
