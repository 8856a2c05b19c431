"""`fill`: whole weights into a model that has them already; the sampler's copy, a replica's engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from selfcorrect.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


def own_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield what a model folder holds of a model: parameters, each once, and the buffers that are saved."""
    yield from model.named_parameters()
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer


def fill(model: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Put whole weights, by name, into an unsharded model, in its dtype and on its device.

    Raises ModelError, with the weights partly replaced, where the two are of different architectures.
    """
    import torch

    own = dict(own_tensors(model))
    with torch.no_grad():
        for name, tensor in weights:
            if name not in own:
                raise ModelError(f"the sampler's copy of the model has no weight {name!r}: it is another architecture")
            own.pop(name).copy_(tensor)
    if own:
        raise ModelError(f"the trained model gave the sampler's copy no {', '.join(sorted(own))}: another architecture")
