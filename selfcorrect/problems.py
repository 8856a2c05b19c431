"""Problem sets: `load_problems` turns a recipe into ready-to-grade `Problem` records.

``source`` is ``arithmetic`` (synthetic, `data_gen.arithmetic`), a short name of `HUB_SETS`, a JSONL, parquet or CSV
file in any of the published formats of `SCHEMAS`, or a Hugging Face hub id. Any other format takes two lines:

    problems.fields.question=<key>
    problems.fields.gold=<key>

Generation and evaluation both need problems and may not import one another, so the loader lives in the
library; ``arithmetic`` is resolved by name only when asked for, the one place where the library reaches up.

Order of work: read → shuffle → map → filter by ``where`` → drop duplicates, unreadable references and problems of
known test sets (``decontaminate``) → skip ``offset`` → take ``count``. Two recipes that differ in ``offset`` alone
therefore never share a question.
"""

from __future__ import annotations

import csv
import importlib
import os
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from selfcorrect.decontamination import Contamination, TestQuestions
from selfcorrect.errors import DataError, nearest
from selfcorrect.jsonl import read_jsonl
from selfcorrect.types import Problem

Row = Mapping[str, Any]
DATA_FOLDER = "SELFCORRECT_DATA"
"""Environment variable: a folder of raw files ``<name>.<split>.jsonl`` that short names are looked up in first."""


@dataclass(frozen=True, slots=True)
class ProblemsRecipe:
    """Which problems, and how many."""

    source: str = "arithmetic"  # "arithmetic", a short name (gsm8k, math500, ...), a .jsonl file or a hub id
    split: str = "train"  # of arithmetic, short names and hub sets; a file is its own split
    count: int | None = None  # how many problems; None: all there are
    offset: int = 0  # usable problems to skip first
    shuffle: bool = False  # shuffle before offset and count
    seed: int = 0  # of the shuffle, and of arithmetic problems
    fields: dict[str, Any] = field(default_factory=dict)  # your own schema: {question: <key>, gold: <key>}
    where: dict[str, Any] = field(default_factory=dict)  # {level: [4, 5], subject: Algebra, pass_rate: {min: 0.1}}
    decontaminate: tuple[str, ...] = ()  # test sets to remove: short names, files, or "all" of `TEST_SETS`
    name: str = ""  # data set name, which the grader's rules go by; "": from the source


@dataclass(frozen=True, slots=True)
class Loaded:
    """The usable problems, in order, and how many rows before the last of them were dropped, by reason."""

    problems: list[Problem]
    dropped: Mapping[str, int]
    removed: tuple[Contamination, ...] = ()


class Schema(NamedTuple):
    """A published row format: the keys that identify it, and how to read (question, gold or None)."""

    name: str
    keys: frozenset[str]
    read: Callable[[Row], tuple[str, str | None]]
    fits: Callable[[Row], bool] = lambda row: True


class HubSet(NamedTuple):
    """Where a short name lives on the hub."""

    hub_id: str
    config: str | None = None


HUB_SETS: dict[str, HubSet] = {
    "gsm8k": HubSet("openai/gsm8k", "main"),
    "math": HubSet("DigitalLearningGmbH/MATH-lighteval"),  # 7,500 to train on and 5,000, as published
    "math500": HubSet("HuggingFaceH4/MATH-500"),
    "minerva_math": HubSet("math-ai/minervamath"),
    "olympiadbench": HubSet("Hothan/OlympiadBench", "OE_TO_maths_en_COMP"),
    "aime24": HubSet("math-ai/aime24"),
    "amc23": HubSet("math-ai/amc23"),
    "numina": HubSet("AI-MO/NuminaMath-CoT"),
    "openmathinstruct2": HubSet("nvidia/OpenMathInstruct-2"),
}


TEST_SETS: dict[str, int] = {
    "gsm8k": 1319,
    "math500": 500,
    "minerva_math": 272,
    "olympiadbench": 675,
    "aime24": 30,
    "amc23": 40,
}
"""The known test sets, which training problems are kept apart from, and how many problems each has as published."""

PUBLISHED_COUNTS = TEST_SETS | {"math": 5000}
"""How many problems a whole test set has: a score on another number is of another set.

MATH's own test set is here alone: most train on the 4,500 of its problems that are not in MATH500.
"""

LICENCES: dict[str, str] = {
    "arithmetic": "Apache-2.0 (synthetic)",
    "gsm8k": "MIT",
    "math": "MIT",
    "math500": "MIT",
    "olympiadbench": "Apache-2.0",
    "numina": "Apache-2.0",
    "openmathinstruct2": "CC-BY-4.0",
}
"""Licences of the problem sets, as their publishers state them; a set that is not here: ask its source."""

MATCHED = ("level", "subject", "type", "subfield", "difficulty", "source", "problem_source", "unique_id", "pass_rate")
"""Keys of a row that are kept beside question and answer."""


