"""`ServerFault`: what can go wrong at a server, by name, and whether the same request may succeed a second time.

The names are those of the table in ``docs/engines.md``. What fails on the way passes: it is asked again. What the
server does wrong by itself does not pass, and neither does what it refuses.
"""

from __future__ import annotations

import os
import re
from typing import Any

import httpx2

from selfcorrect.errors import EngineError, RecipeError, RequestRefused
from selfcorrect.printing import clean

RETRIED = {408, 409, 425, 429}
"""Client errors that pass; so do all 5xx."""

OVERLOADED = {429, 503, 504}
"""Statuses that ask for fewer requests."""

ABOUT_THE_REQUEST = {400, 413, 422, 451}
"""Statuses that refuse this request, and not its sender or the address."""

_TOO_LONG = re.compile(r"context[ _-](?:length|size|window)|context_length_exceeded|prompt is too long", re.IGNORECASE)

LONGEST_PAUSE_S = 60.0
LONGEST_MESSAGE = 4096  # bytes that are read of an answer which is no sample
LONGEST_LIST = 1 << 20  # bytes that are read of the list of models


class ServerFault(EngineError):
    """One fault of a server. ``passes``: the request may succeed later or elsewhere.

    ``accident`` is False where it tells that the server is overloaded or away, ``rest_s`` is what it asked for.
    """

    def __init__(
        self, name: str, detail: str = "", *, passes: bool = True, accident: bool = True, rest_s: float | None = None
    ) -> None:
        super().__init__(f"{name}: {detail}" if detail else name)
        self.name, self.passes, self.accident, self.rest_s = name, passes, accident, rest_s


def broken(name: str, detail: str) -> ServerFault:
    """Return a fault that the server would repeat: asking again is of no use."""
    return ServerFault(name, detail, passes=False)


def refusal(status: Any, said: str, rest: str = "") -> EngineError:
    """Return what a status other than 200 means: a fault that passes, one that does not, or a refused request.

    Error events within a stream have one too, or a code of any other kind, which passes.

    ``rest`` is the server's Retry-After.
    """
    said = clean(said.strip()[:500])
    if type(status) is not int or not 100 <= status < 600:
        return ServerFault("error event", said)
    if status in RETRIED or status >= 500:
        rest_s = min(LONGEST_PAUSE_S, float(rest)) if rest.isdecimal() else None
        return ServerFault(f"HTTP {status}", said, accident=status not in OVERLOADED, rest_s=rest_s)
    if status in ABOUT_THE_REQUEST:
        outcome = "prompt-too-long" if _TOO_LONG.search(said) else "refused"
        return RequestRefused(f"the server refuses the request (HTTP {status}): {said}", outcome)
    return broken(f"HTTP {status}", f"the server refuses to serve: {said}")


async def beginning(response: httpx2.Response, limit: int = LONGEST_MESSAGE) -> str:
    """Return at most ``limit`` bytes of a body as text, whatever its length; a compressed one is not unpacked."""
    if is_compressed(response):
        return "(a compressed answer, which is not read)"
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk[: limit - len(content)]
        if len(content) >= limit:
            break
    return content.decode(errors="replace")


def is_compressed(response: httpx2.Response) -> bool:
    """True for an answer with a content encoding, though none was asked for: a few bytes may unpack to gigabytes."""
    return response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity")


def read_api_key(variable: str) -> str | None:
    """Return the API key in an environment variable, None where it is unset; the key itself is in no message.

    Raises RecipeError for a key that cannot stand in an HTTP header.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        return None
    if odd := re.search(r"[^!-~]", key):
        raise RecipeError(
            f"the API key in the environment variable {variable} cannot be sent: character {odd.start() + 1} of "
            f"{len(key)} is U+{ord(odd[0]):04X}; a key is printable ASCII without blanks. Set {variable} again"
        )
    return key
