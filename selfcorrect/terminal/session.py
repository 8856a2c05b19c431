"""`Session`: a conversation with a model; asks questions and obeys the commands that begin with ``/``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.text import Text

from selfcorrect.correction.events import Event, Final
from selfcorrect.errors import DataError, InputError, SelfCorrectError, nearest
from selfcorrect.loading import SHIPPED
from selfcorrect.model import Options, SelfCorrectModel
from selfcorrect.printing import show
from selfcorrect.runs.jsonl import write_jsonl
from selfcorrect.terminal.display import Display
from selfcorrect.types import Message, Role, Trajectory, to_json

RETRY_TEMPERATURE = 0.7
"""At temperature 0 another try would be the same."""

HELP = {
    "/retry": "ask the last question again, with another seed",
    "/budget [N | off]": "the most tokens of a question, all attempts and self-evaluations together",
    "/trace": "every part of the last trajectory, with its tokens",
    "/save FILE": "the trajectories of this conversation, one JSON object a line",
    "/model NAME": "go on with another model: a folder, a hub id, embedded",
    "/new": "forget the conversation",
    "/help": "this list",
    "/quit": "leave; Ctrl-D does, too. Ctrl-C stops an answer",
}


class Session:
    """One conversation. ``remembers``: whether a follow-up question sees the final answers before it.

    ``load`` opens a model by name, for ``/model``.
    """

    def __init__(
        self,
        model: SelfCorrectModel,
        name: str,
        display: Display,
        load: Callable[[str], SelfCorrectModel],
        *,
        seed: int = 0,
        remembers: bool | None = None,
    ) -> None:
        self.model, self.name, self.display, self.load = model, name, display, load
        self.seed, self._wanted = seed, remembers
        self.budget: int | None = None
        self.history: list[Message] = []
        self.trajectories: list[Trajectory] = []
        self.question: str | None = None
        self.ended = False
        self._tries = 0

    @property
    def remembers(self) -> bool:
        """Whether a follow-up sees the conversation: not with the embedded model, which knows single questions only."""
        return self.name not in SHIPPED if self._wanted is None else self._wanted

    def take(self, line: str) -> None:
        """Obey a command or answer a question; an error is shown and the conversation goes on.

        Ctrl-C stops the generation and leaves the conversation as it was.
        """
        line = line.strip()
        try:
            if line.startswith("/"):
                self.obey(line)
            elif line:
                self.question, self._tries = line, 0
                self.ask()
        except SelfCorrectError as error:
            show(Text(str(error), "red"))
        except KeyboardInterrupt:
            self.display.stopped()

    def ask(self) -> None:
        """Answer the question."""
        assert self.question is not None
        asked: Message = {"role": "user", "content": self.question}
        options: Options = {"path_tokens": self.budget}
        if self._tries and self.model.settings.temperature == 0:
            options["temperature"] = RETRY_TEMPERATURE
        conversation = [*self.history, asked] if self.remembers and self.history else self.question
        final: Final | None = None
        with closing(self.model.stream(conversation, seed=self.seed + self._tries, **options)) as events:
            for event in events:
                final = self._shown(event)
        assert final is not None
        self.trajectories.append(final.trajectory)
        if final.text:
            self.history += [asked, {"role": "assistant", "content": final.text}]

    def _shown(self, event: Event) -> Final | None:
        self.display.show(event)
        return event if isinstance(event, Final) else None

    # -- commands ----------------------------------------------------------------------------------

    def obey(self, line: str) -> None:
        """Carry out a command; raises InputError for one that is unknown or lacks something."""
        name, _, rest = line.partition(" ")
        known: dict[str, Callable[[str], None]] = {
            command.split()[0]: getattr(self, f"_{command.split()[0][1:]}") for command in HELP
        }
        if name not in known:
            raise InputError(f"unknown command {name!r}{nearest(name, known)}; known: {', '.join(known)}")
        known[name](rest.strip())

    def _retry(self, _: str) -> None:
        if self.question is None:
            raise InputError("/retry: nothing was asked yet")
        if self.history and self.history[-2]["content"] == self.question:
            del self.history[-2:]
        self._tries += 1
        warm = f", at temperature {RETRY_TEMPERATURE}" if self.model.settings.temperature == 0 else ""
        show(Text(f"seed {self.seed + self._tries}{warm}", "dim"))
        self.ask()

    def _budget(self, words: str) -> None:
        if words and words != "off" and not (words.isdecimal() and int(words) > 0):
            raise InputError(f"/budget: expected a number of tokens from 1, or off; got {words!r}")
        if words:
            self.budget = None if words == "off" else int(words)
        budget = self.budget or self.model.settings.path_tokens
        each = f"{self.model.settings.max_tokens} a message"
        show(f"budget: {budget} tokens a question, {each}" if budget else f"budget: {each}, none for a question")

    def _trace(self, _: str) -> None:
        if not self.trajectories:
            raise InputError("/trace: nothing was answered yet")
        show(trace(self.trajectories[-1], self.model))

    def _save(self, words: str) -> None:
        if not words:
            raise InputError("/save: expected the name of a file, such as /save talk.jsonl")
        file = Path(words).expanduser()
        if file.exists():
            raise InputError(f"/save: {file} exists; choose another name")
        try:
            write_jsonl(file, [to_json(trajectory) for trajectory in self.trajectories])
        except DataError as error:
            raise InputError(f"/save: {error}") from error
        show(f"{len(self.trajectories)} trajectories in {file}")

    def _model(self, words: str) -> None:
        if words:
            opened = self.load(words)
            self.model.close()
            self.model, self.name, self.history = opened, words, []
        show(self.described())

    def _new(self, _: str) -> None:
        self.history, self.question = [], None
        show("a new conversation")

    def _help(self, _: str) -> None:
        width = max(map(len, HELP))
        for command, meaning in HELP.items():
            show(Text.assemble((command.ljust(width + 2), "bold"), meaning))

    def _quit(self, _: str) -> None:
        self.ended = True

    def described(self) -> str:
        """Return which model is asked, and how."""
        settings, sees = self.model.settings, "sees the final answers before it"
        if not self.remembers:
            sees = "stands alone"
        return f"{self.name}: method {settings.method}, up to {settings.horizon} attempts; each question {sees}"


def trace(trajectory: Trajectory, model: SelfCorrectModel) -> Text:
    """Return every part of a trajectory, the instructions between them included, with its number of tokens."""
    out, judged = Text(), 0
    for span in trajectory.spans:
        text = model.codec.decode(trajectory.token_ids[span.start : span.end])
        p_correct = ""
        if span.role is Role.EVALUATION and judged < len(trajectory.evaluations):
            p = trajectory.evaluations[judged].p_correct
            p_correct, judged = "" if p is None else f", P(correct) {p:.4f}", judged + 1
        out.append(f"{span.role}, {span.end - span.start} tokens{p_correct}\n", "bold cyan")
        out.append(f"{text.strip()}\n", "dim" if span.role is Role.EXTERNAL else "")
    return out.append(f"stop: {trajectory.stop}; seed {trajectory.seed}; {trajectory.sampled_tokens} tokens sampled")


def answered(trajectory: Trajectory, name: str) -> dict[str, Any]:
    """Return what ``--json`` prints of one question."""
    return {
        "question": trajectory.problem.question,
        "answer": trajectory.final.answer,
        "text": trajectory.final.text,
        "stop": str(trajectory.stop),
        "attempts": [{"text": a.text, "answer": a.answer} for a in trajectory.attempts],
        "evaluations": to_json(trajectory.evaluations),
        "tokens": trajectory.sampled_tokens,
        "seed": trajectory.seed,
        "model": name,
    }
