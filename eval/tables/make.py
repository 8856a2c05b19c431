"""`selfcorrect report NAME RUNS…`: a table or figure from finished runs, written as Markdown, LaTeX, CSV, PNG and SVG.

Files go to ``<first run>/tables/``; nothing is sampled. What is missing is shown with the command that makes it.
Rows of several runs that differ in the seed of data and training alone are one row (`seeds`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from selfcorrect.errors import InputError
from selfcorrect.eval.analysis.voting import UNITS, AtEqualBudget, Curve, at_equal_budget, curves, mean_curves
from selfcorrect.eval.results import find_rows
from selfcorrect.eval.tables.learning_curves import curve_table, learning_curves
from selfcorrect.eval.tables.paper import FIELDS, published_tables
from selfcorrect.eval.tables.paper_tables import believed, budget_table, calibration_table, paper_table
from selfcorrect.eval.tables.seeds import SeededRow, over_seeds
from selfcorrect.eval.tables.study_claims import study_claims
from selfcorrect.runs.jsonl import write_json, write_whole
from selfcorrect.table import DASH, Figure, Table

REPORTS = (*FIELDS, "figure1", "figure2", "budget", "calibration", "claims")


@dataclass(frozen=True, slots=True)
class Report:
    """The tables of a report and the files they were written to; tables and paths on a terminal."""

    name: str
    tables: dict[str, Table]
    files: list[Path]

    def __rich__(self) -> RenderableType:
        tables = [table.to_terminal() for table in self.tables.values()]
        return Group(*tables, *(Text(str(path), style="dim") for path in self.files))

    def to_json(self) -> dict[str, Any]:
        """Return the tables for a script: heads and rows of text, as they are in the CSV."""
        return {
            "report": self.name,
            "tables": {name: table.to_json() for name, table in self.tables.items()},
            "files": list(map(str, self.files)),
        }


def make(
    name: str, places: Sequence[Path], out: Path | None = None, beside: str | None = None, by: str | None = None
) -> Report:
    """Write one report of run folders (or single rows) and return it."""
    if not places:
        raise InputError("give at least one run folder, such as runs/demo")
    run = _run_of(places[0])
    out = out or run / "tables"
    if name == "figure1":
        steps = learning_curves(places)
        return _written(name, {name: curve_table(steps)}, out, lambda figures: figures.figure1(steps, out))
    if name == "claims":
        table, found = study_claims(places)
        write_json(out / "claims.json", found)
        report = _written(name, {name: table}, out)
        return replace(report, files=[out / "claims.json", *report.files])
    rows, apart = over_seeds(find_rows(places))
    if name == "figure2":
        tables, curves = _figure2(rows, run, apart)
        return _written(name, tables, out, (lambda figures: figures.figure2(curves, out)) if curves else None)
    if name == "budget":
        return _written(name, {name: budget_table(rows, by, apart)}, out)
    if name == "calibration":
        measured = believed(rows)
        draw = (lambda figures: figures.calibration(measured, out)) if measured else None
        return _written(name, {name: calibration_table(measured, run, apart)}, out, draw)
    return _written(name, {name: paper_table(name, rows, run, beside, apart)}, out)


def _run_of(place: Path) -> Path:
    return place.parent.parent if (place / "scores.json").is_file() and place.parent.name == "eval" else place


def _written(
    name: str, tables: dict[str, Table], out: Path, draw: Callable[[Any], Sequence[Path]] | None = None
) -> Report:
    """Write tables as Markdown, LaTeX and CSV, and draw the figures that belong to them."""
    paths = []
    for file, table in tables.items():
        for ending, text in ((".md", table.to_markdown()), (".tex", table.to_latex()), (".csv", table.to_csv())):
            paths.append(out / f"{file}{ending}")
            write_whole(paths[-1], [text])
    if draw is not None:
        from selfcorrect.eval.tables import figures

        paths += draw(figures)
    return Report(name, tables, paths)


def _figure2(
    rows: Sequence[SeededRow], run: Path, apart: Sequence[str]
) -> tuple[dict[str, Table], list[tuple[str, Curve]]]:
    """Voting curves of the rows with several sampling seeds; correction with a vote against baselines at equal cost.

    With several seeds of training a curve is the mean over the models.
    """
    several = [row for row in rows if len(row.result.sampling.seeds) > 1]
    drawn = [
        (row.title, curve)
        for row in several
        for curve in mean_curves([curves(found) for found in row.by_seed().values()])
    ]
    models = [f"{row.title}: the mean over {row.seeds} models, by seed." for row in several if row.seeds > 1]
    notes = [
        "Accuracy in percent [95% band over problems]; the mean over random subsets of n paths.",
        f"The paper's: {published_tables()['figure2']['caption']}.",
        *models,
        *apart,
    ]
    commands = []
    if not drawn:
        seeds = "'seeds=[0,1,2,3,4,5,6,7]'"
        commands = [
            f"selfcorrect eval embedded row=vote temperature=1.0 {seeds} engine.model={run}/checkpoints/ift --run {run}"
        ]
    head = ("method", "n", "responses", "tokens", "accuracy")
    lines: list[tuple[str, ...]] = []
    for label, curve in drawn:
        if (label,) not in lines:
            lines.append((label,))
        for point in curve.points:
            cost = (f"{point.responses:.1f}", f"{point.tokens:.0f}" if curve.has("tokens") else DASH)
            lines.append((curve.method, str(point.n), *cost, Figure(point.accuracy, point.interval)))
    tables = {"figure2": Table("Voting, as in the paper's figure 2", head, lines, notes, commands)}
    if drawn:
        tables["figure2-equal-budget"] = equal_budgets(drawn)
    return tables, [(f"{label}: {curve.method}", curve) for label, curve in drawn]


def equal_budgets(drawn: Sequence[tuple[str, Curve]]) -> Table:
    """Return correction with a vote against each other curve at equal responses and at equal tokens."""
    lines: list[tuple[str, ...]] = []
    for (label_a, a), (label_b, b) in combinations(drawn, 2):
        pair = [(label_a, a), (label_b, b)]
        if a.method != "correction + vote":
            pair.reverse()
        (label, ours), (other, theirs) = pair
        if ours.method != "correction + vote" or theirs.method == "correction + vote":
            continue
        for unit in UNITS:
            found = at_equal_budget(ours, theirs, unit)
            if found:
                lines.append((f"{label}: {ours.method}, against {other}: {theirs.method}, at equal {unit}",))
                lines += [_equal(point) for point in found]
    notes = [
        "The baseline is interpolated in the logarithm of the budget; the gain's band resamples problems in pairs."
    ]
    head = ("paths", "budget a problem", "correction + vote", "baseline", "gain, points")
    return Table("Correction against voting at equal cost", head, lines, notes)


def _equal(point: AtEqualBudget) -> tuple[str, ...]:
    gain = Figure(point.gain, point.interval, signed=True)
    return (str(point.n), f"{point.budget:.1f} {point.unit}", f"{point.ours:.1f}", f"{point.theirs:.1f}", gain)
