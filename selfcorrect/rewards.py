"""Rewards: grade and verdict in, the number handed to RL out (method.md, section 3). Pure functions.

A reward is a weighted sum of named parts (`RewardRecipe`); each part that has a weight is logged on its own. A path's
parts are read from the graded `Trajectory` alone. ``None`` means that no reward can be given (the grader failed): such
a sample must be left out of the update, never scored 0. A response without any readable answer, or with one beyond the
grader's limits, is the policy's fault and earns 0.

Parts that teach, parts that are known to be hacked, and controls that must not teach (arXiv 2506.10947: a random reward
raised one model family's scores, so a gain means little before these have been run) stand side by side, so that an
experiment names all of its reward in its recipe.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from selfcorrect.metrics import is_correct
from selfcorrect.types import Attempt, Role, Trajectory, Verdict


@dataclass(frozen=True, slots=True)
class RewardRecipe:
    """The weight of each part in the reward; a part of weight 0 is neither computed nor logged."""

    correctness: float = 1.0  # u*(τ): the last answer is right (method.md, section 1)
    format: float = 0.0  # every attempt has an answer and a verdict, up to the stop decision; alone it is a control
    verdict: float = 0.0  # share of the attempts whose verdict equals their grade; none given counts as a miss
    revision: float = 0.0  # +1 for a revision wrong → right, -1 for right → wrong (SCoRe, arXiv 2409.12917, sec. 4)
    progress: float = 0.0  # each attempt's gain over the one before, the first's over 0: a potential, sums to u*(τ)
    mended: float = 0.0  # wrong first, correct at the end: the bonus that is HACKED at 0.5 (method.md, section 5.6)
    overlong: float = 0.0  # -1 at the token budget, 0 at `overlong_from` of it, linear between (DAPO, 2503.14476)
    random: float = 0.0  # control: a fair coin, fixed by the path's tokens
    flipped: float = 0.0  # control: 1 - correctness
    overlong_from: float = 0.8  # not a weight: share of the budget from which `overlong` begins to cost

    @property
    def weights(self) -> dict[str, float]:
        """The parts that count, in order, with their weights."""
        names = [field.name for field in fields(self) if field.name != "overlong_from"]
        return {name: weight for name in names if (weight := getattr(self, name))}


PLAIN = RewardRecipe()
"""Correctness of the last answer, nothing else: the paper's reward."""


def final_correctness(trajectory: Trajectory) -> float | None:
    """Return u*(τ): the correctness of the last attempt of a graded trajectory (method.md, section 1)."""
    return _scored(trajectory.final, trajectory)


def reward_parts(path: Trajectory, recipe: RewardRecipe, max_tokens: int) -> dict[str, float | None]:
    """Return the value of every part that has a weight, before weighting. ``max_tokens`` is the sampling budget.

    Raises ValueError for a path that is not graded.
    """
    scores = [_scored(attempt, path) for attempt in path.attempts]
    first, last = scores[0], scores[-1]
    gain = None if first is None or last is None else last - first
    values: dict[str, float | None] = {
        "correctness": last,
        "verdict": _mean(_verdict_scores(path, scores)),
        "revision": gain,
        "progress": last,
        "mended": None if gain is None else float(gain > 0),
        "flipped": None if last is None else 1.0 - last,
        **_of_the_whole(path, recipe, max_tokens),
    }
    return {name: values[name] for name in recipe.weights}


def total(parts: Mapping[str, float | None], recipe: RewardRecipe) -> float | None:
    """Return the weighted sum of a path's parts; None where any of them is None."""
    return _weighted([(weight, parts[name]) for name, weight in recipe.weights.items()])


