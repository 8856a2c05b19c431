"""`Endpoints`: which of several servers gets the next request, and how many each works on at once.

Each server's share grows while it answers and is halved when it is overloaded (additive increase, multiplicative
decrease, as in TCP). One that is overloaded, cannot be reached or fails several times without an answer rests, for a
time that doubles, or as long as it asks for; a single accident says nothing about it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from selfcorrect.engines.server.faults import LONGEST_PAUSE_S
from selfcorrect.errors import EngineError
from selfcorrect.redaction import redacted_text

FIRST_LIMIT = 8.0
"""Requests under way at a server that has not answered yet."""

STRIKES = 3
"""Failures without an answer between them that are no accident."""


def pause_s(first_s: float, failures: int) -> float:
    """Return how long to wait after so many failures in a row: doubling, at random below that, at most a minute."""
    return min(LONGEST_PAUSE_S, first_s * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)


@dataclass(slots=True, eq=False)
class Endpoint:
    """One server: how many requests it is given at once, and how it has fared.

    ``url`` has no login; that is in ``auth``. ``shown`` is the URL as messages name it.
    """

    url: str
    most: int
    backoff_s: float
    limit: float = FIRST_LIMIT
    under_way: int = 0
    failures: int = 0  # since its last answer
    rests: int = 0  # since its last answer
    rested_at: float = -1.0
    resumes_at: float = 0.0
    growing: bool = True  # until the first rest
    left_out: bool = False  # gets nothing until it is taken in again
    expected: bool = False  # left out, and may soon be taken in
    counts: Counter[str] = field(default_factory=Counter)
    auth: tuple[str, str] | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        login, at, host = urlsplit(self.url).netloc.rpartition("@")
        if at:
            user, _, password = login.partition(":")
            self.auth = unquote(user), unquote(password)
            self.url = self.url.replace(f"{login}@{host}", host, 1)
        self.limit = min(self.limit, float(self.most))

    @property
    def shown(self) -> str:
        """The URL for messages: without secrets in its query, either."""
        return redacted_text(self.url)

    @property
    def is_local(self) -> bool:
        """True for a server on this machine, by its name."""
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")

    @property
    def password(self) -> str | None:
        """The login's password, or what stands in its place: a login without one is a token."""
        return self.auth and (self.auth[1] or self.auth[0])

    def has_room(self, now: float) -> bool:
        """True where one more request may be sent."""
        return self.under_way < int(self.limit) and now >= self.resumes_at and not self.left_out

    def take_in(self) -> None:
        """Begin anew with a server that has just answered."""
        self.left_out = self.expected = False
        self.failures = self.rests = 0
        self.resumes_at = 0.0

    def answered(self) -> None:
        """Grow: by one for each answer until the first rest, then by one for each round of answers."""
        self.failures = self.rests = 0
        self.limit = min(float(self.most), self.limit + (1 if self.growing else 1 / self.limit))

    def failed(self, asked_at: float, now: float, *, accident: bool, rest_s: float | None = None) -> None:
        """Halve and rest, unless it was an accident; what was asked before the last rest tells nothing new."""
        if asked_at <= self.rested_at:
            return
        self.failures += 1
        if accident and self.failures < STRIKES:
            return
        self.rests += 1
        self.growing, self.rested_at = False, now
        self.limit = max(1.0, self.limit / 2)
        self.resumes_at = now + (pause_s(self.backoff_s, self.rests) if rest_s is None else rest_s)


class Endpoints:
    """The servers of one engine and the requests that wait for them; belongs to one event loop."""

    def __init__(self, urls: Sequence[str], most: int, backoff_s: float) -> None:
        self.all = [Endpoint(url.rstrip("/"), most, backoff_s) for url in urls]
        self._waiting: deque[tuple[asyncio.Future[Endpoint], Endpoint | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def place(self, failed: Endpoint | None = None) -> AsyncIterator[Endpoint]:
        """Wait for a server with room, in order of arrival, and hold a place there.

        What has ``failed`` at one server goes to another one that has room.
        """
        place: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
        self._waiting.append((place, failed))
        self._hand_out()
        try:
            endpoint = await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave(place.result())
            raise
        try:
            yield endpoint
        finally:
            self._leave(endpoint)

    def look_again(self) -> None:
        """Give places to those who wait, after an endpoint was left out or taken in."""
        self._hand_out()

    def _leave(self, endpoint: Endpoint) -> None:
        endpoint.under_way -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        """Give places to those who wait: at the server with the most to spare. EngineError where none is left."""
        now = time.monotonic()
        if all(endpoint.left_out and not endpoint.expected for endpoint in self.all):
            for place, _ in self._waiting:
                if not place.done():
                    place.set_exception(EngineError(f"no server is left of {len(self.all)}"))
            self._waiting.clear()
        while self._waiting:
            place, failed = self._waiting[0]
            if place.done():
                self._waiting.popleft()
                continue
            ready = [endpoint for endpoint in self.all if endpoint.has_room(now)]
            if not ready:
                break
            elsewhere = [endpoint for endpoint in ready if endpoint is not failed]
            endpoint = min(elsewhere or ready, key=lambda endpoint: endpoint.under_way / endpoint.limit)
            endpoint.under_way += 1
            self._waiting.popleft()
            place.set_result(endpoint)
        rests_s = [endpoint.resumes_at - now for endpoint in self.all if endpoint.resumes_at > now]
        if self._waiting and rests_s and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(min(rests_s), self._end_rest)

    def _end_rest(self) -> None:
        self._timer = None
        self._hand_out()
