"""Find the final answer in a response. Linear in its length; each place has a name and can be switched off.

| name | what it finds |
|---|---|
| ``boxed`` | the last complete ``\\boxed{}``/``\\fbox{}``; boxes joined only by commas, and/or, labels form one list |
| ``answer-tag`` | ``<answer>…</answer>`` |
| ``hashes`` | the line after the last ``####`` |
| ``answer-is`` | what follows the last "answer is", "Answer:", "答案", "Réponse :", ``"answer":`` |
| ``choice`` | the letter that the end settles on: "option B is correct", "so it must be (D)", "故选：B" |
| ``bold`` | the last ``**…**``, where it is short |
| ``maths`` | the last ``$…$``, ``\\(…\\)`` or ``\\[…\\]`` |
| ``bare`` | the whole response where it is one short line; of a sentence the one value that it states |
| ``conclusion`` | the one value of a last sentence that concludes: "Therefore …", "因此 …" |
| ``number`` | the last number |

An empty last box is an empty answer. Minerva's closing line "Final Answer: The final answer is X" and a closing choice
("Answer: D") count before the boxes where they come after the last of them. What stands before ``</think>`` is not an
answer (`thoughts` has the marks); while thinking is still open, only a box that ends the text is. A value that its own
sentence denies, doubts, supposes or asks about is not stated (`denials`). Of a text that a token budget cut, only a
statement that was finished counts (`STATED`). Only the last attempt of a trajectory should be passed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from selfcorrect.grading import wording
from selfcorrect.grading.denials import DOUBTS, NEGATIONS, denied_after, states_not
from selfcorrect.grading.maths.vocabulary import words_of
from selfcorrect.grading.numerals import number_in_words
from selfcorrect.grading.thoughts import after_thinking

TAIL = 2_000
"""How many characters before the end the fallbacks look at."""
STATED = ("boxed", "answer-tag", "hashes", "answer-is")
"""The places of an answer that the response declares to be one: all that counts in a cut text."""
_MAX_BOXES = 40
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\b\s*")
_BOX_ENDS_TEXT = re.compile(r"\}\s*[.$*)\]\\]*\s*$")
_CLOSED = re.compile(
    r"(?<!\d\.)\n|\n(?!\d)|[!?。！？।](?!\d)|\.(?!\s?\d|\w)|</answer>|\$(?=[\s.,])|[\"']answer[\"']\s*:[^{}\n]*\}"
)
_BOX_GOES_ON = re.compile(
    r"\\f?boxed\s*\{[^{}\n]*(?:\{[^{}\n]*\}[^{}\n]*)*\}[\s$*)\]\\]*"
    r"(?:is|isn|isn't|isn’t|was|wasn't|can|can't|cannot|would|won't|ist|est|n'est"
    r"|es|no|non|non è|è|не|нет|不|是不|错|は|では|이|가|değil)"
    r"(?![^\W_])[^.!?\n。！？]*$",
    re.IGNORECASE,
)
"""A cut text in which the sentence about a box was not finished: it may have said that the box is wrong."""
_BOX_DENIED = re.compile(
    r"(?:\b(?:not|cannot|never|nicht|pas|не|nie|değil)|n't|n’t|不是|不|≠|\\neq?)"
    r"(?:\s+(?:be|equal|to|equal to|simply|exactly|the answer))*[\s:：$*(\\[,]*$",
    re.IGNORECASE,
)
_AROUND = " $*()[]\\:：'"
_DENYING_ENDS = frozenset(["ot", "'t", "’t", "be", "to", "er", "ht", "as", "не", "ie", "il", "ly", "eq", "ne", "不是"])
"""The last letters of what `_BOX_DENIED` finds: quick to look at."""
_PLAINLY_AFTER = frozenset(
    ["", "$", ".", "$.", "$\n", "\n", ".\n", "\n\n", "$$", "\\)", "\n\\", " \\", ".$", ".\\", ". ", "\\]"]
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_JOINING = frozenset(["and", "or", "for", "part", "text", "mbox", "textrm", "mathrm", "quad", "qquad"])
_SPECIAL = re.compile(r"<\|[a-zA-Z_/-]{2,20}\|>.*|</s>\s*$", re.DOTALL)
_TEMPLATE = re.compile(r"final answer:?\**\s*:?\s*(?:the\s+final\s+answer\s+is:?)?", re.IGNORECASE)
_HOPE = re.compile(r"\.?\s*I hope (?:it|this) is correct", re.IGNORECASE)
_CUE_ENDS = (
    r"\**\s*(?:(?:correct[ae]?|corr?et(?:ta|a)|finale?|definitiva)\s+)?"
    r"(?:\(?[a-z]\)\s*)?(?:(?:is|are|est|es|é|è|ist|är|er|on|είναι|je|este|adalah|ni|là|هو|هي)\b|คือ|:|=|：)"
    r"\s*(?:therefore|thus|:)?|\banswer\s*(?=\\\[|\$)"
)
_ASCII_CUES = (
    "answer|solution|result|reponse|respuesta|resposta|risposta|antwort|cevap|antwoord|svaret?|vastaus"
    "|jawaban(?:nya)?|jawapan|jibu"
)
_STATEMENT_IN_ASCII = re.compile(f"(?:{_ASCII_CUES}){_CUE_ENDS}", re.IGNORECASE)
_STATEMENT = re.compile(
    f"(?:{_ASCII_CUES}|réponse|ответ|odpowiedź|απάντηση|odpověď|răspunsul|відповідь|đáp (?:án|số)"
    f"|الجواب|الإجابة|الاجابة|उत्तर|উত্তর|คำตอบ|సమాధానం|விடை|תשובה){_CUE_ENDS}"
    r"|答案\s*[:：是为选]*|答え[はが]?\s*[:：]?|정?답(?:은|이|\s*[:：])",
    re.IGNORECASE,
)
_JSON = re.compile(r"[\"'](?:final[_ ]?)?answer[\"']\s*:\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,}\]]+))", re.IGNORECASE)
_CLOSING_CHOICE = re.compile(
    r"(?:^|\n|\s)\**(?:final\s+|correct\s+)?(?:answer|option|choice)\**\s*(?:is\s*)?[:：]?\s*\**\s*\(?([A-J])\)?\**\s*(?:[.。]?\s*$|\n)",
    re.IGNORECASE,
)
_END_OF_LETTER = r"(?=\s*(?:$|[.,;:!?)}\]。，．）$*\n]|\s(?:is|since|because|as|not|non|and|but|must)\b))"
_CHOICE = re.compile(
    r"(?:(?i:\b(?:option|choice|answer)(?:\s+is)?|\b(?:choose|select|pick|finali[sz]e|go with|must be|should be"
    r"|it is|it's|it’s|leaves?|left with|namely))"
    r"|(?:故|应|因此|所以)?选(?:项|择)?|答案[是为]?)\s*[:：]?\s*\**\(?([A-J])\)?"
    + _END_OF_LETTER
    + r"|(?<![A-Za-z])\(?([A-J])\)?\s+(?:is|must be|seems|looks)\s+(?:the\s+|clearly\s+)*"
    r"(?:correct|right|best|only|true|answer)"
    r"|^\s*\(?([A-J])\)?\s*(?:[.。．,，:：]\s*(?=\S)|(?=不|而|因))",
    re.MULTILINE,
)
_NEGATED = re.compile(
    r"(?:\bnot|\bisn't|cannot be|can't be|不是|不|rather than)\s*(?:the\s+)?(?:option|choice|answer)?\s*$",
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


_VALUE = (
    r"[-−]?(?:\\[dt]?frac\s*\{[-\d]+\}\s*\{\d+\}|\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])|\d+\s?/\s?\d+|\d+,\d+|\d*\.?\d+)"
)
_PLAIN_NUMBER = re.compile(rf"(?<![\d.,A-Za-z_])\$?({_VALUE}(?:\s*(?:\\?%|percent\b))?)")
_MONEY = re.compile(rf"(?:[$€£¥₹]|\\\$|\bRs\.?)\s?({_VALUE})|({_VALUE})\s?(?:[$€£¥₹]|\\\$)")
_ASSERTED = re.compile(
    rf"(?:\b(?:is|it's|it’s|are|was|equals)|(?<![<>!])=)\s*(?:exactly|about|now|only)?\s*[$€£¥₹]?\s?({_VALUE}(?:\s*(?:\\?%|percent\b))?)"
    r"\s?[^\s\d,;.:!?]{0,8}[\s.。)]*$"
)
"""A sentence that ends in "is 5", "= 5 kg"; "is not 5" is none."""
_CHAIN = re.compile(rf"[=＝]\s*\$?({_VALUE}(?:\s*\\?%)?)\s*\)?\s*[.。)]*\s*$")
_LAST_OF_CHAIN = re.compile(rf"\d\s*=\s*({_VALUE})(?![^=]*\d)")
_LED_VALUE = re.compile(
    rf"({_VALUE}(?:\s?[^\s\d,;]{{1,12}}){{0,2}}?)\s*(?:,\s*(?:which|because|since|as|so|where)\b|;\s)"
    r"|((?i:yes|no|true|false))(?=\s*[,;:]|\s*[.!]?$)"
)
_INSTEAD = re.compile(
    r"(?<=\S)\s*[,(;]\s*(?:not|and not|rather than|instead of|et non|non)\b"
    r"|(?<=\S)\s*[,(;]\s*(?:no|nicht|pas|não|а не|не)\s+(?=[-$\\\d])"
)
_NOT_BUT = re.compile(
    r"\s*(?:not|nicht|pas|no|non|não|не|不是)\s*[^\s,，.]{1,20}\s*[,，]?\s*(?:but|sondern|mais|sino|ma|mas|а|而是)\s*(?=\S)",
    re.IGNORECASE,
)
"""A correction before the value: ``not 46 but 47``."""
_HEDGE = re.compile(
    r"(?:one of|either|not\b|neither|between|at least|at most|more than|less than|unknown|any of|some)", re.I
)
_CONCLUDING = re.compile(
    r"(?:\b(?:therefore|thus|hence|so|consequently|finally|in conclusion|in total|altogether"
    r"|donc|ainsi|also|deshalb|daher|somit|folglich|por (?:lo )?tanto|portanto|assim|quindi|pertanto|dunque"
    r"|dlatego|zatem|итак|поэтому|следовательно|значит|therefor|kwa hivyo|vậy|do đó)\b"
    r"|因此|所以|结论|综上|故|よって|したがって|따라서|그러므로|لذا|لذلك|इसलिए|अतः|তাই|অতএব|కాబట్టి|எனவே|ดังนั้น)\**\s*[,:，：、]?",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(r"(?<!\d )\b(?:negative|minus)\s+(?=\d)", re.IGNORECASE)
_MINUS = re.compile(r"^\**\s*(?:negative|minus)\s+(?=\d)", re.IGNORECASE)
_SENTENCE_START = re.compile(r"(?<=[.!?])\s+(?=[^\W\d_a-z])|(?<=[。！？।])|\n")
_SENTENCE_END = re.compile(r"[.!?](?=\s+[^\W\d_a-z])|[。！？।](?=\s*\S)")
_OTHERWISE = words_of("without anything mai vez nu si some ej lo hindi mistake")
"""Words that deny beside a value, but have other uses elsewhere in a sentence."""
_DENIAL = re.compile(
    r"\b(?:not|cannot|can't|isn't|no|never|neither|nor|unknown|unsure|impossible"
    r"|different|differs|other than|doubt|wrong|incorrect|maybe|perhaps|either|or|one of|at least"
    r"|at most|more than|less than|fewer than|between|chapter|year|page|step"
    r"|problem|question|idea|guess|" + "|".join(sorted((NEGATIONS | DOUBTS) - _OTHERWISE)) + r")\b"
    r"|[不非没沒吗嗎？?؟]|ない|ません|아[니닙]|않|ไม่",
    re.IGNORECASE,
)
_SPOKEN = re.compile(
    r"(?<!\\)\b(?!(?:sin|cos|tan|log|ln|exp|and|or|sqrt|arcsin|arccos|arctan)\b)[^\W\d_]{2,}\b.*?(?<!\\)\b[^\W\d_]{2,}\b"
    r"|[^\W\d_a-zA-Zα-ωΑ-Ω]{2,}|[^\W\d_]{2,}\s*[:：]|[^\W\d_]{3,}\s+\d|[^\W\d_]['’]s\s+[-$\d]"
)


def extract(response: str, places: Sequence[str], *, cut: bool = False) -> tuple[str, str] | None:
    """Return (answer text, name of the place it was found in), None where every allowed place is empty."""
    response, thinking = after_thinking(response)
    if thinking:
        found = _boxed(response) if "boxed" in places and _BOX_ENDS_TEXT.search(response[-40:]) else None
        return None if found is None else (found, "boxed")
    if cut and _BOX_GOES_ON.search(response[-TAIL:]):
        return None
    for place in places:
        if cut and place not in STATED:
            continue
        found = _PLACES[place](response if not cut or place == "boxed" else _finished(response))
        if found is not None:
            return found, place
        if place == "boxed" and _BOX.search(response[-TAIL:]) and _last_box_is_denied(response):
            return None
    return None


def _finished(response: str) -> str:
    """Return a cut response up to the end of its last sentence or line: ``The answer is 66`` may have meant 664."""
    last = _last(_CLOSED, response[-TAIL:])
    return response[: max(0, len(response) - TAIL) + last.end()] if last else ""


# -- boxes -----------------------------------------------------------------------------------------------


def _boxed(response: str) -> str | None:
    start = _last_box(response, 0, len(response))
    if start < 0:
        return None
    box = _read_box(response, start) or _last_complete(response, start)
    if box is None:
        return None
    start, end, content = box
    stated = _stated_after(response, end)
    if stated is not None:
        return stated
    if _is_denied_box(response, start, end):
        earlier = _undenied_box(response, start)
        return None if earlier is None or earlier[2].strip() == content.strip() else earlier[2]
    contents = [content]
    while len(contents) < _MAX_BOXES:
        before = _box_before(response, start)
        if before is None:
            break
        start, _, content = before
        contents.append(content)
    return ", ".join(reversed(contents)) if len(contents) > 1 else contents[0]


def _is_denied_box(text: str, start: int, end: int) -> bool:
    """True where a box's own sentence says that it is wrong: "is not \\boxed{5}", "\\boxed{5} is wrong"."""
    if text[end : end + 2] not in _PLAINLY_AFTER and denied_after(text[end : end + 60], asks=False):
        return True
    last = text[max(0, start - 6) : start].rstrip(_AROUND)[-2:]
    ends_so = last in _DENYING_ENDS or last[-1:] in ("不", "≠")
    return ends_so and _BOX_DENIED.search(text, max(0, start - 32), start) is not None