def load_problems(recipe: ProblemsRecipe, gold_is_readable: Callable[[str, str], bool] | None = None) -> Loaded:
    """Return the problems of a recipe, in a fixed order, without duplicates or unreadable references.

    ``gold_is_readable(gold, source)`` decides what the grader can compare with (default: the grader's own).
    Raises DataError for a missing or broken file, an unknown schema, and a set without usable problems.
    """
    if gold_is_readable is None:
        from selfcorrect import grading

        gold_is_readable = grading.gold_is_readable
    end = None if recipe.count is None else recipe.offset + recipe.count
    tests = _test_questions(recipe) if recipe.decontaminate else None
    removed: list[Contamination] = []
    usable: list[Problem] = []
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    for problem in _candidates(recipe):
        if end is not None and len(usable) == end:
            break
        question = normalised_question(problem.question)
        if not question or not problem.gold.strip():
            dropped["question or reference answer empty"] += 1
        elif not all(_matches(problem, key, wanted) for key, wanted in recipe.where.items()):
            dropped["outside problems.where"] += 1
        elif question in seen:
            dropped["duplicate question"] += 1
        elif not gold_is_readable(problem.gold, problem.source):
            dropped["reference answer unreadable"] += 1
        elif tests and (found := tests.find(problem)):
            dropped["contained in a test set"] += 1
            removed.append(found)
        else:
            usable.append(problem)
        seen.add(question)
    if not usable[recipe.offset :]:
        raise DataError(
            f"no usable problem in {recipe.source!r} (split {recipe.split!r}) after the first {recipe.offset}: "
            f"{len(usable)} usable in all, dropped: {dict(dropped) or 'none'}"
        )
    return Loaded(usable[recipe.offset :], dict(dropped), tuple(removed))


def normalised_question(question: str) -> str:
    """Return the form in which two questions count as the same: Unicode, letter case and spacing levelled."""
    return " ".join(unicodedata.normalize("NFKC", question).casefold().split())


def _candidates(recipe: ProblemsRecipe) -> Iterator[Problem]:
    if recipe.source == "arithmetic":
        arithmetic = importlib.import_module("data_gen.arithmetic")
        everything = arithmetic.available(recipe.split)  # a prefix of it all, so that offsets fit together
        yield from arithmetic.problems(recipe.split, everything, recipe.seed)
        return
    set_name, stem, rows = _open(recipe)
    numbered = list(enumerate(rows)) if recipe.shuffle else enumerate(rows)
    if isinstance(numbered, list):
        random.Random(recipe.seed).shuffle(numbered)
    schema: Schema | None = None
    for number, row in numbered:
        schema = schema or (_own_schema(recipe.fields) if recipe.fields else _detect(row, recipe.source))
        if missing := schema.keys - row.keys():
            raise DataError(
                f"{recipe.source}, row {number + 1}: a {schema.name} row needs the keys "
                f"{', '.join(sorted(schema.keys))}; {', '.join(sorted(missing))} missing among {', '.join(row)}"
            )
        question, gold = schema.read(row)
        meta = {key: row[key] for key in (*MATCHED, *recipe.where) if key in row}
        source = recipe.name or set_name or schema.name
        yield Problem(f"{stem}-{number}", question.strip(), (gold or "").strip(), source, meta)


def _matches(problem: Problem, key: str, wanted: Any) -> bool:
    """True where a problem's value is the one wanted, is one of several, or lies within {min, max}."""
    row = problem.meta
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
    return _text(value).strip().casefold().removeprefix("level ").strip()


def _test_questions(recipe: ProblemsRecipe) -> TestQuestions:
    """Return the questions of the test sets that training problems must not contain."""
    names = [name for given in recipe.decontaminate for name in (TEST_SETS if given == "all" else (given,))]
    folders = [Path(recipe.source).expanduser().parent] if Path(recipe.source).suffix else []
    tests = TestQuestions()
    missing: list[str] = []
    for name in dict.fromkeys(names):
        raw = next((path for path in _raw_files(name, "test", folders) if path.is_file()), None)
        try:
            rows = list(_candidates(ProblemsRecipe(source=str(raw or name), split="test")))
        except DataError as error:
            missing.append(f"  {name}: {str(error).splitlines()[0]}")
        else:
            tests.add(name, rows)
    if missing:
        raise DataError(
            "problems.decontaminate: cannot read these test sets:\n" + "\n".join(missing) + "\n"
            f"Put their raw files <name>.test.jsonl beside the source or into ${DATA_FOLDER}, name the sets that you "
            "have (problems.decontaminate=[gsm8k]), or give none (problems.decontaminate=[])."
        )
    return tests


def _raw_files(name: str, split: str, folders: Iterable[Path] = ()) -> list[Path]:
    """Return where the raw file of a short name may lie."""
    given = [Path(folder) for folder in (os.environ.get(DATA_FOLDER),) if folder]
    return [folder / f"{name}.{split}.jsonl" for folder in (*folders, *given)] if name in HUB_SETS else []


