"""The guards fire on each collapse, by name and with the paths that show it, and stay silent on a healthy run."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from selfcorrect.types import Attempt, Grade, Outcome, Problem, SelfEvaluation, Trajectory, Verdict
from train.guards import GuardRecipe, findings, healthy_steps, offenders

HEALTHY = {
    "turn1_se": 3.0,
    "verdict_rate": 99.0,
    "rm_C": 90.0,
    "rm_W": 80.0,
    "revised": 30.0,
    "unchanged": 20.0,
    "right_judged": 70,
    "wrong_judged": 30,
    "revisions": 30,
    "mean_length": 100.0,
    "truncated": 1.0,
    "kl": 0.01,
}


def rows(turn1: list[float], judged: list[float] | None = None) -> list[dict[str, float | None]]:
    rates = judged or [99.0] * len(turn1)
    return [
        HEALTHY | {"sampled_at": step, "turn1": first, "verdict_rate": rate}
        for step, (first, rate) in enumerate(zip(turn1, rates, strict=True))
    ]


def said(history: list[dict[str, float | None]], recipe: GuardRecipe | None = None) -> list[str]:
    return [str(finding) for finding in findings(history, recipe or GuardRecipe())]


def test_silent_on_a_healthy_run() -> None:
    history = rows([70, 72, 74, 73, 76], [99, 100, 96, 99, 98])
    assert all(not said(history[:n]) for n in range(6))


@pytest.mark.parametrize(
    ("turn1", "judged", "expected"),
    [
        ([70, 70, 70, 70], [99, 96, 94, 90], "unjudged: only 93.3% of first attempts are judged"),
        ([70, 70, 70, 54, 54, 54], [99] * 6, "turn1-floor: turn-1 accuracy is 16.0% below its start"),
    ],
)
def test_fires_on_a_collapse_of_its_window(turn1: list[float], judged: list[float], expected: str) -> None:
    history = rows(turn1, judged)
    assert expected in said(history)[0]
    assert not said(history, GuardRecipe(action="ignore"))


@pytest.mark.parametrize(
    ("guard", "figure", "value", "limit"),
    [
        ("always-correct", "rm_W", 2.0, "min_wrong_caught"),
        ("always-wrong", "rm_C", 2.0, "min_right_passed"),
        ("revise-always", "revised", 99.0, "max_revised"),
        ("never-change", "unchanged", 100.0, "max_unchanged"),
        ("length", "mean_length", 301.0, "max_length_factor"),
        ("truncation", "truncated", 60.0, "max_truncated"),
        ("kl", "kl", 1.5, "max_kl"),
    ],
)
def test_each_guard_fires_alone_and_can_be_switched_off(guard: str, figure: str, value: float, limit: str) -> None:
    history = rows([70] * 6)
    history[3:] = [row | {figure: value} for row in history[3:]]
    assert [finding.guard for finding in findings(history, GuardRecipe())] == [guard]
    assert not said(history, replace(GuardRecipe(), **{limit: None}))
    assert not said([row | {figure: None} for row in history])
    assert limit in {field.name for field in fields(GuardRecipe)}


def test_a_share_of_few_is_no_finding() -> None:
    """A policy that is nearly always right has no verifier to speak of: three wrong attempts say nothing."""
    history = [row | {"rm_W": 0.0, "wrong_judged": 6} for row in rows([99] * 3)]
    assert not said(history)
    assert said([row | {"wrong_judged": 7} for row in history]) == [
        "always-correct: only 0.0% of wrong attempts are judged wrong"
    ]


def test_one_bad_rollout_is_noise_but_no_result() -> None:
    history = rows([70, 70, 70, 40, 70], [99, 99, 99, 80, 99])
    assert not said(history[:3])
    assert healthy_steps(history, GuardRecipe()) == [0, 1, 2, 4]


def test_rollouts_that_could_not_be_graded_are_left_out() -> None:
    history = [*rows([70, 70, 70]), {"turn1": None}]
    assert not said(history)
    assert healthy_steps(history, GuardRecipe()) == [0, 1, 2]


def test_a_fall_within_chance_is_no_finding() -> None:
    history = rows([70, 70, 70, 57, 57, 57])  # 13 points; 10 are permitted, 4.9 are chance
    assert not said(history)
    assert said([row | {"turn1_se": 1.0} for row in history])


def path(first: str, verdict: Verdict | None, second: str | None = None, stop: str = "verdict") -> Trajectory:
    """Answers are numbers, 1 is right."""
    attempts = tuple(
        Attempt(answer, answer, Grade(Outcome.CORRECT if answer == "1" else Outcome.WRONG))
        for answer in (first, second)
        if answer is not None
    )
    return Trajectory(Problem("p", "q", "1", "math"), attempts, (SelfEvaluation("", verdict),), stop)


def test_the_paths_that_are_saved_show_what_was_found() -> None:
    healthy, waved, condemned = path("1", Verdict.CORRECT), path("2", Verdict.CORRECT), path("1", Verdict.WRONG, "1")
    unjudged, cut = path("1", None), path("2", None, stop="length")
    paths = [healthy, waved, condemned, unjudged, cut]
    assert offenders(paths, "unjudged") == [unjudged, cut]
    assert offenders(paths, "turn1-floor") == [waved, cut]
    assert offenders(paths, "always-correct") == [waved]
    assert offenders(paths, "always-wrong") == offenders(paths, "revise-always") == [condemned]
    assert offenders(paths, "never-change") == [condemned]
    assert offenders(paths, "truncation") == [cut]
    assert offenders(paths, "kl") == paths
