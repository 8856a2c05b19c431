"""`OpenAIEngine`: any server with OpenAI's completions endpoint (vLLM, SGLang, llama.cpp), or several of them at once.

Tokens, not text, are the truth of a sample, so prompts are sent as token ids and token ids must come back. A server
that gives none is refused, unless ``token_ids: retokenize`` says that its text may be tokenised here: such ids need not
be those that were sampled, and their log-probabilities are unknown (``-inf``). ``counts["re-tokenised"]`` says how many
samples they are, a warning repeats it at the end, and a text that its ids do not give back is refused.

Answers are streamed, so that a silent server is told from a slow one. What fails on the way (no connection, silence, a
stream that is cut, 408, 409, 425, 429, 5xx) is asked again, with the same seed, wherever there is room; what a server
does wrong by itself is an error at once, and a refused request (400, 413, 422) is the outcome of its problem. All
faults have names (`selfcorrect.engines.server.faults`) and are counted. `Endpoints` decides how much each server gets.

What a server sends is hostile input: no answer is unpacked, read past what was asked for, or waited for without end.

A server's log-probabilities are taken to be at temperature 1: at temperatures other than 0 and 1 those of the sampled
tokens are unknown. Watched ids have one where the server reports it: vLLM always, others among their likeliest five.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Literal

import httpx2

from selfcorrect.chat import ChatCodec, vocabulary_size
from selfcorrect.engines import Engine, Sample, SamplePart, SampleRequest, check_request
from selfcorrect.engines.arrivals import Heard
from selfcorrect.engines.background import BackgroundLoop
from selfcorrect.engines.finish import UNKNOWN, certain, finished
from selfcorrect.engines.server.endpoints import Endpoint, Endpoints, pause_s
from selfcorrect.engines.server.faults import (
    LONGEST_LIST,
    ServerFault,
    beginning,
    broken,
    is_compressed,
    read_api_key,
    refusal,
)
from selfcorrect.engines.server.wire import STREAM_INTERVAL, Completion, body
from selfcorrect.errors import EngineError, RecipeError, RequestRefused
from selfcorrect.printing import clean
from selfcorrect.redaction import HIDDEN, redacted_text, secrets_in

GRACE_S = 2.0
"""How long the rest of a stream is waited for once its sample is whole."""

LOST = {"no connection", "silence", "no progress", "cut stream"}
"""Faults after which a server that was given weights may not have them any more."""

SHORTEST_SECRET = 4
"""Characters: a shorter password would hide parts of words in messages."""

log = logging.getLogger(__name__)


class OpenAIEngine(Engine):
    """Samples from a model that servers have loaded; see the module's text. Safe to use from several event loops.

    ``counts`` holds samples, retries and errors by name, and what was re-tokenised; each of ``endpoints`` has its own.
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
        stall_s: float = 600.0,
        total_s: float = 3600.0,
        api_key_env: str = "OPENAI_API_KEY",
        extra: dict[str, Any] | None = None,
    ) -> None:
        if not endpoints or not all(url.startswith(("http://", "https://")) for url in endpoints):
            shown = [redacted_text(url) for url in endpoints]
            raise RecipeError(f"engine.endpoints: expected URLs like [http://localhost:8000/v1], got {shown}")
        if token_ids not in ("required", "retokenize"):
            raise RecipeError(f"engine.options.token_ids: expected required or retokenize, got {token_ids!r}")
        if max_batch < 1 or retries < 0 or min(backoff_s, silence_s, stall_s, total_s) <= 0:
            raise RecipeError(
                "engine: max_batch must be at least 1, options.retries 0, options.backoff_s, silence_s, stall_s and "
                f"total_s positive; got {max_batch}, {retries}, {backoff_s}, {silence_s}, {stall_s} and {total_s}"
            )
        self.codec = codec
        self.context: int | None = None
        self.counts: Counter[str] = Counter()
        self._endpoints = Endpoints(endpoints, max_batch, backoff_s)
        self.endpoints = self._endpoints.all
        self.name = f"openai:{served_model or ', '.join(endpoint.shown for endpoint in self.endpoints)}"
        self._retokenize = token_ids == "retokenize"
        self.streams = not self._retokenize  # a text is tokenised once it is whole
        self._server_stops = server_stops and not self._retokenize
        self._model = served_model
        self._retries = retries
        self._backoff_s = backoff_s
        self.stall_s, self._total_s = stall_s, total_s
        self._extra = extra or {}
        self._vocabulary = len(codec.tokenizer)
        key = read_api_key(api_key_env)
        known = [key, *(endpoint.password for endpoint in self.endpoints), *secrets_in(self._extra)]
        self._secrets = sorted((one for one in known if one and len(one) >= SHORTEST_SECRET), key=len, reverse=True)
        self._http = httpx2.AsyncClient(
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none is kept: servers could pile them up
            timeout=httpx2.Timeout(silence_s, connect=min(10.0, silence_s), pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
        )
        self._loop = BackgroundLoop(self.name)
        self._given = False  # weights of ours, see `use`
        self._weights: str | None = None  # the folder that they are in, if they are in one
        self._offers: set[asyncio.Task[None]] = set()

    @classmethod
    def connect(cls, model: str, endpoints: Sequence[str], max_batch: int = 256, **options: Any) -> OpenAIEngine:
        """Open the engine on servers of ``model`` (a folder or hub id, read for its tokenizer).

        Options are those of the constructor. ``served_model`` is the servers' name of the model, needed where they
        serve several; ``server_stops=False`` keeps stop texts from servers that cut them out of the answer (llama.cpp);
        ``extra`` goes into every request's body. The API key is read from the environment, never from a recipe.

        Raises EngineError where no endpoint answers, or one that answers does not serve the model.
        """
        engine = cls(ChatCodec.load(model), endpoints, max_batch=max_batch, **options)
        engine._vocabulary = vocabulary_size(model, engine.codec.tokenizer)
        try:
            engine._loop.call(engine._meet())
        except EngineError as error:
            engine._loop.stop()
            raise EngineError(engine._hide(str(error))) from None
        except BaseException:
            engine._loop.stop()
            raise
        return engine

    async def sample(self, request: SampleRequest) -> Sample:
        """Return one sample, from whichever endpoint has room. Cancelling the task ends the request.

        Raises RequestRefused where the request itself cannot be served, else EngineError; no secret is in either.
        """
        check_request(request, self.name, self.context)
        return await self._hidden(self._sample(request))

    async def stream(self, request: SampleRequest) -> AsyncGenerator[SamplePart, None]:
        """Give one sample as the server streams it. Closing it ends the request.

        Where a stream is cut and asked for again, the new one must begin as the old one did: else EngineError.
        """
        check_request(request, self.name, self.context)
        heard = Heard(bool(request.watch_ids))
        work = self._hidden(self._sample(request, heard if self.streams else None))
        async with aclosing(heard.parts_of(work)) as parts:
            async for part in parts:
                yield part

    async def _hidden(self, work: Coroutine[Any, Any, Sample]) -> Sample:
        """Return a sample that is asked for in the loop of the connections; no secret is in its errors."""
        try:
            return await self._loop.run(work)
        except RequestRefused as error:
            raise RequestRefused(self._hide(str(error)), error.outcome) from None
        except EngineError as error:  # without its cause, which may show what the server sent
            raise EngineError(self._hide(str(error))) from None

    def load_weights(self, folder: str) -> list[bool]:
        """Let the servers sample from the weights of a model folder that they see; return which of them do, in order.

        For vLLM (``VLLM_SERVER_DEV_MODE=1``, ``--worker-extension-cls selfcorrect.engines.vllm_worker.NewWeights``).
        Call it while nothing is sampled: what is cached of prompts is forgotten. Servers that did not take the weights
        are left out until the next call. The folder is to stay until then, see `use`.
        """

        async def load() -> list[str | None]:
            return list(await asyncio.gather(*(self._load(one, folder) for one in self.endpoints)))

        said = self._loop.call(load())
        for message in filter(None, said):
            log.warning("%s; it is left out until it takes weights again", self._hide(message))
        which = [message is None for message in said]
        self.use(which, folder)
        return which

    def use(self, which: Sequence[bool], folder: str | None) -> None:
        """Ask the endpoints that have the current weights, alone; for a process beside the one that handed them over.

        One that is lost from here on may come back with others, so it is offered the folder of these again before it is
        asked; without a folder (`Transfer`) it is left out until the next hand-over.
        """
        for endpoint, used in zip(self.endpoints, which, strict=True):
            if used:
                endpoint.take_in()
            endpoint.left_out = not used
        self._weights, self._given = folder, True

    def get(self, route: str, endpoints: Iterable[Endpoint]) -> dict[Endpoint, dict[str, Any]]:
        """Return what those of the servers that answer say at one of vLLM's own routes; the others are logged."""

        asked = list(endpoints)

        async def all_of_them() -> list[dict[str, Any] | str]:
            return list(await asyncio.gather(*(self._get(one, route) for one in asked)))

        answers = dict(zip(asked, self._loop.call(all_of_them()), strict=True))
        for message in answers.values():
            if isinstance(message, str):
                log.warning("%s", self._hide(message))
        return {endpoint: answer for endpoint, answer in answers.items() if isinstance(answer, dict)}

    def post(self, route: str, fields: Mapping[Endpoint, dict[str, Any]]) -> dict[Endpoint, str | None]:
        """Ask servers for work at one of vLLM's own routes, all at once; return what went wrong, None where nothing."""

        async def all_of_them() -> list[str | None]:
            return list(await asyncio.gather(*(self._post(one, route, body) for one, body in fields.items())))

        said = self._loop.call(all_of_them())
        return {one: message and self._hide(message) for one, message in zip(fields, said, strict=True)}

    def _lose(self, endpoint: Endpoint, fault: ServerFault) -> None:
        endpoint.left_out, endpoint.expected = True, self._weights is not None
        self._count(endpoint, "lost")
        log.warning("%s is lost (%s); its requests go to the others", endpoint.shown, fault.name)
        if self._weights is None:
            self._endpoints.look_again()
            return
        offer = asyncio.get_running_loop().create_task(self._offer_again(endpoint))
        self._offers.add(offer)
        offer.add_done_callback(self._offers.discard)

    async def _offer_again(self, endpoint: Endpoint) -> None:
        """Take a lost server in once it has the weights; give it up after ``stall_s``."""
        folder, started, attempts = self._weights, time.monotonic(), 0
        while time.monotonic() - started < self.stall_s and folder == self._weights:
            attempts += 1
            await asyncio.sleep(pause_s(self._backoff_s, attempts))
            if folder == self._weights and await self._load(endpoint, str(folder)) is None:
                endpoint.take_in()
                self._count(endpoint, "taken back")
                break
        endpoint.expected = False
        self._endpoints.look_again()

    async def _load(self, endpoint: Endpoint, folder: str) -> str | None:
        """Return None where a server took the weights, else what went wrong."""
        steps = {"/collective_rpc": {"method": "load_new_weights", "args": [folder]}, "/reset_prefix_cache": {}}
        for route, fields in steps.items():
            if message := await self._post(endpoint, route, fields):
                return message
        return None

    async def _post(self, endpoint: Endpoint, route: str, fields: dict[str, Any]) -> str | None:
        """Return None where a server did what a route of vLLM's is for, else what went wrong."""
        address = endpoint.url.removesuffix("/v1") + route
        post = self._http.stream("POST", address, json=fields, auth=endpoint.auth, timeout=self.stall_s)
        try:
            async with asyncio.timeout(self.stall_s), post as response:
                answer = await beginning(response)
        except (httpx2.HTTPError, TimeoutError) as error:
            return f"{endpoint.shown}{route}: {type(error).__name__}: {clean(str(error))[:300]}"
        if response.status_code != 200 or '"success":false' in answer.replace(" ", ""):
            hint = " (vLLM has this route with VLLM_SERVER_DEV_MODE=1)" * (response.status_code == 404)
            return f"{endpoint.shown}{route}: HTTP {response.status_code} {clean(answer[:300])}{hint}"
        return None

    async def _get(self, endpoint: Endpoint, route: str) -> dict[str, Any] | str:
        """Return what a server says at a route of vLLM's, or what went wrong."""
        address = endpoint.url.removesuffix("/v1") + route
        try:
            async with asyncio.timeout(self.stall_s), self._http.stream("GET", address, auth=endpoint.auth) as response:
                text = await beginning(response)
            if response.status_code != 200 or not isinstance(answer := json.loads(text), dict):
                hint = " (vLLM has this route with VLLM_SERVER_DEV_MODE=1)" * (response.status_code == 404)
                return f"{endpoint.shown}{route}: HTTP {response.status_code} {clean(text[:300])}{hint}"
            return answer
        except (httpx2.HTTPError, TimeoutError, ValueError, RecursionError) as error:
            return f"{endpoint.shown}{route}: {type(error).__name__}: {clean(str(error))[:300]}"

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
        """Learn the served model's name and context from the endpoints that are up and list their models."""
        answers = await asyncio.gather(*(self._models(endpoint) for endpoint in self.endpoints))
        if all(isinstance(answer, str) for answer in answers):
            reached = any("does not list its models" in str(answer) for answer in answers)
            what = "no endpoint says what it serves" if reached else "no endpoint answers"
            raise EngineError(f"{what}:\n" + "\n".join(map(str, answers)))
        for endpoint, models in zip(self.endpoints, answers, strict=True):
            if isinstance(models, str):
                log.warning("%s; going on without it until it answers", self._hide(models))
                continue
            if models is None:
                continue
            if self._model is None and len(models) == 1:
                self._model = str(models[0].get("id"))
            served = [model for model in models if model.get("id") == self._model]
            if not served:
                listed = clean(", ".join(str(model.get("id")) for model in models)[:500]) or "no model"
                wanted = repr(self._model) if self._model else "one model; name it by engine.options.served_model"
                raise EngineError(f"{endpoint.shown} serves {listed}; expected {wanted}")
            context = served[0].get("max_model_len")
            if type(context) is int and context > 0:
                self.context = min(context, self.context or context)
        self.name = f"openai:{self._model}"

    async def _models(self, endpoint: Endpoint) -> list[dict[str, Any]] | str | None:
        """Return the models that an endpoint lists, or what went wrong; None where it lists none and one is named."""
        try:
            async with (
                asyncio.timeout(self.stall_s),
                self._http.stream("GET", f"{endpoint.url}/models", auth=endpoint.auth) as response,
            ):
                text = await beginning(response, LONGEST_LIST)
                if response.status_code != 200:
                    raise ValueError(f"HTTP {response.status_code} {clean(text.strip()[:200])}")
                return [model for model in json.loads(text)["data"] if isinstance(model, dict)]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            said = f"{endpoint.shown} does not list its models ({type(error).__name__}: {clean(str(error))[:300]})"
            if self._model is None:
                return f"{said}; name the one to use by engine.options.served_model"
            log.info("%s", self._hide(said))
            return None
        except (httpx2.HTTPError, TimeoutError) as error:
            endpoint.failed(time.monotonic(), time.monotonic(), accident=False)
            return f"{endpoint.shown}/models: {type(error).__name__}: {clean(str(error))[:500]}"

    # -- one request -------------------------------------------------------------------------------

    async def _sample(self, request: SampleRequest, heard: Heard | None = None) -> Sample:
        fields = body(
            request,
            self._model or "",
            token_ids=not self._retokenize,
            server_stops=self._server_stops,
            interval=1 if heard else STREAM_INTERVAL,
        )
        failures, asked_s = 0, 0.0
        failed: Endpoint | None = None
        while True:
            async with self._endpoints.place(failed) as endpoint:
                asked_at = time.monotonic()
                try:
                    sample = await self._ask(endpoint, request, fields | self._extra, self._total_s - asked_s, heard)
                except ServerFault as fault:
                    if not fault.passes:
                        self._count(endpoint, f"errors: {fault.name}")
                        raise EngineError(f"{endpoint.shown}: {fault}") from fault
                    failures, failed = failures + 1, endpoint
                    endpoint.failed(asked_at, time.monotonic(), accident=fault.accident, rest_s=fault.rest_s)
                    self._count(endpoint, f"retries: {fault.name}")
                    if self._given and fault.name in LOST and not endpoint.left_out:
                        self._lose(endpoint, fault)
                    if failures > self._retries:
                        raise EngineError(f"gave up after {failures} failures; {endpoint.shown}: {fault}") from fault
                except RequestRefused as refused:
                    self._count(endpoint, refused.outcome)
                    if not endpoint.counts["samples"]:  # then it may refuse whatever we ask
                        await self._ask_plainly(endpoint, fields)
                    raise RequestRefused(f"{endpoint.shown}: {refused}", refused.outcome) from refused
                else:
                    endpoint.answered()
                    self._count(endpoint, "samples")
                    return sample
                asked_s += time.monotonic() - asked_at
            await asyncio.sleep(pause_s(self._backoff_s, failures))

    async def _ask_plainly(self, endpoint: Endpoint, fields: dict[str, Any]) -> None:
        """Raise EngineError where a server that has served nothing yet refuses one token after one token, too."""
        plain = SampleRequest(tuple(fields["prompt"][:1]), max_tokens=1, stop_ids=self.codec.stop_ids)
        settings = {"prompt": list(plain.prompt_ids), "max_tokens": 1}
        try:
            await self._ask(endpoint, plain, fields | self._extra | settings, self._total_s)
        except RequestRefused as refused:
            raise EngineError(f"{endpoint.shown} refuses every request: {refused}") from refused
        except ServerFault:
            return  # it tells nothing of the request
        endpoint.answered()

    async def _ask(
        self,
        endpoint: Endpoint,
        request: SampleRequest,
        fields: dict[str, Any],
        limit_s: float,
        heard: Heard | None = None,
    ) -> Sample:
        """Return the sample of one streamed answer that came whole; raises ServerFault or RequestRefused."""
        completion = Completion(self._vocabulary, request.max_tokens)
        ends_at = asyncio.get_running_loop().time() + limit_s
        try:
            async with asyncio.timeout(min(limit_s, self.stall_s)) as deadline:
                await self._stream(endpoint, request, fields, completion, deadline, ends_at, heard)
        except TimeoutError as error:
            if asyncio.get_running_loop().time() >= ends_at and completion.finish_reason is None:
                raise broken(
                    "too slow",
                    f"no sample after {self._total_s:g} s of asking, repeats included; raise engine.options.total_s",
                ) from error
            if completion.finish_reason is None:
                raise ServerFault("no progress", f"no token within {self.stall_s:g} s", accident=False) from error
        except httpx2.TimeoutException as error:
            if completion.finish_reason is None:
                raise ServerFault("silence", type(error).__name__, accident=False) from error
        except httpx2.ConnectError as error:
            raise ServerFault("no connection", str(error), accident=False) from error
        except (httpx2.SSEError, ValueError, RecursionError) as error:
            raise ServerFault("garbled stream", clean(str(error))[:300]) from error
        except (httpx2.TransportError, httpx2.StreamError) as error:
            if completion.finish_reason is None:
                raise ServerFault("cut stream", f"{type(error).__name__}: {error}") from error
        if completion.finish_reason is None:
            raise ServerFault("cut stream", "it ended without a finish reason")
        if completion.finish_reason == "content_filter":
            raise RequestRefused("the server refuses the request (content_filter)", "refused")
        if completion.finish_reason not in ("stop", "length"):
            raise ServerFault("aborted", clean(completion.finish_reason[:100]))
        return self._read(request, completion, endpoint)

    async def _stream(
        self,
        endpoint: Endpoint,
        request: SampleRequest,
        fields: dict[str, Any],
        completion: Completion,
        deadline: asyncio.Timeout,
        ends_at: float,
        heard: Heard | None,
    ) -> None:
        """Read a streamed answer into ``completion``; each token puts the deadline off, its end brings it near."""
        now = asyncio.get_running_loop().time
        address = f"{endpoint.url}/completions"
        async with self._http.stream("POST", address, json=fields, auth=endpoint.auth) as response:
            if response.status_code != 200:
                said = await beginning(response)
                raise refusal(response.status_code, said, response.headers.get("retry-after", ""))
            if is_compressed(response):
                raise ServerFault("garbled stream", "it is compressed, although it was asked for as it is")
            async for event in httpx2.EventSource(response):
                if event.data.strip() == "[DONE]":
                    return
                content = event.json()
                if isinstance(content, dict) and (error := content.get("error")):  # vLLM: also what it refuses
                    raise refusal(error.get("code") if isinstance(error, dict) else None, str(error))
                ended = completion.finish_reason is not None
                if completion.take(content):
                    deadline.reschedule(min(ends_at, now() + self.stall_s))
                    if heard:
                        self._tell(heard, request, completion)
                if not self._server_stops and any(text in completion.text for text in request.stop_texts):
                    completion.finish_reason = completion.finish_reason or "stop"
                    return
                if completion.finish_reason is not None and not ended:
                    deadline.reschedule(min(ends_at, now() + GRACE_S))

    def _tell(self, heard: Heard, request: SampleRequest, completion: Completion) -> None:
        """Tell the reader of a stream what is certain of a completion so far."""
        ids, known = completion.token_ids or [], len(heard.ids)
        if completion.prompt_ids is not None and tuple(completion.prompt_ids) != request.prompt_ids:
            return  # an error, once it is whole
        end = certain(request, ids, self.codec.decode)
        watched: list[tuple[float, ...]] = []
        if request.watch_ids:
            watched = completion.watched(request.watch_ids, self.codec.decode, known)[: max(0, end - known)]
            watched += [(UNKNOWN,) * len(request.watch_ids)] * (end - known - len(watched))
        heard.hear(ids[:end], heard.rows[:known] + watched)

    def _read(self, request: SampleRequest, completion: Completion, endpoint: Endpoint) -> Sample:
        ids, stop_id = completion.token_ids, completion.stop_reason
        decode = self.codec.decode
        if self._retokenize and ids is None:
            ids = list(self.codec.encode(completion.text))
            if decode(ids) != completion.text:
                raise broken("re-tokenised text", f"{completion.text[:80]!r}… cannot be re-tokenised without a change")
            completion.logprobs, completion.likeliest = [], []
            stop_id = self.codec.turn_end  # it gave no id; this is how the template ends a turn
            self._count(endpoint, "re-tokenised")
        if ids is None:
            raise broken(
                "no token ids",
                "the server gives text, and text tokenised again is not what was sampled; use a server that returns "
                "token ids (vLLM and SGLang: return_token_ids; llama.cpp: logprobs), or accept approximate ids by "
                "engine.options.token_ids=retokenize",
            )
        if completion.prompt_ids is not None and tuple(completion.prompt_ids) != request.prompt_ids:
            raise broken(
                "another prompt",
                f"the server changed the prompt: sent {len(request.prompt_ids)} tokens that begin with "
                f"{request.prompt_ids[:3]}, it used {len(completion.prompt_ids)} that begin with "
                f"{completion.prompt_ids[:3]}",
            )
        if "\ufffd" not in completion.text and completion.text.strip() not in decode(ids):
            raise broken(
                "another tokenizer",
                f"the server has another tokenizer: it read its ids as {completion.text[:80]!r}, engine.model as "
                f"{decode(ids)[:80]!r}",
            )
        try:
            return finished(
                request,
                ids,
                completion.logprobs,
                completion.watched(request.watch_ids, decode) if len(completion.likeliest) == len(ids) else [],
                stopped=completion.finish_reason == "stop",
                stop_id=stop_id if type(stop_id) is int else None,
                decode=decode,
            )
        except EngineError as error:
            raise broken("unexplained end", str(error)) from error

    def _count(self, endpoint: Endpoint, what: str) -> None:
        endpoint.counts[what] += 1
        self.counts[what] += 1

    def _hide(self, message: str) -> str:
        """Return a message without the key and the passwords that a server may have sent back."""
        for secret in self._secrets:
            message = message.replace(secret, HIDDEN)
        return redacted_text(message)
