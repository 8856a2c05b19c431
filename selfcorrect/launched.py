"""What the processes of ``--launch`` tell the command that started them: one message, shown once.

Each process that fails leaves its message in a folder (`ERRORS`) and says nothing itself; the launching command
(`selfcorrect.train.common.launch`) shows the first one in place of the launcher's own report.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ERRORS = "SELFCORRECT_LAUNCH_ERRORS"
"""Environment variable: the folder for messages, where this is a process of ``--launch``."""

TERMINAL = "SELFCORRECT_LAUNCH_STDERR"
"""Environment variable: the terminal, or the pipe, that leads to the launching command's standard error."""


def report_to_launcher(message: str) -> bool:
    """Leave an error for the command that launched this process; False where none did."""
    if not (folder := os.environ.get(ERRORS)):
        return False
    Path(folder, f"{int(os.environ.get('RANK', '0')):06d}.txt").write_text(message, encoding="utf-8", errors="replace")
    return True


def write_to_launching_terminal() -> None:
    """Send this process's standard error where the launching command's goes, past the launcher's log."""
    place = os.environ.get(TERMINAL)
    if not place:
        return
    opened = os.open(place, os.O_WRONLY)
    sys.stderr.flush()
    os.dup2(opened, 2)
    os.close(opened)
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
