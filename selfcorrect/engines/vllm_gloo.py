"""vLLM's weight transfer over gloo: what its ``nccl`` backend does between GPUs, between processes on CPUs.

`GlooReceiver` runs in a vLLM worker and `GlooSender` in the trainer; both are vLLM's own ``nccl`` classes with another
group, one tensor a broadcast. `vllm_worker` registers the receiver as vLLM's backend ``gloo``, `server.transfer` uses
the sender. Only where vLLM is can this module be imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed import BroadcastOptions, ProcessGroupGloo, TCPStore
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo, worker_init_payload
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLTrainerInitInfo,
    NCCLTrainerWeightTransferEngine,
    NCCLWeightTransferEngine,
    NCCLWeightTransferUpdateInfo,
)

from selfcorrect.engines.vllm_worker import renew_shared_heads

LIMIT = timedelta(minutes=5)
"""For one broadcast, and for all to come together."""


class GlooGroup:
    """The trainer (rank 0) and all workers of the servers, apart from any group that a process is in already."""

    def __init__(self, address: str, port: int, rank: int, size: int) -> None:
        store = TCPStore(address, port, size, is_master=rank == 0, timeout=LIMIT)
        self._group: Any = ProcessGroupGloo(store, rank, size, LIMIT)

    def broadcast(self, tensor: Tensor) -> None:
        """Send a tensor from rank 0 into those of all others."""
        options = BroadcastOptions()
        options.rootRank = 0
        self._group.broadcast([tensor], options).wait()

    def destroy(self) -> None:
        """Leave the group."""
        del self._group


class GlooReceiver(NCCLWeightTransferEngine):
    """In a vLLM worker on a CPU: its weights, received one by one, in the format of a checkpoint."""

    def init_transfer_engine(self, init_info: NCCLWeightTransferInitInfo) -> None:
        """Join the group that the trainer opens."""
        parallel = self.parallel_config
        worker = parallel.data_parallel_index * parallel.world_size + parallel.rank
        address, port = init_info.master_address, init_info.master_port
        if address is None or port is None:
            raise ValueError("gloo meets at master_address and master_port, and knows no nccl_unique_id_b64")
        self.model_update_group: Any = GlooGroup(address, port, worker + init_info.rank_offset, init_info.world_size)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive what is announced; nothing runs beside it that would have to be waited for."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        """Load each weight as it comes."""
        if self.model_update_group is None:
            raise RuntimeError("the group is not open: /init_weight_transfer_engine comes first")
        for name, dtype, shape in zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True):
            weight = torch.empty(shape, dtype=getattr(torch, dtype))
            self.model_update_group.broadcast(weight)
            self.model.load_weights([(name, weight)])

    def finish_weight_update(self) -> None:
        """Put what was received where it is computed with."""
        super().finish_weight_update()
        renew_shared_heads(self.model)


@dataclass
class GlooTrainerInitInfo(NCCLTrainerInitInfo):
    """Where the group meets, and how many are in it."""

    backend: ClassVar[str] = "gloo"


class GlooSender(NCCLTrainerWeightTransferEngine):
    """In the trainer: opens the group and sends what vLLM's routes announce."""

    @classmethod
    def trainer_init(cls, init_info: NCCLTrainerInitInfo, *, client: Any, source: Any = None) -> GlooSender:
        """Open the group together with the workers, which wait in their request for it."""
        sender = cls(client=client, source=source, packed=False)
        about, size = (init_info.master_address, init_info.master_port), init_info.world_size
        payload = NCCLWeightTransferInitInfo(
            master_address=about[0], master_port=about[1], rank_offset=1, world_size=size
        )
        workers = ThreadPoolExecutor(max_workers=1)
        asked = workers.submit(client.init_weight_transfer_engine, worker_init_payload(payload))
        try:
            sender.model_update_group = GlooGroup(*about, 0, size)  # type: ignore[assignment]
            asked.result()
        finally:
            workers.shutdown(wait=False)
        return sender

    def _broadcast(self, source: Iterable[tuple[str, Tensor]], meta: Any) -> None:
        group: Any = self.model_update_group
        for _, tensor in self._checked_iter(source, meta):  # type: ignore[arg-type]
            group.broadcast(tensor.contiguous())
