"""Reinforce the correctness of the last answer with GRPO, rolling out on the live weights (METHOD section 3).

    selfcorrect train grpo embedded-grpo model=runs/demo/checkpoints/ift --run runs/demo

Reads problems and a fine-tuned model; writes ``<run>/checkpoints/<name>/``: a complete model folder with
``metrics.jsonl``, one row a step (rates in percent, measured on the rollout, so on the weights BEFORE the step).
One completion is a whole long-CoT path: attempt, self-evaluation, revision. The reward is the correctness of the
path's last attempt, as the correction loop reads it: 1, 0, or None where the grader failed. Tokens after the loop's
stop decision can change nothing and are not in the loss.

Differs from the textbook: groups without variance are left out by exact equality (``zero_variance``), samples without
a reward leave the update, the sampler's log-probabilities are checked against the trainer's at every step, and guards
watch for the ways in which self-correction dies. Sampling is untruncated, at temperature 1: what is optimised is what
is sampled. Differs from the paper: no critic (the paper's PPO has one). Re-running resumes from the last checkpoint.
"""

from __future__ import annotations

import copy
import json
import math
import random
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.text import Text

from selfcorrect import prompts
from selfcorrect.correction import grade_trajectories, parse_path
from selfcorrect.engines import Sample, SampleRequest, sample_seed
from selfcorrect.errors import DataError, InputError, RecipeError
from selfcorrect.jsonl import read_jsonl, write_jsonl
from selfcorrect.metrics import is_correct, score
from selfcorrect.problems import ProblemsRecipe, load_problems
from selfcorrect.progress import Meter, console, meter
from selfcorrect.recipes import to_yaml
from selfcorrect.rewards import final_correctness
from selfcorrect.runs import is_done, mark_done, stage_folder
from selfcorrect.tokens import ChatCodec
from selfcorrect.types import Problem, Trajectory
from train import checkpoint
from train.checkpoint import Metrics, Precision
from train.guards import GuardRecipe, finding, healthy_steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from trl import GRPOConfig

    from train.grpo_trainer import PathGrpoTrainer

_FROM_TRL = {
    "loss": "loss",
    "kl": "kl",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "clip_ratio/region_mean": "clipped",
}
_FIXED_HERE = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "num_generations", "use_vllm"}


@dataclass(frozen=True, slots=True)
class GrpoRecipe:
    """Settings of one GRPO run. ``trainer`` passes through to TRL's GRPOConfig unchanged."""

    name: str = "grpo"  # the model folder's name under <run>/checkpoints/
    model: str = "embedded"  # what to start from, also the reference policy: usually a checkpoint of `train sft`
    prompts: str | None = "data/prompts.jsonl"  # problems that gen set aside, relative to the run folder
    problems: ProblemsRecipe = field(default_factory=ProblemsRecipe)  # used where prompts is null
    seed: int = 0  # order of the problems, and every sample
    steps: int = 40  # rollouts; each is followed by `updates` optimizer steps
    prompts_per_step: int = 24  # problems a rollout, over all processes
    generations: int = 8  # paths a problem: a group
    updates: int = 1  # optimizer steps a rollout; above 1 the later ones are off-policy and clipped
    passes: int = 1  # times each rollout is used
    micro_rows: int = 32  # at most so many paths a forward pass of the update
    max_tokens: int = 320  # of a whole path
    horizon: int = 2  # attempts at most
    loss_type: str = "dapo"  # a loss of TRL: grpo, dr_grpo, dapo, bnpo, cispo, sapo, vespo, luspo
    scale_rewards: Literal["group", "batch", "none"] = "group"  # what advantages are divided by
    beta: float = 0.0  # weight of the KL to the start model; 0 loads no reference model
    epsilon: float = 0.2  # clip range, lower
    epsilon_high: float | None = None  # clip range, upper; None: the same
    zero_variance: Literal["keep", "skip", "drop"] = "drop"  # groups of equal rewards, see train.grpo_trainer
    learning_rate: float = 1e-4  # peak; above 2e-4 the embedded model forgets to judge
    schedule: str = "constant"  # a name of transformers' SchedulerType
    warmup: float = 0.0  # share of the steps until the peak
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    guard: GuardRecipe = field(default_factory=GuardRecipe)
    max_logprob_gap: float = 0.05  # mean |sampler - trainer| in nats a token; above it the run stops
    max_batch: int = 256  # paths sampled at once
    precision: Precision = "auto"  # bf16 autocast or fp32; auto takes bf16 where the hardware multiplies it
    attention: str = "auto"  # a transformers attention implementation; auto: sdpa on a GPU, train.cpu's lean on a CPU
    save_every: int = 10  # rollouts between checkpoints, to resume from and for the guard to fall back on
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.steps, self.prompts_per_step, self.updates, self.passes, self.micro_rows, self.horizon) < 1:
            raise RecipeError("steps, prompts_per_step, updates, passes, micro_rows and horizon are at least 1")
        if self.generations < 2:
            raise RecipeError("generations is at least 2: a group of one has no advantage")
        for key in sorted(_FIXED_HERE & self.trainer.keys()):
            raise RecipeError(f"trainer: {key!r} is fixed here: paths are sampled untruncated, at temperature 1")


