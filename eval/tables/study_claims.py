"""The paper's findings held against whole runs: `claims.claims_of`, and what only a study can test (5.5, 5.6, 5.7).

``selfcorrect report claims RUNS…`` and the last step of `reproduce` come here. Several runs are seeds of one study: the
trajectories of a row are pooled over them, by problem. ``claims.json`` has every claim with its interval, its n and its
scale; what no row tests is in it as not tested, with what it lacks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfcorrect.errors import DataError
from selfcorrect.eval.analysis.voting import at_equal_budget, curves
from selfcorrect.eval.results import SCORES, Estimate, EvalResult, EvaluatedRow, RowScores, read_row
from selfcorrect.eval.tables.claims import Claim, Found, Rows, claims_of, judged
from selfcorrect.metrics import Z95, compare, score
from selfcorrect.runs.jsonl import read_jsonl
from selfcorrect.shipped import base_of
from selfcorrect.table import DASH, Table
from selfcorrect.types import Trajectory

HACKED = 5.0
"""Points by which the first attempts of a hacked policy are worse than the start model's."""


def study_claims(runs: Sequence[Path]) -> tuple[Table, dict[str, Any]]:
    """Return the claims of a study as a table, and as ``claims.json`` holds them."""
    rows = pooled(runs)
    if not rows:
        raise DataError(f"no evaluated rows in {', '.join(map(str, runs))}; make some: selfcorrect reproduce table3")
    own = [*_by_ppo(rows), *_compositions(rows), *_hacked(runs), _voting(rows)]
    tested = {claim.claim[:3] for claim in own if claim.verdict is not Found.MISSING}
    demo = claims_of(rows)
    found = [claim for claim in demo if claim.verdict is not Found.MISSING or claim.claim[:3] not in tested]
    found += [claim for claim in own if claim.claim[:3] in tested]
    found += [_judging(rows, name) for name in ("asked", "ift", "grpo") if name in rows]
    found.sort(key=lambda claim: (claim.control, "" if claim.control else claim.claim[:3]))
    scale = scale_of(rows)
    lines = [
        (claim.claim, claim.paper or DASH, claim.ours, _interval(claim), f"{claim.n:,}", str(claim.verdict))
        for claim in found
    ]
    notes = [
        "A claim is decided by its 95% interval: it holds where all of it is on the claim's side, does not hold where "
        "none is, and cannot be told where it has both.",
        f"Scale: {scale}; {len(runs)} seed{'s' * (len(runs) > 1)} of data and training.",
    ]
    table = Table("What the paper finds, held against this study", HEAD, lines, notes)
    return table, {"claims": [{**claim.to_json(), "scale": scale, "seeds": len(runs)} for claim in found]}


HEAD = ("claim", "the paper", "ours", "interval", "n", "verdict")


def _interval(claim: Claim) -> str:
    return DASH if claim.interval is None else f"{claim.interval[0]:+.1f} to {claim.interval[1]:+.1f}"


def pooled(runs: Sequence[Path]) -> Rows:
    """Return the rows of runs by their names; one that several runs have is scored over all its trajectories."""
    by_name: dict[str, list[EvaluatedRow]] = {}
    for run in runs:
        for file in sorted(run.glob(f"eval/*/{SCORES}")):
            by_name.setdefault(file.parent.name, []).append(read_row(file.parent))
    found: dict[str, tuple[EvalResult, Sequence[Trajectory]]] = {}
    for name, rows in by_name.items():
        trajectories = [trajectory for row in rows for trajectory in row.trajectories(tokens=False)]
        first = rows[0].result
        scores = first.scores if len(rows) == 1 else RowScores.of(score(first.label, trajectories))
        found[name] = (replace(first, scores=scores), trajectories)
    return found


def scale_of(rows: Rows) -> str:
    """Return the scale at which rows were made, by the model that they come from."""
    bases = {base_of(result.model) for result, _ in rows.values() if result.model}
    if "embedded" in bases:
        return "laptop"
    return "smollm" if any("smol" in Path(base).name.casefold() for base in bases) else "gpu"


# --- 5.4: by PPO, as in the paper ---------------------------------------------------------------------------------


def _by_ppo(rows: Rows) -> list[Claim]:
    """Return 5.4 of PPO, which is the paper's own, beside GRPO's; and PPO against iterative DPO."""
    above, paper = "5.4 PPO ends above iterative DPO", "78.6 → 80.2"
    found = []
    if {"ift", "ppo"} <= rows.keys():
        as_rl = claims_of({"ift": rows["ift"], "grpo": rows["ppo"]})
        found += [replace(c, claim=c.claim.replace(" RL ", " PPO ")) for c in as_rl if c.claim.startswith("5.4")]
    if {"dpo", "ppo"} <= rows.keys():
        test = compare(rows["dpo"][1], rows["ppo"][1])
        said = f"{test.gain:+.1f} points, p = {test.p_value:.2g} ({test.test})"
        found.append(Claim(above, paper, said, test.gain_interval, test.n, judged(test.gain_interval)))
    else:
        lacking = [name for name in ("dpo", "ppo") if name not in rows]
        found.append(Claim(above, paper, f"no row {' and '.join(lacking)}", None, 0, Found.MISSING))
    return found


