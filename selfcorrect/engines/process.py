"""`ProcessEngine`: the engine of `transformers` in a process of its own. Opened by `selfcorrect serve`.

Python runs one thread of a process at a time. What turns tokens into events and sends them would therefore take its
time from an engine in the same process; in another process it has a core of its own. The two processes talk by pickled
messages over a pair of sockets that nobody else has (`process_worker` is the other end):

    to the engine    the recipe; then (number, request, is_streamed), (number, None, False) to leave it, None to close
    from it          (name, context) or an error; then after a step (what is new of streamed samples, what has ended)
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import threading
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe

from selfcorrect.children import PYTHON, ROOT
from selfcorrect.engines import Engine, EngineRecipe, Sample, SamplePart, SampleRequest
from selfcorrect.engines.arrivals import Heard, tell_all
from selfcorrect.errors import EngineError, SelfCorrectError

START = """
import sys
if sys.argv[1] not in sys.path:
    sys.path.append(sys.argv[1])
from selfcorrect.engines.process_worker import main
main(int(sys.argv[2]))
"""

CLOSE_S = 10.0
"""How long the process may take to end by itself before it is killed."""

News = tuple[int, tuple[int, ...], tuple[tuple[float, ...], ...]]
"""Of a streamed sample: its number, further ids, and what is watched of them."""

Outcome = Sample | SelfCorrectError


@dataclass(slots=True, eq=False)
class _Asked:
    """A request under way."""

    number: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Sample]
    heard: Heard | None
    """Of one that is streamed."""


class ProcessEngine(Engine):
    """Samples in another process; see the module's text. Safe to use from many tasks and several event loops."""

    streams = True

    def __init__(self, process: subprocess.Popen[bytes], line: Connection, name: str, context: int | None) -> None:
        self.name, self.context, self.process = name, context, process
        self._line = line
        self._numbers = itertools.count()
        self._asked: dict[int, _Asked] = {}
        self._guard = threading.Lock()  # of _asked and _ended; held for a moment alone
        self._sending = threading.Lock()  # of what is sent, which may have to wait until the process reads
        self._ended: str | None = None  # why nothing can be asked any more
        self._listener = threading.Thread(target=self._listen, name=f"listener of {name}", daemon=True)
        self._listener.start()

    @classmethod
    def start(cls, recipe: EngineRecipe) -> ProcessEngine:
        """Start the process and wait until it has loaded the model; raises what `open_engine` would raise."""
        ours, theirs = Pipe()
        process = subprocess.Popen(
            [*PYTHON, "-c", START, str(ROOT), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # Ctrl-C is for the server, which ends the engine after the answers under way
        )
        theirs.close()
        try:
            ours.send(recipe)
            facts = ours.recv()
            if isinstance(facts, SelfCorrectError):
                raise facts
        except (EOFError, OSError) as error:
            raise EngineError(f"the process that loads {recipe.model} ended: {_how(process)}") from error
        except BaseException:
            process.kill()
            process.wait()
            ours.close()
            raise
        return cls(process, ours, *facts)

    @property
    def is_alive(self) -> bool:
        """False once the process has ended."""
        return self._ended is None

    async def sample(self, request: SampleRequest) -> Sample:
        """Return one sample; the engine batches concurrent calls. Cancelling the task frees its slot."""
        asked = self._ask(request, is_streamed=False)
        try:
            return await asked.future
        finally:
            self._leave(asked)

    async def stream(self, request: SampleRequest) -> AsyncGenerator[SamplePart, None]:
        """Give one sample as its tokens are sampled, in the batch of all others. Closing it frees its slot."""
        asked = self._ask(request, is_streamed=True)
        assert asked.heard is not None
        try:
            async with aclosing(asked.heard.parts(asked.future)) as parts:
                async for part in parts:
                    yield part
        finally:
            self._leave(asked)

    async def close(self) -> None:
        """End the process; samples under way fail with EngineError."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._guard:
            self._ended = self._ended or f"the engine {self.name} is closed"
        self._send(None)
        try:
            self.process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join()
        self._line.close()

    def _ask(self, request: SampleRequest, is_streamed: bool) -> _Asked:
        loop = asyncio.get_running_loop()
        heard = Heard(bool(request.watch_ids)) if is_streamed else None
        asked = _Asked(next(self._numbers), loop, loop.create_future(), heard)
        with self._guard:
            if self._ended:
                raise EngineError(self._ended)
            self._asked[asked.number] = asked
        self._send((asked.number, request, is_streamed))
        return asked

    def _leave(self, asked: _Asked) -> None:
        """Tell the engine that a request is wanted no more, unless it has ended."""
        with self._guard:
            is_wanted_there = self._asked.pop(asked.number, None) and not self._ended
        if is_wanted_there:
            self._send((asked.number, None, False))

    def _send(self, message: tuple[int, SampleRequest | None, bool] | None) -> None:
        """Say something to the process; where it has just ended, the listener tells.

        The listener never waits for this: it must go on reading, for a process that nobody reads does not read, either.
        """
        with self._sending, suppress(OSError):
            self._line.send(message)

    # -- the listener's thread ---------------------------------------------------------------------

    def _listen(self) -> None:
        """Hand over what the process says until it has ended, or says what cannot be read."""
        try:
            while True:
                news, ends = self._line.recv()
                self._hear(news)
                self._answer(ends)
        except (EOFError, OSError):
            how = _how(self.process)
        except Exception as error:  # noqa: BLE001 - whatever it was, those who wait must learn of it
            self.process.kill()
            how = f"it said what cannot be read ({type(error).__name__}: {error})"
        with self._guard:
            self._ended = self._ended or f"the process of the engine {self.name} ended: {how}"
            numbers = list(self._asked)
        self._answer([(number, EngineError(self._ended)) for number in numbers])

    def _hear(self, news: Sequence[News]) -> None:
        told = []
        for number, ids, watched in news:
            asked = self._asked.get(number)
            if asked and asked.heard:
                asked.heard.add(ids, watched)
                told.append(asked.heard)
        tell_all(told)

    def _answer(self, ends: Iterable[tuple[int, Outcome]]) -> None:
        """Hand outcomes to the event loops that await them, one call for each loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Asked, Outcome]]] = {}
        with self._guard:
            for number, outcome in ends:
                if asked := self._asked.pop(number, None):
                    by_loop.setdefault(asked.loop, []).append((asked, outcome))
        for loop, answers in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, answers)


def _resolve(answers: Sequence[tuple[_Asked, Outcome]]) -> None:
    for asked, outcome in answers:
        if asked.future.done():
            continue
        if isinstance(outcome, Sample):
            asked.future.set_result(outcome)
        else:
            asked.future.set_exception(outcome)


def _how(process: subprocess.Popen[bytes]) -> str:
    """Return how a process has ended that no longer talks."""
    try:
        status = process.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "it closed its line"
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}; see what it said above"
