"""The attempt-verdict-revise game made so small that every gradient and every optimum is a finite sum.

    python -m selfcorrect.train.rl.toy_mdp          # the table of estimators, and the optimum of every reward

A problem is a game (method.md, section 1, horizon 2). Decisions are the policy's, tosses the world's:

    attempt:   try (right with p) or sandbag (wrong on purpose)
    verdict:   correct (the path ends here) or wrong; it sees how the attempt went
    revision:  try (right with a chance that depends on how the attempt went) or keep the answer

States of verdict and revision: the attempt was Right, honestly Wrong, or Sandbagged. Trying again after an honest
failure is hopeless more often than after a sandbag: that is what makes lying in wait profitable under the paper's
hacked reward (method.md, section 5.6). Each decision is one token followed by tokens without choice, so lengths differ
and averages over tokens can do harm.

`expected_gradient` sums an estimator over ALL groups of paths, weighted with their probabilities: its difference
from the exact gradient is bias, to rounding, not noise. Advantages are those of `train.rl.advantages`, as trained with.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from rich.table import Table
from torch import Tensor

from selfcorrect.printing import show
from selfcorrect.train.rl.advantages import gae, returns_to_go, role_advantages, trajectory_advantages

STATES = ("right", "wrong", "sandbagged")
DECISIONS = ("attempt", *(f"verdict|{state}" for state in STATES), *(f"revision|{state}" for state in STATES))
"""The policy's seven coins: probabilities of try, of judging wrong, of trying again."""


class Role(IntEnum):
    """Roles of the parts of a path."""

    ATTEMPT = 0
    VERDICT = 1
    REVISION = 2


TOKENS = {
    (Role.ATTEMPT, True): 3,
    (Role.ATTEMPT, False): 1,
    (Role.VERDICT, True): 2,
    (Role.VERDICT, False): 1,
    (Role.REVISION, True): 4,
    (Role.REVISION, False): 1,
}
"""Length of a part by its decision (True: try, judge wrong, try again); the decision is its first token."""


@dataclass(frozen=True, slots=True)
class Chances:
    """The world of one problem: the chance that an attempt, and another after each state, comes out right."""

    attempt: float
    again: Mapping[str, float]


EASY = Chances(0.7, {"right": 0.7, "wrong": 0.3, "sandbagged": 0.7})
HARD = Chances(0.3, {"right": 0.3, "wrong": 0.05, "sandbagged": 0.3})


@dataclass(frozen=True, slots=True)
class Part:
    """One decision of a path: whose, which coin, how it fell, how many tokens it took."""

    role: Role
    decision: int
    chosen: bool

    @property
    def tokens(self) -> int:
        return TOKENS[self.role, self.chosen]


@dataclass(frozen=True, slots=True)
class Path:
    """One way through the game; ``luck`` is the probability of the world's tosses in it."""

    parts: tuple[Part, ...]
    luck: float
    first_right: bool
    last_right: bool
    judged_wrong: bool

    @property
    def tokens(self) -> int:
        return sum(part.tokens for part in self.parts)

    def turn_rewards(self) -> list[float]:
        """Correctness for attempts, truth for verdicts: what `rewards.turn_rewards` pays with both weights 1."""
        rewards = [float(self.first_right), float(self.judged_wrong != self.first_right)]
        return [*rewards, float(self.last_right)][: len(self.parts)]


Reward = Callable[[Path], float]

REWARDS: dict[str, Reward] = {
    "correctness of the last answer": lambda path: float(path.last_right),
    "hacked: + 0.5 if wrong first, right at the end": lambda path: (
        path.last_right + 0.5 * (path.last_right and not path.first_right)
    ),
    "SCoRe's bonus on the whole path: + 1 x gain": lambda path: 2.0 * path.last_right - path.first_right,
    "correctness + true verdict": lambda path: path.last_right + float(path.judged_wrong != path.first_right),
}
PLAIN = REWARDS["correctness of the last answer"]


