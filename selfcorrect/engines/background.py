"""`BackgroundLoop`: an event loop in a thread of its own.

Clients such as vLLM's `AsyncLLM`, HTTP pools and asyncio queues belong to one event loop; an engine serves callers in
any (`sample_all` makes a new loop for each call). So such an engine keeps its client here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from selfcorrect.errors import EngineError

T = TypeVar("T")


class BackgroundLoop:
    """Runs coroutines for callers in other loops and threads, until it is closed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._closing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that is done in this loop; cancelling the caller cancels it. Raises EngineError once closed."""
        if self._closing:
            work.close()
            raise self._closed()
        try:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._closing and caller is not None and not caller.cancelling():
                raise self._closed() from None
            raise

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of work done in this loop; blocks the calling thread. Raises EngineError once closed."""
        if self._loop.is_closed():
            work.close()
            raise self._closed()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def close(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """Fail what is under way with EngineError, do ``last`` in this loop, end its thread. Twice is harmless."""
        if self._closing:
            if last:
                last.close()
            return
        self._closing = True
        try:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._end(last), self._loop))
        finally:
            await asyncio.to_thread(self.stop)

    def shut(self, last: Awaitable[None] | None = None) -> None:
        """Cancel what is under way, do ``last`` in this loop, end its thread; blocks the calling thread."""
        self._closing = True
        try:
            self.call(self._end(last))
        finally:
            self.stop()

    def stop(self) -> None:
        """End the thread at once, whatever is under way."""
        self._closing = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self, last: Awaitable[None] | None) -> None:
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        if last:
            await last

    def _closed(self) -> EngineError:
        return EngineError(f"the engine {self._name} is closed")
