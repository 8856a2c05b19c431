"""What stands behind every "equal": a proof for values that exist, or agreement at points. The one gate is `Witness`.

Whatever is not a finite number, or was not compared, is equal to nothing. Exact algebra alone does not see that: it
lets ``0 \\cdot \\ln 0`` vanish. So a proof counts only for a response whose every part has a value (`doubtful_part`).
"""

from __future__ import annotations

from dataclasses import dataclass

from selfcorrect.grading.maths.tree import Node, show, sym

_NO_VALUES = frozenset(["oo", "...", "RR", "ZZ", "QQ", "NN", "CC", "EMPTY", "NONE", "circ"])
_WORDS = {
    "identical": ("the same expression", ""),
    "literal": ("the same notation", ""),
    "words": ("the same words", "other words"),
    "number": ("equal as exact rationals", "different as exact rationals"),
    "normal form": ("equal by exact algebra", "different by exact algebra"),
    "modular": ("equal modulo two primes of 127 bits", "different modulo a prime of 127 bits"),
    "a point where they differ": ("", "different at a point"),
    "rounds to the gold": ("equal: it rounds to the reference's digits", ""),
    "rounded decimal": ("equal as a decimal of nine or more digits", ""),
    "stated tolerance": ("equal within the stated tolerance", ""),
    "equation": ("equal as equations, up to a constant factor", "different equations"),
    "inequality": ("equal as inequalities, up to a positive factor", "different inequalities"),
    "congruence": ("equal as residues", "different residues"),
    "base": ("equal digits in the same base", "other digits, or another base"),
    "a member of the chain without a value": ("", "wrong: a member of the chain has no value"),
    "several values": ("", "several values, and the tolerance is for one"),
    "unit": ("", "another unit"),
    "infinity": ("the same infinity", "only one is infinite"),
    "structure": ("equal part by part", "different in kind or in number of parts"),
}


@dataclass(frozen=True, slots=True)
class Witness:
    """Why two values are equal: ``method`` is the rule's name, ``words`` what it found; both are required."""

    method: str
    words: str

    def __post_init__(self) -> None:
        if not self.method or not self.words:
            raise AssertionError("an equality needs a witness")


def words_for(method: str, *, equal: bool) -> str:
    """Return the reason of a decision in words; other methods name themselves."""
    return _WORDS.get(method, ("", ""))[not equal] or f"{'equal' if equal else 'different'}: {method}"


def doubtful_part(response: Node, gold: Node) -> Node | None:
    """Return what has to be evaluated before a proof counts; None where exact algebra has seen every part exist.

    Sums, integrals and limits that the reference has in the same words exist as it does: letters take their place.
    """
    if _surely_exists(response):
        return None
    return _without(response, _operators(gold, set()))


def _surely_exists(node: Node) -> bool:
    """True for arithmetic on numbers, letters and roots of products: a zero divisor there cannot hide from algebra."""
    kind, args = node.kind, node.args
    if kind in ("num", "base", "apply"):
        return True
    if kind == "sym":
        return node.value not in _NO_VALUES
    if kind == "call":
        if node.value == "det":
            return all(map(_surely_exists, args[0].args))
        root = node.value == "root" and args[0].kind == "num" and args[0].value != "0"
        return root and _is_product(args[1])
    if kind == "pow":
        return _surely_exists(args[0]) and (_is_whole(args[1]) or (_is_product(args[0]) and _surely_exists(args[1])))
    return kind in ("add", "mul", "div", "neg", "pct", "deg", "unit", "fact") and all(map(_surely_exists, args))


def _is_whole(node: Node) -> bool:
    size = node.args[0] if node.kind == "neg" else node
    return size.kind == "num" and size.value.isdigit()


def _is_product(node: Node) -> bool:
    """True for products and quotients of numbers other than 0, letters and their whole powers."""
    if node.kind == "num":
        return node.value.strip("0.") != ""
    if node.kind == "sym":
        return node.value not in _NO_VALUES
    if node.kind == "pow":
        return _is_product(node.args[0]) and _is_whole(node.args[1])
    return node.kind in ("mul", "div", "neg") and all(map(_is_product, node.args))


def _operators(node: Node, parts: set[Node]) -> set[Node]:
    if node.kind == "big":
        parts.add(node)
    for arg in node.args:
        _operators(arg, parts)
    return parts


def _without(node: Node, known: set[Node]) -> Node:
    if node in known:
        return sym(show(node))
    if node.kind == "call" and node.value == "det":  # it exists where its cells do
        node = Node("add", "", node.args[0].args)
    return node._replace(args=tuple(_without(arg, known) for arg in node.args)) if node.args else node
