"""The live table of a run: rates and acceptance by stage, rows of each class against its quota, time left."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table

from selfcorrect.data_gen.classes import Candidate, Selection
from selfcorrect.data_gen.sampling.passes import GatheredRows, ProgressListener
from selfcorrect.printing import is_quiet
from selfcorrect.runs.progress import EVENTS, Meter, console, is_watched, said_now_and_then


class LiveTable(ProgressListener):
    """Follows a run and shows it as a live table, as JSON events for `cli.plan`, or as a line now and then."""

    def __init__(self, live: bool) -> None:
        self.live = live
        self.samples: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.passes: list[tuple[str, Selection[Candidate], float]] = []
        self.gathered = GatheredRows()
        self.resumed: Mapping[str, int] = {}
        self._meters: dict[str, Meter] = {}
        self._started = time.perf_counter()

    def opened(self, gathered: GatheredRows, resumed: Mapping[str, int]) -> None:
        """Show what an interrupted run recorded."""
        self.gathered, self.resumed = gathered, resumed
        for stage, count in resumed.items():
            if count:
                self._meter(stage).advance(count)

    def begins(self, rows: str, selection: Selection[Candidate]) -> None:
        """Show the classes that a pass fills."""
        self.passes.append((rows, selection, time.perf_counter()))

    def seen(self, stage: str, tokens: int) -> None:
        """Count one new sample."""
        self.samples[stage] += 1
        self.tokens[stage] += tokens
        rate = self.tokens.total() / self._elapsed
        self._meter(stage).advance(note=f"{rate:,.0f} tokens/s" if stage == "attempts" else None)

    def committed(self, taken: int) -> None:
        """Show what is kept, by class."""
        name, selection, _ = self.passes[-1]
        self._meter(name).advance(taken, note=filled(selection), total=wanted(selection))

    def line(self) -> str:
        """Return the state of the run on one line."""
        kept = "; ".join(f"{name}: {filled(selection)}" for name, selection, _ in self.passes) or "nothing kept yet"
        sampled = f"{self.samples.total():,} samples, {self.tokens.total() / self._elapsed:,.0f} tokens/s"
        return f"gen, {self._elapsed:,.0f} s: {sampled}; {kept}; time left about {self._left()}"

    def table(self) -> RenderableType:
        """Return the state of the run as tables."""
        acceptance = self.gathered.acceptance()
        rate = lambda name: f"{acceptance[name]['acceptance']:.0%}" if name in acceptance else "–"
        stages = Table("stage", "samples", "samples/s", "tokens/s", "acceptance", box=None, padding=(0, 2))
        for stage, count in self.samples.items():
            before = f" (+{self.resumed[stage]:,} resumed)" if self.resumed.get(stage) else ""
            speeds = (f"{counter[stage] / self._elapsed:,.1f}" for counter in (self.samples, self.tokens))
            stages.add_row(stage, f"{count:,}{before}", *speeds, rate(stage))
        classes = Table("class", "kept", "of", "acceptance", "time left", box=None, padding=(0, 2))
        for _, selection, started in self.passes:
            for kind, quota in selection.quota.items():
                if quota != 0:
                    kept = selection.count(kind)
                    left = _left(kept, quota, time.perf_counter() - started)
                    classes.add_row(str(kind), f"{kept:,}", f"{quota or '–'}", rate(str(kind)), left)
        return Group(stages, classes)

    @property
    def _elapsed(self) -> float:
        return max(time.perf_counter() - self._started, 1e-6)

    def _left(self) -> str:
        if not self.passes:
            return "?"
        _, selection, started = self.passes[-1]
        total = wanted(selection)
        return _left(selection.filled, total, time.perf_counter() - started)

    def _meter(self, name: str) -> Meter:
        if name not in self._meters:
            self._meters[name] = Meter(name, None, None)
        return self._meters[name]


def filled(selection: Selection[Candidate]) -> str:
    """Return ``D1 3/10 · D2 0/4``: what a selection keeps against its quotas."""
    shown = {kind: "-" if quota is None else quota for kind, quota in selection.quota.items()}
    return " · ".join(f"{kind} {selection.count(kind)}/{quota}" for kind, quota in shown.items())


def wanted(selection: Selection[Candidate]) -> int | None:
    """Return how many rows a selection takes in all, None where some class has no quota."""
    known = [quota for quota in selection.quota.values() if quota is not None]
    return sum(known) if len(known) == len(selection.quota) else None


def _left(kept: int, quota: int | None, elapsed_s: float) -> str:
    if quota is None or not kept:
        return "?"
    seconds = elapsed_s * (quota - kept) / kept
    return f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"


@contextmanager
def live_table() -> Iterator[LiveTable]:
    """Show a run while it samples: live on a terminal, else as events or lines."""
    if not is_watched() or is_quiet():
        shown = LiveTable(live=False)
        with nullcontext() if os.environ.get(EVENTS) == "json" else said_now_and_then(shown.line):
            yield shown
        return
    shown = LiveTable(live=True)
    with Live(get_renderable=shown.table, console=console, refresh_per_second=2, transient=True):
        yield shown
