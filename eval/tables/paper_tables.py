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
from selfcorrect.eval.results import Row
from selfcorrect.eval.tables.paper import (
    BENCHMARKS,
    COLUMNS,
    TEMPERATURES,
    Published,
    belongs,
    benchmark_of,
    command,
    is_same_method,
    published_rows,
    published_tables,
)
from selfcorrect.metrics import power_note
from selfcorrect.table import BESIDE, Table

TITLES = {
    "turn1": "Turn 1",
    "final": "Final",
    "delta": "Δ",
    "i2c": "Δ i→c",
    "c2i": "Δ c→i",
    "p_c2i": "p c→i",
    "rm_C": "RM C",
    "rm_W": "RM W",
}
FEWEST_JUDGED = 20  # a reliability diagram of fewer judgements says nothing


def paper_table(name: str, rows: Sequence[Row], run: Path, beside: str | None = None) -> Table:
    """Return one of the paper's tables with our rows beside its rows; a row that no run fills shows its command."""
    theirs = published_rows(name)
    every = rows
    rows = [row for row in rows if row.scores.get("stop") != "never"]  # always revised: no result, but p c→i
    groups = list(dict.fromkeys(row.group for row in theirs))
    if beside is not None:
        groups = [group for group in groups if beside.casefold() in group.casefold()]
        if not groups:
            known = ", ".join(dict.fromkeys(row.group for row in theirs))
            raise InputError(f"{name} has no group {beside!r}; it has {known}")
    if beside is None and rows and all(benchmark_of(row) not in BENCHMARKS.values() for row in rows):
        groups = groups[:1]  # runs on other problems stand beside one part of the table
    temperature = TEMPERATURES.get(name, 1.0)
    columns = COLUMNS[name]
    head = ("method", "n", *(text for key in columns for text in (TITLES[key], BESIDE)))
    lines: list[tuple[str, ...]] = []
    commands: list[str] = []
    guessed: list[Row] = []
    for place, group in enumerate(groups):
        members = [row for row in theirs if row.group == group]
        fitting = [row for row in rows if _is_of_group(row, members[0].benchmark, place == 0)]
        benchmarks = sorted({benchmark_of(row) for row in fitting})
        ours = f"; ours on {', '.join(benchmarks)}" if benchmarks and benchmarks != [members[0].benchmark] else ""
        lines.append((f"{group}{ours}",))
        left = list(fitting)
        for member in members:
            mine = [row for row in fitting if belongs(row, member.method, temperature > 0)]
            left = [row for row in left if row not in mine]
            if not mine:
                like = fitting[0] if fitting else None
                asked = benchmarks[0] if benchmarks else member.benchmark
                commands.append(command(member.method, asked, temperature, run, like))
                lines.append(_line(member.method, None, member, columns, every))
            for row in mine:  # several runs may be this row: each is shown, by its name and model
                title = member.method if len(mine) == 1 else f"{member.method}: {row.name}, {_model(row)}"
                lines.append(_line(title, row, member, columns, every))
        guessed += [row for row in fitting if row.has_default_label and not row.checkpoint and row not in left]
        lines += [_line(_title(row), row, None, columns, every) for row in left if _fills(row, columns)]
    notes = [
        f"{published_tables()['table8' if name == 'table7' else name]['caption']} (arXiv 2502.19613).",
        "Percent [95% interval]. in, out: the paper's value against our interval, where the benchmark is the same.",
        *_power(rows),
        *_sampling(rows, temperature),
        *(
            f"{row.name} ({_model(row)}) has no label of its own, so it stands where its method does; label= names it."
            for row in guessed
        ),
    ]
    if any(benchmark_of(row) not in {m.benchmark for m in theirs} for row in rows):
        notes.append("Ours on problems that the paper does not have: its values are shown, not compared.")
    return Table(f"The paper's {name.replace('table', 'table ')}, ours beside it", head, lines, notes, commands)


def _title(row: Row) -> str:
    return f"{row.label} ({row.checkpoint})" if row.has_default_label and row.checkpoint else row.label


def _model(row: Row) -> str:
    return row.checkpoint or str(row.scores.get("model") or "model unknown")


