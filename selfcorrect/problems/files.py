"""`read_rows`: the rows of a problem file, each with the place it stands at (``file:line``).

| ending | content |
|---|---|
| ``.jsonl``, ``.ndjson`` | one JSON value a line |
| ``.json`` | an array of rows; an object of rows, of columns, or with the rows under one key; or one value a line |
| ``.csv``, ``.tsv`` | a table whose first line names the columns (comma, semicolon or tab) |
| ``.parquet`` | a table |

Letter case does not matter, and ``.gz``, ``.bz2``, ``.xz`` or ``.zst`` may follow. Text is UTF-8, UTF-16 or UTF-32
with or without a byte order mark, lines end as on any system. A file that is not what its name says (a line that is no
JSON, a row with other columns than the header, bytes that are no text) stops the run with the line named: what stands
behind the damage cannot be trusted.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from selfcorrect.errors import DataError
from selfcorrect.extras import named_extras
from selfcorrect.not_text import refuse_other_kind, undecodable


def _open_zstandard(path: Path, mode: str) -> IO[bytes]:
    with named_extras():
        import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path), mode), "zstd"))


PACKED: Mapping[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zstandard}
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MAX_CELL_CHARS = 2**24
"""Longest cell of a CSV table; the library's own bound of 131,072 is within what questions reach."""
ROW_KEYS = ("rows", "data", "examples", "problems", "questions", "instances")
"""Keys that hold the rows of a ``.json`` object, asked in this order where several hold lists of objects."""
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


class Placed(NamedTuple):
    """A row as the file has it, and where: ``file:line``, or ``file, row n`` in a table without lines."""

    place: str
    row: Any


def is_problem_file(path: Path) -> bool:
    """True where the ending is one that `read_rows` reads."""
    return _ending(path) in READERS


def stem_of(path: Path) -> str:
    """Return a file's name without its endings: problem ids begin with it, packed or not."""
    return path.with_suffix("").stem if path.suffix.lower() in PACKED else path.stem


def endings() -> str:
    """Return the endings that are read, for messages."""
    return ", ".join(READERS) + f" (and any of them with {', '.join(PACKED)})"


def read_rows(path: Path) -> Iterator[Placed]:
    """Yield the rows of a file in order; raises DataError naming file and line where it is not what it says."""
    reader = READERS.get(_ending(path))
    if reader is None:
        raise DataError(f"cannot read {path}: expected a file that ends in {endings()}")
    if path.exists() and not path.is_file():  # a pipe can be read once, and waits for a writer
        raise DataError(f"cannot read {path}: expected a regular file")
    try:
        yield from reader(path)
    except FileNotFoundError as error:
        raise DataError(f"no file at {path}; check the path (working folder: {Path.cwd()})") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"cannot read {path}: {error or type(error).__name__}") from error


