"""Guards of reinforcement learning: the two ways in which self-correction dies, watched on every rollout.

- **verdict rate**: RL finds that solving carefully and not judging pays as well, and verification is deleted.
- **turn-1 floor**: a reward that pays for corrections teaches to answer wrong first (METHOD section 3).

Pure: rows of ``metrics.jsonl`` in, a finding out. Rates are averaged over a window of rollouts, and a fall of turn-1
accuracy must exceed the permitted one by two standard errors: sixteen problems a rollout differ by chance by far more
than a model does from step to step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class GuardRecipe:
    """When to speak up, and whether to stop."""

    action: Literal["warn", "stop", "ignore"] = "warn"  # stop: the last healthy checkpoint becomes the result
    min_verdict_rate: float = 0.95  # share of first attempts that get a well-formed verdict
    max_turn1_drop: float = 0.10  # turn-1 accuracy may fall so far below its start, and by chance further
    window: int = 3  # rollouts averaged


def finding(rows: Sequence[Mapping[str, Any]], recipe: GuardRecipe) -> str | None:
    """Return what is wrong with the last ``window`` rollouts, in one sentence; None while all is well."""
    rows = [row for row in rows if row.get("turn1") is not None]
    if recipe.action == "ignore" or len(rows) < recipe.window:
        return None
    last = rows[-recipe.window :]
    verdicts = fmean(row["verdict_rate"] for row in last) / 100
    if verdicts < recipe.min_verdict_rate:
        return f"only {verdicts:.1%} of first attempts are judged (min_verdict_rate {recipe.min_verdict_rate:.0%})"
    fall, chance = _fall(rows[: recipe.window], last)
    if fall > recipe.max_turn1_drop + chance:
        return (
            f"turn-1 accuracy is {fall:.1%} below its start (max_turn1_drop {recipe.max_turn1_drop:.0%}, "
            f"two standard errors {chance:.1%})"
        )
    return None


def healthy_steps(rows: Sequence[Mapping[str, Any]], recipe: GuardRecipe) -> list[int]:
    """Return the steps whose weights, by the rollout sampled from them, break no limit on their own."""
    rows = [row for row in rows if row.get("turn1") is not None]
    healthy: list[int] = []
    for row in rows:
        fall, chance = _fall(rows[: recipe.window], [row])
        if row["verdict_rate"] / 100 >= recipe.min_verdict_rate and fall <= recipe.max_turn1_drop + chance:
            healthy.append(row["sampled_at"])
    return healthy


def _fall(first: Sequence[Mapping[str, Any]], last: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return by how much turn-1 accuracy fell between rollouts, and two standard errors of that, as shares."""
    fall = fmean(row["turn1"] for row in first) - fmean(row["turn1"] for row in last)
    variance = sum(sum(row["turn1_se"] ** 2 for row in part) / len(part) ** 2 for part in (first, last))
    return fall / 100, 2 * math.sqrt(variance) / 100