def paths(chances: Chances) -> list[Path]:
    """Return every path of a problem."""
    found: list[Path] = []
    attempts = [(True, "right", chances.attempt), (True, "wrong", 1 - chances.attempt), (False, "sandbagged", 1.0)]
    for tried, state, luck in attempts:
        place = STATES.index(state)
        attempt = Part(Role.ATTEMPT, 0, tried)
        right = state == "right"
        found.append(Path((attempt, Part(Role.VERDICT, 1 + place, False)), luck, right, right, False))
        condemned = (attempt, Part(Role.VERDICT, 1 + place, True))
        again = chances.again[state]
        for chosen, mended, chance in ((True, True, again), (True, False, 1 - again), (False, right, 1.0)):
            revision = Part(Role.REVISION, 4 + place, chosen)
            found.append(Path((*condemned, revision), luck * chance, right, mended, True))
    return found


def probabilities(found: Sequence[Path], policy_D: Tensor) -> Tensor:
    """Return the probability of each path under the policy's seven coins."""
    rows = []
    for path in found:
        chosen = [policy_D[part.decision] if part.chosen else 1 - policy_D[part.decision] for part in path.parts]
        rows.append(path.luck * torch.stack(chosen).prod())
    return torch.stack(rows)


def score_functions(found: Sequence[Path], policy_D: Tensor) -> list[Tensor]:
    """Return for each path the gradients of its parts' log-probabilities by the coins' logits, (parts, 7)."""
    scores = []
    for path in found:
        rows = torch.zeros(len(path.parts), len(policy_D), dtype=policy_D.dtype)
        for place, part in enumerate(path.parts):
            rows[place, part.decision] = float(part.chosen) - policy_D[part.decision]
        scores.append(rows)
    return scores


def value(chances: Chances, policy_D: Tensor, reward: Reward) -> Tensor:
    """Return the exact expected reward of a policy."""
    found = paths(chances)
    rewards = torch.tensor([reward(path) for path in found], dtype=policy_D.dtype)
    return (probabilities(found, policy_D) * rewards).sum()


def exact_gradient(chances: Chances, logits_D: Tensor, reward: Reward) -> Tensor:
    """Return the exact policy gradient by the logits, by differentiating the finite sum."""
    logits = logits_D.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(chances, logits.sigmoid(), reward), logits)
    return gradient


# --- optima ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best of the 128 deterministic policies, and what it does."""

    value: float
    turn1: float
    final: float
    sandbags: bool


def optimum(chances: Chances, reward: Reward) -> Optimum:
    """Return the best deterministic policy (one is optimal in a finite game); ties go to the higher turn 1."""
    best: Optimum | None = None
    for coins in itertools.product((0.0, 1.0), repeat=len(DECISIONS)):
        policy = torch.tensor(coins, dtype=torch.float64)
        turn1 = value(chances, policy, lambda path: float(path.first_right)).item()
        candidate = Optimum(
            value(chances, policy, reward).item(), turn1, value(chances, policy, PLAIN).item(), coins[0] == 0.0
        )
        ahead = best is None or candidate.value > best.value + 1e-12
        if ahead or (best and math.isclose(candidate.value, best.value) and candidate.turn1 > best.turn1):
            best = candidate
    assert best is not None
    return best


# --- estimators -----------------------------------------------------------------------------------------------------

Weights = list[list[float]]
"""The weight of each part's decision token, by path of a group: the estimate is their sum of score functions."""

Estimator = Callable[[Sequence[Path], Reward], Weights]


def token_weights(loss_type: str, tokens_B: Sequence[int], budget: int) -> list[float]:
    """Return what each path's token terms are multiplied with under a loss of TRL, on-policy and in one batch.

    ``grpo`` means over a path's tokens, then over paths; ``dr_grpo`` divides by a constant (paths x budget); ``dapo``
    and ``bnpo`` by all tokens of the batch; ``sum`` only by the paths (tests/train/rl/test_loss.py holds TRL to this).
    A path of 0 tokens is one that was left out.
    """
    rows = max(1, sum(tokens > 0 for tokens in tokens_B))
    return {
        "grpo": [1 / (rows * max(1, tokens)) for tokens in tokens_B],
        "dr_grpo": [1 / (rows * budget)] * len(tokens_B),
        "dapo": [1 / max(1, sum(tokens_B))] * len(tokens_B),
        "sum": [1 / rows] * len(tokens_B),
    }[loss_type]


