"""`load_problems`: a recipe -> ready-to-grade `Problem` records, with a report of what the file held.

``source`` is ``arithmetic`` (synthetic, `problems.arithmetic`), a short name of `HUB_SETS`, a file in any of the forms
of `files`, or a Hugging Face hub id. What a row says is read by `rows`, without a setting for the published forms; any
other takes two lines, with paths where keys are nested:

    problems.fields.question=prompt[0].content
    problems.fields.gold=reward_model.ground_truth

Order of work: read → shuffle → map → filter by ``where`` → drop duplicates, placeholders, unreadable references and
problems of known test sets (``decontaminate``) → skip ``offset`` → take ``count``. Two recipes that differ in
``offset`` alone therefore never share a question.

A row whose loss can be borne (no question, no reference answer, one that nothing can match) is dropped and counted,
and the first of each kind are named by ``file:line``. A file of which most rows are odd is not what it says: it stops
the run, as does a row that cannot be read at all.
"""

from __future__ import annotations

import os
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from selfcorrect.errors import DataError, InputError, nearest
from selfcorrect.extras import named_extras
from selfcorrect.fingerprints import fingerprint_problems
from selfcorrect.loading import without_a_hub
from selfcorrect.problems import references
from selfcorrect.problems.decontamination import Contamination, TestQuestions
from selfcorrect.problems.files import Placed, endings, is_problem_file, read_rows, stem_of
from selfcorrect.problems.known_sets import HUB_SETS, TEST_SETS, HubSet
from selfcorrect.problems.rows import (
    ANSWERS,
    QUESTIONS,
    SOLUTIONS,
    OddRow,
    Read,
    get,
    has,
    possible,
    read_problem,
    text_of,
)
from selfcorrect.types import Problem

DATA_FOLDER = "SELFCORRECT_DATA"
"""Environment variable: a folder of raw files ``<name>.<split>.jsonl`` that short names are looked up in first."""
MATCHED = ("level", "subject", "type", "subfield", "difficulty", "source", "problem_source", "unique_id", "pass_rate")
"""Keys of a row that are kept beside question and answer."""
EXAMPLES = 3
"""Dropped rows named for each reason, and references shown for each kind."""
TOO_ODD = 0.5
"""A file of which more than this share is odd (no question, an unknown form) is not what it says."""


@dataclass(frozen=True, slots=True)
class ProblemsRecipe:
    """Which problems, and how many."""

    source: str = "arithmetic"  # "arithmetic", a short name (gsm8k, math500, ...), a file or a hub id
    split: str = "train"  # of arithmetic, short names and hub sets; a file is its own split
    count: int | None = None  # how many problems; None: all there are
    offset: int = 0  # usable problems to skip first
    shuffle: bool = False  # shuffle before offset and count
    seed: int = 0  # of the shuffle, and of arithmetic problems
    fields: dict[str, Any] = field(default_factory=dict)  # your own form: {question: <key>, gold: <key>}; keys nest
    where: dict[str, Any] = field(default_factory=dict)  # {level: [4, 5], subject: Algebra, pass_rate: {min: 0.1}}
    decontaminate: tuple[str, ...] = ()  # test sets to remove: short names, files, or "all" of `TEST_SETS`
    name: str = ""  # data set name, which the grader's rules go by; "": from the source

    def __post_init__(self) -> None:
        if (self.count is not None and self.count < 1) or self.offset < 0:
            raise InputError(f"problems: count is at least 1, offset at least 0; got {self.count} and {self.offset}")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The usable problems, in order, and what became of the rows before the last of them.

    ``dropped`` counts rows by reason and ``examples`` names the first of each; ``kinds`` counts the references of the
    problems by what the grader reads them as (`references.KINDS`), ``shown`` has some of each; ``keys`` says which
    keys question and reference were read from, for how many rows.
    """

    problems: list[Problem]
    dropped: Mapping[str, int]
    removed: tuple[Contamination, ...] = ()
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kinds: Mapping[str, int] = field(default_factory=dict)
    shown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keys: Mapping[str, int] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """The hash of the problems' content, in their order."""
        return fingerprint_problems(self.problems)

    def record(self) -> dict[str, Any]:
        """Return what a run's record says of its problems."""
        return {
            "usable": len(self.problems),
            "fingerprint": self.fingerprint,
            "read from": dict(self.keys),
            "references": dict(self.kinds),
            "dropped": dict(self.dropped),
            "dropped, for example": {reason: list(places) for reason, places in self.examples.items()},
        }

    def report(self) -> str:
        """Return the record as lines for a terminal: what was read, what was dropped, with examples."""
        lines = [f"{len(self.problems):,} usable problems, content {self.fingerprint}"]
        if self.keys:
            keys = ", ".join(f"{name} ({count:,})" for name, count in self.keys.items())
            lines.append(f"question and reference answer read from the keys {keys}")
        for kind, count in self.kinds.items():
            lines.append(f"  {count:>7,} references are {kind}: {_shortened(self.shown.get(kind, ()))}")
        for reason, count in self.dropped.items():
            lines.append(f"  {count:>7,} dropped, {reason}: {_shortened(self.examples.get(reason, ()))}")
        return "\n".join(lines)


