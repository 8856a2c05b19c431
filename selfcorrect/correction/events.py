"""What `streaming.stream` and `SelfCorrectModel.stream` give: the events of one trajectory while it is written.

The texts of one part, joined, are the text of that part in the trajectory but for blanks around it; no event holds half
a character or half a verdict mark. ``index`` counts attempts from 0: a revision is an attempt after the first.

    AttemptText(0, "354+4=358\\n358*6=2548\\n")   AttemptText(0, "\\boxed{2548}")
    EvaluationText(0, "Check:\\n…")               Judged(0, Verdict.WRONG, 0.012)
    Superseded(0)                                 RevisionText(1, "Corrected:\\n…")
    Final("2148", "Corrected:\\n…", trajectory)
"""

from __future__ import annotations

from dataclasses import dataclass

from selfcorrect.types import StopReason, Trajectory, Verdict


@dataclass(frozen=True, slots=True)
class AttemptText:
    """More text of the first attempt."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class EvaluationText:
    """More text of the self-evaluation of an attempt."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Judged:
    """An attempt is judged; no verdict is None, and so is a P(correct) that the engine cannot tell.

    Where the settings decide in place of the model (``stop``), the verdict is what was decided.
    """

    index: int
    verdict: Verdict | None
    p_correct: float | None


@dataclass(frozen=True, slots=True)
class Superseded:
    """An attempt is not the answer: the next one has begun."""

    index: int


@dataclass(frozen=True, slots=True)
class RevisionText:
    """More text of an attempt after the first."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Final:
    """The end: what the last attempt answers, its text, and all of the trajectory."""

    answer: str | None
    text: str
    trajectory: Trajectory

    @property
    def stop(self) -> StopReason:
        """How the trajectory ended; ``no-verdict``: the model did not judge its attempt, which stands as it is."""
        return self.trajectory.stop


Event = AttemptText | EvaluationText | Judged | Superseded | RevisionText | Final
