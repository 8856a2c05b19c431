"""What a finished stage says: what was made, where it is, its figures, and the next command.

Everything is read from the stage's recipe and summary, so that a stage which was done already says the same.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from selfcorrect.loading import SHIPPED
from selfcorrect.printing import Command
from selfcorrect.runs.folder import is_done
from selfcorrect.shipped import model_of, recipes_of


def folder_of(stage: str, recipe: Any, run: Path) -> Path:
    """Return where a stage writes; ``stage`` is its command: gen, eval, train sft, ..."""
    if stage == "gen":
        return run / "gen"
    if stage == "eval":
        return run / "eval" / str(recipe.row)
    return run / "checkpoints" / str(getattr(recipe, "name", "embedded"))


def is_finished(stage: str, recipe: Any, run: Path) -> bool:
    """True where the stage has been run to its end before."""
    return is_done(folder_of(stage, recipe, run))


def closing(stage: str, recipe: Any, run: Path, summary: Any, before: bool) -> RenderableType:
    """Return the closing words of a stage; ``before`` says that it was done already and was only read."""
    folder = folder_of(stage, recipe, run)
    if stage == "gen":
        made, figures, commands = _of_gen(recipe, run, summary)
    elif stage == "eval":
        made, figures, commands = _of_eval(recipe, run, summary)
    else:
        made, figures, commands = _of_training(stage.rpartition(" ")[2], recipe, run, summary)
    lines: list[RenderableType] = [Text.assemble((f"{made}: ", "bold"), str(folder))]
    lines += [Text(figure) for figure in figures]
    if before:
        lines.append(Text("already done: nothing was run; another --run folder, or another name, makes it anew"))
    table: list[RenderableType] = []
    if stage == "eval":
        from selfcorrect.eval.tables.demo_table import show_rows

        table = [show_rows([summary])]
    following = [Text("next:", style="bold")] * bool(commands) + [
        *(Command(shlex.join(words), style="") for words in commands)
    ]
    head = f"{'already done' if before else 'done'}: {stage}"
    return Group(*table, Panel(Group(*lines), title=Text(head), title_align="left", border_style="green"), *following)


def without_rows(stage: str, summary: Any, run: Path) -> str | None:
    """Return what to say of a `gen` that wrote no training row, with the likely reason; None of any other stage."""
    if stage != "gen" or summary is None:
        return None
    rows = {name: count for name, count in summary["rows"].items() if name not in ("prompts", "pass_rates")}
    if not rows or any(rows.values()):
        return None
    problems = summary["problems"]["sampled from"]
    return (
        f"gen wrote no training row: {problems:,} problems were sampled and no trajectory was accepted.\n"
        f"{_pass_rates(summary)}\n"
        f"{_likely_reason(summary)}\n"
        f"Pass rates by problem: {run / 'data' / 'pass_rates.jsonl'}. This folder is finished: use another --run."
    )


def _pass_rates(summary: Mapping[str, Any]) -> str:
    shares = [
        f"{name} {counts['acceptance']:.0%} accepted"
        for name, counts in summary["samples"].items()
        if counts.get("acceptance") is not None
    ]
    return "By stage and class: " + ("; ".join(shares) or "nothing was sampled") + "."


def _likely_reason(summary: Mapping[str, Any]) -> str:
    share = summary["samples"].get("attempts", {}).get("acceptance")
    if share is not None and share < 0.05:
        return f"Likely: the model is too weak for these problems ({share:.0%} of its attempts are correct)."
    if share is not None and share > 0.95:
        return f"Likely: these problems are too easy for the model ({share:.0%} of its attempts are correct)."
    return "Likely: the model does not write verdicts or revisions in the form that is asked for (see gen/*.jsonl)."


def _of_gen(recipe: Any, run: Path, summary: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    rows = ", ".join(f"{name} {count:,}" for name, count in summary["rows"].items())
    figures = [f"data sets in {run / 'data'}: {rows or 'none'}"]
    if summary["short"]:
        figures.append("short of the recipe: " + ", ".join(f"{name} by {n:,}" for name, n in summary["short"].items()))
    model = str(recipe.engine.model)
    commands = []
    if summary["rows"].get("self-rewarding"):
        commands.append(_training("sft", "-sft", model, run))
    if summary["rows"].get("preferences"):
        commands.append(_training("dpo", "-mdpo", model, run))
    return "samples and data sets", figures, commands


def _of_training(
    name: str, recipe: Any, run: Path, summary: Mapping[str, Any]
) -> tuple[str, list[str], list[list[str]]]:
    folder = folder_of(f"train {name}", recipe, run)
    figures = [f"{key.replace('_', ' ')} {value:g}" for key, value in summary.items() if _is_figure(value)]
    base = str(getattr(recipe, "model", "embedded"))
    test = _of_problems(base)
    if name == "orm":
        judged = ["method=judged", "judge.kind=orm", f"judge.engine.model={folder}", f"engine.model={base}"]
        return "an outcome reward model", [", ".join(figures)], [_evaluation(test, "orm-judged", judged, run)]
    commands = [_evaluation(test, folder.name, [f"engine.model={folder}"], run)]
    if name == "sft":
        commands.append([*_training("grpo", "-grpo", base, run)[:4], f"model={folder}", "--run", str(run)])
    return "a model", [", ".join(figures)] if figures else [], commands


def _of_eval(recipe: Any, run: Path, result: Any) -> tuple[str, list[str], list[list[str]]]:
    scores = result.scores
    odd = ", ".join(f"{name} {count}" for name, count in scores.faults.items())
    dropped = ", ".join(f"{count:,} × {reason}" for reason, count in result.dropped.items())
    figures = [f"n = {scores.n}: turn 1 {_percent(scores.turn1.value)} → final {_percent(scores.final.value)}"]
    figures += [scores.power] if scores.power else []
    figures.append(f"odd paths: {odd or 'none'}" + (f"; dropped problems: {dropped}" if dropped else ""))
    return "graded paths and scores", figures, [["selfcorrect", "report", "html", str(run)]]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}%"


def _is_figure(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _training(program: str, ending: str, model: str, run: Path) -> list[str]:
    """Return the training command for a model: its own shipped recipe, or the embedded model's on this model."""
    recipe = next(
        (name for name in recipes_of("train", ending) if model_of("train", name) == model), f"embedded{ending}"
    )
    own = [] if model_of("train", recipe) == model else [f"model={model}"]
    return ["selfcorrect", "train", program, recipe, *own, "--run", str(run)]


def _evaluation(recipe: str, row: str, settings: Sequence[str], run: Path) -> list[str]:
    return ["selfcorrect", "eval", recipe, f"row={row}", *settings, "--run", str(run)]


def _of_problems(model: str) -> str:
    """Return the evaluation recipe of the problems that a model was trained on."""
    return "embedded" if model in SHIPPED or "/checkpoints/" in model else "math500"