def _ending(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


# --- text ---------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, line with its end) of a text file, decoded; line ends are those of Unix, Windows and old Macs."""
    with _opened(path) as file:
        head = file.read(4096)
    refuse_other_kind(path, head)
    encoding = _encoding(path, head)
    with _opened(path) as file:
        if encoding != "utf-8":
            yield from enumerate(_LINE.findall(_decoded(file.read(), encoding, str(path))), 1)
            return
        ends = "\r" if b"\r" in head and b"\n" not in head else None
        lines = file.read().replace(b"\r", b"\n").splitlines(keepends=True) if ends else file
        for number, line in enumerate(lines, 1):
            yield number, _decoded(line, "utf-8", f"{path}:{number}")


def _opened(path: Path) -> IO[bytes]:
    opened: IO[bytes] = PACKED.get(path.suffix.lower(), open)(path, "rb")
    return opened


def _encoding(path: Path, head: bytes) -> str:
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    if b"\0" not in head[:64]:
        return "utf-8"
    guess = "utf-16-le" if head[1:2] == b"\0" else "utf-16-be"  # which has a zero byte beside every ASCII letter
    with suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder(guess)().decode(head)
        return guess
    raise DataError(f"{path}: expected text, but it holds zero bytes and is not UTF-16; give the file that you mean")


def _decoded(data: bytes, encoding: str, place: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise undecodable(place, encoding, error) from error


# --- JSON ---------------------------------------------------------------------------------------------------------


def _json_lines(path: Path) -> Iterator[Placed]:
    lines = _lines(path)
    number, line = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    if not line:
        return
    if line.lstrip().startswith("["):  # an array over many lines, or a list in every line
        text = line + "".join(rest for _, rest in lines)
        yield from _json_text(path, text, number)
        return
    yield Placed(f"{path}:{number}", _value(line, f"{path}:{number}"))
    for number, line in lines:
        if line.strip():
            yield Placed(f"{path}:{number}", _value(line, f"{path}:{number}"))


def _json(path: Path) -> Iterator[Placed]:
    yield from _json_text(path, "".join(line for _, line in _lines(path)), 1)


def _json_text(path: Path, text: str, first_line: int) -> Iterator[Placed]:
    """Yield the rows of one JSON value, or of one a line."""
    start = len(text) - len(text.lstrip())
    if text[start : start + 1] == "[" and not _is_one_a_line(text):
        yield from _array(path, text, start, first_line)
        return
    try:
        value = _loads(text) if text.strip() else []
    except ValueError as error:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), first_line) if line.strip()]
        if len(lines) > 1 and not _is_json(lines[0][1]):  # one value over many lines, and broken
            at = first_line + getattr(error, "lineno", 1) - 1
            broken = text.split("\n")[at - first_line].strip()[:80]
            raise DataError(f"{path}:{at}: not JSON ({_without_place(error)}): {broken!r}") from error
        for number, line in lines:
            yield Placed(f"{path}:{number}", _value(line, f"{path}:{number}"))
        return
    rows = [value] if isinstance(value, list) else _rows_of_object(value, path)
    for number, row in enumerate(rows, 1):
        yield Placed(f"{path}, row {number}", row)


def _is_one_a_line(text: str) -> bool:
    """True where the text's first line is a whole list of messages: such lists are rows, one a line."""
    first = text.lstrip().split("\n", 1)[0]
    return _is_json(first) and is_messages(_loads(first))


def _array(path: Path, text: str, start: int, line: int) -> Iterator[Placed]:
    """Yield the items of an array one by one, each with the line that it begins in."""
    at, counted = start + 1, 0
    expected = "a row"
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        line, counted = line + text.count("\n", counted, at), at
        here = text[at : at + 1]
        if here == "]":
            rest = text[at + 1 :]
            if rest.strip():
                line += rest[: -len(rest.lstrip())].count("\n")
                raise DataError(f"{path}:{line}: text after the end of the array: {rest.strip()[:80]!r}")
            return
        if expected == "a comma":
            if here != ",":
                raise DataError(f"{path}:{line}: not JSON (expected , or ] after a row): {text[at : at + 80]!r}")
            at, expected = at + 1, "a row"
            continue
        try:
            row, end = _JSON.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{line}: not JSON ({_without_place(error)}): {text[at : at + 80]!r}") from error
        yield Placed(f"{path}:{line}", row)
        at, expected = end, "a comma"


