"""Supervised fine-tuning on self-correction data, learning exactly the spans that the data says (method.md, eq. 1).

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

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.panel import Panel

from selfcorrect.chat import ChatCodec
from selfcorrect.errors import RecipeError, RunFolderError
from selfcorrect.runs.compute import Compute, compute_of_data
from selfcorrect.runs.progress import meter
from selfcorrect.shipped import made_by
from selfcorrect.train.common.checkpoints import fit, open_metrics
from selfcorrect.train.common.lora import peft_config
from selfcorrect.train.common.memory import Batch, codec_for_plan, describe
from selfcorrect.train.common.metrics_log import Metrics, reports
from selfcorrect.train.common.models import load_model, save_model
from selfcorrect.train.common.recipe import TrainerRecipe, check_batch, split_batch, trl_config
from selfcorrect.train.common.sharding import Sharding
from selfcorrect.train.common.stage import run_stage
from selfcorrect.train.data.rows import SftData, load_sft_data, made_by_gen, show_mask

if TYPE_CHECKING:
    from trl import SFTConfig, SFTTrainer


@dataclass(frozen=True, slots=True)
class SftRecipe(TrainerRecipe):
    """Settings of one fine-tuning. ``seed`` decides the order of the rows, and which ones ``max_rows`` draws."""

    name: str = "ift"
    learning_rate: float = 5e-4  # peak
    data: str = "data/sft/self-rewarding.jsonl"  # rows written by gen, relative to the run folder
    max_rows: int | None = None  # draw at most so many rows (equal samples for baselines); None takes all
    retokenise: bool = False  # encode the text again when the rows were sampled with another tokenizer
    epochs: float = 3.0  # the learning-rate schedule runs over so many
    stop_after_epochs: float | None = None  # train only the first part of the schedule; None trains all of it
    batch_rows: int = 32  # rows (packing: blocks) an optimizer step, over all processes
    micro_rows: int | None = None  # rows a forward pass; None: the whole batch at once
    max_tokens: int = 1024  # longer rows are left out and counted; with packing, the size of a block
    packing: bool = False  # fill blocks of max_tokens with several rows that do not see each other
    log_every: int = 5  # steps between rows of metrics.jsonl
    save_every: int = 0  # steps between checkpoints to resume from; 0 saves at the end of each epoch

    def __post_init__(self) -> None:
        if self.epochs <= 0 or self.max_tokens < 2:
            raise RecipeError("epochs is above 0, max_tokens at least 2")
        check_batch("rows", self.batch_rows, self.micro_rows)


def run(recipe: SftRecipe, run_folder: Path) -> dict[str, Any]:
    """Fine-tune and return the summary; a finished folder is only read."""

    def train(folder: Path) -> dict[str, Any]:
        made_by_gen(recipe.data, run_folder, recipe.model)  # refuse before anything is loaded
        codec = ChatCodec.load(recipe.model, recipe.thinking)
        data = _load(recipe, run_folder, codec)
        metrics = open_metrics(folder)
        with meter(f"sft {recipe.name}", None) as progress:
            trainer = build_trainer(recipe, codec, data, folder)
            share = (recipe.stop_after_epochs or recipe.epochs) / recipe.epochs
            trainer.add_callback(reports(metrics, progress, {"mean_token_accuracy": "token_accuracy"}, share))
            fit(trainer, folder)
            save_model(trainer, codec, folder)
        taken = compute_of_data(_data_path(recipe, run_folder))
        own = taken and taken + Compute(trained_tokens=round(data.tokens * trainer.state.epoch))
        return _summary(data, metrics, trainer.state.global_step) | {"compute": own}

    return run_stage("sft", recipe, run_folder, train)


def plan(recipe: SftRecipe, run_folder: Path = Path("runs/default")) -> RenderableType:
    """Return what the training would do: resolved recipe, parameters, rows, tokens, steps, first masked row."""
    shown = describe(recipe, Batch(recipe.micro_rows or recipe.batch_rows, recipe.max_tokens, recipe.checkpointing))
    if not _data_path(recipe, run_folder).exists():
        shown.append(made_by(_data_path(recipe, run_folder), recipe.model, run_folder))
        return Group(*shown)
    codec, without = codec_for_plan(recipe.model, recipe.thinking)
    if codec is None:
        return Group(*shown, without)
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
    codec = ChatCodec.load(recipe.model, recipe.thinking)
    first = {row.kind: row for row in reversed(_load(recipe, run_folder, codec).rows)}
    return Group(*(Panel(show_mask(first[kind], codec)) for kind in sorted(first)))


def _data_path(recipe: SftRecipe, run_folder: Path) -> Path:
    return run_folder / Path(recipe.data).expanduser()  # an absolute path stays absolute


def _load(recipe: SftRecipe, run_folder: Path, codec: ChatCodec) -> SftData:
    return load_sft_data(
        made_by_gen(recipe.data, run_folder, recipe.model),
        codec,
        max_tokens=recipe.max_tokens,
        max_rows=recipe.max_rows,
        seed=recipe.seed,
        retokenise=recipe.retokenise,
    )


def sft_config(recipe: SftRecipe, folder: Path) -> SFTConfig:
    """Return TRL's settings for a recipe."""
    from trl import SFTConfig

    config: SFTConfig = trl_config(
        SFTConfig,
        recipe,
        folder,
        **split_batch("rows", recipe.batch_rows, recipe.micro_rows),
        num_train_epochs=recipe.epochs,
        logging_steps=recipe.log_every,
        save_strategy="steps" if recipe.save_every else "epoch",
        save_steps=recipe.save_every or 500,
        max_length=recipe.max_tokens,
        packing=recipe.packing,
        packing_strategy="bfd",
        # Rows are checked and cut to labels already; only packing still has to arrange them.
        dataset_kwargs={"skip_prepare_dataset": not recipe.packing},
    )
    return config


