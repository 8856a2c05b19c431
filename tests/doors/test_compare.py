"""`selfcorrect compare` and `selfcorrect grade FILE` as the page prints them, installed without torch or any tool."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.doors.page import lines_of

pytestmark = pytest.mark.skipif(find_spec("torch") is not None, reason="make test-doors: where torch is not installed")
DATA = Path(__file__).parent.parent / "selfcorrect" / "logs" / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's commands ran, on a log of lighteval and one of inspect_ai, and on a table."""
    here = tmp_path_factory.mktemp("compare")
    with (here / "answers.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([("output", "label"), (r"\boxed{\frac{6}{4}}", "1.5"), ("It is 7.", "8"), ("", "5")])
    ended = subprocess.run(
        ["bash", "-ec", lines_of("compare", "bash")],
        cwd=here, env=os.environ | {"A": str(DATA / "lighteval_a.parquet"), "B": str(DATA / "inspect_b.eval")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    (here / "said.txt").write_text(ended.stdout)
    return here


def test_nothing_heavy_is_installed() -> None:
    assert all(find_spec(name) is None for name in ("torch", "transformers", "lm_eval", "inspect_ai", "lighteval"))


def test_two_logs_of_two_tools_are_compared(folder: Path) -> None:
    said = " ".join((folder / "said.txt").read_text().split())
    assert "5 problems in common, matched by question" in said
    assert "B − A = +40.0 points" in said
    assert "| our grader | 5 | 40.0 | 80.0 | +40.0 |" in (folder / "comparison.md").read_text()
    page = (folder / "comparison.html").read_text()
    assert "B − A: +40.0 points" in page
    assert page.count("<details>") == 2
    assert "<script" not in page


def test_a_table_of_responses_is_graded(folder: Path) -> None:
    graded = [json.loads(line) for line in (folder / "graded.jsonl").read_text().splitlines()]
    assert [row["label"] for row in graded] == ["1.5", "8", "5"]
    assert "3 rows: correct 1 (33.33%)" in (folder / "said.txt").read_text()
