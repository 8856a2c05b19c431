"""`Source`: where trajectories come from: a model that is loaded here (`ModelSource`), or one behind a server.

A source gives the events of one trajectory, ended by a `Finished`. Closing the iterator ends the work in the engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from selfcorrect.correction.events import Event, Final
from selfcorrect.correction.loop import LoopSettings
from selfcorrect.model import SelfCorrectModel
from selfcorrect.types import Message, Role, Trajectory


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request sets for one trajectory; None: as the server is set."""

    seed: int = 0
    horizon: int | None = None
    threshold: float | None = None
    budget: int | None = None  # tokens of the whole trajectory
    temperature: float | None = None
    top_p: float | None = None
    first_only: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a trajectory.

    ``prompt``: read, which is the conversation (``opening``) and what the loop says in it. ``completion``: sampled;
    ``reasoning``: of these all but the last attempt.
    """

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    opening: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a trajectory: all of it, and what it took."""

    trajectory: Trajectory
    usage: Usage


class Source(Protocol):
    """Answers conversations; safe to call from many tasks of one event loop at once."""

    @property
    def settings(self) -> LoopSettings:
        """What holds where a request sets nothing."""
        ...

    async def meet(self) -> str:
        """Return what clients call the model, once it can answer; raises SelfCorrectError where it cannot."""
        ...

    def stream(self, messages: Sequence[Message], asked: Asked) -> AsyncIterator[Event | Finished]:
        """Give the events of one trajectory, `Finished` at last. Raises SelfCorrectError."""
        ...

    async def health(self) -> dict[str, object]:
        """Return what is known of the engine: ``ok`` is False where it cannot answer."""
        ...

    async def close(self) -> None:
        """Free the engine."""
        ...


class ModelSource:
    """A `SelfCorrectModel`, whatever its engine."""

    def __init__(self, model: SelfCorrectModel, name: str) -> None:
        self.model = model
        self.settings = model.settings
        self._name = Path(name).name or "model"

    async def meet(self) -> str:
        """Return the last part of the model's path or hub id."""
        return self._name

    async def stream(self, messages: Sequence[Message], asked: Asked) -> AsyncIterator[Event | Finished]:
        """Give the events of `SelfCorrectModel.astream`, and the tokens at the end."""
        events = self.model.astream(
            list(messages),
            seed=asked.seed,
            horizon=asked.horizon,
            path_tokens=asked.budget,
            threshold=asked.threshold,
            temperature=asked.temperature,
            top_p=asked.top_p,
            first_only=asked.first_only,
        )
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Final):
                    yield Finished(event.trajectory, usage_of(event.trajectory))
                else:
                    yield event

    async def health(self) -> dict[str, object]:
        """Say whether the engine can answer: one in a process of its own may have lost it (`engines.process`)."""
        return {"ok": getattr(self.model.engine, "is_alive", True), "engine": self.model.engine.name}

    async def close(self) -> None:
        """Free the engine."""
        await self.model.engine.close()


def usage_of(trajectory: Trajectory) -> Usage:
    """Return the tokens of a trajectory; the token that ends a message belongs to the part that it ends."""
    ids, _, spans = trajectory.whole()
    sampled = sum(span.end - span.start for span in spans if span.sampled)
    answer = [span.end - span.start for span in spans if span.sampled and span.role is not Role.EVALUATION][-1:]
    return Usage(
        prompt=len(ids) - sampled,
        completion=sampled,
        reasoning=sampled - sum(answer),
        opening=spans[0].end if spans else 0,
    )
