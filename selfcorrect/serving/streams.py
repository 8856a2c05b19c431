"""`Samples`: the trajectories of one request under way at once, read in one place. Used by every address that answers.

Each trajectory has a task that reads its events; what has arrived is handed over together. While few are under way a
token is sent as soon as it is there; many send `EVENTS_PER_S` events a second together, and the tokens of one stream
that come in between share one, because an event costs the processor more than a token does. Leaving the iterator, for
whatever reason, ends the tasks, which ends the work in the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

from starlette.types import Receive

from selfcorrect.correction.events import Event
from selfcorrect.engines.arrivals import PACE
from selfcorrect.errors import SelfCorrectError
from selfcorrect.serving.answers import Item, Reader
from selfcorrect.serving.errors import ApiError, api_error, fault
from selfcorrect.serving.sources import Finished
from selfcorrect.types import StopReason

EVENTS_PER_S = 2000
"""Of all streams together, where more than `FEW` are under way: each rests so long after an event that they keep to it.
A token waits for this time at most, and never for the next token."""

FEW = 8

QUIET_S = 15.0
"""After so long without a token a comment is sent, so that nobody on the way takes the connection for dead."""

log = logging.getLogger(__name__)


class UnderWay:
    """All trajectories of a server that are being sampled: how many, and how they are told to end."""

    def __init__(self) -> None:
        self.requests: set[Samples] = set()
        self.count = 0
        self.ended = False

    def end(self) -> None:
        """End all that is under way with an error, and whatever is asked from now on."""
        self.ended = True
        for request in self.requests:
            request.wake()

    def interval_s(self) -> float:
        """Return how long a stream waits from one event to the next."""
        return 0.0 if self.count <= FEW else self.count / EVENTS_PER_S


class Samples:
    """The trajectories of one request. ``readers`` hold what each has said so far, ``finished`` its end."""

    def __init__(self, readers: Sequence[Reader], under_way: UnderWay, limit_s: float) -> None:
        self.readers = list(readers)
        self.finished: list[Finished | None] = [None] * len(self.readers)
        self._under_way, self._limit_s = under_way, limit_s
        self._arrived: list[tuple[int, Item]] = []
        self._news = asyncio.Event()
        self.wake = self._news.set
        self._error: ApiError | None = None
        self._left = len(self.readers)
        self.on_text: Callable[[], None] = lambda: None
        """Called whenever text or a verdict has arrived."""

    async def items(
        self, streams: Sequence[AsyncIterator[Event | Finished]]
    ) -> AsyncGenerator[list[tuple[int, Item]], None]:
        """Give what has arrived, each item with the place of its trajectory; an empty list is a sign of life.

        Raises ApiError: what the source says, that the time is over, or that the server stops.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._limit_s
        alarm = loop.call_at(min(ends_at, loop.time() + QUIET_S), self.wake)  # one timer: tokens are many
        tasks = [asyncio.create_task(self._read(place, stream)) for place, stream in enumerate(streams)]
        self._under_way.requests.add(self)
        self._under_way.count += len(tasks)
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                arrived, self._arrived = self._arrived, []
                if arrived:
                    self.on_text()
                    yield arrived
                if self._error:
                    raise self._error
                if self._left == 0:
                    return
                self._may_go_on(ends_at)
                if loop.time() >= alarm.when():
                    alarm = loop.call_at(min(ends_at, loop.time() + QUIET_S), self.wake)
                    if not arrived:
                        yield []
        finally:
            alarm.cancel()
            self._under_way.requests.discard(self)
            self._under_way.count -= len(tasks)
            for task in tasks:
                task.cancel()

    def _may_go_on(self, ends_at: float) -> None:
        """Raise ApiError where the server stops or the time is over."""
        if self._under_way.ended:
            raise ApiError(503, "the server is stopping; ask again", kind="server_error", code="stopping")
        if asyncio.get_running_loop().time() >= ends_at:
            said = f"no whole answer within {self._limit_s:g} s (limits.request_s)"
            raise ApiError(504, said, kind="server_error", code="timeout")

    async def _read(self, place: int, stream: AsyncIterator[Event | Finished]) -> None:
        reader = self.readers[place]
        PACE.set(self._under_way.interval_s)
        try:
            async with aclosing(stream):  # type: ignore[type-var]
                async for event in stream:
                    items = reader.take(event)
                    if isinstance(event, Finished):
                        self.finished[place] = _answered(event)
                    if items:
                        self._arrived += [(place, item) for item in items]
                        self._news.set()
            if self.finished[place] is None:
                raise RuntimeError("a trajectory without an end")
        except SelfCorrectError as error:
            self._error = api_error(error)
        except ApiError as error:
            self._error = error
        except Exception as error:
            log.exception("a fault while answering")
            self._error = fault(error)
        self._left -= 1
        self._news.set()


def _answered(finished: Finished) -> Finished:
    """Raise ApiError for a trajectory without an attempt: its first request was not served."""
    path = finished.trajectory
    if path.stop is StopReason.PROMPT_TOO_LONG and not path.first.text:
        raise ApiError(400, "the conversation is too long for the model's context", code="context_length_exceeded")
    if path.stop is StopReason.REFUSED and not path.first.text:
        raise ApiError(400, "the engine refused the conversation", code="refused")
    return finished


async def unless_gone(receive: Receive, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    """Do the work, or drop it when the client leaves; return whether it was done. Raises what it raises."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    doing, leaving = asyncio.create_task(work()), asyncio.create_task(gone())
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done() or doing.cancelled():
            return False
        doing.result()
        return True
    finally:
        for task in (doing, leaving):
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # both may fail: one is told
            task.cancel()
