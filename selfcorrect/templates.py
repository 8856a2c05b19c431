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

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any

from selfcorrect.errors import ModelError
from selfcorrect.types import Message

FROZEN_DATE = datetime(2024, 7, 26)
"""Today, for templates that write the date: the day that Llama 3.2's own template takes where it knows none."""

RENDER_S = 5.0
"""How long a template may take to render a few words."""

RENDER_BYTES = 1 << 29
"""How much memory it may take to do so."""

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
        with _bounded(self.name):
            self._opening = self.render([_user()])
            answered = self.render([_user(), _assistant(_ANSWER)], generation=False)
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
        with _bounded(self.name):
            if not begun and self.thinking is not True:
                self._check_appending(_ANSWER, _ANSWER)
            if begun or (self.thinking is not False and not ended):
                thought = f"{_THOUGHT}\n</think>\n\n{_ANSWER}"
                self._check_appending(thought if begun else f"<think>\n{thought}", (begun or "<think>\n") + thought)
        self._appends = True

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


@contextmanager
def _bounded(name: str) -> Iterator[None]:
    """Raise ModelError where what is rendered takes too long or too much memory. For the calling thread, and probes."""
    ends_at = time.perf_counter() + RENDER_S
    late = f"{name} does not end: it was stopped after {RENDER_S:.0f} s of rendering a few words"

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if time.perf_counter() > ends_at:
            raise ModelError(late)
        return watch if frame.f_code.co_filename == "<template>" else None  # lines of the template, calls of the rest

    before = sys.gettrace()
    with _memory_limit():
        sys.settrace(watch)
        try:
            yield
        finally:
            sys.settrace(before)


@contextmanager
def _memory_limit() -> Iterator[None]:
    """Let this process take no more than `RENDER_BYTES` beyond what it has; where the system cannot say, any amount."""
    try:
        import resource

        with open("/proc/self/statm") as statm:
            taken = int(statm.read().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, OSError, ValueError):
        yield
        return
    wanted = taken + RENDER_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (wanted if soft == resource.RLIM_INFINITY else min(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
