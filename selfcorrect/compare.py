"""``selfcorrect compare A B``: any two evaluation logs on the problems that both answered, with a paired test.

The problems are matched by the logs' own ids where these name the same questions, else by the text of the question.
Every response is graded again by our grader, and the score that the log itself holds is tested beside it; where the
two differ, the response is listed. Works for logs of different tools, and without any of them installed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from selfcorrect import prompts
from selfcorrect.errors import InputError
from selfcorrect.grading import gold_is_readable, grade_many, grader_fingerprint
from selfcorrect.logs import Log, Response, read_log
from selfcorrect.markdown import inline
from selfcorrect.metrics import PairedTest, paired_test
from selfcorrect.printing import clean
from selfcorrect.runs.jsonl import write_json, write_jsonl, write_whole
from selfcorrect.types import Grade, Outcome, to_json

By = Literal["auto", "id", "question"]
SHOWN = 12
"""So many flips and disagreements are printed; ``out`` writes all."""
SAME_QUESTIONS = 0.9
"""Ids are trusted where at least this share of the problems that share one have the same question."""


@dataclass(frozen=True, slots=True)
class Graded:
    """A log with our grade of each response; None where the log has no reference answer that can be read."""

    log: Log
    keys: tuple[str, ...]
    grades: tuple[Grade | None, ...]

    def ours(self) -> dict[str, list[float]]:
        """Return our outcomes by problem; a response on which the grader failed is left out."""
        rows = zip(self.keys, map(_outcome, self.grades), strict=True)
        return _by_problem(row for row in rows if row[1] is not None)

    def theirs(self) -> dict[str, list[float]]:
        """Return the log's own scores by problem, where it has some."""
        rows = zip(self.keys, (response.score for response in self.log.responses), strict=True)
        return _by_problem(row for row in rows if row[1] is not None)

    def disagreements(self) -> list[dict[str, Any]]:
        """Return the responses on which the log's score and our grade say different things."""
        found = []
        for key, response, grade in zip(self.keys, self.log.responses, self.grades, strict=True):
            ours = _outcome(grade)
            if grade is not None and ours is not None and response.score in (0.0, 1.0) and ours != response.score:
                found.append(_row(key, response) | {"log": response.score, "ours": ours, "reason": grade.reason})
        return found

    def counts(self) -> dict[str, int]:
        """Return how many responses there are, and what became of those that have no outcome."""
        kinds = Counter(
            "no readable reference" if grade is None else "grader failed"
            for grade in self.grades
            if _outcome(grade) is None
        )
        empty = sum(grade is not None and grade.unanswered for grade in self.grades)
        unscored = sum(response.score is None for response in self.log.responses)
        theirs = {"without a score in the log": unscored} if 0 < unscored < len(self.grades) else {}
        return {"responses": len(self.grades), "unanswered": empty, **kinds, **theirs, **self.log.dropped}


