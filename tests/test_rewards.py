"""Rewards: a right answer 1, a wrong or absent one 0, a grader's failure None."""

from __future__ import annotations

import pytest

from selfcorrect.grading import grade
from selfcorrect.rewards import correctness, final_correctness
from selfcorrect.types import Attempt, Grade, Outcome, Problem, Trajectory


@pytest.mark.parametrize(
    ("response", "gold", "reward"),
    [
        ("so \\boxed{4}", "4", 1.0),
        ("so \\boxed{5}", "4", 0.0),
        ("so \\boxed{}", "4", 0.0),
        ("I do not\nknow, sorry, not at all", "4", 0.0),
        ("so \\boxed{4}", "\\frac{", None),
    ],
)
def test_the_grader_speaks(response: str, gold: str, reward: float | None) -> None:
    assert correctness(grade(response, gold)) == reward


def test_a_limit_is_nobodys_zero() -> None:
    assert correctness(Grade(Outcome.UNGRADABLE, method="limit")) is None
    assert correctness(Grade(Outcome.UNGRADABLE, method="gold-unreadable")) is None


def test_final_correctness_wants_a_grade() -> None:
    with pytest.raises(ValueError, match="not graded"):
        final_correctness(Trajectory(Problem("p", "q", "1", "math"), (Attempt("a"),)))
