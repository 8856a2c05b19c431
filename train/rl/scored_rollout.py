"""A scored rollout: trajectories with their rewards, what of them is in the loss, and how it is weighed.

`score` is called by `RolloutFunction`, `weigh` by the trainer of GRPO; PPO weighs by its value model. A reward of None
(the grader failed, or the trajectory was dropped) is in no mean, no advantage, no loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from selfcorrect.rewards import reward_parts, total, turn_rewards
from selfcorrect.train.rl.advantages import returns_to_go, role_advantages, trajectory_advantages
from selfcorrect.train.rl.recipe import RlRecipe
from selfcorrect.train.rl.rollouts import Rollout
from selfcorrect.types import Role, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

    from selfcorrect.train.rl.logprob_gap import Gap

_ROLES = (Role.ATTEMPT, Role.EVALUATION, Role.REVISION)


@dataclass(frozen=True, slots=True)
class ScoredRollout:
    """The rollouts of one process for one step, in groups of consecutive ``generations``, and what each earned.

    ``returns`` has one number for each part of each rollout (attempt, self-evaluation, revision). ``outcomes`` decide
    whether a group has variance: the reward, or under turn credit the returns of all parts; None where nothing is
    learned. ``reward_parts`` are the parts of each reward (`selfcorrect.rewards`). ``trajectories`` are those of all
    processes, and ``figures`` what was measured on them: a row of ``metrics.jsonl``. ``staleness`` and ``gap`` are
    the `SampledRollout`'s.
    """

    rollouts: tuple[Rollout, ...]
    rewards: tuple[float | None, ...]
    returns: tuple[tuple[float | None, ...], ...]
    outcomes: tuple[Hashable | None, ...]
    loss_masks: tuple[tuple[int, ...], ...]
    reward_parts: tuple[dict[str, float | None], ...] = ()
    trajectories: tuple[Trajectory, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    staleness: int = 0
    gap: Gap | None = None

    def columns(self) -> dict[str, Any]:
        """Return what TRL takes from a rollout function: prompts, completions, log-probs, loss masks, rewards."""
        return {
            "prompt_ids": [list(rollout.prompt_ids) for rollout in self.rollouts],
            "completion_ids": [list(rollout.completion_ids) for rollout in self.rollouts],
            "logprobs": [list(rollout.logprobs) for rollout in self.rollouts],
            "env_mask": [list(mask) for mask in self.loss_masks],
            "final_reward": list(self.rewards),
        }


def score(rollouts: Sequence[Rollout], recipe: RlRecipe) -> ScoredRollout:
    """Return graded rollouts with their rewards, by the recipe's ``reward``, ``credit`` and ``overlong``."""
    parts = [reward_parts(rollout.trajectory, recipe.reward, recipe.sampling.budget) for rollout in rollouts]
    dropped = [recipe.overlong == "drop" and rollout.trajectory.stop == "length" for rollout in rollouts]
    rewards = [None if gone else total(values, recipe.reward) for gone, values in zip(dropped, parts, strict=True)]
    returns = [
        _returns(rollout, reward, gone, recipe)
        for rollout, reward, gone in zip(rollouts, rewards, dropped, strict=True)
    ]
    masks = [_loss_mask(rollout, values, recipe) for rollout, values in zip(rollouts, returns, strict=True)]
    by_turn = recipe.credit_rule.credit == "turn"
    return ScoredRollout(
        rollouts=tuple(rollouts),
        rewards=tuple(rewards),
        returns=tuple(returns),
        outcomes=tuple(None if _all_unknown(values) else values for values in returns) if by_turn else tuple(rewards),
        loss_masks=tuple(masks),
        reward_parts=tuple(parts),
    )


def _returns(rollout: Rollout, reward: float | None, dropped: bool, recipe: RlRecipe) -> tuple[float | None, ...]:
    """Return what each part of a trajectory earns; None for a part that leaves the update."""
    if dropped or recipe.credit_rule.credit == "path":
        return (None if dropped else reward,) * len(rollout.parts)
    own = turn_rewards(rollout.trajectory, recipe.reward, recipe.sampling.budget)
    return tuple(known_returns([value for _, value in own], recipe.credit_rule.discount))


def known_returns(rewards: Sequence[float | None], discount: float) -> list[float | None]:
    """Return `returns_to_go` of a trajectory's parts; None where the reward of the part, or of one after it, is None.

    With ``discount`` 0 a part earns its own reward alone, so an ungradable attempt takes nothing from its revision.
    """
    if not discount:
        return list(rewards)
    unknown = [place for place, reward in enumerate(rewards) if reward is None]
    first = unknown[-1] + 1 if unknown else 0
    following = [reward for reward in rewards[first:] if reward is not None]
    return [None] * first + list(returns_to_go(following, discount))


def _all_unknown(values: Sequence[float | None]) -> bool:
    return all(value is None for value in values)


def _loss_mask(rollout: Rollout, returns: Sequence[float | None], recipe: RlRecipe) -> tuple[int, ...]:
    """Return 1 for the tokens that are in the loss: those of the policy that are part of what was rewarded."""
    if recipe.overlong == "mask" and rollout.trajectory.stop == "length":
        return (0,) * len(rollout.learned)
    mask = list(rollout.learned)
    for part, value in zip(rollout.parts, returns, strict=True):
        if value is None:
            mask[part.start : part.end] = [0] * (part.end - part.start)
    return tuple(mask)


def weigh(
    scored: ScoredRollout, recipe: RlRecipe, columns: int, reduce: Callable[[Tensor], Tensor] = lambda sums: sums
) -> Tensor | None:
    """Return the advantages of GRPO's relatives: (B,), or by role (B, columns); None where TRL's own are meant.

    ``reduce`` sums over processes.
    """
    import torch

    loss, rule = recipe.loss, recipe.credit_rule
    if rule.normalise == "path":
        rewards = torch.tensor([math.nan if reward is None else reward for reward in scored.rewards])
        return None if loss.rule == "group" else trajectory_advantages(rewards, recipe.generations, loss.rule)
    known = [
        (row, part, value)
        for row, (rollout, values) in enumerate(zip(scored.rollouts, scored.returns, strict=True))
        for part, value in zip(rollout.parts, values, strict=True)
        if value is not None
    ]
    values_P = role_advantages(
        torch.tensor([value for _, _, value in known]),
        torch.tensor([row for row, _, _ in known], dtype=torch.long),
        torch.tensor([_ROLES.index(part.role) for _, part, _ in known], dtype=torch.long),
        recipe.generations,
        loss.scale_rewards != "none",
        reduce,
    )
    advantages_BT = torch.zeros(len(scored.rollouts), columns)
    for (row, part, _), value in zip(known, values_P, strict=True):
        advantages_BT[row, part.start : part.end] = value
    return advantages_BT
