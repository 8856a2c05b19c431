"""What a rollout measures: the scores of the result tables in percent, and what matters to reinforcement learning."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from selfcorrect.metrics import is_correct, is_over_limits, score
from selfcorrect.types import Trajectory


def measure(
    trajectories: Sequence[Trajectory],
    rewards: Sequence[float | None],
    generations: int,
    start: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """Return the row of a rollout: the scores of the result tables in percent, and what matters to RL.

    ``start`` is the start model's turn-1 accuracy on each problem, as a share; None where the grader failed on all of
    its attempts. ``ungradable`` counts the trajectories with an attempt on which the grader failed,
    ``without_reward`` those whose reward is None, for that or because they were dropped (``overlong: drop``).
    """
    given = [reward for reward in rewards if reward is not None]
    groups = [set(rewards[first : first + generations]) - {None} for first in range(0, len(rewards), generations)]
    row: dict[str, Any] = {
        "reward": sum(given) / len(given) if given else None,
        "ungradable": sum(any(is_correct(attempt) is None for attempt in one.attempts) for one in trajectories),
        "without_reward": len(rewards) - len(given),
        "zero_variance": sum(len(group) < 2 for group in groups) / len(groups),
        "sampled_tokens": sum(one.sampled_tokens for one in trajectories),
        "mean_length": sum(one.sampled_tokens for one in trajectories) / len(trajectories),
        "truncated": 100 * sum(one.stop == "length" for one in trajectories) / len(trajectories),
        "over_limits": 100 * sum(any(map(is_over_limits, one.attempts)) for one in trajectories) / len(trajectories),
        "prompt_too_long": 100 * sum(one.stop == "prompt-too-long" for one in trajectories) / len(trajectories),
    }
    again = [one.first.answer == one.attempts[1].answer for one in trajectories if len(one.attempts) > 1]
    row["revisions"] = len(again)
    row |= {
        "revised": 100 * len(again) / len(trajectories),
        "unchanged": 100 * statistics.fmean(again) if again else None,
    }
    sure = [p for one in trajectories if one.evaluations and (p := one.evaluations[0].p_correct) is not None]
    row["p_correct"] = statistics.fmean(sure) if sure else None
    if all(is_correct(one.first) is None or is_correct(one.final) is None for one in trajectories):
        return row | {"turn1": None}
    scores = score("rollout", trajectories)
    shares = {"turn1": scores.turn1, "final": scores.final, "i2c": scores.i2c, "c2i": scores.c2i}
    shares |= {"rm_C": scores.rm_C, "rm_W": scores.rm_W}
    row |= {name: share.percent for name, share in shares.items()}
    row |= {"right_judged": scores.rm_C.n, "wrong_judged": scores.rm_W.n}
    row |= {"delta": scores.delta, "verdict_rate": 100 - (scores.no_verdict.percent or 0.0)}
    right = [(problem, share) for problem, share in turn1_by_problem(trajectories, generations) if share is not None]
    row |= {"problems": len(right), "turn1_se": _standard_error([share for _, share in right])}
    both = [(share, before) for problem, share in right if (before := (start or {}).get(problem)) is not None]
    if both:
        changes = [share - before for share, before in both]
        row |= {"turn1_start": 100 * statistics.fmean(before for _, before in both)}
        row |= {"turn1_change": 100 * statistics.fmean(changes), "turn1_change_se": _standard_error(changes)}
        row |= {"turn1_changes": [round(change, 4) for change in changes]}
    return row


def turn1_by_problem(trajectories: Sequence[Trajectory], generations: int) -> list[tuple[str, float | None]]:
    """Return each group's problem and the share of its first attempts that are correct.

    A first attempt on which the grader failed is in no share; where it failed on all of a group, the share is None.
    """
    shares: list[tuple[str, float | None]] = []
    for first in range(0, len(trajectories), generations):
        group = trajectories[first : first + generations]
        graded = [right for one in group if (right := is_correct(one.first)) is not None]
        shares.append((group[0].problem.id, statistics.fmean(graded) if graded else None))
    return shares


def _standard_error(shares: Sequence[float]) -> float:
    """Return the standard error of the mean in points: problems are the units, trajectories of one are not."""
    return 100 * statistics.stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else 50.0


def part_means(parts: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Return the mean of each part of the reward, over the trajectories where it is known."""
    means: dict[str, float | None] = {}
    for name in parts[0]:
        known = [value for values in parts if (value := values[name]) is not None]
        means[f"reward/{name}"] = statistics.fmean(known) if known else None
    return means
