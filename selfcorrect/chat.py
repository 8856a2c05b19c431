"""`ChatCodec`: the one place where chat messages become token ids, and only ever by appending.

Sampled tokens are never decoded and encoded again (TRL#5145): a path grows by appending the tokens
that the template puts after an assistant message. A template that rewrites earlier turns would break
this, so it is refused where something is to be appended (verl#6854; `selfcorrect.templates`).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from selfcorrect.control_text import apart, control_pattern
from selfcorrect.errors import InputError, ModelError
from selfcorrect.extras import named_extras
from selfcorrect.loading import SHIPPED, model_loading, no_folder
from selfcorrect.templates import ChatTemplate
from selfcorrect.types import Message, Verdict
from selfcorrect.verdicts import MARKS

EMBEDDED = SHIPPED["embedded"]

_ENCODING = threading.Lock()
"""Held to encode: whether special tokens are read out of a text is a switch of the tokenizer, which threads share."""


def model_path(model: str) -> str:
    """Resolve ``"embedded"`` or ``"embedded-1"`` to the shipped folder; return any other path or hub id unchanged.

    Raises ModelError where a path that looks local does not exist.
    """
    if model in SHIPPED:
        return str(SHIPPED[model])
    first = Path(model).parts[0] if "/" in model else ""
    looks_local = model.startswith((".", "/", "~", "runs/")) or model.count("/") > 1 or Path(first or "?").is_dir()
    if looks_local and not Path(model).expanduser().is_dir():
        raise no_folder(model)
    return str(Path(model).expanduser()) if looks_local or Path(model).is_dir() else model


def vocabulary_size(model: str, tokenizer: Any) -> int:
    """Return how many token ids a model can write: its tokenizer's, and what its output layer is padded to."""
    return max(len(tokenizer), getattr(_config(model), "vocab_size", None) or 0)


def context_of_model(model: str) -> int | None:
    """Return the most tokens that a model takes, prompt and completion together; None where it sets no limit."""
    limit: int | None = getattr(_config(model), "max_position_embeddings", None)
    return limit


