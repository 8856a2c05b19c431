"""`ContinuousBatch`: waiting rows enter, every live row gets one token a step, finished rows leave.

One `step`::

    admit    take waiting rows while there is room
    forward  the new rows' prompts and one token of every live row
    sample   one token for each of them
    drop     finished rows leave at once

No padding to the slowest row, no shape fixed in advance. The passes are a runner's: `ragged` for small models on a
CPU, `padded` for everything else. Synchronous and single-threaded: `transformers.py` drives it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfcorrect.engines.local import ragged
from selfcorrect.engines.local.padded import PaddedRunner
from selfcorrect.engines.local.row import Row
from selfcorrect.engines.local.sampling import Settings, choose, uniforms
from selfcorrect.errors import EngineError

PATIENCE_STEPS = 8
"""Where prompts need a pass of their own, a waiting request is prefilled after so many steps even when it is alone."""

HEADROOM_TOKENS = 32
"""Room that a row must have to grow before it is admitted to a nearly full cache."""

NEAR_BYTES = 40 * 2**20
"""Keys and values that a CPU reads at each step at little cost: more live rows only push them out of its cache."""


class Runner(Protocol):
    """The cache of the rows and the forward passes of one model."""

    mixes: bool
    prefill_tokens: int

    def forward(self, live: list[Row], new: list[Row]) -> Tensor:
        """Return the logits after each row's last token, (B, V): live rows, then new ones (which it may reorder)."""
        ...

    def drop(self, live: list[Row], gone: set[int]) -> list[Row]:
        """Free the cache of the rows whose ids are in ``gone``; return the others in the order of the cache."""
        ...

    def cached_tokens(self, lengths: list[int]) -> int:
        """Return how many tokens' keys and values rows of these lengths take."""
        ...

    def forget(self) -> None:
        """Drop what finished rows left behind."""
        ...

    def free(self) -> None:
        """Free the cache; nothing is sampled afterwards."""
        ...


class ContinuousBatch:
    """The live and the waiting rows of one model, and their cache."""

    def __init__(self, model: PreTrainedModel, *, max_batch: int, max_cached_tokens: int) -> None:
        self.model = model
        self.max_batch = max_batch
        self.max_cached_tokens = max_cached_tokens
        self.waiting: deque[Row] = deque()
        self.live: list[Row] = []
        self._runner = self._new_runner()
        self._settings: Settings | None = None
        self._steps_waited = 0
        self._admitted_tokens = max_cached_tokens
        if model.device.type == "cpu":
            weight_bytes = sum(parameter.nbytes for parameter in model.parameters())
            self._admitted_tokens = min(max_cached_tokens, max(NEAR_BYTES, weight_bytes) // token_bytes(model))

    def _new_runner(self) -> Runner:
        return (
            ragged.RaggedRunner(self.model, self.max_cached_tokens)
            if ragged.applies_to(self.model)
            else PaddedRunner(self.model, self.max_batch)
        )

    @property
    def busy(self) -> bool:
        """True while any row is live or waiting."""
        return bool(self.live or self.waiting)

    @property
    def rows(self) -> int:
        """How many rows are live or waiting."""
        return len(self.live) + len(self.waiting)

    def clear(self) -> list[Row]:
        """Forget and return every row, and free the cache."""
        rows = [*self.live, *self.waiting]
        self._runner.free()
        self.live, self._runner, self._settings = [], self._new_runner(), None
        self.waiting.clear()
        return rows

    def forget(self) -> None:
        """Drop the keys and values that finished rows left behind: the weights may have changed."""
        self._runner.forget()

    def step(self) -> list[Row]:
        """Sample one token for every live row and every row that can enter; return the rows that finished."""
        self._drop(row for row in self.live if row.cancelled)
        self._make_room()
        new = self._admit()
        if not self.live and not new:
            return []
        logits_BV = self._runner.forward(self.live, new)
        if new:
            self.live += new
            self._settings = None
        self._sample(logits_BV)
        finished = [row for row in self.live if row.finish]
        self._drop(finished)
        return finished

    # -- membership --------------------------------------------------------------------------------

    def _admit(self) -> list[Row]:
        """Take rows from the queue while the batch, the cache and this pass have room for them."""
        if not self.waiting or not (self._runner.mixes or self._prefill_pays()):
            return []
        self._steps_waited = 0
        admitted: list[Row] = []
        lengths = [row.length for row in self.live]
        prompt_tokens = 0
        while self.waiting and len(lengths) < self.max_batch:
            row = self.waiting[0]
            grown = [*lengths, row.length + HEADROOM_TOKENS]
            full = self._runner.cached_tokens(grown) > self._admitted_tokens
            if lengths and (full or (admitted and self._runner.mixes and prompt_tokens > self._runner.prefill_tokens)):
                break
            self.waiting.popleft()
            if not row.cancelled:
                lengths = grown
                prompt_tokens += row.length
                admitted.append(row)
        return admitted

    def _prefill_pays(self) -> bool:
        """Prefill in groups: a pass has a fixed cost, an empty slot costs its share of a decoding step.

        With one row finishing a step, that balance falls near the square root of the batch.
        """
        self._steps_waited += 1
        widest = max([self.waiting[0].length + HEADROOM_TOKENS, *(row.length for row in self.live)])
        ready = min(len(self.waiting), min(self.max_batch, self._admitted_tokens // widest) - len(self.live))
        if self.live and ready <= 0:
            return False
        return ready >= math.isqrt(len(self.live)) or self._steps_waited > PATIENCE_STEPS

    def _make_room(self) -> None:
        """Send the youngest rows back to wait while the cache would exceed its limit; their tokens are kept."""
        while (
            len(self.live) > 1
            and self._runner.cached_tokens([row.length for row in self.live]) > self.max_cached_tokens
        ):
            youngest = min(self.live, key=lambda row: len(row.token_ids))
            self._drop([youngest])
            self.waiting.appendleft(youngest)

    def _drop(self, rows: Iterable[Row]) -> None:
        """Take rows out of the batch."""
        gone = set(map(id, rows))
        if gone:
            self.live = self._runner.drop(self.live, gone)
            self._settings = None

    # -- sampling ----------------------------------------------------------------------------------

    def _sample(self, logits_BV: Tensor) -> None:
        """Give every live row its next token from its row of logits."""
        if self._settings is None:
            requests = [row.request for row in self.live]
            self._settings = Settings.of(
                [request.temperature for request in requests],
                [request.top_p for request in requests],
                [request.watch_ids for request in requests],
                self.model.device,
            )
        uniforms_B = None
        if not self._settings.all_greedy:
            seeds_B = np.array([row.request.seed & 0xFFFFFFFFFFFFFFFF for row in self.live], dtype=np.uint64)
            steps_B = np.array([len(row.token_ids) for row in self.live], dtype=np.uint64)
            uniforms_B = torch.from_numpy(uniforms(seeds_B, steps_B)).to(logits_BV.device)
        chosen = choose(logits_BV, uniforms_B, self._settings).tolist()
        for row, (token, logprob, *watched) in zip(self.live, chosen, strict=True):
            if not math.isfinite(logprob):
                raise EngineError(
                    f"the model's log-probabilities are not finite ({logprob}) after {row.length} tokens; "
                    "the weights are damaged or have diverged"
                )
            row.append(int(token), logprob, watched)


def token_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of one token's keys and values in all layers."""
    config: Any = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_size * model.dtype.itemsize)
