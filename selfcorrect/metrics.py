"""Graded trajectories in, `Scores` out: every measure of method.md, section 4 with n, an interval and the counts.

Pure Python; where problems are resampled or two methods compared, NumPy and SciPy (extra ``report``).
Identities are asserted wherever scores are made:
``final = turn1 + delta`` and ``delta = i2c - c2i``. One trajectory a problem: Wilson intervals and McNemar's test.
Several (seeds): problems are resampled, never trajectories, so that those of one problem do not count as independent.

What is scored: an attempt without a readable answer, or with one beyond the grader's limits, is the model's failure
and counts as incorrect (``unanswered`` shows how many, the fault ``over the grader's limits`` how many of those were
too large); a problem on which the GRADER failed is taken out of n and counted in ``ungradable``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from selfcorrect.errors import OUTCOMES, InputError
from selfcorrect.extras import named_extras
from selfcorrect.prompts import SELF_QUESTION
from selfcorrect.types import Attempt, Outcome, Role, SelfEvaluation, StopReason, Trajectory, Verdict

Z95 = 1.959963984540054
RESAMPLES = 2000  # of problems, in every bootstrap; the percentile bounds of 95% then rest on 50 resamples each


@dataclass(frozen=True, slots=True)
class Share:
    """A proportion ``hits / n`` with its 95% interval, all in percent; n = 0 gives None.

    The interval is Wilson's, or ``bounds`` where hits of one problem are not independent (see `share_of`).
    """

    hits: int
    n: int
    bounds: tuple[float, float] | None = None

    @property
    def percent(self) -> float | None:
        """100 * hits / n."""
        return 100 * self.hits / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval in percent."""
        if self.bounds or not self.n:
            return self.bounds
        p, z2 = self.hits / self.n, Z95**2
        centre = (p + z2 / (2 * self.n)) / (1 + z2 / self.n)
        half = Z95 / (1 + z2 / self.n) * math.sqrt(p * (1 - p) / self.n + z2 / (4 * self.n**2))
        return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def share_of(outcomes: Iterable[tuple[str, bool]]) -> Share:
    """Return the share of hits among ``(problem id, hit)``; problems that occur several times are resampled whole.

    All hits or none leave a bootstrap without spread: then Wilson's interval on the number of problems.
    """
    outcomes = list(outcomes)
    hits, problems = sum(hit for _, hit in outcomes), len({problem for problem, _ in outcomes})
    if problems == len(outcomes):
        return Share(hits, len(outcomes))
    if hits in (0, len(outcomes)):
        return Share(hits, len(outcomes), Share(problems if hits else 0, problems).interval)
    return Share(hits, len(outcomes), clustered_interval((problem, 100 * hit) for problem, hit in outcomes))


