"""Files to a repository of the Hugging Face hub, or to a folder: whole, or with an error that says what to do.

`adapters.hub` decides what a checkpoint or a data set is published with; ``selfcorrect gen --push-to-hub`` sends a data
folder as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from selfcorrect.errors import InputError
from selfcorrect.runs.files import sync_tree

Kind = Literal["model", "dataset"]
Files = Mapping[str, Path | bytes]
"""Names in the repository, with /, and for each the file, or what it is to hold."""


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by their names in a repository; links and hidden files are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inner.parts)
        linked = any((folder / parent).is_symlink() for parent in (inner, *inner.parents[:-1]))
        if path.is_file() and not hidden and not linked:
            found[inner.as_posix()] = path
    return found


def push_files(
    files: Files, repo: str, kind: Kind, *, private: bool = True, endpoint: str | None = None, message: str = "push"
) -> str:
    """Send files to a repository in one commit and return its address; one that does not exist is made.

    ``private`` is of a repository that is made here. Raises InputError for a name that is none, and for what the hub
    refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    try:
        api = HfApi(endpoint=endpoint)
        made = api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        operations = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in files.items()
        ]
        api.create_commit(made.repo_id, operations, repo_type=kind, commit_message=message)
    except Exception as error:  # of the hub, or of whichever HTTP library its client uses
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(
            f"cannot push to the hub as {repo!r}: {reason}\nA name is owner/name; log in with `hf auth login`; "
            "unset HF_HUB_OFFLINE."
        ) from error
    return str(made)


def write_files(files: Files, folder: Path) -> Path:
    """Write files into a folder that does not exist or is empty, and return it: all of them appear, or none.

    Raises InputError where the folder holds something, or cannot be written.
    """
    if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder} is there already: give a folder that does not exist, or an empty one")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for name, content in files.items():
            place = partial / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                place.write_bytes(content)
            else:
                shutil.copyfile(content, place)
        sync_tree(partial)
        if folder.is_dir():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"cannot write {folder}: {error.strerror or error}; nothing was left there") from error
    return folder
