"""Other readings of a pair of answers, tried in turn where the first one finds them different.

| reading | example |
|---|---|
| a decimal comma, ``k`` for thousands, letters as units | ``2,5`` is 2.5; ``12k`` is 12000; ``5 N`` is ``5 newtons`` |
| an option with its content, labels, a point's letter | ``(C) 27`` is 27; ``Min: 1, Max: 3`` is 1, 3 |
| named values in the order of the names | ``b=2, a=1`` is (a,b)=(1,2) and (1,2) |
| a letter that is bound or stands for any number | ``f(y)=y`` is f(x)=x; ``n\\pi, n \\in Z`` is ``k\\pi, k \\in Z`` |
| conditions joined by "and" | ``x \\ge 2 and x < 3`` is [2,3); ``1 \\le |z| \\le 2`` is two intervals |

Each changes the form of an answer, never its value: the pair is then compared by the same rules as before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache

from selfcorrect.grading import wording
from selfcorrect.grading.extraction import sentence_value
from selfcorrect.grading.maths import shapes
from selfcorrect.grading.maths.common_units import may_be_unit
from selfcorrect.grading.maths.lexer import clean
from selfcorrect.grading.maths.limits import SHORT_ANSWER_CHARS, TooLarge, Unreadable
from selfcorrect.grading.maths.parser import read
from selfcorrect.grading.maths.tree import Node, contains, num, sym
from selfcorrect.grading.maths.units import known_unit
from selfcorrect.grading.maths.vocabulary import CHANGING

Pair = tuple[Node, Node]

_DECIMAL_COMMA = re.compile(r"([-+]?)(?:(\d{1,3}(?:[. ]\d{3})+)|(\d+)),(\d+)\s*(%?)")
_THOUSANDS = re.compile(r"(?:\\text\{USD\}\s*)?([-+]?\d+(?:\.\d+)?)\s?(k|K|M|B|mil|mn|bn)\.?")
_SCALES = {"k": 3, "K": 3, "M": 6, "mil": 6, "mn": 6, "B": 9, "bn": 9}
_BARE_UNIT = re.compile(
    r"([-+]?[\d.,]*\d\.?(?:\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{\s*-?\d+\s*\}|-?\d+))?)(?:\s|~|\\[,;: ])*"
    r"([A-Za-z][A-Za-z/ *^{}\-\d\\]{0,40})"
)
_LABEL = re.compile(
    r"(^|[,;\n]|\\\\|\band\b|\bor\b)\s*(?:\\text(?:bf)?\s*\{\s*)?[A-Za-z][A-Za-z']*(?:\s+[A-Za-z0-9']+){0,4}\s*:\s*\}?\s+"
)
_PARAMETERS = re.compile(
    r"(?:\s|\\[,;: ]|\\q?quad|,|\(|~)*(?:\\text(?:rm)?\s*\{)?[\s,(]*"
    r"(?:\b(?:for (?:some|any|all|every|each|integer)|where|with|for)\b(?![^$]*=)"
    r"|(?<=[,(\s}])(?=(?:[a-zA-Z]|\\ell)(?:\s*,\s*[a-zA-Z])*\s*(?:\\in\b|\bis an?\b|\bintegers?\b))).*$",
    re.DOTALL,
)
_PARAMETERS_SAID = re.compile(r"for|where|with|\\in\b|integer|\bis an?\b")
_PARAMETER = re.compile(r"(?<![A-Za-z\\])([a-zA-Z])(?![A-Za-z])|\\(ell|lambda|mu|theta|alpha)")
_NUMBER_SET = re.compile(
    r"\\mathbb\s*\{?\s*([ZNRQC])|\\([ZNRQC])\b|\b(integer|natural|positive integer|real|rational|complex)"
)
_FOR_ALL = re.compile(
    r"(?:\s|,|\\[,;: ]|\\q?quad)*(?:\\text\s*\{\s*)?\bfor (?:all|every|any|each)\b\s*\}?\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*"
    r"\s*\\in\s*\\mathbb\s*\{?\s*[A-Z]\s*\}?(?:\s*[_^]\s*(?:\{[^{}]*\}|\S))*"
)
_SAYS = re.compile(r"[^\W\d_]{2,}.*\b(?:is|are|was|were|has|have|equals|comes|gives)\b")
_PLAIN = re.compile(r"(?:[-+*/^.,0-9{}()\[\] ]|\\(?:d?frac|tfrac|sqrt|pi|cdot|times|left|right|infty)(?![a-zA-Z]))*")
"""Answers without letters: only their commas have another reading."""
_FREE = frozenset(["k", "m", "n", "l", "t", "r", "s", "c", "C", "p", "q", "j", "ell", "lambda", "mu", "alpha", "beta"])
"""Letters that stand for any number in the solution of an equation."""


def other_readings(answer: str, gold: str, node_r: Node | None, node_g: Node) -> Iterator[Pair]:
    """Yield further (response, gold) trees; ``node_r`` is None where the response could not be read as it stands."""
    if len(answer) > SHORT_ANSWER_CHARS or len(gold) > SHORT_ANSWER_CHARS:
        return
    plain = bool(_PLAIN.fullmatch(answer) and _PLAIN.fullmatch(gold))
    if plain and "," not in answer and "," not in gold:
        return
    yield from _texts(answer, gold, node_r, node_g)
    if node_r is None or plain:
        return
    forms_r, forms_g = _forms(node_r, answer), _forms(node_g, gold)
    for form_g in (node_g, *forms_g):
        for form_r in (node_r, *forms_r):
            if form_r is not node_r or form_g is not node_g:
                yield form_r, form_g
    yield from _named_values(node_r, node_g)
    yield from _bound(answer, gold, node_r, node_g)
    yield from _renamed(answer, gold, node_r, node_g)


_cleaned = lru_cache(maxsize=2048)(clean)


def _read(text: str, *, thousands: bool = True) -> Node | None:
    try:
        return read(text, thousands=thousands)
    except (Unreadable, TooLarge, RecursionError):
        return None


# -- by text ---------------------------------------------------------------------------------------------


def _texts(answer: str, gold: str, node_r: Node | None, node_g: Node) -> Iterator[Pair]:
    """Yield what another reading of one text gives, each side in turn."""
    cleaned_r, cleaned_g = _cleaned(answer), _cleaned(gold)
    if node_r is not None and "," in answer and node_g.kind in ("list", "set") and node_r.kind not in ("list", "set"):
        yield from _pairs(_read(answer, thousands=False), node_g)
    if node_r is not None and "," in gold and node_r.kind in ("list", "set") and node_g.kind not in ("list", "set"):
        yield from _pairs(node_r, _read(gold, thousands=False))
    for text, other, is_response in ((cleaned_r, node_g, True), (cleaned_g, node_r, False)):
        if other is None:
            continue
        for reading in (*_numbers(text, other), *_unlabelled(text)):
            yield (reading, other) if is_response else (other, reading)
    yield from _bare_units(cleaned_r, cleaned_g)
    if _SAYS.search(answer) and not CHANGING & set(re.findall(r"[a-z]+", answer.lower())):
        value = sentence_value(answer, money=False)
        yield from _pairs(_read(value) if value is not None else None, node_g)
    led = wording.led_choice(answer)
    if led and not wording.is_bare_choice(gold):
        yield from _pairs(_read(led[1]), node_g)


def _pairs(response: Node | None, gold: Node | None) -> Iterator[Pair]:
    if response is not None and gold is not None:
        yield response, gold


def _numbers(text: str, other: Node) -> Iterator[Node]:
    comma = _DECIMAL_COMMA.fullmatch(text)
    if (
        comma
        and not (comma[3] and len(comma[4]) == 3 and len(comma[3]) < 4 and comma[3][0] != "0")
        and (shapes.is_fraction(other) or comma[4] == "00")
    ):
        sign, grouped, plain, decimals, percent = comma.groups()
        number = num(re.sub(r"\D", "", grouped or plain) + "." + decimals)
        number = Node("pct", "", (number,)) if percent else number
        yield Node("neg", "", (number,)) if sign == "-" else number
    scaled = _THOUSANDS.fullmatch(text)
    if scaled:
        yield Node("mul", "", (_signed(scaled[1]), num(10 ** _SCALES[scaled[2]])))
    if _COMPOUND.fullmatch(text) and contains(other, _UNITS):
        compound = _read(re.sub(r"([A-Za-z]+)", r"\\text{\1}", text))
        if compound is not None:
            yield compound
    bare = _bare_unit(text) if contains(other, _UNITS) else None
    if bare is not None:
        yield bare


_COMPOUND = re.compile(r"(?:\d[\d.,]*\s*[A-Za-z]{1,7}\s*){2,4}")
_UNITS = frozenset(["unit", "text"])


def _bare_units(response: str, gold: str) -> Iterator[Pair]:
    """Yield ``72 km/h`` and ``20 m/s`` as quantities; the same letters after both are compared as they are."""
    bare_r, bare_g = _BARE_UNIT.fullmatch(response), _BARE_UNIT.fullmatch(gold)
    if bare_r and bare_g and bare_r[2] != bare_g[2] and may_be_unit(bare_g[2]):
        yield from _pairs(_bare_unit(response), _bare_unit(gold))


def _bare_unit(text: str) -> Node | None:
    """Read ``72 km/h``, ``5 N``: letters after a number as a unit."""
    bare = _BARE_UNIT.fullmatch(text)
    number = _read(bare[1]) if bare and may_be_unit(bare[2]) and known_unit(bare[2]) is not None else None
    return Node("unit", bare[2].strip(), (number,)) if bare and number is not None else None


def _signed(text: str) -> Node:
    return Node("neg", "", (num(text[1:]),)) if text[0] == "-" else num(text.lstrip("+"))


def _unlabelled(text: str) -> Iterator[Node]:
    """Read ``Minimum: 1, Maximum: 3`` without its labels."""
    if ":" in text and _LABEL.match(text):
        plain = _LABEL.sub(lambda found: ", " if found[1] else "", text)
        node = _read(plain.strip(" ,"))
        if node is not None:
            yield node


# -- by form ---------------------------------------------------------------------------------------------


def _uncircled(node: Node) -> Node | None:
    """Return circled statement numbers as a list of plain ones."""
    if node.kind == "set" and all(arg.kind == "sym" and arg.value.startswith("circled ") for arg in node.args):
        return Node("list", "", tuple(num(arg.value.removeprefix("circled ")) for arg in node.args))
    return None


def _forms(node: Node, text: str) -> tuple[Node, ...]:
    """Return the other forms of one tree."""
    forms = (
        _value_of_chain(node),
        _without_marks(node),
        _branched(node),
        _conjoined(node, text),
        _vector(node) if _UNIT_VECTOR.search(text) else None,
        _uncircled(node),
    )
    return tuple(form for form in forms if form is not None and form != node)


def _value_of_chain(node: Node) -> Node | None:
    """Return the value of ``x = y = z = 5`` and of a physical name such as ``v_0 t = 5``, ``\\Delta p = 5``."""
    if node.kind != "rel" or not set(node.value.split()) <= {"=", "~"}:
        return None
    *names, value = node.args
    if len(names) > 1:
        return value if all(shapes.is_letter(name) for name in names) and len(set(names)) == len(names) else None
    name = names[0]
    if name.kind == "mul" and all(shapes.is_letter(arg) for arg in name.args) and _says_quantity(name):
        return value
    return None


def _says_quantity(name: Node) -> bool:
    letters = [arg.value for arg in name.args]
    return len(set(letters)) == len(letters) and any("_" in one or len(one) > 1 or one.isupper() for one in letters)


def _without_marks(node: Node) -> Node | None:
    """Drop a point's letter (``A(1,2)``) and a transposition sign (``[1,2]^T``), in a list from each item."""
    if node.kind == "list":
        items = [_without_marks(item) or item for item in node.args]
        return Node("list", "", tuple(items)) if tuple(items) != node.args else None
    if node.kind == "mul" and len(node.args) == 2 and node.args[1].kind == "tuple":
        letter = node.args[0]
        return node.args[1] if shapes.is_letter(letter) and letter.value[0].isupper() else None
    if node.kind == "pow" and node.args[1] in (sym("T"), sym("top")) and node.args[0].kind in ("tuple", "matrix"):
        inner = node.args[0]
        if inner.kind == "tuple":
            return Node("tuple", "()", inner.args)
        rows, columns = inner.value.split("x")
        return inner._replace(value=f"{columns}x{rows}") if "1" in (rows, columns) else None
    return None


