"""One engine for several processes of a machine: one of them holds it and answers the others.

`SharedEngine` listens at a socket in a folder that only this user can open (multiprocessing makes and removes it). Each
call of `EngineElsewhere.sample_many` is a connection of its own, requests there and samples or an error back, and a
thread of its own at the other end: no process waits for what another asks for, and one that has nothing to ask does
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from threading import Thread

from selfcorrect.engines import Engine, Sample, SampleRequest
from selfcorrect.errors import EngineError

WAITING = 64
"""Connections that may wait for their thread to start."""


class SharedEngine:
    """Answers other processes from an engine of this one until it is closed; ``facts`` are for `EngineElsewhere`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._listener = Listener(None, "AF_UNIX", WAITING)
        self.facts = str(self._listener.address), engine.name, engine.context
        Thread(target=self._listen, name=f"sharing {engine.name}", daemon=True).start()

    def close(self) -> None:
        """Take no further connections; the engine itself is its holder's to close."""
        self._listener.close()

    def _listen(self) -> None:
        with self._listener, suppress(OSError):  # closed, by `close` or here: whoever waits for an answer learns of it
            while True:
                Thread(target=self._answer, args=(self._listener.accept(),), daemon=True).start()

    def _answer(self, line: Connection) -> None:
        with line, suppress(EOFError, OSError):  # whoever asked is gone
            requests = line.recv()
            answer: list[Sample] | EngineError
            try:
                answer = self._engine.sample_many(requests)
            except EngineError as error:
                answer = error
            except Exception as error:  # noqa: BLE001 - else the closed line would read as an engine that has ended
                answer = EngineError(f"the engine {self._engine.name} failed: {type(error).__name__}: {error}")
            line.send(answer)


class EngineElsewhere(Engine):
    """The engine that another process of this machine holds and shares; closing this leaves it as it is."""

    def __init__(self, address: str, name: str, context: int | None) -> None:
        self.name, self.context = name, context
        self._address = address

    async def sample(self, request: SampleRequest) -> Sample:
        """Return one sample."""
        (found,) = await asyncio.to_thread(self.sample_many, [request])
        return found

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Return the samples of all requests, in their order. EngineError as the engine's, or where it was closed."""
        try:
            with Client(self._address, "AF_UNIX") as line:
                line.send(list(requests))
                answer: list[Sample] | EngineError = line.recv()
        except (EOFError, OSError) as error:
            raise EngineError(f"the process that holds the engine {self.name} has ended, or closed it") from error
        if isinstance(answer, EngineError):
            raise answer
        return answer

    async def close(self) -> None:
        """Nothing is held here."""
