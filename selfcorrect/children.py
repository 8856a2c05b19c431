"""Child processes run our code, whatever lies in the working folder or on ``PYTHONPATH``.

A child is started with ``-P``, so that the working folder is not searched for modules (a ``train.py`` or ``json.py`` of
the user's is not run), and by the absolute place of this installation. All modules of ours are ``selfcorrect.…``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from selfcorrect.shipped import PACKAGE

ROOT = PACKAGE.resolve().parent
PYTHON = (sys.executable, "-P")
"""Python for a child: the working folder is not on its path."""

SAFE = {"PYTHONSAFEPATH": "1"}
"""Environment of a child that starts further Python processes: ``-P`` for all of them."""


def selfcorrect_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of a `selfcorrect` command in a process of its own."""
    return [*PYTHON, str(ROOT / "selfcorrect" / "__main__.py"), *arguments]


def leave_working_folder() -> None:
    """Take the folder that ``python -m`` puts first on the path away again, unless we are run from there."""
    if not sys.flags.safe_path and sys.path and Path(sys.path[0] or ".").resolve() == Path.cwd() != ROOT:
        del sys.path[0]
