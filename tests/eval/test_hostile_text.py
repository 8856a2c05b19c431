"""Labels, ids, questions and answers that hold escapes and markup, through the commands that show them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from selfcorrect.cli import main
from selfcorrect.eval.run import EvalRecipe
from selfcorrect.printing import LEVEL
from selfcorrect.runs.jsonl import write_jsonl
from selfcorrect.types import Trajectory

HOSTILE = "\x1b]0;owned\x07\x1b]52;c;cm0=\x07\x1b[2K\u202etxt [/] [bold]x[/] :smile: `|<b> $\\frac$"
OBEYED = ("\x1b", "\x07", "\u202e")


def hostile(path: Trajectory) -> Trajectory:
    attempts = tuple(replace(attempt, text=HOSTILE + attempt.text, answer=HOSTILE) for attempt in path.attempts)
    problem = replace(path.problem, id=path.problem.id + HOSTILE, question=HOSTILE, meta={"level": HOSTILE})
    return replace(path, problem=problem, attempts=attempts)


@pytest.fixture
def run(tmp_path: Path, path, row) -> Path:  # type: ignore[no-untyped-def]
    for name, shift in (("a", 0), ("b", 1)):
        recipe = EvalRecipe(row=name, label=f"{name} {HOSTILE}")
        row(tmp_path, recipe, [hostile(path(i, (i + shift) % 2 == 0, i % 3 == 0, p=0.3)) for i in range(30)])
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "compare", "{r}/eval/a", "{r}/eval/b"],
        ["eval", "compare", "{r}/eval/a", "{r}/eval/b", "--json"],
        ["eval", "regrade", "{r}"],
        ["eval", "export", "{r}/eval/a"],
        ["report", "table3", "{r}"],
        ["report", "table3", "{r}", "--json"],
        ["report", "budget", "{r}", "--by", "level"],
        ["report", "calibration", "{r}"],
        ["report", "html", "{r}"],
        ["eval", "embedded", "problems.source={r}/odd.jsonl", f"label={HOSTILE}", "--dry-run", "--run", "{r}/x"],
        ["eval", "embedded", f"label={HOSTILE}", "problems.count=1", "max_tokens=4", "--run", "{r}/x"],
        ["grade", HOSTILE, "4"],
        ["grade", HOSTILE, "4", "--explain"],
        ["grade", HOSTILE, "4", "--json"],
        ["grade", "--jsonl", "{r}/graded.jsonl"],
        ["report", "budget", "{r}", "--by", HOSTILE],
        ["eval", "embedded", f"mthod={HOSTILE}", "--run", "{r}/x"],
        ["eval", f"{HOSTILE}", "--run", "{r}/x"],
        ["report", "html", "{r}/" + HOSTILE.replace("/", "")],
        ["eval", "embedded", f"problems.source=no{HOSTILE}.jsonl", "--run", "{r}/x"],
    ],
    ids=lambda words: " ".join(words[:3])[:40].replace("\x1b", "?").replace("\x07", "?"),
)
def test_nothing_hostile_reaches_the_terminal(capsys: pytest.CaptureFixture[str], run: Path, words: list[str]) -> None:
    write_jsonl(run / "odd.jsonl", [{"id": HOSTILE, "question": HOSTILE, "gold": "4"}])
    write_jsonl(run / "graded.jsonl", [{"id": HOSTILE, "response": HOSTILE, "gold": "4", "expected": True}])
    with pytest.raises(SystemExit):
        main([word.replace("{r}", str(run)) for word in words])
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    assert printed.strip()
    assert "Traceback" not in printed
    assert "MarkupError" not in printed
    for character in OBEYED:
        assert character not in printed, repr(printed[printed.index(character) - 60 :][:120])


@pytest.mark.filterwarnings("error::UserWarning")
def test_nothing_hostile_reaches_the_files_of_a_report(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEVEL, "")  # put back when -q has set it
    for name in ("table3", "budget", "calibration"):
        with pytest.raises(SystemExit):
            main(["report", name, str(run), "-q"])
    written = [file for file in (run / "tables").iterdir() if file.suffix in (".md", ".tex", ".csv")]
    assert len(written) == 9
    for file in written:
        text = file.read_text()
        assert "owned" in text or file.stem == "table3", file
        assert not any(character in text for character in OBEYED), file
        assert "<b>" not in text or file.suffix == ".csv", file
