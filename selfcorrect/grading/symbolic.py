"""Trees -> SymPy expressions, for integrals, limits, infinite sums and identities. Imported in the worker only.

Expressions are built from the reader's own tree, node by node: no raw text ever reaches SymPy's parsers, so
nothing in an answer can be executed. Only the functions named here exist.
"""

from __future__ import annotations

from typing import Any

import sympy

from selfcorrect.grading.algebra import based_number, number
from selfcorrect.grading.limits import Unreadable
from selfcorrect.grading.nodes import Node, show

_FUNCTIONS: dict[str, Any] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "arccot": sympy.acot, "arcsec": sympy.asec,
    "arccsc": sympy.acsc, "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh, "coth": sympy.coth,
    "sech": sympy.sech, "csch": sympy.csch, "arcsinh": sympy.asinh, "arccosh": sympy.acosh, "arctanh": sympy.atanh,
    "exp": sympy.exp, "ln": sympy.log, "abs": sympy.Abs, "floor": sympy.floor, "ceil": sympy.ceiling,
    "binom": sympy.binomial, "gcd": sympy.gcd, "lcm": sympy.lcm, "max": sympy.Max, "min": sympy.Min,
    "Gamma": sympy.gamma, "erf": sympy.erf, "sgn": sympy.sign, "Re": sympy.re, "Im": sympy.im, "mod": sympy.Mod,
    "fact2": sympy.factorial2,
}  # fmt: skip
_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}
_MAX_POWER = 2_000
_MAX_SPAN = {"sum": 10_000, "prod": 1_000, "int": 10**9}
"""Longest finite range that SymPy is asked about; infinite ones have closed forms or none."""


def equal(left: Node, right: Node, *, positive: bool) -> bool | None:
    """Return whether SymPy finds the two sides equal; None where it cannot tell."""
    sides = [to_sympy(node, positive).doit() for node in (left, right)]
    difference = sides[0] - sides[1]
    if difference == 0:
        return True
    if difference.has(sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit):
        return None
    simplified = sympy.simplify(difference)
    if simplified == 0:
        return True
    return False if simplified.is_nonzero else simplified.equals(0)


def warm_up() -> None:
    """Load the parts of SymPy that load themselves on first use."""
    x = sympy.Symbol("x", real=True)
    sympy.Integral(x**2 * sympy.exp(x), (x, 0, 1)).doit()
    sympy.Limit(sympy.sin(x) / x, x, 0).doit()
    sympy.simplify(sympy.Sum(1 / x**2, (x, 1, sympy.oo)).doit())


def to_sympy(node: Node, positive: bool) -> Any:
    """Return the SymPy expression of a scalar tree; raises Unreadable for anything off the allow-list."""
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
        return values[0] / values[1]
    if kind == "pow":
        if values[1].is_number and abs(values[1]) > _MAX_POWER:
            raise Unreadable("a large power")
        return values[0] ** values[1]
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
            return sympy.real_root(values[1], values[0]) if values[1].is_number else values[1] ** (1 / values[0])
        if node.value in ("log", "lg"):
            return sympy.log(values[0], *(values[1:] or ([10] if node.value == "lg" else [])))
        if node.value in _FUNCTIONS:
            return _FUNCTIONS[node.value](*values)
    raise Unreadable(f"{kind} {node.value}")


def _big(node: Node, positive: bool) -> Any:
    variable, lower, upper, body = node.args
    if variable.kind != "sym" or variable.value == "NONE":
        raise Unreadable("a big operator without its variable")
    name, inside = to_sympy(variable, positive), to_sympy(body, positive)
    none = Node("sym", "NONE")
    bounds: list[Any] = [None if bound == none else to_sympy(bound, positive) for bound in (lower, upper)]
    if node.value == "lim":
        return sympy.Limit(inside, name, bounds[0])
    if node.value == "int" and bounds == [None, None]:
        return sympy.Integral(inside, name)
    if None in bounds:
        raise Unreadable("a bound is missing")
    span = bounds[1] - bounds[0]
    if span.is_finite and span.is_number and span > _MAX_SPAN[node.value]:
        raise Unreadable("a long sum or product")
    operator = {"sum": sympy.Sum, "prod": sympy.Product, "int": sympy.Integral}[node.value]
    return operator(inside, (name, *bounds))
