"""What the command line and the RL libraries call."""

from __future__ import annotations

import gzip
import json
import os
import threading
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.errors import DataError, InputError
from selfcorrect.grading.command import audit, explain, grade_jsonl
from selfcorrect.grading.reward_functions import accuracy_reward, compute_score, correct_answer


def test_explain_shows_extraction_forms_and_rule() -> None:
    text = explain(r"so $\boxed{\frac{6}{4}}$", "1.5")
    for part in ("CORRECT", r"\\frac{6}{4}", "'boxed'", "6/4", "1.5", "number"):
        assert part in text
    assert "nothing" in explain("no idea", "1.5", source="arithmetic")


def test_a_file_is_graded_and_written(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "response": r"\boxed{5}", "gold": "5", "expected": True},
        {"id": "b", "response": r"\boxed{6}", "gold": "5", "expected": True},
        {"id": "c", "response_parts": [["x", 3]], "gold": "5", "source": "arithmetic"},
    ]
    path, out = tmp_path / "rows.jsonl", tmp_path / "graded.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    seen: list[int] = []
    report = grade_jsonl(path, out=out, progress=seen.append)
    assert report.outcomes == {"correct": 1, "wrong": 1, "ungradable": 1}
    assert report.ungradable == {"nothing-extracted": 1}
    assert report.disagreeing == ["b"]
    assert seen == [3]
    assert [json.loads(line)["grade"]["outcome"] for line in out.open()] == ["correct", "wrong", "ungradable"]
    assert "labels: 1 of 2 agree" in "\n".join(report.lines())


@pytest.mark.parametrize("line", ["{", '{"response": "x"}', '{"response": 3, "gold": "x"}'])
def test_a_broken_row_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"response": "5", "gold": "5"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        grade_jsonl(path)


ROWS = [{"id": "a", "answer": "so \\boxed{5}", "truth": 5}, {"id": "b", "answer": "\\boxed{0.25}", "truth": 0.5}]


def table(folder: Path, ending: str) -> Path:
    """Write the same two rows in a form; the first is correct, the second wrong."""
    path = folder / f"rows{ending}"
    if ending == ".parquet":
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow_table(), path)
    elif ending in (".csv", ".tsv"):
        cut = {".csv": ",", ".tsv": "\t"}[ending]
        path.write_text("\n".join(cut.join(map(str, row)) for row in [list(ROWS[0]), *(r.values() for r in ROWS)]))
    elif ending == ".json.gz":
        path.write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    else:
        path.write_text(json.dumps(ROWS) if ending == ".json" else "\n".join(map(json.dumps, ROWS)))
    return path


def pyarrow_table() -> Any:
    """Return the rows with types that JSON does not have: a date, a decimal reference, 32-bit floats."""
    import pyarrow

    return pyarrow.table(
        {
            "id": ["a", "b"],
            "answer": [row["answer"] for row in ROWS],
            "truth": pyarrow.array([5, 0.5], pyarrow.float32()),
            "on": [date(2026, 1, 2), None],
        }
    )


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".json.gz", ".csv", ".tsv", ".parquet"])
def test_every_form_of_a_file_is_graded_alike_and_references_may_be_numbers(tmp_path: Path, ending: str) -> None:
    out = tmp_path / "graded.jsonl"
    report = grade_jsonl(table(tmp_path, ending), response_key="answer", gold_key="truth", out=out)
    assert report.outcomes == {"correct": 1, "wrong": 1}
    graded = [json.loads(line) for line in out.open()]
    assert [(row["id"], row["grade"]["outcome"]) for row in graded] == [("a", "correct"), ("b", "wrong")]
    if ending == ".parquet":
        assert [row["on"] for row in graded] == ["2026-01-02", None]


def test_labels_of_a_table_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,response,gold,expected\na,5,5,True\nb,5,5,false\nc,5,5,\n")
    report = grade_jsonl(path)
    assert (report.labelled, report.disagreeing) == (2, ["b"])


@pytest.mark.parametrize("gold", ["null", "true", "NaN", "Infinity", "[5]"])
def test_what_is_no_reference_is_named_with_its_row(tmp_path: Path, gold: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(f'[{{"response": "5", "gold": "5"}},\n{{"response": "5", "gold": {gold}}}]')
    with pytest.raises(DataError, match=r"rows\.json:2: expected text under 'gold', got .*--reference-column"):
        grade_jsonl(path)


def test_json_lines_may_come_from_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_text('{"response": "5", "gold": "5"}\n'))
    writer.start()
    assert grade_jsonl(path).outcomes == {"correct": 1}
    writer.join()


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        grade_jsonl(tmp_path / "none.jsonl")


def test_audit_prints_the_disagreements(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    path = tmp_path / "rows.jsonl"
    rows = [
        {"id": "same", "response": r"$\boxed{5}$", "gold": "5"},
        {"id": "other", "response": r"$\boxed{0.33333333}$", "gold": r"\frac13"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    total, differing = audit(path)
    assert total == 2
    assert [row.id for row in differing if row.theirs is not None] in ([], ["other"])
    assert all(row.line() for row in differing)


def test_trl_reward_is_none_without_a_readable_gold() -> None:
    completions = [r"\boxed{4}", [{"role": "assistant", "content": r"\boxed{5}"}], r"\boxed{4}", "no answer here"]
    assert accuracy_reward(completions, solution=["4", "4", r"\begin{cases}", "5"], prompts=["…"] * 4) == [
        1.0,
        0.0,
        None,
        0.0,
    ]
    with pytest.raises(InputError, match="column"):
        accuracy_reward(completions)


def test_verl_and_verifiers_signatures() -> None:
    assert compute_score("openai/gsm8k", "so 4\n#### 4", "4") == 1.0
    assert compute_score("math", r"\boxed{4}", r"\begin{cases}", ungradable=-1.0) == -1.0
    assert (
        correct_answer([{"role": "assistant", "content": r"\boxed{5}"}], "5", info={"source": "math"}, state={}) == 1.0
    )
    assert correct_answer("6", "5") == 0.0
