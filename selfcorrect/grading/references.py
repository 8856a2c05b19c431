"""The reading of a reference answer: its text alone, or that nothing can match it.

A reference is taken after ``####`` (that line), out of a box, out of maths delimiters. A sentence that states one value
is that value; any other sentence and unknown notation are no reference: the problem must be dropped and counted,
never kept with a reference that no answer can match. Placeholders (``N/A``) are dropped where problems are loaded.
"""

from __future__ import annotations

import re
from functools import lru_cache

from selfcorrect.grading import wording
from selfcorrect.grading.extraction import extract, sentence_value
from selfcorrect.grading.maths.lexer import group_end
from selfcorrect.grading.maths.limits import SHORT_ANSWER_CHARS, TooLarge, Unreadable
from selfcorrect.grading.maths.parser import read
from selfcorrect.grading.maths.readings import without_parameters
from selfcorrect.grading.maths.tree import Node
from selfcorrect.grading.maths.vocabulary import words_of
from selfcorrect.grading.spelling import ascii_digits

_WHOLE_MATHS = re.compile(r"\$\$(.+)\$\$|\$([^$]+)\$|\\\((.+)\\\)|\\\[(.+)\\\]", re.DOTALL)
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")
_VERBS = words_of(
    "is are was were has have had can could should must does do did will would be comes equals exist exists "
    "happens need needs follows holds means gives makes costs takes"
)
_VAGUE = words_of("any all every greater less than least most between except not other such unless")
_SYMBOLS = words_of("sin cos tan cot sec csc arcsin arccos arctan log ln exp gcd lcm max min mod det and or pi")
_NAME = re.compile(r"(?:[^\W\d_]+[.'’-]?[^\W\d_]*\s*){1,6}")
"""A name with its full stops and apostrophes: ``Mrs. Doyle's class``."""
_ANSWERED = re.compile(r"\s*(?:\\text\w*\s*\{\s*)?(yes|no|true|false)\b[.,;:]", re.IGNORECASE)
_INTEGER = re.compile(r"-?[0-9]+")
MAX_PHRASE = 6
"""A reference of more words than this is a sentence, not a name."""


@lru_cache(maxsize=8192)
def reference_text(gold: str) -> str:
    """Return the reference answer alone; empty where it is a sentence without one value."""
    text = ascii_digits(gold).strip(" \t\r\n")
    if text.isdigit():
        return text
    if "####" in text:
        lines = [line.strip() for line in text.rsplit("####", 1)[1].split("\n")]
        text = next((line for line in lines if line), "")
    if "boxed" in text or "fbox" in text or "framebox" in text:
        found = extract(text, ("boxed",))
        text = _joined_boxes(text) or (found[0].strip(" \t\r\n") if found else _unclosed_box(text))
    whole = _WHOLE_MATHS.fullmatch(text)
    if whole and not re.search(r"\\[\])].*\\[\[(]", text, re.DOTALL):
        text = next(group for group in whole.groups() if group is not None).strip(" \t\r\n")
    return _out_of_sentence(text)


_BOX = re.compile(r"\\+(?:boxed|fbox|framebox)\s*\{")


def _joined_boxes(text: str) -> str:
    """Return the last boxes of a short reference that signs or ``papers and`` join; empty for fewer than two."""
    if len(text) > SHORT_ANSWER_CHARS or text.count("boxed") < 2:
        return ""
    contents: list[str] = []
    end = 0
    for box in _BOX.finditer(text):
        words = re.findall(r"[^\W\d_]+", text[end : box.start()].lower())
        if words and (len(words) > 2 or words[-1] not in ("and", "or")):
            contents = []
        try:
            end = group_end(text, box.end() - 1)
        except Unreadable:
            return ""
        contents.append(text[box.end() : end - 1])
    return ", ".join(contents) if len(contents) > 1 else ""


def _unclosed_box(text: str) -> str:
    """Return what follows a box whose brace is never closed; the text itself where there is no box."""
    *_, last = (None, *_BOX.finditer(text))
    return text if last is None else text[last.end() :].strip(" $")


def _out_of_sentence(text: str) -> str:
    """Return the one value that a sentence states, a phrase as it is, empty for any other sentence."""
    words = _words(text)
    if len(words) < 3:
        return text
    stated = _stated(text, len(words), ("answer-tag", "answer-is"))
    if stated is not None:
        return stated
    if "\\begin" in text:
        return text
    core = without_parameters(text)[0]
    if core != text and len(_words(core)) < 3:
        return text
    answered = _ANSWERED.match(text)
    if answered:
        return answered.group(1)
    if wording.led_choice(text):
        return text
    spoken = _VERBS & set(words)
    if len(words) <= MAX_PHRASE and not spoken and not _VAGUE & set(words):
        return text
    if wording.quantity_in_words(text):
        return text
    if _VAGUE & set(words):
        return "" if spoken or len(words) > MAX_PHRASE or re.search(r"[\d^=<>]", text) else text
    value = sentence_value(text, money=False) or _stated(text, len(words), ("conclusion",))
    if value is not None:
        return value
    return "" if spoken or len(words) > 2 * MAX_PHRASE else text


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text) if word not in _SYMBOLS]


def _stated(text: str, words: int, places: tuple[str, ...]) -> str | None:
    """Return what a whole solution states, which stands where its answer should."""
    found = extract(text, places) if words > 2 * MAX_PHRASE else None
    return found[0] if found else None


@lru_cache(maxsize=8192)
def read_reference(gold: str) -> Node | None:
    """Return the tree of a reference answer, None where it cannot be read."""
    text = reference_text(gold)
    if not text:
        return None
    if _INTEGER.fullmatch(text):
        return Node("num", text) if text[0] != "-" else Node("neg", "", (Node("num", text[1:]),))
    led = wording.led_choice(text)
    if led:
        return Node("text", text)
    core = without_parameters(text)[0]
    try:
        return read(core if core != text and len(_words(text[len(core.rstrip("}")) :])) > 1 else text)
    except (Unreadable, TooLarge, RecursionError):
        return Node("text", text) if _NAME.fullmatch(text) else _last_member(text)


def _last_member(text: str) -> Node | None:
    """Read what a chain in unknown notation ends in: ``\\unknown = x = 0`` is 0."""
    before, equals, last = text.rpartition("=")
    if not equals or before.count("{") != before.count("}") or _words(last):
        return None
    try:
        return read(last.strip())
    except (Unreadable, TooLarge, RecursionError):
        return None
