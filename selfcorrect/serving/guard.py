"""`Guard`: what every request passes before the addresses: its id, its client, the limits. An ASGI application.

It reads the whole body, at most so many bytes and for so long, so that nothing behind it waits for a client. What goes
wrong behind it is answered in OpenAI's shape and logged with the request's id; keys and texts are in no log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from selfcorrect.serving.errors import ApiError, fault
from selfcorrect.serving.keys import Keys
from selfcorrect.serving.metrics import Metrics
from selfcorrect.serving.settings import Limits, ServeRecipe

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN = ("/", "/health")
"""Addresses that need no key; so do those below ``/page/``. They tell nothing and start no work."""

TAKE_JSON = ("/v1/chat/completions", "/v1/responses")
"""Addresses that read a body, and only one that says that it is JSON: a form of another site cannot say so."""

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

log = logging.getLogger(__name__)


class Guard:
    """Wraps an ASGI application; see the module's text."""

    def __init__(self, app: Callable[..., Awaitable[None]], recipe: ServeRecipe, keys: Keys, metrics: Metrics) -> None:
        self._app, self._recipe, self._keys, self._metrics = app, recipe, keys, metrics
        self._headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        if recipe.cors:
            self._headers = [pair for pair in self._headers if pair[0] != b"cross-origin-resource-policy"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request_id = "req_" + secrets.token_hex(8)
        status = 0

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                taken = {name.lower() for name, _ in own}
                message["headers"] = own + [pair for pair in self._headers if pair[0] not in taken]
            await send(message)

        try:
            client = self._client(scope)
            scope.setdefault("state", {}).update(request_id=request_id, client=client)
            body = await self._body(scope, receive)
            if body is None:
                return
            await self._app(scope, _replayed(body, receive), answer)
        except ApiError as error:
            self._metrics.refused.labels(error.code or str(error.status)).inc()
            await _send_error(answer, error, request_id)
        except Exception as error:
            log.exception("%s: a fault while answering %s", request_id, scope["path"][:200])
            if status:
                raise
            await _send_error(answer, fault(error), request_id)
        finally:
            route = scope.get("route")
            address = getattr(route, "path", "other")
            self._metrics.requests.labels(address, str(status or "left")).inc()

    def _client(self, scope: Scope) -> str:
        """Return who asks; raises ApiError for a wrong key, or a page of another site that sends its reader here."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path, address = scope["path"], (scope.get("client") or ("unknown",))[0]
        if self._recipe.is_local and not self._is_ours(headers.get("host", "")):
            said = (
                "this server is called localhost; name others by hosts=[…] (a page of another site may have sent this)"
            )
            raise ApiError(403, said, code="unknown_host")
        if scope["method"] == "POST" and path in TAKE_JSON:
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(415, f"expected content-type: application/json, got {kind!r:.80}", code="content_type")
        if not self._keys or path in OPEN or path.startswith("/page/"):
            return f"address {address}"
        name = self._keys.client(headers.get("authorization", ""))
        if name is None:
            said = "a wrong API key" if "authorization" in headers else "an API key is needed"
            how = f"{said}: send it as the header Authorization: Bearer KEY"
            raise ApiError(401, how, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        return name

    def _is_ours(self, host: str) -> bool:
        """True for the names of this machine: any other is a page's, whose name was made to lead here."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        return name in ("localhost", "[::1]", self._recipe.host, *self._recipe.hosts) or name.startswith("127.")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body, None where the client went away; raises ApiError for one that is too long or too slow."""
        limits = self._recipe.limits
        too_long = ApiError(413, f"the body is longer than {limits.body_bytes} bytes", code="body_too_long")
        length = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"0")
        if not length.isdigit() or int(length[:20]) > limits.body_bytes:
            raise too_long
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(limits.body_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > limits.body_bytes:
                        raise too_long
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {limits.body_s:g} s", code="body_timeout") from None
        return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a receive that gives a body which was read already, and then what comes after it."""
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _send_error(send: Send, error: ApiError, request_id: str) -> None:
    body = json.dumps(error.body(request_id)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


class Places:
    """How many trajectories are under way, for each client and in all."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._gauge = limits, metrics.under_way
        self.taken: Counter[str] = Counter()

    @contextmanager
    def take(self, client: str, samples: int) -> Iterator[None]:
        """Hold places for the trajectories of a request; raises ApiError where there is no room."""
        ahead, most = self.taken[client], self._limits.per_client
        if ahead + samples > most:
            self._full(f"{samples} more would be {ahead + samples} trajectories at once; a client has {most} places")
        if self.taken.total() + samples > self._limits.in_all:
            self._full(f"all {self._limits.in_all} places are taken")
        self.taken[client] += samples
        self._gauge.inc(samples)
        try:
            yield
        finally:
            self.taken[client] -= samples
            self._gauge.dec(samples)
            if not self.taken[client]:
                del self.taken[client]

    def _full(self, why: str) -> None:
        headers = {"retry-after": "1"}
        raise ApiError(429, why, kind="rate_limit_error", code="rate_limit_exceeded", headers=headers)
