"""Where RL samples its trajectories: from the trainer's own model, or from an engine with its weights.

``live`` samples from the very module that is trained, in its process: nothing to keep in step. ``replica`` keeps a
whole copy of the policy beside its shards, on the same device and renewed before every rollout. ``vllm`` runs a vLLM
engine beside every training process, on its GPU (or one beside every k, on theirs: ``tensor_parallel_size: k``), asleep
while it trains; the weights are handed over before every rollout, through a folder in memory, and its prefix cache is
emptied with them. ``servers`` are vLLM servers on other
GPUs or nodes, named by URL, which load the weights before every rollout from a folder that they see; or engines that
Ray starts there, which take them from its object store. Either way the
canary compares the sampler's log-probabilities with the trainer's (``max_logprob_gap``), and weights that were not
handed over are found by it.

vLLM has its own random numbers, and its rounding depends on what else is in the batch: a resumed run is as good as an
uninterrupted one, but not the same bit for bit, as it is with ``live``.
"""

from __future__ import annotations

import asyncio
import copy
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import Engine, EngineRecipe, Sample, SampleRequest
from selfcorrect.engines.processes import by_itself, gpu_name, memory_folder
from selfcorrect.engines.shared import EngineElsewhere, SharedEngine
from selfcorrect.errors import EngineError, RecipeError, nearest
from selfcorrect.train.common.distributed import (
    fsdp_asked,
    gathered,
    has_gpu,
    local_rank,
    process_count,
    process_rank,
    wait_for_everyone,
    zero3_asked,
)
from selfcorrect.train.common.lora import unwrapped
from selfcorrect.train.common.models import load_model
from selfcorrect.train.common.weights import hand_over, policy_weights, save_policy
from selfcorrect.train.rl.rollouts import BatchSampler

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from selfcorrect.engines.local.engine import TransformersEngine
    from selfcorrect.engines.ray import RayEngine
    from selfcorrect.engines.server.client import OpenAIEngine
    from selfcorrect.engines.vllm import VllmEngine

SamplerKind = Literal["live", "replica", "vllm", "servers"]

_SPREADING = ("pipeline_parallel_size", "data_parallel_size")


class Sampler(BatchSampler, Protocol):
    """Samples many requests at once from the weights that `follow` last saw."""

    def follow(self, model: Any) -> None:
        """Sample from the trainer's ``model`` as it is now; every process must call it."""

    def rest(self) -> None:
        """Free what nobody needs until `follow` is called again; every process must call it."""

    def close(self) -> None:
        """Free what only sampling needs."""


def open_sampler(
    kind: SamplerKind, codec: ChatCodec, model: str, max_batch: int, options: dict[str, Any], bf16: bool = False
) -> Sampler:
    """Return the sampler of a recipe; ``options`` are vLLM's engine arguments, ``dtype`` and ``threads``.

    ``bf16``: the policy is trained in bf16, so a copy of it on a GPU is held in bf16.
    """
    if kind == "vllm":
        return VllmSampler(model, max_batch, options)
    if kind == "servers":
        if "replicas" in options:
            return ReplicasSampler(model, max_batch, options, bf16)
        return ServersSampler(model, max_batch, options, bf16)
    if options:
        raise RecipeError(f"sampler_options are vLLM's engine arguments, and sampler={kind}: {', '.join(options)}")
    if kind == "replica":
        return ReplicaSampler(codec, model, max_batch, "bfloat16" if bf16 and has_gpu() else "float32")
    if fsdp_asked() or zero3_asked():
        raise RecipeError(
            "sampler=live reads whole weights where they are trained, and FSDP and ZeRO-3 hold them in parts: set "
            "sampler=replica (a whole copy beside the parts), or --launch ddp or zero2"
        )
    return LiveSampler(codec, max_batch)


