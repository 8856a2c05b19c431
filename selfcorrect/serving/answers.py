"""What of a trajectory is reasoning and what is content, as it arrives: `Reader`. Called for each sample of a request.

The content is the text of the last attempt, which nobody knows before the trajectory ends. So the rule is:

- A turn that may still be judged wrong streams as reasoning, and so does every self-evaluation.
- The turn after which no other is allowed (a revision at the horizon, the attempt of NAME-first) streams as content.
- Where the trajectory ends before that turn, the last attempt's text is sent as content at once, at the end.

So content is never taken back. What is streamed adds up to what the answer that is not streamed holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selfcorrect.correction.events import AttemptText, EvaluationText, Event, Judged, RevisionText, Superseded
from selfcorrect.serving.sources import Finished
from selfcorrect.types import StopReason

Channel = Literal["reasoning", "content"]
SEPARATOR = "\n\n"
"""Between the parts of a trajectory, in reasoning."""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text. ``begins`` names the part that it opens, None where it goes on with one."""

    channel: Channel
    text: str
    begins: str | None = None
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Noted:
    """What happened, for clients that know the extension ``selfcorrect``."""

    what: dict[str, Any]


Item = Text | Noted | Finished


class Reader:
    """Turns the events of one trajectory into what is sent of it; ``texts`` holds all texts so far, in order."""

    def __init__(self, horizon: int, stops: Sequence[str] = ()) -> None:
        self.horizon = horizon
        self.texts: list[tuple[Channel, str]] = []
        self.stopped = False
        """True once the content has reached one of the request's stop texts."""
        self._stops = stops
        self._reasons = False
        self._part: tuple[str, int] | None = None
        self._held = ""  # white space, or the beginning of a stop text, until it is known what follows

    @property
    def content(self) -> str:
        """The content so far."""
        return "".join(text for channel, text in self.texts if channel == "content")

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(text for channel, text in self.texts if channel == "reasoning")

    def take(self, event: Event | Finished) -> list[Item]:
        """Return what one event brings."""
        match event:
            case AttemptText(index, text) | RevisionText(index, text):
                channel: Channel = "content" if index + 1 >= self.horizon else "reasoning"
                return self._text(channel, "revision" if index else "attempt", index, text)
            case EvaluationText(index, text):
                return self._text("reasoning", "self-evaluation", index, text)
            case Judged(index, verdict, p_correct):
                what = {"event": "verdict", "turn": index + 1, "verdict": verdict, "p_correct": p_correct}
                return [Noted(what | {"verdict": None if verdict is None else str(verdict)})]
            case Superseded(index):
                return [Noted({"event": "superseded", "turn": index + 1})]
            case Finished(trajectory):
                final = trajectory.final.text.strip()
                content = self.content
                texts: list[Item] = []
                if not self.stopped and final != content and final.startswith(content):
                    self._part, self._held = ("answer", len(trajectory.attempts) - 1), ""
                    texts = self._put("content", final[len(content) :], None if content else "answer", last=True)
                return [*texts, event]
        return []

    def _text(self, channel: Channel, part: str, index: int, text: str) -> list[Item]:
        begins = None
        if self._part != (part, index):
            self._part, self._held = (part, index), ""
            text, begins = text.lstrip(), part
            if not text:
                self._part = None
                return []
        return self._put(channel, text, begins)

    def _put(self, channel: Channel, text: str, begins: str | None, last: bool = False) -> list[Item]:
        """Send a text but for what is held back: white space at its end, and what may become a stop text."""
        if channel == "content" and self.stopped:
            return []
        assert self._part is not None
        turn, text = self._part[1] + 1, self._held + text
        if channel == "content" and (found := [at for stop in self._stops if (at := text.find(stop)) >= 0]):
            text, self.stopped = text[: min(found)].rstrip(), True
        kept = len(text) if self.stopped or last else _sure(text, self._stops if channel == "content" else ())
        text, self._held = text[:kept], text[kept:]
        if channel == "reasoning" and begins and self._reasons:
            text = SEPARATOR + text
        if text:
            self.texts.append((channel, text))
            self._reasons |= channel == "reasoning"
        return [Text(channel, text, begins, turn)] if text or begins else []


def _sure(text: str, stops: Sequence[str]) -> int:
    """Return how much of a text can be sent: without white space at its end, and what may begin a stop text."""
    sure = len(text)
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:size]):
                sure = min(sure, len(text) - size)
                break
    return len(text[:sure].rstrip())


def path_of(finished: Finished, seed: int) -> dict[str, Any]:
    """Return the extension object ``selfcorrect`` of one answer: the whole trajectory, in texts and numbers."""
    path, usage = finished.trajectory, finished.usage
    return {
        "attempts": [{"text": one.text, "answer": one.answer, "cut": one.cut} for one in path.attempts],
        "evaluations": [
            {"text": one.text, "verdict": None if one.verdict is None else str(one.verdict), "p_correct": one.p_correct}
            for one in path.evaluations
        ],
        "first_answer": path.first.answer,
        "answer": path.final.answer,
        "stop": str(path.stop),
        "tokens": {"prompt": usage.prompt, "completion": usage.completion, "reasoning": usage.reasoning},
        "seed": seed,
    }


def finish_reason(finished: Finished) -> str:
    """Return OpenAI's word for how an answer ended: ``length`` where a budget or the context cut the trajectory."""
    cut = finished.trajectory.stop in (StopReason.LENGTH, StopReason.PROMPT_TOO_LONG)
    return "length" if cut else "stop"
