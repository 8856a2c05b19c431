"""A batch as one row without padding, for attention that knows where each row begins (flash attention).

`rl.grpo_trainer` runs updates through it where the model's attention is flash attention, and transformers and TRL do
the rest: from positions that begin again attention knows the rows, and TRL's fused head scores labels alone. Without
flash attention a mask of (tokens x tokens) would be made, so other models get rows of like length, padded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids


def packed(ids_BT: Tensor, mask_BT: Tensor, labels_BT: Tensor) -> dict[str, Any]:
    """Return a causal model's inputs and labels: the real tokens of all rows, one row after the other, (1, N).

    Row boundaries are there twice: as positions, and as flash attention's cumulative lengths. No row's first token is
    a label, because what stands before it is another row.
    """
    real_BT = mask_BT.bool()
    positions_N = (mask_BT.cumsum(1) - 1)[real_BT]
    (starts_q, starts_k), (longest_q, longest_k) = prepare_fa_kwargs_from_position_ids(positions_N)
    return {
        "input_ids": ids_BT[real_BT][None],
        "position_ids": positions_N[None],
        "labels": labels_BT[real_BT].masked_fill(positions_N == 0, -100)[None],
        "cu_seq_lens_q": starts_q,
        "cu_seq_lens_k": starts_k,
        "max_length_q": int(longest_q),
        "max_length_k": int(longest_k),
    }


def unpacked(found_1N: Tensor, mask_BT: Tensor) -> Tensor:
    """Return what TRL's fused head found for each label of a packed row in the places of the batch, else zero."""
    with_first_N = torch.cat([found_1N.new_zeros(1), found_1N[0]])  # it has nothing for the first token of all
    return found_1N.new_zeros(mask_BT.shape).masked_scatter(mask_BT.bool(), with_first_N)
