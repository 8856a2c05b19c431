"""`TrajectoryTrainer`: TRL's GRPOTrainer, fed with the rows that matter, in micro-batches of like length.

TRL keeps its loss, advantages, optimizer and logging. Ours is what happens between a scored rollout and the loss:

- a sample without a reward (the grader failed) leaves the update: no advantage, no token in any mean;
- a group whose rewards are all equal teaches nothing. ``zero_variance`` "skip" does not compute it but leaves the loss
  as it was; "drop" also takes it out of the means (as dynamic sampling does); "keep" computes it. Equality is exact;
- rows are sorted by length and padding is cut, so a micro-batch computes few padded columns;
- the **canary**: the trainer's log-probabilities of the tokens just sampled must agree with the sampler's (TRL#5312).

The gradient of an update is that of one whole batch under every TRL loss type, whatever the micro-batches
(tests/train/test_grpo.py): sums over uneven micro-batches are re-weighted to the mean that TRL's formula names.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler
from transformers.utils.generic import is_flash_attention_requested
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import pad

from selfcorrect.errors import RecipeError
from selfcorrect.train.common import lean_cpu
from selfcorrect.train.common.distributed import has_gpu, process_count
from selfcorrect.train.common.lean_cpu import has_large_vocabulary, has_plain_head, log_probs_of
from selfcorrect.train.common.lora import peft_config
from selfcorrect.train.common.models import detach_from_file, load_model
from selfcorrect.train.common.packed import packed, unpacked
from selfcorrect.train.common.recipe import trl_config
from selfcorrect.train.common.sharding import Sharding, shard
from selfcorrect.train.common.weights import holds_parts
from selfcorrect.train.rl.importance import policy_log_probs, weigh_by_importance
from selfcorrect.train.rl.logprob_gap import Gap
from selfcorrect.train.rl.recipe import RlRecipe
from selfcorrect.train.rl.rollout_function import RolloutFunction
from selfcorrect.train.rl.rollouts import Rollout
from selfcorrect.train.rl.scored_rollout import ScoredRollout, weigh
from selfcorrect.train.rl.variants import ZeroVariance

Step = Callable[["TrajectoryTrainer", Sequence[str]], list[dict[str, Any]]]

_ROW_MEANS = {"grpo", "sapo", "dr_grpo", "luspo"}  # TRL divides by the rows of a micro-batch
_PER_COMPLETION_TOKEN = (
    "completion_ids",
    "completion_mask",
    "tool_mask",
    "old_per_token_logps",
    "ref_per_token_logps",
    "sampling_per_token_logps",
    "old_values",
    "returns",
)


def teaches(outcomes: Sequence[Hashable | None], generations: int, zero_variance: ZeroVariance) -> list[bool]:
    """Return which samples enter the update; groups are ``generations`` consecutive samples.

    A sample without an outcome (a reward, or the rewards of its turns) never does. A group whose outcomes are exactly
    equal does only under "keep".
    """
    used: list[bool] = []
    for start in range(0, len(outcomes), generations):
        group = outcomes[start : start + generations]
        equal = len({outcome for outcome in group if outcome is not None}) < 2
        used += [outcome is not None and not (equal and zero_variance != "keep") for outcome in group]
    return used


class TrajectoryTrainer(Sharding, GRPOTrainer):
    """TRL's GRPOTrainer on trajectories that are sampled and scored here; GRPO and its relatives.

    ``step(trainer, prompts)`` is `program.step` of a run: TRL's loop asks for the inputs of each micro-batch, and where
    a new rollout is due they come from there. Under RAFT++ (``loss.positives_only``) a sample without an advantage is
    counted in the mean and not computed.
    """

    args: Any
    model: Any
    _tokenizer: Any
    num_generations: int
    _buffered_inputs: Any

    def __init__(self, recipe: RlRecipe, step: Step, **of_trl: Any) -> None:
        super().__init__(rollout_func=self._hand_over, reward_funcs=[_final_reward], **of_trl)
        self.recipe, self.step = recipe, step
        self.positives_only, self.zero_variance = recipe.loss.positives_only, recipe.loss.zero_variance
        self.max_logprob_gap = recipe.max_logprob_gap
        self.scored: ScoredRollout | None = None  # the latest
        self.used_rows = 0
        self.trained_tokens = 0  # of the latest rollout, in all of its updates and processes
        self.figures: dict[str, float | None] = {}  # of the update, beside TRL's own
        self.gap = Gap()
        self._latest_logps: Tensor | None = None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the schedule, one place ahead where it warms up: the first update is not at learning rate 0.

        transformers warms up from 0, which would sample a rollout and learn nothing from it. Here an update k of a
        warm-up of w has k/w of the peak, and the last update is where transformers' would be, above 0.
        """
        warmup = self.args.get_warmup_steps(num_training_steps)
        if self.lr_scheduler is None and warmup:
            optimizer = optimizer or self.optimizer
            from_zero = get_scheduler(
                self.args.lr_scheduler_type,
                optimizer,
                num_warmup_steps=warmup,
                num_training_steps=num_training_steps + 1,
                scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
            )
            if isinstance(from_zero, LambdaLR):
                self.lr_scheduler = LambdaLR(optimizer, [partial(_next, share) for share in from_zero.lr_lambdas])
                self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def release(self) -> None:
        """Take off what only the training needed, before the model is saved as the result."""

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Return the inputs of the next micro-batch: TRL calls it before each forward pass of the update."""
        if self._step % (self.args.steps_per_generation * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = self.step(self, [row["prompt"] for row in generation_batch])
            self.gap = self.scored.gap if self.scored and self.scored.gap else Gap()
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def tensors(self, prompts: Sequence[str], scored: ScoredRollout) -> dict[str, Tensor]:
        """Let TRL pad a rollout, and compute what it does of one: GRPO's advantages, log-probs before the update.

        The reference model is left to `_with_reference`, which scores fewer columns.
        """
        self.scored = scored
        self._report(scored.figures)
        beta, self.beta = self.beta, 0.0
        try:
            batch: dict[str, Tensor] = self._generate_and_score_completions([{"prompt": text} for text in prompts])
        finally:
            self.beta = beta
        return batch

    def _report(self, figures: Mapping[str, Any]) -> None:
        """Let TRL log numbers with its own, for TensorBoard, W&B and Trackio (``trainer.report_to``)."""
        for name, value in figures.items():
            if isinstance(value, (int, float)):
                self._metrics["train"][f"path/{name}"].append(value)

    def _hand_over(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """TRL's ``rollout_func``: what `tensors` was given."""
        assert self.scored is not None
        return self.scored.columns()

    def weigh(self, scored: ScoredRollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors that weigh each token's log-probability, in the place of TRL's; {} where those serve."""
        ours = weigh(scored, self.recipe, batch["completion_ids"].shape[1], self._sum_over_processes)
        return {} if ours is None else {"advantages": ours.to(batch["advantages"])}

    def _sum_over_processes(self, sums: Tensor) -> Tensor:
        summed: Tensor = self.accelerator.reduce(sums, "sum")
        return summed

    def micro_batches(self, batch: dict[str, Tensor], outcomes: Sequence[Hashable | None]) -> list[dict[str, Any]]:
        """Split a rollout into optimizer steps of ``gradient_accumulation_steps`` micro-batches each.

        ``outcomes`` say which samples teach (see `teaches`).
        """
        used = counted = teaches(outcomes, self.num_generations, self.zero_variance)
        if self.positives_only:
            used = [use and bool(advantage > 0) for use, advantage in zip(used, batch["advantages"], strict=True)]
        if self.zero_variance == "skip":
            counted = [outcome is not None for outcome in outcomes]
        not_computed = [count and not use for count, use in zip(counted, used, strict=True)]
        self.used_rows = sum(used)
        loss_mask = batch["completion_mask"] * batch.get("tool_mask", 1)
        tokens_B = loss_mask.sum(1)
        lengths_B = (batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1)).tolist()
        learned_from = sum(length for length, use in zip(lengths_B, used, strict=True) if use)
        all_processes = self._sum_over_processes(torch.tensor([learned_from], device=self.accelerator.device))
        self.trained_tokens = int(all_processes) * self.num_iterations

        accumulation = self.args.gradient_accumulation_steps
        updates = self.args.steps_per_generation // accumulation
        rows = torch.tensor([row for row, use in enumerate(used) if use], dtype=torch.long)
        if updates > 1:
            rows = rows[torch.randperm(len(rows))]
        skipped = torch.tensor([float(sum(not_computed)), float(tokens_B[torch.tensor(not_computed)].sum())])
        micro_batches: list[dict[str, Any]] = []
        for update_rows in rows.tensor_split(updates):
            counts = torch.tensor([float(len(update_rows)), float(tokens_B[update_rows].sum())]) + skipped / updates
            all_rows, all_tokens = self.accelerator.reduce(counts.to(self.accelerator.device), "sum").tolist()
            by_length = sorted(update_rows.tolist(), key=lambda row: lengths_B[row])
            parts = torch.tensor(by_length, dtype=torch.long).tensor_split(accumulation)
            processes = self.accelerator.num_processes
            for part, size in zip(parts, self._same_sizes([len(part) for part in parts]), strict=True):
                micro = _cut(batch, part, loss_mask, size) if size else {}
                # The share of this micro-batch in the mean over the update, against what TRL will divide by.
                share = 1.0
                if self.loss_type in _ROW_MEANS:
                    share = size * accumulation * processes / max(1.0, all_rows)
                elif self.loss_type == "bnpo":
                    share = float(tokens_B[part].sum()) * accumulation * processes / max(1.0, all_tokens)
                micro["loss_share"] = share
                micro["num_items_in_batch"] = torch.tensor(all_tokens * updates, device=self.accelerator.device)
                micro_batches.append(self._with_reference(micro))
        if self.scored is not None and self.scored.staleness:
            found = weigh_by_importance(self, micro_batches, self.recipe.importance_cap)
            self.figures |= found
            self._report(found)
        return micro_batches

    def _same_sizes(self, sizes: list[int]) -> list[int]:
        """Return the rows of each micro-batch, the same in every process: TRL's loss gathers one figure a row."""
        if self.accelerator.num_processes == 1:
            return sizes
        gathered = self.accelerator.gather(torch.tensor([sizes], device=self.accelerator.device))
        return [max(1, size) for size in gathered.amax(0).tolist()]

    def _with_reference(self, micro: dict[str, Any]) -> dict[str, Any]:
        """Add the reference model's log-probabilities where the loss has a KL term."""
        if self.beta != 0.0 and "completion_ids" in micro:
            micro["ref_per_token_logps"] = self._reference_log_probs(
                torch.cat([micro["prompt_ids"], micro["completion_ids"]], dim=1),
                torch.cat([micro["prompt_mask"], micro["completion_mask"]], dim=1),
                micro["completion_ids"].size(1),
            )
        return micro

    def _reference_log_probs(self, ids: Tensor, mask: Tensor, kept: int) -> Tensor:
        """Return the start model's log-probabilities of the last ``kept`` columns; under LoRA: adapters off."""
        adapters_off = self.model.disable_adapter() if self.ref_model is None else nullcontext()
        with torch.no_grad(), adapters_off:
            logps: Tensor = self._get_per_token_logps_and_entropies(self.ref_model or self.model, ids, mask, kept)[0]
        return logps

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any, Any]:
        ours = self._way_of(model, kwargs) if not args else None
        if ours is not None:
            rows = kwargs.get("batch_size") or len(input_ids)
            parts = zip(input_ids.split(rows), attention_mask.split(rows), strict=True)
            found = [ours(model, *part, logits_to_keep) for part in parts]
            logps, entropies = (torch.cat(tensors) for tensors in zip(*found, strict=True))
            aux_loss = None
        else:
            logps, entropies, aux_loss = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        if torch.is_grad_enabled():
            self._latest_logps = logps.detach()
        return logps, entropies, aux_loss

    def _way_of(self, model: Any, asked: dict[str, Any]) -> Callable[..., tuple[Tensor, Tensor]] | None:
        """Return what computes log-probabilities in TRL's place, or None: on a CPU `lean_cpu`, packed rows for flash.

        TRL's code computes a small model's of several updates' whole rollout, as it always did (its bits are kept).
        """
        if model in (self.model, self.ref_model) and has_plain_head(model):
            small_and_many = asked.get("batch_size") is not None and not has_large_vocabulary(model)
            return None if self._entropy_bonus_enabled or small_and_many else self._lean_log_probs
        flash = is_flash_attention_requested(self.model.config) and not asked.get("compute_aux_loss")
        return self._packed_log_probs if flash else None

    def _packed_log_probs(self, model: Any, ids: Tensor, mask: Tensor, kept: int) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies of the last ``kept`` columns, zero where masked, without padding."""
        labels = ids.clone()
        labels[:, :-kept] = -100
        with self.accelerator.autocast():
            found = model(**packed(ids, mask, labels), fused_lm_head=True)
        # The reference model's head gives no entropy, and nobody asks for it.
        entropies = found.log_probs.detach() if found.entropy is None else found.entropy
        return unpacked(found.log_probs, mask)[:, -kept:], unpacked(entropies, mask)[:, -kept:]

    def _lean_log_probs(self, model: Any, ids: Tensor, mask: Tensor, kept: int) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies of the last ``kept`` columns, zero where masked; see `lean_cpu`."""
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :-kept] = -100
        with self.accelerator.autocast():
            inputs = {"input_ids": ids, "attention_mask": mask}
            log_probs_N, entropies_N = log_probs_of(model, inputs, labels, "entropy")
        scored = labels[:, -kept:] != -100
        zeros = log_probs_N.new_zeros(scored.shape)
        return zeros.masked_scatter(scored, log_probs_N), zeros.masked_scatter(scored, entropies_N)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        if "completion_ids" not in inputs and self.model.training:  # fewer rows than micro-batches
            return no_loss(model)
        stale = "importance_sampling_ratio" in inputs
        self.use_vllm = stale  # TRL's loss is weighed by these ratios where it believes that vLLM sampled
        try:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self.use_vllm = False
        fresh = (
            self._step % (self.args.steps_per_generation * self.num_iterations) < self.args.gradient_accumulation_steps
        )
        if fresh and not stale and self.model.training and "sampling_per_token_logps" in inputs:
            self._check_gap(inputs)
        return loss * inputs.get("loss_share", 1.0)

    def _check_gap(self, inputs: dict[str, Tensor]) -> None:
        """Compare with the sampler's log-probabilities, before any update with these samples."""
        assert self._latest_logps is not None
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        self.gap.add(self._latest_logps - inputs["sampling_per_token_logps"], mask)
        self.gap.hold(self.max_logprob_gap, self.state.global_step)

    def compare(self, rollouts: Sequence[Rollout]) -> Gap:
        """Return how the sampler's log-probabilities of some trajectories differ from those of the policy as it is now.

        Raises GuardError where they differ by more than ``max_logprob_gap``.
        """
        pad_id: int = self._tokenizer.pad_token_id
        rows = {name: column.to(self.accelerator.device) for name, column in _padded(rollouts, pad_id).items()}
        gap = Gap()
        gap.add(policy_log_probs(self, rows) - rows["sampling_per_token_logps"], rows["completion_mask"])
        gap.hold(self.max_logprob_gap, self.state.global_step)
        return gap


