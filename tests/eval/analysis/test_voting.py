"""Voting: hand-counted ballots, known probabilities, equal budgets."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
import pytest

from selfcorrect.errors import InputError
from selfcorrect.eval.analysis.voting import Curve, Point, at_equal_budget, ballots, cost, curves, outcome, vote
from selfcorrect.types import Trajectory

Paths = Callable[..., Trajectory]


@pytest.mark.parametrize(
    ("votes", "right"),
    [
        ([("4", 1.0, True), ("4", 1.0, True), ("5", 1.0, False)], 1.0),
        ([("4", 1.0, True), ("5", 1.0, False), ("5", 1.0, False)], 0.0),
        ([("4", 1.0, True), ("5", 1.0, False)], 0.5),  # tied answers share the credit
        ([("4", 0.9, True), ("5", 0.4, False), ("5", 0.4, False)], 1.0),
        ([(None, 1.0, False), (None, 1.0, False), ("4", 1.0, True)], 1.0),  # nothing to read, no vote
        ([(None, 1.0, False)], 0.0),
        ([], 0.0),
    ],
)
def test_a_vote(votes: list[tuple[str | None, float, bool]], right: float) -> None:
    assert vote(votes) == pytest.approx(right)


def test_the_four_ways_to_use_the_same_paths(path: Paths) -> None:
    paths = [
        path(0, False, True, p=0.2, answer="5"),
        path(0, False, True, p=0.3, answer="5", seed=1),
        path(0, True, p=0.9, seed=2),
        path(0, False, seed=3, answer="6"),  # no verdict
    ]
    chosen = ballots(paths)["p0"]
    right = {
        method: outcome(method, chosen) for method in ("maj@n", "best-of-n", "verdict-weighted", "correction + vote")
    }
    assert right == {"maj@n": 0.0, "best-of-n": 1.0, "verdict-weighted": 1.0, "correction + vote": 1.0}
    assert [cost("maj@n", b) for b in chosen] == [(1, 5)] * 4
    assert [cost("best-of-n", b) for b in chosen] == [(1, 12), (1, 12), (1, 12), (1, 5)]
    assert [cost("correction + vote", b) for b in chosen] == [(2, 17), (2, 17), (1, 12), (1, 5)]
    silent = ballots([path(0, True), path(0, True, seed=1), path(0, False, seed=2)])["p0"]
    assert outcome("verdict-weighted", silent) == outcome("best-of-n", silent) == 1.0  # none judged: a plain vote


def test_majority_follows_the_binomial(path: Paths) -> None:
    # 3 of 5 paths of each problem are right and the wrong ones agree: P(majority of 4 right), ties halved, is known.
    paths = [path(i, s < 3, seed=s) for i in range(20) for s in range(5)]
    (curve,) = curves(paths)
    at = {point.n: point for point in curve.points}
    assert at[1].accuracy == pytest.approx(60)
    expected = sum(comb(3, k) * comb(2, 4 - k) * (1.0 if k > 2 else 0.5) for k in (2, 3)) / comb(5, 4)
    assert at[4].accuracy == pytest.approx(100 * expected, abs=8)  # 64 random subsets
    assert (at[4].responses, at[4].tokens) == (4, 20)
    assert at[1].interval == (60, 60)  # every problem alike: resampling them changes nothing


def test_bands_resample_problems_and_correction_costs_more(path: Paths) -> None:
    paths = [path(i, i % 2 == 0, True, p=0.1, seed=s) for i in range(40) for s in range(4)]
    by_method = {curve.method: curve for curve in curves(paths)}
    assert list(by_method) == ["maj@n", "best-of-n", "verdict-weighted", "correction + vote"]
    plain, corrected = by_method["maj@n"].points[0], by_method["correction + vote"].points[0]
    assert plain.accuracy == 50
    assert 25 < plain.interval[1] - plain.interval[0] < 37  # 40 problems, however many seeds
    assert (corrected.accuracy, corrected.responses, corrected.tokens) == (100, 2, 17)


def test_the_order_of_the_paths_changes_no_curve(path: Paths) -> None:
    paths = [path(i, (i + s) % 3 > 0, seed=s) for i in range(12) for s in range(5)]
    for one, other in zip(curves(paths), curves(paths[31:] + paths[:31]), strict=True):
        assert one.problems == other.problems
        assert [(p.accuracy, p.interval) for p in one.points] == [(p.accuracy, p.interval) for p in other.points]


def test_one_path_a_problem_cannot_vote(path: Paths) -> None:
    with pytest.raises(InputError, match=r"seeds=\[0,1,2"):
        curves([path(i, True) for i in range(5)])


def curve(method: str, *points: tuple[int, float, float, list[float]]) -> Curve:
    made = [
        Point(n, responses, tokens, float(np.mean(acc)), (0, 100), np.array(acc))
        for n, responses, tokens, acc in points
    ]
    return Curve(method, tuple(made), ("a", "b"))


def test_at_equal_budget_interpolates_in_the_logarithm() -> None:
    theirs = curve("maj@n", (1, 1, 10, [0, 20]), (2, 2, 20, [20, 40]), (4, 4, 40, [40, 60]))
    ours = curve("correction + vote", (1, 2**0.5, 15, [30, 30]), (2, 2 * 2**0.5, 200, [50, 70]), (8, 12, 900, [90, 90]))
    by_responses = at_equal_budget(ours, theirs, "responses")
    assert [(point.n, round(point.theirs, 6), round(point.gain, 6)) for point in by_responses] == [
        (1, 20, 10),
        (2, 40, 20),
    ]
    by_tokens = at_equal_budget(ours, theirs, "tokens")
    assert [point.n for point in by_tokens] == [1]  # 200 tokens lie beyond what the baseline has spent
    assert by_tokens[0].theirs == pytest.approx(10 + 20 * np.log2(1.5))
    with pytest.raises(InputError, match="no problem in common"):
        at_equal_budget(ours, Curve("maj@n", theirs.points, ("x", "y")), "tokens")