def per_path(rule: str, scale: str, loss_type: str = "sum", drop: bool = False) -> Estimator:
    """One advantage a path (`trajectory_advantages`), weighted as a loss of TRL does; ``drop``: dynamic sampling."""

    def estimate(group: Sequence[Path], reward: Reward) -> Weights:
        rewards = torch.tensor([reward(path) for path in group], dtype=torch.float64)
        if drop and len(set(rewards.tolist())) == 1:
            return [[0.0] * len(path.parts) for path in group]
        advantages = trajectory_advantages(rewards, len(group), rule, scale)  # type: ignore[arg-type]
        weights = token_weights(loss_type, [path.tokens for path in group], budget=9)
        return [
            [weight * advantage] * len(path.parts)
            for path, weight, advantage in zip(group, weights, advantages.tolist(), strict=True)
        ]

    return estimate


def per_role(discount: float | None, scaled: bool) -> Estimator:
    """`role_advantages` of turn rewards-to-go (discount None: of the whole path's reward in every part)."""

    def estimate(group: Sequence[Path], reward: Reward) -> Weights:
        returns: list[float] = []
        for path in group:
            whole = [reward(path)] * len(path.parts)
            returns += whole if discount is None else returns_to_go(path.turn_rewards(), discount)
        owners = torch.tensor([n for n, path in enumerate(group) for _ in path.parts])
        roles = torch.tensor([int(part.role) for path in group for part in path.parts])
        values = torch.tensor(returns, dtype=torch.float64)
        flat = iter(role_advantages(values, owners, roles, len(group), scaled).tolist())
        return [[next(flat) / len(group) for _ in path.parts] for path in group]

    return estimate


def summed_turn_baselines(group: Sequence[Path], reward: Reward) -> Weights:
    """What NOT to do (verl#7244): centre rewards turn by turn, then add up what follows.

    How many baselines are subtracted then depends on when the path stops, so stopping is paid for.
    """
    rewards = [path.turn_rewards() for path in group]
    means = [
        sum(present) / len(present)
        for turn in range(3)
        if (present := [row[turn] for row in rewards if len(row) > turn])
    ]
    centred = [[value - means[turn] for turn, value in enumerate(row)] for row in rewards]
    return [[weight / len(group) for weight in returns_to_go(row, 1.0)] for row in centred]


def critic_gae(
    chances: Chances, policy_D: Tensor, lam: float, critic: Callable[[float], float] = lambda value: value
) -> Estimator:
    """PPO's estimator on-policy: GAE over decisions with the exact values, or with values spoilt by ``critic``."""
    weights_of: dict[tuple[Path, Reward], list[float]] = {}

    def estimate(group: Sequence[Path], reward: Reward) -> Weights:
        for path in group:
            if (path, reward) not in weights_of:
                values = [
                    critic(state_value(chances, policy_D, path, place, reward)) for place in range(len(path.parts))
                ]
                rewards = torch.zeros(1, len(values), dtype=torch.float64)
                rewards[0, -1] = reward(path)
                values_BT = torch.tensor([values], dtype=torch.float64)
                advantages, _ = gae(rewards, values_BT, torch.ones_like(values_BT), 1.0, lam)
                weights_of[path, reward] = advantages[0].tolist()
        return [[weight / len(group) for weight in weights_of[path, reward]] for path in group]

    return estimate


def state_value(chances: Chances, policy_D: Tensor, path: Path, place: int, reward: Reward) -> float:
    """Return the exact expected reward where a path stands before its decision number ``place``."""
    found = paths(chances)
    here = [
        (chance, reward(other))
        for other, chance in zip(found, probabilities(found, policy_D).tolist(), strict=True)
        if len(other.parts) > place
        and other.parts[:place] == path.parts[:place]
        and other.parts[place].decision == path.parts[place].decision  # the toss after the attempt
    ]
    return sum(chance * earned for chance, earned in here) / sum(chance for chance, _ in here)


