"""What engines in processes of their own need: `by_itself`, `gpu_name`, `memory_folder`.

torchrun and accelerate tell their processes by environment variables which of how many they are, and children inherit
them: vLLM beside one of several training processes would wait for a store at the trainers' address that is not its own,
and every engine would take GPU 0.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_LAUNCHERS = {
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT",
}  # fmt: skip
_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_")

GPUS = "CUDA_VISIBLE_DEVICES"


@contextmanager
def by_itself(gpus: Sequence[str] = ()) -> Iterator[None]:
    """Start processes, within this context, that know nothing of ours; ``gpus``: what they see, else what we see."""
    wanted: dict[str, str | None] = {
        name: None for name in os.environ if name in _LAUNCHERS or name.startswith(_PREFIXES)
    }
    if gpus:
        wanted[GPUS] = ",".join(gpus)
    before = {name: os.environ.get(name) for name in wanted}
    _set(wanted)
    try:
        yield
    finally:
        _set(before)


def gpu_name(number: int) -> str:
    """Return how CUDA_VISIBLE_DEVICES names, to any process of this machine, a GPU by its number in this one."""
    seen = os.environ.get(GPUS)
    return seen.split(",")[number] if seen else str(number)


def memory_folder() -> Path:
    """Return the folder in memory through which processes of a machine pass weights; a temporary one without it."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else Path(tempfile.gettempdir())


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