def _last_box_is_denied(text: str) -> bool:
    start = _last_box(text, 0, len(text))
    box = _read_box(text, start) if start >= 0 else None
    return box is not None and _is_denied_box(text, box[0], box[1])


def _undenied_box(text: str, before: int) -> tuple[int, int, str] | None:
    """Return the last box before a denied one that is not denied itself."""
    for _ in range(_MAX_BOXES):
        before = _last_box(text, 0, before)
        box = _read_box(text, before) if before >= 0 else None
        if box is None or not _is_denied_box(text, box[0], box[1]):
            return box
    return None


def _last_box(text: str, start: int, end: int) -> int:
    last = text.rfind("\\boxed", start, end)
    after = max(last, start)  # the other commands count only where they come later
    if text.find("\\f", after, end) < 0:
        return last
    return max(last, text.rfind("\\fbox", after, end), text.rfind("\\framebox", after, end))


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
    close = text.find("}", place)
    content = text[place + 1 : close]
    if close >= 0 and "{" not in content and "\\" not in content:
        return start, close + 1, content
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
    previous = _last_box(text, max(0, start - 600), start)
    if previous < 0:
        return None
    box = _read_box(text, previous)
    if box is None or box[1] > start or not box[2].strip():
        return None
    between = text[box[1] : start]
    if len(between) > 80:
        return None
    words = re.findall(r"[a-z0-9]+", between.lower())
    marks = re.sub(r"[a-zA-Z0-9\s,;.$&{}()\[\]\\:!*=_]", "", between)
    labelled = re.search(r"\n\W*\(?([b-h]|[2-9]|i{2,3}|iv)[.):]\W*$", between) is not None
    joins = (
        labelled
        or not between.strip(" $\\,;")
        or "and" in words
        or "or" in words
        or re.search(r"[,;]", re.sub(r"\\[,;]", "", between))
    )
    if labelled:
        words = []
    return box if joins and not marks and all(word in _JOINING or len(word) == 1 for word in words) else None


