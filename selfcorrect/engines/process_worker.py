"""The process of `process.ProcessEngine`: loads an engine, samples what is asked for, says after each step what is new.

`main` is all that it runs. It ends when it is told to, and when the other process is gone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from selfcorrect.engines import EngineRecipe, Sample, SampleRequest, open_engine
from selfcorrect.engines.arrivals import Arrivals
from selfcorrect.errors import EngineError, SelfCorrectError
from selfcorrect.runs.progress import quiet_bars

if TYPE_CHECKING:
    from selfcorrect.engines.local.engine import AsyncRow, TransformersEngine


def main(place: int) -> None:
    """Serve the process at the other end of the line whose file descriptor is ``place``."""
    line = Connection(place)
    recipe: EngineRecipe = line.recv()
    try:
        with quiet_bars():
            engine = open_engine(recipe)
    except SelfCorrectError as error:
        line.send(error)
        return
    from selfcorrect.engines.local.engine import TransformersEngine

    assert isinstance(engine, TransformersEngine)
    line.send((engine.name, engine.context))
    asyncio.run(_serve(engine, line))
    os._exit(0)  # nothing is left to do, and PyTorch takes its time to be taken down


async def _serve(engine: TransformersEngine, line: Connection) -> None:
    worker, loop = Worker(engine, line), asyncio.get_running_loop()
    loop.add_reader(line.fileno(), worker.take)
    try:
        await worker.is_over
    finally:
        loop.remove_reader(line.fileno())
        await engine.close()
        line.close()


class Worker:
    """Hands requests to the engine and says what is new: one message for all samples that a step brought on."""

    def __init__(self, engine: TransformersEngine, line: Connection) -> None:
        self._engine, self._line = engine, line
        self._loop = asyncio.get_running_loop()
        self.is_over: asyncio.Future[None] = self._loop.create_future()
        self._rows: dict[int, AsyncRow] = {}
        self._grown: list[Growing] = []
        self._ends: list[tuple[int, Sample | SelfCorrectError]] = []
        self._is_due = False

    def take(self) -> None:
        """Read one message of the other process."""
        try:
            message = self._line.recv()
        except (EOFError, OSError):
            message = None
        if message is None:
            if not self.is_over.done():
                self.is_over.set_result(None)
            return
        number, request, is_streamed = message
        if request is not None:
            self._begin(number, request, is_streamed)
        elif row := self._rows.pop(number, None):
            row.cancelled = True

    def _begin(self, number: int, request: SampleRequest, is_streamed: bool) -> None:
        try:
            row = self._engine.begin(request, partial(Growing, self, number) if is_streamed else None)
        except SelfCorrectError as error:
            self._end(number, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever it was, the other process waits for an answer
            self._end(number, EngineError(f"the engine {self._engine.name}: {type(error).__name__}: {error}"))
            return
        self._rows[number] = row
        row.future.add_done_callback(partial(self._done, number))

    def _done(self, number: int, future: asyncio.Future[Sample]) -> None:
        if self._rows.pop(number, None) and not future.cancelled():
            error = future.exception()
            self._end(number, error if isinstance(error, SelfCorrectError) else future.result())

    def _end(self, number: int, outcome: Sample | SelfCorrectError) -> None:
        self._ends.append((number, outcome))
        self._soon()

    def grown(self, one: Growing) -> None:
        """Note that a streamed sample has further tokens."""
        self._grown.append(one)
        self._soon()

    def _soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._say)

    def _say(self) -> None:
        """Send what is new; of samples that have ended, the end alone."""
        news = [(one.number, *one.news()) for one in self._grown if one.number in self._rows]
        ends, self._grown, self._ends, self._is_due = self._ends, [], [], False
        try:
            self._line.send((news, ends))
        except OSError:
            if not self.is_over.done():
                self.is_over.set_result(None)


class Growing(Arrivals):
    """The ids of a streamed sample, which nobody reads here: they are sent on."""

    def __init__(
        self, worker: Worker, number: int, token_ids: Sequence[int], watched: Sequence[tuple[float, ...]] | None
    ) -> None:
        super().__init__(token_ids, watched)
        self._worker, self.number = worker, number

    def wake(self) -> None:
        """Tell the worker."""
        self._worker.grown(self)
