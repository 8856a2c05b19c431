"""Append-only JSONL journals: what was done is never done twice, and a kill loses at most one line.

A journal line is one JSON object: first its ``key``, the identity of the work that it records, and last ``crc``, the
CRC-32 of all that stands before it. Reading repairs a torn last line (the mark of a kill or a full disk) with a notice;
damage anywhere else is an error that names file and line. Lines of journals made before there was a checksum have none.
Final data sets are written whole or not at all (`write_jsonl`) and carry no checksums: their bytes are the user's.
"""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from selfcorrect.errors import DataError, RunFolderError
from selfcorrect.not_text import undecodable_line
from selfcorrect.printing import complain
from selfcorrect.runs.files import make_folder, open_own, sync_folder, whole_file

SYNC_EVERY_S = 5.0
"""Seconds of recorded work that a power cut may undo at most; a killed process loses one line whatever this is."""


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
    except UnicodeDecodeError as error:
        raise undecodable_line(path) from error
    except (PermissionError, IsADirectoryError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def read_json(path: str | Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """Return the JSON object in a file; raises DataError where it is missing or broken.

    ``missing_ok``: a file that is not there is an empty object.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if missing_ok:
            return {}
        raise DataError(f"no file at {path}; check the path (working folder: {Path.cwd()})") from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} as JSON: {error}; remove it or make it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


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
    with whole_file(path) as file:
        for row in rows:
            file.write(line_of(row))
            count += 1
    return count


def write_journal(path: str | Path, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Write (key, row) pairs as a finished journal, which appears whole or not at all."""
    with whole_file(path) as file:
        file.writelines(_journal_line(key, row) for key, row in rows)


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON value to a file that appears whole or not at all."""
    write_whole(path, [json.dumps(value, ensure_ascii=False, indent=1) + "\n"])


def write_whole(path: str | Path, pieces: Iterable[str]) -> None:
    """Write text pieces to a file that appears whole, and durable, or not at all (`files.whole_file`)."""
    with whole_file(path) as file:
        file.writelines(piece.encode() for piece in pieces)


def line_of(row: Mapping[str, Any]) -> bytes:
    """Return a row as a line of JSON in UTF-8."""
    return _dump(row) + b"\n"


def _dump(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half a surrogate pair: UTF-8 cannot hold it, a JSON escape can
        return json.dumps(row, separators=(",", ":")).encode()


# --- journals -----------------------------------------------------------------------------------------------------

_SEALED = re.compile(rb',"crc":"(.{8})"\}\n', re.DOTALL)
_SEAL_BYTES = len(',"crc":"00000000"}\n')
_KEY = re.compile(r'\{"key":(?=")')


def _journal_line(key: str, row: Mapping[str, Any]) -> bytes:
    if "crc" in row:
        raise ValueError(f"a journal row has no field 'crc' of its own: {key!r}")
    body = _dump({"key": key, **row})[:-1]
    return body + b',"crc":"%08x"}\n' % zlib.crc32(body)


def _journal_key(line: bytes, must_be_sealed: bool) -> tuple[str, bool]:
    """Return the key of a journal line and whether the line has a checksum; ValueError says what is wrong with it."""
    body, seal = line[:-_SEAL_BYTES], line[-_SEAL_BYTES:]
    crc, sealed = b"%08x" % zlib.crc32(body), _SEALED.fullmatch(seal)
    if sealed:
        if sealed[1] != crc:
            raise ValueError(f"its checksum is {sealed[1]!r}, its content has {crc!r}")
        text = body.decode()
        if start := _KEY.match(text):
            return str(json.JSONDecoder().raw_decode(text, start.end())[0]), True
    elif crc in seal or must_be_sealed:
        raise ValueError("it has no checksum, though it was written with one")
    row = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("key"), str):
        raise ValueError("it is no JSON object with a key")
    return row["key"], bool(sealed)


def read_journal(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a finished journal, each with its ``key``; raises DataError naming a damaged line."""
    path, sealed = Path(path), False
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    _, sealed = _journal_key(line, sealed)
                    row: dict[str, Any] = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}, line {number}: damaged journal line ({error})") from error
                row.pop("crc", None)
                yield row
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


class Journal:
    """An append-only JSONL file keyed by identity. Use as a context manager.

    ``rows`` maps each key to what is recorded, in order of arrival; rows are read from the file when asked for, so a
    journal of millions of samples costs memory for its keys alone. `append` hands each line to the operating system:
    a killed process loses at most the line it was writing. Every `SYNC_EVERY_S` seconds, and at the end, what was
    handed over is made durable.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: FileIO | None = None
        self._places: dict[str, tuple[int, int]] = {}  # offset and length of each key's line
        self._end = 0
        self._synced_s = time.monotonic()
        self._dirty = False
        self.rows: Mapping[str, dict[str, Any]] = _Rows(self._places, self._read)

    def __enter__(self) -> Journal:
        try:
            make_folder(self.path.parent)
            self._file = FileIO(open_own(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "a+")
            sync_folder(self.path.parent)  # a name is durable with its folder, not with its file
            self._load(self._file)
        except OSError as error:
            raise RunFolderError(f"cannot open the journal {self.path}: {error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self.sync()
            self._file.close()
            self._file = None

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def append(self, key: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Record one row under its key; a key that stands already is a bug and raises ValueError."""
        if key in self._places:
            raise ValueError(f"{self.path}: key {key!r} is recorded already")
        file, line = self._opened(), _journal_line(key, row)
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
        self._dirty = True
        if time.monotonic() - self._synced_s > SYNC_EVERY_S:
            self.sync()
        return {"key": key, **row}

    def sync(self) -> None:
        """Make durable what was recorded."""
        if self._dirty:
            os.fsync(self._opened().fileno())
        self._dirty, self._synced_s = False, time.monotonic()

    def _opened(self) -> FileIO:
        if self._file is None:
            raise ValueError(f"{self.path} is not open")
        return self._file

    def _note(self, key: str, length: int) -> None:
        self._places[key] = (self._end, length)
        self._end += length

    def _read(self, offset: int, length: int) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(os.pread(self._opened().fileno(), length, offset))
        record.pop("crc", None)
        return record

    def _load(self, file: FileIO) -> None:
        self._places.clear()
        self._end, sealed = 0, False
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    complain(f"{self.path}: removed a torn last line ({len(line)} bytes); its work is redone")
                    file.truncate(self._end)
                    self._dirty = True
                    return
                try:
                    key, sealed = _journal_key(line, sealed)
                except ValueError as error:
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
