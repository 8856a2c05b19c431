"""Checkpoints to resume from: made whole on the disk before they count, checked before they are used.

While a stage trains, TRL's own checkpoints (weights, optimizer, RNG) lie in ``resume/``, with their sizes and hashes in
``resume/seals.json`` once they are whole on the disk; they are removed when the stage is done.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from selfcorrect.errors import RecipeError
from selfcorrect.printing import complain
from selfcorrect.runs.files import manifest, sync_file, sync_folder, sync_tree, unlike
from selfcorrect.runs.jsonl import write_json
from selfcorrect.train.common.distributed import (
    deepspeed_asked,
    fsdp_asked,
    process_count,
    process_rank,
    wait_for_everyone,
)
from selfcorrect.train.common.finite import stop_where_not_finite
from selfcorrect.train.common.metrics_log import Metrics

SHARDS = "shards"
"""Folder in a checkpoint of FSDP: what learns and its optimizer, by parts (`common.sharding`)."""


def fit(trainer: Any, folder: Path) -> None:
    """Train to the end, from the newest checkpoint under ``folder/resume``; GuardError where a step is not finite.

    TensorBoard's files go to ``folder/tensorboard``: its own place is among the checkpoints, which are removed.
    """
    from transformers.integrations import TensorBoardCallback

    remove_printer(trainer)
    stop_where_not_finite(trainer)
    trainer.add_callback(_sealing(folder))
    trainer.add_callback(_order_of_epoch())
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(folder / "tensorboard")
    resume_from = last_checkpoint(folder)
    if resume_from is not None:
        hold_to_launch(resume_from)
    if trainer.args.should_save and not (folder / "resume" / "seals.json").exists():
        write_json(folder / "resume" / "seals.json", _seals(folder))  # from here on what is not sealed is not whole
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)


def hold_to_launch(checkpoint: Path) -> None:
    """Raise RecipeError where a checkpoint was saved under another kind of ``--launch`` than this process's.

    Each reads its own alone: transformers takes the weights of another's and begins with a new optimizer. What
    DeepSpeed saved goes on in as many processes as saved it.
    """
    saved, now = _kind_of(checkpoint), "FSDP" if fsdp_asked() else "DeepSpeed" if deepspeed_asked() else "neither"
    parts, processes = len(list(checkpoint.glob("global_step*/*_optim_states.pt"))), process_count()
    if saved != now:
        how = f"was saved {_with(saved)}, and this is training {_with(now)}"
    elif saved == "DeepSpeed" and parts != processes:
        how = f"was saved by DeepSpeed in {parts} processes, and these are {processes}"
    else:
        return
    raise RecipeError(
        f"{checkpoint} {how}: go on with the --launch that the run was begun with, or remove {checkpoint.parent} to "
        "begin anew"
    )


def _kind_of(checkpoint: Path) -> str:
    if (checkpoint / SHARDS).is_dir():
        return "FSDP"
    return "DeepSpeed" if any(checkpoint.glob("global_step*")) else "neither"


def _with(kind: str) -> str:
    return "without FSDP and DeepSpeed" if kind == "neither" else f"with {kind}"


def remove_printer(trainer: Any) -> None:
    """Stop transformers from printing every log as a dictionary."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def open_metrics(folder: Path) -> Metrics:
    """Return ``metrics.jsonl`` as it stood at the checkpoint that `fit` will resume from."""
    return Metrics(folder / "metrics.jsonl", step_of(last_checkpoint(folder)))


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


def _order_of_epoch() -> Any:
    """Return a callback that gives the order of the rows its epoch before a resumed run skips those it has seen.

    accelerate wraps the order once for the skipping and once for several processes, and transformers then no longer
    reaches it: the resumed epoch would have the first epoch's order.
    """
    from transformers import TrainerCallback

    class OrderOfEpoch(TrainerCallback):
        def on_train_begin(
            self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any
        ) -> None:
            order = train_dataloader
            for inner in ("batch_sampler", "batch_sampler", "sampler"):
                order = getattr(order, inner, order)
            if hasattr(order, "set_epoch"):
                order.set_epoch(int(state.epoch or 0))

    return OrderOfEpoch()


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


def forget_resume(folder: Path) -> None:
    """Remove the checkpoints to resume from, which a finished folder needs no more."""
    shutil.rmtree(folder / "resume", ignore_errors=True)
