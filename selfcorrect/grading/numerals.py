"""Numbers in words: ``twenty-five``, ``two thirds``, ``minus three and a half``; scale words such as ``million``."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

_SMALL = {
    name: value
    for value, name in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
}
_TENS = {
    name: 10 * value
    for value, name in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
}
_SCALES = {
    "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "quadrillion": 10**15, "dozen": 12, "score": 20, "gross": 144, "lakh": 10**5, "crore": 10**7, "mn": 10**6,
    "bn": 10**9,
}  # fmt: skip
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12, "hundredth": 100, "thousandth": 1000, "sixteenth": 16,
    "twentieth": 20, "millionth": 10**6,
}  # fmt: skip
_WORDS = frozenset([*_SMALL, *_TENS, *_SCALES, *_PARTS, *(f"{part}s" for part in _PARTS), *(f"{s}s" for s in _SCALES),
                    "halves", "and", "a", "an", "minus", "negative", "point", "over", "by"])  # fmt: skip
_COUNTED = frozenset(["score", "gross", "mn", "bn"])
"""Scale words that mean themselves only after a number."""


def scale(word: str) -> Fraction | None:
    """Return what a word after a number multiplies it by: thousand, dozen, halves, quarter; None for other words."""
    word = word.lower().strip(" .,")
    singular = "half" if word in ("halves", "half") else word.removesuffix("s")
    if word in _SCALES or singular in _SCALES:
        return Fraction(_SCALES.get(word) or _SCALES[singular])
    return Fraction(1, _PARTS[singular]) if singular in _PARTS else None


@lru_cache(maxsize=2048)
def number_in_words(text: str) -> Fraction | None:
    """Return the number that an English phrase names, None where it is no number."""
    words = re.findall(r"[^\W\d_]+|\d+|[^\s]", text.lower().replace("-", " "))
    if not words or len(words) > 16 or not all(word in _WORDS for word in words):
        return None
    sign = 1
    if words[0] in ("minus", "negative"):
        sign, words = -1, words[1:]
    value = _phrase(words)
    return None if value is None else sign * value


def _phrase(words: list[str]) -> Fraction | None:
    """Read ``two and three quarters``, ``half``, ``a dozen``, ``three point one four``, or a whole number."""
    if not words or words == ["a"] or words == ["an"] or words[0] in ("and", "over", "by"):
        return None
    for sign in ("over", "by"):
        if sign in words:
            place = words.index(sign)
            top, bottom = _whole(words[:place]), _whole(words[place + 1 :])
            return Fraction(top, bottom) if top is not None and bottom else None
    if "point" in words:
        place = words.index("point")
        whole, digits = _whole(words[:place]), [_SMALL.get(word, 10) for word in words[place + 1 :]]
        if whole is None or not digits or max(digits) > 9:
            return None
        return Fraction(whole) + sum(Fraction(digit, 10 ** (k + 1)) for k, digit in enumerate(digits))
    last = words[-1]
    part = _PARTS.get("half" if last == "halves" else last if last in _PARTS else last.removesuffix("s"))
    if part is None:
        value = _whole(words)
        return None if value is None else Fraction(value)
    before = words[:-1]
    whole = 0
    if "and" in before:
        place = len(before) - 1 - before[::-1].index("and")
        found = _whole(before[:place])
        if found is None:
            return None
        whole, before = found, before[place + 1 :]
    top = 1 if not before or before in (["a"], ["an"]) else _whole(before)
    if top is None or (not before and last not in ("half", "quarter")):
        return None
    return whole + Fraction(top, part)


def _whole(words: list[str]) -> int | None:
    """Return the whole number of words such as ``one hundred and twenty five thousand``."""
    total = current = 0
    seen = False
    for index, word in enumerate(words):
        if word == "and":
            if index in (0, len(words) - 1):
                return None
        elif word in ("a", "an"):
            if index or len(words) == 1:
                return None
            current, seen = 1, True
        elif word in _SMALL or word in _TENS:
            value = _SMALL.get(word, _TENS.get(word, 0))
            if seen and (current % 10 or (value >= 10 and current % 100)):
                return None
            current, seen = current + value, True
        elif (factor := _SCALES.get(word) or _SCALES.get(word.removesuffix("s"))) is not None:
            if not seen and word in _COUNTED:
                return None
            if word == "hundred":
                current = (current or 1) * 100
            else:
                total, current = total + (current or 1) * factor, 0
            seen = True
        else:
            return None
    return total + current if seen else None


def leading_number(text: str) -> tuple[Fraction, str] | None:
    """Return (number, other words) of ``twenty-five apples``; None where no number in words comes first."""
    words = text.replace("-", " ").split()
    for end in range(min(len(words), 10), 0, -1):
        value = number_in_words(" ".join(words[:end]))
        if value is not None:
            return value, " ".join(words[end:])
    return None
