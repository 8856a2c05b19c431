"""`selfcorrect eval calibrate | regrade | compare | import | export`, on rows that were written before."""

from __future__ import annotations

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from rich.console import Console

from selfcorrect.cli import main
from selfcorrect.correction.stop_rule import load_rule
from selfcorrect.engines import EngineRecipe
from selfcorrect.errors import DataError, InputError, RunFolderError
from selfcorrect.eval.commands import calibrate, compare_rows, export_samples, flips, import_samples, regrade_rows
from selfcorrect.eval.page.page import write_report
from selfcorrect.eval.results import read_trajectories
from selfcorrect.eval.run import EvalRecipe, regrade
from selfcorrect.eval.tables.make import make
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.runs.folder import finished
from selfcorrect.runs.jsonl import read_json, read_jsonl, write_jsonl
from selfcorrect.types import Grade, Outcome


def shown(what: object) -> str:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(what)
    return console.export_text()


def test_calibrate_saves_the_rule_with_the_checkpoint(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    model = tmp_path / "checkpoint"
    model.mkdir()
    recipe = EvalRecipe(
        row="calibration",
        engine=EngineRecipe(str(model)),
        problems=ProblemsRecipe(split="validation"),
        stop="never",
    )
    paths = [path(i, i % 3 > 0, True, p=0.15 + 0.7 * (i % 3 > 0) + 0.001 * (i % 90)) for i in range(180)]
    row(tmp_path, recipe, paths)
    text = shown(calibrate(replace(recipe, stop="sampled"), tmp_path, "platt", "best", None))
    assert "platt, cross-fitted" in text
    assert load_rule(model) == load_rule(tmp_path / "eval" / "calibration")
    assert read_json(model / "calibration.json")["model"] == str(model)
    with pytest.raises(InputError, match="tests nothing"):
        calibrate(replace(recipe, problems=ProblemsRecipe(split="test")), tmp_path, "platt", "best", None)


def test_compare_lists_the_flips(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    a = row(tmp_path, EvalRecipe(row="a", label="A"), [path(i, i < 10) for i in range(20)])
    b = row(tmp_path, EvalRecipe(row="b", label="B"), [path(i, i >= 2) for i in range(20)], prompts="other")
    text = shown(compare_rows(a, b, tmp_path / "flips.jsonl"))
    assert "B − A: +40.0 points" in text
    assert "p = 0.0386 (McNemar, exact)" in text
    assert "careful: prompts differs" in text
    assert "12 trajectories flipped" in text
    written = list(read_jsonl(tmp_path / "flips.jsonl"))
    assert [flip["right"] for flip in written].count("A") == 2
    with pytest.raises(InputError, match="several rows"):
        compare_rows(tmp_path, b)


def test_flips_with_several_seeds_are_matched_by_seed(path) -> None:  # type: ignore[no-untyped-def]
    a = [path(0, True, seed=0), path(0, False, seed=1)]
    b = [path(0, True, seed=0), path(0, True, seed=1), path(1, True)]
    assert [(flip["problem"], flip["seed"], flip["right"]) for flip in flips(a, b)] == [("p0", 1, "B")]


def test_regrade_mends_stale_grades_and_keeps_the_old_scores(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    stale = [path(i, True) for i in range(6)]
    wrongly = Grade(Outcome.WRONG, "an older grader", "4")
    stale[0] = replace(stale[0], attempts=(replace(stale[0].attempts[0], grade=wrongly),))
    folder = row(tmp_path, EvalRecipe(row="a", label="A"), stale, grader="old")
    assert read_json(folder / "scores.json")["final"] == pytest.approx(83.33)
    result, changed = regrade(folder)
    assert changed == {"wrong → correct": 1}
    assert result.scores.final.value == 100
    assert read_json(folder / "scores.old.json")["final"] == pytest.approx(83.33)
    assert all(t.final.grade and t.final.grade.correct for t in read_trajectories(folder))
    assert finished(folder, by_hash=True) == {}
    assert "no grade changed; same grader" in shown(regrade_rows([tmp_path]))
    (folder / "DONE").rename(folder / ".DONE.reopened")  # as a kill may leave it, before or after either file
    assert regrade(folder)[1] == {}
    assert finished(folder, by_hash=True) == {}
    (folder / "DONE").unlink()
    with pytest.raises(DataError, match="no finished evaluation"):
        regrade(folder)


def test_regrade_without_paths_changes_nothing(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    folder = row(tmp_path, EvalRecipe(row="a"), [path(0, True)], grader="old")
    for content in (b"", None, (folder / "trajectories.jsonl").read_bytes()[:-40]):
        (folder / "trajectories.jsonl").unlink(missing_ok=True)
        if content is not None:
            (folder / "trajectories.jsonl").write_bytes(content)
        before = {file: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"}
        with pytest.raises((DataError, RunFolderError), match=r"trajectories\.jsonl"):
            regrade(folder)
        assert {file: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"} == before


def test_two_regrades_at_once_take_turns_or_are_refused(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    folder = row(tmp_path, EvalRecipe(row="a"), [path(i, i % 2 == 0) for i in range(30)], grader="old")
    together, refused = threading.Barrier(4), []

    def again() -> None:
        together.wait()
        for _ in range(5):
            try:
                regrade(folder)
            except RunFolderError as error:
                refused.append(str(error))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(again) for _ in range(4)]:
            done.result()
    assert all("in use by another process" in message for message in refused)
    assert finished(folder, by_hash=True) is not None
    assert len(read_trajectories(folder)) == 30


def foreign(doc_id: int, doc: dict[str, str], responses: list[str], name: str = "strict-match") -> dict[str, object]:
    """A row as lm-evaluation-harness 0.4 writes it."""
    return {
        "doc_id": doc_id,
        "doc": doc,
        "target": doc.get("answer", "7"),
        "arguments": {"gen_args_0": {"arg_0": "Question: 3+4?\nAnswer:", "arg_1": {"until": []}}},
        "resps": [responses],
        "filtered_resps": [responses[0]],
        "filter": name,
        "metrics": ["exact_match"],
        "doc_hash": f"h{doc_id}",
        "prompt_hash": "p",
        "target_hash": "t",
        "exact_match": 0.0,
    }


def test_a_foreign_sample_log_is_graded_by_our_grader(tmp_path: Path) -> None:
    gsm8k = {"question": "What is 3+4?", "answer": "3+4=7\n#### 7"}
    rows = [
        foreign(0, gsm8k, ["So #### 7"]),
        foreign(0, gsm8k, ["So #### 7"], "flexible-extract"),
        foreign(1, {**gsm8k, "question": "And 4+3?"}, ["\\boxed{8}"]),
        foreign(3, {**gsm8k, "answer": "3+4=7\n#### \\begin{cases}"}, ["So #### 7"]),
        foreign(2, {"unknown": "schema"}, ["The answer is 7."]),
    ]
    write_jsonl(tmp_path / "samples_gsm8k.jsonl", rows)
    text = shown(import_samples(tmp_path / "samples_gsm8k.jsonl", "theirs", "Their model", "gsm8k", tmp_path))
    scores = read_json(tmp_path / "eval" / "theirs" / "scores.json")
    assert (scores["n"], scores["final"]) == (3, 66.67)
    assert scores["dropped"] == {"another filter of the same document": 1, "reference answer unreadable": 1}
    assert "Their model" in text
    assert "'strict-match' agrees with our grade on 1 of 3 documents" in " ".join(text.split())
    assert read_trajectories(tmp_path / "eval" / "theirs")[2].problem.question.startswith("Question: 3+4?")


def test_several_responses_become_seeds(tmp_path: Path) -> None:
    rows = [
        foreign(i, {"question": f"{i}+0?", "answer": f"#### {i}"}, [f"\\boxed{{{i}}}", "\\boxed{99}"]) for i in range(4)
    ]
    write_jsonl(tmp_path / "s.jsonl", rows)
    import_samples(tmp_path / "s.jsonl", "r", "R", "gsm8k", tmp_path)
    scores = read_json(tmp_path / "eval" / "r" / "scores.json")
    assert (scores["n"], scores["problems"], scores["seeds"], scores["final"]) == (8, 4, [0, 1], 50.0)


def test_responses_without_tokens_are_voted_on_by_responses_alone(tmp_path: Path) -> None:
    rows = [foreign(i, {"question": f"{i}+0?", "answer": f"#### {i}"}, [f"\\boxed{{{i}}}"] * 4) for i in range(4)]
    write_jsonl(tmp_path / "s.jsonl", rows)
    import_samples(tmp_path / "s.jsonl", "r", "R", "gsm8k", tmp_path)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "by responses a problem" in page
    assert "by tokens a problem" not in page
    make("figure2", [tmp_path])
    assert "| maj@n | 2 | 2.0 | – | 100.0" in (tmp_path / "tables" / "figure2.md").read_text()


@pytest.mark.parametrize("broken", [{"doc_id": 0}, {"doc_id": 0, "resps": []}, {"no": "sample"}])
def test_what_is_no_sample_log_is_refused(tmp_path: Path, broken: dict[str, object]) -> None:
    write_jsonl(tmp_path / "s.jsonl", [broken])
    with pytest.raises(DataError, match=r"s.jsonl:1: not a sample"):
        import_samples(tmp_path / "s.jsonl", "r", "R", "math", tmp_path)


@pytest.mark.parametrize(
    "resps",
    [
        [[[-12.3, False]], [[-2.1, True]]],
        [[-12.3, False], [-2.1, True]],
        [[["-12.3", "False"]], [["-2.1", "True"]]],
        [-12.3, -2.1],
        [[{"logprob": -1}]],
    ],
)
def test_a_log_of_likelihoods_has_no_answers_to_grade(tmp_path: Path, resps: list[object]) -> None:
    row = foreign(0, {"question": "Which?"}, [""]) | {"resps": resps, "target": 1}
    write_jsonl(tmp_path / "s.jsonl", [row])
    with pytest.raises(DataError, match=r"s.jsonl:1: no generated text"):
        import_samples(tmp_path / "s.jsonl", "r", "R", "gsm8k", tmp_path)
    assert not (tmp_path / "eval").exists()


def test_what_a_document_lacks_the_target_and_the_prompt_say(tmp_path: Path) -> None:
    mgsm = {"question": "3+4?", "answer": None, "answer_number": 7, "equation_solution": None}
    docs = [mgsm, {"problem": None, "solution": None, "answer": "7"}, {"question": "3+4?", "answer": ""}, {}]
    rows = [foreign(i, doc, ["The answer is 7."]) | {"target": "7"} for i, doc in enumerate(docs)]  # type: ignore[arg-type]
    rows.append(foreign(9, {"question": "3+4?", "answer": "#### 7"}, [None]))  # type: ignore[list-item]
    rows.append(foreign(10, {"question": "3+4?", "answer": "#### 7"}, ["x"]) | {"resps": ["So #### 7"]})
    rows.append(foreign(11, {"question": "3+4?"}, ["7"]) | {"target": ["7", "seven"]})
    write_jsonl(tmp_path / "s.jsonl", rows)
    import_samples(tmp_path / "s.jsonl", "r", "R", "gsm8k", tmp_path)
    scores = read_json(tmp_path / "eval" / "r" / "scores.json")
    paths = {t.problem.id: t for t in read_trajectories(tmp_path / "eval" / "r")}
    assert [paths[f"s-{i}"].problem.gold for i in range(4)] == ["7"] * 4
    assert paths["s-1"].problem.question.startswith("Question: 3+4?")
    assert (scores["n"], scores["unanswered"], scores["final"]) == (6, 1, 83.33)
    assert scores["dropped"] == {"reference answer unreadable": 1}


LOG = Path(__file__).parent / "data" / "samples_word_problems.jsonl"
"""Written by lm_eval 0.4.13 (hf model, --log_samples) on an IFT checkpoint: 6 problems, 2 responses, 2 filters."""


def test_a_log_of_the_real_harness(tmp_path: Path) -> None:
    text = " ".join(shown(import_samples(LOG, "theirs", "By the harness", "arithmetic", tmp_path)).split())
    scores = read_json(tmp_path / "eval" / "theirs" / "scores.json")
    assert (scores["n"], scores["problems"], scores["seeds"], scores["final"]) == (12, 6, [0, 1], 100.0)
    assert (scores["temperature"], scores["max_tokens"], scores["model"]) == (1.0, 200, None)
    assert scores["dropped"] == {"another filter of the same document": 6}
    assert "filter 'boxed' agrees with our grade on 6 of 6 documents" in text
    assert "filter 'any-number' agrees with our grade on 4 of 6 documents" in text, "its last number is 08586"
    first = read_trajectories(tmp_path / "eval" / "theirs")[0]
    assert first.problem.question.startswith("The school holds 1499 shells.")
    assert (first.problem.gold, first.problem.meta["level"]) == ("8586", "medium")


def test_an_exported_log_has_the_fields_types_and_hashes_of_a_real_one(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    real = [json.loads(line) for line in LOG.read_text().splitlines()]
    folder = row(tmp_path, EvalRecipe(row="a", label="A"), [path(i, True, p=0.9) for i in range(2)])
    export_samples(folder, tmp_path / "s.jsonl")
    ours = json.loads((tmp_path / "s.jsonl").read_text().splitlines()[0])
    assert {key: type(ours[key]) for key in real[0]} == {key: type(value) for key, value in real[0].items()}
    for sample in (ours, *real):
        prompt = sample["arguments"]["gen_args_0"]["arg_0"]
        doc = json.dumps(sample["doc"], indent=2, ensure_ascii=False)
        for key, hashed in (("doc_hash", doc), ("prompt_hash", prompt), ("target_hash", sample["target"])):
            assert sample[key] == sha256(hashed.encode()).hexdigest()


def test_export_then_import_gives_the_same_paths(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    paths = [path(i, i % 2 == 0, True, p=0.3, meta={"level": 2}) for i in range(5)]
    folder = row(tmp_path, EvalRecipe(row="a", label="A"), paths)
    assert "5 samples" in shown(export_samples(folder, tmp_path / "samples_arithmetic.jsonl"))
    first = json.loads((tmp_path / "samples_arithmetic.jsonl").read_text().splitlines()[0])
    assert set(foreign(0, {}, [""])) <= set(first)
    assert first["exact_match"] == 1.0
    import_samples(tmp_path / "samples_arithmetic.jsonl", "back", "A again", "math", tmp_path)
    back = read_trajectories(tmp_path / "eval" / "back")
    bare = [replace(t, token_ids=(), logprobs=(), spans=()) for t in paths]
    regraded = [replace(t, attempts=tuple(replace(a, grade=None) for a in t.attempts)) for t in back]
    assert regraded == [replace(t, attempts=tuple(replace(a, grade=None) for a in t.attempts)) for t in bare]
    assert [a.grade.outcome for t in back for a in t.attempts if a.grade] == [
        a.grade.outcome for t in bare for a in t.attempts if a.grade
    ]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("eval compare {0}/a {0}/b", "neither a run folder"),
        ("eval regrade {0}/nowhere", "neither a run folder"),
        ("eval import {0}/no.jsonl --run {0}", "no file at"),
        ("eval calibrate problems.split=test --run {0}", "tests nothing"),
        ("eval embedded stop=thresold --run {0}", "did you mean"),
        ("eval embedded method=judged --run {0}", "judge.kind"),
        ("eval embedded method=gold stop=never --run {0}", "has none"),
        ("report table3 {0}/nowhere", "neither a run folder"),
        ("report figure1 {0}", "selfcorrect train grpo"),
    ],
)
def test_wrong_input_is_one_message(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, said: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(command.format(tmp_path).split())
    printed = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert left.value.code == 1
    assert said in printed
    assert "Traceback" not in printed
