"""Reinforcement learning on one page: a step, and the run that takes steps. `train grpo` and `train ppo` are this.

A step is what `step` says, in that order. TRL drives it: its training loop (transformers' Trainer) draws the prompts of
a step from the data set, asks the trainer for the inputs of each micro-batch (`TrajectoryTrainer._prepare_inputs`,
which calls `step` where a new rollout is due), computes the loss of each, steps the optimizer, and logs; on its log
`GuardCallback` writes the row of ``metrics.jsonl`` and lets the guards look.

| part | where it is done |
|---|---|
| roll out | `rollouts.roll_out` by the loop that evaluates; the sampler has the live weights (`samplers`) |
| roll out ahead | ``off_policy: 1``: the next rollout, in a thread beside this update (`off_policy`) |
| score | the grader and `selfcorrect.rewards` (`scored_rollout.score`), figures (`rollout_metrics`) |
| weigh | GRPO: TRL's group advantages, or `scored_rollout.weigh`; PPO: its value model (`ppo_trainer`) |
| update | TRL's loss on our micro-batches (`grpo_trainer`), checked against the sampler's log-probs |
| watch | `GuardCallback`, `guards`; the run's clock, `dashboard`; trajectories in trackers, `trackers` |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from selfcorrect import prompts as wording
from selfcorrect.chat import ChatCodec
from selfcorrect.engines import EngineRecipe, context_of, length_note, too_long
from selfcorrect.errors import DataError
from selfcorrect.runs.compute import Compute
from selfcorrect.runs.jsonl import read_json
from selfcorrect.runs.progress import meter
from selfcorrect.train.common.checkpoints import fit, last_checkpoint, open_metrics, step_of
from selfcorrect.train.common.memory import Batch, Models, codec_for_plan, context_of_shipped, describe
from selfcorrect.train.common.metrics_log import Metrics
from selfcorrect.train.common.models import save_model
from selfcorrect.train.common.recipe import use_bf16
from selfcorrect.train.common.stage import run_stage
from selfcorrect.train.data.rows import training_problems
from selfcorrect.train.rl.dashboard import is_of_rollout, time_summary
from selfcorrect.train.rl.off_policy import OneStepOffPolicy, saving
from selfcorrect.train.rl.recipe import RlRecipe
from selfcorrect.train.rl.rollout_function import START_TOKENS, RolloutFunction, problem_order
from selfcorrect.train.rl.rollouts import prompt_lengths, within_context
from selfcorrect.train.rl.samplers import open_sampler
from selfcorrect.types import Problem, Verdict

if TYPE_CHECKING:
    from selfcorrect.train.rl.grpo_trainer import TrajectoryTrainer

R = TypeVar("R", bound=RlRecipe)


def step(rollout_function: RolloutFunction, trainer: TrajectoryTrainer, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """Take a step as far as the update: return the micro-batches that its optimizer steps learn from."""
    sampled = rollout_function.roll_out(prompts, trainer.model, trainer.state.global_step)
    rollout_function.sample_next(trainer)  # off_policy: 1
    scored = rollout_function.score(sampled)
    batch = trainer.tensors(prompts, scored)
    batch |= trainer.weigh(scored, batch)
    return trainer.micro_batches(batch, scored.outcomes)


def run(
    program: str,
    recipe: R,
    run_folder: Path,
    build_trainer: Callable[[R, RolloutFunction, Path], TrajectoryTrainer],
) -> dict[str, Any]:
    """Take the recipe's steps and return the summary; a finished folder is only read.

    ``program`` is its name on the command line. Raises GuardError where sampler and trainer disagree.
    """

    def train(folder: Path) -> dict[str, Any]:
        from selfcorrect.train.rl.guard_callback import GuardCallback, fall_back

        codec = ChatCodec.load(recipe.model, recipe.thinking)
        problems, too_long = within_context(
            training_problems(recipe.prompts, recipe.problems, run_folder, recipe.model),
            codec,
            recipe.sampling,
            context_of_policy(recipe),
        )
        sampler = open_sampler(
            recipe.sampler,
            codec,
            recipe.model,
            recipe.max_batch,
            recipe.sampler_options,
            use_bf16(recipe.precision),
        )
        metrics = open_metrics(folder)
        with ExitStack() as opened:
            opened.enter_context(closing(sampler))
            progress = opened.enter_context(meter(recipe.name, recipe.steps))
            progress.begin_at(step_of(last_checkpoint(folder)) // recipe.steps_per_rollout)
            kind = OneStepOffPolicy if recipe.off_policy else RolloutFunction
            rollout_function = kind(recipe, codec, problem_order(recipe, problems), sampler)
            opened.enter_context(closing(rollout_function))
            trainer = build_trainer(recipe, rollout_function, folder)
            if isinstance(rollout_function, OneStepOffPolicy):
                rollout_function.restore(last_checkpoint(folder))
                trainer.add_callback(saving(rollout_function, folder))
            if recipe.guard.watches_turn1:
                rollout_function.measure_start(trainer.model, folder / "start.json")
            watch = GuardCallback(recipe, trainer, metrics, progress)
            trainer.callback_handler.callbacks.insert(0, watch)  # what it adds to a log, trackers are to see
            fit(trainer, folder)
            trainer.release()
            last = fall_back(recipe, trainer, metrics, folder) if watch.stopped_by else trainer.state.global_step
            save_model(trainer, codec, folder)
        said: dict[str, Any] = {"result_step": last, "stopped_by": watch.stopped_by, "warnings": watch.warnings}
        said |= {"compute": _compute(recipe, metrics, problem_order(recipe, problems), folder)}
        return _summary(recipe, metrics) | said | {"prompt-too-long": len(too_long)}

    return run_stage(program, recipe, run_folder, train)


def plan(recipe: RlRecipe, run_folder: Path, value_model: bool = False) -> RenderableType:
    """Return what the training would do: resolved recipe, memory, steps, samples, tokens, first prompt."""
    codec, without = codec_for_plan(recipe.model, recipe.thinking)
    try:
        problems, missing = training_problems(recipe.prompts, recipe.problems, run_folder, recipe.model), ""
    except DataError as error:
        problems, missing = [], f"no problems yet: {error}"
    lengths = prompt_lengths(problems, codec) if codec else {}
    context = context_of_policy(recipe) or context_of_shipped(recipe.model)
    batch = Batch(recipe.micro_rows, row_tokens(recipe, lengths, codec, context), recipe.checkpointing)
    replica = recipe.sampler == "replica"
    shown = describe(recipe, batch, Models(int(recipe.beta > 0), value_model, replica))
    if not lengths:
        shown.append("prompts, which are part of a row, are not known yet and not counted in the memory")
    if context is not None and recipe.max_tokens >= context:
        shown.append(
            f"no problem can be trained on: the context holds {context:,} tokens, prompt and completion together, and "
            f"max_tokens={recipe.max_tokens} leaves no room for a prompt; set a lower max_tokens"
        )
    samples = recipe.prompts_per_step * recipe.generations
    shown.append(
        f"{recipe.steps} rollouts of {recipe.prompts_per_step} problems × {recipe.generations} = {samples} paths of at "
        f"most {recipe.sampling.budget} tokens: at most {recipe.steps * samples * recipe.sampling.budget:,} tokens; "
        f"{recipe.steps * recipe.steps_per_rollout} optimizer steps"
    )
    if recipe.off_policy:
        shown.append(
            "off_policy=1: each rollout but the first is sampled while the one before it is learned, by weights one "
            f"version behind; a token weighs at most {recipe.importance_cap:g} (importance_cap)"
        )
    if recipe.guard.watches_turn1:
        first = recipe.steps * recipe.prompts_per_step * recipe.guard.start_paths
        shown.append(f"before them {first:,} paths of the start model, for the guard of turn 1 (guard.start_paths)")
    if missing:
        return Group(*shown, missing)
    if codec is None:
        return Group(*shown, f"{len(problems)} problems", without)
    shown.append(length_note(lengths, recipe.max_tokens, context))
    problem = problem_order(recipe, problems)[0]
    opening = codec.decode(codec.opening(wording.solve_messages(problem.question)))
    epochs = recipe.steps * recipe.prompts_per_step / len(problems)
    shown.append(f"{len(problems)} problems, each used {epochs:.2f} times")
    shown.append(Panel(Text(opening), title=Text(f"first prompt ({problem.id})")))
    return Group(*shown)


def row_tokens(recipe: RlRecipe, lengths: Mapping[str, int], codec: ChatCodec | None, context: int | None) -> int:
    """Return the most tokens of a row of the update: the longest prompt that fits, and all that comes after it.

    ``lengths`` are the prompts'; without them, or without a codec for the user's later messages, those are not counted.
    Nothing is longer than the context.
    """
    left_out = set(too_long(lengths, recipe.max_tokens, context))
    prompt = max((length for name, length in lengths.items() if name not in left_out), default=0)
    replies = 0
    if recipe.format == "two-turn" and codec is not None:
        replies = (recipe.horizon - 1) * len(codec.reply(wording.two_turn_reply(Verdict.WRONG)))
    most = prompt + recipe.sampling.budget + replies
    return most if context is None else min(most, context)


def context_of_policy(recipe: RlRecipe) -> int | None:
    """Return the most tokens of a prompt and its completion together."""
    return context_of(EngineRecipe(model=recipe.model, options=recipe.sampler_options))


def _compute(recipe: RlRecipe, metrics: Metrics, order: Sequence[Problem], folder: Path) -> Compute | None:
    """Return what a run took: its rollouts with those of the start model; None where a row of before has no counts."""
    rollouts = [row for row in metrics.rows if is_of_rollout(row)]
    start, at_start = folder / START_TOKENS, 0
    if recipe.guard.watches_turn1:
        if not start.exists():
            return None
        at_start = int(read_json(start)["sampled_tokens"])
    if any("sampled_tokens" not in row for row in rollouts):
        return None
    seen = order if at_start else order[: len(rollouts) * recipe.prompts_per_step]
    return Compute(
        problems=len({problem.id for problem in seen}),
        sampled_tokens=at_start + sum(row["sampled_tokens"] for row in rollouts),
        trained_tokens=sum(row["trained_tokens"] for row in rollouts),
    )


def _summary(recipe: RlRecipe, metrics: Metrics) -> dict[str, Any]:
    rows = [row for row in metrics.rows if row.get("turn1") is not None]
    names = ("turn1", "final", "delta", "i2c", "c2i", "verdict_rate", "mean_length")

    def mean(part: Sequence[dict[str, Any]]) -> dict[str, float]:
        return {name: round(sum(row[name] for row in part) / len(part), 2) for name in names}

    ends = {"first": mean(rows[: recipe.guard.window]), "last": mean(rows[-recipe.guard.window :])} if rows else {}
    return ends | {
        "rollouts": len(rows),
        "paths": len(rows) * recipe.prompts_per_step * recipe.generations,
        "ungradable": sum(row["ungradable"] for row in metrics.rows if "ungradable" in row),
        "largest_logprob_gap": max((row["logprob_gap"] for row in metrics.rows), default=None),
        **time_summary(metrics.rows),
    }
