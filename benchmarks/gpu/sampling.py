"""Sampling: our transformers engine against `generate`, a Qwen-shaped model of 0.5 B in bf16, lengths that differ.

512 requests with prompts of 32 to 128 random tokens and completions of 64 to 512, 256 at once. `generate` takes them
in two batches, padded to the left, each until its longest is done. Both sample at temperature 1. Tokens that were
asked for count, and no others.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.results import device, options, peak_gb, record, synchronize
from benchmarks.gpu.shapes import qwen_half_billion
from selfcorrect.engines import SampleRequest, sample_seed
from selfcorrect.engines.local.engine import TransformersEngine


def main() -> None:
    """Time both sides, each twice in turns; record tokens a second."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, small = options(__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = qwen_half_billion(Path(name), small)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device()).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    count, batch = (8, 4) if small else (512, 256)
    requests = requests_of(count, longest=16 if small else 512)
    asked = sum(request.max_tokens for request in requests)
    engine = TransformersEngine(model, tokenizer, max_batch=batch, frozen=True)
    engine.sample_many(requests[:batch])
    with_generate(model, requests[:2], 2)
    for _ in range(1 if small else 2):
        for side, run in (
            ("ours", lambda: engine.sample_many(requests)),
            ("generate", lambda: with_generate(model, requests, batch)),
        ):
            peak_gb()
            synchronize()
            started = time.perf_counter()
            run()
            synchronize()
            took = time.perf_counter() - started
            record(
                out, "sampling", side=side, tokens_per_s=round(asked / took), seconds=round(took, 2), peak_gb=peak_gb()
            )


def requests_of(count: int, longest: int) -> list[SampleRequest]:
    """Return requests that no stop id ends."""
    draw = np.random.default_rng(0)
    return [
        SampleRequest(
            tuple(draw.integers(10, 1000, draw.integers(longest // 16 + 1, longest // 4 + 2)).tolist()),
            max_tokens=int(draw.integers(longest // 8, longest + 1)),
            seed=sample_seed("sampling", i),
        )
        for i in range(count)
    ]


def with_generate(model: Any, requests: list[SampleRequest], batch: int) -> None:
    """Sample with transformers' own loop: each batch until its longest request is done."""
    for start in range(0, len(requests), batch):
        part = requests[start : start + batch]
        width = max(len(request.prompt_ids) for request in part)
        ids = torch.tensor([(0,) * (width - len(r.prompt_ids)) + r.prompt_ids for r in part], device=model.device)
        mask = torch.tensor(
            [[0] * (width - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in part], device=model.device
        )
        longest = max(request.max_tokens for request in part)
        with torch.no_grad():
            model.generate(
                ids, attention_mask=mask, do_sample=True, top_k=0, min_new_tokens=longest, max_new_tokens=longest,
                pad_token_id=0,
            )  # fmt: skip


if __name__ == "__main__":
    main()
