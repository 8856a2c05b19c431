"""The processes that train together: how many, which one writes, and what each of them must hold."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from selfcorrect.errors import InputError, RecipeError
from selfcorrect.train.common.launch import EXPECTED

if TYPE_CHECKING:
    from accelerate import PartialState

FSDP = "SELFCORRECT_FSDP"
"""Environment variable that asks each process for FSDP 2; what accelerate's launcher sets is turned into it."""

_NOT_OURS = {
    "FSDP_VERSION": (("1",), "this is FSDP 2: set fsdp_version: 2 in the accelerate configuration"),
    "FSDP_ACTIVATION_CHECKPOINTING": (("1", "true"), "set trainer.gradient_checkpointing=true in the recipe instead"),
    "FSDP_OFFLOAD_PARAMS": (("1", "true"), "weights stay on the GPUs: set it to false, and use more of them or LoRA"),
}
"""Settings of accelerate's FSDP that are refused: the values, and what to do."""


def has_gpu() -> bool:
    """True where PyTorch sees a CUDA device."""
    import torch

    return bool(torch.cuda.is_available())


def process_count() -> int:
    """Return how many processes train together. Raises InputError where ``--launch`` asked for another number."""
    found = int(_state().num_processes)
    if (expected := os.environ.get(EXPECTED)) and int(expected) != found:
        raise InputError(f"--launch asked for {expected} processes, {found} came up; see train/common/launch.py")
    return found


def process_rank() -> int:
    """Return this process's number; 0 is the one that writes files."""
    return int(_state().process_index)


def local_rank() -> int:
    """Return this process's number on its machine."""
    return int(_state().local_process_index)


def wait_for_everyone() -> None:
    """Return when every process has come here."""
    _state().wait_for_everyone()


def gathered(rows: list[Any]) -> list[Any]:
    """Return the rows of all processes, in the order of the processes; every process must call it."""
    if process_count() == 1:
        return rows
    from accelerate.utils import gather_object

    return list(gather_object(rows))


def _state() -> PartialState:
    """Return accelerate's record of the processes, made after FSDP was taken over from it."""
    from accelerate import PartialState

    fsdp_asked()
    return PartialState(cpu=asks_for_cpu(), backend=backend())


def asks_for_cpu() -> bool:
    """True where accelerate is to be told to take the CPU; under DeepSpeed, which finds it by itself, never.

    Told so, accelerate 1.15 leaves DeepSpeed out and makes plain DDP, without a word.
    """
    return not has_gpu() and not deepspeed_asked()


def backend() -> str | None:
    """Return what processes talk through where accelerate does not know: DeepSpeed's on a CPU; None: it knows.

    Left alone, accelerate 1.15 takes each of DeepSpeed's processes on a CPU for the only one.
    """
    return "gloo" if deepspeed_asked() and not has_gpu() else None


def deepspeed_asked() -> bool:
    """True where this process was started to train with DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"


def fsdp_asked() -> bool:
    """True where this process was started to shard its models (`common.sharding`).

    What accelerate's launcher sets is taken over, so that accelerate itself sees plain processes: it would shard on
    GPUs alone. Raises RecipeError where its settings ask for what is not done here.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true"):
        for name, (unlike, what_to_do) in _NOT_OURS.items():
            if os.environ.get(name, "").lower() in unlike:
                raise RecipeError(f"--launch: {name.lower()}={os.environ[name]}: {what_to_do}")
        del os.environ["ACCELERATE_USE_FSDP"]
        os.environ[FSDP] = "1"
    return os.environ.get(FSDP) == "1"


def zero3_asked() -> bool:
    """True where DeepSpeed was asked to shard weights, by accelerate's settings or by a file of DeepSpeed's."""
    stage: Any = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE")
    if (file := os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")) != "none":
        from accelerate.utils.deepspeed import HfDeepSpeedConfig

        of_file = HfDeepSpeedConfig(file).get_value("zero_optimization.stage", "auto")
        stage = stage if of_file == "auto" else of_file
    return str(stage) == "3"
