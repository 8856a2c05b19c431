"""`EndpointSource`: the loop by messages, at any server with OpenAI's chat completions. `selfcorrect serve --endpoint`.

It is the method ``asked`` of `selfcorrect.correction.loop` for models whose tokens nobody can see: the question,
`prompts.EVALUATE` after each attempt, `prompts.REVISE` after the verdict wrong. Which server gets a message, and when
one rests, is decided by `Endpoints`; faults have the names of `selfcorrect.engines.server.faults`. What fails before
its first text is asked again, wherever there is room. What fails after it is an error: a text that clients have seen
cannot be taken back.

What a server sends is hostile input: no answer is unpacked, read past what was asked for, or waited for without end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx2

from selfcorrect import prompts
from selfcorrect.correction.events import AttemptText, EvaluationText, Event, Judged, RevisionText, Superseded
from selfcorrect.correction.loop import LoopSettings
from selfcorrect.correction.parsing import read_attempt
from selfcorrect.correction.stop_rule import StopRule
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
from selfcorrect.engines.server.wire import LONGEST_TOKEN
from selfcorrect.errors import EngineError, InputError, RequestRefused
from selfcorrect.printing import clean
from selfcorrect.redaction import HIDDEN
from selfcorrect.serving.asking import LARGEST
from selfcorrect.serving.settings import UpstreamRecipe
from selfcorrect.serving.sources import Asked, Finished, Usage
from selfcorrect.types import Attempt, Message, Problem, SelfEvaluation, StopReason, Trajectory, Verdict
from selfcorrect.verdicts import PREFIX, parse_verdict

LONGEST_LINE = 1 << 20
"""Characters of one event; a longer one is no event."""

LIKELIEST = 5
"""Likeliest tokens to report where a verdict is written, for P(correct)."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Said:
    """One message of the model, as it arrives; ``usage`` are its tokens, read and written."""

    text: str = ""
    finish: str | None = None
    read: int = 0
    written: int = 0
    pieces: int = 0
    scores: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def cut(self) -> bool:
        """True where the token limit ended it."""
        return self.finish == "length"


