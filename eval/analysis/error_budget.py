"""The error budget: where correct answers are lost, and what a perfect judge or a perfect fixer would reach.

Every problem is in exactly one of six parts (shares of all problems add up to one)::

    wrong at turn 1 = never flagged + flagged, not fixed + fixed
    correct at turn 1 = flagged, broken + flagged, kept + left alone

*Flagged* is judged wrong, or revised whatever was judged (methods that revise without judging flag everything).
The ceilings change one part and assume that the other stays: *perfect judge, fixing as now* flags all wrong attempts
and no correct one, and the share that is fixed of those flagged now is fixed of all; *perfect fixer, judging as now*
makes everything correct that is flagged now. Neither is a bound on what can be measured: an attempt that was never
flagged may be harder to fix than those that were, or easier.

`published` builds the same budget from the paper's tables: accuracy, transitions and reward-model accuracy are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfcorrect.errors import InputError
from selfcorrect.metrics import first_verdict, is_correct, share_of
from selfcorrect.types import Trajectory, Verdict

PARTS = ("never_flagged", "not_fixed", "fixed", "broken", "kept", "left_alone")
"""The six parts: three of the first attempts that are wrong, three of those that are correct."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The six parts in percent of all problems; ``n`` trajectories, None for figures from a table without counts.

    ``intervals`` holds the 95% interval of each part where there are counts. ``without_verdict`` is the share of
    problems that are never flagged because no well-formed verdict was given.
    """

    never_flagged: float
    not_fixed: float
    fixed: float
    broken: float
    kept: float
    left_alone: float
    n: int | None = None
    intervals: Mapping[str, tuple[float, float]] | None = None
    without_verdict: float | None = None

    def __post_init__(self) -> None:
        total = sum(getattr(self, part) for part in PARTS)
        if abs(total - 100) > 0.05 or any(getattr(self, part) < -0.05 for part in PARTS):
            parts = ", ".join(f"{part} {getattr(self, part):.2f}" for part in PARTS)
            raise InputError(f"the parts of an error budget add up to 100 percent; got {total:.2f}: {parts}")

    @property
    def wrong(self) -> float:
        """Wrong at turn 1."""
        return self.never_flagged + self.not_fixed + self.fixed

    @property
    def right(self) -> float:
        """Right at turn 1."""
        return self.broken + self.kept + self.left_alone

    @property
    def flagged(self) -> float:
        """Wrong at turn 1 and flagged."""
        return self.not_fixed + self.fixed

    @property
    def final(self) -> float:
        """Right at the end."""
        return self.right - self.broken + self.fixed

    @property
    def perfect_judge(self) -> float | None:
        """Final accuracy if all wrong attempts were flagged, no correct one, and as large a share fixed as now.

        None where nothing was flagged, so that the share is not known.
        """
        return self.right + self.wrong * self.fixed / self.flagged if self.flagged > 0 else None

    @property
    def perfect_fixer(self) -> float:
        """Final accuracy if every revision were correct, of the attempts that are flagged now."""
        return self.right + self.flagged

    @property
    def bottleneck(self) -> str:
        """Which loses more wrong attempts: ``detection`` (never flagged) or ``fixing`` (flagged, not fixed)."""
        if self.never_flagged == self.not_fixed:
            return "both alike"
        return "detection" if self.never_flagged > self.not_fixed else "fixing"

    def row(self) -> dict[str, Any]:
        """Return the budget as JSON values, in percent."""
        shown = {part: round(getattr(self, part), 2) for part in (*PARTS, "wrong", "right", "flagged", "final")}
        judge = self.perfect_judge
        return shown | {
            "perfect_judge": None if judge is None else round(judge, 2),
            "perfect_fixer": round(self.perfect_fixer, 2),
            "bottleneck": self.bottleneck,
            "without_verdict": self.without_verdict,
            "n": self.n,
            "intervals": {k: [round(bound, 2) for bound in v] for k, v in (self.intervals or {}).items()},
        }


def error_budget(trajectories: Sequence[Trajectory]) -> Budget:
    """Return the budget of graded trajectories; problems on which the grader failed are left out of n."""
    placed = [(t.problem.id, part, first_verdict(t) is None) for t in trajectories if (part := part_of(t))]
    if not placed:
        raise InputError("an error budget needs at least one scored trajectory")
    shares = {name: share_of((problem, part == name) for problem, part, _ in placed) for name in PARTS}
    silent = sum(part == "never_flagged" and no_verdict for _, part, no_verdict in placed)
    return Budget(
        **{name: 100 * share.hits / share.n for name, share in shares.items()},
        n=len(placed),
        intervals={name: share.interval or (0.0, 100.0) for name, share in shares.items()},
        without_verdict=round(100 * silent / len(placed), 2),
    )


def part_of(trajectory: Trajectory) -> str | None:
    """Return the name in `PARTS` of a trajectory, None where the grader failed."""
    first, final = is_correct(trajectory.first), is_correct(trajectory.final)
    if first is None or final is None:
        return None
    if len(trajectory.attempts) == 1 and first_verdict(trajectory) is not Verdict.WRONG:
        return "left_alone" if first else "never_flagged"
    if first:
        return "kept" if final else "broken"
    return "fixed" if final else "not_fixed"


def published(turn1: float, i2c: float, c2i: float, rm_C: float, rm_W: float) -> Budget:
    """Return the budget that a paper's row implies; all arguments and results in percent.

    ``rm_C`` and ``rm_W`` are taken to hold for all first attempts, as if a verdict were always given.
    """
    wrong, flagged_right = 100 - turn1, turn1 * (100 - rm_C) / 100
    flagged_wrong = wrong * rm_W / 100
    return Budget(
        never_flagged=wrong - flagged_wrong,
        not_fixed=flagged_wrong - i2c,
        fixed=i2c,
        broken=c2i,
        kept=flagged_right - c2i,
        left_alone=turn1 - flagged_right,
    )


def budgets_by(trajectories: Sequence[Trajectory], key: str) -> dict[str, Budget]:
    """Return one budget for each value of a problem's meta field (``subject``, ``level``), in natural order.

    Problems without the field are left out: nothing is left where none has it.
    """
    groups: dict[str, list[Trajectory]] = {}
    for t in trajectories:
        if part_of(t) and (value := _meta(key)(t)) is not None:
            groups.setdefault(str(value), []).append(t)
    return {value: error_budget(groups[value]) for value in sorted(groups, key=lambda v: (len(v), v))}


def _meta(key: str) -> Callable[[Trajectory], Any]:
    names = ("subject", "type") if key == "subject" else (key,)
    return lambda t: next((t.problem.meta[name] for name in names if t.problem.meta.get(name) is not None), None)
