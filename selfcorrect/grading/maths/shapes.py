"""Bring a tree into the shape that is compared: names stripped, inequalities as intervals, ± as lists, one matrix."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise

from selfcorrect.grading.maths import algebra
from selfcorrect.grading.maths.limits import MAX_MATRIX_CELLS, MAX_PLUS_MINUS, TooLarge, Unreadable, spend
from selfcorrect.grading.maths.numeric import has_symbols, real_value
from selfcorrect.grading.maths.tree import Node, contains, num, sym
from selfcorrect.grading.maths.witness import doubtful_part

CONSTANTS = frozenset(["pi", "e", "i", "oo", "RR", "ZZ", "QQ", "NN", "CC", "EMPTY", "..."])
_PM = frozenset(["pm"])
_MATRIX = frozenset(["matrix"])
_INFINITY = sym("oo")
_MINUS_INFINITY = Node("neg", "", (sym("oo"),))
REALS = Node("tuple", "()", (_MINUS_INFINITY, _INFINITY))
_NUMBER_SETS = frozenset(["ZZ", "QQ", "NN", "CC", "RR"])


def is_letter(node: Node) -> bool:
    """True for a letter that is no constant."""
    return node.kind == "sym" and node.value not in CONSTANTS


def is_name(node: Node) -> bool:
    """True for what a value is given to: a letter, f(x), a tuple or ratio of names, a segment AB, |AB|, sin A."""
    if is_letter(node) or node.kind == "apply" or node == sym("e"):
        return True
    if node.kind == "text":
        return any(map(str.isalpha, node.value))
    if node.kind in ("tuple", "list", "ratio") and node.args:
        return all(is_name(arg) for arg in node.args)
    if node.kind == "div":
        return all(is_name(arg) and arg.value not in _UNKNOWNS for arg in node.args)
    if node.kind == "mul":
        return all(is_letter(arg) and arg.value[0].isupper() for arg in node.args) or (
            len(node.args) == 2
            and (is_letter(node.args[0]) or _is_inverse(node.args[0]))
            and (node.args[1].kind == "tuple" or (_is_inverse(node.args[0]) and is_letter(node.args[1])))
        )
    return node.kind == "call" and _is_named_value(node)


_UNKNOWNS = frozenset(["x", "y", "t", "n", "m", "k"])
_OF_FUNCTIONS = frozenset(["max", "min"])


def _is_named_value(node: Node) -> bool:
    """True for |AB|, |z|, sin A, cos θ, max f: values that a problem asks for; ``|x|``, ``sin x`` make an equation."""
    if node.value == "root" or not node.args:
        return False
    if node.value in _OF_FUNCTIONS or (node.value == "abs" and node.args[0].kind == "mul"):
        return all(map(is_name, node.args))
    if node.value == "abs":
        return is_name(node.args[0]) and node.args[0].value not in _UNKNOWNS
    return all(is_name(arg) and not _is_small_letter(arg) for arg in node.args)


def _is_small_letter(node: Node) -> bool:
    """True for a letter that may be an unknown: x, but not A, θ or v_0."""
    return is_letter(node) and len(node.value) == 1 and node.value.islower()


def _is_inverse(node: Node) -> bool:
    return node.kind == "pow" and is_letter(node.args[0]) and node.args[1] == Node("neg", "", (num("1"),))


def by_their_names(node: Node) -> Node:
    """Return ``y=4, x=9`` as (9, 4): equations that give values to letters in the order of the letters.

    That is the alphabet's for x, y, z, neighbours (a, b, c) and numbered letters, else the order as written.
    """
    if len(node.args) < 2 or not all(
        arg.kind == "rel" and arg.value == "=" and is_letter(arg.args[0]) for arg in node.args
    ):
        return node
    names = [arg.args[0].value for arg in node.args]
    if len(set(names)) < len(names) or any(len(arg.args) != 2 for arg in node.args):
        return node
    given = {arg.args[0].value: arg.args[1] for arg in node.args}
    return Node("tuple", "()", tuple(given[name] for name in natural_order(names)))


def in_natural_order(names: tuple[Node, ...], value: Node) -> Node:
    """Return the value of ``(y, x) = (3, 8)`` as (8, 3)."""
    if value.kind not in ("tuple", "list") or len(value.args) != len(names) or not all(map(is_letter, names)):
        return value
    given = dict(zip((name.value for name in names), value.args, strict=True))
    ordered = natural_order([name.value for name in names])
    return value._replace(args=tuple(given[name] for name in ordered)) if len(given) == len(names) else value


def natural_order(names: list[str]) -> list[str]:
    """Return names in the order in which a tuple of their values is written."""
    ordered = sorted(names, key=lambda name: (name.partition("_")[0], len(name), name))
    if all(len(name) == 1 for name in names):
        codes = [ord(name) for name in ordered]
        return ordered if set(names) <= set("xyz") or codes == list(range(codes[0], codes[0] + len(codes))) else names
    return ordered if len({name.partition("_")[0] for name in names}) == 1 else names


def in_order_of(names: tuple[Node, ...], items: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return ``b=2, a=1`` in the order of the names (a, b); items that do not give each name a value as they are."""
    given = {item.args[0]: item for item in items if item.kind == "rel" and item.value == "="}
    return tuple(given[name] for name in names) if set(given) == set(names) else items


