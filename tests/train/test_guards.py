"""The guards fire on the two collapses and stay silent on a healthy run."""

from __future__ import annotations

import pytest

from train.guards import GuardRecipe, finding, healthy_steps


def rows(turn1: list[float], judged: list[float]) -> list[dict[str, float]]:
    return [
        {"sampled_at": step, "turn1": first, "turn1_se": 3.0, "verdict_rate": rate}
        for step, (first, rate) in enumerate(zip(turn1, judged, strict=True))
    ]


def test_silent_on_a_healthy_run() -> None:
    history = rows([70, 72, 74, 73, 76], [99, 100, 96, 99, 98])
    assert all(finding(history[:n], GuardRecipe()) is None for n in range(6))


@pytest.mark.parametrize(
    ("turn1", "judged", "said"),
    [
        ([70, 70, 70, 70], [99, 96, 94, 90], "only 93.3% of first attempts are judged"),
        ([70, 70, 70, 54, 54, 54], [99] * 6, "turn-1 accuracy is 16.0% below its start"),
    ],
)
def test_fires_on_each_collapse(turn1: list[float], judged: list[float], said: str) -> None:
    history = rows(turn1, judged)
    assert said in str(finding(history, GuardRecipe()))
    assert finding(history, GuardRecipe(action="ignore")) is None


def test_one_bad_rollout_is_noise_but_no_result() -> None:
    history = rows([70, 70, 70, 40, 70], [99, 99, 99, 80, 99])
    assert finding(history[:3], GuardRecipe()) is None
    assert healthy_steps(history, GuardRecipe()) == [0, 1, 2, 4]


def test_rollouts_that_could_not_be_graded_are_left_out() -> None:
    history = [*rows([70, 70, 70], [99, 99, 99]), {"turn1": None}]
    assert finding(history, GuardRecipe()) is None
    assert healthy_steps(history, GuardRecipe()) == [0, 1, 2]


def test_a_fall_within_chance_is_no_finding() -> None:
    history = rows([70, 70, 70, 57, 57, 57], [99] * 6)  # 13 points; 10 are permitted, 4.9 are chance
    assert finding(history, GuardRecipe()) is None
    assert finding([row | {"turn1_se": 1.0} for row in history], GuardRecipe()) is not None
