"""FSDP 2: weights, gradients and optimizer spread over the processes by torch's `fully_shard`, on GPUs and on CPUs.

``--launch fsdp`` (and any accelerate configuration of FSDP) asks for it. accelerate itself shards on GPUs alone and
makes plain DDP of the same configuration on a CPU without a word, so its request is taken over
(`distributed.fsdp_asked`) and its plugin is never made: one path serves both devices, and what the tests run on two
CPU processes is what GPUs run.

Each decoder layer is one group, what is left (embedding, head, last norm) is the root's. A group is whole only while
it computes, in the forward and in the backward pass. Weights and AdamW's moments are float32; on a GPU in bf16 the
layers compute, and are gathered, in bf16, while gradients are summed in float32.

Whatever computes with a sharded model must enter by its root, or the root's weights stay in parts: `through_root`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar

from selfcorrect.errors import ModelError
from selfcorrect.train.common.checkpoints import SHARDS
from selfcorrect.train.common.distributed import fsdp_asked, has_gpu
from selfcorrect.train.common.lora import unwrapped
from selfcorrect.train.common.weights import checkpoint_weights, holds_parts, made_whole

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


def shard(model: Any, bf16: bool = False) -> None:
    """Spread a model over all processes, in place; its parameters are DTensors afterwards.

    ``bf16``: compute in bf16 on a GPU. The optimizer is to be made after this.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    settings = _settings(bf16)
    for layer in _layers(model):
        fully_shard(layer, **settings)
    if (value_model := getattr(model, "value_model", None)) is not None:
        fully_shard(value_model, **settings)
    fully_shard(model, **settings)
    model.run_by_root = MethodType(lambda self, function, *args: function(self, *args), model)
    register_fsdp_forward_method(model, "run_by_root")


def through_root(model: Any, function: Callable[..., T], *args: Any) -> T:
    """Return ``function(model, *args)``; of a sharded model with the root's weights whole while it runs."""
    run = getattr(model, "run_by_root", None)
    found: T = function(model, *args) if run is None else run(function, *args)
    return found


def _settings(bf16: bool) -> dict[str, Any]:
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy

    device = "cuda" if has_gpu() else "cpu"
    if not dist.is_initialized():  # one process
        dist.init_process_group("nccl" if has_gpu() else "gloo", rank=0, world_size=1, store=dist.HashStore())
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(device, (dist.get_world_size(),)),
        "reshard_after_forward": True,
    }
    if bf16 and has_gpu():
        settings["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return settings


def _layers(model: Any) -> list[Any]:
    """Return the decoder layers, those of a value model's trunk among them."""
    names = set(getattr(unwrapped(model), "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    if not found:
        raise ModelError(
            f"{type(unwrapped(model)).__name__} does not say which modules are its layers: cannot shard it"
        )
    return found


# --- a trainer whose model is sharded -------------------------------------------------------------------------------


class Sharding:
    """Put before a trainer of transformers: where FSDP is asked for, its model is sharded.

    Without it asked for, nothing differs. Gradients are clipped by their norm over all processes. A checkpoint to
    resume from holds each process's part and can be read by any number of processes; a finished model is gathered.
    """

    model: Any
    args: Any
    accelerator: Any
    optimizer: Any
    lr_scheduler: Any

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        """Called once by transformers, when adapters are in place and before an optimizer is made."""
        if fsdp_asked():
            shard(model, self.args.bf16)
        else:
            super()._move_model_to_device(model, device)  # type: ignore[misc]

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """Let accelerate add autocast and no DDP."""
        if training and holds_parts(model) and not getattr(model, "_is_accelerate_prepared", False):
            self.accelerator.prepare_model(model, evaluation_mode=True)
            model._is_accelerate_prepared = True
        return super()._wrap_model(model, training, dataloader)  # type: ignore[misc]

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[misc]
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a whole model folder; a checkpoint to resume from (``_internal_call``) has its parts instead."""
        if not fsdp_asked():
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]
        elif not _internal_call:
            weights = self._whole_weights()
            if self.args.should_save:
                self._save(output_dir, state_dict=weights)  # type: ignore[attr-defined]

    def _whole_weights(self) -> dict[str, Tensor]:
        """Return what a model folder holds, whole, in the main process and on the CPU; {} in the others."""
        found = {}
        for name, tensor in checkpoint_weights(self.model):
            if self.args.should_save:
                found[name] = tensor.cpu().clone()
        return found

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not fsdp_asked():
            return super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc,no-any-return]
        import torch
        import torch.distributed.checkpoint as dcp

        dcp.save(self._parts(), checkpoint_id=str(Path(output_dir) / SHARDS))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")
        return None

    def _parts(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(ignore_frozen_params=True)
        model, optimizer = get_state_dict(self.model, self.optimizer.optimizer, options=options)
        return {"model": model, "optimizer": optimizer}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Put a checkpoint's weights back into the model."""
        if not fsdp_asked():
            learning = [weight for weight in self.model.parameters() if weight.requires_grad]
            with made_whole(learning, changed=True):
                return super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc,no-any-return]
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

        state = get_model_state_dict(self.model, options=StateDictOptions(ignore_frozen_params=True))
        dcp.load({"model": state}, checkpoint_id=str(Path(resume_from_checkpoint) / SHARDS))
        set_model_state_dict(self.model, state, options=StateDictOptions(strict=False))
        return None

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not fsdp_asked():
            return super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc,no-any-return]
        import torch
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        parts = self._parts()
        dcp.load(parts, checkpoint_id=str(Path(checkpoint) / SHARDS))
        options = StateDictOptions(ignore_frozen_params=True)
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, parts["optimizer"], options=options)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))
        return None
