"""What the paper finds (method.md, section 5), each held against a run: it holds, it does not, or it cannot be told.

A claim is decided by a 95% interval: it holds where the whole interval is on its side, does not hold where the whole
interval is on the other, and cannot be told where the interval has both. What is not tested here says which rows are
missing. What holds by construction is no claim: that the gold verdict breaks nothing is not in the list, for it never
asks for a revision of a correct answer. Controls come after the paper's claims and are not the paper's.

Where rows have several seeds of data and training, problems are compared by their means over the seeds, and two trained
rows over the seeds that both have: a model of seed 1 started from the IFT of seed 1. Intervals resample problems; how
far apart the seeds lie is said beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from selfcorrect.eval.results import EvalResult, RowScores
from selfcorrect.eval.tables.seeds import UNTRAINED as NO_SEED
from selfcorrect.eval.tables.seeds import rescored
from selfcorrect.metrics import Z95, PairedTest, clustered_interval, gains, is_correct, paired_test
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
    """A statement, the paper's figure for it (empty for a control), ours with its interval, and what that says.

    ``n`` problems; ``seeds`` of data and training that count (1 where nothing was trained, 0 where it is not tested),
    and the figure of the interval for each of them in ``by_seed``, where there are several.
    """

    claim: str
    paper: str
    ours: str
    interval: tuple[float, float] | None
    n: int
    verdict: Found
    control: bool = False
    seeds: int = 0
    by_seed: tuple[float, ...] = ()

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
            "seeds": self.seeds,
        } | ({"by_seed": [round(value, 2) for value in self.by_seed]} if len(self.by_seed) > 1 else {})


@dataclass(frozen=True, slots=True)
class Measured:
    """A row as claims are held against it: its result, and its trajectories by seed (`seeds.SeededRow.by_seed`)."""

    result: EvalResult
    by_seed: Mapping[str, Sequence[Trajectory]]

    @property
    def scores(self) -> RowScores:
        """What was measured over all of its seeds."""
        return self.result.scores

    @property
    def trajectories(self) -> list[Trajectory]:
        """The trajectories of all its seeds."""
        return [trajectory for found in self.by_seed.values() for trajectory in found]

    @property
    def problems(self) -> int:
        """How many problems were scored."""
        return self.scores.n if self.scores.problems is None else self.scores.problems

    def only(self, seeds: Collection[str]) -> Measured:
        """Return the row over some of its seeds."""
        if NO_SEED in self.by_seed or set(seeds) == self.by_seed.keys():
            return self
        kept = {seed: found for seed, found in self.by_seed.items() if seed in seeds}
        return Measured(rescored(self.result, [t for found in kept.values() for t in found]), kept)

    def of(self, seed: str) -> Sequence[Trajectory]:
        """Return the trajectories that stand beside a seed: its own, or those of a row without seeds."""
        return self.by_seed[seed] if seed in self.by_seed else self.by_seed[NO_SEED]


def over_common_seeds(a: Measured, b: Measured) -> tuple[Measured, Measured, list[str]]:
    """Return two rows over the seeds that both have, and those; a row in which nothing was trained has every one."""
    if NO_SEED in a.by_seed or NO_SEED in b.by_seed:
        common = [seed for seed in (*a.by_seed, *b.by_seed) if seed != NO_SEED] or [NO_SEED]
    else:
        common = [seed for seed in a.by_seed if seed in b.by_seed]
    return (a.only(common), b.only(common), common) if common else (a, b, [])


Rows = Mapping[str, Measured]


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
        *reinforced(rows),
        *(_untested(claim, paper, how) for claim, paper, how in ELSEWHERE),
        *(_control(rows, "asked", name, f"{name} ends above {UNTRAINED}") for name in ("ift", "grpo")),
        _control(rows, "ift-longer", "grpo", "grpo ends above IFT that had grpo's compute"),
        _control(rows, "random", "ift", "a random reward ends below IFT: the gain is not from training as such"),
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
    return _by_delta(rows, "intrinsic", claim, paper, lambda interval: judged((-interval[1], -interval[0])))


def _nothing(rows: Rows, name: str) -> Claim:
    claim = f"5.2 learning revisions without verdicts gains nothing ({name}): Δ < {NOTHING:g} points"
    paper = {"raft": "71.6 → 70.4", "raft-plus": "72.0 → 71.2"}[name]
    return _by_delta(rows, name, claim, paper, lambda interval: opposite(judged(interval, NOTHING)))


def _gain(rows: Rows) -> Claim:
    return _by_delta(rows, "ift", "5.3 self-rewarding IFT gains: Δ > 0", "72.6 → 77.2", judged)


def _by_delta(rows: Rows, name: str, claim: str, paper: str, says: Callable[[tuple[float, float]], Found]) -> Claim:
    """Return a claim about one row's Δ."""
    if name not in rows:
        return _missing(claim, paper, name)
    row = rows[name]
    scores, interval = row.scores, row.scores.delta.interval or (-100.0, 100.0)
    said = f"{_of(scores.turn1.value):.1f} → {_of(scores.final.value):.1f}, Δ {_of(scores.delta.value):+.1f}"
    by_seed = [100 * _mean_of(gains(found)) for found in row.by_seed.values()]
    return _claim(claim, paper, said, interval, row.problems, says(interval), by_seed)