@dataclass(frozen=True, slots=True)
class LogComparison:
    """Log B against log A. ``ours`` tests our grades, ``theirs`` the logs' own scores (None where one has none)."""

    a: Graded
    b: Graded
    matched_by: str
    only_a: int
    only_b: int
    ours: PairedTest
    theirs: PairedTest | None
    unpaired_p: float
    detectable: float
    flips: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return everything for a script: tests, counts, flips and disagreements."""
        sides = {
            name: {
                "place": str(side.log.place),
                "tool": side.log.tool,
                "task": side.log.task,
                "model": side.log.model,
                "metric": side.log.metric,
                "accuracy": round(_accuracy(side.ours()), 4),
                "accuracy_of_the_log": round(_accuracy(side.theirs()), 4) if side.theirs() else None,
                "counts": side.counts(),
                "disagreements": side.disagreements(),
            }
            for name, side in (("a", self.a), ("b", self.b))
        }
        return {
            **sides,
            "matched_by": self.matched_by,
            "only_in_a": self.only_a,
            "only_in_b": self.only_b,
            "grader": grader_fingerprint(),
            "test": to_json(self.ours),
            "test_of_the_logs_scores": to_json(self.theirs) if self.theirs else None,
            "unpaired_p": self.unpaired_p,
            "detectable": self.detectable,
            "flips": self.flips,
        }

    def sentences(self) -> list[str]:
        """Return what was found, as sentences."""
        test = self.ours
        names = [f"{name}: {side.log.label} ({side.log.tool}, {side.log.place})" for name, side in self.sides()]
        found = [
            *names,
            f"{test.n:,} problems in common, matched by {self.matched_by}; only in A {self.only_a:,}, only in B "
            f"{self.only_b:,}",
            f"our grader: {said(test)}",
        ]
        if self.theirs:
            found.append(f"the logs' own scores ({self.a.log.metric}, {self.b.log.metric}): {said(self.theirs)}")
        found += [
            f"an unpaired z-test of our grades would say p = {self.unpaired_p:.3g}: it does not use that the problems "
            "are the same",
            f"{test.n:,} problems, differing as these do, show a difference of {self.detectable:.1f} points or more "
            "with 80% power",
        ]
        for name, side in self.sides():
            counts = ", ".join(f"{count:,} {what}" for what, count in side.counts().items())
            found.append(f"{name}: {counts}; the log's score and our grade differ on {len(side.disagreements()):,}")
        return found

    def first_responses(self) -> list[tuple[str, str]]:
        """Return the first response of A and of B to each problem that flipped, in the order of ``flips``."""
        first_a, first_b = _first(self.a), _first(self.b)
        keys = flipped(self.a.ours(), self.b.ours())
        return [(first_a[key][0].text, first_b[key][0].text) for key in keys]

    def together(self) -> dict[str, int]:
        """Return how many common problems A, or B, has right more often, and that both have right, or wrong, as often.

        "Right" is there a share of at least one half, where a problem has several responses.
        """
        of_a, of_b = self.a.ours(), self.b.ours()
        common = of_a.keys() & of_b.keys()
        right = sum(_mean(of_a[key]) == _mean(of_b[key]) >= 0.5 for key in common)
        better = {"A": self.ours.only_a, "B": self.ours.only_b}
        return {"both": right, **better, "neither": len(common) - right - sum(better.values())}

    def sides(self) -> list[tuple[str, Graded]]:
        """Return the two logs with what they are called here."""
        return [("A", self.a), ("B", self.b)]

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table: what graded, accuracies, gain, interval, p, who is right more often."""
        tests = [("our grader", self.ours)] + ([("the logs", self.theirs)] if self.theirs else [])
        found = []
        for name, test in tests:
            of_a, of_b = (side.ours() if name == "our grader" else side.theirs() for _, side in self.sides())
            common = of_a.keys() & of_b.keys()
            shares = [_accuracy({key: of[key] for key in common}) for of in (of_a, of_b)]
            low, high = test.gain_interval
            found.append(
                (
                    name, f"{test.n:,}", *(f"{share:.1f}" for share in shares), f"{test.gain:+.1f}",
                    f"{low:+.1f} {high:+.1f}", f"{test.p_value:.2g}", f"{test.only_a}", f"{test.only_b}",
                )
            )  # fmt: skip
        return found

    def to_markdown(self) -> str:
        """Return the comparison as a Markdown page."""
        lines = ["# Comparison", "", *(f"- {inline(sentence)}" for sentence in self.sentences()), ""]
        lines += _markdown(HEADS, self.rows())
        lines += ["", f"## Problems that flipped ({len(self.flips)})", ""]
        flips = [[str(flip[key]) for key in FLIP_HEADS] for flip in self.flips]
        lines += _markdown(FLIP_HEADS, flips)
        for name, side in self.sides():
            odd = side.disagreements()
            lines += ["", f"## {name}: the log's score and our grade differ ({len(odd)})", ""]
            lines += _markdown(ODD_HEADS, [[str(row[key]) for key in ODD_HEADS] for row in odd])
        return "\n".join(lines) + "\n"

    def write(self, out: Path) -> None:
        """Write the comparison to ``.md``, ``.json`` or ``.jsonl`` (one flip a line)."""
        check_out(out)
        if out.suffix == ".json":
            write_json(out, self.to_json())
        elif out.suffix == ".jsonl":
            write_jsonl(out, self.flips)
        else:
            write_whole(out, [self.to_markdown()])

    def __rich__(self) -> RenderableType:
        table = Table(*HEADS, box=None, header_style="bold")
        for row in self.rows():
            table.add_row(*row)
        parts: list[RenderableType] = [Text(clean(sentence)) for sentence in self.sentences()]
        parts.insert(3, table)
        if self.flips:
            parts.append(_shown("problems that flipped", FLIP_HEADS, self.flips))
        for name, side in self.sides():
            if odd := side.disagreements():
                parts.append(_shown(f"{name}: the log's score and our grade differ", ODD_HEADS, odd))
        return Group(*parts)