def _shortened(texts: Iterable[str]) -> str:
    flat = (" ".join(text.split()) for text in texts)
    return "; ".join(text if len(text) <= 60 else text[:59] + "…" for text in flat) or "–"


@dataclass(slots=True)
class _Candidate:
    """A row that was read: a problem, or the reason why it is none."""

    place: str
    problem: Problem | None = None
    reason: str = ""
    keys: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def load_problems(recipe: ProblemsRecipe, gold_is_readable: Callable[[str, str], bool] | None = None) -> Loaded:
    """Return the problems of a recipe, in a fixed order, without duplicates or references that nothing can match.

    ``gold_is_readable(gold, source)`` decides what the grader can compare with (default: the grader's own).
    Raises DataError for a missing or broken file, an unknown form, and a set without usable problems.
    """
    if gold_is_readable is None:
        from selfcorrect import grading

        gold_is_readable = grading.gold_is_readable
    end = None if recipe.count is None else recipe.offset + recipe.count
    tests = _test_questions(recipe) if recipe.decontaminate else None
    removed: list[Contamination] = []
    usable: list[Problem] = []
    tally = _Tally()
    seen: set[str] = set()
    filterable: set[str] = set()
    for row in _candidates(recipe):
        if end is not None and len(usable) == end:
            break
        if row.problem is None:
            tally.drop(row.reason, row.place, is_odd=row.reason not in references.REASONS)
            continue
        problem, question = row.problem, normalised_question(row.problem.question)
        filterable |= problem.meta.keys()
        if not all(_matches(problem, key, wanted, filterable) for key, wanted in recipe.where.items()):
            tally.drop("outside problems.where", row.place)
        elif question in seen:
            tally.drop("duplicate question", row.place)
        elif not problem.gold:
            tally.drop(references.ABSENT, row.place)
        elif references.is_placeholder(problem.gold):
            tally.drop(references.PLACEHOLDER, row.place, problem.gold)
        elif not gold_is_readable(problem.gold, problem.source):
            tally.drop(references.UNREADABLE, row.place, problem.gold)
        elif tests and (found := tests.find(problem)):
            tally.drop("contained in a test set", row.place)
            removed.append(found)
            seen.add(question)
        else:
            usable.append(problem)
            seen.add(question)
            if len(usable) > recipe.offset:
                tally.keep(problem, row.keys)
    tally.refuse(recipe, len(usable))
    kinds, shown = tally.kinds_in_order()
    return Loaded(
        usable[recipe.offset :],
        dict(tally.dropped),
        tuple(removed),
        {reason: tuple(places) for reason, places in tally.places.items()},
        kinds,
        shown,
        {name: count for name, count in tally.keys.most_common() if name},
    )


