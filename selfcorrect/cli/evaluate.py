"""``selfcorrect eval``: score a model, and what is done with rows that are scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from selfcorrect.cli import closing
from selfcorrect.cli.options import AsJson, DryRun, EngineOption, RecipeArgs, RunByDefault, RunOption, known_source
from selfcorrect.cli.stages import (
    Stage,
    check_grader,
    importing,
    needs_engine,
    resolve,
    resumable,
    run_stage,
    with_engine,
)
from selfcorrect.printing import event, show
from selfcorrect.runs.progress import quiet_bars

if TYPE_CHECKING:
    from selfcorrect.eval.results import EvalResult
    from selfcorrect.eval.run import EvalRecipe

Fit = Literal["temperature", "platt", "isotonic"]
Target = Literal["best", "broken", "tokens"]

eval_app = typer.Typer(
    cls=RunByDefault,
    help="Score a model by a method: [bold]eval \\[RECIPE] \\[KEY=VALUE]...[/bold], which is short for eval run.",
)


def evaluation(default: str = "embedded") -> Stage[EvalRecipe, EvalResult]:
    """Return the stage, with the recipe that is taken where none is named."""
    with importing():
        from selfcorrect.eval import run as program
    return Stage(
        "eval", "eval", default, program.EvalRecipe, program.plan, program.run, closing.row_folder, closing.close_eval
    )


@eval_app.command("run")
def evaluate(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    engine: EngineOption = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run the correction loop on a benchmark and score it: turn 1, final, transitions, self-reward accuracy."""
    stage = evaluation()
    recipe = resolve(stage, with_engine(args, engine))
    needs_engine(recipe.engine)
    result = run_stage(stage, recipe, run, dry_run, panel=not as_json)
    if result and as_json:
        event(result.to_json())


@eval_app.command("calibrate")
def evaluate_calibrate(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    fit: Annotated[Fit, typer.Option(help="How P(correct) is mapped.")] = "platt",
    target: Annotated[Target, typer.Option(help="best final accuracy, or that within --limit.")] = "best",
    limit: Annotated[
        float | None,
        typer.Option(help="broken: most percent of correct answers broken; tokens: most tokens a problem."),
    ] = None,
) -> None:
    """Tune the stop decision on validation problems: calibrate P(correct), choose its threshold, save both."""
    recipe = resolve(evaluation("calibration"), args)
    with importing():
        from selfcorrect.eval.commands import calibrate
    with resumable(), quiet_bars():
        check_grader()
        show(calibrate(recipe, run, fit, target, limit))


@eval_app.command("regrade")
def evaluate_regrade(rows: Annotated[list[Path], typer.Argument(help="Row folders, or run folders.")]) -> None:
    """Grade stored responses again, without sampling: after a change of the grader."""
    from selfcorrect.eval.commands import regrade_rows

    check_grader()
    show(regrade_rows(rows))


@eval_app.command("compare")
def evaluate_compare(
    a: Annotated[Path, typer.Argument(help="A row folder, such as runs/demo/eval/ift.")],
    b: Annotated[Path, typer.Argument(help="The row folder to hold against it.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write every flip to this .jsonl file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Test two rows on their common problems (paired) and list the problems that flipped."""
    from selfcorrect.eval.commands import compare_rows

    compared = compare_rows(a, b, out)
    event(compared.to_json()) if as_json else show(compared)


@eval_app.command("import")
def evaluate_import(
    file: Annotated[Path, typer.Argument(help="samples_*.jsonl of lm-evaluation-harness.")],
    row: Annotated[str, typer.Option(help="The name of the new row.")] = "imported",
    label: Annotated[str, typer.Option(help="What tables call it.")] = "imported",
    source: Annotated[str, typer.Option(help="Whose grading rules: math, gsm8k, ...", callback=known_source)] = "math",
    run: RunOption = Path("runs/default"),
) -> None:
    """Read a sample log of lm-evaluation-harness as a row, graded by our grader."""
    from selfcorrect.eval.commands import import_samples

    check_grader()
    show(import_samples(file, row, label, source, run))


@eval_app.command("export")
def evaluate_export(
    row: Annotated[Path, typer.Argument(help="A row folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to; default: samples_<benchmark>.jsonl there.")
    ] = None,
) -> None:
    """Write a row as a sample log of lm-evaluation-harness."""
    from selfcorrect.eval.commands import export_samples

    show(export_samples(row, out))
