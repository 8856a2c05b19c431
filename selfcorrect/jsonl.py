"""Append-only JSONL journals: what was done is never done twice, and a kill loses at most one line.

A journal line is one JSON object with a ``key``, the identity of the work it records. Reading repairs a
torn last line (the mark of a kill or a full disk) with a notice; damage anywhere else is an error that
names file and line. Final data sets are written whole or not at all (`write_jsonl`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from selfcorrect.errors import DataError, RunFolderError


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file; raises DataError naming file and line where one is broken."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parse(line, path, number)
    except FileNotFoundError as error:
        raise DataError(f"no file at {path}; check the path (working folder: {Path.cwd()})") from error
    except (PermissionError, IsADirectoryError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _parse(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not JSON ({error}): {line.strip()[:80]!r}") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: expected a JSON object, got {type(row).__name__}")
    return row


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows to a file that appears whole or not at all; return how many."""
    count = 0

    def lines() -> Iterator[str]:
        nonlocal count
        for row in rows:
            count += 1
            yield json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"

    write_whole(path, lines())
    return count


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON value to a file that appears whole or not at all."""
    write_whole(path, [json.dumps(value, ensure_ascii=False, indent=1) + "\n"])


def write_whole(path: str | Path, pieces: Iterable[str]) -> None:
    """Write text pieces through a temporary neighbour and a rename: never half a file under the real name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror or error}; nothing was left half-written") from error


class Journal:
    """An append-only JSONL file keyed by identity. Use as a context manager.

    ``rows`` maps each key to what is recorded, in order of arrival; rows are read from the file when asked for, so a
    journal of millions of samples costs memory for its keys alone. `append` hands each line to the operating system:
    a killed process loses at most the line it was writing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: FileIO | None = None
        self._places: dict[str, tuple[int, int]] = {}  # offset and length of each key's line
        self._end = 0
        self.rows: Mapping[str, dict[str, Any]] = _Rows(self._places, self._read)

    def __enter__(self) -> Journal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = FileIO(self.path, "a+")
            self._load(self._file)
        except OSError as error:
            raise RunFolderError(f"cannot open the journal {self.path}: {error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def append(self, key: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Record one row under its key; a key that stands already is a bug and raises ValueError."""
        if key in self._places:
            raise ValueError(f"{self.path}: key {key!r} is recorded already")
        file = self._opened()
        record = {"key": key, **row}
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            written = 0
            while written < len(line):
                written += file.write(line[written:])
        except OSError as error:
            with suppress(OSError):
                file.truncate(self._end)
            raise RunFolderError(
                f"cannot append to {self.path}: {error.strerror or error}; "
                "what was recorded is whole: free the disk and run the same command to resume"
            ) from error
        self._note(key, len(line))
        return record

    def _opened(self) -> FileIO:
        if self._file is None:
            raise ValueError(f"{self.path} is not open")
        return self._file

    def _note(self, key: str, length: int) -> None:
        self._places[key] = (self._end, length)
        self._end += length

    def _read(self, offset: int, length: int) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(os.pread(self._opened().fileno(), length, offset))
        return record

    def _load(self, file: FileIO) -> None:
        self._places.clear()
        self._end = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    print(
                        f"{self.path}: removed a torn last line ({len(line)} bytes); its work is redone",
                        file=sys.stderr,
                    )
                    file.truncate(self._end)
                    return
                try:
                    key = _parse(line.decode(), self.path, number)["key"]
                except (DataError, UnicodeDecodeError, KeyError) as error:
                    raise DataError(
                        f"{self.path}, line {number}: damaged journal line ({error}); remove that line to redo its work"
                    ) from error
                if key in self._places:
                    raise DataError(f"{self.path}, line {number}: key {key!r} is recorded twice; remove one line")
                self._note(key, len(line))


class _Rows(Mapping[str, dict[str, Any]]):
    """The rows of a journal by key, each read from the file when it is asked for."""

    def __init__(self, places: Mapping[str, tuple[int, int]], read: Callable[[int, int], dict[str, Any]]) -> None:
        self._places, self._read = places, read

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._read(*self._places[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
