"""Cut an answer into tokens: one linear pass, no TeX engine, nothing evaluated.

`clean` repairs spelling (Unicode signs, dollars, Markdown, doubled backslashes); `tokenise` returns
``(type, text)`` pairs. Types: ``num`` (separators removed), ``sym``, ``fn``, ``cmd``, ``op``, ``text`` (words,
units), ``sep`` (``,`` ``;`` and/or), ``space`` never, ``end`` last.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TypeAlias

from selfcorrect.grading.maths.limits import MAX_ANSWER_CHARS, MAX_DEPTH, MAX_TOKENS, TooLarge, Unreadable
from selfcorrect.grading.maths.vocabulary import (
    BLACKBOARD,
    COMMAND_ONLY_FUNCTIONS,
    FONTS,
    FUNCTION_SPELLINGS,
    FUNCTIONS,
    GREEK,
    MONEY_CODES,
    OPERATORS,
    SINGLE_LETTER_UNITS,
    SIZES,
    SKIPPED,
    SYMBOL_COMMANDS,
    UNICODE,
    UNIT_WORDS,
)
from selfcorrect.grading.spelling import respell, respell_unicode

Token: TypeAlias = tuple[str, str]

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+(?![\d.]))?"
_ONE_NUMBER = re.compile(_NUMBER)
_TOKEN = re.compile(
    r"\s*+(?:(?P<grouped>\d{1,3}(?:(?:,\\!\s*|\{,\}\s?|\\,|\\;|\\:|\\ |\\!|~)\d{3})+(?!\d)(?:\.\d*)?)"
    r"|(?P<comma>\d{1,3}(?:,\d{3})+(?!\d|,\d)(?:\.\d+)?)"
    r"|(?P<blank>\d{1,3}(?: \d{3})+(?!\d| \d)(?:\.\d+)?)"
    rf"|(?P<num>{_NUMBER})"
    r"|(?P<dots>\.\.\.+|…)"
    r"|(?P<cmd>\\q?quad(?=[a-z])|\\[a-zA-Z]+\*?|\\\\(?:\[[^\]]{0,9}\])?|\\[^a-zA-Z])"
    r"|(?P<word>[a-zA-Z]+)"
    r"|(?P<op><=|>=|!=|==|=>|->|\*\*|[^\s]))",
    re.DOTALL,
)
_ARGUMENT = re.compile(r"\s*(?:\\left\s*)?\(")
_PLAIN_SIGNS = frozenset("+-*/^_{}=<>!%|:'")
_LETTERS_TOO = frozenset(["Gamma", "zeta"])
"""Functions only where a bracket follows: letters else."""
_SPACES = re.compile(r"\s+")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z]{2})")
_DOLLAR_SIGN = re.compile(r"(?:\b(?:US|A|C|HK|NZ|S))?\\\$")
_HTML = re.compile(r"<su([bp])>([^<>]{1,40})</su[bp]>")
_LOST_ESCAPE = re.compile(
    r"\\?(?:\x0c(?=rac|box)|[\b](?=egin|inom|ar|eta)|\t(?=ext|imes|heta|frac)|\r(?=ight|ho)|\x0b(?=ec))"
)
_ESCAPES = {"\x0c": "\\f", "\x08": "\\b", "\t": "\\t", "\r": "\\r", "\x0b": "\\v"}
"""What is left of ``\\frac``, ``\\begin`` … where TeX went through a string whose backslashes were escapes."""
_GLUED_OR = re.compile(r"(?<=[\d)}])(or|and)(?=[A-Z(\d\\-])")
_DOLLARS = re.compile(r"\$\s?(?=[\d.])")
_SIMPLE = re.compile(
    r"\s*-?\d+(?:[./]\d+)?\s*|(?![-0-9].*\))(?:[-+*/=<>{}0-9, )]|\((?! *=)|\^(?! *\{? *o)"
    r"|\\(?:frac|dfrac|tfrac|sqrt|pi|cdot|times|left|right|infty)(?![a-zA-Z])|[a-z](?![a-z]| *10)){0,120}"
)
"""Answers in which `respell` has nothing to do."""
_OTHER_NUMBER = re.compile(r"(?:and|or)\s+[-\d.,/]+\s*%?")
_UNIT_PRODUCT = re.compile(r"(?:[A-Za-z/\s]|\\cdot(?![a-z])|\^\{?-?\d\}?)+")
_ONLY_MATHS = re.compile(r"[-+*/^=<>(){}\[\]|.,:!\d\s%]*")
_CONTENT = re.compile(r"\s*\(?\s*[a-zA-Z]\s*\)?\s*\.?\s*")


def clean(text: str) -> str:
    """Return the answer in plain spelling: ASCII signs, no dollars, Markdown or closing full stop."""
    if not text.isascii():
        text = respell_unicode(text).translate(UNICODE)
        if not text.isascii():
            text = unicodedata.normalize("NFKC", text).translate(UNICODE)
    if not text.isprintable():
        text = _LOST_ESCAPE.sub(lambda found: _ESCAPES[found.group()[-1]], text)
    if "<su" in text:
        text = _HTML.sub(lambda found: f"{'^' if found[1] == 'p' else '_'}{{{found[2]}}}", text)
    if "$" in text:
        text = re.sub(r"\$\s*([,;])\s*\$", r"\1 ", text)
        text = _DOLLAR_SIGN.sub(r"\\text{USD} ", text)
        if text.count("$") % 2:  # no pair of maths delimiters: a sign before a number is money
            text = _DOLLARS.sub(r"\\text{USD} ", text)
        text = text.replace("$", " ")
    if "\\\\" in text and r"\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    if "or" in text or "and" in text:
        text = _GLUED_OR.sub(r" \1 ", text)
    text = text.strip() if _SIMPLE.fullmatch(text) else respell(text)
    if text.startswith(("np.", "math.")):
        text = text.partition(".")[2]
    while text.startswith(("**", "__")) or text.endswith(("**", "__")):
        text = text.strip("*_").strip()
    while True:
        shorter = text.rstrip(" \t\n.;,")
        if shorter.endswith("\\") and not shorter.endswith("\\\\"):
            shorter = shorter[:-1]  # a control space, or the backslash of "\," and "\;"
        elif shorter.endswith("\\\\") and r"\begin" not in shorter:
            shorter = shorter[:-2]
        if shorter.endswith("\\!"):
            shorter = shorter[:-2]
        if shorter == text or text.endswith("..."):
            return text
        text = shorter


def tokenise(text: str, *, thousands: bool = True) -> list[Token]:
    """Cut a cleaned answer into tokens; raises TooLarge or Unreadable.

    ``thousands`` says how ``1,234`` outside brackets reads: as one number, or as two.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise TooLarge(f"answer of {len(text)} characters")
    tokens: list[Token] = []
    _cut(text, tokens, thousands, 0)
    tokens.append(("end", ""))
    return tokens


