"""`Rollouts`: TRL's ``rollout_func``. Samples paths from the trainer's own model, reads, grades and rewards them."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from selfcorrect import prompts
from selfcorrect.engines import sample_seed
from selfcorrect.errors import InputError
from selfcorrect.rewards import reward_parts, total, turn_rewards
from selfcorrect.tokens import ChatCodec
from selfcorrect.types import Problem, Role, Span, Trajectory
from train.advantages import LOSSES, path_advantages, returns_to_go, role_advantages
from train.lora import unwrapped
from train.measures import measures, part_means
from train.processes import has_gpu, process_count
from train.rollouts import Rollout, graded, roll_out

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from train.grpo import GrpoRecipe
    from train.grpo_trainer import PathGrpoTrainer


class Rollouts:
    """After each call ``latest`` are its paths, ``rewards`` theirs; ``row`` measures the paths of all processes."""

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

            model = unwrapped(trainer.model)  # with its adapters
            model = model if has_gpu() else _without_wrappers(model)
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
        self.row = measures(self.paths, rewards, self.recipe.generations)
        self.row |= part_means(parts) | {"sampled_at": trainer.state.global_step, "rollout_s": sampled - started}
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
    if process_count() == 1:
        return rows
    from accelerate.utils import gather_object

    return list(gather_object(rows))
