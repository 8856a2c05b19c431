"""`ChatTemplate`: a tokenizer's chat template, which is a foreign program, rendered within bounds and held to its word.

- It renders the same on every day: a template that writes the date writes `FROZEN_DATE`.
- ``thinking`` sets the template's ``enable_thinking``. Both are put into the template's text, so that fingerprints
  hold them and a checkpoint that is saved with the tokenizer keeps them.
- What it does wrong is a ModelError: its own errors, text of messages that it leaves out, no end after an assistant
  message, computing without end.
- Whether a chat can be continued by appending is asked only where something is appended: long-CoT needs no more than
  the opening. The probe writes an answer with ``<think>`` too, which many templates drop from earlier turns.
"""

from __future__ import annotations

import math
import os
import re
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from selfcorrect.errors import ModelError
from selfcorrect.types import Message

FROZEN_DATE = datetime(2024, 7, 26)
"""Today, for templates that write the date: the day that Llama 3.2's own template takes where it knows none."""

T = TypeVar("T")

RENDER_S = 5.0
"""CPU seconds that a template may take to render a few words."""

WAIT_S = 60.0
"""How long to wait for them, on a machine that has other things to do."""

RENDER_BYTES = 1 << 29
"""How much memory it may take to do so."""

_PIPE_BYTES = 60_000
"""What a pipe takes at once without a reader."""

_QUESTION, _ANSWER, _THOUGHT = "QUESTION-STANDS-HERE", "ATTEMPT-STANDS-HERE", "THOUGHT-STANDS-HERE"
_DATE = re.compile(r"strftime_now\(\s*(?P<quote>['\"])(?P<format>[^'\"]*)(?P=quote)")
_THINKING = re.compile(r"^\{%- set enable_thinking = (true|false) %\}\n")
_SHOWN = 160
"""Characters of each rendering that a refusal shows, around their first difference."""


class ChatTemplate:
    """Renders chats with one tokenizer's template; raises ModelError where it cannot.

    ``thinking``: whether reasoning models are to think before they answer; None leaves it to the template.
    """

    def __init__(self, tokenizer: Any, thinking: bool | None = None) -> None:
        self.tokenizer, self.thinking = tokenizer, thinking
        self._appends = False
        self.name = (
            f"the chat template of {tokenizer.name_or_path!r}" if tokenizer.name_or_path else "the chat template"
        )
        if getattr(tokenizer, "chat_template", None) is None:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; add `chat_template` to its "
                "tokenizer_config.json (a base model needs the template of its chat sibling)"
            )
        if isinstance(tokenizer.chat_template, str):
            tokenizer.chat_template = self._settled(tokenizer.chat_template)
        self._opening, answered = _bounded(
            self.name,
            lambda: (self.render([_user()]), self.render([_user(), _assistant(_ANSWER)], generation=False)),
        )
        for text, part, rendered in ((_QUESTION, "user's", self._opening), (_ANSWER, "assistant's", answered)):
            if rendered.count(text) != 1:
                raise ModelError(
                    f"{self.name} writes the text of the {part} message {rendered.count(text)} times, not once; it "
                    f"may want messages in another form than plain text. It renders:\n{_excerpt(rendered, 0)}"
                )
        self._tail = answered.split(_ANSWER)[1]

    def render(self, messages: Sequence[Message], *, generation: bool = True) -> str:
        """Return a chat as text, up to where the assistant is to write unless ``generation`` is False."""
        try:
            text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generation)
        except ModelError:
            raise
        except Exception as error:  # a template is a program of others: it may raise anything
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
            raise ModelError(f"{self.name} cannot render a chat: {type(error).__name__}: {reason[:500]}") from error
        return str(text)

    def after_answer(self, later: Sequence[Message]) -> str:
        """Return what stands after an assistant message: its end, the later messages, the next opening.

        Raises ModelError where what stands before would not stay as it was (see `require_appending`).
        """
        self.require_appending()
        return self.render([_user(), _assistant(_ANSWER), *later]).split(_ANSWER)[-1]

    def end_of_turn(self, ends: Sequence[int]) -> list[int]:
        """Return the ids that end an assistant message, where it is the last and where it is not, in that order.

        The end is the first token after the answer, blanks apart; it must be one of ``ends`` or an added token of the
        vocabulary, as text can write whatever else stands there.
        """
        added = {int(token) for token in getattr(self.tokenizer, "added_tokens_decoder", {})}
        known = {*ends, *self.tokenizer.all_special_ids, *added}
        try:
            middle = self.render([_user(), _assistant(_ANSWER), _user()]).split(_ANSWER)[-1]
        except ModelError:
            middle = ""  # it takes one exchange only
        found = [end for text in (self._tail, middle) if (end := self._first_end(text, known)) is not None]
        if not found:
            written = self._tail or middle.split(_QUESTION)[0]
            raise ModelError(
                f"{self.name} writes no token that ends an assistant message: after the answer stands {written!r}. "
                "That is text, so a model trained on it never stops and a sample has no end; write the "
                "end-of-sequence token after assistant messages"
            )
        return found

    def require_appending(self) -> None:
        """Raise ModelError, with both renderings, where the template rewrites earlier turns: nothing may be appended.

        Checked once. An opening that begins the thinking, or ends it, is continued by what a model would write there.
        """
        if self._appends:
            return
        _, think, opened = self._opening.rpartition("<think>")
        begun = f"<think>{opened}" if think and "</think>" not in opened else ""  # thinking that the opening begins
        ended = bool(think) and not begun
        _bounded(self.name, lambda: self._check_turns(begun, ended))
        self._appends = True

    def _check_turns(self, begun: str, ended: bool) -> None:
        """Check a plain answer, and one after thinking, as far as the template lets a model write them."""
        if not begun and self.thinking is not True:
            self._check_appending(_ANSWER, _ANSWER)
        if begun or (self.thinking is not False and not ended):
            thought = f"{_THOUGHT}\n</think>\n\n{_ANSWER}"
            self._check_appending(thought if begun else f"<think>\n{thought}", (begun or "<think>\n") + thought)

    def _check_appending(self, sampled: str, message: str) -> None:
        """Raise ModelError where a chat of two turns, or three, does not begin with what was sampled of it.

        ``message`` is the assistant's message whose sampled part, after the opening, is ``sampled``.
        """
        said = _assistant(message)
        path = self._opening + sampled
        chat: list[Message] = [_user(), said, _user()]
        for _ in range(2):
            rendered = self.render(chat)
            if not rendered.startswith(path):
                at = next((i for i, (a, b) in enumerate(zip(path, rendered, strict=False)) if a != b), len(rendered))
                thinks = _THOUGHT in sampled
                what = "drops or rewrites the <think> of earlier turns" if thinks else "rewrites earlier turns"
                raise ModelError(
                    f"{self.name} {what}, so a sampled path cannot be continued token for token:\n"
                    f"  as it was sampled:  {_excerpt(path, at)}\n"
                    f"  as the template has it later:  {_excerpt(rendered, at)}\n"
                    "Use a method that appends nothing (long-CoT: self-rewarding, single-turn), or a template that "
                    "keeps every turn as it was written"
                )
            path = rendered + sampled
            chat += [said, _user()]

    def _settled(self, template: str) -> str:
        """Return the template's text with the date, and thinking where that is wanted, written into it."""
        if self.thinking is not None:
            template = _THINKING.sub("", template)
            if "enable_thinking" not in template:
                raise ModelError(
                    f"{self.name} knows no enable_thinking, so thinking={self.thinking} means nothing to it"
                )
            template = f"{{%- set enable_thinking = {str(self.thinking).lower()} %}}\n{template}"
        if "strftime_now" in template and "macro strftime_now" not in template:
            formats = sorted({found["format"] for found in _DATE.finditer(template)})
            dates = ", ".join(f"{form!r}: {FROZEN_DATE.strftime(form)!r}" for form in formats)
            written = f"{{{{ {{{dates}}}.get(format, '{FROZEN_DATE.date()}') }}}}"
            template = f"{{%- macro strftime_now(format) %}}{written}{{%- endmacro %}}\n{template}"
        return template

    def _first_end(self, text: str, known: set[int]) -> int | None:
        for token in self.tokenizer.encode(text, add_special_tokens=False):
            if token in known:
                return int(token)
            if self.tokenizer.decode([token]).strip():
                return None
        return None


