"""Truncated importance sampling between the sampler and the policy that learns (``off_policy: 1``).

A trajectory that was sampled by weights of before is no sample of the policy as it is now. Each of its tokens is
weighed by min(pi / pi_sampler, cap), without gradient: pi is the policy before the update. TRL's loss multiplies it
with the loss of the token (as for vLLM, ``vllm_importance_sampling_mode: token_truncate``). So the clip range of the
method bounds what happens within the update, and this weight corrects for what happened before it. The cap bounds the
variance, at the price of a bias (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
training"; the two ratios apart are the decoupled objective of AReaL, arXiv 2505.24298).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from selfcorrect.errors import GuardError


def importance_weights(policy_BT: Tensor, sampler_BT: Tensor, mask_BT: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Return each token's weight, 1 outside the mask, and the log-ratio that it was made of, 0 outside.

    Raises GuardError where the sampler told no finite log-probability of a token under the mask.
    """
    log_ratio_BT = (policy_BT.float() - sampler_BT.float()).masked_fill(mask_BT == 0, 0.0)
    if unknown := int((~log_ratio_BT.isfinite()).sum()):
        raise GuardError(
            f"importance sampling needs the sampler's log-probability of every token: that of {unknown} of "
            f"{int(mask_BT.sum())} tokens is not finite, or the policy's is not"
        )
    return log_ratio_BT.exp().clamp(max=cap), log_ratio_BT


def weigh_by_importance(trainer: Any, micro_batches: Sequence[dict[str, Any]], cap: float) -> dict[str, float | None]:
    """Add to each micro-batch the weights of its tokens, and return what was found over all processes.

    ``importance_weight`` is their mean, ``importance_clipped`` the percentage that the cap cut, and ``off_policy_gap``
    the mean of abs(log pi - log pi_sampler): how far, in nats a token, the policy has moved since it was sampled. They
    are None where nothing is learned.
    """
    sums = torch.zeros(4, device=trainer.accelerator.device)
    for micro in micro_batches:
        if "completion_ids" not in micro:
            continue
        mask_BT = micro["completion_mask"] * micro.get("tool_mask", 1)
        before_BT = micro.get("old_per_token_logps")
        if before_BT is None:
            before_BT = policy_log_probs(trainer, micro)
        weights_BT, log_ratio_BT = importance_weights(before_BT, micro["sampling_per_token_logps"], mask_BT, cap)
        micro["importance_sampling_ratio"] = weights_BT
        clipped_BT = log_ratio_BT.exp() > cap
        found = ((weights_BT * mask_BT).sum(), clipped_BT.sum(), log_ratio_BT.abs().sum(), mask_BT.sum())
        sums += torch.stack([value.float() for value in found])
    weight, clipped, gap, tokens = trainer._sum_over_processes(sums).tolist()
    sums_by_name = {"importance_weight": weight, "importance_clipped": 100 * clipped, "off_policy_gap": gap}
    return {name: value / tokens if tokens else None for name, value in sums_by_name.items()}


def policy_log_probs(trainer: Any, rows: dict[str, Tensor]) -> Tensor:
    """Return the policy's log-probabilities of the completions as its weights are now, without gradient: (B, T)."""
    ids = torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1)
    mask = torch.cat([rows["prompt_mask"], rows["completion_mask"]], dim=1)
    with torch.no_grad():
        log_probs: Tensor = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, rows["completion_ids"].size(1)
        )[0]
    return log_probs