def _config(model: str) -> Any:
    """Return the configuration of a model folder or hub id; None of a folder with a tokenizer alone."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model_path(model)).get_text_config(decoder=True)
    except (OSError, ValueError, KeyError):
        return None


class ChatCodec:
    """Turns messages into ids and ids into text with one tokenizer and its chat template.

    ``stop_ids`` end an assistant turn; ``turn_end`` is the stop id that the template itself writes after
    an assistant message (what training teaches as the end of a turn). ``thinking`` sets the template's
    ``enable_thinking``, for reasoning models; None leaves it to the template.
    """

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int] = (), thinking: bool | None = None) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, thinking)
        # What is too long for the model is refused and counted by the engines: no warning beside that.
        tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
        self._decode = _decoder(tokenizer)
        self._pieces: dict[int, int] = {}
        self._replies: dict[str, tuple[int, ...]] = {}
        ends = {*stop_ids} if tokenizer.eos_token_id is None else {tokenizer.eos_token_id, *stop_ids}
        own = self.template.end_of_turn(sorted(ends))
        self.turn_end: int = own[0]
        self.stop_ids: tuple[int, ...] = tuple(sorted({*ends, *own}))

    @classmethod
    @named_extras()
    def load(cls, model: str, thinking: bool | None = None) -> ChatCodec:
        """Load the tokenizer of a model folder or hub id; raises ModelError where there is none."""
        from transformers import AutoTokenizer, GenerationConfig

        path = model_path(model)
        with model_loading(model, "a tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(path)
        try:
            eos = GenerationConfig.from_pretrained(path).eos_token_id
        except OSError:
            eos = None
        return cls(tokenizer, [] if eos is None else [eos] if isinstance(eos, int) else eos, thinking)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of plain text: no special tokens are added, and none are read out of the text."""
        return self._tokens(text, split_special_tokens=True)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included, spaces untouched."""
        return self._decode(list(ids))

    def piece_lengths(self, ids: Sequence[int]) -> list[int] | None:
        """Return the characters that each id adds to the text; None where pieces do not decode on their own."""
        lengths = [self._piece_length(token) for token in ids]
        return lengths if sum(lengths) == len(self.decode(ids)) else None

    def _piece_length(self, token: int) -> int:
        if token not in self._pieces:
            self._pieces[token] = len(self.decode([token]))
        return self._pieces[token]

    def opening(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the ids of a chat up to where the assistant is to write; exactly one BOS at most."""
        ids = self._ids(messages, self.template.render)
        bos = self.tokenizer.bos_token_id
        if bos is not None and bos != self.tokenizer.eos_token_id and ids.count(bos) > 1 and ids[:2] == (bos, bos):
            raise ModelError(f"the chat template of {self.tokenizer.name_or_path!r} writes BOS twice")
        return ids

    def reply(self, user: str) -> tuple[int, ...]:
        """Return the ids that follow an assistant message: its end, a user message, the next opening.

        Raises ModelError where the template rewrites earlier turns, or ends them by another token than the last one.
        """
        if user not in self._replies:  # a few wordings, asked for on every path
            ids = self._ids([{"role": "user", "content": user}], self.template.after_answer)
            if ids[0] != self.turn_end:
                raise ModelError(
                    f"{self.template.name} writes {self.decode(ids[:1])!r} after an assistant message that another "
                    f"follows, and {self.decode([self.turn_end])!r} after the last one, so nothing can be appended to "
                    "a sampled path; use a method that appends nothing (long-CoT: self-rewarding, single-turn)"
                )
            self._replies[user] = ids
        return self._replies[user]

    @cached_property
    def verdict_ids(self) -> tuple[int, int]:
        """Ids of the first token in which ``[VERIFY] correct.`` and ``[VERIFY] wrong.`` differ, in that order."""
        correct, wrong = (self.encode(MARKS[verdict]) for verdict in (Verdict.CORRECT, Verdict.WRONG))
        for a, b in zip(correct, wrong, strict=False):
            if a != b:
                return a, b
        raise ModelError("the two verdict marks have the same tokens")

    def fingerprint(self) -> str:
        """Return a short hash of the vocabulary: rows of token ids belong to one."""
        vocabulary = json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        return hashlib.blake2b(vocabulary.encode(), digest_size=6).hexdigest()

    def _ids(self, messages: Sequence[Message], render: Callable[[Sequence[Message]], str]) -> tuple[int, ...]:
        """Return the ids of rendered messages: the template's control tokens, and none out of what the messages say."""
        cut, mark = apart(messages, self._controls, self._special)
        pieces = render(cut).split(mark) if mark else [render(cut)]
        return tuple(token for piece in pieces for token in self._tokens(piece))

    def _tokens(self, text: str, **how: bool) -> tuple[int, ...]:
        """Return the ids of a text. Raises InputError for half of a surrogate pair, of which there are none."""
        try:
            with _ENCODING:
                return tuple(self.tokenizer.encode(text, add_special_tokens=False, **how))
        except (TypeError, UnicodeEncodeError) as error:
            half = re.search("[\ud800-\udfff]", text)
            if half is None:
                raise
            around = text[max(0, half.start() - 30) : half.end() + 30]
            raise InputError(f"half of a surrogate pair is no character and has no tokens: {around!r}") from error

    @cached_property
    def _controls(self) -> re.Pattern[str]:
        return control_pattern(self.tokenizer)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return control_pattern(self.tokenizer, special_alone=True)


def _decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    """Return what decodes ids to their text, special tokens included, spaces untouched.

    Where `transformers` would only hand the ids on to the `tokenizers` library, they are given to it directly: a stream
    decodes each of its tokens, and the way there takes five times as long as the decoding.
    """
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    kind = type(tokenizer)
    if (
        issubclass(kind, PreTrainedTokenizerFast)
        and kind.decode is PreTrainedTokenizerBase.decode
        and kind._decode is PreTrainedTokenizerFast._decode
    ):
        return partial(tokenizer.backend_tokenizer.decode, skip_special_tokens=False)
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
