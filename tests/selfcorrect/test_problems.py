"""Problem sets: published formats, own mappings, what is dropped, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from selfcorrect.errors import DataError
from selfcorrect.problems import DATA_FOLDER, TEST_SETS, ProblemsRecipe, load_problems, normalised_question

READABLE = lambda gold, source: gold != "unreadable"


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load(source: str, **settings: object):  # type: ignore[no-untyped-def]
    return load_problems(ProblemsRecipe(source=source, **settings), READABLE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "question", "gold", "schema"),
    [
        ({"question": "q", "answer": "work\n#### 1,080"}, "q", "1,080", "gsm8k"),
        ({"problem": "q", "answer": 27.0, "question": "q"}, "q", "27", "problem and answer"),
        ({"problem": "q", "answer": "025", "solution": "..."}, "q", "025", "problem and answer"),
        ({"problem": "q", "solution": "so \\boxed{1} and \\boxed{\\frac{1}{2}}."}, "q", "\\frac{1}{2}", "math"),
        ({"question": "q", "final_answer": ["$2$"], "context": "c"}, "c\nq", "$2$", "olympiadbench"),
        ({"question": "q", "final_answer": ["1", "2"], "context": None}, "q", "1, 2", "olympiadbench"),
        ({"problem": "q", "expected_answer": "7", "generated_solution": "s"}, "q", "7", "openmathinstruct2"),
        ({"question": "q", "gold": 3}, "q", "3", "question and gold"),
    ],
)
def test_published_formats_are_told_by_their_keys(tmp_path, row, question, gold, schema) -> None:
    (problem,) = load(write(tmp_path / "mine.jsonl", row)).problems
    assert (problem.question, problem.gold, problem.source) == (question, gold, schema)
    assert problem.id == "mine-0"


@pytest.mark.parametrize(
    ("name", "count", "first_gold"),
    [
        ("gsm8k", 1319, "18"),
        ("math500", 500, "\\left( 3, \\frac{\\pi}{2} \\right)"),
        ("minerva_math", 272, "1.6"),
        ("olympiadbench", 675, "2"),
        ("aime24", 30, "204"),
        ("amc23", 40, "27"),
    ],
)
def test_real_files_load_by_path_and_by_short_name(shared, monkeypatch, name, count, first_gold) -> None:
    by_path = load(str(shared / "data" / f"{name}.test.jsonl"), split="test")
    monkeypatch.setenv(DATA_FOLDER, str(shared / "data"))
    by_name = load(name, split="test")
    assert by_name.problems == by_path.problems
    assert len(by_path.problems) == count == TEST_SETS[name]
    assert by_path.problems[0].gold == first_gold
    assert by_path.problems[0].source == name


def test_own_keys_are_mapped(tmp_path) -> None:
    path = write(tmp_path / "mine.jsonl", {"prompt": "q", "target": 4, "question": "no"})
    (problem,) = load(path, fields={"question": "prompt", "gold": "target"}, name="math").problems
    assert (problem.question, problem.gold, problem.source) == ("q", "4", "math")


def test_duplicates_and_unreadable_references_are_dropped_and_counted(tmp_path) -> None:
    path = write(
        tmp_path / "mine.jsonl",
        {"question": "What is  1 + 1?", "gold": "2"},
        {"question": "what is 1 + 1?\n", "gold": "2"},
        {"question": "q", "gold": "unreadable"},
        {"question": "no answer", "gold": None},
        {"question": "What is 1 - 1?", "gold": "0"},
    )
    loaded = load(path)
    assert [problem.id for problem in loaded.problems] == ["mine-0", "mine-4"]
    assert loaded.dropped == {
        "duplicate question": 1,
        "reference answer unreadable": 1,
        "no reference answer": 1,
    }
    assert loaded.examples["no reference answer"] == ("mine.jsonl:4",)


def test_normal_form_keeps_what_distinguishes_questions() -> None:
    assert normalised_question(" A\u00a0b\n c ") == "a b c"
    assert normalised_question("1+1") != normalised_question("1-1")


def test_offset_and_count_cut_disjoint_parts_of_one_order(tmp_path) -> None:
    path = write(tmp_path / "mine.jsonl", *({"question": f"q{i}", "gold": "1"} for i in range(20)))
    recipe = ProblemsRecipe(source=path, shuffle=True, seed=3)
    everything = load_problems(recipe, READABLE).problems
    first = load_problems(replace(recipe, count=8), READABLE).problems
    rest = load_problems(replace(recipe, offset=8, count=50), READABLE).problems
    assert [*first, *rest] == everything
    assert everything != load_problems(replace(recipe, seed=4), READABLE).problems
    assert sorted(everything, key=lambda p: int(p.id[5:])) == load(path).problems


def test_arithmetic_offsets_fit_together() -> None:
    recipe = ProblemsRecipe(source="arithmetic", split="validation", count=30)
    together = load_problems(recipe, READABLE).problems
    apart = [load_problems(replace(recipe, count=10, offset=offset), READABLE).problems for offset in (0, 10, 20)]
    assert [problem for part in apart for problem in part] == together


def test_broken_input_is_refused_with_what_to_do(tmp_path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"question": "q", "gold": "1"}\n{"question": \n')
    with pytest.raises(DataError, match=r"broken\.jsonl:2: not JSON"):
        load(str(tmp_path / "broken.jsonl"))
    with pytest.raises(DataError, match=r"(?s)keys text, label.*problem, question.*problems\.fields"):
        load(write(tmp_path / "odd.jsonl", {"text": "q", "label": "1"}))
    with pytest.raises(DataError, match="no usable problem"):
        load(write(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="1 usable in all"):
        load(write(tmp_path / "short.jsonl", {"question": "q", "gold": "1"}), offset=5)
    with pytest.raises(DataError, match="no file at"):
        load(str(tmp_path / "absent.jsonl"))
    with pytest.raises(DataError, match="did you mean"):
        load("gsm8")
    with pytest.raises(DataError, match="exactly question and gold"):
        load(str(tmp_path / "short.jsonl"), fields={"question": "question"})


# --- other files --------------------------------------------------------------------------------------------------


def test_parquet_and_csv_hold_the_same_problems(tmp_path) -> None:
    import pandas

    frame = pandas.DataFrame({"prompt": ["1 + 1?", 'a, "b"\nc?'], "target": ["2", "3"]})
    frame.to_parquet(tmp_path / "mine.parquet")
    frame.to_csv(tmp_path / "mine.csv", index=False)
    fields = {"question": "prompt", "gold": "target"}
    parquet, csv = (load(str(tmp_path / f"mine.{kind}"), fields=fields).problems for kind in ("parquet", "csv"))
    assert parquet == csv
    assert [(problem.question, problem.gold) for problem in csv] == [("1 + 1?", "2"), ('a, "b"\nc?', "3")]


def test_broken_tables_are_refused(tmp_path) -> None:
    (tmp_path / "mine.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"cannot read .*mine\.parquet"):
        load(str(tmp_path / "mine.parquet"))
    (tmp_path / "mine.csv").write_text("question,gold\nq,1\nr,2,3\n")
    with pytest.raises(DataError, match=r"mine\.csv:3: its number of columns is 3"):
        load(str(tmp_path / "mine.csv"))
    (tmp_path / "mine.xlsx").write_text("")
    with pytest.raises(DataError, match=r"\.jsonl, .*\.parquet, \.csv"):
        load(str(tmp_path / "mine.xlsx"))


# --- filters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ({"level": 5}, [2, 3]),
        ({"level": [1, "Level 5"]}, [0, 2, 3]),
        ({"level": {"min": 2, "max": 5}}, [1, 2, 3]),
        ({"subject": "algebra", "level": {"min": 5}}, [3]),
        ({"pass_rate": {"max": 0.2}}, [2, 4]),
    ],
)
def test_problems_are_chosen_by_level_subject_and_pass_rate(tmp_path, where, kept) -> None:
    values = [("Level 1", "Algebra", 1.0), (2, "Geometry", 0.5), ("Level 5", "Geometry", 0), ("5", "Algebra", 0.9)]
    values.append(("Level ?", "Algebra", 0.1))
    rows = [
        {"question": f"q{i}", "gold": "1", "level": level, "subject": subject, "pass_rate": rate}
        for i, (level, subject, rate) in enumerate(values)
    ]
    loaded = load(write(tmp_path / "mine.jsonl", *rows), where=where)
    assert [problem.id for problem in loaded.problems] == [f"mine-{i}" for i in kept]
    assert loaded.dropped == {"outside problems.where": 5 - len(kept)}


def test_filters_that_mean_nothing_are_refused(tmp_path) -> None:
    path = write(tmp_path / "mine.jsonl", {"question": "q", "gold": "1", "level": 3})
    with pytest.raises(DataError, match=r"asks for 'levle' \(did you mean \"level\"\?\)"):
        load(path, where={"levle": 3})
    with pytest.raises(DataError, match="expected min and max, got least"):
        load(path, where={"level": {"least": 3}})
    with pytest.raises(DataError, match=r"1 × outside problems\.where: mine\.jsonl:1"):
        load(path, where={"level": 4})


# --- decontamination ----------------------------------------------------------------------------------------------

LONG = "Two trains leave a city at noon and travel in opposite directions at 60 and 75 miles per hour until dusk."


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (
            "two trains leave a city at noon and travel in opposite directions, at 60 and 75 miles per hour until dusk",
            "same",
        ),
        ("$" + LONG + "$", "same"),
        (f"Here is a puzzle. {LONG} How far apart are they then?", "runs of 13 words"),
        (LONG.replace("75", "80"), "runs of 13 words"),
        (LONG.replace("noon", "ten").replace("60", "50"), None),
        ("Find m + n where m and n are relatively prime positive integers.", None),
    ],
)
def test_training_problems_of_a_test_set_are_removed_and_listed(tmp_path, question, why) -> None:
    write(
        tmp_path / "gsm8k.test.jsonl",
        {"question": LONG, "answer": "#### 1"},
        {"question": "Short?", "answer": "#### 2"},
    )
    source = write(
        tmp_path / "mine.jsonl", {"question": question, "gold": "1"}, {"question": "Another one?", "gold": "1"}
    )
    loaded = load(source, decontaminate=("gsm8k",))
    assert [problem.question for problem in loaded.problems] == [question, "Another one?"][bool(why) :]
    assert loaded.dropped.get("contained in a test set", 0) == len(loaded.removed) == bool(why)
    for found in loaded.removed:
        assert (found.id, found.question, found.test_set, found.test_id) == (
            "mine-0",
            question,
            "gsm8k",
            "gsm8k.test-0",
        )
        assert found.why.startswith(why)


def test_boilerplate_alone_is_no_contamination(tmp_path) -> None:
    ending = "can be written in the form m over n where m and n are relatively prime positive integers. Find m + n."
    write(tmp_path / "aime24.test.jsonl", {"question": f"{'circle ' * 30} The area {ending}", "gold": "1"})
    source = write(tmp_path / "mine.jsonl", {"question": f"{'square ' * 30} The volume {ending}", "gold": "1"})
    assert len(load(source, decontaminate=("aime24",)).problems) == 1


def test_every_known_test_set_is_searched(shared) -> None:
    """GSM8K's own training problems: two of 7,473 are a test problem with other numbers."""
    source = str(shared / "data" / "gsm8k.train.jsonl")
    loaded = load(source, decontaminate=("all",))
    assert [(found.id, found.test_set) for found in loaded.removed] == [
        ("gsm8k.train-1314", "gsm8k"),
        ("gsm8k.train-5162", "gsm8k"),
    ]
    test_set = load(str(shared / "data" / "math500.test.jsonl"), decontaminate=("gsm8k", "aime24"))
    assert len(test_set.problems) == 500


def test_test_sets_that_cannot_be_read_stop_the_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = write(tmp_path / "mine.jsonl", {"question": "q", "gold": "1"})
    with pytest.raises(DataError, match=r"(?s)cannot read 1 test sets: gsm9k; .*gsm8k.*problems\.decontaminate=\[\]"):
        load(source, decontaminate=("gsm9k",))
