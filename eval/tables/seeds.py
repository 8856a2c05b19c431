"""Rows of several seeds as one: `over_seeds` pools the rows of runs that differ in the seed of data and training alone.

    over_seeds(find_rows([s0, s1, s2]))     # ift of three runs: one row, n = problems × 3

The scores of a pooled row are made from all its trajectories; problems are the same for every seed, so intervals
resample problems (`metrics`). Two rows are of different seeds where their folders have the same name in two runs and
the evaluations, and the recipes of the models (of what they started from, too, and of `gen`), differ in ``seed`` alone.
A row in which nothing was trained is the same row in every run: the first counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selfcorrect.eval.results import EvalResult, EvaluatedRow, RowScores
from selfcorrect.metrics import score
from selfcorrect.runs.compute import Compute
from selfcorrect.runs.recipes import read_yaml
from selfcorrect.types import Trajectory

UNTRAINED = ""
"""The key of a row in which nothing was trained, in `SeededRow.by_seed`: it stands beside every seed."""
NOT_COMPARED = ("seed", "log_every", "save_every", "micro_rows", "micro_pairs", "max_batch")
"""Settings of a recipe that may differ between seeds: the others of these change memory and what is written alone."""


@dataclass(frozen=True, slots=True)
class SeededRow(EvaluatedRow):
    """A row and its like under other seeds; ``folder`` is the first one's, ``result`` has the scores of all."""

    members: tuple[EvaluatedRow, ...] = ()

    def trajectories(self, *, tokens: bool = True) -> list[Trajectory]:
        """Return the graded trajectories of all seeds."""
        return [trajectory for row in self.members for trajectory in row.trajectories(tokens=tokens)]

    def by_seed(self) -> dict[str, Sequence[Trajectory]]:
        """Return the trajectories of each seed by its run folder, or under `UNTRAINED`."""
        if not _trained(self.result):
            return {UNTRAINED: self.trajectories(tokens=False)}
        return {str(_run(row)): row.trajectories(tokens=False) for row in self.members}

    @property
    def seeds(self) -> int:
        """How many models were trained for it; 0 where nothing was trained."""
        return len(self.members) if _trained(self.result) else 0


def over_seeds(rows: Sequence[EvaluatedRow]) -> tuple[list[SeededRow], list[str]]:
    """Return rows with those of several seeds as one, in order of the first; and what was not pooled, with why."""
    groups: list[list[EvaluatedRow]] = []
    notes: list[str] = []
    for row in rows:
        alike = [group for group in groups if group[0].name == row.name and _run(group[0]) != _run(row)]
        reasons = [_difference(group[0], row) for group in alike]
        if "" not in reasons:
            notes += [
                f"{row.name} of {_run(row).name} is not another seed of {_run(group[0]).name}'s: {reason}."
                for group, reason in zip(alike, reasons, strict=True)
            ]
            groups.append([row])
            continue
        group = alike[reasons.index("")]
        if not _trained(row.result):
            notes.append(f"{row.name}: nothing in it was trained; {_run(group[0]).name}'s counts, no other run's.")
        elif seed_of(row) is not None and seed_of(row) in map(seed_of, group):
            notes.append(f"{row.name} of {_run(row).name} is not another seed: seed {seed_of(row)} is there already.")
            groups.append([row])
        else:
            group.append(row)
    return [_pooled(group) for group in groups], notes


def _pooled(group: Sequence[EvaluatedRow]) -> SeededRow:
    first = group[0]
    if len(group) == 1:
        return SeededRow(first.folder, first.result, (first,))
    named = next((row.result.label for row in group if not row.result.has_default_label), first.result.label)
    trajectories = [trajectory for row in group for trajectory in row.trajectories(tokens=False)]
    result = rescored(first.result, trajectories)
    return SeededRow(
        first.folder, replace(result, label=named, compute=_mean_compute([row.result for row in group])), tuple(group)
    )


def rescored(result: EvalResult, trajectories: Sequence[Trajectory]) -> EvalResult:
    """Return a result with the scores of other trajectories."""
    return replace(result, scores=RowScores.of(score(result.label, trajectories)))


