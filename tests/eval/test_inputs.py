"""A row is of the problems and weights that it was begun with, finished or not; --dry-run says what a file holds."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from selfcorrect.chat import EMBEDDED
from selfcorrect.data_gen import pipeline
from selfcorrect.data_gen.recipe import GenRecipe
from selfcorrect.engines import EngineRecipe
from selfcorrect.errors import RunFolderError
from selfcorrect.eval.run import EvalRecipe, plan, run
from selfcorrect.problems import ProblemsRecipe


def write(path: Path, plus: int) -> None:
    rows = [
        {"question": f"Tom has {n} stamps. Tom buys {plus} more. How many?", "answer": n + plus} for n in range(1, 3)
    ]
    rows.append({"question": "A lost one", "answer": "N/A"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def recipe(tmp_path) -> EvalRecipe:
    shutil.copytree(EMBEDDED, tmp_path / "model")
    write(tmp_path / "x.jsonl", 3)
    return EvalRecipe(
        method="single-turn",
        max_tokens=8,
        engine=EngineRecipe(model=str(tmp_path / "model")),
        problems=ProblemsRecipe(source=str(tmp_path / "x.jsonl")),
    )


def test_a_row_records_its_problems_and_refuses_others(tmp_path, recipe) -> None:
    result = run(recipe, tmp_path / "run")
    assert result.scores.n == 2
    assert result.problem_set["references"] == {"numbers": 2}
    assert result.problem_set["dropped, for example"] == {"reference answer is a placeholder": ["x.jsonl:3 ('N/A')"]}
    assert run(recipe, tmp_path / "run") == result
    write(tmp_path / "x.jsonl", 4)
    for state in ("finished", "unfinished"):
        with pytest.raises(RunFolderError, match=r"problems: 2 changed \(x-0, x-1\)"):
            run(recipe, tmp_path / "run")
        (tmp_path / "run/eval/self-rewarding/DONE").unlink(missing_ok=True)
        assert state
    write(tmp_path / "x.jsonl", 3)
    again = run(recipe, tmp_path / "run")
    assert (again.scores.n, again.problem_set, result.scores.problems) == (2, result.problem_set, 2)


def test_new_weights_do_not_return_a_finished_rows_score(tmp_path, recipe) -> None:
    run(recipe, tmp_path / "run")
    weights = tmp_path / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(RunFolderError, match=r"(?s)model: 1 changed \(model\.safetensors\).*another --run folder"):
        run(recipe, tmp_path / "run")


def test_dry_runs_say_what_a_problem_file_holds(tmp_path, recipe) -> None:
    gen = GenRecipe(problems=recipe.problems, engine=EngineRecipe(model="embedded"), pilot=0)
    for shown in (plan(recipe, tmp_path / "run"), pipeline.plan(gen, tmp_path / "run")):
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(shown)
        text = console.export_text()
        assert "2 usable problems" in text
        assert "2 references are numbers: 4; 5" in text
        assert "1 dropped, reference answer is a placeholder: x.jsonl:3 ('N/A')" in text
        assert "question and answer (2)" in text
