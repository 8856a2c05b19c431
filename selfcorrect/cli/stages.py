"""`run_stage`: what gen, train and eval have in common: read the recipe, show or run the plan, say what comes next."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from rich.console import RenderableType

from selfcorrect import printing
from selfcorrect.cli.closing import Closing, show_closing
from selfcorrect.cli.errors import fail
from selfcorrect.errors import InputError, SelfCorrectError, nearest
from selfcorrect.extras import ENGINE_EXTRAS, needs
from selfcorrect.printing import show
from selfcorrect.runs.folder import is_done
from selfcorrect.runs.progress import loading, quiet_bars
from selfcorrect.runs.recipes import load_recipe
from selfcorrect.shipped import shipped_recipes

if TYPE_CHECKING:
    from selfcorrect.engines import EngineRecipe

TORCH = "PyTorch and what this stage needs"


R = TypeVar("R")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Stage(Generic[R, S]):
    """A stage as its command sees it: recipes of type R, and a summary of type S when it has run.

    ``name`` is the command's words, ``recipes`` the folder of its shipped recipes, ``default`` the one that is taken
    where none is named. ``folder`` says where it writes, ``closing`` what it says at its end.
    """

    name: str
    recipes: Literal["data_gen", "train", "eval"]
    default: str
    recipe: type[R]
    plan: Callable[[R, Path], RenderableType]
    run: Callable[[R, Path], S]
    folder: Callable[[R, Path], Path]
    closing: Callable[[R, Path, S], Closing]


def resolve(stage: Stage[R, S], args: list[str] | None) -> R:
    """Return the recipe that the arguments of a stage command name, with its overrides."""
    args = list(args or [])
    name = args.pop(0) if args and "=" not in args[0] else stage.default
    shipped = shipped_recipes(stage.recipes)
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped.get(name)
    if path is None:
        raise InputError(
            f"no {stage.recipes} recipe named {name!r}{nearest(name, shipped)}; shipped: {', '.join(shipped)}; "
            "or give the path of a .yaml file"
        )
    return load_recipe(stage.recipe, path, args)


def run_stage(stage: Stage[R, S], recipe: R, run: Path, dry_run: bool, panel: bool = True) -> S | None:
    """Run one stage and return its summary, or show its plan; Ctrl-C leaves with what to do next.

    Other processes of ``--launch`` than the first stay silent. A stage that made no training row is an error.
    """
    with resumable(), quiet_bars():
        if dry_run:
            show(stage.plan(recipe, run))
            return None
        check_grader()
        folder = stage.folder(recipe, run)
        before = is_done(folder)
        summary = stage.run(recipe, run)
    if os.environ.get("RANK", "0") != "0":
        return summary
    said = stage.closing(recipe, run, summary)
    if panel and not printing.is_quiet():
        show(show_closing(stage.name, folder, said, before))
    if said.fault:
        raise SelfCorrectError(said.fault)
    return summary


def needs_engine(engine: EngineRecipe) -> None:
    """Raise MissingExtraError where the package of a recipe's engine is not installed."""
    needs(*filter(None, [ENGINE_EXTRAS.get(engine.kind)]))


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