class LiveSampler:
    """Our transformers engine on the trainer's module."""

    def __init__(self, codec: ChatCodec, max_batch: int) -> None:
        self._codec, self._max_batch = codec, max_batch
        self._engine: TransformersEngine | None = None

    def follow(self, model: Any) -> None:
        """Bind to the module; its weights are read where they are."""
        if self._engine is None:
            from selfcorrect.engines.local.engine import TransformersEngine

            model = _without_wrappers(unwrapped(model))  # with its adapters
            self._engine = TransformersEngine(model, self._codec.tokenizer, max_batch=self._max_batch)

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Return the samples of all requests, in their order."""
        assert self._engine is not None, "follow a model first"
        return self._engine.sample_many(requests)

    @property
    def context(self) -> int | None:
        """The most tokens of a prompt and its completion together; None before a model is followed."""
        return self._engine.context if self._engine else None

    def rest(self) -> None:
        """Nothing to free: the module is being trained."""

    def close(self) -> None:
        """Let the module go."""
        self._engine = None


class _EngineSampler:
    """What samplers with an engine of their own share; each says how its engine follows the weights."""

    _engine: Engine

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Return the samples of all requests, in their order."""
        return self._engine.sample_many(requests)

    @property
    def context(self) -> int | None:
        """The most tokens of a prompt and its completion together."""
        return self._engine.context

    def rest(self) -> None:
        """Nothing is freed: the engine's memory is its own."""

    def close(self) -> None:
        """End what is being sampled and free the engine."""
        asyncio.run(self._engine.close())


class _ServedSampler(_EngineSampler):
    """One whose engine asks several servers or replicas, each of which may be lost."""

    _engine: OpenAIEngine | RayEngine

    @property
    def lost(self) -> int:
        """How often this process lost one of them."""
        return self._engine.counts["lost"]


class ReplicaSampler(_EngineSampler):
    """Our transformers engine on a whole copy of the policy."""

    _engine: TransformersEngine

    def __init__(self, codec: ChatCodec, model: str, max_batch: int, dtype: str) -> None:
        from selfcorrect.engines.local.engine import TransformersEngine

        whole: Any = load_model(model, "auto", dtype)
        whole.to("cuda" if has_gpu() else "cpu").eval()
        self._engine = TransformersEngine(whole, codec.tokenizer, max_batch=max_batch)

    def follow(self, model: Any) -> None:
        """Renew the copy."""
        hand_over(model, self._engine.model)


class VllmSampler(_EngineSampler):
    """A vLLM engine beside each training process, on its GPU; each samples what its process is to learn from.

    ``options`` are vLLM's engine arguments: ``gpu_memory_utilization`` says how much of the GPU it may take while it
    samples. With ``tensor_parallel_size: k`` every k processes of a machine share an engine: the first of them holds
    it, on the GPUs of all k, and answers the others. While the weights are trained an engine sleeps
    (``enable_sleep_mode``, on a GPU unless it is switched off).
    """

    _own: VllmEngine | None = None
    """The engine of this process, where it holds one."""

    def __init__(self, model: str, max_batch: int, options: dict[str, Any]) -> None:
        import torch

        from selfcorrect.engines.vllm import VllmEngine

        self._sharers = _sharers(options)
        first, most = self._sharers[0], max_batch * len(self._sharers)
        seen = gathered([gpu_name(torch.cuda.current_device())]) if has_gpu() and process_count() > 1 else []
        asleep = {"enable_sleep_mode": True} if has_gpu() else {}

        def start() -> None:
            if process_rank() == first:
                with by_itself([seen[rank] for rank in self._sharers if seen]):
                    self._own = VllmEngine.load(model, max_batch=most, **(asleep | options))

        _together(start)
        self._shared = SharedEngine(self._own) if self._own and len(self._sharers) > 1 else None
        told = gathered([(self._own and self._own.arguments["dtype"], self._shared and self._shared.facts)])
        name, facts = told[first]
        self._engine = self._own or EngineElsewhere(*facts)
        dtype = getattr(torch, str(name), None)
        self._dtype = dtype if isinstance(dtype, torch.dtype) else None  # what the engine would round to
        self.rest()

    def follow(self, model: Any) -> None:
        """Gather the weights, adapters merged, once for all engines of a machine, and let each load them.

        Raises EngineError, in every process, where one of the engines cannot.
        """
        name, *_ = gathered([f"selfcorrect-{secrets.token_hex(8)}"])
        folder, writes = memory_folder() / name, local_rank() == 0
        try:
            if writes:
                folder.mkdir(mode=0o700)
            save_policy(model, folder, self._dtype, writes)
            wait_for_everyone()
            _together(lambda: self._own.load_weights(folder) if self._own else None)  # after it, all have read it
        finally:
            if writes:
                shutil.rmtree(folder, ignore_errors=True)

    def rest(self) -> None:
        """Let the engine sleep, where it can, once none of those that share it samples any more."""
        if len(self._sharers) > 1:
            wait_for_everyone()
        if self._own:
            self._own.sleep()

    def close(self) -> None:
        """End vLLM's processes; what others are waiting for fails."""
        super().close()
        if self._shared:
            self._shared.close()


