"""The GPU kit's lines run on a CPU, at tiny sizes; a part that fails or outlasts its time takes no other with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_kit(out: Path, plan: str, seconds: int) -> tuple[dict[str, str], list[dict[str, object]]]:
    """Run a plan; return how each part ended, and the results."""
    command = [sys.executable, "-m", "benchmarks.gpu", str(out), "--small", "--plan", plan, "--seconds", str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    results = out / "results.jsonl"
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return json.loads(done.stdout.splitlines()[-1]), [json.loads(line) for line in lines]


def test_the_parts_that_measure_run_and_record(tmp_path: Path) -> None:
    ended, results = run_kit(tmp_path, "device,step,sampling", 300)
    assert [how.split(" after")[0] for how in ended.values()] == ["exit 0"] * 3, ended
    assert {result["part"] for result in results} == {"device", "step", "sampling"}
    (ratio,) = [result for result in results if "ratio_update" in result]
    assert ratio["tokens"] > 0
    assert {result["side"] for result in results if result["part"] == "sampling"} == {"ours", "generate"}


def test_a_part_that_outlasts_its_time_is_cut_and_said_so(tmp_path: Path) -> None:
    ended, _ = run_kit(tmp_path, "organism", 2)
    assert ended["organism"].startswith("cut after")


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        run_kit(tmp_path, "device,nonsense", 10)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["organism", "smollm"])
def test_the_long_parts_run(part: str, tmp_path: Path) -> None:
    ended, results = run_kit(tmp_path, part, 900)
    assert ended[part].startswith("exit 0"), (tmp_path / f"{part}.log").read_text(encoding="utf-8")[-2000:]
    assert {"ift", "grpo"} <= {str(result.get("row")) for result in results}
