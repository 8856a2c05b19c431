"""`TransformersEngine`: asynchronous continuous batching for any causal language model of `transformers`.

It samples from a LIVE module, so reinforcement learning rolls out on the weights being trained: no copy, nothing
stale. Per-request seeds, temperatures, stop texts and watched tokens; the same request gives the same sample
whatever else is in the batch (float32; in lower precision a different batch can round differently).

The engine samples in the model's own dtype: autocast of the caller is switched off. Not covered: models whose state is
not keys and values (Mamba, linear attention), encoder-decoders, several GPUs.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from selfcorrect.chat import ChatCodec, model_path
from selfcorrect.engines import Engine, Sample, SamplePart, SampleRequest, check_request
from selfcorrect.engines.arrivals import Arrivals, tell_all
from selfcorrect.engines.local.batching import ContinuousBatch, token_bytes
from selfcorrect.engines.local.row import Row
from selfcorrect.engines.local.sampling import StopTexts
from selfcorrect.engines.local.weights import fill
from selfcorrect.errors import EngineError, ModelError
from selfcorrect.loading import model_loading, refuse_random_weights

IDLE_S = 10.0
"""The worker thread ends after so long without work; the next request starts a new one."""

MakesArrivals = Callable[[Sequence[int], Sequence[tuple[float, ...]] | None], Arrivals]

_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(slots=True, eq=False)
class AsyncRow(Row):
    """A row whose sample is awaited in an event loop."""

    loop: asyncio.AbstractEventLoop = field(kw_only=True)
    future: asyncio.Future[Sample] = field(kw_only=True)
    arrivals: Arrivals | None = None
    """Of a row that is streamed."""


class TransformersEngine(Engine):
    """Samples from one model; see the module's text. Safe to use from many tasks and several event loops.

    ``max_batch`` bounds the live rows; a CPU keeps fewer where more would be slower. ``max_cached_tokens`` bounds rows
    times the longest row (None: from the memory that is free; storage takes up to about 1.5 times as much). Do not
    train the model while `sample` is under way. ``frozen`` promises that the weights never change: what earlier calls
    computed for the beginning of a prompt is then used by later ones.
    """

    streams = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        *,
        max_batch: int = 256,
        max_cached_tokens: int | None = None,
        frozen: bool = False,
        name: str | None = None,
    ) -> None:
        config = model.config.get_text_config(decoder=True)
        unknown = set(getattr(config, "layer_types", None) or ()) - _ATTENTION_LAYERS
        if unknown or model.config.is_encoder_decoder:
            what = f"layers of type {sorted(unknown)}" if unknown else "an encoder"
            raise ModelError(f"this engine samples attention-only decoders; {model.name_or_path!r} has {what}")
        if max_batch < 1:
            raise EngineError(f"max_batch must be at least 1, got {max_batch}")
        self.model = model
        self.tokenizer = tokenizer
        self.name = name or f"transformers:{Path(str(model.name_or_path)).name or type(model).__name__}"
        self._frozen = frozen
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self._max_cached_tokens = max_cached_tokens or _affordable_tokens(model)
        self._batch = ContinuousBatch(model, max_batch=max_batch, max_cached_tokens=self._max_cached_tokens)
        self._stop_texts: dict[tuple[str, ...], StopTexts] = {}
        self._inbox: list[AsyncRow] = []
        self._unanswered: set[AsyncRow] = set()  # The worker's own: rows taken from the inbox.
        self._streamed: list[AsyncRow] = []  # The worker's own: those of them that are streamed.
        self._wake = threading.Condition()  # Guards _inbox, _worker and _closed.
        self._worker: threading.Thread | None = None
        self._closed = False
        self._stepping = threading.Lock()  # Held by whoever drives the batch.

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        threads: int | None = None,
        max_batch: int = 256,
        max_cached_tokens: int | None = None,
    ) -> TransformersEngine:
        """Load a model folder, a hub id or ``"embedded"``.

        ``device`` "auto" is CUDA where there is one; ``dtype`` "auto" is the checkpoint's; ``threads`` sets PyTorch's
        CPU threads for the whole process. Raises ModelError for a missing folder, tokenizer or chat template.
        """
        codec = ChatCodec.load(str(path_or_id))
        if threads is not None:
            torch.set_num_threads(threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        with model_loading(str(path_or_id)):
            read: Any = AutoModelForCausalLM.from_pretrained
            model, loaded = read(model_path(str(path_or_id)), dtype=dtype, output_loading_info=True)
            model.to(device)
        refuse_random_weights(str(path_or_id), loaded)
        # Out of the file's memory map: a checkpoint written over under a running engine must not change it.
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        return cls(
            model.eval(),
            codec.tokenizer,
            max_batch=max_batch,
            max_cached_tokens=max_cached_tokens,
            frozen=True,
            name=f"transformers:{Path(str(path_or_id)).name}",
        )

    def take_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Sample from other whole weights, by name, from now on; call it while nothing is sampled.

        Raises ModelError for those of another architecture.
        """
        with self._stepping:
            fill(self.model, weights)
            self._batch.forget()

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Return the samples of all requests, in their order, sampled in this thread; for synchronous callers.

        Raises EngineError for a request that cannot be served, before anything is sampled.
        """
        rows = [Row(request, stop_texts=self._check(request)) for request in requests]
        with self._stepping, self._sampling_mode():
            try:
                self._batch.waiting.extend(rows)
                while self._batch.busy:
                    if self._closed:
                        raise EngineError(f"the engine {self.name} was closed")
                    self._batch.step()
            except BaseException:
                self._batch.clear()
                raise
        return [row.sample() for row in rows]

    async def sample(self, request: SampleRequest) -> Sample:
        """Return one sample; the engine batches concurrent calls. Cancelling the task frees its slot."""
        row = self.begin(request)
        try:
            return await row.future
        finally:
            row.cancelled = not row.future.done() or row.future.cancelled()

    async def stream(self, request: SampleRequest) -> AsyncGenerator[SamplePart, None]:
        """Give one sample as its tokens are sampled, in the batch of all others. Closing it frees its slot."""
        row = self.begin(request, Arrivals)
        assert row.arrivals is not None
        try:
            async with aclosing(row.arrivals.parts(row.future)) as parts:
                async for part in parts:
                    yield part
        finally:
            row.cancelled = not row.future.done()

    def begin(self, request: SampleRequest, arrivals: MakesArrivals | None = None) -> AsyncRow:
        """Hand a request to the worker and return its row, whose ``future`` is the sample.

        ``arrivals`` makes what hears of each token of a sample that is streamed. Who wants the sample no more sets
        ``cancelled`` of the row.
        """
        loop = asyncio.get_running_loop()
        row = AsyncRow(request, stop_texts=self._check(request), loop=loop, future=loop.create_future())
        if arrivals:
            row.arrivals = arrivals(row.token_ids, row.watched if request.watch_ids else None)
        with self._wake:
            if self._closed:
                raise EngineError(f"the engine {self.name} is closed")
            self._inbox.append(row)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name=self.name, daemon=True)
                self._worker.start()
            self._wake.notify()
        return row

    async def close(self) -> None:
        """End the worker and free the cache; samples under way fail with EngineError."""
        with self._wake:
            self._closed = True
            worker = self._worker
            self._wake.notify()
        if worker is not None:
            await asyncio.to_thread(worker.join)
        with self._stepping:
            self._batch.clear()

    # -- the worker thread -------------------------------------------------------------------------

    def _work(self) -> None:
        """Serve requests until closed or idle. Every row is answered, whatever happens."""
        while True:
            with self._wake:
                if not self._inbox and not self._closed:
                    self._wake.wait(IDLE_S)
                if self._closed or not self._inbox:
                    self._worker = None
                    orphans, self._inbox = self._inbox, []
                    _answer([(row, EngineError(f"the engine {self.name} was closed")) for row in orphans])
                    return
            self._await_burst()
            with self._stepping, self._sampling_mode():
                try:
                    self._serve()
                except Exception as error:  # noqa: BLE001 - whatever it was, the waiting tasks must learn of it
                    failure = error if isinstance(error, EngineError) else _failure(self.name, error)
                    self._batch.clear()
                    with self._wake:
                        rows, self._inbox = [*self._unanswered, *self._inbox], []
                    _answer([(row, failure) for row in rows])
                self._unanswered.clear()
                self._streamed.clear()

    def _serve(self) -> None:
        """Step until nothing is live or waiting."""
        while True:
            with self._wake:
                self._batch.waiting.extend(self._inbox)
                self._unanswered.update(self._inbox)
                self._streamed += [row for row in self._inbox if row.arrivals]
                self._inbox.clear()
                closed = self._closed
            if closed:
                raise EngineError(f"the engine {self.name} was closed")
            if not self._batch.busy:
                return
            finished = [row for row in self._batch.step() if isinstance(row, AsyncRow)]
            answers = [(row, row.sample()) for row in finished]
            self._unanswered.difference_update(finished)  # before they are answered: nothing is kept of them then
            self._streamed = [row for row in self._streamed if not (row.finish or row.cancelled)]
            _answer(answers)
            tell_all(row.arrivals for row in self._streamed if row.arrivals)
            if len(self._unanswered) > self._batch.rows:  # some were cancelled
                self._unanswered = {row for row in self._unanswered if not row.cancelled}

    def _await_burst(self) -> None:
        """Give an event loop that is starting many tasks a few milliseconds, so that they are prefilled together."""
        seen = 0
        for _ in range(20):
            if len(self._inbox) == seen:
                return
            seen = len(self._inbox)
            time.sleep(0.001)

    # -- requests and modes ------------------------------------------------------------------------

    def _check(self, request: SampleRequest) -> StopTexts | None:
        """Refuse what cannot be served; return the watcher of the request's stop texts."""
        check_request(request, self.name, self.context)
        check_request(request, f"{self.name}'s cache (max_cached_tokens)", self._max_cached_tokens)
        if not request.stop_texts:
            return None
        if request.stop_texts not in self._stop_texts:
            self._stop_texts[request.stop_texts] = StopTexts(self.tokenizer, request.stop_texts)
        return self._stop_texts[request.stop_texts]

    @contextmanager
    def _sampling_mode(self) -> Iterator[None]:
        """Evaluation mode, no gradients, no autocast; afterwards every submodule is as it was."""
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        if not self._frozen:
            self._batch.forget()
        try:
            # Not inference_mode: a module may cache tensors that training uses later.
            device = self.model.device.type
            with torch.no_grad():
                if torch.is_autocast_enabled(device):
                    with torch.autocast(device, enabled=False):
                        yield
                else:  # leaving a context of autocast empties a cache that is of all threads
                    yield
        finally:
            for module in training:
                module.training = True
            if self.model.device.type == "cuda":
                self._batch.clear()  # Training needs the memory; on a CPU, keeping it saves the page faults.


def _answer(outcomes: Sequence[tuple[AsyncRow, Sample | EngineError]]) -> None:
    """Hand outcomes to the event loops that await them, one call for each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[AsyncRow, Sample | EngineError]]] = {}
    for row, outcome in outcomes:
        by_loop.setdefault(row.loop, []).append((row, outcome))
    for loop, answers in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, answers)


def _resolve(answers: list[tuple[AsyncRow, Sample | EngineError]]) -> None:
    for row, outcome in answers:
        if row.future.done():
            continue
        if isinstance(outcome, Sample):
            row.future.set_result(outcome)
        else:
            row.future.set_exception(outcome)


def _failure(name: str, error: Exception) -> EngineError:
    failure = EngineError(f"the engine {name} failed while sampling: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _affordable_tokens(model: PreTrainedModel) -> int:
    """Return how many tokens' keys and values fit in a third of the free GPU memory or a quarter of the RAM."""
    if model.device.type == "cuda":
        memory_bytes = torch.cuda.mem_get_info(model.device)[0] // 3
    else:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    return max(1, int(memory_bytes) // token_bytes(model))