def _is_of_group(row: Row, benchmark: str, is_first: bool) -> bool:
    mine = benchmark_of(row)
    return mine == benchmark if mine in BENCHMARKS.values() else is_first


def _fills(row: Row, columns: Sequence[str]) -> bool:
    wanted = [key for key in columns if key.startswith("rm_")] or ["final"]
    return all(row.scores.get(key) is not None for key in wanted) and row.scores.get("loop") != "misleading"


def _line(
    title: str, mine: Row | None, member: Published | None, columns: Sequence[str], rows: Sequence[Row]
) -> tuple[str, ...]:
    comparable = mine is not None and member is not None and benchmark_of(mine) == member.benchmark
    cells = [title, "missing" if mine is None else f"{mine.scores['n']:,}"]
    for key in columns:
        scores: Mapping[str, Any] = mine.scores if mine else {}
        if key == "p_c2i" and mine:
            scores = _misled(mine, rows)
        cells += [_ours(scores, key), _theirs(member, key, scores, comparable)]
    return tuple(cells)


def _misled(mine: Row, rows: Sequence[Row]) -> Mapping[str, Any]:
    """Return the scores of the run that told the same model, on the same problems, that it was always wrong.

    That is ``stop=never`` for a model that judges itself, ``method=misleading`` for one that is asked; empty where
    there is none.
    """
    same = [
        row.scores
        for row in rows
        if (row.scores.get("loop") == "misleading" or row.scores.get("stop") == "never")
        and all(row.scores.get(key) == mine.scores.get(key) for key in ("model", "benchmark", "split"))
    ]
    return same[0] if same else {}


def _ours(scores: Mapping[str, Any], key: str) -> str:
    value, interval = scores.get(key), scores.get(f"{key}_interval")
    if value is None:
        return "–"
    sign = "+" if key == "delta" else ""
    shown = f"{value:{sign}.1f}"
    return shown if interval is None else f"{shown} [{interval[0]:{sign}.1f} {interval[1]:{sign}.1f}]"


def _theirs(member: Published | None, key: str, scores: Mapping[str, Any], comparable: bool) -> str:
    value = member.values.get(key) if member else None
    if value is None:
        return "–"
    sign = "+" if key == "delta" else ""
    interval = scores.get(f"{key}_interval")
    if not comparable or interval is None:
        return f"{value:{sign}.1f}"
    return f"{value:{sign}.1f} {'in' if interval[0] <= value <= interval[1] else 'out'}"


def _sampling(rows: Sequence[Row], temperature: float) -> list[str]:
    """Return a note where ours were not sampled as the paper's were."""
    ours = sorted({t for row in rows if (t := row.scores.get("temperature")) is not None})
    chats = {row.scores.get("loop") == "two-turn" for row in rows}
    if not rows or (ours in ([], [temperature]) and chats == {temperature > 0}):
        return []
    kind = "the two-turn chat" if temperature else "one completion (long-CoT)"
    shown = ", ".join(f"{t:g}" for t in ours) or "unknown"
    return [
        f"The paper's were sampled at temperature {temperature:g} in {kind}; ours at {shown}, "
        f"{'in' if chats == {True} else 'not all in' if True in chats else 'none in'} the two-turn chat."
    ]


def _power(rows: Sequence[Row]) -> list[str]:
    widest = {row.scores["n"]: 0.0 for row in rows}
    for row in rows:
        low, high = row.scores["final_interval"]
        widest[row.scores["n"]] = max(widest[row.scores["n"]], (high - low) / 2)
    return [power_note(n, resolution) + "." for n, resolution in sorted(widest.items())]


