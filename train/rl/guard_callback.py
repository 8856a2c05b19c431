"""Guards at work: the callback that logs every step of RL, obeys the guards, and the way back to healthy weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcorrect.files import append_lines
from selfcorrect.jsonl import write_whole
from selfcorrect.printing import complain, note
from selfcorrect.progress import Meter
from selfcorrect.train.common.checkpoints import step_of
from selfcorrect.train.common.lora import is_adapted, reset
from selfcorrect.train.common.metrics_log import Metrics
from selfcorrect.train.common.models import load_model
from selfcorrect.train.rl.guards import Finding, findings, healthy_steps, offenders
from selfcorrect.types import Trajectory

if TYPE_CHECKING:
    from selfcorrect.train.grpo import GrpoRecipe
    from selfcorrect.train.rl.grpo_trainer import PathGrpoTrainer
    from selfcorrect.train.rl.rollout_function import Rollouts

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

    watch = _as_it_was(recipe, metrics)
    if trainer.args.should_save:
        _keep_offenders(metrics.path.parent, max((row["step"] for row in metrics.rows), default=0))

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
                measured = "turn 1 {turn1:.1f} → final {final:.1f}, judged {verdict_rate:.0f}%".format(**row)
                progress.advance(1, note=measured)
                if args.should_save:
                    reward = "none" if row["reward"] is None else f"{row['reward']:.3f}"
                    shown = f"step {row['step']}: {measured}, reward {reward}"
                    note(shown)
                self.guard(row["step"], args, control)

        def guard(self, step: int, args: Any, control: Any) -> None:
            for found in findings(metrics.rows, recipe.guard, recipe.steps):
                if found.guard not in watch.seen and args.should_save:
                    _save_offenders(found, step, rollouts.paths, metrics.path.parent)
                watch.seen.add(found.guard)
                watch.warnings.append(f"step {step}: {found}")
                complain(f"guard: {found}", style="bold red")
                if recipe.guard.action == "stop":
                    watch.stopped_by = watch.stopped_by or str(found)
                    control.should_training_stop = True

    trainer.add_callback(Reports())
    return watch


def _as_it_was(recipe: GrpoRecipe, metrics: Metrics) -> Watch:
    """Return what the guards had said of the rows that a resumed run begins with."""
    watch = Watch()
    for count, row in enumerate(metrics.rows, 1):
        if row.get("turn1") is not None:
            found = findings(metrics.rows[:count], recipe.guard, recipe.steps)
            watch.seen |= {finding.guard for finding in found}
            watch.warnings += [f"step {row['step']}: {finding}" for finding in found]
    return watch


def _keep_offenders(folder: Path, last_step: int) -> None:
    """Drop the samples of steps that a resumed run takes again."""
    file = folder / "guard-samples.jsonl"
    if file.exists():
        whole = file.read_text(encoding="utf-8").split("\n")[:-1]
        write_whole(file, [f"{line}\n" for line in whole if json.loads(line)["step"] <= last_step])


def _save_offenders(found: Finding, step: int, paths: Sequence[Trajectory], folder: Path) -> None:
    """Append the paths that show a finding to ``guard-samples.jsonl``; all of the rollout where no single one does."""
    about = {"guard": found.guard, "step": step, "message": found.message}
    rows = [about | {"path": path.to_json()} for path in (offenders(paths, found.guard) or paths)[:64]]
    append_lines(folder / "guard-samples.jsonl", [json.dumps(row) + "\n" for row in rows])


def fall_back(recipe: GrpoRecipe, trainer: PathGrpoTrainer, metrics: Metrics, folder: Path) -> int:
    """Put the last healthy weights back into the trainer's model and return their step; 0 is the start model."""
    healthy = set(healthy_steps(metrics.rows, recipe.guard, recipe.steps))
    saved = {step_of(path): path for path in (folder / "resume").glob("checkpoint-*")}
    step = max(healthy & saved.keys(), default=0)
    if is_adapted(trainer.model):
        if step:
            trainer._load_from_checkpoint(str(saved[step]))
        else:
            reset(trainer.model)
    else:
        weights = load_model(str(saved[step]) if step else recipe.model, recipe.attention).state_dict()
        trainer.model.load_state_dict(weights)
    complain(f"the result is the model of step {step}, the last healthy one that was saved", style="bold red")
    return step
