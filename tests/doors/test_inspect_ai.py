"""inspect_ai: its `eval` runs our task, solver and scorers; the log reads back."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

inspect_ai = pytest.importorskip("inspect_ai", reason="make test-doors")

from inspect_ai import Task, eval  # noqa: E402, A004
from inspect_ai.dataset import MemoryDataset, Sample  # noqa: E402
from inspect_ai.model import ModelOutput, get_model  # noqa: E402
from inspect_ai.solver import generate  # noqa: E402

from selfcorrect.adapters.inspect_ai import final_answer, self_correct, self_correction, turns  # noqa: E402
from selfcorrect.logs.read import read_log  # noqa: E402
from tests.doors.page import lines_of  # noqa: E402
from tests.doors.scripted import FINAL, TURN1, VERDICT, Server, attempt, path, problem_file, reply  # noqa: E402


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """inspect_ai estimates the tokens of mock outputs by a vocabulary that tiktoken would download."""
    import tiktoken

    class Words:
        def encode(self, text: str, **_: object) -> list[str]:
            return text.split()

    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: Words())
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: Words())
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    monkeypatch.chdir(tmp_path)


def mock(one_message: bool = False):  # type: ignore[no-untyped-def]
    """A model of inspect_ai that answers by the script."""

    def answer(messages, tools, tool_choice, config):  # type: ignore[no-untyped-def]
        opening = next(message.text for message in messages if message.role == "user")
        said = sum(message.role == "assistant" for message in messages)
        return ModelOutput.from_content("mockllm", path(opening) if one_message else reply(opening, said))

    return get_model("mockllm/model", custom_outputs=answer)


def values(log, scorer: str) -> dict[str, list]:  # type: ignore[no-untyped-def]
    """Return the values of a scorer, measure by measure, in the order of the samples' ids."""
    found = [sample.scores[scorer].value for sample in sorted(log.samples, key=lambda one: str(one.id))]
    return {name: [one[name] for one in found] for name in found[0]}


@pytest.mark.parametrize("method", ["asked", "self-rewarding"])
def test_task_scores_turn_1_and_final(method: str, tmp_path: Path) -> None:
    task = self_correction(str(problem_file(tmp_path)), method=method)
    log = eval(task, model=mock(method == "self-rewarding"))[0]
    assert log.status == "success", log.error
    found = values(log, "turns")
    assert (found["turn1"], found["final"]) == (TURN1, FINAL)
    assert (found["i2c"], found["c2i"]) == ([0, 1, 0, 0, 1], [0, 0, 1, 0, 0])
    if method == "asked":  # in long-CoT revisions are judged, too
        assert found["verdict"] == VERDICT
    assert [sample.scores["final_answer"].value for sample in log.samples] == ["C" if one else "I" for one in FINAL]
    by_name = {score.name: score.metrics for score in log.results.scores}
    assert by_name["final_answer"]["accuracy"].value == pytest.approx(0.6)
    assert by_name["turn1"]["mean"].value == pytest.approx(0.4)


def test_log_reads_back(tmp_path: Path) -> None:
    log = eval(self_correction(str(problem_file(tmp_path))), model=mock())[0]
    read = read_log(Path(log.location.removeprefix("file://")))
    assert (read.tool, read.metric) == ("inspect", "final_answer")
    assert [response.score for response in read.responses] == FINAL
    assert [response.text for response in read.responses] == [
        attempt(2, 4), attempt(3, 6), attempt(4, 9), attempt(5, 11), attempt(6, 12),
    ]  # fmt: skip


def test_lines_of_the_page_run_as_printed(tmp_path: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    problem_file(tmp_path)
    with Server() as server:
        monkeypatch.setenv("LOCAL_BASE_URL", server.url)
        monkeypatch.setenv("LOCAL_API_KEY", "none")
        exec(lines_of("inspect_ai", "python"), {})
    assert len(server.bodies) == 5 * 2 + 3  # attempt and verdict of each, three revisions
    assert "'final_answer': {'accuracy': 0.6" in capsys.readouterr().out


def test_entry_point_from_the_shell(tmp_path: Path) -> None:
    problem_file(tmp_path)
    command = [
        sys.executable,
        "-m",
        "inspect_ai",
        "eval",
        "selfcorrect/self_correction",
        "-T",
        "problems=problems.jsonl",
    ]
    with Server() as server:
        ended = subprocess.run(
            [*command, "--model", "openai-api/local/toy", "--log-format", "json"],
            env=os.environ | {"LOCAL_BASE_URL": server.url, "LOCAL_API_KEY": "none"},
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr + ended.stdout
    (log,) = (tmp_path / "logs").glob("*.json")
    assert json.loads(log.read_text())["results"]["scores"][0]["metrics"]["accuracy"]["value"] == pytest.approx(0.6)


def test_what_the_grader_fails_on_is_unscored(tmp_path: Path) -> None:
    samples = [Sample("What is 2 + 2?", target="4", id="a"), Sample("What is 3 + 3?", target="", id="b")]
    task = Task(MemoryDataset(samples), solver=self_correct(), scorer=[final_answer(), turns()])
    log = eval(task, model=mock())[0]
    assert log.status == "success", log.error
    assert math.isnan(log.samples[1].scores["final_answer"].value)
    score = log.results.scores[0]
    assert (score.scored_samples, score.unscored_samples, score.metrics["accuracy"].value) == (1, 1, 1.0)


def test_scorers_read_long_cot_of_another_solver() -> None:
    samples = [Sample("What is 3 + 3?", target="6", id="a")]
    task = Task(MemoryDataset(samples), solver=generate(), scorer=[final_answer(), turns()])
    log = eval(task, model=mock(one_message=True))[0]
    assert log.samples[0].scores["final_answer"].value == "C"  # the box of the last self-evaluation holds 0
    assert log.samples[0].scores["turns"].value["attempts"] == 2