# --- the judge ----------------------------------------------------------------------------------------------------


def _judging(rows: Rows, name: str) -> Claim:
    """Return a control: that a row's verdicts say something. Of a constant judge RM C and RM W come to 100."""
    claim = f"control: the verdicts of {name} are better than a constant one's: RM C + RM W > 100"
    scores = rows[name][0].scores
    of_correct, of_wrong = scores.rm_C, scores.rm_W
    if of_correct.value is None or of_wrong.value is None:
        return Claim(claim, "", "RM C and RM W were not both measured", None, 0, Found.MISSING, control=True)
    above, half = of_correct.value + of_wrong.value - 100, math.hypot(_half(of_correct), _half(of_wrong))
    interval = (above - half, above + half)
    said = f"{of_correct.value:.1f} + {of_wrong.value:.1f}: {above:+.1f} points"
    return Claim(claim, "", said, interval, scores.n, judged(interval), control=True)


# --- 5.5: what the set is made of ---------------------------------------------------------------------------------


def _compositions(rows: Rows) -> list[Claim]:
    more, less = "ift-more-incorrect", "ift-balanced"
    stricter = "5.5 more rows with a wrong first attempt make the judge stricter"
    with_d2, without = "ift-balanced-c2c-always", "ift-balanced-always"
    return [
        _rise(rows, less, more, "rm_W", f"{stricter}: RM W rises", "75.3 → 82.4"),
        _rise(rows, less, more, "rm_C", f"{stricter}: RM C falls", "72.1 → 63.6", falls=True),
        _rise(rows, without, with_d2, "p_c2i", "5.5 D2 rows lower p c→i", "45.0 → 36.1", falls=True),
    ]


def _rise(rows: Rows, before: str, after: str, field: str, claim: str, paper: str, falls: bool = False) -> Claim:
    """Return the claim that a share of one row is above (or below) that of another; their attempts are not paired."""
    lacking = [name for name in (before, after) if name not in rows]
    if lacking:
        return Claim(claim, paper, f"no row {' and '.join(lacking)}", None, 0, Found.MISSING)
    of_a, of_b = (getattr(rows[name][0].scores, field) for name in (before, after))
    if of_a.value is None or of_b.value is None:
        return Claim(claim, paper, f"{field} was not measured", None, 0, Found.MISSING)
    change, half = of_b.value - of_a.value, math.hypot(_half(of_a), _half(of_b))
    interval = (change - half, change + half)
    found = judged((-interval[1], -interval[0])) if falls else judged(interval)
    return Claim(claim, paper, f"{of_a.value:.1f} → {of_b.value:.1f}", interval, min(of_a.n or 0, of_b.n or 0), found)


def _half(share: Estimate) -> float:
    low, high = share.interval or (0.0, 100.0)
    return (high - low) / 2


# --- 5.6: the hacked reward ---------------------------------------------------------------------------------------


def _hacked(runs: Sequence[Path]) -> list[Claim]:
    """Return what the last rollouts under the hacked reward say, by problem, against the start model's attempts."""
    claim = f"5.6 a reward for the correction itself makes first attempts worse, by more than {HACKED:g} points"
    paper = "Turn 1 18.6, Final 77.6 after 150 steps"
    last = [
        change
        for run in runs
        if (file := run / "checkpoints" / "hacked" / "metrics.jsonl").exists()
        for row in list(read_jsonl(file))[-LAST:]
        for change in row.get("turn1_changes") or []
    ]
    if len(last) < 2:
        return [Claim(claim, paper, "no checkpoint hacked", None, 0, Found.MISSING)]
    mean = math.fsum(last) / len(last)
    half = Z95 * math.sqrt(math.fsum((change - mean) ** 2 for change in last) / (len(last) - 1) / len(last))
    interval = (100 * (mean - half), 100 * (mean + half))
    said = f"{100 * mean:+.1f} points on the problems of the last {LAST} rollouts before the guard stopped it"
    low, high = interval
    return [Claim(claim, paper, said, interval, len(last), judged((-high, -low), HACKED))]


LAST = 5

# --- 5.7: voting ---------------------------------------------------------------------------------------------------


def _voting(rows: Rows) -> Claim:
    claim, paper = "5.7 at equal cost, correcting beats voting", "42.8 with 26.4 samples, majority of 64: 40.4"
    lacking = [name for name in ("vote-ift", "vote-single-turn") if name not in rows]
    if lacking:
        return Claim(claim, paper, f"no row {' and '.join(lacking)}", None, 0, Found.MISSING)
    corrected = next(curve for curve in curves(rows["vote-ift"][1]) if curve.method == "correction + vote")
    alone = next(curve for curve in curves(rows["vote-single-turn"][1]) if curve.method == "maj@n")
    points = at_equal_budget(corrected, alone, "responses")
    if not points:
        return Claim(claim, paper, "no budget that both curves have", None, 0, Found.MISSING)
    dearest = points[-1]
    said = f"{dearest.ours:.1f} against {dearest.theirs:.1f} at {dearest.budget:.1f} responses a problem"
    return Claim(claim, paper, said, dearest.interval, len(corrected.problems), judged(dearest.interval))