def clustered_interval(values: Iterable[tuple[str, float]]) -> tuple[float, float]:
    """Return the 95% percentile-bootstrap interval of the mean of ``(problem id, value)``, problems resampled.

    The order of the values does not matter: the same figures give the same interval, however they were read. Problems
    that have the same values are exchangeable, so it is drawn how often each kind occurs, not each problem.
    """
    with named_extras():
        import numpy as np

    groups: dict[str, list[float]] = {}
    for problem, value in values:
        groups.setdefault(problem, []).append(value)
    alike = sorted(Counter((math.fsum(group), len(group)) for group in groups.values()).items())
    sums, counts, problems = (np.array(column) for column in zip(*((*key, n) for key, n in alike), strict=True))
    weights = np.random.default_rng(0).multinomial(len(groups), problems / len(groups), size=RESAMPLES)
    low, high = np.percentile((weights @ sums) / (weights @ counts), [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Scores:
    """What was measured on a row's trajectories. Shares are of the ``n`` scored ones unless they have their own n.

    ``p_c2i`` is the share of those correct first attempts that end wrong after which a revision was asked for: by the
    model's own verdict "wrong", or by whoever told it that it was wrong. Those that were left alone are not in its n.
    ``faults`` counts by name what is odd about trajectories (`faults_of`).
    """

    label: str
    n: int
    problems: int
    turn1: Share
    final: Share
    i2c: Share
    c2i: Share
    delta: float
    delta_interval: tuple[float, float]
    rm_C: Share
    rm_W: Share
    no_verdict: Share
    p_c2i: Share
    unanswered: int
    ungradable: int
    truncated: int
    tokens_per_problem: float
    samples_per_problem: float
    stops: dict[str, int]
    faults: dict[str, int]

    @property
    def resolution(self) -> float:
        """Half the width of Final's interval, in points: the least that these problems can resolve."""
        low, high = self.final.interval or (0.0, 100.0)
        return (high - low) / 2


def power_note(n: int, resolution: float) -> str:
    """Return what a reader must know before comparing two rows: ``n = 272 cannot resolve less than ±5.8 points``."""
    return f"n = {n:,} cannot resolve less than ±{resolution:.1f} points"


def is_correct(attempt: Attempt) -> bool | None:
    """Return whether an attempt counts as correct; None where the grader failed on it.

    The one rule for scores, rewards, tables and the page. Raises InputError for an attempt that is not graded.
    """
    if attempt.grade is None:
        raise InputError("an ungraded attempt cannot be scored; call correction.grade_trajectories first")
    if attempt.grade.outcome is Outcome.UNGRADABLE:
        return False if attempt.grade.unanswered else None
    return attempt.grade.correct


def is_graded(trajectory: Trajectory) -> bool:
    """True where every attempt has a grade, be it that the grader failed."""
    return all(attempt.grade is not None for attempt in trajectory.attempts)


def is_scored(trajectory: Trajectory) -> bool:
    """True where the grader decided on the first and on the last attempt: the trajectory counts in n."""
    return is_correct(trajectory.first) is not None and is_correct(trajectory.final) is not None


def score(label: str, trajectories: Sequence[Trajectory]) -> Scores:
    """Return the scores of one row; raises InputError on an empty set (a run that scored nothing)."""
    if not trajectories:
        raise InputError(f"no trajectories to score for {label!r}")
    scored = [t for t in trajectories if is_scored(t)]
    n = len(scored)
    if n == 0:
        raise InputError(f"{label!r}: the grader failed on all {len(trajectories)} problems")
    pairs = [(t.problem.id, bool(is_correct(t.first)), bool(is_correct(t.final))) for t in scored]
    doubted = [(t.problem.id, not is_correct(t.final)) for t in scored if is_correct(t.first) and len(t.attempts) > 1]
    turn1, final = share_of((p, first) for p, first, _ in pairs), share_of((p, last) for p, _, last in pairs)
    i2c = share_of((p, not first and last) for p, first, last in pairs)
    c2i = share_of((p, first and not last) for p, first, last in pairs)
    assert final.hits - turn1.hits == i2c.hits - c2i.hits, "final = turn1 + i2c - c2i"
    problems = len({p for p, _, _ in pairs})
    judged = [(t.problem.id, bool(is_correct(t.first)), v) for t in scored if (v := first_verdict(t)) is not None]
    stops = Counter(t.stop for t in trajectories)
    return Scores(
        label=label,
        n=n,
        problems=problems,
        turn1=turn1,
        final=final,
        i2c=i2c,
        c2i=c2i,
        delta=100 * (i2c.hits - c2i.hits) / n,
        delta_interval=delta_interval(i2c.hits, c2i.hits, problems)
        if problems == n or not i2c.hits + c2i.hits  # without a change a bootstrap would claim certainty
        else clustered_interval((p, 100 * (last - first)) for p, first, last in pairs),
        rm_C=share_of((p, v is Verdict.CORRECT) for p, correct, v in judged if correct),
        rm_W=share_of((p, v is Verdict.WRONG) for p, correct, v in judged if not correct),
        no_verdict=share_of((t.problem.id, first_verdict(t) is None) for t in scored),
        p_c2i=share_of(doubted),
        unanswered=sum(t.final.grade is not None and t.final.grade.unanswered for t in trajectories),
        ungradable=len(trajectories) - n,
        truncated=stops[StopReason.LENGTH],
        tokens_per_problem=sum(t.sampled_tokens for t in trajectories) / len(trajectories),
        samples_per_problem=sum(len(t.attempts) for t in trajectories) / len(trajectories),
        stops=dict(sorted(stops.items())),
        faults=dict(sorted(Counter(fault for t in trajectories for fault in faults_of(t)).items())),
    )


def is_over_limits(attempt: Attempt) -> bool:
    """True where the answer could not be worked through within the grader's limits: wrong, and counted by name."""
    return attempt.grade is not None and attempt.grade.method == "limit"


def first_verdict(trajectory: Trajectory) -> Verdict | None:
    """Return the verdict on the first attempt, None where none (or no well-formed one) was given."""
    return trajectory.evaluations[0].verdict if trajectory.evaluations else None


def p_correct(evaluation: SelfEvaluation) -> float | None:
    """Return P(correct) of a self-evaluation, None where the engine gave none that is a number."""
    p = evaluation.p_correct
    return p if p is not None and math.isfinite(p) else None


def first_p_correct(trajectory: Trajectory) -> float | None:
    """Return P(correct) of the first attempt, None where there is none."""
    return p_correct(trajectory.evaluations[0]) if trajectory.evaluations else None


_MARK = re.compile(r"\[\s*verify\s*\]|" + re.escape(SELF_QUESTION), re.IGNORECASE)
_BOX = re.compile(r"\\f?boxed\s*\{")


def faults_of(trajectory: Trajectory) -> list[str]:
    """Return by name what is odd about a trajectory: each name at most once. A clean trajectory gives an empty list.

    ``mark doubled`` and ``mark malformed`` are about self-evaluations that hold marks but give no verdict, ``mark
    missing`` about those that hold none; ``no self-evaluation`` is a trajectory that was due to judge and did not. A
    last revision in a message of its own, asked for by a user message, is not due to be judged.
    """
    faults = set()
    in_one_message = sum(span.role is Role.EXTERNAL for span in trajectory.spans) < 2
    if trajectory.stop is StopReason.LENGTH:
        faults.add("truncated")
    if trajectory.stop in OUTCOMES:
        faults.add(str(trajectory.stop))
    if trajectory.stop is StopReason.NO_VERDICT and len(trajectory.evaluations) < len(trajectory.attempts):
        faults.add("no self-evaluation")
    for turn, evaluation in enumerate(trajectory.evaluations):
        if evaluation.verdict is None and evaluation.text:
            marks = len(_MARK.findall(evaluation.text))
            faults.add("mark missing" if not marks else "mark malformed" if marks == 1 else "mark doubled")
        if evaluation.verdict is None and turn:
            faults.add("revision without a verdict")
        if _BOX.search(evaluation.text):
            faults.add("answer boxed in a self-evaluation")
    if any(len(_BOX.findall(attempt.text)) > 1 for attempt in trajectory.attempts):
        faults.add("several boxed answers")
    if any(map(is_over_limits, trajectory.attempts)):
        faults.add("over the grader's limits")
    if in_one_message and trajectory.evaluations and 1 < len(trajectory.attempts) > len(trajectory.evaluations):
        faults.add("revision without a verdict")
    return sorted(faults)


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
    """Two methods on the same problems; ``gain`` is B - A of final accuracy in points.

    ``only_a`` and ``only_b`` count the problems on which A, or B, is correct more often. ``gain_interval`` is analytic
    with one trajectory a problem, else the same as ``bootstrap_interval`` (problems resampled in pairs). ``test`` names
    where the two-sided ``p_value`` comes from.
    """

    n: int
    only_a: int
    only_b: int
    gain: float
    gain_interval: tuple[float, float]
    p_value: float
    bootstrap_interval: tuple[float, float]
    test: str


def compare(a: Sequence[Trajectory], b: Sequence[Trajectory]) -> PairedTest:
    """Test whether B's final answers are correct more often than A's, on problems that both scored: `paired_test`."""
    return paired_test(_final_accuracy(a), _final_accuracy(b))


def paired_test(of_a: Mapping[str, Sequence[float]], of_b: Mapping[str, Sequence[float]]) -> PairedTest:
    """Test B against A on the problems that both have; each has one or more outcomes in [0, 1] a problem.

    One outcome a problem, right or wrong: McNemar's exact test (binomial on the discordant pairs). Else problems are
    compared by their means, and the signs of the differences are flipped at random (10,000 times).
    Raises InputError without common problems.
    """
    common = sorted(of_a.keys() & of_b.keys())
    if not common:
        raise InputError("the two runs have no scored problem in common")
    differences = [(problem, 100 * (_mean(of_b[problem]) - _mean(of_a[problem]))) for problem in common]
    only_a, only_b = sum(d < 0 for _, d in differences), sum(d > 0 for _, d in differences)
    bootstrap = clustered_interval(differences)
    outcomes = [of[problem] for problem in common for of in (of_a, of_b)]
    if all(len(found) == 1 and found[0] in (0, 1) for found in outcomes):
        with named_extras():
            from scipy.stats import binomtest
        p_value = float(binomtest(only_b, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0
        test, interval = "McNemar, exact", delta_interval(only_b, only_a, len(common))
    else:
        p_value, test, interval = _sign_flips([d for _, d in differences if d]), "sign flips of problems", bootstrap
    return PairedTest(
        n=len(common),
        only_a=only_a,
        only_b=only_b,
        gain=_mean([d for _, d in differences]),
        gain_interval=interval,
        p_value=p_value,
        bootstrap_interval=bootstrap,
        test=test,
    )


def gains(trajectories: Sequence[Trajectory]) -> dict[str, list[int]]:
    """Return by problem what revising changed in each scored trajectory: 1 fixed, -1 broken, 0 neither."""
    found: dict[str, list[int]] = {}
    for t in filter(is_scored, trajectories):
        found.setdefault(t.problem.id, []).append(int(bool(is_correct(t.final))) - int(bool(is_correct(t.first))))
    return found


def _final_accuracy(trajectories: Sequence[Trajectory]) -> dict[str, list[bool]]:
    correct: dict[str, list[bool]] = {}
    for t in trajectories:
        if (final := is_correct(t.final)) is not None:
            correct.setdefault(t.problem.id, []).append(final)
    return correct


def _sign_flips(differences: Sequence[float], flips: int = 10_000) -> float:
    with named_extras():
        import numpy as np

    if not differences:
        return 1.0
    sizes = sorted(Counter(round(abs(difference), 9) for difference in differences).items())
    size, problems = (np.array(column) for column in zip(*sizes, strict=True))
    sums = (2 * np.random.default_rng(0).binomial(problems, 0.5, size=(flips, len(problems))) - problems) @ size
    as_far = np.abs(sums) >= abs(math.fsum(differences)) - 1e-6
    return float((1 + as_far.sum()) / (1 + flips))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
