"""What a finished stage says: what was made, where it is, its figures, and the next command.

Everything is read from the stage's recipe and summary, so that a stage which was done already says the same.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from selfcorrect.loading import SHIPPED
from selfcorrect.printing import Command
from selfcorrect.shipped import model_of, recipes_of

if TYPE_CHECKING:
    from selfcorrect.data_gen.recipe import GenRecipe
    from selfcorrect.eval.results import EvalResult
    from selfcorrect.eval.run import EvalRecipe
    from selfcorrect.train.common.recipe import TrainerRecipe
    from selfcorrect.train.embedded.pretrain import PretrainRecipe


@dataclass(frozen=True, slots=True)
class Closing:
    """What a stage says at its end. ``table`` stands above the panel; ``fault`` says that nothing useful was made."""

    made: str
    figures: Sequence[str]
    following: Sequence[Sequence[str]]
    table: RenderableType | None = None
    fault: str | None = None


def show_closing(name: str, folder: Path, said: Closing, before: bool) -> RenderableType:
    """Return a stage's closing words as they are printed; ``before``: it was done already and was only read."""
    lines: list[RenderableType] = [Text.assemble((f"{said.made}: ", "bold"), str(folder))]
    lines += [Text(figure) for figure in said.figures]
    if before:
        lines.append(Text("already done: nothing was run; another --run folder, or another name, makes it anew"))
    head = f"{'already done' if before else 'done'}: {name}"
    parts: list[RenderableType] = [] if said.table is None else [said.table]
    parts.append(Panel(Group(*lines), title=Text(head), title_align="left", border_style="green"))
    if said.following:
        parts.append(Text("next:", style="bold"))
    return Group(*parts, *(Command(shlex.join(words), style="") for words in said.following))


# --- where a stage writes -----------------------------------------------------------------------------------------


def gen_folder(recipe: GenRecipe, run: Path) -> Path:
    """Return the folder of samples; the data sets lie beside it, in ``data``."""
    return run / "gen"


def row_folder(recipe: EvalRecipe, run: Path) -> Path:
    """Return the folder of an evaluated row."""
    return run / "eval" / recipe.row


def checkpoint_folder(recipe: TrainerRecipe, run: Path) -> Path:
    """Return the folder of a trained model."""
    return run / "checkpoints" / recipe.name


def embedded_folder(recipe: PretrainRecipe, run: Path) -> Path:
    """Return the folder of an embedded model made anew."""
    return run / "checkpoints" / "embedded"


# --- what it says -------------------------------------------------------------------------------------------------


def close_gen(recipe: GenRecipe, run: Path, summary: Mapping[str, Any]) -> Closing:
    """Return the data sets and the training that they are for."""
    rows = ", ".join(f"{name} {count:,}" for name, count in summary["rows"].items())
    figures = [f"data sets in {run / 'data'}: {rows or 'none'}"]
    if summary["short"]:
        figures.append("short of the recipe: " + ", ".join(f"{name} by {n:,}" for name, n in summary["short"].items()))
    model = recipe.engine.model
    following = []
    if summary["rows"].get("self-rewarding"):
        following.append(_training("sft", "-sft", model, run))
    if summary["rows"].get("preferences"):
        following.append(_training("dpo", "-mdpo", model, run))
    return Closing("samples and data sets", figures, following, fault=without_rows(summary, run))


def close_policy(recipe: TrainerRecipe, run: Path, summary: Mapping[str, Any]) -> Closing:
    """Return a trained policy's figures and its evaluation."""
    return _close_model(checkpoint_folder(recipe, run), recipe.model, run, summary)


def close_sft(recipe: TrainerRecipe, run: Path, summary: Mapping[str, Any]) -> Closing:
    """Return what a policy says, and GRPO from it."""
    said, folder = close_policy(recipe, run, summary), checkpoint_folder(recipe, run)
    grpo = [*_training("grpo", "-grpo", recipe.model, run)[:4], f"model={folder}", "--run", str(run)]
    return replace(said, following=[*said.following, grpo])


