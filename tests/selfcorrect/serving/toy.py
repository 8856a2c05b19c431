"""A source that says what a script says, a server of it in a thread, and what is read from its streams."""

# ruff: noqa: E402 - the modules of an extra come after the question whether they are here
from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

for _module in ("fastapi", "uvicorn", "prometheus_client", "httpx2"):
    pytest.importorskip(_module, reason="comes with the extra serve")

import httpx2

from selfcorrect.correction.events import AttemptText, EvaluationText, Event, Judged, RevisionText, Superseded
from selfcorrect.correction.loop import LoopSettings
from selfcorrect.errors import EngineError
from selfcorrect.serving.app import Server
from selfcorrect.serving.keys import Keys
from selfcorrect.serving.run import Listener, bound
from selfcorrect.serving.settings import Limits, ServeRecipe
from selfcorrect.serving.sources import Asked, Finished, Usage
from selfcorrect.types import Attempt, Message, Problem, SelfEvaluation, StopReason, Trajectory, Verdict

NAME = "toy"
WRONG_FIRST = "What is 3 + 3?"  # 7, judged wrong, then 6
CORRECT_FIRST = "What is 2 + 2?"  # 4, judged correct


class ScriptedSource:
    """Answers "What is n + n?": odd n wrongly at first. Each piece of text comes after ``pause_s`` and
    is followed by ``padding``.

    ``seen`` lists what was asked, ``closed`` counts streams that ended, ``whole`` those that ended by themselves.
    """

    def __init__(self, pause_s: float = 0.0, repeat: int = 1, padding: str = "") -> None:
        self.settings = LoopSettings("asked", horizon=2)
        self.pause_s, self.repeat, self.padding = pause_s, repeat, padding
        self.seen: list[tuple[list[Message], Asked]] = []
        self.open = self.closed = self.whole = 0
        self.is_up = True

    async def stream(self, messages: Sequence[Message], asked: Asked) -> AsyncIterator[Event | Finished]:
        self.seen.append((list(messages), asked))
        self.open += 1
        try:
            async for event in self._events(str(messages[-1]["content"]), asked):
                yield event
            self.whole += 1
        finally:
            self.open -= 1
            self.closed += 1

    async def _events(self, question: str, asked: Asked) -> AsyncIterator[Event | Finished]:
        if question == "break":
            raise EngineError("the engine broke")
        if question == "bug":
            raise ZeroDivisionError("secret detail")
        found = re.findall(r"What is (\d+)", question)
        n = int(found[-1]) if found else 0
        if "long" in question:
            problem = Problem("", question, "", "math")
            yield Finished(Trajectory(problem, (Attempt(""),), stop=StopReason.PROMPT_TOO_LONG), Usage())
            return
        horizon = asked.horizon or self.settings.horizon
        first = 2 * n + n % 2 + (asked.seed % 7 == 6)
        attempts, evaluations = [Attempt(said(n, first), str(first))], []
        async for piece in self._pieces(attempts[0].text):
            yield AttemptText(0, piece)
        wrong = n % 2 == 1
        stop = StopReason.HORIZON
        if horizon > 1:
            verdict = Verdict.WRONG if wrong else Verdict.CORRECT
            evaluations.append(SelfEvaluation(f"Check: {n}. [VERIFY] {verdict}.", verdict, 0.1 if wrong else 0.9))
            async for piece in self._pieces(evaluations[0].text):
                yield EvaluationText(0, piece)
            yield Judged(0, verdict, evaluations[0].p_correct)
            stop = StopReason.VERDICT
            if wrong:
                yield Superseded(0)
                attempts.append(Attempt(said(n, 2 * n), str(2 * n)))
                async for piece in self._pieces(attempts[1].text):
                    yield RevisionText(1, piece)
                stop = StopReason.HORIZON
        if "break late" in question:
            raise EngineError("the engine broke")
        path = Trajectory(Problem("", question, "", "math"), tuple(attempts), tuple(evaluations), stop)
        tokens = [len(one.text.split()) for one in (*attempts, *evaluations)]
        yield Finished(path, Usage(10, sum(tokens), sum(tokens) - len(attempts[-1].text.split()), 7))

    async def _pieces(self, text: str) -> AsyncIterator[str]:
        for _ in range(self.repeat):
            for piece in re.findall(r"\S+\s*", text):
                await asyncio.sleep(self.pause_s)
                yield piece + self.padding

    async def meet(self) -> str:
        return NAME

    async def health(self) -> dict[str, object]:
        return {"ok": self.is_up}

    async def close(self) -> None:
        pass


def said(n: int, value: int) -> str:
    return f"{n} + {n} = {value}. The answer is \\boxed{{{value}}}."


class Running:
    """A server under way: its address and its client."""

    def __init__(self, server: Server, port: int, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.listener, self.loop = server, listener, loop
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx2.Client(base_url=self.url, timeout=30)

    def tasks(self) -> int:
        """Return how many tasks the server has."""
        return len([task for task in asyncio.all_tasks(self.loop) if not task.done()])

    def chat(self, question: str, **fields: Any) -> httpx2.Response:
        return self.client.post("/v1/chat/completions", json=asking(question, **fields))

    def stream(self, question: str, path: str = "/v1/chat/completions", **fields: Any) -> list[Any]:
        """Return the values of all events of a streamed answer, the last one as text."""
        with self.client.stream("POST", path, json=asking(question, stream=True, **fields)) as answer:
            assert answer.status_code == 200, answer.read()
            lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
        return [json.loads(text) if (text := line[6:]) != "[DONE]" else text for line in lines]


def asking(question: str, **fields: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": [{"role": "user", "content": question}]} | fields


def joined(events: Sequence[Any], field: str, index: int = 0) -> str:
    """Return the text of a stream's deltas of one choice."""
    choices = [choice for event in events if isinstance(event, dict) for choice in event.get("choices", ())]
    return "".join(choice["delta"].get(field, "") for choice in choices if choice["index"] == index)


@contextmanager
def serving(source: Any = None, keys: Sequence[str] = (), **settings: Any) -> Iterator[Running]:
    """Serve a source on a free port of this machine, in a thread."""
    source = source or ScriptedSource()
    limits, port = Limits(**settings.pop("limits", {})), settings.pop("port", 0)
    recipe = ServeRecipe(name=NAME, limits=limits, **settings)
    server = Server(source, NAME, recipe, Keys(keys))
    listening = bound("127.0.0.1", port, limits.unread_s)
    listening.listen(2048)
    listener = Listener(server)
    runner = asyncio.Runner()
    loop = runner.get_loop()
    thread = threading.Thread(target=lambda: runner.run(listener.serve(sockets=[listening])), daemon=True)
    thread.start()
    running = Running(server, listening.getsockname()[1], listener, loop)
    try:
        yield running
    finally:
        running.client.close()
        listener.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
        runner.close()


def until(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Wait until something holds; return whether it does."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if holds():
            return True
        pause.wait(0.02)
    return holds()
