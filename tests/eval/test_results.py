"""`scores.json` as a record: this version's and the first one's, what is damaged, and that all readers agree."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.errors import DataError
from selfcorrect.eval.page.page import write_report
from selfcorrect.eval.results import (
    SCHEMA,
    Estimate,
    EvalResult,
    Fingerprints,
    SamplingSettings,
    find_rows,
    in_natural_order,
    read_result,
    read_row,
    read_trajectories,
)
from selfcorrect.eval.run import EvalRecipe, regrade, summary
from selfcorrect.eval.tables.columns import JUDGED, REACHED, cell
from selfcorrect.eval.tables.demo_table import result_table
from selfcorrect.runs.compute import Compute
from selfcorrect.runs.jsonl import read_json, write_json

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
OLD, NEW = "scores-0.1.json", "scores-2.json"
"""The same row as version 0.1 wrote it (``method`` is the label, ``loop`` the method), and as it is written now."""


@pytest.mark.parametrize("name", [OLD, NEW])
def test_both_forms_are_read(name: str) -> None:
    result = EvalResult.from_json(read_json(DATA / name))
    assert (result.label, result.method, result.stop, result.format) == (
        "self-rewarding IFT",
        "self-rewarding",
        "sampled",
        "long-cot",
    )
    assert result.scores.final == Estimate(84.4, (82.02, 86.52), 1000)
    assert result.scores.delta == Estimate(13.7, (11.17, 16.17))
    assert result.scores.faults["no self-evaluation"] == 17
    assert result.sampling == SamplingSettings(0.0, 1.0, 2, 320, None, (0,))
    assert result.fingerprints == Fingerprints("c669b5d41903", "fb1af66572e4", "4be6805ed101", "3b6f0207cf42")
    assert (result.checkpoint, result.judge_kind, result.scores.power) == (
        "ift",
        "",
        "n = 1,000 cannot resolve less than ±2.2 points",
    )


def test_what_is_written_has_all_keys_of_the_first_form_and_is_read_back() -> None:
    old, new = read_json(DATA / OLD), read_json(DATA / NEW)
    result = EvalResult.from_json(new)
    assert result.to_json() == new
    assert EvalResult.from_json(result.to_json()) == result
    assert new.keys() - old.keys() == {"schema", "machine"}
    assert {key for key in old if old[key] != new[key]} == {"method"}
    assert new["loop"] == new["method"] == old["loop"]


def test_a_row_of_the_first_versions_without_method_and_stop_is_read() -> None:
    row = {"method": "raft", "n": 3, "turn1": 33.33, "turn1_interval": [6.1, 79.2], "final": None, "unanswered": 1}
    result = EvalResult.from_json(row)
    assert (result.label, result.method, result.stop, result.scores.turn1.value) == ("raft", "", "sampled", 33.33)
    assert (result.scores.final.value, result.scores.problems, result.scores.power) == (None, None, "")


def changed(**keys: Any) -> dict[str, Any]:
    return {key: value for key, value in (read_json(DATA / NEW) | keys).items() if value != "GONE"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (changed(schema=3), r"x/scores\.json: 'schema' is 3, .* reads up to 2: use the version that wrote it"),
        (changed(schema="new"), r"x/scores\.json: 'schema' must be a whole number, got 'new'"),
        (changed(n="GONE"), r"x/scores\.json: 'n' is missing: the file is damaged"),
        (changed(n=True), r"'n' must be a whole number, got True"),
        (changed(label="GONE"), r"'label' is missing"),
        (changed(method="GONE"), r"'method' is missing"),
        (changed(final="84.4"), r"x/scores\.json: 'final' must be a number, got '84.4'"),
        (changed(final=float("nan")), r"'final' must be a finite number, got nan"),
        (changed(final=10**400), r"'final' must be a finite number"),
        (changed(final_interval=[0, 10**400]), r"'final_interval' must be"),
        (changed(final_interval=[82.0]), r"'final_interval' must be \[low, high\], got \[82.0\]"),
        (changed(final_interval=[82.0, "x"]), r"'final_interval' must be"),
        (changed(stops=["horizon"]), r"'stops' must be an object"),
        (changed(faults={"mark missing": 1.5}), r"x/scores\.json: 'faults': 'mark missing' must be a whole number"),
        (changed(seeds=[0, "1"]), r"'seeds' must be a list of whole numbers"),
        (changed(model=7), r"'model' must be a text, got 7"),
    ],
)
def test_a_damaged_row_or_one_of_another_version_names_the_file_and_the_key(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        EvalResult.from_json(row, "x/scores.json")


def test_broken_files_are_named_by_every_reader(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    folder = row(tmp_path, EvalRecipe(row="a"), [path(0, True)], final="?")
    for read in (read_result, read_row, lambda _: find_rows([tmp_path]), lambda _: write_report(tmp_path)):
        with pytest.raises(DataError, match=r"eval/a/scores\.json: 'final' must be a number"):
            read(folder)


def test_a_fresh_result_is_the_one_that_is_read(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    recipe, paths = EvalRecipe(row="a"), [path(i, i % 3 == 0, True, p=0.3) for i in range(7)]
    folder = row(tmp_path, recipe, paths)
    assert read_result(folder) == summary(recipe, paths, {})
    assert read_json(folder / "scores.json")["schema"] == SCHEMA


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("runs/mine/checkpoints/ift", True),
        ("/elsewhere/mine/checkpoints/ift", True),  # the run was moved
        ("/elsewhere/theirs/checkpoints/ift", False),
        ("runs/mine/checkpoints/dpo", False),
        ("embedded", False),
    ],
)
def test_what_a_model_took_is_read_from_its_checkpoint_where_the_row_does_not_say_it(  # type: ignore[no-untyped-def]
    tmp_path: Path, path, row, model: str, known: bool
) -> None:
    run = tmp_path / "mine"
    folder = row(run, EvalRecipe(row="ift"), [path(0, True, p=0.9)], model=model, compute=None)
    took = {"problems": 1000, "sampled_tokens": 191287, "trained_tokens": 261052}
    write_json(run / "checkpoints" / "ift" / "DONE", {"compute": {"own": took, "total": took}})
    (run / "checkpoints" / "ift" / "recipe.yaml").write_text("model: embedded\n")
    assert read_result(folder).compute == (Compute(**took) if known else None)


def test_regrading_a_row_of_the_first_form_keeps_what_it_was_and_every_key(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    folder = row(tmp_path, EvalRecipe(row="a", label="A", method="asked"), [path(i, True) for i in range(3)])
    old = read_json(folder / "scores.json") | {"method": "A", "grader": "old", "mine": 1}
    del old["schema"]
    write_json(folder / "scores.json", old)
    assert regrade(folder)[0].method == "asked"
    assert read_json(folder / "scores.old.json") == old
    now = read_json(folder / "scores.json")
    assert (now["method"], now["label"], now["schema"], now["mine"]) == ("asked", "A", SCHEMA, 1)


def test_the_page_and_the_tables_show_the_same_figures(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    """Several seeds, so that intervals are bootstrapped: the page must not resample in another order."""
    paths = [path(i, (i + s) % 3 > 0, i % 4 > 0, p=0.2, seed=s) for i in range(12) for s in range(3)]
    row(tmp_path, EvalRecipe(row="a", temperature=1.0), paths)
    (found,) = find_rows([tmp_path])
    page = write_report(tmp_path).read_text(encoding="utf-8")
    for field in (*REACHED, *JUDGED):
        figure = cell(found.result, field)
        assert f">{figure.typeset}<small>{figure.range}</small></td>" in page  # type: ignore[attr-defined]
    assert result_table([found.result]).to_html("scores").splitlines()[-4] in page


def test_trajectories_without_tokens_keep_their_spans(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    folder = row(tmp_path, EvalRecipe(row="a"), [path(10, True, p=0.9), path(2, False, True, p=0.1)])
    bare = read_trajectories(folder, tokens=False)
    assert [t.token_ids for t in bare] == [(), ()]
    assert [t.spans for t in bare] == [t.spans for t in read_trajectories(folder)]
    assert [t.problem.id for t in in_natural_order(bare)] == ["p2", "p10"]


def test_nothing_else_in_eval_reads_scores_by_string() -> None:
    """`results` owns the file: no other module subscripts or gets a key of it."""
    owned = {"loop", "faults", "stops", "grader", "tokens_per_problem", "thinking_tokens_per_problem"}
    owned |= {key for key in read_json(DATA / NEW) if key.endswith(("_interval", "_n"))}
    for module in sorted((ROOT / "eval").rglob("*.py")):
        if module.name == "results.py":
            continue
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            read = node.slice if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) else None
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
                read = node.args[0]
            if isinstance(read, ast.Constant) and read.value in owned:
                raise AssertionError(f"{module}:{node.lineno} reads {read.value!r}")
