"""The settings that every program on TRL's trainers shares, and how a recipe becomes TRL's configuration."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from selfcorrect.errors import RecipeError, nearest
from selfcorrect.train.common.distributed import asks_for_cpu, backend, has_gpu, process_count
from selfcorrect.train.common.lora import LoraRecipe

Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True, slots=True)
class TrainerRecipe:
    """What a program's recipe has beside its own settings. ``trainer`` passes through to TRL's config unchanged."""

    name: str  # the model folder's name under <run>/checkpoints/
    model: str = "embedded"  # what to start from: "embedded", a model folder or a hub id
    seed: int = 0  # of data order, sampling and dropout
    learning_rate: float = 1e-4  # peak
    schedule: str = "cosine"  # a name of transformers' SchedulerType
    warmup: float = 0.05  # share of the steps until the peak
    weight_decay: float = 0.0  # of AdamW
    max_grad_norm: float = 1.0  # longer gradients are scaled down to it
    precision: Precision = "auto"  # bf16 autocast or fp32; auto takes bf16 where the hardware multiplies it
    attention: str = "auto"  # a transformers attention implementation; auto: sdpa on a GPU, common.lean_cpu's on a CPU
    lora: LoraRecipe | None = None  # train a low-rank update of the linear layers; null: all weights
    trainer: dict[str, Any] = field(default_factory=dict)  # further settings of TRL's configuration, unchanged
    thinking: bool | None = None  # enable_thinking of the model's chat template, kept in the checkpoint; null: as it is

    @property
    def checkpointing(self) -> bool:
        """True where layers are computed again in the backward pass."""
        return bool(self.trainer.get("gradient_checkpointing"))


def trl_config(schema: type[Any], recipe: TrainerRecipe, folder: Path, **own: Any) -> Any:
    """Return TRL's (or transformers') configuration: what all programs share, a program's ``own``, then ``trainer``.

    Raises RecipeError for a key of ``trainer`` that TRL does not know (with the nearest) or that a field already sets.
    """
    known = {field.name for field in dataclasses.fields(schema) if field.init}
    reserved = {"output_dir", "seed", "data_seed", "use_cpu", "max_steps", "num_train_epochs"}
    for key in recipe.trainer:
        if key not in known:
            raise RecipeError(f"trainer: {schema.__name__} has no setting {key!r}{nearest(key, known)}")
        if key in reserved:
            raise RecipeError(f"trainer: {key!r} follows from the recipe's own fields; set those")
    loggers = recipe.trainer.get("report_to", "none")
    for logger in [loggers] if isinstance(loggers, str) else loggers:
        if logger not in ("none", "all") and find_spec(logger) is None:
            raise RecipeError(f"trainer.report_to={logger} needs a package that is not installed: pip install {logger}")
    shared = {
        "output_dir": str(folder / "resume"),
        "seed": recipe.seed,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": recipe.warmup,  # transformers 5 reads a value below 1 as a share of the steps
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "bf16": use_bf16(recipe.precision),
        "use_cpu": asks_for_cpu(),
        "ddp_backend": backend(),
        "dataloader_pin_memory": has_gpu(),
        "gradient_checkpointing": False,
        "optim": "adamw_torch_fused",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "logging_first_step": True,
        "save_strategy": "steps",
        "save_total_limit": 2,  # one is whole on the disk while the next is being written
    }
    try:
        return schema(**{**shared, **own, **recipe.trainer})
    except (ValueError, TypeError) as error:
        raise RecipeError(f"TRL's {schema.__name__} refuses these settings: {error}") from error


def check_optimiser(recipe: TrainerRecipe) -> None:
    """Raise RecipeError for a number that the optimiser would take and that no training can mean."""
    for key in ("learning_rate", "warmup", "weight_decay", "max_grad_norm"):
        if not 0 <= (value := getattr(recipe, key)) < math.inf:
            raise RecipeError(f"{key}={value}: expected a number of 0 or more")


def check_batch(what: str, batch: int, micro: int | None) -> None:
    """Raise RecipeError where ``batch_<what>`` is not a positive whole number of micro-batches."""
    if batch < 1:
        raise RecipeError(f"batch_{what} is at least 1")
    if micro is not None and (micro < 1 or batch % micro):
        raise RecipeError(f"micro_{what}={micro} must divide batch_{what}={batch}")


def split_batch(what: str, batch: int, micro: int | None) -> dict[str, int]:
    """Return TRL's settings for ``batch`` rows an optimizer step over all processes, ``micro`` a forward pass."""
    processes = process_count()
    per_step = batch // processes
    size = min(micro or per_step, per_step)
    if per_step * processes != batch or per_step % size:
        raise RecipeError(f"batch_{what}={batch} does not split over {processes} processes of {size} {what}")
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": per_step // size}


def use_bf16(precision: Precision) -> bool:
    """Return whether to train in bf16 autocast: "auto" does where the hardware multiplies bf16."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if has_gpu():
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
