"""Numbers in words: ``twenty-five``, ``two thirds``, ``half a dozen``, ``四十七``; scale words such as ``million``."""

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
    "bn": 10**9, "myriad": 10**4,
}  # fmt: skip
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12, "hundredth": 100, "thousandth": 1000, "sixteenth": 16,
    "twentieth": 20, "millionth": 10**6,
}  # fmt: skip
_WORDS = frozenset([*_SMALL, *_TENS, *_SCALES, *_PARTS, *(f"{part}s" for part in _PARTS), *(f"{s}s" for s in _SCALES),
                    "halves", "and", "a", "an", "of", "minus", "negative", "point", "over", "by"])  # fmt: skip
_COUNTED = frozenset(["score", "gross", "mn", "bn", "myriad"])
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
    if not text.isascii():
        return _number_in_signs(text)
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
    if not words or words == ["a"] or words == ["an"] or words[0] in ("and", "over", "by", "of"):
        return None
    scaled = _part_of_scale(words)
    if scaled is not None:
        return scaled
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


def _part_of_scale(words: list[str]) -> Fraction | None:
    """Read ``half a dozen``, ``a quarter of a million``, ``two and a half million``."""
    head = words[:-1]
    if words[-1] not in _SCALES or not any(word in _PARTS or word.removesuffix("s") in _PARTS for word in head):
        return None
    while head and head[-1] in ("a", "an", "of"):
        head = head[:-1]
    share = _phrase(head)
    return None if share is None or share.denominator == 1 else share * _SCALES[words[-1]]


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
            if not seen and (word in _COUNTED or word not in _SCALES):
                return None  # "dozens", "hundreds" alone count nothing
            if word == "hundred":
                current = (current or 1) * 100
            else:
                total, current = total + (current or 1) * factor, 0
            seen = True
        else:
            return None
    return total + current if seen else None


_SIGNS = dict(zip("零〇一二三四五六七八九", (0, *range(10)), strict=True)) | {"两": 2, "兩": 2}
_HANGUL = str.maketrans("영일이삼사오육칠팔구십백천만억", "零一二三四五六七八九十百千万億")
_TEN_POWERS = {"十": 10, "百": 100, "千": 1000}
_MYRIADS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8, "兆": 10**12}
_SIGNED = re.compile(
    r"(负|負|マイナス|-)?([零〇一二三四五六七八九十百千万萬亿億兆两兩]+)"
    r"(?:[点點]([零〇一二三四五六七八九]+)|分[之の]([零〇一二三四五六七八九十百千万]+))?"
)
_COUNTERS = re.compile(r"[个個人元円圆本枚只隻次天年岁歳歲块台つ개명원번회]?")
_SINO_KOREAN = re.compile(r"[영일이삼사오육칠팔구십백천만억]{2,}")


def _number_in_signs(text: str) -> Fraction | None:
    """Return the number of Chinese, Japanese and Sino-Korean numerals: ``四十七``, ``三分之二``, ``사십칠``."""
    text = re.sub(r"\s", "", text)
    if _SINO_KOREAN.fullmatch(text) and re.search("[십백천만억]", text):
        text = text.translate(_HANGUL)
    if text in ("一半", "半分"):
        return Fraction(1, 2)
    found = _SIGNED.match(text)
    if not found or not _COUNTERS.fullmatch(text[found.end() :]):
        return None
    whole = _whole_of_signs(found[2])
    other = _whole_of_signs(found[4]) if found[4] else None
    if whole is None or (found[4] and not (other and whole)):
        return None
    value = Fraction(whole)
    if found[4]:
        value = Fraction(other or 0, whole)
    elif found[3]:
        value += sum(Fraction(_SIGNS[sign], 10 ** (place + 1)) for place, sign in enumerate(found[3]))
    return -value if found[1] else value


def _whole_of_signs(signs: str) -> int | None:
    """Read ``四十七``, ``一百零五``, ``三万二千``, ``二〇二四``; None for what has two readings, such as ``四百五``."""
    if len(signs) > 20:
        return None
    if len(signs) > 2 and all(sign in _SIGNS for sign in signs):
        return int("".join(str(_SIGNS[sign]) for sign in signs))
    total = section = 0
    digit: int | None = None
    small, large, before = 10**4, 10**16, ""
    for sign in signs:
        if sign in _SIGNS:
            if digit or (digit == 0 and sign in "零〇"):
                return None
            digit = _SIGNS[sign]
        elif sign in _TEN_POWERS:
            if _TEN_POWERS[sign] >= small or digit == 0:
                return None
            small = _TEN_POWERS[sign]
            section, digit = section + (digit or 1) * small, None
        else:
            section += digit or 0
            if not section or _MYRIADS[sign] >= large:
                return None
            large, small = _MYRIADS[sign], 10**4
            total, section, digit = total + section * large, 0, None
        before = signs[-2] if len(signs) > 1 else ""
    if digit and before in ("百", "千", *_MYRIADS):
        return None
    return total + section + (digit or 0)


def leading_number(text: str) -> tuple[Fraction, str] | None:
    """Return (number, other words) of ``twenty-five apples``; None where no number in words comes first."""
    words = text.replace("-", " ").split()
    if not words or (words[0] not in _WORDS and words[0].isascii()):
        return None
    for end in range(min(len(words), 10), 0, -1):
        value = number_in_words(" ".join(words[:end]))
        if value is not None:
            return value, " ".join(words[end:])
    return None
