"""Every named loss, with the recipe's defaults, against a loop written from its paper: loss and gradient, by token.

The log-probabilities are leaves in float64, so nothing rests on a model, a BLAS or a thread count; advantages come out
of TRL, or of `trajectory_advantages`, in float32, which is what the tolerance is for.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from selfcorrect.errors import RecipeError
from selfcorrect.train.grpo import GrpoRecipe, build_trainer
from selfcorrect.train.ppo import PpoRecipe
from selfcorrect.train.rl.grpo_trainer import grpo_config
from selfcorrect.train.rl.rollouts import Rollout
from selfcorrect.train.rl.scored_rollout import ScoredRollout
from selfcorrect.train.rl.variants import VARIANTS, variant_of
from selfcorrect.types import Attempt, Problem, Trajectory
from tests.train.conftest import rollout_function_of

G, BUDGET = 4, 40
# A mixed group with one path that could not be graded, an all-right and an all-wrong group, and an uneven one.
REWARDS: list[float | None] = [1.0, 0.0, 1.0, None, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]
LENGTHS = [5, 9, 3, 6, 4, 7, 2, 8, 6, 3, 5, 4, 11, 2, 6, 7]
LEARNED = [[int(t % 5 != 3) for t in range(length)] for length in LENGTHS]  # every fourth or so is a user's


def told() -> ScoredRollout:
    """Return a scored rollout of known tokens and rewards; a trajectory's first token is its number."""
    trajectory = Trajectory(Problem("p", "Guess.", "3", "arithmetic"), (Attempt("3", "3"),))
    rollouts = tuple(
        Rollout(trajectory, (7, 8), (100 + n, *[5] * (length - 1)), (-1.0,) * length, tuple(learned), ())
        for n, (length, learned) in enumerate(zip(LENGTHS, LEARNED, strict=True))
    )
    rewards = tuple(REWARDS)
    return ScoredRollout(rollouts, rewards, ((),) * len(rewards), rewards, tuple(tuple(mask) for mask in LEARNED))


