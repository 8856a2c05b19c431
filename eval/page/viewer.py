"""The trajectories in the page, as JSON that report.js shows; model text is hostile and stays text.

Control characters, and those that turn the reading direction, are written out, as in the terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from markupsafe import Markup

from selfcorrect.eval.analysis.error_budget import part_of
from selfcorrect.metrics import is_graded, p_correct
from selfcorrect.printing import clean
from selfcorrect.types import Attempt, Outcome, SelfEvaluation, Trajectory, Verdict

TEXT_BUDGET = 32_000_000  # characters of trajectory text in one page, shared evenly by the rows

CLASSES = {  # the six parts of the error budget, and what is in none of them
    "fixed": "wrong, then correct (i→c)",
    "broken": "correct, then wrong (c→i)",
    "never flagged": "wrong, and neither judged wrong nor revised",
    "not fixed": "wrong and flagged (judged wrong, or revised), wrong at the end",
    "kept": "correct and flagged (judged wrong, or revised), correct at the end",
    "left alone": "correct and not flagged",
    "not scored": "the grader failed, or it never ran",
}


class ViewedRow(Protocol):
    """A row as the viewer takes it."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def trajectories(self) -> Sequence[Trajectory]: ...
    @property
    def is_result(self) -> bool: ...


def transition(trajectory: Trajectory) -> str:
    """Return the name in `CLASSES` of what the self-correction did to a problem. Each trajectory has exactly one."""
    part = part_of(trajectory) if is_graded(trajectory) else None
    return "not scored" if part is None else part.replace("_", " ")


def viewer_json(rows: Sequence[ViewedRow]) -> Markup:
    """Return every row's trajectories as JSON that is inert inside a script element.

    ``texts`` holds each distinct string once; a trajectory is ``[problem, seed, class, stop, attempts, evaluations]``
    with attempts ``[text, outcome, answer, reason]`` and evaluations ``[text, verdict, p_correct]``, all strings as
    positions in ``texts`` (see report.js). A row that spends its share of `TEXT_BUDGET` is cut and says so.
    """
    records = _Records()
    shown = [
        {
            "name": clean(row.name),
            "label": clean(row.title),
            "paths": [records.of(trajectory) for trajectory in _within(row.trajectories, TEXT_BUDGET / len(rows))],
            "all": len(row.trajectories),
            "result": row.is_result,
        }
        for row in rows
        if row.trajectories
    ]
    data = {
        "classes": [list(item) for item in CLASSES.items()],
        "texts": list(records.texts),
        "problems": [list(identity) for identity in records.problems],
        "rows": shown,
    }
    return inert_json(data)


def _within(trajectories: Sequence[Trajectory], room: float) -> Iterator[Trajectory]:
    """Give trajectories until their texts have more characters than there is room."""
    for trajectory in trajectories:
        room -= sum(len(part.text) for part in (*trajectory.attempts, *trajectory.evaluations))
        if room < 0:
            return
        yield trajectory


class _Records:
    """Trajectories as numbers, and the strings and problems that the numbers stand for, each once."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        self.problems: dict[tuple[str, str, str], int] = {}
        self._classes, self._outcomes, self._verdicts = list(CLASSES), list(Outcome), list(Verdict)

    def of(self, trajectory: Trajectory) -> list[Any]:
        problem = trajectory.problem
        identity = (clean(problem.id), clean(problem.question), clean(problem.gold))
        return [
            self.problems.setdefault(identity, len(self.problems)),
            trajectory.seed,
            self._classes.index(transition(trajectory)),
            self._text(trajectory.stop),
            [self._attempt(attempt) for attempt in trajectory.attempts],
            [self._evaluation(evaluation) for evaluation in trajectory.evaluations],
        ]

    def _text(self, value: str) -> int:
        return self.texts.setdefault(clean(value), len(self.texts))

    def _attempt(self, attempt: Attempt) -> list[int]:
        return [
            self._text(attempt.text),
            self._outcomes.index(attempt.grade.outcome) if attempt.grade else -1,
            -1 if attempt.answer is None else self._text(attempt.answer),
            self._text(attempt.grade.reason if attempt.grade else ""),
        ]

    def _evaluation(self, evaluation: SelfEvaluation) -> list[float | None]:
        return [
            self._text(evaluation.text),
            -1 if evaluation.verdict is None else self._verdicts.index(evaluation.verdict),
            None if (p := p_correct(evaluation)) is None else round(p, 4),
        ]


_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def inert_json(value: Any) -> Markup:
    """Return compact JSON without a character that HTML or JavaScript could read as markup."""
    plain = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", plain))
