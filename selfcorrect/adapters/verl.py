"""verl: the advantage estimator ``selfcorrect_turns``, and the grader as its custom reward function (docs/doors.md).

    VERL_USE_EXTERNAL_MODULES=selfcorrect.adapters.verl python -m verl.trainer.main_ppo \\
        algorithm.adv_estimator=selfcorrect_turns algorithm.norm_adv_by_std_in_grpo=False ...

The reward function is `selfcorrect.grading.reward_functions.compute_score`, which needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import register_adv_est

from selfcorrect.errors import InputError
from selfcorrect.train.rl.advantages import role_advantages


@register_adv_est("selfcorrect_turns")
def turn_advantages(
    token_level_rewards: Tensor, response_mask: Tensor, index: Sequence[Any] | None = None, config: Any = None, **_: Any
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, (B, T) each: one number a turn, minus the mean of that turn in the OTHER rows.

    A turn is a run of tokens under ``response_mask``: a message of the policy. Its return is the reward on its tokens
    and those up to the next turn, plus ``config.gamma`` times the return of the turn after it. The rows of a group have
    the same ``index`` (verl's ``uid``) and any order; turns are compared with turns of the same number, in the group
    or, where no other row of it came so far, in the batch (`role_advantages`; ``norm_adv_by_std_in_grpo`` scales them).
    With one message a row this is RLOO.
    """
    if index is None:
        raise InputError("selfcorrect_turns compares the rows of a group, and these have no uid")
    gamma = 1.0 if config is None else float(config.get("gamma", 1.0))
    scaled = config is not None and bool(config.get("norm_adv_by_std_in_grpo", True))
    learned_BT = response_mask.bool()
    begins_BT = learned_BT & ~torch.nn.functional.pad(learned_BT, (1, 0))[:, :-1]
    turn_BT = begins_BT.cumsum(1)  # 1 for the first turn and what follows it, up to the second; 0 before it
    turns = int(turn_BT.max()) if turn_BT.numel() else 0
    earned_BK = token_level_rewards.new_zeros(len(turn_BT), turns + 1).scatter_add(1, turn_BT, token_level_rewards)
    for turn in range(turns - 1, 0, -1):
        earned_BK[:, turn] += gamma * earned_BK[:, turn + 1]
    number_BK = torch.arange(turns + 1, device=turn_BT.device).expand(len(turn_BT), -1)
    there_BK = (number_BK > 0) & (number_BK <= turn_BT.amax(1, keepdim=True))
    row_B, generations = _grouped(index)
    row_BK = torch.tensor(row_B, device=turn_BT.device)[:, None].expand_as(number_BK)
    advantages_BK = torch.zeros_like(earned_BK)
    advantages_BK[there_BK] = role_advantages(
        earned_BK[there_BK], row_BK[there_BK], number_BK[there_BK], generations, scaled
    )
    return tuple(values.gather(1, turn_BT) * learned_BT for values in (advantages_BK, earned_BK * there_BK))  # type: ignore[return-value]


def _grouped(index: Sequence[Any]) -> tuple[list[int], int]:
    """Return a number for each row such that the rows of a group share ``number // size``, and that size."""
    members: dict[Any, list[int]] = {}
    for row, group in enumerate(index):
        members.setdefault(group, []).append(row)
    size = max(map(len, members.values()), default=1)
    numbers = [0] * len(index)
    for group, rows in enumerate(members.values()):
        for place, row in enumerate(rows):
            numbers[row] = group * size + place
    return numbers, size
