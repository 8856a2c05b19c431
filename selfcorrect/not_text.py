"""Files that were to be text and are not: what their readers say, so that every reader says it alike.

A picture under the name ``problems.jsonl`` is called a picture; bytes in another encoding are named with their line and
with the command that turns the file into UTF-8.
"""

from __future__ import annotations

from pathlib import Path

from selfcorrect.errors import DataError

SIGNATURES = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF-", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive (as .xlsx and .docx are)"),
    (b"PAR1", "a Parquet table, whose name ends in .parquet"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x1f\x8b", "packed by gzip, so that its name ends in .gz"),
    (b"BZh", "packed by bzip2, so that its name ends in .bz2"),
    (b"\xfd7zXZ", "packed by xz, so that its name ends in .xz"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd, so that its name ends in .zst"),
)
"""How files of other kinds begin, and what they are."""


def refuse_other_kind(path: Path, head: bytes) -> None:
    """Raise DataError where a file, by its first bytes, is of a kind that is no text."""
    for signature, kind in SIGNATURES:
        if head.startswith(signature):
            raise DataError(f"{path}: expected text, but by its first bytes it is {kind}; give the file that you mean")


def undecodable(place: str, encoding: str, error: UnicodeDecodeError) -> DataError:
    """Return the error for bytes at a place (``file:line``) that are not in the encoding that was expected."""
    byte = error.object[error.start]
    return DataError(
        f"{place}: not {encoding.upper()} (byte 0x{byte:02x} at {error.start}); save the file as UTF-8, for example: "
        "iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
    )


def text_in(path: Path) -> str:
    """Return the text of a file in UTF-8; DataError where it is no text, OSError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise undecodable_line(path) from error


def undecodable_line(path: Path) -> DataError:
    """Return the error for a file that is not UTF-8: of what kind it is, or the first line that is not."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                refuse_other_kind(path, line)
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return undecodable(f"{path}:{number}", "utf-8", error)
    return DataError(f"cannot read {path} as UTF-8: it changed while it was read; try again")
