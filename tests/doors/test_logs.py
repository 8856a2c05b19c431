"""Logs that lighteval, inspect_ai and verifiers wrote, read in an environment that has none of them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from selfcorrect.logs import read_log

pytestmark = pytest.mark.skipif(find_spec("torch") is not None, reason="make test-doors: where torch is not installed")
DATA = Path(__file__).parent.parent / "selfcorrect" / "logs" / "data"


@pytest.mark.parametrize(
    ("name", "tool", "scores"),
    [
        ("lighteval_a.parquet", "lighteval", [0.0, 0.0, 0.0, 1.0, 1.0]),
        ("lighteval_b.parquet", "lighteval", [1.0, 1.0, 0.0, 1.0, 1.0]),
        ("inspect_a.eval", "inspect", [0.0, 0.0, 0.0, 1.0, 1.0]),
        ("inspect_a.json", "inspect", [0.0, 0.0, 0.0, 1.0, 1.0]),
        ("traces.jsonl", "verifiers", [1.0, 1.0, 0.0, 0.0, 1.0]),
    ],
)
def test_a_log_is_read_without_the_tool_that_wrote_it(name: str, tool: str, scores: list[float]) -> None:
    assert find_spec("torch") is None
    assert find_spec("lighteval") is find_spec("inspect_ai") is find_spec("verifiers") is None
    log = read_log(DATA / name)
    assert log.tool == tool
    rows = sorted(log.responses, key=lambda response: response.question)
    assert [row.score for row in rows] == scores
    assert all(row.question and row.reference and row.text for row in rows)
