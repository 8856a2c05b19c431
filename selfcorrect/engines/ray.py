"""`RayEngine`: replicas of an engine as actors of a Ray cluster, each with its own copy of the model.

A request waits for a place at a replica, and places come free as samples are done: a fast replica gets more. A replica
that dies takes its places with it and its requests go to the others; they carry their seeds, so the samples are the
same. Ray starts it again, and once it has the weights that the others have it gets requests again. One that Ray gives
up for dead is left out from then on.

Weights other than the model's own come through Ray's object store (`RayEngine.follow`): written once, read by every
replica. Several processes can share the replicas (`RayEngine.join`), as those of a training do.

Uses the cluster of ``RAY_ADDRESS`` (or the one that this process is connected to), else starts one on this machine.
Every node needs selfcorrect and the model under the same path, or a hub id; ``actor.runtime_env`` can provide them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcorrect.chat import model_path
from selfcorrect.engines import Engine, EngineRecipe, Sample, SampleRequest, check_request, open_engine
from selfcorrect.engines.background import BackgroundLoop
from selfcorrect.errors import EngineError, MissingExtraError, RecipeError, RequestRefused
from selfcorrect.loading import SHIPPED

if TYPE_CHECKING:
    from torch import Tensor

INSTALL = "pip install 'selfcorrect[ray]'"

AUTHENTICATION = "RAY_AUTH_MODE"

NAMESPACE = "selfcorrect"
"""Of the actors' names, which tell them apart in a cluster that others use, too."""

RESTARTS = 3
"""Times that Ray starts a replica again, unless ``actor.max_restarts`` says otherwise."""

QUEUED = 1.25
"""Requests at a replica for each that it works on: it never waits for the next one to travel."""

START_S = 1800.0
"""How long all replicas may take to get their resources and load the model."""

CLOSE_S = 20.0
"""How long a replica may take to end its engine's processes before it is killed."""

PAUSE_S = 0.5
"""Between two looks whether a replica is there again."""

Packed = dict[str, tuple[Any, str, tuple[int, ...]]]
"""Weights as Ray's store holds them, readable in place: bytes (a NumPy array), dtype and shape by name."""

log = logging.getLogger(__name__)


class Replica:
    """The actor: an engine that answers from another process, from the weights of one version at a time."""

    def __init__(self, recipe: EngineRecipe) -> None:
        self.engine: Any = open_engine(recipe)
        self.version = 0  # the model's own weights
        self._taking = asyncio.Lock()

    async def facts(self) -> tuple[str, int | None, int]:
        """Return the engine's name, its context and the actor's process id."""
        return self.engine.name, self.engine.context, os.getpid()

    async def take(self, version: int, weights: Packed | None) -> None:
        """Sample from the weights of a version from now on; None: they are here, or they are the model's own.

        Several processes may bring the same ones; the first does it.
        """
        async with self._taking:
            if version != self.version and weights is not None:
                await asyncio.to_thread(self.engine.take_weights, unpacked(weights))
                self.version = version

    async def sample(self, request: SampleRequest, version: int) -> Sample | None:
        """Return one sample; None where this replica has other weights, because it was started again."""
        return await self.engine.sample(request) if version == self.version else None

    async def close(self) -> None:
        """Free the model."""
        await self.engine.close()


class Current:
    """The actor that tells the processes of a training which weights are current, and waits for them at the end."""

    def __init__(self, processes: int) -> None:
        self.published: tuple[int, list[Any]] = (0, [])
        self._others, self._all_left = processes - 1, asyncio.Event()

    async def set(self, published: tuple[int, list[Any]]) -> None:
        """Name a version and, in a list so that Ray does not send them along, the reference to its weights."""
        self.published = published

    async def get(self) -> tuple[int, list[Any]]:
        """Return what was named last."""
        return self.published

    async def leave(self) -> None:
        """Say that a process which joined needs the cluster no more."""
        self._others -= 1
        if not self._others:
            self._all_left.set()

    async def all_left(self) -> None:
        """Return once every process that joined has left: one whose cluster goes before it is ended by Ray."""
        await self._all_left.wait()


@dataclass(frozen=True, slots=True)
class Meeting:
    """What another process needs to share the replicas (`RayEngine.join`)."""

    address: str
    names: tuple[str, ...]  # of the replicas
    current: str | None  # the name of `Current`, where several processes share them
    places: int  # at each replica, for each process
    name: str
    context: int | None
    authentication: str | None  # how Ray lets processes in: for a cluster of our own it chooses token


