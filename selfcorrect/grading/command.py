"""What ``selfcorrect grade`` does: explain one pair, grade a file, audit it against math_verify."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from selfcorrect.errors import DataError
from selfcorrect.grading.extraction import extract
from selfcorrect.grading.fingerprint import grader_fingerprint
from selfcorrect.grading.grader import grade, grade_many
from selfcorrect.grading.rules import rules_for
from selfcorrect.grading.workers.peer import MathVerify
from selfcorrect.not_text import refuse_other_kind, undecodable
from selfcorrect.problems.files import is_problem_file
from selfcorrect.problems.files import read_rows as read_table
from selfcorrect.runs.files import whole_file
from selfcorrect.runs.jsonl import line_of
from selfcorrect.types import Grade, Outcome, to_json

BATCH = 512
_SHOWN = 120


def explain(response: str, gold: str, source: str = "math") -> str:
    """Return a readable account of one grade: what was extracted and where, both normal forms, the deciding rule."""
    rules = rules_for(source)
    found = extract(response, rules.extraction)
    result = grade(response, gold, source=source)
    left, right = result.normalised or ("-", "-")
    lines = [
        ("outcome", str(result.outcome).upper()),
        ("reason", result.reason),
        ("decided by", result.method),
        ("rules", f"{rules.name} (source {source!r})"),
        ("extracted", "nothing" if found is None else f"{found[0].strip()[:_SHOWN]!r} by {found[1]!r}"),
        ("places tried", ", ".join(rules.extraction)),
        ("response form", left[:_SHOWN]),
        ("gold", repr(gold[:_SHOWN])),
        ("gold form", right[:_SHOWN]),
        ("grader", grader_fingerprint()),
    ]
    return "\n".join(f"{name:<14}{value}" for name, value in lines)


@dataclass(slots=True)
class FileReport:
    """Counts over one graded file; ``ungradable`` by method, ``expected`` only where rows carry a label."""

    total: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    ungradable: Counter[str] = field(default_factory=Counter)
    labelled: int = 0
    disagreeing: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the counts for a script."""
        labels = {"labelled": self.labelled, "disagreeing": self.disagreeing} if self.labelled else {}
        return {"rows": self.total, "outcomes": self.outcomes, "ungradable": self.ungradable, **labels}

    def lines(self) -> list[str]:
        """Return the report as printed lines."""
        share = (
            {name: f"{100 * count / self.total:.2f}%" for name, count in self.outcomes.items()} if self.total else {}
        )
        text = [f"{self.total} rows: " + ", ".join(f"{n} {c} ({share[n]})" for n, c in sorted(self.outcomes.items()))]
        if self.ungradable:
            text.append("ungradable: " + ", ".join(f"{name} {count}" for name, count in self.ungradable.most_common()))
        if self.labelled:
            right = self.labelled - len(self.disagreeing)
            text.append(f"labels: {right} of {self.labelled} agree")
        return text


def read_rows(path: Path, response_key: str = "response", gold_key: str = "gold") -> Iterator[dict[str, Any]]:
    """Yield the rows of a file, with response and reference as text; raises DataError naming the row that is broken.

    `selfcorrect.problems.files` reads tables, JSON and packed files. Any other file holds one JSON object a line and is
    read once from its start, so it may be a pipe. A reference may be a number, as tables have them: 5 is "5".
    """
    for place, row in _placed(path):
        if not isinstance(row, dict):
            raise DataError(f"{place}: expected an object of response and gold, got {str(row)[:60]!r}")
        if "response_parts" in row and response_key not in row:
            row[response_key] = "".join(text * times for text, times in row["response_parts"])
        texts = {response_key: _text(row.get(response_key)), gold_key: _reference(row.get(gold_key))}
        missing = [key for key, text in texts.items() if text is None]
        for key in (key for key in missing if key in row):
            raise DataError(
                f"{place}: expected text under {key!r}, got {str(row[key])[:60]} ({type(row[key]).__name__}); "
                "--response-column and --reference-column name others"
            )
        if missing:
            raise DataError(
                f"{place}: expected text under {missing}, the row has {sorted(map(str, row))}; "
                "--response-column and --reference-column name others"
            )
        yield row | texts


