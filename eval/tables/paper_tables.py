"""Tables 3 to 10, the error budget and calibration, from finished runs: ours beside the paper's.

Every accuracy has its 95% interval; the paper's value beside it is marked ``in`` or ``out`` of that interval. A run on
a benchmark that the paper has not (the synthetic problems) is held against ``beside``: its numbers are then shown
without a mark, for another model on other problems proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcorrect.errors import InputError
from selfcorrect.eval.analysis.calibration import Quality, judged, quality
from selfcorrect.eval.analysis.error_budget import PARTS, Budget, budgets_by, error_budget, published
from selfcorrect.eval.results import Estimate, EvalResult, EvaluatedRow
from selfcorrect.eval.tables.columns import COLUMNS, headings
from selfcorrect.eval.tables.paper import (
    BENCHMARKS,
    FIELDS,
    TEMPERATURES,
    Published,
    belongs,
    benchmark_of,
    command,
    is_same_method,
    published_rows,
    published_tables,
)
from selfcorrect.eval.tables.seeds import SeededRow
from selfcorrect.metrics import power_note
from selfcorrect.table import BESIDE, DASH, Table
from selfcorrect.types import to_json

BUDGET_HEAD = (
    "method",
    *headings(("n", "wrong", *PARTS, "final", "perfect_judge", "perfect_fixer", "bottleneck")),
)
BUDGET_NOTES = (
    "Percent of problems [95% interval]. Wrong at turn 1 = never flagged + not fixed + fixed; "
    "correct = broken + kept + left alone.",
    "Perfect judge: Final if all wrong attempts, and no correct one, were flagged and fixed as often as now. "
    "Perfect fixer: Final if every revision were correct.",
)
QUALITY = ("ece", "ece_binned", "brier", "auroc", "aurc")
FEWEST_JUDGED = 20  # a reliability diagram of fewer judgements says nothing


def paper_table(
    name: str, rows: Sequence[EvaluatedRow], run: Path, beside: str | None = None, apart: Sequence[str] = ()
) -> Table:
    """Return one of the paper's tables with our rows beside its rows; a row that no run fills shows its command.

    ``apart`` are further notes: what was not pooled over seeds.
    """
    theirs, every = published_rows(name), rows
    rows = [row for row in rows if row.result.is_result]  # always revised: no result, but p c→i
    temperature, columns = TEMPERATURES.get(name, 1.0), FIELDS[name]
    with_seeds = any(_seeds(row) > 1 for row in rows)
    heads = headings(("n", "seeds") if with_seeds else ("n",))
    head = ("method", *heads, *(text for key in columns for text in (COLUMNS[key].heading, BESIDE)))
    lines: list[tuple[str, ...]] = []
    commands: list[str] = []
    guessed: list[EvaluatedRow] = []
    elsewhere: list[EvaluatedRow] = []
    for place, group in enumerate(_groups(name, theirs, rows, beside)):
        members = [row for row in theirs if row.group == group]
        fitting = [row for row in rows if _is_of_group(row, members[0].benchmark, place == 0)]
        benchmarks = sorted({benchmark_of(row) for row in fitting})
        ours = f"; ours on {', '.join(benchmarks)}" if benchmarks and benchmarks != [members[0].benchmark] else ""
        lines.append((f"{group}{ours}",))
        left = list(fitting)
        for member in members:
            mine = [row for row in fitting if belongs(row, member.method, temperature > 0)]
            left = [row for row in left if row not in mine]
            alike = [row for row in mine if row.result.sampling.temperature == temperature]
            elsewhere += [row for row in mine if alike and row not in alike]
            mine = alike or mine
            if not mine:
                like = fitting[0] if fitting else None
                asked = benchmarks[0] if benchmarks else member.benchmark
                commands.append(command(member.method, asked, temperature, run, like))
                lines.append(_line(member.method, None, member, columns, every, with_seeds))
            for row in mine:  # several runs may be this row: each is shown, by its name and model
                title = member.method if len(mine) == 1 else f"{member.method}: {row.name}, {_model(row)}"
                lines.append(_line(title, row, member, columns, every, with_seeds))
        guessed += [
            row for row in fitting if row.result.has_default_label and not row.result.checkpoint and row not in left
        ]
        lines += [_line(_title(row), row, None, columns, every, with_seeds) for row in left if _fills(row, columns)]
    rows = [row for row in rows if row not in elsewhere]
    notes = [*([SEEDS_NOTE] if with_seeds else []), *_notes(rows, temperature, guessed, elsewhere), *apart]
    if any(benchmark_of(row) not in {m.benchmark for m in theirs} for row in rows):
        notes.append("Ours on problems that the paper does not have: its values are shown, not compared.")
    notes = [
        f"{published_tables()['table8' if name == 'table7' else name]['caption']} (arXiv 2502.19613).",
        "Percent [95% interval]. in, out: the paper's value against our interval, where the benchmark is the same.",
        *notes,
    ]
    return Table(f"The paper's {name.replace('table', 'table ')}, ours beside it", head, lines, notes, commands)


def _groups(name: str, theirs: Sequence[Published], rows: Sequence[EvaluatedRow], beside: str | None) -> list[str]:
    """Return the parts of a table that ours stand beside: all, or those that ``beside`` names."""
    groups = list(dict.fromkeys(row.group for row in theirs))
    if beside is not None:
        named = [group for group in groups if beside.casefold() in group.casefold()]
        if not named:
            raise InputError(f"{name} has no group {beside!r}; it has {', '.join(groups)}")
        return named
    of_the_paper = not rows or any(benchmark_of(row) in BENCHMARKS.values() for row in rows)
    return groups if of_the_paper else groups[:1]  # runs on other problems stand beside one part of the table


def _notes(
    rows: Sequence[EvaluatedRow], temperature: float, guessed: Sequence[EvaluatedRow], elsewhere: Sequence[EvaluatedRow]
) -> list[str]:
    """Return what a reader must know of our rows; ``guessed`` have no label, ``elsewhere`` are not shown."""
    return [
        *_power(rows),
        *_sampling(rows, temperature),
        *(
            f"{row.name} ({_model(row)}) has no label of its own, so it stands where its method does; label= names it."
            for row in guessed
        ),
        *(
            f"{row.name} was sampled at temperature {row.result.sampling.temperature or 0:g}: it is not shown, for "
            f"there is a row at {temperature:g}, as the paper's."
            for row in elsewhere
        ),
    ]


def _title(row: EvaluatedRow) -> str:
    checkpoint = row.result.checkpoint if row.result.has_default_label else ""
    return f"{row.title} ({checkpoint})" if checkpoint else row.title


def _model(row: EvaluatedRow) -> str:
    return row.result.checkpoint or row.result.model or "model unknown"


def _is_of_group(row: EvaluatedRow, benchmark: str, is_first: bool) -> bool:
    mine = benchmark_of(row)
    return mine == benchmark if mine in BENCHMARKS.values() else is_first


def _fills(row: EvaluatedRow, columns: Sequence[str]) -> bool:
    wanted = [key for key in columns if key.startswith("rm_")] or ["final"]
    return all(_measure(row, key).value is not None for key in wanted) and row.result.method != "misleading"


def _measure(row: EvaluatedRow, field: str) -> Estimate:
    measure: Estimate = getattr(row.result.scores, field)
    return measure


def _line(
    title: str,
    mine: EvaluatedRow | None,
    member: Published | None,
    columns: Sequence[str],
    rows: Sequence[EvaluatedRow],
    with_seeds: bool,
) -> tuple[str, ...]:
    comparable = mine is not None and member is not None and benchmark_of(mine) == member.benchmark
    cells = [title, "missing" if mine is None else f"{mine.result.scores.n:,}"]
    cells += [_spread(mine)] if with_seeds else []
    for key in columns:
        measured = _misled(mine, rows) if key == "p_c2i" and mine else mine
        measure = _measure(measured, key) if measured and not _is_of_one_turn(measured, key) else Estimate()
        cells += [COLUMNS[key].figure(measure.value, measure.interval), _theirs(member, key, measure, comparable)]
    return tuple(cells)


def _is_of_one_turn(row: EvaluatedRow, field: str) -> bool:
    """True for what is measured of revisions, in a row of a method that never revises."""
    return row.result.method == "single-turn" and field in ("delta", "i2c", "c2i")


SEEDS_NOTE = (
    "With several seeds of data and training, n is problems × seeds, intervals resample problems (the same ones for "
    "every seed), and what the seeds differ by stands in its own column."
)


def _seeds(row: EvaluatedRow) -> int:
    return row.seeds if isinstance(row, SeededRow) else 1


def _spread(row: EvaluatedRow | None) -> str:
    """Return how many seeds a row has, and the lowest and highest Final among them; a dash where nothing is trained."""
    if row is None or not _seeds(row):
        return DASH
    finals = [member.result.scores.final.value for member in row.members] if isinstance(row, SeededRow) else []
    known = [final for final in finals if final is not None]
    return f"{_seeds(row)}: {min(known):.1f} to {max(known):.1f}" if len(known) > 1 else str(_seeds(row))


def _misled(mine: EvaluatedRow, rows: Sequence[EvaluatedRow]) -> EvaluatedRow | None:
    """Return the run that told the same model, on the same problems, that it was always wrong.

    That is ``stop=never`` for a model that judges itself, ``method=misleading`` for one that is asked; None where
    there is none.
    """
    misled = (row for row in rows if row.result.method == "misleading" or not row.result.is_result)
    return next((row for row in misled if _problems_and_model(row.result) == _problems_and_model(mine.result)), None)


def _problems_and_model(result: EvalResult) -> tuple[str | None, ...]:
    return result.model, result.benchmark, result.split


def _theirs(member: Published | None, key: str, ours: Estimate, comparable: bool) -> str:
    value = member.values.get(key) if member else None
    shown = COLUMNS[key].figure(value)
    if value is None or not comparable or ours.interval is None:
        return shown
    low, high = ours.interval
    return f"{shown} {'in' if low <= value <= high else 'out'}"


def _sampling(rows: Sequence[EvaluatedRow], temperature: float) -> list[str]:
    """Return a note where ours were not sampled as the paper's were."""
    ours = sorted({t for row in rows if (t := row.result.sampling.temperature) is not None})
    chats = {row.result.format == "two-turn" for row in rows}
    if not rows or (ours in ([], [temperature]) and chats == {temperature > 0}):
        return []
    kind = "the two-turn chat" if temperature else "one completion (long-CoT)"
    shown = ", ".join(f"{t:g}" for t in ours) or "unknown"
    return [
        f"The paper's were sampled at temperature {temperature:g} in {kind}; ours at {shown}, "
        f"{'in' if chats == {True} else 'not all in' if True in chats else 'none in'} the two-turn chat."
    ]


