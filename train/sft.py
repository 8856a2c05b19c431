"""Supervised fine-tuning on self-correction data, learning exactly the spans that the data says (METHOD eq. 1).

    selfcorrect train sft embedded-sft --run runs/demo
    selfcorrect train sft embedded-sft --show-mask --run runs/demo

Reads ``<run>/<data>`` (written by `gen`), writes ``<run>/checkpoints/<name>/``: a complete model folder with
``metrics.jsonl``. Self-rewarding IFT and the baselines (STaR/RAFT, RAFT+) are recipes of this one program.
Re-running resumes from the last checkpoint; a finished folder is left alone.

Differs from the paper: rows longer than a block are left out and counted instead of cut. TRL's SFTTrainer does the
work; ours are the labels, the order of the rows and the meter. ``packing`` uses TRL's best-fit-decreasing blocks, in
which rows do not see each other (tests/train/test_sft.py proves it for eager and SDPA attention). Without packing, the
rows of a batch are drawn at random and only then sorted by length into micro-batches, so little is padded and no
batch is of one kind: attention over short rows is what a CPU does fastest.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax

from selfcorrect.errors import RecipeError, RunFolderError
from selfcorrect.progress import Meter, meter
from selfcorrect.recipes import to_yaml
from selfcorrect.runs import is_done, mark_done
from selfcorrect.tokens import ChatCodec
from train import checkpoint
from train.card import write_card
from train.checkpoint import Metrics, Precision
from train.data import SftData, load_sft_data, show_mask
from train.planner import Batch, memory_table, model_size

if TYPE_CHECKING:
    from trl import SFTConfig, SFTTrainer


@dataclass(frozen=True, slots=True)
class SftRecipe:
    """Settings of one fine-tuning. ``trainer`` passes through to TRL's SFTConfig unchanged."""

    name: str = "ift"  # the model folder's name under <run>/checkpoints/
    model: str = "embedded"  # what to start from: "embedded", a model folder or a hub id
    data: str = "data/sft/self-rewarding.jsonl"  # rows written by gen, relative to the run folder
    seed: int = 0  # order of the rows, and which ones max_rows draws
    max_rows: int | None = None  # draw at most so many rows (equal samples for baselines); None takes all
    retokenise: bool = False  # encode the text again when the rows were sampled with another tokenizer
    epochs: float = 3.0  # the learning-rate schedule runs over so many
    stop_after_epochs: float | None = None  # train only the first part of the schedule; None trains all of it
    batch_rows: int = 32  # rows (packing: blocks) an optimizer step, over all processes
    micro_rows: int | None = None  # rows a forward pass; None: the whole batch at once
    max_tokens: int = 1024  # longer rows are left out and counted; with packing, the size of a block
    packing: bool = False  # fill blocks of max_tokens with several rows that do not see each other
    learning_rate: float = 5e-4  # peak
    schedule: str = "cosine"  # a name of transformers' SchedulerType
    warmup: float = 0.05  # share of the steps until the peak
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    precision: Precision = "auto"  # bf16 autocast or fp32; auto takes bf16 where the hardware multiplies it
    attention: str = "auto"  # a transformers attention implementation; auto: sdpa on a GPU, train.cpu's lean on a CPU
    log_every: int = 5  # steps between rows of metrics.jsonl
    save_every: int = 0  # steps between checkpoints to resume from; 0 saves at the end of each epoch
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_rows < 1 or self.epochs <= 0 or self.max_tokens < 2:
            raise RecipeError("batch_rows is at least 1, epochs above 0, max_tokens at least 2")
        if self.micro_rows is not None and (self.micro_rows < 1 or self.batch_rows % self.micro_rows):
            raise RecipeError(f"micro_rows={self.micro_rows} must divide batch_rows={self.batch_rows}")


