"""Trees -> SymPy expressions, for integrals, limits, infinite sums and identities. Imported in the worker only.

Expressions are built from the reader's own tree, node by node: no raw text ever reaches SymPy's parsers, so
nothing in an answer can be executed. Only the functions named here exist. Sums, integrals and limits are evaluated
where they stand, and every value on the way must be finite: what is multiplied by 0 later must have existed.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import sympy

from selfcorrect.grading.maths.algebra import based_number, number
from selfcorrect.grading.maths.limits import Unreadable
from selfcorrect.grading.maths.tree import Node, num, show

_FUNCTIONS: dict[str, Any] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "arccot": sympy.acot, "arcsec": sympy.asec,
    "arccsc": sympy.acsc, "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh, "coth": sympy.coth,
    "sech": sympy.sech, "csch": sympy.csch, "arcsinh": sympy.asinh, "arccosh": sympy.acosh, "arctanh": sympy.atanh,
    "exp": sympy.exp, "ln": sympy.log, "abs": sympy.Abs, "floor": sympy.floor, "ceil": sympy.ceiling,
    "binom": sympy.binomial, "gcd": sympy.gcd, "lcm": sympy.lcm, "max": sympy.Max, "min": sympy.Min,
    "Gamma": sympy.gamma, "erf": sympy.erf, "sgn": sympy.sign, "Re": sympy.re, "Im": sympy.im, "mod": sympy.Mod,
    "fact2": sympy.factorial2, "zeta": sympy.zeta,
}  # fmt: skip
_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}
_MAX_POWER = 2_000
_MAX_SPAN = {"sum": 10_000, "prod": 1_000, "int": 10**9}
"""Longest finite range that SymPy is asked about; infinite ones have closed forms or none."""


_MAX_BITS = 100_000
"""Bits of a number that a power or a product of powers may reach."""
_OPEN = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit)
_INFINITE = (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan, sympy.AccumBounds)


class NotFinite(Exception):
    """The tree, or a part of it, has no finite value."""


def equal(response: Node, gold: Node, *, positive: bool, state: MutableMapping[str, str]) -> bool | None:
    """Return whether SymPy finds the two sides equal; None where it cannot tell.

    ``state`` gets ``how``, and ``blame`` as soon as the reference has been evaluated: what takes long then is the
    response's. Raises Unreadable where a side has no closed form.
    """
    right = to_sympy(gold, positive)
    state["blame"] = "response"
    try:
        left = to_sympy(response, positive)
    except NotFinite:
        state["how"] = "as the response has no finite value"
        return False
    state["how"] = "by SymPy (their difference)"
    difference = left - right
    simplified = difference if difference == 0 else sympy.simplify(difference)
    if simplified == 0:
        state["how"] = "by SymPy (their difference is 0)"
        return True
    verdict = False if simplified.is_nonzero else simplified.equals(0)
    return None if verdict is None else bool(verdict)


def has_value(tree: Node, *, positive: bool) -> bool:
    """True where SymPy finds a closed form with a finite value."""
    try:
        to_sympy(tree, positive)
    except NotFinite:
        return False
    return True


def warm_up() -> None:
    """Load the parts of SymPy that load themselves on first use."""
    x = sympy.Symbol("x", real=True)
    sympy.Integral(x**2 * sympy.exp(x), (x, 0, 1)).doit()
    sympy.Limit(sympy.sin(x) / x, x, 0).doit()
    sympy.simplify(sympy.Sum(1 / x**2, (x, 1, sympy.oo)).doit())


def to_sympy(node: Node, positive: bool) -> Any:
    """Return the SymPy expression of a scalar tree, everything evaluated.

    Raises NotFinite for a part without a finite value, Unreadable off the allow-list and for an integral, sum or limit
    that has no closed form: what is multiplied by 0 later must have been seen to exist.
    """
    if node == Node("sym", "oo"):
        raise NotFinite("an infinity in a calculation")
    value = _built(node, positive)
    if value.has(*_INFINITE):
        raise NotFinite(f"{node.kind} {node.value}")
    return value


def _built(node: Node, positive: bool) -> Any:
    kind, args = node.kind, node.args
    if kind == "num":
        value = number(node.value)
        return sympy.Rational(value.numerator, value.denominator)
    if kind == "base":
        return sympy.Integer(int(based_number(node)))
    if kind == "sym":
        if node.value in _CONSTANTS:
            return _CONSTANTS[node.value]
        return sympy.Symbol(node.value, real=True, positive=True if positive else None)
    if kind == "apply":
        return sympy.Symbol(show(node), real=True)
    if kind == "big":
        return _big(node, positive)
    values = [to_sympy(arg, positive) for arg in args]
    if kind == "add":
        return sympy.Add(*values)
    if kind == "mul":
        return sympy.Mul(*values)
    if kind == "neg":
        return -values[0]
    if kind == "div":
        _refuse_zero(values[1])
        return values[0] / values[1]
    if kind == "pow":
        return _power(*values)
    if kind == "fact":
        if values[0].is_number and values[0] > _MAX_POWER:
            raise Unreadable("a large factorial")
        return sympy.factorial(values[0])
    if kind == "pct":
        return values[0] / 100
    if kind == "deg":
        return values[0] * sympy.pi / 180
    if kind == "unit":
        return values[0]
    if kind == "call":
        if node.value == "root":
            _refuse_zero(values[0])
            return sympy.real_root(values[1], values[0]) if values[1].is_number else values[1] ** (1 / values[0])
        if node.value in ("log", "lg"):
            return _logarithm(values[0], (values[1:] or [10 if node.value == "lg" else sympy.E])[0])
        if node.value in _FUNCTIONS:
            return _FUNCTIONS[node.value](*values)
    raise Unreadable(f"{kind} {node.value}")


def _logarithm(value: Any, base: Any) -> Any:
    """Return a logarithm; raises NotFinite for a base, or a value, that has none."""
    if base.is_number and base.is_positive is not True:
        raise NotFinite("a base that is not positive")
    top, bottom = sympy.log(value), sympy.log(base)
    _refuse_zero(bottom)
    if top.has(*_INFINITE) or bottom.has(*_INFINITE):
        raise NotFinite("a logarithm of zero")
    return top / bottom


def _power(base: Any, exponent: Any) -> Any:
    if exponent.is_number:
        if abs(exponent) > _MAX_POWER:
            raise Unreadable("a large power")
        if exponent.is_positive is not True:
            _refuse_zero(base)
        if base.is_Rational and (base.p.bit_length() + base.q.bit_length()) * abs(exponent) > _MAX_BITS:
            raise Unreadable("a large power")
    return base**exponent


def _refuse_zero(value: Any) -> None:
    """Raise NotFinite for a constant divisor that is zero, or too close to it to tell."""
    if value == 0 or (value.is_number and abs(value.evalf(30)) < 1e-20):
        raise NotFinite("a division by zero")


def _big(node: Node, positive: bool) -> Any:
    variable, lower, upper, body = node.args
    if variable.kind != "sym" or variable.value == "NONE":
        raise Unreadable("a big operator without its variable")
    name, inside = to_sympy(variable, positive), to_sympy(body, positive)
    if node.value == "lim":
        return _settled(_limit(lower, name, inside, positive))
    bounds = [_bound(bound, positive) for bound in (lower, upper)]
    if node.value == "int" and bounds == [None, None]:
        return _settled(sympy.Integral(inside, name).doit())
    if None in bounds:
        raise Unreadable("a bound is missing")
    span = bounds[1] - bounds[0]
    if span.is_finite and span.is_number:
        if span > _MAX_SPAN[node.value]:
            raise Unreadable("a long sum or product")
        if span < 0 if node.value != "int" else span == 0:
            raise NotFinite("a sum without terms, or an integral over nothing")
        if node.value != "int" and span <= _WRITTEN_OUT:
            return _written_out(node, int(bounds[0]), int(bounds[1]), positive)
    operator = {"sum": sympy.Sum, "prod": sympy.Product, "int": sympy.Integral}[node.value]
    return _settled(operator(inside, (name, *bounds)).doit())


_WRITTEN_OUT = 100
"""Sums and products of at most this many terms are written out: a term without a value is not lost."""


def _written_out(node: Node, first: int, last: int, positive: bool) -> Any:
    variable, _, _, body = node.args
    terms = [to_sympy(_put(body, variable, number_), positive) for number_ in range(first, last + 1)]
    return sympy.Add(*terms) if node.value == "sum" else sympy.Mul(*terms)


def _put(node: Node, variable: Node, value: int) -> Node:
    """Return a tree with a whole number in the place of a variable, but not where that is bound again."""
    if node == variable:
        return num(value) if value >= 0 else Node("neg", "", (num(-value),))
    if node.kind == "big" and node.args[0] == variable:
        return node._replace(args=(variable, *(_put(arg, variable, value) for arg in node.args[1:3]), node.args[3]))
    return node._replace(args=tuple(_put(arg, variable, value) for arg in node.args)) if node.args else node


def _settled(value: Any) -> Any:
    """Return an evaluated sum, integral or limit; of cases the first, where the last is that it does not converge."""
    if isinstance(value, sympy.Piecewise) and value.args[-1][0].has(*_OPEN):
        value = value.args[0][0]
    if value.has(*_OPEN):
        raise Unreadable("SymPy finds no closed form")
    return value


def _limit(place: Node, name: Any, inside: Any, positive: bool) -> Any:
    """Return a limit: from the side that is written, else from both, which must agree."""
    side = "+-"
    if place.kind == "call" and place.value in ("side+", "side-"):
        side, place = place.value[-1], place.args[0]
    at = _bound(place, positive)
    if at in (sympy.oo, -sympy.oo):
        return sympy.Limit(inside, name, at).doit()
    try:
        return sympy.Limit(inside, name, at, dir=side).doit()
    except ValueError as failure:
        raise NotFinite("a limit whose sides differ") from failure


def _bound(node: Node, positive: bool) -> Any:
    """Return a bound, which alone may be infinite; None for one that is not written."""
    if node == Node("sym", "NONE"):
        return None
    if node.kind == "neg" and node.args[0] == Node("sym", "oo"):
        return -sympy.oo
    return sympy.oo if node == Node("sym", "oo") else to_sympy(node, positive)
