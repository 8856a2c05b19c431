"""Advantages: rewards of sampled paths in, the weight of each log-probability out. Pure functions on tensors.

Shapes: N paths in groups of consecutive ``generations``; P parts of paths (attempt, self-evaluation, revision, ...);
B rows of T tokens. A path without a reward (the grader failed) is NaN: it enters no mean, and its advantage is 0.

Which of these estimators are unbiased is not argued here but computed, by enumeration, in `rl.toy_mdp`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Rule = Literal["group", "leave-one-out", "positive", "signed"]
Scale = Literal["group", "batch", "none"]

EPSILON = 1e-4
"""Added to standard deviations, as in TRL."""


def trajectory_advantages(rewards_N: Tensor, generations: int, rule: Rule = "group", scale: Scale = "group") -> Tensor:
    """Return one advantage a path, (N,).

    - ``group``: minus the group's mean, over its sample deviation ("batch": over the batch's, "none": over nothing):
      GRPO (arXiv 2402.03300, section 4.1.1), Dr. GRPO without the division (2503.20783);
    - ``leave-one-out``: minus the mean of the OTHER paths of the group: RLOO (2402.14740, section 3.3);
    - ``positive``: 1 for a group's best paths if they earn anything, else 0: RAFT++ (2504.11343, eq. 6);
    - ``signed``: 2r - 1 for rewards in [0, 1]: token-level Reinforce with rewards of ±1 (2504.11343, eq. 5), of which
      Reinforce-Rej (section 5) is the form that drops groups without variance, all right or all wrong. In print its
      ratio is clipped before it meets the reward; its code clips as PPO does, and so does TRL. On-policy they agree.
    """
    groups = rewards_N.view(-1, generations)
    known = ~groups.isnan()
    if rule == "positive":
        best = groups.nan_to_num(-torch.inf).amax(1, keepdim=True)
        return ((groups == best) & (groups > 0)).to(rewards_N.dtype).flatten()
    if rule == "signed":
        return (2 * rewards_N - 1).nan_to_num(0.0)
    centred = groups - groups.nanmean(1, keepdim=True)
    if rule == "leave-one-out":
        count = known.sum(1, keepdim=True).to(groups.dtype)
        return (centred * count / (count - 1).clamp(min=1)).nan_to_num(0.0).flatten()
    if scale == "group":
        centred = centred / (_deviation(groups) + EPSILON)
    elif scale == "batch":
        centred = centred / (_deviation(groups.view(1, -1)) + EPSILON)
    return centred.nan_to_num(0.0).flatten()


def _deviation(values_GN: Tensor) -> Tensor:
    """Return the sample standard deviation of each row, NaN left out, (G, 1)."""
    known = (~values_GN.isnan()).sum(1, keepdim=True)
    squares = torch.nanmean((values_GN - values_GN.nanmean(1, keepdim=True)) ** 2, dim=1, keepdim=True)
    return (squares * known / (known - 1)).sqrt()


def returns_to_go(rewards: Sequence[float], discount: float) -> list[float]:
    """Return for each part its reward plus the discounted rewards of the parts after it, by turns.

    ``discount`` 0 gives turn-independent returns: each part answers for itself alone (PAG, arXiv 2506.10406).
    """
    returns: list[float] = []
    following = 0.0
    for reward in reversed(rewards):
        following = reward + discount * following
        returns.append(following)
    return returns[::-1]


def role_advantages(
    returns_P: Tensor,
    path_P: Tensor,
    role_P: Tensor,
    generations: int,
    scaled: bool,
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Tensor:
    """Return one advantage a part, centred (and ``scaled``) within its role, (P,).

    The baseline of a part is the mean return of its role over the OTHER paths of the group; where none of them has
    that role, over the other paths of the batch; where none at all, 0. It never depends on what its own path did,
    so it adds no bias, also where the policy decides whether there is a further turn (verl#7244). ``scaled`` divides
    by the root mean square of the role's advantages in the whole batch (``reduce`` sums over processes).
    """
    same_role = role_P[:, None] == role_P[None]
    other_path = path_P[:, None] != path_P[None]
    same_group = (path_P // generations)[:, None] == (path_P // generations)[None]
    in_batch = (same_role & other_path).to(returns_P.dtype)
    in_group = in_batch * same_group
    mates = torch.where(in_group.sum(1, keepdim=True) > 0, in_group, in_batch)
    advantages_P = returns_P - (mates @ returns_P) / mates.sum(1).clamp(min=1)
    if scaled:
        for role in range(int(role_P.max()) + 1 if len(role_P) else 0):
            of_role = role_P == role
            sums = torch.stack([(advantages_P[of_role] ** 2).sum(), of_role.sum().to(advantages_P.dtype)])
            squares, count = reduce(sums)
            advantages_P[of_role] /= (squares / count.clamp(min=1)).sqrt() + EPSILON
    return advantages_P


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Return advantages and value targets of the tokens with mask 1; 0 elsewhere: (B, T) twice.

    A_t = sum_l (γλ)^l δ_{t+l} with δ_t = r_t + γ V_{t+1} - V_t (Schulman et al., arXiv 1506.02438, eq. 11, 12, 16),
    targets A_t + V_t. "Next" is the next token with mask 1: tokens of a user between two turns are part of the state,
    not steps. After the last one the value is 0. A reward on a masked token is an error of the caller and is ignored.
    """
    advantages_BT = torch.zeros_like(rewards_BT)
    next_value_B = torch.zeros_like(rewards_BT[:, 0])
    following_B = torch.zeros_like(next_value_B)
    for t in reversed(range(rewards_BT.shape[1])):
        step_B = mask_BT[:, t].bool()
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        following_B = torch.where(step_B, delta_B + gamma * lam * following_B, following_B)
        next_value_B = torch.where(step_B, values_BT[:, t], next_value_B)
        advantages_BT[:, t] = torch.where(step_B, following_B, 0.0)
    return advantages_BT, (advantages_BT + values_BT) * mask_BT


def whiten(values_BT: Tensor, mask_BT: Tensor, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> Tensor:
    """Return values of mean 0 and deviation 1 over the mask in the whole batch, 0 elsewhere.

    Whitening as in "The N Implementation Details of RLHF with PPO" (Huang, Liu, von Werra, 2023).
    """
    mask = mask_BT.to(values_BT.dtype)
    total, count = reduce(torch.stack([(values_BT * mask).sum(), mask.sum()]))
    mean = total / count.clamp(min=1)
    squares = reduce(((values_BT - mean) ** 2 * mask).sum()[None])[0]
    return (values_BT - mean) / (squares / count.clamp(min=1) + 1e-8).sqrt() * mask
