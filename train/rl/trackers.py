"""Sampled trajectories as text in the trackers of a run (``trainer.report_to``): TensorBoard, W&B, Trackio.

Numbers go there by TRL and transformers; they log no texts, or print them to the terminal as they are. What a model
wrote is hostile: TensorBoard and Trackio render Markdown, so it stands in a fence that it cannot close, with control
characters written out. A cell of a W&B table is plain text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selfcorrect.markdown import code, fenced
from selfcorrect.printing import clean
from selfcorrect.train.rl.scored_rollout import ScoredRollout
from selfcorrect.types import Role, Trajectory

if TYPE_CHECKING:
    from selfcorrect.train.rl.grpo_trainer import TrajectoryTrainer

TAG = "trajectories"
"""Under which a tracker keeps them."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A trajectory, what it earned, and the optimizer step whose weights sampled it."""

    trajectory: Trajectory
    reward: float | None
    sampled_at: int


def report_trajectories(trainer: TrajectoryTrainer, scored: ScoredRollout, count: int, step: int) -> None:
    """Send ``count`` trajectories of this process, evenly spread over its rollout, to each tracker of the trainer."""
    sinks = trackers(trainer)
    if not sinks or not count:
        return
    rollouts = scored.rollouts[:: max(1, len(scored.rollouts) // count)][:count]
    rewards = scored.rewards[:: max(1, len(scored.rewards) // count)][:count]
    sampled = [
        Sampled(rollout.trajectory, reward, scored.figures["sampled_at"])
        for rollout, reward in zip(rollouts, rewards, strict=True)
    ]
    for name, sink in sinks.items():
        _SEND[name](sink, sampled, step)


def trackers(trainer: Any) -> dict[str, Any]:
    """Return what takes texts, by the tracker's name: the writer or the module of transformers' own callback."""
    from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

    found: dict[str, Any] = {}
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            found["tensorboard"] = callback.tb_writer
        elif isinstance(callback, WandbCallback):
            found["wandb"] = callback._wandb
        elif isinstance(callback, TrackioCallback):
            found["trackio"] = callback._trackio
    return {name: sink for name, sink in found.items() if sink is not None}


def as_markdown(sampled: Sequence[Sampled]) -> str:
    """Return trajectories as Markdown in which nothing that others wrote is obeyed."""
    return "\n\n".join(_markdown(one) for one in sampled)


def _markdown(one: Sampled) -> str:
    trajectory = one.trajectory
    reward = "none" if one.reward is None else f"{one.reward:g}"
    head = f"**problem** {code(trajectory.problem.id)}, reward {reward}, stop {trajectory.stop}, "
    blocks = [head + f"sampled at step {one.sampled_at}", fenced(trajectory.problem.question)]
    for what, text in parts_of(trajectory):
        blocks += [f"**{what}**", fenced(text)]
    return "\n\n".join(blocks)


def parts_of(trajectory: Trajectory) -> list[tuple[str, str]]:
    """Return each part of a trajectory: what it is, with its grade or verdict, and its text."""
    parts: list[tuple[str, str]] = []
    for place, attempt in enumerate(trajectory.attempts):
        role = Role.REVISION if place else Role.ATTEMPT
        parts.append((f"{role.value}, {attempt.grade.outcome.value if attempt.grade else 'not graded'}", attempt.text))
        if place < len(trajectory.evaluations):
            evaluation = trajectory.evaluations[place]
            verdict = evaluation.verdict.value if evaluation.verdict else "none"
            parts.append((f"{Role.EVALUATION.value}, verdict {verdict}", evaluation.text))
    return parts


def as_rows(sampled: Sequence[Sampled]) -> list[list[Any]]:
    """Return trajectories as rows of `COLUMNS`, control characters written out."""
    return [
        [
            one.sampled_at,
            clean(one.trajectory.problem.id),
            clean(one.trajectory.problem.question),
            "\n\n".join(f"[{what}]\n{clean(text)}" for what, text in parts_of(one.trajectory)),
            one.reward,
        ]
        for one in sampled
    ]


COLUMNS = ("sampled_at", "problem", "question", "trajectory", "reward")


def _to_tensorboard(writer: Any, sampled: Sequence[Sampled], step: int) -> None:
    writer.add_text(TAG, as_markdown(sampled), step)


def _to_wandb(wandb: Any, sampled: Sequence[Sampled], step: int) -> None:
    wandb.log({TAG: wandb.Table(columns=list(COLUMNS), data=as_rows(sampled)), "train/global_step": step})


def _to_trackio(trackio: Any, sampled: Sequence[Sampled], step: int) -> None:
    trackio.log({TAG: trackio.Markdown(as_markdown(sampled)), "train/global_step": step})


_SEND: Mapping[str, Any] = {"tensorboard": _to_tensorboard, "wandb": _to_wandb, "trackio": _to_trackio}