def run(recipe: SftRecipe, run_folder: Path) -> dict[str, Any]:
    """Fine-tune and return the summary; a finished folder is only read."""
    folder = run_folder / "checkpoints" / recipe.name
    with checkpoint.quiet_libraries(), checkpoint.open_stage(folder, recipe):
        if is_done(folder):
            return dict(json.loads((folder / "DONE").read_text(encoding="utf-8")))
        started = time.perf_counter()
        codec = ChatCodec.load(recipe.model)
        data = _load(recipe, run_folder, codec)
        with meter(f"sft {recipe.name}", None) as progress:
            resume_from = checkpoint.last_checkpoint(folder)
            trainer, metrics = _trainer(recipe, codec, data, folder, resume_from, progress)
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
            checkpoint.save_model(trainer, codec, folder)
        summary = _summary(data, metrics, trainer.state.global_step, time.perf_counter() - started)
        if trainer.args.should_save:
            shutil.rmtree(folder / "resume", ignore_errors=True)
            write_card(folder, "sft", summary)
            mark_done(folder, summary)
        return summary


def plan(recipe: SftRecipe, run_folder: Path = Path("runs/default")) -> RenderableType:
    """Return what the training would do: resolved recipe, parameters, rows, tokens, steps, first masked row."""
    shown: list[RenderableType] = [Panel(Syntax(to_yaml(recipe), "yaml"), title="recipe")]
    parameters = checkpoint.parameter_count(recipe.model)
    shown.append(
        f"{parameters:,} parameters; with gradients and AdamW states in fp32 about {16 * parameters / 1e9:.2f} GB"
    )
    rows = recipe.micro_rows or recipe.batch_rows
    checkpointing = bool(recipe.trainer.get("gradient_checkpointing"))
    shown.append(memory_table(model_size(recipe.model), Batch(rows, recipe.max_tokens, checkpointing)))
    if not _data_path(recipe, run_folder).exists():
        shown.append(f"no rows at {_data_path(recipe, run_folder)} yet: `selfcorrect gen` writes them")
        return Group(*shown)
    codec = ChatCodec.load(recipe.model)
    data = _load(recipe, run_folder, codec)
    rows = math.ceil(data.tokens / recipe.max_tokens) if recipe.packing else len(data.rows)
    steps = math.ceil(rows / recipe.batch_rows) * (recipe.stop_after_epochs or recipe.epochs)
    shown.append(
        f"{len(data.rows):,} rows ({', '.join(f'{kind} {count:,}' for kind, count in data.kinds.items())}), "
        f"{data.too_long} too long, {data.not_chosen} not drawn; {data.tokens:,} tokens an epoch, "
        f"{data.learned_tokens:,} of them learned; about {steps:.0f} steps of {recipe.batch_rows}"
    )
    shown.append(Panel(show_mask(data.rows[0], codec), title="first row"))
    return Group(*shown)


def show_first_mask(recipe: SftRecipe, run_folder: Path) -> RenderableType:
    """Return one row of every kind, coloured by what is learned."""
    codec = ChatCodec.load(recipe.model)
    first = {row.kind: row for row in reversed(_load(recipe, run_folder, codec).rows)}
    return Group(*(Panel(show_mask(first[kind], codec)) for kind in sorted(first)))


def _data_path(recipe: SftRecipe, run_folder: Path) -> Path:
    return run_folder / Path(recipe.data).expanduser()  # an absolute path stays absolute


def _load(recipe: SftRecipe, run_folder: Path, codec: ChatCodec) -> SftData:
    return load_sft_data(
        _data_path(recipe, run_folder),
        codec,
        max_tokens=recipe.max_tokens,
        max_rows=recipe.max_rows,
        seed=recipe.seed,
        retokenise=recipe.retokenise,
    )


def sft_config(recipe: SftRecipe, folder: Path) -> SFTConfig:
    """Return TRL's settings for a recipe."""
    from trl import SFTConfig

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
        "warmup_steps": recipe.warmup,  # transformers 5 reads a value below 1 as a share of the steps
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "logging_steps": recipe.log_every,
        "logging_first_step": True,
        "save_strategy": "steps" if recipe.save_every else "epoch",
        "save_steps": recipe.save_every or 500,
        "save_total_limit": 1,
        "max_length": recipe.max_tokens,
        "packing": recipe.packing,
        "packing_strategy": "bfd",
        # Rows are checked and cut to labels already; only packing still has to arrange them.
        "dataset_kwargs": {"skip_prepare_dataset": not recipe.packing},
    }
    config: SFTConfig = checkpoint.trainer_arguments(SFTConfig, ours, recipe.trainer)
    return config


