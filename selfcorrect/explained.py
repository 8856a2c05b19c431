"""What errors of other libraries and of the machine mean, in one message; what is none of these is a bug of ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from selfcorrect.extras import missing

RESUME = "what was recorded is whole: mend this and run the same command"

_DISK = (
    "No space left on device",
    "os error 28",
    "Disk quota exceeded",
    "PytorchStreamWriter failed",
    "inline_container.cc",  # torch.save, where the file ends short
    "write_end_of_file",
)
_HUB = ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectionError", "ConnectTimeout")
_MEMORY = ("OutOfMemoryError", "CUDA out of memory", "can't allocate memory", "DefaultCPUAllocator")


def explained(error: BaseException) -> str | None:
    """Return the message for a missing extra or a fault of the machine, disk or network; None where it is none."""
    for cause in causes(error):
        if absent := missing(cause):
            return absent
        said = f"{type(cause).__name__}: {cause}"
        if any(sign in said for sign in _DISK) or _is_disk(cause):
            place = getattr(cause, "filename", None) or "the run folder"
            return f"no space left on the disk of {place}; what was recorded is whole: make room and run it again"
        if memory := explained_memory(cause):
            return memory
        if any(sign in said for sign in _HUB):
            return (
                f"the hub could not be reached: {first_line(cause)}\n"
                "Give a local folder or file, or go online and unset HF_HUB_OFFLINE."
            )
        if isinstance(cause, OSError) and cause.errno is not None:
            return f"{cause.strerror}: {cause.filename or 'file unknown'}; {RESUME}"
    return None


def explained_memory(error: BaseException) -> str | None:
    """Return the message where memory is what is wanting, None otherwise."""
    if isinstance(error, MemoryError) or any(sign in f"{type(error).__name__}: {error}" for sign in _MEMORY):
        fewer = "Lower micro_rows, engine.max_batch or max_tokens, or use a smaller model."
        return f"out of memory: {first_line(error)}\n{fewer}"
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from or during."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def first_line(error: BaseException) -> str:
    """Return the first line of an error that says anything, at most 300 characters."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _is_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
