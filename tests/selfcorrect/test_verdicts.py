"""The mark: exactly one well-formed mark is a verdict; anything else is None."""

from __future__ import annotations

import pytest

from selfcorrect.prompts import SELF_QUESTION
from selfcorrect.types import Verdict
from selfcorrect.verdicts import MARKS, has_mark, parse_two_turn, parse_verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("fine\n[VERIFY] correct.", Verdict.CORRECT),
        ("bad\n[VERIFY] wrong.", Verdict.WRONG),
        ("no mark", None),
        ("[VERIFY] correct", None),
        ("[VERIFY] Correct.", None),
        ("[VERIFY] maybe.", None),
        ("[VERIFY] wrong. [VERIFY] correct.", None),
        ("[VERIFY] wrong. [verify]", None),
        ("[ VERIFY ] wrong.", None),
        ("[VERIFY]  wrong.", None),
        ("", None),
    ],
)
def test_parse(text: str, verdict: Verdict | None) -> None:
    assert parse_verdict(text) is verdict


@pytest.mark.parametrize("verdict", list(Verdict))
def test_written_marks_are_read_back(verdict: Verdict) -> None:
    assert parse_verdict(MARKS[verdict]) is verdict
    assert has_mark(MARKS[verdict])


@pytest.mark.parametrize(
    ("answer", "verdict"), [("Yes.", Verdict.CORRECT), ("No.", Verdict.WRONG), ("Yesterday", None), ("", None)]
)
def test_two_turn(answer: str, verdict: Verdict | None) -> None:
    assert parse_two_turn(f"so 4.\n\n{SELF_QUESTION} {answer}") is verdict


def test_two_turn_doubled_is_none() -> None:
    assert parse_two_turn(f"{SELF_QUESTION} Yes. {SELF_QUESTION} No.") is None
