"""`selfcorrect doctor RUN`: is everything that a run's stages finished still there, byte for byte?

Every stage folder is looked at: the files that its ``DONE`` stands for by their hashes, each line of journals by its
checksum. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from selfcorrect.errors import InputError, SelfCorrectError
from selfcorrect.runs.folder import NOT_KEPT, START, finished, is_done, recorded_files
from selfcorrect.runs.jsonl import read_journal


@dataclass(frozen=True, slots=True)
class Inspected:
    """One stage folder: what was found, and whether all is as it should be."""

    folder: Path
    state: str
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Inspection:
    """All stage folders of a run; a table on a terminal."""

    found: tuple[Inspected, ...]

    @property
    def is_whole(self) -> bool:
        """True where nothing is missing or damaged."""
        return all(stage.is_whole for stage in self.found)

    def __rich__(self) -> RenderableType:
        table = Table("stage", "state", box=None, padding=(0, 2))
        for stage in self.found:
            table.add_row(Text(str(stage.folder)), Text(stage.state, style="" if stage.is_whole else "red"))
        damaged = sum(not stage.is_whole for stage in self.found)
        said = f"{damaged} of {len(self.found)} folders damaged" if damaged else "nothing is missing or damaged"
        return Group(table, Text(said, style="bold red" if damaged else "green"))

    def to_json(self) -> dict[str, dict[str, str | bool]]:
        """Return the findings by folder."""
        return {str(stage.folder): {"state": stage.state, "whole": stage.is_whole} for stage in self.found}


def inspect(run: Path) -> Inspection:
    """Look at every stage folder of a run (or at the one given). Raises InputError where there is none."""
    found = tuple(_inspected(folder) for folder in _stage_folders(run))
    if not found:
        raise InputError(f"{run} holds no stage of a run (no recipe.yaml, provenance.json or DONE in it or below)")
    return Inspection(found)


def _stage_folders(run: Path) -> Iterator[Path]:
    marks = (*START[1:], "DONE")
    for folder in sorted({file.parent for name in marks for file in run.rglob(name)}):
        if not set(folder.relative_to(run).parts) & set(NOT_KEPT) and (is_done(folder) or _is_started(folder)):
            yield folder


def _is_started(folder: Path) -> bool:
    return all((folder / name).exists() for name in ("provenance.json", "recipe.yaml"))


def _inspected(folder: Path) -> Inspected:
    try:
        summary = finished(folder, by_hash=True)
        lines = sum(_checked(file) for file in sorted(folder.glob("*.jsonl")))
        journals = f"; {lines:,} lines of journals are as they were written" if lines else ""
        if summary is None:
            return Inspected(folder, f"unfinished: its command resumes it{journals}", True)
        files = recorded_files(folder)
    except SelfCorrectError as error:
        return Inspected(folder, str(error), False)
    if files is None:
        empty = [
            file.name for file in folder.iterdir() if file.is_file() and not file.stat().st_size and _matters(file)
        ]
        state = "finished by a version that kept no hashes, so its files cannot be compared"
        return Inspected(folder, state + (f"; empty: {', '.join(sorted(empty))}" if empty else journals), not empty)
    megabytes = sum(file["bytes"] for file in files.values()) / 1e6
    return Inspected(folder, f"whole: {len(files)} files, {megabytes:,.1f} MB by hash{journals}", True)


def _matters(file: Path) -> bool:
    """False for what may well be empty: the lock, and journals of parts that a run did not sample."""
    may_be_empty = (*START, "evaluations.jsonl", "revisions.jsonl", "blind.jsonl")
    return file.name not in may_be_empty and not file.name.startswith(".")


def _checked(file: Path) -> int:
    """Return how many lines a journal has, 0 for another file; raises DataError for a damaged line."""
    with file.open("rb") as lines:
        is_journal = lines.read(8) == b'{"key":"'
    return sum(1 for _ in read_journal(file)) if is_journal else 0
