"""The scripts in examples/, run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra train")

ROOT = Path(__file__).parent.parent
QUESTION = "Emma has 354 coins. Emma finds 4 more. Then Emma makes it 6 times as many. How many coins now?"


def run(name: str, argument: str) -> str:
    done = subprocess.run(
        [sys.executable, f"examples/{name}.py", argument],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_many_questions_of_a_file() -> None:
    rows = [line.split("\t") for line in run("solve_many", "examples/questions.txt").splitlines()]
    questions = (ROOT / "examples" / "questions.txt").read_text(encoding="utf-8").splitlines()
    assert [row[2] for row in rows] == questions
    assert rows[0][:2] == ["2148", "horizon"]


def test_a_stream_with_verdicts() -> None:
    said = run("stream", QUESTION)
    judged = "-> attempt 1 judged wrong, P(correct) 0.03"
    parts = ["358*6=2548", "[VERIFY] wrong.", judged, "358*6=2148", "answer: 2148"]
    places = [said.index(part) for part in parts]
    assert places == sorted(places)


def test_first_answer_corrected_answer_and_a_vote() -> None:
    first, *shares = run("vote", QUESTION).splitlines()
    assert first.startswith("first 2548 corrected 2148 voted ")
    voted = first.split()[-1]
    assert shares[0].startswith(f"{voted}: ")
    assert sum(int(share.split()[1]) for share in shares) <= 8


@pytest.mark.parametrize("name", ["solve_many", "stream", "vote"])
def test_a_script_is_about_ten_lines(name: str) -> None:
    lines = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip() and not line.startswith('"""')]) <= 10
