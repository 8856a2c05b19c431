"""Find the final answer in a response. Linear in its length; each place has a name and can be switched off.

| name | what it finds |
|---|---|
| ``boxed`` | the last complete ``\\boxed{}``/``\\fbox{}``; boxes joined only by commas, and/or form one list |
| ``answer-tag`` | ``<answer>…</answer>`` |
| ``hashes`` | the line after the last ``####`` |
| ``answer-is`` | what follows the last "answer is", "Answer:", "答案" |
| ``bold`` | the last ``**…**``, where it is short |
| ``maths`` | the last ``$…$``, ``\\(…\\)`` or ``\\[…\\]`` |
| ``bare`` | the whole response, where it is one short line |
| ``number`` | the last number |

An empty last box is an empty answer. Minerva's closing line "Final Answer: The final answer is X" counts before the
boxes where it comes after the last of them. What stands before ``</think>`` is not an answer. Only the last attempt
of a trajectory should be passed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

TAIL = 2_000
"""How many characters before the end the fallbacks look at."""
_MAX_BOXES = 40
_BOX = re.compile(r"\\(?:boxed|fbox)\b\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_JOINING = frozenset(["and", "or", "for", "part", "text", "mbox", "textrm", "mathrm", "quad", "qquad"])
_SPECIAL = re.compile(r"<\|[a-zA-Z_/-]{2,20}\|>.*|</s>\s*$", re.DOTALL)
_TEMPLATE = re.compile(r"final answer:?\**\s*:?\s*(?:the\s+final\s+answer\s+is:?)?", re.IGNORECASE)
_HOPE = re.compile(r"\.?\s*I hope (?:it|this) is correct", re.IGNORECASE)
_STATEMENT = re.compile(
    r"(?:answer|solution)\**\s*(?:is|are|:|=|：)\s*(?:therefore|thus|:)?|答案\s*[:：是为]*|\banswer\s*(?=\\\[|\$)",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"[\s:：*]*(?:(?:for sure|definitely|clearly|simply|just|therefore|thus|then|option|choice|given by|equal to"
    r"|exactly|approximately|about|indeed|obviously|probably|surely)\b[\s:：*]*)*",
    re.IGNORECASE,
)
_MATHS = re.compile(r"\$\$(.{1,600}?)\$\$|\$([^$]{1,600}?)\$|\\\((.{1,600}?)\\\)|\\\[(.{1,600}?)\\\]", re.DOTALL)
_NEXT_MATHS = re.compile(r"\s*(?:,|and|or|,\s*and)\s*\$[^$]{1,200}\$")
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_NUMBER = re.compile(
    r"(?<![\d.,A-Za-z_])[-−]?\$?(?:\\frac\s*\{[-\d]+\}\s*\{\d+\}|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+/\d+|\d*\.?\d+)(?:\s*(?:\\?%|percent))?"
)


def extract(response: str, places: Sequence[str]) -> tuple[str, str] | None:
    """Return (answer text, name of the place it was found in), None where every allowed place is empty."""
    closed = response.rfind("</think>")
    if closed >= 0 and response[closed + 8 :].strip():
        response = response[closed + 8 :]
    for place in places:
        found = _PLACES[place](response)
        if found is not None:
            return found, place
    return None


# -- boxes -----------------------------------------------------------------------------------------------


def _boxed(response: str) -> str | None:
    start = max(response.rfind("\\boxed"), response.rfind("\\fbox"))
    if start < 0:
        return None
    box = _read_box(response, start) or _last_complete(response, start)
    if box is None:
        return None
    start, end, content = box
    stated = _stated_after(response, end)
    if stated is not None:
        return stated
    contents = [content]
    while len(contents) < _MAX_BOXES:
        before = _box_before(response, start)
        if before is None:
            break
        start, _, content = before
        contents.append(content)
    return ", ".join(reversed(contents)) if len(contents) > 1 else contents[0]


def _read_box(text: str, start: int) -> tuple[int, int, str] | None:
    """Return (start, end, content) of the box command at ``start``; None where its brace stays open."""
    opening = _BOX.match(text, start)
    if opening is None:
        return None
    place = opening.end()
    if place >= len(text):
        return None
    if text[place] != "{":
        token = re.compile(r"\\[a-zA-Z]+|[^\s${}\\]+").match(text, place)
        return (start, token.end(), token.group()) if token else None
    level = 0
    for brace in _BRACE.finditer(text, place):
        mark = brace.group()
        if mark == "{":
            level += 1
        elif mark == "}":
            level -= 1
            if level == 0:
                return start, brace.end(), text[place + 1 : brace.start()]
    return None


def _last_complete(text: str, limit: int) -> tuple[int, int, str] | None:
    """Return the last complete box before an incomplete one: one pass over the braces, with a stack."""
    boxes = {found.end(): found.start() for found in _BOX.finditer(text, 0, limit)}
    stack: list[int] = []
    best: tuple[int, int, str] | None = None
    for brace in _BRACE.finditer(text):
        mark = brace.group()
        if mark == "{":
            stack.append(brace.start())
        elif mark == "}" and stack:
            opening = stack.pop()
            if opening in boxes and (best is None or boxes[opening] > best[0]):
                best = boxes[opening], brace.end(), text[opening + 1 : brace.start()]
    return best


def _box_before(text: str, start: int) -> tuple[int, int, str] | None:
    """Return the box that ends right before ``start``, with only joining words between the two."""
    window = max(0, start - 600)
    previous = max(text.rfind("\\boxed", window, start), text.rfind("\\fbox", window, start))
    if previous < 0:
        return None
    box = _read_box(text, previous)
    if box is None or box[1] > start or not box[2].strip():
        return None
    between = text[box[1] : start]
    if "\n\n" in between or len(between) > 80:
        return None
    words = re.findall(r"[a-z0-9]+", between.lower())
    marks = re.sub(r"[a-zA-Z0-9\s,;.$&{}()\[\]\\:!]", "", between)
    joins = "and" in words or "or" in words or re.search(r"[,;]", re.sub(r"\\[,;]", "", between))
    return box if joins and not marks and all(word in _JOINING or len(word) == 1 for word in words) else None


def _stated_after(text: str, end: int) -> str | None:
    """Return X of Minerva's closing line "Final Answer: The final answer is X. I hope it is correct."."""
    tail = text[end : end + TAIL]
    if "inal" not in tail:
        return None
    found = _last(re.compile(r"final answer:\s*the final answer is", re.IGNORECASE), tail)
    return _statement(tail[found.end() :]) if found else None


