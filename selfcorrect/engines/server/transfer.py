"""`Transfer`: weights to vLLM's servers through vLLM's own weight transfer, in place of a folder.

vLLM's trainer side does the work: it opens a group with the workers of all servers, announces names, shapes and dtypes
over HTTP and broadcasts the tensors, by ``nccl`` between GPUs or by ``gloo`` between CPUs (`vllm_gloo`). The servers
are started with ``VLLM_SERVER_DEV_MODE=1`` and ``--weight-transfer-config '{"backend": "nccl"}'``.

A group is of fixed members. So a server that is lost gets no weights until the next hand-over, which makes a new group
of those that answer then.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Literal

from selfcorrect.engines.server.endpoints import Endpoint
from selfcorrect.errors import EngineError, MissingExtraError

if TYPE_CHECKING:
    from torch import Tensor

    from selfcorrect.engines.server.client import OpenAIEngine

Backend = Literal["nccl", "gloo"]

INSTALL = "pip install 'selfcorrect[vllm]' (0.32 or newer) where the training runs, too"

log = logging.getLogger(__name__)


class Transfer:
    """Hands whole weights to the servers of an engine; one process of a training has it."""

    def __init__(self, engine: OpenAIEngine, backend: Backend, address: str | None = None) -> None:
        """``address``: this machine's, as the servers reach it; None: found out."""
        try:
            import vllm.distributed.weight_transfer.factory as known
        except ImportError as error:
            raise MissingExtraError(f"vLLM's weight transfer cannot be imported ({error}): {INSTALL}") from error
        if not hasattr(known, "WeightTransferTrainerFactory"):
            raise MissingExtraError(f"this vLLM has no trainer's side of its weight transfer: {INSTALL}")
        self._engine, self._backend, self._address = engine, backend, address
        self._source = Source("cuda" if backend == "nccl" else "cpu")
        self._limit_s = engine.stall_s
        self._version = 0
        self._group: tuple[Any, dict[Endpoint, int]] | None = None  # vLLM's sender, and the members' sizes

    def send(self, weights: Sequence[tuple[str, Tensor]]) -> list[bool]:
        """Let the servers sample from these weights; return which of them do, in the order of the engine's endpoints.

        Servers that fail on the way are left out and the others are sent them again. Call it while nothing is sampled.
        Raises EngineError where a transfer does not end, or fails although all servers answer.
        """
        self._source.weights = list(weights)
        members = self._members()
        while members:
            try:
                self._attempt(members)
            except Unfinished:
                raise
            except Exception as error:
                self._leave()
                left = self._members()
                if left.keys() == members.keys():
                    raise EngineError(f"the weights could not be sent by {self._backend}: {error}") from error
                log.warning("a server failed while it was sent weights (%s); %d are left", error, len(left))
                members = left
            else:
                break
        self._source.weights = []
        which = [endpoint in members for endpoint in self._engine.endpoints]
        self._engine.use(which, None)
        return which

    def close(self) -> None:
        """Leave the group."""
        self._leave()

    def _attempt(self, members: dict[Endpoint, int]) -> None:
        """Send once. A server with another version than the last was started again, and is in no group."""
        versions = self._engine.get("/weight_info", members)
        there = all(answer.get("weight_version") == str(self._version) for answer in versions.values())
        if not self._version or not there or self._group is None or self._group[1] != members:
            self._leave()
            self._group = _within(self._limit_s, lambda: self._meet(members)), members
        sender = self._group[0]
        sender.client.version = str(self._version + 1)
        _within(self._limit_s, sender.send_weights)
        self._version += 1

    def _meet(self, members: dict[Endpoint, int]) -> Any:
        """Open a group with the workers of the members; return vLLM's sender."""
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine
        from vllm.utils.network_utils import get_ip, get_open_port

        here = all(endpoint.is_local for endpoint in members)
        address = self._address or ("127.0.0.1" if here else get_ip())
        about = {"master_address": address, "master_port": get_open_port(), "world_size": 1 + sum(members.values())}
        client = Routes(self._engine, members)
        if self._backend == "nccl":
            info = NCCLTrainerInitInfo(**about, rank=0)
            return NCCLTrainerWeightTransferEngine.trainer_init(info, client=client, source=self._source)
        from selfcorrect.engines.vllm_gloo import GlooSender, GlooTrainerInitInfo

        return GlooSender.trainer_init(GlooTrainerInitInfo(**about, rank=0), client=client, source=self._source)

    def _members(self) -> dict[Endpoint, int]:
        """Return the servers that answer, each with the number of its workers."""
        sizes = self._engine.get("/get_world_size", self._engine.endpoints)
        return {endpoint: int(answer["world_size"]) for endpoint, answer in sizes.items() if "world_size" in answer}

    def _leave(self) -> None:
        """Close the group, at both ends as far as they answer."""
        if self._group is not None:
            (sender, was), self._group = self._group, None
            self._engine.post("/shutdown_weight_transfer_engine", {one: {} for one in was})
            sender.shutdown()


class Source:
    """vLLM's ``WeightSource``: tensors that were gathered before, on the device that sends them."""

    def __init__(self, device: str) -> None:
        self.device, self.weights = device, list[tuple[str, "Tensor"]]()

    def metadata(self) -> list[Any]:
        """Declare what iteration yields."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.weights]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.weights:
            yield name, tensor.to(self.device)


class Routes:
    """vLLM's ``VLLMWeightSyncClient`` for several servers at once: each worker has a rank of its own in the group.

    Where one server refuses, EngineError, once all have answered.
    """

    def __init__(self, engine: OpenAIEngine, members: dict[Endpoint, int]) -> None:
        self.version = ""
        self._engine, self._members = engine, members

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let the workers join; returns once the group is whole."""
        rank, fields = init_info["rank_offset"], {}
        for endpoint, workers in self._members.items():
            fields[endpoint] = {"init_info": init_info | {"rank_offset": rank}}
            rank += workers
        self._post("/init_weight_transfer_engine", fields)

    def start_weight_update(self) -> None:
        """Announce that weights will come."""
        self._post("/start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        """Say which; returns once they have been received."""
        self._post("/update_weights", {endpoint: {"update_info": update_info} for endpoint in self._members})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Sample from them from now on, and forget what was computed of prompts before."""
        fields = {"weight_version": weight_version or self.version}
        self._post("/finish_weight_update", dict.fromkeys(self._members, fields))
        self._post("/reset_prefix_cache")

    def _post(self, route: str, fields: dict[Endpoint, dict[str, Any]] | None = None) -> None:
        said = self._engine.post(route, fields or {one: {} for one in self._members})
        if failed := [message for message in said.values() if message]:
            raise EngineError("; ".join(failed))


def _within(limit_s: float, work: Callable[[], Any]) -> Any:
    """Return what ``work`` returns, from a thread: NCCL waits without end for a server that died in a broadcast."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            result.set_exception(error)

    thread = threading.Thread(target=run, name="weight transfer", daemon=True)
    thread.start()
    thread.join(limit_s)
    if not result.done():
        raise Unfinished(f"no end within {limit_s:g} s (stall_s): did a server die while it was sent weights?")
    return result.result()


class Unfinished(EngineError):
    """A transfer that hangs: the processes that take part in it cannot be used any more."""