class ServersSampler(_ServedSampler):
    """vLLM servers, which all processes of the training share.

    ``options``: ``endpoints`` (URLs that end in /v1), ``weights`` and further options of `OpenAIEngine`. ``weights`` is
    how they are handed over: ``folder`` (in this machine's memory), a folder that the servers see under the same path,
    or vLLM's own transfer, ``nccl`` (GPUs) or ``gloo`` (CPUs); ``address`` is then this machine's, as they reach it. A
    server that is lost gets no more requests and those that it had go to the others. It is taken back as soon as it has
    loaded the current weights from the folder; by nccl and gloo at the next hand-over.
    """

    _engine: OpenAIEngine

    def __init__(self, model: str, max_batch: int, options: dict[str, Any], bf16: bool) -> None:
        import torch

        from selfcorrect.engines.server.client import OpenAIEngine
        from selfcorrect.engines.server.transfer import Transfer

        own = dict(options)
        endpoints, weights, address = own.pop("endpoints", None), own.pop("weights", None), own.pop("address", None)
        if not isinstance(endpoints, list) or not endpoints:
            raise RecipeError(
                "sampler=servers: sampler_options.endpoints is a list of URLs like http://localhost:8000/v1; or "
                "sampler_options.replicas says how many to start by Ray"
            )
        if weights == "nccl" and not has_gpu():
            raise RecipeError("sampler_options.weights=nccl is between GPUs, and this machine has none: folder or gloo")
        self._dtype = torch.bfloat16 if bf16 and has_gpu() else None
        self._engine = OpenAIEngine.connect(model, endpoints, max_batch=max_batch, **own)
        self._transfer: Transfer | None = None
        self._by_transfer = weights in ("nccl", "gloo")
        if not self._by_transfer:
            place = memory_folder() if weights in (None, "folder") else weights
            self._own = tempfile.TemporaryDirectory(dir=place, prefix="selfcorrect-weights-")
        elif process_rank() == 0:
            self._transfer = Transfer(self._engine, weights, address)
        self._version = 0

    def follow(self, model: Any) -> None:
        """Let the servers take the weights. EngineError where none does."""
        which, folder = self._transferred(model) if self._by_transfer else self._loaded(model)
        if not any(which):
            raise EngineError(f"none of the {len(which)} servers took the weights; what each said is above")
        self._engine.use(which, folder)
        if folder:
            shutil.rmtree(Path(self._own.name) / f"{self._version - 1}", ignore_errors=True)
        self._version += 1

    def _loaded(self, model: Any) -> tuple[list[bool], str]:
        """Write the weights, let the servers load them; return which did, and from where."""
        main = process_rank() == 0
        folder = Path(self._own.name) / f"{self._version}"
        save_policy(model, folder, self._dtype, writes=main)
        told = gathered([(self._engine.load_weights(str(folder)), str(folder)) if main else None])
        found: tuple[list[bool], str] = told[0]
        return found

    def _transferred(self, model: Any) -> tuple[list[bool], None]:
        """Gather the weights, all of them, before the servers are asked for anything; return which have them."""
        which: list[bool] = []
        whole: list[tuple[str, Tensor]] = []
        for name, tensor in policy_weights(model, self._dtype):
            if self._transfer:
                whole.append((name, tensor.cpu()))

        def send() -> None:
            if self._transfer:
                which.extend(self._transfer.send(whole))

        _together(send)
        return gathered([which])[0], None

    def close(self) -> None:
        """Close the connections and remove the folder; the servers go on."""
        if self._transfer:
            self._transfer.close()
        super().close()
        if not self._by_transfer:
            self._own.cleanup()


