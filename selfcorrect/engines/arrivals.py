"""`Arrivals`: token ids on their way from an engine's thread to the event loop of whoever streams them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

from selfcorrect.engines import Sample, SamplePart
from selfcorrect.errors import EngineError

PACE: ContextVar[Callable[[], float]] = ContextVar("PACE", default=lambda: 0.0)
"""The least time from one part to the next, in seconds; the end of a sample is given at once. The server sets it by how
many it serves, because a part costs the processor more than a token does."""


class Arrivals:
    """Made in the event loop of the reader; the engine's thread appends to the lists and calls `tell`.

    Nothing is queued: the reader takes all that has come since it last looked, so a slow one gets longer parts and the
    engine never waits. ``watched`` is None where no ids are watched.
    """

    def __init__(self, token_ids: Sequence[int], watched: Sequence[tuple[float, ...]] | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.token_ids, self.watched = token_ids, watched
        self._given = 0
        self._woken = asyncio.Event()
        self._told = False
        self._rests_until = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    def tell(self) -> None:
        """Wake the reader, from any thread."""
        tell_all([self])

    def wake(self) -> None:
        """Wake the reader, from its own event loop: at once, or when it has rested."""
        if self.loop.time() >= self._rests_until:
            self._woken.set()
        else:
            self._alarm = self.loop.call_at(self._rests_until, self._woken.set)

    def news(self) -> tuple[tuple[int, ...], tuple[tuple[float, ...], ...]]:
        """Return the ids that have come since this was called last, and what is watched of them."""
        self._told = False  # before the lists are read: what comes from here on is told again
        start = self._given
        self._given = len(self.token_ids) if self.watched is None else min(len(self.watched), len(self.token_ids))
        watched = () if self.watched is None else tuple(self.watched[start : self._given])
        return tuple(self.token_ids[start : self._given]), watched

    async def parts(self, sample: asyncio.Future[Sample]) -> AsyncGenerator[SamplePart, None]:
        """Give the ids as they come and, once ``sample`` is there, the rest with it. Raises what ``sample`` raises."""
        sample.add_done_callback(lambda _: self._woken.set())
        try:
            while not sample.done():
                await self._woken.wait()
                self._woken.clear()
                if sample.done():
                    break
                ids, watched = self.news()
                if ids:
                    self._rests_until = self.loop.time() + PACE.get()()
                    yield SamplePart(ids, watched)
        finally:
            if self._alarm:
                self._alarm.cancel()
        whole, given = sample.result(), self._given
        if whole.token_ids[:given] != tuple(self.token_ids[:given]):
            raise EngineError("the engine sampled other tokens than those that it had begun with")
        yield SamplePart(whole.token_ids[given:], whole.watched[given:], whole)


class Heard(Arrivals):
    """The arrivals of a foreign engine, which gives what it knows of a sample again and again."""

    def __init__(self, watches: bool) -> None:
        self.ids: list[int] = []
        self.rows: list[tuple[float, ...]] = []
        super().__init__(self.ids, self.rows if watches else None)

    def hear(self, ids: Sequence[int], watched: Sequence[tuple[float, ...]]) -> None:
        """Take all ids that are certain so far, aligned with ``watched`` where ids are watched.

        Raises EngineError where they do not go on from those heard before: what a reader has seen stays.
        """
        known = len(self.ids)
        if list(ids[:known]) != self.ids[: len(ids)]:
            raise EngineError("asked again, the engine sampled other tokens than those that it had begun with")
        self.add(ids[known:], watched[known:])
        self.tell()

    def add(self, ids: Sequence[int], watched: Sequence[tuple[float, ...]]) -> None:
        """Take further ids, of which the reader is to be told."""
        self.ids += ids
        self.rows += watched

    async def parts_of(self, work: Coroutine[Any, Any, Sample]) -> AsyncGenerator[SamplePart, None]:
        """Give the parts while ``work``, which calls `hear`, is done; leaving cancels it."""
        task = asyncio.ensure_future(work)
        try:
            async with aclosing(self.parts(task)) as parts:
                async for part in parts:
                    yield part
        finally:
            task.cancel()


def tell_all(arrivals: Iterable[Arrivals]) -> None:
    """Wake the readers of many samples, by one call for each event loop; those that know already are left out."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Arrivals]] = {}
    for one in arrivals:
        if not one._told:
            one._told = True
            by_loop.setdefault(one.loop, []).append(one)
    for loop, told in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_wake, told)


def _wake(arrivals: Sequence[Arrivals]) -> None:
    for one in arrivals:
        one.wake()