def _padded(rollouts: Sequence[Rollout], pad_id: int) -> dict[str, Tensor]:
    """Return trajectories as TRL pads them: prompts on the left, completions on the right."""

    def padded(rows: Sequence[Sequence[float]], value: int, side: str, dtype: torch.dtype) -> Tensor:
        found: Tensor = pad([torch.tensor(row, dtype=dtype) for row in rows], value, side)
        return found

    prompts, completions = ([one.prompt_ids for one in rollouts], [one.completion_ids for one in rollouts])
    return {
        "prompt_ids": padded(prompts, pad_id, "left", torch.long),
        "prompt_mask": padded([[1] * len(ids) for ids in prompts], 0, "left", torch.long),
        "completion_ids": padded(completions, pad_id, "right", torch.long),
        "completion_mask": padded([[1] * len(ids) for ids in completions], 0, "right", torch.long),
        "sampling_per_token_logps": padded([one.logprobs for one in rollouts], 0, "right", torch.float32),
    }


def _cut(batch: dict[str, Tensor], rows: Tensor, loss_mask: Tensor, size: int) -> dict[str, Any]:
    """Return some rows without the columns that are padding, or after the last token of the loss, in all of them.

    Rows of which nothing is learned fill up to ``size``.
    """
    filling = size - len(rows)
    learned = loss_mask[rows]
    rows = torch.cat([rows, rows[:1].repeat(filling) if len(rows) else torch.zeros(filling, dtype=torch.long)])
    first = int(batch["prompt_mask"][rows].any(0).float().argmax())
    needed = learned.any(0).nonzero()
    end = int(needed[-1]) + 1 if len(needed) else 1
    micro: dict[str, Any] = {name: batch[name][rows][:, first:] for name in ("prompt_ids", "prompt_mask")}
    micro |= {name: batch[name][rows][:, :end] for name in _PER_COMPLETION_TOKEN if name in batch}
    micro["advantages"] = batch["advantages"][rows]
    if micro["advantages"].dim() == 2:  # one a token
        micro["advantages"] = micro["advantages"][:, :end]
    if filling:
        micro["tool_mask"] = micro.get("tool_mask", torch.ones_like(micro["completion_mask"])).clone()
        micro["tool_mask"][-filling:] = 0
    return micro