def _stated_after(text: str, end: int) -> str | None:
    """Return X of Minerva's closing line "Final Answer: The final answer is X.", or the letter of "Answer: D"."""
    tail = text[end : end + TAIL]
    if "nswer" not in tail:
        return None
    lettered = _last(_CLOSING_CHOICE, tail)
    if lettered:
        return lettered.group(1)
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
        return line if _number_is_denied(line) else _statement(line)
    return line or None


def _answer_is(response: str) -> str | None:
    tail = _tail(response)
    json = _last(_JSON, tail)
    if json:
        return (json.group(1) if json.group(1) is not None else json.group(2)).strip()
    taken_back: list[str] = []
    for start, end in _cues(tail):
        answer = _statement(tail[end:])
        state = _state(tail, start, end, answer)
        if state == "stated":
            return None if answer is not None and any(answer in said for said in taken_back) else answer
        if state == "denied":
            taken_back.append(tail[end : end + 80])
    return None


def _cues(tail: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the last few words that announce an answer, the last first."""
    cue = _STATEMENT_IN_ASCII if tail.isascii() else _STATEMENT
    places = {found.end(): found.start() for found in cue.finditer(tail)}
    template = _last(_TEMPLATE, tail)
    if template:
        places[template.end()] = template.start()
    for end in sorted(places, reverse=True)[:_MAX_CUES]:
        yield places[end], end


def _state(tail: str, start: int, end: int, answer: str | None) -> str:
    """Return whether the sentence of a cue states its value, denies or doubts it, or only asks or supposes."""
    said = tail[end : end + 300]
    place = said.find(answer) if answer else -1
    if not answer or place < 0 or not re.search(r"[\d\\]|^[A-J]$|^\W|[^\x00-\x7f]", answer):
        head = tail[:start] + "answer"
        if states_not(head):
            return "denied" if states_not(head, conditions=False) else "open"
        return "open" if answer is None or _UNSAID.match(answer) else "stated"
    after = said[place + len(answer) :]
    number = re.search(r"\d|\\|\$", answer)
    head = tail[:end] + said[: place + (number.start() if number else 0)]
    if states_not(head):
        return "denied" if states_not(head, conditions=False) else "open"
    if denied_after(after, asks=False):
        return "denied"
    return "open" if denied_after(after) else "stated"


_MAX_CUES = 6
_UNSAID = re.compile(
    r"(?:correct|incorrect|right|wrong|valid|reasonable|plausible|unique|as follows|given|found|clear)\W*$", re.I
)


def _statement(text: str) -> str | None:
    """Return the answer at the head of a statement: its maths, its first words, or the last number of its sentence."""
    text = _NOT_BUT.sub("", _HOPE.split(text)[0][:TAIL], count=1) if _NOT_BUT.match(text) else _HOPE.split(text)[0]
    text = text[_FILLER.match(text).end() :]  # type: ignore[union-attr]
    text = _MINUS.sub("-", re.sub(r"^(?:[\s\"'*]|\\\")+", "", text))
    maths = _MATHS.match(text)
    if maths:
        end = maths.end()
        while joined := _NEXT_MATHS.match(text, end):
            end = joined.end()
        if end > maths.end():
            return text[:end].strip()
        return next(group for group in maths.groups() if group is not None).strip()
    text = _INSTEAD.split(text, maxsplit=1)[0]
    line = text.strip().split("\n", 1)[0].strip().strip('"').removesuffix("\\")
    sentence = re.split(r"\.\s+(?=[A-Z\[<])|\.$|。", line)[0].strip().strip("*").strip()
    if not sentence:
        return None
    led = _LED_VALUE.match(sentence)
    if led:
        return led.group(1) or led.group(2)
    letter = re.match(r"\(?([A-Z])\)?(?=$|[\s,.;:)])(?!\s+(?:is|are|has|will|was))", sentence)
    if letter:
        return letter.group(1)
    if _HEDGE.match(sentence):
        return sentence
    chain = _CHAIN.search(sentence)
    if chain and re.search(r"\d\s*=", sentence):
        return chain.group(1)
    after = re.split(r"\b(?:is|are|was|equals?)\b\s*:?", sentence)[-1].strip()
    inner = _last_maths(after) if "$" in after or "\\(" in after else None
    if inner is not None:
        return inner
    wordless = not re.search(r"[^\W\d_]{3,}", after) or re.fullmatch(r"[-+*/^\\{}()\d\s.,$%]+[a-z\s]*", after)
    if len(after) <= 60 and wordless:
        return after
    return sentence_value(sentence) or _last_number(sentence) or (after if len(after) <= 60 else None)


def _bold(response: str) -> str | None:
    found = _BOLD.findall(_tail(response)[-400:])
    if not found:
        return None
    text = str(found[-1]).strip(" .:")
    if text.endswith(("?", "？", "؟")) or _number_is_denied(text):
        return None
    if re.fullmatch(r"[^\W\d_]", text) or re.search(r"\d|\\", text):
        return _last_number(text) if re.search(r"[^\W\d_]{3,}", text) and "\\" not in text else text
    return None


def _number_is_denied(text: str) -> bool:
    """True where the words before the last number of a text take it back."""
    last = _last(_NUMBER, text)
    return last is not None and (states_not(text[: last.start()]) or denied_after(text[last.end() :]))


def _last_maths(text: str) -> str | None:
    last = _last(_MATHS, text)
    return next(group for group in last.groups() if group is not None).strip() if last else None


def _maths(response: str) -> str | None:
    """Return the last maths of the closing sentence; of a chain of equalities the last member."""
    tail = _tail(response)[-800:]
    last = _last(_MATHS, tail)
    if last is None or (re.search(r"\d", tail[last.end() :]) and last.group()[:2] not in ("$$", "\\[")):
        return None
    if states_not(tail[: last.start()], conditions=False) or denied_after(tail[last.end() :]):
        return None
    return next(group for group in last.groups() if group is not None).strip()


def _bare(response: str) -> str | None:
    """Return a short reply: itself where it is no sentence, else the one value that its sentence states."""
    text = _SPECIAL.sub("", response[:300]).strip() if len(response) <= 300 else ""
    if not text or "\n" in text or len(text) > 160:
        return None
    if len(text) <= 100 and not _SPOKEN.search(text):
        return text
    if wording.quantity_in_words(text) or number_in_words(text.strip(" .!。")) is not None:
        return text
    return sentence_value(text)


def sentence_value(text: str, *, money: bool = True) -> str | None:
    """Return the one value that a sentence states, None where it denies, doubts, or names several.

    The value is its only formula, else its only number with a sign of money (with ``money``), else its only number;
    of a chain ``35 + 70 = 105`` it is the last member.
    """
    text = _NEGATIVE.sub("-", text.strip().strip('"'))
    if text.endswith(("?", "？", "؟")):
        return None
    asserted = _asserted(text)
    if asserted is not None:
        return asserted
    if _DENIAL.search(text) or _SENTENCE_END.search(text):
        return None
    formulas = [next(group for group in found.groups() if group is not None) for found in _MATHS.finditer(text)]
    if len(formulas) == 1 and not re.search(r"\d", _MATHS.sub("", text)):
        return formulas[0].strip()
    chain = _CHAIN.findall(text)
    if len(chain) == 1:
        return str(chain[0]).strip()
    sums = _MONEY.findall(text) if money else []
    if len(sums) == 1:
        return next(part for part in sums[0] if part)
    numbers = list(_PLAIN_NUMBER.finditer(text))
    if len(numbers) != 1 or states_not(text[: numbers[0].start()]) or denied_after(text[numbers[0].end() :]):
        return None
    return numbers[0].group(1)


def _asserted(sentence: str) -> str | None:
    """Return the value that a sentence without formulas ends in: "… which is 5 kg.", "… = 72 / 18 = 4"."""
    if _MATHS.search(sentence) or "\\" in sentence:
        return None
    found = _ASSERTED.search(sentence)
    if found and (states_not(sentence[: found.start(1)]) or denied_after(sentence[found.end(1) :])):
        return None
    return found.group(1).strip() if found and not re.search(r"\d", sentence[found.end(1) :]) else None


def _choice(response: str) -> str | None:
    tail = _tail(response)[-400:]
    letter = None
    for found in _CHOICE.finditer(tail):
        before, after = tail[: found.start()], tail[max(found.end(place) for place in (1, 2, 3)) :]
        if _NEGATED.search(before[-30:]) or states_not(before) or denied_after(after.lstrip(")")):
            continue
        letter = next(group for group in found.groups() if group)
    return letter


def _conclusion(response: str) -> str | None:
    """Return the one value of the last sentence, where it begins with a word that concludes."""
    tail = _HOPE.split(_tail(response)[-600:])[0].strip()
    last = _last(_CONCLUDING, tail)
    if last is None:
        return _asserted(_SENTENCE_START.split(tail)[-1])
    sentence = tail[last.end() :]
    if _SENTENCE_END.search(sentence.rstrip(" .。!")) or "\n" in sentence.strip():
        return None
    value = sentence_value(sentence)
    if value is not None or _DENIAL.search(sentence):
        return value
    chains = _LAST_OF_CHAIN.findall(sentence)
    return str(chains[0]) if len(chains) == 1 else None


def _number(response: str) -> str | None:
    tail = _tail(response)[-600:]
    return None if _number_is_denied(tail) else _last_number(tail)


def _last_number(text: str) -> str | None:
    last = _last(_NUMBER, text)
    return last.group().replace("−", "-").replace("$", "").strip() if last else None


_PLACES: dict[str, Callable[[str], str | None]] = {
    "boxed": _boxed,
    "answer-tag": _answer_tag,
    "hashes": _hashes,
    "answer-is": _answer_is,
    "choice": _choice,
    "bold": _bold,
    "conclusion": _conclusion,
    "maths": _maths,
    "bare": _bare,
    "number": _number,
}
