"""Reinforce the correctness of the last answer with GRPO, rolling out on the live weights (method.md, section 3).

    selfcorrect train grpo embedded-grpo model=runs/demo/checkpoints/ift --run runs/demo

Reads problems and a fine-tuned model; writes ``<run>/checkpoints/<name>/``: a complete model folder with
``metrics.jsonl``, one row a step (rates in percent, measured on the rollout, so on the weights BEFORE the step).
One completion is a whole trajectory: attempt, self-evaluation, revision, in long-CoT or as a two-turn chat whose user
tokens are never learned (`rl.rollouts`). The reward is a weighted sum of parts (`selfcorrect.rewards`), by default the
correctness of the last attempt: 1, 0, or None where the grader failed. Tokens after the loop's stop decision can change
nothing and are not in the loss. Credit goes to the whole trajectory, or to each turn for itself (``credit: turn``).

`rl.program` has the run and its step. Differs from the textbook: groups without variance are left out by exact equality
(``zero_variance``), samples without a reward leave the update, the sampler's log-probabilities are checked against the
trainer's at every step, and guards watch for the ways in which self-correction dies. Sampling is untruncated, at
temperature 1: what is optimised is what is sampled. Differs from the paper: no critic (the paper's PPO has one).
Re-running resumes from the last checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import RenderableType

from selfcorrect.errors import RecipeError
from selfcorrect.train.rl import program
from selfcorrect.train.rl.recipe import CreditRule, RlRecipe
from selfcorrect.train.rl.rollout_function import RolloutFunction
from selfcorrect.train.rl.variants import SETTINGS, Variant, ZeroVariance, variant_of

if TYPE_CHECKING:
    from selfcorrect.train.rl.grpo_trainer import TrajectoryTrainer


@dataclass(frozen=True, slots=True)
class GrpoRecipe(RlRecipe):
    """What GRPO adds to `RlRecipe`: the loss, what is done with groups, and who earns the reward."""

    name: str = "grpo"
    loss_type: str = "dapo"  # a method of selfcorrect.train.rl.variants; what is None below is as its paper has it
    scale_rewards: Literal["group", "batch", "none"] | None = None  # what advantages are divided by
    zero_variance: ZeroVariance | None = None  # groups of equal rewards, see selfcorrect.train.rl.grpo_trainer
    published: bool = True  # refuse settings that make loss_type another method; false: mix freely
    credit: Literal["path", "turn"] = "path"  # who earns it: the whole trajectory, or each part its own
    turn_discount: float = 0.0  # credit turn: what a part has of the parts after it; 0: turn-independent (PAG)
    normalise: Literal["path", "role"] = "path"  # advantages centred and scaled by trajectory, or within each role

    @property
    def loss(self) -> Variant:
        """The loss with every setting filled in. Raises RecipeError where it is not what its name says."""
        chosen = {name: getattr(self, name) for name in SETTINGS}
        return variant_of(self.loss_type, chosen, self.trainer, self.normalise, self.beta, self.published)

    @property
    def credit_rule(self) -> CreditRule:
        """Who earns the reward."""
        return CreditRule(self.credit, self.turn_discount, self.normalise)

    def __post_init__(self) -> None:
        if self.credit == "turn" and self.normalise == "path":
            raise RecipeError("credit=turn needs normalise=role: parts of different roles earn different rewards")
        RlRecipe.__post_init__(self)


def run(recipe: GrpoRecipe, run_folder: Path) -> dict[str, Any]:
    """Train and return the summary; a finished folder is only read."""
    return program.run("grpo", recipe, run_folder, build_trainer)


def plan(recipe: GrpoRecipe, run_folder: Path = Path("runs/default")) -> RenderableType:
    """Return what the training would do: resolved recipe, memory, steps, samples, tokens, first prompt."""
    return program.plan(recipe, run_folder)


def build_trainer(recipe: GrpoRecipe, rollout_function: RolloutFunction, folder: Path) -> TrajectoryTrainer:
    """Return the trainer on the recipe's model."""
    from selfcorrect.train.rl.grpo_trainer import TrajectoryTrainer, build

    return build(TrajectoryTrainer, recipe, rollout_function, program.step, folder)
