"""OpenAI's chat completions: `ChatRequest` in, `completion` or the events of `stream` out. Used by `app`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from selfcorrect.correction.loop import LoopSettings
from selfcorrect.serving.answers import Item, Noted, Reader, Text
from selfcorrect.serving.asking import (
    ANY,
    Extension,
    Order,
    Positive,
    Seed,
    Temperature,
    TopP,
    order,
    refuse,
    text_of,
)
from selfcorrect.serving.chosen import Choice
from selfcorrect.serving.errors import ApiError, wrong
from selfcorrect.serving.settings import Limits
from selfcorrect.serving.sources import Usage
from selfcorrect.types import Message

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": ANY,
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "user": ANY,
    "metadata": ANY,
    "store": ANY,
    "service_tier": ANY,
    "reasoning_effort": ANY,
    "verbosity": ANY,
    "prompt_cache_key": ANY,
    "safety_identifier": ANY,
}
"""Fields that are taken where they ask for nothing; those with ANY change no answer."""


class ChatMessage(BaseModel):
    """One message; an assistant's ``reasoning`` and all that is not text is left out of what the model reads."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, JsonValue]] | None = None


class StreamOptions(BaseModel):
    """What a stream holds beside the answer."""

    model_config = ConfigDict(extra="allow", strict=True)

    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """The body of ``/v1/chat/completions``."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Positive | None = 1
    seed: Seed | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    selfcorrect: Extension | None = None

    def order(self, name: str, loop: LoopSettings, limits: Limits) -> Order:
        """Return what is asked for; raises ApiError."""
        refuse(self.model_extra or {}, NEUTRAL, list(type(self).model_fields))
        if self.stream_options is not None and not self.stream:
            raise wrong("stream_options", "goes with stream: true alone")
        return order(
            [self._message(place, message) for place, message in enumerate(self.messages)],
            model=self.model,
            name=name,
            loop=loop,
            limits=limits,
            extension=self.selfcorrect,
            seed=self.seed,
            choices=self.n or 1,
            temperature=self.temperature,
            top_p=self.top_p,
            budgets=(self.max_tokens, self.max_completion_tokens),
            stops=[self.stop] if isinstance(self.stop, str) else self.stop or [],
        )

    def _message(self, place: int, message: ChatMessage) -> Message:
        where = f"messages[{place}]"
        if (message.model_extra or {}).get("tool_calls"):
            raise wrong(f"{where}.tool_calls", "no tools are called here")
        role = "system" if message.role == "developer" else message.role
        return {"role": role, "content": text_of(message.content or "", f"{where}.content", ("text",))}

    @property
    def wants_usage(self) -> bool:
        """True where the stream is to end with the tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


def usage(total: Usage) -> dict[str, Any]:
    """Return the tokens by OpenAI's names."""
    return {
        "prompt_tokens": total.prompt,
        "completion_tokens": total.completion,
        "total_tokens": total.prompt + total.completion,
        "completion_tokens_details": {"reasoning_tokens": total.reasoning},
    }


def completion(answer_id: str, model: str, choices: Sequence[Choice], total: Usage) -> dict[str, Any]:
    """Return the answer that is not streamed."""
    return {
        "id": answer_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": choice.reader.content,
                    "reasoning": choice.reader.reasoning,
                    "reasoning_content": choice.reader.reasoning,
                },
                "logprobs": None,
                "finish_reason": choice.finish_reason,
                "selfcorrect": choice.path,
            }
            for index, choice in enumerate(choices)
        ],
        "usage": usage(total),
        "selfcorrect": choices[0].path,
    }


class Chunks:
    """Makes the events of one stream, as the bytes that are sent."""

    def __init__(self, answer_id: str, order: Order, wants_usage: bool) -> None:
        head = {"id": answer_id, "object": "chat.completion.chunk", "created": int(time.time()), "model": order.model}
        self._choices, self._wants_usage = order.choices, wants_usage
        self._head = json.dumps(head)[:-1]

    def opening(self) -> bytes:
        """Return the first event of each choice: the role."""
        return b"".join(self._event(index, {"role": "assistant", "content": ""}) for index in range(self._choices))

    def items(self, index: int, items: Sequence[Item]) -> bytes:
        """Return the events of what arrived at one choice: neighbouring pieces of one part share an event."""
        events, joined = bytearray(), ""
        channel: str | None = None
        extension: dict[str, Any] | None = None
        for item in [*items, None]:
            goes_on = isinstance(item, Text) and item.channel == channel and item.begins is None
            if channel and not goes_on:
                events += self._delta(index, channel, joined, extension)
                channel = None
            if isinstance(item, Text):
                if not goes_on:
                    channel, joined = item.channel, ""
                    extension = {"event": "part", "part": item.begins, "turn": item.turn} if item.begins else None
                joined += item.text
            elif isinstance(item, Noted):
                events += self._event(index, {}, extension=item.what)
        return bytes(events)

    def _delta(self, index: int, channel: str, text: str, extension: dict[str, Any] | None) -> bytes:
        """Return the event of a text, put together from what all such events share: there are as many as tokens."""
        said = json.dumps(text)
        delta = f'"content": {said}' if channel == "content" else f'"reasoning": {said}, "reasoning_content": {said}'
        more = f', "selfcorrect": {json.dumps(extension)}' if extension is not None else ""
        choice = f'{{"index": {index}, "delta": {{{delta}}}, "logprobs": null, "finish_reason": null}}'
        return f'data: {self._head}, "choices": [{choice}]{more}}}\n\n'.encode()

    def winner(self, index: int, reader: Reader) -> bytes:
        """Return the events of an answer that was voted for: all of it at once."""
        return b"".join(self._delta(index, channel, text, None) for channel, text in reader.texts)

    def closing(self, choices: Sequence[Choice], total: Usage) -> bytes:
        """Return the last event of each choice (why it ended, its trajectory), the tokens if wanted, and the end."""
        last = [self._event(index, {}, one.finish_reason, one.path) for index, one in enumerate(choices)]
        if self._wants_usage:
            last.append(f'data: {self._head}, "choices": [], "usage": {json.dumps(usage(total))}}}\n\n'.encode())
        return b"".join([*last, DONE])

    def failed(self, error: ApiError, request_id: str) -> bytes:
        """Return the events that end a stream whose answer failed."""
        return sse(error.body(request_id)) + DONE

    def _event(
        self, index: int, delta: dict[str, Any], finish: str | None = None, extension: dict[str, Any] | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        more = f', "selfcorrect": {json.dumps(extension)}' if extension is not None else ""
        return f'data: {self._head}, "choices": [{json.dumps(choice)}]{more}}}\n\n'.encode()


def sse(value: Any, event: str | None = None) -> bytes:
    """Return one server-sent event."""
    named = f"event: {event}\n" if event else ""
    return f"{named}data: {json.dumps(value)}\n\n".encode()


DONE = b"data: [DONE]\n\n"