def is_table(path: Path) -> bool:
    """True for a file that is read whole: a table, JSON, or a packed file; False for one JSON object a line."""
    return is_problem_file(path) and path.suffix.lower() not in (".jsonl", ".ndjson")


def _placed(path: Path) -> Iterator[tuple[str, Any]]:
    if is_table(path):
        yield from read_table(path)
        return
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", _value(line, number, path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _value(line: bytes, number: int, path: Path) -> Any:
    if number == 1:
        refuse_other_kind(path, line)
    try:
        return json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise undecodable(f"{path}:{number}", "utf-8", error) from error
    except ValueError as error:
        raise DataError(f"{path}:{number}: not JSON ({error})") from error


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _reference(value: Any) -> str | None:
    """Return a reference answer as text, a number in plain digits; None for what is no answer (NaN, a truth value)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _text(value)
    return format(Decimal(repr(value)), "f") if math.isfinite(value) else None


def grade_jsonl(
    path: Path,
    *,
    source: str | None = None,
    response_key: str = "response",
    gold_key: str = "gold",
    out: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> FileReport:
    """Grade every row of a file (`read_rows`) and return the counts.

    ``source`` overrides the rows' own ``source``. ``out`` receives each row with its grade under ``grade``.
    ``progress`` is called with the number of rows done. Rows with ``expected``, true or false, are compared with it.
    """
    report = FileReport()
    with whole_file(out) if out else nullcontext() as writer:
        for batch in _batches(read_rows(path, response_key, gold_key)):
            sources = [source or str(row.get("source", "math")) for row in batch]
            grades = grade_many([(row[response_key], row[gold_key]) for row in batch], source=sources)
            for row, result in zip(batch, grades, strict=True):
                _count(report, row, result)
                if writer:
                    writer.write(_line({**row, "grade": to_json(result)}))
            if progress:
                progress(report.total)
    return report


def _count(report: FileReport, row: dict[str, Any], result: Grade) -> None:
    report.total += 1
    report.outcomes[str(result.outcome)] += 1
    if result.outcome is Outcome.UNGRADABLE:
        report.ungradable[result.method] += 1
    expected = _label(row.get("expected"))
    if expected is not None:
        report.labelled += 1
        if result.correct != expected:
            report.disagreeing.append(str(row.get("id", report.total)))


def _label(value: Any) -> bool | None:
    """Return a row's own label; tables without types write it as text."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return line_of(row)
    except TypeError:  # a table has dates, bytes and decimals, which are written as text
        return line_of(json.loads(json.dumps(row, default=str)))


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One row on which the two graders differ; ``theirs`` is None where math_verify failed or hung."""

    id: str
    gold: str
    ours: Grade
    theirs: bool | None

    def to_json(self) -> dict[str, Any]:
        """Return the disagreement for a script."""
        return {"id": self.id, "gold": self.gold, "ours": to_json(self.ours), "math_verify": self.theirs}

    def line(self) -> str:
        """Return the disagreement as one printed line."""
        theirs = {True: "correct", False: "wrong", None: "failed"}[self.theirs]
        answer = (self.ours.extracted or "")[:_SHOWN]
        return (
            f"{self.id}: ours {self.ours.outcome}, math_verify {theirs}; answer {answer!r}, gold {self.gold[:_SHOWN]!r}"
        )


def audit(
    path: Path,
    *,
    source: str | None = None,
    response_key: str = "response",
    gold_key: str = "gold",
    progress: Callable[[int], None] | None = None,
) -> tuple[int, list[Disagreement]]:
    """Grade a file with us and with math_verify; returns (rows, disagreements). Raises MissingExtraError without it."""
    differing: list[Disagreement] = []
    total = 0
    with MathVerify() as peer:
        for row in read_rows(path, response_key, gold_key):
            total += 1
            ours = grade(row[response_key], row[gold_key], source=source or str(row.get("source", "math")))
            theirs, _, _ = peer.judge(row[response_key], row[gold_key])
            if theirs is None or theirs != ours.correct:
                differing.append(Disagreement(str(row.get("id", total)), row[gold_key], ours, theirs))
            if progress:
                progress(total)
    return total, differing
