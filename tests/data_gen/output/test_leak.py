"""How well the class is told from the problem alone: known leaks, none, and matched rows; the data card says it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from selfcorrect.data_gen.classes import BaseSample, Candidate, Continuation, Kind, PartOutcome, SampledPart
from selfcorrect.data_gen.output.leak import auroc, leak
from selfcorrect.types import Problem

CORRECT, WRONG = PartOutcome.CORRECT, PartOutcome.WRONG
WORDS = ["stamps", "bottles", "candles", "books", "coins", "pens", "buys", "sells", "gives", "takes", "finds", "loses"]


def rows_of(problem: Problem, number: int, outcomes: Sequence[PartOutcome], used: Sequence[int]) -> list[Candidate]:
    """The attempts ``used`` as rows: D3 where correct, D1 where wrong."""
    rows = []
    for index in used:
        base, outcome = BaseSample(problem, number, index, 0), outcomes[index]
        attempt = SampledPart(base.id, "attempts", (1,), "a", outcome)
        rows.append(Candidate(Kind.D3 if outcome is CORRECT else Kind.D1, base, attempt, Continuation(None)))
    return rows


def measured(problems: int, rates: tuple[float, float], says_so: bool, is_matched: bool = False) -> dict:
    """Problems of two pass rates, eight attempts each; ``says_so``: the question has a word for the harder ones."""
    rng = random.Random(0)
    rows: list[Candidate] = []
    passed: dict[int, Counter[str]] = {}
    for number in range(problems):
        is_hard = rng.random() < 0.5
        question = " ".join(rng.choices(WORDS, k=12)) + (" twice" if is_hard and says_so else "")
        outcomes = [CORRECT if rng.random() < rates[not is_hard] else WRONG for _ in range(8)]
        passed[number] = Counter(outcomes)
        used = [0, 1]
        if is_matched:
            pairs = zip(
                (i for i in range(8) if outcomes[i] is WRONG),
                (i for i in range(8) if outcomes[i] is CORRECT),
                strict=False,
            )
            used = [index for pair in pairs for index in pair]
        rows += rows_of(Problem(f"p{number}", question, "1", "test"), number, outcomes, used)
    return leak(rows, passed, is_matched)


def test_auroc_by_hand() -> None:
    assert auroc(np.array([0.0, 1.0, 2.0, 2.0]), np.array([False, True, False, True])) == pytest.approx(2.5 / 4)
    assert auroc(np.array([1.0, 1.0]), np.array([True, False])) == 0.5


def test_pass_rates_and_words_show_a_leak() -> None:
    """Of D3 8 in 10 are easy, of D1 2 in 10, so the word has 0.8 × 0.8 + 0.5 × (2 × 0.8 × 0.2) = 0.80."""
    found = measured(400, (0.2, 0.8), says_so=True)
    assert found["words"]["auroc"] == pytest.approx(0.80, abs=0.05)
    assert found["pass rate"]["auroc"] == pytest.approx(0.80, abs=0.05)
    assert found["pass rate"]["low"] < found["pass rate"]["auroc"] < found["pass rate"]["high"]
    assert found["words"]["D1"] + found["words"]["D3"] == 800
    assert found["words"]["problems"] == 400


def test_what_the_question_does_not_say_words_do_not_show() -> None:
    found = measured(400, (0.2, 0.8), says_so=False)
    assert found["words"]["low"] < 0.5 < found["words"]["high"] + 0.02
    assert found["pass rate"]["auroc"] > 0.7


def test_problems_that_are_all_alike_leak_nothing() -> None:
    """Also by the pass rate: with the row's own attempt in it, its AUROC would be far above one half."""
    found = measured(400, (0.5, 0.5), says_so=True)
    for of in found.values():
        assert of["auroc"] == pytest.approx(0.5, abs=0.06)


def test_matched_rows_leak_nothing() -> None:
    found = measured(400, (0.2, 0.8), says_so=True, is_matched=True)
    assert found["pass rate"]["auroc"] == found["words"]["auroc"] == 0.5
    assert found["words"]["D1"] == found["words"]["D3"] > 100


def test_a_row_without_other_attempts_and_few_rows_are_left_out() -> None:
    problem = Problem("p", "q", "1", "test")
    assert leak(rows_of(problem, 0, [WRONG], [0]), {0: Counter({WRONG: 1})}, False) == {}
    found = measured(25, (0.5, 0.5), says_so=False)
    assert set(found) == {"pass rate", "words"}
    assert measured(10, (0.5, 0.5), says_so=False) == {}
