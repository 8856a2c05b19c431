"""A model in and out: loaded for training, saved as a folder that anyone can load, adapters merged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcorrect.chat import ChatCodec, model_path
from selfcorrect.errors import ModelError
from selfcorrect.loading import model_loading, refuse_random_weights
from selfcorrect.printing import note
from selfcorrect.train.common.distributed import has_gpu
from selfcorrect.train.common.lora import is_adapted

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(
    model: str, attention: str, dtype: str = "float32", kind: Any = None, **settings: Any
) -> PreTrainedModel:
    """Load a model for training; ``attention`` "auto" is SDPA on a GPU and `lean_cpu`'s lean attention on a CPU.

    Lean attention comes with `lean_cpu.narrow`. Models with attention dropout get eager attention instead. ``kind``
    is an Auto class of transformers (None: a causal LM), ``settings`` go to its ``from_pretrained``.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    path = model_path(model)
    note(f"loading {model}")
    with model_loading(model):
        if attention == "auto":
            dropout = getattr(AutoConfig.from_pretrained(path).get_text_config(), "attention_dropout", 0.0)
            attention = "sdpa" if has_gpu() else "eager" if dropout else "lean"
        if attention == "lean":
            from selfcorrect.train.common import lean_cpu

            lean_cpu.register_lean_attention()
        read: Any = (kind or AutoModelForCausalLM).from_pretrained
        loaded: PreTrainedModel
        loaded, found = read(
            path, dtype=getattr(torch, dtype), attn_implementation=attention, output_loading_info=True, **settings
        )
    if kind is None:  # a value model's or a judge's head starts at random
        refuse_random_weights(model, found)
    detach_from_file(loaded)
    if attention == "lean":
        lean_cpu.narrow(loaded)
    return loaded


def detach_from_file(model: PreTrainedModel) -> None:
    """Copy weights out of the memory map that they were loaded into.

    Weights trained in place in a map become those of the file when somebody rewrites it (truncating a file drops even
    the pages that were written to), silently and in the middle of a run.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def save_model(trainer: Any, codec: ChatCodec, folder: Path) -> None:
    """Write weights, config, generation config and tokenizer to ``folder``; check that the tokenizer reads back.

    Trained weights are saved through the trainer, which gathers them from all ranks; those of LoRA to ``adapter/``,
    and merged to ``folder``.
    """
    trained = folder / "adapter" if is_adapted(trainer.model) else folder
    trainer.save_model(str(trained))
    if not trainer.args.should_save:
        return
    (trained / "training_args.bin").unlink(missing_ok=True)  # a pickle; recipe.yaml says the same
    if trained != folder:
        save_merged(trained, folder)
    codec.tokenizer.save_pretrained(str(folder))
    probe = "1+2=3\nIs it? \\boxed{3}\n\n[VERIFY] correct."
    if ChatCodec.load(str(folder)).encode(probe) != codec.encode(probe):
        raise ModelError(f"the tokenizer saved in {folder} encodes differently from the one trained with")


def save_merged(adapter: Path, folder: Path) -> None:
    """Write the model that a saved adapter was trained on, with its update added, as a whole model folder.

    The base is read again from where it came from: what the trainer holds may be sharded or in another precision.
    """
    from peft import PeftConfig, PeftModel

    base = load_model(str(PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path), "eager")
    merged: Any = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    merged.save_pretrained(str(folder))