def _cut(text: str, tokens: list[Token], thousands: bool, depth: int) -> None:
    position, brackets = 0, 0
    match_token = _TOKEN.match
    length = len(text)
    if depth > MAX_DEPTH:
        raise TooLarge("nested text commands")
    while position < length:
        found = match_token(text, position)
        if found is None:  # blanks alone
            return
        kind = found.lastgroup or ""
        start = found.start(kind)
        value = text[start : found.end()]
        if (kind == "comma" and (brackets or not thousands)) or (
            kind == "blank" and (brackets or not thousands or (tokens and tokens[-1][0] == "num"))
        ):
            found = _ONE_NUMBER.match(text, start)
            assert found is not None
            kind, value = "num", found.group()
        spaced, position = start > position, found.end()
        if len(tokens) > MAX_TOKENS:
            raise TooLarge("too many tokens")
        if kind == "op" and value in _PLAIN_SIGNS:
            tokens.append(("op", value))
        elif kind in ("num", "comma", "blank", "grouped"):
            tokens.append(("num", value if kind == "num" else re.sub(r"[^\d.]", "", value)))
        elif kind == "dots":
            tokens.append(("op", "..."))
        elif kind == "word":
            _word(value, tokens, spaced=spaced)
        elif kind == "cmd":
            position = _command(value, text, position, tokens, thousands, depth)
            if value in (r"\{", r"\lbrace"):
                brackets += 1
            elif value in (r"\}", r"\rbrace"):
                brackets = max(0, brackets - 1)
        else:
            if value in "([":
                brackets += 1
            elif value in ")]":
                brackets = max(0, brackets - 1)
            if value in ",;":
                tokens.append(("sep", value))
            elif value == "**":
                tokens.append(("op", "^"))
            elif value == "==":
                tokens.append(("op", "="))
            elif value == "&":
                tokens.append(("op", "&"))
            elif value in '~"`' or (not value.isascii() and unicodedata.category(value) in ("Cf", "Cc")):
                continue
            elif value.isascii():
                tokens.append(("op", value))
            elif value.isalpha():
                _letters(value, tokens, " " if spaced else "")
            else:
                raise Unreadable(f"character {value!r}")


def _letters(value: str, tokens: list[Token], blank: str) -> None:
    if tokens and tokens[-1][0] == "text":
        tokens[-1] = ("text", tokens[-1][1] + blank + value)
    else:
        tokens.append(("text", value))


def _word(word: str, tokens: list[Token], *, spaced: bool) -> None:
    """Split a run of letters: a function, a unit after a number, plain words, or a product of letters."""
    name = FUNCTION_SPELLINGS.get(word, word)
    after_value = bool(tokens) and (tokens[-1][0] == "num" or tokens[-1][1] in (")", "}", "%"))
    after_text = bool(tokens) and tokens[-1][0] == "text"
    if word in ("and", "or", "AND", "OR"):
        tokens.append(("sep", word.lower()))
    elif word in MONEY_CODES or (after_value and word in UNIT_WORDS) or (after_text and (spaced or len(word) > 1)):
        tokens.append(("text", word))
    elif name in FUNCTIONS and name not in COMMAND_ONLY_FUNCTIONS:
        tokens.append(("fn", name))
    elif word == "pi":
        tokens.append(("sym", "pi"))
    elif word in ("infinity", "infty", "oo"):
        tokens.append(("sym", "oo"))
    elif (len(word) >= 4 and not word.isupper()) or (
        after_value and spaced and len(word) >= 3 and (word.islower() or word.istitle())
    ):
        tokens.append(("text", word))
    else:
        tokens.extend(("sym", letter) for letter in word)


