"""What each benchmark states about its answers: where they stand, and what counts as equal."""

from __future__ import annotations

from dataclasses import dataclass

CONCLUDED = ("boxed", "answer-tag", "hashes", "answer-is", "choice", "bold", "conclusion", "maths", "bare")
"""Where a response says what its answer is, in the order tried; see `extraction` for what each place finds."""
ANYWHERE = (*CONCLUDED, "number")
"""And the last number, whatever it counts: only for the data sets that ask for it."""


@dataclass(frozen=True, slots=True, eq=False)  # one object a data set: it is a key of every cached grade
class Rules:
    """The grading rules of one data set.

    ``extraction``: the places looked at, in order. ``round_to_gold``: golds are rounded measurements, so a longer
    decimal that rounds to the gold (of two or more significant digits) is accepted. ``positive_symbols``: letters
    are positive quantities, so sqrt(r^2) is r. ``decimals_are_rounded``: see `equivalence.ROUNDED_DIGITS`.
    """

    name: str
    extraction: tuple[str, ...] = CONCLUDED
    round_to_gold: bool = False
    positive_symbols: bool = False


MATH = Rules("math")
_RULES = {
    "math": MATH,
    "gsm8k": Rules("gsm8k", ("boxed", "answer-tag", "hashes", "answer-is", "bold", "conclusion", "bare", "number")),
    "minerva": Rules("minerva", round_to_gold=True, positive_symbols=True),
    "olympiadbench": Rules("olympiadbench"),
    "aime": Rules("aime"),
    "amc": Rules("amc"),
    "arithmetic": Rules("arithmetic", ("boxed",)),
}

SOURCES = tuple(_RULES)
"""Names that have rules; the name of a data set holds one of them, or MATH's rules are taken."""


def rules_for(source: str) -> Rules:
    """Return the rules of a data set by its name (``math500``, ``minerva_math``, ``aime24`` …); MATH's for others."""
    name = source.lower().replace("-", "_")
    for known in ("gsm8k", "minerva", "olympiad", "aime", "amc", "arithmetic"):
        if known in name:
            return _RULES["olympiadbench" if known == "olympiad" else known]
    return MATH