def _branched(node: Node) -> Node | None:
    """Write out the signs of a tuple: ``(\\pm 1, 2)`` is (1,2), (-1,2)."""
    if node.kind == "tuple" and contains(node, frozenset(["pm"])):
        return Node("list", "", tuple(shapes.branches(node)))
    return None


_UNIT_VECTOR = re.compile(r"hat|vec|bar|\u0302|\u20d7|[îĵ]")


def _vector(node: Node) -> Node | None:
    """Write unit vectors as plain letters: ``\\hat{i}``, ``\\vec{j}``."""
    if node.kind == "sym" and (found := re.fullmatch(r"(?:hat|vec|widehat|bar)\(([ijkxyz])\)", node.value)):
        return sym(found[1])
    if not node.args:
        return None
    args = tuple(_vector(arg) or arg for arg in node.args)
    return node._replace(args=args) if args != node.args else None


# -- conditions ------------------------------------------------------------------------------------------


_AND = re.compile(r"\band\b|\\land|\\wedge")


def _conjoined(node: Node, text: str) -> Node | None:
    """Return the set of ``x \\ge 2 and x < 3``, ``x \\in R, x \\ne 2``, ``1 \\le |z| \\le 2``; None for other trees."""
    if node.kind == "rel":
        ranges = _ranges(node)
        return _as_node(ranges[1]) if ranges and contains(node, frozenset(["call"])) else None
    if node.kind not in ("inter", "list") or not all(arg.kind == "rel" for arg in node.args):
        return None
    if node.kind == "list" and not _AND.search(text) and not any(arg.value in ("in", "!=") for arg in node.args):
        return None
    found = [_ranges(arg) for arg in node.args]
    if any(one is None for one in found):
        return None
    names = {one[0] for one in found if one is not None}
    if len(names) != 1:
        return None
    total = found[0][1]  # type: ignore[index]
    for one in found[1:]:
        total = _intersection(total, one[1])  # type: ignore[index]
    return _as_node(total)


