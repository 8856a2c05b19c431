"""``metrics.jsonl`` and the meter: what a trainer says while it runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selfcorrect.runs.files import append_lines
from selfcorrect.runs.jsonl import read_jsonl, write_jsonl, write_whole
from selfcorrect.runs.progress import Meter
from selfcorrect.train.common.distributed import process_rank


class Metrics:
    """``metrics.jsonl``: one row for each logged step; a resumed run first drops the rows after its checkpoint.

    Every process keeps the rows, the main one writes them.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            self.rows = [row for row in _whole_lines(path) if row["step"] <= first_step]
        self._writes = process_rank() == 0
        if self._writes:
            write_jsonl(path, self.rows)

    def add(self, step: int, **values: float | int | str | list[float] | None) -> dict[str, Any]:
        """Append one row; NaN becomes null."""
        row = {"step": step} | {name: _finite(value) for name, value in values.items()}
        if self._writes:
            append_lines(self.path, [json.dumps(row, separators=(",", ":")) + "\n"])
        self.rows.append(row)
        return row


def _finite(value: float | int | str | list[float] | None) -> float | int | str | list[float] | None:
    if not isinstance(value, float):
        return value
    return round(value, 6) if math.isfinite(value) else None


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_whole(path, [whole])
    return read_jsonl(path)


def reports(metrics: Metrics, progress: Meter, names: Mapping[str, str], share: float = 1.0) -> Any:
    """Return a callback that moves the meter, keeps metrics.jsonl, and stops after a ``share`` of the schedule.

    ``names`` maps TRL's names of what is logged to ours.
    """
    from transformers import TrainerCallback

    class Reports(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.last_step = int(state.max_steps * share)
            self.started_s = time.perf_counter()
            progress.begin_at(state.global_step, total=self.last_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            loss = metrics.rows[-1]["loss"] if metrics.rows else None
            progress.advance(1, note=None if loss is None else f"loss {loss:.3f}")
            if state.global_step >= self.last_step:
                control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in logs:
                row = {ours: float(logs[trls]) for trls, ours in names.items() if logs.get(trls) is not None}
                row |= {name: float(logs[name]) for name in ("loss", "grad_norm", "learning_rate", "epoch")}
                metrics.add(state.global_step, **row, seconds=time.perf_counter() - self.started_s)

    return Reports()