def build_trainer(recipe: SftRecipe, codec: ChatCodec, data: SftData, folder: Path) -> SFTTrainer:
    """Return TRL's trainer on rows that are tokens already."""
    from datasets import Dataset
    from trl import SFTTrainer

    from selfcorrect.train.common import lean_cpu

    class OrderedSftTrainer(Sharding, SFTTrainer):
        """SFTTrainer that takes its rows in our order, the same after a resume; leaner on a CPU."""

        model: Any
        args: SFTConfig

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            dataset: Any = train_dataset or self.train_dataset
            return MixedBatches([len(ids) for ids in dataset["input_ids"]], recipe.batch_rows, recipe.seed)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if model is not self.model or self.args.loss_type != "nll" or not lean_cpu.has_plain_head(self.model):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            taken = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids") if name in inputs}
            with self.accelerator.autocast():
                log_probs_N, hits_N = lean_cpu.log_probs_of(model, taken, inputs["labels"], "is_top1")
            mode = "train" if model.training else "eval"
            self._metrics[mode]["mean_token_accuracy"].append(hits_N.float().mean().item())
            if num_items_in_batch is None:
                return -log_probs_N.mean()
            # Of all processes' tokens; their gradients will be averaged.
            return -log_probs_N.sum() * self.accelerator.num_processes / num_items_in_batch

    rows = {
        "input_ids": [list(row.tokens.token_ids) for row in data.rows],
        "labels": [row.tokens.labels for row in data.rows],
    }
    return OrderedSftTrainer(
        model=load_model(recipe.model, recipe.attention),
        args=sft_config(recipe, folder),
        train_dataset=Dataset.from_dict(rows),
        processing_class=codec.tokenizer,
        peft_config=peft_config(recipe.lora),
    )


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
        order = list(range(len(self.lengths)))
        random.Random(f"rows-{self.seed}-{self.epoch}").shuffle(order)
        for start in range(0, len(order), self.batch_rows):
            yield from sorted(order[start : start + self.batch_rows], key=lambda row: self.lengths[row])


def _summary(data: SftData, metrics: Metrics, steps: int) -> dict[str, Any]:
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
    }
