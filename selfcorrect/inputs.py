"""What a stage reads, held to its content: problems, models and files that changed since are named, never mixed in.

A stage calls `hold` when it has loaded its problems and before it samples or trains, and once more, without them, when
it finds its folder finished. The record is ``inputs.json`` (`runs.same_inputs`): a hash for each problem and for each
file of a model. A finished folder is compared with the problem file by its bytes first, and only where those differ by
loading the problems again: a file that grew behind the rows that were used is no other set. What is gone from the disk
cannot be compared, and a finished result stays readable without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from selfcorrect.errors import DataError, ModelError
from selfcorrect.fingerprints import file_digest, model_parts, problem_parts
from selfcorrect.problems import ProblemsRecipe, problem_file
from selfcorrect.runs.folder import is_done, same_inputs
from selfcorrect.types import Problem


def hold(
    folder: Path,
    models: Mapping[str, str] | None = None,
    source: ProblemsRecipe | None = None,
    problems: Callable[[], Sequence[Problem]] | None = None,
    files: Mapping[str, Path] | None = None,
) -> None:
    """Record what a stage reads, or raise RunFolderError where its folder was begun with something else.

    ``models`` are folders or hub ids by the part they play, ``source`` is where ``problems`` come from, ``files`` are
    any others. Of a finished folder only what differs is loaded.
    """
    inputs: dict[str, object] = {}
    for name, model in (models or {}).items():
        try:
            parts = model_parts(model)
        except ModelError:  # gone; a stage that needs it says so itself
            continue
        if parts:
            inputs[name] = parts
    inputs |= {name: file_digest(path) for name, path in (files or {}).items() if path.is_file()}
    if source is not None and problems is not None:
        inputs |= _problems(folder, source, problems)
    if inputs:
        same_inputs(folder, inputs)


def _problems(folder: Path, source: ProblemsRecipe, problems: Callable[[], Sequence[Problem]]) -> dict[str, object]:
    """Return the hashes of problems, and when a folder is begun that of their file."""
    file = problem_file(source)
    digest = file_digest(file) if file else ""
    if is_done(folder):
        if not digest or _recorded(folder).get("problem file") in (None, digest):
            return {}
        try:
            return {"problems": problem_parts(problems())}
        except DataError as error:
            return {"problems": {"all": f"cannot be loaded: {str(error).splitlines()[0]}"}}
    first = {} if "problems" in _recorded(folder) or not digest else {"problem file": digest}
    return {"problems": problem_parts(problems()), **first}


def _recorded(folder: Path) -> Mapping[str, object]:
    try:
        recorded = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # `same_inputs` says what is wrong with it
        return {}
    return recorded if isinstance(recorded, dict) else {}
