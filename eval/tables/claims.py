"""What the paper finds (method.md, section 5), each held against a run: it holds, it does not, or it cannot be told.

A claim is decided by a 95% interval: it holds where the whole interval is on its side, does not hold where the whole
interval is on the other, and cannot be told where the interval has both. What is not tested here says which rows are
missing. What holds by construction is no claim: that the gold verdict breaks nothing is not in the list, for it never
asks for a revision of a correct answer. Controls come after the paper's claims and are not the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from selfcorrect.eval.results import EvalResult
from selfcorrect.metrics import Z95, PairedTest, compare, is_correct, paired_test
from selfcorrect.types import Trajectory

NOTHING = 2.0
"""Points of Δ below which a method is said to gain nothing."""
SEVERAL = 3
"""What "fixes far more than it breaks" means here: at least so many times."""


class Found(StrEnum):
    """What the figures say of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "cannot be told"
    MISSING = "not tested"


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement, the paper's figure for it (empty for a control), ours with its interval, and what that says."""

    claim: str
    paper: str
    ours: str
    interval: tuple[float, float] | None
    n: int
    verdict: Found
    control: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the claim as ``claims.json`` holds it."""
        return {
            "claim": self.claim,
            "paper": self.paper,
            "ours": self.ours,
            "interval": None if self.interval is None else [round(bound, 2) for bound in self.interval],
            "n": self.n,
            "verdict": str(self.verdict),
            "control": self.control,
        }


Rows = Mapping[str, tuple[EvalResult, Sequence[Trajectory]]]


def judged(interval: tuple[float, float], least: float = 0.0) -> Found:
    """Return what an interval says of "more than ``least``"."""
    low, high = interval
    return Found.HOLDS if low > least else Found.FAILS if high <= least else Found.OPEN


def opposite(found: Found) -> Found:
    """Return what the same figures say of the opposite."""
    return {Found.HOLDS: Found.FAILS, Found.FAILS: Found.HOLDS}.get(found, found)


def claims_of(rows: Rows) -> list[Claim]:
    """Return the paper's claims and the controls, held against the rows of a demo (``intrinsic``, ``ift``, ...)."""
    return [
        _harm(rows),
        *(_nothing(rows, name) for name in ("raft", "raft-plus")),
        _gain(rows),
        _ratio(rows),
        *_reinforced(rows),
        *(_untested(claim, paper, how) for claim, paper, how in ELSEWHERE),
        *(_above(rows, "asked", name, f"{name} ends above {UNTRAINED}") for name in ("ift", "grpo")),
        _above(rows, "ift-longer", "grpo", "grpo ends above IFT that had grpo's compute"),
        _above(rows, "random", "ift", "a random reward ends below IFT: the gain is not from training as such"),
    ]


UNTRAINED = "the untrained model that is asked for each part"


ELSEWHERE = (
    (
        "5.5 more rows with a wrong first attempt make the judge stricter",
        "RM C 72.1 → 63.6, RM W 75.3 → 82.4",
        "gen with other quotas, then train sft and eval (docs/reproduce.md)",
    ),
    (
        "5.6 a reward for the correction itself is hacked",
        "Turn 1 18.6, Final 77.6 after 150 steps",
        "selfcorrect train grpo embedded-hacked",
    ),
    (
        "5.7 at equal cost, correcting beats voting",
        "42.8 with 26.4 samples, majority of 64: 40.4",
        "eval with several seeds, then selfcorrect report figure2",
    ),
)


def _untested(claim: str, paper: str, how: str) -> Claim:
    return Claim(claim, paper, f"not part of the demo; {how}", None, 0, Found.MISSING)


def _missing(claim: str, paper: str, *names: str) -> Claim:
    return Claim(claim, paper, f"no row {' and '.join(names)}", None, 0, Found.MISSING)


def _harm(rows: Rows) -> Claim:
    claim, paper = "5.1 correcting without a judge does harm: Δ < 0", "65.4 → 51.4"
    if "intrinsic" not in rows:
        return _missing(claim, paper, "intrinsic")
    interval, said, n = _delta(rows, "intrinsic")
    low, high = interval
    return Claim(claim, paper, said, interval, n, judged((-high, -low)))


def _nothing(rows: Rows, name: str) -> Claim:
    claim = f"5.2 learning revisions without verdicts gains nothing ({name}): Δ < {NOTHING:g} points"
    paper = {"raft": "71.6 → 70.4", "raft-plus": "72.0 → 71.2"}[name]
    if name not in rows:
        return _missing(claim, paper, name)
    interval, said, n = _delta(rows, name)
    return Claim(claim, paper, said, interval, n, opposite(judged(interval, NOTHING)))


def _gain(rows: Rows) -> Claim:
    claim, paper = "5.3 self-rewarding IFT gains: Δ > 0", "72.6 → 77.2"
    if "ift" not in rows:
        return _missing(claim, paper, "ift")
    interval, said, n = _delta(rows, "ift")
    return Claim(claim, paper, said, interval, n, judged(interval))


