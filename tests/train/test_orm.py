"""The outcome reward model learns attempts by their grade, and the library's judge reads what it writes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.chat import ChatCodec
from selfcorrect.correction.judges import JudgeRecipe, open_judge
from selfcorrect.engines import EngineRecipe
from selfcorrect.errors import DataError
from selfcorrect.prompts import solve_messages
from selfcorrect.runs.jsonl import read_jsonl
from selfcorrect.train import orm
from selfcorrect.train.orm import OrmRecipe, accuracy, load_attempts, split
from selfcorrect.types import Problem, Verdict


@pytest.fixture
def rows(codec: ChatCodec, tmp_path: Path) -> Path:
    """Attempts of 3 are right, of 4 wrong; behind them stands what the judge must not read."""
    path = tmp_path / "data/sft/self-rewarding.jsonl"
    path.parent.mkdir(parents=True)
    lines = []
    for n in range(40):
        opening, right = codec.opening(solve_messages(f"Guess {n}.")), n % 2 == 0
        attempt = codec.encode(f"\\boxed{{{3 if right else 4}}}")
        ids = (*opening, *attempt, *codec.encode("\n\n[VERIFY] correct."), codec.turn_end)
        ends = [len(opening), len(opening) + len(attempt), len(ids)]
        spans = [
            {"role": role, "start": start, "end": end, "sampled": True, "learn": False}
            for role, start, end in zip(("external", "attempt", "self-evaluation"), [0, *ends], ends, strict=False)
        ]
        first = "right" if right else "wrong"
        lines.append({"id": f"{n}", "problem_id": f"p{n}", "first": first, "token_ids": ids, "spans": spans})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_it_learns_and_the_judge_reads_it(rows: Path, tiny_model: Path, tmp_path: Path) -> None:
    recipe = OrmRecipe(
        model=str(tiny_model), epochs=12, batch_rows=8, learning_rate=1e-2, precision="fp32", validation=0.2
    )
    summary = orm.run(recipe, tmp_path)
    assert summary["validation"]["all"] | {"interval": None} == {"percent": 100.0, "n": 8, "interval": None}
    assert orm.run(recipe, tmp_path) == summary

    judge = open_judge(JudgeRecipe("orm", EngineRecipe(model=str(tmp_path / "checkpoints/orm"))))
    assert judge is not None

    async def verdicts() -> list[Any]:
        problem = Problem("new", "Guess 77.", "3", "math")
        return [(await judge.judge(problem, f"\\boxed{{{n}}}")).verdict for n in (3, 4)]

    assert asyncio.run(verdicts()) == [Verdict.CORRECT, Verdict.WRONG]


def test_it_reads_the_attempt_to_the_end_of_the_turn_and_nothing_behind(rows: Path, codec: ChatCodec) -> None:
    first = load_attempts(rows, codec)[0]
    assert first.ids == (*codec.opening(solve_messages("Guess 0.")), *codec.encode("\\boxed{3}"), codec.turn_end)
    assert first.right


def test_validation_shares_no_problem_with_training(rows: Path, codec: ChatCodec) -> None:
    training, validation = split(load_attempts(rows, codec), 0.25, seed=0)
    assert (len(training), len(validation)) == (30, 10)
    assert not {row.problem_id for row in training} & {row.problem_id for row in validation}


def test_accuracy_is_given_for_right_and_wrong_apart() -> None:
    found = accuracy([1, 1, 0, 1], [True, True, False, False])
    assert [(found[name]["percent"], found[name]["n"]) for name in ("all", "rm_C", "rm_W")] == [
        (75, 4),
        (100, 2),
        (50, 2),
    ]


def test_attempts_of_one_kind_teach_nothing(rows: Path, codec: ChatCodec) -> None:
    lines = rows.read_text(encoding="utf-8").splitlines()
    rows.write_text("\n".join(line for line in lines if '"right"' in line) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="all of one kind"):
        load_attempts(rows, codec)


def test_micro_batches_learn_what_the_whole_batch_does(rows: Path, tiny_model: Path, tmp_path: Path) -> None:
    recipe = OrmRecipe(
        model=str(tiny_model), epochs=1, batch_rows=8, learning_rate=1e-2, precision="fp32", validation=0.2, log_every=1
    )
    logged = []
    for name, micro in (("whole", None), ("parts", 2)):
        orm.run(replace(recipe, name=name, micro_rows=micro), tmp_path)
        logged.append(list(read_jsonl(tmp_path / "checkpoints" / name / "metrics.jsonl")))
    for figure in ("loss", "grad_norm"):
        assert [row[figure] for row in logged[0]] == pytest.approx([row[figure] for row in logged[1]], rel=1e-3)
