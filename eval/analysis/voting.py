"""Voting against correcting, at equal sampled responses and at equal tokens (figure 2).

Several trajectories of one problem (an evaluation with temperature > 0 and many seeds) can be used in four ways:

| method | votes | its cost a trajectory |
| --- | --- | --- |
| ``maj@n`` | first attempts, one vote each | the attempt |
| ``best-of-n`` | the first attempt of highest P(correct) | the attempt and its self-evaluation |
| ``verdict-weighted`` | first attempts, weighted by P(correct) | the attempt and its self-evaluation |
| ``correction + vote`` | final answers, one vote each | the whole trajectory; every attempt is a sampled response |

For each n the accuracy is a mean over random subsets of the trajectories, the same subsets for every method; bands
resample problems. Tied answers share the credit. A trajectory without a readable answer has no vote; under the
P(correct) methods one without a verdict has none either, unless all are without.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfcorrect.errors import InputError
from selfcorrect.metrics import RESAMPLES, first_p_correct, is_correct
from selfcorrect.types import Attempt, Role, Trajectory

METHODS = ("maj@n", "best-of-n", "verdict-weighted", "correction + vote")
UNITS = ("responses", "tokens")
"""What a budget is counted in. A log of another tool does not hold tokens: its curves have no budget in them."""
SUBSETS = 64  # random subsets of each size; the mean over them stands for all subsets
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ballot:
    """What one trajectory can vote with. Answers are normal forms, None where there is none to read."""

    first: str | None
    first_correct: bool
    p_correct: float
    final: str | None
    final_correct: bool
    attempt_tokens: int
    judged_tokens: int
    all_tokens: int
    responses: int


@dataclass(frozen=True, slots=True)
class Point:
    """A method with n trajectories a problem: accuracy in percent with its band, and what it cost a problem.

    ``tokens`` is 0 where they were not recorded.
    """

    n: int
    responses: float
    tokens: float
    accuracy: float
    interval: tuple[float, float]
    accuracy_K: Floats  # of each problem, in percent


@dataclass(frozen=True, slots=True)
class Curve:
    """One method's points, by n; ``problems`` are the ids behind ``Point.accuracy_K``."""

    method: str
    points: tuple[Point, ...]
    problems: tuple[str, ...]

    def has(self, unit: str) -> bool:
        """True where what it cost in a unit is known."""
        return all(getattr(point, unit) > 0 for point in self.points)


def ballots(trajectories: Sequence[Trajectory]) -> dict[str, list[Ballot]]:
    """Return each problem's ballots; trajectories on which the grader failed are left out."""
    out: dict[str, list[Ballot]] = {}
    for t in trajectories:
        first, final = is_correct(t.first), is_correct(t.final)
        if first is None or final is None:
            continue
        sizes = {role: sum(s.end - s.start for s in t.spans if s.sampled and s.role is role) for role in Role}
        firsts = [s.end - s.start for s in t.spans if s.sampled and s.role is Role.EVALUATION][:1]
        p = first_p_correct(t)
        out.setdefault(t.problem.id, []).append(
            Ballot(
                normal_form(t.first),
                first,
                0.0 if p is None else p,
                normal_form(t.final),
                final,
                sizes[Role.ATTEMPT],
                sizes[Role.ATTEMPT] + sum(firsts),
                t.sampled_tokens,
                len(t.attempts),
            )
        )
    return out


def normal_form(attempt: Attempt) -> str | None:
    """Return the form in which two answers are the same vote: the grader's, else the extracted text."""
    if attempt.grade and attempt.grade.normalised:
        return attempt.grade.normalised[0]
    return attempt.answer


def vote(votes: Iterable[tuple[str | None, float, bool]]) -> float:
    """Return the chance that the winner of ``(answer, weight, correct)`` is correct: 1, 0, or a share where tied."""
    weights: dict[str, float] = {}
    correct: dict[str, bool] = {}
    for answer, weight, counts in votes:
        if answer is not None:
            weights[answer] = weights.get(answer, 0.0) + weight
            correct[answer] = counts
    if not weights:
        return 0.0
    most = max(weights.values())
    winners = [answer for answer, weight in weights.items() if weight >= most - 1e-12]
    return sum(correct[answer] for answer in winners) / len(winners)


def outcome(method: str, chosen: Sequence[Ballot]) -> float:
    """Return the chance that a method answers correctly from these trajectories."""
    if method == "maj@n":
        return vote((b.first, 1.0, b.first_correct) for b in chosen)
    if method == "correction + vote":
        return vote((b.final, 1.0, b.final_correct) for b in chosen)
    if not any(b.p_correct for b in chosen):
        return vote((b.first, 1.0, b.first_correct) for b in chosen)
    if method == "verdict-weighted":
        return vote((b.first, b.p_correct, b.first_correct) for b in chosen if b.p_correct)
    best = max(b.p_correct for b in chosen)
    return vote((b.first, 1.0, b.first_correct) for b in chosen if b.p_correct == best)


def cost(method: str, ballot: Ballot) -> tuple[int, int]:
    """Return (sampled responses, tokens) that a method spends on a trajectory."""
    if method == "correction + vote":
        return ballot.responses, ballot.all_tokens
    return 1, ballot.attempt_tokens if method == "maj@n" else ballot.judged_tokens