def _power(rows: Sequence[EvaluatedRow]) -> list[str]:
    widest: dict[int, float] = {}
    for row in rows:
        scores, (low, high) = row.result.scores, row.result.scores.final.interval or (0.0, 100.0)
        widest[scores.n] = max(widest.get(scores.n, 0.0), (high - low) / 2)
    return [power_note(n, resolution) + "." for n, resolution in sorted(widest.items())]


def budget_table(rows: Sequence[EvaluatedRow], by: str | None = None, apart: Sequence[str] = ()) -> Table:
    """Return the error budget of each row (by a field of its problems, such as level), the paper's own below it."""
    lines: list[tuple[str, ...]] = [("ours",)]
    fields: set[str] = set()
    split = False
    for row in rows:
        if row.result.method == "single-turn" or not row.result.is_result:
            continue
        trajectories = row.trajectories(tokens=False)
        lines.append(budget_line(row.title, error_budget(trajectories)))
        fields |= {name for t in trajectories for name in t.problem.meta}
        parts = budgets_by(trajectories, by) if by else {}
        lines += [budget_line(f"  {by} {value}", budget) for value, budget in parts.items()]
        split = split or bool(parts)
    if by and not split:
        raise InputError(f"no problem has a {by!r}; their fields are: {', '.join(sorted(fields)) or 'none'}")
    for benchmark, budgets in paper_budgets().items():
        lines.append((f"the paper, {benchmark}",))
        lines += [budget_line(method, budget) for method, budget in budgets.items()]
    papers = "The paper's parts follow from its accuracies, transitions and reward-model accuracies."
    return Table("Error budget", BUDGET_HEAD, lines, [*BUDGET_NOTES, papers, *_several(rows), *apart])


