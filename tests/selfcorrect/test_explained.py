"""Faults of the machine and of other libraries are one message; a bug of ours is none of them."""

from __future__ import annotations

import errno

import pytest

from selfcorrect.explained import explained


def during(cause: BaseException) -> BaseException:
    """Return an error of a library that was raised because of another."""
    try:
        try:
            raise cause
        except type(cause) as error:
            raise RuntimeError("while saving") from error
    except RuntimeError as wrapped:
        return wrapped


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/x/DONE"), "no space left on the disk of runs/x/DONE"),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 4638592 vs 4638480"),
            "no space left",
        ),
        (RuntimeError("PytorchStreamWriter failed writing file data/12: file write failed"), "no space left"),
        (during(OSError(errno.EDQUOT, "Disk quota exceeded")), "no space left"),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), "no space left"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out of memory"),
        (MemoryError(), "out of memory"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/y"), "Permission denied: runs/y"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "out"), "Is a directory: out"),
        (ConnectionError("huggingface.co"), "the hub could not be reached"),
    ],
)
def test_faults_of_the_machine_are_explained(error: BaseException, said: str) -> None:
    for one in (error, during(error)):
        message = explained(one)
        assert message is not None
        assert said in message
        assert len(message.splitlines()) <= 2


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("no"), AssertionError(), ZeroDivisionError("by zero")])
def test_a_bug_is_not_explained_away(error: Exception) -> None:
    assert explained(error) is None
    assert explained(during(error)) is None
