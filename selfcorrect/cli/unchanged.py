"""May a step that is done be skipped? `unchanged` asks its stage, which holds its folder to recipe and inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from selfcorrect.cli import evaluate, train
from selfcorrect.cli.generation import generation
from selfcorrect.cli.stages import Stage, resolve
from selfcorrect.errors import RunFolderError
from selfcorrect.runs.progress import quiet_bars
from selfcorrect.study.graph import Step

OPTIONS = ("--run", "--launch")
"""Options with a value that steps have after their recipe and its overrides."""

STAGES: dict[str, Callable[[], Stage[Any, Any]]] = {
    "gen": generation,
    "train sft": train.sft_stage,
    "train dpo": train.dpo_stage,
    "train ppo": train.ppo_stage,
    "train grpo": train.grpo_stage,
    "train orm": train.orm_stage,
    "eval calibrate": lambda: evaluate.evaluation("calibration"),
    "eval": evaluate.evaluation,
}


@cache
def _stage(command: str) -> Stage[Any, Any]:
    """Return the stage of a command; its program is imported once."""
    return STAGES[command]()


def unchanged(step: Step) -> None:
    """Raise RunFolderError where a finished step was made by another recipe, or from inputs that changed since.

    `run_steps` calls it before it skips the step. The finished stage is opened as its own command would open it, which
    compares recipe, problems, models and files with what the folder recorded, and samples and trains nothing.
    """
    stage, words, folder = _stage_of(step)
    try:
        with quiet_bars():
            stage.run(resolve(stage, words), folder)
    except RunFolderError as error:
        raise RunFolderError(f"step {step.name!r} is done, and cannot be skipped: {error}") from error


def _stage_of(step: Step) -> tuple[Stage[Any, Any], list[str], Path]:
    """Return the stage of a step, the words after its command without options, and its run folder."""
    words = list(step.args)
    options = {}
    for option in OPTIONS:
        if option in words:
            at = words.index(option)
            options[option] = words[at + 1]
            del words[at : at + 2]
    command = next(name for name in (" ".join(words[:2]), words[0]) if name in STAGES)
    rest = words[len(command.split()) :]
    if command == "eval calibrate":
        rest.append("stop=never")  # as `calibrate` sets it
    return _stage(command), rest, Path(options["--run"])
