"""Rewards: a right answer 1, a wrong or absent one 0, a grader's failure None."""

from __future__ import annotations

import pytest

from selfcorrect.grading import grade
from selfcorrect.rewards import (
    PLAIN,
    RewardRecipe,
    final_correctness,
    reward_parts,
    total,
    turn_rewards,
    well_formed,
)
from selfcorrect.types import Attempt, Grade, Outcome, Problem, Role, SelfEvaluation, Span, Trajectory, Verdict


def reward_of(graded: Grade) -> float | None:
    return final_correctness(Trajectory(Problem("p", "q", "4", "math"), (Attempt("a", grade=graded),)))


@pytest.mark.parametrize(
    ("response", "gold", "reward"),
    [
        ("so \\boxed{4}", "4", 1.0),
        ("so \\boxed{5}", "4", 0.0),
        ("so \\boxed{}", "4", 0.0),
        ("I do not\nknow, sorry, not at all", "4", 0.0),
        ("so \\boxed{4}", "\\frac{", None),
    ],
)
def test_the_grader_speaks(response: str, gold: str, reward: float | None) -> None:
    assert reward_of(grade(response, gold)) == reward


def test_an_answer_beyond_the_limits_earns_nothing_and_a_failure_of_the_grader_is_nobodys_zero() -> None:
    assert reward_of(Grade(Outcome.UNGRADABLE, method="limit")) == 0.0
    for method in ("gold-unreadable", "undecided", "grader-error"):
        assert reward_of(Grade(Outcome.UNGRADABLE, method=method)) is None


def test_final_correctness_wants_a_grade() -> None:
    with pytest.raises(ValueError, match="not graded"):
        final_correctness(Trajectory(Problem("p", "q", "1", "math"), (Attempt("a"),)))


GRADES = {"r": Grade(Outcome.CORRECT), "w": Grade(Outcome.WRONG), "?": Grade(Outcome.UNGRADABLE, method="undecided")}
VERDICTS = {"C": Verdict.CORRECT, "W": Verdict.WRONG, "-": None}


def path_of(signs: str, stop: str = "verdict", tokens: int = 10) -> Trajectory:
    """``"wWrC"``: wrong, judged wrong, right, judged correct."""
    attempts = tuple(Attempt(sign, "1", GRADES[sign]) for sign in signs[::2])
    evaluations = tuple(SelfEvaluation(sign, VERDICTS[sign]) for sign in signs[1::2])
    spans = (Span(Role.ATTEMPT, 0, tokens),)
    return Trajectory(Problem("p", "q", "1", "math"), attempts, evaluations, stop, tuple(range(tokens)), spans=spans)


ALL = RewardRecipe(*[1.0] * 9, overlong_from=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("signs", "expected"),
    [
        ("rC", {"correctness": 1, "verdict": 1, "revision": 0, "progress": 1, "mended": 0, "flipped": 0}),
        ("rWwC", {"correctness": 0, "verdict": 0, "revision": -1, "progress": 0, "mended": 0, "flipped": 1}),
        ("wWrW", {"correctness": 1, "verdict": 0.5, "revision": 1, "progress": 1, "mended": 1, "flipped": 0}),
        ("w-", {"correctness": 0, "verdict": 0, "revision": 0, "mended": 0, "format": 0}),
        ("?C", {"correctness": None, "verdict": None, "revision": None, "mended": None, "flipped": None, "format": 1}),
    ],
)
def test_each_part(signs: str, expected: dict[str, float | None]) -> None:
    parts = reward_parts(path_of(signs), ALL, max_tokens=100)
    assert {name: parts[name] for name in expected} == expected


def test_the_sum_is_weighted_and_none_where_a_part_is_unknown() -> None:
    hacked = RewardRecipe(correctness=1.0, mended=0.5)
    assert hacked.weights == {"correctness": 1.0, "mended": 0.5}
    sums = {signs: total(reward_parts(path_of(signs), hacked, 100), hacked) for signs in ("rC", "wWrC", "wC", "w")}
    assert sums == {"rC": 1.0, "wWrC": 1.5, "wC": 0.0, "w": 0.0}
    assert total(reward_parts(path_of("?C"), hacked, 100), hacked) is None
    assert PLAIN.weights == {"correctness": 1.0}


def test_a_wanted_verdict_that_is_missing_is_a_miss_but_an_unasked_one_is_not() -> None:
    verdict = RewardRecipe(correctness=0.0, verdict=1.0)
    assert total(reward_parts(path_of("wWr", stop="horizon"), verdict, 100), verdict) == 1.0
    assert total(reward_parts(path_of("wWr", stop="no-verdict"), verdict, 100), verdict) == 0.5


def test_overlong_rises_linearly_from_its_start_to_the_budget() -> None:
    values = [reward_parts(path_of("rC", tokens=n), ALL, 100)["overlong"] for n in (50, 75, 100, 120)]
    assert values == [0.0, -0.5, -1.0, -1.0]