def _mean_compute(results: Sequence[EvalResult]) -> Compute | None:
    """Return what one of several models took, in the mean; None where it is not known of all."""
    known = [asdict(result.compute) for result in results if result.compute is not None]
    if len(known) < len(results):
        return None
    return Compute(**{key: round(sum(one[key] for one in known) / len(known)) for key in known[0]})


# --- what two rows have in common --------------------------------------------------------------------------------


def _run(row: EvaluatedRow) -> Path:
    folder = row.folder.resolve()
    return folder.parent.parent if folder.parent.name == "eval" else folder


_PATH = re.compile(r"[^\s:'\"][^:\n]*/(?=checkpoints/)")


def _in_run(text: str) -> str:
    """Return a text, such as the name of a model, with the paths of checkpoints as they are in any run."""
    return _PATH.sub("", text)


def _trained(result: EvalResult) -> str:
    """Return the checkpoint that a row depends on, as it is in its run: its model's, else its judge's."""
    for named in (result.model, result.judge):
        found = re.search(r"checkpoints/.*", _in_run(named or ""))
        if found:
            return found[0]
    return ""


def seed_of(row: EvaluatedRow) -> int | None:
    """Return the seed that a row's model was trained with; None where nothing was trained or no recipe says so."""
    seed = _recipe(_run(row), _trained(row.result)).get("seed")
    return seed if isinstance(seed, int) else None


def _recipe(run: Path, checkpoint: str) -> Mapping[str, Any]:
    """Return the recipe of a checkpoint of a run (of the whole training, for an iteration in it)."""
    return _values(run / "checkpoints" / checkpoint.split("/")[1] / "recipe.yaml") if checkpoint else {}


def _values(file: Path) -> Mapping[str, Any]:
    """Return the recipe in a file, its checkpoints as they are in any run; empty where there is none."""
    values: Mapping[str, Any] = _in_any_run(read_yaml(file) if file.is_file() else {})
    return values


def _in_any_run(value: Any) -> Any:
    """Return a setting with the paths of checkpoints as they are in any run."""
    if isinstance(value, Mapping):
        return {name: _in_any_run(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_in_any_run(inner) for inner in value]
    return _in_run(value) if isinstance(value, str) else value


def _difference(a: EvaluatedRow, b: EvaluatedRow) -> str:
    """Return in what two rows differ beside the seed; empty where in nothing that both of them say."""
    of_a, of_b = _settings(a), _settings(b)
    names = [name for name in of_a.keys() & of_b.keys() if of_a[name] != of_b[name]]
    return "; ".join(f"{name} is {of_a[name]!s:.60} there, {of_b[name]!s:.60} here" for name in sorted(names)[:3])


def _settings(row: EvaluatedRow) -> dict[str, Any]:
    """Return what a row was made with, without seeds: its evaluation, and the recipes of all trained for it."""
    result = row.result
    found = {name: getattr(result, name) for name in ("method", "stop", "benchmark", "split")}
    found |= {"model": _in_run(result.model or ""), "judge": _in_run(result.judge or "")}
    found |= {"problems": result.problem_set.get("fingerprint")}
    found |= {f"evaluation: {name}": value for name, value in asdict(result.sampling).items()}
    found |= {name: getattr(result.fingerprints, name) for name in ("grader", "prompts", "template")}
    return {name: value for name, value in (found | _training(row)).items() if value is not None}


def _training(row: EvaluatedRow) -> dict[str, Any]:
    run, checkpoint, found = _run(row), _trained(row.result), dict[str, Any]()
    for _ in range(8):
        recipe = _recipe(run, checkpoint)
        if not recipe:
            break
        name = checkpoint.split("/")[1]
        data = next((recipe[key] for key in ("data", "pairs", "prompts") if isinstance(recipe.get(key), str)), "")
        made = dict(_values(run / data.rpartition("data/")[0] / "gen" / "recipe.yaml"))
        sampled_by = (made.pop("engine", None) or {}).get("model")
        found |= {f"{name}: {key}": value for key, value in recipe.items() if key not in NOT_COMPARED}
        found |= {f"data of {name}: {key}": value for key, value in made.items() if key not in NOT_COMPARED}
        found |= {f"data of {name}: model": sampled_by}
        start = recipe.get("model")
        checkpoint = start if isinstance(start, str) and start.startswith("checkpoints/") else ""
    return found
