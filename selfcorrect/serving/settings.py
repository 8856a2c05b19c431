"""`ServeRecipe`: the settings of `selfcorrect serve`, checked before anything is loaded or bound."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from selfcorrect.correction.loop import LoopSettings
from selfcorrect.engines import EngineRecipe
from selfcorrect.errors import RecipeError
from selfcorrect.model import without_reference
from selfcorrect.redaction import redacted_text
from selfcorrect.runs.recipes import build_recipe


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, one client and all of them may take. Times are in seconds."""

    body_bytes: int = 1_000_000  # of one request
    messages: int = 256  # of one conversation
    characters: int = 200_000  # of all messages of a conversation together
    max_tokens: int = 8192  # the most that a request may ask for, all attempts and self-evaluations together
    horizon: int = 8  # the most attempts that a request may ask for
    samples: int = 16  # n times votes
    per_client: int = 256  # samples under way at once for one key, or one address where there are no keys
    in_all: int = 1024  # for all clients together
    body_s: float = 30.0  # for a request's body to arrive
    request_s: float = 600.0  # for an answer to be whole
    unread_s: float = 60.0  # for a client to read what was sent
    grace_s: float = 20.0  # for answers under way when the server is told to stop

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise RecipeError(f"limits.{name}: expected a number above 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class UpstreamRecipe:
    """Chat servers before which this one stands as a proxy, and how they are asked."""

    endpoints: tuple[str, ...] = ()  # base URLs, such as http://localhost:8001/v1; --endpoint
    model: str | None = None  # the servers' name of the model; needed where they serve several
    api_key_env: str = "OPENAI_API_KEY"  # environment variable with the key for these servers
    most: int = 64  # messages under way at once at each server
    retries: int = 6  # of a message, before its first text
    backoff_s: float = 0.5  # the pauses between them double from here to a minute
    silence_s: float = 120.0  # without a byte
    total_s: float = 600.0  # for one message
    max_tokens_name: str = "max_tokens"  # max_completion_tokens where servers refuse the older name
    extra: dict[str, Any] = field(default_factory=dict)  # further fields of every request

    def __post_init__(self) -> None:
        if not all(url.startswith(("http://", "https://")) for url in self.endpoints):
            shown = [redacted_text(url) for url in self.endpoints]
            raise RecipeError(f"upstream.endpoints: expected URLs like http://localhost:8001/v1, got {shown}")
        if self.most < 1 or self.retries < 0 or min(self.backoff_s, self.silence_s, self.total_s) <= 0:
            raise RecipeError("upstream: most is at least 1, retries at least 0, backoff_s, silence_s, total_s above 0")


@dataclass(frozen=True, slots=True)
class ServeRecipe:
    """Where to listen, what to serve and to whom."""

    host: str = "127.0.0.1"  # this machine alone; 0.0.0.0: every network that it is in
    port: int = 8000  # 0: one that is free
    name: str | None = None  # the model's name for clients; null: the last part of its path
    key_file: str | None = None  # API keys, one a line; null: those of key_env
    key_env: str = "SELFCORRECT_API_KEY"  # environment variable with API keys; unset: no key is asked for
    cors: tuple[str, ...] = ()  # origins whose pages may ask, such as https://example.org; none by default
    hosts: tuple[str, ...] = ()  # further names that this server is called by, where it listens on loopback alone
    page: bool = True  # the page at /
    engine: EngineRecipe = field(default_factory=EngineRecipe)  # what samples; its model is MODEL of the command
    own_process: bool = True  # a transformers engine in a process of its own; false: in the server's, with less memory
    loop: dict[str, Any] = field(default_factory=dict)  # what differs from the settings of `LoopSettings`
    upstream: UpstreamRecipe = field(default_factory=UpstreamRecipe)  # chat servers behind; none: the engine samples
    limits: Limits = field(default_factory=Limits)  # of requests, clients and waits

    def __post_init__(self) -> None:
        without_reference(build_recipe(LoopSettings, self.loop, where="loop"))
        if not 0 <= self.port <= 65535:
            raise RecipeError(f"port: expected 0 to 65535, got {self.port}")
        if self.name is not None and not re.fullmatch(r"[\w./:@-]{1,200}", self.name):
            raise RecipeError(f"name: expected letters, digits and ./:@-_ without blanks, got {self.name!r:.80}")
        for origin in self.cors:
            if not re.fullmatch(r"https?://[^/\s*]+", origin):
                raise RecipeError(f"cors: expected origins like https://example.org, got {origin!r:.80}")

    def settings(self) -> LoopSettings:
        """Return the settings of the loop, without what a model folder would add."""
        return build_recipe(LoopSettings, {"method": "asked", **self.loop}, where="loop")

    @property
    def is_local(self) -> bool:
        """True where no other machine can reach the server."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")
