"""`make_app`: the addresses of the server, as one ASGI application. Called by `run`, and by tests."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from selfcorrect import __version__
from selfcorrect.serving.answers import Item, Reader
from selfcorrect.serving.asking import FIRST, Order
from selfcorrect.serving.chat_wire import ChatRequest, Chunks, completion
from selfcorrect.serving.chosen import Choice, chosen
from selfcorrect.serving.described import described
from selfcorrect.serving.errors import ApiError
from selfcorrect.serving.guard import Guard, Places
from selfcorrect.serving.keys import Keys
from selfcorrect.serving.metrics import Clock, Metrics
from selfcorrect.serving.page_files import KINDS, PAGE, page_files
from selfcorrect.serving.responses_wire import ResponseEvents, ResponseRequest
from selfcorrect.serving.settings import ServeRecipe
from selfcorrect.serving.sources import Finished, Source, Usage
from selfcorrect.serving.streams import Samples, UnderWay, unless_gone

ALIVE = b": waiting\n\n"
"""A comment, which clients pass over."""

GONE = Response(status_code=499)
"""Where there is nobody to answer; nothing is sent."""


class Server:
    """What the addresses share: the model, its name, who is being served."""

    def __init__(self, source: Source, name: str, recipe: ServeRecipe, keys: Keys | None = None) -> None:
        self.source, self.name, self.recipe = source, name, recipe
        self.keys = keys or Keys()
        self.metrics = Metrics()
        self.places = Places(recipe.limits, self.metrics)
        self.under_way = UnderWay()
        self.started = int(time.time())

    @asynccontextmanager
    async def samples(self, order: Order, client: str) -> AsyncIterator[Samples]:
        """Hold places for an order and give its samples, which are not begun yet; counts what is finished."""
        with self.places.take(client, order.samples):
            readers = [Reader(order.horizon, order.stops) for _ in range(order.samples)]
            samples = Samples(readers, self.under_way, self.recipe.limits.request_s)
            clock = Clock(self.metrics)
            samples.on_text = clock.spoke
            try:
                yield samples
            finally:
                done = [one for one in samples.finished if one is not None]
                for one in done:
                    self.metrics.finished(one)
                if len(done) == order.samples:
                    clock.ended()

    def streams(self, order: Order) -> list[AsyncIterator[Any]]:
        """Return the trajectories of an order, not begun yet."""
        return [self.source.stream(order.messages, asked) for asked in order.settings()]

    async def whole(self, request: Request, order: Order) -> tuple[list[Reader], list[Finished]] | None:
        """Return all that an order's trajectories hold; None where the client went away, which ends the work."""
        async with self.samples(order, request.state.client) as samples:

            async def read() -> None:
                async with aclosing(samples.items(self.streams(order))) as arriving:
                    async for _ in arriving:
                        pass

            if not await unless_gone(request.receive, read):
                self.metrics.left.inc()
                return None
            return samples.readers, [one for one in samples.finished if one is not None]


def make_app(server: Server) -> Any:
    """Return the ASGI application of a server: `Guard` around FastAPI, and CORS around both where it is wanted."""
    api = FastAPI(
        title="selfcorrect", version=__version__, docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json"
    )
    api.openapi = lambda: described(api, server.name)  # type: ignore[method-assign]
    api.add_exception_handler(ApiError, _api_error)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http_error)
    _add_about(api, server)
    _add_chat(api, server)
    _add_responses(api, server)
    if server.recipe.page:
        _add_page(api)
    guarded: Any = Guard(api, server.recipe, server.keys, server.metrics)
    if server.recipe.cors:
        guarded = CORSMiddleware(
            guarded,
            allow_origins=server.recipe.cors,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return guarded


def _add_about(api: FastAPI, server: Server) -> None:
    """The addresses that say what is here."""

    @api.get("/health")
    async def health() -> Response:
        """Say whether the server can answer: 200, or 503 where it stops or its engine is away."""
        found = await server.source.health()
        ok = bool(found["ok"]) and not server.under_way.ended
        return JSONResponse({"status": "ok" if ok else "unavailable"}, 200 if ok else 503)

    @api.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the two names of the model: with correction, and its first attempt alone."""
        return {"object": "list", "data": [_model(server, name) for name in (server.name, server.name + FIRST)]}

    @api.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """Say that a model is here."""
        if name not in (server.name, server.name + FIRST):
            raise ApiError(404, f"no model {name!r:.80}", code="model_not_found", param="model")
        return _model(server, name)

    @api.get("/metrics")
    async def metrics() -> Response:
        """Give all counts as Prometheus reads them."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _model(server: Server, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": server.started, "owned_by": "selfcorrect"}


def _add_chat(api: FastAPI, server: Server) -> None:
    """OpenAI's chat completions."""

    @api.post("/v1/chat/completions")
    async def chat(request: Request, body: ChatRequest) -> Response:
        """Answer a conversation: the final answer as content, what came before it as reasoning."""
        order = body.order(server.name, server.source.settings, server.recipe.limits)
        answer_id = "chatcmpl-" + secrets.token_hex(12)
        if body.stream:
            wire = Chunks(answer_id, order, body.wants_usage)
            return await event_stream(request, server, _events(request, server, order, wire))
        found = await server.whole(request, order)
        if found is None:
            return GONE
        choices, total = chosen(order, *found)
        return JSONResponse(completion(answer_id, order.model, choices, total))