Range = tuple[float | Fraction, bool, float | Fraction, bool, Node, Node]
"""(low, open, high, open, low as written, high as written)"""
_LINE: Range = (float("-inf"), True, float("inf"), True, Node("neg", "", (sym("oo"),)), sym("oo"))


def _ranges(node: Node) -> tuple[Node, list[Range]] | None:
    """Return (variable, ranges) of one condition on a variable or on its absolute value."""
    operators, members = node.value.split(), node.args
    if operators == ["in"] and shapes.is_letter(members[0]):
        parts = _parts(shapes.settle(members[1]))
        return (members[0], parts) if parts is not None else None
    if operators == ["!="] and shapes.is_letter(members[0]):
        parts = _parts(shapes.settle(node))
        return (members[0], parts) if parts is not None else None
    found = shapes.interval(node)
    if found is None:
        return None
    variable, inner = found
    parts = _parts(inner)
    if parts is None:
        return None
    if variable.kind == "call" and variable.value == "abs":
        variable = variable.args[0]
        if not shapes.is_letter(variable):
            return None
        parts = _unfolded(parts[0])
    return variable, parts


def _unfolded(one: Range) -> list[Range]:
    """Return the x with \\|x\\| in a range."""
    low, low_open, high, high_open, low_node, high_node = one
    minus_low, minus_high = Node("neg", "", (low_node,)), Node("neg", "", (high_node,))
    if low < 0:
        return [(-high, high_open, high, high_open, minus_high, high_node)]
    return [(-high, high_open, -low, low_open, minus_high, minus_low), one]


