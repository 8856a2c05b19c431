"""Guards of reinforcement learning: the ways in which self-correction is known to die, watched on every rollout.

- ``unjudged``: verification is deleted, for solving carefully and not judging pays as well (verdict rate);
  ``reward.format`` prevents it (docs/training.md, "What holds the verdict");
- ``turn1-floor``: a reward that pays for corrections teaches to answer wrong first (method.md, section 5.6);
- ``always-correct``: the verifier waves everything through (wrong attempts that are judged wrong);
- ``always-wrong``: it judges everything wrong, as without turn-independent returns (PAG, arXiv 2506.10406);
- ``revise-always``, ``never-change``: every trajectory is revised; revisions repeat the answer that was judged wrong;
- ``length``, ``truncation``: padding (against the start), or running into the budget;
- ``over-limits``: answers that the grader cannot work through in its limits grow more common (wrong, but odd);
- ``kl``: the policy left the reference (nats a token).

Pure: rows of ``metrics.jsonl`` in, findings out. Rates are averaged over a window of rollouts. A limit of None switches
its guard off; a figure that was not measured (no wrong attempt in the window, no reference model) raises none.

The **turn-1 floor is a sequential test**, for a rollout's problems differ by chance by far more than a model does from
step to step. Before training the start model attempts every problem of every rollout (``start_paths`` times), so each
rollout measures a change on each of ITS problems (``turn1_changes``, between -1 and 1). The test bets against "turn 1
lies no lower than permitted" (-``max_turn1_drop``): each problem multiplies a wager of ``stake`` by
1 + stake (-max_turn1_drop - change), which under that hypothesis is 1 or less on average whatever the distribution of
the changes; so is the mean over several stakes and over every rollout from which the fall may have begun. By Ville's
inequality the mean ever exceeds 1 / ``false_alarm`` with at most that probability, however often it is looked at, for
any number of problems (arXiv 2010.09686, section 4). benchmarks/guard.py measures it, and the power that is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from selfcorrect.errors import RecipeError
from selfcorrect.metrics import first_verdict, is_correct, is_over_limits
from selfcorrect.types import Trajectory, Verdict

Rows = Sequence[Mapping[str, Any]]
Floats = NDArray[np.float64]
_UNJUDGED = (
    "only {} of first attempts are judged (correctness pays a correct attempt the same without a verdict; "
    "reward.format=0.2 pays for one)"
)
_FIGURES = ("verdict_rate", "revised", "truncated", "mean_length", "over_limits", "kl")
_COUNTS = {"rm_W": "wrong_judged", "rm_C": "right_judged", "unchanged": "revisions"}
"""Shares of a part of the trajectories, and how many those are: a policy that is nearly always correct errs seldom."""


@dataclass(frozen=True, slots=True)
class GuardRecipe:
    """When to speak up, and whether to stop. Shares are of 1; None switches a guard off."""

    action: Literal["warn", "stop", "ignore"] = "warn"  # stop: the last healthy checkpoint becomes the result
    min_verdict_rate: float | None = 0.95  # share of first attempts that get a well-formed verdict
    max_turn1_drop: float | None = 0.05  # turn 1 may fall so far below the start model's, and by chance further
    false_alarm: float = 0.05  # at most the probability that a run is stopped whose turn 1 stays within that
    start_paths: int = 1  # attempts of the start model at each problem of each rollout, before training
    window: int = 3  # rollouts averaged; turn 1 is looked at from every rollout on
    min_observed: int = 20  # attempts or revisions in the window, below which their shares raise no finding
    min_wrong_caught: float | None = 0.05  # share of wrong first attempts that are judged wrong
    min_right_passed: float | None = 0.05  # share of correct first attempts that are judged correct
    max_revised: float | None = 0.98  # share of trajectories with a revision
    max_unchanged: float | None = 0.98  # share of revisions that give the same answer again
    max_length_factor: float | None = 3.0  # mean length against its start
    max_truncated: float | None = 0.5  # share of trajectories cut by the token budget
    max_over_limits_rise: float | None = (
        0.02  # share of trajectories beyond the grader's limits, above that of the start
    )
    max_kl: float | None = 1.0  # nats a token to the reference policy

    def __post_init__(self) -> None:
        if self.watches_turn1 and (self.start_paths < 1 or not 0 < self.false_alarm < 1):
            raise RecipeError("guard: max_turn1_drop needs start_paths of at least 1 and false_alarm between 0 and 1")

    @property
    def watches_turn1(self) -> bool:
        """True where turn 1 is compared with the start model's."""
        return self.max_turn1_drop is not None and self.action != "ignore"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a guard saw: its name, and one sentence with the figure and its limit."""

    guard: str
    message: str

    def __str__(self) -> str:
        return f"{self.guard}: {self.message}"


def findings(rows: Rows, recipe: GuardRecipe, rollouts: int) -> list[Finding]:
    """Return what is wrong with the last rollouts of a run that will have ``rollouts``; empty while all is well."""
    rows = [row for row in rows if row.get("turn1") is not None]
    if recipe.action == "ignore":
        return []
    fallen = turn1_fall(rows, recipe, rollouts)
    found = [] if fallen is None else [fallen.finding]
    if len(rows) >= recipe.window:
        found += _broken(rows[: recipe.window], rows[-recipe.window :], recipe)
    return found


def healthy_steps(rows: Rows, recipe: GuardRecipe, rollouts: int) -> list[int]:
    """Return the steps whose weights, by the rollout sampled from them, break no limit on their own.

    Where turn 1 fell, those sampled in the window that shows it are not among them.
    """
    rows = [row for row in rows if row.get("turn1") is not None]
    fallen = turn1_fall(rows, recipe, rollouts)
    before = rows[: len(rows) - fallen.window] if fallen else rows
    return [row["sampled_at"] for row in before if not _broken(rows[: recipe.window], [row], recipe)]


@dataclass(frozen=True, slots=True)
class Fall:
    """A fall of turn 1 that chance does not explain: its mean over the last ``window`` rollouts, as shares of 1.

    ``window`` begins where the fall most likely did. ``p_value`` holds at whatever rollout one looks.
    """

    window: int
    change: float
    standard_error: float
    p_value: float
    problems: int

    @property
    def finding(self) -> Finding:
        """What the guard says of it."""
        return Finding(
            "turn1-floor",
            f"turn-1 accuracy is {-self.change:.1%} ± {2 * self.standard_error:.1%} below the start model's on the "
            f"{self.problems} problems of the last {self.window} rollouts (p = {self.p_value:.1g})",
        )


STAKES = (0.03, 0.06, 0.125, 0.25, 0.5, 0.9)
"""Shares of the largest wager that cannot be overdrawn: small ones see small falls, large ones see large falls soon."""


def turn1_fall(rows: Rows, recipe: GuardRecipe, rollouts: int) -> Fall | None:
    """Return the fall of turn 1 below the permitted one, None where chance may explain it.

    A row that holds no changes by problem (of a run that an older version began) is one observation, its mean.
    """
    measured = [row for row in rows if row.get("turn1_change") is not None]
    if recipe.max_turn1_drop is None or not measured:
        return None
    changes = [row.get("turn1_changes") or [row["turn1_change"] / 100] for row in measured]
    capital = log_capital(changes, recipe.max_turn1_drop)
    not_begun = max(0, rollouts - len(capital))
    p_value = (len(capital) + not_begun) / (float(np.exp(capital.clip(max=600)).sum()) + not_begun)
    if p_value >= recipe.false_alarm:
        return None
    return _fall(measured[int(capital.argmax()) :], p_value)


def log_capital(changes: Sequence[Sequence[float]], permitted: float) -> Floats:
    """Return, for each rollout, the log of what betting against "the mean is at least -permitted" from there on made.

    ``changes`` are those of each rollout's problems, between -1 and 1.
    """
    wagers = np.array(STAKES) / (1 + permitted)
    growth = np.log1p(np.outer(-permitted - np.concatenate(changes), wagers))
    of_rollouts = np.add.reduceat(growth, np.cumsum([0, *map(len, changes[:-1])]), axis=0)
    since = np.cumsum(of_rollouts[::-1], axis=0)[::-1]
    capital: Floats = np.logaddexp.reduce(since, axis=1) - math.log(len(wagers))
    return capital


def _fall(rows: Rows, p_value: float) -> Fall:
    """Describe the fall that these rollouts show."""
    change = fmean(row["turn1_change"] for row in rows) / 100
    error = math.sqrt(sum(row["turn1_change_se"] ** 2 for row in rows)) / len(rows) / 100
    return Fall(len(rows), change, error, p_value, sum(row["problems"] for row in rows))


def offenders(trajectories: Sequence[Trajectory], guard: str) -> list[Trajectory]:
    """Return the graded trajectories that show what a guard found; all of them where no single one does."""
    shows = _SHOWS.get(guard)
    return [trajectory for trajectory in trajectories if shows is None or shows(trajectory)]


def _broken(first: Rows, last: Rows, recipe: GuardRecipe) -> list[Finding]:
    """Compare the last rollouts with the limits, and with the first where a limit is relative."""
    found: list[Finding] = []

    def check(guard: str, percent: float | None, low: float | None, high: float | None, what: str) -> None:
        if percent is None:
            return
        if (low is not None and percent < 100 * low) or (high is not None and percent > 100 * high):
            found.append(Finding(guard, what.format(f"{percent:.1f}%")))

    figures = {name: _mean(last, name) for name in _FIGURES}
    figures |= {name: _pooled(last, name, count, recipe.min_observed) for name, count in _COUNTS.items()}
    caught, passed, revised = recipe.min_wrong_caught, recipe.min_right_passed, recipe.max_revised
    unchanged, truncated = recipe.max_unchanged, recipe.max_truncated
    check("unjudged", figures["verdict_rate"], recipe.min_verdict_rate, None, _UNJUDGED)
    check("always-correct", figures["rm_W"], caught, None, "only {} of wrong attempts are judged wrong")
    check("always-wrong", figures["rm_C"], passed, None, "only {} of correct attempts are judged correct")
    check("revise-always", figures["revised"], None, revised, "{} of trajectories have a revision")
    check(
        "never-change", figures["unchanged"], None, unchanged, "{} of revisions repeat the answer that was judged wrong"
    )
    check("truncation", figures["truncated"], None, truncated, "{} of trajectories are cut by the token budget")
    start, length, kl = _mean(first, "mean_length"), figures["mean_length"], figures["kl"]
    if recipe.max_length_factor is not None and start and length and length > recipe.max_length_factor * start:
        found.append(Finding("length", f"trajectories are {length / start:.1f} times as long as at the start"))
    limits, limits_at_start = figures["over_limits"], _mean(first, "over_limits")
    rise = None if limits is None or limits_at_start is None else limits - limits_at_start
    message = "the share of trajectories with an answer beyond the grader's limits rose by {} since the start"
    check("over-limits", rise, None, recipe.max_over_limits_rise, message)
    if recipe.max_kl is not None and kl is not None and kl > recipe.max_kl:
        found.append(Finding("kl", f"{kl:.2f} nats a token away from the reference policy"))
    return found


def _mean(rows: Rows, name: str) -> float | None:
    """Return the mean of a figure over the rollouts that measured it."""
    known = [row[name] for row in rows if row.get(name) is not None]
    return fmean(known) if known else None


def _pooled(rows: Rows, name: str, count: str, least: int) -> float | None:
    """Return a share in percent over all that the rollouts observed; None where that is fewer than ``least``."""
    known = [(row[name], row[count]) for row in rows if row.get(name) is not None]
    observed = sum(n for _, n in known)
    return sum(value * n for value, n in known) / observed if observed >= least else None


_SHOWS: dict[str, Callable[[Trajectory], bool]] = {
    "unjudged": lambda found: first_verdict(found) is None,
    "turn1-floor": lambda found: not is_correct(found.first),
    "always-correct": lambda found: not is_correct(found.first) and first_verdict(found) is Verdict.CORRECT,
    "always-wrong": lambda found: bool(is_correct(found.first)) and first_verdict(found) is Verdict.WRONG,
    "revise-always": lambda found: len(found.attempts) > 1,
    "never-change": lambda found: len(found.attempts) > 1 and found.first.answer == found.attempts[1].answer,
    "over-limits": lambda found: any(is_over_limits(attempt) for attempt in found.attempts),
    "truncation": lambda found: found.stop == "length",
}