HEADS = ("graded by", "n", "A", "B", "B − A", "95%", "p", "A better", "B better")
FLIP_HEADS = ("problem", "better", "a", "b", "reference", "question")
ODD_HEADS = ("problem", "log", "ours", "answer", "reference", "reason")


def check_out(out: Path | None) -> None:
    """Raise InputError where a comparison cannot be written to a file of this name."""
    if out is not None and out.suffix not in (".md", ".json", ".jsonl"):
        raise InputError(f"--out {out}: expected a name that ends in .md, .json or .jsonl")
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--out {out}: expected the path of a file in a folder that exists")


def check_page(page: Path | None) -> None:
    """Raise InputError where a page cannot be written to a file of this name."""
    if page is not None and (page.suffix != ".html" or page.is_dir() or not page.parent.is_dir()):
        raise InputError(f"--html {page}: expected a name that ends in .html, in a folder that exists")


def compare_logs(
    place_a: Path,
    place_b: Path,
    metric: str = "",
    source: str = "",
    by: By = "auto",
    progress: Callable[[int], None] | None = None,
) -> LogComparison:
    """Read two logs, grade them, match their problems and test B against A.

    ``metric`` chooses the logs' own score, ``source`` the grader's rules (empty: those of the log, else of ``math``).
    Raises InputError where the logs have no problem in common.
    """
    a, b = read_log(place_a, metric), read_log(place_b, metric)
    keys_a, keys_b, matched_by = match(a, b, by)
    graded_a, graded_b = graded(a, keys_a, source, progress), graded(b, keys_b, source, progress)
    ours_a, ours_b = graded_a.ours(), graded_b.ours()
    if not ours_a.keys() & ours_b.keys():
        raise InputError(
            f"{place_a} and {place_b} have no graded problem in common (matched by {matched_by}): {len(set(keys_a)):,} "
            f"and {len(set(keys_b)):,} problems, such as {a.responses[0].question[:60]!r} and "
            f"{b.responses[0].question[:60]!r}; try --by {'question' if matched_by == 'id' else 'id'}"
        )
    theirs_a, theirs_b = graded_a.theirs(), graded_b.theirs()
    theirs = paired_test(theirs_a, theirs_b) if theirs_a.keys() & theirs_b.keys() else None
    return LogComparison(
        a=graded_a,
        b=graded_b,
        matched_by=matched_by,
        only_a=len(set(keys_a) - set(keys_b)),
        only_b=len(set(keys_b) - set(keys_a)),
        ours=paired_test(ours_a, ours_b),
        theirs=theirs,
        unpaired_p=unpaired_z(ours_a, ours_b),
        detectable=detectable(ours_a, ours_b),
        flips=flips(graded_a, graded_b),
    )


def match(a: Log, b: Log, by: By = "auto") -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Return the problem of each response of both logs, by a name that is the same in both, and by what."""
    if by == "auto":
        by = "id" if _ids_agree(a, b) else "question"
    if by == "id":
        ids = [tuple(response.id for response in log.responses) for log in (a, b)]
        return ids[0], ids[1], "id"
    named = [tuple(question_key(response) for response in log.responses) for log in (a, b)]
    return named[0], named[1], "question"


def _ids_agree(a: Log, b: Log) -> bool:
    of_a, of_b = ({r.id: question_key(r) for r in log.responses} for log in (a, b))
    shared = of_a.keys() & of_b.keys()
    return bool(shared) and sum(of_a[key] == of_b[key] for key in shared) >= SAME_QUESTIONS * len(shared)


def question_key(response: Response) -> str:
    """Return a question without what differs between tools: blanks, case and our own instruction; else the id."""
    text = " ".join(response.question.replace(prompts.SOLVE, " ").split()).casefold()
    return text or response.id


def graded(log: Log, keys: tuple[str, ...], source: str, progress: Callable[[int], None] | None = None) -> Graded:
    """Grade the responses of a log that have a readable reference answer."""
    grades: list[Grade | None] = [None] * len(log.responses)
    sources = [source or response.source for response in log.responses]
    rows = [
        place
        for place, response in enumerate(log.responses)
        if response.reference and gold_is_readable(response.reference, sources[place])
    ]
    found = grade_many(
        [(log.responses[place].text, log.responses[place].reference) for place in rows],
        source=[sources[place] for place in rows],
        cut=[log.responses[place].cut for place in rows],
        progress=progress,
    )
    for place, grade in zip(rows, found, strict=True):
        grades[place] = grade
    return Graded(log, keys, tuple(grades))


def flips(a: Graded, b: Graded) -> list[dict[str, Any]]:
    """Return the problems that one log answers right more often than the other."""
    ours_a, ours_b = a.ours(), b.ours()
    first_a, first_b = _first(a), _first(b)
    found = []
    for key in flipped(ours_a, ours_b):
        share_a, share_b = _mean(ours_a[key]), _mean(ours_b[key])
        (one, grade_a), (other, grade_b) = first_a[key], first_b[key]
        found.append(
            {
                "problem": one.id,
                "better": "A" if share_a > share_b else "B",
                "a": _answered(grade_a, share_a, len(ours_a[key])),
                "b": _answered(grade_b, share_b, len(ours_b[key])),
                "reference": one.reference,
                "question": one.question or other.question,
            }
        )
    return found


def flipped(of_a: Mapping[str, Sequence[float]], of_b: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the problems that both have and one has right more often, in order."""
    return [key for key in sorted(of_a.keys() & of_b.keys()) if _mean(of_a[key]) != _mean(of_b[key])]


