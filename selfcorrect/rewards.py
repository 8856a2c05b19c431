"""Rewards: grade and verdict in, the number handed to RL out (METHOD section 3). Pure functions.

``None`` means that no reward can be given (the grader failed): such a sample must be left out of the
update, never scored 0. A response without any readable answer is the policy's fault and earns 0.
"""

from __future__ import annotations

from selfcorrect.types import Grade, Outcome, Trajectory


def correctness(grade: Grade) -> float | None:
    """Return 1.0 for a right answer, 0.0 for a wrong or absent one, None where the grader failed."""
    if grade.outcome is Outcome.UNGRADABLE:
        return 0.0 if grade.unanswered else None
    return 1.0 if grade.correct else 0.0


def final_correctness(trajectory: Trajectory) -> float | None:
    """Return u*(τ): the correctness of the last attempt of a graded trajectory (METHOD section 1)."""
    if trajectory.final.grade is None:
        raise ValueError(f"trajectory of problem {trajectory.problem.id!r} is not graded")
    return correctness(trajectory.final.grade)
