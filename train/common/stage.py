"""A training stage: its folder, locked and held to what it reads; the program; the model card.

A finished stage folder ``<run>/checkpoints/<name>/`` is a complete Hugging Face model folder (weights, tokenizer with
its chat template, generation config) beside ``recipe.yaml``, ``provenance.json``, ``metrics.jsonl`` and ``DONE``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from selfcorrect.chat import model_path
from selfcorrect.inputs import hold
from selfcorrect.problems import load_problems
from selfcorrect.runs.compute import compute_of_model, recorded_compute
from selfcorrect.runs.folder import finished, mark_done, plain_name, stage_folder
from selfcorrect.train.common.checkpoints import forget_resume
from selfcorrect.train.common.distributed import process_rank, wait_for_everyone
from selfcorrect.train.common.lora import named_targets
from selfcorrect.train.common.model_card import write_card
from selfcorrect.train.common.recipe import TrainerRecipe, check_optimiser


def run_stage(
    program: str, recipe: TrainerRecipe, run_folder: Path, train: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """Open ``<run>/checkpoints/<name>``, ``train`` into it and return its summary; a finished folder is only read.

    ``train`` returns the summary with the stage's own `Compute` under ``compute``. The main process locks the folder
    (`runs.stage_folder`) and writes its card; the others wait for that.
    """
    from transformers import set_seed

    check_optimiser(recipe)
    folder = run_folder / "checkpoints" / plain_name(recipe.name, "name")
    with quiet_libraries():
        main = process_rank() == 0
        with stage_folder(folder, recipe) if main else nullcontext():
            wait_for_everyone()
            summary = finished(folder)
            if main:
                _hold(folder, recipe, run_folder)
            if summary is not None:
                if main:
                    forget_resume(folder)
                return summary
            started = time.perf_counter()
            set_seed(recipe.seed)  # for weights that start at random: adapters, heads
            with named_targets() if recipe.lora else nullcontext():
                summary = train(folder)
            summary |= {"compute": recorded_compute(summary["compute"], compute_of_model(model_path(recipe.model)))}
            summary |= {"seconds": round(time.perf_counter() - started, 2)}
            if main:
                write_card(folder, program, summary)
                mark_done(folder, summary)
                forget_resume(folder)
            return summary


def _hold(folder: Path, recipe: TrainerRecipe, run_folder: Path) -> None:
    """Hold the folder to the model it starts from and to the rows or problems that it learns from."""
    named = {name: getattr(recipe, name, None) for name in ("data", "pairs", "prompts")}
    files = {name: run_folder / Path(path).expanduser() for name, path in named.items() if path}
    files = dict(list(files.items())[:1])  # pairs are read instead of problems, prompts instead of a source
    source = None if files else getattr(recipe, "problems", None)
    hold(folder, {"model": recipe.model}, source, lambda: load_problems(source).problems if source else [], files)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence bars, notices and pings of the training libraries; enter it before anything imports them."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL pings the hub for every trainer otherwise
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # our meter is the one bar
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
