"""The wire format of ``/v1/completions``: a request's body, and what came back as a `Completion`.

Knows the dialects of vLLM, SGLang, llama.cpp and OpenAI; their fields for token ids are optional extensions, so
everything that arrives is checked before it is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from selfcorrect.engines import SampleRequest
from selfcorrect.engines.endings import UNKNOWN
from selfcorrect.errors import EngineError

TOKEN_ID = "token_id:"

LIKELIEST = 5
"""Likeliest tokens to report at each step where ids are watched: OpenAI's limit."""

STREAM_INTERVAL = 32
"""Tokens in one event of vLLM's stream: fewer events cost both sides less."""


def body(request: SampleRequest, model: str, *, token_ids: bool, server_stops: bool) -> dict[str, Any]:
    """Return the JSON body. ``token_ids`` adds the extensions that return them and everything that leans on them."""
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
            "stream_interval": STREAM_INTERVAL,
        }
        if request.watch_ids:
            fields["logprob_token_ids"] = list(request.watch_ids)
        if server_stops and request.stop_texts:
            fields |= {"stop": list(request.stop_texts), "include_stop_str_in_output": True, "no_stop_trim": True}
    return fields


@dataclass(slots=True)
class Completion:
    """One choice, joined from the events of its stream. ``token_ids`` is None while the server has given none."""

    text: str = ""
    token_ids: list[int] | None = None
    prompt_ids: list[int] | None = None
    logprobs: list[float] = field(default_factory=list)
    likeliest: list[Mapping[str | int, float]] = field(default_factory=list)  # keys: token id, or token text
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def take(self, event: Any) -> None:
        """Add one event of the stream; raises EngineError where it is not of the format."""
        try:
            for choice in event["choices"]:
                self._take(choice)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            shown = str(event)[:200]
            raise EngineError(f"not an answer of /v1/completions ({type(error).__name__}: {error}): {shown}") from error

    def _take(self, choice: Mapping[str, Any]) -> None:
        text = choice.get("text") or ""
        text.encode()  # JSON can carry half a surrogate pair
        self.text += text
        scores = choice.get("logprobs") or {}
        ids = choice.get("token_ids")
        if "content" in scores:  # llama.cpp
            steps = scores["content"]
            ids = [step["id"] for step in steps] if ids is None and all("id" in step for step in steps) else ids
            self.logprobs += [float(step["logprob"]) for step in steps]
            self.likeliest += [
                {top.get("id", top["token"]): float(top["logprob"]) for top in step.get("top_logprobs") or ()}
                for step in steps
            ]
        elif scores:
            names = scores["tokens"]
            if ids is None and names and all(name.startswith(TOKEN_ID) for name in names):
                ids = [int(name.removeprefix(TOKEN_ID)) for name in names]
            self.logprobs += [UNKNOWN if score is None else float(score) for score in scores["token_logprobs"]]
            self.likeliest += [
                {_token(name): float(score) for name, score in (step or {}).items()}
                for step in scores.get("top_logprobs") or [None] * len(names)
            ]
        if ids is not None:
            self.token_ids = [*(self.token_ids or ()), *map(_token_id, ids)]
        if choice.get("prompt_token_ids") is not None:
            self.prompt_ids = list(choice["prompt_token_ids"])
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        reason = choice.get("stop_reason", choice.get("matched_stop"))
        self.stop_reason = self.stop_reason if reason is None else reason

    def watched(self, watch_ids: tuple[int, ...], decode: Callable[[tuple[int, ...]], str]) -> list[tuple[float, ...]]:
        """Return each step's log-probabilities of the watched ids, UNKNOWN where the server did not report one."""
        names = {watched: decode((watched,)) for watched in watch_ids}
        return [
            tuple(step.get(watched, step.get(names[watched], UNKNOWN)) for watched in watch_ids)
            for step in self.likeliest
        ]


def _token(name: str) -> str | int:
    return int(name.removeprefix(TOKEN_ID)) if name.startswith(TOKEN_ID) else name


def _token_id(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"a token id is a natural number, not {value!r}")
    return value