def _add_responses(api: FastAPI, server: Server) -> None:
    """OpenAI's responses."""

    @api.post("/v1/responses")
    async def responses(request: Request, body: ResponseRequest) -> Response:
        """Answer a conversation: a reasoning item and a message."""
        order = body.order(server.name, server.source.settings, server.recipe.limits)
        wire = ResponseEvents(body, order)
        if body.stream:
            return await event_stream(request, server, _events(request, server, order, wire))
        found = await server.whole(request, order)
        if found is None:
            return GONE
        choices, total = chosen(order, *found)
        return JSONResponse(wire.whole(choices, total))


def _add_page(api: FastAPI) -> None:
    """The page at / and the files that it loads, each read once."""
    files = {name: (path.read_bytes(), KINDS[path.suffix]) for name, path in page_files().items()}
    html = (PAGE / "page.html").read_bytes()

    @api.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(html, media_type=KINDS[".html"])

    @api.get("/page/{name:path}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        if name not in files:
            raise ApiError(404, "no such file of the page", code="not_found")
        content, kind = files[name]
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})


class Wire(Protocol):
    """Turns what arrives into the bytes of one kind of stream."""

    def opening(self) -> bytes:
        """Return the first events."""
        ...

    def items(self, index: int, items: Sequence[Item]) -> bytes:
        """Return the events of what arrived at one choice."""
        ...

    def winner(self, index: int, reader: Reader) -> bytes:
        """Return the events of an answer that was voted for: all of it at once."""
        ...

    def closing(self, choices: Sequence[Choice], total: Usage) -> bytes:
        """Return the last events."""
        ...

    def failed(self, error: ApiError, request_id: str) -> bytes:
        """Return the events that end a stream whose answer failed."""
        ...


async def _events(request: Request, server: Server, order: Order, wire: Wire) -> AsyncGenerator[bytes, None]:
    """Give the events of a streamed answer; ApiError before the first one, an error event after it.

    The last events are given when the places are free again: a client that has them may ask at once.
    """
    begun = False
    try:
        async with (
            server.samples(order, request.state.client) as samples,
            aclosing(samples.items(server.streams(order))) as arriving,
        ):
            async for arrived in arriving:
                if not arrived:
                    yield ALIVE
                    continue
                sent = bytearray(b"" if begun else wire.opening())
                begun = True
                if order.votes == 1:
                    for place in sorted({place for place, _ in arrived}):
                        sent += wire.items(place, [item for at, item in arrived if at == place])
                if sent:
                    yield bytes(sent)
        choices, total = chosen(order, samples.readers, [one for one in samples.finished if one is not None])
        won = [wire.winner(index, choice.reader) for index, choice in enumerate(choices) if order.votes > 1]
        last = b"".join(won) + wire.closing(choices, total)
    except ApiError as error:
        if not begun:
            raise
        last = wire.failed(error, request.state.request_id)
    yield last


class EventStream(StreamingResponse):
    """Server-sent events to a client that reads them; one that reads nothing for ``limits.unread_s`` is left."""

    media_type = "text/event-stream"

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None], server: Server) -> None:
        super().__init__(events, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._first, self._events, self._server = first, events, server
        self._sending = False  # while a piece waits for the client to read
        self._sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events for as long as the client is there.

        Not by Starlette's task group: its cancellation waits for a moment at which the task waits for something, and
        with a busy engine there need be none.
        """
        if not await unless_gone(receive, partial(self.stream_response, send)):
            self._server.metrics.left.inc()

    async def stream_response(self, send: Send) -> None:
        """Send the events; whatever ends it, the work behind them ends with it."""
        watch = asyncio.create_task(self._watch(asyncio.current_task()))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._piece(send, self._first)
            async for piece in self._events:
                await self._piece(send, piece)
            await self._piece(send, b"", more=False)
        finally:
            watch.cancel()
            await self._events.aclose()

    async def _piece(self, send: Send, piece: bytes, more: bool = True) -> None:
        self._sending = True
        await send({"type": "http.response.body", "body": piece, "more_body": more})
        self._sending = False
        self._sent += 1

    async def _watch(self, sending: asyncio.Task[Any] | None) -> None:
        """End the sending where one piece waits so long; a timer of its own for each piece would cost more."""
        before = -1
        while sending is not None:
            await asyncio.sleep(self._server.recipe.limits.unread_s)
            if self._sending and self._sent == before:
                sending.cancel()
            before = self._sent


async def event_stream(request: Request, server: Server, events: AsyncGenerator[bytes, None]) -> Response:
    """Return the stream once its first event is there, so that what fails before has an HTTP status of its own."""
    first: list[bytes] = []

    async def begin() -> None:
        first.append(await anext(events))

    if not await unless_gone(request.receive, begin):
        server.metrics.left.inc()
        return GONE
    return EventStream(first[0], events, server)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(request.state.request_id), error.status, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    """Say which fields of a request are wrong."""
    assert isinstance(error, RequestValidationError)
    found = [
        (".".join(str(part) for part in one["loc"][1:]) or "the body", str(one["msg"])) for one in error.errors()[:5]
    ]
    said = "; ".join(f"{where[:120]}: {what}" for where, what in found)
    return await _api_error(request, ApiError(400, said, param=found[0][0][:120] if found else None))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {404: "no such address here; see /v1/models, /v1/chat/completions, /v1/responses, /health, /metrics"}
    said = known.get(error.status_code, str(error.detail))
    wrong = ApiError(error.status_code, said, code="not_found" if error.status_code == 404 else None)
    wrong.headers = dict(error.headers or {})
    return await _api_error(request, wrong)
