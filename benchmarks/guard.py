"""The guard of turn 1: how often it stops a run that stays within what is permitted, and one that falls.

    python benchmarks/guard.py                     # 400 runs a cell, about 2 minutes on one core
    python benchmarks/guard.py --runs 2000 --permitted-only

A row names the problems of a rollout, the start model's attempts at each (``start_paths``), the trajectories a problem,
the rollouts, and mean and deviation of the Beta distribution of the pass rates at the start (0.52 and 0.36 are those of
the embedded model). Turn 1 then lies so many points lower, on average over problems and in every rollout, or
falls linearly to the run's end; 5 points are permitted. A problem's fall is in proportion to its pass rate. Where there
is a pool, the problems come in shuffled passes over so many, as in a run, and every other one bears twice the fall.
After every rollout `turn1_fall` is asked, as in a run.
Figures are percent of runs that are stopped, with Wilson's 95% interval. The last line is JSON for machines.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfcorrect.metrics import Share
from selfcorrect.table import Figure, Table
from selfcorrect.train.rl.guards import GuardRecipe, turn1_fall

PERMITTED = 0.05


@dataclass(frozen=True, slots=True)
class Setting:
    """Runs alike: how large their rollouts are, and how the problems' pass rates at the start are distributed."""

    mean: float
    deviation: float
    problems: int = 24
    start_paths: int = 1
    paths: int = 8
    rollouts: int = 30
    pool: int = 0

    @property
    def beta(self) -> tuple[float, float]:
        """The parameters of the Beta distribution."""
        strength = self.mean * (1 - self.mean) / self.deviation**2 - 1
        return self.mean * strength, (1 - self.mean) * strength

    def __str__(self) -> str:
        pool = f", pool of {self.pool}" if self.pool else ""
        size = f"{self.problems} × {self.start_paths} × {self.paths}, {self.rollouts} rollouts"
        return f"{size}; {self.mean:g}, {self.deviation:g}{pool}"


SETTINGS = (
    *(Setting(*rates) for rates in ((0.52, 0.36), (0.8, 0.2), (0.9, 0.1), (0.95, 0.05))),
    *(Setting(*rates, problems=16, start_paths=2, rollouts=40) for rates in ((0.52, 0.36), (0.9, 0.1), (0.95, 0.05))),
    *(Setting(*rates, problems=8, rollouts=40) for rates in ((0.52, 0.36), (0.9, 0.1))),
    *(Setting(*rates, problems=2, paths=4, rollouts=40) for rates in ((0.52, 0.36), (0.9, 0.1))),
    Setting(0.52, 0.36, problems=16),
    Setting(0.52, 0.36, problems=64, start_paths=4),
    Setting(0.9, 0.1, pool=64),
)


def simulated(drops: np.ndarray, setting: Setting, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return a run's rows; ``drops`` are how far turn 1 lies below the start model's in each rollout."""
    a, b = setting.beta
    shape = (len(drops), setting.problems)
    at_start, share = rng.beta(a, b, shape), np.ones(shape)
    if setting.pool:
        passes = -(-at_start.size // setting.pool)
        order = np.concatenate([rng.permutation(setting.pool) for _ in range(passes)])[: at_start.size].reshape(shape)
        at_start = rng.beta(a, b, setting.pool)[order]
        share = 2.0 * (order % 2)
    now = rng.binomial(setting.paths, at_start * (1 - share * drops[:, None] / setting.mean).clip(0)) / setting.paths
    changes = now - rng.binomial(setting.start_paths, at_start) / setting.start_paths
    errors = 100 * changes.std(1, ddof=1) / setting.problems**0.5
    return [
        {
            "sampled_at": step,
            "problems": setting.problems,
            "turn1_change": 100 * of_one.mean(),
            "turn1_change_se": error,
            "turn1_changes": of_one.tolist(),
        }
        for step, (of_one, error) in enumerate(zip(changes, errors, strict=True))
    ]


def stopped(drops: np.ndarray, setting: Setting, runs: int, seed: int = 7) -> float:
    """Return the share of simulated runs that are stopped, at any rollout."""
    rng = np.random.default_rng(seed)
    recipe = GuardRecipe(action="stop", start_paths=setting.start_paths, max_turn1_drop=PERMITTED)
    count = 0
    for _ in range(runs):
        rows = simulated(drops, setting, rng)
        count += any(turn1_fall(rows[: step + 1], recipe, len(rows)) for step in range(len(rows)))
    return count / runs


def measured(setting: Setting, runs: int, falls: tuple[float, ...]) -> dict[str, float]:
    """Return the share stopped where turn 1 is 0, 2 and 5 points low throughout, and for each linear fall."""
    found = {f"{low:.0%} low": stopped(np.full(setting.rollouts, low), setting, runs) for low in (0.0, 0.02, PERMITTED)}
    found |= {f"to {fall:.0%}": stopped(np.linspace(0, fall, setting.rollouts), setting, runs) for fall in falls}
    return found


def main() -> None:
    """Simulate, print the table and a line of JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runs", type=int, default=400, help="simulated runs a cell")
    parser.add_argument("--permitted-only", action="store_true", help="false alarms alone")
    options = parser.parse_args()
    falls = () if options.permitted_only else (0.10, 0.15, 0.20, 0.30)
    found = {str(setting): measured(setting, options.runs, falls) for setting in SETTINGS}
    heads = ("stopped, percent", *next(iter(found.values())))
    lines = [
        (
            name,
            *(
                Figure(100 * share, Share(round(share * options.runs), options.runs).interval)
                for share in shares.values()
            ),
        )
        for name, shares in found.items()
    ]
    print(Table(f"{options.runs} runs a cell; {PERMITTED:.0%} permitted", heads, lines).to_markdown())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
