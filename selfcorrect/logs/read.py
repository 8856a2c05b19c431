"""`read_log`: a file or folder -> `Log`, whoever wrote it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from selfcorrect.adapters.turns import read_turns
from selfcorrect.errors import DataError, InputError
from selfcorrect.logs import inspect_logs, lighteval, lm_eval, ours, verifiers
from selfcorrect.logs.record import Log, Response
from selfcorrect.not_text import refuse_other_kind
from selfcorrect.verdicts import next_mark

READERS: dict[str, Callable[[Path, str], Log]] = {
    "selfcorrect": ours.read,
    "lm_eval": lm_eval.read,
    "inspect": inspect_logs.read,
    "lighteval": lighteval.read,
    "verifiers": verifiers.read,
}
TOOLS = tuple(READERS)


def read_log(place: Path, metric: str = "") -> Log:
    """Read a log; ``metric`` chooses among several scores of a response (empty: the tool's first).

    A response in long-CoT, which a verdict mark shows, is its last attempt: what a self-evaluation says is no answer.
    Raises DataError, naming the file, where it is of no known tool, damaged, or holds nothing to grade.
    """
    log = READERS[tool_of(place)](place, metric)
    if not log.responses:
        found = ", ".join(f"{count} × {reason}" for reason, count in log.dropped.items()) or "the log is empty"
        raise DataError(f"{place}: no response to grade; {found}")
    return replace(log, responses=tuple(map(_answering, log.responses)))


def _answering(response: Response) -> Response:
    if next_mark(response.text) is None:
        return response
    final = read_turns(response.text, cut=response.cut, source=response.source).final
    return replace(response, text=final.text, cut=final.cut)


def tool_of(place: Path) -> str:
    """Return which tool wrote a log, by its form alone."""
    if place.is_dir():
        if (place / "trajectories.jsonl").is_file():
            return "selfcorrect"
        raise InputError(f"{place}: no log in this folder; of a run give one row, such as {place / 'eval' / 'ift'}")
    if not place.is_file():
        raise InputError(f"no log at {place} (working folder: {Path.cwd()})")
    with place.open("rb") as file:
        start = file.read(4)
    if start == b"PAR1":
        return "lighteval"
    if zipfile.is_zipfile(place):
        return "inspect"
    if place.suffix == ".json":
        return "inspect"
    return _tool_of_lines(place)


def _tool_of_lines(place: Path) -> str:
    with place.open("rb") as file:
        line = next((line for line in file if line.strip()), b"")
    refuse_other_kind(place, line)
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if isinstance(row, dict) and "resps" in row:
        return "lm_eval"
    if isinstance(row, dict) and "traces" in row:
        return "verifiers"
    if isinstance(row, dict) and "trajectory" in row:
        raise InputError(f"{place}: give the folder of the row, {place.parent}")
    keys = f"the first row has {', '.join(sorted(row))[:120]}" if isinstance(row, dict) else "its first line is no JSON"
    raise DataError(
        f"{place}: a log of none of {', '.join(READERS)} ({keys}). Known: samples_*.jsonl of lm_eval --log_samples, "
        "*.eval and *.json of inspect_ai, details_*.parquet of lighteval, traces.jsonl of verifiers v1, "
        "an eval folder of ours"
    )
