"""What rows say: the published forms of math sets, odd rows, multiple choice, references that nothing can match."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfcorrect.errors import DataError
from selfcorrect.problems import Loaded, ProblemsRecipe, load_problems
from selfcorrect.problems.references import is_placeholder, kind_of
from selfcorrect.prompts import solve

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
Q = "What is 3+4?"


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def verl(question: object, gold: object, **more: object) -> dict[str, object]:
    return {
        "data_source": "x",
        "prompt": question,
        "ability": "math",
        "reward_model": {"ground_truth": gold, "style": "rule"},
        "extra_info": {"index": 0},
    } | more


FORMS: dict[str, tuple[object, str, str]] = {
    "verl gsm8k": (
        verl(user(f'{Q} Let\'s think step by step and output the final answer after "####".'), "7"),
        Q,
        "7",
    ),
    "verl math": (
        verl(user(f"{Q} Let's think step by step and output the final answer within \\boxed{{}}."), "7"),
        Q,
        "7",
    ),
    "Eurus-2-RL": (verl([{"role": "system", "content": "Think."}, *user(Q)], "7"), Q, "7"),
    "DAPO-Math-17k": (verl(user(DAPO.format(Q)), "7"), Q, "7"),
    "DAPO-Math-17k-Processed": (
        {"prompt": Q, "solution": "7", "data_source": "d", "source_prompt": user(DAPO.format(Q)), "ability": "MATH"}
        | {"reward_model": {"ground_truth": "7", "style": "r"}, "extra_info": {"index": "0"}},
        Q,
        "7",
    ),
    "Skywork-OR1": (verl(user(Q), '["7"]', data_source="train-math-numinamath1.5"), Q, "7"),
    "NuminaMath-1.5": (
        {"problem": Q, "solution": "long\nwork", "answer": "7", "problem_type": "Algebra", "synthetic": False}
        | {
            "question_type": "math-word-problem",
            "problem_is_valid": "Yes",
            "solution_is_valid": "Yes",
            "source": "amc",
        },
        Q,
        "7",
    ),
    "NuminaMath-CoT": (
        {"source": "cn", "problem": Q, "solution": "It is $\\boxed{7}$.", "messages": user(Q)},
        Q,
        "7",
    ),
    "OpenR1-Math-220k": (
        {"problem": Q, "solution": "s", "answer": "7", "uuid": "u", "generations": ["<think>"], "messages": user(Q)}
        | {"correctness_math_verify": [True], "correctness_llama": None, "correctness_count": 1},
        Q,
        "7",
    ),
    "Big-Math": (
        {"problem": Q, "answer": "7", "source": "orca", "domain": ["Algebra"], "llama8b_solve_rate": 0.5},
        Q,
        "7",
    ),
    "DeepMath-103K": ({"question": Q, "final_answer": "7", "difficulty": 4.5, "r1_solution_1": "w \\boxed{8}"}, Q, "7"),
    "trl-lib/DeepMath-103K": ({"prompt": user(Q), "solution": "$7$"}, Q, "$7$"),
    "DeepScaleR": ({"problem": Q, "answer": "7", "solution": "s \\boxed{7}"}, Q, "7"),
    "rllm gsm8k": ({"problem": Q, "solution": "3+4\n#### 7", "answer": None, "difficulty": -1.0}, Q, "7"),
    "rllm amc": ({"problem": Q, "answer": 7.0, "url": "u"}, Q, "7"),
    "ORZ": ([{"from": "human", "value": Q}, {"from": "assistant", "ground_truth": {"value": "7"}}], Q, "7"),
    "ORZ on the hub": (
        {
            "0": {"from": "human", "value": Q},
            "1": {"from": "assistant", "ground_truth": {"value": "7", "pass_at_n": 1}},
        },
        Q,
        "7",
    ),
    "ORZ eval": ({"prompt": [{"from": "user", "value": Q}], "final_answer": "7"}, Q, "7"),
    "MetaMathQA": (
        {"query": Q, "response": "3 plus 4 is 7.\n#### 7\nThe answer is: 7", "type": "GSM_AnsAug"},
        Q,
        "7",
    ),
    "MetaMathQA, MATH": ({"query": Q, "response": "It is $\\boxed{7}$. The answer is: 7", "type": "MATH"}, Q, "7"),
    "MetaMathQA, neither": ({"query": Q, "response": "We add.\nThe answer is: \\frac{14}{2}."}, Q, "\\frac{14}{2}"),
    "ASDiv": (
        {"body": "I have 3.", "question": Q, "answer": "7 (apples)", "formula": "3+4=7"},
        f"I have 3.\n{Q}",
        "7 (apples)",
    ),
    "SVAMP": ({"ID": "c", "Body": "I have 3", "Question": Q, "Answer": 7.0, "Type": "Sum"}, f"I have 3\n{Q}", "7"),
    "SVAMP's tables": (
        {"Question": "what is number0 + number1 ?", "Numbers": "3.0 4", "Body": "what is number0", "Answer": "7.0"},
        "what is 3 + 4 ?",
        "7.0",
    ),
    "MAWPS": ({"input": Q, "target": 7.0}, Q, "7"),
    "MGSM": ({"question": Q, "answer": None, "answer_number": 7, "equation_solution": None}, Q, "7"),
    "MGSM with its work": (
        {"question": Q, "answer": "Step-by-Step Answer: The answer is 7.", "answer_number": 7},
        Q,
        "7",
    ),
    "mgsm_zh": ({"id": "0", "messages": [*user(Q), {"role": "assistant", "content": ""}], "answer": "7"}, Q, "7"),
    "college_math": (
        {"data_source": "c", "question_number": "e.0", "question": Q, "answer": "$7$", "license": "l"},
        Q,
        "$7$",
    ),
    "CARP": ({"content": Q, "answer": "7", "steps": "s"}, Q, "7"),
    "CMATH": ({"grade": 1, "question": Q, "golden": "7", "reasoning_step": 1}, Q, "7"),
    "Omni-MATH": ({"domain": ["a"], "difficulty": 8.0, "problem": Q, "solution": "s", "answer": "7"}, Q, "7"),
    "AIME_2024": ({"ID": "2024-I-1", "Problem": Q, "Solution": "s", "Answer": 7}, Q, "7"),
    "AIME 1983-2024": (
        {"ID": "1", "Year": 1983, "Problem Number": 1, "Question": Q, "Answer": "7", "Part": None},
        Q,
        "7",
    ),
    "ToRA": ({"idx": 0, "question": Q, "gt_cot": "w", "gt": "7", "pred": ["8"], "score": [False]}, Q, "7"),
    "OpenMathReasoning": ({"problem": Q, "expected_answer": "7", "generated_solution": "\\boxed{8}"}, Q, "7"),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": "So \\boxed{7}."}]},
        Q,
        "7",
    ),
    "Alpaca": ({"instruction": "Add.", "input": "3+4", "output": "That is 7.\nThe answer is 7."}, "Add.\n3+4", "7"),
    "a judged answer": ({"question": Q, "answer": "7", "correct": True}, Q, "7"),
    "messages as text": ({"prompt": json.dumps(user(Q)), "answer": "7"}, Q, "7"),
    "messages and rewards as Python writes them": (
        {"prompt": str(user("What's 3+4?")), "reward_model": str({"ground_truth": "7", "style": "rule"})},
        "What's 3+4?",
        "7",
    ),
    "SYNTHETIC-1": ({"task_type": "math", "prompt": Q, "verification_info": "{'ground_truth': '7'}"}, Q, "7"),
    "only extra_info": ({"prompt": user(Q), "extra_info": {"answer": "3+4\n#### 7", "question": Q}}, Q, "7"),
    "one of answers": ({"question": Q, "answers": ["7"]}, Q, "7"),
    "parts": ({"prompt": [{"role": "user", "content": [{"type": "text", "text": Q}]}], "answer": "7"}, Q, "7"),
    "ours for OpenRLHF": ({"input": user(solve(Q)), "label": "7", "datasource": "gsm8k"}, Q, "7"),
    "ours for verl": (verl(user(solve(Q)), "7"), Q, "7"),
    "ours for TRL": ({"prompt": user(solve(Q)), "id": "x-1", "gold": "7", "source": "gsm8k"}, Q, "7"),
}


def load(folder: Path, *rows: object, **settings: object) -> Loaded:
    path = folder / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_problems(ProblemsRecipe(source=str(path), **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_published_forms_are_read_without_settings(tmp_path, form) -> None:
    row, question, gold = FORMS[form]
    (problem,) = load(tmp_path, row).problems
    assert (problem.question, problem.gold) == (question, gold)


def test_our_own_rows_keep_their_rules_and_the_name_wins(tmp_path) -> None:
    row = {"id": "a", "question": Q, "gold": "7", "source": "gsm8k"}
    assert load(tmp_path, row).problems[0].source == "gsm8k"
    assert load(tmp_path, row, name="math").problems[0].source == "math"


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        ("so it is $\\boxed 7$.", "7"),
        ("so it is $\\boxed{7}$ or rather $\\fbox{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxedfoo{1} and \\boxed{2", None),
        ("a long text that says nothing of a result, whatever one reads into it, and ends", None),
        ("two\nlines", None),
        ("", None),
    ],
)
def test_the_answer_of_a_solution_is_what_it_marks(tmp_path, solution, gold) -> None:
    rows = [{"problem": "other", "solution": "\\boxed{1}"}, {"problem": Q, "solution": solution}]
    found = load(tmp_path, *rows)
    assert [problem.gold for problem in found.problems[1:]] == ([gold] if gold else [])
    assert found.dropped == ({} if gold else {"no reference answer": 1})


# --- rows that are odd --------------------------------------------------------------------------------------------

GOOD = [{"question": f"What is 1 + {n}?", "answer": str(n + 1)} for n in range(3)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": None, "answer": "2"}, "no question"),
        ({"question": " \n", "answer": "2"}, "no question"),
        ({"question": float("nan"), "answer": "2"}, "no question"),
        ({"answer": "2"}, "no key for the question"),
        ({"question": {"text": "q"}, "answer": "2"}, "question is an object"),
        ({"question": ["a?", "b?"], "answer": ["2", "3"]}, "question is list where text belongs"),
        ({"question": True, "answer": "2"}, "question is bool where text belongs"),
        ({"question": [], "answer": "2"}, "no question"),
        ({"question": [*user("a"), *user("b")], "answer": "2"}, "question has several user messages"),
        ({"question": [{"role": "system", "content": "a"}], "answer": "2"}, "question has no user messages"),
        ({"question": [{"role": "user", "content": [{"type": "image"}]}], "answer": "2"}, "question has images"),
        ({"question": "q", "answer": None}, "no reference answer"),
        ({"question": "q", "answer": float("nan")}, "no reference answer"),
        ({"question": "q", "answer": float("inf")}, "no reference answer"),
        ({"question": "q", "answer": []}, "no reference answer"),
        ({"question": "q", "answer": ""}, "no reference answer"),
        ({"question": "q"}, "no key for the reference answer"),
        ({"question": "q", "answer": {"value": 3}}, "reference answer is an object"),
        ({"question": "q", "reward_model": {"ground_truth": '["1", "2"]'}}, "several reference answers"),
        ({"question": "q", "answers": ["1", "2"]}, "several reference answers"),
        ({"question": "q", "answer": "3", "question_type": "proof"}, "asks for a proof"),
        ({"question": "q", "answer": "\\frac{1"}, "reference answer unreadable"),
        ("a text", "row is no object but str"),
        (None, "row is no object but null"),
        (7, "row is no object but int"),
    ],
)
def test_odd_rows_are_dropped_counted_and_named(tmp_path, row, reason) -> None:
    found = load(tmp_path, GOOD[0], row, *GOOD[1:])
    assert [problem.gold for problem in found.problems] == ["1", "2", "3"]
    assert found.dropped == {reason: 1}
    assert [place.split(" ")[0] for place in found.examples[reason]] == ["x.jsonl:2"]
    assert f"1 dropped, {reason}: x.jsonl:2" in found.report()


@pytest.mark.parametrize(
    ("row", "question", "gold"),
    [
        ({"question": 12, "answer": "2"}, "12", "2"),
        ({"question": user("1+1?"), "answer": "2"}, "1+1?", "2"),
        ({"question": "b", "answer": 4}, "b", "4"),
        ({"question": "b", "answer": "4"}, "b", "4"),
        ({"question": "b", "answer": 0}, "b", "0"),
        ({"question": "b", "answer": [1, 2]}, "b", "1, 2"),
        ({"question": "Tom has 3 \ud83d stamps.", "answer": "7"}, "Tom has 3 \ufffd stamps.", "7"),
        ({"question": "😀 \udc00 é", "answer": "7"}, "😀 \ufffd é", "7"),
        ({"question": "{2, 1}", "answer": "{2, 1}"}, "{2, 1}", "{2, 1}"),
        ({"question": '{"a": 1}', "answer": 1}, '{"a": 1}', "1"),
        ({"question": "b", "answer": 1e-7}, "b", "0.0000001"),
        ({"question": "b", "answer": 1e22}, "b", "10000000000000000000000"),
    ],
)
def test_values_become_text_whatever_their_type(tmp_path, row, question, gold) -> None:
    found = load(tmp_path, {"question": "a", "answer": "x\n#### 2"}, row).problems
    assert [(problem.question, problem.gold) for problem in found] == [("a", "2"), (question, gold)]


def test_a_file_that_is_mostly_odd_stops_the_run(tmp_path) -> None:
    odd = [{"question": {"a": n}, "answer": "1"} for n in range(3)]
    with pytest.raises(DataError, match=r"(?s)3 of 5 rows cannot be read.*problems\.fields.*x\.jsonl:3; x\.jsonl:4"):
        load(tmp_path, *GOOD[:2], *odd)
    assert len(load(tmp_path, *GOOD, *odd).problems) == 3


# --- own keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({"question": "prompt", "gold": "reward_model.ground_truth"}, verl(user(Q), "7")),
        ({"question": "prompt[0].content", "gold": "reward_model.ground_truth"}, verl(user(Q), "7")),
        ({"question": "prompt[-1].content", "gold": "a.b[1].c"}, {"prompt": user(Q), "a": {"b": [0, {"c": 7}]}}),
        ({"question": "query", "gold": "response"}, {"query": Q, "response": "It is 7.\n#### 7\nThe answer is: 7"}),
        ({"question": "a.b", "gold": "c"}, {"a.b": Q, "a": {"b": "no"}, "c": 7}),
    ],
)
def test_own_keys_may_be_nested(tmp_path, fields, row) -> None:
    (problem,) = load(tmp_path, row, fields=fields).problems
    assert (problem.question, problem.gold) == (Q, "7")


def test_own_keys_that_are_absent_are_named(tmp_path) -> None:
    with pytest.raises(
        DataError, match=r"x\.jsonl:1: .*promt missing \(did you mean \"prompt\"\?\) among prompt, gold"
    ):
        load(tmp_path, {"prompt": "q", "gold": "1"}, fields={"question": "promt", "gold": "gold"})
    with pytest.raises(DataError, match=r"prompt\[1\]\.content missing"):
        load(tmp_path, verl(user("q"), "1"), fields={"question": "prompt[1].content", "gold": "ability"})
    found = load(tmp_path, {"a": "q", "b": 1}, {"a": "r"}, fields={"question": "a", "gold": "b"})
    assert found.dropped == {"no key for the reference answer": 1}


# --- multiple choice ----------------------------------------------------------------------------------------------

SIX_SEVEN = f"{Q}\n(A) 6\n(B) 7"


@pytest.mark.parametrize(
    ("row", "question", "gold"),
    [
        ({"question": Q, "options": ["6", "7"], "answer": "B"}, SIX_SEVEN, "B"),
        ({"question": Q, "options": ["6", "7"], "answer": "(b)"}, SIX_SEVEN, "B"),
        ({"question": Q, "options": ["6", "7"], "answer": 1}, SIX_SEVEN, "B"),
        ({"question": Q, "options": ["6", "7"], "answer": 1.0}, SIX_SEVEN, "B"),
        ({"question": Q, "options": ["6", "7"], "answer": "1"}, SIX_SEVEN, "B"),
        ({"question": Q, "options": ["6", "7"], "answer": "7"}, SIX_SEVEN, "B"),
        ({"question": Q, "options": ["6", "7"], "answer": 7}, SIX_SEVEN, "B"),
        ({"question": Q, "options": ["A)6", "B)7"], "rationale": "w", "correct": "B"}, SIX_SEVEN, "B"),
        ({"question": Q, "options": ["(A)6", "(B)7"], "label": "B", "answer": None}, SIX_SEVEN, "B"),
        ({"question": Q, "options": {"A": "6", "B": "7"}, "answer": "B"}, SIX_SEVEN, "B"),
        ({"question": Q, "choices": {"text": ["6", "7"], "label": ["A", "B"]}, "answerKey": "B"}, SIX_SEVEN, "B"),
        ({"question": Q, "options": "A) 6 B) 7", "Answer": "B"}, f"{Q}\nA) 6 B) 7", "B"),
        ({"question": Q, "A": "6", "B": "7", "answer": "B"}, SIX_SEVEN, "B"),
        ({"question": f"{Q}\nA. 6\nB. 7", "choices": {"A": "6", "B": "7"}, "answer": "B"}, f"{Q}\nA. 6\nB. 7", "B"),
        ({"question": Q, "options": None, "answer": "7"}, Q, "7"),
        ({"question": Q, "choices": {"text": []}, "answer": "7"}, Q, "7"),
        ({"question": Q, "options": [], "answer": "7"}, Q, "7"),
    ],
)
def test_options_stand_in_the_question_and_the_reference_is_a_letter(tmp_path, row, question, gold) -> None:
    (problem,) = load(tmp_path, row).problems
    assert (problem.question, problem.gold) == (question, gold)


def test_own_options_and_gpqa(tmp_path) -> None:
    fields = {"question": "q", "gold": "a", "options": "o"}
    assert load(tmp_path, {"q": Q, "o": ["6", "7"], "a": "B"}, fields=fields).problems[0].question == SIX_SEVEN
    gpqa = {"Question": Q, "Correct Answer": "7", "Incorrect Answer 1": "5", "Incorrect Answer 2": "6"}
    (problem,) = load(tmp_path, gpqa).problems
    assert f"({problem.gold}) 7" in problem.question
    assert sorted(line[4:] for line in problem.question.split("\n")[1:]) == ["5", "6", "7"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": Q, "options": ["6", "7"], "answer": "C"}, "reference answer names none of the options"),
        ({"question": Q, "options": ["6", "7"], "answer": 5}, "reference answer names none of the options"),
        ({"question": Q, "options": ["1", "2", "3"], "answer": "1"}, "reference answer names several options"),
        ({"question": Q, "options": ["7", "7"], "answer": "7"}, "reference answer names several options"),
        ({"question": Q, "options": ["6", "7"], "answer": None}, "no reference answer"),
    ],
)
def test_a_reference_that_names_no_option_or_two_is_dropped(tmp_path, row, reason) -> None:
    assert load(tmp_path, *GOOD, row).dropped == {reason: 1}


# --- references that nothing can match ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gold",
    ["None", "none", "N/A", "n/a", "NaN", "null", "proof", "Proof.", "notfound", "?", "-", "[]", "unknown", "$$"],
)
def test_placeholders_are_no_references(tmp_path, gold) -> None:
    assert is_placeholder(gold)
    found = load(tmp_path, *GOOD, {"question": Q, "answer": gold})
    assert found.dropped == {"reference answer is a placeholder": 1}
    assert found.examples["reference answer is a placeholder"] == (f"x.jsonl:4 ({gold!r})",)


@pytest.mark.parametrize(
    "gold",
    ["\\text{None}", "no solution", "undefined", "no", "0", "e", "-1", "\\emptyset", "C", "none of these", "\\{\\}"],
)
def test_answers_in_words_and_signs_are_references(gold) -> None:
    assert not is_placeholder(gold)


def test_no_reference_of_a_published_test_set_is_a_placeholder(shared) -> None:
    for path in sorted((shared / "data").glob("*.jsonl")):
        found = load_problems(ProblemsRecipe(source=str(path)))
        assert "reference answer is a placeholder" not in found.dropped, path.name


@pytest.mark.parametrize(
    ("gold", "kind"),
    [
        ("7", "numbers"),
        ("-\\frac{3}{4}", "numbers"),
        ("12\\%", "numbers"),
        ("\\sqrt{2}", "expressions"),
        ("x^2+1", "expressions"),
        ("x = 3", "equations and inequalities"),
        ("(1, 2)", "sets, lists and tuples"),
        ("1, 2", "sets, lists and tuples"),
        ("\\{1\\}", "sets, lists and tuples"),
        ("B", "choices"),
        ("(C)", "choices"),
        ("\\text{ellipse}", "words"),
    ],
)
def test_references_are_told_apart_as_the_grader_reads_them(gold, kind) -> None:
    assert kind_of(gold) == kind


def test_the_record_says_what_was_read_kept_and_dropped(tmp_path) -> None:
    found = load(tmp_path, *GOOD, {"problem": Q, "solution": "\\boxed{x}"}, {"question": "n", "answer": "N/A"})
    assert found.record() == {
        "usable": 4,
        "fingerprint": found.fingerprint,
        "read from": {"question and answer": 3, "problem and solution": 1},
        "references": {"numbers": 3, "expressions": 1},
        "dropped": {"reference answer is a placeholder": 1},
        "dropped, for example": {"reference answer is a placeholder": ["x.jsonl:5 ('N/A')"]},
    }
    assert "3 references are numbers: 1; 2; 3" in found.report()


def test_the_error_that_olympiadbench_allows_goes_with_the_problem(tmp_path) -> None:
    row = {"question": "q", "context": None, "final_answer": ["4.2"], "unit": "%", "error": "1e-1"}
    assert load(tmp_path, row).problems[0].meta["tolerance"] == "1e-1"
    for none in (None, "", "null", "0"):
        assert "tolerance" not in load(tmp_path, row | {"error": none}).problems[0].meta


def test_where_reads_nested_keys(tmp_path) -> None:
    rows = [verl(user(f"What is {n}?"), str(n), extra_info={"level": n}) for n in range(5)]
    found = load(tmp_path, *rows, where={"extra_info.level": {"min": 3}})
    assert [problem.gold for problem in found.problems] == ["3", "4"]
    assert found.dropped == {"outside problems.where": 3}


def test_where_leaves_out_rows_without_the_key_that_others_have(tmp_path) -> None:
    rows = [{"question": f"q{n}", "answer": "1", "level": n} for n in range(3)]
    del rows[1]["level"]
    assert [problem.id for problem in load(tmp_path, *rows, where={"level": {"min": 0}}).problems] == ["x-0", "x-2"]


# --- the inputs that failed -------------------------------------------------------------------------------------------


def test_the_rows_that_failed_are_read_or_dropped_or_named(tmp_path, shared) -> None:
    """Every row of ../shared/cases: no traceback, and what is lost is counted or named by file:line."""
    cases = [json.loads(line) for line in (shared / "cases" / "faults.jsonl").read_text().splitlines()]
    tried = 0
    for case in cases:
        given = case["input"]
        rows = [json.loads(row) for row in given.get("jsonl", [])] or ([given["row"]] if "row" in given else [])
        if case["area"] != "data" or not rows:
            continue
        tried += 1
        try:
            found = load(tmp_path, *rows, fields=given.get("fields", {}))
        except DataError as error:
            unnamed = "x.jsonl:" not in str(error)
            assert not unnamed, case["id"]
        else:
            assert len(found.problems) + sum(found.dropped.values()) == len(rows), case["id"]
            assert all(problem.question.encode() and problem.gold for problem in found.problems), case["id"]
    assert tried >= 15


KEYS = st.sampled_from(
    ["problem", "question", "prompt", "messages", "input", "answer", "gold", "label", "correct", "solution", "response"]
    + ["options", "choices", "context", "error", "reward_model", "ground_truth", "question_type", "role", "content"]
    + ["from", "value", "text", "type", "Numbers", "level", "source", "A", "B", "0", "1"]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["\ud83d", "[{", '["1"]']),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.dictionaries(KEYS, JSON, max_size=6), JSON), min_size=1, max_size=4))
def test_no_row_of_json_ends_in_a_traceback(tmp_path, rows) -> None:
    try:
        found = load(tmp_path, *rows)
    except DataError:
        return
    json.dumps(found.record(), allow_nan=False)
    for problem in found.problems:
        json.dumps(problem.meta, allow_nan=False)
        assert problem.question.encode()
        assert problem.gold.encode()
    assert found.report()
