"""`PaddedRunner`: forward passes of any causal language model of `transformers`, on any device.

The model's own ``forward`` takes rectangular batches, so prompts are left-padded and prefilled in passes of their own,
and live rows share one time axis that ends at the same column (`kv_slots`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from selfcorrect.engines.local.kv_slots import SlotCache, left_pad
from selfcorrect.engines.local.row import Row


class PaddedRunner:
    """The cache of the live rows, in their order, and the forward passes."""

    mixes = False  # Prompts need a pass of their own.

    def __init__(self, model: PreTrainedModel, most_rows: int) -> None:
        self.model = model
        self.prefill_tokens = 512 if model.device.type == "cpu" else 16_384  # of one pass, padding included
        self._most_rows = most_rows
        self._cache = SlotCache(most_rows)
        self._accepts = _accepted_arguments(model)

    @staticmethod
    def cached_tokens(lengths: Sequence[int]) -> int:
        """Return how many tokens' keys and values rows of these lengths hold, padding included."""
        return len(lengths) * max(lengths, default=0)

    def forward(self, live: list[Row], new: list[Row]) -> Tensor:
        """Return the logits after the last token of each live and each new row, (B, V), in that order."""
        passes = [self._decode(live)] if live else []
        by_prompt: dict[tuple[int, ...], list[int]] = {}
        for index, row in enumerate(new):
            by_prompt.setdefault(row.request.prompt_ids + tuple(row.token_ids), []).append(index)
        order: list[int] = []
        longest = max((row.length for row in live), default=0)
        for prompts in _length_groups(list(by_prompt), self.prefill_tokens):
            indices = [by_prompt[prompt] for prompt in prompts]
            sources = [source for source, rows in enumerate(indices) for _ in rows]
            passes.append(self._prefill(prompts, sources, longest))
            longest = max(longest, *map(len, prompts))
            order += [index for rows in indices for index in rows]
        # The cache holds new rows in the order of their passes: so must the batch.
        new[:] = [new[index] for index in order]
        return torch.cat(passes)

    def drop(self, live: list[Row], gone: set[int]) -> list[Row]:
        """Free the places of the rows whose ids are in ``gone``; return the others in their new order."""
        live = list(live)
        for last, hole in self._cache.drop([index for index, row in enumerate(live) if id(row) in gone]):
            live[hole] = live[last]
        return live[: self._cache.rows]

    def forget(self) -> None:
        """Nothing to do: finished rows leave nothing behind."""

    def free(self) -> None:
        """Free the cache."""
        self._cache.free()

    def _prefill(self, prompts: list[tuple[int, ...]], sources: list[int], longest: int) -> Tensor:
        """Return the logits after each prompt, row ``sources[i]`` for new row i; caches all of them."""
        ids_BP, positions_BP, mask_BP = left_pad(prompts, self.model.device)
        prefilled = DynamicCache()  # Without a config: every layer keeps all keys, sliding windows are masks.
        logits_BV = self._forward(ids_BP, positions_BP, mask_BP, prefilled)
        self._cache.admit(prefilled, sources, longest)
        return logits_BV[sources] if len(sources) > len(prompts) else logits_BV

    def _decode(self, live: list[Row]) -> Tensor:
        """Return the logits after each live row's last token, (B, V)."""
        device = self.model.device
        # A row's last token is not in the cache yet: it is the column written now.
        tokens_and_lengths = [[row.token_ids[-1] for row in live], [row.length for row in live]]
        tokens_B, lengths_B = torch.tensor(tokens_and_lengths, device=device)
        longest = max(tokens_and_lengths[1])
        self._cache.open_column(longest - 1)
        mask_BW = None
        if min(tokens_and_lengths[1]) < longest:
            mask_BW = torch.arange(longest, device=device)[None] >= (longest - lengths_B)[:, None]
        return self._forward(tokens_B[:, None], (lengths_B - 1)[:, None], mask_BW, self._cache)

    def _forward(self, ids_BT: Tensor, positions_BT: Tensor, mask_BW: Tensor | None, cache: Any) -> Tensor:
        """Return the logits of the last column, (B, V)."""
        inputs = {"attention_mask": mask_BW, "position_ids": positions_BT, "logits_to_keep": 1, "use_cache": True}
        accepted = {name: value for name, value in inputs.items() if self._accepts(name)}
        logits_BTV: Tensor = self.model(input_ids=ids_BT, past_key_values=cache, **accepted).logits
        return logits_BTV[:, -1]


def _length_groups(prompts: list[tuple[int, ...]], most_tokens: int) -> list[list[tuple[int, ...]]]:
    """Split prompts into prefill passes of similar lengths: at most about a quarter of a pass is padding."""
    groups: list[list[tuple[int, ...]]] = []
    for prompt in sorted(prompts, key=len, reverse=True):
        width = len(groups[-1][0]) if groups else 0
        if groups and len(prompt) >= 0.75 * width - 8 and (len(groups[-1]) + 1) * width <= most_tokens:
            groups[-1].append(prompt)
        else:
            groups.append([prompt])
    return groups


def _accepted_arguments(model: PreTrainedModel) -> Callable[[str], bool]:
    """Return whether the model's ``forward`` takes an argument; architectures differ in the optional ones."""
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return lambda name: takes_any or name in parameters
