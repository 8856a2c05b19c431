"""What every trainer shares around TRL: load a model, keep metrics, save a folder that anyone can load, resume.

A finished stage folder ``<run>/checkpoints/<name>/`` is a complete Hugging Face model folder (weights, tokenizer with
its chat template, generation config) beside ``recipe.yaml``, ``provenance.json``, ``metrics.jsonl`` and ``DONE``.
While it trains, TRL's own checkpoints (weights, optimizer, RNG) lie in ``resume/``; they are removed at the end.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selfcorrect.errors import InputError, ModelError, RecipeError, nearest
from selfcorrect.jsonl import read_jsonl, write_jsonl
from selfcorrect.runs import stage_folder
from selfcorrect.tokens import ChatCodec, model_path
from train.launch import EXPECTED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Precision = Literal["auto", "bf16", "fp32"]


def load_model(
    model: str, attention: str, dtype: str = "float32", kind: Any = None, **settings: Any
) -> PreTrainedModel:
    """Load a model for training; ``attention`` "auto" is SDPA on a GPU and `train.cpu`'s lean attention on a CPU.

    Lean attention comes with `train.cpu.narrow`. Models with attention dropout get eager attention instead. ``kind``
    is an Auto class of transformers (None: a causal LM), ``settings`` go to its ``from_pretrained``.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    path = model_path(model)
    try:
        if attention == "auto":
            dropout = getattr(AutoConfig.from_pretrained(path).get_text_config(), "attention_dropout", 0.0)
            attention = "sdpa" if has_gpu() else "eager" if dropout else "lean"
        if attention == "lean":
            from train import cpu

            cpu.register_lean_attention()
        loaded: PreTrainedModel = (kind or AutoModelForCausalLM).from_pretrained(
            path, dtype=getattr(torch, dtype), attn_implementation=attention, **settings
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"cannot load a model from {model!r}: {str(error).splitlines()[0]}") from error
    detach_from_file(loaded)
    if attention == "lean":
        cpu.narrow(loaded)
    return loaded


def detach_from_file(model: PreTrainedModel) -> None:
    """Copy weights out of the memory map that they were loaded into.

    Weights trained in place in a map become those of the file when somebody rewrites it (truncating a file drops even
    the pages that were written to), silently and in the middle of a run.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def has_gpu() -> bool:
    """True where PyTorch sees a CUDA device."""
    import torch

    return bool(torch.cuda.is_available())


def process_count() -> int:
    """Return how many processes train together. Raises InputError where ``--launch`` asked for another number."""
    from accelerate import PartialState

    found = int(PartialState(cpu=not has_gpu()).num_processes)
    if (expected := os.environ.get(EXPECTED)) and int(expected) != found:
        raise InputError(f"--launch asked for {expected} processes, {found} came up; see train/launch.py")
    return found


def hold_whole_weights() -> None:
    """Raise RecipeError where weights are sharded: rollouts sample from the live weights of one process."""
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    if fsdp or os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":
        raise RecipeError(
            "rollouts sample from the live weights, so every process must hold all of them; FSDP and ZeRO-3 shard "
            "them: use --launch ddp or zero2"
        )


@contextmanager
def open_stage(folder: Path, recipe: Any) -> Iterator[None]:
    """Open the stage's folder in the main process (`runs.stage_folder` locks it); the others wait for that."""
    from accelerate import PartialState

    state = PartialState(cpu=not has_gpu())
    with stage_folder(folder, recipe) if state.is_main_process else nullcontext():
        state.wait_for_everyone()
        yield


def is_main_process() -> bool:
    """True in the process that writes files."""
    from accelerate import PartialState

    return bool(PartialState(cpu=not has_gpu()).is_main_process)


def use_bf16(precision: Precision) -> bool:
    """Return whether to train in bf16 autocast: "auto" does where the hardware multiplies bf16."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def device_arguments(bf16: bool) -> dict[str, Any]:
    """Return the settings that every TRL config needs here: device, precision, no tqdm, no reports."""
    on_cpu = not has_gpu()
    return {
        "use_cpu": on_cpu,
        "bf16": bf16,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": not on_cpu,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "optim": "adamw_torch_fused",
    }


def trainer_arguments(schema: type[Any], ours: Mapping[str, Any], passed: Mapping[str, Any]) -> Any:
    """Build TRL's config from our settings and the recipe's ``trainer`` mapping.

    Raises RecipeError for a key that TRL does not know (with the nearest) or that a recipe field already sets.
    """
    known = {field.name for field in dataclasses.fields(schema) if field.init}
    reserved = {"output_dir", "seed", "data_seed", "use_cpu", "max_steps", "num_train_epochs"}
    for key in passed:
        if key not in known:
            raise RecipeError(f"trainer: {schema.__name__} has no setting {key!r}{nearest(key, known)}")
        if key in reserved:
            raise RecipeError(f"trainer: {key!r} follows from the recipe's own fields; set those")
    try:
        return schema(**{**ours, **passed})
    except (ValueError, TypeError) as error:
        raise RecipeError(f"TRL's {schema.__name__} refuses these settings: {error}") from error


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete TRL checkpoint under ``folder/resume``; a half-written one is removed."""
    found: list[tuple[int, Path]] = []
    for path in (folder / "resume").glob("checkpoint-*"):
        if (path / "trainer_state.json").exists():  # transformers writes it last
            found.append((step_of(path), path))
        else:
            shutil.rmtree(path)
    return max(found)[1] if found else None


def step_of(path: Path | None) -> int:
    """Return the step of a TRL checkpoint folder, 0 for None."""
    return int(path.name.removeprefix("checkpoint-")) if path else 0


def remove_printer(trainer: Any) -> None:
    """Stop transformers from printing every log as a dictionary."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


class Metrics:
    """``metrics.jsonl``: one row for each logged step; a resumed run first drops the rows after its checkpoint.

    Every process keeps the rows, the main one writes them.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            self.rows = [row for row in _whole_lines(path) if row["step"] <= first_step]
        self._writes = is_main_process()
        if self._writes:
            write_jsonl(path, self.rows)

    def add(self, step: int, **values: float | int | str | None) -> dict[str, Any]:
        """Append one row; NaN becomes null."""
        row = {"step": step} | {
            name: None
            if isinstance(value, float) and not math.isfinite(value)
            else round(value, 6)
            if isinstance(value, float)
            else value
            for name, value in values.items()
        }
        if self._writes:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, separators=(",", ":")) + "\n")
        self.rows.append(row)
        return row


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return read_jsonl(path)


def save_model(trainer: Any, codec: ChatCodec, folder: Path) -> None:
    """Write weights, config, generation config and tokenizer to ``folder``; check that the tokenizer reads back.

    Trained weights are saved through the trainer, which gathers them from all ranks.
    """
    trainer.save_model(str(folder))
    if not trainer.args.should_save:
        return
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; recipe.yaml says the same
    codec.tokenizer.save_pretrained(str(folder))
    probe = "1+2=3\nIs it? \\boxed{3}\n\n[VERIFY] correct."
    if ChatCodec.load(str(folder)).encode(probe) != codec.encode(probe):
        raise ModelError(f"the tokenizer saved in {folder} encodes differently from the one trained with")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence bars, notices and pings of the training libraries; enter it before anything imports them."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL pings the hub for every trainer otherwise
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # our meter is the one bar
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(verbosity)


def parameter_count(model: str) -> int:
    """Return a model's parameters, counted without loading its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model_path(model))
    with torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(config).num_parameters())
