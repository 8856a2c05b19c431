"""Engines: batched, asynchronous sampling of token ids, behind one small protocol.

`Engine.sample` takes ONE request and returns ONE sample; callers start as many as they like
(``asyncio.gather``) and the engine keeps its batch full. Prompts and samples are token ids: no engine
applies a chat template, adds a BOS or re-tokenises anything (`selfcorrect.chat.ChatCodec` does, once).
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, runtime_checkable

from selfcorrect.choices import check_choices
from selfcorrect.errors import EngineError, RecipeError, RequestRefused, nearest
from selfcorrect.extras import ENGINE_EXTRAS, needs
from selfcorrect.printing import note


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
    ``watch_ids[k]`` at step t at temperature 1. A log-probability is -inf where the engine could not tell it.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str
    stop_id: int | None = None
    stop_logprob: float = 0.0
    watched: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class SamplePart:
    """What is new of a sample under way: ids, and with the last part the whole sample.

    The ids of all parts, joined, are those of the sample. ``watched`` belongs to ``token_ids`` as it does in `Sample`.
    """

    token_ids: tuple[int, ...]
    watched: tuple[tuple[float, ...], ...] = ()
    sample: Sample | None = None


@runtime_checkable
class Engine(Protocol):
    """Samples requests; safe to call from many tasks of one event loop at once."""

    name: str
    context: int | None
    """The most tokens that a prompt and its completion may have together; None: no known limit."""
    streams: bool = False
    """True where `stream` gives tokens as they are sampled; False: all of a sample in one part, once it is whole."""

    async def sample(self, request: SampleRequest) -> Sample:
        """Return one sample. Raises EngineError when the engine failed (never a partial sample)."""
        ...

    async def stream(self, request: SampleRequest) -> AsyncGenerator[SamplePart, None]:
        """Give the sample that `sample` returns, in parts; closing the generator ends the work. Errors as `sample`'s.

        Where the engine does not stream (``streams``) there is one part, the whole sample.
        """
        sample = await self.sample(request)
        yield SamplePart(sample.token_ids, sample.watched, sample)

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Return the samples of all requests in their order, from synchronous code."""
        return sample_all(self, requests)

    async def close(self) -> None:
        """Free the model, threads and connections; further calls of `sample` fail."""
        ...


def sample_all(engine: Engine, requests: Sequence[SampleRequest]) -> list[Sample]:
    """Sample every request from synchronous code and return the samples in the order of the requests."""

    async def gather() -> list[Sample]:
        return list(await asyncio.gather(*(engine.sample(request) for request in requests)))

    return asyncio.run(gather())


def check_request(request: SampleRequest, engine: str, context: int | None) -> None:
    """Refuse a request that cannot be served within ``context`` tokens (None: no known limit).

    Raises RequestRefused where its prompt is too long, EngineError where no prompt could be served with its settings.
    """
    if not request.prompt_ids or request.max_tokens < 1 or request.temperature < 0 or not 0 < request.top_p <= 1:
        raise EngineError(
            "a request needs a prompt, max_tokens >= 1, temperature >= 0 and 0 < top_p <= 1; got "
            f"{len(request.prompt_ids)} prompt tokens, max_tokens={request.max_tokens}, "
            f"temperature={request.temperature}, top_p={request.top_p}"
        )
    if context is not None and request.max_tokens >= context:
        raise EngineError(
            f"max_tokens={request.max_tokens} leaves no room for a prompt: the context of {engine} holds {context} "
            "tokens; lower max_tokens"
        )
    total = len(request.prompt_ids) + request.max_tokens
    if context is not None and total > context:
        raise RequestRefused(
            f"a prompt of {len(request.prompt_ids)} tokens and max_tokens={request.max_tokens} need {total} tokens; "
            f"the context of {engine} holds {context}: shorten the prompt or lower max_tokens",
            "prompt-too-long",
        )


def too_long(prompts: Mapping[str, int], max_tokens: int, context: int | None) -> list[str]:
    """Return the names of the prompts, given with lengths, that leave no room for ``max_tokens`` in a context."""
    return [name for name, length in prompts.items() if context is not None and length + max_tokens > context]


def length_note(prompts: Mapping[str, int], max_tokens: int, context: int | None) -> str:
    """Return, for a plan, how many prompts the context does not hold, and which; says so where none is too long."""
    longest = f"the longest prompt has {max(prompts.values(), default=0):,} tokens"
    if context is None:
        return f"{longest}; the context of the engine is not known before it is opened"
    room = f"the context holds {context:,} and a completion up to {max_tokens:,}"
    if not (beyond := too_long(prompts, max_tokens, context)):
        return f"{longest}; {room}"
    named = ", ".join(beyond[:5]) + (", …" if len(beyond) > 5 else "")
    return (
        f"{len(beyond):,} of {len(prompts):,} prompts are too long and count as prompt-too-long: {named} "
        f"({longest}; {room})"
    )


