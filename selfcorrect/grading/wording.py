"""Answers in words: choices, yes/no, names, dates, times of day."""

from __future__ import annotations

import re

_COMMANDS = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|mathit|textsf|operatorname|textnormal|hbox)\b"
)
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
           "november", "december")  # fmt: skip
_TIME = re.compile(r"\(?(\d{1,2})(?:[:h](\d{2})(?::(\d{2}))?)?\s*(?:([ap])\.?\s?m\.?)?\)?", re.IGNORECASE)
_MONTH = re.compile("|".join(_MONTHS), re.IGNORECASE)
_HALVES = {
    "noon": "12 p.m.",
    "midnight": "12 a.m.",
    "midday": "12 p.m.",
    "12 noon": "12 p.m.",
    "12 midnight": "12 a.m.",
}
_NAMED_HALF = re.compile(r"(?<=\d)\s*(?:in the )?(noon|midnight|midday)$")
_TIME_WORD = re.compile(r"\d\s*(?:\\text\s*\{\s*|~)?[ap]\.?\s?m\b|noon|midnight|midday", re.IGNORECASE)
_CHOICE = re.compile(r"(?:(?:option|choice|answer)\s+)?\(?\s*([A-Z])\s*\)?\s*[.:]?")
_LED_BY_CHOICE = re.compile(r"(?:\(\s*([A-Z])\s*\)|([A-Z])[.):])\s*(?=\S)(?!.*(?:\([A-Z]\)|\bor\b|\band\b|,))")
_LED_HINT = re.compile(r"[\s$]*(?:\\(?:text|mathrm|mathbf)\w*\s*\{\s*)?(?:\(\s*[A-J]\s*\)|[A-J]\s*[.):、．：])")
_LED = re.compile(r"(?:\(\s*([A-J])\s*\)\s*[.:]?|([A-J])[.):、．：])(?:\\[,;: ]|~|\s)*(\S.*)", re.DOTALL)
_EMPTY_SIGN = re.compile(r"\s*\$?\s*(?:\\(?:emptyset|varnothing)|∅|\\\{\s*\\\})\s*\$?\s*")
_NOTHING_HINT = re.compile(r"\bno|empty|infinit|exist|undefined|DNE", re.IGNORECASE)
_NONE = re.compile(
    r"(?:so |thus |therefore |hence |that )?"
    r"(?:(?:there (?:is|are|exists?)|(?:the |this |it )?(?:equation |system |problem |inequality )?(?:has|have)) )?"
    r"(?:(?:no|not any|zero)(?: (?:real|such|valid|possible|integer|positive|common|other|rational|complex|feasible"
    r"|natural|solution|x|y|n))* ?"
    r"(?:solutions?|roots?|values?(?: of \w)?|answers?|numbers?|integers?|pairs?|triples?|functions?|sets?|polynomials?"
    r"|intersections?|zero(?:e?s)?)(?: (?:exists?|at all|found|(?:in|over) .{1,30}))?"
    r"|none(?: exists?)?|(?:the )?empty set)"
)
_INFINITE = re.compile(
    r"(?:there (?:is|are|exists?) )?(?:infinitely many|infinite(?:ly)?(?: many)?|an infinite number(?: of)?"
    r"|infinite number of)"
    r"(?: (?:real|such|distinct|integer|positive|different))*(?: [a-z]+)?(?: exist)?"
)
_UNDEFINED = frozenset(["undefined", "does not exist", "dne", "limit does not exist", "not defined", "is undefined"])
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


def is_date(text: str) -> bool:
    """True for a day and a month, with or without a year: ``5 March``, ``March 5, 2020``."""
    if not _MONTH.search(text):
        return False
    tokens = re.findall(r"[a-z]+|\d+", plain_words(text))
    months = [token for token in tokens if token in _MONTHS]
    rest = [token for token in tokens if token not in _MONTHS and token not in ("st", "nd", "rd", "th", "of", "the")]
    return len(months) == 1 and 1 <= len(rest) <= 2 and all(token.isdigit() for token in rest)


def is_yes_or_no(text: str) -> bool:
    """True where the text is yes, no, true or false."""
    return plain_words(text) in _YES_NO


