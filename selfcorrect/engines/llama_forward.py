"""A leaner forward pass for models of the Llama shape in float32: the same logits, fewer and cheaper operations.

For a model of a few million parameters on a CPU the library's forward is half bookkeeping: the root mean square
alone (``pow``, ``mean``, ``rsqrt``, two products) takes as long as attention, and masks are rebuilt in every layer.
Here norms are one call, the mask is made once, small attention is two plain products (on a CPU a tenth to a quarter
faster than the fused kernel), and a prefill's last layer computes one column. Linear layers are called as modules, so
live weights and adapters are used. `applies_to` is strict; every other model goes through its own forward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM

PLAIN_SCORES = 256 * 256
"""Up to so many scores of a head, attention is computed as two products instead of by the fused kernel."""


def applies_to(model: PreTrainedModel) -> bool:
    """True for an unwrapped float32 Llama or Qwen2 whose layers all attend to everything before them."""
    return (
        type(model) in (LlamaForCausalLM, Qwen2ForCausalLM)
        and model.dtype == torch.float32
        and "sliding_attention" not in (getattr(model.config, "layer_types", None) or ())
        and not (model._forward_hooks or model._forward_pre_hooks or "forward" in model.__dict__)
    )


def last_logits(model: Any, ids_BT: Tensor, positions_BT: Tensor, mask_BW: Tensor | None, cache: Cache) -> Tensor:
    """Return the logits after the last column, (B, V), and add the columns' keys and values to the cache.

    ``mask_BW`` is true where a row may be attended to, over the W columns cached after this call; None: everywhere.
    T is 1 when decoding; a prefill starts with an empty cache, so T = W.
    """
    hidden_BTE = model.model.embed_tokens(ids_BT)
    rows, length = ids_BT.shape
    cos_BTD, sin_BTD = model.model.rotary_emb(hidden_BTE, positions_BT)
    half = cos_BTD.shape[-1] // 2
    cos, sin = cos_BTD[:, :, None], torch.cat([-sin_BTD[..., :half], sin_BTD[..., half:]], -1)[:, :, None]
    bias = _bias(mask_BW, length, hidden_BTE.dtype, hidden_BTE.device)
    scale = model.model.layers[0].self_attn.scaling  # Into the query's rotation, where it costs nothing.
    query_cos, query_sin = cos * scale, sin * scale
    last = len(model.model.layers) - 1
    for index, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        normed = _norm(hidden_BTE, layer.input_layernorm)
        heads = (rows, length, -1, attention.head_dim)
        query = _rotate(attention.q_proj(normed).view(heads), query_cos, query_sin, half)
        key = _rotate(attention.k_proj(normed).view(heads), cos, sin, half)
        value = attention.v_proj(normed).view(heads)
        keys, values = cache.update(key.transpose(1, 2), value.transpose(1, 2), index)
        if index == last and length > 1:
            # Only the last column's output is asked for: the others are done once their keys are cached.
            query, hidden_BTE, length = query[:, -1:], hidden_BTE[:, -1:], 1
            bias = None if bias is None else bias[:, :, -1:]
        hidden_BTE = hidden_BTE + attention.o_proj(_attend(query, keys, values, bias))
        normed = _norm(hidden_BTE, layer.post_attention_layernorm)
        hidden_BTE = hidden_BTE + mlp.down_proj(mlp.act_fn(mlp.gate_proj(normed)).mul_(mlp.up_proj(normed)))
    logits_BV: Tensor = model.lm_head(_norm(hidden_BTE[:, -1], model.model.norm))
    return logits_BV


def _norm(x: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _rotate(x_BTHD: Tensor, cos: Tensor, sin: Tensor, half: int) -> Tensor:
    """Apply rotary positions; ``sin`` carries the sign of the half that changes place."""
    return (x_BTHD * cos).addcmul_(x_BTHD.roll(half, -1), sin)


def _attend(query_BTHD: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Return the mixed values (B, T, H·D) of scaled queries; keys and values are (B, key heads, W, D)."""
    rows, length, heads, size = query_BTHD.shape
    key_heads, width = keys.shape[1:3]
    if length == 1 and query_BTHD.device.type == "cpu":
        query = query_BTHD.view(rows, key_heads, heads // key_heads, size)  # Heads that share keys become rows.
    elif heads == key_heads and length * width <= PLAIN_SCORES and bias is not None:
        query = query_BTHD.transpose(1, 2)
    else:
        mixed = F.scaled_dot_product_attention(
            query_BTHD.transpose(1, 2),
            keys,
            values,
            attn_mask=bias,
            is_causal=bias is None and length > 1,
            scale=1.0,
            enable_gqa=heads > key_heads,
        )
        return mixed.transpose(1, 2).reshape(rows, length, -1)
    scores = torch.matmul(query, keys.transpose(2, 3))
    if bias is not None:
        scores.add_(bias)
    mixed = torch.matmul(scores.softmax(-1), values)
    return (mixed if length == 1 else mixed.transpose(1, 2)).reshape(rows, length, -1)


def _bias(mask_BW: Tensor | None, length: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Return what is added to attention scores, (B or 1, 1, T, W); None where nothing is masked.

    A long prefill without padding also gets None: the fused kernel knows the future is masked.
    """
    allowed = None if mask_BW is None else mask_BW.bool()[:, None, None]
    if length > 1 and (allowed is not None or length * length <= PLAIN_SCORES):
        past = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
        allowed = past if allowed is None else allowed & past
    if allowed is None:
        return None
    # The lowest finite number, not -inf: a padding column's own query has nothing to attend to.
    return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill_(~allowed, torch.finfo(dtype).min)
