"""`run_stage`: what gen, train and eval have in common: read the recipe, show or run the plan, say what comes next."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from selfcorrect import printing
from selfcorrect.cli.closing import closing, is_finished, without_rows
from selfcorrect.cli.errors import fail
from selfcorrect.errors import InputError, SelfCorrectError, nearest
from selfcorrect.extras import ENGINE_EXTRAS, needs
from selfcorrect.printing import show
from selfcorrect.runs.progress import loading, quiet_bars
from selfcorrect.runs.recipes import load_recipe
from selfcorrect.shipped import shipped_recipes

TORCH = "PyTorch and what this stage needs"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage as a command sees it. ``name`` is the command's words, ``folder`` holds its recipes."""

    name: str
    folder: str
    default: str
    recipe: type[Any]
    plan: Callable[[Any, Path], RenderableType]
    run: Callable[[Any, Path], Any]


def resolve(stage: Stage, args: list[str] | None) -> Any:
    """Return the recipe that the arguments of a stage command name, with its overrides."""
    args = list(args or [])
    name = args.pop(0) if args and "=" not in args[0] else stage.default
    shipped = shipped_recipes(stage.folder)
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped.get(name)
    if path is None:
        raise InputError(
            f"no {stage.folder} recipe named {name!r}{nearest(name, shipped)}; shipped: {', '.join(shipped)}; "
            "or give the path of a .yaml file"
        )
    return load_recipe(stage.recipe, path, args)


def run_stage(stage: Stage, args: list[str] | None, run: Path, dry_run: bool, panel: bool = True) -> Any:
    """Run one stage (or show its plan) and return its summary; Ctrl-C leaves with what to do next.

    Other processes of ``--launch`` than the first stay silent. A stage that made no training row is an error.
    """
    recipe = resolve(stage, args)
    if stage.folder != "train":
        needs(*filter(None, [ENGINE_EXTRAS.get(recipe.engine.kind)]))
    with resumable(), quiet_bars():
        if dry_run:
            show(stage.plan(recipe, run))
            return None
        check_grader()
        before = is_finished(stage.name, recipe, run)
        summary = stage.run(recipe, run)
    if panel and os.environ.get("RANK", "0") == "0" and not printing.is_quiet():
        show(closing(stage.name, recipe, run, summary, before))
    if reason := without_rows(stage.name, summary, run):
        raise SelfCorrectError(reason)
    return summary


@contextmanager
def importing(*extras: str) -> Iterator[None]:
    """Import a stage in here: a note says what takes the seconds, a missing extra is one line with the command."""
    needs(*extras)
    with loading(TORCH):
        try:
            yield
        except ModuleNotFoundError:
            needs("train")
            raise


def with_engine(args: list[str] | None, engine: str | None) -> list[str]:
    """Return a stage's arguments with ``--engine`` as the override that it is short for."""
    return [*(args or []), *([f"engine.kind={engine}"] if engine else [])]


def check_grader() -> None:
    """Refuse to start a run on a grader that fails its self-test (verl#7437: a broken grader is silent)."""
    from selfcorrect.grading.self_test import self_test

    if failures := self_test(workers=False):
        raise SelfCorrectError("the grader fails its self-test, so no run can be trusted:\n" + "\n".join(failures))


@contextmanager
def resumable() -> Iterator[None]:
    """Turn Ctrl-C into a message and exit code 130 (journals and checkpoints are whole at any moment)."""
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted; what was recorded is whole: run the same command to resume", code=130)
