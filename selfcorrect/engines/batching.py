"""`ContinuousBatch`: waiting rows enter, every live row gets one token a step, finished rows leave.

One `step`::

    admit   prefill waiting prompts (each distinct prompt once), sample their first tokens
    decode  one forward pass over the live rows, one new token each
    drop    finished rows leave at once; the last rows take their places

No padding to the slowest row, no shape fixed in advance. Synchronous and single-threaded: `transformers.py` drives it.
"""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from selfcorrect.engines import Sample, SampleRequest, llama_forward
from selfcorrect.engines.kv_slots import SlotCache, left_pad
from selfcorrect.engines.sampling import Settings, StopTexts, choose, uniforms
from selfcorrect.errors import EngineError

PREFILL_TOKENS = {"cpu": 512, "cuda": 16_384}
"""Most tokens, padding included, in one prefill pass: few enough that a CPU's activations stay in its cache."""

PATIENCE_STEPS = 8
"""A waiting request is prefilled after so many steps even when it is alone."""

HEADROOM_TOKENS = 32
"""Room that a row must have to grow before it is admitted to a nearly full cache."""

NEAR_BYTES = 40 * 2**20
"""Keys and values that a CPU reads at each step at little cost: more live rows only push them out of its cache."""


@dataclass(slots=True, eq=False)
class Row:
    """One request on its way: what was sampled so far and how it ended."""

    request: SampleRequest
    stop_texts: StopTexts | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    watched: list[tuple[float, ...]] = field(default_factory=list)
    stop_id: int | None = None
    stop_logprob: float = 0.0
    finish: str | None = None
    cancelled: bool = False

    @property
    def length(self) -> int:
        """Tokens of the prompt and the completion so far."""
        return len(self.request.prompt_ids) + len(self.token_ids)

    def append(self, token: int, logprob: float, watched: list[float]) -> None:
        """Take one sampled token; sets ``finish`` when it is the last."""
        if token in self.request.stop_ids:
            self.finish, self.stop_id, self.stop_logprob = "stop", token, logprob
            return
        self.token_ids.append(token)
        self.logprobs.append(logprob)
        if self.request.watch_ids:
            self.watched.append(tuple(watched[: len(self.request.watch_ids)]))
        if self.stop_texts is not None and self.stop_texts.reached(self.token_ids):
            self.finish = "text"
        elif len(self.token_ids) >= self.request.max_tokens:
            self.finish = "length"

    def sample(self) -> Sample:
        """Return the finished sample."""
        assert self.finish is not None
        return Sample(
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            finish=self.finish,
            stop_id=self.stop_id,
            stop_logprob=self.stop_logprob,
            watched=tuple(self.watched),
        )


