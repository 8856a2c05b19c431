"""What it took to make a model, added up from stage to stage: problems seen, tokens sampled, tokens trained on.

Each checkpoint's ``DONE`` holds it under ``compute``: its ``own`` share (with the data that `gen` sampled for it), and
the ``total`` with the model that it started from. Two rows of a table are compared at equal cost only where these are
alike, so every evaluated row carries the total of its model. None: not recorded (a version before, data of other
make); a base model, however it was made, took nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selfcorrect.errors import DataError
from selfcorrect.runs.folder import is_done


@dataclass(frozen=True, slots=True)
class Compute:
    """Counts of one stage or of several.

    ``problems`` are distinct in each stage, and one that two stages use counts in both. ``sampled_tokens`` are all that
    were sampled, used or not. ``trained_tokens`` are those of the rows or trajectories that updates were computed on,
    in the loss or only read, once for each time; a reference model and a value model are not counted.
    """

    problems: int = 0
    sampled_tokens: int = 0
    trained_tokens: int = 0

    def __add__(self, other: Compute) -> Compute:
        return Compute(
            self.problems + other.problems,
            self.sampled_tokens + other.sampled_tokens,
            self.trained_tokens + other.trained_tokens,
        )


def compute_of_model(folder: str) -> Compute | None:
    """Return what it took to make the model in a folder, nothing for a base model, None where it is not recorded."""
    path = Path(folder).expanduser()
    if not (path / "recipe.yaml").exists():
        return Compute()
    return _compute((_done(path).get("compute") or {}).get("total"))


def compute_of_data(rows: Path) -> Compute | None:
    """Return what `gen` took to sample a file of rows in its ``data`` folder, None where it is not recorded."""
    done = _done(rows.resolve().parent.parent.parent / "gen")
    drawn = done.get("drawn") or {}
    if "tokens" not in drawn or (drawn.get("resumed") and "resumed_tokens" not in drawn):
        return None
    tokens = sum(drawn["tokens"].values()) + drawn.get("resumed_tokens", 0)
    return Compute(problems=done["problems"]["sampled from"], sampled_tokens=tokens)


def recorded_compute(own: Compute | None, start: Compute | None) -> dict[str, Any]:
    """Return a stage's share and the total as ``DONE`` holds them; ``start`` is of the model that it started from."""
    total = None if own is None or start is None else own + start
    return {"own": own and asdict(own), "total": total and asdict(total)}


def _done(folder: Path) -> Mapping[str, Any]:
    if not is_done(folder):
        return {}
    try:
        found = json.loads((folder / "DONE").read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{folder / 'DONE'} is damaged ({error}); make the folder anew") from error
    return found if isinstance(found, dict) else {}


def _compute(found: Mapping[str, Any] | None) -> Compute | None:
    return None if found is None else Compute(**found)