def _several(rows: Sequence[EvaluatedRow]) -> list[str]:
    """Return a note for each row that has the trajectories of several seeds."""
    return [f"{row.title}: {_seeds(row)} seeds of data and training." for row in rows if _seeds(row) > 1]


def budget_line(title: str, budget: Budget) -> tuple[str, ...]:
    """Return a budget as a line under `BUDGET_HEAD`."""
    intervals = budget.intervals or {}
    figures = (
        COLUMNS[field].figure(getattr(budget, field), intervals.get(field))
        for field in ("wrong", *PARTS, "final", "perfect_judge", "perfect_fixer")
    )
    return (title, DASH if budget.n is None else f"{budget.n:,}", *figures, budget.bottleneck)


def paper_budgets() -> dict[str, dict[str, Budget]]:
    """Return the budgets that the paper's tables imply, by benchmark and method: tables 3 with 4, and 8."""
    judges = published_rows("table4")
    out: dict[str, dict[str, Budget]] = {}
    for row in published_rows("table3"):
        judge = next((j for j in judges if j.group == row.group and is_same_method(j.method, row.method)), None)
        if judge:
            out.setdefault(row.group, {})[row.method] = _implied({**row.values, **judge.values})
    for row in published_rows("table8"):
        if "Gold RM" not in row.method:
            out.setdefault(row.group, {})[row.method] = _implied(row.values)
    return out


