"""The guards fire on each collapse, by name and with the paths that show it, and stay silent on a healthy run."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from selfcorrect.train.rl.guards import GuardRecipe, findings, healthy_steps, offenders, turn1_fall
from selfcorrect.types import Attempt, Grade, Outcome, Problem, SelfEvaluation, Trajectory, Verdict

HEALTHY = {
    "problems": 16,
    "turn1_change": 0.0,
    "turn1_change_se": 3.0,
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
    "over_limits": 0.5,
    "kl": 0.01,
}


def rows(turn1: list[float], judged: list[float] | None = None) -> list[dict[str, float | None]]:
    rates = judged or [99.0] * len(turn1)
    return [
        HEALTHY | {"sampled_at": step, "turn1": first, "verdict_rate": rate}
        for step, (first, rate) in enumerate(zip(turn1, rates, strict=True))
    ]


def said(history: list[dict[str, float | None]], recipe: GuardRecipe | None = None) -> list[str]:
    return [str(finding) for finding in findings(history, recipe or GuardRecipe(), rollouts=40)]


def test_silent_on_a_healthy_run() -> None:
    history = rows([70, 72, 74, 73, 76], [99, 100, 96, 99, 98])
    assert all(not said(history[:n]) for n in range(6))


@pytest.mark.parametrize(
    ("turn1", "judged", "expected"),
    [
        ([70, 70, 70, 70], [99, 96, 94, 90], "unjudged: only 93.3% of first attempts are judged"),
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
        ("over-limits", "over_limits", 2.6, "max_over_limits_rise"),
        ("kl", "kl", 1.5, "max_kl"),
    ],
)
def test_each_guard_fires_alone_and_can_be_switched_off(guard: str, figure: str, value: float, limit: str) -> None:
    history = rows([70] * 6)
    history[3:] = [row | {figure: value} for row in history[3:]]
    assert [finding.guard for finding in findings(history, GuardRecipe(), 40)] == [guard]
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
    assert healthy_steps(history, GuardRecipe(), 40) == [0, 1, 2, 4]


def test_rollouts_that_could_not_be_graded_are_left_out() -> None:
    history = [*rows([70, 70, 70]), {"turn1": None}]
    assert not said(history)
    assert healthy_steps(history, GuardRecipe(), 40) == [0, 1, 2]


def fallen(change: float, count: int, error: float = 6.0) -> list[dict[str, float | None]]:
    return [row | {"turn1_change": change, "turn1_change_se": error} for row in rows([70.0] * count)]


def test_a_fall_is_one_where_chance_does_not_explain_it() -> None:
    """5 points are permitted. Ten more in three rollouts are 2.9 standard errors, in twelve rollouts 5.8."""
    assert not said(fallen(-15.0, 3))
    assert said(fallen(-15.0, 12)) == [
        "turn1-floor: turn-1 accuracy is 15.0% ± 3.5% below the start model's on the 192 problems of the last 12 "
        "rollouts (p = 2e-08)"
    ]
    assert not said(fallen(-4.0, 40, error=0.1))
    assert not said(fallen(-15.0, 12), GuardRecipe(max_turn1_drop=None))
    assert not said([row | {"turn1_change": None} for row in fallen(-15.0, 12)])


def test_the_weights_from_before_a_fall_are_the_healthy_ones() -> None:
    history = fallen(0.0, 6) + fallen(-25.0, 3)
    history = [row | {"sampled_at": step} for step, row in enumerate(history)]
    assert said(history)[0].startswith("turn1-floor: turn-1 accuracy is 25.0%")
    assert healthy_steps(history, GuardRecipe(), 40) == [0, 1, 2, 3, 4, 5]
    assert healthy_steps(history[:6], GuardRecipe(), 40) == [0, 1, 2, 3, 4, 5]


def simulated(drops: np.ndarray, problems: int, start_paths: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return a run's rows: problems as different as the embedded model's (mean 0.52, deviation 0.36), 8 paths each.

    ``drops`` are how far the model's turn 1 lies below the start model's in each rollout, as shares of 1.
    """
    mean, deviation, paths = 0.52, 0.36, 8
    spread = mean * (1 - mean) / deviation**2 - 1
    right_at_start = rng.beta(mean * spread, (1 - mean) * spread, (len(drops), problems))
    now = rng.binomial(paths, right_at_start * (1 - drops[:, None] / mean)) / paths
    changes = 100 * (now - rng.binomial(start_paths, right_at_start) / start_paths)
    errors = changes.std(1, ddof=1) / problems**0.5
    return [
        HEALTHY | {"sampled_at": t, "turn1": 50.0, "problems": problems, "turn1_change": c, "turn1_change_se": e}
        for t, (c, e) in enumerate(zip(changes.mean(1).tolist(), errors.tolist(), strict=True))
    ]


def stopped(drops: np.ndarray, runs: int, problems: int, start_paths: int) -> int:
    """Return how many of so many simulated runs are stopped."""
    rng, recipe = np.random.default_rng(7), GuardRecipe(action="stop", start_paths=start_paths)
    count = 0
    for _ in range(runs):
        history = simulated(drops, problems, start_paths, rng)
        count += any(turn1_fall(history[: t + 1], recipe, len(drops)) for t in range(len(drops)))
    return count


@pytest.mark.parametrize(("problems", "start_paths"), [(16, 2), (24, 1)])
def test_false_alarms_are_rarer_than_stated(problems: int, start_paths: int) -> None:
    """At the worst of what is permitted, 5 points low in every rollout, 5% is stated; less at 2 points."""
    assert stopped(np.full(40, 0.05), 100, problems, start_paths) <= 5
    assert stopped(np.full(40, 0.02), 100, problems, start_paths) <= 1


@pytest.mark.parametrize(("problems", "start_paths"), [(16, 2), (24, 1)])
def test_a_drift_of_twenty_points_is_seen(problems: int, start_paths: int) -> None:
    """Linear over 40 rollouts: 20 points at their end, 10 on average."""
    assert stopped(np.linspace(0, 0.20, 40), 100, problems, start_paths) >= 95


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