def no_loss(model: Any) -> Tensor:
    """Return a loss of zero that gives every weight that learns a gradient of zero."""
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    parts = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in learning]
    return sum((part.sum() for part in parts), start=torch.zeros((), device=parts[0].device)) * 0.0


def _next(share_of_peak: Callable[[int], float], step: int) -> float:
    """Return the share of the peak learning rate one step later."""
    return share_of_peak(step + 1)


def _final_reward(prompts: Any, completions: Any, final_reward: list[float | None], **_: Any) -> list[float | None]:
    """TRL's reward function: the rewards that came with the rollout."""
    return final_reward


# --- from a recipe ----------------------------------------------------------------------------------------------------

T = TypeVar("T", bound=TrajectoryTrainer)


def build(
    kind: type[T],
    recipe: RlRecipe,
    rollout_function: RolloutFunction,
    step: Callable[[RolloutFunction, TrajectoryTrainer, Sequence[str]], list[dict[str, Any]]],
    folder: Path,
    **own: Any,
) -> T:
    """Return a trainer on the recipe's model; ``own`` are settings of its kind."""
    from datasets import Dataset

    trainer = kind(
        recipe=recipe,
        step=partial(step, rollout_function),
        model=load_model(recipe.model, recipe.attention),
        args=grpo_config(recipe, folder),
        train_dataset=Dataset.from_dict({"prompt": rollout_function.prompt_texts}),
        processing_class=rollout_function.codec.tokenizer,
        peft_config=peft_config(recipe.lora),
        **own,
    )
    if trainer.ref_model is not None and not has_gpu():
        detach_from_file(trainer.ref_model)
        lean_cpu.narrow(trainer.ref_model)  # as the policy, so that the KL starts at zero
    if trainer.ref_model is not None and holds_parts(trainer.model):
        shard(trainer.ref_model, trainer.args.bf16)
    return trainer


def grpo_config(recipe: RlRecipe, folder: Path) -> GRPOConfig:
    """Return TRL's settings for a recipe."""
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
