"""`Rollouts`: TRL's ``rollout_func``. Samples paths from the trainer's own model, reads, grades and rewards them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcorrect import prompts
from selfcorrect.engines import sample_seed
from selfcorrect.errors import InputError
from selfcorrect.jsonl import write_json
from selfcorrect.rewards import reward_parts, total, turn_rewards
from selfcorrect.tokens import ChatCodec
from selfcorrect.types import Problem, Role, Span, Trajectory
from train.advantages import LOSSES, path_advantages, returns_to_go, role_advantages
from train.measures import measures, part_means, turn1_by_problem
from train.processes import process_count, process_rank, wait_for_everyone
from train.rollouts import Rollout, graded, roll_out
from train.samplers import open_sampler

if TYPE_CHECKING:
    from torch import Tensor

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
        self.start: list[dict[str, float]] = []  # turn-1 accuracy of the start model on each rollout's problems
        self._order = list(problems)
        self.sampler = open_sampler(recipe.sampler, codec, recipe.model, recipe.max_batch, recipe.sampler_options)

    def __call__(self, prompt_texts: list[str], trainer: PathGrpoTrainer) -> dict[str, Any]:
        """Return prompt ids, completion ids, log-probs and the loss mask of one path per prompt."""
        started = time.perf_counter()
        self.sampler.follow(trainer.model)
        problems = [self.problems[text] for text in prompt_texts]
        rollouts = roll_out(self.sampler, self.codec, problems, self._seeds(problems, trainer), self.recipe.sampling)
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
        number = trainer.state.global_step // self.recipe.steps_per_rollout
        start = self.start[number] if self.start else None
        self.row = measures(self.paths, rewards, self.recipe.generations, start)
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

    def measure_start(self, trainer: PathGrpoTrainer, path: Path) -> None:
        """Let the model, before it is trained, attempt the problems of all rollouts; kept in a file.

        A problem that comes again is attempted again, so that the changes of different rollouts are independent.
        """
        if not path.exists():
            places, paths = range(process_rank(), len(self._order), process_count()), self.recipe.guard.start_paths
            jobs = [(place, n) for place in places for n in range(paths)]
            problems = [self._order[place] for place, _ in jobs]
            seeds = [sample_seed(self.recipe.seed, "start", place, n) for place, n in jobs]
            self.sampler.follow(trainer.model)
            rollouts = graded(roll_out(self.sampler, self.codec, problems, seeds, self.recipe.sampling))
            right = [share for _, share in turn1_by_problem([rollout.path for rollout in rollouts], paths)]
            found = sorted(_gathered(list(zip(places, right, strict=True))))
            if process_rank() == 0:
                write_json(path, [share for _, share in found])
            wait_for_everyone()
        shares = json.loads(path.read_text(encoding="utf-8"))
        named = [(problem.id, share) for problem, share in zip(self._order, shares, strict=True)]
        each = self.recipe.prompts_per_step
        self.start = [dict(named[first : first + each]) for first in range(0, len(named), each)]

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


def final_reward(prompts: Any, completions: Any, final_reward: list[float | None], **_: Any) -> list[float | None]:
    """TRL's reward function: the rewards that came with the rollout."""
    return final_reward


def _gathered(rows: list[Any]) -> list[Any]:
    """Return the rows of all processes, in the order of the processes."""
    if process_count() == 1:
        return rows
    from accelerate.utils import gather_object

    return list(gather_object(rows))
