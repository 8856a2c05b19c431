"""Memory of a training run per GPU, before it is started: `--dry-run` shows it (TRL#2688, #3523).

States of the optimised weights: weights, gradients and AdamW's two moments, fp32, 16 bytes a parameter, as every
program here trains them; sharded over N processes as ZeRO does (Rajbhandari et al., arXiv 1910.02054, section 5:
stage 2 shards gradients and moments, stage 3 and FSDP the weights too). Weights that do not learn are 4 bytes a
parameter: a reference model whole in every process, what LoRA leaves frozen spread as the layout spreads weights.

Activations of a forward pass with R rows of T tokens in 16 bit: with checkpointing one input a layer and one layer's
inside, without it every layer's inside, 34 bytes a token and unit of width (Korthikanti et al., arXiv 2205.05198, eq. 1
without its attention term: SDPA and flash attention do not keep scores). The head adds 3 x 4 bytes a token and word.

An estimate: it knows neither fragmentation nor the CUDA context (1 to 2 GB), nor gathered layers under sharding.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from selfcorrect.chat import ChatCodec, model_path
from selfcorrect.errors import ModelError
from selfcorrect.loading import model_loading
from selfcorrect.runs.recipes import to_yaml
from selfcorrect.train.common.lora import LoraRecipe, peft_config
from selfcorrect.train.common.recipe import TrainerRecipe

GB = 1e9
STATES = (4.0, 4.0, 8.0)
"""Bytes a parameter of weights, gradients and moments."""

LAYOUTS = {"one GPU, or DDP": (False, False, False), "zero2": (False, True, True), "zero3, fsdp": (True, True, True)}
"""Whether weights, gradients and moments are spread over the processes."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What the estimate needs to know of a model. ``parameters`` are all of them, adapters among them."""

    parameters: int
    layers: int
    width: int
    vocabulary: int
    trained: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass of the update: rows, tokens a row, and whether layers are recomputed in the backward pass."""

    rows: int
    tokens: int
    checkpointing: bool


def describe(
    recipe: TrainerRecipe, batch: Batch, reference: bool = False, value_model: bool = False
) -> list[RenderableType]:
    """Return what every ``--dry-run`` begins with: the resolved recipe and the memory that its model takes."""
    size = model_size(recipe.model, recipe.lora)
    frozen_models = int(reference and recipe.lora is None)  # LoRA's reference is the same model, adapters off
    table = memory_table(size, batch, frozen_models, value_model)
    told = (
        []
        if model_config(recipe.model)[1]
        else [f"{recipe.model} is not on this machine: its sizes are those that we ship (models.json)"]
    )
    return [Panel(Syntax(to_yaml(recipe), "yaml"), title="recipe"), table, *told]


def model_config(model: str) -> tuple[Any, bool]:
    """Return a model's configuration and True; or, where it cannot be had, the one that we ship and False.

    ``models.json`` has the sizes of the models that shipped recipes name, so that a run can be planned on any machine.
    Raises ModelError for another model that cannot be had.
    """
    from transformers import AutoConfig

    try:
        with model_loading(model, "the configuration"):
            return AutoConfig.from_pretrained(model_path(model)), True
    except ModelError as error:
        shipped = json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))
        if model not in shipped:
            raise ModelError(
                f"{error}\nWithout it no memory can be planned; shipped sizes: {', '.join(shipped)}"
            ) from error
        return AutoConfig.for_model(**shipped[model]), False


def codec_for_plan(model: str, thinking: bool | None = None) -> tuple[ChatCodec | None, str]:
    """Return the model's codec, or None and a line that says what the plan cannot show without it."""
    try:
        return ChatCodec.load(model, thinking), ""
    except ModelError as error:
        return None, f"no prompts and no counts of tokens, which need the tokenizer: {error}"


def model_size(model: str, lora: LoraRecipe | None = None) -> ModelSize:
    """Return a model's size from its configuration, without loading weights."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    config, _ = model_config(model)
    with torch.device("meta"):
        built: Any = AutoModelForCausalLM.from_config(config)
        if (adapters := peft_config(lora)) is not None:
            built = get_peft_model(built, adapters)
    text = config.get_text_config()
    counts = (sum(p.numel() for p in built.parameters() if p.requires_grad or not only) for only in (False, True))
    parameters, trained = counts
    return ModelSize(parameters, text.num_hidden_layers, text.hidden_size, text.vocab_size, trained)


def state_bytes(parameters: int, processes: int, layout: str, bytes_each: tuple[float, float, float] = STATES) -> float:
    """Return the bytes of weights, gradients and moments in one process."""
    return sum(parameters * b / (processes if cut else 1) for b, cut in zip(bytes_each, LAYOUTS[layout], strict=True))


def activation_bytes(size: ModelSize, batch: Batch) -> float:
    """Return the bytes that one forward pass keeps for its backward pass, the head's included."""
    tokens = batch.rows * batch.tokens
    inside = 34.0 * tokens * size.width
    kept = size.layers * 2.0 * tokens * size.width + inside if batch.checkpointing else size.layers * inside
    return kept + 12.0 * tokens * size.vocabulary


def memory_table(size: ModelSize, batch: Batch, frozen_models: int = 0, value_model: bool = False) -> Table:
    """Return GB per GPU by layout and number of GPUs, with and without a KL's reference model and PPO's value model."""
    models = 2 if value_model else 1
    frozen = models * (size.parameters - size.trained)
    extra = frozen_models * 4.0 * size.parameters + activation_bytes(size, batch)
    recomputed = "layers recomputed" if batch.checkpointing else "layers kept"
    counted = f"{size.parameters:,} parameters" + (f", {size.trained:,} of them trained" if frozen else "")
    title = f"GB per GPU: {counted}, {batch.rows} x {batch.tokens} tokens, {recomputed}"
    table = Table(title=title)
    table.add_column("layout")
    for processes in (1, 2, 4, 8):
        table.add_column(f"{processes} GPU" + "s" * (processes > 1), justify="right")
    for layout in LAYOUTS:
        states = [
            state_bytes(models * size.trained, n, layout) + state_bytes(frozen, n, layout, bytes_each=(4.0, 0.0, 0.0))
            for n in (1, 2, 4, 8)
        ]
        table.add_row(layout, *(f"{(held + extra) / GB:.1f}" for held in states))
    return table
