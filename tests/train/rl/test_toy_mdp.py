"""What each estimator's expectation is, exactly, in a game small enough to sum; and what each reward asks for."""

from __future__ import annotations

import pytest
import torch

from selfcorrect.train.rl.advantages import returns_to_go
from selfcorrect.train.rl.toy_mdp import (
    EASY,
    HARD,
    PLAIN,
    REWARDS,
    Case,
    Path,
    Reward,
    Weights,
    cases,
    exact_gradient,
    expected_gradient,
    measure,
    optimum,
    paths,
    per_path,
    probabilities,
    start,
    summed_turn_baselines,
    target_gradient,
    value,
)

CASES = cases()
RIGHTS = [case for case in CASES if case.unbiased]
WRONGS = [case for case in CASES if not case.unbiased]


@pytest.mark.parametrize("case", RIGHTS, ids=lambda case: case.name)
def test_an_unbiased_estimator_expects_a_positive_multiple_of_the_gradient(case: Case) -> None:
    row = measure(case, group_size=2 if "PPO" in case.name else 3)
    assert row.bias < 1e-12
    assert row.factor > 0


@pytest.mark.parametrize("case", WRONGS, ids=lambda case: case.name)
def test_a_biased_estimator_is_measurably_so(case: Case) -> None:
    # Binary rewards of three have one deviation; only from four does dividing by it weigh problems by difficulty.
    row = measure(case, group_size=4 if case.why == "difficulty" else 3)
    assert row.bias > 5e-3


def test_paths_are_a_distribution_and_scores_sum_to_zero() -> None:
    policy = start().sigmoid()
    for chances in (EASY, HARD):
        found = paths(chances)
        assert len(found) == len(set(found)) == 12
        assert probabilities(found, policy).sum().item() == pytest.approx(1.0, abs=1e-12)


def test_the_exact_gradient_is_that_of_finite_differences() -> None:
    logits, step = start(), 1e-6
    for reward in REWARDS.values():
        exact = exact_gradient(HARD, logits, reward)
        for coin in range(len(logits)):
            shift = torch.zeros_like(logits)
            shift[coin] = step
            ahead, behind = (value(HARD, (logits + sign * shift).sigmoid(), reward).item() for sign in (1, -1))
            assert exact[coin].item() == pytest.approx((ahead - behind) / (2 * step), abs=1e-8)


def test_one_over_length_spares_long_failures_and_pays_short_successes() -> None:
    """Among successes it prefers to stop (RAFT++); with failures in the loss, those that went on are punished less."""
    stop = {case.name: measure(case, group_size=3).stop for case in WRONGS if case.why == "length"}
    assert stop["RAFT++ (positives, 1/length)"] < -0.1
    assert stop["GRPO (mean and std, 1/length)"] > 0.1


def test_the_hidden_price_of_another_turn_is_the_mean_of_its_reward() -> None:
    """verl#7244, closed form: baselines summed over the turns that happened add -b * grad P(another turn)."""
    logits = start()
    found = paths(EASY)
    chance = probabilities(found, logits.sigmoid())
    revised = torch.tensor([float(len(path.parts) == 3) for path in found], dtype=torch.float64)
    rewards = [path.turn_rewards() for path in found]
    mean = sum(float(p) * row[2] for p, row in zip(chance, rewards, strict=True) if len(row) == 3)
    baseline = mean / float((chance * revised).sum())

    def constant_baseline(group: list[Path], reward: Reward) -> Weights:
        centred = [[r - baseline * (turn == 2) for turn, r in enumerate(path.turn_rewards())] for path in group]
        return [returns_to_go(row, 1.0) for row in centred]

    expected = expected_gradient(EASY, logits, PLAIN, constant_baseline, 1)  # type: ignore[arg-type]
    bias = expected - target_gradient(EASY, logits, "rewards to go")
    price = exact_gradient(EASY, logits, lambda path: float(len(path.parts) == 3))
    torch.testing.assert_close(bias, -baseline * price, rtol=0, atol=1e-12)
    assert baseline > 0.3
    with_groups = measure(Case("", lambda *_: summed_turn_baselines, False, "rewards to go"), group_size=3)
    assert with_groups.stop < -0.3


@pytest.mark.parametrize("problem", [EASY, HARD], ids=["easy", "hard"])
def test_the_hacked_reward_asks_for_sandbagging_and_the_plain_one_does_not(problem: object) -> None:
    assert not optimum(problem, PLAIN).sandbags  # type: ignore[arg-type]
    plain, hacked = (optimum(problem, REWARDS[name]) for name in list(REWARDS)[:2])  # type: ignore[arg-type]
    assert hacked.sandbags
    assert hacked.turn1 == 0.0
    assert hacked.final < plain.final


def test_ascent_on_the_hacked_reward_ends_in_the_sandbagging_policy() -> None:
    """Not only the optimum: following the exact gradient from an honest policy leads there."""
    for reward, tries in ((PLAIN, True), (REWARDS["hacked: + 0.5 if wrong first, right at the end"], False)):
        logits = torch.tensor([1.0, -1.0, 1.0, 0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
        for _ in range(300):
            logits = logits + 20.0 * exact_gradient(EASY, logits, reward)
        assert (logits[0].sigmoid().item() > 0.9) is tries


def test_a_random_reward_teaches_nothing() -> None:
    """A coin that no decision moves: the expectation of the update is zero, only its noise is not."""
    expected = expected_gradient(EASY, start(), lambda path: 0.5, per_path("leave-one-out", "none"), 3)
    assert expected.abs().max().item() < 1e-15
