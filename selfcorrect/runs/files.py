"""Files that survive a power cut: written aside, synced, renamed; and records of what a finished folder holds.

A write that returned is not on the disk until it was synced, and neither is a name until its folder was. So a file that
must be whole or absent goes through `whole_file`, a folder that a library wrote through `sync_tree`, and what a stage's
end stands for is recorded by `manifest`, with sizes and SHA-256, for `unlike` to compare. Names that we write to are
never followed where they are links: a run folder may come from somebody else. docs/durability.md has the rules.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from selfcorrect.errors import DataError, RunFolderError

NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP)  # file systems that order names themselves


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """Give a binary stream whose content appears under ``path`` whole and durable at the end, or not at all.

    Two writers of one file take turns. Raises DataError where the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        make_folder(path.parent)
        with os.fdopen(_claimed(partial), "wb") as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(partial, path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        sync_folder(path.parent)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}; nothing was left half-written") from error


def _claimed(partial: Path) -> int:
    """Open and lock the file that stands in for another; one that was renamed away meanwhile is opened anew."""
    while True:
        handle = open_own(partial, os.O_WRONLY | os.O_CREAT)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.lstat(partial)):
                    os.ftruncate(handle, 0)
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def open_own(path: str | Path, flags: int) -> int:
    """Open a file of ours for writing and return its descriptor; a link or anything but a plain file is refused.

    Nothing is truncated. Raises RunFolderError for a link (symbolic, or a second name of a file), OSError otherwise.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RunFolderError(f"{path} is a symbolic link, which is not written through; remove it") from error
        raise
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return handle
    os.close(handle)
    what = "another name of some other file" if stat.S_ISREG(found.st_mode) else "not a plain file"
    raise RunFolderError(f"{path} is {what}, which is not written to; remove it")


def append_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Append text lines to a log or a list of metrics; they are durable once `sync_tree` or `sync_file` ran."""
    with os.fdopen(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as file:
        file.writelines(line.encode() for line in lines)


def make_folder(path: Path) -> list[Path]:
    """Make a folder with its parents, durably; return the folders that were made, the outermost first."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()][::-1]
    for folder in missing:
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    return missing


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """Make everything under a folder durable that others wrote there: contents first, then names."""
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            file = Path(folder, name)
            if file.is_file() and not file.is_symlink():
                sync_file(file)
        sync_folder(Path(folder))


def manifest(files: Iterable[Path], base: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of files, by their paths from ``base``."""
    return {
        os.path.relpath(file, base): {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(files)
    }


def unlike(record: Mapping[str, Mapping[str, Any]], base: Path, by_hash: bool = False) -> list[str]:
    """Return in words what differs from a manifest: files that are missing, of another size, of other content.

    Contents are read only where ``by_hash`` says so.
    """
    found = []
    for name, was in record.items():
        file = base / name
        if not file.is_file():
            found.append(f"{name} is missing")
        elif (size := file.stat().st_size) != was["bytes"]:
            found.append(f"{name} has {size:,} bytes instead of {was['bytes']:,}")
        elif by_hash and _sha256(file) != was["sha256"]:
            found.append(f"{name} has other content than when the stage finished")
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
