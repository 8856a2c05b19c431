"""The guards fire on each collapse, by name and with the paths that show it, and stay silent on a healthy run."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from benchmarks.guard import SETTINGS, Setting, stopped
from selfcorrect.train.rl.guards import GuardRecipe, findings, healthy_steps, log_capital, offenders
from selfcorrect.types import Attempt, Grade, Outcome, Problem, SelfEvaluation, Trajectory, Verdict

HEALTHY = {
    "problems": 16,
    "turn1_change": 0.0,
    "turn1_change_se": 3.0,
    "turn1_changes": [0.1, -0.1] * 8,
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


def fallen(change: float, count: int, seed: int = 3) -> list[dict[str, Any]]:
    """Rollouts whose 16 problems change by ``change`` points on average, each by up to 40 points more or less."""
    around = 40 * np.linspace(-1, 1, 16)
    error = float((change + around).std(ddof=1) / 4)
    measured = {"turn1_change": change, "turn1_change_se": error, "turn1_changes": list((change + around) / 100)}
    return [row | measured for row in rows([70.0] * count)]


def test_a_fall_is_one_where_chance_does_not_explain_it() -> None:
    """5 points are permitted."""
    assert not said(fallen(-15.0, 3))
    assert said(fallen(-15.0, 12)) == [
        "turn1-floor: turn-1 accuracy is 15.0% ± 3.7% below the start model's on the 192 problems of the last 12 "
        "rollouts (p = 0.0009)"
    ]
    assert not said(fallen(-4.0, 40))
    assert not said(fallen(-15.0, 12), GuardRecipe(max_turn1_drop=None))
    assert not said([row | {"turn1_change": None} for row in fallen(-15.0, 12)])


def test_rows_without_the_changes_of_problems_are_one_observation_each() -> None:
    """A run that an older version began is watched on: a fall of 45 points takes some 30 rollouts."""
    old = [{name: value for name, value in row.items() if name != "turn1_changes"} for row in fallen(-45.0, 30)]
    assert not said(old[:10])
    assert said(old)[0].startswith("turn1-floor: turn-1 accuracy is 45.0%")


def test_the_weights_from_before_a_fall_are_the_healthy_ones() -> None:
    history = fallen(0.0, 6) + fallen(-30.0, 4)
    history = [row | {"sampled_at": step} for step, row in enumerate(history)]
    assert said(history)[0].startswith("turn1-floor: turn-1 accuracy is 30.0%")
    assert healthy_steps(history, GuardRecipe(), 40) == [0, 1, 2, 3, 4, 5]
    assert healthy_steps(history[:6], GuardRecipe(), 40) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("chance", [0.5, 0.05, 0.99])
def test_a_wager_gains_nothing_on_average_where_the_fall_is_the_permitted_one(chance: float) -> None:
    """The exact expectation over all outcomes of 4 problems that fall by 1 or rise: what Ville's inequality needs."""
    rise = (chance - 0.05) / (1 - chance) if chance < 0.525 else (1 - 0.05 / chance) * chance / (1 - chance)
    rise = min(1.0, rise)
    fall = (rise * (1 - chance) + 0.05) / chance
    expected = 0.0
    for outcome in itertools.product((-fall, rise), repeat=4):
        probability = np.prod([chance if change < 0 else 1 - chance for change in outcome])
        expected += probability * np.exp(log_capital([outcome[:2], outcome[2:]], 0.05)[0])
    assert expected == pytest.approx(1.0)


@pytest.mark.parametrize("setting", SETTINGS[:-3], ids=str)
def test_false_alarms_are_rarer_than_stated(setting: Setting) -> None:
    """5% is stated where turn 1 lies 5 points low in every rollout; Student's t stopped up to 55% of these."""
    assert stopped(np.full(setting.rollouts, 0.05), setting, runs=200) <= 0.05


@pytest.mark.parametrize("setting", [SETTINGS[0], SETTINGS[4]], ids=str)
def test_a_drift_of_twenty_points_is_seen(setting: Setting) -> None:
    """Linear over the run: 20 points at its end, 10 on average."""
    assert stopped(np.linspace(0, 0.20, setting.rollouts), setting, runs=200) >= 0.95


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