def _parts(node: Node) -> list[Range] | None:
    parts: list[Range] = []
    for part in node.args if node.kind == "union" else (node,):
        if part.kind != "tuple" or len(part.args) != 2:
            return None
        low, high = (shapes.place(end) for end in part.args)
        if low is None or high is None:
            return None
        parts.append((low, part.value[0] == "(", high, part.value[1] == ")", *part.args))
    return parts


def _intersection(left: list[Range], right: list[Range]) -> list[Range]:
    total: list[Range] = []
    for one in left:
        for other in right:
            low = max(one, other, key=lambda part: (part[0], part[1]))
            high = min(one, other, key=lambda part: (part[2], not part[3]))
            if (low[0], high[2]) == (low[0], low[0]) and (low[1] or high[3]):
                continue
            if low[0] <= high[2]:
                total.append((low[0], low[1], high[2], high[3], low[4], high[5]))
    return total


def _as_node(ranges: list[Range]) -> Node:
    parts = [
        Node("set", "", (low_node,))
        if low == high
        else Node("tuple", ("(" if a else "[") + (")" if b else "]"), (low_node, high_node))
        for low, a, high, b, low_node, high_node in ranges
    ]
    if not parts:
        return sym("EMPTY")
    return parts[0] if len(parts) == 1 else Node("union", "", tuple(parts))


