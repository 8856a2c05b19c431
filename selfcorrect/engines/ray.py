"""`RayEngine`: replicas of an engine as actors of a Ray cluster, each with its own copy of the model.

A request waits for a place at a replica, and places come free as samples are done: a fast replica gets more. A replica
that is killed is restarted by Ray, which repeats the requests that it was working on; they carry their seeds, so the
samples are the same. A replica that Ray gives up for dead hands its requests to the others.

Uses the cluster of ``RAY_ADDRESS`` (or the one that this process is connected to), else starts one on this machine.
Every node needs selfcorrect and the model under the same path, or a hub id; ``actor.runtime_env`` can provide them.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfcorrect.chat import model_path
from selfcorrect.engines import Engine, EngineRecipe, Sample, SampleRequest, check_request, open_engine
from selfcorrect.engines.background import BackgroundLoop
from selfcorrect.errors import EngineError, MissingExtraError, RecipeError, RequestRefused
from selfcorrect.loading import SHIPPED

INSTALL = "pip install 'selfcorrect[ray]'"

RESTARTS = 3
"""Times that Ray starts a replica again, unless ``actor.max_restarts`` says otherwise."""

QUEUED = 1.25
"""Requests at a replica for each that it works on: it never waits for the next one to travel."""

START_S = 1800.0
"""How long all replicas may take to get their resources and load the model."""


CLOSE_S = 20.0
"""How long a replica may take to end its engine's processes before it is killed."""


class Replica:
    """The actor: an engine that answers from another process."""

    def __init__(self, recipe: EngineRecipe) -> None:
        self.engine = open_engine(recipe)

    async def facts(self) -> tuple[str, int | None, int]:
        """Return the engine's name, its context and the actor's process id."""
        return self.engine.name, self.engine.context, os.getpid()

    async def sample(self, request: SampleRequest) -> Sample:
        """Return one sample."""
        return await self.engine.sample(request)

    async def close(self) -> None:
        """Free the model."""
        await self.engine.close()


class RayEngine(Engine):
    """Samples from replicas; see the module's text. Safe to use from several event loops."""

    def __init__(self, replicas: list[Any], places: int, name: str, context: int | None, *, own_cluster: bool) -> None:
        self.name = name
        self.context = context
        self.replicas = replicas
        self._own_cluster = own_cluster
        self._loop = BackgroundLoop(name)
        self._places: asyncio.Queue[Any] = asyncio.Queue()
        for _ in range(places):  # in turns, so that the first requests are spread over all
            for replica in replicas:
                self._places.put_nowait(replica)

    @classmethod
    def start(cls, recipe: EngineRecipe, actor_class: type = Replica) -> RayEngine:
        """Start ``recipe.replicas`` actors of ``actor_class`` and wait until each has loaded the model.

        ``recipe.actor`` are options of ``ray.remote`` for each (default: one CPU, and where the cluster has GPUs as
        many as ``tensor_parallel_size``). Raises MissingExtraError, RecipeError, or EngineError with Ray's reason.
        """
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError(f"Ray is not installed: {INSTALL}") from error
        if recipe.replicas < 1:
            raise RecipeError(f"engine.replicas: expected at least 1, got {recipe.replicas}")
        own_cluster = not ray.is_initialized()
        if own_cluster:
            ray.init(logging_level="error", log_to_driver=False, include_dashboard=False)
        path = model_path(recipe.model)
        if Path(path).is_dir() and recipe.model not in SHIPPED:
            recipe = replace(recipe, model=str(Path(path).resolve()))
        options = {"max_restarts": RESTARTS, "max_task_retries": -1, "num_cpus": 1, **recipe.actor}
        if ray.cluster_resources().get("GPU"):
            options.setdefault("num_gpus", recipe.options.get("tensor_parallel_size", 1))
        places = max(1, round(QUEUED * recipe.max_batch))
        options.setdefault("max_concurrency", places + 8)
        replicas = []
        try:
            actor = ray.remote(actor_class).options(**options)
            inner = replace(recipe, kind=recipe.replica, actor={}, replicas=1)
            replicas = [actor.remote(inner) for _ in range(recipe.replicas)]
            facts = ray.get([replica.facts.remote() for replica in replicas], timeout=START_S)
        except (ray.exceptions.RayError, ValueError) as error:
            _end(replicas, own_cluster)
            raise EngineError(_reason(error, recipe)) from error
        name, context, _ = facts[0]
        return cls(replicas, places, f"ray:{recipe.replicas}x{name}", context, own_cluster=own_cluster)

    async def sample(self, request: SampleRequest) -> Sample:
        """Return one sample from the replica whose place comes free first. Cancelling the task cancels it there."""
        check_request(request, self.name, self.context)
        return await self._loop.run(self._sample(request))

    async def close(self) -> None:
        """End the replicas, and Ray where this engine started it; samples under way fail with EngineError."""

        async def end() -> None:
            await asyncio.to_thread(_end, self.replicas, self._own_cluster)

        await self._loop.close(end())

    async def _sample(self, request: SampleRequest) -> Sample:
        import ray

        while True:
            replica = await self._places.get()
            if replica is None:  # nobody is left: pass the word on
                self._places.put_nowait(None)
                raise EngineError(f"all replicas of {self.name} died, each more than {RESTARTS} times")
            answer = replica.sample.remote(request)
            try:
                sample: Sample = await answer
            except ray.exceptions.ActorDiedError:
                self._bury(replica)  # its place is gone; the request goes to another
            except ray.exceptions.RayError as error:
                self._places.put_nowait(replica)
                cause = getattr(error, "cause", None)
                if isinstance(cause, RequestRefused):
                    raise RequestRefused(f"{self.name}: {cause}", cause.outcome) from error
                raise EngineError(f"{self.name}: {cause or error}") from error
            except asyncio.CancelledError:
                ray.cancel(answer)
                self._places.put_nowait(replica)
                raise
            else:
                self._places.put_nowait(replica)
                return sample

    def _bury(self, replica: Any) -> None:
        if replica in self.replicas:
            self.replicas.remove(replica)
            if not self.replicas:
                self._places.put_nowait(None)


def _end(replicas: list[Any], own_cluster: bool) -> None:
    import ray

    if replicas:
        ray.wait([replica.close.remote() for replica in replicas], num_returns=len(replicas), timeout=CLOSE_S)
    for replica in replicas:
        ray.kill(replica)
    if own_cluster:
        ray.shutdown()


def _reason(error: Exception, recipe: EngineRecipe) -> str:
    import ray

    if isinstance(error, ray.exceptions.GetTimeoutError):
        return (
            f"{recipe.replicas} replicas with {recipe.actor or 'one CPU'} each did not start within {START_S:.0f} s; "
            f"the cluster has {ray.cluster_resources()}"
        )
    cause = getattr(error, "cause", None) or error
    return f"a replica could not start: {type(cause).__name__}: {str(cause).strip()[-600:]}"