class EndpointSource:
    """Answers conversations through chat servers; see the module's text. Belongs to one event loop."""

    def __init__(self, upstream: UpstreamRecipe, settings: LoopSettings) -> None:
        self.upstream, self.settings = upstream, settings
        self.model = upstream.model
        self._endpoints = Endpoints(upstream.endpoints, upstream.most, upstream.backoff_s)
        key = read_api_key(upstream.api_key_env)
        self._secrets = [one for one in (key, *(endpoint.password for endpoint in self._endpoints.all)) if one]
        self._scores = True  # until a server refuses to give log-probabilities
        self._http = httpx2.AsyncClient(
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx2.Timeout(upstream.silence_s, connect=min(10.0, upstream.silence_s), pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
        )

    async def meet(self) -> str:
        """Learn the model's name from the servers; raises EngineError where none answers or it must be named."""
        answers = [await self._models(endpoint) for endpoint in self._endpoints.all]
        found = sorted({name for names in answers if isinstance(names, list) for name in names})
        if all(isinstance(answer, str) for answer in answers) and self.model is None:
            raise EngineError("no endpoint says what it serves:\n" + "\n".join(map(str, answers)))
        for answer in answers:
            if isinstance(answer, str):
                log.warning("%s; going on without it until it answers", answer)
        if self.model is None and len(found) != 1:
            listed = clean(", ".join(found)[:500]) or "no model"
            raise EngineError(f"the endpoints serve {listed}; name one by upstream.model=…")
        self.model = self.model or found[0]
        return self.model

    async def health(self) -> dict[str, object]:
        """Ask every server for its models; one that answers is enough."""
        answers = await asyncio.gather(*(self._models(endpoint) for endpoint in self._endpoints.all))
        up = sum(isinstance(answer, list) for answer in answers)
        return {"ok": up > 0, "up": up, "endpoints": len(answers)}

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _models(self, endpoint: Endpoint) -> list[str] | str:
        """Return the names of a server's models, or what went wrong."""
        try:
            async with (
                asyncio.timeout(10.0),
                self._http.stream("GET", f"{endpoint.url}/models", auth=endpoint.auth) as response,
            ):
                text = await beginning(response, LONGEST_LIST)
                if response.status_code != 200:
                    raise ValueError(f"HTTP {response.status_code} {clean(text.strip()[:200])}")
                return [str(model["id"]) for model in json.loads(text)["data"]]
        except (httpx2.HTTPError, TimeoutError, ValueError, KeyError, TypeError, RecursionError) as error:
            return self._hide(f"{endpoint.shown}/models: {type(error).__name__}: {clean(str(error))[:300]}")

    # -- the loop ----------------------------------------------------------------------------------

    async def stream(self, messages: Sequence[Message], asked: Asked) -> AsyncIterator[Event | Finished]:
        """Give the events of one trajectory. Raises EngineError, RequestRefused where the first message is refused."""
        problem = Problem("", str(messages[-1]["content"]), "", "math")
        talk = [_asking(message) for message in messages]
        loop, horizon = self.settings, 1 if asked.first_only else asked.horizon or self.settings.horizon
        room = min(asked.budget or loop.path_tokens or math.inf, loop.path_tokens or math.inf)
        attempts: list[Attempt] = []
        evaluations: list[SelfEvaluation] = []
        read = written = last = opening = 0
        while True:
            turn, judging = len(attempts), len(attempts) > len(evaluations)
            if room < written + 1:
                stop = StopReason.LENGTH
                break
            said = Said()
            try:
                async with aclosing(
                    self._message(talk, said, asked, min(loop.max_tokens, room - written), judging)
                ) as it:
                    async for text in it:
                        if judging:
                            yield EvaluationText(turn - 1, text)
                        else:
                            yield RevisionText(turn, text) if turn else AttemptText(turn, text)
            except RequestRefused as refused:
                if not attempts:
                    raise
                stop = StopReason(refused.outcome)
                break
            read, written = read + said.read, written + said.written
            opening = opening or said.read
            if judging:
                evaluation = judged(said)
                if asked.threshold is not None and evaluation.verdict is not None:
                    decided = StopRule(threshold=asked.threshold).verdict(evaluation)
                    evaluation = SelfEvaluation(evaluation.text, decided, evaluation.p_correct)
                evaluations.append(evaluation)
                yield Judged(turn - 1, evaluation.verdict, evaluation.p_correct)
                if evaluation.verdict is not Verdict.WRONG:
                    ended = StopReason.VERDICT if evaluation.verdict else StopReason.NO_VERDICT
                    stop = StopReason.LENGTH if said.cut else ended
                    break
                yield Superseded(turn - 1)
            else:
                attempts.append(read_attempt(said.text, problem.source, said.cut))
                last = said.written
                if said.cut or len(attempts) == horizon:
                    stop = StopReason.LENGTH if said.cut else StopReason.HORIZON
                    break
            talk = [*talk, {"role": "assistant", "content": said.text}]
            talk.append({"role": "user", "content": prompts.REVISE if judging else prompts.EVALUATE})
        path = Trajectory(problem, tuple(attempts) or (Attempt(""),), tuple(evaluations), stop, seed=asked.seed)
        yield Finished(path, Usage(read, written, written - last, opening))

    # -- one message -------------------------------------------------------------------------------

    async def _message(
        self, talk: Sequence[Message], said: Said, asked: Asked, most: float, judging: bool
    ) -> AsyncGenerator[str, None]:
        """Give the pieces of one message, asked for again until its first text is there; fills ``said``."""
        failures, until = 0, time.monotonic() + self.upstream.total_s
        failed: Endpoint | None = None
        while True:
            scores = judging and self._scores
            async with self._endpoints.place(failed) as endpoint:
                asked_at = time.monotonic()
                try:
                    body = self._body(talk, asked, int(most), scores)
                    async with aclosing(self._ask(endpoint, body, said, int(most))) as pieces:
                        async for piece in pieces:
                            yield piece
                    endpoint.answered()
                    return
                except RequestRefused as refused:
                    if scores and not said.pieces:
                        log.warning("%s refuses to give log-probabilities: there is no P(correct)", endpoint.shown)
                        self._scores = False
                        continue
                    raise RequestRefused(self._hide(f"{endpoint.shown}: {refused}"), refused.outcome) from None
                except ServerFault as fault:
                    endpoint.failed(asked_at, time.monotonic(), accident=fault.accident, rest_s=fault.rest_s)
                    failures, failed = failures + 1, endpoint
                    over = failures > self.upstream.retries or time.monotonic() > until
                    if not fault.passes or said.pieces or over:
                        times = f" ({failures} times)" if failures > 1 else ""
                        raise EngineError(self._hide(f"{endpoint.shown}: {fault}{times}")) from None
            await asyncio.sleep(pause_s(self.upstream.backoff_s, failures))

    def _body(self, talk: Sequence[Message], asked: Asked, most: int, scores: bool) -> dict[str, Any]:
        """Return the JSON body of one message's request."""
        loop = self.settings
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": list(talk),
            self.upstream.max_tokens_name: most,
            "temperature": loop.temperature if asked.temperature is None else asked.temperature,
            "top_p": loop.top_p if asked.top_p is None else asked.top_p,
            "seed": asked.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if scores:
            fields |= {"logprobs": True, "top_logprobs": LIKELIEST}
        return fields | self.upstream.extra

    async def _ask(self, endpoint: Endpoint, body: dict[str, Any], said: Said, most: int) -> AsyncGenerator[str, None]:
        """Give the pieces of one streamed answer; raises ServerFault or RequestRefused."""
        try:
            request = self._http.stream("POST", f"{endpoint.url}/chat/completions", json=body, auth=endpoint.auth)
            async with asyncio.timeout(self.upstream.total_s), request as response:
                if response.status_code != 200:
                    rest = response.headers.get("retry-after", "")
                    raise refusal(response.status_code, await beginning(response), rest)
                if is_compressed(response):
                    raise broken("compressed answer", "none was asked for")
                async for event in _events(response):
                    for piece in _take(event, said, most):
                        yield piece
            if said.finish is None:
                raise ServerFault("cut stream", "it ended before the message did")
        except httpx2.TimeoutException as error:
            raise ServerFault("silence", type(error).__name__, accident=False) from error
        except TimeoutError as error:
            raise ServerFault("too slow", f"no whole message within {self.upstream.total_s:g} s") from error
        except httpx2.ConnectError as error:
            raise ServerFault("no connection", clean(str(error))[:300], accident=False) from error
        except httpx2.HTTPError as error:
            raise ServerFault("cut stream", f"{type(error).__name__}: {clean(str(error))[:300]}") from error

    def _hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text


def _asking(message: Message) -> dict[str, str]:
    """Return a message as the loop says it: each question with the instruction that a first attempt is asked with."""
    content = prompts.solve(message["content"]) if message["role"] == "user" else message["content"]
    return {"role": message["role"], "content": content}


async def _events(response: httpx2.Response) -> AsyncGenerator[Any, None]:
    """Give the values of a stream of server-sent events, to its end or ``[DONE]``."""
    rest = ""
    async for chunk in response.aiter_text():
        *lines, rest = (rest + chunk).split("\n")
        if len(rest) > LONGEST_LINE:
            raise broken("endless line", f"more than {LONGEST_LINE:,} characters in one event")
        for line in lines:
            if not line.startswith("data:"):
                continue
            text = line[5:].strip()
            if text == "[DONE]":
                return
            try:
                yield json.loads(text)
            except (ValueError, RecursionError) as error:
                raise broken("malformed event", f"not JSON: {clean(text[:200])}") from error


def _take(event: Any, said: Said, most: int) -> list[str]:
    """Add one event to a message and return the text that it brings; raises ServerFault for what is none."""
    try:
        if "error" in event:
            error = event["error"]
            shown = error.get("message", error) if isinstance(error, dict) else error
            raise ServerFault("error event", clean(str(shown))[:300])
        if usage := event.get("usage"):
            said.read, said.written = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        texts = []
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            if text := delta.get("content"):
                text.encode()  # JSON can carry half a surrogate pair
                said.text += text
                said.pieces += 1
                texts.append(text)
            if (choice.get("logprobs") or {}).get("content"):
                said.scores += choice["logprobs"]["content"]
            finish = choice.get("finish_reason")
            said.finish = finish if isinstance(finish, str) else said.finish
        if not event.get("usage"):
            said.written = max(said.written, said.pieces)  # where a server counts nothing: a piece is a token
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        shown = f"{type(error).__name__}: {error}: {clean(str(event)[:200])}"
        raise broken("malformed event", f"not an event of chat completions ({shown})") from error
    if len(said.text) > LONGEST_TOKEN * most or max(said.pieces, len(said.scores)) > most + 1:
        raise broken("no end", f"the server does not end at {most} tokens")
    return texts


def _count(usage: Mapping[str, Any], name: str) -> int:
    """Return how many tokens a server says there were; ValueError for what is no such number."""
    count = int(usage[name])
    if not 0 <= count <= LARGEST:
        raise ValueError(f"{name} is from 0 to {LARGEST}")
    return count


def judged(said: Said) -> SelfEvaluation:
    """Return the self-evaluation in a message; P(correct) where the server told of the likeliest tokens there."""
    verdict = None if said.cut else parse_verdict(said.text)
    p_correct = probability(said.text, said.scores) if verdict else None
    return SelfEvaluation(said.text, verdict, p_correct)


def probability(text: str, scores: Sequence[Mapping[str, Any]]) -> float | None:
    """Return P(correct) / (P(correct) + P(wrong)) at the token that begins the word of the mark; None: not known."""
    place, position = text.rfind(PREFIX) + len(PREFIX), 0
    try:
        for step in scores:
            token = str(step["token"])
            if position <= place < position + len(token) or (position + len(token) == place and not token):
                lead = token[: place - position].lstrip()
                return _share(step["top_logprobs"], lead)
            position += len(token)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return None


def _share(likeliest: Sequence[Mapping[str, Any]], lead: str) -> float | None:
    shares = dict.fromkeys(Verdict, 0.0)
    for one in likeliest:
        word = str(one["token"]).strip().removeprefix(lead).strip()
        for verdict in Verdict:
            if word and verdict.startswith(word.rstrip(".")):
                shares[verdict] += math.exp(min(0.0, float(one["logprob"])))
    total = sum(shares.values())
    return shares[Verdict.CORRECT] / total if total > 0 else None


def open_endpoints(upstream: UpstreamRecipe, settings: LoopSettings) -> EndpointSource:
    """Return a source; raises InputError for a method that is not done by messages."""
    if settings.method not in ("asked", "self-rewarding") or settings.stop != "sampled":
        raise InputError(
            f"behind --endpoint the model is asked message by message (loop.method=asked, loop.stop=sampled); got "
            f"method={settings.method!r}, stop={settings.stop!r}. For others give the model's folder or hub id, too: "
            "selfcorrect serve MODEL --endpoint URL"
        )
    return EndpointSource(upstream, settings)
