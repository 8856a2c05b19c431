"""An outcome reward model: a classifier of attempts, the external judge that self-rewarding is compared with.

    selfcorrect train orm embedded-orm model=runs/demo/checkpoints/ift --run runs/demo
    selfcorrect eval embedded method=judged judge.kind=orm judge.engine.model=runs/demo/checkpoints/orm row=orm

Trained on the same samples as the self-rewarding model (method.md, section 4): the first attempt of every row of `gen`,
token for token, labelled by its grade. It reads the chat ``problem, attempt`` to the end of the turn, as
`correction.judges.OutcomeRewardModel` will show it, and has two logits: wrong, correct. Problems of the validation
share are not trained on; accuracy there comes with its n and interval, for right and wrong attempts apart.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from selfcorrect.chat import ChatCodec
from selfcorrect.errors import DataError, ModelError, RecipeError
from selfcorrect.metrics import Share
from selfcorrect.runs.compute import Compute, compute_of_data
from selfcorrect.runs.progress import meter
from selfcorrect.shipped import made_by
from selfcorrect.train.common.checkpoints import fit, open_metrics
from selfcorrect.train.common.memory import Batch, codec_for_plan, describe
from selfcorrect.train.common.metrics_log import reports
from selfcorrect.train.common.models import load_model, save_model
from selfcorrect.train.common.recipe import TrainerRecipe, check_batch, split_batch, trl_config
from selfcorrect.train.common.sharding import Sharding
from selfcorrect.train.common.stage import run_stage
from selfcorrect.train.data.rows import made_by_another_tokenizer, made_by_gen
from selfcorrect.training_row import TrainingRow, read_training_rows
from selfcorrect.types import Role


@dataclass(frozen=True, slots=True)
class OrmRecipe(TrainerRecipe):
    """Settings of the classifier."""

    name: str = "orm"
    learning_rate: float = 2e-4  # peak
    data: str = "data/sft/self-rewarding.jsonl"  # rows written by gen, relative to the run folder
    validation: float = 0.1  # share of the problems that is not trained on
    epochs: float = 3.0  # over the rows
    batch_rows: int = 32  # rows an optimizer step, over all processes
    micro_rows: int | None = None  # rows a forward pass; None: the whole batch at once
    max_tokens: int = 1024  # longer rows are left out and counted
    log_every: int = 5  # steps between rows of metrics.jsonl

    def __post_init__(self) -> None:
        if not 0 < self.validation < 1 or self.epochs <= 0:
            raise RecipeError("validation is between 0 and 1, epochs above 0")
        if self.lora is not None:
            raise RecipeError("lora: the reward model trains all its weights, the new head among them; set lora=null")
        check_batch("rows", self.batch_rows, self.micro_rows)


@dataclass(frozen=True, slots=True)
class Judged:
    """One attempt as the classifier reads it: problem, attempt, end of turn; and whether it is right."""

    problem_id: str
    ids: tuple[int, ...]
    right: bool


def run(recipe: OrmRecipe, run_folder: Path) -> dict[str, Any]:
    """Train the classifier and return the summary; a finished folder is only read."""

    def train(folder: Path) -> dict[str, Any]:
        codec = ChatCodec.load(recipe.model, recipe.thinking)
        rows = load_attempts(made_by_gen(recipe.data, run_folder, recipe.model), codec)
        short = [row for row in rows if len(row.ids) <= recipe.max_tokens]
        training, validation = split(short, recipe.validation, recipe.seed)
        metrics = open_metrics(folder)
        with meter(f"orm {recipe.name}", None) as progress:
            trainer = _trainer(recipe, codec, training, folder)
            trainer.add_callback(reports(metrics, progress, {}))
            fit(trainer, folder)
        save_model(trainer, codec, folder)
        logits = trainer.predict(_dataset(validation)).predictions
        taken = compute_of_data(run_folder / Path(recipe.data).expanduser())
        tokens = sum(len(row.ids) for row in training)
        return {
            "rows": len(training),
            "right": sum(row.right for row in training),
            "too_long": len(rows) - len(short),
            "validation": accuracy(logits.argmax(-1).tolist(), [row.right for row in validation]),
            "steps": trainer.state.global_step,
            "compute": taken and taken + Compute(trained_tokens=round(tokens * trainer.state.epoch)),
        }

    return run_stage("orm", recipe, run_folder, train)


def plan(recipe: OrmRecipe, run_folder: Path = Path("runs/default")) -> RenderableType:
    """Return what the training would do: resolved recipe, memory, rows, steps."""
    shown = describe(recipe, Batch(recipe.micro_rows or recipe.batch_rows, recipe.max_tokens, recipe.checkpointing))
    path = run_folder / Path(recipe.data).expanduser()
    if not path.exists():
        return Group(*shown, made_by(path, recipe.model, run_folder))
    codec, without = codec_for_plan(recipe.model, recipe.thinking)
    if codec is None:
        return Group(*shown, without)
    rows = load_attempts(path, codec)
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
    rows = [_judged(row, codec, str(path)) for row in read_training_rows(path, learned=False)]
    if len({row.right for row in rows}) < 2:
        raise DataError(f"{path}: a judge learns from right and wrong attempts; these are all of one kind")
    return rows


def _judged(row: TrainingRow, codec: ChatCodec, where: str) -> Judged:
    ends = [span.end for span in row.tokens.spans if span.role is Role.ATTEMPT]
    if not ends or row.first not in ("right", "wrong"):
        raise DataError(
            f"{where}: row {row.id!r} has no graded attempt: first is {row.first!r}, not right or wrong, or no span "
            "is an attempt"
        )
    return Judged(row.problem_id, (*row.tokens.token_ids[: ends[0]], codec.turn_end), row.first == "right")


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


def _trainer(recipe: OrmRecipe, codec: ChatCodec, rows: Sequence[Judged], folder: Path) -> Any:
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    class JudgeTrainer(Sharding, Trainer):
        """transformers' Trainer, whose model may be sharded."""

    load = load_model
    model = load(recipe.model, recipe.attention, kind=AutoModelForSequenceClassification, num_labels=2)
    pad = codec.tokenizer.pad_token_id
    model.config.pad_token_id = codec.turn_end if pad is None else pad  # the score is read before the padding
    model.config.problem_type = "single_label_classification"  # transformers would write it at the first loss alone
    trainer = JudgeTrainer(
        model=model,
        args=trl_config(
            TrainingArguments,
            recipe,
            folder,
            **split_batch("rows", recipe.batch_rows, recipe.micro_rows),
            num_train_epochs=recipe.epochs,
            logging_steps=recipe.log_every,
            save_strategy="epoch",
        ),
        train_dataset=_dataset(rows),
        data_collator=DataCollatorWithPadding(codec.tokenizer),
        processing_class=codec.tokenizer,
    )
    # Its loss is the mean over a micro-batch, whatever it is told of the others; transformers would take the number of
    # all rows as counted in, and neither divide by the micro-batches nor leave the processes' mean alone.
    trainer.model_accepts_loss_kwargs = False
    return trainer
