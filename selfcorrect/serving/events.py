"""The events of one trajectory under way, as `SelfCorrectModel.astream` gives them."""

from __future__ import annotations

from dataclasses import dataclass

from selfcorrect.types import Trajectory, Verdict


@dataclass(frozen=True, slots=True)
class AttemptText:
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class EvaluationText:
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Judged:
    index: int
    verdict: Verdict | None
    p_correct: float | None


@dataclass(frozen=True, slots=True)
class Superseded:
    index: int


@dataclass(frozen=True, slots=True)
class RevisionText:
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Final:
    answer: str | None
    text: str
    trajectory: Trajectory


Event = AttemptText | EvaluationText | Judged | Superseded | RevisionText | Final
