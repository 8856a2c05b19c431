"""OpenAI's responses: `ResponseRequest` in, `response` or the events of `ResponseEvents` out. Used by `app`.

The output is a reasoning item for what came before the final answer and a message item for the answer; a
self-evaluation that follows the last attempt is a reasoning item after it. Nothing is stored: ``store`` is always
false, and a conversation goes on by sending it whole.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

from selfcorrect.correction.loop import LoopSettings
from selfcorrect.serving.answers import Item, Reader, Text
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
from selfcorrect.serving.chat_wire import sse
from selfcorrect.serving.chosen import Choice
from selfcorrect.serving.errors import ApiError, wrong
from selfcorrect.serving.settings import Limits
from selfcorrect.serving.sources import Usage
from selfcorrect.types import Message

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "background": (None, False),
    "conversation": (None,),
    "include": (None, [], ["reasoning.encrypted_content"]),  # the reasoning is here in clear
    "max_tool_calls": ANY,
    "metadata": ANY,
    "parallel_tool_calls": ANY,
    "previous_response_id": (None,),
    "prompt": (None,),
    "prompt_cache_key": ANY,
    "prompt_cache_retention": ANY,
    "reasoning": ANY,
    "safety_identifier": ANY,
    "service_tier": ANY,
    "store": ANY,
    "stream_options": ANY,
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "truncation": (None, "disabled"),
    "user": ANY,
}
"""Fields that are taken where they ask for nothing; those with ANY change no answer."""


class TextOptions(BaseModel):
    """The form of the answer; it is always plain text."""

    model_config = ConfigDict(extra="allow")

    format: dict[str, JsonValue] | None = None


class ResponseRequest(BaseModel):
    """The body of ``/v1/responses``."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    input: str | list[dict[str, JsonValue]]
    instructions: str | None = None
    stream: bool | None = False
    max_output_tokens: Positive | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    text: TextOptions | None = None
    selfcorrect: Extension | None = None

    def order(self, name: str, loop: LoopSettings, limits: Limits) -> Order:
        """Return what is asked for; raises ApiError."""
        refuse(self.model_extra or {}, NEUTRAL, list(type(self).model_fields))
        if self.text and self.text.format and self.text.format.get("type") != "text":
            raise wrong("text.format", f"only plain text is written here, got {self.text.format!r:.80}")
        opening: list[Message] = [{"role": "system", "content": self.instructions}] if self.instructions else []
        items: list[dict[str, Any]] = (
            [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        )
        return order(
            [*opening, *(message for place, item in enumerate(items) for message in _messages(place, item))],
            model=self.model,
            name=name,
            loop=loop,
            limits=limits,
            extension=self.selfcorrect,
            seed=self.seed,
            temperature=self.temperature,
            top_p=self.top_p,
            budgets=(self.max_output_tokens,),
        )


def _messages(place: int, item: dict[str, Any]) -> list[Message]:
    """Return the message of an input item; reasoning of earlier answers is no part of the conversation."""
    where, kind = f"input[{place}]", item.get("type", "message")
    if kind == "reasoning":
        return []
    if kind != "message" or item.get("role") not in ("system", "developer", "user", "assistant"):
        raise wrong(where, f"only messages of system, developer, user and assistant are read here, got {item!r:.80}")
    role = "system" if item["role"] == "developer" else str(item["role"])
    content = text_of(item.get("content") or "", f"{where}.content", ("input_text", "output_text", "text"))
    return [{"role": role, "content": content}]


class ResponseEvents:
    """Makes the response of one order, and the events of its stream as the bytes that are sent.

    Streamed or not, the items are the same.
    """

    def __init__(self, asked: ResponseRequest, order: Order) -> None:
        self._asked, self._order = asked, order
        self._id, self._created = "resp_" + secrets.token_hex(12), int(time.time())
        self._count = 0
        self.output: list[dict[str, Any]] = []
        self._under_way: dict[str, Any] | None = None
        self._text = ""

    def response(
        self, status: str, choice: Choice | None = None, total: Usage | None = None, error: ApiError | None = None
    ) -> dict[str, Any]:
        """Return the response as it stands."""
        asked = self._asked
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        failed = error and {"code": "server_error", "message": error.body("")["error"]["message"]}
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": failed,
            "incomplete_details": incomplete,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": {},
            "model": self._order.model,
            "output": self.output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": total and _usage(total),
            "user": None,
            "selfcorrect": choice and choice.path,
        }

    def opening(self) -> bytes:
        """Return the first two events."""
        begun = self.response("in_progress")
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def items(self, index: int, items: Sequence[Item]) -> bytes:
        """Return the events of what arrived; an item is closed where the other kind of text begins."""
        return b"".join(self._piece(item.channel, item.text) for item in items if isinstance(item, Text) and item.text)

    def winner(self, index: int, reader: Reader) -> bytes:
        """Return the events of an answer that was voted for: all of it at once."""
        return b"".join(self._piece(channel, text) for channel, text in reader.texts)

    def _piece(self, channel: str, text: str) -> bytes:
        """Return the events of one piece of reasoning or content."""
        kind, events = "message" if channel == "content" else "reasoning", b""
        if self._under_way is None or self._under_way["type"] != kind:
            events, text = self._close() + self._open(kind), text.lstrip()
        self._text += text
        more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        return events + self._event(f"response.{_part_type(kind)}.delta", delta=text, **self._place(), **more)

    def closing(self, choices: Sequence[Choice], total: Usage) -> bytes:
        """Return the last events: the end of the item under way, and the whole response."""
        last = self._close()
        status = _status(choices[0])
        return last + self._event(f"response.{status}", response=self.response(status, choices[0], total))

    def whole(self, choices: Sequence[Choice], total: Usage) -> dict[str, Any]:
        """Return the response that is not streamed."""
        self.winner(0, choices[0].reader)
        self._close()
        return self.response(_status(choices[0]), choices[0], total)

    def failed(self, error: ApiError, request_id: str) -> bytes:
        """Return the events that end a stream whose answer failed."""
        last = self._close("incomplete")
        return last + self._event("response.failed", response=self.response("failed", error=error))

    def _open(self, kind: str) -> bytes:
        prefix = "msg_" if kind == "message" else "rs_"
        more: dict[str, Any] = {"role": "assistant"} if kind == "message" else {"summary": []}
        name = prefix + secrets.token_hex(12)
        self._under_way = {"id": name, "type": kind, "status": "in_progress", "content": [], **more}
        self._text = ""
        self.output.append(self._under_way)
        added = self._event("response.output_item.added", output_index=len(self.output) - 1, item=self._under_way)
        return added + self._event("response.content_part.added", part=_part(kind, ""), **self._place())

    def _close(self, status: str = "completed") -> bytes:
        item, self._under_way = self._under_way, None
        if item is None:
            return b""
        place, kind = self._place(), item["type"]
        part = _part(kind, self._text)
        item |= {"status": status, "content": [part]}
        more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        return (
            self._event(f"response.{_part_type(kind)}.done", text=self._text, **place, **more)
            + self._event("response.content_part.done", part=part, **place)
            + self._event("response.output_item.done", output_index=place["output_index"], item=item)
        )

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.output[-1]["id"], "output_index": len(self.output) - 1, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._count += 1
        return sse({"type": kind, "sequence_number": self._count - 1, **fields}, kind)


def _status(choice: Choice) -> str:
    return "incomplete" if choice.finish_reason == "length" else "completed"


def _part_type(kind: str) -> str:
    return "output_text" if kind == "message" else "reasoning_text"


def _part(kind: str, text: str) -> dict[str, Any]:
    more: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "message" else {}
    return {"type": _part_type(kind), "text": text} | more


def _usage(total: Usage) -> dict[str, Any]:
    return {
        "input_tokens": total.prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": total.completion,
        "output_tokens_details": {"reasoning_tokens": total.reasoning},
        "total_tokens": total.prompt + total.completion,
    }
