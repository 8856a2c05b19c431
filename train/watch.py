"""Guards at work: the callback that logs every step of RL, obeys the guards, and the way back to healthy weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcorrect.progress import Meter, console
from selfcorrect.types import Trajectory
from train import checkpoint
from train.guards import Finding, findings, healthy_steps, offenders
from train.lora import is_adapted, reset
from train.reports import Metrics

if TYPE_CHECKING:
    from train.grpo import GrpoRecipe
    from train.grpo_trainer import PathGrpoTrainer
    from train.rollout_func import Rollouts

_FROM_TRL = {
    "loss": "loss",
    "kl": "kl",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "clip_ratio/region_mean": "clipped",
}


@dataclass(slots=True)
class Watch:
    """What the guards said."""

    stopped_by: str | None = None
    warnings: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)  # guards whose samples are saved


def watch_over(
    recipe: GrpoRecipe, trainer: PathGrpoTrainer, rollouts: Rollouts, metrics: Metrics, progress: Meter
) -> Watch:
    """Make the trainer log its steps, move the meter and obey the guards."""
    from transformers import TrainerCallback

    watch = Watch()

    class Reports(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" not in logs:
                return
            row = {ours: logs.get(trls) for trls, ours in _FROM_TRL.items()}
            row = {name: None if value is None else float(value) for name, value in row.items()}
            row |= trainer.measures | {"used_rows": trainer.used_rows, "logprob_gap": trainer.gap.mean}
            row |= {"logprob_gap_max": trainer.gap.largest, "update_s": logs.get("step_time", 0.0)}
            if rollouts.row:
                row |= rollouts.row
                row["update_s"] -= row["rollout_s"] + row["grading_s"]
                rollouts.row = {}
            row = metrics.add(state.global_step, **row)
            if row.get("turn1") is not None:
                note = "turn 1 {turn1:.1f} → final {final:.1f}, judged {verdict_rate:.0f}%".format(**row)
                progress.advance(1, note=note)
                if args.should_save:
                    shown = f"step {row['step']}: {note}, reward {row['reward']:.3f}"
                    console.print(shown, style="dim", highlight=False)
                self.guard(row["step"], args, control)

        def guard(self, step: int, args: Any, control: Any) -> None:
            for found in findings(metrics.rows, recipe.guard, recipe.steps):
                if found.guard not in watch.seen and args.should_save:
                    _save_offenders(found, step, rollouts.paths, metrics.path.parent)
                watch.seen.add(found.guard)
                watch.warnings.append(f"step {step}: {found}")
                console.print(f"guard: {found}", style="bold red", highlight=False)
                if recipe.guard.action == "stop":
                    watch.stopped_by = watch.stopped_by or str(found)
                    control.should_training_stop = True

    trainer.add_callback(Reports())
    return watch


def _save_offenders(found: Finding, step: int, paths: Sequence[Trajectory], folder: Path) -> None:
    """Append the paths that show a finding to ``guard-samples.jsonl``; all of the rollout where no single one does."""
    with (folder / "guard-samples.jsonl").open("a", encoding="utf-8") as file:
        for path in (offenders(paths, found.guard) or paths)[:64]:
            row = {"guard": found.guard, "step": step, "message": found.message, "path": path.to_json()}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def fall_back(recipe: GrpoRecipe, trainer: PathGrpoTrainer, metrics: Metrics, folder: Path) -> int:
    """Put the last healthy weights back into the trainer's model and return their step; 0 is the start model."""
    healthy = set(healthy_steps(metrics.rows, recipe.guard, recipe.steps))
    saved = {checkpoint.step_of(path): path for path in (folder / "resume").glob("checkpoint-*")}
    step = max(healthy & saved.keys(), default=0)
    if is_adapted(trainer.model):
        if step:
            trainer._load_from_checkpoint(str(saved[step]))
        else:
            reset(trainer.model)
    else:
        weights = checkpoint.load_model(str(saved[step]) if step else recipe.model, recipe.attention).state_dict()
        trainer.model.load_state_dict(weights)
    console.print(f"the result is the model of step {step}, the last healthy one that was saved", style="bold red")
    return step