class _Tally:
    """What became of the rows: those dropped by reason, with the first places; those kept by kind and keys."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self.places: dict[str, list[str]] = {}
        self.keys: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.shown: dict[str, list[str]] = {}
        self.odd = 0

    def drop(self, reason: str, place: str, gold: str = "", *, is_odd: bool = False) -> None:
        self.dropped[reason] += 1
        self.odd += is_odd
        named = self.places.setdefault(reason, [])
        if len(named) < EXAMPLES:
            name = place.rsplit("/", 1)[-1]  # without its folder
            named.append(f"{name} ({gold[:40]!r})" if gold else name)

    def keep(self, problem: Problem, keys: str) -> None:
        """Count a problem that the recipe takes, by the kind of its reference and the keys it was read from."""
        self.keys[keys] += 1
        kind = references.kind_of(problem.gold) or "unreadable"
        self.kinds[kind] += 1
        some = self.shown.setdefault(kind, [])
        if len(some) < EXAMPLES and problem.gold not in some:
            some.append(problem.gold)

    def kinds_in_order(self) -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
        order = [kind for kind in (*references.KINDS, "unreadable") if self.kinds[kind]]
        return {kind: self.kinds[kind] for kind in order}, {kind: tuple(self.shown[kind]) for kind in order}

    def refuse(self, recipe: ProblemsRecipe, usable: int) -> None:
        """Raise DataError where nothing is left, or where most rows are odd."""
        lost = "".join(
            f"\n  {count:,} × {reason}: {_shortened(self.places[reason])}"
            for reason, count in self.dropped.most_common()
        )
        place = f"in {recipe.source!r} (split {recipe.split!r})"
        if not usable and not self.dropped:
            raise DataError(
                f"no usable problem {place}: it has no rows; a row is a question and its reference answer, for "
                'example {"question": "What is 1 + 1?", "answer": "2"}'
            )
        if not usable:
            raise DataError(
                f"no usable problem {place}: all {self.dropped.total():,} rows were dropped. Give them a question and "
                f"a reference answer, or name their keys with problems.fields:{lost}"
            )
        if usable <= recipe.offset:
            raise DataError(
                f"no usable problem {place} after the first {recipe.offset:,}: {usable:,} usable in all; lower "
                f"problems.offset{lost and '. Dropped:'}{lost}"
            )
        if self.odd > TOO_ODD * (self.odd + usable):
            raise DataError(
                f"{recipe.source}: {self.odd:,} of {self.odd + usable:,} rows cannot be read as problems, so the file "
                f"is not what it seems; name its keys with problems.fields, or take those rows out:{lost}"
            )


def normalised_question(question: str) -> str:
    """Return the form in which two questions count as the same: Unicode, letter case and spacing levelled."""
    return " ".join(unicodedata.normalize("NFKC", question).casefold().split())


def _candidates(recipe: ProblemsRecipe) -> Iterator[_Candidate]:
    if recipe.source == "arithmetic":
        from selfcorrect.problems import arithmetic  # lists its problem space as it is imported

        everything = arithmetic.available(recipe.split)  # a prefix of it all, so that offsets fit together
        for problem in arithmetic.problems(recipe.split, everything, recipe.seed):
            yield _Candidate(problem.id, problem)
        return
    fields = _own_fields(recipe.fields)
    set_name, stem, rows = _open(recipe)
    first = next(rows, None)
    if first is None:
        return
    _refuse_unknown(first, fields, recipe.source)
    numbered: Iterable[tuple[int, Placed]] = enumerate(chain([first], rows))
    if recipe.shuffle:
        numbered = list(numbered)
        random.Random(recipe.seed).shuffle(numbered)
    for number, placed in numbered:
        try:
            read = read_problem(placed.row, fields)
        except OddRow as odd:
            yield _Candidate(placed.place, reason=str(odd))
        except KeyError as missing:
            yield _Candidate(placed.place, reason=f"no key for the {missing.args[0]}")
        else:
            yield _candidate(recipe, placed, read, f"{stem}-{number}", set_name)


def _candidate(recipe: ProblemsRecipe, placed: Placed, read: Read, identity: str, set_name: str) -> _Candidate:
    row = placed.row if isinstance(placed.row, Mapping) else {}
    kept = possible(row, (*MATCHED, *recipe.where))
    meta = {key: _plain(get(row, key)) for key in kept if has(row, key)}
    if read.tolerance:
        meta["tolerance"] = read.tolerance
    if not normalised_question(read.question):
        return _Candidate(placed.place, reason="no question")
    source = recipe.name or set_name or read.form
    problem = Problem(identity, read.question, read.gold.strip(), source, meta)
    return _Candidate(placed.place, problem, keys=read.keys)


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    try:
        return text_of(value)
    except OddRow:
        return None


def _own_fields(fields: Mapping[str, Any]) -> dict[str, str] | None:
    if not fields:
        return None
    if not {"question", "gold"} <= fields.keys() <= {"question", "gold", "options"}:
        raise DataError(
            f"problems.fields needs exactly question and gold (and options, where they stand apart), "
            f"got {', '.join(fields) or 'nothing'}"
        )
    return {name: str(key) for name, key in fields.items()}


def _refuse_unknown(first: Placed, fields: Mapping[str, str] | None, source: str) -> None:
    """Raise DataError where the first row has no key that could hold a question, or none for the reference."""
    try:
        read_problem(first.row, fields)
    except OddRow:
        return
    except KeyError as missing:
        keys = list(map(str, first.row))
        shown = ", ".join(keys) or "(none)"
        if fields:
            wanted = fields["question" if missing.args[0] == "question" else "gold"]
            raise DataError(
                f"{first.place}: a mapped row needs the keys {', '.join(fields.values())}; {wanted} missing"
                f"{nearest(wanted, keys)} among {shown}"
            ) from missing
        raise DataError(
            f"{source}: unknown schema: no key for the {missing.args[0]}; the first row ({first.place}) has the keys "
            f"{shown}. Known keys are, among others, {', '.join(QUESTIONS[:4])} for the question, "
            f"{', '.join(ANSWERS[:6])} for the reference and {', '.join(SOLUTIONS[:2])} for a worked solution; "
            "docs/problems.md has all of them\n"
            "Name your own, nested ones with dots and [0]: problems.fields.question=<key> problems.fields.gold=<key>"
        ) from missing


def _matches(problem: Problem, key: str, wanted: Any, known: set[str]) -> bool:
    """True where a problem's value is the one wanted, is one of several, or lies within {min, max}.

    A problem without the key is outside, where ``known`` says that one before it had it; else the key is unknown.
    """
    row = problem.meta
    if key not in row and key in known:
        return False
    if key not in row:
        raise DataError(
            f"problems.where asks for {key!r}{nearest(key, row)}, which problem {problem.id} has not; it has "
            f"{', '.join(row) or 'nothing to filter by'}"
        )
    if not isinstance(wanted, Mapping):
        choices = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        return _level(row[key]) in {_level(choice) for choice in choices}
    if unknown := wanted.keys() - {"min", "max"}:
        raise DataError(f"problems.where.{key}: expected min and max, got {', '.join(sorted(unknown))}")
    try:
        value = float(_level(row[key]))
    except ValueError:
        return False  # "Level ?" has no place on a scale
    return float(wanted.get("min", "-inf")) <= value <= float(wanted.get("max", "inf"))


def _level(value: Any) -> str:
    """Return a value for comparison: MATH writes ``Level 5`` where MATH500 writes 5."""
    return (
        (str(value) if isinstance(value, Mapping) else text_of(value)).strip().casefold().removeprefix("level ").strip()
    )


def _test_questions(recipe: ProblemsRecipe) -> TestQuestions:
    """Return the questions of the test sets that training problems must not contain."""
    names = [name for given in recipe.decontaminate for name in (TEST_SETS if given == "all" else (given,))]
    folders = [Path(recipe.source).expanduser().parent] if Path(recipe.source).suffix else []
    tests = TestQuestions()
    missing: dict[str, str] = {}
    for name in dict.fromkeys(names):
        raw = next((path for path in _raw_files(name, "test", folders) if path.is_file()), None)
        try:
            rows = list(_candidates(ProblemsRecipe(source=str(raw or name), split="test")))
        except DataError as error:
            missing[name] = str(error).splitlines()[0]
        else:
            tests.add(name, (row.problem for row in rows if row.problem))
    if missing:
        raise DataError(
            f"problems.decontaminate: cannot read {len(missing)} test sets: {', '.join(missing)}; the first because "
            f"{next(iter(missing.values()))}\n"
            f"Put their raw files <name>.test.jsonl beside the source or into ${DATA_FOLDER}, name the sets that you "
            "have (problems.decontaminate=[gsm8k]), or give none (problems.decontaminate=[])."
        )
    return tests


def _raw_files(name: str, split: str, folders: Iterable[Path] = ()) -> list[Path]:
    """Return where the raw file of a short name may lie."""
    given = [Path(folder) for folder in (os.environ.get(DATA_FOLDER),) if folder]
    return [folder / f"{name}.{split}.jsonl" for folder in (*folders, *given)] if name in HUB_SETS else []


def _open(recipe: ProblemsRecipe) -> tuple[str, str, Iterator[Placed]]:
    """Return the set's name (may be empty), the stem of its problem ids, and its raw rows."""
    path = Path(recipe.source).expanduser()
    if path.is_dir() and recipe.source not in HUB_SETS:
        return "", f"{path.resolve().name}.{recipe.split}", _folder_rows(path, recipe.split)
    if is_problem_file(path) or path.is_file():
        name = path.name.split(".")[0]
        return name if name in HUB_SETS else "", stem_of(path), read_rows(path)
    for raw in _raw_files(recipe.source, recipe.split):
        if raw.is_file():
            return recipe.source, raw.stem, read_rows(raw)
    if recipe.source not in HUB_SETS and recipe.source.count("/") != 1:
        raise DataError(
            f"no problem set {recipe.source!r}{nearest(recipe.source, HUB_SETS)}; give arithmetic, one of "
            f"{', '.join(HUB_SETS)}, a file that ends in {endings()}, or a hub id (owner/name)"
        )
    hub = HUB_SETS.get(recipe.source, HubSet(recipe.source))
    name = recipe.source if recipe.source in HUB_SETS else ""
    stem = f"{recipe.source.replace('/', '.')}.{recipe.split}"
    return name, stem, (Placed(f"{hub.hub_id}, row {n}", row) for n, row in enumerate(_hub_rows(hub, recipe.split), 1))


