"""Memory of a training run per GPU, before it is started: `--dry-run` shows it (TRL#2688, #3523).

States of the optimised weights: weights, gradients and AdamW's two moments, fp32, 16 bytes a parameter, as every
program here trains them; sharded over N processes as ZeRO does (Rajbhandari et al., arXiv 1910.02054, section 5:
stage 2 shards gradients and moments, stage 3 and FSDP the weights too). Weights that do not learn, a reference model's
among them, are 4 bytes a parameter, spread as the layout spreads weights. Sharded weights are gathered in bf16 to
compute, with the gradient: the embedding and the head, and two layers. A copy to sample from (``sampler: replica``) is
2 bytes a parameter in every process.

Activations are measured, not estimated by a formula: the model's own layers run on fake tensors (torch's
`FakeTensorMode`: shapes without memory), and what autograd keeps of them is counted (`kept`). That has all that
formulas leave out: the width of the MLP, the residual stream in fp32, a bf16 copy of each input of a linear layer and,
unless the weights are sharded, of each weight, which autocast keeps. SDPA is assumed, which keeps no scores. With
checkpointing the inputs of the layers are kept, and the inside of one. Logits exist in tiles alone, with the head's
gradient in fp32: TRL's on a GPU, smaller ones on a CPU (`lean_cpu`).

`benchmarks/memory.py` holds it against what processes took (docs/measurements.md). It knows neither fragmentation nor
the CUDA context (1 to 2 GB), nor the sampler's keys and values, which take what is left. So a run is said to fit where
nine tenths of the GPU are enough.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
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
from selfcorrect.train.common.recipe import TrainerRecipe, check_optimiser

GB = 1e9
STATES = (4.0, 4.0, 8.0)
"""Bytes a parameter of weights, gradients and moments."""

TILE = (4096, 32768)
"""Tokens and words of which TRL's fused head has logits at once."""

PROCESSES = (1, 2, 4, 8)
GPU_SIZES = (24, 40, 80, 141)
"""In GB."""

LAYOUTS = {"one GPU, or DDP": (False, False, False), "zero2": (False, True, True), "zero3, fsdp": (True, True, True)}
"""Whether weights, gradients and moments are spread over the processes."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes that a forward pass keeps for its backward pass, by the models' layers, without the head's.

    ``layer`` and ``input``: of a token and a layer, all of it or its input alone. ``copies``: of weights, in bf16.
    """

    layer: float
    input: float
    copies: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What the estimate needs to know of a model. ``parameters`` are all of them, adapters among them."""

    parameters: int
    layers: int
    width: int
    vocabulary: int
    trained: int
    kept: Kept


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass of the update: rows, tokens a row, and whether layers are recomputed in the backward pass."""

    rows: int
    tokens: int
    checkpointing: bool


@dataclass(frozen=True, slots=True)
class Models:
    """What a run holds beside the policy. ``replica``: whole copies to sample from, in bf16, in every process."""

    references: int = 0
    value_model: bool = False
    replica: bool = False


def describe(recipe: TrainerRecipe, batch: Batch, models: Models = Models()) -> list[RenderableType]:
    """Return what every ``--dry-run`` begins with: the resolved recipe, the memory it takes, and where that fits."""
    check_optimiser(recipe)
    size = model_size(recipe.model, recipe.lora, recipe.precision != "fp32")
    if recipe.lora is not None:
        models = replace(models, references=0)  # the reference is the same model, adapters off
    told = (
        []
        if model_config(recipe.model)[1]
        else [f"{recipe.model} is not on this machine: its sizes are those that we ship (models.json)"]
    )
    tables = [memory_table(size, batch, models), fitting_table(size, batch, models)]
    return [Panel(Syntax(to_yaml(recipe), "yaml"), title="recipe"), *tables, *told]


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


def context_of_shipped(model: str) -> int | None:
    """Return the context of a model as far as its configuration, or the one that we ship of it, has one."""
    context: int | None = getattr(model_config(model)[0].get_text_config(), "max_position_embeddings", None)
    return context


def codec_for_plan(model: str, thinking: bool | None = None) -> tuple[ChatCodec | None, str]:
    """Return the model's codec, or None and a line that says what the plan cannot show without it."""
    try:
        return ChatCodec.load(model, thinking), ""
    except ModelError as error:
        return None, f"no prompts and no counts of tokens, which need the tokenizer: {error}"


def model_size(model: str, lora: LoraRecipe | None = None, bf16: bool = True) -> ModelSize:
    """Return a model's size from its configuration, without loading weights; ``bf16``: trained under its autocast."""
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
    kept = _kept(config, bf16)  # under LoRA it is a little less: frozen layers do not need their inputs
    return ModelSize(parameters, text.num_hidden_layers, text.hidden_size, text.vocab_size, trained, kept)


