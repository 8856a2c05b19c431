"""Reinforce the correctness of the last answer with GRPO, rolling out on the live weights (METHOD section 3).

    selfcorrect train grpo embedded-grpo model=runs/demo/checkpoints/ift --run runs/demo

Reads problems and a fine-tuned model; writes ``<run>/checkpoints/<name>/``: a complete model folder with
``metrics.jsonl``, one row a step (rates in percent, measured on the rollout, so on the weights BEFORE the step).
One completion is a whole path: attempt, self-evaluation, revision, in long-CoT or as a two-turn chat whose user tokens
are never learned (`train.rollouts`). The reward is a weighted sum of parts (`selfcorrect.rewards`), by default the
correctness of the path's last attempt: 1, 0, or None where the grader failed. Tokens after the loop's stop decision can
change nothing and are not in the loss. Credit goes to the whole path, or to each turn for itself (``credit: turn``).

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.text import Text

from selfcorrect import prompts
from selfcorrect.engines import sample_seed
from selfcorrect.errors import DataError, InputError, RecipeError
from selfcorrect.metrics import is_correct, score
from selfcorrect.problems import ProblemsRecipe, load_problems
from selfcorrect.progress import Meter, console, meter
from selfcorrect.recipes import to_yaml
from selfcorrect.rewards import RewardRecipe, reward_parts, total, turn_rewards
from selfcorrect.runs import is_done, mark_done
from selfcorrect.tokens import ChatCodec
from selfcorrect.types import Problem, Role, Span, Trajectory
from train import checkpoint
from train.advantages import Rule, path_advantages, returns_to_go, role_advantages
from train.card import write_card
from train.checkpoint import Metrics, Precision
from train.data import read_problems
from train.guards import Finding, GuardRecipe, findings, healthy_steps, offenders
from train.planner import Batch, memory_table, model_size
from train.rollouts import Format, Rollout, Sampling, graded, roll_out

if TYPE_CHECKING:
    from torch import Tensor
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
LOSSES: dict[str, tuple[str, Rule]] = {
    "rloo": ("dr_grpo", "leave-one-out"),
    "raft++": ("grpo", "positive"),
    "reinforce-rej": ("grpo", "signed"),
}
"""Variants that TRL's GRPOTrainer does not name: how it aggregates, and the rule of `advantages.path_advantages`."""

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
    loss_type: str = "dapo"  # of TRL: grpo, dr_grpo, dapo, bnpo, cispo, sapo, vespo, luspo; ours: see LOSSES
    scale_rewards: Literal["group", "batch", "none"] = "group"  # what advantages are divided by
    beta: float = 0.0  # weight of the KL to the start model; 0 loads no reference model
    epsilon: float = 0.2  # clip range, lower
    epsilon_high: float | None = None  # clip range, upper; None: the same
    zero_variance: Literal["keep", "skip", "drop"] = "drop"  # groups of equal rewards, see train.grpo_trainer
    learning_rate: float = 1e-4  # peak; the embedded model takes 3e-4 and is harmed by 5e-4
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
    format: Format = "long-cot"
    reward: RewardRecipe = field(default_factory=RewardRecipe)  # weights of its parts
    credit: Literal["path", "turn"] = "path"  # who earns it: the whole path, or each part its own
    turn_discount: float = 0.0  # credit turn: what a part has of the parts after it; 0: turn-independent (PAG)
    normalise: Literal["path", "role"] = "path"  # advantages centred and scaled by path, or within each role
    overlong: Literal["keep", "mask", "drop"] = "keep"  # paths cut by the budget: learn, count but do not, leave out
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def sampling(self) -> Sampling:
        """How the rollouts are sampled."""
        return Sampling(self.format, self.max_tokens, self.horizon)

    def __post_init__(self) -> None:
        if min(self.steps, self.prompts_per_step, self.updates, self.passes, self.micro_rows, self.horizon) < 1:
            raise RecipeError("steps, prompts_per_step, updates, passes, micro_rows and horizon are at least 1")
        if self.generations < 2:
            raise RecipeError("generations is at least 2: a group of one has no advantage")
        if self.credit == "turn" and self.normalise == "path":
            raise RecipeError("credit=turn needs normalise=role: parts of different roles earn different rewards")
        if self.normalise == "role" and self.loss_type in LOSSES:
            raise RecipeError(
                f"loss_type={self.loss_type} names its own advantages; normalise=role needs a loss of TRL"
            )
        for key in sorted(_FIXED_HERE & self.trainer.keys()):
            raise RecipeError(f"trainer: {key!r} is fixed here: paths are sampled untruncated, at temperature 1")


