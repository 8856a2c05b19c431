"""What is an answer: every kind of fault that was seen, with right and wrong answers of the same kind."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.grading import extract_answer, gold_is_readable, grade
from selfcorrect.grading.extraction import STATED, extract
from selfcorrect.grading.maths.units import conversion
from selfcorrect.grading.rules import ANYWHERE, rules_for
from selfcorrect.types import Outcome

KINDS: dict[str, list[dict[str, Any]]] = defaultdict(list)
for line in (Path(__file__).parent / "kinds.jsonl").open(encoding="utf-8"):
    KINDS[json.loads(line)["kind"]].append(json.loads(line))


@pytest.mark.parametrize("kind", list(KINDS))
def test_kind(kind: str) -> None:
    """``expected`` is whether the answer is right; null where the reference may also be refused; ``cut`` by length."""
    missed = []
    for case in KINDS[kind]:
        result = grade(case["response"], case["gold"], tolerance=case.get("tolerance"), cut=case.get("cut", False))
        if case["expected"] is None:
            right = result.correct or result.method == "gold-unreadable"
        else:
            right = result.correct is case["expected"]
        if not right:
            missed.append((case["response"], case["gold"], result.outcome, result.reason))
    assert not missed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the area is 3*4=12 and now I need to multiply by", None),
        ("664+2", None),
        ("The answer is 66", None),  # 664 was on its way
        ("The answer is 66. Let me check that", "66"),
        ("$x = 5$ and", None),
        ("**7**", None),
        ("#### 12", None),
        ("#### 12\n", "12"),
        (r"so \boxed{12} and then", "12"),
        (r"so \boxed{12", None),
        ("<answer>5</answer>", "5"),
        ("<think> maybe \\boxed{5}? let me check", None),
        ("<think> so it must be \\boxed{5}.", "5"),
    ],
)
def test_of_a_cut_text_only_a_finished_statement_counts(text: str, answer: str | None) -> None:
    assert extract_answer(text, cut=True) == answer
    assert grade(text, "12", cut=True).correct is (answer == "12")


@pytest.mark.parametrize("source", ["math", "olympiadbench", "aime24", "amc23", "minerva_math", "arithmetic"])
def test_the_last_number_counts_only_where_a_data_set_asks_for_it(source: str) -> None:
    text = "He has 12 and then 15 marbles left over for tomorrow. This follows."
    assert "number" not in rules_for(source).extraction
    assert extract_answer(text, source=source) is None
    assert extract_answer(text, source="gsm8k") == "15"
    assert extract_answer(text, source="gsm8k", cut=True) is None
    assert set(STATED) < set(ANYWHERE)


@pytest.mark.parametrize(
    ("unit", "wanted", "factor"),
    [
        ("mL", "L", "1/1000"), ("km/h", "m/s", "5/18"), ("ms^{-1}", "m/s", "1"), ("J/(kg K)", "J kg^{-1} K^{-1}", "1"),
        ("square feet", "ft^2", "1"), ("hours", "min", "60"), ("cents", "dollars", "1/100"), ("pounds", "pence", "100"),
        ("W", "erg/s", "10000000"), ("red apples", "apples", "1"), ("kg", "m", None), ("dollars", "euros", None),
        ("degC", "degF", None), ("cats", "dogs", None), ("apples", "kg", None), ("m^{999999999}", "m", None),
    ],
)  # fmt: skip
def test_units_convert_exactly_or_clash(unit: str, wanted: str, factor: str | None) -> None:
    found = conversion(unit, wanted)
    assert (None if found is None else str(found)) == factor


def test_a_unit_text_is_never_given_to_a_parser() -> None:
    """Words alone reach pint: nothing of an answer is evaluated, whatever stands for its unit."""
    for unit in ("__import__('os')", "m**m**m", "10**10**10 m", "(((((m", "m" * 5_000, "kg^{-99999}"):
        result = grade(rf"\boxed{{5 \text{{ {unit} }}}}", r"5 \text{ km}")
        assert result.outcome is not Outcome.CORRECT or "m" not in unit


@pytest.mark.parametrize(
    ("gold", "readable"),
    [
        ("any integer greater than $e^{200}$", False),
        ("5000 pens should be produced for a cost of $\\$ 200$.", False),
        ("$C$ is not invertible", False),
        ("Ann is taller", False),
        ("Mrs. Doyle's class", True),
        ("neither even nor odd", True),
        ("3:30 p.m.", True),
        (r"(-3t+4, 2, t) for all real numbers $t$", True),
        ("Its area comes to 12.25 square inches.", True),
        ("", False),
    ],
)
def test_a_sentence_is_read_or_refused(gold: str, readable: bool) -> None:
    assert gold_is_readable(gold) is readable


def test_places_of_a_choice_need_no_box() -> None:
    assert extract("Hence (B) is the correct answer.", ("choice",)) == ("B", "choice")
    assert extract("It is not option B", ("choice",)) is None
