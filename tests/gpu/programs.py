"""Short runs of every training program on one device, their figures as JSON: a process of its own for each device.

    CUDA_VISIBLE_DEVICES= python tests/gpu/programs.py DATA OUT fp32

DATA is the run folder that `test_trainers_on_device` makes: rows, pairs and problems of the embedded model.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfcorrect.train import dpo, grpo, orm, ppo, sft

RL = {"steps": 2, "prompts_per_step": 8, "micro_rows": 16, "max_tokens": 200, "max_batch": 64}
SFT = {"epochs": 2.0, "batch_rows": 8, "micro_rows": 4, "log_every": 1, "save_every": 2, "max_tokens": 320}


def programs(precision: str) -> dict[str, Callable[[Path], Any]]:
    """Return each program as a function of its run folder."""
    shared: Any = {"precision": precision}
    return {
        "sft": lambda folder: sft.run(sft.SftRecipe(**SFT, **shared), folder),
        "dpo": lambda folder: dpo.run(dpo.DpoRecipe(batch_pairs=4, micro_pairs=2, **shared), folder),
        "orm": lambda folder: orm.run(orm.OrmRecipe(epochs=1.0, batch_rows=8, log_every=1, **shared), folder),
        "grpo": lambda folder: grpo.run(grpo.GrpoRecipe(generations=4, beta=0.01, **RL, **shared), folder),
        "ppo": lambda folder: ppo.run(ppo.PpoRecipe(**RL, **shared), folder),
    }


def resumed(recipe: sft.SftRecipe, folder: Path) -> None:
    """Run a fine-tuning that is cut short before its last step is reported, and take it up again."""
    from transformers.trainer_callback import CallbackHandler

    class Cut(Exception):
        pass

    report = CallbackHandler.on_log

    def die(self: Any, args: Any, state: Any, *more: Any) -> Any:
        if state.global_step == 3:
            raise Cut
        return report(self, args, state, *more)

    CallbackHandler.on_log = die  # type: ignore[method-assign]
    try:
        sft.run(recipe, folder)
    except Cut:
        CallbackHandler.on_log = report  # type: ignore[method-assign]
        sft.run(recipe, folder)
    else:
        raise AssertionError("the run was to be cut at step 3")


def main(data: Path, out: Path, precision: str) -> None:
    """Run all programs and write ``figures.json``: the rows of ``metrics.jsonl`` of each, or its error."""
    found: dict[str, Any] = {}
    for name, run in programs(precision).items():
        folder = out / name
        shutil.copytree(data / "data", folder / "data")
        try:
            run(folder)
            (metrics,) = folder.glob("checkpoints/*/metrics.jsonl")
            found[name] = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
        except Exception as error:  # noqa: BLE001 - the other programs are to be run, too
            found[name] = f"{type(error).__name__}: {error}"
    folder = out / "resumed"
    shutil.copytree(data / "data", folder / "data")
    resumed(sft.SftRecipe(**SFT, precision=precision), folder)  # type: ignore[arg-type]
    (out / "figures.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
