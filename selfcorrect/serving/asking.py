"""`Order`: what a request asks for, whatever its shape. Made by the two wires, carried out by `app`."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from selfcorrect.correction.loop import LoopSettings
from selfcorrect.correction.votes import check_votes
from selfcorrect.errors import InputError, nearest
from selfcorrect.serving.errors import ApiError, wrong
from selfcorrect.serving.settings import Limits
from selfcorrect.serving.sources import Asked
from selfcorrect.types import Message

FIRST = "-first"
"""Ends the name of the model that does not correct itself."""

LARGEST = 2**53 - 1
"""The largest whole number that all JSON readers keep."""

Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]


class Extension(BaseModel):
    """The field ``selfcorrect`` of a request: the settings that OpenAI has no name for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    horizon: Positive | None = Field(None, description="The most attempts.")
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="An attempt is revised where P(correct) is below this, whatever the model wrote."
    )
    budget: Positive | None = Field(None, description="The most tokens, all attempts and self-evaluations together.")
    votes: Positive | None = Field(None, description="Trajectories to sample; the most frequent final answer is given.")


@dataclass(frozen=True, slots=True)
class Order:
    """One request, checked: conversation, model, and how many trajectories with which settings."""

    messages: list[Message]
    model: str
    asked: Asked
    choices: int
    votes: int
    horizon: int
    stops: tuple[str, ...]

    @property
    def samples(self) -> int:
        """How many trajectories are sampled at once."""
        return self.choices * self.votes

    def settings(self) -> list[Asked]:
        """Return the settings of each trajectory: those of one choice stand together, and each has its own seed."""
        return [replace(self.asked, seed=self.asked.seed + place) for place in range(self.samples)]


def order(
    messages: list[Message],
    *,
    model: str,
    name: str,
    loop: LoopSettings,
    limits: Limits,
    extension: Extension | None,
    seed: int | None = None,
    choices: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    budgets: Sequence[int | None] = (),
    stops: Sequence[str] = (),
) -> Order:
    """Return a checked order; raises ApiError, which names the field, for what this server does not do."""
    if model not in (name, name + FIRST):
        known = f"{name}, {name}{FIRST}"
        said = f"no model {model!r:.80}{nearest(model[:80], (name, name + FIRST))}; this server has {known}"
        raise ApiError(404, said, code="model_not_found", param="model")
    extension = extension or Extension()  # type: ignore[call-arg]
    first_only = model == name + FIRST
    horizon = 1 if first_only else extension.horizon or loop.horizon
    votes = extension.votes or 1
    sampled_at = loop.temperature if temperature is None else temperature
    if horizon > limits.horizon:
        raise wrong("selfcorrect.horizon", f"at most {limits.horizon} here, got {horizon}")
    if choices * votes > limits.samples:
        raise wrong("n", f"n times selfcorrect.votes is at most {limits.samples} here, got {choices} times {votes}")
    try:
        check_votes("selfcorrect.votes", votes, sampled_at)
    except InputError as error:
        raise ApiError(400, str(error), param="selfcorrect.votes") from error
    if any(budget and budget > limits.max_tokens for budget in (*budgets, extension.budget)):
        raise wrong(
            "max_tokens", f"at most {limits.max_tokens} here, got {max(filter(None, (*budgets, extension.budget)))}"
        )
    if any(re.search("[\ud800-\udfff]", message["content"]) for message in messages):
        raise wrong("messages", "half of a surrogate pair is no character")
    if sum(len(message["content"]) for message in messages) > limits.characters:
        raise wrong("messages", f"at most {limits.characters} characters here")
    check_conversation(messages, limits)
    if seed is None:
        seed = secrets.randbelow(2**31) if sampled_at > 0 else 0
    asked = Asked(
        seed=seed,
        horizon=horizon,
        threshold=None if first_only else extension.threshold,
        budget=min(
            (budget for budget in (*budgets, extension.budget) if budget), default=loop.path_tokens or limits.max_tokens
        ),
        temperature=temperature,
        top_p=top_p,
        first_only=first_only,
    )
    return Order(messages, model, asked, choices, votes, horizon, tuple(stop for stop in stops if stop))


def check_conversation(messages: Sequence[Message], limits: Limits) -> None:
    """Raise ApiError for a conversation that no question ends."""
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise wrong("messages", "the last message must be a question of the user, in text")
    if len(messages) > limits.messages:
        raise wrong("messages", f"at most {limits.messages} here, got {len(messages)}")


def refuse(fields: Mapping[str, JsonValue], neutral: Mapping[str, Sequence[Any]], known: Sequence[str]) -> None:
    """Raise ApiError for a field that is not known, or that asks for what this server does not do.

    ``neutral`` has the fields that are taken where they ask for nothing, with the values that do.
    """
    for field, value in fields.items():
        if field not in neutral:
            raise wrong(field[:80], f"unknown{nearest(field[:80], [*known, *neutral])}")
        if neutral[field] is ANY:
            continue
        same = lambda nothing, value=value: nothing == value and isinstance(nothing, bool) == isinstance(value, bool)
        if not any(map(same, neutral[field])):
            raise wrong(field, f"not done here, so it may only be left out; got {value!r:.80}")


ANY: tuple[Any, ...] = (object(),)
"""Neutral values of a field that changes no answer, whatever it holds."""


def text_of(content: Any, param: str, kinds: Sequence[str]) -> str:
    """Return the text of a message's content: a text, or parts of these kinds; raises ApiError for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(param, f"expected a text or a list of parts, got {content!r:.80}")
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in kinds or not isinstance(part.get("text"), str):
            raise wrong(param, f"only parts of type {' or '.join(kinds)} are read here, got {part!r:.80}")
        texts.append(part["text"])
    return "".join(texts)
