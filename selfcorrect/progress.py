"""Progress of long work: a Rich bar with rate and time left, or JSON events for a parent process.

`selfcorrect.study` runs stages as child processes and sets ``SELFCORRECT_PROGRESS=json``: each event is
then one line ``{"progress": label, "done": n, "total": m, ...}`` on standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

EVENTS = "SELFCORRECT_PROGRESS"
console = Console(stderr=True)


class RateColumn(ProgressColumn):
    """Shows ``12.3/s`` (or ``4.1 s each`` for slow work)."""

    def render(self, task: Task) -> Text:
        """Return the rate of a task."""
        return Text(rate_text(task.finished_speed or task.speed), style="cyan")


def rate_text(per_second: float | None) -> str:
    """Return a rate for reading: ``12.3/s`` above one a second, ``4.1 s each`` below."""
    if not per_second:
        return "–"
    return f"{per_second:,.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def bar_columns() -> list[ProgressColumn]:
    """Return the columns that every progress display of the toolkit uses."""
    return [
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]{task.fields[note]}"),
    ]


class Meter:
    """Counts one piece of work; `advance` it as items finish, with an optional short note."""

    def __init__(self, label: str, total: int | None, display: Progress | None) -> None:
        self.label, self.total, self.done = label, total, 0
        self._display = display
        self._task = display.add_task(label, total=total, note="") if display else None
        self._last_event_s = 0.0

    def advance(self, count: int = 1, note: str | None = None, total: int | None = None) -> None:
        """Record that ``count`` more items are done; ``total`` corrects the expected number."""
        self.done += count
        self.total = total if total is not None else self.total
        if self._display and self._task is not None:
            fields: dict[str, Any] = {} if note is None else {"note": note}
            self._display.update(self._task, advance=count, total=self.total, **fields)
        elif os.environ.get(EVENTS) == "json":
            now = time.monotonic()
            if now - self._last_event_s > 0.2 or self.done == self.total:
                self._last_event_s = now
                event = {"progress": self.label, "done": self.done, "total": self.total, "note": note or ""}
                print(json.dumps(event), flush=True)


@contextmanager
def meters(*labels_and_totals: tuple[str, int | None]) -> Iterator[list[Meter]]:
    """Show several meters side by side, one per (label, total)."""
    if os.environ.get(EVENTS) == "json" or not (console.is_terminal or "FORCE_COLOR" in os.environ):
        yield [Meter(label, total, None) for label, total in labels_and_totals]
        for label, _ in labels_and_totals if os.environ.get(EVENTS) != "json" else ():
            print(f"{label}: done", file=sys.stderr)
        return
    with Progress(*bar_columns(), console=console) as display:
        yield [Meter(label, total, display) for label, total in labels_and_totals]


@contextmanager
def meter(label: str, total: int | None) -> Iterator[Meter]:
    """Show one meter."""
    with meters((label, total)) as (single,):
        yield single
