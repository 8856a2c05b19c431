"""Turn-1 and final accuracy and the length of responses against the RL step: what figure 1 draws, and its table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfcorrect.errors import DataError
from selfcorrect.eval.tables.paper import published_tables
from selfcorrect.runs.jsonl import read_jsonl
from selfcorrect.table import DASH, Table

RUNNING = 5
"""Rollouts that a point of the curve, and each end of it in the table, is the mean of."""

Steps = Sequence[Mapping[str, Any]]


def learning_curves(places: Sequence[Path]) -> dict[str, Steps]:
    """Return the rollouts of every checkpoint below ``places`` (runs or checkpoints) that has both accuracies.

    Their keys are the checkpoints' names; those of several runs that are called the same have the run's name in front.
    """
    if absent := [place for place in places if not place.is_dir()]:
        raise DataError(f"no folder at {absent[0]}; check the path (working folder: {Path.cwd()})")
    files = [
        file
        for place in places
        for file in sorted([*place.glob("checkpoints/*/metrics.jsonl"), *place.glob("metrics.jsonl")])
    ]
    names = [file.parent.name for file in files]
    found: dict[str, Steps] = {}
    for file, name in zip(files, names, strict=True):
        if steps := [row for row in read_jsonl(file) if {"step", "turn1", "final"} <= row.keys()]:
            found[name if names.count(name) == 1 else f"{file.absolute().parents[2].name}/{name}"] = steps
    if not found:
        raise DataError(
            f"no RL checkpoint with turn-1 and final accuracy in {', '.join(map(str, places))}; make one with: "
            f"selfcorrect train grpo --run {places[0]}"
        )
    return found


def curve_table(curves: Mapping[str, Steps]) -> Table:
    """Return where each curve begins and ends."""
    shown = {"turn 1": "turn1", "final": "final", "tokens": "mean_length"}
    head = ("checkpoint", "rollouts", *(f"{title}, {end} {RUNNING}" for title in shown for end in ("first", "last")))
    lines = [
        (
            name,
            str(len(steps)),
            *(_over_steps(end, key) for key in shown.values() for end in (steps[:RUNNING], steps[-RUNNING:])),
        )
        for name, steps in curves.items()
    ]
    notes = [
        f"Accuracy (percent) and length over the first and last {RUNNING} rollouts, with 95% intervals of the mean (t, "
        "from the spread between rollouts: each has problems of its own).",
        f"The paper's: {published_tables()['figure1']['caption']}.",
    ]
    return Table("Learning dynamics, as in the paper's figure 1", head, lines, notes)


def _over_steps(steps: Steps, key: str) -> str:
    """Return the mean over steps with its t interval, for which two steps are the least."""
    from scipy.stats import t

    values = [step[key] for step in steps if key in step]
    if not values:
        return DASH
    mean, digits = statistics.fmean(values), 0 if key == "mean_length" else 1
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.{digits}f} [{mean - half:.{digits}f} {mean + half:.{digits}f}]"