def trainer_of(tiny_model: Path, folder: Path, **settings: Any) -> Any:
    recipe = GrpoRecipe(
        model=str(tiny_model), steps=1, prompts_per_step=len(REWARDS) // G, generations=G, micro_rows=5,
        max_tokens=BUDGET, precision="fp32", **settings,
    )  # fmt: skip
    problems = [Problem(f"p{n}", f"Guess {n}.", "3", "arithmetic") for n in range(len(REWARDS) // G)]
    trainer = build_trainer(recipe, rollout_function_of(recipe, problems), folder)
    trainer.model.train()
    return trainer


def log_probs(off: float) -> tuple[Tensor, Tensor]:
    """Return the policy's log-probabilities as leaves, and the sampler's, ``off`` times some noise away."""
    generator = torch.Generator().manual_seed(3)
    new = torch.randn(len(LENGTHS), max(LENGTHS), generator=generator, dtype=torch.float64) - 2
    noise = torch.randn(new.shape, generator=generator, dtype=torch.float64)
    return new.requires_grad_(True), new.detach() - off * 0.4 * noise


def trained(trainer: Any, off: float) -> tuple[list[float], list[list[int]], Tensor]:
    """Return the loss of each optimizer step, its paths, and the gradient of all by every log-probability."""
    new, old = log_probs(off)
    scored = told()
    batch = trainer.tensors(["prompt"] * len(REWARDS), scored)
    batch |= trainer.weigh(scored, batch)
    batch["old_per_token_logps"] = old[:, : batch["completion_ids"].shape[1]]

    def given(model: Any, ids: Any, mask: Any, kept: int, **_: Any) -> Any:
        numbers = ids[:, -kept] - 100
        return new[numbers][:, :kept], torch.zeros(len(ids), kept), None

    trainer._get_per_token_logps_and_entropies = given
    trainer._check_gap = lambda inputs: None
    micro_batches = trainer.micro_batches(batch, scored.outcomes)
    each = trainer.args.gradient_accumulation_steps
    trainer.current_gradient_accumulation_steps = each
    losses, paths = [], []
    for first in range(0, len(micro_batches), each):
        step = micro_batches[first : first + each]
        total = sum(trainer.compute_loss(trainer.model, micro) for micro in step)
        total.backward()
        losses.append(total.item())
        paths.append(
            sorted(n for m in step if "completion_ids" in m for n in (m["completion_ids"][:, 0] - 100).tolist())
        )
    assert new.grad is not None
    return losses, paths, new.grad


# --- the papers ------------------------------------------------------------------------------------------------------


def standardised(rewards: Sequence[float]) -> list[float]:
    """DeepSeekMath, section 4.1.2: (r - mean) / std of the group; TRL adds 1e-4 to the deviation."""
    mean, deviation = statistics.fmean(rewards), statistics.stdev(rewards)
    return [(reward - mean) / (deviation + 1e-4) for reward in rewards]


def centred(rewards: Sequence[float]) -> list[float]:
    """Dr. GRPO, section 3.2."""
    return [reward - statistics.fmean(rewards) for reward in rewards]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """RLOO, section 3.3."""
    return [r - statistics.fmean([*rewards[:n], *rewards[n + 1 :]]) for n, r in enumerate(rewards)]


def is_best(rewards: Sequence[float]) -> list[float]:
    """RAFT++, eq. 6: 1 for the paths of the highest reward; an all-wrong prompt has none to learn from."""
    return [float(reward == max(rewards) and reward > 0) for reward in rewards]


def signed(rewards: Sequence[float]) -> list[float]:
    """Rewards of ±1 (2504.11343, eq. 5)."""
    return [2 * reward - 1 for reward in rewards]


def clipped(low: float, high: float) -> Callable[[Tensor, float, Tensor], Tensor]:
    """PPO's surrogate."""
    return lambda ratio, a, logp: torch.minimum(ratio * a, ratio.clamp(1 - low, 1 + high) * a)


def cispo(ratio: Tensor, a: float, logp: Tensor) -> Tensor:
    """MiniMax-M1, eq. 4 and 5: the weight is cut from above at ScaleRL's 5 and has no gradient."""
    return ratio.clamp(max=5.0).detach() * a * logp


def sapo(ratio: Tensor, a: float, logp: Tensor) -> Tensor:
    """A gate in the place of the clip: sigmoid(tau (r - 1)) 4 / tau, tau 1 for gains and 1.05 for losses."""
    tau = 1.0 if a > 0 else 1.05
    return 4 / tau * torch.sigmoid(tau * (ratio - 1)) * a


def vespo(ratio: Tensor, a: float, logp: Tensor) -> Tensor:
    """The kernel w^k e^(d (1 - w)) of the whole path's ratio w, without gradient."""
    k, d = (2.0, 3.0) if a >= 0 else (3.0, 2.0)
    return (ratio**k * torch.exp(d - d * ratio)).detach() * a * logp


Advantages = Callable[[Sequence[float]], list[float]]
PAPERS: dict[str, tuple[Advantages, Any, str, str, bool]] = {
    # advantages, term of a token, whose ratio, mean over, whether groups without variance leave
    "grpo": (standardised, clipped(0.2, 0.2), "token", "path, then paths", False),
    "dr_grpo": (centred, clipped(0.2, 0.2), "token", "constant", False),
    "dapo": (standardised, clipped(0.2, 0.28), "token", "tokens", True),
    "bnpo": (standardised, clipped(0.2, 0.2), "token", "tokens", False),
    "cispo": (standardised, cispo, "token", "tokens", False),
    "gspo": (standardised, clipped(3e-4, 4e-4), "mean", "path, then paths", False),
    "luspo": (standardised, clipped(2e-3, 2.5e-3), "mean", "paths", False),
    "sapo": (standardised, sapo, "token", "path, then paths", False),
    "vespo": (standardised, vespo, "sum", "tokens", False),
    "rloo": (leave_one_out, clipped(0.2, 0.2), "token", "constant", False),
    "raft++": (is_best, clipped(0.2, 0.2), "token", "path, then paths", False),
    "reinforce-rej": (signed, clipped(0.2, 0.2), "token", "path, then paths", True),
}


def advantages_of(name: str) -> dict[int, float]:
    """Return the advantage of each path that is in the mean, by its number."""
    rule, *_, drops = PAPERS[name]
    found: dict[int, float] = {}
    for first in range(0, len(REWARDS), G):
        known = {n: r for n in range(first, first + G) if (r := REWARDS[n]) is not None}
        if not (drops and len(set(known.values())) == 1):
            found |= dict(zip(known, rule(list(known.values())), strict=True))
    return found


def published(name: str, advantages: dict[int, float], new: Tensor, old: Tensor) -> Tensor:
    """Return the objective of the paper, with the sign of a loss, over some paths."""
    _, term, whose, mean, _ = PAPERS[name]
    total = torch.zeros((), dtype=torch.float64)
    tokens = sum(sum(LEARNED[n]) for n in advantages)
    for n, advantage in advantages.items():
        places = [t for t, learned in enumerate(LEARNED[n]) if learned]
        log_ratios = [new[n, t] - old[n, t] for t in places]
        of_path = torch.stack(log_ratios).sum() / (len(places) if whose == "mean" else 1)
        terms = [
            term(torch.exp(log_ratio if whose == "token" else of_path), advantage, new[n, t])
            for t, log_ratio in zip(places, log_ratios, strict=True)
        ]
        path = torch.stack(terms).sum()
        weight = {
            "path, then paths": 1 / len(places) / len(advantages),
            "paths": 1 / len(advantages),
            "constant": 1 / len(advantages) / BUDGET,
            "tokens": 1 / tokens,
        }
        total = total - path * weight[mean]
    return total


def test_every_variant_has_a_row() -> None:
    assert PAPERS.keys() == VARIANTS.keys()


@pytest.mark.parametrize("off", [0.0, 1.0], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_named_loss_is_that_of_its_paper(tiny_model: Path, tmp_path: Path, name: str, off: float) -> None:
    """Settings are the recipe's own defaults; off-policy, ratios reach from a tenth to above ten."""
    (loss,), _, gradient = trained(trainer_of(tiny_model, tmp_path, loss_type=name), off)
    new, old = log_probs(off)
    expected = published(name, advantages_of(name), new, old)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)
    torch.testing.assert_close(gradient, new.grad, rtol=1e-5, atol=1e-9)
    assert gradient.abs().max() > 1e-4 or (name in ("gspo", "luspo") and off)


def test_on_policy_rloo_is_reinforce_with_that_baseline(tiny_model: Path, tmp_path: Path) -> None:
    """The paper has no ratio: its gradient is A times that of the path's log-probability, here over the budget."""
    _, _, gradient = trained(trainer_of(tiny_model, tmp_path, loss_type="rloo"), 0.0)
    new, _ = log_probs(0.0)
    advantages = advantages_of("rloo")
    for n, advantage in advantages.items():
        learned = torch.tensor(LEARNED[n], dtype=torch.float64)
        (new[n, : LENGTHS[n]] * learned).sum().mul(-advantage / len(advantages) / BUDGET).backward()
    torch.testing.assert_close(gradient, new.grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("zero_variance", ["keep", "skip", "drop"])
@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "vespo"])
def test_two_updates_a_rollout_are_two_means(tiny_model: Path, tmp_path: Path, name: str, zero_variance: str) -> None:
    """Each update is a mean over its own paths; half of the groups that are not computed are counted in each."""
    trainer = trainer_of(tiny_model, tmp_path, loss_type=name, updates=2, zero_variance=zero_variance)
    losses, paths, gradient = trained(trainer, 1.0)
    assert len(losses) == 2
    flat = {n for first in (4, 8) for n in range(first, first + G)}
    computed = {n for n, reward in enumerate(REWARDS) if reward is not None} - (
        set() if zero_variance == "keep" else flat
    )
    assert sorted(paths[0] + paths[1]) == sorted(computed)
    assert abs(len(paths[0]) - len(paths[1])) <= 1
    new, old = log_probs(1.0)
    rule, _, _, mean, _ = PAPERS[name]
    advantages = {n: a for n, a in _all_advantages(rule).items() if n in computed}
    uncounted = flat if zero_variance == "skip" else set()
    for loss, part in zip(losses, paths, strict=True):
        tokens = sum(sum(LEARNED[n]) for n in part)
        by_tokens = tokens / (tokens + sum(sum(LEARNED[n]) for n in uncounted) / 2)
        by_rows = len(part) / (len(part) + len(uncounted) / 2)
        expected = published(name, {n: advantages[n] for n in part}, new, old)
        expected = expected * (by_tokens if mean == "tokens" else by_rows)
        expected.backward()
        assert loss == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)
    torch.testing.assert_close(gradient, new.grad, rtol=1e-5, atol=1e-9)


