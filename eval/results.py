"""Finished evaluations on disk: find them, read their scores and their trajectories."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from selfcorrect.errors import DataError
from selfcorrect.jsonl import read_journal
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.recipes import to_values
from selfcorrect.runs import finished
from selfcorrect.types import Trajectory


@dataclass(frozen=True, slots=True)
class Row:
    """One finished evaluation: its folder and its ``scores.json``."""

    folder: Path
    scores: dict[str, Any]

    @property
    def name(self) -> str:
        """The row's name: that of its folder."""
        return self.folder.name

    @property
    def label(self) -> str:
        """What tables call it."""
        return label_of(self.scores) or self.name

    @property
    def has_default_label(self) -> bool:
        """True where nobody named the row: its label says the method and no more."""
        return self.scores.get("label") == default_label(
            str(self.scores.get("loop")), str(self.scores.get("stop") or "sampled")
        )

    @property
    def checkpoint(self) -> str:
        """The name of the model's folder where it is a checkpoint of a run; empty for any other model."""
        model = Path(str(self.scores.get("model") or ""))
        return model.name if model.parent.name == "checkpoints" else ""

    def problems(self) -> tuple[str, dict[str, str]]:
        """Return the shipped recipe of the row's benchmark, and the ``problems.*`` overrides that give its problems."""
        source = str(self.scores.get("benchmark") or "")
        name = "embedded" if source == "arithmetic" else Path(source).name.split(".")[0]
        shipped = {path.stem: path for path in (Path(__file__).parent / "recipes").glob("*.yaml")}
        recipe = name if name in shipped else "math500"
        known = to_values(ProblemsRecipe())
        theirs = known | _problems_in(shipped[recipe])
        ours = _problems_in(self.folder / "recipe.yaml") or {"source": source, "split": self.scores.get("split")}
        wanted = {key: value for key, value in ours.items() if key in known and value != theirs[key]}
        return recipe, {f"problems.{key}": _inline(value) for key, value in wanted.items()}

    def trajectories(self) -> list[Trajectory]:
        """Return its graded paths."""
        return read_trajectories(self.folder)


def default_label(method: str, stop: str) -> str:
    """Return what tables call a row that nobody named: its method, and a stop decision of its own."""
    return method if stop == "sampled" else f"{method}, stop={stop}"


def _problems_in(recipe: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    problems = values.get("problems") if isinstance(values, dict) else None
    return problems if isinstance(problems, dict) else {}


def _inline(value: Any) -> str:
    """Return a value as an override writes it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


def label_of(scores: Mapping[str, Any]) -> str:
    """Return a row's label; a row off the synthetic test split says so, for it is another result."""
    label, split = str(scores.get("label") or ""), scores.get("split")
    is_other = scores.get("benchmark") == "arithmetic" and split in ("validation", "ood")
    return f"{label} ({split})" if label and is_other else label


def find_rows(places: Iterable[Path]) -> list[Row]:
    """Return the rows of run folders (all of theirs) and row folders, in order, each once.

    Raises DataError for a place that is neither, RunFolderError for a finished row that lost something since.
    """
    rows: dict[Path, Row] = {}
    for place in places:
        if (place / "scores.json").is_file():
            folders: Sequence[Path] = [place]
        elif (place / "eval").is_dir():
            folders = sorted(path.parent for path in (place / "eval").glob("*/scores.json"))
        else:
            raise DataError(f"{place} is neither a run folder (with eval/) nor an evaluated row (with scores.json)")
        for folder in folders:
            finished(folder)
            rows.setdefault(folder.resolve(), Row(folder, read_json(folder / "scores.json")))
    return list(rows.values())


def read_trajectories(folder: Path) -> list[Trajectory]:
    """Return the graded trajectories of a finished evaluation, in order of their keys."""
    file = folder / "trajectories.jsonl"
    rows = {}
    for number, row in enumerate(read_journal(file), 1):
        try:
            rows[row["key"]] = Trajectory.from_json(row["trajectory"])
        except (KeyError, DataError) as error:
            raise DataError(f"{file}, record {number}: not a trajectory ({error!r:.300})") from error
    return [rows[key] for key in sorted(rows)]


def read_json(path: Path) -> dict[str, Any]:
    """Return one JSON object from a file; DataError where it is missing or broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object")
    return value
