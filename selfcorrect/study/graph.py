"""A study as data: data sets, checkpoints and rows by name, tables that name rows, and the steps that follow.

    table -> rows -> the checkpoint of each -> its data, and the checkpoint it starts from

`cli.reproduce` asks for tables, `cli.main`'s demo for rows; both get `Step` records: one `selfcorrect` command each, in
an order in which every step stands behind those that it waits for. Nothing is imported of a stage and nothing is run.

In a run folder the data set ``gen`` writes to ``gen/`` and ``data/``, any other to a run folder of its own,
``<name>/gen`` and ``<name>/data``; checkpoints are ``checkpoints/<name>``, rows ``eval/<name>``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfcorrect.errors import InputError, nearest
from selfcorrect.shipped import model_of

MAIN = "gen"
"""The data set that lies in the run folder itself."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a plan: it runs once every step in ``after`` is done, unless ``folder`` is done already.

    Without a folder it is cheap and always run, as a report is.
    """

    name: str
    args: tuple[str, ...]
    folder: Path | None
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DataSet:
    """What one `gen` makes, with the base model or a checkpoint of the study; ``teacher`` is a checkpoint, too."""

    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    model: str = ""
    teacher: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What one `train` makes, from the base model or from another checkpoint (``start``).

    ``data`` is the data set that it reads or takes problems from, ``rows`` the file of fine-tuning rows in it; or
    ``file`` are rows that were there before the study, from the folder that the commands run in.
    """

    name: str
    program: str
    recipe: str
    settings: tuple[str, ...] = ()
    start: str = ""
    data: str = MAIN
    rows: str = ""
    file: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What one `eval` makes: a method of the base model, or of a checkpoint (``dpo/iteration-2``: a folder in one).

    ``judge`` is the checkpoint that judges, ``needs`` are rows that must be there before. ``command`` is ``calibrate``
    for the row on which a stop decision is tuned.
    """

    name: str
    label: str
    method: str
    model: str = ""
    settings: tuple[str, ...] = ()
    judge: str = ""
    needs: tuple[str, ...] = ()
    command: str = ""


@dataclass(frozen=True, slots=True)
class Study:
    """Everything that is made from one base model.

    ``tables`` name their rows in order; ``figures`` their checkpoints. ``evaluation`` is the recipe of each benchmark,
    by the prefix that its rows' names have; ``everywhere`` are settings of every evaluation, ``seeded`` says that
    `gen` and `train` take ``seed=``.
    """

    base: str
    data: tuple[DataSet, ...]
    checkpoints: tuple[Checkpoint, ...]
    rows: tuple[Row, ...]
    tables: Mapping[str, tuple[str, ...]]
    curves: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    evaluation: Mapping[str, str] = field(default_factory=lambda: {"": "embedded"})
    everywhere: tuple[str, ...] = ()
    gen_settings: tuple[str, ...] = ()
    train_settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def rows_of(self, tables: Iterable[str]) -> list[str]:
        """Return the rows that tables need, each once, in the order of the study."""
        wanted = {name for table in tables for name in self.tables.get(table, ())}
        return [row.name for row in self.rows if row.name in wanted]


class Plan:
    """The steps of one study in one run folder, for one seed; ``prefix`` goes before the names of its steps."""

    def __init__(self, study: Study, run: Path, seed: int = 0, prefix: str = "") -> None:
        self.study, self.run, self.seed, self.prefix = study, run, seed, prefix
        self.steps: dict[str, Step] = {}
        self._data = {data.name: data for data in study.data}
        self._checkpoints = {checkpoint.name: checkpoint for checkpoint in study.checkpoints}
        self._rows = {row.name: row for row in study.rows}

    def evaluate(self, names: Sequence[str], untrained: bool = True) -> None:
        """Add the rows and what they need; ``untrained=False`` leaves out rows that no training changes."""
        for name in names:
            row = _known(name, self._rows, "row")
            if untrained or row.model or row.judge:
                self._row(row)

    def train(self, names: Iterable[str]) -> None:
        """Add checkpoints and what they need."""
        for name in names:
            self._checkpoint(name)

    def rows(self, names: Iterable[str]) -> list[Step]:
        """Return the steps of rows that the plan has, in order."""
        wanted = [f"{self.prefix}eval {benchmark}{name}" for name in names for benchmark in self.study.evaluation]
        return [self.steps[name] for name in wanted if name in self.steps]

    def models(self, names: Iterable[str]) -> list[Step]:
        """Return the steps of checkpoints that the plan has, in order."""
        by_folder = {step.folder: step for step in self.steps.values()}
        return [by_folder[self.run / "checkpoints" / name] for name in names]

    def _row(self, row: Row) -> list[str]:
        after = [self._checkpoint(name.split("/")[0]) for name in (row.model, row.judge) if name]
        after += [step for needed in row.needs for step in self._row(self._rows[needed])]
        model = str(self.run / "checkpoints" / row.model) if row.model else self.study.base
        steps = []
        for benchmark, recipe in self.study.evaluation.items():
            name = f"{benchmark}{row.name}"
            judge = (f"judge.engine.model={self.run / 'checkpoints' / row.judge}",) if row.judge else ()
            words = ["eval", "calibrate", "calibration"] if row.command else ["eval", recipe]
            words += [f"row={name}", f"label={row.label}", f"method={row.method}", f"engine.model={model}"]
            words += [*judge, *row.settings, *(() if row.command else self.study.everywhere)]
            steps.append(self._step(f"eval {name}", words, f"eval/{name}", after))
        return steps

    def _checkpoint(self, name: str) -> str:
        made = _known(name, self._checkpoints, "checkpoint")
        after = [] if made.file else [self._data_set(made.data)]
        words = ["train", made.program, made.recipe, f"name={made.name}", f"seed={self.seed}"]
        if made.start:
            after.append(self._checkpoint(made.start))
            words.append(f"model={self.run / 'checkpoints' / made.start}")
        elif model_of("train", made.recipe) != self.study.base:
            words.append(f"model={self.study.base}")
        if made.file:
            words.append(f"data={Path(made.file).resolve()}")  # a relative one would lie in the run folder
        elif made.rows:
            words.append(f"{'pairs' if made.program == 'dpo' else 'data'}={_inside(made.data)}{made.rows}")
        elif made.data != MAIN:
            words.append(f"prompts={_inside(made.data)}data/prompts.jsonl")
        words += [*made.settings, *self.study.train_settings.get(made.program, ())]
        step = made.program if made.program == made.name else f"{made.program} {made.name}"
        return self._step(step, words, f"checkpoints/{made.name}", after)

    def _data_set(self, name: str) -> str:
        made = _known(name, self._data, "data set")
        words, after = ["gen", made.recipe, f"seed={self.seed}"], []
        if not made.model and model_of("data_gen", made.recipe) != self.study.base:
            words.append(f"engine.model={self.study.base}")
        for key, checkpoint in (("engine.model", made.model), ("teacher.model", made.teacher)):
            if checkpoint:
                after.append(self._checkpoint(checkpoint))
                words.append(f"{key}={self.run / 'checkpoints' / checkpoint}")
        words += [*made.settings, *self.study.gen_settings]
        inside = self.run / _inside(name)
        step = name if name == MAIN else f"gen {name}"
        return self._step(step, words, f"{_inside(name)}gen", after, inside)

    def _step(self, name: str, words: Sequence[str], folder: str, after: Iterable[str], run: Path | None = None) -> str:
        name = f"{self.prefix}{name}"
        if name not in self.steps:
            args = (*words, "--run", str(run or self.run))
            self.steps[name] = Step(name, args, self.run / folder, tuple(dict.fromkeys(after)))
        return name


def _inside(data: str) -> str:
    """Return where a data set lies in the run folder of its study, as a prefix of paths."""
    return "" if data == MAIN else f"{data}/"


def _known(name: str, found: Mapping[str, Step | DataSet | Checkpoint | Row], what: str):  # type: ignore[no-untyped-def]
    if name not in found:
        raise InputError(f"the study has no {what} {name!r}{nearest(name, found)}; it has {', '.join(found)}")
    return found[name]


def urgent_first(steps: Sequence[Step], seconds: Mapping[str, float]) -> list[Step]:
    """Return steps in the order in which to start them: first those that the longest chain of others waits for."""
    left: dict[str, float] = {}
    for step in reversed(steps):
        waiting = [left[other.name] for other in steps if step.name in other.after and other.name in left]
        left[step.name] = seconds.get(step.name, 1.0) + max(waiting, default=0.0)
    return sorted(steps, key=lambda step: -left[step.name])