def _user() -> Message:
    return {"role": "user", "content": _QUESTION}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _excerpt(text: str, at: int) -> str:
    start = max(0, at - _SHOWN // 2)
    end = start + _SHOWN
    return ("…" if start else "") + repr(text[start:end]) + ("…" if end < len(text) else "")


def _bounded(name: str, work: Callable[[], T]) -> T:
    """Return what ``work`` returns, tried in a process of its own first; ModelError where it takes too much.

    The limits are that process's. On this one they would hold for all its threads, and end it where a GPU's driver or
    BLAS starts some (glibc: "cannot allocate memory for thread-local data"). Where there is no fork, there is no limit.
    """
    if sys.platform == "linux" and (fault := _fault_of(name, work)):
        raise ModelError(fault)
    return work()


def _fault_of(name: str, work: Callable[[], object]) -> str:
    """Return what goes wrong with ``work`` under the limits; nothing where it goes well, or the child never began."""
    late = f"{name} does not end: it was stopped after {RENDER_S:.0f} s of rendering a few words"
    reads, writes = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads: the child touches none of theirs
        child = os.fork()
    if child == 0:
        try:
            os.write(writes, _outcome(work).encode()[:_PIPE_BYTES])
        finally:
            os._exit(0)
    os.close(writes)
    try:
        ready, _, _ = select.select([reads], [], [], WAIT_S)
        said = os.read(reads, _PIPE_BYTES).decode(errors="replace") if ready else ""
    finally:
        os.close(reads)
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    if not ready:  # it hardly computed: it waits for a lock that another thread held, which is no fault of a template
        return late if used.ru_utime + used.ru_stime > RENDER_S / 10 else ""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return late if number == signal.SIGXCPU else f"{name} ends the process that renders it (signal {number})"
    return said


def _outcome(work: Callable[[], object]) -> str:
    """Do the work in this process, under limits, for good; return its error."""
    import resource

    with open("/proc/self/statm") as statm:
        most = int(statm.read().split()[0]) * resource.getpagesize() + RENDER_BYTES
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds = math.ceil(time.process_time() + RENDER_S)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    try:
        work()
    except ModelError as error:
        return str(error)
    except BaseException as error:  # noqa: BLE001 - this process knows no other way to say it
        return f"{type(error).__name__}: {error}"
    return ""
