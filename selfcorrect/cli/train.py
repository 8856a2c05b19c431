"""``selfcorrect train``: one command a training program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from selfcorrect.cli import closing
from selfcorrect.cli.options import DryRun, LaunchOption, RecipeArgs, RunOption
from selfcorrect.cli.stages import Stage, importing, resolve, resumable, run_stage
from selfcorrect.printing import show

if TYPE_CHECKING:
    from selfcorrect.train.dpo import DpoRecipe
    from selfcorrect.train.embedded.pretrain import PretrainRecipe
    from selfcorrect.train.grpo import GrpoRecipe
    from selfcorrect.train.orm import OrmRecipe
    from selfcorrect.train.ppo import PpoRecipe
    from selfcorrect.train.sft import SftRecipe

R = TypeVar("R")
S = TypeVar("S")

train_app = typer.Typer(
    help="Train a model: sft (stage 1), dpo, grpo, ppo (stage 2), orm (a judge), pretrain (the embedded model).",
    no_args_is_help=True,
)


def train(stage: Stage[R, S], args: list[str] | None, run: Path, dry_run: bool, launch: str | None) -> None:
    """Run a training program, here or on the processes of an accelerate configuration."""
    recipe = resolve(stage, args)  # refused before launching
    if launch and not dry_run:
        from selfcorrect.train.common.launch import relaunch

        with resumable():
            relaunch(launch, sys.argv[1:])
    run_stage(stage, recipe, run, dry_run)


def sft_stage() -> Stage[SftRecipe, dict[str, Any]]:
    """Return the fine-tuning as a stage."""
    with importing("train"):
        from selfcorrect.train import sft as program
    return Stage(
        "train sft", "train", "embedded-sft", program.SftRecipe, program.plan, program.run,
        closing.checkpoint_folder, closing.close_sft,
    )  # fmt: skip


def grpo_stage() -> Stage[GrpoRecipe, dict[str, Any]]:
    """Return GRPO as a stage."""
    with importing("train"):
        from selfcorrect.train import grpo as program
    return Stage(
        "train grpo", "train", "embedded-grpo", program.GrpoRecipe, program.plan, program.run,
        closing.checkpoint_folder, closing.close_policy,
    )  # fmt: skip


def ppo_stage() -> Stage[PpoRecipe, dict[str, Any]]:
    """Return PPO as a stage."""
    with importing("train"):
        from selfcorrect.train import ppo as program
    return Stage(
        "train ppo", "train", "embedded-ppo", program.PpoRecipe, program.plan, program.run,
        closing.checkpoint_folder, closing.close_policy,
    )  # fmt: skip


def dpo_stage() -> Stage[DpoRecipe, dict[str, Any]]:
    """Return DPO and M-DPO as a stage."""
    with importing("train"):
        from selfcorrect.train import dpo as program
    return Stage(
        "train dpo", "train", "embedded-dpo", program.DpoRecipe, program.plan, program.run,
        closing.checkpoint_folder, closing.close_policy,
    )  # fmt: skip


def orm_stage() -> Stage[OrmRecipe, dict[str, Any]]:
    """Return the training of a judge as a stage."""
    with importing("train"):
        from selfcorrect.train import orm as program
    return Stage(
        "train orm", "train", "embedded-orm", program.OrmRecipe, program.plan, program.run,
        closing.checkpoint_folder, closing.close_orm,
    )  # fmt: skip


def pretrain_stage() -> Stage[PretrainRecipe, dict[str, Any]]:
    """Return the pre-training of the embedded model as a stage."""
    with importing("train"):
        from selfcorrect.train.embedded import pretrain as program
    return Stage(
        "train pretrain", "train", "pretrain", program.PretrainRecipe, program.plan, program.run,
        closing.embedded_folder, closing.close_pretrain,
    )  # fmt: skip


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
    if show_mask:
        stage = sft_stage()
        from selfcorrect.train.sft import show_first_mask

        show(show_first_mask(resolve(stage, args), run))
        return
    train(sft_stage(), args, run, dry_run, launch)


@train_app.command()
def grpo(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    dry_run: DryRun = False,
    launch: LaunchOption = None,
) -> None:
    """Reinforce correctness of the last answer with GRPO, starting from a fine-tuned model (stage 2)."""
    train(grpo_stage(), args, run, dry_run, launch)


@train_app.command()
def ppo(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    dry_run: DryRun = False,
    launch: LaunchOption = None,
) -> None:
    """Reinforce with PPO: a value model and GAE in the place of GRPO's groups (stage 2, as in the paper)."""
    train(ppo_stage(), args, run, dry_run, launch)


@train_app.command()
def dpo(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    dry_run: DryRun = False,
    launch: LaunchOption = None,
) -> None:
    """Prefer correct trajectories to wrong ones: iterative DPO, or M-DPO on the pairs of `gen` (stage 2)."""
    train(dpo_stage(), args, run, dry_run, launch)


@train_app.command()
def orm(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    dry_run: DryRun = False,
    launch: LaunchOption = None,
) -> None:
    """Train an outcome reward model, the external judge that self-rewarding is compared with."""
    train(orm_stage(), args, run, dry_run, launch)


@train_app.command()
def pretrain(args: RecipeArgs = None, run: RunOption = Path("runs/pretrain"), dry_run: DryRun = False) -> None:
    """Rebuild the embedded model organism from synthetic word problems."""
    train(pretrain_stage(), args, run, dry_run, launch=None)
