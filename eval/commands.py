"""What `selfcorrect eval calibrate | regrade | compare | import | export` do, and what they show.

Each function takes values and folders and returns what the terminal prints; model text is `rich.text.Text`, which reads
no markup.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from selfcorrect.chat import EMBEDDED, model_path
from selfcorrect.correction.stop_rule import CALIBRATION_FILE
from selfcorrect.errors import InputError
from selfcorrect.eval import lm_eval
from selfcorrect.eval.analysis.calibration import Fit, Target, tune
from selfcorrect.eval.results import SCORES, TRAJECTORIES, EvaluatedRow, Fingerprints, find_rows, read_trajectories
from selfcorrect.eval.run import EvalRecipe, regrade, run, summary
from selfcorrect.eval.tables.columns import headings
from selfcorrect.eval.tables.demo_table import show_rows
from selfcorrect.eval.tables.paper_tables import QUALITY, quality_cells
from selfcorrect.metrics import PairedTest, compare, is_correct, power_note
from selfcorrect.printing import Command, clean
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.runs.folder import mark_done, stage_folder
from selfcorrect.runs.jsonl import write_journal, write_json, write_jsonl
from selfcorrect.table import DASH, Table
from selfcorrect.types import Trajectory, to_json

FLIPS_SHOWN = 12


def calibrate(recipe: EvalRecipe, run_folder: Path, fit: Fit, target: Target, limit: float | None) -> RenderableType:
    """Sample the recipe's trajectories with every judged attempt revised, tune a stop rule on them, save it.

    It is saved in the row's folder, and beside the model where that is a checkpoint folder of the user's.
    """
    if recipe.problems.split == "test":
        raise InputError("a threshold tuned on the test split tests nothing: give problems.split=validation")
    if recipe.stop != "never":
        recipe = replace(recipe, stop="never")
    run(recipe, run_folder)
    folder = run_folder / "eval" / recipe.row
    tuned = tune(read_trajectories(folder), fit, target, limit) | {"model": recipe.engine.model}
    places = [folder / CALIBRATION_FILE]
    model = Path(model_path(recipe.engine.model))
    if model.is_dir() and model.resolve() != EMBEDDED.resolve():
        places.append(model / CALIBRATION_FILE)
    for place in places:
        write_json(place, tuned)
    saved = [Text(f"saved: {place}", style="dim") for place in places]
    words = ["selfcorrect", "eval", "embedded", f"row={recipe.row}-threshold", "stop=threshold"]
    words += [f"engine.model={recipe.engine.model}", f"calibration={places[-1]}", "--run", str(run_folder)]
    following: list[RenderableType] = [Text("next, on problems that it has not seen:", style="bold")]
    following.append(Command(shlex.join(words), style=""))
    return Group(show_calibration(tuned), *saved, *following)


def show_calibration(tuned: Mapping[str, Any]) -> RenderableType:
    """Return a calibration file as tables: the quality of P(correct), and what the threshold does."""
    kinds = (("before", "as the model says"), ("after", f"{tuned['fit']}, cross-fitted"))
    lines = [(title, f"{tuned[name]['n']:,}", *quality_cells(tuned[name])) for name, title in kinds]
    measures = Table("", ("P(correct)", *headings(("n", *QUALITY))), lines)
    effects = []
    for name, title in (
        ("argmax", "P(correct) ≥ 0.5"),
        ("chosen", f"target {tuned['target']}" + (f" ≤ {tuned['limit']:g}" if tuned["limit"] is not None else "")),
        ("expected", "the same, cross-fitted"),
    ):
        choice = tuned[name]
        threshold = "by fold" if name == "expected" else f"{choice['threshold']:.3f}"
        shares = [f"{choice[key]:.1f}" for key in ("final", "fixed", "broken", "revised")]
        effects.append((title, threshold, *shares, f"{choice['tokens']:.0f}"))
    note = (
        f"{tuned['n']} trajectories: {tuned['without_verdict']} without a verdict (these stop at turn 1), "
        f"{tuned['without_revision']} sent on without bringing a revision"
    )
    head = ("stop where", "threshold", "Final", "fixed", "broken, of right", "revised", "tokens")
    return Group(measures.all_columns(), Table("", head, effects).all_columns(), Text(note, style="dim"))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Row B against row A on the problems that both scored; tables on a terminal."""

    a: EvaluatedRow
    b: EvaluatedRow
    test: PairedTest
    flips: list[dict[str, Any]]
    differing: dict[str, tuple[Any, Any]]  # what else is not the same: grader, prompts, chat template, problems
    written: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the comparison for a script; the flips with their questions and answers."""
        rows = {name: {"label": row.title, "folder": str(row.folder)} for name, row in (("a", self.a), ("b", self.b))}
        return {**rows, "test": to_json(self.test), "differing": self.differing, "flips": self.flips}

    def __rich__(self) -> RenderableType:
        test, (low, high) = self.test, self.test.gain_interval
        lines = [
            Text(f"A: {self.a.title} ({self.a.folder})\nB: {self.b.title} ({self.b.folder})"),
            Text(
                f"B − A: {test.gain:+.1f} points [{low:+.1f} {high:+.1f}]; bootstrap over problems "
                f"[{test.bootstrap_interval[0]:+.1f} {test.bootstrap_interval[1]:+.1f}]; "
                f"p = {test.p_value:.3g} ({test.test}); correct more often: A on {test.only_a}, B on {test.only_b} "
                f"of {test.n} problems",
                style="bold",
            ),
            Text(power_note(test.n, (high - low) / 2) + " between these two", style="dim"),
        ]
        for key, (ours, theirs) in self.differing.items():
            lines.append(Text(f"careful: {key} differs, {ours} against {theirs}", style="yellow"))
        if self.written is not None:
            lines.append(Text(f"{len(self.flips)} flips written to {self.written}", style="dim"))
        head = ("problem", "right", "A answers", "B answers", "reference")
        table = Table("", head, [_flip_line(flip) for flip in self.flips[:FLIPS_SHOWN]], left=(1, 2, 3, 4))
        lines.append(Text(f"{len(self.flips)} trajectories flipped", style="bold"))
        if len(self.flips) > FLIPS_SHOWN:
            shown = f"the first {FLIPS_SHOWN} of {len(self.flips)}; all of them: --out flips.jsonl"
            lines.append(Text(shown, style="dim"))
        return Group(show_rows([self.a.result, self.b.result]), *lines, *([table.all_columns()] if self.flips else []))


def _flip_line(flip: Mapping[str, Any]) -> tuple[str, ...]:
    values = (flip[key] for key in ("problem", "right", "answer_a", "answer_b", "gold"))
    return tuple(clean(DASH if value is None else str(value))[:60] for value in values)


def compare_rows(a: Path, b: Path, out: Path | None = None) -> Comparison:
    """Test row B against row A on the problems that both scored, and list the problems that flipped."""
    row_a, row_b = _single(a), _single(b)
    of_a, of_b = row_a.trajectories(), row_b.trajectories()
    pairs = {
        key: (getattr(row_a.result.fingerprints, key), getattr(row_b.result.fingerprints, key))
        for key in ("grader", "prompts", "template")
    }
    pairs["benchmark"] = (row_a.result.benchmark, row_b.result.benchmark)
    found = flips(of_a, of_b)
    if out is not None:
        write_jsonl(out, found)
    differing = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    return Comparison(row_a, row_b, compare(of_a, of_b), found, differing, out)


def flips(a: list[Trajectory], b: list[Trajectory]) -> list[dict[str, Any]]:
    """Return the trajectories (of a problem and seed, else of a problem) that end correct in one run only."""
    exact = {(t.problem.id, t.seed): t for t in a}
    first = {t.problem.id: t for t in reversed(a)}
    found = []
    for after in b:
        before = exact.get((after.problem.id, after.seed)) or first.get(after.problem.id)
        if before is None or None in (is_correct(before.final), is_correct(after.final)):
            continue
        if is_correct(before.final) != is_correct(after.final):
            found.append(
                {
                    "problem": after.problem.id,
                    "seed": after.seed,
                    "right": "A" if is_correct(before.final) else "B",
                    "answer_a": before.final.answer,
                    "answer_b": after.final.answer,
                    "gold": after.problem.gold,
                    "question": after.problem.question,
                }
            )
    return found


def regrade_rows(places: list[Path]) -> RenderableType:
    """Grade the stored trajectories of rows (or of all rows of a run) again and show what changed."""
    results, lines = [], []
    for row in find_rows(places):
        result, changed = regrade(row.folder)
        results.append(result)
        kinds = ", ".join(f"{kind}: {count}" for kind, count in changed.items()) or "no grade changed"
        old, new = row.result.fingerprints.grader, result.fingerprints.grader
        lines.append(Text(f"{row.title}: {kinds}; {'same grader' if old == new else f'grader {old} → {new}'}"))
    return Group(show_rows(results), *lines)


def import_samples(file: Path, row: str, label: str, source: str, run_folder: Path) -> RenderableType:
    """Read an lm-evaluation-harness sample log as a row: its responses, graded by our grader."""
    log = lm_eval.read_samples(file, source)
    seeds = tuple(sorted({t.seed or 0 for t in log.trajectories}))
    recipe = EvalRecipe(
        row=row,
        label=label,
        method="single-turn",
        problems=ProblemsRecipe(source=str(file)),
        temperature=1.0 if len(seeds) > 1 else 0.0,
        seeds=seeds,
    )
    folder = run_folder / "eval" / row
    with stage_folder(folder, recipe):
        (folder / "DONE").unlink(missing_ok=True)  # importing again makes the row anew
        write_journal(
            folder / TRAJECTORIES,
            ((f"{t.problem.id}#{t.seed}", {"trajectory": t.to_json()}) for t in log.trajectories),
        )
        made = summary(recipe, log.trajectories, log.dropped)
        result = replace(
            made,
            scores=replace(made.scores, tokens_per_problem=None),  # the log does not hold tokens
            sampling=replace(log.sampling, seeds=seeds),
            fingerprints=Fingerprints(grader=made.fingerprints.grader),
            model=None,
            versions={},
            machine=None,
            imported=str(file),
        )
        write_json(folder / SCORES, result.to_json())
        mark_done(folder, {"n": result.scores.n})
    lines = [
        Text(f"exact_match of the log's filter {name!r} agrees with our grade on {same} of {asked} documents")
        for name, (same, asked) in log.agreed.items()
    ]
    return Group(show_rows([result]), *lines, Text(f"row: {folder}", style="dim"))


def export_samples(place: Path, out: Path | None) -> RenderableType:
    """Write a row as an lm-evaluation-harness sample log; importing it gives the same trajectories back."""
    row = _single(place)
    task = (row.result.benchmark or "selfcorrect").rsplit("/", 1)[-1].removesuffix(".jsonl")
    out = out or place / f"samples_{task}.jsonl"
    count = write_jsonl(out, lm_eval.samples(row.trajectories(), row.result.sampling))
    return Text(f"{count} samples: {out}")


def _single(place: Path) -> EvaluatedRow:
    rows = find_rows([place])
    if len(rows) != 1:
        names = ", ".join(row.name for row in rows) or "none"
        raise InputError(
            f"{place} has several rows ({names}); give one of them, such as {place / 'eval' / rows[0].name}"
        )
    return rows[0]
