"""`OpenAIEngine`: any server with OpenAI's completions endpoint (vLLM, SGLang, llama.cpp), or several of them at once.

Tokens, not text, are the truth of a sample, so prompts are sent as token ids and token ids must come back. A server
that gives none is refused, unless ``token_ids: retokenize`` says that its text may be tokenised here: such ids need not
be those that were sampled, and their log-probabilities are unknown (``-inf``). ``counts["re-tokenised"]`` says how many
samples they are, a warning repeats it at the end, and a text that its ids do not give back is refused.

Answers are streamed, so that a silent server is told from a slow one. What fails on the way (no connection, silence, a
stream that is cut, 408, 409, 425, 429, 5xx) is asked again, with the same seed, wherever there is room; what the server
refuses (other 4xx) is an error at once. `Endpoints` decides how much each server gets.

A server's log-probabilities are taken to be at temperature 1: at temperatures other than 0 and 1 those of the sampled
tokens are unknown. Watched ids have one where the server reports it: vLLM always, others among their likeliest five.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import httpx2

from selfcorrect.engines import Sample, SampleRequest, check_request
from selfcorrect.engines.background import BackgroundLoop
from selfcorrect.engines.completions import Completion, body
from selfcorrect.engines.endings import finished
from selfcorrect.engines.endpoints import LONGEST_PAUSE_S, Endpoint, Endpoints, pause_s
from selfcorrect.errors import EngineError, RecipeError
from selfcorrect.tokens import ChatCodec

RETRIED = {408, 409, 425, 429}
"""Client errors that pass; so do all 5xx."""

OVERLOADED = {429, 503, 504}
"""Statuses that ask for fewer requests."""

LONGEST_TOKEN = 1000
"""Characters: more than any token has."""

log = logging.getLogger(__name__)


class _Passing(Exception):
    """A failure after which the same request may succeed. ``rest_s`` is what the server asked for."""

    def __init__(self, cause: str, detail: str = "", *, accident: bool = True, rest_s: float | None = None) -> None:
        super().__init__(f"{cause} {detail}".strip())
        self.cause = cause
        self.accident = accident
        self.rest_s = rest_s


class OpenAIEngine:
    """Samples from a model that servers have loaded; see the module's text. Safe to use from several event loops.

    ``counts`` holds samples, retries by cause, and what was re-tokenised; each of ``endpoints`` has its own as well.
    """

    def __init__(
        self,
        codec: ChatCodec,
        endpoints: Sequence[str],
        *,
        max_batch: int = 256,
        token_ids: Literal["required", "retokenize"] = "required",
        served_model: str | None = None,
        server_stops: bool = True,
        retries: int = 12,
        backoff_s: float = 0.5,
        silence_s: float = 120.0,
        api_key_env: str = "OPENAI_API_KEY",
        extra: dict[str, Any] | None = None,
    ) -> None:
        if not endpoints or not all(url.startswith(("http://", "https://")) for url in endpoints):
            raise RecipeError(f"engine.endpoints: expected URLs like [http://localhost:8000/v1], got {list(endpoints)}")
        if token_ids not in ("required", "retokenize"):
            raise RecipeError(f"engine.options.token_ids: expected required or retokenize, got {token_ids!r}")
        if max_batch < 1 or retries < 0 or backoff_s <= 0 or silence_s <= 0:
            raise RecipeError(
                "engine: max_batch must be at least 1, options.retries 0, options.backoff_s and silence_s positive; "
                f"got {max_batch}, {retries}, {backoff_s} and {silence_s}"
            )
        self.codec = codec
        self.context: int | None = None
        self.counts: Counter[str] = Counter()
        self._endpoints = Endpoints(endpoints, max_batch, backoff_s)
        self.endpoints = self._endpoints.all
        self.name = f"openai:{served_model or ', '.join(endpoint.url for endpoint in self.endpoints)}"
        self._retokenize = token_ids == "retokenize"
        self._server_stops = server_stops and not self._retokenize
        self._model = served_model
        self._retries = retries
        self._backoff_s = backoff_s
        self._extra = extra or {}
        key = os.environ.get(api_key_env)
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(silence_s, connect=min(10.0, silence_s), pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
        )
        self._loop = BackgroundLoop(self.name)

    @classmethod
    def connect(cls, model: str, endpoints: Sequence[str], max_batch: int = 256, **options: Any) -> OpenAIEngine:
        """Open the engine on servers of ``model`` (a folder or hub id, read for its tokenizer).

        Options are those of the constructor. ``served_model`` is the servers' name of the model, needed where they
        serve several; ``server_stops=False`` keeps stop texts from servers that cut them out of the answer (llama.cpp);
        ``extra`` goes into every request's body. The API key is read from the environment, never from a recipe.

        Raises EngineError where no endpoint answers, or one that answers does not serve the model.
        """
        engine = cls(ChatCodec.load(model), endpoints, max_batch=max_batch, **options)
        try:
            engine._loop.call(engine._meet())
        except BaseException:
            engine._loop.stop()
            raise
        return engine

    async def sample(self, request: SampleRequest) -> Sample:
        """Return one sample, from whichever endpoint has room. Cancelling the task ends the request."""
        check_request(request, self.name, self.context)
        return await self._loop.run(self._sample(request))

    async def close(self) -> None:
        """Close the connections; samples under way fail with EngineError."""
        if self.counts["re-tokenised"]:
            log.warning(
                "%s gave text instead of token ids: %d of %d samples were re-tokenised and have no log-probabilities",
                self.name,
                self.counts["re-tokenised"],
                self.counts["samples"],
            )
        await self._loop.close(self._http.aclose())

    # -- which model -------------------------------------------------------------------------------

    async def _meet(self) -> None:
        """Learn the served model's name and context from the endpoints that are up."""
        answers = await asyncio.gather(*(self._models(endpoint) for endpoint in self.endpoints))
        if all(isinstance(answer, str) for answer in answers):
            raise EngineError("no endpoint answers:\n" + "\n".join(map(str, answers)))
        for endpoint, models in zip(self.endpoints, answers, strict=True):
            if isinstance(models, str):
                log.warning("%s; going on without it until it answers", models)
                continue
            if self._model is None and len(models) == 1:
                self._model = str(models[0].get("id"))
            served = [model for model in models if model.get("id") == self._model]
            if not served:
                listed = ", ".join(str(model.get("id")) for model in models) or "no model"
                wanted = repr(self._model) if self._model else "one model; name it by engine.options.served_model"
                raise EngineError(f"{endpoint.url} serves {listed}; expected {wanted}")
            if isinstance(context := served[0].get("max_model_len"), int):
                self.context = min(context, self.context or context)
        self.name = f"openai:{self._model}"

    async def _models(self, endpoint: Endpoint) -> list[dict[str, Any]] | str:
        try:
            response = await self._http.get(f"{endpoint.url}/models")
            response.raise_for_status()
            return [model for model in response.json()["data"] if isinstance(model, dict)]
        except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
            endpoint.failed(time.monotonic(), time.monotonic(), accident=False)
            return f"{endpoint.url}/models: {type(error).__name__}: {error}"

    # -- one request -------------------------------------------------------------------------------

    async def _sample(self, request: SampleRequest) -> Sample:
        fields = body(request, self._model or "", token_ids=not self._retokenize, server_stops=self._server_stops)
        failures = 0
        while True:
            async with self._endpoints.place() as endpoint:
                asked_at = time.monotonic()
                try:
                    completion = await self._ask(endpoint, fields | self._extra, request.stop_texts)
                except _Passing as failure:
                    failures += 1
                    endpoint.failed(asked_at, time.monotonic(), accident=failure.accident, rest_s=failure.rest_s)
                    self._count(endpoint, f"retries: {failure.cause}")
                    if failures > self._retries:
                        raise EngineError(f"gave up after {failures} failures; {endpoint.url}: {failure}") from failure
                else:
                    endpoint.answered()
                    sample = self._read(request, completion, endpoint)
                    self._count(endpoint, "samples")
                    return sample
            await asyncio.sleep(pause_s(self._backoff_s, failures))

    async def _ask(self, endpoint: Endpoint, fields: dict[str, Any], stop_texts: tuple[str, ...]) -> Completion:
        """Return the completion of a streamed answer that came whole; raises _Passing or EngineError."""
        completion = Completion()
        try:
            async with self._http.stream("POST", f"{endpoint.url}/completions", json=fields) as response:
                if response.status_code != 200:
                    said = (await response.aread()).decode(errors="replace")
                    raise _refusal(endpoint, response.status_code, said, response.headers.get("retry-after", ""))
                async for event in httpx2.EventSource(response):
                    if event.data.strip() == "[DONE]":
                        break
                    content = event.json()
                    if isinstance(content, dict) and (error := content.get("error")):  # vLLM: also what it refuses
                        code = error.get("code") if isinstance(error, dict) else None
                        raise _refusal(endpoint, code if isinstance(code, int) else 500, str(error))
                    completion.take(content)
                    if not self._server_stops and any(text in completion.text for text in stop_texts):
                        completion.finish_reason = "stop"
                        break
                    if len(completion.text) > LONGEST_TOKEN * fields["max_tokens"]:
                        raise EngineError(f"{endpoint.url} does not end at max_tokens={fields['max_tokens']}")
        except httpx2.TimeoutException as error:
            raise _Passing("silence", type(error).__name__, accident=False) from error
        except httpx2.ConnectError as error:
            raise _Passing("no connection", str(error), accident=False) from error
        except (httpx2.TransportError, httpx2.StreamError) as error:
            raise _Passing("cut stream", f"{type(error).__name__}: {error}") from error
        except (httpx2.SSEError, ValueError, RecursionError) as error:
            raise _Passing("garbled stream", str(error)[:300]) from error
        if completion.finish_reason is None:
            raise _Passing("cut stream", "it ended without a finish reason")
        if completion.finish_reason not in ("stop", "length"):
            raise _Passing("aborted", completion.finish_reason)
        return completion

    def _read(self, request: SampleRequest, completion: Completion, endpoint: Endpoint) -> Sample:
        ids, stop_id = completion.token_ids, completion.stop_reason
        decode = self.codec.decode
        if self._retokenize and ids is None:
            ids = list(self.codec.encode(completion.text))
            if decode(ids) != completion.text:
                raise EngineError(f"{endpoint.url}: {completion.text[:80]!r}… cannot be re-tokenised without a change")
            completion.logprobs, completion.likeliest = [], []
            stop_id = self.codec.turn_end  # it gave no id; this is how the template ends a turn
            self._count(endpoint, "re-tokenised")
        if ids is None:
            raise EngineError(
                f"{endpoint.url} gives text but no token ids, and text tokenised again is not what was sampled; use a "
                "server that returns them (vLLM and SGLang: return_token_ids; llama.cpp: logprobs), or accept "
                "approximate ids by engine.options.token_ids=retokenize"
            )
        if completion.prompt_ids is not None and tuple(completion.prompt_ids) != request.prompt_ids:
            raise EngineError(
                f"{endpoint.url} changed the prompt: sent {len(request.prompt_ids)} tokens that begin "
                f"{request.prompt_ids[:3]}, it used {len(completion.prompt_ids)} that begin {completion.prompt_ids[:3]}"
            )
        if "\ufffd" not in completion.text and completion.text.strip() not in decode(ids):
            raise EngineError(
                f"{endpoint.url} has another tokenizer: it read its ids as {completion.text[:80]!r}, engine.model as "
                f"{decode(ids)[:80]!r}"
            )
        try:
            return finished(
                request,
                ids,
                completion.logprobs,
                completion.watched(request.watch_ids, decode) if len(completion.likeliest) == len(ids) else [],
                stopped=completion.finish_reason == "stop",
                stop_id=stop_id if isinstance(stop_id, int) else None,
                decode=decode,
            )
        except EngineError as error:
            raise EngineError(f"{endpoint.url}: {error}") from error

    def _count(self, endpoint: Endpoint, what: str) -> None:
        endpoint.counts[what] += 1
        self.counts[what] += 1


def _refusal(endpoint: Endpoint, status: int, said: str, rest: str = "") -> Exception:
    """Return what a status other than 200 means: try again, after ``rest`` seconds if the server says so, or never."""
    said = said.strip()[:500]
    if status in RETRIED or status >= 500:
        rest_s = min(LONGEST_PAUSE_S, float(rest)) if rest.isdecimal() else None
        return _Passing(f"HTTP {status}", said, accident=status not in OVERLOADED, rest_s=rest_s)
    return EngineError(f"{endpoint.url}/completions refuses the request (HTTP {status}): {said}")