def _ratio(rows: Rows) -> Claim:
    claim = f"5.3 IFT fixes more than {SEVERAL} times what it breaks: Δi→c − {SEVERAL} Δc→i > 0"
    paper = "fixes 5.0, breaks 0.4"
    if "ift" not in rows:
        return _missing(claim, paper, "ift")
    scores = rows["ift"][0].scores
    fixed, broken, n = _share(scores.i2c.value), _share(scores.c2i.value), scores.n
    centre = fixed - SEVERAL * broken
    half = Z95 * math.sqrt(max(0.0, fixed + SEVERAL**2 * broken - centre**2) / n)
    interval = (100 * (centre - half), 100 * (centre + half))
    said = f"fixes {100 * fixed:.1f}, breaks {100 * broken:.1f}"
    return Claim(claim, paper, said, interval, n, judged(interval))


def _reinforced(rows: Rows) -> list[Claim]:
    """Return the three parts of 5.4, each from a paired test of RL's row against IFT's."""
    stated = [
        ("5.4 RL raises Final above IFT's", "PPO 77.2 → 80.2"),
        ("5.4 RL raises Turn 1 above IFT's", "PPO 72.6 → 75.8"),
        ("5.4 RL narrows Δ", "4.6 → 4.4"),
    ]
    if not {"ift", "grpo"} <= rows.keys():
        return [_missing(claim, paper, "ift", "grpo") for claim, paper in stated]
    (ift, before), (grpo, after) = rows["ift"], rows["grpo"]
    final = compare(before, after)
    first = paired_test(_correct(before, 0), _correct(after, 0))
    change = paired_test(_changes(before), _changes(after))
    low, high = change.gain_interval
    return [
        _paired(*stated[0], final, ift.scores.final.value, grpo.scores.final.value),
        _paired(*stated[1], first, ift.scores.turn1.value, grpo.scores.turn1.value),
        Claim(
            *stated[2],
            f"Δ {_of(ift.scores.delta.value):+.1f} → {_of(grpo.scores.delta.value):+.1f}: {change.gain:+.1f} points",
            change.gain_interval,
            change.n,
            judged((-high, -low)),
        ),
    ]


def _above(rows: Rows, lower: str, upper: str, statement: str) -> Claim:
    """Return a control: that one row ends above another, with what it took to make the model of each."""
    claim = f"control: {statement}"
    if not {lower, upper} <= rows.keys():
        missing = " and ".join(name for name in (lower, upper) if name not in rows)
        return Claim(claim, "", f"no row {missing}", None, 0, Found.MISSING, control=True)
    (before, of_lower), (after, of_upper) = rows[lower], rows[upper]
    test = compare(of_lower, of_upper)
    found = _paired(claim, "", test, before.scores.final.value, after.scores.final.value)
    said = f"{found.ours}; tokens sampled to make them {_sampled(before)} and {_sampled(after)}"
    return Claim(claim, "", said, found.interval, found.n, found.verdict, control=True)


def _sampled(result: EvalResult) -> str:
    return "unknown" if result.compute is None else f"{result.compute.sampled_tokens:,}"


def _paired(claim: str, paper: str, test: PairedTest, before: float | None, after: float | None) -> Claim:
    """Return a claim that a share rises, by its paired test; the p-value decides, the interval shows how much."""
    said = f"{_of(before):.1f} → {_of(after):.1f}: {test.gain:+.1f} points, p = {test.p_value:.2g} ({test.test})"
    found = judged(test.gain_interval)
    if (test.p_value < 0.05) != (found is not Found.OPEN):
        found = Found.OPEN
    return Claim(claim, paper, said, test.gain_interval, test.n, found)


def _delta(rows: Rows, name: str) -> tuple[tuple[float, float], str, int]:
    scores = rows[name][0].scores
    said = f"{_of(scores.turn1.value):.1f} → {_of(scores.final.value):.1f}, Δ {_of(scores.delta.value):+.1f}"
    return scores.delta.interval or (-100.0, 100.0), said, scores.n


def _correct(trajectories: Sequence[Trajectory], attempt: int) -> dict[str, list[float]]:
    """Return by problem whether an attempt (0: the first, -1: the last) is correct, where the grader could tell."""
    found: dict[str, list[float]] = {}
    for t in trajectories:
        if (value := is_correct(t.attempts[attempt])) is not None:
            found.setdefault(t.problem.id, []).append(float(value))
    return found


def _changes(trajectories: Sequence[Trajectory]) -> dict[str, list[float]]:
    """Return by problem what revising changed: 1 fixed, -1 broken, 0 neither."""
    first, last = _correct(trajectories, 0), _correct(trajectories, -1)
    return {
        problem: [after - before for before, after in zip(first[problem], last[problem], strict=True)]
        for problem in first.keys() & last.keys()
        if len(first[problem]) == len(last[problem])
    }


def _share(value: float | None) -> float:
    return _of(value) / 100


def _of(value: float | None) -> float:
    return math.nan if value is None else value