@dataclass(frozen=True, slots=True)
class EngineRecipe:
    """Which engine samples from which model. ``options`` pass through to the engine's library unchanged.

    ``transformers`` and ``vllm`` load ``model`` here; ``ray`` does so in ``replicas`` actors; ``openai`` asks servers
    that have loaded it, and needs ``model`` for the tokenizer.
    """

    model: str = "embedded"  # "embedded", a model folder or a hub id
    kind: Literal["transformers", "vllm", "openai", "ray"] = "transformers"  # which engine; see docs/engines.md
    device: str = "auto"  # auto: a GPU where there is one
    dtype: str = "auto"  # auto: the checkpoint's
    max_batch: int = 256  # requests under way at once: in the engine, at each server, or in each replica
    threads: int | None = None  # of PyTorch on a CPU; null: as many as PyTorch takes
    endpoints: tuple[str, ...] = ()  # openai: base URLs, such as http://localhost:8000/v1
    replicas: int = 1  # ray: how many
    replica: Literal["transformers", "vllm"] = "transformers"  # ray: the kind of each
    thinking: bool | None = None  # enable_thinking of the model's chat template; null: as the template has it
    actor: dict[str, Any] = field(default_factory=dict)  # ray: options of each actor: num_gpus, num_cpus, runtime_env
    options: dict[str, Any] = field(default_factory=dict)  # further settings of the engine's own library

    def __post_init__(self) -> None:
        check_choices(self)
        if min(self.max_batch, self.replicas, self.threads or 1) < 1 or self.threads == 0:
            raise RecipeError(
                f"engine: max_batch, replicas and threads are at least 1; got max_batch={self.max_batch}, "
                f"replicas={self.replicas}, threads={self.threads}"
            )

    @property
    def capacity(self) -> int:
        """Requests that the engine works on at once; a caller keeps somewhat more under way."""
        return self.max_batch * {"ray": self.replicas, "openai": max(1, len(self.endpoints))}.get(self.kind, 1)


def context_of(recipe: EngineRecipe) -> int | None:
    """Return the context of a recipe's engine as far as it is known without opening it; None: not known.

    For servers it is that of the model: they may be started with less.
    """
    from selfcorrect.chat import context_of_model

    known = [recipe.options.get(name) for name in ("max_model_len", "max_cached_tokens")]
    limits = [limit for limit in (*known, context_of_model(recipe.model)) if isinstance(limit, int)]
    return min(limits, default=None)


def open_engine(recipe: EngineRecipe) -> Engine:
    """Start the engine of a recipe; raises ModelError, MissingExtraError or EngineError with what to do."""
    if extra := ENGINE_EXTRAS.get(recipe.kind):
        needs(extra)
    note(f"loading {recipe.model} ({recipe.kind})")
    loading = {name: getattr(recipe, name) for name in ("device", "dtype", "max_batch", "threads")}
    if recipe.kind == "ray":
        from selfcorrect.engines.ray import RayEngine

        return RayEngine.start(recipe)
    if recipe.kind == "vllm":
        from selfcorrect.engines.vllm import VllmEngine

        return VllmEngine.load(recipe.model, **loading, **recipe.options)
    if recipe.kind == "openai":
        from selfcorrect.engines.server.client import OpenAIEngine

        _check_options(OpenAIEngine, recipe.options)
        return OpenAIEngine.connect(recipe.model, recipe.endpoints, recipe.max_batch, **recipe.options)
    from selfcorrect.engines.local.engine import TransformersEngine

    _check_options(TransformersEngine.load, recipe.options)
    return TransformersEngine.load(recipe.model, **loading, **recipe.options)


def _check_options(load: Callable[..., Engine], options: dict[str, Any]) -> None:
    """Raise RecipeError for an option that ``load`` does not take, or that the recipe has a key of its own for."""
    keys = {field.name for field in fields(EngineRecipe)} | {"path_or_id", "codec"}
    known = [name for name in inspect.signature(load).parameters if name not in keys]
    for option in options:
        if option not in known:
            listed = ", ".join(known) or "none"
            raise RecipeError(f"engine.options: unknown {option!r}{nearest(option, known)}; known: {listed}")
