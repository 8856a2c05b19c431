"""Engines: batched, asynchronous sampling of token ids, behind one small protocol.

`Engine.sample` takes ONE request and returns ONE sample; callers start as many as they like
(``asyncio.gather``) and the engine keeps its batch full. Prompts and samples are token ids: no engine
applies a chat template, adds a BOS or re-tokenises anything (`selfcorrect.tokens.ChatCodec` does, once).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable


def sample_seed(*identity: object) -> int:
    """Return the 63-bit seed of one sample, derived from its identity (problem id, stage, index, run seed).

    The same identity gives the same seed on every machine, so a resumed run draws the same samples.
    """
    digest = hashlib.blake2b("\0".join(map(str, identity)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One completion to sample.

    ``prompt_ids`` are final (one BOS, template applied). Sampling ends at any of ``stop_ids`` (not part of
    the result), as soon as the decoded completion contains any of ``stop_texts`` (whose tokens ARE part of
    the result), or after ``max_tokens`` (>= 1). ``temperature`` 0 is greedy. ``watch_ids`` are token ids whose
    log-probabilities are returned at every step (the verdict tokens).
    ``seed`` fixes the sample whatever else is in the batch.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    stop_ids: tuple[int, ...] = ()
    stop_texts: tuple[str, ...] = ()
    watch_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """What was sampled. ``finish`` is ``"stop"`` (a stop id), ``"text"`` (a stop text) or ``"length"``.

    ``token_ids`` excludes the stop id. ``stop_id`` is the id that ended it (None unless finish is "stop") and
    ``stop_logprob`` its log-probability. ``logprobs[t]`` is the log-probability of ``token_ids[t]`` under the
    model at the SAMPLING temperature (temperature 0: at temperature 1). ``watched[t][k]`` is the log-probability of
    ``watch_ids[k]`` at step t at temperature 1, -inf where the engine could not tell.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str
    stop_id: int | None = None
    stop_logprob: float = 0.0
    watched: tuple[tuple[float, ...], ...] = ()


@runtime_checkable
class Engine(Protocol):
    """Samples requests; safe to call from many tasks of one event loop at once."""

    name: str

    async def sample(self, request: SampleRequest) -> Sample:
        """Return one sample. Raises EngineError when the engine failed (never a partial sample)."""
        ...

    async def close(self) -> None:
        """Free the model, threads and connections; further calls of `sample` fail."""
        ...


def sample_all(engine: Engine, requests: Sequence[SampleRequest]) -> list[Sample]:
    """Sample every request from synchronous code and return the samples in the order of the requests."""

    async def gather() -> list[Sample]:
        return list(await asyncio.gather(*(engine.sample(request) for request in requests)))

    return asyncio.run(gather())


@dataclass(frozen=True, slots=True)
class EngineRecipe:
    """Which engine samples from which model. ``options`` pass through to the engine's library unchanged."""

    model: str = "embedded"
    kind: Literal["transformers"] = "transformers"
    device: str = "auto"
    dtype: str = "auto"
    max_batch: int = 256
    threads: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


def open_engine(recipe: EngineRecipe) -> Engine:
    """Start the engine of a recipe; raises ModelError or EngineError with what to do."""
    from selfcorrect.engines.transformers import TransformersEngine

    return TransformersEngine.load(
        recipe.model,
        device=recipe.device,
        dtype=recipe.dtype,
        max_batch=recipe.max_batch,
        threads=recipe.threads,
        **recipe.options,
    )
