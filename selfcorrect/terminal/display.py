"""How the events of a trajectory look in a terminal: `Styled` with colours, `Plain` in words, whole lines only.

What the model wrote goes through `selfcorrect.printing`, which writes out what a terminal would obey and reads no
markup.
"""

from __future__ import annotations

from typing import Protocol

from rich.text import Text

from selfcorrect.correction.events import (
    AttemptText,
    EvaluationText,
    Event,
    Final,
    Judged,
    RevisionText,
    Superseded,
)
from selfcorrect.grading import extract_answer
from selfcorrect.printing import show, show_part
from selfcorrect.terminal.maths import readable
from selfcorrect.types import StopReason, Verdict

ENDINGS = {
    StopReason.VERDICT: "it was judged correct",
    StopReason.HORIZON: "no further attempt is allowed",
    StopReason.LENGTH: "the token budget is used up",
    StopReason.NO_VERDICT: "the model gave no verdict",
    StopReason.NO_REVISION: "the model wrote no revision",
    StopReason.END: "the method ends here",
    StopReason.PROMPT_TOO_LONG: "the conversation is too long for the model; /new begins another",
    StopReason.REFUSED: "the server refused to go on",
}


class Display(Protocol):
    """Shows the events of one question after another."""

    def show(self, event: Event) -> None:
        """Show one event; `Final` is the last of a question."""
        ...

    def stopped(self) -> None:
        """Say that the user stopped the generation."""
        ...


class _Display:
    """What both have in common: the texts of the attempts so far."""

    def __init__(self) -> None:
        self._attempts: dict[int, str] = {}

    def answer_of(self, index: int) -> str:
        """Return the answer of an attempt as far as it is written, in characters."""
        answer = extract_answer(self._attempts.get(index, ""), source="math")
        return readable(answer) if answer else "no answer"

    def _note(self, event: Event) -> None:
        if isinstance(event, AttemptText | RevisionText):
            self._attempts[event.index] = self._attempts.get(event.index, "") + event.text
        elif isinstance(event, Final):
            self._attempts = {}


class Styled(_Display):
    """Text as it comes, verdicts as badges, superseded answers struck through."""

    def __init__(self) -> None:
        super().__init__()
        self._part = ""  # the heading of what is being written

    def show(self, event: Event) -> None:
        """Show one event."""
        self._note(event)
        match event:
            case AttemptText(index, text):
                self._write(f"attempt {index + 1}", text, "default")
            case RevisionText(index, text):
                self._write(f"revision (attempt {index + 1})", text, "default")
            case EvaluationText(_, text):
                self._write("self-evaluation", text, "dim")
            case Judged(_, verdict, p_correct):
                self._end()
                show(badge(verdict, p_correct))
            case Superseded(index):
                self._end()
                show(Text.assemble(("superseded ", "dim"), (self.answer_of(index), "dim strike")))
            case Final(answer, _, trajectory):
                self._end()
                said = Text.assemble("answer ", (readable(answer) if answer else "none", "bold green"))
                tokens = trajectory.sampled_tokens
                why = f"   {ENDINGS.get(trajectory.stop, '')}; {len(trajectory.attempts)} attempts, {tokens} tokens"
                show(said.append(why, "dim"))
                show("")

    def stopped(self) -> None:
        """Say that the user stopped the generation."""
        self._end()
        self._attempts = {}
        show(Text("stopped", "yellow"))

    def _write(self, part: str, text: str, style: str) -> None:
        if part != self._part:
            self._end()
            show(Text(part, "bold cyan"))
            self._part = part
        show_part(text, style)

    def _end(self) -> None:
        if self._part:
            show_part("\n")
        self._part = ""


class Plain(_Display):
    """Words and whole lines, one after the other: for screen readers, files and pipes."""

    def __init__(self) -> None:
        super().__init__()
        self._part = self._line = ""

    def show(self, event: Event) -> None:
        """Show one event; text waits until its line is whole."""
        self._note(event)
        match event:
            case AttemptText(index, text):
                self._write(f"Attempt {index + 1}:", text)
            case RevisionText(index, text):
                self._write(f"Revision, attempt {index + 1}:", text)
            case EvaluationText(index, text):
                self._write(f"Self-evaluation of attempt {index + 1}:", text)
            case Judged(index, verdict, p_correct):
                self._end()
                sure = "" if p_correct is None else f", P(correct) {p_correct:.2f}"
                show(f"Attempt {index + 1} is judged {verdict}{sure}." if verdict else "No verdict.")
            case Superseded(index):
                self._end()
                show(f"The answer {self.answer_of(index)} is superseded.")
            case Final(answer, _, trajectory):
                self._end()
                why = ENDINGS.get(trajectory.stop)
                show(f"Final answer: {readable(answer) if answer else 'none'}" + (f" ({why})" if why else ""))
                show("")

    def stopped(self) -> None:
        """Say that the user stopped the generation."""
        self._end()
        self._attempts = {}
        show("Stopped.")

    def _write(self, part: str, text: str) -> None:
        if part != self._part:
            self._end()
            show(part)
            self._part = part
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            show_part(f"{line}\n")

    def _end(self) -> None:
        if self._line:
            show_part(f"{self._line}\n")
        self._part = self._line = ""


def badge(verdict: Verdict | None, p_correct: float | None) -> Text:
    """Return a verdict with its confidence."""
    word, style = {
        Verdict.CORRECT: (" ✓ judged correct ", "black on green"),
        Verdict.WRONG: (" ✗ judged wrong ", "white on red"),
        None: (" ? no verdict ", "black on yellow"),
    }[verdict]
    return Text.assemble((word, style), ("" if p_correct is None else f"  P(correct) {p_correct:.2f}", "dim"))