def close_orm(recipe: TrainerRecipe, run: Path, summary: Mapping[str, Any]) -> Closing:
    """Return a judge's figures, and the evaluation in which it judges."""
    folder, base = checkpoint_folder(recipe, run), recipe.model
    judged = ["method=judged", "judge.kind=orm", f"judge.engine.model={folder}", f"engine.model={base}"]
    return Closing(
        "an outcome reward model",
        [", ".join(_figures(summary))],
        [_evaluation(_of_problems(base), "orm-judged", judged, run)],
    )


def close_pretrain(recipe: PretrainRecipe, run: Path, summary: Mapping[str, Any]) -> Closing:
    """Return an embedded model's figures and its evaluation."""
    return _close_model(embedded_folder(recipe, run), "embedded", run, summary)


def close_eval(recipe: EvalRecipe, run: Path, result: EvalResult) -> Closing:
    """Return the scores, and the page that shows them."""
    from selfcorrect.eval.tables.demo_table import show_rows

    scores = result.scores
    odd = ", ".join(f"{name} {count}" for name, count in scores.faults.items())
    dropped = ", ".join(f"{count:,} × {reason}" for reason, count in result.dropped.items())
    figures = [f"n = {scores.n}: turn 1 {_percent(scores.turn1.value)} → final {_percent(scores.final.value)}"]
    figures += [scores.power] if scores.power else []
    figures.append(f"odd paths: {odd or 'none'}" + (f"; dropped problems: {dropped}" if dropped else ""))
    page = ["selfcorrect", "report", "html", str(run)]
    return Closing("graded paths and scores", figures, [page], table=show_rows([result]))


def without_rows(summary: Mapping[str, Any], run: Path) -> str | None:
    """Return what to say of a `gen` that wrote no training row, with the likely reason; None where it wrote some."""
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


UNUSED = {
    "prompt-too-long": "do not fit the model's context with max_tokens; leave those problems out or take another model",
    "refused": "were refused by the server; its answer is in gen/attempts.jsonl",
    "cut": "were cut at max_tokens; raise it",
    "ungradable": "hold no answer that the grader can read; see gen/attempts.jsonl for what the model writes",
    "marked": "hold a verdict mark of their own; see gen/attempts.jsonl",
}
"""What is to be said of attempts that are neither correct nor wrong, where most are of one kind."""


def _likely_reason(summary: Mapping[str, Any]) -> str:
    counts = summary["samples"].get("attempts", {})
    attempts = sum(count for name, count in counts.items() if name != "acceptance")
    for name, what in UNUSED.items():
        if 2 * counts.get(name, 0) > attempts:
            return f"Likely: {counts[name]:,} of {attempts:,} attempts {what}."
    share = counts.get("acceptance")
    if share is not None and share < 0.05:
        return f"Likely: the model is too weak for these problems ({share:.0%} of its attempts are correct)."
    if share is not None and share > 0.95:
        return f"Likely: these problems are too easy for the model ({share:.0%} of its attempts are correct)."
    return "Likely: the model does not write verdicts or revisions in the form that is asked for (see gen/*.jsonl)."


def _close_model(folder: Path, base: str, run: Path, summary: Mapping[str, Any]) -> Closing:
    figures = [", ".join(found)] if (found := _figures(summary)) else []
    if total := (summary.get("compute") or {}).get("total"):
        seen, sampled, trained = (total[name] for name in ("problems", "sampled_tokens", "trained_tokens"))
        figures.append(f"took in all {seen:,} problems, {sampled:,} tokens sampled, {trained:,} trained on")
    if (parts := summary.get("time")) and (rates := summary.get("tokens_per_s")):
        took = ", ".join(f"{share:.0f}% {part}" for part, share in parts.items() if share is not None)
        speed = f"{rates['sampled']:,.0f} tokens/s sampled, {rates['trained']:,.0f} trained"
        figures.append(f"time: {took}; {speed}".replace("handover", "hand-over"))
    evaluation = _evaluation(_of_problems(base), folder.name, [f"engine.model={folder}"], run)
    return Closing("a model", figures, [evaluation])


def _figures(summary: Mapping[str, Any]) -> list[str]:
    return [f"{key.replace('_', ' ')} {value:g}" for key, value in summary.items() if _is_figure(value)]


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