class ContinuousBatch:
    """The live and the waiting rows of one model, and their cache."""

    def __init__(self, model: PreTrainedModel, *, max_batch: int, max_cached_tokens: int) -> None:
        self.model = model
        self.max_batch = max_batch
        self.max_cached_tokens = max_cached_tokens
        self.waiting: deque[Row] = deque()
        self.live: list[Row] = []
        self._cache = SlotCache(max_batch)
        self._settings: Settings | None = None
        self._steps_waited = 0
        self._accepts = _accepted_arguments(model)
        self._admitted_tokens = max_cached_tokens
        if model.device.type == "cpu":
            weight_bytes = sum(parameter.nbytes for parameter in model.parameters())
            self._admitted_tokens = min(max_cached_tokens, max(NEAR_BYTES, weight_bytes) // token_bytes(model))

    @property
    def busy(self) -> bool:
        """True while any row is live or waiting."""
        return bool(self.live or self.waiting)

    def clear(self) -> list[Row]:
        """Forget and return every row, and free the cache."""
        rows = [*self.live, *self.waiting]
        self.live, self._cache, self._settings = [], SlotCache(self.max_batch), None
        self.waiting.clear()
        return rows

    def step(self) -> list[Row]:
        """Admit, decode one token for every live row, and return the rows that finished."""
        self._drop(row for row in self.live if row.cancelled)
        finished = self._admit() if self._should_admit() else []
        if self.live:
            self._make_room()
            self._sample(self.live, self._decode(), self._live_settings())
            done = [row for row in self.live if row.finish]
            self._drop(done)
            finished += done
        return finished

    # -- admission ---------------------------------------------------------------------------------

    def _should_admit(self) -> bool:
        """Prefill in groups: a pass has a fixed cost, an empty slot costs its share of a decoding step.

        With one row finishing a step, that balance falls near the square root of the batch.
        """
        if not self.waiting:
            return False
        self._steps_waited += 1
        longest = max((row.length for row in self.live), default=0)
        widest = max(longest, self.waiting[0].length + HEADROOM_TOKENS)
        ready = min(len(self.waiting), min(self.max_batch, self._admitted_tokens // widest) - len(self.live))
        if self.live and ready <= 0:
            return False
        return ready >= math.isqrt(len(self.live)) or self._steps_waited > PATIENCE_STEPS

    def _admit(self) -> list[Row]:
        """Prefill waiting rows into free slots and sample their first tokens; return those that ended with it."""
        self._steps_waited = 0
        admitted: list[Row] = []
        longest = max((row.length for row in self.live), default=0)
        while self.waiting and len(self.live) + len(admitted) < self.max_batch:
            row = self.waiting[0]
            widest = max(longest, row.length + HEADROOM_TOKENS)
            if (len(self.live) + len(admitted) + 1) * widest > self._admitted_tokens and (self.live or admitted):
                break
            self.waiting.popleft()
            if not row.cancelled:
                longest = widest
                admitted.append(row)
        by_prompt: dict[tuple[int, ...], list[Row]] = {}
        for row in admitted:
            by_prompt.setdefault(row.request.prompt_ids + tuple(row.token_ids), []).append(row)
        finished: list[Row] = []
        for prompts in _length_groups(list(by_prompt), PREFILL_TOKENS.get(self.model.device.type, 16_384)):
            finished += self._prefill(prompts, [by_prompt[prompt] for prompt in prompts])
        return finished

    def _prefill(self, prompts: list[tuple[int, ...]], rows_by_prompt: list[list[Row]]) -> list[Row]:
        ids_BP, positions_BP, mask_BP = left_pad(prompts, self.model.device)
        prefilled = DynamicCache()  # Without a config: every layer keeps all keys, sliding windows are masks.
        logits_BV = self._forward(ids_BP, positions_BP, mask_BP, prefilled)
        rows = [row for rows in rows_by_prompt for row in rows]
        sources = [source for source, rows in enumerate(rows_by_prompt) for _ in rows]
        if len(rows) > len(prompts):
            logits_BV = logits_BV[sources]
        self._sample(rows, logits_BV, self._settings_of(rows))
        going_on = [(row, source) for row, source in zip(rows, sources, strict=True) if not row.finish]
        if going_on:
            cached = max((row.length - 1 for row in self.live), default=0)
            self._cache.admit(prefilled, [source for _, source in going_on], cached)
            self.live += [row for row, _ in going_on]
            self._settings = None
        return [row for row in rows if row.finish]

    # -- decoding ----------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Send the youngest rows back to wait while the cache would exceed its limit; their tokens are kept."""
        while len(self.live) > 1 and len(self.live) * max(row.length for row in self.live) > self.max_cached_tokens:
            youngest = min(self.live, key=lambda row: len(row.token_ids))
            self._drop([youngest])
            self.waiting.appendleft(youngest)

    def _decode(self) -> Tensor:
        """Return the logits after each live row's last token, (B, V)."""
        device = self.model.device
        # A row's last token is not in the cache yet: it is the column written now.
        tokens_and_lengths = [[row.token_ids[-1] for row in self.live], [row.length for row in self.live]]
        tokens_B, lengths_B = torch.tensor(tokens_and_lengths, device=device)
        longest = max(tokens_and_lengths[1])
        self._cache.open_column(longest - 1)
        mask_BW = None
        if min(tokens_and_lengths[1]) < longest:
            mask_BW = torch.arange(longest, device=device)[None] >= (longest - lengths_B)[:, None]
        return self._forward(tokens_B[:, None], (lengths_B - 1)[:, None], mask_BW, self._cache)

    def _forward(self, ids_BT: Tensor, positions_BT: Tensor, mask_BW: Tensor | None, cache: Any) -> Tensor:
        """Return the logits of the last column, (B, V)."""
        if llama_forward.applies_to(self.model):
            return llama_forward.last_logits(self.model, ids_BT, positions_BT, mask_BW, cache)
        inputs = {"attention_mask": mask_BW, "position_ids": positions_BT, "logits_to_keep": 1, "use_cache": True}
        accepted = {name: value for name, value in inputs.items() if self._accepts(name)}
        logits_BTV: Tensor = self.model(input_ids=ids_BT, past_key_values=cache, **accepted).logits
        return logits_BTV[:, -1]

    def _sample(self, rows: list[Row], logits_BV: Tensor, settings: Settings) -> None:
        """Give every row its next token from its row of logits."""
        uniforms_B = None
        if not settings.all_greedy:
            seeds_B = np.array([row.request.seed & 0xFFFFFFFFFFFFFFFF for row in rows], dtype=np.uint64)
            steps_B = np.array([len(row.token_ids) for row in rows], dtype=np.uint64)
            uniforms_B = torch.from_numpy(uniforms(seeds_B, steps_B)).to(logits_BV.device)
        chosen = choose(logits_BV, uniforms_B, settings).tolist()
        for row, (token, logprob, *watched) in zip(rows, chosen, strict=True):
            if not math.isfinite(logprob):
                raise EngineError(
                    f"the model's log-probabilities are not finite ({logprob}) after {row.length} tokens; "
                    "the weights are damaged or have diverged"
                )
            row.append(int(token), logprob, watched)

    # -- membership --------------------------------------------------------------------------------

    def _drop(self, rows: Iterable[Row]) -> None:
        """Take rows out of the batch, moving the last rows into their places."""
        gone = set(map(id, rows))
        if not gone:
            return
        moves = self._cache.drop([index for index, row in enumerate(self.live) if id(row) in gone])
        for last, hole in moves:
            self.live[hole] = self.live[last]
        del self.live[self._cache.rows :]
        self._settings = None

    def _live_settings(self) -> Settings:
        if self._settings is None:
            self._settings = self._settings_of(self.live)
        return self._settings

    def _settings_of(self, rows: list[Row]) -> Settings:
        requests = [row.request for row in rows]
        return Settings.of(
            [request.temperature for request in requests],
            [request.top_p for request in requests],
            [request.watch_ids for request in requests],
            self.model.device,
        )


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


def token_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of one token's keys and values in all layers."""
    config: Any = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_size * model.dtype.itemsize)


def _accepted_arguments(model: PreTrainedModel) -> Callable[[str], bool]:
    """Return whether the model's ``forward`` takes an argument; architectures differ in the optional ones."""
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return lambda name: takes_any or name in parameters