def group_end(text: str, start: int) -> int:
    """Return the position after the brace that closes the one at ``start``; raises Unreadable."""
    level, position = 0, start
    while position < len(text):
        char = text[position]
        if char == "\\":
            position += 1
        elif char == "{":
            level += 1
        elif char == "}":
            level -= 1
            if level == 0:
                return position + 1
        position += 1
    raise Unreadable("an open brace")


def _command(value: str, text: str, position: int, tokens: list[Token], thousands: bool, depth: int) -> int:
    """Read one backslash command; returns the position to go on from."""
    name = value[1:].rstrip("*") if len(value) > 2 else value[1:]
    if name in SIZES:
        after = _SPACES.match(text, position)
        place = after.end() if after else position
        return place + 1 if text[place : place + 1] == "." else position
    if name in FONTS:
        after = _SPACES.match(text, position)
        place = after.end() if after else position
        if name in ("rm", "bf", "it") or text[place : place + 1] != "{":
            return position
        end = group_end(text, place)
        _styled(name, text[place + 1 : end - 1], tokens, thousands, depth)
        return end
    function = FUNCTION_SPELLINGS.get(name, name)
    if name in SKIPPED:
        pass
    elif name in OPERATORS:
        operator = OPERATORS[name]
        tokens.append(("sep" if operator in ("and", "or") else "op", operator))
    elif name.startswith("\\"):
        tokens.append(("op", r"\\"))
    elif name in SYMBOL_COMMANDS:
        tokens.append(("sym", SYMBOL_COMMANDS[name]))
    elif function in FUNCTIONS and (name not in _LETTERS_TOO or _ARGUMENT.match(text, position)):
        tokens.append(("fn", function))
    elif name in GREEK:
        tokens.append(("sym", name))
    else:
        tokens.append(("cmd", name))
    return position


def _styled(font: str, content: str, tokens: list[Token], thousands: bool, depth: int) -> None:
    """Read the braces of a font command: maths in disguise is spliced in, words become one text token."""
    plain = content.replace("~", " ").replace(r"\ ", " ").replace(r"\,", " ").strip()
    if "\\cdot" in plain and _UNIT_PRODUCT.fullmatch(plain):
        plain = plain.replace(r"\cdot", "*")
    if font == "mathbb" and plain in BLACKBOARD:
        tokens.append(("sym", BLACKBOARD[plain]))
        return
    if font == "operatorname":
        name = FUNCTION_SPELLINGS.get(plain, plain)
        tokens.append(("fn", name) if name in FUNCTIONS else ("cmd", "operator:" + plain[:40]))
        return
    after_value = bool(tokens) and (tokens[-1][0] in ("num", "text") or tokens[-1][1] in (")", "}"))
    after_per = len(tokens) > 1 and tokens[-1] in (("op", "/"), ("op", "*")) and tokens[-2][0] == "text"
    if plain == "cis":
        tokens.append(("fn", "cis"))
        return
    if plain in UNIT_WORDS and (after_value or after_per):
        tokens.append(("text", plain))
        return
    if FUNCTION_SPELLINGS.get(plain, plain) in FUNCTIONS and font.startswith("math"):
        tokens.append(("fn", FUNCTION_SPELLINGS.get(plain, plain)))
        return
    lowered = plain.strip(" .,:").lower()
    if lowered in ("and", "or", "and/or"):
        tokens.append(("sep", lowered[:3].rstrip("/")))
    elif lowered.startswith(("and ", "or ")) and (
        (len(lowered) < 12 and "=" in lowered) or _OTHER_NUMBER.fullmatch(lowered)
    ):
        tokens.append(("sep", lowered.split()[0]))
        _cut(plain.split(None, 1)[1], tokens, thousands, depth + 1)
    elif lowered.endswith(" and") and after_value:
        tokens.extend([("text", plain[:-3].strip()), ("sep", "and")])
    elif not plain:
        return
    elif not any(map(str.isprintable, plain)):
        raise Unreadable("control characters for words")
    elif _ONLY_MATHS.fullmatch(plain) or "\\" in plain or "$" in plain:
        _cut("{" + plain.replace("$", " ") + "}" if len(plain) > 1 else plain, tokens, thousands, depth + 1)
    elif _CONTENT.fullmatch(plain):
        letter = plain.strip(" ().")
        if (after_value or after_per) and "(" not in plain and letter in SINGLE_LETTER_UNITS:
            tokens.append(("text", letter))
        else:
            tokens.append(("sym", letter))
    elif re.fullmatch(r"[\d.,]+\s*[a-zA-Z%]+", plain) or (font.startswith("math") and re.search(r"[\d^_+=]", plain)):
        _cut(plain, tokens, thousands, depth + 1)
    else:
        tokens.append(("text", plain))
