"""Best of n: several trajectories of one question, and the answer that most of them give.

The four ways have the names of the figure that compares them (`selfcorrect.eval.analysis.voting`): ``correction +
vote`` counts final answers, ``maj@n`` first ones; ``verdict-weighted`` weighs first answers by P(correct), and
``best-of-n`` takes the first answer of highest P(correct). Two answers are the same where the grader says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from selfcorrect.choices import check_choice
from selfcorrect.errors import InputError
from selfcorrect.metrics import first_p_correct
from selfcorrect.types import Attempt, Trajectory

By = Literal["correction + vote", "maj@n", "verdict-weighted", "best-of-n"]


@dataclass(frozen=True, slots=True)
class Votes:
    """The votes for one answer, and the trajectories that gave them."""

    answer: str
    weight: float
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Vote:
    """The outcome: ``attempt`` is the winner's, the final or the first one of ``trajectory``; ``answer`` is its answer.

    ``place`` is the winner's among ``trajectories``. ``shares`` are all answers, most votes first; empty where no
    trajectory had an answer to vote with: then the first trajectory stands.
    """

    by: By
    attempt: Attempt
    trajectory: Trajectory
    shares: tuple[Votes, ...]
    trajectories: tuple[Trajectory, ...]
    place: int

    @property
    def answer(self) -> str | None:
        """What most votes are for; None where there is no answer."""
        return self.attempt.answer


def vote(trajectories: Sequence[Trajectory], by: By = "correction + vote") -> Vote:
    """Return the outcome of a vote of trajectories of one question; ties go to the answer that was given first.

    A trajectory without an answer has no vote; what was cut is none. Where P(correct) counts, one without has
    none either, unless all are without: then each has one vote.
    """
    check_choice("by", by, get_args(By))
    attempts = [t.final if by == "correction + vote" else t.first for t in trajectories]
    weights = _weights(trajectories, by)
    shares: list[Votes] = []
    for place, (attempt, weight) in enumerate(zip(attempts, weights, strict=True)):
        if attempt.answer is None or weight == 0:
            continue
        at = next((n for n, share in enumerate(shares) if _same(attempt.answer, share.answer)), len(shares))
        before = shares[at] if at < len(shares) else Votes(attempt.answer, 0.0, ())
        shares[at : at + 1] = [Votes(before.answer, before.weight + weight, (*before.places, place))]
    shares.sort(key=lambda share: -share.weight)
    winner = shares[0].places[0] if shares else 0
    return Vote(by, attempts[winner], trajectories[winner], tuple(shares), tuple(trajectories), winner)


def check_votes(name: str, n: int, temperature: float) -> None:
    """Raise InputError where ``n`` trajectories of one question cannot vote; ``name`` is what sets the number."""
    if n < 1:
        raise InputError(f"{name}: expected at least 1, got {n}")
    if n > 1 and temperature == 0:
        raise InputError(f"{name}: at temperature 0 all trajectories are the same; set a temperature, such as 0.7")


def _weights(trajectories: Sequence[Trajectory], by: By) -> list[float]:
    """Return the weight of each vote."""
    known = [first_p_correct(t) or 0.0 if t.first.answer is not None else 0.0 for t in trajectories]
    if by in ("correction + vote", "maj@n") or not any(known):
        return [1.0] * len(trajectories)
    return known if by == "verdict-weighted" else [float(p == max(known)) for p in known]


def _same(answer: str, other: str) -> bool:
    from selfcorrect.grading import grade

    return answer == other or grade(f"\\boxed{{{answer}}}", other).correct
