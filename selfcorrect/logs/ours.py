"""A row of ours (``<run>/eval/<row>``): final answers with their grades."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from selfcorrect.logs.record import Log, Response
from selfcorrect.metrics import is_correct
from selfcorrect.runs.jsonl import read_jsonl
from selfcorrect.types import Trajectory


def read(place: Path, metric: str = "") -> Log:
    """Read a row's folder; a response is the last attempt of its trajectory."""
    responses = []
    for row in read_jsonl(place / "trajectories.jsonl"):
        t = Trajectory.from_json(row["trajectory"])
        grade = t.final.grade
        correct = None if grade is None else is_correct(t.final)  # no answer is wrong, as in the row's own scores
        score = None if correct is None else float(correct)
        problem, final = t.problem, t.final
        about = (problem.source, grade, problem.meta)
        responses.append(
            Response(problem.id, problem.question, problem.gold, final.text, score, t.seed or 0, final.cut, *about)
        )
    told: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        told = json.loads((place / "scores.json").read_text(encoding="utf-8"))
    task, model = str(told.get("benchmark") or ""), str(told.get("label") or place.name)
    return Log(place, "selfcorrect", task, model, "final", tuple(responses))
