"""An outcome reward model: a classifier of attempts, the external judge that self-rewarding is compared with.

    selfcorrect train orm embedded-orm model=runs/demo/checkpoints/ift --run runs/demo
    selfcorrect eval ... judge.kind=orm judge.engine.model=runs/demo/checkpoints/orm

Trained on the same samples as the self-rewarding model (METHOD section 4): the first attempt of every row of `gen`,
token for token, labelled by its grade. It reads the chat ``problem, attempt`` to the end of the turn, as
`selfcorrect.judges.OutcomeRewardModel` will show it, and has two logits: wrong, correct. Problems of the validation
share are not trained on; accuracy there comes with its n and interval, for right and wrong attempts apart.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax

from selfcorrect.errors import DataError, ModelError, RecipeError
from selfcorrect.jsonl import read_jsonl
from selfcorrect.metrics import Share
from selfcorrect.progress import meter
from selfcorrect.recipes import to_yaml
from selfcorrect.runs import is_done, mark_done
from selfcorrect.tokens import ChatCodec
from selfcorrect.types import Role
from train import checkpoint
from train.card import write_card
from train.checkpoint import Metrics, Precision
from train.data import made_by_another_tokenizer


@dataclass(frozen=True, slots=True)
class OrmRecipe:
    """Settings of the classifier. ``trainer`` passes through to transformers' TrainingArguments unchanged."""

    name: str = "orm"  # the model folder's name under <run>/checkpoints/
    model: str = "embedded"  # what to start from
    data: str = "data/sft/self-rewarding.jsonl"  # rows written by gen, relative to the run folder
    validation: float = 0.1  # share of the problems that is not trained on
    seed: int = 0
    epochs: float = 3.0
    batch_rows: int = 32  # rows an optimizer step, over all processes
    micro_rows: int | None = None  # rows a forward pass; None: the whole batch at once
    max_tokens: int = 1024  # longer rows are left out and counted
    learning_rate: float = 2e-4  # peak
    schedule: str = "cosine"
    warmup: float = 0.05  # share of the steps until the peak
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    precision: Precision = "auto"
    attention: str = "auto"
    log_every: int = 5  # steps between rows of metrics.jsonl
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.validation < 1 or self.batch_rows < 1 or self.epochs <= 0:
            raise RecipeError("validation is between 0 and 1, batch_rows at least 1, epochs above 0")
        if self.micro_rows is not None and (self.micro_rows < 1 or self.batch_rows % self.micro_rows):
            raise RecipeError(f"micro_rows={self.micro_rows} must divide batch_rows={self.batch_rows}")


@dataclass(frozen=True, slots=True)
class Judged:
    """One attempt as the classifier reads it: problem, attempt, end of turn; and whether it is right."""

    problem_id: str
    ids: tuple[int, ...]
    right: bool


def run(recipe: OrmRecipe, run_folder: Path) -> dict[str, Any]:
    """Train the classifier and return the summary; a finished folder is only read."""
    folder = run_folder / "checkpoints" / recipe.name
    with checkpoint.quiet_libraries(), checkpoint.open_stage(folder, recipe):
        if is_done(folder):
            return dict(json.loads((folder / "DONE").read_text(encoding="utf-8")))
        started = time.perf_counter()
        codec = ChatCodec.load(recipe.model)
        rows = load_attempts(run_folder / Path(recipe.data).expanduser(), codec)
        short = [row for row in rows if len(row.ids) <= recipe.max_tokens]
        training, validation = split(short, recipe.validation, recipe.seed)
        with meter(f"orm {recipe.name}", None) as progress:
            resume_from = checkpoint.last_checkpoint(folder)
            metrics = Metrics(folder / "metrics.jsonl", checkpoint.step_of(resume_from))
            trainer = _trainer(recipe, codec, training, folder, metrics, progress)
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        checkpoint.save_model(trainer, codec, folder)
        logits = trainer.predict(_dataset(validation)).predictions
        summary = {
            "rows": len(training),
            "right": sum(row.right for row in training),
            "too_long": len(rows) - len(short),
            "validation": accuracy(logits.argmax(-1).tolist(), [row.right for row in validation]),
            "steps": trainer.state.global_step,
            "seconds": round(time.perf_counter() - started, 2),
        }
        if trainer.args.should_save:
            shutil.rmtree(folder / "resume", ignore_errors=True)
            write_card(folder, "orm", summary)
            mark_done(folder, summary)
        return summary