def curves(trajectories: Sequence[Trajectory]) -> list[Curve]:
    """Return one curve a method, n = 1, 2, 4, ... up to the trajectories that every problem has.

    Without verdicts only ``maj@n`` can be drawn. Raises InputError with fewer than two trajectories a problem.
    """
    by_problem = ballots(sorted(trajectories, key=lambda t: (t.problem.id, t.seed or 0)))
    most = min(map(len, by_problem.values()), default=0)
    if most < 2:
        raise InputError(
            "voting needs several trajectories of each problem: evaluate with temperature=1.0 and seeds=[0,1,2,...]"
        )
    sizes = [2**i for i in range(most.bit_length()) if 2**i <= most]
    judged = any(t.evaluations for t in trajectories)
    rng = np.random.default_rng(0)
    picks = {n: _subsets(rng, most, n) for n in sizes}
    problems = tuple(by_problem)
    return [
        Curve(method, tuple(_point(method, n, picks[n], list(by_problem.values())) for n in sizes), problems)
        for method in METHODS
        if judged or method == "maj@n"
    ]


def mean_curves(of_seeds: Sequence[Sequence[Curve]]) -> list[Curve]:
    """Return the curves of a method that was trained with several seeds: the mean over the models, by problem.

    Paths of two models never vote together. Problems and numbers of paths are those that every model has.
    """
    return [_mean_curve(alike) for alike in zip(*of_seeds, strict=True)]


def _mean_curve(alike: Sequence[Curve]) -> Curve:
    if len(alike) == 1:
        return alike[0]
    problems = tuple(sorted(set.intersection(*(set(curve.problems) for curve in alike))))
    if not problems:
        raise InputError("the seeds of a voting curve have no problem in common")
    points = []
    for same in zip(*(curve.points for curve in alike), strict=False):  # n = 1, 2, 4, … up to what every seed has
        places = [{p: k for k, p in enumerate(curve.problems)} for curve in alike]
        found = [point.accuracy_K[[of[p] for p in problems]] for point, of in zip(same, places, strict=True)]
        accuracy_K = np.mean(found, axis=0)
        responses, tokens = (float(np.mean([getattr(point, unit) for point in same])) for unit in UNITS)
        mean, band = float(accuracy_K.mean()), _band(accuracy_K)
        points.append(Point(same[0].n, responses, tokens, mean, band, accuracy_K))
    return Curve(alike[0].method, tuple(points), problems)


def _subsets(rng: np.random.Generator, available: int, size: int) -> list[list[int]]:
    if size == available:
        return [list(range(available))]
    if size == 1:
        return [[i] for i in range(available)]
    return [sorted(rng.choice(available, size=size, replace=False)) for _ in range(SUBSETS)]


def _point(method: str, n: int, picks: list[list[int]], by_problem: list[list[Ballot]]) -> Point:
    accuracy_K = np.array(
        [
            100 * sum(outcome(method, [members[i] for i in pick]) for pick in picks) / len(picks)
            for members in by_problem
        ]
    )
    costs = np.array([cost(method, ballot) for found in by_problem for ballot in found], dtype=float).mean(axis=0)
    return Point(n, n * costs[0], n * costs[1], float(accuracy_K.mean()), _band(accuracy_K), accuracy_K)


def _band(values_K: Floats) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    means = [values_K[rng.integers(len(values_K), size=len(values_K))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class AtEqualBudget:
    """Correction with a vote of n trajectories against a baseline that spends as much; ``gain`` is in points."""

    n: int
    budget: float
    unit: str  # "responses" or "tokens"
    ours: float
    theirs: float
    gain: float
    interval: tuple[float, float]


def at_equal_budget(ours: Curve, theirs: Curve, unit: str) -> list[AtEqualBudget]:
    """Compare two curves on their common problems, the baseline interpolated linearly in the logarithm of the budget.

    Points of ours that cost less than the baseline's cheapest, or more than its dearest, are left out; all of them are
    where a curve's cost in the unit is not known.
    """
    if not (ours.has(unit) and theirs.has(unit)):
        return []
    common = [p for p in ours.problems if p in set(theirs.problems)]
    if not common:
        raise InputError("the two voting curves have no problem in common")
    of_ours, of_theirs = ({p: k for k, p in enumerate(curve.problems)} for curve in (ours, theirs))
    mine, yours = [of_ours[p] for p in common], [of_theirs[p] for p in common]
    budgets = np.log([getattr(point, unit) for point in theirs.points])
    out = []
    for point in ours.points:
        budget = np.log(getattr(point, unit))
        if not budgets[0] <= budget <= budgets[-1]:
            continue
        after = min(int(np.searchsorted(budgets, budget)), len(budgets) - 1)
        before = max(0, after - 1)
        share = 0.0 if after == before else (budget - budgets[before]) / (budgets[after] - budgets[before])
        their_K = (1 - share) * theirs.points[before].accuracy_K[yours] + share * theirs.points[after].accuracy_K[yours]
        gain_K = point.accuracy_K[mine] - their_K
        out.append(
            AtEqualBudget(
                point.n,
                float(getattr(point, unit)),
                unit,
                float(point.accuracy_K[mine].mean()),
                float(their_K.mean()),
                float(gain_K.mean()),
                _band(gain_K),
            )
        )
    return out