def expected_gradient(
    chances: Chances, logits_D: Tensor, reward: Reward, estimator: Estimator, group_size: int
) -> Tensor:
    """Return the expectation of an estimator over all groups of ``group_size`` independent paths."""
    found = paths(chances)
    policy = logits_D.sigmoid()
    chance = probabilities(found, policy).tolist()
    weighed = [[0.0] * len(path.parts) for path in found]
    for places in itertools.combinations_with_replacement(range(len(found)), group_size):
        orders = math.factorial(group_size)
        for place in set(places):
            orders //= math.factorial(places.count(place))
        likelihood = orders * math.prod(chance[place] for place in places)
        for place, weights in zip(places, estimator([found[place] for place in places], reward), strict=True):
            for part, weight in enumerate(weights):
                weighed[place][part] += likelihood * weight
    scores = score_functions(found, policy)
    parts = [torch.tensor(weights, dtype=torch.float64) @ score for weights, score in zip(weighed, scores, strict=True)]
    return torch.stack(parts).sum(0)


# --- the table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """How far an estimator's expectation is from the gradient it estimates, over both problems.

    ``bias``: of the best multiple of the expectation, as a share of the gradient's norm (a positive factor is a
    learning rate, no bias). ``factor``: that multiple's inverse. ``stop``: by how much the expectation moves the logits
    of the three verdict coins (judge wrong: take another turn) beyond the gradient, after scaling: the stop bias.
    """

    name: str
    target: str
    bias: float
    factor: float
    stop: float


@dataclass(frozen=True, slots=True)
class Case:
    """An estimator, what it estimates, and whether it should."""

    name: str
    build: Callable[[Chances, Tensor], Estimator]
    unbiased: bool
    target: str = "path reward"
    why: str = field(default="", compare=False)


def cases() -> list[Case]:
    """Return every estimator with what theory says of it."""
    fixed: Callable[[Estimator], Callable[[Chances, Tensor], Estimator]] = lambda estimator: lambda *_: estimator
    turn, own = "rewards to go", "own turn's reward"
    return [
        Case("REINFORCE, no baseline (signed, sum)", fixed(per_path("signed", "none")), True),
        Case("RLOO (leave-one-out, sum)", fixed(per_path("leave-one-out", "none")), True),
        Case("Dr. GRPO (group mean, constant length)", fixed(per_path("group", "none", "dr_grpo")), True),
        Case("GRPO, equal lengths (group mean and std)", fixed(per_path("group", "group")), False, why="difficulty"),
        Case("GRPO (mean and std, 1/length)", fixed(per_path("group", "group", "grpo")), False, why="length"),
        Case("1/length alone (group mean)", fixed(per_path("group", "none", "grpo")), False, why="length"),
        Case("DAPO (mean and std, token mean)", fixed(per_path("group", "group", "dapo")), False, why="length"),
        Case("RLOO + dynamic sampling", fixed(per_path("leave-one-out", "none", drop=True)), True),
        Case("RAFT++, equal lengths (positives, over all)", fixed(per_path("positive", "none")), True),
        Case("RAFT++ (positives, 1/length)", fixed(per_path("positive", "none", "grpo")), False, why="length"),
        Case(
            "Reinforce-Rej, equal lengths (mixed groups)",
            fixed(per_path("signed", "none", drop=True)),
            False,
            why="groups",
        ),
        Case("per role, centred (path reward)", fixed(per_role(None, scaled=False)), True),
        Case("per role, centred and scaled (path reward)", fixed(per_role(None, scaled=True)), False, why="role"),
        Case("PPO: GAE λ=1, exact critic", lambda chances, policy: critic_gae(chances, policy, 1.0), True),
        Case("PPO: GAE λ=0.95, exact critic", lambda chances, policy: critic_gae(chances, policy, 0.95), True),
        Case("PPO: GAE λ=0, exact critic", lambda chances, policy: critic_gae(chances, policy, 0.0), True),
        Case("PPO: GAE λ=1, wrong critic", lambda c, p: critic_gae(c, p, 1.0, lambda v: 0.3 + v / 2), True),
        Case("PPO: GAE λ=0.5, wrong critic", lambda c, p: critic_gae(c, p, 0.5, lambda v: 0.3 + v / 2), False, why="λ"),
        Case("turns, to go, role baseline", fixed(per_role(1.0, scaled=False)), True, turn),
        Case("turns, to go, baselines summed (verl#7244)", fixed(summed_turn_baselines), False, turn, why="stop"),
        Case("turns, independent, role baseline (PAG)", fixed(per_role(0.0, scaled=False)), True, own),
        Case("turns, independent, scaled by role (PAG)", fixed(per_role(0.0, scaled=True)), False, own, why="role"),
    ]


def target_gradient(chances: Chances, logits_D: Tensor, target: str) -> Tensor:
    """Return the exact gradient of what a case estimates."""
    if target == "path reward":
        return exact_gradient(chances, logits_D, PLAIN)
    if target == "rewards to go":
        return exact_gradient(chances, logits_D, lambda path: sum(path.turn_rewards()))
    found, policy = paths(chances), logits_D.sigmoid()
    gradient = torch.zeros_like(logits_D)
    for path, chance, scores in zip(found, probabilities(found, policy), score_functions(found, policy), strict=True):
        gradient += chance * (torch.tensor(path.turn_rewards(), dtype=torch.float64) @ scores)
    return gradient


def start() -> Tensor:
    """Return logits of a policy with no coin fair and none sure, so that no bias hides in a symmetry."""
    return torch.tensor([0.8, -0.5, 0.9, 0.3, 0.4, 1.1, -0.6], dtype=torch.float64)


def measure(case: Case, group_size: int = 4) -> Row:
    """Return an estimator's exact bias over the easy and the hard problem."""
    logits = start()
    worlds = (EASY, HARD)
    policy = logits.sigmoid()
    exact = torch.cat([target_gradient(world, logits, case.target) for world in worlds])
    expected = torch.cat(
        [expected_gradient(world, logits, PLAIN, case.build(world, policy), group_size) for world in worlds]
    )
    factor = (expected @ exact / (exact @ exact)).item()
    multiple = (exact @ expected / (expected @ expected)).item()
    difference = multiple * expected - exact
    stop = difference.view(2, -1)[:, 1:4].sum().item() / exact.norm().item()
    return Row(case.name, case.target, (difference.norm() / exact.norm()).item(), factor, stop)