def plan(recipe: OrmRecipe, run_folder: Path = Path("runs/default")) -> RenderableType:
    """Return what the training would do: resolved recipe, rows, steps."""
    shown: list[RenderableType] = [Panel(Syntax(to_yaml(recipe), "yaml"), title="recipe")]
    path = run_folder / Path(recipe.data).expanduser()
    if not path.exists():
        return Group(*shown, f"no rows at {path} yet: `selfcorrect gen` writes them")
    rows = load_attempts(path, ChatCodec.load(recipe.model))
    training, validation = split(rows, recipe.validation, recipe.seed)
    right = sum(row.right for row in training)
    steps = -(-len(training) // recipe.batch_rows) * recipe.epochs
    shown.append(
        f"{len(training)} attempts, {right} of them right; {len(validation)} for validation; {steps:.0f} steps"
    )
    return Group(*shown)


def load_attempts(path: Path, codec: ChatCodec) -> list[Judged]:
    """Read the first attempts of `gen`'s rows with their grades. Raises DataError, or ModelError for other ids."""
    if foreign := made_by_another_tokenizer(path, codec):
        raise ModelError(f"the token ids in {path} were made by another tokenizer ({foreign}) than the model's")
    rows = [_judged(row, codec, str(path)) for row in read_jsonl(path)]
    if len({row.right for row in rows}) < 2:
        raise DataError(f"{path}: a judge learns from right and wrong attempts; these are all of one kind")
    return rows


def _judged(row: Mapping[str, Any], codec: ChatCodec, where: str) -> Judged:
    try:
        attempt = next(span for span in row["spans"] if span["role"] == Role.ATTEMPT)
        ids = (*row["token_ids"][: attempt["end"]], codec.turn_end)
        return Judged(str(row["problem_id"]), ids, {"right": True, "wrong": False}[row["first"]])
    except (KeyError, TypeError, StopIteration) as error:
        raise DataError(f"{where}: row {row.get('id')!r} has no graded attempt ({error!r})") from error


def split(rows: Sequence[Judged], share: float, seed: int) -> tuple[list[Judged], list[Judged]]:
    """Return rows for training and validation that share no problem."""
    problems = sorted({row.problem_id for row in rows})
    aside = set(random.Random(f"orm-{seed}").sample(problems, max(1, round(share * len(problems)))))
    return [row for row in rows if row.problem_id not in aside], [row for row in rows if row.problem_id in aside]


def accuracy(said: Sequence[int], right: Sequence[bool]) -> dict[str, dict[str, Any]]:
    """Return the share judged as graded: of all, of right attempts (rm_C), of wrong ones (rm_W); n and interval."""
    hits = [bool(verdict) == truth for verdict, truth in zip(said, right, strict=True)]
    parts = {
        "all": hits,
        "rm_C": [hit for hit, truth in zip(hits, right, strict=True) if truth],
        "rm_W": [hit for hit, truth in zip(hits, right, strict=True) if not truth],
    }
    shares = {name: Share(sum(part), len(part)) for name, part in parts.items()}
    return {
        name: {"percent": share.percent, "n": share.n, "interval": list(share.interval or ())}
        for name, share in shares.items()
    }


def _dataset(rows: Sequence[Judged]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"input_ids": [list(row.ids) for row in rows], "labels": [int(row.right) for row in rows]})


def _trainer(
    recipe: OrmRecipe, codec: ChatCodec, rows: Sequence[Judged], folder: Path, metrics: Metrics, progress: Any
) -> Any:
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    processes = checkpoint.process_count()
    per_step = recipe.batch_rows // processes
    micro = min(recipe.micro_rows or per_step, per_step)
    if per_step * processes != recipe.batch_rows or per_step % micro:
        raise RecipeError(f"batch_rows={recipe.batch_rows} does not split over {processes} processes of {micro} rows")
    ours = checkpoint.device_arguments(checkpoint.use_bf16(recipe.precision)) | {
        "output_dir": str(folder / "resume"),
        "seed": recipe.seed,
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": per_step // micro,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": recipe.warmup,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "logging_steps": recipe.log_every,
        "logging_first_step": True,
        "save_strategy": "epoch",
        "save_total_limit": 1,
    }

    class Reports(TrainerCallback):
        """Moves the meter and keeps metrics.jsonl."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress.advance(state.global_step, total=state.max_steps)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress.advance(1)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in logs:
                metrics.add(state.global_step, loss=float(logs["loss"]), grad_norm=float(logs["grad_norm"]))

    set_seed(recipe.seed)  # the score head starts at random
    load = checkpoint.load_model
    model = load(recipe.model, recipe.attention, kind=AutoModelForSequenceClassification, num_labels=2)
    pad = codec.tokenizer.pad_token_id
    model.config.pad_token_id = codec.turn_end if pad is None else pad  # the score is read before the padding
    trainer = Trainer(
        model=model,
        args=checkpoint.trainer_arguments(TrainingArguments, ours, recipe.trainer),
        train_dataset=_dataset(rows),
        data_collator=DataCollatorWithPadding(codec.tokenizer),
        processing_class=codec.tokenizer,
        callbacks=[Reports()],
    )
    checkpoint.remove_printer(trainer)
    return trainer
