"""Where the answer is found: each place has a case that fails when its rule is broken."""

from __future__ import annotations

import time

import pytest

from selfcorrect.grading import extract_answer, grade
from selfcorrect.grading.extraction import extract

FOUND = [
    (r"So $\boxed{5}$.", "5"),
    (r"$\boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
    (r"\fbox{7}", "7"),
    (r"\boxed 5", "5"),
    (r"A draft \boxed{4}, no. \boxed{5}", "5"),
    (r"\boxed{\boxed{42}}", "42"),
    (r"\boxed{5} and then \boxed{", "5"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"$\boxed{-2} \quad \text{and} \quad \boxed{1}$", "-2, 1"),
    (r"$\boxed{(3, 3)} \text{ for part (a) and } \boxed{(1, 1)}$", "(3, 3), (1, 1)"),
    (r"First $\boxed{3}$. No, that is wrong. Final: $\boxed{5}$.", "5"),
    (r"\boxed{4} is a draft. Therefore the answer is \boxed{}.", ""),
    (r"= \boxed{255}$ So $10,455. Final Answer: The final answer is $10,455$. I hope it is correct.", "10,455"),
    ("Let me see.</think>\nThe answer is 5.", "5"),
    (r"<think>\boxed{4}</think>\boxed{5}", "5"),
    ("<answer>42</answer>", "42"),
    ("16-3=13\n#### 13", "13"),
    ("#### 1,234", "1,234"),
    ("Therefore, the final answer is 2/3.", "2/3"),
    ("The probability that Alice wins is 2/3. <|im_start|>user", "2/3"),
    ("I think the correct answer is C", "C"),
    ("The answer is for sure D, it can't be A or B", "D"),
    ("答案：(\\frac{2}{5}) 吨。", "(\\frac{2}{5})"),
    ("一共是 **858颗**糖果。", "858"),
    ("Therefore $x > 5$ is the solution.", "x > 5"),
    ("42", "42"),
]


@pytest.mark.parametrize(("response", "answer"), FOUND)
def test_found(response: str, answer: str) -> None:
    found = extract_answer(response)
    assert found is not None
    assert found == answer or grade(rf"\boxed{{{found}}}", answer).correct


@pytest.mark.parametrize("response", ["", "I do not know.", "\\boxed", "\\boxed{5"])
def test_nothing_found(response: str) -> None:
    assert extract_answer(response, source="arithmetic") is None


def test_places_can_be_switched_off() -> None:
    response = "The answer is 5.\n#### 6"
    assert extract(response, ("hashes",)) == ("6", "hashes")
    assert extract(response, ("answer-is",)) == ("5", "answer-is")
    assert extract(response, ("boxed",)) is None
    assert grade(response, "6", extraction=("boxed",)).method == "nothing-extracted"


def test_only_boxes_count_for_the_synthetic_problems() -> None:
    assert grade("The answer is 5.", "5", source="arithmetic").outcome == "ungradable"
    assert grade("So \\boxed{5}", "5", source="arithmetic").correct


@pytest.mark.parametrize(
    "piece",
    ["\\boxed{", "{", "}", "$", "\\(", "\\[ 1 ", "####", "answer is ", "<think>", "**", "The final answer is $", "1 "],
)
def test_linear_in_the_length(piece: str) -> None:
    begun = time.process_time()
    grade(piece * 50_000 + "\n\nThe answer is $\\boxed{7}$.", "7")
    grade(piece * 50_000, "7")
    assert time.process_time() - begun < 1.5
