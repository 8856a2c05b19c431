"""Two logs of any tools: matched, graded again, tested in pairs; against numbers worked out by hand or by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.compare import compare_logs, detectable, match, unpaired_z
from selfcorrect.errors import InputError
from selfcorrect.logs import Log, Response, read_log
from selfcorrect.metrics import is_correct
from selfcorrect.runs.jsonl import write_jsonl
from selfcorrect.types import NO_ANSWER, Attempt, Grade, Outcome, Problem, Trajectory
from tests.selfcorrect.engines.test_refused import text_of

DATA = Path(__file__).parent / "logs" / "data"


def write_log(place: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a sample log of lm_eval: documents with question, answer, response and perhaps the log's own score."""
    lines = []
    for count, row in enumerate(rows):
        doc = {"question": row["question"], "answer": row["answer"]}
        score = {"exact_match": row["score"]} if "score" in row else {}
        lines.append({"doc_id": row.get("id", count), "doc": doc, "resps": [row["responses"]], "filter": "x"} | score)
    place.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


def sums(right: set[int], n: int = 10, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "question": f"What is {k} plus {k}?", "answer": str(2 * k),
            "responses": [f"\\boxed{{{2 * k if k in right else 2 * k + 1}}}"], "score": float(k in right), **more,
        }
        for k in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("a", "b", "by"),
    [
        ("inspect_a.eval", "inspect_b.eval", "id"),
        ("lighteval_a.parquet", "lighteval_b.parquet", "id"),
        ("lighteval_a.parquet", "inspect_b.eval", "question"),
        ("inspect_a.json", "lighteval_b.parquet", "question"),
    ],
)
def test_logs_of_the_same_or_of_two_tools(a: str, b: str, by: str) -> None:
    found = compare_logs(DATA / a, DATA / b)
    assert (found.matched_by, found.only_a, found.only_b) == (by, 0, 0)
    assert (found.ours.n, found.ours.only_a, found.ours.only_b, found.ours.gain) == (5, 0, 2, pytest.approx(40.0))
    assert found.ours.p_value == pytest.approx(0.5)  # two discordant pairs, both for B: 2 / 2**2
    assert found.theirs == found.ours
    assert [flip["question"] for flip in found.flips] == ["What is 1+1?", "What is 2+2?"]
    assert [(flip["a"], flip["b"], flip["better"]) for flip in found.flips] == [("3", "2", "B"), ("5", "4", "B")]


def test_the_log_that_an_unpaired_test_misses() -> None:
    """1,000 problems, 35 for A alone and 62 for B alone, 809 for both: McNemar 0.008 where the z-test says 0.084."""
    rows = [(1.0, 1.0)] * 809 + [(1.0, 0.0)] * 35 + [(0.0, 1.0)] * 62 + [(0.0, 0.0)] * 94
    of_a = {str(k): [a] for k, (a, _) in enumerate(rows)}
    of_b = {str(k): [b] for k, (_, b) in enumerate(rows)}
    assert unpaired_z(of_a, of_b) == pytest.approx(0.084, abs=5e-4)
    assert detectable(of_a, of_b) == pytest.approx(100 * 2.802 * (97 / 1000 / 1000) ** 0.5)


def test_problems_that_only_one_log_has_are_counted(tmp_path: Path) -> None:
    a = write_log(tmp_path / "samples_a.jsonl", sums({1, 2, 3}, 10))
    b = write_log(tmp_path / "samples_b.jsonl", sums({1, 2, 3, 4}, 12)[2:])
    found = compare_logs(a, b, by="question")
    assert (found.ours.n, found.only_a, found.only_b) == (8, 2, 2)


def test_ids_that_mean_other_questions_are_not_trusted(tmp_path: Path) -> None:
    shifted = [{**row, "id": k} for k, row in enumerate(sums({1, 2}, 10)[1:])]
    found = compare_logs(
        write_log(tmp_path / "samples_a.jsonl", sums({1, 2}, 10)), write_log(tmp_path / "samples_b.jsonl", shifted)
    )
    assert (found.matched_by, found.ours.n, found.ours.gain) == ("question", 9, 0.0)


def test_a_question_is_the_same_whatever_blanks_case_and_our_instruction() -> None:
    texts = ["What is  2+2?", "what is 2+2?\nSolve the problem step by step. Put the final answer in \\boxed{}."]
    logs = [Log(Path("x"), "t", "", "", "", (Response(str(k), text, "4", "4"),)) for k, text in enumerate(texts)]
    keys_a, keys_b, by = match(*logs)
    assert (keys_a, by) == (keys_b, "question")


def test_several_responses_to_a_problem_are_one_problem(tmp_path: Path) -> None:
    def rows(right: int) -> list[dict[str, Any]]:
        return [{**row, "responses": ["4"] * right + ["5"] * (4 - right), "answer": "4"} for row in sums(set(), 6)]

    found = compare_logs(
        write_log(tmp_path / "samples_a.jsonl", rows(1)), write_log(tmp_path / "samples_b.jsonl", rows(3))
    )
    assert (found.ours.n, found.ours.gain, found.ours.test) == (6, pytest.approx(50.0), "sign flips of problems")
    assert found.flips[0]["a"] == "25% of 4"
    assert found.ours.p_value == pytest.approx(2 / 2**6, abs=0.01)