def table(group_size: int = 4) -> Table:
    """Return the table of estimators."""
    shown = Table(title=f"bias of each estimator, exact over all groups of {group_size} paths of 2 problems")
    for column in ("estimator", "estimates the gradient of", "bias", "factor", "stop bias", "by theory"):
        shown.add_column(column, justify="right" if column in ("bias", "factor", "stop bias") else "left")
    for case in cases():
        row = measure(case, group_size)
        said = "unbiased" if case.unbiased else f"biased: {case.why}"
        shown.add_row(case.name, case.target, f"{row.bias:.1e}", f"{row.factor:.3f}", f"{row.stop:+.3f}", said)
    return shown


def optima() -> Table:
    """Return the table of rewards and the policies that they ask for."""
    shown = Table(title="the best policy for each reward (all 128 deterministic ones, exact)")
    for column in ("reward", "problem", "value", "turn 1", "final", "sandbags"):
        shown.add_column(column, justify="left" if column in ("reward", "problem") else "right")
    for name, reward in REWARDS.items():
        for problem, chances in (("easy", EASY), ("hard", HARD)):
            best = optimum(chances, reward)
            figures = (f"{best.value:.3f}", f"{best.turn1:.3f}", f"{best.final:.3f}")
            shown.add_row(name, problem, *figures, "YES" if best.sandbags else "no")
    return shown


if __name__ == "__main__":
    show(table())
    show(optima())
