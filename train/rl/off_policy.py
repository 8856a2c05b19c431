"""`OneStepOffPolicy`: the next rollout is sampled while this one is learned (``off_policy: 1``, one-step off-policy).

A step, of rollout k, is then:

1. take rollout k, which was sampled ahead (the first is sampled here and now: it is on-policy);
2. hand the weights, version k, over to the sampler; let it sample a few tokens, and compare their log-probabilities
   with the trainer's: the **canary**, for each version of the weights, where both have it;
3. begin to sample rollout k + 1 from them in a thread, and learn rollout k meanwhile (`importance`).

So rollout k has the weights of version k - 1: one version behind, never more. A version is named by its optimizer step
(``sampled_at``). The thread only samples: what all processes do together (gathering weights, seeds, grading, updates)
stays in the main thread, in the same order everywhere.

**Interrupted = uninterrupted**: a checkpoint holds the rollout that is under way when it is saved, token by token, for
the weights that sampled it are no longer there. Saving waits for it; the next step would wait for it anyway.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from selfcorrect.engines import sample_seed
from selfcorrect.errors import DataError
from selfcorrect.runs.jsonl import write_whole
from selfcorrect.train.common.checkpoints import step_of
from selfcorrect.train.common.distributed import process_count, process_rank
from selfcorrect.train.rl.logprob_gap import Gap
from selfcorrect.train.rl.rollout_function import RolloutFunction, SampledRollout
from selfcorrect.train.rl.rollouts import Rollout, roll_out
from selfcorrect.types import Problem, Role, Span, Trajectory

if TYPE_CHECKING:
    from selfcorrect.train.rl.grpo_trainer import TrajectoryTrainer

PROBE_PATHS, PROBE_TOKENS = 8, 32
"""What the canary samples of each version of the weights, in each process: at most so many trajectories, so long."""


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A rollout that is sampled ahead: the prompts that it is of, and what will be sampled."""

    prompt_texts: tuple[str, ...]
    sampled: Future[SampledRollout]


