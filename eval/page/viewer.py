"""The trajectories in the page, as JSON that report.js shows; model text is hostile and stays text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from markupsafe import Markup

from selfcorrect.metrics import first_verdict, is_correct, is_graded, is_scored, p_correct
from selfcorrect.types import Outcome, Trajectory, Verdict

TEXT_BUDGET = 32_000_000  # characters of trajectory text in one page, shared evenly by the rows

CLASSES = {
    "fixed": "wrong, then right (i→c)",
    "broken": "right, then wrong (c→i)",
    "missed": "wrong, but judged correct",
    "false alarm": "right and judged wrong, but kept right",
    "kept right": "right, and stayed right",
    "still wrong": "wrong, and stayed wrong",
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
    if not is_graded(trajectory) or not is_scored(trajectory):
        return "not scored"
    first, final, verdict = is_correct(trajectory.first), is_correct(trajectory.final), first_verdict(trajectory)
    if first != final:
        return "fixed" if final else "broken"
    if first:
        return "false alarm" if verdict is Verdict.WRONG else "kept right"
    return "missed" if verdict is Verdict.CORRECT else "still wrong"


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
        return texts.setdefault(value, len(texts))

    def record(trajectory: Trajectory) -> list[Any]:
        identity = (trajectory.problem.id, trajectory.problem.question, trajectory.problem.gold)
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
                    "name": row.name,
                    "label": row.title,
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