def _claim(
    claim: str,
    paper: str,
    said: str,
    interval: tuple[float, float],
    n: int,
    verdict: Found,
    by_seed: Sequence[float],
    control: bool = False,
) -> Claim:
    """Return a claim whose figure is known for each seed; with several, how far apart they lie is part of it."""
    if len(by_seed) > 1:
        said += f"; {len(by_seed)} seeds: {min(by_seed):+.1f} to {max(by_seed):+.1f}"
    return Claim(claim, paper, said, interval, n, verdict, control, len(by_seed), tuple(by_seed))


def _ratio(rows: Rows) -> Claim:
    claim = f"5.3 IFT fixes more than {SEVERAL} times what it breaks: Δi→c − {SEVERAL} Δc→i > 0"
    paper = "fixes 5.0, breaks 0.4"
    if "ift" not in rows:
        return _missing(claim, paper, "ift")
    row = rows["ift"]
    fixed, broken = _share(row.scores.i2c.value), _share(row.scores.c2i.value)
    weighed = [
        {problem: [_weighed(change) for change in found] for problem, found in gains(trajectories).items()}
        for trajectories in row.by_seed.values()
    ]
    if row.problems == row.scores.n:
        centre = fixed - SEVERAL * broken
        half = Z95 * math.sqrt(max(0.0, fixed + SEVERAL**2 * broken - centre**2) / row.scores.n)
        interval = (100 * (centre - half), 100 * (centre + half))
    else:
        interval = clustered_interval(
            (problem, value) for seed in weighed for problem, found in seed.items() for value in found
        )
    said = f"fixes {100 * fixed:.1f}, breaks {100 * broken:.1f}"
    return _claim(claim, paper, said, interval, row.problems, judged(interval), list(map(_mean_of, weighed)))


def _weighed(change: int) -> float:
    """Return what a change counts, in points: a broken answer against `SEVERAL` fixed ones."""
    return 100.0 * (change if change >= 0 else SEVERAL * change)


def reinforced(rows: Rows, name: str = "grpo", called: str = "RL") -> list[Claim]:
    """Return the three parts of 5.4, each from a paired test of a row after RL against IFT's."""
    stated = [
        (f"5.4 {called} raises Final above IFT's", "PPO 77.2 → 80.2"),
        (f"5.4 {called} raises Turn 1 above IFT's", "PPO 72.6 → 75.8"),
        (f"5.4 {called} narrows Δ", "4.6 → 4.4"),
    ]
    if not {"ift", name} <= rows.keys():
        return [_missing(claim, paper, *(row for row in ("ift", name) if row not in rows)) for claim, paper in stated]
    before, after, seeds = over_common_seeds(rows["ift"], rows[name])
    if not seeds:
        return [_apart(claim, paper, "ift", name) for claim, paper in stated]
    change, by_seed = paired_by(before, after, seeds, gains)
    low, high = change.gain_interval
    said = f"Δ {_of(before.scores.delta.value):+.1f} → {_of(after.scores.delta.value):+.1f}: {change.gain:+.1f} points"
    narrows = judged((-high, -low))
    return [
        raised(*stated[0], before, after, seeds, final_correct, "final"),
        raised(*stated[1], before, after, seeds, first_correct, "turn1"),
        _claim(*stated[2], said, change.gain_interval, change.n, narrows, by_seed),
    ]


