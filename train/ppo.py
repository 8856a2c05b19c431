"""Reinforce with PPO: GRPO's program with a value model in the place of the group (METHOD section 3, tables 3 and 4).

    selfcorrect train ppo embedded-ppo model=runs/demo/checkpoints/ift --run runs/demo

Everything of `train.grpo` holds: rollouts in both formats, rewards by parts, guards, canary, resuming, metrics. Here
every token has its own advantage, from a value model and GAE, and the KL to the start model is part of the reward
(`train.rl.ppo_trainer` has the equations). TRL 1.16 has no PPO, and its last one refused rule-based rewards (TRL#2518);
this one takes any `RewardRecipe`.

Differs from the paper's runs: gradients of policy and value model are clipped together by their common norm.
TRL wants at least two paths a problem; PPO makes nothing of the group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from selfcorrect.errors import RecipeError
from selfcorrect.train import grpo
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.rl.ppo_trainer import Critic, PpoTrainer
from selfcorrect.train.rl.rollout_function import Rollouts
from selfcorrect.train.rl.variants import VARIANTS, Variant, ZeroVariance


@dataclass(frozen=True, slots=True)
class PpoRecipe(GrpoRecipe):
    """`GrpoRecipe` without what groups are for, and the settings of value model and GAE."""

    name: str = "ppo"
    generations: int = 2  # paths a problem
    updates: int = 4  # optimizer steps a rollout (mini-batches)
    zero_variance: ZeroVariance | None = "keep"  # every path teaches
    epsilon: float | None = 0.2  # clip range, lower
    epsilon_high: float | None = None  # clip range, upper; None: the same
    beta: float = 0.01  # weight of the KL to the start model in the reward of each token; 0: no reference model
    critic: Critic = "separate"  # a trunk of its own, copied from the policy, or a head on the policy's trunk
    gamma: float = 1.0  # discount a token
    lam: float = 1.0  # GAE's lambda; below 1 the reward reaches early tokens through the value model alone
    value_clip: float = 0.2  # the value may move so far from the rollout's; inf: not clipped
    value_weight: float = 0.5  # of the value loss in the sum
    value_learning_rate: float = 1e-3
    critic_warmup: int = 0  # optimizer steps in which only the value model learns

    @property
    def loss(self) -> Variant:
        """PPO's clipped surrogate (arXiv 1707.06347, eq. 7), a mean over tokens."""
        epsilon = 0.2 if self.epsilon is None else self.epsilon
        upper = epsilon if self.epsilon_high is None else self.epsilon_high
        return replace(VARIANTS["dapo"], epsilon=epsilon, epsilon_high=upper, zero_variance="keep")

    def __post_init__(self) -> None:
        GrpoRecipe.__post_init__(self)
        fixed = {"loss_type": "dapo", "credit": "path", "normalise": "path", "zero_variance": "keep"}
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise RecipeError(f"{name} belongs to GRPO's groups; under PPO it is {value!r}")
        if not 0 <= self.lam <= 1 or not 0 < self.gamma <= 1:
            raise RecipeError("lam is between 0 and 1, gamma above 0 and at most 1")


def run(recipe: PpoRecipe, run_folder: Path) -> dict[str, Any]:
    """Train and return the summary; a finished folder is only read."""
    return grpo.run(recipe, run_folder, build_trainer)


def plan(recipe: PpoRecipe, run_folder: Path = Path("runs/default")) -> RenderableType:
    """Return what the training would do."""
    return grpo.plan(recipe, run_folder)


def build_trainer(recipe: PpoRecipe, rollouts: Rollouts, folder: Path) -> PpoTrainer:
    """Return the trainer on the recipe's model."""
    names = ("critic", "gamma", "lam", "value_clip", "value_weight", "value_learning_rate", "critic_warmup")
    trainer = grpo.build_trainer(
        recipe, rollouts, folder, PpoTrainer, **{name: getattr(recipe, name) for name in names}
    )
    assert isinstance(trainer, PpoTrainer)
    return trainer
