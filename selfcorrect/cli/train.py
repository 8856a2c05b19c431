"""``selfcorrect train``: one command a training program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from selfcorrect.cli.options import DryRun, LaunchOption, RecipeArgs, RunOption
from selfcorrect.cli.stages import Stage, importing, resolve, resumable, run_stage
from selfcorrect.printing import show

train_app = typer.Typer(
    help="Train a model: sft (stage 1), dpo, grpo, ppo (stage 2), orm (a judge), pretrain (the embedded model).",
    no_args_is_help=True,
)


def train(stage: Stage, args: list[str] | None, run: Path, dry_run: bool, launch: str | None) -> None:
    """Run a training program, here or on the processes of an accelerate configuration."""
    if launch and not dry_run:
        from selfcorrect.train.common.launch import relaunch

        resolve(stage, args)  # refuse before launching
        with resumable():
            relaunch(launch, sys.argv[1:])
    run_stage(stage, args, run, dry_run)


@train_app.command()
def sft(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    dry_run: DryRun = False,
    launch: LaunchOption = None,
    show_mask: Annotated[
        bool, typer.Option("--show-mask", help="Print one example coloured by what is learned.")
    ] = False,
) -> None:
    """Fine-tune on the trajectories of `gen`, learning exactly what the recipe says (docs/method.md, eq. 1)."""
    with importing("train"):
        from selfcorrect.train import sft as program
    stage = Stage("train sft", "train", "embedded-sft", program.SftRecipe, program.plan, program.run)
    if show_mask:
        show(program.show_first_mask(resolve(stage, args), run))
        return
    train(stage, args, run, dry_run, launch)


@train_app.command()
def grpo(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    dry_run: DryRun = False,
    launch: LaunchOption = None,
) -> None:
    """Reinforce correctness of the last answer with GRPO, starting from a fine-tuned model (stage 2)."""
    with importing("train"):
        from selfcorrect.train import grpo as program
    stage = Stage("train grpo", "train", "embedded-grpo", program.GrpoRecipe, program.plan, program.run)
    train(stage, args, run, dry_run, launch)


@train_app.command()
def ppo(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    dry_run: DryRun = False,
    launch: LaunchOption = None,
) -> None:
    """Reinforce with PPO: a value model and GAE in the place of GRPO's groups (stage 2, as in the paper)."""
    with importing("train"):
        from selfcorrect.train import ppo as program
    stage = Stage("train ppo", "train", "embedded-ppo", program.PpoRecipe, program.plan, program.run)
    train(stage, args, run, dry_run, launch)


@train_app.command()
def dpo(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    dry_run: DryRun = False,
    launch: LaunchOption = None,
) -> None:
    """Prefer correct trajectories to wrong ones: iterative DPO, or M-DPO on the pairs of `gen` (stage 2)."""
    with importing("train"):
        from selfcorrect.train import dpo as program
    stage = Stage("train dpo", "train", "embedded-dpo", program.DpoRecipe, program.plan, program.run)
    train(stage, args, run, dry_run, launch)


@train_app.command()
def orm(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    dry_run: DryRun = False,
    launch: LaunchOption = None,
) -> None:
    """Train an outcome reward model, the external judge that self-rewarding is compared with."""
    with importing("train"):
        from selfcorrect.train import orm as program
    stage = Stage("train orm", "train", "embedded-orm", program.OrmRecipe, program.plan, program.run)
    train(stage, args, run, dry_run, launch)


@train_app.command()
def pretrain(args: RecipeArgs = None, run: RunOption = Path("runs/pretrain"), dry_run: DryRun = False) -> None:
    """Rebuild the embedded model organism from synthetic word problems."""
    with importing("train"):
        from selfcorrect.train.embedded import pretrain as program
    stage = Stage("train pretrain", "train", "pretrain", program.PretrainRecipe, program.plan, program.run)
    run_stage(stage, args, run, dry_run)