# -- names -----------------------------------------------------------------------------------------------


def _named_values(node_r: Node, node_g: Node) -> Iterator[Pair]:
    """Yield both sides as tuples of values, ordered by their names; a side without names keeps its order."""
    named_r, named_g = _assignments(node_r), _assignments(node_g)
    if named_r and named_g:
        if all(set(one) == set(named_g[0]) for one in (*named_r, *named_g)):
            names = sorted(named_g[0], key=str)
            yield _tuples(named_r, names), _tuples(named_g, names)
    elif named_r and node_g.kind in ("tuple", "list"):
        yield _tuples(named_r, _in_natural_order(named_r[0])), node_g
    elif named_g and node_r.kind in ("tuple", "list"):
        yield node_r, _tuples(named_g, _in_natural_order(named_g[0]))


def _assignments(node: Node) -> list[dict[Node, Node]] | None:
    """Return the solutions that ``x=1, y=2 or x=3, y=4`` or ``(x,y) = (1,2)`` lists, by name; None for other trees."""
    solutions: list[dict[Node, Node]] = [{}]
    for item in node.args if node.kind in ("list", "inter") else (node,):
        if item.kind == "tuple" and item.value == "()" and all(arg.kind == "rel" for arg in item.args):
            inner = _assignments(Node("list", "", item.args))
            if inner is None or len(inner) != 1:
                return None
            pairs = list(inner[0].items())
        elif item.kind == "rel" and item.value == "=" and item.args[0].kind in ("tuple", "list"):
            names, values = item.args
            if values.kind not in ("tuple", "list") or len(names.args) != len(values.args):
                return None
            pairs = list(zip(names.args, values.args, strict=True))
        elif item.kind == "rel" and item.value == "=":
            pairs = [(item.args[0], item.args[1])]
        else:
            return None
        for name, value in pairs:
            if not (shapes.is_letter(name) or name.kind == "apply"):
                return None
            if name in solutions[-1]:
                solutions.append({})
            solutions[-1][name] = value
    complete = len(solutions[0]) > 1 and all(set(one) == set(solutions[0]) for one in solutions)
    return solutions if complete else None