def _all_advantages(rule: Advantages) -> dict[int, float]:
    found: dict[int, float] = {}
    for first in range(0, len(REWARDS), G):
        known = {n: r for n in range(first, first + G) if (r := REWARDS[n]) is not None}
        found |= dict(zip(known, rule(list(known.values())), strict=True))
    return found


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"loss_type": "dr-grpo"}, 'expected one of grpo, dr_grpo, .*did you mean "dr_grpo"'),
        ({"loss_type": "cispo", "epsilon_high": 0.3}, "epsilon_high=1.3; null is 5.0"),
        ({"loss_type": "cispo", "epsilon_high": 0.2, "published": False}, "epsilon_high=1.2"),
        ({"loss_type": "dr_grpo", "scale_rewards": "group"}, "it divides advantages by nothing; .* published=false"),
        ({"loss_type": "rloo", "scale_rewards": "batch"}, "it divides advantages by nothing"),
        ({"loss_type": "grpo", "scale_rewards": "none"}, "by the group's deviation"),
        ({"loss_type": "luspo", "trainer": {"importance_sampling_level": "token"}}, "ratios are those of a sequence"),
        ({"loss_type": "grpo", "trainer": {"importance_sampling_level": "sequence"}}, "is loss_type=gspo"),
        ({"loss_type": "vespo", "trainer": {"importance_sampling_level": "sequence"}}, "ratios are those of a token"),
        ({"loss_type": "gspo", "epsilon": 0.2}, "nothing would be clipped"),
        ({"loss_type": "luspo", "epsilon_high": 0.28}, "nothing would be clipped"),
        ({"loss_type": "raft++", "zero_variance": "drop"}, "also where all are right"),
        ({"loss_type": "raft++", "zero_variance": "skip", "published": False}, "use keep or drop"),
        ({"loss_type": "reinforce-rej", "zero_variance": "keep"}, "it leaves out the groups"),
        ({"loss_type": "reinforce-rej", "zero_variance": "skip", "published": False}, "use keep or drop"),
        ({"loss_type": "rloo", "normalise": "role"}, "names its own advantages"),
        ({"trainer": {"loss_type": "cispo"}}, "'loss_type' is a setting of the recipe itself: use loss_type"),
        ({"trainer": {"epsilon_high": 0.3}}, "use epsilon_high"),
        ({"trainer": {"num_iterations": 2}}, "use passes"),
        ({"trainer": {"mask_truncated_completions": True}}, "use overlong=mask"),
    ],
)
def test_what_is_not_the_method_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        GrpoRecipe(**settings)


