"""The arithmetic of sampling: counter-based randomness, the choice of the next tokens, stop texts.

Axes: ``B`` rows of the batch, ``V`` vocabulary, ``W`` watched ids. A row's choice depends on its own logits, seed
and step alone, so a sample is the same whatever else is in the batch (up to rounding of the model's logits).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(bits: np.ndarray) -> np.ndarray:
    """Return splitmix64's output function of each uint64 (wrapping arithmetic)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def uniforms(seeds_B: np.ndarray, steps_B: np.ndarray) -> np.ndarray:
    """Return ``u(seed, step)`` in [0, 1) for each row: float64 with 53 random bits, from two uint64 arrays.

    Counter-based: no state, so the n-th number of a seed does not depend on how the others were drawn.
    """
    return (_mix(_mix(seeds_B + _GOLDEN) ^ ((steps_B + np.uint64(1)) * _GOLDEN)) >> np.uint64(11)) * 2.0**-53


@dataclass(frozen=True, slots=True)
class Settings:
    """The sampling settings of the rows of a batch; None where every row has the default.

    Temperature 0 has ``inverse_temperature`` 1 (its log-probabilities are at temperature 1) and ``greedy``.
    """

    inverse_temperature_B1: Tensor | None
    greedy_B: Tensor | None
    all_greedy: bool
    top_p_B1: Tensor | None
    watch_ids_BW: Tensor | None

    @classmethod
    def of(
        cls,
        temperatures: Sequence[float],
        top_ps: Sequence[float],
        watch_ids: Sequence[tuple[int, ...]],
        device: torch.device,
    ) -> Settings:
        """Return the settings of rows in batch order. Rows with fewer watched ids are padded with id 0."""
        greedy = [temperature == 0 for temperature in temperatures]
        inverse = [1.0 if temperature == 0 else 1.0 / temperature for temperature in temperatures]
        width = max(map(len, watch_ids), default=0)
        plain = all(value == 1.0 for value in inverse)
        return cls(
            inverse_temperature_B1=None if plain else torch.tensor(inverse, device=device)[:, None],
            greedy_B=torch.tensor(greedy, device=device) if any(greedy) else None,
            all_greedy=all(greedy),
            top_p_B1=None if min(top_ps) >= 1 else torch.tensor(top_ps, device=device, dtype=torch.float64)[:, None],
            watch_ids_BW=None
            if width == 0
            else torch.tensor([ids + (0,) * (width - len(ids)) for ids in watch_ids], device=device),
        )


def choose(logits_BV: Tensor, uniforms_B: Tensor | None, settings: Settings) -> Tensor:
    """Return one float64 row per sample: chosen id, its log-probability, then W watched log-probabilities.

    Inverse-CDF sampling in vocabulary order: the first id whose cumulative weight exceeds ``u`` times the total.
    The log-probability is the model's at the row's temperature, before any top-p truncation; watched ones are at
    temperature 1. ``uniforms_B`` may be None where every row is greedy. One tensor, so one transfer to the host.
    """
    logits_BV = logits_BV.float()
    greedy_ids_B = logits_BV.argmax(-1) if settings.greedy_B is not None else None
    scores_BV = logits_BV if settings.inverse_temperature_B1 is None else logits_BV * settings.inverse_temperature_B1
    scores_BV = scores_BV - scores_BV.amax(-1, keepdim=True)
    weights_BV = scores_BV.exp()
    if settings.all_greedy:
        assert greedy_ids_B is not None
        ids_B1 = greedy_ids_B[:, None]
        totals_B1 = weights_BV.sum(-1, keepdim=True, dtype=torch.float64)
    else:
        assert uniforms_B is not None
        cumulative_BV = weights_BV.cumsum(-1, dtype=torch.float64)
        totals_B1 = cumulative_BV[:, -1:].clone()
        if settings.top_p_B1 is not None:
            _truncate(weights_BV, cumulative_BV, settings.top_p_B1)
        targets_B1 = uniforms_B[:, None] * cumulative_BV[:, -1:]
        ids_B1 = torch.searchsorted(cumulative_BV, targets_B1, right=True).clamp_(max=scores_BV.shape[-1] - 1)
        if settings.greedy_B is not None:
            assert greedy_ids_B is not None
            ids_B1 = torch.where(settings.greedy_B, greedy_ids_B, ids_B1[:, 0])[:, None]
    columns = [ids_B1.double(), scores_BV.gather(-1, ids_B1).double() - totals_B1.log()]
    if settings.watch_ids_BW is not None:
        watched_BW = logits_BV.gather(-1, settings.watch_ids_BW) - logits_BV.logsumexp(-1, keepdim=True)
        columns.append(watched_BW.double())
    return torch.cat(columns, -1)


def _truncate(weights_BV: Tensor, cumulative_BV: Tensor, top_p_B1: Tensor) -> None:
    """Rewrite ``cumulative_BV`` in the rows with top_p < 1, keeping the smallest set of likely ids that reaches it."""
    rows = (top_p_B1[:, 0] < 1).nonzero()[:, 0]
    weights_RV = weights_BV[rows]
    sorted_RV, order_RV = weights_RV.sort(dim=-1, descending=True, stable=True)
    before_RV = sorted_RV.cumsum(-1, dtype=torch.float64) - sorted_RV
    kept_sorted_RV = before_RV < top_p_B1[rows] * cumulative_BV[rows, -1:]
    kept_sorted_RV[:, 0] = True
    kept_RV = torch.zeros_like(kept_sorted_RV).scatter_(-1, order_RV, kept_sorted_RV)
    cumulative_BV[rows] = (weights_RV * kept_RV).cumsum(-1, dtype=torch.float64)


class StopTexts:
    """Tells when a growing completion first contains one of a few texts, decoding only when that is possible.

    A text can only become contained by a token that brings its last character. Such tokens (and those whose own
    text is not whole characters) are found once per vocabulary; only after one of them is the tail decoded.
    """

    def __init__(self, tokenizer: Any, texts: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._texts = texts
        endings = {text[-1] for text in texts}
        ids = list(range(len(tokenizer)))
        words = tokenizer.batch_decode([[i] for i in ids], **_VERBATIM)
        pieces = tokenizer.convert_ids_to_tokens(ids)
        self._can_end = [
            not word
            or "\ufffd" in word
            or not endings.isdisjoint(word)
            or (" " in endings and str(piece).startswith(("▁", "Ġ")))
            for word, piece in zip(words, pieces, strict=True)
        ]
        # A token brings at least one byte, apart from empty ones: twice the bytes and a margin is enough.
        self._tail = 2 * max(len(text.encode()) for text in texts) + 8

    def reached(self, token_ids: list[int]) -> bool:
        """True where the completion contains a text. Must be asked after every token."""
        last = token_ids[-1]
        if last < len(self._can_end) and not self._can_end[last]:
            return False
        tail = self._tokenizer.decode(token_ids[-self._tail :], **_VERBATIM)
        if not any(text in tail for text in self._texts):
            return False
        whole = self._tokenizer.decode(token_ids, **_VERBATIM)
        return any(text in whole for text in self._texts)


_VERBATIM = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
