"""Guards of reinforcement learning: the two ways in which self-correction dies, watched on every rollout.

- **verdict rate**: RL finds that solving carefully and not judging pays as well, and verification is deleted.
- **turn-1 floor**: a reward that pays for corrections teaches to answer wrong first (METHOD section 3).

Pure: rows of ``metrics.jsonl`` in, a finding out. Rates are averaged over a window of rollouts, because one rollout of
some hundred samples moves by several points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class GuardRecipe:
    """When to speak up, and whether to stop."""

    action: Literal["warn", "stop", "ignore"] = "warn"  # stop: the last healthy checkpoint becomes the result
    min_verdict_rate: float = 0.95  # share of first attempts that get a well-formed verdict
    max_turn1_drop: float = 0.10  # turn-1 accuracy may fall so far below its start
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
    floor = turn1_floor(rows, recipe)
    turn1 = fmean(row["turn1"] for row in last) / 100
    if turn1 < floor:
        return (
            f"turn-1 accuracy {turn1:.1%} fell under {floor:.1%}, more than {recipe.max_turn1_drop:.0%} below its start"
        )
    return None


def turn1_floor(rows: Sequence[Mapping[str, Any]], recipe: GuardRecipe) -> float:
    """Return the lowest turn-1 accuracy (a share) that is still allowed: the start's, less the permitted drop."""
    return fmean(row["turn1"] for row in rows[: recipe.window]) / 100 - recipe.max_turn1_drop


def healthy_steps(rows: Sequence[Mapping[str, Any]], recipe: GuardRecipe) -> list[int]:
    """Return the steps whose weights, by the rollout sampled from them, break no limit on their own."""
    rows = [row for row in rows if row.get("turn1") is not None]
    if not rows:
        return []
    floor = turn1_floor(rows, recipe)
    return [
        row["sampled_at"]
        for row in rows
        if row["verdict_rate"] / 100 >= recipe.min_verdict_rate and row["turn1"] / 100 >= floor
    ]
