"""The development half of the labelled cases as a scored suite: floors by group, and hostile input within limits."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.grading import grade
from selfcorrect.types import Grade

PATH = Path(__file__).resolve().parents[4] / "shared" / "grader" / "cases_dev.jsonl"
pytestmark = pytest.mark.skipif(
    not PATH.exists(), reason=f"{PATH} is not here: the labelled cases stay outside the project"
)

FLOORS = {
    ("real", True): 1.0,
    ("real", False): 0.0,
    ("peer", True): 0.95,
    ("peer", False): 0.001,
    ("identity", True): 0.995,
    ("identity-unboxed", True): 0.995,
    ("rewrite", True): 0.985,
    ("wrong", False): 0.001,
    ("hostile", True): 1.0,
    ("hostile", False): 0.0,
}
"""Right accepted at least, wrong accepted at most: the issue's reach."""


def cases() -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in PATH.open(encoding="utf-8")]
    for row in rows:
        if "response_parts" in row:
            row["response"] = "".join(text * times for text, times in row["response_parts"])
    return rows


def group(row: dict[str, Any]) -> str:
    if row["source"].startswith("real-"):
        return "real"
    return "peer" if row["part"] == "peer" else str(row["kind"])


def test_floors() -> None:
    cells: dict[tuple[str, bool], list[bool]] = defaultdict(list)
    missed: list[str] = []
    for row in cases():
        if row["expected"] is None or row.get("marker"):
            continue
        correct = grade(row["response"], row["gold"], source=row["source"]).correct
        cells[group(row), row["expected"]].append(correct)
        if correct != row["expected"]:
            missed.append(f"{row['id']} gold {row['gold']!r}")
    for (name, expected), verdicts in sorted(cells.items()):
        share = sum(verdicts) / len(verdicts)
        floor = FLOORS[name, expected]
        assert share >= floor if expected else share <= floor, f"{name} {expected}: {share:.4f}; {missed[:20]}"


def test_the_source_need_not_be_known() -> None:
    """The same floors hold in the small, with the default rules for everything."""
    for row in cases()[::25]:
        if row["expected"] is not None and row["part"] != "hostile":
            assert grade(row["response"], row["gold"]).correct == row["expected"], row["id"]


def test_hostile_input_executes_nothing_and_is_fast(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    slowest = 0.0
    for row in cases():
        if row["part"] != "hostile":
            continue
        response = row["response"].replace("@MARKER@", str(marker))
        begun = time.process_time()
        result = grade(response, row["gold"])
        slowest = max(slowest, time.process_time() - begun)
        assert isinstance(result, Grade)
        assert row["expected"] is None or result.correct == row["expected"], row["id"]
        assert not marker.exists(), row["id"]
    assert slowest < 1.0