def turn_rewards(path: Trajectory, recipe: RewardRecipe, max_tokens: int) -> list[tuple[Role, float | None]]:
    """Return the reward of each part of a path, in order: attempt, self-evaluation, revision, self-evaluation, ...

    An attempt earns ``correctness`` (or ``flipped``) of its OWN answer and ``progress``, a revision also ``revision``
    and ``mended``, a self-evaluation ``verdict``. What belongs to no single part (``format``, ``overlong``, ``random``)
    is earned by the last one. There are as many parts as the path has attempts and self-evaluations.

    A part is None where a grade that its reward needs is missing, and only there: a revision needs that of the attempt
    before it only for ``progress``, ``revision`` and ``mended``.
    """
    scores = [_scored(attempt, path) for attempt in path.attempts]
    verdicts = _verdict_scores(path, scores)
    earned: list[tuple[Role, float | None]] = []
    for h, score in enumerate(scores):
        earned.append(
            (Role.REVISION if h else Role.ATTEMPT, _own_reward(score, scores[h - 1] if h else None, h, recipe))
        )
        if h < len(path.evaluations):
            earned.append((Role.EVALUATION, _weighted([(recipe.verdict, verdicts[h])])))
    role, value = earned[-1]
    if value is not None:
        whole = _of_the_whole(path, recipe, max_tokens)
        earned[-1] = (role, value + sum(getattr(recipe, name) * whole[name] for name in whole))
    return earned


def _own_reward(score: float | None, before: float | None, turn: int, recipe: RewardRecipe) -> float | None:
    """Return what an attempt (``turn`` 0) or a revision earns; ``before`` is the score of the attempt it revises."""
    gain = None if score is None or before is None else score - before
    parts = [(recipe.correctness, score), (recipe.flipped, None if score is None else 1 - score)]
    parts.append((recipe.progress, gain if turn else score))
    if turn:
        parts += [(recipe.revision, gain), (recipe.mended, None if gain is None else float(gain > 0))]
    return _weighted(parts)


def _weighted(parts: Sequence[tuple[float, float | None]]) -> float | None:
    """Return the sum of weight times value; None where a value that has a weight is None."""
    values = [(weight, value) for weight, value in parts if weight]
    if any(value is None for _, value in values):
        return None
    return float(sum(weight * value for weight, value in values if value is not None))


def well_formed(path: Trajectory) -> bool:
    """True where every attempt has an answer and a verdict (the last one only if it may be revised), nothing cut."""
    answered = all(attempt.answer is not None for attempt in path.attempts)
    judged = all(evaluation.verdict is not None for evaluation in path.evaluations)
    return answered and judged and bool(path.evaluations) and path.stop in ("verdict", "horizon")


def _scored(attempt: Attempt, path: Trajectory) -> float | None:
    """Return 1.0 for a correct answer, 0.0 for a wrong or absent one, None where the grader failed."""
    if attempt.grade is None:
        raise ValueError(f"trajectory of problem {path.problem.id!r} is not graded")
    correct = is_correct(attempt)
    return None if correct is None else float(correct)


def _verdict_scores(path: Trajectory, scores: Sequence[float | None]) -> list[float | None]:
    """Return 1.0 for each attempt judged as it was graded, 0.0 for one judged otherwise or owed a verdict."""
    found: list[float | None] = []
    for h, score in enumerate(scores):
        verdict = path.evaluations[h].verdict if h < len(path.evaluations) else None
        if h >= len(path.evaluations) and path.stop == "horizon":
            break  # the loop ends here unjudged
        found.append(None if score is None else float(verdict is (Verdict.CORRECT if score else Verdict.WRONG)))
    return found


def _of_the_whole(path: Trajectory, recipe: RewardRecipe, max_tokens: int) -> dict[str, float]:
    """Return the parts that belong to no single part of the path."""
    begins = recipe.overlong_from * max_tokens
    over = (path.sampled_tokens - begins) / (max_tokens - begins)
    return {
        "format": float(well_formed(path)),
        "overlong": -min(1.0, max(0.0, over)),
        "random": float(random.Random(str(path.token_ids)).random() < 0.5),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
