"""The error budget: parts that add up, ceilings, and the paper's own budget from its tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcorrect.errors import InputError
from selfcorrect.eval.analysis.error_budget import PARTS, budgets_by, error_budget, published
from selfcorrect.types import Attempt, Grade, Outcome, Problem, SelfEvaluation, Trajectory, Verdict

TABLES = json.loads((Path(__file__).parents[3] / "eval" / "tables" / "published_tables.json").read_text())
SELECTED = {  # rows of table 3 whose reward-model accuracy table 4 gives
    "Self-rewarding IFT": "Self-rewarding IFT",
    "Self-rewarding IFT + DPO w correctness": "DPO iteration 5 (selected)",
    "Self-rewarding IFT + PPO w correctness": "PPO step 220 (selected)",
}


def path(i: int, *rights: bool, verdict: Verdict | None = None, **meta: str) -> Trajectory:
    grades = [Grade(Outcome.CORRECT if right else Outcome.WRONG) for right in rights]
    evaluations = (SelfEvaluation("e", verdict),) if verdict else ()
    return Trajectory(
        Problem(f"p{i}", "q", "1", "math", meta), tuple(Attempt("a", "1", g) for g in grades), evaluations
    )


def test_the_papers_budget_on_math500() -> None:
    budget = published(turn1=72.6, i2c=5.0, c2i=0.4, rm_C=93.0, rm_W=47.7)
    parts = [round(value, 1) for value in (budget.wrong, budget.never_flagged, budget.not_fixed, budget.fixed)]
    assert parts == [27.4, 14.3, 8.1, 5.0]
    assert budget.bottleneck == "detection"
    assert budget.final == pytest.approx(77.2)
    assert budget.perfect_judge == pytest.approx(72.6 + 27.4 * 5.0 / 13.07, abs=0.01)
    assert budget.perfect_fixer == pytest.approx(72.6 + 27.4 * 0.477, abs=0.01)


@pytest.mark.parametrize("benchmark", ["MATH500", "OlympiadBench", "Minerva Math"])
@pytest.mark.parametrize("method", SELECTED)
def test_tables_3_and_4_agree_with_one_another(benchmark: str, method: str) -> None:
    row = next(row for row in TABLES["table3"]["benchmarks"][benchmark] if row["method"] == method)
    judge = next(row for row in TABLES["table4"]["rows"] if row["method"] == SELECTED[method])
    key = benchmark.replace(" ", "")
    budget = published(row["turn1"], row["i2c"], row["c2i"], judge[f"{key}_C"], judge[f"{key}_W"])
    assert budget.final == pytest.approx(row["final"], abs=0.15)
    assert budget.bottleneck == "detection"


def test_figures_that_contradict_one_another_are_refused() -> None:
    with pytest.raises(InputError, match="add up"):
        published(turn1=50, i2c=30, c2i=0, rm_C=90, rm_W=50)  # more mended than were flagged


def test_every_path_has_one_part() -> None:
    yes, no = Verdict.CORRECT, Verdict.WRONG
    budget = error_budget(
        [
            path(0, False, verdict=yes),  # never flagged
            path(1, False),  # never flagged: no verdict
            path(2, False, verdict=no),  # flagged, but no revision followed
            path(3, False, False, verdict=no),
            path(4, False, True, verdict=no),
            path(5, True, False, verdict=no),
            path(6, True, True, verdict=no),
            path(7, True, verdict=yes),
            path(8, True, False),  # a method that revises without judging flags everything
            path(9, True),
        ]
    )
    assert {part: getattr(budget, part) for part in PARTS} == {
        "never_flagged": 20,
        "not_fixed": 20,
        "fixed": 10,
        "broken": 20,
        "kept": 10,
        "left_alone": 20,
    }
    assert (budget.without_verdict, budget.final) == (10, 40)
    assert budget.perfect_judge == pytest.approx(50 + 50 / 3)
    assert budget.perfect_fixer == 80
    assert budget.bottleneck == "both alike"


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from([None, *Verdict])), min_size=1, max_size=40))
def test_identities(drawn: list[tuple[bool, bool, Verdict | None]]) -> None:
    paths = [
        path(i, first, last, verdict=v) if v is Verdict.WRONG else path(i, first, verdict=v)
        for i, (first, last, v) in enumerate(drawn)
    ]
    budget = error_budget(paths)
    final = 100 * sum(bool(t.final.grade and t.final.grade.correct) for t in paths) / len(paths)
    assert budget.final == pytest.approx(final)
    assert budget.perfect_fixer >= budget.final - 1e-9
    assert budget.perfect_judge is None or budget.perfect_judge >= budget.final - 1e-9


def test_by_subject_and_level() -> None:
    paths = [path(i, i % 2 == 0, type="Algebra" if i < 4 else "Geometry", level=str(i % 3)) for i in range(8)]
    assert list(budgets_by(paths, "level")) == ["0", "1", "2"]
    assert {name: budget.n for name, budget in budgets_by(paths, "subject").items()} == {"Algebra": 4, "Geometry": 4}
    assert budgets_by(paths, "colour") == {}


def test_the_shipped_tables_are_those_that_were_given(shared: Path) -> None:
    assert json.loads((shared / "paper" / "published_tables.json").read_text()) == TABLES