def above(rows: Rows, lower: str, upper: str, claim: str, paper: str = "", control: bool = False) -> Claim:
    """Return the claim that one row ends above another, by the paired test of their final answers."""
    lacking = [name for name in (lower, upper) if name not in rows]
    if lacking:
        return Claim(claim, paper, f"no row {' and '.join(lacking)}", None, 0, Found.MISSING, control)
    before, after, seeds = over_common_seeds(rows[lower], rows[upper])
    if not seeds:
        return _apart(claim, paper, lower, upper, control)
    return raised(claim, paper, before, after, seeds, final_correct, "final", control)


def _control(rows: Rows, lower: str, upper: str, statement: str) -> Claim:
    """Return a control: that one row ends above another, with what it took to make the model of each."""
    found = above(rows, lower, upper, f"control: {statement}", control=True)
    if found.verdict is Found.MISSING:
        return found
    took = " and ".join(_sampled(rows[name].result) for name in (lower, upper))
    return replace(found, ours=f"{found.ours}; tokens sampled to make them: {took}")


def _sampled(result: EvalResult) -> str:
    return "not recorded" if result.compute is None else f"{result.compute.sampled_tokens:,}"


def _apart(claim: str, paper: str, a: str, b: str, control: bool = False) -> Claim:
    return Claim(claim, paper, f"no seed has both {a} and {b}", None, 0, Found.MISSING, control)


Outcomes = Callable[[Sequence[Trajectory]], Mapping[str, Sequence[float]]]


def raised(
    claim: str,
    paper: str,
    before: Measured,
    after: Measured,
    seeds: Sequence[str],
    outcomes: Outcomes,
    field: str,
    control: bool = False,
) -> Claim:
    """Return a claim that a share rises, by its paired test; the p-value decides, the interval shows how much."""
    test, by_seed = paired_by(before, after, seeds, outcomes)
    low, high = (_of(getattr(row.scores, field).value) for row in (before, after))
    said = f"{low:.1f} → {high:.1f}: {test.gain:+.1f} points, p = {test.p_value:.2g} ({test.test})"
    found = judged(test.gain_interval)
    if (test.p_value < 0.05) != (found is not Found.OPEN):
        found = Found.OPEN
    return _claim(claim, paper, said, test.gain_interval, test.n, found, by_seed, control)


def paired_by(
    before: Measured, after: Measured, seeds: Sequence[str], outcomes: Outcomes
) -> tuple[PairedTest, list[float]]:
    """Return the paired test of problems by their means over all seeds, and the gain of each seed alone, in points."""
    test = paired_test(outcomes(before.trajectories), outcomes(after.trajectories))
    each = [(outcomes(before.of(seed)), outcomes(after.of(seed))) for seed in seeds] if len(seeds) > 1 else []
    return test, [_gain_of(a, b) for a, b in each] or [test.gain]


def _gain_of(a: Mapping[str, Sequence[float]], b: Mapping[str, Sequence[float]]) -> float:
    common = a.keys() & b.keys()
    return 100 * math.fsum(_mean(b[problem]) - _mean(a[problem]) for problem in common) / max(1, len(common))


def final_correct(trajectories: Sequence[Trajectory]) -> dict[str, list[float]]:
    """Return by problem whether the final answers are correct, where the grader could tell."""
    return _correct(trajectories, -1)


def first_correct(trajectories: Sequence[Trajectory]) -> dict[str, list[float]]:
    """Return by problem whether the first attempts are correct, where the grader could tell."""
    return _correct(trajectories, 0)


def _correct(trajectories: Sequence[Trajectory], attempt: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for t in trajectories:
        if (value := is_correct(t.attempts[attempt])) is not None:
            found.setdefault(t.problem.id, []).append(float(value))
    return found


def _mean_of(values: Mapping[str, Sequence[float]]) -> float:
    return _mean([value for found in values.values() for value in found])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _share(value: float | None) -> float:
    return _of(value) / 100


def _of(value: float | None) -> float:
    return math.nan if value is None else value