def _kept(config: Any, bf16: bool) -> Kept:
    """Return what the layers keep, by two of them: what grows with tokens, and what does not."""
    text = config.get_text_config()
    layers = text.num_hidden_layers
    short = copy.deepcopy(config)
    for part in {id(part): part for part in (short, short.get_text_config())}.values():
        part.num_hidden_layers = 2
        if getattr(part, "layer_types", None):
            part.layer_types = part.layer_types[:2]
    few, more, most = (_kept_of_pass(short, bf16, tokens) for tokens in (64, 128, 192))
    of_mask = (most - 2 * more + few) / (2 * 64**2)  # tokens squared; one for all layers, and small
    of_token = (more - few) / 64 - of_mask * 192
    copies = few - of_token * 64 - of_mask * 64**2
    return Kept(of_token / 2, 4.0 * text.hidden_size, max(0.0, copies) * layers / 2)


def _kept_of_pass(config: Any, bf16: bool, tokens: int) -> float:
    """Return the bytes that autograd keeps of a row of tokens, each storage once, weights left out."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM

    found: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        found[storage._cdata] = storage  # held, so that no other takes its place
        return tensor

    saved = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()
        weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
        with saved:
            model.base_model(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
        return float(sum(storage.nbytes() for place, storage in found.items() if place not in weights))


def state_bytes(parameters: int, processes: int, layout: str, bytes_each: tuple[float, float, float] = STATES) -> float:
    """Return the bytes of weights, gradients and moments in one process."""
    return sum(parameters * b / (processes if cut else 1) for b, cut in zip(bytes_each, LAYOUTS[layout], strict=True))


def activation_bytes(size: ModelSize, batch: Batch) -> float:
    """Return the bytes that one forward pass keeps for its backward pass, without the head's and copies of weights."""
    tokens = batch.rows * batch.tokens
    if batch.checkpointing:
        return tokens * (size.layers * size.kept.input + size.kept.layer)
    return tokens * size.layers * size.kept.layer


def head_bytes(size: ModelSize, batch: Batch, tile: tuple[int, int] = TILE) -> float:
    """Return the bytes of a tile of logits, and of the head's gradient in fp32."""
    tokens, words = min(batch.rows * batch.tokens, tile[0]), min(size.vocabulary, tile[1])
    return 12.0 * tokens * words + 4.0 * size.vocabulary * size.width


def gathered_bytes(size: ModelSize) -> float:
    """Return the bytes of what a process holds whole while it computes with shards: weights and gradients in bf16."""
    root = min(2.0 * size.vocabulary * size.width, size.parameters)
    return 4.0 * (root + 2 * (size.parameters - root) / size.layers)


def run_bytes(
    size: ModelSize, batch: Batch, models: Models, layout: str, processes: int, tile: tuple[int, int] = TILE
) -> float:
    """Return the bytes that a run takes on one of ``processes`` GPUs."""
    trained, frozen = 1 + models.value_model, size.parameters - size.trained
    unlearned = frozen * trained + models.references * size.parameters
    held = state_bytes(trained * size.trained, processes, layout)
    held += state_bytes(unlearned, processes, layout, bytes_each=(4.0, 0.0, 0.0))
    at_once = 1 if batch.checkpointing else trained  # recomputed layers keep none: they go with each forward pass
    held += gathered_bytes(size) if LAYOUTS[layout][0] else at_once * size.kept.copies
    return (
        held
        + 2.0 * size.parameters * models.replica
        + trained * activation_bytes(size, batch)
        + head_bytes(size, batch, tile)
    )


def memory_table(size: ModelSize, batch: Batch, models: Models = Models()) -> Table:
    """Return GB per GPU by layout and number of GPUs."""
    recomputed = "layers recomputed" if batch.checkpointing else "layers kept"
    counted = f"{size.parameters:,} parameters"
    if size.trained != size.parameters:
        counted += f", {size.trained:,} of them trained"
    table = Table(title=f"GB per GPU: {counted}, {batch.rows} x {batch.tokens} tokens, {recomputed}")
    table.add_column("layout")
    for processes in PROCESSES:
        table.add_column(_gpus(processes), justify="right")
    for layout in LAYOUTS:
        held = [run_bytes(size, batch, models, layout, processes) / GB for processes in PROCESSES]
        table.add_row(layout, *(f"{gigabytes:.1f}" for gigabytes in held))
    return table


def fitting_table(size: ModelSize, batch: Batch, models: Models = Models()) -> Table:
    """Return the fewest GPUs of each size on which a run fits with a tenth to spare, up to a node of 8."""
    table = Table(title="fewest GPUs that it fits on, a tenth left free")
    table.add_column("layout")
    for gigabytes in GPU_SIZES:
        table.add_column(f"{gigabytes} GB", justify="right")
    for layout in LAYOUTS:
        table.add_row(layout, *(_fewest(size, batch, models, layout, gigabytes) for gigabytes in GPU_SIZES))
    return table


def _fewest(size: ModelSize, batch: Batch, models: Models, layout: str, gigabytes: int) -> str:
    for processes in PROCESSES:
        if run_bytes(size, batch, models, layout, processes) <= 0.9 * gigabytes * GB:
            return _gpus(processes)
    return "no"


def _gpus(count: int) -> str:
    return f"{count} GPU" + "s" * (count > 1)
