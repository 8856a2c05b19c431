"""Reinforce with PPO: GRPO's program with a value model in the place of groups (method.md, section 3).

    selfcorrect train ppo embedded-ppo model=runs/demo/checkpoints/ift --run runs/demo

The run and its step are those of `rl.program`: rollouts in both formats, rewards by parts, guards, the check of
log-probabilities, resuming, metrics. Here every token has its own advantage, from a value model and GAE, and the KL to
the start model is part of the reward (`rl.ppo_trainer` has the equations). TRL 1.16 has no PPO, and its last one
refused rule-based rewards (TRL#2518); this one takes any `RewardRecipe`.

Differs from the paper's runs: gradients of policy and value model are clipped together by their common norm.
TRL wants at least two trajectories a problem; PPO makes nothing of the group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import RenderableType

from selfcorrect.errors import RecipeError
from selfcorrect.runs.recipes import Settled
from selfcorrect.train.rl import program
from selfcorrect.train.rl.recipe import Critic, RlRecipe
from selfcorrect.train.rl.rollout_function import RolloutFunction
from selfcorrect.train.rl.variants import VARIANTS, Variant

if TYPE_CHECKING:
    from selfcorrect.train.rl.ppo_trainer import PpoTrainer

_OF_GROUPS = {
    "loss_type": "dapo",
    "scale_rewards": None,
    "zero_variance": "keep",
    "published": True,
    "credit": "path",
    "turn_discount": 0.0,
    "normalise": "path",
}
"""Keys of GRPO that recipes of PPO had in version 0.1, and the value that they could have."""


@dataclass(frozen=True, slots=True)
class PpoRecipe(RlRecipe):
    """What PPO adds to `RlRecipe`: the settings of value model and GAE."""

    SETTLED: ClassVar[dict[str, Settled]] = {
        key: Settled(value, f"{key} belongs to GRPO's groups; under PPO it is {value!r}")
        for key, value in _OF_GROUPS.items()
    }

    name: str = "ppo"
    generations: int = 2  # trajectories a problem
    updates: int = 4  # optimizer steps a rollout (mini-batches)
    epsilon: float | None = 0.2  # clip range, lower
    epsilon_high: float | None = None  # clip range, upper; None: the same
    beta: float = 0.01  # weight of the KL to the start model in the reward of each token; 0: no reference model
    critic: Critic = "separate"  # a trunk of its own, copied from the policy, or a head on the policy's trunk
    gamma: float = 1.0  # discount a token
    lam: float = 1.0  # GAE's lambda; below 1 the reward reaches early tokens through the value model alone
    value_clip: float = 0.2  # the value may move so far from the rollout's; inf: not clipped
    value_weight: float = 0.5  # of the value loss in the sum
    value_learning_rate: float = 1e-3  # of the value model
    critic_warmup: int = 0  # optimizer steps in which only the value model learns

    @property
    def loss(self) -> Variant:
        """PPO's clipped surrogate (arXiv 1707.06347, eq. 7), a mean over tokens; every trajectory teaches."""
        epsilon = 0.2 if self.epsilon is None else self.epsilon
        upper = epsilon if self.epsilon_high is None else self.epsilon_high
        return replace(VARIANTS["dapo"], epsilon=epsilon, epsilon_high=upper, zero_variance="keep")

    def __post_init__(self) -> None:
        RlRecipe.__post_init__(self)
        if not 0 <= self.lam <= 1 or not 0 < self.gamma <= 1:
            raise RecipeError("lam is between 0 and 1, gamma above 0 and at most 1")


def run(recipe: PpoRecipe, run_folder: Path) -> dict[str, Any]:
    """Train and return the summary; a finished folder is only read."""
    return program.run("ppo", recipe, run_folder, build_trainer)


def plan(recipe: PpoRecipe, run_folder: Path = Path("runs/default")) -> RenderableType:
    """Return what the training would do."""
    return program.plan(recipe, run_folder, value_model=recipe.critic == "separate")


def build_trainer(recipe: PpoRecipe, rollout_function: RolloutFunction, folder: Path) -> PpoTrainer:
    """Return the trainer on the recipe's model."""
    from selfcorrect.train.rl.grpo_trainer import build
    from selfcorrect.train.rl.ppo_trainer import PpoTrainer

    return build(
        PpoTrainer,
        recipe,
        rollout_function,
        program.step,
        folder,
        critic=recipe.critic,
        gamma=recipe.gamma,
        lam=recipe.lam,
        value_clip=recipe.value_clip,
        value_weight=recipe.value_weight,
        value_learning_rate=recipe.value_learning_rate,
        critic_warmup=recipe.critic_warmup,
    )
