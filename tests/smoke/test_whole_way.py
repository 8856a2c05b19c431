"""The whole product through its real entry point, small: gen → sft → grpo → eval → report, on the embedded model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from selfcorrect import SelfCorrectModel
from selfcorrect.chat import EMBEDDED
from selfcorrect.cli import main
from selfcorrect.eval.page.page import write_report
from selfcorrect.runs.jsonl import read_jsonl

pytestmark = pytest.mark.skipif(not (EMBEDDED / "model.safetensors").exists(), reason="no embedded weights")


def command(*args: str) -> None:
    """Run a command line that must succeed."""
    try:
        main([*args])
    except SystemExit as exit_:
        assert not exit_.code, args  # noqa: PT017


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole")
    to_run = ["--run", str(run)]
    command("gen", "embedded", "problems.count=48", "prompts=16", "quota={d1: 12, d2: 6, d3: 12}", *to_run)
    command("train", "sft", "embedded-sft", "epochs=1", *to_run)
    model = f"{run}/checkpoints/ift"
    command(
        *(
            "train",
            "grpo",
            "embedded-grpo",
            f"model={model}",
            "steps=2",
            "prompts_per_step=4",
            "generations=4",
            "guard.action=warn",
        ),
        *to_run,
    )
    for row, where in (("ift", "ift"), ("grpo", "grpo")):
        command(
            "eval", "embedded", f"row={row}", f"engine.model={run}/checkpoints/{where}", "problems.count=24", *to_run
        )
    command("eval", "embedded", "row=intrinsic", "method=intrinsic", "problems.count=24", *to_run)
    return run


def test_every_stage_left_a_whole_folder(run: Path) -> None:
    for folder in ("gen", "checkpoints/ift", "checkpoints/grpo", "eval/ift", "eval/grpo", "eval/intrinsic"):
        assert (run / folder / "DONE").exists(), folder
        assert (run / folder / "recipe.yaml").exists()
        assert json.loads((run / folder / "provenance.json").read_text())["packages"]["torch"]


def test_scores_hold_their_identities(run: Path) -> None:
    for row in ("ift", "grpo", "intrinsic"):
        scores = json.loads((run / "eval" / row / "scores.json").read_text())
        assert scores["n"] + scores["ungradable"] == 24
        assert scores["final"] == pytest.approx(scores["turn1"] + scores["delta"], abs=0.02)
        assert scores["delta"] == pytest.approx(scores["i2c"] - scores["c2i"], abs=0.02)


def test_every_span_is_told_and_learned_as_the_method_says(run: Path) -> None:
    learned = {"D1": {"self-evaluation", "revision"}, "D2": {"revision"}, "D3": {"attempt", "self-evaluation"}}
    rows = list(read_jsonl(run / "data" / "sft" / "self-rewarding.jsonl"))
    assert rows
    for row in rows:
        assert {span["role"] for span in row["spans"] if span["learn"]} == learned[row["kind"]]


def test_running_again_does_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "eval" / "ift" / "trajectories.jsonl").stat().st_mtime_ns
    command(
        "eval", "embedded", "row=ift", f"engine.model={run}/checkpoints/ift", "problems.count=24", "--run", str(run)
    )
    assert (run / "eval" / "ift" / "trajectories.jsonl").stat().st_mtime_ns == before


def test_the_report_is_written(run: Path) -> None:
    page = write_report(run).read_text()
    assert "intrinsic" in page
    assert page.count("<html") == 1


def test_the_wrapper_solves(run: Path) -> None:
    question = "Anna has 664 stamps. Anna buys 21 more. Then the number grows 7 times. How many stamps now?"
    with SelfCorrectModel.load(str(run / "checkpoints" / "ift")) as model:
        once = model.solve(question)
        again = model.solve(question)  # starts from what the first left in the cache: equal up to rounding
        assert replace(once, logprobs=(), ends=()) == replace(again, logprobs=(), ends=())
        assert again.logprobs == pytest.approx(once.logprobs, abs=1e-4)
        assert once.final.answer
    with SelfCorrectModel.load("embedded") as base:
        assert base.solve(question).evaluations[0].p_correct is not None
