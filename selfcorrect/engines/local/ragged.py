"""`RaggedRunner`: forward passes over rows of different lengths without padding, for small models on a CPU.

One pass takes one token of every live row and all tokens of the prompts that enter, in one ragged list: linear layers
see N tokens at once, attention (`kernels`) follows each token's own past. So prompts enter at any step at no fixed
cost, nothing is padded or masked, and a row that leaves frees its slot. What a slot holds stays usable until the slot
is needed: a prompt that continues an earlier prompt or sample (self-evaluation, revision, a second sample) starts
from its keys and values. Linear layers are called as modules, so live weights and adapters are used.

`applies_to` is strict: float32 Llama and Qwen2 on a CPU. Every other model goes through `padded.PaddedRunner`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from selfcorrect.engines.local.row import Row

BLOCK_TOKENS = 16
"""Shared beginnings shorter than this are computed again."""


def applies_to(model: PreTrainedModel) -> bool:
    """True for an unwrapped float32 Llama or Qwen2 on a CPU whose layers all attend to everything before them."""
    config = model.config
    return (
        type(model) in (LlamaForCausalLM, Qwen2ForCausalLM)
        and model.device.type == "cpu"
        and model.dtype == torch.float32
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] in ("default", "linear", "llama3", "yarn")  # no others: see `_grow`
        and "sliding_attention" not in (getattr(config, "layer_types", None) or ())
        and not (model._forward_hooks or model._forward_pre_hooks or "forward" in model.__dict__)
    )


class RaggedRunner:
    """The slots of the live rows, what finished rows left behind, and the forward pass."""

    prefill_tokens = 512  # Prompt tokens of one pass: few enough that activations stay in a core's cache.
    mixes = True  # Prompts enter in the same pass as the live rows' tokens.

    def __init__(self, model: PreTrainedModel, max_cached_tokens: int) -> None:
        self.model: Any = model
        self._max_cached_tokens = max_cached_tokens
        config = model.config
        self._heads: int = config.num_key_value_heads
        self._head_size: int = model.model.layers[0].self_attn.head_dim
        self._layers: int = config.num_hidden_layers
        self._prefixes = PrefixIndex()
        self._keys = self._values = np.empty((self._layers, 0, self._heads, 0, self._head_size), np.float32)
        self._cos_CD = self._sin_CD = np.empty((0, self._head_size), np.float32)  # rotary positions by column

    @staticmethod
    def cached_tokens(lengths: Sequence[int]) -> int:
        """Return how many tokens' keys and values rows of these lengths hold."""
        return sum(lengths)

    def forward(self, live: list[Row], new: list[Row]) -> Tensor:
        """Return the logits after the last token of each live and each new row, (B, V), in that order."""
        ids = [row.token_ids[-1] for row in live]
        slots = [row.slot for row in live]
        positions = [row.length - 1 for row in live]
        bounds = list(range(len(live) + 1))
        last = list(range(len(live)))
        leaders: dict[tuple[int, ...], tuple[int, int]] = {}  # distinct sequence -> its slot, its last token's index
        copies: list[tuple[int, int, int]] = []
        for row in new:
            tokens = row.request.prompt_ids + tuple(row.token_ids)
            row.slot, known = self._open(tokens)
            if tokens in leaders:
                copies.append((leaders[tokens][0], row.slot, len(tokens)))
            else:
                ids += tokens[known:]
                slots += [row.slot] * (len(tokens) - known)
                positions += range(known, len(tokens))
                bounds.append(len(ids))
                leaders[tokens] = row.slot, len(ids) - 1
            last.append(leaders[tokens][1])
        self._reserve(max(positions) + 1)
        logits_BV = self._pass(*map(np.array, (ids, slots, positions, bounds, last)))
        for tokens, (slot, _) in leaders.items():
            self._prefixes.add(slot, tokens)
        for source, slot, length in copies:
            self._copy(source, slot, length)
        return logits_BV

    def drop(self, live: list[Row], gone: set[int]) -> list[Row]:
        """Free the slots of the rows whose ids are in ``gone``; return the others."""
        for row in live:
            if id(row) in gone:
                self._prefixes.release(row.slot, row.cached_ids)
        return [row for row in live if id(row) not in gone]

    def free(self) -> None:
        """Nothing to do: the cache goes with its runner."""

    def forget(self) -> None:
        """Drop what finished rows left behind: the weights may have changed."""
        self._prefixes.forget()

    # -- slots -------------------------------------------------------------------------------------

    def _open(self, tokens: tuple[int, ...]) -> tuple[int, int]:
        """Return a slot for a row, and how many of its first tokens (not the last) are there already."""
        source, known = self._prefixes.longest(tokens)
        slot = self._prefixes.take(self._max_cached_tokens // max(1, self._keys.shape[3]))
        if slot >= self._keys.shape[1]:
            self._grow(slots=max(16, 2 * self._keys.shape[1]), columns=self._keys.shape[3])
        if known and slot != source:
            self._copy(source, slot, known)
        return slot, known

    def _copy(self, source: int, slot: int, length: int) -> None:
        for cache in (self._keys, self._values):
            cache[:, slot, :, :length] = cache[:, source, :, :length]

    def _reserve(self, columns: int) -> None:
        if columns > self._keys.shape[3]:
            self._grow(slots=self._keys.shape[1], columns=max(128, columns * 5 // 4))

    def _grow(self, slots: int, columns: int) -> None:
        for name in ("_keys", "_values"):
            old = getattr(self, name)
            new = np.empty((self._layers, slots, self._heads, columns, self._head_size), np.float32)
            new[:, : old.shape[1], :, : old.shape[3]] = old
            setattr(self, name, new)
        positions = torch.arange(columns)[None]
        cos, sin = self.model.model.rotary_emb(torch.empty(0), positions)
        self._cos_CD, self._sin_CD = cos[0].numpy(), sin[0].numpy()

    # -- the forward pass --------------------------------------------------------------------------

    def _pass(
        self, ids_N: np.ndarray, slots_N: np.ndarray, positions_N: np.ndarray, bounds: np.ndarray, last_B: np.ndarray
    ) -> Tensor:
        """Return the logits after the tokens ``last_B``, (B, V); caches all tokens' keys and values."""
        from selfcorrect.engines.local import kernels  # numba: imported where it is used

        model, heads = self.model.model, (-1, self._head_size)
        hidden_NE = model.embed_tokens(torch.from_numpy(ids_N))
        output_NE = torch.zeros_like(hidden_NE)  # of the layer before: added where the next norm reads it
        for index, layer in enumerate(model.layers):
            attention, mlp = layer.self_attn, layer.mlp
            keys, values = self._keys[index], self._values[index]
            normed_NE = _add_norm(hidden_NE, output_NE, layer.input_layernorm)
            key, value = (f(normed_NE).unflatten(-1, heads).numpy() for f in (attention.k_proj, attention.v_proj))
            kernels.store(key, value, self._cos_CD, self._sin_CD, slots_N, positions_N, keys, values)
            if index == self._layers - 1:
                # Only the last tokens' logits are asked for; the others are done once their keys are cached.
                normed_NE, hidden_NE = normed_NE[last_B], hidden_NE[last_B]
                slots_N, positions_N, bounds = slots_N[last_B], positions_N[last_B], np.arange(len(last_B) + 1)
            query_NQ = attention.q_proj(normed_NE)
            mixed_NQ = torch.empty_like(query_NQ)
            query, mixed = query_NQ.unflatten(-1, heads).numpy(), mixed_NQ.unflatten(-1, heads).numpy()
            tables = self._cos_CD, self._sin_CD, attention.scaling
            kernels.attend(query, *tables, bounds, slots_N, positions_N, keys, values, mixed)
            normed_NE = _add_norm(hidden_NE, attention.o_proj(mixed_NQ), layer.post_attention_layernorm)
            gate_NF, up_NF = mlp.gate_proj(normed_NE), mlp.up_proj(normed_NE)
            kernels.swiglu(gate_NF.numpy(), up_NF.numpy())
            output_NE = mlp.down_proj(gate_NF)
        logits_BV: Tensor = self.model.lm_head(_add_norm(hidden_NE, output_NE, model.norm))
        return logits_BV


def _add_norm(x_NE: Tensor, added_NE: Tensor, norm: Any) -> Tensor:
    """Add to ``x_NE`` in place and return its norm."""
    from selfcorrect.engines.local import kernels

    out_NE = torch.empty_like(x_NE)
    kernels.rms_norm(x_NE.numpy(), added_NE.numpy(), norm.weight.numpy(), norm.variance_epsilon, out_NE.numpy())
    return out_NE


class PrefixIndex:
    """Which slot holds which tokens. A slot is in use or spare; spare ones are found until they are taken again.

    A sequence is found by its first block, first two blocks, … (`BLOCK_TOKENS`), so any shared beginning is: a few-shot
    prompt, an earlier message, another sample's prompt.
    """

    def __init__(self) -> None:
        self._tokens: list[tuple[int, ...]] = []  # by slot: what it holds
        self._spare: dict[int, None] = {}  # in the order of their release
        self._holders: defaultdict[int, dict[int, None]] = defaultdict(dict)  # by the hash of a beginning: its slots

    def longest(self, tokens: tuple[int, ...]) -> tuple[int, int]:
        """Return (slot, n): a slot that holds the most first tokens, but not the last; (-1, 0) where none does."""
        found = -1
        for beginning in _beginnings(tokens):
            if beginning not in self._holders:
                break
            found = next(reversed(self._holders[beginning]))
        if found < 0:
            return -1, 0
        pairs = zip(self._tokens[found], tokens[:-1], strict=False)
        shared = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
        return found, min(len(self._tokens[found]), len(tokens) - 1) if shared is None else shared

    def take(self, most: int) -> int:
        """Return a slot for use: a new one, or the one spare for longest.

        There are at most ``most`` slots while any is spare, and not many more spare than in use.
        """
        in_use = len(self._tokens) - len(self._spare)
        if not self._spare or len(self._tokens) < min(most, 2 * in_use + 16):
            self._tokens.append(())
            return len(self._tokens) - 1
        slot = next(iter(self._spare))
        del self._spare[slot]
        self._forget(slot)
        return slot

    def add(self, slot: int, tokens: tuple[int, ...]) -> None:
        """Note that a slot holds the keys and values of a sequence, which continues what it held."""
        for beginning in _beginnings(tokens):
            self._holders[beginning][slot] = None
        self._tokens[slot] = tokens

    def release(self, slot: int, tokens: tuple[int, ...]) -> None:
        """Make a slot spare; it holds ``tokens``."""
        self.add(slot, tokens)
        self._spare[slot] = None

    def forget(self) -> None:
        """Forget all that slots hold."""
        self._holders.clear()
        self._tokens = [()] * len(self._tokens)

    def _forget(self, slot: int) -> None:
        for beginning in _beginnings(self._tokens[slot]):
            self._holders[beginning].pop(slot, None)
            if not self._holders[beginning]:
                del self._holders[beginning]
        self._tokens[slot] = ()


def _beginnings(tokens: tuple[int, ...]) -> Iterator[int]:
    """Yield a hash of the first block, of the first two blocks, …"""
    value = 0
    for end in range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS):
        value = hash((value, tokens[end - BLOCK_TOKENS : end]))
        yield value
