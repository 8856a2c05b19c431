"""Order without barriers: base samples are worked far ahead, and committed one by one in their order.

The data set is what the plain sequential algorithm would give: take the base samples in order, offer each to
the `Selection`, stop when it is full. `in_order` runs exactly that, and beside it works many base samples
ahead of the commit point, so the engine's batch stays full; the two meet in the parts, each of which is sampled once
(`samples.PartSampler`). So the result cannot depend on the order of arrival, on a kill or on a resume: the work ahead
only decides WHICH parts lie ready (like speculation in a processor that retires in order).

`Admission` keeps the work ahead to what the open quotas are expected to need, so that hardly a part is sampled in
vain: a class whose quota is full admits nobody, and close to its end it admits as many as it still lacks, plus
one standard deviation, over the rate at which tries are accepted.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import Counter
from collections.abc import Awaitable, Callable

from selfcorrect.data_gen.classes import BaseSample, BaseSampleResult, Candidate, Kind, Selection
from selfcorrect.data_gen.sampling.order import Order

ClassIsOpen = Callable[[Kind, BaseSample], Awaitable[bool]]
"""Asks whether a class still takes a row of a base sample; may wait until the answer is worth giving."""

Work = Callable[[BaseSample, ClassIsOpen], Awaitable[BaseSampleResult]]
"""Works one base sample: one of the four of `rejection`."""


async def in_order(
    order: Order,
    work: Work,
    selection: Selection[Candidate],
    commit: Callable[[BaseSampleResult], None],
    at_once: int,
    everything: bool = False,
) -> None:
    """Work base samples and `commit` each in order until the selection is full or the order ends.

    ``at_once`` bounds those that are being worked ahead. ``everything`` works all of them to the end, whatever the
    quotas (the fixed schedule). Raises the first error of any work, after stopping the others.
    """
    admission = Admission(order, selection, at_once, everything)

    async def is_open(kind: Kind, base: BaseSample) -> bool:
        return everything or selection.open(kind, base.problem)

    async def work_ahead() -> None:
        place = 0
        while base := await admission.next(place):
            place = base.place + 1
            if everything or selection.takes(base.problem):
                admission.start(base)
                task = group.create_task(admission.work_ahead(base, work))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    tasks: set[asyncio.Task[None]] = set()
    try:
        async with asyncio.TaskGroup() as group:
            feeder = group.create_task(work_ahead())
            while (everything or not selection.full) and (base := order.at(order.committed)):
                result = await work(base, is_open) if everything or selection.takes(base.problem) else None
                if result:
                    commit(result)
                order.note(base, result)
                admission.commit(base)
            for task in (feeder, *tasks):  # what is still under way, nobody needs
                task.cancel()
    except BaseExceptionGroup as failures:
        raise _first(failures) from failures


class Admission:
    """Decides which base samples are worked ahead. Scheduling only: it never changes what is kept.

    A base sample that is worked ahead runs until its attempt is graded, then asks whether a class is open
    (`is_open`), and waits there until the class is expected to need it. What is counted:

    | counter          | meaning                                      | changes when                          |
    |------------------|----------------------------------------------|---------------------------------------|
    | ``_running``     | worked ahead and not waiting for an answer   | start; end; around a wait             |
    | ``_ungraded``    | of those started, places without a grade yet | start; first question, or end         |
    | ``_graded``      | attempts graded so far                       | first question, or end without one    |
    | ``_asked_first`` | of these, by the class asked for first       | first question                        |
    | ``_waiting``     | by class: places that wait for an answer     | question; answer                      |
    | ``_admitted``    | by class: places whose row may still come    | answer yes; end without a row; commit |
    | ``_tried``       | by class: tries of the work ahead that ended | end                                   |
    | ``_accepted``    | by class: rows that these gave               | end                                   |

    Example. D1 lacks 6 rows; 8 tries so far gave 4. One try gives (4 + 1) / (8 + 1) = 0.56 rows, so 6 rows and one
    standard deviation, √6, need (6 + 2.4) / 0.56 = 15.2 tries (`_needed`). 12 are admitted and 5 wait: 4 of those go
    on and 1 stays, for 16 are enough. Is another base sample started for D1? Of 18 graded attempts 9 asked for D1
    first, so (9 + 1) / (18 + 2) = half of the 6 without a grade will: 16 + 1 + 3 = 20 are more than 15.2, none is.
    """

    def __init__(self, order: Order, selection: Selection[Candidate], at_once: int, everything: bool) -> None:
        self.order, self.selection, self.at_once, self.everything = order, selection, at_once, everything
        self._running = 0
        self._ungraded: set[int] = set()
        self._graded = 0
        self._asked_first: Counter[Kind] = Counter()
        self._tried: Counter[Kind] = Counter()
        self._accepted: Counter[Kind] = Counter()
        self._admitted: dict[Kind, set[int]] = {kind: set() for kind in selection.quota}
        self._waiting: dict[Kind, list[tuple[int, asyncio.Future[bool]]]] = {kind: [] for kind in selection.quota}
        self._changed = asyncio.Event()

    async def next(self, place: int) -> BaseSample | None:
        """Wait until another base sample should be started; return the first at or after a place, None at the end."""
        while not (self.order.decided(max(place, self.order.committed)) and self._should_start()):
            self._changed.clear()
            await self._changed.wait()
        return self.order.at(max(place, self.order.committed))

    def start(self, base: BaseSample) -> None:
        """Count a base sample whose `work_ahead` is about to begin."""
        self._running += 1
        self._ungraded.add(base.place)

    async def work_ahead(self, base: BaseSample, work: Work) -> None:
        """Work one base sample ahead of the commit point, and count what it gave."""
        try:
            result = await work(base, self.is_open)
        finally:
            self._running -= 1
            self._note_graded(base, None)
            self._changed.set()
        for kind in result.tried:
            rows = sum(candidate.kind is kind for candidate in result.found)
            self._tried[kind] += 1
            self._accepted[kind] += rows
            if not rows:
                self._admitted[kind].discard(base.place)
        self._admit()

    async def is_open(self, kind: Kind, base: BaseSample) -> bool:
        """Return True once the class is expected to need this base sample, False when it no longer can."""
        self._note_graded(base, kind)
        if self.everything:
            return True
        if base.place < self.order.committed or not self.selection.open(kind, base.problem):
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting[kind], (base.place, answer))
        self._admit()
        if answer.done():
            return answer.result()
        self._running -= 1
        self._changed.set()
        try:
            return await answer
        finally:
            self._running += 1

    def commit(self, base: BaseSample) -> None:
        """Note that a base sample is decided: what it was admitted for no longer counts as expected."""
        for places in self._admitted.values():
            places.discard(base.place)
        self._admit()
        self._changed.set()

    def _note_graded(self, base: BaseSample, kind: Kind | None) -> None:
        """Count an attempt as graded, once, under the class that it asks for first (None: it asked for none)."""
        if base.place in self._ungraded:
            self._ungraded.discard(base.place)
            self._graded += 1
            if kind is not None:
                self._asked_first[kind] += 1

    def _needed(self, kind: Kind) -> float:
        """Return how many base samples of a class are expected to fill its quota, plus a margin."""
        remaining = self.selection.remaining(kind)
        rows_per_try = (self._accepted[kind] + self.selection.per_base) / (self._tried[kind] + 1)
        return (remaining + math.sqrt(remaining)) / rows_per_try if remaining > 0 else 0.0

    def _should_start(self) -> bool:
        """True where there is room, and some class is expected to need more than what is under way will give."""
        if self._running >= self.at_once:
            return False
        if self.everything:
            return True
        for kind in self.selection.quota:
            share = (self._asked_first[kind] + 1) / (self._graded + 2)
            supply = len(self._admitted[kind]) + len(self._waiting[kind]) + share * len(self._ungraded)
            if supply < self._needed(kind):
                return True
        return False

    def _admit(self) -> None:
        """Answer those who wait, in order, as far as their class needs them."""
        for kind, waiting in self._waiting.items():
            closed = self.selection.remaining(kind) <= 0
            while waiting:
                place, answer = waiting[0]
                admitted = not closed and place >= self.order.committed
                if admitted and len(self._admitted[kind]) >= self._needed(kind):
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
