"""Progress of long work: a Rich bar with rate and time left, lines in a log, or JSON events for a parent process.

`selfcorrect.cli.plan` runs stages as child processes and sets ``SELFCORRECT_PROGRESS=json``: each event is
then one line ``{"progress": label, "done": n, "total": m, ...}`` on standard output. Where standard error is no
terminal (a log, a pipe) a line is written every ten seconds, whether or not anything moved.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from selfcorrect import printing
from selfcorrect.printing import errors as console

EVENTS = "SELFCORRECT_PROGRESS"
SAID_EVERY_S = 10.0
"""How often a line is written where no bar can be drawn."""


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


def duration_text(seconds: float) -> str:
    """Return a duration for reading: ``540 s``, ``75 min``, ``3 h 25 min``."""
    if seconds < 600:
        return f"{seconds:,.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def bar_columns() -> list[ProgressColumn]:
    """Return the columns that every progress display of the toolkit uses."""
    return [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    ]


class Meter:
    """Counts one piece of work; `advance` it as items finish, with an optional short note."""

    def __init__(self, label: str, total: int | None, display: Progress | None) -> None:
        self.label, self.total, self.done = label, total, 0
        self._before = 0
        self._display = display
        self._task = display.add_task(label, total=total, note="") if display else None
        self._last_event_s = 0.0
        self._started_s, self._note = time.monotonic(), ""

    def begin_at(self, done: int, total: int | None = None) -> None:
        """Record what an interrupted run had done: it counts as done, and in no rate."""
        self.done = self._before = done
        self.total = total if total is not None else self.total
        self._started_s = time.monotonic()
        if self._display and self._task is not None:
            self._display.reset(self._task, completed=done, total=self.total)
        else:
            self._tell()

    def advance(self, count: int = 1, note: str | None = None, total: int | None = None) -> None:
        """Record that ``count`` more items are done; ``total`` corrects the expected number."""
        self.done += count
        self.total = total if total is not None else self.total
        self._note = self._note if note is None else note
        if self._display and self._task is not None:
            fields: dict[str, Any] = {} if note is None else {"note": note}
            self._display.update(self._task, advance=count, total=self.total, **fields)
        else:
            self._tell(note)

    def _tell(self, note: str | None = None) -> None:
        """Send an event to the parent process, where there is one that wants it, a few times a second."""
        now = time.monotonic()
        if os.environ.get(EVENTS) == "json" and (now - self._last_event_s > 0.2 or self.done == self.total):
            self._last_event_s = now
            printing.event({"progress": self.label, "done": self.done, "total": self.total, "note": note or ""})

    def left_s(self, more: int = 0) -> float | None:
        """Return the seconds until the work is done at the mean rate so far, with ``more`` items done than are counted.

        None where that is not known.
        """
        elapsed_s, done = time.monotonic() - self._started_s, self.done + more
        known = self.total is not None and done > self._before
        return (self.total - done) * elapsed_s / (done - self._before) if known else None  # type: ignore[operator]

    def line(self) -> str:
        """Return the state of the work on one line: how far, how fast, how long still."""
        elapsed_s = time.monotonic() - self._started_s
        rate = (self.done - self._before) / elapsed_s if elapsed_s else None
        parts = [f"{self.label}: {self.done:,}" + (f" of {self.total:,}" if self.total else "")]
        if rate and elapsed_s >= 1:
            parts.append(rate_text(rate))
            left_s = self.left_s() or 0
            parts += [f"about {duration_text(left_s)} left"] if left_s > 0 else []
        return ", ".join([*parts, f"after {duration_text(elapsed_s)}", *([self._note] if self._note else [])])


def is_watched() -> bool:
    """True where a person sees the progress as it is drawn."""
    return os.environ.get(EVENTS) != "json" and (console.is_terminal or "FORCE_COLOR" in os.environ)


@contextmanager
def said_now_and_then(line: Callable[[], str], every_s: float | None = None) -> Iterator[None]:
    """Write a line to standard error every ten seconds while the block runs."""
    over = threading.Event()

    def say() -> None:
        while not over.wait(SAID_EVERY_S if every_s is None else every_s):
            printing.note(line())

    teller = threading.Thread(target=say, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


@contextmanager
def meters(*labels_and_totals: tuple[str, int | None]) -> Iterator[list[Meter]]:
    """Show several meters side by side, one per (label, total)."""
    if is_watched() and not printing.is_quiet():
        with Progress(*bar_columns(), console=console) as display:
            yield [Meter(label, total, display) for label, total in labels_and_totals]
        return
    shown = [Meter(label, total, None) for label, total in labels_and_totals]
    if os.environ.get(EVENTS) == "json":
        yield shown
        return
    with said_now_and_then(lambda: "; ".join(meter.line() for meter in shown)):
        yield shown
    for meter in shown:
        printing.note(f"{meter.line()}; done")


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Say what is being loaded, while it is: a line, and on a terminal a sign of life."""
    if os.environ.get(EVENTS) == "json" or printing.is_quiet():
        yield
        return
    alive = console.status(Text(f"loading {what}", style="dim")) if is_watched() else nullcontext()
    if not is_watched():
        printing.note(f"loading {what}")
    with alive:
        yield


@contextmanager
def meter(label: str, total: int | None) -> Iterator[Meter]:
    """Show one meter."""
    with meters((label, total)) as (single,):
        yield single


@contextmanager
def quiet_bars() -> Iterator[None]:
    """Keep transformers' bars (``Loading weights``) and both libraries' notices away; downloads keep their bars."""
    if find_spec("transformers") is None:  # the base install: no bars to keep away
        yield
        return
    from huggingface_hub.utils import enable_progress_bars
    from huggingface_hub.utils import logging as of_the_hub
    from transformers.utils import logging

    if printing.is_verbose() or not logging.is_progress_bar_enabled():
        yield
        return
    before = logging.get_verbosity(), of_the_hub.get_verbosity()
    logging.disable_progress_bar()
    enable_progress_bars()
    logging.set_verbosity_error()
    of_the_hub.set_verbosity_error()
    try:
        yield
    finally:
        logging.enable_progress_bar()
        logging.set_verbosity(before[0])
        of_the_hub.set_verbosity(before[1])
