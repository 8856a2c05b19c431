"""The short form of `benchmarks/grader_soak.py`: every way of calling the grader, some sudden ends, nothing wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.grader_soak import HOSTILE, case, is_as_written

ROOT = Path(__file__).resolve().parents[3]


def test_a_short_soak() -> None:
    if not Path("/proc/self/environ").exists():
        pytest.skip("processes are counted in /proc")
    words = [sys.executable, str(ROOT / "benchmarks" / "grader_soak.py"), "--gradings", "1000", "--rounds", "2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=580, env=os.environ | {"OMP_NUM_THREADS": "1"})
    found = json.loads(done.stdout.splitlines()[-1])
    assert {key: found[key] for key in ("hung", "orphans", "wrong")} == {"hung": 0, "orphans": 0, "wrong": 0}, found
    assert set(found["ways"]) == {"threads", "asyncio", "fork", "spawn", "interrupted", "ends"}
    assert found["gradings"] >= 1000
    assert found["ways"]["interrupted"]["presses"] > 0
    assert done.returncode == 0, done.stderr


def test_the_cases_are_as_they_are_written() -> None:
    found = [case(i) for i in range(10 * len(HOSTILE))]
    assert {correct for *_, correct in found} == {True, False}
    assert {response for response, _, correct in found if not correct} >= set(HOSTILE)
    assert all(is_as_written(i) for i in range(60))
