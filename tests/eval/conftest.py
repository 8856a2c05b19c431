"""Graded paths and finished rows, written as `selfcorrect eval` writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from eval.run import EvalRecipe, summary
from selfcorrect.jsonl import write_json
from selfcorrect.recipes import to_yaml
from selfcorrect.types import Attempt, Grade, Outcome, Problem, Role, SelfEvaluation, Span, Trajectory, Verdict


def make_path(
    problem: int,
    *rights: bool,
    p: float | None = None,
    verdict: Verdict | None = None,
    seed: int = 0,
    answer: str | None = None,
    meta: dict[str, Any] | None = None,
) -> Trajectory:
    """Return a path of 10 prompt tokens, 5 an attempt and 7 a self-evaluation; ``p`` implies the verdict."""
    if verdict is None and p is not None:
        verdict = Verdict.CORRECT if p >= 0.5 else Verdict.WRONG
    grades = [
        Grade(Outcome.CORRECT, "", "4", ("4", "4"), "number")
        if right
        else Grade(Outcome.WRONG, "", answer or "5", (answer or "5", "4"), "number")
        for right in rights
    ]
    evaluations = (SelfEvaluation(f"so\n[VERIFY] {verdict}.", verdict, p),) if verdict else ()
    spans, end = [Span(Role.EXTERNAL, 0, 10, sampled=False)], 10
    for turn in range(len(rights)):
        spans.append(Span(Role.REVISION if turn else Role.ATTEMPT, end, end + 5))
        end += 5
        if turn < len(evaluations):
            spans.append(Span(Role.EVALUATION, end, end + 7))
            end += 7
    return Trajectory(
        problem=Problem(f"p{problem}", f"What is {problem}?", "4", "math", meta or {}),
        attempts=tuple(Attempt(f"it is \\boxed{{{g.extracted}}}", g.extracted, g) for g in grades),
        evaluations=evaluations,
        stop="verdict" if verdict is Verdict.CORRECT and len(rights) == 1 else "horizon",
        token_ids=tuple(range(end)),
        logprobs=(0.0,) * end,
        spans=tuple(spans),
        seed=seed,
    )


def make_row(run: Path, recipe: EvalRecipe, paths: Sequence[Trajectory], **more: Any) -> Path:
    """Write a finished row and return its folder."""
    folder = run / "eval" / recipe.row
    folder.mkdir(parents=True)
    lines = [json.dumps({"key": f"{t.problem.id}#{t.seed}", "trajectory": t.to_json()}) + "\n" for t in paths]
    (folder / "trajectories.jsonl").write_text("".join(lines))
    (folder / "recipe.yaml").write_text(to_yaml(recipe))
    write_json(folder / "scores.json", summary(recipe, list(paths), {}) | more)
    write_json(folder / "DONE", {})
    return folder


@pytest.fixture
def path() -> Callable[..., Trajectory]:
    return make_path


@pytest.fixture
def row() -> Callable[..., Path]:
    return make_row
