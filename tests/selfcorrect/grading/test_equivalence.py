"""The table of this area: every bug becomes a line in ``cases.jsonl`` before it is fixed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfcorrect.grading import answers_agree, gold_is_readable, grade
from selfcorrect.grading.self_test import self_test
from selfcorrect.types import Outcome

CASES = [json.loads(line) for line in (Path(__file__).parent / "cases.jsonl").open(encoding="utf-8")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['answer']} ## {case['gold']}")
def test_case(case: dict[str, str]) -> None:
    result = grade(f"The answer is $\\boxed{{{case['answer']}}}$.", case["gold"], source=case.get("source", "math"))
    assert result.outcome == case["expected"], result


@pytest.mark.parametrize("case", [c for c in CASES if c["expected"] == "correct"], ids=lambda case: case["gold"])
def test_equal_answers_are_equal_both_ways(case: dict[str, str]) -> None:
    result = grade(f"$\\boxed{{{case['gold']}}}$", case["answer"])
    assert result.correct, result


def test_self_test_passes() -> None:
    assert self_test() == []


def test_three_outcomes_name_who_is_to_blame() -> None:
    assert grade(r"\boxed{5}", r"\begin{cases}").method == "gold-unreadable"
    assert grade("", "5").method == "nothing-extracted"
    assert grade(r"\boxed{\foo{5}}", "5").method == "response-unreadable"
    assert grade(r"\boxed{" + "1+" * 9000 + "1}", "5").method == "limit"
    assert not gold_is_readable(r"\begin{cases}")
    assert not gold_is_readable("")


def test_integers_of_any_length() -> None:
    digits = "9" * 1_000_000
    assert grade(rf"\boxed{{{digits}}}", digits).correct
    assert grade(rf"\boxed{{{digits}}}", "7").outcome is Outcome.WRONG
    assert grade(rf"\boxed{{00{digits}}}", digits).correct


def test_minerva_golds_are_rounded_measurements() -> None:
    assert grade(r"\boxed{4.48 \times 10^{33}}", "4.5e33", source="minerva").correct
    assert not grade(r"\boxed{4.48 \times 10^{33}}", "4.5e33", source="math").correct
    assert not grade(r"\boxed{4.4 \times 10^{33}}", "4.5e33", source="minerva").correct
    assert not grade(r"\boxed{12.2}", "12", source="minerva").correct
    assert grade(r"\boxed{2r\sqrt{\pi}}", r"\sqrt{4\pi r^2}", source="minerva").correct


def test_a_problem_may_state_its_tolerance() -> None:
    assert grade(r"\boxed{4.25}", "4.2", source="olympiadbench", tolerance=0.1).correct
    assert not grade(r"\boxed{4.25}", "4.2", source="olympiadbench").correct
    assert not grade(r"\boxed{4.35}", "4.2", source="olympiadbench", tolerance=0.1).correct


def test_a_long_decimal_may_be_the_rounding_of_a_fraction() -> None:
    assert grade(r"\boxed{0.0833333333333333}", r"\frac{1}{12}").correct
    assert not grade(r"\boxed{0.083333}", r"\frac{1}{12}").correct
    assert not grade(r"\boxed{10.0000000001}", "10").correct


def test_voting_compares_answers() -> None:
    assert answers_agree("0.5", r"\frac12") is True
    assert answers_agree("0.5", "2") is False
    assert answers_agree(r"\foo", "2") is None
