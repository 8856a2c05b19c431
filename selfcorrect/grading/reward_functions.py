"""The grader in the shapes that RL libraries call. Our own trainers use `selfcorrect.rewards` instead.

A problem whose reference answer cannot be read has no reward (None: TRL leaves it out; verl and verifiers need a
number and get ``ungradable``). A response that cannot be graded, for want of an answer or by a limit, scores 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfcorrect.errors import InputError
from selfcorrect.grading.grader import GOLD_UNREADABLE, grade, grade_many
from selfcorrect.types import Grade

Completion = str | Sequence[Mapping[str, Any]]


def accuracy_reward(
    completions: Sequence[Completion],
    gold: Sequence[str] | None = None,
    solution: Sequence[str] | None = None,
    answer: Sequence[str] | None = None,
    source: Sequence[str] | str = "math",
    **_: Any,
) -> list[float | None]:
    """TRL: 1.0 or 0.0 for each completion, None where its reference answer cannot be read.

    The reference answers come from the first of the columns ``gold``, ``solution``, ``answer`` that is there.
    """
    golds = next((column for column in (gold, solution, answer) if column is not None), None)
    if golds is None:
        raise InputError("accuracy_reward needs a dataset column with reference answers: gold, solution or answer")
    pairs = [(completion_text(completion), str(one)) for completion, one in zip(completions, golds, strict=True)]
    return [_score(result) for result in grade_many(pairs, source=source)]


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    ungradable: float = 0.0,
) -> float:
    """verl: the score of one response under the rules of its data source."""
    score = _score(grade(solution_str, str(ground_truth), source=data_source))
    return ungradable if score is None else score


def correct_answer(
    completion: Completion,
    answer: str,
    info: Mapping[str, Any] | None = None,
    *,
    ungradable: float = 0.0,
    **_: Any,
) -> float:
    """verifiers: the reward of one completion; ``info["source"]`` names the data set."""
    source = str((info or {}).get("source", "math"))
    score = _score(grade(completion_text(completion), str(answer), source=source))
    return ungradable if score is None else score


def completion_text(completion: Completion) -> str:
    """Return the text of a completion; of a conversation the last assistant message."""
    if isinstance(completion, str):
        return completion
    spoken = [str(message.get("content") or "") for message in completion if message.get("role") == "assistant"]
    return spoken[-1] if spoken else ""


def _score(result: Grade) -> float | None:
    if result.method == GOLD_UNREADABLE:
        return None
    return 1.0 if result.correct else 0.0