def _implied(values: Mapping[str, float]) -> Budget:
    return published(values["turn1"], values["i2c"], values["c2i"], values["rm_C"], values["rm_W"])


@dataclass(frozen=True, slots=True)
class Believed:
    """How far one row's P(correct) can be believed."""

    row: EvaluatedRow
    quality: Quality
    points: list[tuple[float, bool]]


def believed(rows: Sequence[EvaluatedRow]) -> list[Believed]:
    """Return the rows that have enough verdict probabilities, measured."""
    out = []
    for row in rows:
        if not has_own_verdicts(row.result):
            continue
        sample = judged(row.trajectories(tokens=False))
        if sample.n >= FEWEST_JUDGED:
            points = [(float(p), bool(right)) for p, right in zip(sample.p_N, sample.correct_N, strict=True)]
            out.append(Believed(row, quality(sample.p_N, sample.correct_N, sample.problems), points))
    return out


def has_own_verdicts(result: EvalResult) -> bool:
    """False for a row with a stop decision: its P(correct) is that of the row whose verdicts were sampled."""
    return result.stop in ("sampled", "never")


def calibration_table(measured: Sequence[Believed], run: Path, apart: Sequence[str] = ()) -> Table:
    """Return ECE, Brier, AUROC and the area under the risk-coverage curve of each row."""
    lines: list[tuple[str, ...]] = []
    for row in measured:
        q = row.quality
        lines.append((row.row.title, f"{q.n:,}", f"{q.right:,}", *quality_cells(to_json(q))))
    notes = [
        "First attempts with a verdict. ECE: mean distance of P(correct) from the share right, ten equal bins, points, "
        "corrected for the noise that the binned sum adds up. "
        "Brier: mean squared error. AUROC: chance that a right attempt gets the higher P(correct). AURC: mean error "
        "rate over all coverages, percent. [95% bootstrap over problems].",
        *_several([found.row for found in measured]),
        *apart,
    ]
    missing = [] if lines else [f"selfcorrect eval embedded method=self-rewarding row=ift --run {run}"]
    head = ("method", "n", "right", *headings(QUALITY))
    return Table("Is P(correct) to be believed?", head, lines, notes, missing)


def quality_cells(quality: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells under `QUALITY` of a `Quality`, which may be one that a calibration file holds as JSON."""
    intervals = quality["intervals"]
    return tuple(COLUMNS[field].figure(quality[field], intervals.get(field)) for field in QUALITY)
