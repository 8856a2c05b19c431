"""Where RL samples its trajectories: from the trainer's own model, or from vLLM with its weights.

``live`` samples from the very module that is trained, in its process: nothing to keep in step. ``replica`` keeps a
whole copy of the policy beside its shards, on the same device and renewed before every rollout. ``vllm`` runs vLLM in a
process of its own and hands it the weights before every rollout, through a folder in memory; its prefix cache is
emptied with them. Either way the canary compares the sampler's log-probabilities with the trainer's
(``max_logprob_gap``), and weights that were not handed over are found by it.

vLLM has its own random numbers, and its rounding depends on what else is in the batch: a resumed run is as good as an
uninterrupted one, but not the same bit for bit, as it is with ``live``.
"""

from __future__ import annotations

import asyncio
import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import Sample, SampleRequest
from selfcorrect.errors import RecipeError
from selfcorrect.train.common.distributed import fsdp_asked, has_gpu, process_count, zero3_asked
from selfcorrect.train.common.lora import is_adapted, unwrapped
from selfcorrect.train.common.models import load_model, save_merged
from selfcorrect.train.common.weights import hand_over
from selfcorrect.train.rl.rollouts import BatchSampler

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from selfcorrect.engines.local.engine import TransformersEngine

SamplerKind = Literal["live", "replica", "vllm"]


class Sampler(BatchSampler, Protocol):
    """Samples many requests at once from the weights that `follow` last saw."""

    def follow(self, model: Any) -> None:
        """Sample from the trainer's ``model`` as it is now."""

    def close(self) -> None:
        """Free what only sampling needs."""


def open_sampler(
    kind: SamplerKind, codec: ChatCodec, model: str, max_batch: int, options: dict[str, Any], bf16: bool = False
) -> Sampler:
    """Return the sampler of a recipe; ``options`` are vLLM's engine arguments, ``dtype`` and ``threads``.

    ``bf16``: the policy is trained in bf16, so a copy of it on a GPU is held in bf16.
    """
    if kind == "vllm":
        if process_count() > 1:
            raise RecipeError("sampler=vllm trains in one process; use sampler=live or replica with --launch")
        return VllmSampler(model, max_batch, options)
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

            model = unwrapped(model)  # with its adapters
            model = model if has_gpu() else _without_wrappers(model)
            self._engine = TransformersEngine(model, self._codec.tokenizer, max_batch=self._max_batch)

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Return the samples of all requests, in their order."""
        assert self._engine is not None, "follow a model first"
        return self._engine.sample_many(requests)

    @property
    def context(self) -> int | None:
        """The most tokens of a prompt and its completion together; None before a model is followed."""
        return self._engine.context if self._engine else None

    def close(self) -> None:
        """Let the module go."""
        self._engine = None


class ReplicaSampler:
    """Our transformers engine on a whole copy of the policy."""

    def __init__(self, codec: ChatCodec, model: str, max_batch: int, dtype: str) -> None:
        from selfcorrect.engines.local.engine import TransformersEngine

        copy = load_model(model, "auto", dtype).to("cuda" if has_gpu() else "cpu").eval()
        self._engine = TransformersEngine(copy, codec.tokenizer, max_batch=max_batch)

    def follow(self, model: Any) -> None:
        """Renew the copy."""
        hand_over(model, self._engine.model)

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Return the samples of all requests, in their order."""
        return self._engine.sample_many(requests)

    @property
    def context(self) -> int | None:
        """The most tokens of a prompt and its completion together."""
        return self._engine.context

    def close(self) -> None:
        """Let the copy go."""
        del self._engine


class VllmSampler:
    """vLLM beside the trainer. On a GPU that both share, ``gpu_memory_utilization`` says how much it may take."""

    def __init__(self, model: str, max_batch: int, options: dict[str, Any]) -> None:
        from selfcorrect.engines.vllm import VllmEngine

        self._engine = VllmEngine.load(model, max_batch=max_batch, **options)

    def follow(self, model: Any) -> None:
        """Hand the weights over, adapters merged into them."""
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="selfcorrect-") as folder:
            _save(model, Path(folder))
            self._engine.load_weights(folder)

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Return the samples of all requests, in their order."""
        return self._engine.sample_many(requests)

    @property
    def context(self) -> int | None:
        """The most tokens of a prompt and its completion together."""
        return self._engine.context

    def close(self) -> None:
        """End vLLM's processes."""
        asyncio.run(self._engine.close())


def _save(model: Any, folder: Path) -> None:
    """Write the weights as a model folder that vLLM reads."""
    if is_adapted(model):
        model.save_pretrained(str(folder / "adapter"))
        save_merged(folder / "adapter", folder)
    else:
        policy = {name: weight for name, weight in model.state_dict().items() if not name.startswith("value_model.")}
        model.save_pretrained(str(folder), state_dict=policy)


def _without_wrappers(model: PreTrainedModel) -> PreTrainedModel:
    """Return a view of the model with the same, live submodules and its class's own forward.

    TRL and accelerate wrap ``forward`` (fused head, bf16 autocast). Without them the engine samples in float32 with
    its own lean forward: on a CPU that is faster, and closer to what evaluation will do.
    """
    view = copy.copy(model)
    view.__dict__.pop("forward", None)
    return view
