"""Compare rational numbers and rational functions of any size exactly: by their values modulo two large primes.

Every law of arithmetic holds modulo a prime, so two values that differ there ARE different, however small the
difference is beside them (``2^{100000}+1`` and ``2^{100000}``). Values that agree modulo two primes of 127 bits are
taken as equal. The primes, and the letters' values, are drawn from both texts: no answer can be written for them.
"""

from __future__ import annotations

import math
from functools import lru_cache
from hashlib import blake2b

from selfcorrect.grading.maths.algebra import based_number, normal_form, number
from selfcorrect.grading.maths.limits import TooLarge, Unreadable, spend
from selfcorrect.grading.maths.tree import Node, show

BITS = 127
PRIMES = 2
_LARGEST_FACTORIAL = 50_000
_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
_SMALL_PRIMES = math.prod(n for n in range(3, 1000, 2) if all(n % k for k in range(3, 32, 2) if k < n))


class NotRational(Exception):
    """The tree is not made of numbers, letters and arithmetic alone."""


class NoValue(Exception):
    """The tree divides by zero, or raises zero to a power that is not positive."""


def same(left: Node, right: Node) -> bool | None:
    """Return whether two trees are the same rational number or function; None where one is something else.

    A tree that divides by zero is equal to nothing.
    """
    if not (_is_arithmetic(left) and _is_arithmetic(right)):
        return None
    seed = blake2b(repr((left, right)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    try:
        for index in range(PRIMES):
            prime = _prime(seed, index)
            if _value(left, prime, seed) != _value(right, prime, seed):
                return False
    except (NotRational, TooLarge, Unreadable):
        return None
    except NoValue:
        return False
    return True


_LEAVES = frozenset(["num", "sym", "apply", "base", "fact"])
_ARITHMETIC = frozenset(["add", "mul", "neg", "div", "pct", "unit"])


def _is_arithmetic(node: Node) -> bool:
    """True for numbers, letters and arithmetic; what an exponent or a factorial holds is looked at later."""
    if node.kind == "pow":
        return _is_arithmetic(node.args[0])
    return node.kind in _LEAVES or (node.kind in _ARITHMETIC and all(map(_is_arithmetic, node.args)))


def _value(node: Node, prime: int, seed: bytes) -> int:
    """Return the tree's value modulo the prime."""
    spend(1)
    kind, args = node.kind, node.args
    if kind == "num":
        value = number(node.value)
        return value.numerator * _inverse(value.denominator, prime) % prime
    if kind == "sym":
        if node.value in ("oo", "...", "EMPTY", "RR", "ZZ", "QQ", "NN", "CC", "NONE", "circ"):
            raise NotRational
        return _root_of_minus_one(prime) if node.value == "i" else _letter(node.value, prime, seed)
    if kind == "apply":
        return _letter(show(node), prime, seed)
    if kind == "add":
        return sum(_value(arg, prime, seed) for arg in args) % prime
    if kind == "mul":
        product = 1
        for arg in args:
            product = product * _value(arg, prime, seed) % prime
        return product
    if kind == "neg":
        return -_value(args[0], prime, seed) % prime
    if kind == "div":
        top = _value(args[0], prime, seed)
        return top * _inverse(_value(args[1], prime, seed), prime) % prime
    if kind == "pow":
        return _power(_value(args[0], prime, seed), _integer(args[1]), prime)
    if kind == "fact":
        return _factorial(_integer(args[0]), prime)
    if kind == "pct":
        return _value(args[0], prime, seed) * _inverse(100, prime) % prime
    if kind == "unit":
        return _value(args[0], prime, seed)
    if kind == "base":
        return based_number(node).numerator % prime
    raise NotRational


def _integer(node: Node) -> int:
    """Return an exponent or the argument of a factorial, which must be a whole number that can be written out."""
    value = normal_form(node).rational()
    if value is None or value.denominator != 1:
        raise NotRational
    return value.numerator


def _power(base: int, exponent: int, prime: int) -> int:
    if base == 0:
        if exponent <= 0:
            raise NoValue
        return 0
    return pow(base, exponent, prime)


def _inverse(value: int, prime: int) -> int:
    if value % prime == 0:
        raise NoValue
    return pow(value, -1, prime)


def _factorial(of: int, prime: int) -> int:
    if of < 0:
        raise NoValue
    if of > _LARGEST_FACTORIAL:
        raise TooLarge("a large factorial")
    spend(of // 10)
    product = 1
    for factor in range(2, of + 1):
        product = product * factor % prime
    return product


def _letter(name: str, prime: int, seed: bytes) -> int:
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=32, key=seed).digest()
    return int.from_bytes(digest, "big") % prime


@lru_cache(maxsize=64)
def _root_of_minus_one(prime: int) -> int:
    """Return a number whose square is -1 modulo a prime that leaves 1 when divided by 4."""
    candidate = 2
    while pow(candidate, (prime - 1) // 2, prime) == 1:
        candidate += 1
    return pow(candidate, (prime - 1) // 4, prime)


@lru_cache(maxsize=64)
def _prime(seed: bytes, index: int) -> int:
    """Return the first prime of BITS bits from a seeded start that leaves 1 when divided by 4."""
    start = int.from_bytes(blake2b(bytes([index]), digest_size=16, key=seed).digest(), "big") >> (128 - BITS)
    candidate = (start | 1 << (BITS - 1)) & ~3 | 1
    while not _is_prime(candidate):
        candidate += 4
    return candidate


def _is_prime(number_: int) -> bool:
    """Miller and Rabin's test to twelve bases."""
    if math.gcd(number_, _SMALL_PRIMES) > 1:
        return False
    odd, twos = number_ - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in _WITNESSES:
        power = pow(base, odd, number_)
        if power in (1, number_ - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number_
            if power == number_ - 1:
                break
        else:
            return False
    return True