def run(recipe: GrpoRecipe, run_folder: Path) -> dict[str, Any]:
    """Train and return the summary; a finished folder is only read. Raises GuardError from the log-prob canary."""
    folder = run_folder / "checkpoints" / recipe.name
    with stage_folder(folder, recipe), checkpoint.quiet_libraries():
        if is_done(folder):
            return dict(json.loads((folder / "DONE").read_text(encoding="utf-8")))
        started = time.perf_counter()
        codec = ChatCodec.load(recipe.model)
        problems = problem_order(recipe, _problems(recipe, run_folder))
        with meter(f"grpo {recipe.name}", recipe.steps) as progress:
            resume_from = checkpoint.last_checkpoint(folder)
            done = checkpoint.step_of(resume_from)
            metrics = Metrics(folder / "metrics.jsonl", done)
            progress.advance(done // (recipe.updates * recipe.passes))
            rollouts = Rollouts(recipe, codec, problems)
            trainer = build_trainer(recipe, rollouts, folder)
            watch = _watch(recipe, trainer, rollouts, metrics, progress)
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
            result_step = trainer.state.global_step
            if watch.stopped_by:
                result_step = _fall_back(recipe, trainer, metrics, folder)
            checkpoint.save_model(trainer, codec, folder)
        summary = _summary(recipe, metrics, time.perf_counter() - started)
        summary |= {"result_step": result_step, "stopped_by": watch.stopped_by, "warnings": watch.warnings}
        if trainer.args.should_save:
            if rollouts.suspects:
                write_jsonl(folder / "guard-samples.jsonl", [path.to_json() for path in rollouts.suspects])
            shutil.rmtree(folder / "resume", ignore_errors=True)
            mark_done(folder, summary)
        return summary


def plan(recipe: GrpoRecipe, run_folder: Path = Path("runs/default")) -> RenderableType:
    """Return what the training would do: resolved recipe, parameters, steps, samples, tokens, first prompt."""
    parameters = checkpoint.parameter_count(recipe.model)
    reference = 4 * parameters if recipe.beta else 0
    samples = recipe.prompts_per_step * recipe.generations
    shown: list[RenderableType] = [
        Panel(Syntax(to_yaml(recipe), "yaml"), title="recipe"),
        f"{parameters:,} parameters; weights, gradients and AdamW states in fp32"
        f"{' and the reference model' if recipe.beta else ''} about {(16 * parameters + reference) / 1e9:.2f} GB",
        f"{recipe.steps} rollouts of {recipe.prompts_per_step} problems × {recipe.generations} = {samples} paths of at "
        f"most {recipe.max_tokens} tokens: at most {recipe.steps * samples * recipe.max_tokens:,} tokens; "
        f"{recipe.steps * recipe.updates * recipe.passes} optimizer steps",
    ]
    try:
        problems = _problems(recipe, run_folder)
    except DataError as error:
        return Group(*shown, f"no problems yet: {error}")
    codec = ChatCodec.load(recipe.model)
    first = problem_order(recipe, problems)[0]
    opening = codec.decode(codec.opening(prompts.solve_messages(first.question)))
    epochs = recipe.steps * recipe.prompts_per_step / len(problems)
    shown.append(f"{len(problems)} problems, each used {epochs:.2f} times")
    shown.append(Panel(Text(opening), title=f"first prompt ({first.id})"))
    return Group(*shown)


# --- problems -----------------------------------------------------------------------------------------------------


def _problems(recipe: GrpoRecipe, run_folder: Path) -> list[Problem]:
    if recipe.prompts is None:
        return load_problems(recipe.problems).problems
    path = run_folder / Path(recipe.prompts).expanduser()
    try:
        found = [Problem(**row) for row in read_jsonl(path)]
    except TypeError as error:
        raise DataError(
            f"{path}: expected rows of id, question, gold and source, as gen writes them ({error})"
        ) from error
    if not found:
        raise DataError(f"{path} has no problems; gen sets them aside with prompts=<how many>")
    return found


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


# --- rollouts -----------------------------------------------------------------------------------------------------


class Rollouts:
    """TRL's ``rollout_func``: samples paths from the trainer's own model, reads, grades and rewards them.

    After each call: ``rewards`` and ``row`` (the measures of the rollout) are those of the latest paths.
    """

    def __init__(self, recipe: GrpoRecipe, codec: ChatCodec, problems: Sequence[Problem]) -> None:
        self.recipe, self.codec = recipe, codec
        self.openings = {problem.id: codec.opening(prompts.solve_messages(problem.question)) for problem in problems}
        self.problems = {codec.decode(self.openings[problem.id]): problem for problem in problems}
        if len(self.problems) != len(self.openings):
            raise InputError("two problems have the same text and different ids; remove duplicates")
        self.prompt_texts = [codec.decode(self.openings[problem.id]) for problem in problems]
        self.paths: list[Trajectory] = []
        self.suspects: list[Trajectory] = []
        self.rewards: list[float | None] = []
        self.row: dict[str, Any] = {}
        self._engine: Any = None

    def __call__(self, prompt_texts: list[str], trainer: PathGrpoTrainer) -> dict[str, Any]:
        """Return prompt ids, completion ids, log-probs and the loss mask of one path per prompt."""
        started = time.perf_counter()
        if self._engine is None:
            from selfcorrect.engines.transformers import TransformersEngine

            model = trainer.model if checkpoint.has_gpu() else _without_wrappers(trainer.model)
            self._engine = TransformersEngine(model, self.codec.tokenizer, max_batch=self.recipe.max_batch)
        problems = [self.problems[text] for text in prompt_texts]
        samples = self._engine.sample_many(self._requests(problems, trainer))
        sampled = time.perf_counter()
        read = [
            parse_path(problem, self.codec, self.openings[problem.id], sample, self.recipe.horizon)
            for problem, sample in zip(problems, samples, strict=True)
        ]
        self.paths = grade_trajectories(read)
        self.rewards = [final_correctness(path) for path in self.paths]
        self.row = _measures(self.paths, self.rewards, self.recipe.generations)
        self.row |= {"sampled_at": trainer.state.global_step, "rollout_s": sampled - started}
        self.row["grading_s"] = time.perf_counter() - sampled
        completions = [_completion(sample) for sample in samples]
        return {
            "prompt_ids": [list(self.openings[problem.id]) for problem in problems],
            "completion_ids": [ids for ids, _ in completions],
            "logprobs": [logprobs for _, logprobs in completions],
            "env_mask": [
                _loss_mask(path, len(self.openings[problem.id]), sample)
                for problem, path, sample in zip(problems, self.paths, samples, strict=True)
            ],
            "final_reward": self.rewards,
        }

    def _requests(self, problems: Sequence[Problem], trainer: PathGrpoTrainer) -> list[SampleRequest]:
        rank = trainer.accelerator.process_index
        step = trainer.state.global_step
        return [
            SampleRequest(
                prompt_ids=self.openings[problem.id],
                max_tokens=self.recipe.max_tokens,
                seed=sample_seed(self.recipe.seed, "grpo", step, rank, problem.id, place % self.recipe.generations),
                stop_ids=self.codec.stop_ids,
                watch_ids=self.codec.verdict_ids,
            )
            for place, problem in enumerate(problems)
        ]


def _without_wrappers(model: PreTrainedModel) -> PreTrainedModel:
    """Return a view of the model with the same, live submodules and its class's own forward.

    TRL and accelerate wrap ``forward`` (fused head, bf16 autocast). Without them the engine samples in float32 with
    its own lean forward: on a CPU that is faster, and closer to what evaluation will do.
    """
    view = copy.copy(model)
    view.__dict__.pop("forward", None)
    return view


def final_reward(prompts: Any, completions: Any, final_reward: list[float | None], **_: Any) -> list[float | None]:
    """TRL's reward function: the rewards that came with the rollout."""
    return final_reward


def _completion(sample: Sample) -> tuple[list[int], list[float]]:
    """Return a completion's ids and log-probs, the id that ended the turn among them: stopping is learned too."""
    ids, logprobs = list(sample.token_ids), list(sample.logprobs)
    if sample.finish == "stop" and sample.stop_id is not None:
        ids.append(sample.stop_id)
        logprobs.append(sample.stop_logprob)
    return ids, logprobs


def _loss_mask(path: Trajectory, prompt_tokens: int, sample: Sample) -> list[int]:
    """Return 1 for tokens up to the loop's stop decision and the end of the turn, if that follows at once."""
    ids, _ = _completion(sample)
    kept = len(path.token_ids) - prompt_tokens
    if kept == len(sample.token_ids):
        kept = len(ids)
    return [1] * kept + [0] * (len(ids) - kept)


def _measures(paths: Sequence[Trajectory], rewards: Sequence[float | None], generations: int) -> dict[str, Any]:
    """Return the row of a rollout: the scores of the result tables in percent, and what matters to RL."""
    given = [reward for reward in rewards if reward is not None]
    groups = [set(rewards[start : start + generations]) - {None} for start in range(0, len(rewards), generations)]
    row: dict[str, Any] = {
        "reward": sum(given) / len(given) if given else None,
        "ungradable": len(rewards) - len(given),
        "zero_variance": sum(len(group) < 2 for group in groups) / len(groups),
        "mean_length": sum(path.sampled_tokens for path in paths) / len(paths),
        "truncated": 100 * sum(path.stop == "length" for path in paths) / len(paths),
    }
    if not given:
        return row | {"turn1": None}
    scores = score("rollout", paths)
    shares = {"turn1": scores.turn1, "final": scores.final, "i2c": scores.i2c, "c2i": scores.c2i}
    shares |= {"rm_C": scores.rm_C, "rm_W": scores.rm_W}
    row |= {name: share.percent for name, share in shares.items()}
    row |= {"delta": scores.delta, "verdict_rate": 100 - (scores.no_verdict.percent or 0.0)}
    return row | {"turn1_se": _turn1_standard_error(paths, generations)}


def _turn1_standard_error(paths: Sequence[Trajectory], generations: int) -> float:
    """Return the standard error of turn-1 accuracy in points: problems are the units, paths of one are not."""
    by_problem = [
        statistics.fmean(bool(is_correct(path.first)) for path in paths[start : start + generations])
        for start in range(0, len(paths), generations)
    ]
    return 100 * statistics.stdev(by_problem) / math.sqrt(len(by_problem)) if len(by_problem) > 1 else 50.0


# --- the trainer --------------------------------------------------------------------------------------------------


def grpo_config(recipe: GrpoRecipe, folder: Path) -> GRPOConfig:
    """Return TRL's settings for a recipe."""
    from accelerate import PartialState
    from trl import GRPOConfig

    processes = PartialState(cpu=not checkpoint.has_gpu()).num_processes
    if recipe.prompts_per_step % processes:
        raise RecipeError(f"prompts_per_step={recipe.prompts_per_step} does not split over {processes} processes")
    rows = recipe.prompts_per_step * recipe.generations // processes
    if rows % recipe.updates:
        raise RecipeError(f"a rollout of {rows} paths a process does not split into updates={recipe.updates}")
    per_update = rows // recipe.updates
    accumulation = next(
        n for n in range(1, per_update + 1) if per_update % n == 0 and per_update // n <= recipe.micro_rows
    )
    steps_per_rollout = recipe.updates * recipe.passes
    ours = checkpoint.device_arguments(checkpoint.use_bf16(recipe.precision)) | {
        "output_dir": str(folder / "resume"),
        "seed": recipe.seed,
        "max_steps": recipe.steps * steps_per_rollout,
        "per_device_train_batch_size": per_update // accumulation,
        "gradient_accumulation_steps": accumulation,
        "steps_per_generation": accumulation * recipe.updates,
        "num_iterations": recipe.passes,
        "num_generations": recipe.generations,
        "max_completion_length": recipe.max_tokens,
        "shuffle_dataset": False,
        "loss_type": recipe.loss_type,
        "scale_rewards": recipe.scale_rewards,
        "beta": recipe.beta,
        "epsilon": recipe.epsilon,
        "epsilon_high": recipe.epsilon_high,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": recipe.warmup,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": recipe.save_every * steps_per_rollout,
        "save_total_limit": 3,
    }
    config: GRPOConfig = checkpoint.trainer_arguments(GRPOConfig, ours, recipe.trainer)
    return config


def build_trainer(recipe: GrpoRecipe, rollouts: Rollouts, folder: Path) -> PathGrpoTrainer:
    """Return TRL's trainer on the recipe's model, rolling out through ``rollouts``."""
    from datasets import Dataset

    from train import cpu
    from train.grpo_trainer import PathGrpoTrainer

    trainer = PathGrpoTrainer(
        model=checkpoint.load_model(recipe.model, recipe.attention),
        reward_funcs=[final_reward],
        args=grpo_config(recipe, folder),
        train_dataset=Dataset.from_dict({"prompt": rollouts.prompt_texts}),
        processing_class=rollouts.codec.tokenizer,
        rollout_func=rollouts,
        rewards_of_rollout=lambda: rollouts.rewards,
        zero_variance=recipe.zero_variance,
        max_logprob_gap=recipe.max_logprob_gap,
    )
    if trainer.ref_model is not None and not checkpoint.has_gpu():
        checkpoint.detach_from_file(trainer.ref_model)
        cpu.narrow(trainer.ref_model)  # as the policy, so that the KL starts at zero
    checkpoint.remove_printer(trainer)
    return trainer


@dataclass(slots=True)
class _Watch:
    """What the guards said."""

    stopped_by: str | None = None
    warnings: list[str] = field(default_factory=list)


def _watch(
    recipe: GrpoRecipe, trainer: PathGrpoTrainer, rollouts: Rollouts, metrics: Metrics, progress: Meter
) -> _Watch:
    """Make the trainer log its steps, move the meter and obey the guards."""
    from transformers import TrainerCallback

    watch = _Watch()

    class Reports(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" not in logs:
                return
            row = {ours: logs.get(trls) for trls, ours in _FROM_TRL.items()}
            row = {name: None if value is None else float(value) for name, value in row.items()}
            row |= {"used_rows": trainer.used_rows, "logprob_gap": trainer.gap.mean}
            row |= {"logprob_gap_max": trainer.gap.largest, "update_s": logs.get("step_time", 0.0)}
            if rollouts.row:
                row |= rollouts.row
                row["update_s"] -= row["rollout_s"] + row["grading_s"]
                rollouts.row = {}
            row = metrics.add(state.global_step, **row)
            if row.get("turn1") is not None:
                note = "turn 1 {turn1:.1f} → final {final:.1f}, judged {verdict_rate:.0f}%".format(**row)
                progress.advance(1, note=note)
                console.print(f"step {row['step']}: {note}, reward {row['reward']:.3f}", style="dim", highlight=False)
                self.guard(row["step"], control)

        def guard(self, step: int, control: Any) -> None:
            found = finding(metrics.rows, recipe.guard)
            if found is None:
                return
            if not watch.warnings:
                rollouts.suspects = rollouts.paths[:64]
            watch.warnings.append(f"step {step}: {found}")
            if recipe.guard.action == "stop":
                watch.stopped_by = found
                control.should_training_stop = True
            console.print(f"guard: {found}", style="bold red", highlight=False)

    trainer.add_callback(Reports())
    return watch


def _fall_back(recipe: GrpoRecipe, trainer: PathGrpoTrainer, metrics: Metrics, folder: Path) -> int:
    """Put the last healthy weights back into the trainer's model and return their step; 0 is the start model."""
    healthy = set(healthy_steps(metrics.rows, recipe.guard))
    saved = {checkpoint.step_of(path): path for path in (folder / "resume").glob("checkpoint-*")}
    step = max(healthy & saved.keys(), default=0)
    source = str(saved[step]) if step else recipe.model
    weights = checkpoint.load_model(source, recipe.attention).state_dict()
    trainer.model.load_state_dict(weights)
    console.print(f"the result is the model of step {step}, the last healthy one that was saved", style="bold red")
    return step


def _summary(recipe: GrpoRecipe, metrics: Metrics, seconds: float) -> dict[str, Any]:
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
        "seconds": round(seconds, 2),
    }
