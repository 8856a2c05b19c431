"""The wire format of ``/v1/completions``: a request's body, and what came back as a `Completion`.

Knows the dialects of vLLM, SGLang, llama.cpp and OpenAI; their fields for token ids are optional extensions, so
everything that arrives is checked before it is believed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from selfcorrect.engines import SampleRequest
from selfcorrect.engines.finish import UNKNOWN
from selfcorrect.engines.server.faults import broken
from selfcorrect.printing import clean

TOKEN_ID = "token_id:"

LONGEST_TOKEN = 1000
"""Characters: more than any token has."""

ROUNDING = 0.01
"""A log-probability above 0 by no more than this is 0, rounded."""

LIKELIEST = 5
"""Likeliest tokens to report at each step where ids are watched: OpenAI's limit."""

STREAM_INTERVAL = 32
"""Tokens in one event of vLLM's stream: fewer events cost both sides less."""


def body(
    request: SampleRequest, model: str, *, token_ids: bool, server_stops: bool, interval: int = STREAM_INTERVAL
) -> dict[str, Any]:
    """Return the JSON body. ``token_ids`` adds the extensions that return them and everything that leans on them.

    ``interval``: tokens in one event, where the server can choose.
    """
    fields: dict[str, Any] = {
        "model": model,
        "prompt": list(request.prompt_ids),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stream": True,
    }
    if token_ids:
        fields |= {
            "return_token_ids": True,  # vLLM, SGLang
            "return_tokens_as_token_ids": True,  # older vLLM
            "logprobs": LIKELIEST if request.watch_ids else 1,  # llama.cpp gives ids with these only
            "stop_token_ids": list(request.stop_ids),
            "ignore_eos": True,  # the stop ids are all there are
            "skip_special_tokens": False,
            "top_k": -1,  # not what the model's generation_config says
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stream_interval": interval,
        }
        if request.watch_ids:
            fields["logprob_token_ids"] = list(request.watch_ids)
        if server_stops and request.stop_texts:
            fields |= {"stop": list(request.stop_texts), "include_stop_str_in_output": True, "no_stop_trim": True}
    return fields


@dataclass(slots=True)
class Completion:
    """One choice, joined from the events of its stream. ``token_ids`` is None while the server has given none.

    Ids must be below ``vocabulary``; no more than ``max_tokens`` of them and the id that ends the sample are taken.
    """

    vocabulary: int
    max_tokens: int
    text: str = ""
    token_ids: list[int] | None = None
    prompt_ids: list[int] | None = None
    logprobs: list[float] = field(default_factory=list)
    likeliest: list[Mapping[str | int, float]] = field(default_factory=list)  # keys: token id, or token text
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def take(self, event: Any) -> bool:
        """Add one event of the stream; return whether it brought a token, or the end.

        An event without choices (usage, a sign of life) brings nothing. Raises ServerFault where it is not of the
        format, or not to be believed.
        """
        try:
            choices = event.get("choices")
            if choices is None or choices == []:
                return False
            (choice,) = choices if isinstance(choices, list) and len(choices) == 1 else (None,)
            if choice is None or choice.get("index", 0) != 0:
                raise broken("two choices", f"one sample was asked for, and the server sends several: {_shown(event)}")
            return self._take(choice)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            said = f"not an answer of /v1/completions ({type(error).__name__}: {error}): {_shown(event)}"
            raise broken("malformed event", said) from error

    def _take(self, choice: Mapping[str, Any]) -> bool:
        text = choice.get("text") or ""
        text.encode()  # JSON can carry half a surrogate pair
        scores = choice.get("logprobs") or {}
        ids, logprobs, likeliest = choice.get("token_ids"), [], []
        if "content" in scores:  # llama.cpp
            steps = scores["content"] or []
            ids = [step["id"] for step in steps] if ids is None and all("id" in step for step in steps) else ids
            logprobs = [_logprob(step["logprob"]) for step in steps]
            likeliest = [
                {top.get("id", top["token"]): _logprob(top["logprob"]) for top in step.get("top_logprobs") or ()}
                for step in steps
            ]
        elif scores:
            names = scores["tokens"]
            if ids is None and names and all(name.startswith(TOKEN_ID) for name in names):
                ids = [int(name.removeprefix(TOKEN_ID)) for name in names]
            logprobs = [UNKNOWN if score is None else _logprob(score) for score in scores["token_logprobs"]]
            likeliest = [
                {_token(name): _logprob(score) for name, score in (step or {}).items()}
                for step in scores.get("top_logprobs") or [None] * len(names)
            ]
        finish = choice.get("finish_reason")
        if finish is not None and not isinstance(finish, str):
            raise TypeError(f"finish_reason is {finish!r}")
        if self.finish_reason is not None and (text or ids or finish not in (None, self.finish_reason)):
            raise broken("events after the end", f"the sample had ended by {clean(self.finish_reason[:40])!r}")
        self.text += text
        self.logprobs += logprobs
        self.likeliest += likeliest
        if ids is not None:
            self.token_ids = self.token_ids or []
            self.token_ids += map(self._token_id, ids)
        if choice.get("prompt_token_ids") is not None:
            self.prompt_ids = list(choice["prompt_token_ids"])
        self.finish_reason = finish or self.finish_reason
        reason = choice.get("stop_reason", choice.get("matched_stop"))
        self.stop_reason = self.stop_reason if reason is None else reason
        taken = max(len(self.token_ids or ()), len(self.logprobs), len(self.likeliest))
        if taken > self.max_tokens + 1 or len(self.text) > LONGEST_TOKEN * self.max_tokens:
            most = self.max_tokens
            raise broken("no end", f"the server does not end at max_tokens={most}: asked for at most {most} tokens")
        return bool(text or ids or finish)

    def _token_id(self, value: Any) -> int:
        if type(value) is not int or value < 0:
            raise broken("impossible token id", f"a token id is a natural number, not {clean(repr(value)[:80])}")
        if value >= self.vocabulary:
            shown = value if value < 10**12 else "one of more than 12 digits"
            raise broken("impossible token id", f"{shown} is beyond the vocabulary of {self.vocabulary:,} tokens")
        return value

    def watched(
        self, watch_ids: tuple[int, ...], decode: Callable[[tuple[int, ...]], str], start: int = 0
    ) -> list[tuple[float, ...]]:
        """Return each step's log-probabilities of the watched ids, UNKNOWN where the server did not report one.

        From step ``start`` on.
        """
        names = {watched: decode((watched,)) for watched in watch_ids}
        return [
            tuple(step.get(watched, step.get(names[watched], UNKNOWN)) for watched in watch_ids)
            for step in self.likeliest[start:]
        ]


def _token(name: str) -> str | int:
    return int(name.removeprefix(TOKEN_ID)) if name.startswith(TOKEN_ID) else name


def _logprob(value: Any) -> float:
    score = float(value)
    if math.isnan(score) or score > ROUNDING:
        raise broken("impossible log-probability", f"{score} is no log-probability: expected a number of at most 0")
    return min(0.0, score)


def _shown(event: Any) -> str:
    return clean(str(event)[:200])
