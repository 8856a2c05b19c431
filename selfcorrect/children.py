"""Child processes run our code, whatever lies in the working folder or on ``PYTHONPATH``.

A child is started with ``-P``, so that the working folder is not searched for modules (a ``train.py`` or ``json.py`` of
the user's is not run), and by the absolute place of this installation. What still hides a package of ours, such as
``PYTHONPATH=.`` in a folder with ``train.py``, is found before anything is run (`check_packages`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from selfcorrect.errors import SelfCorrectError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("data_gen", "train", "eval")
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


def check_packages() -> None:
    """Raise SelfCorrectError, naming the file, where another module hides one of our packages."""
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None:
            raise SelfCorrectError(f"this installation is incomplete: no package {name!r} in {ROOT}; install it again")
        found = Path(spec.origin) if spec.origin else Path(next(iter(spec.submodule_search_locations or ()), "?"))
        if found.resolve() != ROOT / name / "__init__.py":
            raise SelfCorrectError(
                f"{found} hides selfcorrect's own package {name!r} ({ROOT / name}): it is found first on Python's "
                f"path. Take its folder out of PYTHONPATH, or rename it; nothing of it was run."
            )
