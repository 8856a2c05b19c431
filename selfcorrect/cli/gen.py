"""``selfcorrect gen``: the stage that makes the data, and its command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfcorrect.cli.generation import generation
from selfcorrect.cli.options import DryRun, EngineOption, RecipeArgs, RunOption
from selfcorrect.cli.stages import needs_engine, resolve, run_stage, with_engine
from selfcorrect.printing import show

if TYPE_CHECKING:
    pass


def gen(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    engine: EngineOption = None,
    dry_run: DryRun = False,
    export: Annotated[
        list[str] | None,
        typer.Option("--export", help="Write the data for trl, axolotl, llama-factory, openrlhf or verl too; repeat."),
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option("--push-to-hub", help="Upload the data set: owner/name on the hub.")
    ] = None,
) -> None:
    """Sample self-correction data: attempts, self-evaluations, revisions, kept by rejection (stage 1)."""
    from selfcorrect.data_gen.output import exports

    exports.check(export or [])
    stage = generation()
    recipe = resolve(stage, with_engine(args, engine))
    needs_engine(recipe.engine)
    run_stage(stage, recipe, run, dry_run)
    if dry_run or not (export or push_to_hub):
        return
    for name, counts in exports.export(run, export or []).items():
        show(f"{run / 'export' / name}: " + ", ".join(f"{what} {count:,}" for what, count in counts.items()))
    if push_to_hub:
        show(f"pushed to {exports.push_to_hub(run, push_to_hub)}")
