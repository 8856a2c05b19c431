"""The paper's findings held against whole runs: `claims.claims_of`, and what only a study can test (5.5, 5.6, 5.7).

``selfcorrect report claims RUNS…`` and the last step of `reproduce` come here. Several runs are seeds of one study
(`seeds.over_seeds`); rows that are not, under one name, are an error. ``claims.json`` has every claim with its
interval, its n, its seeds and its scale; what no row tests is in it as not tested, with what it lacks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfcorrect.errors import DataError
from selfcorrect.eval.analysis.voting import Curve, at_equal_budget, curves, mean_curves
from selfcorrect.eval.results import SCORES, Estimate, read_row
from selfcorrect.eval.tables.claims import (
    Claim,
    Found,
    Measured,
    Rows,
    above,
    claims_of,
    judged,
    over_common_seeds,
    reinforced,
)
from selfcorrect.eval.tables.seeds import over_seeds
from selfcorrect.metrics import Z95
from selfcorrect.runs.jsonl import read_json, read_jsonl
from selfcorrect.shipped import base_of
from selfcorrect.table import DASH, Table

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
        (
            claim.claim,
            claim.paper or DASH,
            claim.ours,
            _interval(claim),
            f"{claim.n:,}",
            str(claim.seeds or DASH),
            str(claim.verdict),
        )
        for claim in found
    ]
    most = max((claim.seeds for claim in found), default=0)
    notes = [
        "A claim is decided by its 95% interval: it holds where all of it is on the claim's side, does not hold where "
        "none is, and cannot be told where it has both.",
        "n: problems; seeds: how many models of each row, by other seeds of data and training, count. A problem counts "
        "once, by its mean over the seeds; the interval is over problems, and how far apart the seeds lie is in ours."
        if most > 1
        else "n: problems; one seed of data and training.",
        f"Scale: {scale}.",
    ]
    table = Table("What the paper finds, held against this study", HEAD, lines, notes)
    return table, {"claims": [{**claim.to_json(), "scale": scale} for claim in found]}


HEAD = ("claim", "the paper", "ours", "interval", "n", "seeds", "verdict")


def _interval(claim: Claim) -> str:
    return DASH if claim.interval is None else f"{claim.interval[0]:+.1f} to {claim.interval[1]:+.1f}"


def pooled(runs: Sequence[Path]) -> Rows:
    """Return the rows of runs by their names, over their seeds; DataError where two of a name are no seeds of one."""
    read = [read_row(file.parent) for run in runs for file in sorted(run.glob(f"eval/*/{SCORES}"))]
    rows, notes = over_seeds(read)
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise DataError(
            f"claims are about one study, and these runs are not its seeds: {' '.join(notes)} Give the runs that are, "
            "or evaluate the row anew"
        )
    return {row.name: Measured(row.result, row.by_seed()) for row in rows}


def scale_of(rows: Rows) -> str:
    """Return the scale at which rows were made, by the model that they come from."""
    bases = {base_of(row.result.model) for row in rows.values() if row.result.model}
    if "embedded" in bases:
        return "laptop"
    return "smollm" if any("smol" in Path(base).name.casefold() for base in bases) else "gpu"


# --- 5.4: by PPO, as in the paper ---------------------------------------------------------------------------------


def _by_ppo(rows: Rows) -> list[Claim]:
    """Return 5.4 of PPO, which is the paper's own, beside GRPO's; and PPO against iterative DPO."""
    found = reinforced(rows, "ppo", "PPO") if {"ift", "ppo"} <= rows.keys() else []
    return [*found, above(rows, "dpo", "ppo", "5.4 PPO ends above iterative DPO", "78.6 → 80.2")]


# --- the judge ----------------------------------------------------------------------------------------------------


def _judging(rows: Rows, name: str) -> Claim:
    """Return a control: that a row's verdicts say something. Of a constant judge RM C and RM W come to 100."""
    claim = f"control: the verdicts of {name} are better than a constant one's: RM C + RM W > 100"
    scores, seeds = rows[name].scores, len(rows[name].by_seed)
    of_correct, of_wrong = scores.rm_C, scores.rm_W
    if of_correct.value is None or of_wrong.value is None:
        return Claim(claim, "", "RM C and RM W were not both measured", None, 0, Found.MISSING, control=True)
    above, half = of_correct.value + of_wrong.value - 100, math.hypot(_half(of_correct), _half(of_wrong))
    interval = (above - half, above + half)
    said = f"{of_correct.value:.1f} + {of_wrong.value:.1f}: {above:+.1f} points"
    return Claim(claim, "", said, interval, scores.problems or scores.n, judged(interval), control=True, seeds=seeds)


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
    one, other, seeds = over_common_seeds(rows[before], rows[after])
    if not seeds:
        return Claim(claim, paper, f"no seed has both {before} and {after}", None, 0, Found.MISSING)
    of_a, of_b = (getattr(row.scores, field) for row in (one, other))
    if of_a.value is None or of_b.value is None:
        return Claim(claim, paper, f"{field} was not measured", None, 0, Found.MISSING)
    change, half = of_b.value - of_a.value, math.hypot(_half(of_a), _half(of_b))
    interval = (change - half, change + half)
    found = judged((-interval[1], -interval[0])) if falls else judged(interval)
    said, n = f"{of_a.value:.1f} → {of_b.value:.1f}", min(of_a.n or 0, of_b.n or 0)
    return Claim(claim, paper, said, interval, n, found, seeds=len(seeds))


