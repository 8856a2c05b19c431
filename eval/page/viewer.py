"""The trajectories in the page, as JSON that report.js shows; model text is hostile and stays text.

Control characters, and those that turn the reading direction, are written out, as in the terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from markupsafe import Markup

from selfcorrect.eval.analysis.error_budget import part_of
from selfcorrect.metrics import is_graded, p_correct
from selfcorrect.printing import clean
from selfcorrect.types import Outcome, Trajectory, Verdict

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
    texts: dict[str, int] = {}
    problems: dict[tuple[str, str, str], int] = {}
    classes = list(CLASSES)
    outcomes = list(Outcome)
    verdicts = list(Verdict)

    def text(value: str) -> int:
        return texts.setdefault(clean(value), len(texts))

    def record(trajectory: Trajectory) -> list[Any]:
        problem = trajectory.problem
        identity = (clean(problem.id), clean(problem.question), clean(problem.gold))
        return [
            problems.setdefault(identity, len(problems)),
            trajectory.seed,
            classes.index(transition(trajectory)),
            text(trajectory.stop),
            [
                [
                    text(attempt.text),
                    outcomes.index(attempt.grade.outcome) if attempt.grade else -1,
                    -1 if attempt.answer is None else text(attempt.answer),
                    text(attempt.grade.reason if attempt.grade else ""),
                ]
                for attempt in trajectory.attempts
            ],
            [
                [
                    text(evaluation.text),
                    -1 if evaluation.verdict is None else verdicts.index(evaluation.verdict),
                    None if (p := p_correct(evaluation)) is None else round(p, 4),
                ]
                for evaluation in trajectory.evaluations
            ],
        ]

    shown = []
    for row in rows:
        room = TEXT_BUDGET / len(rows)
        trajectories = []
        for trajectory in row.trajectories:
            room -= sum(len(attempt.text) for attempt in trajectory.attempts)
            room -= sum(len(evaluation.text) for evaluation in trajectory.evaluations)
            if room < 0:
                break
            trajectories.append(record(trajectory))
        if row.trajectories:
            shown.append(
                {
                    "name": clean(row.name),
                    "label": clean(row.title),
                    "paths": trajectories,
                    "all": len(row.trajectories),
                    "result": row.is_result,
                }
            )
    data = {
        "classes": [list(item) for item in CLASSES.items()],
        "texts": list(texts),
        "problems": [[text_id, question, gold] for text_id, question, gold in problems],
        "rows": shown,
    }
    return inert_json(data)


_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def inert_json(value: Any) -> Markup:
    """Return compact JSON without a character that HTML or JavaScript could read as markup."""
    plain = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", plain))