def settle(node: Node) -> Node:
    """Return the tree in comparison shape (see the module's first line); children are settled when compared."""
    kind = node.kind
    if kind == "sym" and node.value == "RR":
        return REALS
    if kind == "rel":
        return _settle_relation(node)
    if kind in ("add", "mul", "neg", "div") and contains(node, _MATRIX):
        return _matrix(node) or node
    if kind == "minus":
        return _without_points(node) or node
    if (
        kind == "add"
        and node.args[0] in (sym("RR"), sym("R"))
        and node.args[1].args[:1]
        and node.args[1].args[0].kind == "set"
        and len(node.args) == 2
        and node.args[1].kind == "neg"
    ):
        return _without_points(Node("minus", "", (node.args[0], node.args[1].args[0]))) or node
    if kind == "ratio" and all(arg.kind == "num" for arg in node.args):
        return node
    if kind not in ("list", "set", "tuple", "union", "rel") and contains(node, _PM):
        return Node("list", "", tuple(branches(node)))
    if kind in ("list", "set"):
        items: list[Node] = []
        for arg in node.args:
            inner = settle(arg) if contains(arg, _PM) else arg
            items.extend(inner.args if inner.kind == "list" else (inner,))
        if kind == "list" and all(item.kind == "set" for item in items) and len(items) > 1:
            return Node("list", "", tuple(items))
        return Node(kind, "", tuple(items)) if len(items) > 1 else items[0] if items else node
    return node


def _settle_relation(node: Node) -> Node:
    operators = node.value.split()
    members = node.args
    if "~" in operators:
        cut = operators.index("~")
        operators, members = operators[:cut], members[: cut + 1]
        if not operators:
            return settle(members[0])
        return settle(Node("rel", " ".join(operators), members))
    if operators == ["in"] and is_name(members[0]):
        return settle(members[1])
    if operators[-1] == "in" and members[-1].kind == "sym" and members[-1].value in _NUMBER_SETS:
        if members[-1].value != "RR" and not {"<", ">", "<=", ">=", "!="}.isdisjoint(operators):
            return node  # the whole numbers of an interval are not the interval
        return settle(Node("rel", " ".join(operators[:-1]), members[:-1]) if len(members) > 2 else members[0])
    if operators[-1] == "mod":
        return settle(members[-2])
    if "equiv" in operators:
        return settle(members[-1])
    if operators == ["="] and contains(members[1], _PM):
        branches = settle(members[1])
        if branches.kind == "list":
            return branches
    found = interval(node)
    if found and found[0].kind != "call":
        return found[1]
    if operators == ["!="] and is_letter(members[0]) and not has_symbols(members[1]):
        return _without_points(Node("minus", "", (REALS, Node("set", "", (members[1],))))) or node
    return node


def interval(node: Node) -> tuple[Node, Node] | None:
    """Return (variable, interval) of ``a < x <= b``, ``x > a`` or ``a >= x``; None for other relations."""
    operators = node.value.split()
    if node.kind != "rel" or not operators or any(op not in ("<", "<=", ">", ">=") for op in operators):
        return None
    if len({op[0] for op in operators}) != 1 or len(operators) > 2:
        return None
    members, closed = list(node.args), ["=" in op for op in operators]
    if operators[0][0] == ">":
        members.reverse()
        closed.reverse()
    if len(members) == 3:
        low, variable, high = members
        if not _is_variable(variable) or _uses(low, variable) or _uses(high, variable):
            return None
        return variable, Node("tuple", ("[" if closed[0] else "(") + ("]" if closed[1] else ")"), (low, high))
    left, right = members
    if _is_variable(left) and not _uses(right, left) and not (_is_variable(right) and has_symbols(right)):
        return left, Node("tuple", "(" + ("]" if closed[0] else ")"), (_MINUS_INFINITY, right))
    if _is_variable(right) and not _uses(left, right):
        return right, Node("tuple", ("[" if closed[0] else "(") + ")", (left, _INFINITY))
    return None