def _half(share: Estimate) -> float:
    low, high = share.interval or (0.0, 100.0)
    return (high - low) / 2


# --- 5.6: the hacked reward ---------------------------------------------------------------------------------------


def _hacked(runs: Sequence[Path]) -> list[Claim]:
    """Return what the last rollouts under the hacked reward say, by problem, against the start model's attempts."""
    claim = f"5.6 a reward for the correction itself makes first attempts worse, by more than {HACKED:g} points"
    paper = "Turn 1 18.6, Final 77.6 after 150 steps"
    folders = [folder for run in runs if (folder := run / "checkpoints" / "hacked").joinpath("metrics.jsonl").exists()]
    last = [
        change
        for folder in folders
        for row in list(read_jsonl(folder / "metrics.jsonl"))[-LAST:]
        for change in row.get("turn1_changes") or []
    ]
    if len(last) < 2:
        return [Claim(claim, paper, "no checkpoint hacked", None, 0, Found.MISSING)]
    mean = math.fsum(last) / len(last)
    half = Z95 * math.sqrt(math.fsum((change - mean) ** 2 for change in last) / (len(last) - 1) / len(last))
    interval = (100 * (mean - half), 100 * (mean + half))
    stopped = [folder for folder in folders if (done := folder / "DONE").exists() and read_json(done)["stopped_by"]]
    said = f"{100 * mean:+.1f} points on the problems of the last {LAST} rollouts"
    said += f"; the guard stopped {len(stopped)} of {len(folders)} runs"
    low, high = interval
    return [Claim(claim, paper, said, interval, len(last), judged((-high, -low), HACKED), seeds=len(folders))]


LAST = 5

# --- 5.7: voting ---------------------------------------------------------------------------------------------------


def _voting(rows: Rows) -> Claim:
    claim, paper = "5.7 at equal cost, correcting beats voting", "42.8 with 26.4 samples, majority of 64: 40.4"
    lacking = [name for name in ("vote-ift", "vote-single-turn") if name not in rows]
    if lacking:
        return Claim(claim, paper, f"no row {' and '.join(lacking)}", None, 0, Found.MISSING)
    one, other, seeds = over_common_seeds(rows["vote-ift"], rows["vote-single-turn"])
    if not seeds:
        return Claim(claim, paper, "no seed has both vote-ift and vote-single-turn", None, 0, Found.MISSING)
    corrected, alone = _curve(one, "correction + vote"), _curve(other, "maj@n")
    points = at_equal_budget(corrected, alone, "responses")
    if not points:
        return Claim(claim, paper, "no budget that both curves have", None, 0, Found.MISSING)
    dearest = points[-1]
    said = f"{dearest.ours:.1f} against {dearest.theirs:.1f} at {dearest.budget:.1f} responses a problem"
    n, found = len(corrected.problems), judged(dearest.interval)
    return Claim(claim, paper, said, dearest.interval, n, found, seeds=len(seeds))


def _curve(row: Measured, method: str) -> Curve:
    """Return a voting curve of a row, the mean over its seeds."""
    drawn = mean_curves([curves(found) for found in row.by_seed.values()])
    return next(curve for curve in drawn if curve.method == method)