class RayEngine(Engine):
    """Samples from replicas; see the module's text. Safe to use from several event loops.

    ``counts`` says how often this process lost a replica and took one back. ``meeting`` is for `join`.
    """

    def __init__(self, replicas: list[Any], meeting: Meeting, *, owner: bool, own_cluster: bool) -> None:
        self.name, self.context, self.meeting = meeting.name, meeting.context, meeting
        self.replicas = replicas
        self.counts: Counter[str] = Counter()
        self._owner, self._own_cluster = owner, own_cluster
        self._loop = BackgroundLoop(meeting.name)
        self._published: tuple[int, list[Any]] = (0, [])
        self._version, self._weights = self._published
        self._current: Any = None
        self._places: asyncio.Queue[tuple[Any, int] | None] = asyncio.Queue()
        self._numbers = itertools.count()
        self._offer: dict[Any, int] = {}  # the number of a replica's offer; places of earlier ones are void
        self._bringing: set[asyncio.Task[bool]] = set()
        for replica in replicas:
            self._offer[replica] = next(self._numbers)
        for _ in range(meeting.places):  # in turns, so that the first requests are spread over all
            for replica in replicas:
                self._places.put_nowait((replica, self._offer[replica]))

    @classmethod
    def start(cls, recipe: EngineRecipe, actor_class: type = Replica, processes: int = 1) -> RayEngine:
        """Start ``recipe.replicas`` actors of ``actor_class`` and wait until each has loaded the model.

        ``recipe.actor`` are options of ``ray.remote`` for each (default: one CPU, and where the cluster has GPUs as
        many as ``tensor_parallel_size``). ``processes`` will share them, this one included. Raises MissingExtraError,
        RecipeError, or EngineError with Ray's reason.
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
        options = {"max_restarts": RESTARTS, "num_cpus": 1, **recipe.actor, "max_task_retries": 0}
        if ray.cluster_resources().get("GPU"):
            options.setdefault("num_gpus", recipe.options.get("tensor_parallel_size", 1))
        places = max(1, round(QUEUED * recipe.max_batch / processes))
        options.setdefault("max_concurrency", (places + 8) * processes)
        run = secrets.token_hex(8)
        names = tuple(f"replica-{run}-{number}" for number in range(recipe.replicas))
        replicas = []
        try:
            actor = ray.remote(actor_class)
            inner = replace(recipe, kind=recipe.replica, actor={}, replicas=1)
            replicas = [actor.options(**options, name=name, namespace=NAMESPACE).remote(inner) for name in names]
            facts = ray.get([replica.facts.remote() for replica in replicas], timeout=START_S)
        except (ray.exceptions.RayError, ValueError) as error:
            _end(replicas, None, True, own_cluster)
            raise EngineError(_reason(error, recipe)) from error
        name, context, _ = facts[0]
        address, shared = ray.get_runtime_context().gcs_address, f"current-{run}" if processes > 1 else None
        meeting = Meeting(
            address, names, shared, places, f"ray:{recipe.replicas}x{name}", context, os.environ.get(AUTHENTICATION)
        )
        engine = cls(replicas, meeting, owner=True, own_cluster=own_cluster)
        if shared:
            about = {"name": shared, "namespace": NAMESPACE, "num_cpus": 0}
            engine._current = ray.remote(Current).options(**about).remote(processes)
        return engine

    @classmethod
    def join(cls, meeting: Meeting) -> RayEngine:
        """Share the replicas that another process started; closing this engine leaves them alone."""
        if meeting.authentication:
            os.environ.setdefault(AUTHENTICATION, meeting.authentication)  # read when Ray is imported
        import ray

        own_cluster = not ray.is_initialized()
        if own_cluster:
            ray.init(address=meeting.address, logging_level="error", log_to_driver=False)
        replicas = [ray.get_actor(name, namespace=NAMESPACE) for name in meeting.names]
        engine = cls(replicas, meeting, owner=False, own_cluster=own_cluster)
        engine._current = ray.get_actor(meeting.current, namespace=NAMESPACE)
        return engine

    async def sample(self, request: SampleRequest) -> Sample:
        """Return one sample from the replica whose place comes free first. Cancelling the task cancels it there."""
        check_request(request, self.name, self.context)
        return await self._loop.run(self._sample(request))

    def publish(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Put whole weights, by name, where all processes find them; the one that started the replicas calls it."""
        import ray

        self._published = self._published[0] + 1, [ray.put(packed(weights))]
        if self._current:
            ray.get(self._current.set.remote(self._published))

    def follow(self) -> None:
        """Let the replicas take the weights that were published last, and sample from them from now on.

        Returns once one of them has them; the others get requests as soon as they have. Call it while nothing is
        sampled. Raises EngineError where none takes them.
        """

        async def one_has_them() -> bool:
            self._version, self._weights = self._published if self._owner else await self._current.get.remote()
            bringing = {self._bring(replica) for replica in self.replicas}
            while bringing:
                done, bringing = await asyncio.wait(bringing, return_when=asyncio.FIRST_COMPLETED)
                if any(task.result() for task in done):
                    return True
            return False

        if not self._loop.call(one_has_them()):
            raise EngineError(f"no replica of {self.name} took the weights; what each said is above")

    async def close(self) -> None:
        """End the replicas where this engine started them, and Ray where it did; what is under way fails."""
        replicas = self.replicas if self._owner else []

        async def end() -> None:
            await asyncio.to_thread(_end, replicas, self._current, self._owner, self._own_cluster)

        await self._loop.close(end())

    async def _sample(self, request: SampleRequest) -> Sample:
        import ray

        while True:
            replica, number = await self._place()
            answer = replica.sample.remote(request, self._version)
            try:
                sample: Sample | None = await answer
            except ray.exceptions.RayActorError as error:
                self._lose(replica, number, error)  # the request goes to another
            except ray.exceptions.RayError as error:
                self._places.put_nowait((replica, number))
                cause = getattr(error, "cause", None)
                if isinstance(cause, RequestRefused):
                    raise RequestRefused(f"{self.name}: {cause}", cause.outcome) from error
                raise EngineError(f"{self.name}: {cause or error}") from error
            except asyncio.CancelledError:
                ray.cancel(answer)
                self._places.put_nowait((replica, number))
                raise
            else:
                if sample is not None:
                    self._places.put_nowait((replica, number))
                    return sample
                self._lose(replica, number, "it was started again")

    async def _place(self) -> tuple[Any, int]:
        """Wait for a place that still holds. EngineError where no replica is left."""
        while True:
            place = await self._places.get()
            if place is None:  # pass the word on
                self._places.put_nowait(None)
                raise EngineError(f"all replicas of {self.name} died, each more often than Ray starts it again")
            if place[1] == self._offer.get(place[0]):
                return place

    def _lose(self, replica: Any, number: int, why: object) -> None:
        """Take a replica's places away, once, and try to bring it back."""
        if number == self._offer.get(replica):
            self.counts["lost"] += 1
            log.warning("a replica of %s is lost; its requests go to the others: %s", self.name, str(why).strip())
            self._bring(replica, lost=True)

    def _bring(self, replica: Any, *, lost: bool = False) -> asyncio.Task[bool]:
        """Begin to bring the current weights to a replica; its places hold again once it has them."""
        number = self._offer[replica] = next(self._numbers)

        async def bring() -> bool:
            if not await self._taken(replica, number):
                return False
            self.counts["taken back"] += lost
            for _ in range(self.meeting.places):
                self._places.put_nowait((replica, number))
            return True

        task = asyncio.get_running_loop().create_task(bring())
        self._bringing.add(task)
        task.add_done_callback(self._bringing.discard)
        return task

    async def _taken(self, replica: Any, number: int) -> bool:
        """True once a replica has the current weights; False where it never will, or others look after it by now."""
        import ray

        while number == self._offer.get(replica):
            try:
                await replica.take.remote(self._version, *(self._weights or [None]))
            except ray.exceptions.ActorDiedError as error:
                self._bury(replica, error)
            except ray.exceptions.RayActorError:
                await asyncio.sleep(PAUSE_S)  # Ray is starting it again
            except ray.exceptions.RayError as error:
                self._bury(replica, getattr(error, "cause", None) or error)
            else:
                return number == self._offer.get(replica)
        return False

    def _bury(self, replica: Any, why: object) -> None:
        log.warning("a replica of %s is left out for good: %s", self.name, str(why).strip())
        self._offer.pop(replica, None)
        if replica in self.replicas:
            self.replicas.remove(replica)
        if not self.replicas:
            self._places.put_nowait(None)


def packed(weights: Iterable[tuple[str, Tensor]]) -> Packed:
    """Return weights as bytes that Ray's store keeps side by side, without a copy for each reader."""
    import torch

    def as_bytes(tensor: Tensor) -> Any:
        return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()

    return {name: (as_bytes(one), str(one.dtype).removeprefix("torch."), tuple(one.shape)) for name, one in weights}


def unpacked(weights: Packed) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of packed weights, on the bytes themselves: they may be read and not written."""
    import warnings

    import torch

    for name, (content, dtype, shape) in weights.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            flat = torch.from_numpy(content)
        yield name, flat.view(getattr(torch, dtype)).reshape(shape)


def _end(replicas: list[Any], current: Any, owner: bool, own_cluster: bool) -> None:
    import ray

    if replicas:
        ray.wait([replica.close.remote() for replica in replicas], num_returns=len(replicas), timeout=CLOSE_S)
    for replica in replicas:
        ray.kill(replica)
    if current:
        ray.wait([current.all_left.remote() if owner else current.leave.remote()], timeout=CLOSE_S)
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