class OneStepOffPolicy(RolloutFunction):
    """See the module's text. The trainer asks for rollouts in order; each but the first is there, or under way."""

    _ahead: _Ahead | None = None
    _thread: Thread | None = None
    _codec_of_thread: Any = None  # a tokenizer serves one thread

    def roll_out(self, prompt_texts: Sequence[str], model: Any, step: int) -> SampledRollout:
        """Return the rollout of this step: the one that was sampled ahead; the first is sampled now."""
        if self._ahead is None:
            return super().roll_out(prompt_texts, model, step)
        started = time.perf_counter()
        sampled = self._ahead.sampled.result()
        self.waited_s, self.handover_s = time.perf_counter() - started, 0.0
        expected, self._ahead = self._ahead.prompt_texts, None
        if tuple(prompt_texts) != expected or sampled.step + sampled.staleness != step:
            raise DataError(
                f"step {step}: the rollout that was sampled ahead is of step {sampled.step + sampled.staleness} and of "
                f"{len(expected)} prompts, not of the {len(prompt_texts)} that the trainer asks for: the checkpoint is "
                "of other problems; remove the folder's resume/ to begin anew"
            )
        return sampled

    def sample_next(self, trainer: TrajectoryTrainer) -> None:
        """Hand the weights over, let the canary compare, and begin to sample the next rollout; none after the last."""
        step = trainer.state.global_step
        each = self.recipe.prompts_per_step
        first = (step // self.recipe.steps_per_rollout + 1) * each
        texts = [text for text in self.prompt_texts[first : first + each] for _ in range(self.recipe.generations)]
        share = len(texts) // process_count()
        mine = texts[process_rank() * share : (process_rank() + 1) * share]
        if not mine:
            self.sampler.rest()
            return
        problems = [self.problems[text] for text in mine]
        staleness = self.recipe.steps_per_rollout
        seeds = self._seeds(problems, step + staleness)
        started = time.perf_counter()
        self.sampler.follow(trainer.model)
        gap = trainer.compare(self._probe(problems, step))
        handover_s = time.perf_counter() - started
        self.handover_s += handover_s
        codec = self._codec_of_thread = self._codec_of_thread or copy.deepcopy(self.codec)

        def sample() -> SampledRollout:
            began = time.perf_counter()
            rollouts = roll_out(self.sampler, codec, problems, seeds, self.recipe.sampling)
            seconds = time.perf_counter() - began + handover_s
            return SampledRollout(tuple(rollouts), step, seconds, handover_s, staleness, gap)

        self._begin(mine, sample)

    def _begin(self, prompt_texts: Sequence[str], sample: Any) -> None:
        done: Future[SampledRollout] = Future()

        def work() -> None:
            try:
                done.set_result(sample())
            except BaseException as error:  # noqa: BLE001 - whoever waits for the rollout is to learn of it
                done.set_exception(error)

        self._ahead = _Ahead(tuple(prompt_texts), done)
        self._thread = Thread(target=work, name="next rollout", daemon=True)
        self._thread.start()

    def _probe(self, problems: Sequence[Problem], step: int) -> list[Rollout]:
        """Return the beginnings of a few trajectories, from the weights that were just handed over."""
        few = problems[:: max(1, len(problems) // PROBE_PATHS)][:PROBE_PATHS]
        seeds = [sample_seed(self.recipe.seed, "canary", step, place) for place in range(len(few))]
        tokens = min(PROBE_TOKENS, self.recipe.max_tokens)
        short = replace(self.recipe.sampling, format="long-cot", horizon=1, max_tokens=tokens)
        return roll_out(self.sampler, self.codec, few, seeds, short)

    def close(self) -> None:
        """End the sampling that is under way: close the sampler, which fails it, and wait for its thread."""
        if self._thread is not None and self._thread.is_alive():
            self.sampler.close()
            self._thread.join()

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def save(self, checkpoint: Path) -> None:
        """Write this process's share of the rollout that is sampled ahead into a checkpoint, once it is there."""
        if self._ahead is not None:
            row = _to_json(self._ahead.sampled.result())
            row |= {"prompts": self._ahead.prompt_texts, "processes": process_count()}
            write_whole(_file(checkpoint), [json.dumps(row)])

    def restore(self, checkpoint: Path | None) -> None:
        """Take up the rollout that a checkpoint holds, so that the resumed run learns from the very same."""
        step = step_of(checkpoint)
        if checkpoint is None or step >= self.recipe.steps * self.recipe.steps_per_rollout:
            return
        file = _file(checkpoint)
        if not file.exists():
            raise DataError(
                f"{file} is not there: with off_policy=1 a checkpoint holds the next rollout, a file a process; go on "
                f"with the number of processes that the run was begun with, or remove {checkpoint.parent} to begin anew"
            )
        row = json.loads(file.read_text(encoding="utf-8"))
        if row["processes"] != process_count():
            raise DataError(
                f"{file} was saved by {row['processes']} processes and this run has {process_count()}: go on with as "
                f"many, or remove {checkpoint.parent} to begin anew"
            )
        done: Future[SampledRollout] = Future()
        done.set_result(_from_json(row))
        self._ahead = _Ahead(tuple(row["prompts"]), done)


def saving(rollout_function: OneStepOffPolicy, folder: Path) -> Any:
    """Return a callback that puts the next rollout into each checkpoint, before it is sealed (`checkpoints.fit`)."""
    from transformers import TrainerCallback

    class Saving(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            rollout_function.save(folder / "resume" / f"checkpoint-{state.global_step}")

    return Saving()


def _file(checkpoint: Path) -> Path:
    return checkpoint / f"next-rollout-{process_rank()}.json"


def _to_json(sampled: SampledRollout) -> dict[str, Any]:
    rollouts = [
        {
            "trajectory": rollout.trajectory.to_json(),
            "prompt_ids": rollout.prompt_ids,
            "completion_ids": rollout.completion_ids,
            "logprobs": rollout.logprobs,
            "learned": rollout.learned,
            "parts": [asdict(part) for part in rollout.parts],
        }
        for rollout in sampled.rollouts
    ]
    gap = None if sampled.gap is None else asdict(sampled.gap)
    about = {"step": sampled.step, "seconds": sampled.seconds, "handover_s": sampled.handover_s}
    return about | {"staleness": sampled.staleness, "gap": gap, "rollouts": rollouts}


def _from_json(row: dict[str, Any]) -> SampledRollout:
    rollouts = [
        Rollout(
            Trajectory.from_json(one["trajectory"]),
            tuple(one["prompt_ids"]),
            tuple(one["completion_ids"]),
            tuple(one["logprobs"]),
            tuple(one["learned"]),
            tuple(Span(Role(part["role"]), part["start"], part["end"], part["sampled"]) for part in one["parts"]),
        )
        for one in row["rollouts"]
    ]
    return SampledRollout(
        tuple(rollouts), row["step"], row["seconds"], row["handover_s"], row["staleness"], _gap(row["gap"])
    )


def _gap(found: dict[str, Any] | None) -> Gap | None:
    return None if found is None else Gap(**found)
