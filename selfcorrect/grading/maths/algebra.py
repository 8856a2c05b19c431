"""Exact normal forms: quotients of Laurent polynomials with rational coefficients over *atoms*.

A polynomial is ``{monomial: Fraction}``, a monomial a sorted tuple of ``(atom, exponent)``. Atoms are text keys:

| atom | meaning | law kept |
|---|---|---|
| ``x`` | a symbol | exponents add, fractions allowed |
| ``#i`` | the imaginary unit | i² = −1 |
| ``#p2`` | the prime 2 under a root | exponent in (0, 1): linearly independent over Q (Besicovitch) |
| ``#pi`` ``#e`` | π, e | |
| ``@…`` | anything else (a function value, a root of a sum, a symbolic power), keyed by its normal argument | |

So a zero difference PROVES equality; a non-zero difference without ``@`` atoms proves inequality; with them it
proves nothing, and `numeric` looks further. Everything is bounded (`limits`).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TypeAlias

from selfcorrect.grading.maths.limits import (
    MAX_DETERMINANT,
    MAX_DIGITS,
    MAX_FACTORIAL,
    MAX_KEY_CHARS,
    MAX_POWER_OF_SUM,
    MAX_TERMS,
    TooLarge,
    Unreadable,
    found,
    spend,
)
from selfcorrect.grading.maths.tree import Node

Exponent: TypeAlias = Fraction | int
Monomial: TypeAlias = tuple[tuple[str, Exponent], ...]
Poly: TypeAlias = dict[Monomial, Fraction]

ONE = Fraction(1)
_UNIT: Poly = {(): ONE}
_MAX_BITS = int(MAX_DIGITS * 3.33)
_PRIME_BOUND = 20_000
_TRIG = {"tan": ("sin", "cos"), "cot": ("cos", "sin"), "sec": ("", "cos"), "csc": ("", "sin")}
_HYPERBOLIC = {"tanh": ("sinh", "cosh"), "coth": ("cosh", "sinh"), "sech": ("", "cosh"), "csch": ("", "sinh")}
_ODD = frozenset(["sin", "arcsin", "arctan", "sinh", "arcsinh", "arctanh"])
_EVEN = frozenset(["cos", "cosh", "abs"])


class Quotient:
    """A numerator and a denominator; a one-term denominator is folded into the numerator."""

    __slots__ = ("bottom", "top")

    def __init__(self, top: Poly, bottom: Poly = _UNIT) -> None:
        if len(bottom) == 1 and bottom is not _UNIT:
            (monomial, coefficient), *_ = bottom.items()
            if monomial or coefficient != 1:
                top = _times(top, {_power_monomial(monomial, -1): 1 / coefficient})
            bottom = _UNIT
        self.top = top
        self.bottom = bottom

    def rational(self) -> Fraction | None:
        """Return the value where it is a rational number, else None."""
        if not self.top:
            return Fraction(0)
        if self.bottom is _UNIT and len(self.top) == 1:
            return self.top.get(())
        return None


def constant(value: Fraction | int) -> Quotient:
    """Return a rational number as a quotient."""
    return Quotient({(): Fraction(value)} if value else {})


def atom(name: str, exponent: Exponent = 1) -> Quotient:
    """Return a symbol or opaque value as a quotient."""
    return Quotient({((name, exponent),): ONE})


# -- polynomials -----------------------------------------------------------------------------------------


def _power_monomial(monomial: Monomial, exponent: Exponent) -> Monomial:
    return tuple((name, power * exponent) for name, power in monomial)


def _reduce(exponents: dict[str, Exponent]) -> tuple[Monomial, Fraction]:
    """Return the monomial and the rational factor that i² = −1 and p^(1/2)·p^(1/2) = p free from it."""
    factor = ONE
    kept = []
    for name, exponent in exponents.items():
        if exponent == 0:
            continue
        if name[0] == "#":
            if name == "#i" and exponent.denominator == 1:
                turns = exponent.numerator % 4
                if turns >= 2:
                    factor = -factor
                if turns % 2 == 0:
                    continue
                exponent = 1
            elif name[1] == "p" and name[2:].isdigit():
                whole = exponent.numerator // exponent.denominator
                if whole:
                    factor *= rational_power(Fraction(int(name[2:])), whole)
                    exponent -= whole
                if exponent == 0:
                    continue
        kept.append((name, exponent))
    kept.sort()
    return tuple(kept), factor


def _times(left: Poly, right: Poly) -> Poly:
    if left is _UNIT or right is _UNIT:
        return right if left is _UNIT else left
    if len(left) * len(right) > MAX_TERMS * 20:
        raise TooLarge("a product of long sums")
    products = len(left) * len(right)
    spend(products if products < 9 else products * (1 + (_bits(left) + _bits(right)) // 64))
    result: Poly = {}
    for monomial_l, coefficient_l in left.items():
        for monomial_r, coefficient_r in right.items():
            coefficient = coefficient_l * coefficient_r
            if not monomial_l:
                monomial = monomial_r
            elif not monomial_r:
                monomial = monomial_l
            else:
                exponents = dict(monomial_l)
                for name, exponent in monomial_r:
                    exponents[name] = exponents.get(name, 0) + exponent
                monomial, factor = _reduce(exponents)
                coefficient *= factor
            total = result.get(monomial, 0) + coefficient
            if total:
                result[monomial] = total
            else:
                result.pop(monomial, None)
    if len(result) > MAX_TERMS:
        raise TooLarge("a long sum")
    for coefficient in result.values():
        if coefficient.numerator.bit_length() + coefficient.denominator.bit_length() > 2 * _MAX_BITS:
            raise TooLarge("a long number")
    return _settle(result)


def _bits(poly: Poly) -> int:
    """Return the bits of the longest coefficient; short sums of short numbers are not looked at closely."""
    return max((value.numerator.bit_length() + value.denominator.bit_length() for value in poly.values()), default=0)


def _settle(poly: Poly) -> Poly:
    """Reduce single monomials that came in unreduced (a power of one monomial)."""
    if all(_is_settled(monomial) for monomial in poly):
        return poly
    result: Poly = {}
    for monomial, coefficient in poly.items():
        reduced, factor = _reduce(dict(monomial))
        total = result.get(reduced, 0) + coefficient * factor
        if total:
            result[reduced] = total
        else:
            result.pop(reduced, None)
    return result


def _is_settled(monomial: Monomial) -> bool:
    for name, exponent in monomial:
        if name[0] == "#" and (
            (name == "#i" and exponent != 1) or (name[1] == "p" and name[2:].isdigit() and not 0 < exponent < 1)
        ):
            return False
    return True


def _plus(left: Poly, right: Poly, sign: int = 1) -> Poly:
    spend(1 + len(right))
    result = dict(left)
    for monomial, coefficient in right.items():
        own = coefficient if sign > 0 else -coefficient
        total = result[monomial] + own if monomial in result else own
        if total:
            result[monomial] = total
        else:
            result.pop(monomial, None)
    if len(result) > MAX_TERMS:
        raise TooLarge("a long sum")
    return result


# -- quotients -------------------------------------------------------------------------------------------


def add(left: Quotient, right: Quotient, sign: int = 1) -> Quotient:
    """Return left + sign·right."""
    if left.bottom is right.bottom or left.bottom == right.bottom:
        return Quotient(_plus(left.top, right.top, sign), left.bottom)
    top = _plus(_times(left.top, right.bottom), _times(right.top, left.bottom), sign)
    return Quotient(top, _times(left.bottom, right.bottom))


def multiply(left: Quotient, right: Quotient) -> Quotient:
    """Return left·right."""
    return Quotient(_times(left.top, right.top), _times(left.bottom, right.bottom))


def divide(left: Quotient, right: Quotient) -> Quotient:
    """Return left/right; raises Unreadable for a division by zero."""
    if not right.top:
        raise Unreadable("a division by zero")
    return Quotient(_times(left.top, right.bottom), _times(left.bottom, right.top))


def rational_power(base: Fraction, exponent: int) -> Fraction:
    """Return base**exponent for integers, within MAX_DIGITS."""
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits > 1 and bits * abs(exponent) > _MAX_BITS:
        raise TooLarge("a large power")
    if base == 0 and exponent < 0:
        raise Unreadable("a division by zero")
    return base**exponent


def power(base: Quotient, exponent: Quotient, *, positive: bool) -> Quotient:
    """Return base**exponent. ``positive`` takes symbols under even roots as positive quantities."""
    value = exponent.rational()
    if value is None:
        return _symbolic_power(base, exponent, positive=positive)
    if value.denominator == 1:
        return _integer_power(base, value.numerator)
    return _root_power(base, value, positive=positive)


def _integer_power(base: Quotient, exponent: int) -> Quotient:
    if exponent < 0:
        return divide(constant(1), _integer_power(base, -exponent))
    if len(base.top) == 1 and base.bottom is _UNIT:
        (monomial, coefficient), *_ = base.top.items()
        poly = {_power_monomial(monomial, exponent): rational_power(coefficient, exponent)}
        return Quotient(_settle(poly) if exponent else dict(_UNIT))
    if not base.top:
        if not exponent:
            raise Unreadable("zero to the power zero")
        return constant(0)
    if exponent > MAX_POWER_OF_SUM or math.comb(len(base.top) + exponent - 1, exponent) > MAX_TERMS * 4:
        raise TooLarge("a large power of a sum")
    result = constant(1)
    square = base
    while exponent:
        if exponent & 1:
            result = multiply(result, square)
        exponent >>= 1
        if exponent:
            square = multiply(square, square)
    return result


def _root_power(base: Quotient, exponent: Fraction, *, positive: bool) -> Quotient:
    """Return base**(p/q): primes and symbols leave the root one by one, a sum becomes an atom."""
    if not base.top:
        if exponent < 0:
            raise Unreadable("a division by zero")
        return constant(0)
    whole = exponent.numerator // exponent.denominator
    if base.bottom is not _UNIT:
        return divide(
            _root_power(Quotient(base.top), exponent, positive=positive),
            _root_power(Quotient(base.bottom), exponent, positive=positive),
        )
    if len(base.top) > 1:
        content, reduced = _content(base.top)
        outside = _root_power(constant(content), exponent, positive=positive)
        part = exponent - whole
        inside = atom("@(" + poly_key(reduced) + ")", part)
        if whole:
            inside = multiply(inside, _integer_power(Quotient(reduced), whole))
        return multiply(outside, inside)
    (monomial, coefficient), *_ = base.top.items()
    result = _number_root(coefficient, exponent)
    for name, power_inside in monomial:
        if name[0] == "#" and name not in ("#pi", "#e", "#i") and name[1] == "p":
            result = multiply(result, Quotient(_settle({((name, power_inside * exponent),): ONE})))
        elif name == "#i":
            result = multiply(result, atom("@(i)", exponent))
        elif (
            name in ("#pi", "#e")
            or positive
            or (power_inside.numerator % 2 and exponent.denominator % 2 == 0)
            or exponent.denominator % 2
        ):
            result = multiply(result, atom(name, power_inside * exponent))
        elif power_inside.denominator == 1:
            result = multiply(result, atom(f"@abs({name})", power_inside * exponent))
        else:
            result = multiply(result, atom(name, power_inside * exponent))
    return result


def _number_root(value: Fraction, exponent: Fraction) -> Quotient:
    """Return a rational number to a fractional power, in prime roots."""
    if value == 1:
        return constant(1)
    sign = constant(1)
    if value < 0:
        if exponent.denominator == 2:
            sign = atom("#i", Fraction(exponent.numerator))
            sign = Quotient(_settle(sign.top))
        elif exponent.denominator % 2:
            sign = constant(-1 if exponent.numerator % 2 else 1)
        else:
            sign = atom("@(-1)", exponent)
        value = -value
    poly: Poly = dict(_UNIT)
    for number, direction in ((value.numerator, 1), (value.denominator, -1)):
        for prime, count in _factors(number, exponent.denominator):
            poly = _times(poly, _settle({((f"#p{prime}", exponent * count * direction),): ONE}))
    return multiply(sign, Quotient(poly))


def _factors(number: int, index: int) -> list[tuple[int, int]]:
    """Return prime factors; what is left over beyond the trial bound must be prime, else TooLarge."""
    if number == 1:
        return []
    if number.bit_length() > _MAX_BITS:
        raise TooLarge("a long number under a root")
    spend(min(math.isqrt(number), _PRIME_BOUND) // 40)
    factors: list[tuple[int, int]] = []
    if index == 2 and number > 10**9:
        root = math.isqrt(number)
        if root * root == number:
            return [(prime, 2 * count) for prime, count in _factors(root, index)]
    candidate = 2
    while candidate * candidate <= number and candidate < _PRIME_BOUND:
        if number % candidate == 0:
            count = 0
            while number % candidate == 0:
                number //= candidate
                count += 1
            factors.append((candidate, count))
        candidate += 1 if candidate == 2 else 2
    if number > 1:
        if number > _PRIME_BOUND**2:
            raise TooLarge("a root of a number that is hard to factor")
        factors.append((number, 1))
    return factors


def _symbolic_power(base: Quotient, exponent: Quotient, *, positive: bool) -> Quotient:
    """Return base**(a + b·m + …) as base**a · (base**m)**b · …"""
    if exponent.bottom is not _UNIT:
        return atom(f"@^({key(base)})({key(exponent)})")
    result = constant(1)
    for monomial, coefficient in exponent.top.items():
        if not monomial:
            result = multiply(result, power(base, constant(coefficient), positive=positive))
            continue
        exponent_key = monomial_key(monomial)
        if base.bottom is _UNIT and len(base.top) == 1:
            (inside, number), *_ = base.top.items()
            if number < 0:
                result = multiply(result, atom(f"@^(-1)({exponent_key})", coefficient))
                number = -number
            for value, direction in ((number.numerator, 1), (number.denominator, -1)):
                for prime, count in _factors(value, 1):
                    result = multiply(result, atom(f"@^({prime})({exponent_key})", coefficient * count * direction))
            for name, inner in inside:
                result = multiply(result, atom(f"@^({name})({exponent_key})", coefficient * inner))
        else:
            result = multiply(result, atom(f"@^({key(base)})({exponent_key})", coefficient))
    return result


# -- keys ------------------------------------------------------------------------------------------------


def monomial_key(monomial: Monomial) -> str:
    """Return the text of a monomial."""
    return "*".join(name if exponent == 1 else f"{name}^{exponent}" for name, exponent in monomial)


def poly_key(poly: Poly) -> str:
    """Return the text of a polynomial, terms in a fixed order; raises TooLarge beyond MAX_KEY_CHARS."""
    terms = sorted((monomial_key(monomial), coefficient) for monomial, coefficient in poly.items())
    if sum(len(name) + _bits({(): coefficient}) // 3 for name, coefficient in terms) > MAX_KEY_CHARS:
        raise TooLarge("a long argument of a function")
    text = "+".join(f"{_text(coefficient)}{'*' if name else ''}{name}" for name, coefficient in terms)
    return text or "0"


def _text(value: Fraction) -> str:
    """Return a rational number as text; in base 16 where Python refuses long decimals."""
    if _bits({(): value}) < 10_000:
        return str(value)
    return f"{value.numerator:x}/{value.denominator:x}x"


def key(value: Quotient) -> str:
    """Return the text of a quotient: equal texts mean equal values (the reverse need not hold)."""
    if value.bottom is _UNIT:
        return poly_key(value.top)
    content, bottom = _content(value.bottom)
    top = {monomial: coefficient / content for monomial, coefficient in value.top.items()}
    return f"({poly_key(top)})/({poly_key(bottom)})"


def _content(poly: Poly) -> tuple[Fraction, Poly]:
    """Return the positive rational content and the primitive rest of a polynomial."""
    top = math.gcd(*(coefficient.numerator for coefficient in poly.values()))
    bottom = math.lcm(*(coefficient.denominator for coefficient in poly.values()))
    content = Fraction(top, bottom)
    return content, {monomial: coefficient / content for monomial, coefficient in poly.items()}


# -- comparing -------------------------------------------------------------------------------------------


def compare(left: Quotient, right: Quotient) -> bool | None:
    """Return True (proved equal), False (proved different) or None (opaque atoms stand in the way)."""
    difference = _plus(_times(left.top, right.bottom), _times(right.top, left.bottom), -1)
    if not difference:
        return True
    if any(name[0] == "@" for monomial in difference for name, _ in monomial):
        difference = _pythagoras(difference)
        if not difference:
            return True
        return None
    return False


def _pythagoras(poly: Poly) -> Poly:
    """Replace sin² by 1 − cos²."""
    for _ in range(4):
        for monomial in poly:
            found = next(((n, e) for n, e in monomial if n.startswith("@sin(") and e >= 2 and e.denominator == 1), None)
            if found:
                break
        else:
            return poly
        result: Poly = {}
        for monomial, coefficient in poly.items():
            piece: Poly = {(): coefficient}
            for name, exponent in monomial:
                if name.startswith("@sin(") and exponent >= 2 and exponent.denominator == 1 and exponent <= 20:
                    square: Poly = {(): ONE, (("@cos(" + name[5:], 2),): -ONE}
                    for _ in range(int(exponent) // 2):
                        piece = _times(piece, square)
                    if exponent % 2:
                        piece = _times(piece, {((name, 1),): ONE})
                else:
                    piece = _times(piece, {((name, exponent),): ONE})
            result = _plus(result, piece)
        if result == poly:
            return poly
        poly = result
    return poly


def proportional(left: Quotient, right: Quotient) -> bool | None:
    """Compare ``left = 0`` with ``right = 0``: equal up to a non-zero constant factor (tops only)."""
    tops = [_without_negative_powers(left.top), _without_negative_powers(right.top)]
    if not tops[0] or not tops[1]:
        return tops[0] == tops[1]
    if tops[0].keys() == tops[1].keys():
        ratios = {coefficient / tops[1][monomial] for monomial, coefficient in tops[0].items()}
        if len(ratios) == 1:
            return True
    opaque = any(name[0] == "@" for poly in tops for monomial in poly for name, _ in monomial)
    return None if opaque else False


def positively_proportional(left: Quotient, right: Quotient) -> bool:
    """Compare ``left > 0`` with ``right > 0``: equal up to a positive constant factor."""
    if left.bottom is not _UNIT or right.bottom is not _UNIT or left.top.keys() != right.top.keys() or not left.top:
        return False
    ratios = {coefficient / right.top[monomial] for monomial, coefficient in left.top.items()}
    return len(ratios) == 1 and ratios.pop() > 0


def _without_negative_powers(poly: Poly) -> Poly:
    lowest: dict[str, Exponent] = {}
    for monomial in poly:
        for name, exponent in monomial:
            if name[0] != "#" and exponent < lowest.get(name, Fraction(0)):
                lowest[name] = exponent
    if not lowest:
        return poly
    return _times(poly, {tuple(sorted((name, -exponent) for name, exponent in lowest.items())): ONE})


# -- from trees ------------------------------------------------------------------------------------------


def number(text: str) -> Fraction:
    """Return a decimal text (``12``, ``.5``, ``1.``, ``1e-5``) exactly, within MAX_DIGITS."""
    if text.isdecimal() and len(text) <= MAX_DIGITS:
        return Fraction(int(text))
    mantissa, _, exponent = text.lower().partition("e")
    if len(mantissa) > MAX_DIGITS or len(exponent) > 6 or (exponent and abs(int(exponent)) > MAX_DIGITS):
        raise TooLarge("a long number")
    whole, _, decimals = mantissa.partition(".")
    value = Fraction(int((whole + decimals) or "0"))
    shift = (int(exponent) if exponent else 0) - len(decimals)
    if not shift:
        return value
    return value * 10**shift if shift >= 0 else value / 10**-shift


def normal_form(node: Node, *, positive: bool = False, inside: bool = False) -> Quotient:
    """Return the normal form of a scalar tree; raises Unreadable where the tree is not a scalar.

    ``inside`` is True under a function: there a degree sign means the radian value.
    """
    kind = node.kind
    args = node.args
    if kind == "num":
        return constant(number(node.value))
    if kind == "sym":
        return _symbol(node.value)
    if kind == "neg":
        return add(constant(0), normal_form(args[0], positive=positive, inside=inside), -1)
    if kind == "add":
        total = normal_form(args[0], positive=positive, inside=inside)
        for arg in args[1:]:
            total = add(total, normal_form(arg, positive=positive, inside=inside))
        return total
    if kind == "mul":
        total = normal_form(args[0], positive=positive, inside=inside)
        for arg in args[1:]:
            total = multiply(total, normal_form(arg, positive=positive, inside=inside))
        return total
    if kind == "div":
        return divide(*(normal_form(arg, positive=positive, inside=inside) for arg in args))
    if kind == "pow":
        base = normal_form(args[0], positive=positive, inside=inside)
        return power(base, normal_form(args[1], positive=positive, inside=True), positive=positive)
    if kind == "deg":
        value = normal_form(args[0], positive=positive, inside=inside)
        return multiply(value, Quotient({(("#pi", 1),): Fraction(1, 180)}))
    if kind == "pct":
        return multiply(normal_form(args[0], positive=positive), constant(Fraction(1, 100)))
    if kind == "unit":
        return normal_form(args[0], positive=positive)
    if kind == "base":
        return constant(based_number(node))
    if kind == "fact":
        return _factorial(normal_form(args[0], positive=positive))
    if kind == "call":
        return _call(node, positive)
    if kind == "apply":
        return atom(f"@apply:{node.value}({', '.join(tree_key(arg) for arg in args)})" if node.value == "deriv" else
                    f"{node.value}({', '.join(tree_key(arg) for arg in args)})")  # fmt: skip
    if kind == "big":
        return atom(f"@big({tree_key(node)})")
    raise Unreadable(f"a {kind} where a quantity is needed")


def _symbol(name: str) -> Quotient:
    if name in ("pi", "e", "i"):
        return atom("#" + name)
    if name in ("oo", "...", "EMPTY", "RR", "ZZ", "QQ", "NN", "CC", "NONE"):
        raise Unreadable(f"{name} in a calculation")
    return atom(name)


def based_number(node: Node) -> Fraction:
    """Return the value of ``52_8``; raises Unreadable for a digit that the base does not have."""
    base = int(node.args[0].value) if len(node.args[0].value) <= 3 else 0
    digits = node.value
    highest = "0123456789a"[min(base, 10)]
    if not 2 <= base <= 36 or not digits.isdigit() or len(digits) > MAX_DIGITS or max(digits) >= highest:
        raise Unreadable(f"{digits} in base {node.args[0].value}")
    value = 0
    for digit in digits:
        value = value * base + int(digit)
    return Fraction(value)


def _factorial(value: Quotient) -> Quotient:
    number_value = value.rational()
    if number_value is None:
        return atom(f"@fact({key(value)})")
    if number_value.denominator != 1 or number_value < 0:
        raise Unreadable("a factorial of a number that is no natural number")
    if number_value > MAX_FACTORIAL:
        raise TooLarge("a large factorial")
    return constant(math.factorial(number_value.numerator))


def _call(node: Node, positive: bool) -> Quotient:
    name = node.value
    if name == "root":
        index = normal_form(node.args[0], positive=positive)
        radicand = normal_form(node.args[1], positive=positive)
        return power(radicand, divide(constant(1), index), positive=positive)
    if name == "det" and len(node.args) == 1 and node.args[0].kind == "matrix":
        return _determinant(node.args[0], positive)
    args = [normal_form(arg, positive=positive, inside=True) for arg in node.args]
    values = [arg.rational() for arg in args]
    if name == "exp" and len(args) == 1:
        return power(atom("#e"), args[0], positive=positive)
    if name in ("ln", "log", "lg"):
        return _logarithm(name, args)
    if name in _TRIG or name in _HYPERBOLIC:
        over, under = (_TRIG | _HYPERBOLIC)[name]
        bottom = _opaque(under, args)
        return divide(_opaque(over, args) if over else constant(1), bottom)
    exact = _exact_call(name, [value for value in values if value is not None]) if None not in values else None
    return exact if exact is not None else _opaque(name, args)


def _determinant(matrix: Node, positive: bool) -> Quotient:
    """Return the determinant of a square matrix of at most MAX_DETERMINANT rows."""
    rows, columns = (int(part) for part in matrix.value.split("x"))
    if rows != columns:
        raise Unreadable("a determinant of a matrix that is not square")
    if rows > MAX_DETERMINANT:
        raise TooLarge("a large determinant")
    cells = [normal_form(cell, positive=positive) for cell in matrix.args]

    def minor(row: int, remaining: tuple[int, ...]) -> Quotient:
        if not remaining:
            return constant(1)
        total = constant(0)
        for place, column in enumerate(remaining):
            rest = remaining[:place] + remaining[place + 1 :]
            term = multiply(cells[row * columns + column], minor(row + 1, rest))
            total = add(total, term, -1 if place % 2 else 1)
        return total

    return minor(0, tuple(range(columns)))


def _exact_call(name: str, values: list[Fraction | None]) -> Quotient | None:
    numbers = [value for value in values if value is not None]
    if not numbers:  # a function of nothing has no value
        return None
    integers = [value.numerator for value in numbers if value.denominator == 1]
    if name == "floor":
        return constant(math.floor(numbers[0]))
    if name == "ceil":
        return constant(math.ceil(numbers[0]))
    if name == "abs":
        return constant(abs(numbers[0]))
    if name in ("max", "min"):
        return constant(max(numbers) if name == "max" else min(numbers))
    if len(integers) == len(numbers):
        if name == "gcd":
            return constant(math.gcd(*integers))
        if name == "lcm":
            return constant(math.lcm(*integers))
        if name == "mod" and len(integers) == 2 and integers[1]:
            return constant(integers[0] % integers[1])
        if name == "binom" and 0 <= integers[0] <= MAX_FACTORIAL and integers[1] >= 0:
            return constant(math.comb(integers[0], integers[1]))
    return None


def _logarithm(name: str, args: list[Quotient]) -> Quotient:
    if len(args) == 2:
        return divide(_logarithm("ln", args[:1]), _logarithm("ln", args[1:]))
    argument = args[0]
    value = argument.rational()
    result = constant(0)
    if argument.bottom is _UNIT and len(argument.top) == 1:
        (monomial, coefficient), *_ = argument.top.items()
        if coefficient > 0 and (value is not None or all(name == "#e" or name[:2] == "#p" for name, _ in monomial)):
            for number_part, direction in ((coefficient.numerator, 1), (coefficient.denominator, -1)):
                for prime, count in _factors(number_part, 1):
                    result = add(result, multiply(constant(count * direction), atom(f"@ln({prime})")))
            for base_name, exponent in monomial:
                inner = constant(1) if base_name == "#e" else atom(f"@ln({base_name[2:] or base_name})")
                inner = atom("@ln(#pi)") if base_name == "#pi" else inner
                result = add(result, multiply(constant(exponent), inner))
            return divide(result, add(atom("@ln(2)"), atom("@ln(5)"))) if name == "lg" else result
    natural = _opaque("ln", args)
    return divide(natural, add(atom("@ln(2)"), atom("@ln(5)"))) if name == "lg" else natural


def _opaque(name: str, args: list[Quotient]) -> Quotient:
    """Return a function value as an atom; sine, cosine and their like lose the sign of the argument."""
    if len(args) == 1 and (name in _ODD or name in _EVEN):
        argument = args[0]
        if not argument.top and name in ("sin", "cos", "sinh", "cosh", "arcsin", "arctan", "abs"):
            return constant(1 if name in ("cos", "cosh") else 0)
        first = min(argument.top, key=monomial_key, default=())
        if argument.top and argument.top[first] < 0:
            flipped = add(constant(0), argument, -1)
            value = atom(f"@{name}({key(flipped)})")
            return add(constant(0), value, -1) if name in _ODD else value
    keys = [key(arg) for arg in args]
    if name in ("gcd", "lcm", "max", "min"):
        keys.sort()
    return atom(f"@{name}({', '.join(keys)})")


def tree_key(node: Node) -> str:
    """Return a text for any tree in which equal scalars look alike; worked out once in a grade."""
    known = found()
    if node not in known:
        try:
            text = key(normal_form(node)) if node.kind not in ("big", "apply") else _plain_key(node)
        except (Unreadable, TooLarge):
            text = _plain_key(node)
        known[node] = text
    return str(known[node])


def _plain_key(node: Node) -> str:
    text = f"{node.kind}:{node.value}[{', '.join(tree_key(arg) for arg in node.args)}]"
    if len(text) > MAX_KEY_CHARS:
        raise TooLarge("a long argument of a function")
    return text


def tree(value: Quotient) -> Node | None:
    """Return a tree of a normal form in letters, π, e, i and roots of primes; None where it has opaque values."""
    parts = [_sum_tree(poly) for poly in (value.top, value.bottom)]
    if parts[0] is None or parts[1] is None:
        return None
    return parts[0] if value.bottom is _UNIT else Node("div", "", (parts[0], parts[1]))


def _sum_tree(poly: Poly) -> Node | None:
    terms = []
    for monomial, coefficient in poly.items():
        factors = [_fraction_tree(coefficient)]
        for name, exponent in monomial:
            if name[0] == "@" or not (name[0] == "#" or name.isidentifier()):
                return None
            letter = Node("sym", name.lstrip("#")) if name[:2] != "#p" or name == "#pi" else Node("num", name[2:])
            factors.append(letter if exponent == 1 else Node("pow", "", (letter, _fraction_tree(exponent))))
        terms.append(factors[0] if len(factors) == 1 else Node("mul", "", tuple(factors)))
    if not terms:
        return Node("num", "0")
    return terms[0] if len(terms) == 1 else Node("add", "", tuple(terms))


def _fraction_tree(value: Exponent) -> Node:
    top = Node("num", str(abs(value.numerator)))
    size = top if value.denominator == 1 else Node("div", "", (top, Node("num", str(value.denominator))))
    return Node("neg", "", (size,)) if value < 0 else size
