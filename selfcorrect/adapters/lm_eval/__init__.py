"""lm-evaluation-harness: what the task `selfcorrect_math` in this folder refers to (docs/doors.md).

The folder is what ``--include_path`` wants; ``python -m selfcorrect.adapters.lm_eval`` prints it. A response is read as
long-CoT, so that the last attempt is the answer, and every attempt is graded. The harness does not say whether a
response was cut: each counts as finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfcorrect import prompts
from selfcorrect.adapters.turns import graded, read_turns, turn_scores
from selfcorrect.problems import ProblemsRecipe, load_problems


def load(problems: str = "arithmetic", split: str = "test", count: int | None = None, **_: Any) -> dict[str, Any]:
    """Return the problems as the harness's data set; the arguments come from ``--metadata``, beside its own."""
    from datasets import Dataset

    loaded = load_problems(ProblemsRecipe(problems, split, count))
    rows = [{"id": p.id, "question": p.question, "gold": p.gold, "source": p.source} for p in loaded.problems]
    return {"test": Dataset.from_list(rows)}


def prompt(doc: Mapping[str, Any]) -> str:
    """Return the user message that asks for a first attempt."""
    return prompts.solve(doc["question"])


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float | None]:
    """Return a response's measures, ``final`` first; None is left out by `mean_of_known`."""
    turns = graded(read_turns(results[0], source=doc["source"]), doc["gold"], source=doc["source"])
    scores = turn_scores(turns)
    names = ("final", "turn1", "i2c", "c2i", "verdict")
    return {name: scores[name] for name in names} | {"ungradable": float(scores["final"] is None)}


def mean_of_known(values: Sequence[float | None]) -> float:
    """Return the mean of the responses that have the measure; NaN where none has."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def total(values: Sequence[float]) -> float:
    """Return how many responses the grader failed on."""
    return sum(values)
