"""A scripted engine: real protocol, known answers. The mock transport of tests and of cost studies.

The script is a function from (request, prompt text) to a `Reply`; the seed in the request makes random
scripts reproducible, so known probabilities can be tested against the samplers.
"""

from __future__ import annotations

import asyncio
import bisect
import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import Engine, Sample, SamplePart, SampleRequest, check_request
from selfcorrect.errors import EngineError


@dataclass(frozen=True, slots=True)
class Reply:
    """What the script lets the model write; ``p_correct`` is put on both verdict tokens where they are watched."""

    text: str
    p_correct: float = 0.5


Script = Callable[[SampleRequest, str], "Reply | str"]


class ScriptedEngine(Engine):
    """Answers every request by a script, honouring stop texts, stop ids and ``max_tokens``.

    ``requests`` lists what was asked, in order; ``delay_s`` maps a request to how long it takes, for
    tests of scheduling; ``context`` limits a prompt and its completion as a model does. ``streamed`` is how many parts
    of streams were taken.
    """

    streams = True

    def __init__(
        self,
        script: Script,
        codec: ChatCodec,
        delay_s: Callable[[SampleRequest], float] = lambda request: 0.0,
        context: int | None = None,
    ) -> None:
        self.name = "scripted"
        self.context = context
        self.codec = codec
        self.script = script
        self.delay_s = delay_s
        self.requests: list[SampleRequest] = []
        self.streamed = 0
        self._closed = False

    async def sample(self, request: SampleRequest) -> Sample:
        """Return the scripted sample after its delay."""
        if self._closed:
            raise EngineError("the scripted engine is closed")
        check_request(request, self.name, self.context)
        self.requests.append(request)
        await asyncio.sleep(self.delay_s(request))
        reply = self.script(request, self.codec.decode(request.prompt_ids))
        reply = Reply(reply) if isinstance(reply, str) else reply
        ids = self.codec.encode(reply.text)
        kept = self._kept(request, ids)
        finish = "stop"
        if kept < len(ids) or any(text in reply.text for text in request.stop_texts):
            finish = "text"
        if kept > request.max_tokens or (kept == request.max_tokens and finish == "stop"):
            kept, finish = request.max_tokens, "length"
        watched = tuple(self._watched(token, request.watch_ids, reply.p_correct) for token in ids[:kept])
        return Sample(
            token_ids=ids[:kept],
            logprobs=(math.log(0.5),) * kept,
            finish=finish,
            stop_id=self.codec.turn_end if finish == "stop" else None,
            stop_logprob=math.log(0.5) if finish == "stop" else 0.0,
            watched=watched if request.watch_ids else (),
        )

    async def stream(self, request: SampleRequest) -> AsyncGenerator[SamplePart, None]:
        """Give the scripted sample token by token."""
        sample = await self.sample(request)
        for place, token in enumerate(sample.token_ids):
            self.streamed += 1
            yield SamplePart((token,), sample.watched[place : place + 1])
            await asyncio.sleep(0)
        yield SamplePart((), (), sample)

    async def close(self) -> None:
        """Refuse further requests."""
        self._closed = True

    def _kept(self, request: SampleRequest, ids: tuple[int, ...]) -> int:
        stopped = lambda end: any(stop in self.codec.decode(ids[:end]) for stop in request.stop_texts)
        if not request.stop_texts or not stopped(len(ids)):
            return len(ids)
        return bisect.bisect_left(range(len(ids)), True, key=stopped)

    def _watched(self, token: int, watch_ids: tuple[int, ...], p_correct: float) -> tuple[float, ...]:
        if token not in watch_ids or len(watch_ids) != 2:
            return tuple(math.log(0.5) if token == watched else -30.0 for watched in watch_ids)
        return (math.log(p_correct), math.log1p(-p_correct))
