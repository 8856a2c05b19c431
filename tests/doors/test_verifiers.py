"""verifiers v1: its eval command runs our environment package; its traces read back."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("verifiers.v1", reason="make test-doors")

from selfcorrect.logs import read_log
from tests.doors.page import ROOT, lines_of
from tests.doors.scripted import FINAL, TURN1, VERDICT, Server, attempt, problem_file


def evaluate(folder: Path, server: Server, more: str = "", loop: bool = True) -> list[dict]:  # type: ignore[type-arg]
    """Run the page's command (without its installing line) in a folder; return the episodes in the problems' order."""
    problem_file(folder)
    command = "".join(lines_of("verifiers", "bash").splitlines(keepends=True)[1:]).rstrip()
    command = (command if loop else command.replace(" --env.horizon 2", "")) + more  # a single agent has no horizon
    known = {"MODEL": "toy", "URL": server.url, "KEY": "none", "HOME": str(folder), "UV_OFFLINE": ""}
    ended = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=os.environ | known, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    (traces,) = (folder / "outputs").glob("*/traces.jsonl")
    rows = [json.loads(line) for line in traces.read_text().splitlines()]
    return sorted(rows, key=lambda row: row["task"]["data"]["id"])


def test_the_line_of_the_page_scores_the_turns(tmp_path: Path) -> None:
    with Server() as server:
        episodes = evaluate(tmp_path, server)
    assert [episode["ok"] for episode in episodes] == [True] * 5, [episode.get("errors") for episode in episodes]
    traces = [trace for episode in episodes for trace in episode["traces"]]
    assert [trace["rewards"]["final_answer"]["score"] for trace in traces] == FINAL
    metrics = [trace["metrics"] for trace in traces]
    assert [one["turn1"] for one in metrics] == TURN1
    assert [one["verdict"] for one in metrics] == VERDICT
    assert [one["i2c"] for one in metrics] == [0, 1, 0, 0, 1]
    assert [one["c2i"] for one in metrics] == [0, 0, 1, 0, 0]
    assert [sum(node.get("sampled", False) for node in trace["nodes"]) for trace in traces] == [2, 3, 3, 2, 3]
    (place,) = (tmp_path / "outputs").glob("*/traces.jsonl")
    log = read_log(place)
    assert (log.tool, len(log.responses), log.dropped) == ("verifiers", 5, {})
    assert sorted(response.text for response in log.responses) == sorted(
        [attempt(2, 4), attempt(3, 6), attempt(4, 9), attempt(5, 11), attempt(6, 12)]
    )


def test_one_message_is_read_as_long_cot(tmp_path: Path) -> None:
    more = lines_of("verifiers", "text").strip()
    with Server(one_message=True) as server:
        episodes = evaluate(tmp_path, server, f" {more}", loop=False)
    (metrics,) = zip(*([trace["metrics"] for trace in episode["traces"]] for episode in episodes), strict=True)
    assert [one["final"] for one in metrics] == FINAL
    assert [one["turn1"] for one in metrics] == TURN1
    assert [one["attempts"] for one in metrics] == [1, 2, 2, 1, 2]


def test_package_exports_what_v1_loads() -> None:
    import verifiers.v1.utils.loaders as loaders

    assert loaders.taskset_class("selfcorrect-math").__name__ == "SelfCorrectTaskset"
    assert loaders.environment_class("selfcorrect-math").__name__ == "SelfCorrectEnv"
    package = __import__("selfcorrect_math")
    assert not hasattr(package, "load_environment")
    assert (ROOT / "environments" / "selfcorrect_math" / "pyproject.toml").is_file()