@pytest.mark.parametrize(
    ("settings", "named", "why", "instead"),
    [
        (
            {"loss_type": "dr_grpo", "scale_rewards": "batch"},
            "scale_rewards=batch is not dr_grpo (arXiv 2503.20783, section 3.2)",
            "it divides advantages by nothing",
            "leave scale_rewards out or set none",
        ),
        (
            {"loss_type": "grpo", "trainer": {"importance_sampling_level": "sequence"}},
            "importance_sampling_level=sequence is not grpo (arXiv 2402.03300, eq. 3)",
            "its ratios are those of a token; the ratio of a sequence in GRPO's loss is loss_type=gspo",
            "leave importance_sampling_level out or set token",
        ),
        (
            {"loss_type": "sapo", "trainer": {"importance_sampling_level": "sequence"}},
            "importance_sampling_level=sequence is not sapo (arXiv 2511.20347)",
            "its ratios are those of a token",
            "leave importance_sampling_level out or set token",
        ),
        (
            {"loss_type": "luspo", "epsilon": 0.2},
            "epsilon=0.2, 0.0025 is not luspo (arXiv 2602.05261)",
            "ratios of whole sequences hardly leave 1 ± 0.2, so nothing would be clipped",
            "leave epsilon out or set 0.002, 0.0025",
        ),
        (
            {"loss_type": "raft++", "zero_variance": "drop"},
            "zero_variance=drop is not raft++ (arXiv 2504.11343, eq. 6)",
            "it learns from all right paths, also where all are right",
            "leave zero_variance out or set keep",
        ),
        (
            {"loss_type": "reinforce-rej", "zero_variance": "keep"},
            "zero_variance=keep is not reinforce-rej (arXiv 2504.11343, eq. 5, section 5)",
            "it leaves out the groups that are all right or all wrong",
            "leave zero_variance out or set drop",
        ),
    ],
)
def test_a_refusal_says_what_came_why_and_what_to_do(
    settings: dict[str, Any], named: str, why: str, instead: str
) -> None:
    with pytest.raises(RecipeError) as refused:
        GrpoRecipe(**settings)
    said = f"loss_type={settings['loss_type']} with {named}: {why}; {instead}, or set published=false to train on this"
    assert str(refused.value) == said + " mixture"