def _in_natural_order(names: Iterable[Node]) -> list[Node]:
    """Return names in the order of a tuple of their values: see `shapes.natural_order`."""
    by_text = {name.value if name.kind == "sym" else str(name): name for name in names}
    return [by_text[text] for text in shapes.natural_order(list(by_text))]


def _tuples(solutions: list[dict[Node, Node]], names: list[Node]) -> Node:
    rows = [Node("tuple", "()", tuple(one[name] for name in names)) for one in solutions]
    return rows[0] if len(rows) == 1 else Node("list", "", tuple(rows))


# -- letters ---------------------------------------------------------------------------------------------


_BUILDER = re.compile(
    r"\s*\$?\s*(?:\\left\s*)?(?:\\?\{|\\lbrace)\s*\(?\s*([a-zA-Z](?:\s*,\s*[a-zA-Z])*)\s*\)?\s*"
    r"(?:(?:\\in\b|∈)[^|:]{0,40}?)?(?:\\mid\b|\\vert\b|\\colon\b|\\[mM]iddle\s*\||\\,|\||:)"
)
_ONE_VARIABLE = re.compile(r"[a-zA-Z]")


def _bound(answer: str, gold: str, node_r: Node, node_g: Node) -> Iterator[Pair]:
    """Yield ``{t | t > 3}`` with its bound letters named as those of ``{x | x > 3}``, or as the one of ``x > 3``."""
    builder_r = _BUILDER.match(answer)
    if builder_r is None:
        return
    builder_g = _BUILDER.match(gold)
    old = _ONE_VARIABLE.findall(builder_r[1])
    new = _ONE_VARIABLE.findall(builder_g[1]) if builder_g else sorted(_letters(node_g))
    if len(old) != len(new) or old == new or (_letters(node_r) - set(old)) & set(new):
        return
    for letter in old:  # in two steps: {(y,x) | …} may name its letters the other way round
        node_r = _replace(node_r, letter, f"bound {letter}")
    for letter, name in zip(old, new, strict=True):
        node_r = _replace(node_r, f"bound {letter}", name)
    yield node_r, node_g
    yield from ((form, node_g) for form in _forms(node_r, answer))


def _renamed(answer: str, gold: str, node_r: Node, node_g: Node) -> Iterator[Pair]:
    """Yield the response with its bound or free letter named as in the gold."""
    core_r, said_r, set_r = without_parameters(_FOR_ALL.sub("", answer) if "for" in answer else answer)
    core_g, said_g, set_g = without_parameters(_FOR_ALL.sub("", gold) if "for" in gold else gold)
    changed_r, changed_g = core_r != answer, core_g != gold
    if set_r and set_g and set_r != set_g:
        return
    tree_r = _read(core_r) if changed_r else node_r
    tree_g = _read(core_g) if changed_g else node_g
    if tree_r is None or tree_g is None:
        return
    if (
        set_r != set_g
        and {set_r, set_g} & _DISCRETE
        and any(_is_range(tree, said_r | said_g) for tree in (tree_r, tree_g))
    ):
        return
    if changed_r or changed_g:
        yield tree_r, tree_g
        yield from _named_values(tree_r, tree_g)
    defined = _defined(tree_g)
    if not (said_r or said_g or defined or _NAMED_ARGUMENT.search(gold) or "c" in gold or "C" in gold):
        return
    letters_r, letters_g = _letters(tree_r), _letters(tree_g)
    names = defined | _defined(tree_r)
    only_r, only_g = letters_r - letters_g - names, letters_g - letters_r - names
    if len(only_r) != 1 or len(only_g) != 1:
        return
    (old,), (new,) = only_r, only_g
    bound = new in _arguments(tree_g) and old in _arguments(tree_r)
    declared = old in said_r or new in said_g
    constant = old.lower() == new.lower() and old.lower() == "c"
    free = bool(defined) and new in _FREE and old in _FREE and not _arguments(tree_g)
    if bound or declared or constant or free:
        renamed = _replace(tree_r, old, new)
        yield renamed, tree_g
        yield from _named_values(renamed, tree_g)


