"""`ServeRecipe`: the settings of `selfcorrect serve`, checked before anything is loaded or bound."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from selfcorrect.correction.loop import LoopSettings
from selfcorrect.engines import EngineRecipe
from selfcorrect.errors import RecipeError
from selfcorrect.runs.recipes import build_recipe


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, one client and all of them may take. Times are in seconds."""

    body_bytes: int = 1_000_000
    messages: int = 256  # of one conversation
    characters: int = 200_000  # of all messages of a conversation together
    max_tokens: int = 8192  # the most that a request may ask for, all attempts and self-evaluations together
    horizon: int = 8
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
    engine: EngineRecipe = field(default_factory=EngineRecipe)
    loop: dict[str, Any] = field(default_factory=dict)  # what differs from the settings of `LoopSettings`
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        build_recipe(LoopSettings, self.loop, where="loop")
        if not 0 <= self.port <= 65535:
            raise RecipeError(f"port: expected 0 to 65535, got {self.port}")
        if self.name is not None and not re.fullmatch(r"[\w./:@-]{1,200}", self.name):
            raise RecipeError(f"name: expected letters, digits and ./:@-_ without blanks, got {self.name!r:.80}")
        for origin in self.cors:
            if not re.fullmatch(r"https?://[^/\s*]+", origin):
                raise RecipeError(f"cors: expected origins like https://example.org, got {origin!r:.80}")

    @property
    def is_local(self) -> bool:
        """True where no other machine can reach the server."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")