def test_another_mixture_may_be_asked_for_by_name() -> None:
    mixed = GrpoRecipe(loss_type="dr_grpo", scale_rewards="group", published=False)
    assert mixed.loss.scale_rewards == "group"
    token = GrpoRecipe(loss_type="luspo", published=False, trainer={"importance_sampling_level": "token"})
    assert token.loss.level == "token"
    assert GrpoRecipe(loss_type="dr_grpo", normalise="role", scale_rewards="group").loss.scale_rewards == "group"
    assert GrpoRecipe(loss_type="cispo", epsilon_high=1.0).loss.epsilon_high == 1.0  # at most the old weight
    assert GrpoRecipe(loss_type="gspo", epsilon=0.1, epsilon_high=0.1).loss.epsilon == 0.1
    assert GrpoRecipe(loss_type="cispo", epsilon_high=1.2).loss.epsilon_high == 1.2
    assert GrpoRecipe(loss_type="grpo", epsilon=0.1, epsilon_high=0.3).loss.epsilon == 0.1
    assert GrpoRecipe(loss_type="dr_grpo", zero_variance="drop").loss.zero_variance == "drop"


def test_groups_of_equal_rewards_are_computed_where_the_loss_has_more_than_their_advantage() -> None:
    assert GrpoRecipe(loss_type="grpo").loss.zero_variance == "skip"
    assert GrpoRecipe(loss_type="grpo", beta=0.1).loss.zero_variance == "keep"
    assert GrpoRecipe(loss_type="grpo", trainer={"entropy_coef": 0.1}).loss.zero_variance == "keep"
    assert GrpoRecipe(loss_type="dapo", beta=0.1).loss.zero_variance == "drop"
    assert GrpoRecipe(loss_type="grpo", normalise="role").loss.zero_variance == "drop"


def test_the_settings_reach_trl(tmp_path: Path) -> None:
    names = ("loss_type", "scale_rewards", "importance_sampling_level", "epsilon", "epsilon_high", "beta")

    def config(**settings: Any) -> list[Any]:
        found = grpo_config(GrpoRecipe(**settings), tmp_path)
        return [getattr(found, name) for name in names]

    assert config(loss_type="gspo") == ["grpo", "group", "sequence", 3e-4, 4e-4, 0.0]
    assert config(loss_type="dr_grpo", beta=0.1) == ["dr_grpo", "none", "token", 0.2, 0.2, 0.1]
    assert config() == ["dapo", "group", "token", 0.2, 0.28, 0.0]
    assert config(loss_type="cispo")[4] == 5.0
    ppo = grpo_config(PpoRecipe(epsilon=0.1), tmp_path)
    assert (ppo.loss_type, ppo.epsilon, ppo.epsilon_high) == ("dapo", 0.1, 0.1)  # PPO's range is symmetrical


def test_the_resolved_variant_keeps_its_source() -> None:
    chosen = dict.fromkeys(("scale_rewards", "epsilon", "epsilon_high", "zero_variance"))
    for name, variant in VARIANTS.items():
        assert variant_of(name, chosen, {}, "path", 0.0, True) == variant
    assert math.isclose(VARIANTS["cispo"].epsilon_high, 5.0)
