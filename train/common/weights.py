"""Whole weights out of a model that may be sharded: the one place that gathers, parameter by parameter.

Who shards is asked of the parameters themselves, not of accelerate, which makes plain DDP of an FSDP plugin on a CPU
without a word: a DTensor is whole after ``full_tensor()``, a parameter of ZeRO-3 after DeepSpeed's gather, any other
is whole already. Every process must go through the same call: gathering is done by all of them, in the order of the
model's parameters. So gather first and talk to an engine after, or the processes wait for one another.

One parameter is whole at a time, so a process needs no more than its shards and the largest parameter (with LoRA: and
that parameter's update). A head that is tied to the embedding is one parameter and comes once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcorrect.engines.local.weights import fill, own_tensors
from selfcorrect.errors import ModelError
from selfcorrect.train.common.lora import is_adapted, unwrapped

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_BESIDE_THE_POLICY = "value_model."


def is_sharded(weight: Tensor) -> bool:
    """True where a process holds only a part of a weight."""
    return _is_dtensor(weight) or _is_zero3(weight)


def holds_parts(model: Any) -> bool:
    """True where a process holds only a part of some weight of a model."""
    return any(map(is_sharded, model.parameters()))


def local_part(weight: Tensor) -> Tensor:
    """Return what this process holds of a weight, detached; of one that is not sharded, all of it."""
    if _is_zero3(weight):
        return _part_of_zero3(weight)
    part = weight.detach()
    found: Tensor = part.to_local() if _is_dtensor(part) else part  # type: ignore[attr-defined]
    return found


def _part_of_zero3(weight: Any) -> Tensor:
    """Return a process's part of a parameter, without what fills up the last one's."""
    import torch.distributed as dist

    part: Tensor = weight.ds_tensor.detach().flatten()
    start = dist.get_rank(weight.ds_process_group) * part.numel()
    return part[: max(0, weight.ds_numel - start)]


def whole(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a parameter or buffer whole, in ``dtype`` (None: its own); every process must call it.

    Rounding before the gather or after it gives the same numbers; before it, fewer bytes travel.
    """
    import torch

    with torch.no_grad(), made_whole([tensor]):
        found = tensor.detach()
        kept = found.dtype if dtype is None or not found.is_floating_point() else dtype
        found = found.to(kept, copy=_is_zero3(tensor))
        return found.full_tensor() if _is_dtensor(found) else found  # type: ignore[attr-defined,no-any-return]


def checkpoint_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield what a checkpoint holds of a model, whole, by the module's own names; of LoRA what learns alone."""
    adapted = is_adapted(model)
    for name, tensor in own_tensors(model):
        if not adapted or tensor.requires_grad:
            yield name, whole(tensor)


def policy_weights(model: Any, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield the policy's weights under the names of a plain model, adapters merged, no value model, in ``dtype``.

    Merged are W + scale B A, in the precision of training; then it is rounded to ``dtype``.
    """
    plain = _undistributed(model)
    updates = _lora_updates(plain) if is_adapted(plain) else {}
    for name, tensor in own_tensors(unwrapped(plain)):
        if name.startswith(_BESIDE_THE_POLICY) or ".lora_" in name:
            continue
        shown = name.replace(".base_layer.", ".")
        if (update := updates.get(shown)) is None:
            yield shown, whole(tensor, dtype)
        else:
            merged = whole(tensor) + update()
            yield shown, merged if dtype is None else merged.to(dtype)


def save_policy(model: Any, folder: Path, dtype: torch.dtype | None = None, writes: bool = True) -> None:
    """Write the policy as a plain model folder; every process must call it, the one that ``writes`` holds it whole."""
    found = {}
    for name, tensor in policy_weights(model, dtype):
        if writes:
            found[name] = tensor.cpu().clone()
    if writes:
        unwrapped(_undistributed(model)).save_pretrained(str(folder), state_dict=found)


def made_whole(weights: Sequence[Tensor], changed: bool = False) -> AbstractContextManager[Any]:
    """Return the context in which parameters of ZeRO-3 are whole in their places; of others nothing is done.

    ``changed``: what process 0 writes into them there is kept, in all processes.
    """
    if not any(map(_is_zero3, weights)):
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
        list(weights), modifier_rank=0 if changed else None
    )
    return context


def hand_over(model: Any, copy: Any) -> None:
    """Put the policy's weights into an unsharded copy of it, in the copy's dtype and on its device."""
    dtypes = {tensor.dtype for _, tensor in own_tensors(copy) if tensor.is_floating_point()}
    fill(copy, policy_weights(model, dtypes.pop() if len(dtypes) == 1 else None))


def put(model: Any, weights: dict[str, Tensor]) -> None:
    """Put whole weights, by name, into a model that may be sharded; each process takes its part.

    Raises ModelError where a parameter has no weight.
    """
    import torch

    with torch.no_grad():
        for name, target in own_tensors(model):
            if name not in weights:
                raise ModelError(f"no weight for {name}; expected those of the model that is trained")
            _put(target, weights[name])


def reset_adapters(model: Any) -> None:
    """Make LoRA's update zero, as it is at the start."""
    import torch

    ups = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    with torch.no_grad(), made_whole(ups, changed=True):
        for weight in ups:
            weight.zero_()


def _put(target: Tensor, value: Tensor) -> None:
    if _is_dtensor(target):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = target.device_mesh, target.placements  # type: ignore[attr-defined]
        part = distribute_tensor(value.to(target.device, target.dtype), mesh, placements, src_data_rank=None)
        target.to_local().copy_(part.to_local())  # type: ignore[attr-defined]
    else:
        with made_whole([target], changed=True):
            target.copy_(value)


def _lora_updates(model: Any) -> dict[str, Any]:
    """Return for each adapted weight, by its plain name, what gives its update, whole."""
    from peft.tuners.lora import Linear

    def update(layer: Any) -> Tensor:
        total = None
        for adapter in layer.active_adapters:
            part = whole(layer.lora_B[adapter].weight) @ whole(layer.lora_A[adapter].weight) * layer.scaling[adapter]
            total = part if total is None else total + part
        assert total is not None, "a layer with an adapter has an active one"
        return total

    found: dict[str, Any] = {}
    for name, module in unwrapped(model).named_modules():
        if not hasattr(module, "lora_A") or name.startswith(_BESIDE_THE_POLICY):
            continue
        if not isinstance(module, Linear) or module.fan_in_fan_out:
            raise ModelError(f"{name}: adapters are merged into linear layers, this is {type(module).__name__}")
        found[f"{name}.weight"] = lambda layer=module: update(layer)
    return found


def _undistributed(model: Any) -> Any:
    from torch.nn.parallel import DistributedDataParallel

    return model.module if isinstance(model, DistributedDataParallel) else model


def _is_dtensor(tensor: Any) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _is_zero3(parameter: Any) -> bool:
    return hasattr(parameter, "ds_id")