def run(
    recipe: GrpoRecipe,
    run_folder: Path,
    build: Callable[[Any, Rollouts, Path], PathGrpoTrainer] | None = None,
) -> dict[str, Any]:
    """Train and return the summary; a finished folder is only read. Raises GuardError from the log-prob canary.

    ``build`` makes another trainer than GRPO's on the same rollouts, guards and logging (`train.ppo`).
    """
    folder = run_folder / "checkpoints" / recipe.name
    with checkpoint.quiet_libraries(), checkpoint.open_stage(folder, recipe):
        if is_done(folder):
            return dict(json.loads((folder / "DONE").read_text(encoding="utf-8")))
        started = time.perf_counter()
        checkpoint.hold_whole_weights()
        codec = ChatCodec.load(recipe.model)
        problems = problem_order(recipe, _problems(recipe, run_folder))
        with meter(recipe.name, recipe.steps) as progress:
            resume_from = checkpoint.last_checkpoint(folder)
            done = checkpoint.step_of(resume_from)
            metrics = Metrics(folder / "metrics.jsonl", done)
            progress.advance(done // (recipe.updates * recipe.passes))
            rollouts = Rollouts(recipe, codec, problems)
            trainer = (build or build_trainer)(recipe, rollouts, folder)
            watch = _watch(recipe, trainer, rollouts, metrics, progress)
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
            result_step = trainer.state.global_step
            trainer.release()
            if watch.stopped_by:
                result_step = _fall_back(recipe, trainer, metrics, folder)
            checkpoint.save_model(trainer, codec, folder)
        summary = _summary(recipe, metrics, time.perf_counter() - started)
        summary |= {"result_step": result_step, "stopped_by": watch.stopped_by, "warnings": watch.warnings}
        if trainer.args.should_save:
            shutil.rmtree(folder / "resume", ignore_errors=True)
            write_card(folder, "grpo" if build is None else "ppo", summary)
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
        memory_table(
            model_size(recipe.model),
            Batch(recipe.micro_rows, recipe.sampling.budget, bool(recipe.trainer.get("gradient_checkpointing"))),
            frozen_models=int(recipe.beta > 0),
            value_model=getattr(recipe, "critic", None) == "separate",
        ),
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
    return read_problems(run_folder / Path(recipe.prompts).expanduser())


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

    After each call: ``latest`` are the paths, ``rewards`` theirs, ``row`` the measures of the rollout.
    """

    def __init__(self, recipe: GrpoRecipe, codec: ChatCodec, problems: Sequence[Problem]) -> None:
        self.recipe, self.codec = recipe, codec
        openings = {problem.id: codec.opening(prompts.solve_messages(problem.question)) for problem in problems}
        self.problems = {codec.decode(openings[problem.id]): problem for problem in problems}
        if len(self.problems) != len(openings):
            raise InputError("two problems have the same text and different ids; remove duplicates")
        self.prompt_texts = [codec.decode(openings[problem.id]) for problem in problems]
        self.latest: list[Rollout] = []
        self.paths: list[Trajectory] = []  # of all processes
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
        rollouts = roll_out(self._engine, self.codec, problems, self._seeds(problems, trainer), self.recipe.sampling)
        sampled = time.perf_counter()
        self.latest = graded(rollouts)
        parts = [reward_parts(rollout.path, self.recipe.reward, self.recipe.sampling.budget) for rollout in self.latest]
        self.rewards = [total(values, self.recipe.reward) for values in parts]
        if self.recipe.overlong == "drop":
            cut = [rollout.path.stop == "length" for rollout in self.latest]
            self.rewards = [None if gone else reward for gone, reward in zip(cut, self.rewards, strict=True)]
        # Every process measures all rollouts, so that guards speak, and stop, in all of them.
        together = [
            (rollout.path, reward, part) for rollout, reward, part in zip(self.latest, self.rewards, parts, strict=True)
        ]
        self.paths, rewards, parts = map(list, zip(*_gathered(together), strict=True))
        self.row = _measures(self.paths, rewards, self.recipe.generations)
        self.row |= _means_of_parts(parts) | {"sampled_at": trainer.state.global_step, "rollout_s": sampled - started}
        self.row["grading_s"] = time.perf_counter() - sampled
        for name, value in self.row.items():  # for TensorBoard, W&B and Trackio, where `trainer.report_to` names them
            if isinstance(value, (int, float)):
                trainer._metrics["train"][f"path/{name}"].append(value)
        return {
            "prompt_ids": [list(rollout.prompt_ids) for rollout in self.latest],
            "completion_ids": [list(rollout.completion_ids) for rollout in self.latest],
            "logprobs": [list(rollout.logprobs) for rollout in self.latest],
            "env_mask": [self._loss_mask(rollout) for rollout in self.latest],
            "final_reward": self.rewards,
        }

    def _seeds(self, problems: Sequence[Problem], trainer: PathGrpoTrainer) -> list[int]:
        step = trainer.state.global_step  # and no rank: two processes sample what one would
        return [
            sample_seed(self.recipe.seed, "grpo", step, 0, problem.id, place % self.recipe.generations)
            for place, problem in enumerate(problems)
        ]

    def _loss_mask(self, rollout: Rollout) -> list[int]:
        masked = self.recipe.overlong == "mask" and rollout.path.stop == "length"
        return [0] * len(rollout.learned) if masked else list(rollout.learned)

    @property
    def outcomes(self) -> list[Any]:
        """What decides whether a group has variance: the reward, or under turn credit all turns' rewards."""
        if self.recipe.credit == "path":
            return list(self.rewards)
        return [
            None if reward is None else self._turn_rewards(rollout)
            for reward, rollout in zip(self.rewards, self.latest, strict=True)
        ]

    def _turn_rewards(self, rollout: Rollout) -> tuple[float, ...]:
        earned = turn_rewards(rollout.path, self.recipe.reward, self.recipe.sampling.budget)
        return tuple(reward or 0.0 for _, reward in earned)

    def advantages(self, columns: int, reduce: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return advantages of the latest paths where they are not TRL's own: (B,), or (B, columns) by role."""
        import torch

        _, rule = LOSSES.get(self.recipe.loss_type, ("", "group"))
        if self.recipe.normalise == "path":
            rewards = torch.tensor([math.nan if reward is None else reward for reward in self.rewards])
            return None if rule == "group" else path_advantages(rewards, self.recipe.generations, rule)
        owners: list[int] = []
        places: list[Span] = []
        returns: list[float] = []
        for row, (rollout, reward) in enumerate(zip(self.latest, self.rewards, strict=True)):
            if reward is None:
                continue
            earned = [reward] * len(rollout.parts)
            if self.recipe.credit == "turn":
                earned = returns_to_go(self._turn_rewards(rollout), self.recipe.turn_discount)
            owners += [row] * len(earned)
            places += rollout.parts
            returns += earned
        roles = [_ROLES.index(part.role) for part in places]
        scaled = self.recipe.scale_rewards != "none"
        values_P = role_advantages(
            torch.tensor(returns), torch.tensor(owners), torch.tensor(roles), self.recipe.generations, scaled, reduce
        )
        advantages_BT = torch.zeros(len(self.latest), columns)
        for row, part, value in zip(owners, places, values_P, strict=True):
            advantages_BT[row, part.start : part.end] = value
        return advantages_BT


_ROLES = (Role.ATTEMPT, Role.EVALUATION, Role.REVISION)


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


def _gathered(rows: list[Any]) -> list[Any]:
    """Return the rows of all processes, in the order of the processes."""
    if checkpoint.process_count() == 1:
        return rows
    from accelerate.utils import gather_object

    return list(gather_object(rows))


def _means_of_parts(parts: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Return the mean of each part of the reward, over the paths where it is known."""
    means: dict[str, float | None] = {}
    for name in parts[0]:
        known = [value for values in parts if (value := values[name]) is not None]
        means[f"reward/{name}"] = statistics.fmean(known) if known else None
    return means


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
    again = [path.first.answer == path.attempts[1].answer for path in paths if len(path.attempts) > 1]
    row["revisions"] = len(again)
    row |= {"revised": 100 * len(again) / len(paths), "unchanged": 100 * statistics.fmean(again) if again else None}
    sure = [p for path in paths if path.evaluations and (p := path.evaluations[0].p_correct) is not None]
    row["p_correct"] = statistics.fmean(sure) if sure else None
    if not given:
        return row | {"turn1": None}
    scores = score("rollout", paths)
    shares = {"turn1": scores.turn1, "final": scores.final, "i2c": scores.i2c, "c2i": scores.c2i}
    shares |= {"rm_C": scores.rm_C, "rm_W": scores.rm_W}
    row |= {name: share.percent for name, share in shares.items()}
    row |= {"right_judged": scores.rm_C.n, "wrong_judged": scores.rm_W.n}
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
    from trl import GRPOConfig

    processes = checkpoint.process_count()
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
        "max_completion_length": recipe.sampling.budget,
        "shuffle_dataset": False,
        "loss_type": LOSSES.get(recipe.loss_type, (recipe.loss_type,))[0],
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


def build_trainer(
    recipe: GrpoRecipe, rollouts: Rollouts, folder: Path, kind: type[PathGrpoTrainer] | None = None, **more: Any
) -> PathGrpoTrainer:
    """Return TRL's trainer (or a ``kind`` of ours) on the recipe's model, rolling out through ``rollouts``."""
    from datasets import Dataset

    from train import cpu
    from train.grpo_trainer import PathGrpoTrainer

    trainer = (kind or PathGrpoTrainer)(
        model=checkpoint.load_model(recipe.model, recipe.attention),
        reward_funcs=[final_reward],
        args=grpo_config(recipe, folder),
        train_dataset=Dataset.from_dict({"prompt": rollouts.prompt_texts}),
        processing_class=rollouts.codec.tokenizer,
        rollout_func=rollouts,
        outcomes_of_rollout=lambda: rollouts.outcomes,
        advantages_of_rollout=rollouts.advantages,
        positives_only=recipe.loss_type == "raft++",
        zero_variance=recipe.zero_variance,
        max_logprob_gap=recipe.max_logprob_gap,
        **more,
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
    seen: set[str] = field(default_factory=set)  # guards whose samples are saved


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
            for found in findings(metrics.rows, recipe.guard):
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
