"""Answers in words: choices, yes/no, names, dates, times of day."""

from __future__ import annotations

import re

_COMMANDS = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|mathit|textsf|operatorname|textnormal|hbox)\b"
)
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
           "november", "december")  # fmt: skip
_TIME = re.compile(r"\(?(\d{1,2}):(\d{2})\s*(?:([ap])\.?\s?m\.?)?\)?", re.IGNORECASE)
_CHOICE = re.compile(r"(?:(?:option|choice|answer)\s+)?\(?\s*([A-Z])\s*\)?\s*[.:]?")
_LED_BY_CHOICE = re.compile(r"(?:\(\s*([A-Z])\s*\)|([A-Z])[.):])\s*(?=\S)(?!.*(?:\([A-Z]\)|\bor\b|\band\b|,))")
_YES_NO = frozenset(["yes", "no", "true", "false"])


def plain_words(text: str) -> str:
    """Return the words alone: no font commands, TeX spacing, quotes or closing punctuation; lower case."""
    text = _COMMANDS.sub(" ", text)
    text = re.sub(r"\\[,;:! ]|[{}$~]|\\left|\\right|\\quad", " ", text)
    text = re.sub(r"[\"“”‘’']", "", text)
    return re.sub(r"\s+", " ", text).strip(" .,;:!*").lower()


def squashed(text: str) -> str:
    """Return the text without blanks, braces and font commands, case kept: for comparing notation literally."""
    text = _COMMANDS.sub("", text)
    text = re.sub(r"\\(?:left|right|displaystyle|,|;|:|!| )|[\s{}$~]", "", text)
    text = text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    return text.strip(".,;")


def choice(text: str) -> str | None:
    """Return the letter of a multiple-choice answer: ``C``, ``(C)``, ``\\textbf{(C)}``, ``(C) 12``; else None."""
    plain = re.sub(r"[{}$~]|\\[,;:! ]", " ", _COMMANDS.sub(" ", text)).strip(" .*")
    found = _CHOICE.fullmatch(plain)
    if found:
        return found.group(1)
    found = _LED_BY_CHOICE.match(plain)
    return (found.group(1) or found.group(2)) if found else None


def is_yes_or_no(text: str) -> bool:
    """True where the text is yes, no, true or false."""
    return plain_words(text) in _YES_NO


def is_bare_choice(text: str) -> bool:
    """True where the text is one capital letter, in brackets or not."""
    plain = re.sub(r"[{}$~]", " ", _COMMANDS.sub(" ", text)).strip(" .*")
    return re.fullmatch(r"\(?\s*[A-Z]\s*\)?", plain) is not None


def minutes(text: str) -> tuple[int, bool] | None:
    """Return (minutes of the day, whether a.m./p.m. or 24-hour form fixes the half) of a time, else None."""
    found = _TIME.fullmatch(plain_words(text).replace(" .", "."))
    if not found:
        return None
    hour, minute, half = int(found.group(1)), int(found.group(2)), (found.group(3) or "").lower()
    if minute > 59 or hour > 24 or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return hour * 60 + minute, bool(half) or hour > 12 or found.group(1).startswith("0")


def same_time(left: tuple[int, bool], right: tuple[int, bool]) -> bool:
    """True where two times agree; a time without a.m./p.m. may be in either half."""
    if left[1] and right[1]:
        return left[0] == right[0]
    return left[0] % 720 == right[0] % 720


def same_words(response: str, gold: str) -> bool:
    """True where two answers in words say the same: case, quotes, spacing, articles and date order aside."""
    left, right = plain_words(response), plain_words(gold)
    if not left or not right:
        return False
    if _folded(left) == _folded(right):
        return True
    if right in _YES_NO:
        return re.split(r"[\s,.;:]", left)[0] == right
    return False


def _folded(words: str) -> str:
    """Drop a leading article; sort the parts of a date."""
    words = re.sub(r"^(?:the|a|an)\s+", "", words)
    tokens = re.findall(r"[a-z]+|\d+", words)
    if any(token in _MONTHS for token in tokens):
        return " ".join(sorted(re.sub(r"^0+", "", t) for t in tokens if t not in ("st", "nd", "rd", "th", "of")))
    return re.sub(r"s\b", "", words).replace(" ", "").replace("-", "")
