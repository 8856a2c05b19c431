"""The processes that train together: how many, which one writes, and what each of them must hold."""

from __future__ import annotations

import os

from selfcorrect.errors import InputError, RecipeError
from selfcorrect.train.common.launch import EXPECTED


def has_gpu() -> bool:
    """True where PyTorch sees a CUDA device."""
    import torch

    return bool(torch.cuda.is_available())


def process_count() -> int:
    """Return how many processes train together. Raises InputError where ``--launch`` asked for another number."""
    from accelerate import PartialState

    found = int(PartialState(cpu=not has_gpu()).num_processes)
    if (expected := os.environ.get(EXPECTED)) and int(expected) != found:
        raise InputError(f"--launch asked for {expected} processes, {found} came up; see train/common/launch.py")
    return found


def process_rank() -> int:
    """Return this process's number; 0 is the one that writes files."""
    from accelerate import PartialState

    return int(PartialState(cpu=not has_gpu()).process_index)


def wait_for_everyone() -> None:
    """Return when every process has come here."""
    from accelerate import PartialState

    PartialState(cpu=not has_gpu()).wait_for_everyone()


def hold_whole_weights() -> None:
    """Raise RecipeError where weights are sharded: rollouts sample from the live weights of one process."""
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    if fsdp or os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":
        raise RecipeError(
            "rollouts sample from the live weights, so every process must hold all of them; FSDP and ZeRO-3 shard "
            "them: use --launch ddp or zero2"
        )
