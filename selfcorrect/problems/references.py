"""What the reference answers of a problem set are: those that nothing can match, and the kinds of the others."""

from __future__ import annotations

from selfcorrect.grading import wording
from selfcorrect.grading.maths.tree import Node, contains
from selfcorrect.grading.references import read_reference

PLACEHOLDERS = frozenset([
    "none", "null", "nil", "nan", "na", "n/a", "#n/a", "<na>", "unknown", "unanswered", "undisclosed", "missing",
    "proof", "notfound", "todo", "tbd", "tba", "error", "-", "--", "---", "_", "?", "??", "???", ".", "…", "...", "[]",
    "{}", "()", "omitted", "not found", "not available", "not applicable", "no answer", "no answer extracted",
    "no solution found", "to be determined", "see solution", "see above", "answer not found", "cannot be extracted",
    "proof required", "proof needed", "see proof", "the proof", "no final answer", "answer omitted", "no reference",
])  # fmt: skip
"""Texts that stand where there is no answer: what programs write for a missing value, and authors for a proof."""

ABSENT = "no reference answer"
PLACEHOLDER = "reference answer is a placeholder"
UNREADABLE = "reference answer unreadable"
REASONS = frozenset([ABSENT, PLACEHOLDER, UNREADABLE, "asks for a proof", "several reference answers"])
"""Why a problem cannot be graded although its row is sound."""

KINDS = ("numbers", "expressions", "equations and inequalities", "sets, lists and tuples", "choices", "words")
"""The kinds of `kind_of`, in the order shown."""

_NUMBERS = frozenset(["num", "add", "mul", "neg", "div", "pow", "pct", "deg", "unit", "fact", "base", "pm"])
_MANY = frozenset(["tuple", "set", "list", "union", "inter", "minus", "matrix"])


def is_placeholder(gold: str) -> bool:
    """True where a reference is what is written in place of one: ``N/A``, ``None``, ``proof``, ``notfound``.

    LaTeX is an author's: ``\\text{none}`` is an answer.
    """
    return gold.strip().strip("\"'`*").rstrip(".!").strip().casefold() in PLACEHOLDERS or not gold.strip(" .$")


def kind_of(gold: str) -> str | None:
    """Return which of `KINDS` the grader reads a reference as, None where it cannot be read."""
    if wording.is_bare_choice(gold) or wording.led_choice(gold):
        return "choices"
    node = read_reference(gold)
    return None if node is None else _kind(node)


def _kind(node: Node) -> str:
    if node.kind == "text":
        return "words"
    if node.kind == "rel":
        return "equations and inequalities"
    if node.kind in _MANY:
        return "sets, lists and tuples"
    is_number = node.kind in _NUMBERS and not contains(node, frozenset(["sym", "call", "apply", "big", "text", "rel"]))
    return "numbers" if is_number else "expressions"
