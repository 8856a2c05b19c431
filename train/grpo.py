"""Reinforce the correctness of the last answer with GRPO, rolling out on the live weights (METHOD section 3).

    selfcorrect train grpo embedded-grpo model=runs/demo/checkpoints/ift --run runs/demo

Reads problems and a fine-tuned model; writes ``<run>/checkpoints/<name>/``: a complete model folder with
``metrics.jsonl``, one row a step (rates in percent, measured on the rollout, so on the weights BEFORE the step).
One completion is a whole path: attempt, self-evaluation, revision, in long-CoT or as a two-turn chat whose user tokens
are never learned (`train.rl.rollouts`). The reward is a weighted sum of parts (`selfcorrect.rewards`), by default the
correctness of the path's last attempt: 1, 0, or None where the grader failed. Tokens after the loop's stop decision can
change nothing and are not in the loss. Credit goes to the whole path, or to each turn for itself (``credit: turn``).

Differs from the textbook: groups without variance are left out by exact equality (``zero_variance``), samples without
a reward leave the update, the sampler's log-probabilities are checked against the trainer's at every step, and guards
watch for the ways in which self-correction dies. Sampling is untruncated, at temperature 1: what is optimised is what
is sampled. Differs from the paper: no critic (the paper's PPO has one). Re-running resumes from the last checkpoint.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from selfcorrect import prompts
from selfcorrect.engines import EngineRecipe, context_of, length_note
from selfcorrect.errors import DataError, RecipeError
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.progress import meter
from selfcorrect.rewards import RewardRecipe
from selfcorrect.tokens import ChatCodec
from selfcorrect.train.common.checkpoints import fit, last_checkpoint, open_metrics, step_of
from selfcorrect.train.common.distributed import has_gpu, hold_whole_weights, process_count
from selfcorrect.train.common.lora import peft_config
from selfcorrect.train.common.memory import Batch, codec_for_plan, describe
from selfcorrect.train.common.metrics_log import Metrics
from selfcorrect.train.common.models import detach_from_file, load_model, save_model
from selfcorrect.train.common.recipe import TrainerRecipe, trl_config
from selfcorrect.train.common.stage import run_stage
from selfcorrect.train.data.rows import training_problems
from selfcorrect.train.rl.guard_callback import fall_back, watch_over
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.rl.rollout_function import Rollouts, final_reward
from selfcorrect.train.rl.rollouts import Format, Sampling, within_context
from selfcorrect.train.rl.samplers import SamplerKind
from selfcorrect.train.rl.variants import SETTINGS, Variant, ZeroVariance, check_trainer, variant_of
from selfcorrect.types import Problem

if TYPE_CHECKING:
    from trl import GRPOConfig

    from selfcorrect.train.rl.grpo_trainer import PathGrpoTrainer

_FIXED_HERE = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "num_generations", "use_vllm"}


@dataclass(frozen=True, slots=True)
class GrpoRecipe(TrainerRecipe):
    """Settings of one GRPO run. ``model`` is also the reference policy: usually a checkpoint of `train sft`."""

    name: str = "grpo"
    learning_rate: float = 1e-4  # peak; the embedded model takes 3e-4 and is harmed by 5e-4
    schedule: str = "constant"  # a name of transformers' SchedulerType
    warmup: float = 0.0  # share of the steps until the peak
    prompts: str | None = "data/prompts.jsonl"  # problems that gen set aside, relative to the run folder
    problems: ProblemsRecipe = field(default_factory=ProblemsRecipe)  # used where prompts is null
    steps: int = 40  # rollouts; each is followed by `updates` optimizer steps
    prompts_per_step: int = 24  # problems a rollout, over all processes
    generations: int = 8  # paths a problem: a group
    updates: int = 1  # optimizer steps a rollout; above 1 the later ones are off-policy and clipped
    passes: int = 1  # times each rollout is used
    micro_rows: int = 32  # at most so many paths a forward pass of the update
    format: Format = "long-cot"
    max_tokens: int = 320  # of a whole path (a message in two turns)
    horizon: int = 2  # attempts at most
    max_batch: int = 256  # paths sampled at once
    sampler: SamplerKind = "live"  # from the trained module itself; vllm: from vLLM with its weights
    sampler_options: dict[str, Any] = field(default_factory=dict)  # vllm: its engine arguments, unchanged
    loss_type: str = "dapo"  # a method of selfcorrect.train.rl.variants; what is None below is as its paper has it
    scale_rewards: Literal["group", "batch", "none"] | None = None  # what advantages are divided by
    beta: float = 0.0  # weight of the KL to the start model; 0 loads no reference model
    epsilon: float | None = None  # clip range, lower
    epsilon_high: float | None = None  # clip range, upper; under cispo the cap of the ratio itself
    zero_variance: ZeroVariance | None = None  # groups of equal rewards, see selfcorrect.train.rl.grpo_trainer
    published: bool = True  # refuse settings that make loss_type another method; false: mix freely
    reward: RewardRecipe = field(default_factory=RewardRecipe)  # weights of its parts
    credit: Literal["path", "turn"] = "path"  # who earns it: the whole path, or each part its own
    turn_discount: float = 0.0  # credit turn: what a part has of the parts after it; 0: turn-independent (PAG)
    normalise: Literal["path", "role"] = "path"  # advantages centred and scaled by path, or within each role
    overlong: Literal["keep", "mask", "drop"] = "keep"  # paths cut by the budget: learn, count but do not, leave out
    guard: GuardRecipe = field(default_factory=GuardRecipe)
    max_logprob_gap: float = 0.05  # mean |sampler - trainer| in nats a token; above it the run stops
    save_every: int = 10  # rollouts between checkpoints, to resume from and for the guard to fall back on

    @property
    def sampling(self) -> Sampling:
        """How the rollouts are sampled."""
        return Sampling(self.format, self.max_tokens, self.horizon)

    @property
    def steps_per_rollout(self) -> int:
        """How many optimizer steps follow each rollout."""
        return self.updates * self.passes

    @property
    def loss(self) -> Variant:
        """The loss with every setting filled in. Raises RecipeError where it is not what its name says."""
        chosen = {name: getattr(self, name) for name in SETTINGS}
        return variant_of(self.loss_type, chosen, self.trainer, self.normalise, self.beta, self.published)

    def __post_init__(self) -> None:
        if min(self.steps, self.prompts_per_step, self.updates, self.passes, self.micro_rows, self.horizon) < 1:
            raise RecipeError("steps, prompts_per_step, updates, passes, micro_rows and horizon are at least 1")
        if self.generations < 2:
            raise RecipeError("generations is at least 2: a group of one has no advantage")
        if self.credit == "turn" and self.normalise == "path":
            raise RecipeError("credit=turn needs normalise=role: parts of different roles earn different rewards")
        for key in sorted(_FIXED_HERE & self.trainer.keys()):
            raise RecipeError(f"trainer: {key!r} is fixed here: paths are sampled untruncated, at temperature 1")
        check_trainer(self.trainer)
        assert self.loss  # refuses what is not the method


def run(
    recipe: GrpoRecipe,
    run_folder: Path,
    build: Callable[[Any, Rollouts, Path], PathGrpoTrainer] | None = None,
) -> dict[str, Any]:
    """Train and return the summary; a finished folder is only read. Raises GuardError from the log-prob canary.

    ``build`` makes another trainer than GRPO's on the same rollouts, guards and logging (`selfcorrect.train.ppo`).
    """

    def train(folder: Path) -> dict[str, Any]:
        hold_whole_weights()
        codec = ChatCodec.load(recipe.model, recipe.thinking)
        problems, beyond = within_context(
            training_problems(recipe.prompts, recipe.problems, run_folder, recipe.model),
            codec,
            recipe.sampling,
            context_of_policy(recipe),
        )
        rollouts = Rollouts(recipe, codec, problem_order(recipe, problems))
        metrics = open_metrics(folder)
        with meter(recipe.name, recipe.steps) as progress, closing(rollouts.sampler):
            progress.advance(step_of(last_checkpoint(folder)) // recipe.steps_per_rollout)
            trainer = (build or build_trainer)(recipe, rollouts, folder)
            if recipe.guard.watches_turn1:
                rollouts.measure_start(trainer, folder / "start.json")
            watch = watch_over(recipe, trainer, rollouts, metrics, progress)
            fit(trainer, folder)
            trainer.release()
            step = fall_back(recipe, trainer, metrics, folder) if watch.stopped_by else trainer.state.global_step
            save_model(trainer, codec, folder)
        said = {"result_step": step, "stopped_by": watch.stopped_by, "warnings": watch.warnings}
        said |= {"prompt-too-long": len(beyond)}
        return _summary(recipe, metrics) | said

    return run_stage("ppo" if build else "grpo", recipe, run_folder, train)


def plan(recipe: GrpoRecipe, run_folder: Path = Path("runs/default")) -> RenderableType:
    """Return what the training would do: resolved recipe, memory, steps, samples, tokens, first prompt."""
    batch = Batch(recipe.micro_rows, recipe.sampling.budget, recipe.checkpointing)
    shown = describe(recipe, batch, recipe.beta > 0, getattr(recipe, "critic", None) == "separate")
    samples = recipe.prompts_per_step * recipe.generations
    shown.append(
        f"{recipe.steps} rollouts of {recipe.prompts_per_step} problems × {recipe.generations} = {samples} paths of at "
        f"most {recipe.sampling.budget} tokens: at most {recipe.steps * samples * recipe.sampling.budget:,} tokens; "
        f"{recipe.steps * recipe.steps_per_rollout} optimizer steps"
    )
    if recipe.guard.watches_turn1:
        first = recipe.steps * recipe.prompts_per_step * recipe.guard.start_paths
        shown.append(f"before them {first:,} paths of the start model, for the guard of turn 1 (guard.start_paths)")
    try:
        problems = training_problems(recipe.prompts, recipe.problems, run_folder, recipe.model)
    except DataError as error:
        return Group(*shown, f"no problems yet: {error}")
    codec, without = codec_for_plan(recipe.model, recipe.thinking)
    if codec is None:
        return Group(*shown, f"{len(problems)} problems", without)
    lengths = {problem.id: len(codec.opening(prompts.solve_messages(problem.question))) for problem in problems}
    shown.append(length_note(lengths, recipe.max_tokens, context_of_policy(recipe)))
    problem = problem_order(recipe, problems)[0]
    opening = codec.decode(codec.opening(prompts.solve_messages(problem.question)))
    epochs = recipe.steps * recipe.prompts_per_step / len(problems)
    shown.append(f"{len(problems)} problems, each used {epochs:.2f} times")
    shown.append(Panel(Text(opening), title=Text(f"first prompt ({problem.id})")))
    return Group(*shown)


def context_of_policy(recipe: GrpoRecipe) -> int | None:
    """Return the most tokens of a prompt and its completion together."""
    return context_of(EngineRecipe(model=recipe.model, options=recipe.sampler_options))


def problem_order(recipe: GrpoRecipe, problems: Sequence[Problem]) -> list[Problem]:
    """Return the problems of all rollouts in order: whole shuffled passes over the set, by the seed alone.

    Written out in advance, so that a resumed run continues with the problems that would have come.
    """
    needed = recipe.steps * recipe.prompts_per_step
    order: list[Problem] = []
    for lap in range(math.ceil(needed / len(problems))):
        shuffled = list(problems)
        random.Random(f"grpo-{recipe.seed}-{lap}").shuffle(shuffled)
        order += shuffled
    return order[:needed]


def grpo_config(recipe: GrpoRecipe, folder: Path) -> GRPOConfig:
    """Return TRL's settings for a recipe."""
    from trl import GRPOConfig

    loss, processes = recipe.loss, process_count()
    if recipe.prompts_per_step % processes:
        raise RecipeError(f"prompts_per_step={recipe.prompts_per_step} does not split over {processes} processes")
    rows = recipe.prompts_per_step * recipe.generations // processes
    if rows % recipe.updates:
        raise RecipeError(f"a rollout of {rows} paths a process does not split into updates={recipe.updates}")
    per_update = rows // recipe.updates
    accumulation = next(
        n for n in range(1, per_update + 1) if per_update % n == 0 and per_update // n <= recipe.micro_rows
    )
    config: GRPOConfig = trl_config(
        GRPOConfig,
        recipe,
        folder,
        max_steps=recipe.steps * recipe.steps_per_rollout,
        per_device_train_batch_size=per_update // accumulation,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation * recipe.updates,
        num_iterations=recipe.passes,
        num_generations=recipe.generations,
        max_completion_length=recipe.sampling.budget,
        shuffle_dataset=False,
        loss_type=loss.aggregation,
        importance_sampling_level=loss.level,
        scale_rewards=loss.scale_rewards,
        beta=recipe.beta,
        epsilon=loss.epsilon,
        epsilon_high=loss.epsilon_high,
        logging_steps=1,
        save_steps=recipe.save_every * recipe.steps_per_rollout,
        save_total_limit=3,
    )
    return config