def _trainer(
    recipe: SftRecipe, codec: ChatCodec, data: SftData, folder: Path, resume_from: Path | None, progress: Meter
) -> tuple[SFTTrainer, Metrics]:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTTrainer

    from train import cpu

    class OrderedSftTrainer(SFTTrainer):
        """SFTTrainer that takes its rows in our order, the same after a resume; leaner on a CPU."""

        model: Any
        args: SFTConfig

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            dataset: Any = train_dataset or self.train_dataset
            return MixedBatches([len(ids) for ids in dataset["input_ids"]], recipe.batch_rows, recipe.seed)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if model is not self.model or self.args.loss_type != "nll" or not cpu.has_plain_head(self.model):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            taken = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids") if name in inputs}
            with self.accelerator.autocast():
                log_probs_N, all_NV = cpu.log_probs_of(model, taken, inputs["labels"])
            mode = "train" if model.training else "eval"
            hits = (log_probs_N >= all_NV.amax(-1)).float().mean().item()
            self._metrics[mode]["mean_token_accuracy"].append(hits)
            return -log_probs_N.sum() / (len(log_probs_N) if num_items_in_batch is None else num_items_in_batch)

    metrics = Metrics(folder / "metrics.jsonl", checkpoint.step_of(resume_from))

    class Reports(TrainerCallback):
        """Moves the meter, keeps metrics.jsonl, stops part-way through the schedule where asked to."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.last_step = int(state.max_steps * (recipe.stop_after_epochs or recipe.epochs) / recipe.epochs)
            self.started_s = time.perf_counter()
            progress.advance(state.global_step, total=self.last_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            loss = metrics.rows[-1]["loss"] if metrics.rows else None
            progress.advance(1, note=None if loss is None else f"loss {loss:.3f}")
            if state.global_step >= self.last_step:
                control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in logs:
                metrics.add(
                    state.global_step,
                    epoch=logs["epoch"],
                    loss=float(logs["loss"]),
                    token_accuracy=logs.get("mean_token_accuracy"),
                    grad_norm=float(logs["grad_norm"]),
                    learning_rate=logs["learning_rate"],
                    seconds=time.perf_counter() - self.started_s,
                )

    config = sft_config(recipe, folder)
    rows = {"input_ids": [list(row.token_ids) for row in data.rows], "labels": [row.labels for row in data.rows]}
    trainer = OrderedSftTrainer(
        model=checkpoint.load_model(recipe.model, recipe.attention),
        args=config,
        train_dataset=Dataset.from_dict(rows),
        processing_class=codec.tokenizer,
        callbacks=[Reports()],
    )
    checkpoint.remove_printer(trainer)
    return trainer, metrics


class MixedBatches:
    """Orders rows so that every optimizer step is a random draw, sorted by length inside: a torch Sampler.

    Consecutive micro-batches of one step then hold rows of like length (little padding), while no step is of one
    kind, as it would be if the whole epoch were grouped by length. The order depends on seed and epoch alone.
    """

    def __init__(self, lengths: Sequence[int], batch_rows: int, seed: int) -> None:
        self.lengths, self.batch_rows, self.seed, self.epoch = lengths, batch_rows, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; transformers calls this, also when it resumes."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        import random

        order = list(range(len(self.lengths)))
        random.Random(f"rows-{self.seed}-{self.epoch}").shuffle(order)
        for start in range(0, len(order), self.batch_rows):
            yield from sorted(order[start : start + self.batch_rows], key=lambda row: self.lengths[row])


def _summary(data: SftData, metrics: Metrics, steps: int, seconds: float) -> dict[str, Any]:
    losses = [row["loss"] for row in metrics.rows if row["loss"] is not None]
    if not losses:
        raise RunFolderError("the training logged no finite loss: lower learning_rate, or look at the data")
    return {
        "rows": len(data.rows),
        "kinds": dict(data.kinds),
        "too_long": data.too_long,
        "not_drawn": data.not_chosen,
        "retokenised": data.retokenised,
        "tokens_per_epoch": data.tokens,
        "learned_tokens_per_epoch": data.learned_tokens,
        "steps": steps,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "seconds": round(seconds, 2),
    }
