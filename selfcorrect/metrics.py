"""Graded trajectories in, `Scores` out: every measure of METHOD section 4 with n, an interval and the counts.

Pure Python and SciPy. Identities are asserted wherever scores are made:
``final = turn1 + delta`` and ``delta = i2c - c2i``.

What is scored: an attempt without a readable answer is the model's failure and counts as incorrect
(``unanswered`` shows how many); a problem on which the GRADER failed is taken out of n and counted in
``ungradable``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfcorrect.errors import InputError
from selfcorrect.types import Attempt, Outcome, Trajectory, Verdict

Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Share:
    """A proportion ``hits / n`` with its 95% Wilson interval, all in percent; n = 0 gives None."""

    hits: int
    n: int

    @property
    def percent(self) -> float | None:
        """100 * hits / n."""
        return 100 * self.hits / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson score interval in percent."""
        if not self.n:
            return None
        p, z2 = self.hits / self.n, Z95**2
        centre = (p + z2 / (2 * self.n)) / (1 + z2 / self.n)
        half = Z95 / (1 + z2 / self.n) * math.sqrt(p * (1 - p) / self.n + z2 / (4 * self.n**2))
        return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


@dataclass(frozen=True, slots=True)
class Scores:
    """One row of a result table. Shares are of ``n`` scored problems unless their own n says otherwise."""

    method: str
    n: int
    turn1: Share
    final: Share
    i2c: Share
    c2i: Share
    delta: float
    delta_interval: tuple[float, float]
    rm_C: Share
    rm_W: Share
    no_verdict: Share
    unanswered: int
    ungradable: int
    truncated: int
    tokens_per_problem: float
    samples_per_problem: float
    stops: dict[str, int]

    def row(self) -> dict[str, Any]:
        """Return the row under the keys of ``published_tables.json``, in percent, with intervals and counts."""
        shares = {"turn1": self.turn1, "final": self.final, "i2c": self.i2c, "c2i": self.c2i}
        shares |= {"rm_C": self.rm_C, "rm_W": self.rm_W, "no_verdict": self.no_verdict}
        row: dict[str, Any] = {"method": self.method, "n": self.n}
        for name, share in shares.items():
            row[name] = None if share.percent is None else round(share.percent, 2)
            row[f"{name}_interval"] = share.interval and [round(bound, 2) for bound in share.interval]
            row[f"{name}_n"] = share.n
        row["delta"] = round(self.delta, 2)
        row["delta_interval"] = [round(bound, 2) for bound in self.delta_interval]
        return row | {
            "unanswered": self.unanswered,
            "ungradable": self.ungradable,
            "truncated": self.truncated,
            "tokens_per_problem": round(self.tokens_per_problem, 1),
            "samples_per_problem": round(self.samples_per_problem, 3),
            "stops": self.stops,
        }


def is_correct(attempt: Attempt) -> bool | None:
    """Return whether an attempt counts as correct; None where the grader failed on it."""
    if attempt.grade is None:
        raise InputError("an ungraded attempt cannot be scored; call correction.grade_trajectories first")
    if attempt.grade.outcome is Outcome.UNGRADABLE:
        return False if attempt.grade.unanswered else None
    return attempt.grade.correct


def score(method: str, trajectories: Sequence[Trajectory]) -> Scores:
    """Return the scores of one method; raises InputError on an empty set (a run that scored nothing)."""
    if not trajectories:
        raise InputError(f"no trajectories to score for {method!r}")
    scored = [t for t in trajectories if is_correct(t.first) is not None and is_correct(t.final) is not None]
    n = len(scored)
    if n == 0:
        raise InputError(f"{method!r}: the grader failed on all {len(trajectories)} problems")
    pairs = [(bool(is_correct(t.first)), bool(is_correct(t.final))) for t in scored]
    turn1, final = (sum(column) for column in zip(*pairs, strict=True))
    i2c = sum(not first and last for first, last in pairs)
    c2i = sum(first and not last for first, last in pairs)
    assert final - turn1 == i2c - c2i, "final = turn1 + i2c - c2i"
    judged = [
        (is_correct(attempt), evaluation.verdict)
        for t in scored
        for attempt, evaluation in zip(t.attempts[:1], t.evaluations, strict=False)
        if evaluation.verdict is not None
    ]
    on_correct = [verdict for right, verdict in judged if right is True]
    on_wrong = [verdict for right, verdict in judged if right is False]
    stops: dict[str, int] = {}
    for t in trajectories:
        stops[t.stop] = stops.get(t.stop, 0) + 1
    return Scores(
        method=method,
        n=n,
        turn1=Share(turn1, n),
        final=Share(final, n),
        i2c=Share(i2c, n),
        c2i=Share(c2i, n),
        delta=100 * (i2c - c2i) / n,
        delta_interval=delta_interval(i2c, c2i, n),
        rm_C=Share(sum(verdict is Verdict.CORRECT for verdict in on_correct), len(on_correct)),
        rm_W=Share(sum(verdict is Verdict.WRONG for verdict in on_wrong), len(on_wrong)),
        no_verdict=Share(n - len(judged), n),
        unanswered=sum(t.final.grade is not None and t.final.grade.unanswered for t in trajectories),
        ungradable=len(trajectories) - n,
        truncated=stops.get("length", 0),
        tokens_per_problem=sum(t.sampled_tokens for t in trajectories) / len(trajectories),
        samples_per_problem=sum(len(t.attempts) for t in trajectories) / len(trajectories),
        stops=dict(sorted(stops.items())),
    )


def delta_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """Return the 95% interval of the paired difference (gained - lost) / n, in percent points.

    Wald on the paired table with 1/2 added to each of its four cells (Agresti and Min 2005): honest at zero counts,
    where a bootstrap would claim certainty.
    """
    total, b, c = n + 2.0, gained + 0.5, lost + 0.5
    centre = (b - c) / total
    half = Z95 * math.sqrt(max(0.0, b + c - (b - c) ** 2 / total)) / total
    return 100 * (centre - half), 100 * (centre + half)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """McNemar's exact test of two methods on the same problems; ``gain`` is B - A in points."""

    n: int
    only_a: int
    only_b: int
    gain: float
    gain_interval: tuple[float, float]
    p_value: float


def compare(a: Sequence[Trajectory], b: Sequence[Trajectory]) -> PairedTest:
    """Test whether B's final answers are right more often than A's, on the problems that both scored.

    Exact two-sided McNemar (binomial on the discordant pairs). Raises InputError without common problems.
    """
    from scipy.stats import binomtest

    right_a = {t.problem.id: is_correct(t.final) for t in a}
    pairs = [(right_a[t.problem.id], is_correct(t.final)) for t in b if t.problem.id in right_a]
    pairs = [(x, y) for x, y in pairs if x is not None and y is not None]
    if not pairs:
        raise InputError("the two runs have no scored problem in common")
    only_a = sum(bool(x and not y) for x, y in pairs)
    only_b = sum(bool(y and not x) for x, y in pairs)
    discordant = only_a + only_b
    p_value = float(binomtest(only_b, discordant, 0.5).pvalue) if discordant else 1.0
    return PairedTest(
        n=len(pairs),
        only_a=only_a,
        only_b=only_b,
        gain=100 * (only_b - only_a) / len(pairs),
        gain_interval=delta_interval(only_b, only_a, len(pairs)),
        p_value=p_value,
    )
