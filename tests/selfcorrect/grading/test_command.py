"""What the command line and the RL libraries call."""

from __future__ import annotations

import json
from pathlib import Path

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
