"""lm-evaluation-harness: its command runs our task; its sample log reads back."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="make test-doors")

from selfcorrect.adapters import lm_eval as door
from selfcorrect.logs.read import read_log
from tests.doors.page import lines_of
from tests.doors.scripted import FINAL, TURN1, Server, path, problem_file


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page's command wrote against the scripted server."""
    return run(tmp_path_factory.mktemp("lm_eval"), Server())


def run(folder: Path, server: Server) -> Path:
    problem_file(folder)
    with server:
        ended = subprocess.run(
            ["bash", "-ec", lines_of("lm_eval", "bash")],
            cwd=folder, env=os.environ | {"MODEL": "toy", "URL": server.url, "HF_HUB_OFFLINE": "1"},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert len(server.bodies) == 5
    return folder / "outputs"


def test_the_line_of_the_page_scores_the_turns(outputs: Path) -> None:
    (results,) = outputs.rglob("results_*.json")
    found = json.loads(results.read_text())["results"]["selfcorrect_math"]
    wanted = {"final": 0.6, "turn1": 0.4, "i2c": 0.4, "c2i": 0.2, "ungradable": 0.0}
    assert {name: found[f"{name},none"] for name in wanted} == pytest.approx(wanted)


def test_the_sample_log_reads_back(outputs: Path) -> None:
    (samples,) = outputs.rglob("samples_*.jsonl")
    log = read_log(samples)
    assert (log.tool, log.metric) == ("lm_eval", "final")
    assert [response.score for response in log.responses] == FINAL
    assert [response.reference for response in log.responses] == ["4", "6", "8", "10", "12"]
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [row["turn1"] for row in sorted(rows, key=lambda row: row["doc_id"])] == TURN1


def test_two_logs_of_lm_eval_are_compared_in_its_own_environment(outputs: Path, tmp_path: Path) -> None:
    other = run(tmp_path, Server(perfect=True))
    logs = [next(place.rglob("samples_*.jsonl")) for place in (outputs, other)]
    ended = subprocess.run(
        ["selfcorrect", "compare", *map(str, logs), "--json", "--html", "page.html"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout)
    assert (found["test"]["n"], found["test"]["only_a"], found["test"]["only_b"]) == (5, 0, 2)
    assert found["test"] == found["test_of_the_logs_scores"]
    assert [flip["question"] for flip in found["flips"]] == ["What is 4 + 4?", "What is 5 + 5?"]
    assert "B − A: +40.0 points" in (tmp_path / "page.html").read_text()


def test_what_the_grader_fails_on_is_left_out_and_counted() -> None:
    doc = {"question": "What is 3 + 3?", "gold": "", "source": "math"}
    failed = door.score(doc, [path(doc["question"])])
    assert failed["final"] is None
    assert failed["ungradable"] == 1.0
    right = door.score(doc | {"gold": "6"}, [path(doc["question"])])
    assert right["final"] == 1.0  # the box of the last self-evaluation holds 0
    assert door.mean_of_known([failed["final"], right["final"]]) == 1.0
    assert math.isnan(door.mean_of_known([None]))
