"""The marks of thinking: every family, closed and open, in extraction, in paths and in the count of tokens."""

from __future__ import annotations

import pytest

from selfcorrect.correction.parsing import _attempt_end
from selfcorrect.grading import extract_answer
from selfcorrect.grading.thoughts import MARK, after_thinking, closes, thought_spans

PAIRS = [
    ("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<THINK>", "</Think>"), ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"), ("<seed:think>", "</seed:think>"), ("<longcat_think>", "</longcat_think>"),
    ("<|think|>", "<|/think|>"), ("<think_start>", "<think_end>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"), ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<unused94>", "<unused95>"), ('<thinking effort="high">', "</thinking>"), ("<scratchpad>", "</scratchpad>"),
]  # fmt: skip


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_what_thinking_holds_is_no_answer(opening: str, closing: str) -> None:
    assert extract_answer(f"{opening}The answer is 4.{closing}\nThe answer is 5.") == "5"
    assert extract_answer(f"{opening}\\boxed{{4}}{closing}\nThe answer is 5.") == "5"
    assert extract_answer(f"Maybe \\boxed{{4}}.{closing}\nThe answer is 5.") == "5"  # the prompt opened it
    assert extract_answer(f"{opening}The answer is 4.\n\nLet me") is None
    assert extract_answer(f"{opening}It is \\boxed{{4}}, or rather") is None
    assert after_thinking(f"{opening}a{closing}b") == ("b", False)
    assert after_thinking(f"{opening}a") == (f"{opening}a", True)


@pytest.mark.parametrize("text", ["a < b think > c", "[think about it]", "x<think", "<b>5</b>", "<answer>5</answer>"])
def test_other_brackets_are_no_marks(text: str) -> None:
    assert MARK.search(text) is None
    assert after_thinking(text) == (text, False)


def test_spans_of_thinking() -> None:
    text = "<think>a</think>b<thinking>c"
    assert thought_spans(text) == [(0, 16, True), (17, len(text), False)]
    assert thought_spans("a</think>b") == [(0, 9, True)]
    assert [closes(mark) for mark in MARK.finditer(text)] == [False, True, False]


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_a_path_and_a_text_agree_about_thinking(opening: str, closing: str) -> None:
    still = f"{opening}So \\boxed{{5}}.\n\nLet me check: 5 is"
    assert _attempt_end(still, 0, len(still)) == len(still)  # open thinking holds no attempt's end
    attempt = f"{opening}\\boxed{{5}}{closing}\n\nSo \\boxed{{4}}."
    text = f"{attempt}\n\nFine. [VERIFY] correct."
    assert text[: _attempt_end(text, 0, text.index("[VERIFY]"))] == attempt
    first = "So \\boxed{4}."  # thinking after the box belongs to the self-evaluation
    text = f"{first}\n\n{opening}Is it \\boxed{{5}}?{closing} No. [VERIFY] correct."
    assert text[: _attempt_end(text, 0, text.index("[VERIFY]"))] == first