def test_where_the_log_and_our_grader_differ_the_response_is_listed(tmp_path: Path) -> None:
    rows = sums({1, 2, 3}, 6)
    rows[4] |= {"responses": ["\\boxed{\\frac{16}{2}}"], "score": 0.0}  # 8, which a match of texts calls wrong
    a = write_log(tmp_path / "samples_a.jsonl", rows)
    found = compare_logs(a, a)
    (odd,) = found.a.disagreements()
    assert (odd["problem"], odd["log"], odd["ours"]) == ("4", 0.0, 1.0)
    assert found.theirs is not None
    assert found.ours.gain == found.theirs.gain == 0.0
    said = text_of(found)
    assert "differ on 1" in said


def test_no_reference_no_grade(tmp_path: Path) -> None:
    rows = [{**row, "answer": "" if k < 2 else row["answer"]} for k, row in enumerate(sums({3}, 5))]
    found = compare_logs(*[write_log(tmp_path / f"samples_{name}.jsonl", rows) for name in "ab"])
    assert (found.ours.n, found.a.counts()["no readable reference"]) == (3, 2)


def test_a_response_without_an_answer_is_wrong_and_one_that_nobody_scored_is_left_out_and_counted(
    tmp_path: Path,
) -> None:
    rows = sums({1, 2, 3}, 6)
    rows[4] |= {"responses": ["I do not know."]}
    del rows[5]["score"]
    a = write_log(tmp_path / "samples_a.jsonl", rows)
    found = compare_logs(a, a)
    assert found.theirs is not None
    assert (found.ours.n, found.theirs.n) == (6, 5)
    assert [row[:4] for row in found.rows()] == [("our grader", "6", "50.0", "50.0"), ("the logs", "5", "60.0", "60.0")]
    assert found.a.counts() == {"responses": 6, "unanswered": 1, "without a score in the log": 1}


def test_of_our_own_rows_the_logs_score_is_that_of_the_row(tmp_path: Path) -> None:
    """No answer is wrong; what the grader failed on is left out."""
    outcomes = {
        "p0": Grade(Outcome.CORRECT, "", "4"),
        "p1": Grade(Outcome.WRONG, "", "5"),
        "p2": Grade(Outcome.UNGRADABLE, method=NO_ANSWER[0]),
        "p3": Grade(Outcome.UNGRADABLE, "timeout", "4", method="timeout"),
    }
    rows = [
        Trajectory(Problem(name, "?", "4", "math", {}), (Attempt("x", grade.extracted, grade),), (), stop="horizon")
        for name, grade in outcomes.items()
    ]
    assert [is_correct(row.final) for row in rows] == [True, False, False, None]
    write_jsonl(tmp_path / "trajectories.jsonl", [{"key": "a", "trajectory": row.to_json()} for row in rows])
    assert [response.score for response in read_log(tmp_path).responses] == [1.0, 0.0, 0.0, None]


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    a = write_log(tmp_path / "samples_a.jsonl", sums({1}, 3))
    other = [{"question": f"And {k}?", "answer": "1", "responses": ["1"]} for k in range(3)]
    b = write_log(tmp_path / "samples_b.jsonl", other)
    with pytest.raises(InputError, match=r"no graded problem in common \(matched by question\)"):
        compare_logs(a, b)


@pytest.mark.parametrize("suffix", [".md", ".json", ".jsonl"])
def test_it_is_written_as_its_name_says(suffix: str, tmp_path: Path) -> None:
    found = compare_logs(DATA / "inspect_a.eval", DATA / "inspect_b.eval")
    out = tmp_path / f"c{suffix}"
    found.write(out)
    text = out.read_text(encoding="utf-8")
    assert "What is 1+1?" in text
    if suffix == ".json":
        assert json.loads(text)["test"]["gain"] == pytest.approx(40.0)


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.md, \.json or \.jsonl"):
        compare_logs(DATA / "inspect_a.eval", DATA / "inspect_b.eval").write(tmp_path / "c.pdf")


def test_hostile_text_is_only_text(tmp_path: Path) -> None:
    hostile = "\x1b]0;x\x07|`<b>9"
    rows = [{**row, "question": f"\x1b[2J|<script>{k}", "responses": [hostile]} for k, row in enumerate(sums(set(), 3))]
    right = [{**row, "responses": [row["answer"]]} for row in rows]
    found = compare_logs(write_log(tmp_path / "samples_a.jsonl", rows), write_log(tmp_path / "samples_b.jsonl", right))
    page = found.to_markdown()
    assert "\x1b" not in page + text_of(found)
    assert "<script>" not in page