def _is_variable(node: Node) -> bool:
    if node.kind == "call" and node.value == "abs":
        node = node.args[0]
    return is_letter(node) or node.kind == "apply"


def _uses(node: Node, variable: Node) -> bool:
    return node == variable or any(_uses(arg, variable) for arg in node.args)


def _without_points(node: Node) -> Node | None:
    """Return R minus finitely many numbers as a union of open intervals."""
    base, removed = node.args[0], node.args[-1]
    if removed.kind == "num" or (removed.kind == "neg" and removed.args[0].kind == "num"):
        removed = Node("set", "", (removed,))  # the braces of ``R \\setminus {4}`` are not seen in TeX
    if len(node.args) != 2 or (settle(base) != REALS and base != sym("R")) or removed.kind != "set":
        return None
    placed = [(real_value(point), point) for point in removed.args]
    if any(value is None for value, _ in placed):
        return None
    points = [point for _, point in sorted(placed, key=lambda pair: pair[0] or 0.0)]
    ends = [_MINUS_INFINITY, *points, _INFINITY]
    return Node("union", "", tuple(Node("tuple", "()", (a, b)) for a, b in pairwise(ends)))


def merged(parts: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return intervals and points with those that touch or overlap joined, in order; as they came if not numeric."""
    placed = []
    for part in parts:
        node = Node("tuple", "[]", (part, part)) if part.kind not in ("tuple", "set") else part
        node = Node("tuple", "[]", (part.args[0], part.args[0])) if part.kind == "set" else node
        ends = [place(end) for end in node.args]
        if len(ends) != 2 or None in ends or len(node.value) != 2:
            return parts
        placed.append((ends[0], node.value[0] == "(", ends[1], node.value[1] == "]", node))
    placed.sort(key=lambda entry: entry[:2])
    joined: list[tuple[float | Fraction, bool, Node]] = []
    for low, opened, high, closed, node in placed:
        assert low is not None
        assert high is not None
        if joined:
            last_high, last_closed, last = joined[-1]
            if low < last_high or (low == last_high and (last_closed or not opened)):
                if (high, closed) > (last_high, last_closed):
                    whole = Node("tuple", last.value[0] + node.value[1], (last.args[0], node.args[1]))
                    joined[-1] = (high, closed, whole)
                continue
        joined.append((high, closed, node))
    return tuple(node for _, _, node in joined)


def place(end: Node) -> float | Fraction | None:
    if end == _INFINITY:
        return float("inf")
    if end == _MINUS_INFINITY:
        return float("-inf")
    try:
        exact = algebra.normal_form(end).rational()
    except (TooLarge, Unreadable):
        exact = None
    if exact is None:
        return real_value(end)
    return exact if doubtful_part(end, end) is None else None


def branches(node: Node) -> list[Node]:
    """Return the values that ± stands for: linked where ∓ appears too, independent else."""
    count = _count(node, "pm")
    if count > MAX_PLUS_MINUS:
        raise TooLarge("many plus-minus signs")
    if _count(node, "pm", "-+"):
        return [_choose(node, [positive] * count) for positive in (True, False)]
    return [_choose(node, [bool(mask >> k & 1) for k in range(count)]) for mask in range(2**count - 1, -1, -1)]


def _count(node: Node, kind: str, value: str = "") -> int:
    own = node.kind == kind and (not value or node.value == value)
    return own + sum(_count(arg, kind, value) for arg in node.args)


def _choose(node: Node, signs: list[bool]) -> Node:
    args = tuple(_choose(arg, signs) for arg in node.args)
    if node.kind != "pm":
        return node._replace(args=args)
    positive = signs.pop() == (node.value == "+-")
    last = args[-1] if positive else Node("neg", "", (args[-1],))
    return last if len(args) == 1 else Node("add", "", (args[0], last))


def _matrix(node: Node) -> Node | None:
    """Carry scalar factors and signs into the entries of a matrix; sums entry by entry."""
    args = [_matrix(arg) or arg for arg in node.args]
    matrices = [arg for arg in args if arg.kind == "matrix"]
    if node.kind == "matrix":
        return node
    if not matrices:
        return None
    if node.kind == "neg":
        return _each(matrices[0], lambda cell: Node("neg", "", (cell,)))
    if node.kind == "div" and args[0].kind == "matrix" and len(matrices) == 1:
        return _each(matrices[0], lambda cell: Node("div", "", (cell, args[1])))
    if node.kind == "mul" and len(matrices) == len(args):
        return _matrix_product(matrices)
    if node.kind == "mul" and len(matrices) == 1:
        factors = tuple(_worked_out(arg) for arg in args if arg.kind != "matrix")
        return _each(matrices[0], lambda cell: Node("mul", "", (*factors, cell)))
    if node.kind == "add" and len(matrices) == len(args) and len({m.value for m in matrices}) == 1:
        rows = zip(*(m.args for m in matrices), strict=True)
        return Node("matrix", matrices[0].value, tuple(Node("add", "", cells) for cells in rows))
    return None


def _matrix_product(matrices: list[Node]) -> Node | None:
    """Return the product of matrices whose shapes fit, every entry worked out as a polynomial.

    Entries left as they are would double with every factor. Function values stand as letters meanwhile; where they
    cancel, the first entry keeps them times zero, so that nothing is lost that may have no value.
    """
    letters: dict[Node, Node] = {}
    left, *others = (_each(matrix, lambda cell: _lettered(cell, letters)) for matrix in matrices)
    for right in others:
        rows, inner = (int(part) for part in left.value.split("x"))
        height, columns = (int(part) for part in right.value.split("x"))
        if inner != height or rows * columns * inner > MAX_MATRIX_CELLS:
            return None
        cells = []
        for row in range(rows):
            for column in range(columns):
                pairs = [(left.args[row * inner + k], right.args[k * columns + column]) for k in range(inner)]
                cells.append(_worked_out(Node("add", "", tuple(Node("mul", "", pair) for pair in pairs))))
        left = Node("matrix", f"{rows}x{columns}", tuple(cells))
    if not letters:
        return left
    parts = {letter.value: part for part, letter in letters.items()}
    first, *rest = (_restored(cell, parts) for cell in left.args)
    kept = Node("mul", "", (ZERO, Node("add", "", tuple(letters))))
    return left._replace(args=(Node("add", "", (first, kept)), *rest))


def _lettered(node: Node, letters: dict[Node, Node]) -> Node:
    """Return an entry with a letter in the place of everything that is not plain arithmetic."""
    kind, args = node.kind, node.args
    if kind in ("num", "sym"):
        return node
    if kind in ("add", "mul", "neg", "div"):
        return node._replace(args=tuple(_lettered(arg, letters) for arg in args))
    if kind == "pow" and args[1].kind == "num" and args[1].value.isdigit():
        return node._replace(args=(_lettered(args[0], letters), args[1]))
    return letters.setdefault(node, sym(f"__{len(letters)}"))


def _restored(node: Node, parts: dict[str, Node]) -> Node:
    if node.kind == "sym":
        return parts.get(node.value, node)
    return node._replace(args=tuple(_restored(arg, parts) for arg in node.args))


def _worked_out(node: Node) -> Node:
    """Return the tree of a scalar's normal form, or the scalar itself where that may lose something."""
    short = None
    if doubtful_part(node, node) is None:
        with suppress(Unreadable):
            short = algebra.tree(algebra.normal_form(node))
    if short is None:
        spend(_size(node))
        return node
    return short


def _size(node: Node) -> int:
    return 1 + sum(map(_size, node.args))


def _each(matrix: Node, change: Callable[[Node], Node]) -> Node:
    return Node("matrix", matrix.value, tuple(change(cell) for cell in matrix.args))


def equation(node: Node) -> tuple[Node | None, list[Node]] | None:
    """Return (name, values) of an equation or chain: ``x = 1/2 = 0.5`` gives (x, [1/2, 0.5]); None for others.

    The name is None where no side is one; then the values are all members.
    """
    if node.kind != "rel" or any(op != "=" for op in node.value.split()):
        return None
    members = list(node.args)
    if is_name(members[0]):
        return members[0], members[1:]
    if len(members) == 2 and is_name(members[1]):
        return members[1], members[:1]
    return None, members


def ratio_value(node: Node) -> Node:
    """Return a two-part ratio as a quotient, other trees as they are."""
    if node.kind == "ratio" and len(node.args) == 2:
        return Node("div", "", node.args)
    return node


ZERO = num("0")


def is_fraction(node: Node) -> bool:
    """True for a number literal that is not whole: ``0.5``, ``1/3``, their negatives and percentages."""
    value = real_value(node)
    return value is not None and value != round(value)
