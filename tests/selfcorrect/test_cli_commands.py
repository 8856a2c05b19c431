"""Commands that need no stage: the version, the recipes, the comparison of two logs; and five wrong inputs of each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from selfcorrect import __version__
from selfcorrect.cli import main
from selfcorrect.cli.recipes import STAGES, about
from selfcorrect.shipped import shipped_recipes

DATA = Path(__file__).parent / "logs" / "data"
A, B = str(DATA / "inspect_a.eval"), str(DATA / "inspect_b.eval")


def said(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main([*args])
    assert not exit_.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("module", ["selfcorrect", "selfcorrect.cli"])
def test_the_version_by_every_door(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"selfcorrect {__version__}\n"


def test_every_recipe_is_listed_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(said(capsys, "recipes", "--json"))["recipes"]
    names = {(row["stage"], row["name"]) for row in listed}
    assert names == {(stage, name) for stage, folder in STAGES.items() for name in shipped_recipes(folder)}
    assert [row for row in listed if len(row["about"]) < 20] == []
    text = " ".join(said(capsys, "recipes").split())
    assert "embedded-grpo" in text
    assert about(shipped_recipes("train")["embedded-grpo"])[:40] in text


def test_a_recipe_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "recipes", "show", "embedded-grpo")
    path = shipped_recipes("train")["embedded-grpo"]
    assert yaml.safe_load(shown) == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_a_name_of_two_stages_shows_both_unless_the_stage_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    both = said(capsys, "recipes", "show", "embedded")
    assert (both.count("embedded.yaml"), "quota:" in both, "method:" in both) == (2, True, True)
    assert "quota:" not in said(capsys, "recipes", "show", "eval/embedded")


def test_two_logs_are_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "c.md"
    text = said(capsys, "compare", A, B, "--out", str(out))
    assert "B − A = +40.0 points" in " ".join(text.split())
    assert "What is 1+1?" in out.read_text(encoding="utf-8")
    found = json.loads(said(capsys, "compare", A, B, "--json"))
    assert (found["test"]["n"], found["matched_by"], found["a"]["accuracy"]) == (5, "id", 40.0)


def test_the_line_of_a_recipe_is_its_first_sentence() -> None:
    assert about(shipped_recipes("train")["llama3-8b-mdpo"]).partition("eq. ")[2][:1].isdigit()


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "answers.csv").write_text("output,label\n\\boxed{5},5\n\\boxed{6},5\n")
    (tmp_path / "torn.csv").write_text("response,gold\n5,5\n5\n")
    (tmp_path / "torn.json").write_text('[{"response": "5", "gold": "5"},\n{"response": ]')
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", [["answers.csv"], ["--jsonl", "answers.csv"]])
def test_a_table_is_graded(capsys: pytest.CaptureFixture[str], answers: Path, words: list[str]) -> None:
    columns = ["--response-column", "output", "--reference-column", "label"]
    found = json.loads(said(capsys, "grade", *words, *columns, "--json"))
    assert found["outcomes"] == {"correct": 1, "wrong": 1}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["answers.csv"], "answers.csv:2: expected text under ['response', 'gold'], the row has ['label', 'output']"),
        (["none.parquet"], "no file at none.parquet"),
        (["torn.csv"], "torn.csv:3: its number of columns is 1, that of the header 2"),
        (["torn.json"], "torn.json:2: not JSON"),
        (["torn.parquet"], "cannot read torn.parquet"),
        (["answers.csv", "--response-column", "label", "--reference-column", "x"], "expected text under ['x']"),
        (["5", "5", "--reference-column", "x"], "--reference-column goes with --jsonl FILE"),
        (["answers.csv", "--out", "none/x.jsonl"], "in a folder that exists"),
        (["answers.csv", "--jsonl", "answers.csv"], "not both"),
    ],
)
def test_wrong_tables_are_one_message(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str], answers: Path
) -> None:
    test_wrong_input_is_one_message(["grade", *args], message, capsys)


def test_parquet_names_the_extra_that_reads_it(answers: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None; from selfcorrect.cli import main; main(['grade', 'torn.parquet'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, "pyarrow is not installed: pip install 'selfcorrect[logs]'" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["recipes", "show", "embeded-grpo"], 'did you mean "embedded-grpo"'),
        (["recipes", "show", "train/embedded"], "no recipe named 'train/embedded'"),
        (["recipes", "show", "../pretrain"], "no recipe named"),
        (["recipes", "list"], "No such command 'list'"),
        (["recipes", "show"], "Missing argument"),
        (["compare", A], "Missing argument"),
        (["compare", A, "none.eval"], "no log at none.eval"),
        (["compare", A, str(DATA)], "no log in this folder"),
        (["compare", A, B, "--by", "name"], "is not one of"),
        (["compare", A, B, "--out", "x.pdf"], "ends in .md, .json or .jsonl"),
        (["compare", A, B, "--out", "/none/x.md"], "in a folder that exists"),
        (["compare", A, B, "--source", "gsm9k"], 'did you mean "gsm8k"'),
    ],
)
def test_wrong_input_is_one_message(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(args)
    captured = capsys.readouterr()
    text = " ".join(" ".join(line.strip("│╭╮╰╯─ ") for line in (captured.out + captured.err).splitlines()).split())
    assert exit_.value.code
    assert message in text
    assert "Traceback" not in text
