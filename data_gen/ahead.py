"""Order without barriers: base samples are worked far ahead, and committed one by one in order of identity.

The data set is what the plain sequential algorithm would give: take the base samples in order, offer each to
the `Selection`, stop when it is full. `in_order` runs exactly that, and beside it works many base samples
ahead of the commit point, so the engine's batch stays full; the two meet in the samples, which are drawn once
(`draws.Draws`). So the result cannot depend on the order of arrival, on a kill or on a resume: the work ahead
only decides WHICH samples lie ready (like speculation in a processor that retires in order).

`Demand` keeps the work ahead to what the open quotas are expected to need, so that hardly a sample is drawn in
vain: a class whose quota is full admits nobody, and close to its end it admits as many as it still lacks, plus
one standard deviation, over the rate at which tries succeed.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import Counter
from collections.abc import Awaitable, Callable

from selfcorrect.data_gen.selection import Base, Kind, Selection, Worked
from selfcorrect.data_gen.steering import Order

Wants = Callable[[Kind, Base], Awaitable[bool]]
"""Asks whether a base sample should be tried as a class; may wait until that is worth an answer."""


Work = Callable[[Base, Wants], Awaitable[Worked]]


async def in_order(
    order: Order,
    work: Work,
    selection: Selection,
    commit: Callable[[Worked], None],
    at_once: int,
    everything: bool = False,
) -> None:
    """Work base samples and `commit` each in order until the selection is full or the order ends.

    ``at_once`` bounds those that are being worked ahead. ``everything`` works all of them to the end, whatever the
    quotas (the fixed schedule). Raises the first error of any work, after stopping the rest.
    """
    demand = Demand(order, selection, at_once, everything)

    async def now(kind: Kind, base: Base) -> bool:
        return everything or selection.open(kind, base.problem)

    async def ahead() -> None:
        place = 0
        while base := await demand.next(place):
            place = base.place + 1
            if everything or selection.wants(base.problem):
                demand.start(base)
                task = group.create_task(demand.watch(base, work))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    tasks: set[asyncio.Task[None]] = set()
    try:
        async with asyncio.TaskGroup() as group:
            feeder = group.create_task(ahead())
            while (everything or not selection.full) and (base := order.at(order.committed)):
                worked = await work(base, now) if everything or selection.wants(base.problem) else None
                if worked:
                    commit(worked)
                order.note(base, worked)
                demand.commit(base)
            for task in (feeder, *tasks):  # what is still under way, nobody needs
                task.cancel()
    except BaseExceptionGroup as failures:
        raise _first(failures) from failures


class Demand:
    """How much more is needed, by class, and so who may go on. Scheduling only: it never changes the result."""

    def __init__(self, order: Order, selection: Selection, at_once: int, everything: bool) -> None:
        self.order, self.selection, self.at_once, self.everything = order, selection, at_once, everything
        self._busy = 0  # base samples worked ahead that are not waiting for admission
        self._unsorted: set[int] = set()  # of these, the ones whose attempt is not graded yet
        self._sorted = 0  # attempts graded so far
        self._arrived: Counter[Kind] = Counter()  # of these, by the class they would be tried as first
        self._tries: Counter[Kind] = Counter()
        self._hits: Counter[Kind] = Counter()
        self._admitted: dict[Kind, set[int]] = {kind: set() for kind in selection.quota}
        self._waiting: dict[Kind, list[tuple[int, asyncio.Future[bool]]]] = {kind: [] for kind in selection.quota}
        self._changed = asyncio.Event()

    async def next(self, place: int) -> Base | None:
        """Wait until another base sample should be started; return the first at or after a place, None at the end."""
        while not (self.order.decided(max(place, self.order.committed)) and self._should_start()):
            self._changed.clear()
            await self._changed.wait()
        return self.order.at(max(place, self.order.committed))

    def start(self, base: Base) -> None:
        """Count a base sample whose `watch` is about to begin."""
        self._busy += 1
        self._unsorted.add(base.place)

    async def watch(self, base: Base, work: Work) -> None:
        """Work one base sample ahead of the commit point, keeping count of what it is up to."""
        try:
            worked = await work(base, self.wants)
        finally:
            self._busy -= 1
            self._sort(base, None)
            self._changed.set()
        for kind in worked.tried:
            hits = sum(candidate.kind is kind for candidate in worked.found)
            self._tries[kind] += 1
            self._hits[kind] += hits
            if not hits:
                self._admitted[kind].discard(base.place)
        self._admit()

    async def wants(self, kind: Kind, base: Base) -> bool:
        """Return True once the class is expected to need this base sample, False when it no longer can."""
        self._sort(base, kind)
        if self.everything:
            return True
        if base.place < self.order.committed or not self.selection.open(kind, base.problem):
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting[kind], (base.place, answer))
        self._admit()
        if answer.done():
            return answer.result()
        self._busy -= 1
        self._changed.set()
        try:
            return await answer
        finally:
            self._busy += 1

    def commit(self, base: Base) -> None:
        """Note that a base sample is decided: what it was admitted for no longer counts as expected."""
        for places in self._admitted.values():
            places.discard(base.place)
        self._admit()
        self._changed.set()

    def _sort(self, base: Base, kind: Kind | None) -> None:
        if base.place in self._unsorted:
            self._unsorted.discard(base.place)
            self._sorted += 1
            if kind is not None:
                self._arrived[kind] += 1

    def _need(self, kind: Kind) -> float:
        """How many base samples of a class are expected to fill its quota, plus a margin."""
        remaining = self.selection.remaining(kind)
        rows_per_try = (self._hits[kind] + self.selection.per_base) / (self._tries[kind] + 1)
        return (remaining + math.sqrt(remaining)) / rows_per_try if remaining > 0 else 0.0

    def _should_start(self) -> bool:
        if self._busy >= self.at_once:
            return False
        if self.everything:
            return True
        for kind in self.selection.quota:
            share = (self._arrived[kind] + 1) / (self._sorted + 2)
            supply = len(self._admitted[kind]) + len(self._waiting[kind]) + share * len(self._unsorted)
            if supply < self._need(kind):
                return True
        return False

    def _admit(self) -> None:
        """Answer those who wait, in order of identity, as far as their class needs them."""
        for kind, waiting in self._waiting.items():
            closed = self.selection.remaining(kind) <= 0
            while waiting:
                place, answer = waiting[0]
                admitted = not closed and place >= self.order.committed
                if admitted and len(self._admitted[kind]) >= self._need(kind):
                    break
                heapq.heappop(waiting)
                if admitted:
                    self._admitted[kind].add(place)
                if not answer.done():
                    answer.set_result(admitted)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first single error of a group."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
