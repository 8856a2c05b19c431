"""`read`: answer text -> `Node`. A hand-written recursive-descent reader, linear in the text, bounded in depth.

It knows the notation of mathematical answers (not of TeX): numbers and their separators, fractions, roots, powers,
functions, tuples, intervals, sets, lists, unions, relations, matrices, mixed numbers, bases, percents, degrees,
units, big operators. What it does not know raises `Unreadable`; what is too big raises `TooLarge`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NoReturn

from selfcorrect.grading import wording
from selfcorrect.grading.maths.lexer import Token, clean, tokenise
from selfcorrect.grading.maths.limits import (
    MAX_DEPTH,
    MAX_LIST,
    MAX_MATRIX_CELLS,
    SHORT_ANSWER_CHARS,
    TooLarge,
    Unreadable,
)
from selfcorrect.grading.maths.tree import Node, num, sym
from selfcorrect.grading.maths.units import CURRENCIES, conversion, known_unit
from selfcorrect.grading.maths.vocabulary import CHANGING, CHANGING_SIGNS, MONEY_CODES, SCALED, SINGLE_LETTER_UNITS
from selfcorrect.grading.numerals import leading_number, scale

_RELATIONS = frozenset(["=", "<", ">", "<=", ">=", "!=", "~", "in", "notin", "equiv", "->", "subset", "propto"])
_FRACTIONS = frozenset(["frac", "dfrac", "tfrac", "cfrac", "sfrac", "nicefrac"])
_ACCENTS = frozenset(["dot", "ddot", "hat", "widehat", "tilde", "bar", "check", "breve", "mathring"])
_DROPPED = frozenset(["angle", "measuredangle", "triangle", "vec", "overrightarrow", "overleftrightarrow"])
_MATRICES = frozenset(["matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "smallmatrix", "array", "psmallmatrix"])
_SYSTEMS = frozenset(["cases", "aligned", "align", "align*", "gathered", "split", "alignedat", "eqnarray", "eqnarray*"])
_CONDITIONS = frozenset(["if", "for", "when", "where", "as"])
_WRAPPERS = frozenset(
    [
        "overline",
        "bar",
        "underline",
        "widehat",
        "overbrace",
        "boxed",
        "fbox",
        "framebox",
        "ensuremath",
        "mathop",
        "cancel",
    ]
)
_BIG = {"sum": "sum", "prod": "prod", "int": "int", "lim": "lim", "oint": "int"}
_INTRODUCTIONS = frozenset(["either", "both", "exactly", "only", "about", "approximately"])
_WORDED = {
    "all real numbers": "RR", "all reals": "RR", "the set of real numbers": "RR", "real numbers": "RR",
    "infinity": "oo", "empty set": "EMPTY", "the empty set": "EMPTY",
}  # fmt: skip


def read(text: str, *, thousands: bool = True) -> Node:
    """Return the tree of an answer; raises Unreadable or TooLarge. Short answers are remembered."""
    return _remembered(text, thousands) if len(text) <= SHORT_ANSWER_CHARS else _read(text, thousands)


def _read(text: str, thousands: bool) -> Node:
    text = clean(text)
    if not _DIGIT.search(text):
        worded = _number_in_words(text)
        if worded is not None:
            return worded
    elif len(text) < 60 and _WORDY.search(text) and (wording.is_date(text) or wording.is_time(text)):
        return Node("text", text)
    try:
        return Reader(tokenise(text, thousands=thousands)).answer()
    except InWords:
        return Node("text", text)


_DIGIT = re.compile(r"[0-9]")
_WORDY = re.compile(r"[ {~0-9][A-Za-z][A-Za-z]{2}|^[A-Za-z]{3}|[0-9 }{~][apAP]\.?\s?[mM]")


_WHOLE_ONLY = re.compile(r"\b(?:for|where|with)\b.*\b(?:integer|natural|whole)")
_ORDINALS = frozenset(["st", "nd", "rd", "th"])


class InWords(Exception):
    """Words after a number change its value (``12 or more``): the answer must be compared as words."""


def _number_in_words(text: str) -> Node | None:
    """Return ``twenty-five``, ``two thirds``, ``twelve apples`` as a quantity; None for other texts."""
    if len(text) > 120 or not re.search(r"[a-zA-Z]{3}|[一-鿿가-힣]", text):
        return None
    found = leading_number(wording.plain_words(text))
    if found is None:
        return None
    value, rest = found
    if not rest:
        return fraction(value)
    words = set(re.findall(r"[^\W\d_]+", rest))
    if words & (CHANGING | {"of", "and", "to", "the"}) or re.search(r"[^\w\s.%'-]", rest) or len(words) > 4:
        return None
    return Node("pct", "", (fraction(value),)) if rest in _PERCENT else Node("unit", rest, (fraction(value),))


def fraction(value: Fraction) -> Node:
    """Return a rational number as a node."""
    node = num(abs(value).numerator)
    if value.denominator != 1:
        node = Node("div", "", (node, num(value.denominator)))
    return Node("neg", "", (node,)) if value < 0 else node


_PERCENT = frozenset(["%", "percent", "pct", "percentage", "per cent"])


_remembered = lru_cache(maxsize=8192)(_read)


class Reader:
    """Reads one token list from left to right; one method for each level of binding."""

    __slots__ = ("bars", "depth", "position", "tokens")

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.bars = 0

    # -- moving ------------------------------------------------------------------------------------------

    def peek(self) -> Token:
        return self.tokens[self.position]

    def take(self) -> Token:
        token = self.tokens[self.position]
        if token[0] != "end":
            self.position += 1
        return token

    def at(self, text: str, kind: str = "op") -> bool:
        token = self.tokens[self.position]
        return token[1] == text and token[0] == kind

    def skip(self, text: str, kind: str = "op") -> bool:
        if self.at(text, kind):
            self.position += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.skip(text):
            self.fail(f"expected {text!r}")

    def fail(self, why: str) -> NoReturn:
        raise Unreadable(f"{why} at {' '.join(text for _, text in self.tokens[self.position : self.position + 4])!r}")

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge("nested too deeply")

    # -- the whole answer --------------------------------------------------------------------------------

    def answer(self) -> Node:
        """Items separated by commas, semicolons, and/or; one item stays itself."""
        if all(kind in ("text", "end", "sep") for kind, _ in self.tokens):
            return self.words()
        self.leading_words()
        while self.peek() in (("op", "="), ("op", "~"), ("op", ":")):
            self.position += 1
        groups: list[list[Node]] = [[]]
        joined = ""
        while True:
            groups[-1].append(self.relation())
            if sum(map(len, groups)) > MAX_LIST:
                raise TooLarge("a list")
            if len(groups[-1]) > 1 and joined == "and" and (whole := _one_quantity(*groups[-1][-2:])):
                groups[-1][-2:] = [whole]
            separated, joined = False, ""
            while self.peek()[0] == "sep":
                separated, joined = True, self.take()[1]
                if joined == ";" and groups[-1]:
                    groups.append([])
            if self.peek()[0] == "text" and separated:
                self.leading_words()
            if self.peek()[0] == "end":
                break
            if not separated:
                self.fail("could not read on")
        groups = [group for group in groups if group]
        if len(groups) == 1:
            return groups[0][0] if len(groups[0]) == 1 else Node("list", "", tuple(groups[0]))
        if all(len(group) == 1 for group in groups):
            return Node("list", "", tuple(group[0] for group in groups))
        return Node("list", "", tuple(g[0] if len(g) == 1 else Node("tuple", "()", tuple(g)) for g in groups))

    def words(self) -> Node:
        text = " ".join(text for kind, text in self.tokens if kind != "end").strip()
        if not text:
            raise Unreadable("an empty answer")
        constant = _WORDED.get(text.lower().strip(" ."))
        return sym(constant) if constant else Node("text", text)

    def leading_words(self) -> None:
        """Drop words that only introduce: either, both, or a label before a colon."""
        while self.peek()[0] == "text" and self.tokens[self.position + 1][0] != "end":
            words = self.peek()[1].strip().lower()
            if words not in _INTRODUCTIONS and not words.endswith((" is", " are", ":", " is:", " equals", " be")):
                return
            self.position += 1

    # -- relations, unions, sums -------------------------------------------------------------------------

    def relation(self) -> Node:
        first = self.ratio()
        if self.tokens[self.position][0] not in ("op", "cmd"):
            return first
        members, operators = [first], []
        while self.peek()[0] == "op" and self.peek()[1] in _RELATIONS:
            operator = self.take()[1]
            if operator in ("<", ">") and self.skip("="):
                operator += "="
            operators.append(operator)
            members.append(self.ratio())
        if self.peek() == ("cmd", "pmod"):
            self.position += 1
            modulus = self.primary()
            if operators and operators[-1] in ("equiv", "="):
                operators[-1:] = ["equiv", "mod"]
                members.append(modulus)
        if not operators:
            return members[0]
        return Node("rel", " ".join(operators), tuple(members))

    def ratio(self) -> Node:
        first = self.union()
        if not self.at(":"):
            return first
        parts = [first]
        while self.skip(":"):
            parts.append(self.union())
        return Node("ratio", "", tuple(parts))

    def union(self) -> Node:
        left = self.sum()
        while self.tokens[self.position][1] in ("cup", "cap", "setminus") and self.peek()[0] == "op":
            kind = {"cup": "union", "cap": "inter", "setminus": "minus"}[self.take()[1]]
            right = self.sum()
            left = Node(kind, "", (*left.args, right) if left.kind == kind else (left, right))
        return left

    def sum(self) -> Node:
        terms = [self.term()]
        while True:
            token = self.tokens[self.position]
            if token[0] != "op":
                break
            if token[1] == "+":
                self.position += 1
                terms.append(self.ellipsis() or self.term())
            elif token[1] == "-":
                self.position += 1
                terms.append(Node("neg", "", (self.term(),)))
            elif token[1] in ("+-", "-+"):
                self.position += 1
                left = terms[0] if len(terms) == 1 else Node("add", "", tuple(terms))
                terms = [Node("pm", token[1], (left, self.term()))]
            else:
                break
        return terms[0] if len(terms) == 1 else Node("add", "", tuple(terms))

    def ellipsis(self) -> Node | None:
        return sym("...") if self.skip("...") else None

    def term(self) -> Node:
        """A product: explicit signs and juxtaposition bind alike, from left to right."""
        kind, sign = self.tokens[self.position]
        if kind == "op" and sign in ("-", "+", "+-", "-+"):
            self.position += 1
            self.deeper()
            inner = self.term()
            self.depth -= 1
            if sign == "-":
                return Node("neg", "", (inner,))
            return inner if sign == "+" else Node("pm", sign, (inner,))
        left = self.factor()
        while True:
            kind, text = self.tokens[self.position]
            if kind == "end" or kind == "sep":
                return left
            if kind == "op" and text in ("*", "/"):
                self.position += 1
                right = self.signed_factor()
                left = Node("div", "", (left, right)) if text == "/" else _product(left, right)
            elif kind == "op" and text == "mod":
                self.position += 1
                left = Node("call", "mod", (left, self.signed_factor()))
            elif kind == "text" or (left.kind == "deg" and (kind, text) in (("sym", "C"), ("sym", "F"))):
                left = self.unit(left)
            elif kind == "num" and left.kind == "unit":
                whole = _one_quantity(left, self.term())
                if whole is None:
                    self.fail("two quantities side by side")
                left = whole
            elif self.begins_factor():
                mixed = self.mixed_number(left)
                if kind == "num" and mixed is None and (left.args[-1] if left.kind == "mul" else left).kind == "num":
                    self.fail("two numbers side by side")
                left = self.postfix(mixed) if mixed else self.times(left, self.factor())
            else:
                return left

    def times(self, left: Node, right: Node) -> Node:
        """Return a product by juxtaposition; words in brackets after a value are its unit."""
        if right.kind == "text" and left.kind != "text":
            return self.quantity(left, right.value)
        return _product(left, right)

    def signed_factor(self) -> Node:
        if self.skip("-"):
            self.deeper()
            inner = Node("neg", "", (self.signed_factor(),))
            self.depth -= 1
            return inner
        self.skip("+")
        return self.factor()

    def begins_factor(self) -> bool:
        kind, text = self.tokens[self.position]
        if kind in ("num", "sym", "fn"):
            return True
        if kind == "cmd":
            return text not in ("over", "end", "pmod", "choose", "atop", "hline", "rfloor", "rceil", "tag")
        return kind == "op" and (text in ("(", "[", "{", r"\{", "<<") or (text == "|" and not self.bars))

    def begins_quantity(self) -> bool:
        kind, text = self.tokens[self.position + 1] if self.at("-") else self.peek()
        return kind == "num" or (kind == "cmd" and text in _FRACTIONS)

    def slash_fraction(self) -> bool:
        """True at ``1/2`` right after an integer: the fraction of a mixed number such as ``5 1/2``."""
        after = self.tokens[self.position + 1 : self.position + 3]
        return len(after) == 2 and after[0] == ("op", "/") and after[1][0] == "num"

    def mixed_number(self, left: Node) -> Node | None:
        """Return ``3 1/8`` for an integer directly before a proper fraction of integers."""
        before = self.tokens[self.position - 1]
        if left.kind != "num" or before[0] != "num" or not left.value.isdigit():
            return None
        start = self.position
        if self.peek()[0] == "cmd" and self.peek()[1] in _FRACTIONS:
            fraction = self.primary()
        elif self.peek()[0] == "num" and self.slash_fraction():
            top = self.take()[1]
            self.position += 1
            fraction = Node("div", "", (num(top), num(self.take()[1])))
        else:
            return None
        if fraction.kind == "div" and all(arg.kind == "num" and arg.value.isdigit() for arg in fraction.args):
            top, bottom = (arg.value.lstrip("0") for arg in fraction.args)
            if (len(top), top) < (len(bottom), bottom):
                return Node("add", "", (left, fraction))
        self.position = start
        return None

    def unit(self, value: Node) -> Node:
        """Attach the words after a quantity as its unit, with powers and ``per`` as they come."""
        words: list[str] = []
        while True:
            kind, text = self.peek()
            if kind == "text" or (kind == "sym" and not words):
                words.append(self.take()[1].strip())
            elif kind == "op" and text == "^" and words:
                self.position += 1
                words.append("^" + self.raw_argument())
            elif kind == "op" and text in ("/", "*") and self.goes_on_as_unit():
                self.position += 1
                words += [text, self.take()[1].strip()]
            elif kind == "op" and text == "{" and not self.tokens[self.position + 1 : self.position + 2][0][1]:
                break
            else:
                break
        name = " ".join(words).replace(" ^", "^").replace(" / ", "/").strip()
        return self.quantity(value, name)

    def goes_on_as_unit(self) -> bool:
        kind, text = self.tokens[self.position + 1]
        return kind == "text" or (kind == "sym" and self.at("/") and text in SINGLE_LETTER_UNITS)

    def quantity(self, value: Node, name: str) -> Node:
        """Return a value with the words after it: scales and operations are carried out, the rest is its unit.

        Raises InWords where a word changes the value in another way, such as ``or more``.
        """
        words = re.sub(r"[.\s]+$", "", name).split()
        if value.kind != "pct" and len(words) > 1 and words[0].lower() in _PERCENT and words[1].lower() == "off":
            raise InWords(name)
        while words and (factor := scale(words[0])) is not None:
            value = Node("mul", "", (value, fraction(factor)))
            words = words[2:] if words[1:2] == ["of"] else words[1:]
        lowered = " ".join(words).lower().strip(" .()")
        if lowered in _PERCENT:
            return Node("pct", "", (value,))
        if lowered in ("degrees", "degree", "deg"):
            return Node("deg", "", (value,))
        if not words:
            return value
        if value.kind == "deg" and words[0].strip(".").lower() in ("c", "f", "celsius", "fahrenheit"):
            return Node("unit", f"deg{words[0][0].upper()}", value.args)
        if (lowered.endswith((" root", "th power")) or lowered == "root") and value != num(1):
            raise InWords(name)
        if lowered.startswith("to the ") or (words[0].lower() == "times" and len(words) > 1 and len(words[1]) == 1):
            raise InWords(name)
        if lowered.startswith("off") and value.kind == "pct":
            raise InWords(name)
        if lowered in SCALED:
            return Node("mul", "", (value, num(SCALED[lowered])))
        if lowered in ("squared", "cubed"):
            return Node("pow", "", (value, num(2 if lowered == "squared" else 3)))
        if lowered == "halved":
            return Node("div", "", (value, num(2)))
        if lowered == "factorial":
            return Node("fact", "", (value,))
        if lowered.endswith("below zero") and (len(words) == 2 or known_unit(lowered.removesuffix("below zero"))):
            return Node("neg", "", (value,))
        said = set(re.findall(r"[^\W\d_]+", lowered.replace(".", "")))
        if (
            said & (CHANGING - ({"squared", "cubed"} if len(words) > 1 else set()))
            or re.search(r"(?<!\^)(?<!\^-)(?<!\^\{)(?<!\^\{-)\d", lowered)
            or CHANGING_SIGNS.search(lowered)
        ):
            raise InWords(name)
        if _WHOLE_ONLY.search(lowered):
            raise InWords(name)
        return Node("unit", name, (value,))

    # -- factors -----------------------------------------------------------------------------------------

    def factor(self) -> Node:
        return self.postfix(self.primary())

    def postfix(self, base: Node) -> Node:
        while True:
            kind, text = self.tokens[self.position]
            if kind != "op":
                return base
            if text == "^":
                self.position += 1
                base = self.power(base)
            elif text == "!":
                self.position += 1
                base = Node("call", "fact2", (base,)) if self.skip("!") else Node("fact", "", (base,))
            elif text == "%":
                self.position += 1
                base = Node("pct", "", (base,))
            elif text == "'":
                self.position += 1
                if base.kind != "sym":
                    return base
                base = sym(base.value + "'")
            elif text == "_":
                self.position += 1
                if base.kind == "pow" and base.args[0].kind == "sym":  # v^2_0
                    base = base._replace(args=(self.subscript(base.args[0]), *base.args[1:]))
                else:
                    base = self.subscript(base)
            else:
                return base

    def power(self, base: Node) -> Node:
        if self.at("circ", "cmd"):
            self.position += 1
            return Node("deg", "", (base,))
        if self.skip("{"):
            if self.at("circ", "cmd"):
                self.position += 1
                self.expect("}")
                return Node("deg", "", (base,))
            if self.at("'"):
                primes = 0
                while self.skip("'"):
                    primes += 1
                self.expect("}")
                return sym(base.value + "'" * primes) if base.kind == "sym" else base
            if self.peek() in (("op", "+"), ("op", "-")) and self.tokens[self.position + 1] == ("op", "}"):
                side = self.take()[1]
                self.expect("}")
                return _call(f"side{side}", base)
            exponent = self.group_rest()
        elif self.peek() in (("op", "+"), ("op", "-")) and self.tokens[self.position + 1] == ("op", "}"):
            return _call(f"side{self.take()[1]}", base)
        elif self.skip("'"):
            return sym(base.value + "'") if base.kind == "sym" else base
        elif self.peek()[0] == "op" and self.peek()[1] in ("-", "+"):
            negative = self.take()[1] == "-"
            exponent = self.argument()
            exponent = Node("neg", "", (exponent,)) if negative else exponent
        else:
            exponent = self.argument()
        if exponent.kind == "text":
            return base if exponent.value.strip().lower() in _ORDINALS else self.fail("words in an exponent")
        return Node("pow", "", (base, exponent))

    def subscript(self, base: Node) -> Node:
        raw = self.raw_argument()
        if base.kind == "num" and raw.isdigit():
            return Node("base", base.value, (num(raw),))
        if base.kind == "sym":
            return sym(f"{base.value}_{raw}")
        if base.kind == "unit" or not raw:
            return base
        if base.kind == "text":
            return Node("text", f"{base.value}_{raw}")
        return self.fail("a subscript")

    def raw_argument(self) -> str:
        """Return the next token or braced group as text, without blanks."""
        if not self.skip("{"):
            return self.take()[1]
        level = 1
        words: list[str] = []
        while True:
            kind, text = self.take()
            if kind == "end":
                self.fail("an open brace")
            if kind == "op" and text in ("{", "}"):
                level += 1 if text == "{" else -1
                if level == 0:
                    return "".join(words)
            words.append(text)

    def argument(self) -> Node:
        """Return what a TeX command takes: one braced group, else one digit or one other token."""
        if self.skip("{"):
            return self.group_rest()
        kind, text = self.peek()
        if kind == "num" and len(text) > 1:
            self.tokens[self.position] = ("num", text[1:])
            return num(text[0])
        if kind == "sym":
            self.position += 1
            return sym(text)
        return self.primary()

    def group_rest(self) -> Node:
        """Read up to the closing brace; ``a \\over b`` and ``n \\choose k`` split the group."""
        self.deeper()
        bars, self.bars = self.bars, 0
        items = [self.relation()]
        if self.peek()[0] == "cmd" and self.peek()[1] in ("over", "choose", "atop"):
            command = self.take()[1]
            right = self.relation()
            items = [Node("div", "", (items[0], right)) if command == "over" else _call("binom", items[0], right)]
        while self.peek()[0] == "sep":
            self.position += 1
            items.append(self.relation())
            if len(items) > MAX_LIST:
                raise TooLarge("a list")
        self.expect("}")
        self.depth -= 1
        self.bars = bars
        return items[0] if len(items) == 1 else Node("list", "", tuple(items))

    def primary(self) -> Node:
        kind, text = self.take()
        if kind == "num":
            return self.repeating(text) if "." in text else num(text)
        if kind == "sym":
            return self.symbol(text)
        if kind == "fn":
            return self.function(text)
        if kind == "cmd":
            return self.command(text)
        if kind == "text":
            return self.text_value(text)
        if kind == "op":
            if text == "{":
                if self.peek()[0] == "sym" and self.tokens[self.position + 1] in (("op", "|"), ("op", ":")):
                    return self.braces("}")
                return Node("set") if self.skip("}") else self.group_rest()
            if text in ("(", "["):
                return self.bracket(text)
            if text == r"\{":
                return self.braces()
            if text in ("|", "||"):
                return self.absolute(text)
            if text == "<<":
                return self.bracket(text)
            if text == "...":
                return sym("...")
        self.position -= 1
        return self.fail("expected a value")

    def text_value(self, text: str) -> Node:
        if (text in MONEY_CODES or text.lower() in CURRENCIES) and self.begins_quantity():
            negative = self.skip("-")
            inner = self.factor()
            while self.peek()[0] == "text" and scale(self.peek()[1].split()[0]) is not None:
                inner = self.unit(inner)
            inner = Node("unit", text, (inner,)) if inner.kind != "unit" else inner
            return Node("neg", "", (inner,)) if negative else inner
        constant = _WORDED.get(text.strip().lower())
        if constant:
            return sym(constant)
        words = [text]
        while self.peek()[0] == "text":
            words.append(self.take()[1])
        return Node("text", " ".join(words).strip())

    def repeating(self, text: str) -> Node:
        """Return a number, with its repeating decimals where ``\\overline{..}`` follows."""
        if self.peek() == ("cmd", "overline"):
            self.position += 1
            digits = self.raw_argument()
            if not digits.isdigit() or len(digits) > 50 or len(text) > 50:
                self.fail("repeating digits")
            whole, _, fixed = text.partition(".")
            top = int((whole + fixed + digits) or "0") - int((whole + fixed) or "0")
            return Node("div", "", (num(top), num((10 ** len(digits) - 1) * 10 ** len(fixed))))
        return num(text)

    def symbol(self, name: str) -> Node:
        """A letter; with ``(t)`` or ``(0)`` right after it, a value of an unknown function."""
        primes = 0
        subscript = ""
        while True:
            if self.at("_"):
                self.position += 1
                subscript += "_" + self.raw_argument()
            elif self.at("'"):
                self.position += 1
                primes += 1
            else:
                break
        if name == "m" and not subscript and self.peek() in (("cmd", "angle"), ("cmd", "measuredangle")):
            self.position += 1
            return self.primary()
        full = name + subscript + "'" * primes
        if self.at("(") and name not in ("pi", "i", "e", "oo"):
            inner = self.tokens[self.position + 1 : self.position + 3]
            if len(inner) == 2 and inner[1] == ("op", ")") and inner[0][0] in ("sym", "num"):
                alone = inner[0][0] == "sym" or name.isupper() or name in "fghpqu"
                if alone:
                    self.position += 3
                    argument = num(inner[0][1]) if inner[0][0] == "num" else sym(inner[0][1])
                    return Node("apply", full, (argument,))
        return sym(full)

    def bracket(self, opening: str) -> Node:
        """A parenthesis: a group, or a tuple or interval where it holds commas."""
        self.deeper()
        bars, self.bars = self.bars, 0
        closing = {"(": ")", "[": "]", "<<": ">>"}[opening]
        if opening == "(" and self.skip(")"):
            self.depth -= 1
            return Node("tuple", "()")
        items = [self.relation()]
        while self.peek()[0] == "sep" and self.peek()[1] in (",", ";", "and"):
            self.position += 1
            if self.peek()[0] == "op" and self.peek()[1] == closing:
                break
            items.append(self.relation())
            if len(items) > MAX_LIST:
                raise TooLarge("a tuple")
        end = self.take()[1]
        self.depth -= 1
        self.bars = bars
        if end not in (")", "]", ">>") or (opening == "<<") != (end == ">>"):
            self.position -= 1
            self.fail("an open bracket")
        if len(items) == 1:
            if end != closing:
                self.fail("brackets that do not match")
            return items[0] if opening != "<<" else Node("tuple", "()", (items[0],))
        return Node("tuple", "()" if opening == "<<" else opening + end, tuple(items))

    def braces(self, closing: str = r"\}") -> Node:
        """A set; ``{x | condition}`` is read as its condition."""
        self.deeper()
        if self.skip(closing):
            self.depth -= 1
            return sym("EMPTY")
        bars, self.bars = self.bars, 1
        first = self.union()
        within = self.union() if self.skip("in") else None
        if self.at("|") or self.at(":"):
            self.position += 1
            self.bars = bars
            conditions = [] if within is None else [Node("rel", "in", (first, within))]
            conditions.append(self.relation())
            while self.peek()[0] == "sep":
                self.position += 1
                conditions.append(self.relation())
            self.expect(closing)
            self.depth -= 1
            return conditions[0] if len(conditions) == 1 else Node("inter", "", tuple(conditions))
        if within is not None:
            self.fail("a set")
        self.bars = bars
        items = [first]
        while self.peek()[0] == "sep":
            self.position += 1
            items.append(self.relation())
            if len(items) > MAX_LIST:
                raise TooLarge("a set")
        self.expect(closing)
        self.depth -= 1
        return Node("set", "", tuple(items))

    def absolute(self, bar: str) -> Node:
        self.deeper()
        self.bars += 1
        inner = self.sum()
        self.bars -= 1
        self.expect(bar)
        self.depth -= 1
        return _call("abs", inner)

    # -- functions and commands --------------------------------------------------------------------------

    def function(self, name: str) -> Node:
        self.deeper()
        base = power = None
        while True:
            if self.at("_") and name in ("log", "max", "min"):
                self.position += 1
                base = self.argument()
            elif self.at("^") and self.tokens[self.position + 1][1] != "circ":
                self.position += 1
                power = Node("neg", "", (self.argument(),)) if self.skip("-") else self.argument()
            else:
                break
        if name == "sqrt":
            result = self.root()
        else:
            arguments = self.function_arguments(name)
            if power == Node("neg", "", (num("1"),)) and name in _INVERSES:
                name, power = "arc" + name, None
            elif power == Node("neg", "", (num("1"),)):
                self.fail(f"an inverse of {name}")
            if base is not None:
                arguments = (*arguments, base)
            result = Node("call", name, arguments)
            if name == "cis":
                turning = Node("mul", "", (sym("i"), Node("call", "sin", arguments)))
                result = Node("add", "", (Node("call", "cos", arguments), turning))
        self.depth -= 1
        return Node("pow", "", (result, power)) if power is not None else result

    def function_arguments(self, name: str) -> tuple[Node, ...]:
        """In brackets: exactly these; without: the product that follows, up to the next function or sign."""
        if self.at("(") or self.at("["):
            inner = self.bracket(self.take()[1])
            if self.tokens[self.position - 2][0] == "sep":
                self.fail("an argument that is missing")
            return inner.args if inner.kind == "tuple" else (inner,)
        if self.at(r"\{") and name in ("max", "min", "gcd", "lcm"):
            self.position += 1
            inner = self.braces()
            return inner.args if inner.kind == "set" else (inner,)
        if self.skip("{"):
            inner = self.group_rest()
            return inner.args if inner.kind == "list" else (inner,)
        if self.skip("-"):
            return (Node("neg", "", self.function_arguments(name)),)
        if self.peek()[0] == "fn":
            return (self.factor(),)
        argument = self.factor()
        while self.begins_factor() and self.peek()[0] != "fn" and not self.at("(") and not self.at("|"):
            argument = _product(argument, self.factor())
        return (argument,)

    def root(self) -> Node:
        index = None
        if self.skip("["):
            index = self.relation()
            self.expect("]")
        if self.at("("):
            radicand = self.primary()
        elif self.at("-"):
            self.fail("a root of a sign")
        else:
            radicand = self.argument() if self.peek()[0] != "num" else self.root_of_digits()
        return Node("call", "root", (index or num("2"), radicand))

    def root_of_digits(self) -> Node:
        """``\\sqrt12`` without braces: TeX takes one digit, people mean the number; the number is read."""
        return num(self.take()[1])

    def command(self, name: str) -> Node:
        if name in _FRACTIONS:
            return self.fraction()
        if name in ("binom", "dbinom", "tbinom"):
            return _call("binom", self.argument(), self.argument())
        if name == "begin":
            return self.environment()
        if name in ("lfloor", "lceil"):
            self.deeper()
            inner = self.sum()
            closing = self.take()
            if closing != ("cmd", name.replace("l", "r", 1)):
                self.fail("an open floor or ceiling")
            self.depth -= 1
            return _call("floor" if name == "lfloor" else "ceil", inner)
        if name in _BIG:
            return self.big(_BIG[name])
        if name == "based":
            digits = self.raw_argument()
            return Node("base", digits, (num(self.raw_argument()),))
        if name == "textcircled":
            return self.circled()
        if name in _WRAPPERS:
            inner = self.argument()
            return sym(f"bar({inner.value})") if name == "bar" and inner.kind == "sym" else inner
        if name in _ACCENTS:
            inner = self.argument()
            if inner.kind != "sym":
                self.fail("an accent")
            return self.symbol(f"{name}({inner.value})")
        if name in _DROPPED:
            return self.factor()
        if name == "pmod":
            self.primary()
            return self.fail("a modulus alone")
        if name == "circ":
            return sym("circ")
        return self.fail(f"unknown command \\{name}")

    def circled(self) -> Node:
        """Return circled statement numbers as a set: the answer to "which of these are true"."""
        items = [sym(f"circled {self.raw_argument()}")]
        while self.peek() == ("cmd", "textcircled"):
            self.position += 1
            items.append(sym(f"circled {self.raw_argument()}"))
            if len(items) > MAX_LIST:
                raise TooLarge("a list")
        return items[0] if len(items) == 1 else Node("set", "", tuple(items))

    def fraction(self) -> Node:
        start = self.position
        self.deeper()
        top, bottom = self.argument(), self.argument()
        self.depth -= 1
        if self.is_derivative(start):
            return Node("apply", "deriv", (top, bottom))
        return Node("div", "", (top, bottom))

    def is_derivative(self, start: int) -> bool:
        """True for ``\\frac{d y}{d t}``: both groups begin with d or the partial sign."""
        window = self.tokens[start : self.position]
        if len(window) < 5 or window[0] != ("op", "{") or window[1] not in (("sym", "d"), ("sym", "partial")):
            return False
        closing = next((k for k, token in enumerate(window) if token == ("op", "}")), len(window))
        for k in range(closing, len(window) - 2):
            if window[k] == ("op", "}") and window[k + 1] == ("op", "{"):
                return window[k + 2] == window[1] and window[2] != ("op", "}")
        return False

    def environment(self) -> Node:
        name = self.raw_argument()
        if name not in _MATRICES and name not in _SYSTEMS:
            self.fail(f"environment {name}")
        if name == "array" and self.at("{"):
            self.raw_argument()
        if name in _SYSTEMS:
            return self.system(name)
        self.deeper()
        rows: list[list[Node]] = [[]]
        cells = 0
        while self.peek() != ("cmd", "end"):
            if self.peek() == ("cmd", "hline"):
                self.position += 1
                continue
            if self.skip(r"\\"):
                rows.append([])
                continue
            if self.skip("&"):
                continue
            rows[-1].append(self.relation())
            cells += 1
            if cells > MAX_MATRIX_CELLS:
                raise TooLarge("a matrix")
        self.position += 1
        self.raw_argument()
        self.depth -= 1
        rows = [row for row in rows if row]
        if not rows or len({len(row) for row in rows}) != 1:
            self.fail("a matrix with rows of different length")
        matrix = Node("matrix", f"{len(rows)}x{len(rows[0])}", tuple(cell for row in rows for cell in row))
        return _call("det", matrix) if name == "vmatrix" else matrix

    def system(self, name: str) -> Node:
        """Return rows that hold one relation each as a list, rows (value, condition) as a list of pairs."""
        self.deeper()
        rows: list[list[Node]] = [[]]
        cells = 0
        while self.peek() != ("cmd", "end"):
            if self.skip(r"\\"):
                rows.append([])
            elif name == "cases" and self.peek()[0] == "text" and self.peek()[1].lower().strip(" ,:") in _CONDITIONS:
                self.position += 1
            elif self.peek()[0] == "sep" or self.skip("&") or self.peek() in (("sym", "\\"), ("op", "&")):
                self.position += self.peek()[0] == "sep"
            else:
                rows[-1].append(self.aligned(name))
                cells += 1
                if cells > MAX_MATRIX_CELLS:
                    raise TooLarge("a system")
        self.position += 1
        self.raw_argument()
        self.depth -= 1
        rows = [row for row in rows if row]
        if not rows:
            self.fail("an empty system")
        items = [row[0] if len(row) == 1 else Node("tuple", "()", tuple(row)) for row in rows]
        return items[0] if len(items) == 1 else Node("list", "", tuple(items))

    def aligned(self, name: str) -> Node:
        """Read one relation; in a system of equations the ``&`` before a sign only aligns."""
        if name != "cases" or self.aligned_signs():
            start = self.position
            depth = 0
            kept: list[Token] = []
            while depth or self.peek() not in (("op", r"\\"), ("cmd", "end"), ("end", "")):
                token = self.take()
                depth += (token == ("cmd", "begin")) - (token == ("cmd", "end"))
                if token[0] == "end":
                    self.fail("an open environment")
                if token != ("op", "&"):
                    kept.append(token)
            if not kept:
                self.position = start
                self.fail("an empty row")
            return Reader([*kept, ("end", "")]).answer()
        return self.relation()

    def aligned_signs(self) -> bool:
        """True where this row has ``&`` right before or after a relation sign."""
        for place in range(self.position, len(self.tokens) - 1):
            if self.tokens[place] in (("op", r"\\"), ("cmd", "end")):
                return False
            pair = {self.tokens[place], self.tokens[place + 1]}
            if ("op", "&") in pair and ("op", "=") in pair:
                return True
        return False

    def big(self, kind: str) -> Node:
        """A sum, product, integral or limit with its bounds and body."""
        self.deeper()
        lower = upper = None
        while self.at("_") or self.at("^"):
            mark = self.take()[1]
            bound = self.bound()
            if mark == "_":
                lower = bound
            else:
                upper = bound
        body = self.integrand() if kind == "int" else self.term()
        self.depth -= 1
        none = sym("NONE")
        if kind == "int":
            if body.kind != "rel":
                self.fail("an integral without its variable")
            return Node("big", "int", (body.args[1], lower or none, upper or none, body.args[0]))
        if lower is None or lower.kind != "rel" or len(lower.args) != 2:
            return Node("big", kind, (none, lower or none, upper or none, body))
        return Node("big", kind, (lower.args[0], lower.args[1], upper or none, body))

    def bound(self) -> Node:
        if self.skip("{"):
            return self.group_rest()
        if self.skip("-"):
            return Node("neg", "", (self.argument(),))
        if self.peek()[0] in ("num", "sym"):
            kind, text = self.take()
            return num(text) if kind == "num" else sym(text)
        return self.argument()

    def integrand(self) -> Node:
        """Read up to ``dx``: cut the tokens there, read the body, and return (body, variable) as a relation.

        In ``\\frac{dx}{x}`` the body goes on after it: then ``dx`` is taken out, and 1 stands in an empty numerator.
        """
        level = 0
        for place in range(self.position, len(self.tokens) - 1):
            token, after = self.tokens[place : place + 2]
            level += (token == ("op", "{")) - (token == ("op", "}"))
            if token == ("sym", "d") and after[0] == "sym":
                variable = sym(after[1])
                if level > 0:
                    alone = self.tokens[place - 1] == ("op", "{") and self.tokens[place + 2] == ("op", "}")
                    self.tokens[place : place + 2] = [("num", "1")] if alone else []
                    return Node("rel", "d", (self.term(), variable))
                body_tokens = self.tokens[self.position : place]
                body = Reader([*body_tokens, ("end", "")]).answer() if body_tokens else num("1")
                self.position = place + 2
                return Node("rel", "d", (body, variable))
        return self.fail("an integral without its variable")


_INVERSES = frozenset(["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch"])


def _one_quantity(left: Node, right: Node) -> Node | None:
    """Return ``2 hours 30 minutes`` in its smaller unit; None where the two are no parts of one quantity."""
    if left.kind != "unit" or right.kind != "unit" or left.value == right.value:
        return None
    if known_unit(left.value) is None or known_unit(right.value) is None:
        return None
    factor = conversion(left.value, right.value)
    if factor is None or factor <= 1:
        return None
    large = Node("mul", "", (fraction(factor), left.args[0]))
    return Node("unit", right.value, (Node("add", "", (large, right.args[0])),))


def _call(name: str, *args: Node) -> Node:
    return Node("call", name, args)


def _is_unit_letter(node: Node) -> bool:
    """True below words: for other words, and for h and s of ``\\frac{\\text{km}}{\\text{h}}``."""
    return node.kind == "text" or (node.kind == "sym" and node.value in SINGLE_LETTER_UNITS)


def _product(left: Node, right: Node) -> Node:
    if right.kind == "div" and right.args[0].kind == "text" and _is_unit_letter(right.args[1]):
        if right.args[0] == right.args[1]:
            raise Unreadable("words divided by themselves")
        return Node("unit", "/".join(arg.value for arg in right.args), (left,))
    return Node("mul", "", (*left.args, right) if left.kind == "mul" else (left, right))
