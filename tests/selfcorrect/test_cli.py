"""The command line: wrong input is one message that helps and a non-zero exit, never a traceback."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from selfcorrect.cli import main
from selfcorrect.cli.plan import Step, control_steps, demo_steps, run_steps, show_plan
from selfcorrect.errors import RunFolderError, SelfCorrectError
from selfcorrect.eval.tables.demo_table import CONTROL_ROWS
from selfcorrect.runs.jsonl import write_json


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    """Run a command; return its exit code and all it printed, on one line."""
    with pytest.raises(SystemExit) as exit_:
        main([*args])
    captured = capsys.readouterr()
    lines = [line.strip("│╭╮╰╯─ ") for line in (captured.out + captured.err).splitlines()]
    return int(exit_.value.code or 0), " ".join(" ".join(lines).split())


BROKEN = {
    "torn.jsonl": '{"question": "a", "answer": "#### 1"}\n{"question": \n',
    "schema.jsonl": '{"frage": "a", "antwort": "1"}\n',
    "empty.jsonl": "",
    "ungradable.jsonl": '{"question": "a", "gold": "\\\\frac{"}\n',
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, text in BROKEN.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "model").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["gen", "embeded"], 'did you mean "embedded"'),
        (["gen", "embedded", "atempts=3"], 'did you mean "attempts"'),
        (["gen", "embedded", "attempts=many"], "expected int"),
        (["gen", "/nowhere/recipe.yaml"], "cannot read the recipe"),
        (["eval", "embedded", "method=intrinsc"], 'did you mean "intrinsic"'),
        (["eval", "embedded", "seeds=[0,1]"], "temperature > 0"),
        (["eval", "embedded", "problems.source={files}/none.jsonl"], "no file at"),
        (["eval", "embedded", "problems.source={files}/torn.jsonl"], "torn.jsonl:2: not JSON"),
        (["eval", "embedded", "problems.source={files}/schema.jsonl"], "unknown schema"),
        (["eval", "embedded", "problems.source={files}/empty.jsonl"], "no usable problem"),
        (["eval", "embedded", "problems.source={files}/ungradable.jsonl"], "reference answer unreadable"),
        (["eval", "embedded", "problems.count=2", "engine.model={files}/model"], "no config.json there"),
        (["eval", "embedded", "problems.count=2", "engine.model=./no/such/model"], "no model folder"),
        (["train", "sft", "embedded-sft"], "self-rewarding.jsonl"),
        (["grade", "4"], "give RESPONSE and GOLD"),
        (["report", "html", "{files}/none"], "none"),
    ],
)
def test_wrong_input_is_explained(
    capsys: pytest.CaptureFixture[str], files: Path, args: list[str], expected: str
) -> None:
    run_option = ["--run", str(files / "run")] if args[0] in ("gen", "eval", "train") else []
    code, printed = run(capsys, *(arg.replace("{files}", str(files)) for arg in args), *run_option)
    assert code == 1
    assert "".join(expected.split()) in "".join(printed.split()), printed  # a long path may be broken anywhere
    assert "Traceback" not in printed


def test_a_used_run_folder_shows_the_difference(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "run" / "eval" / "self-rewarding"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("row: self-rewarding\n")
    code, printed = run(capsys, "eval", "embedded", "--run", str(tmp_path / "run"))
    assert code == 1
    assert "made with another recipe" in printed
    assert "+max_tokens: 320" in printed


def test_grade_prints_the_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = run(capsys, "grade", "so \\boxed{\\frac{2}{4}}", "1/2")
    assert code == 0
    assert "correct" in printed


@pytest.mark.parametrize(
    "command", [["gen"], ["eval"], ["train", "sft"], ["train", "grpo"], ["demo"], ["grade"], ["doctor"]]
)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    code, printed = run(capsys, *command, "--help")
    assert code == 0
    assert "Usage" in printed


def test_a_plan_runs_in_order_skips_what_is_done_and_shows_a_failure(tmp_path: Path) -> None:
    done = tmp_path / "done"
    done.mkdir()
    (done / "DONE").write_text("{}")
    steps = [
        Step("finished", ("no-such-command",), done),
        Step("good", ("grade", "4", "4"), tmp_path / "a", after=("finished",)),
        Step("bad", ("grade", "4"), tmp_path / "b", after=("good",)),
    ]
    with pytest.raises(SelfCorrectError, match=r"step 'bad' failed \(exit 1\)[\s\S]*RESPONSE and GOLD"):
        run_steps(steps, tmp_path)
    assert "correct" in (tmp_path / "logs" / "good.log").read_text()
    assert not (tmp_path / "logs" / "finished.log").exists()
    assert json.loads((tmp_path / "logs" / "seconds.json").read_text()).keys() == {"good"}

    (tmp_path / "a").mkdir()
    write_json(tmp_path / "a" / "DONE", {})
    assert run_steps(steps[:2], tmp_path).keys() == {"good"}, "what a step took stays known when nothing is to do"
    write_json(done / "DONE", {"files": {"weights": {"bytes": 3, "sha256": ""}}})
    with pytest.raises(RunFolderError, match="weights is missing"):
        run_steps(steps, tmp_path)


def test_a_child_may_print_any_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = b'\xff\xfe \x80 no UTF-8\n{"progress" no event\n{"progress": "x"}\n'
    odd += (
        b'{"progress": "x", "done": "many", "total": {}, "note": 1}\n{"progress": "x", "done": 1' + b"0" * 400 + b"}\n"
    )
    code = f"import sys; sys.stdout.buffer.write({odd!r} * 5_000)"  # more than a pipe holds
    odd *= 5_000
    monkeypatch.setattr("selfcorrect.cli.plan.selfcorrect_command", lambda arguments: [sys.executable, "-c", code])
    ended_by = signal.getsignal(signal.SIGTERM)
    assert run_steps([Step("odd", (), tmp_path / "never")], tmp_path).keys() == {"odd"}
    assert signal.getsignal(signal.SIGTERM) is ended_by
    assert (tmp_path / "logs" / "odd.log").read_text() == odd.decode(errors="replace")


def test_the_demo_plan_is_closed() -> None:
    steps = demo_steps(Path("runs/demo"), seed=0)
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    assert all(set(step.after) <= set(names[: names.index(step.name)]) for step in steps)
    rows = {step.folder.name for step in steps if step.name.startswith("eval ")}
    assert rows == {"intrinsic", "gold", "asked", "raft", "raft-plus", "ift", "grpo"}  # also the untrained model's best
    controls = control_steps(Path("runs/demo"), seed=0)
    names += [step.name for step in controls]
    assert len(set(names)) == len(names)
    assert all(set(step.after) <= set(names[: names.index(step.name)]) for step in controls)
    assert {step.folder.name for step in controls if step.name.startswith("eval ")} == set(CONTROL_ROWS)
    assert show_plan(steps)
    json.dumps([step.args for step in steps])