def build_trainer(
    recipe: GrpoRecipe, rollouts: Rollouts, folder: Path, kind: type[PathGrpoTrainer] | None = None, **more: Any
) -> PathGrpoTrainer:
    """Return TRL's trainer (or a ``kind`` of ours) on the recipe's model, rolling out through ``rollouts``."""
    from datasets import Dataset

    from selfcorrect.train.common import lean_cpu
    from selfcorrect.train.rl.grpo_trainer import PathGrpoTrainer

    trainer = (kind or PathGrpoTrainer)(
        model=load_model(recipe.model, recipe.attention),
        reward_funcs=[final_reward],
        args=grpo_config(recipe, folder),
        train_dataset=Dataset.from_dict({"prompt": rollouts.prompt_texts}),
        processing_class=rollouts.codec.tokenizer,
        peft_config=peft_config(recipe.lora),
        rollout_func=rollouts,
        outcomes_of_rollout=lambda: rollouts.outcomes,
        advantages_of_rollout=rollouts.advantages,
        positives_only=recipe.loss.positives_only,
        zero_variance=recipe.loss.zero_variance,
        max_logprob_gap=recipe.max_logprob_gap,
        **more,
    )
    if trainer.ref_model is not None and not has_gpu():
        detach_from_file(trainer.ref_model)
        lean_cpu.narrow(trainer.ref_model)  # as the policy, so that the KL starts at zero
    return trainer


def _summary(recipe: GrpoRecipe, metrics: Metrics) -> dict[str, Any]:
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
    }