def _open(recipe: ProblemsRecipe) -> tuple[str, str, Iterable[Row]]:
    """Return the set's name (may be empty), the stem of its problem ids, and its raw rows."""
    path = Path(recipe.source).expanduser()
    if path.suffix in READERS or path.is_file():
        if path.suffix not in READERS:
            raise DataError(f"cannot read {path}: expected a file that ends in {', '.join(READERS)}")
        name = path.name.split(".")[0]
        return name if name in HUB_SETS else "", path.stem, READERS[path.suffix](path)
    for raw in _raw_files(recipe.source, recipe.split):
        if raw.is_file():
            return recipe.source, raw.stem, read_jsonl(raw)
    if recipe.source not in HUB_SETS and recipe.source.count("/") != 1:
        raise DataError(
            f"no problem set {recipe.source!r}{nearest(recipe.source, HUB_SETS)}; give arithmetic, one of "
            f"{', '.join(HUB_SETS)}, a .jsonl, .parquet or .csv file, or a hub id (owner/name)"
        )
    hub = HUB_SETS.get(recipe.source, HubSet(recipe.source))
    name = recipe.source if recipe.source in HUB_SETS else ""
    return name, f"{recipe.source.replace('/', '.')}.{recipe.split}", _hub_rows(hub, recipe.split)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def _csv_rows(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, strict=True), 2):
                if None in row or None in row.values():
                    raise DataError(f"{path}, row {number - 1}: its number of columns is not that of the header")
                yield row
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


READERS: dict[str, Callable[[Path], Iterable[Row]]] = {
    ".jsonl": read_jsonl,
    ".parquet": _parquet_rows,
    ".csv": _csv_rows,
}
"""Readers of raw files by the end of their names."""


def _hub_rows(hub: HubSet, split: str) -> Iterable[Row]:
    from datasets import load_dataset

    try:
        return load_dataset(hub.hub_id, hub.config, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"cannot load {hub.hub_id!r} (split {split!r}) from the hub: {str(error).splitlines()[0]}\n"
            f"Offline? Give a raw file (problems.source=path/to/file.jsonl), or a folder of "
            f"<name>.<split>.jsonl files in ${DATA_FOLDER}."
        ) from error


def _own_schema(fields: Mapping[str, Any]) -> Schema:
    if set(fields) != {"question", "gold"}:
        raise DataError(f"problems.fields needs exactly question and gold, got {', '.join(fields) or 'nothing'}")
    question, gold = str(fields["question"]), str(fields["gold"])
    return Schema("mapped", frozenset({question, gold}), lambda row: (_text(row[question]), _text(row[gold])))


def _detect(row: Row, source: str) -> Schema:
    for schema in SCHEMAS:
        if schema.keys <= row.keys() and schema.fits(row):
            return schema
    known = "\n".join(f"  {schema.name}: {', '.join(sorted(schema.keys))}" for schema in SCHEMAS)
    raise DataError(
        f"{source}: unknown schema; the first row has the keys {', '.join(row) or '(none)'}. Known schemas:\n{known}\n"
        "or name your own keys: problems.fields.question=<key> problems.fields.gold=<key>"
    )


def _text(value: Any) -> str:
    """Return a JSON value as text: 27.0 is written 27, a list joins its items, null is empty."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value)


def _boxed(solution: str) -> str | None:
    r"""Return the content of the last ``\boxed{...}`` of a reference solution, None where there is none."""
    starts = [match.end() for match in re.finditer(r"\\f?boxed\s*\{", solution)]
    for start in reversed(starts):
        depth = 1
        for place in range(start, len(solution)):
            depth += {"{": 1, "}": -1}.get(solution[place], 0) if solution[place - 1] != "\\" else 0
            if depth == 0:
                return solution[start:place]
    return None


def _olympiadbench(row: Row) -> tuple[str, str]:
    context = _text(row.get("context"))
    answers = row["final_answer"] if isinstance(row["final_answer"], list) else [row["final_answer"]]
    return f"{context}\n{row['question']}".strip(), ", ".join(_text(answer) for answer in answers)


SCHEMAS: tuple[Schema, ...] = (
    Schema(
        "gsm8k",
        frozenset({"question", "answer"}),
        lambda row: (row["question"], row["answer"].rsplit("####", 1)[1] if "####" in row["answer"] else None),
        fits=lambda row: "####" in str(row["answer"]),
    ),
    Schema("olympiadbench", frozenset({"question", "final_answer"}), _olympiadbench),
    Schema(
        "openmathinstruct2",
        frozenset({"problem", "expected_answer"}),
        lambda row: (row["problem"], _text(row["expected_answer"])),
    ),
    Schema("problem and answer", frozenset({"problem", "answer"}), lambda row: (row["problem"], _text(row["answer"]))),
    Schema("math", frozenset({"problem", "solution"}), lambda row: (row["problem"], _boxed(row["solution"]))),
    Schema("question and gold", frozenset({"question", "gold"}), lambda row: (row["question"], _text(row["gold"]))),
    Schema(
        "question and answer", frozenset({"question", "answer"}), lambda row: (row["question"], _text(row["answer"]))
    ),
    Schema("problem and gold", frozenset({"problem", "gold"}), lambda row: (row["problem"], _text(row["gold"]))),
)
