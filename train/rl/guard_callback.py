"""Watching a run of RL: the callback that logs every step and obeys the guards, and the way back to healthy weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from selfcorrect.printing import complain, note
from selfcorrect.runs.files import append_lines
from selfcorrect.runs.jsonl import write_whole
from selfcorrect.runs.progress import Meter, duration_text
from selfcorrect.train.common.checkpoints import step_of
from selfcorrect.train.common.lora import is_adapted
from selfcorrect.train.common.metrics_log import Metrics
from selfcorrect.train.common.models import load_model
from selfcorrect.train.common.weights import put, reset_adapters
from selfcorrect.train.rl.dashboard import dashboard, dashboard_line
from selfcorrect.train.rl.guards import Finding, findings, healthy_steps, offenders
from selfcorrect.train.rl.recipe import RlRecipe
from selfcorrect.train.rl.scored_rollout import ScoredRollout
from selfcorrect.train.rl.trackers import report_trajectories
from selfcorrect.types import Trajectory

if TYPE_CHECKING:
    from selfcorrect.train.rl.grpo_trainer import TrajectoryTrainer

_FROM_TRL = {
    "loss": "loss",
    "kl": "kl",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "clip_ratio/region_mean": "clipped",
}


class GuardCallback(TrainerCallback):
    """Logs each optimizer step, moves the meter, and lets the guards look at each rollout once.

    ``stopped_by`` is the finding that ended the run, ``warnings`` are all that the guards said; of a resumed run also
    what they had said of the rows that it begins with.
    """

    def __init__(self, recipe: RlRecipe, trainer: TrajectoryTrainer, metrics: Metrics, progress: Meter) -> None:
        self.recipe, self.trainer, self.metrics, self.progress = recipe, trainer, metrics, progress
        self.stopped_by: str | None = None
        self.warnings: list[str] = []
        self._saved: set[str] = set()  # guards whose samples are saved
        self._logged: ScoredRollout | None = None  # whose figures are in a row
        self._look_back()
        if trainer.args.should_save:
            _keep_offenders(metrics.path.parent, max((row["step"] for row in metrics.rows), default=0))

    def _look_back(self) -> None:
        for count, row in enumerate(self.metrics.rows, 1):
            if row.get("turn1") is not None:
                found = findings(self.metrics.rows[:count], self.recipe.guard, self.recipe.steps)
                self._saved |= {finding.guard for finding in found}
                self.warnings += [f"step {row['step']}: {finding}" for finding in found]

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add a row of ``metrics.jsonl``: TRL's figures of the update, with those of the rollout in its first step."""
        if "loss" not in logs:
            return
        trainer, scored = self.trainer, self.trainer.scored
        row = {ours: logs.get(trls) for trls, ours in _FROM_TRL.items()}
        row = {name: None if value is None else float(value) for name, value in row.items()}
        row |= trainer.figures | {"used_rows": trainer.used_rows, "logprob_gap": trainer.gap.mean}
        row |= {"logprob_gap_max": trainer.gap.largest, "update_s": logs.get("step_time", 0.0)}
        if scored is not None and scored is not self._logged:
            row |= {**scored.figures, "trained_tokens": trainer.trained_tokens}
            row["update_s"] -= row["waited_s"] + row["handover_s"] + row["grading_s"]
            self._logged = scored
            eta_s = self.progress.left_s(more=1)
            times = dashboard([*self.metrics.rows, row], self.recipe.steps_per_rollout, eta_s)
            row |= times
            logs |= {f"path/{name}": value for name, value in times.items() if value is not None}
            if state.is_world_process_zero:
                report_trajectories(trainer, scored, self.recipe.logged_trajectories, state.global_step)
            self._show(state.global_step, row, args.should_save)
        row = self.metrics.add(state.global_step, **row)
        if scored is not None and row.get("turn1") is not None:
            self._guard(row, scored.trajectories, args, control)

    def _show(self, step: int, row: dict[str, Any], printing: bool) -> None:
        measured = "nothing was graded"
        if row["turn1"] is not None:
            measured = "turn 1 {turn1:.1f} → final {final:.1f}, judged {verdict_rate:.0f}%".format(**row)
        self.progress.advance(1, note=f"{measured}; {dashboard_line(row)}")
        if printing:
            reward = "none" if row["reward"] is None else f"{row['reward']:.3f}"
            note(f"step {step}: {measured}, reward {reward}; {dashboard_line(row)}{_left(row)}")

    def _guard(self, row: dict[str, Any], trajectories: Sequence[Trajectory], args: Any, control: Any) -> None:
        step = row["step"]
        for found in findings(self.metrics.rows, self.recipe.guard, self.recipe.steps):
            if found.guard not in self._saved and args.should_save:
                _save_offenders(found, row, trajectories, self.metrics.path.parent)
            self._saved.add(found.guard)
            self.warnings.append(f"step {step}: {found}")
            complain(f"guard: {found}", style="bold red")
            if self.recipe.guard.action == "stop":
                self.stopped_by = self.stopped_by or str(found)
                control.should_training_stop = True


def _left(row: dict[str, Any]) -> str:
    return f"; about {duration_text(row['eta_s'])} left" if row["eta_s"] else ""


def _keep_offenders(folder: Path, last_step: int) -> None:
    """Drop the samples of steps that a resumed run takes again."""
    file = folder / "guard-samples.jsonl"
    if file.exists():
        whole = file.read_text(encoding="utf-8").split("\n")[:-1]
        write_whole(file, [f"{line}\n" for line in whole if json.loads(line)["step"] <= last_step])


def _save_offenders(found: Finding, row: dict[str, Any], trajectories: Sequence[Trajectory], folder: Path) -> None:
    """Append the trajectories that show a finding to ``guard-samples.jsonl``; the whole rollout where no one does.

    ``sampled_at`` is the optimizer step whose weights sampled them.
    """
    about = {"guard": found.guard, "step": row["step"], "sampled_at": row["sampled_at"], "message": found.message}
    shown = (offenders(trajectories, found.guard) or trajectories)[:64]
    rows = [about | {"path": trajectory.to_json()} for trajectory in shown]
    append_lines(folder / "guard-samples.jsonl", [json.dumps(row) + "\n" for row in rows])


def fall_back(recipe: RlRecipe, trainer: TrajectoryTrainer, metrics: Metrics, folder: Path) -> int:
    """Put the last healthy weights back into the trainer's model and return their step; 0 is the start model."""
    healthy = set(healthy_steps(metrics.rows, recipe.guard, recipe.steps))
    saved = {step_of(path): path for path in (folder / "resume").glob("checkpoint-*")}
    step = max(healthy & saved.keys(), default=0)
    if step:
        trainer._load_from_checkpoint(str(saved[step]))
    elif is_adapted(trainer.model):
        reset_adapters(trainer.model)
    else:
        put(trainer.model, load_model(recipe.model, recipe.attention).state_dict())
    complain(f"the result is the model of step {step}, the last healthy one that was saved", style="bold red")
    return step