# -- fallbacks -------------------------------------------------------------------------------------------


def _tail(response: str) -> str:
    return _SPECIAL.sub("", response[-TAIL:])


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text):
        found = match
    return found


def _answer_tag(response: str) -> str | None:
    tail = response[-TAIL:]
    end = tail.rfind("</answer>")
    start = tail.rfind("<answer>", 0, end if end >= 0 else len(tail))
    if start < 0:
        return None
    inner = tail[start + 8 : end if end >= 0 else len(tail)].strip()
    return inner or None


def _hashes(response: str) -> str | None:
    place = response.rfind("####")
    if place < 0:
        return None
    line = _SPECIAL.sub("", response[place + 4 : place + 400]).strip().split("\n", 1)[0].strip()
    if re.search(r"[a-zA-Z]{3,}", line):
        return _statement(line)
    return line or None


def _answer_is(response: str) -> str | None:
    tail = _tail(response)
    found, template = _last(_STATEMENT, tail), _last(_TEMPLATE, tail)
    if template and (found is None or template.end() >= found.end()):
        found = template
    return _statement(tail[found.end() :]) if found else None


def _statement(text: str) -> str | None:
    """Return the answer at the head of a statement: its maths, its first words, or the last number of its sentence."""
    text = _HOPE.split(text)[0]
    text = text[_FILLER.match(text).end() :]  # type: ignore[union-attr]
    text = re.sub(r"^(?:[\s\"'*]|\\\")+", "", text)
    maths = _MATHS.match(text)
    if maths:
        end = maths.end()
        while joined := _NEXT_MATHS.match(text, end):
            end = joined.end()
        if end > maths.end():
            return text[:end].strip()
        return next(group for group in maths.groups() if group is not None).strip()
    line = text.strip().split("\n", 1)[0].strip().strip('"').removesuffix("\\")
    sentence = re.split(r"\.\s+(?=[A-Z\[<])|\.$|。", line)[0].strip().strip("*").strip()
    if not sentence:
        return None
    letter = re.match(r"\(?([A-Z])\)?(?=$|[\s,.;:)])(?!\s+(?:is|are|has|will|was))", sentence)
    if letter:
        return letter.group(1)
    after = re.split(r"\b(?:is|are|was|equals?)\b\s*:?", sentence)[-1].strip()
    inner = _last_maths(after) if "$" in after or "\\(" in after else None
    if inner is not None:
        return inner
    wordless = not re.search(r"[^\W\d_]{3,}", after) or re.fullmatch(r"[-+*/^\\{}()\d\s.,$%]+[a-z\s]*", after)
    if len(after) <= 60 and wordless:
        return after
    return _last_number(sentence) or (after if len(after) <= 60 else None)


def _bold(response: str) -> str | None:
    found = _BOLD.findall(_tail(response)[-400:])
    if not found:
        return None
    text = str(found[-1]).strip(" .:")
    if re.fullmatch(r"[^\W\d_]", text) or re.search(r"\d|\\", text):
        return _last_number(text) if re.search(r"[^\W\d_]{3,}", text) and "\\" not in text else text
    return None


def _last_maths(text: str) -> str | None:
    last = _last(_MATHS, text)
    return next(group for group in last.groups() if group is not None).strip() if last else None


def _maths(response: str) -> str | None:
    """Return the last maths of the closing sentence; of a chain of equalities the last member."""
    tail = _tail(response)[-800:]
    last = _last(_MATHS, tail)
    if last is None or re.search(r"\d", tail[last.end() :]):
        return None
    return next(group for group in last.groups() if group is not None).strip()


def _bare(response: str) -> str | None:
    text = _SPECIAL.sub("", response[:300]).strip() if len(response) <= 300 else ""
    if not text or "\n" in text or len(text) > 100:
        return None
    if len(re.findall(r"(?<!\\)[^\W\d_]{2,}", text)) > 3:
        return None
    return text


def _number(response: str) -> str | None:
    return _last_number(_tail(response)[-600:])


def _last_number(text: str) -> str | None:
    last = _last(_NUMBER, text)
    return last.group().replace("−", "-").replace("$", "").strip() if last else None


_PLACES: dict[str, Callable[[str], str | None]] = {
    "boxed": _boxed,
    "answer-tag": _answer_tag,
    "hashes": _hashes,
    "answer-is": _answer_is,
    "bold": _bold,
    "maths": _maths,
    "bare": _bare,
    "number": _number,
}