def unpaired_z(of_a: Mapping[str, Sequence[float]], of_b: Mapping[str, Sequence[float]]) -> float:
    """Return the two-sided p of a z-test that takes the two sides for independent samples (lm_eval's comparator)."""
    common = of_a.keys() & of_b.keys()
    means = [[_mean(of[key]) for key in common] for of in (of_a, of_b)]
    n = len(common)
    if n < 2:
        return 1.0
    variances = [sum((value - _mean(side)) ** 2 for value in side) / (n - 1) for side in means]
    error = math.sqrt(sum(variances) / n)
    return math.erfc(abs(_mean(means[1]) - _mean(means[0])) / error / math.sqrt(2)) if error else 1.0


def detectable(of_a: Mapping[str, Sequence[float]], of_b: Mapping[str, Sequence[float]]) -> float:
    """Return the least difference, in points, that a paired test at 5% shows with 80% power: 2.80 × sd / sqrt(n).

    ``sd`` is the root mean square of the differences between the two on a problem.
    """
    common = of_a.keys() & of_b.keys()
    squares = [(_mean(of_b[key]) - _mean(of_a[key])) ** 2 for key in common]
    return 100 * 2.802 * math.sqrt(_mean(squares) / len(common))


def said(test: PairedTest) -> str:
    """Return a paired test in words."""
    low, high = test.gain_interval
    return (
        f"B − A = {test.gain:+.1f} points [{low:+.1f} {high:+.1f}], p = {test.p_value:.3g} ({test.test}); right more "
        f"often: A on {test.only_a}, B on {test.only_b} of {test.n:,} problems"
    )


def _outcome(grade: Grade | None) -> float | None:
    """Return 1 or 0, None where there is no grade or the grader failed."""
    if grade is None or (grade.outcome is Outcome.UNGRADABLE and not grade.unanswered):
        return None
    return float(grade.correct)


def _by_problem(rows: Iterable[tuple[str, float | None]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for key, value in rows:
        if value is not None:
            found.setdefault(key, []).append(value)
    return found


def _first(side: Graded) -> dict[str, tuple[Response, Grade | None]]:
    rows = zip(side.keys, side.log.responses, side.grades, strict=True)
    return {key: next((response, grade) for _, response, grade in group) for key, group in groupby(_sorted(rows), _key)}


def _sorted(rows: Iterable[tuple[str, Response, Grade | None]]) -> list[tuple[str, Response, Grade | None]]:
    return sorted(rows, key=_key)


def _key(row: tuple[str, Response, Grade | None]) -> str:
    return row[0]


def _answered(grade: Grade | None, share: float, count: int) -> str:
    if count > 1:
        return f"{100 * share:.0f}% of {count}"
    return (grade.extracted if grade else None) or "–"


def _row(key: str, response: Response) -> dict[str, Any]:
    return {"problem": response.id, "answer": response.text[-80:], "reference": response.reference}


def _accuracy(outcomes: Mapping[str, Sequence[float]]) -> float:
    return 100 * _mean([_mean(values) for values in outcomes.values()]) if outcomes else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *("| " + " | ".join(inline(cell) for cell in row) + " |" for row in rows),
    ]


def _shown(title: str, heads: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = Table(*heads, title=f"{title}: {len(rows)}", title_justify="left")
    for row in rows[:SHOWN]:
        table.add_row(*(Text(clean(str(row[key])).replace("\n", " ")[:60]) for key in heads))
    more = f"the first {SHOWN} of {len(rows)}; all of them: --out comparison.md or .json"
    return Group(table, *([Text(more, style="dim")] if len(rows) > SHOWN else []))
