"""Result tables: rows of finished evaluations, paired tests between them, and the paper's claims checked.

``<run>/tables/demo.json`` is for machines, the Rich table for the terminal, ``demo.md`` for notes. A claim
that does not hold is shown as such: nothing here tunes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from selfcorrect.correction.loop import JUDGES_ITSELF
from selfcorrect.errors import DataError
from selfcorrect.eval.results import SCORES, Estimate, EvalResult, EvaluatedRow, RowScores, read_row
from selfcorrect.eval.tables.claims import Claim, Found, Measured, claims_of
from selfcorrect.eval.tables.columns import COMPUTE, COUNTED, JUDGED, REACHED, cell, headings
from selfcorrect.eval.tables.seeds import UNTRAINED as NO_SEED
from selfcorrect.metrics import compare, is_correct
from selfcorrect.runs.jsonl import read_json, write_json, write_whole
from selfcorrect.table import Table
from selfcorrect.types import Trajectory, to_json

DEMO_ROWS = ("intrinsic", "gold", "asked", "raft", "raft-plus", "ift", "grpo")
CONTROL_ROWS = ("ift-longer", "random", "grpo-kl")
"""Rows of `demo --controls`; shown where they are."""
MARKS = {"holds": ("✓ ", "green"), "does not hold": ("✗ ", "bold red"), "cannot be told": ("? ", "yellow")}
FIRST = (15, 16)  # characters of the first column on a terminal


def demo_tables(run: Path, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Write ``tables/demo.json`` and ``tables/demo.md`` of a finished demo run and return the former."""
    controls = [name for name in CONTROL_ROWS if (run / "eval" / name / SCORES).exists()]
    rows = {name: demo_row(run, name) for name in (*DEMO_ROWS, *controls)}
    results = {name: row.result for name, row in rows.items()}
    trajectories = {name: row.trajectories() for name, row in rows.items()}
    gain = compare(trajectories["ift"], trajectories["grpo"])
    claims = claims_of({name: Measured(results[name], {NO_SEED: trajectories[name]}) for name in rows})
    first = results[DEMO_ROWS[0]]
    table = {
        "rows": [result.to_json() for result in results.values()],
        "tests": [{"a": "self-rewarding IFT", "b": "self-rewarding IFT + GRPO", **to_json(gain)}],
        "checks": [_check(claim) for claim in claims],
        "benchmark": first.benchmark,
        "n": first.scores.n,
        "distinct_problems": len({t.problem.question for t in trajectories["ift"]}),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    write_json(run / "tables" / "demo.json", table)
    write_json(run / "tables" / "claims.json", {"claims": [claim.to_json() for claim in claims]})
    shares = ("n", *REACHED, *JUDGED, *COMPUTE)
    write_whole(run / "tables" / "demo.md", [result_table(list(results.values()), shares).to_markdown()])
    return table


def _check(claim: Claim) -> dict[str, Any]:
    """Return a claim as page and terminal show it; ``holds`` is None where it cannot be told or was not tested."""
    interval = "" if claim.interval is None else f" [{claim.interval[0]:+.1f} {claim.interval[1]:+.1f}]"
    paper = f"; the paper: {claim.paper}" if claim.paper else ""
    holds = {Found.HOLDS: True, Found.FAILS: False}.get(claim.verdict)
    return {
        "claim": claim.claim,
        "holds": holds,
        "verdict": str(claim.verdict),
        "evidence": claim.ours + interval + paper,
    }


def demo_row(run: Path, name: str) -> EvaluatedRow:
    """Return one row of the demo; DataError with the command that makes it where it is missing."""
    folder = run / "eval" / name
    if not (folder / SCORES).exists():
        words = f"selfcorrect eval embedded row={name} ... --run {run}"
        raise DataError(f"no scores at {folder / SCORES}; make them with: {words}")
    return read_row(folder)


def result_table(results: Sequence[EvalResult], fields: Sequence[str] = ("n", *REACHED, *JUDGED, *COUNTED)) -> Table:
    """Return results as a table, one a line."""
    lines = [(result.title, *(cell(result, field) for field in fields)) for result in results]
    return Table("", ("method", *headings(fields)), lines)


def _of(measure: Estimate) -> float:
    """Return the value of a measure that every result has."""
    if measure.value is None:
        raise DataError("a result without scores: evaluate the row anew")
    return measure.value


def _gain(scores: RowScores) -> str:
    low, high = scores.delta.interval or (-100.0, 100.0)
    return f"Δ = {_of(scores.delta):+.1f} [{low:+.1f}, {high:+.1f}]"


def _is_gain(scores: RowScores) -> bool:
    return scores.delta.interval is not None and scores.delta.interval[0] > 0


def _fixes_thrice(scores: RowScores) -> bool:
    return _of(scores.i2c) >= 3 * _of(scores.c2i) and _of(scores.i2c) > 0


def paired_tests(rows: Sequence[tuple[EvalResult, Sequence[Trajectory]]]) -> list[dict[str, Any]]:
    """Return the paired test of every two rows of one problem set, as `demo.json` holds them."""
    found = []
    for (a, of_a), (b, of_b) in combinations(rows, 2):
        same = (a.benchmark, a.split) == (b.benchmark, b.split)
        if same and _scored_problems(of_a) & _scored_problems(of_b):
            found.append({"a": a.title, "b": b.title, **to_json(compare(of_a, of_b))})
    return found


def _scored_problems(trajectories: Sequence[Trajectory]) -> set[str]:
    return {trajectory.problem.id for trajectory in trajectories if is_correct(trajectory.final) is not None}


def claims(results: Sequence[EvalResult]) -> list[dict[str, Any]]:
    """Return what the paper finds, asked of each row of a run that it is about; see `claims_of` for the demo's."""
    found = []
    for result in results:
        scores = result.scores
        if scores.delta.interval is None or not result.is_result:
            continue
        measured = f"{_gain(scores)}; Δi→c = {_of(scores.i2c):.1f}, Δc→i = {_of(scores.c2i):.1f}"
        judges = result.method in JUDGES_ITSELF
        unjudged = "revising without a verdict does not help: Final ≤ Turn 1"
        asked = [
            (result.method == "intrinsic", unjudged, _of(scores.delta) <= 0),
            (result.sees_references, "the gold verdict helps: Δ > 0", _is_gain(scores)),
            (judges, "the model corrects itself: Δ > 0", _is_gain(scores)),
            (judges, "it fixes at least three times what it breaks", _fixes_thrice(scores)),
        ]
        found += [
            {"claim": f"{result.title}: {claim}", "holds": holds, "evidence": measured}
            for applies, claim, holds in asked
            if applies
        ]
    return found


def show_rows(results: Sequence[EvalResult]) -> RenderableType:
    """Return results as narrow terminal tables: what was reached, how it was judged and counted, and what it took."""
    table = result_table(results)
    reached = 2 + len(REACHED)
    shown = [table.narrow(range(reached), FIRST), table.narrow([0, *range(reached, len(table.head))], FIRST)]
    if taken := compute_table(results):
        shown.append(taken.narrow(range(1 + len(COMPUTE)), FIRST))
    return Group(*shown)


def compute_table(results: Sequence[EvalResult]) -> Table | None:
    """Return what it took to make the model of each row, None where no row says so."""
    return result_table(results, tuple(COMPUTE)) if any(result.compute for result in results) else None


def show_rows_of(run: Path) -> RenderableType:
    """Return the demo's table, tests and claims for the terminal."""
    file = run / "tables" / "demo.json"
    table = read_json(file)
    lines = [
        Text.assemble(
            MARKS.get(check["verdict"], ("– ", "dim")),
            check["claim"],
            (f"  {check['verdict']}: {check['evidence']}", "dim"),
        )
        for check in table["checks"]
    ]
    head = f"percent, 95% intervals below; {table['n']} held-out problems, greedy; a model organism, not a large model"
    rows = [EvalResult.from_json(row, f"{file}, row {number}") for number, row in enumerate(table["rows"], 1)]
    return Group(show_rows(rows), Text(head, style="dim"), *lines)
