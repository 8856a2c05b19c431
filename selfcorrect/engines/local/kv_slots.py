"""Keys and values of the live sequences of a batch, in storage that is written in place and never concatenated.

Every sequence is a row; all rows share one time axis and end at the same column, as in left padding::

    row 0   . . p p p g g g g|
    row 1   . . . . . p p g g|        p prompt, g generated, . masked, | the shared end
    row 2   p p p p g g g g g|

A decoding step writes ONE column for all rows (a slice copy) and attends over the columns of the longest live
row. A new row is placed with its prompt ending at the shared end, so rows start at different columns; keys
carry their rotary positions already, so columns are free to be moved. A finished row is replaced by the last one.

Axes: ``R`` rows of storage, ``B`` live rows, ``H`` key-value heads, ``C`` columns, ``D`` head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache


class SlotLayer(CacheLayerMixin):
    """One model layer's keys and values: ``keys``, ``values`` of shape (R, H, C, D)."""

    is_sliding = False  # All columns are kept; a sliding window is the model's own mask.
    keys: Tensor
    values: Tensor

    def __init__(self, slots: SlotCache, keys_BHPD: Tensor, values_BHPD: Tensor) -> None:
        super().__init__()
        self._slots = slots
        # Zeros, not empty: masked columns are multiplied by 0, which must not meet a NaN.
        self.keys = keys_BHPD.new_zeros((0, keys_BHPD.shape[1], 0, keys_BHPD.shape[3]))
        self.values = values_BHPD.new_zeros((0, values_BHPD.shape[1], 0, values_BHPD.shape[3]))
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: storage is made by `SlotCache`."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the newest column, (B, H, 1, D), and return views of the attended columns, (B, H, window, D)."""
        rows, first, end = self._slots.rows, self._slots.first, self._slots.end
        self.keys[:rows, :, end - 1] = key_states[:, :, 0]
        self.values[:rows, :, end - 1] = value_states[:, :, 0]
        return self.keys[:rows, :, first:end], self.values[:rows, :, first:end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (attended columns, offset 0): the model sees the window alone."""
        return self._slots.end - self._slots.first, 0

    def get_seq_length(self) -> int:
        """Return how many columns of the window lie before the newest."""
        return self._slots.end - self._slots.first - 1

    def get_max_length(self) -> int:
        """Return -1: storage grows."""
        return -1


class SlotCache(Cache):
    """The storage of all layers; live rows are 0 … ``rows - 1`` and the columns attended ``first`` … ``end - 1``."""

    def __init__(self, most_rows: int = 64) -> None:
        self._most_rows = most_rows
        self._slots: list[SlotLayer] = []
        super().__init__(layers=[])
        self.rows = 0
        self.first = 0
        self.end = 0

    @property
    def columns(self) -> int:
        """How many columns are allocated."""
        return self._slots[0].keys.shape[2] if self._slots else 0

    def free(self) -> None:
        """Let the storage go now: layers and cache refer to one another, and Python collects rings when it likes."""
        self._slots.clear()
        self.layers.clear()

    def admit(self, prefilled: DynamicCache, sources: list[int], longest: int) -> None:
        """Append rows whose prompts end at the shared end.

        ``prefilled`` holds left-padded prompts; new row i takes its row ``sources[i]`` (several samples may share
        one prompt). ``longest`` is the length of the longest row now live, 0 when there is none.
        """
        states: list[Any] = prefilled.layers
        if not self._slots:
            self._slots = [SlotLayer(self, layer.keys, layer.values) for layer in states]
            self.layers = list(self._slots)
        prompts, _, width, _ = states[0].keys.shape
        rows = self.rows + len(sources)
        if width > self.end or rows > self._slots[0].keys.shape[0]:
            self._move(rows, longest, max(width, longest))
        start = self.end - width
        whole = sources == list(range(prompts))
        for layer, state in zip(self._slots, states, strict=True):
            for storage, fresh in ((layer.keys, state.keys), (layer.values, state.values)):
                storage[self.rows : rows, :, start : self.end] = fresh if whole else fresh[sources]
        self.first = min(self.first, start) if self.rows else start
        self.rows = rows

    def open_column(self, longest: int) -> None:
        """Make room for one more column; ``longest`` counts the tokens of the longest row without the new one."""
        if self.end >= self.columns:
            self._move(self.rows, longest, longest)
        self.end += 1
        self.first = self.end - longest - 1

    def drop(self, rows: list[int]) -> list[tuple[int, int]]:
        """Remove rows and return the moves (from, to) that keep the live rows 0 … rows - 1."""
        moves: list[tuple[int, int]] = []
        gone = set(rows)
        kept = self.rows - len(gone)
        holes = sorted(row for row in gone if row < kept)
        for hole, last in zip(holes, (row for row in range(kept, self.rows) if row not in gone), strict=True):
            for layer in self._slots:
                for storage in (layer.keys, layer.values):
                    storage[hole, :, self.first : self.end] = storage[last, :, self.first : self.end]
            moves.append((last, hole))
        self.rows = kept
        return moves

    def _move(self, rows: int, longest: int, end: int) -> None:
        """Move the last ``longest`` columns of the live rows so that they end at ``end``; grow storage as needed."""
        slack = max(128, end // 2)  # A move costs some reads of the whole cache: make it rare.
        for layer in self._slots:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                if rows > old.shape[0] or end + slack > old.shape[2]:
                    capacity = (
                        max(rows, min(2 * old.shape[0], rows + 64), min(64, self._most_rows)),
                        max(end + slack, old.shape[2]),
                    )
                    new = old.new_zeros((capacity[0], old.shape[1], capacity[1], old.shape[3]))
                    new[: self.rows, :, end - longest : end] = old[: self.rows, :, self.end - longest : self.end]
                    setattr(layer, name, new)
                else:
                    live = old[: self.rows, :, self.end - longest : self.end].clone()
                    old[: self.rows, :, end - longest : end] = live
        self.end = end
        self.first = end - longest


def left_pad(prompts: list[tuple[int, ...]], device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return ids and positions of left-padded prompts, both (B, P), and the mask, None when all lengths agree.

    Padding repeats id 0 at position 0; it is masked and its keys are never attended.
    """
    width = max(map(len, prompts))
    ids_BP = torch.tensor([(0,) * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    lengths_B1 = torch.tensor([len(prompt) for prompt in prompts], device=device)[:, None]
    positions_BP = torch.arange(width, device=device)[None] - (width - lengths_B1)
    mask_BP = None if min(map(len, prompts)) == width else (positions_BP >= 0).long()
    return ids_BP, positions_BP.clamp(min=0), mask_BP