def problem_file(recipe: ProblemsRecipe) -> Path | None:
    """Return the one file on this machine that a recipe's problems are read from, None where there is none."""
    path = Path(recipe.source).expanduser()
    if path.is_dir() and recipe.source not in HUB_SETS:
        files = _folder_files(path, recipe.split)
        return files[0] if len(files) == 1 else None
    places = [path, *_raw_files(recipe.source, recipe.split)]
    return next((place for place in places if place.is_file()), None)


def _folder_rows(folder: Path, split: str) -> Iterator[Placed]:
    """Yield the rows of a folder: a data set that `datasets` saved, one problem file, or the shards of a split."""
    for saved in (folder, folder / split):
        if (saved / "state.json").is_file():
            from datasets import load_from_disk

            rows = enumerate(load_from_disk(saved), 1)
            yield from (Placed(f"{saved}, row {number}", row) for number, row in rows)
            return
    files = _folder_files(folder, split)
    if not files:
        listed = ", ".join(path.name for path in _problem_files(folder)[:10]) or "none"
        raise DataError(
            f"{folder} is a folder without one problem file, or one set of shards, of the split {split!r}; give a file "
            f"(problems.source=…) or another split. Problem files in it: {listed}"
        )
    for file in files:
        yield from read_rows(file)


def _folder_files(folder: Path, split: str) -> list[Path]:
    """Return the only problem file of a folder, the one of the split, or the split's shards in order; else nothing."""
    files = _problem_files(folder)
    of_split = [path for path in files if re.match(rf"{re.escape(split)}(?![a-zA-Z])", path.name)]
    for found in (files, of_split):
        if len(found) == 1 or (found and found is of_split and all("-of-" in path.name for path in found)):
            return found
    return []


def _problem_files(folder: Path) -> list[Path]:
    inside = [path for place in (folder, folder / "data") if place.is_dir() for path in sorted(place.iterdir())]
    described = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
    return [path for path in inside if path.is_file() and is_problem_file(path) and path.name not in described]


@named_extras()
def _hub_rows(hub: HubSet, split: str) -> Iterable[Mapping[str, Any]]:
    without_a_hub()
    from datasets import load_dataset

    try:
        return load_dataset(hub.hub_id, hub.config, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"cannot load {hub.hub_id!r} (split {split!r}) from the hub: {str(error).splitlines()[0]}\n"
            f"Offline? Give a raw file (problems.source=path/to/file.jsonl), or a folder of "
            f"<name>.<split>.jsonl files in ${DATA_FOLDER}."
        ) from error