def led_choice(text: str) -> tuple[str, str] | None:
    """Return (letter, content) of an option with its content: ``C. 12``, ``\\textbf{(C)}\\ 12``; else None."""
    if len(text) > 300 or not _LED_HINT.match(text):
        return None
    plain = re.sub(r"\\(?:text|mathrm|mathbf)(?:bf|it|rm)?\s*\{\s*(\(?\s*[A-J]\s*[.):]?\s*)\}", r"\1 ", text).strip(
        " $"
    )
    plain = re.sub(r"^(\(?[A-J]\)?)\s*\\(?:[,;: ]|q?quad)", r"\1 ", plain)
    found = _LED.fullmatch(plain)
    return (found.group(1) or found.group(2), found.group(3).strip()) if found else None


def small_choice(text: str) -> str | None:
    """Return the capital of a choice written as a small letter, ``c`` or ``(c)``; else None."""
    plain = re.sub(r"[{}$~]", " ", _COMMANDS.sub(" ", text)).strip(" .*")
    found = re.fullmatch(r"\(?\s*([a-j])\s*\)?", plain)
    return found.group(1).upper() if found else None


def quantity_in_words(text: str) -> str | None:
    """Return ``none`` or ``infinite`` for what says that there is nothing, or no end: ``no solution``; else None."""
    if len(text) > 120:
        return None
    if _EMPTY_SIGN.fullmatch(text):
        return "none"
    if not _NOTHING_HINT.search(text):
        return None
    plain = plain_words(text)
    if _NONE.fullmatch(plain):
        return "none"
    return "infinite" if _INFINITE.fullmatch(plain) else "undefined" if plain in _UNDEFINED else None


def is_bare_choice(text: str) -> bool:
    """True where the text is one capital letter, in brackets or not."""
    plain = re.sub(r"[{}$~]", " ", _COMMANDS.sub(" ", text)).strip(" .*")
    return re.fullmatch(r"\(?\s*[A-Z]\s*\)?", plain) is not None


def time_of_day(text: str) -> tuple[int, bool] | None:
    """Return (seconds of the day, whether a.m./p.m. or 24-hour form fixes the half) of a time, else None."""
    plain = plain_words(text).replace(" .", ".")
    found = _TIME.fullmatch(_HALVES.get(plain) or _NAMED_HALF.sub(lambda named: _HALVES[named[1]][-4:], plain))
    if not found:
        return None
    hour, minute, second = (int(found.group(place) or 0) for place in (1, 2, 3))
    half = (found.group(4) or "").lower()
    if (
        minute > 59
        or second > 59
        or hour > 24
        or (half and not 1 <= hour <= 12)
        or (not half and found.group(2) is None)
    ):
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return hour * 3600 + minute * 60 + second, bool(half) or hour > 12 or found.group(1).startswith("0")


def is_time(text: str) -> bool:
    """True for a time of day that says so: ``5:30 p.m.``, ``5 PM``, ``12 noon``, ``midnight``."""
    return bool(_TIME_WORD.search(text)) and time_of_day(text) is not None


def same_time(left: tuple[int, bool], right: tuple[int, bool]) -> bool:
    """True where two times agree; a time without a.m./p.m. may be in either half."""
    if left[1] and right[1]:
        return left[0] == right[0]
    return left[0] % 43_200 == right[0] % 43_200


def same_words(response: str, gold: str) -> bool:
    """True where two answers in words say the same: case, quotes, spacing, articles and date order aside."""
    left, right = plain_words(response), plain_words(gold)
    if not left or not right:
        return False
    if _folded(left) == _folded(right):
        return True
    if right in _YES_NO:
        if len(_YES_NO & set(re.findall(r"[a-z]+", left))) > 1:
            return False
        return re.split(r"[\s,.;:]", left)[0] == right and not re.match(r"no\.?\s*\d", left)
    return False


def _folded(words: str) -> str:
    """Drop a leading article; sort the parts of a date."""
    words = re.sub(r"^(?:the|a|an)\s+", "", words)
    tokens = re.findall(r"[a-z]+|\d+", words)
    if any(token in _MONTHS for token in tokens):
        return " ".join(sorted(re.sub(r"^0+", "", t) for t in tokens if t not in ("st", "nd", "rd", "th", "of")))
    return re.sub(r"s\b", "", words).replace(" ", "").replace("-", "")