def budget_table(rows: Sequence[Row], by: str | None = None) -> Table:
    """Return the error budget of each row (by a field of its problems, such as level), the paper's own below it."""
    lines: list[tuple[str, ...]] = [("ours",)]
    fields: set[str] = set()
    split = False
    for row in rows:
        if row.scores.get("loop") == "single-turn" or row.scores.get("stop") == "never":
            continue
        paths = row.trajectories()
        lines.append(_budget_line(row.label, error_budget(paths)))
        fields |= {name for t in paths for name in t.problem.meta}
        parts = budgets_by(paths, by) if by else {}
        lines += [_budget_line(f"  {by} {value}", budget) for value, budget in parts.items()]
        split = split or bool(parts)
    if by and not split:
        raise InputError(f"no problem has a {by!r}; their fields are: {', '.join(sorted(fields)) or 'none'}")
    for benchmark, budgets in paper_budgets().items():
        lines.append((f"the paper, {benchmark}",))
        lines += [_budget_line(method, budget) for method, budget in budgets.items()]
    notes = [
        "Percent of problems [95% interval]. Wrong at turn 1 = never flagged + not fixed + fixed; "
        "right = broken + kept + left alone.",
        "Perfect judge: Final if all wrong attempts, and no right one, were flagged and mended as often as now. "
        "Perfect fixer: Final if every revision were right.",
        "The paper's parts follow from its accuracies, transitions and reward-model accuracies.",
    ]
    head = (
        "method",
        "n",
        "wrong",
        *(_short(part) for part in PARTS),
        "Final",
        "perfect judge",
        "perfect fixer",
        "lost in",
    )
    return Table("Error budget", head, lines, notes)


def _short(part: str) -> str:
    return {"never_flagged": "never flagged", "not_fixed": "not fixed", "left_alone": "left alone"}.get(part, part)


def _budget_line(title: str, budget: Budget) -> tuple[str, ...]:
    def part(name: str) -> str:
        value = f"{getattr(budget, name):.1f}"
        if not budget.intervals:
            return value
        low, high = budget.intervals[name]
        return f"{value} [{low:.1f} {high:.1f}]"

    judge = budget.perfect_judge
    return (
        title,
        "–" if budget.n is None else f"{budget.n:,}",
        f"{budget.wrong:.1f}",
        *map(part, PARTS),
        f"{budget.final:.1f}",
        "–" if judge is None else f"{judge:.1f}",
        f"{budget.perfect_fixer:.1f}",
        budget.bottleneck,
    )


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

    row: Row
    quality: Quality
    points: list[tuple[float, bool]]


def believed(rows: Sequence[Row]) -> list[Believed]:
    """Return the rows that have enough verdict probabilities, measured."""
    out = []
    for row in rows:
        if row.scores.get("stop", "sampled") not in ("sampled", "never"):
            continue  # the same P(correct) as the row whose verdicts were sampled
        sample = judged(row.trajectories())
        if sample.n >= FEWEST_JUDGED:
            points = [(float(p), bool(right)) for p, right in zip(sample.p_N, sample.right_N, strict=True)]
            out.append(Believed(row, quality(sample.p_N, sample.right_N, sample.problems), points))
    return out


def calibration_table(measured: Sequence[Believed], run: Path) -> Table:
    """Return ECE, Brier, AUROC and the area under the risk-coverage curve of each row."""
    lines: list[tuple[str, ...]] = []
    for row in measured:
        q = row.quality
        cells = [
            "–" if value is None else f"{value:.{d}f} [{q.intervals[key][0]:.{d}f} {q.intervals[key][1]:.{d}f}]"
            for key, value, d in (("ece", q.ece, 1), ("brier", q.brier, 3), ("auroc", q.auroc, 3), ("aurc", q.aurc, 1))
        ]
        lines.append((row.row.label, f"{q.n:,}", f"{q.right:,}", cells[0], f"{q.ece_binned:.1f}", *cells[1:]))
    notes = [
        "First attempts with a verdict. ECE: mean distance of P(correct) from the share right, ten equal bins, points, "
        "corrected for the noise that the binned sum adds up. "
        "Brier: mean squared error. AUROC: chance that a right attempt gets the higher P(correct). AURC: mean error "
        "rate over all coverages, percent. [95% bootstrap over problems].",
    ]
    missing = [] if lines else [f"selfcorrect eval embedded method=self-rewarding row=ift --run {run}"]
    head = ("method", "n", "right", "ECE", "as binned", "Brier", "AUROC", "AURC")
    return Table("Is P(correct) to be believed?", head, lines, notes, missing)
