"""`Rollouts`: TRL's ``rollout_func``. Samples paths from the trainer's own model, reads, grades and rewards them."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcorrect import prompts
from selfcorrect.engines import sample_seed
from selfcorrect.errors import InputError
from selfcorrect.jsonl import write_json
from selfcorrect.rewards import reward_parts, total, turn_rewards
from selfcorrect.tokens import ChatCodec
from selfcorrect.train.common.distributed import process_count, process_rank, wait_for_everyone
from selfcorrect.train.rl.advantages import path_advantages, returns_to_go, role_advantages
from selfcorrect.train.rl.rollout_metrics import measures, part_means, turn1_by_problem
from selfcorrect.train.rl.rollouts import Rollout, graded, roll_out
from selfcorrect.train.rl.samplers import open_sampler
from selfcorrect.types import Problem, Role, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

    from selfcorrect.train.grpo import GrpoRecipe
    from selfcorrect.train.rl.grpo_trainer import PathGrpoTrainer


class Rollouts:
    """After each call ``latest`` are its paths, ``rewards`` theirs; ``row`` measures the paths of all processes.

    ``earned`` are the returns of each path's parts: what it leaves out (None) is in no mean, no advantage, no loss.
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
        self.earned: list[list[float | None]] = []
        self.row: dict[str, Any] = {}
        self.start: list[dict[str, float | None]] = []  # turn-1 accuracy of the start model on each rollout's problems
        self._order = list(problems)
        self.sampler = open_sampler(recipe.sampler, codec, recipe.model, recipe.max_batch, recipe.sampler_options)

    def __call__(self, prompt_texts: list[str], trainer: PathGrpoTrainer) -> dict[str, Any]:
        """Return prompt ids, completion ids, log-probs and the loss mask of one path per prompt."""
        started = time.perf_counter()
        self.sampler.follow(trainer.model)
        problems = [self.problems[text] for text in prompt_texts]
        rollouts = roll_out(self.sampler, self.codec, problems, self._seeds(problems, trainer), self.recipe.sampling)
        sampled = time.perf_counter()
        parts = self.take(graded(rollouts))
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
        return self.output()

    def take(self, latest: Sequence[Rollout]) -> list[dict[str, float | None]]:
        """Reward graded paths, which are the latest from now on; return the parts of their rewards."""
        recipe, self.latest = self.recipe, list(latest)
        parts = [reward_parts(rollout.path, recipe.reward, recipe.sampling.budget) for rollout in self.latest]
        dropped = [recipe.overlong == "drop" and rollout.path.stop == "length" for rollout in self.latest]
        self.rewards = [
            None if gone else total(values, recipe.reward) for gone, values in zip(dropped, parts, strict=True)
        ]
        self.earned = [
            self._earned(rollout, reward, gone)
            for rollout, reward, gone in zip(self.latest, self.rewards, dropped, strict=True)
        ]
        return parts

    def output(self) -> dict[str, Any]:
        """Return what TRL wants of a rollout, of the latest paths."""
        return {
            "prompt_ids": [list(rollout.prompt_ids) for rollout in self.latest],
            "completion_ids": [list(rollout.completion_ids) for rollout in self.latest],
            "logprobs": [list(rollout.logprobs) for rollout in self.latest],
            "env_mask": [self._loss_mask(*both) for both in zip(self.latest, self.earned, strict=True)],
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
        """Return one seed a path: by step, problem, and how many paths of the problem the rollout has before it.

        By no rank: two processes sample what one would. A problem that comes twice in a rollout is sampled anew.
        """
        ids = [problem.id for problem in problems]
        before = Counter(_gathered(ids)[: process_rank() * len(ids)])
        return [
            sample_seed(self.recipe.seed, "grpo", trainer.state.global_step, 0, problem, place)
            for problem, place in zip(ids, places_of(ids, before), strict=True)
        ]

    def _earned(self, rollout: Rollout, reward: float | None, dropped: bool) -> list[float | None]:
        """Return the return of each part of a path; None for a part that leaves the update."""
        if dropped or self.recipe.credit == "path":
            return [None if dropped else reward] * len(rollout.parts)
        own = turn_rewards(rollout.path, self.recipe.reward, self.recipe.sampling.budget)
        return known_returns([value for _, value in own], self.recipe.turn_discount)

    def _loss_mask(self, rollout: Rollout, earned: Sequence[float | None]) -> list[int]:
        """Return 1 for the tokens that are in the loss: those of the policy that are part of what was rewarded."""
        if self.recipe.overlong == "mask" and rollout.path.stop == "length":
            return [0] * len(rollout.learned)
        mask = list(rollout.learned)
        for part, value in zip(rollout.parts, earned, strict=True):
            if value is None:
                mask[part.start : part.end] = [0] * (part.end - part.start)
        return mask

    @property
    def outcomes(self) -> list[Any]:
        """What decides whether a group has variance: the reward, or under turn credit the returns of all turns.

        None for a path of which nothing is learned, as none of it could be graded or it was dropped.
        """
        if self.recipe.credit == "path":
            return list(self.rewards)
        return [None if all(value is None for value in values) else tuple(values) for values in self.earned]

    def advantages(self, columns: int, reduce: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return advantages of the latest paths where they are not TRL's own: (B,), or (B, columns) by role."""
        import torch

        loss = self.recipe.loss
        if self.recipe.normalise == "path":
            rewards = torch.tensor([math.nan if reward is None else reward for reward in self.rewards])
            return None if loss.rule == "group" else path_advantages(rewards, self.recipe.generations, loss.rule)
        known = [
            (row, part, value)
            for row, (rollout, values) in enumerate(zip(self.latest, self.earned, strict=True))
            for part, value in zip(rollout.parts, values, strict=True)
            if value is not None
        ]
        values_P = role_advantages(
            torch.tensor([value for _, _, value in known]),
            torch.tensor([row for row, _, _ in known], dtype=torch.long),
            torch.tensor([_ROLES.index(part.role) for _, part, _ in known], dtype=torch.long),
            self.recipe.generations,
            loss.scale_rewards != "none",
            reduce,
        )
        advantages_BT = torch.zeros(len(self.latest), columns)
        for (row, part, _), value in zip(known, values_P, strict=True):
            advantages_BT[row, part.start : part.end] = value
        return advantages_BT


def places_of(ids: Sequence[str], before: Mapping[str, int] | None = None) -> list[int]:
    """Return for each path how many of its problem come before it; ``before`` counts those of other processes."""
    seen = Counter(before or {})
    places = []
    for problem in ids:
        places.append(seen[problem])
        seen[problem] += 1
    return places


def known_returns(rewards: Sequence[float | None], discount: float) -> list[float | None]:
    """Return `returns_to_go` of a path's parts; None where the reward of the part, or of one it is paid for, is None.

    With ``discount`` 0 a part is paid for itself alone, so an ungradable attempt takes nothing from its revision.
    """
    if not discount:
        return list(rewards)
    unknown = [place for place, reward in enumerate(rewards) if reward is None]
    first = unknown[-1] + 1 if unknown else 0
    following = [reward for reward in rewards[first:] if reward is not None]
    return [None] * first + list(returns_to_go(following, discount))


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