def _rows_of_object(value: Any, path: Path) -> list[Any]:
    """Return the rows of a JSON object, in whichever of pandas' and the hub's forms it is."""
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected rows, got one {type(value).__name__}")
    lists = {key: items for key, items in value.items() if isinstance(items, list) and items}
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):  # pandas, orient="split"
        return [dict(zip(value["columns"], cells, strict=False)) for cells in value["data"]]
    of_objects = [key for key, items in lists.items() if all(isinstance(item, dict) for item in items)]
    known = [key for key in ROW_KEYS if key in of_objects]
    if len(of_objects) == 1 or known:
        rows = lists[known[0] if known else of_objects[0]]
        if is_messages(rows):  # one problem with its chat
            return [value]
        return [row["row"] if set(row) >= {"row_idx", "row"} else row for row in rows]  # the hub's /rows
    if value and len(lists) == len(value) and len({len(items) for items in lists.values()}) == 1:  # columns
        return [dict(zip(value, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
    inner = list(value.values())
    if inner and all(isinstance(item, dict) for item in inner):
        first = inner[0]
        columns = all(item.keys() == first.keys() for item in inner) and not any(
            isinstance(cell, (dict, list)) for cell in first.values()
        )
        if columns and all(key.isdigit() for key in first):  # pandas, orient="columns"
            return [{name: column[index] for name, column in value.items()} for index in first]
        return inner  # rows by their names
    if of_objects:
        raise DataError(f"{path}: rows under several keys ({', '.join(of_objects)}); save one of them alone")
    return [value]


def is_messages(value: Any) -> bool:
    """True for a list of chat messages, in OpenAI's or ShareGPT's words."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        return False
    return all(isinstance(item, Mapping) and (item.keys() >= {"role"} or item.keys() >= {"from"}) for item in value)


def _is_json(text: str) -> bool:
    try:
        _loads(text)
    except ValueError:
        return False
    return True


def _value(line: str, place: str) -> Any:
    try:
        return _loads(line)
    except ValueError as error:
        raise DataError(f"{place}: not JSON ({_without_place(error)}): {line.strip()[:80]!r}") from error


def _loads(text: str) -> Any:
    try:
        return _JSON.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _integer(digits: str) -> int | str:
    """Return a JSON integer; one beyond what Python converts stays text, digit by digit."""
    return int(digits) if len(digits) < 4000 else digits


_JSON = json.JSONDecoder(parse_int=_integer)


def _without_place(error: Exception) -> str:
    return str(error).split(": line ")[0]


# --- tables -------------------------------------------------------------------------------------------------------


def _csv(path: Path) -> Iterator[Placed]:
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        return
    header = first[1].lstrip("\ufeff")
    delimiter = max(",;\t", key=header.count)
    csv.field_size_limit(MAX_CELL_CHARS)
    table = csv.reader(_chained(header, lines), strict=True, delimiter=delimiter)
    names: list[str] | None = None
    begins = 1
    try:
        for cells in table:
            place, begins = f"{path}:{begins}", table.line_num + 1
            if names is None:
                names = _names(cells)
                if names != cells:
                    yield Placed(place, dict(zip(names, cells, strict=True)))
            elif cells:
                yield Placed(place, _cells(names, cells, place))
    except csv.Error as error:
        raise DataError(f"{path}:{begins}: not a table ({error})") from error


def _chained(header: str, lines: Iterable[tuple[int, str]]) -> Iterator[str]:
    yield header
    for _, line in lines:
        yield line


def _names(cells: list[str]) -> list[str]:
    """Return the columns' names; two columns whose first line holds a number have no header (MGSM's ``.tsv``)."""
    if len(cells) == 2 and cells[1].strip().lstrip("-").replace(",", "").replace(".", "").isdigit():
        return ["question", "answer"]
    return cells


def _cells(names: list[str], cells: list[str], place: str) -> dict[str, str]:
    surplus = cells[len(names) :]
    if len(cells) < len(names) or any(cell.strip() for cell in surplus):
        raise DataError(f"{place}: its number of columns is {len(cells)}, that of the header {len(names)}")
    return dict(zip(names, cells, strict=False))


def _parquet(path: Path) -> Iterator[Placed]:
    with named_extras():
        import pyarrow.parquet

    number = 0
    try:
        with _opened(path) as file, pyarrow.parquet.ParquetFile(file) as table:
            narrow = {f.name for f in table.schema_arrow if f.type in (pyarrow.float16(), pyarrow.float32())}
            if narrow:
                import numpy
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    for name in narrow:  # 0.1 in 32 bits is written 0.1, not 0.10000000149011612
                        if row[name] is not None:
                            row[name] = float(str(numpy.float32(row[name])))
                    yield Placed(f"{path}, row {number}", row)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} after row {number}: {str(error).splitlines()[0]}") from error


READERS: dict[str, Callable[[Path], Iterator[Placed]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
}
"""Readers of problem files by the end of their names."""
