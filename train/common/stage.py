"""What every trainer shares around TRL: load a model, keep metrics, save a folder that anyone can load, resume.

A finished stage folder ``<run>/checkpoints/<name>/`` is a complete Hugging Face model folder (weights, tokenizer with
its chat template, generation config) beside ``recipe.yaml``, ``provenance.json``, ``metrics.jsonl`` and ``DONE``.
While it trains, TRL's own checkpoints (weights, optimizer, RNG) lie in ``resume/``, with their sizes and hashes in
``resume/seals.json`` once they are whole on the disk; they are removed when the stage is done.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcorrect.errors import ModelError
from selfcorrect.files import manifest, sync_file, sync_folder, sync_tree, unlike
from selfcorrect.inputs import hold
from selfcorrect.jsonl import write_json
from selfcorrect.loading import model_loading, refuse_random_weights
from selfcorrect.printing import complain, note
from selfcorrect.problems import load_problems
from selfcorrect.runs import finished, mark_done, plain_name, stage_folder
from selfcorrect.tokens import ChatCodec, model_path
from selfcorrect.train.common.distributed import has_gpu, process_rank, wait_for_everyone
from selfcorrect.train.common.finite import stop_where_not_finite
from selfcorrect.train.common.lora import is_adapted, named_targets, save_merged
from selfcorrect.train.common.metrics_log import Metrics
from selfcorrect.train.common.model_card import write_card
from selfcorrect.train.common.recipe import TrainerRecipe

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
            from selfcorrect.train.common import lean_cpu as cpu

            cpu.register_lean_attention()
        read: Any = (kind or AutoModelForCausalLM).from_pretrained
        loaded: PreTrainedModel
        loaded, found = read(
            path, dtype=getattr(torch, dtype), attn_implementation=attention, output_loading_info=True, **settings
        )
    if kind is None:  # a value model's or a judge's head starts at random
        refuse_random_weights(model, found)
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


def run_stage(
    program: str, recipe: TrainerRecipe, run_folder: Path, train: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """Open ``<run>/checkpoints/<name>``, ``train`` into it and return its summary; a finished folder is only read.

    The main process locks the folder (`runs.stage_folder`) and writes its card; the others wait for that.
    """
    from transformers import set_seed

    folder = run_folder / "checkpoints" / plain_name(recipe.name, "name")
    with quiet_libraries():
        main = process_rank() == 0
        with stage_folder(folder, recipe) if main else nullcontext():
            wait_for_everyone()
            summary = finished(folder)
            if main:
                _hold(folder, recipe, run_folder)
            if summary is not None:
                if main:
                    forget_resume(folder)
                return summary
            started = time.perf_counter()
            set_seed(recipe.seed)  # for weights that start at random: adapters, heads
            with named_targets() if recipe.lora else nullcontext():
                summary = train(folder)
            summary |= {"seconds": round(time.perf_counter() - started, 2)}
            if main:
                write_card(folder, program, summary)
                mark_done(folder, summary)
                forget_resume(folder)
            return summary


def _hold(folder: Path, recipe: TrainerRecipe, run_folder: Path) -> None:
    """Hold the folder to the model it starts from and to the rows or problems that it learns from."""
    named = {name: getattr(recipe, name, None) for name in ("data", "pairs", "prompts")}
    files = {name: run_folder / Path(path).expanduser() for name, path in named.items() if path}
    files = dict(list(files.items())[:1])  # pairs are read instead of problems, prompts instead of a source
    source = None if files else getattr(recipe, "problems", None)
    hold(folder, {"model": recipe.model}, source, lambda: load_problems(source).problems if source else [], files)


def forget_resume(folder: Path) -> None:
    """Remove the checkpoints to resume from, which a finished folder needs no more."""
    shutil.rmtree(folder / "resume", ignore_errors=True)


def open_metrics(folder: Path) -> Metrics:
    """Return ``metrics.jsonl`` as it stood at the checkpoint that `fit` will resume from."""
    return Metrics(folder / "metrics.jsonl", step_of(last_checkpoint(folder)))


def fit(trainer: Any, folder: Path) -> None:
    """Train to the end, from the newest checkpoint under ``folder/resume``; GuardError where a step is not finite.

    TensorBoard's files go to ``folder/tensorboard``: its own place is among the checkpoints, which are removed.
    """
    from transformers.integrations import TensorBoardCallback

    remove_printer(trainer)
    stop_where_not_finite(trainer)
    trainer.add_callback(_sealing(folder))
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(folder / "tensorboard")
    resume_from = last_checkpoint(folder)
    if trainer.args.should_save and not (folder / "resume" / "seals.json").exists():
        write_json(folder / "resume" / "seals.json", _seals(folder))  # from here on what is not sealed is not whole
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)


def _sealing(folder: Path) -> Any:
    """Return a callback that makes each checkpoint, and the metrics up to it, durable and then records it as whole."""
    from transformers import TrainerCallback

    class Sealing(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if control.should_save:  # a resumed run knows no losses of before: none may wait to be logged
                control.should_log = True

        on_epoch_end = on_step_end

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            wait_for_everyone()  # each process writes its own share of a checkpoint
            if args.should_save:
                _seal(folder, folder / "resume" / f"checkpoint-{state.global_step}")

    return Sealing()


def _seal(folder: Path, checkpoint: Path) -> None:
    for file in folder.glob("*.jsonl"):
        sync_file(file)
    sync_folder(folder)
    sync_tree(folder / "resume")
    seals = {name: seal for name, seal in _seals(folder).items() if (folder / "resume" / name).is_dir()}
    seals[checkpoint.name] = manifest((file for file in checkpoint.rglob("*") if file.is_file()), checkpoint)
    write_json(folder / "resume" / "seals.json", seals)


def _seals(folder: Path) -> dict[str, Any]:
    """Return what each whole checkpoint holds, by its name. Those of older versions have no record to be held to."""
    file = folder / "resume" / "seals.json"
    if file.exists():
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            complain(f"{file} is damaged ({error}), so no checkpoint can be trusted; training begins anew")
            return {}
    complete = (folder / "resume").glob("checkpoint-*/trainer_state.json")  # transformers writes it last
    return {path.parent.name: {} for path in complete}


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole TRL checkpoint under ``folder/resume``; newer ones are removed, damaged ones loudly."""
    seals = _seals(folder)
    for path in sorted((folder / "resume").glob("checkpoint-*"), key=step_of, reverse=True):
        if path in _found_whole:
            return path
        damage = unlike(seals[path.name], path, by_hash=True) if path.name in seals else []
        if path.name in seals and not damage:
            _found_whole.add(path)
            return path
        if process_rank() == 0:
            if damage:
                complain(f"{path} is damaged ({'; '.join(damage)}); training goes on from the checkpoint before it")
            shutil.rmtree(path, ignore_errors=True)
    return None


_found_whole: set[Path] = set()
"""Checkpoints that this process has compared with their hashes."""


def step_of(path: Path | None) -> int:
    """Return the step of a TRL checkpoint folder, 0 for None."""
    return int(path.name.removeprefix("checkpoint-")) if path else 0


def remove_printer(trainer: Any) -> None:
    """Stop transformers from printing every log as a dictionary."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


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
