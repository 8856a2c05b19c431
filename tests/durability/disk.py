"""What a disk holds after a power cut, at every moment of a program: only what was synced by then.

`Recorder` watches a folder from inside a process: each sync, and each opening, renaming and removing of a name, is an
event. Of every file it knows the content at its last sync, of every folder the names at its last sync. From those it
writes down, before and after each event, two disks that a file system may show after a cut:

- ``strict``: what was synced, and nothing else: no content and no name that was not;
- ``names``: all names (created, renamed, removed) as they were, over contents that were not synced: files of 0 bytes,
  as ext4 shows them.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Tree = dict[str, str | None]
"""Path from the folder → name of the content in the store; None for a folder."""

EMPTY = hashlib.sha256(b"").hexdigest()
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link")


class Recorder:
    """Records the disks of one folder while this process runs; `save` writes them to ``<store>/cuts.json``."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root, self.store = root.resolve(), store
        store.mkdir(parents=True)
        self.cuts: list[dict[str, Any]] = []
        self._lock, self._busy = threading.RLock(), False
        self._synced: dict[int, str] = {}
        self._cut_short: dict[int, str] = {}  # as _synced, and empty where a name was opened to be written anew
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}
        self._held: list[int] = []  # descriptors, so that no inode's number is used again
        for folder, _, names in os.walk(self.root):
            for path in (folder, *(os.path.join(folder, name) for name in names)):
                handle = os.open(path, os.O_RDONLY)
                self._sync(handle)
                os.close(handle)
        self._real_fsync: Callable[[int], None] = os.fsync
        os.fsync = self._fsync  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def save(self) -> None:
        """Write down all cuts."""
        self._mark("the end")
        (self.store / "cuts.json").write_text(json.dumps(self.cuts))

    def _fsync(self, handle: int) -> None:
        where = os.readlink(f"/proc/self/fd/{handle}")
        if where.startswith(str(self.root)):
            self._mark(f"before the sync of {where}")
            with self._lock:
                self._busy = True
                self._sync(handle)
                self._busy = False
            self._mark(f"after the sync of {where}")
        self._real_fsync(handle)

    def _sync(self, handle: int) -> None:
        found = os.fstat(handle)
        self._held.append(os.dup(handle))
        if stat.S_ISDIR(found.st_mode):
            entries = [entry for entry in os.scandir(handle) if not entry.is_symlink()]
            self._names[found.st_ino] = {entry.name: (entry.inode(), entry.is_dir()) for entry in entries}
        else:
            with open(f"/proc/self/fd/{handle}", "rb") as file:
                content = file.read()
            name = hashlib.sha256(content).hexdigest()
            (self.store / name).write_bytes(content)
            self._synced[found.st_ino] = self._cut_short[found.st_ino] = name

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._busy or (event != "open" and event not in CHANGES):
            return
        path = arguments[0]
        if event == "open":
            flags = arguments[2] or 0
            if not isinstance(path, (str, bytes, os.PathLike)) or not flags & WRITING or not self._is_ours(path):
                return
            self._mark(f"before {path!r} is opened")
            if flags & os.O_TRUNC and os.path.exists(path):
                self._cut_short[os.stat(path).st_ino] = EMPTY
        elif isinstance(path, int) or not os.path.isabs(path) or self._is_ours(path):
            self._mark(f"before {event} of {path!r}")

    def _is_ours(self, path: str | bytes | os.PathLike[Any]) -> bool:
        return os.path.abspath(os.fsdecode(path)).startswith(str(self.root))

    def _mark(self, what: str) -> None:
        with self._lock:
            if self._busy:
                return
            self._busy = True
            for kind, tree in (("strict", self._strict()), ("names", self._as_named())):
                self.cuts.append({"at": what, "kind": kind, "tree": tree})
            self._busy = False

    def _strict(self) -> Tree:
        tree: Tree = {}

        def grow(folder: int, prefix: str) -> None:
            for name, (inode, is_folder) in self._names.get(folder, {}).items():
                tree[prefix + name] = None if is_folder else self._synced.get(inode, EMPTY)
                if is_folder:
                    grow(inode, f"{prefix}{name}/")

        grow(os.stat(self.root).st_ino, "")
        return tree

    def _as_named(self) -> Tree:
        tree: Tree = {}
        for folder, inner, names in os.walk(self.root):
            prefix = os.path.relpath(folder, self.root)
            for name in inner:
                tree[os.path.normpath(os.path.join(prefix, name))] = None
            for name in names:
                found = os.stat(os.path.join(folder, name))
                content = self._cut_short.get(found.st_ino, EMPTY)
                if (self.store / content).exists() and (self.store / content).stat().st_size > found.st_size:
                    content = EMPTY
                tree[os.path.normpath(os.path.join(prefix, name))] = content
        return tree


def restore(tree: Mapping[str, str | None], store: Path, folder: Path) -> None:
    """Make a folder hold what a disk held after a cut."""
    for name, content in tree.items():
        if content is None:
            (folder / name).mkdir(parents=True, exist_ok=True)
    for name, content in tree.items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((store / content).read_bytes() if content != EMPTY else b"")


def distinct(cuts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cuts that show different disks, each at its first event."""
    seen: set[str] = set()
    return [cut for cut in cuts if (key := json.dumps(cut["tree"], sort_keys=True)) not in seen and not seen.add(key)]