def test_the_controls_do_not_look_at_the_grade() -> None:
    coins = [
        [reward_parts(path_of(signs, tokens=n), ALL, 100)["random"] for n in range(1, 400)] for signs in ("rC", "wC")
    ]
    assert coins[0] == coins[1]
    assert sum(coins[0]) / 399 == pytest.approx(0.5, abs=0.08)  # type: ignore[arg-type]
    assert reward_parts(path_of("wC"), ALL, 100)["format"] == reward_parts(path_of("rC"), ALL, 100)["format"] == 1.0


def test_turn_rewards_pay_each_part_its_own() -> None:
    recipe = RewardRecipe(correctness=1.0, verdict=0.5, revision=0.25)
    assert turn_rewards(path_of("wWrC"), recipe, 100) == [
        (Role.ATTEMPT, 0.0),
        (Role.EVALUATION, 0.5),
        (Role.REVISION, 1.25),
        (Role.EVALUATION, 0.5),
    ]
    assert turn_rewards(path_of("rWw", stop="horizon"), recipe, 100)[2] == (Role.REVISION, -0.25)
    assert turn_rewards(path_of("?C"), recipe, 100) == [(Role.ATTEMPT, None), (Role.EVALUATION, None)]
    with_format = turn_rewards(path_of("rC"), RewardRecipe(correctness=0.0, format=1.0), 100)
    assert [reward for _, reward in with_format] == [0.0, 1.0]


def test_a_part_without_a_grade_takes_nothing_from_the_others() -> None:
    """(ungradable, judged wrong, right): the revision has its own grade."""
    plain, judged = RewardRecipe(), RewardRecipe(correctness=1.0, verdict=0.5)

    def values(signs: str, recipe: RewardRecipe) -> list[float | None]:
        return [value for _, value in turn_rewards(path_of(signs), recipe, 100)]

    assert values("?WrC", plain) == [None, 0.0, 1.0, 0.0]
    assert values("?WrC", judged) == [None, None, 1.0, 0.5]
    assert values("wW?C", judged) == [0.0, 0.5, None, None]
    for part in ("progress", "revision", "mended"):  # what compares a revision with what it revises
        recipe = RewardRecipe(**{"correctness": 1.0, part: 1.0})
        assert values("?WrC", recipe)[2] is None
    assert values("?WrC", RewardRecipe(correctness=0.0, format=1.0)) == [0.0, 0.0, 0.0, 1.0]  # needs no grade


def test_a_path_is_well_formed_up_to_its_stop_decision() -> None:
    assert [well_formed(path_of(signs, stop)) for signs, stop in (("rC", "verdict"), ("wWr", "horizon"))] == [True] * 2
    cut, undecided = path_of("rC", "length"), path_of("w-", "no-verdict")
    assert not any(well_formed(path) for path in (cut, undecided, path_of("r", "verdict")))


def test_the_share_of_true_verdicts_needs_every_grade() -> None:
    verdict = RewardRecipe(correctness=0.0, verdict=1.0)
    assert reward_parts(path_of("rWwW"), verdict, 100) == {"verdict": 0.5}
    assert reward_parts(path_of("rC?C"), verdict, 100) == {"verdict": None}
    assert reward_parts(path_of("r", stop="horizon"), verdict, 100) == {"verdict": None}  # none was due


def test_turn_rewards_of_every_part() -> None:
    def values(signs: str, **weights: float) -> list[float | None]:
        recipe = RewardRecipe(**{"correctness": 0.0, **weights})
        return [value for role, value in turn_rewards(path_of(signs), recipe, 100) if role is not Role.EVALUATION]

    assert values("wWrC", flipped=1.0) == [1.0, 0.0]
    assert values("rWwC", flipped=2.0) == [0.0, 2.0]
    assert values("wWrC", mended=0.5) == [0.0, 0.5]
    assert values("rWrC", mended=0.5) == values("wWwC", mended=0.5) == values("rWwC", mended=0.5) == [0.0, 0.0]
    assert values("wWrC", revision=0.5) == [0.0, 0.5]
    assert values("rWwC", revision=0.5) == [0.0, -0.5]
    assert values("rWwWrC", progress=1.0) == [1.0, -1.0, 1.0]
    with pytest.raises(ValueError, match="'p' is not graded"):
        turn_rewards(Trajectory(Problem("p", "q", "1", "math"), (Attempt("a"),)), PLAIN, 100)


@pytest.mark.parametrize("signs", ["rC", "wC", "rWwC", "wWrC", "wWwW", "rWrC"])
def test_progress_is_a_potential(signs: str) -> None:
    """Its parts sum to the correctness of the last answer, so it moves credit and not the optimum."""
    potential = RewardRecipe(correctness=0.0, progress=1.0)
    path = path_of(signs)
    assert sum(reward or 0.0 for _, reward in turn_rewards(path, potential, 100)) == final_correctness(path)
