"""`RolloutFunction`: from the prompts of a step to a scored rollout, sampled from the weights as they are now.

`off_policy.OneStepOffPolicy` is the same with the next rollout sampled ahead.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.engines import sample_seed
from selfcorrect.errors import InputError
from selfcorrect.runs.jsonl import write_json
from selfcorrect.train.common.distributed import gathered, process_count, process_rank, wait_for_everyone
from selfcorrect.train.rl.recipe import RlRecipe
from selfcorrect.train.rl.rollout_metrics import measure, part_means, turn1_by_problem
from selfcorrect.train.rl.rollouts import Rollout, graded, places_of, roll_out
from selfcorrect.train.rl.samplers import Sampler
from selfcorrect.train.rl.scored_rollout import ScoredRollout, score
from selfcorrect.types import Problem

if TYPE_CHECKING:
    from selfcorrect.train.rl.logprob_gap import Gap

START_TOKENS = "start-tokens.json"
"""Beside the start model's shares: how many tokens it sampled for them."""


@dataclass(frozen=True, slots=True)
class SampledRollout:
    """Ungraded rollouts, and the optimizer step whose weights they come from: the version of the weights.

    ``seconds`` is how long sampling took, with the hand-over of the weights, which alone took ``handover_s``.
    ``staleness`` is how many optimizer steps the weights that learn from them are ahead, and ``gap`` what the canary
    found where those weights were handed over; None: it compares while they are learned, which is before any update.
    """

    rollouts: tuple[Rollout, ...]
    step: int
    seconds: float
    handover_s: float = 0.0
    staleness: int = 0
    gap: Gap | None = None


class RolloutFunction:
    """Rolls out and scores; made once a run, called once a step (`program.step`).

    ``prompt_texts`` are the prompts of all steps in order, of which the trainer's data set is made: a prompt that comes
    back names its problem. ``start`` is the start model's turn-1 accuracy on the problems of each rollout, once
    `measure_start` has measured it.
    """

    def __init__(self, recipe: RlRecipe, codec: ChatCodec, problems: Sequence[Problem], sampler: Sampler) -> None:
        self.recipe, self.codec, self.sampler = recipe, codec, sampler
        openings = {problem.id: codec.opening(prompts.solve_messages(problem.question)) for problem in problems}
        self.problems = {codec.decode(openings[problem.id]): problem for problem in problems}
        if len(self.problems) != len(openings):
            raise InputError("two problems have the same text and different ids; remove duplicates")
        self.prompt_texts = [codec.decode(openings[problem.id]) for problem in problems]
        self.start: list[dict[str, float | None]] = []
        self.waited_s = self.handover_s = 0.0  # in this step: for the sampler; handing weights over and checking them
        self._order = list(problems)

    def roll_out(self, prompt_texts: Sequence[str], model: Any, step: int) -> SampledRollout:
        """Return one trajectory for each prompt of this process, sampled from ``model`` at optimizer step ``step``."""
        started = time.perf_counter()
        self.sampler.follow(model)
        self.handover_s = time.perf_counter() - started
        problems = [self.problems[text] for text in prompt_texts]
        rollouts = roll_out(self.sampler, self.codec, problems, self._seeds(problems, step), self.recipe.sampling)
        seconds = time.perf_counter() - started
        self.waited_s = seconds - self.handover_s
        self.sampler.rest()
        return SampledRollout(tuple(rollouts), step, seconds, self.handover_s)

    def score(self, sampled: SampledRollout) -> ScoredRollout:
        """Return the rollout graded, rewarded and measured.

        Every process measures the trajectories of all processes, so that guards speak, and stop, in all of them.
        """
        started = time.perf_counter()
        scored = score(graded(sampled.rollouts), self.recipe)
        mine = [
            (rollout.trajectory, reward, parts)
            for rollout, reward, parts in zip(scored.rollouts, scored.rewards, scored.reward_parts, strict=True)
        ]
        trajectories, rewards, reward_parts = zip(*gathered(mine), strict=True)
        learned_at = sampled.step + sampled.staleness
        start = self.start[learned_at // self.recipe.steps_per_rollout] if self.start else None
        figures = measure(trajectories, rewards, self.recipe.generations, start) | part_means(reward_parts)
        figures |= {"sampled_at": sampled.step, "staleness": sampled.staleness, "rollout_s": sampled.seconds}
        figures |= {"waited_s": self.waited_s, "handover_s": self.handover_s}
        figures["tokens_per_s/sampled"] = figures["sampled_tokens"] / max(1e-9, sampled.seconds - sampled.handover_s)
        figures["grading_s"] = time.perf_counter() - started
        return replace(scored, trajectories=trajectories, figures=figures, staleness=sampled.staleness, gap=sampled.gap)

    def measure_start(self, model: Any, path: Path) -> None:
        """Let the model, before it is trained, attempt the problems of all rollouts; kept in a file.

        A problem that comes again is attempted again, so that the changes of different rollouts are independent.
        """
        if not path.exists():
            places, attempts = range(process_rank(), len(self._order), process_count()), self.recipe.guard.start_paths
            jobs = [(place, n) for place in places for n in range(attempts)]
            problems = [self._order[place] for place, _ in jobs]
            seeds = [sample_seed(self.recipe.seed, "start", place, n) for place, n in jobs]
            self.sampler.follow(model)
            rollouts = graded(roll_out(self.sampler, self.codec, problems, seeds, self.recipe.sampling))
            self.sampler.rest()
            shares = [share for _, share in turn1_by_problem([rollout.trajectory for rollout in rollouts], attempts)]
            found = sorted(gathered(list(zip(places, shares, strict=True))))
            sampled = sum(gathered([rollout.trajectory.sampled_tokens for rollout in rollouts]))
            if process_rank() == 0:
                write_json(path.with_name(START_TOKENS), {"sampled_tokens": sampled})
                write_json(path, [share for _, share in found])
            wait_for_everyone()
        shares = json.loads(path.read_text(encoding="utf-8"))
        named = [(problem.id, share) for problem, share in zip(self._order, shares, strict=True)]
        each = self.recipe.prompts_per_step
        self.start = [dict(named[first : first + each]) for first in range(0, len(named), each)]

    def sample_next(self, trainer: Any) -> None:
        """Begin to sample the rollout of the next step, where the recipe wants that; here: nothing."""

    def close(self) -> None:
        """End what is still being sampled; here nothing is."""

    def _seeds(self, problems: Sequence[Problem], step: int) -> list[int]:
        """Return one seed a trajectory: by step, problem, and how many of the problem the rollout has before it.

        By no rank: two processes sample what one would. A problem that comes twice in a rollout is sampled anew.
        """
        ids = [problem.id for problem in problems]
        before = Counter(gathered(ids)[: process_rank() * len(ids)])
        return [
            sample_seed(self.recipe.seed, "grpo", step, 0, problem, place)  # "grpo" of every program: seeds are kept
            for problem, place in zip(ids, places_of(ids, before), strict=True)
        ]


def problem_order(recipe: RlRecipe, problems: Sequence[Problem]) -> list[Problem]:
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