class ReplicasSampler(_ServedSampler):
    """Engines in actors of a Ray cluster, which all processes of the training share.

    ``options`` are those of ``engine.kind=ray``: ``replicas``, ``replica`` (transformers or vllm), ``actor``, and
    ``dtype``, ``device``, ``threads`` and ``options`` of each replica's engine. The weights go through Ray's object
    store, once a rollout. A replica that dies gets no more requests and those that it had go to the others; Ray starts
    it again, and it is taken back with the current weights.
    """

    _engine: RayEngine

    def __init__(self, model: str, max_batch: int, options: dict[str, Any], bf16: bool) -> None:
        import torch

        from selfcorrect.engines.ray import RayEngine

        known = ("replicas", "replica", "actor", "dtype", "device", "threads", "options")
        for name in options:
            if name not in known:
                raise RecipeError(
                    f"sampler_options: {name!r} is not known where Ray starts replicas{nearest(name, known)}; known: "
                    f"{', '.join(known)}"
                )
        recipe = EngineRecipe(model, "ray", max_batch=max_batch, **options)
        self._dtype = torch.bfloat16 if bf16 and has_gpu() else None
        processes = process_count()
        with by_itself():
            mine = [RayEngine.start(recipe, processes=processes)] if process_rank() == 0 else []
        (meeting,) = gathered([engine.meeting for engine in mine])
        self._engine = mine[0] if mine else RayEngine.join(meeting)

    def follow(self, model: Any) -> None:
        """Gather the weights, put them into Ray's store, let the replicas take them. EngineError where none does."""
        weights = policy_weights(model, self._dtype)
        if process_rank() == 0:
            self._engine.publish(weights)
        else:
            for _ in weights:
                pass  # takes part in the gathering
        wait_for_everyone()
        _together(self._engine.follow)


def _sharers(options: dict[str, Any]) -> range:
    """Return the processes, this one among them, that share a vLLM engine: ``tensor_parallel_size`` of one machine.

    A training of one process has an engine to itself, spread over as many GPUs as it asks for. Raises RecipeError.
    """
    if process_count() == 1:
        return range(1)
    if spread := [name for name in _SPREADING if options.get(name, 1) != 1]:
        raise RecipeError(
            f"sampler=vllm: each of {process_count()} training processes has one GPU, which it gives to an engine that "
            f"it may share by tensor_parallel_size alone; leave {', '.join(spread)} out, or use sampler=servers"
        )
    size = options.get("tensor_parallel_size", 1)
    if not isinstance(size, int) or size < 1:
        raise RecipeError(f"sampler_options.tensor_parallel_size: expected a whole number of at least 1, got {size!r}")
    places = gathered([local_rank()])
    machines = [rank for rank, place in enumerate(places) if place == 0]
    for begin, end in pairwise([*machines, len(places)]):
        if (end - begin) % size:
            raise RecipeError(
                f"sampler_options.tensor_parallel_size={size}: so many training processes of a machine share an "
                f"engine, and {end - begin} train on one; take a divisor of {end - begin}, or use sampler=servers"
            )
    first = process_rank() - local_rank() % size
    return range(first, first + size)


def _together(work: Callable[[], None]) -> None:
    """Let every process do its work; EngineError in all of them where it fails in one, so that none waits for it."""
    said = None
    try:
        work()
    except EngineError as error:
        said = str(error)
    failed = [(rank, error) for rank, error in enumerate(gathered([said])) if error]
    if failed:
        several = process_count() > 1
        raise EngineError("; ".join(f"process {rank}: {error}" if several else error for rank, error in failed))


def _without_wrappers(model: PreTrainedModel) -> PreTrainedModel:
    """Return a view of the model with the same, live submodules and its class's own forward.

    TRL and accelerate wrap ``forward`` (fused head, bf16 autocast). Without them the engine samples in the weights' own
    float32, on a CPU with its own lean forward: closer to what evaluation will do, and faster. On a GPU autocast casts
    every weight anew for every token: a rollout of the embedded model took 1.9 s so and takes 0.4 s (H200).
    """
    view = copy.copy(model)
    view.__dict__.pop("forward", None)
    return view