_NAMED_ARGUMENT = re.compile(r"\(\s*\\?[a-zA-Z]")
"""What every value of a function at a letter has."""


_DISCRETE = frozenset(["Z", "N", "Q"])


def _is_range(node: Node, parameters: frozenset[str]) -> bool:
    """True for what says where a number lies, whose whole numbers are another set; not for a tuple in parameters."""
    if node.kind == "rel":
        return not {"<", ">", "<=", ">=", "!="}.isdisjoint(node.value.split())
    if node.kind in ("union", "inter", "list"):
        return any(_is_range(arg, parameters) for arg in node.args)
    return node.kind == "tuple" and len(node.args) == 2 and not _letters(node) & parameters


def without_parameters(text: str) -> tuple[str, frozenset[str], str]:
    """Return (answer, letters said to run over numbers, which numbers) of ``n\\pi, n \\in \\mathbb{Z}``."""
    if len(text) > 400 or not _PARAMETERS_SAID.search(text):
        return text, frozenset(), ""
    found = _PARAMETERS.search(text)
    if found is None or not found.start():
        return text, frozenset(), ""
    tail = re.sub(r"\\mathbb\s*\{?\s*[A-Z]\}?|\\(?:text|mathrm|in|quad)\b|\ba\b", " ", found.group())
    letters = frozenset(one or other for one, other in _PARAMETER.findall(tail))
    kind = _NUMBER_SET.search(found.group())
    if not letters or re.search(r"[<>\d]|\\[gl]e|\\neq?", tail):
        return text, frozenset(), ""
    named = (kind[1] or kind[2] or {"i": "Z", "n": "N", "p": "N", "r": "R", "c": "C"}[kind[3][0]]) if kind else ""
    return text[: found.start()].rstrip(" ,(") + ("}" * _open_braces(text[: found.start()])), letters, named


def _open_braces(text: str) -> int:
    plain = text.replace(r"\{", "").replace(r"\}", "")
    return max(0, plain.count("{") - plain.count("}"))


def _letters(node: Node) -> set[str]:
    if node.kind == "sym":
        return {node.value} if node.value not in shapes.CONSTANTS else set()
    return set().union(*(_letters(arg) for arg in node.args)) if node.args else set()


def _defined(node: Node) -> set[str]:
    """Return the letters that a tree gives values to: x of ``x = 5``."""
    if node.kind in ("list", "inter"):
        return set().union(*(_defined(arg) for arg in node.args))
    if node.kind == "rel" and "=" in node.value.split():
        name = node.args[0]
        if shapes.is_letter(name):
            return {name.value}
        if name.kind in ("tuple", "list") and all(shapes.is_letter(arg) for arg in name.args):
            return {arg.value for arg in name.args}
        return {"="} if name.kind in ("tuple", "list") else set()
    return set()


def _arguments(node: Node) -> set[str]:
    """Return the letters that stand as arguments of unknown functions."""
    if node.kind == "apply":
        return {arg.value for arg in node.args if arg.kind == "sym"}
    return set().union(*(_arguments(arg) for arg in node.args)) if node.args else set()


def _replace(node: Node, old: str, new: str) -> Node:
    if node.kind == "sym":
        return sym(new) if node.value == old else node
    return node._replace(args=tuple(_replace(arg, old, new) for arg in node.args))
