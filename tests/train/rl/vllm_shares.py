"""One of two FSDP processes, for test_samplers.py: vLLM beside each, or one of both on two workers (argument 2).

Unequal shares, two hand-overs, one report. What is sampled greedily is compared with our own engine on the weights as
they were gathered. At the last hand-over one engine is closed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import SampleRequest
from selfcorrect.engines.local.engine import TransformersEngine
from selfcorrect.errors import EngineError
from selfcorrect.problems.arithmetic import problems
from selfcorrect.prompts import solve_messages
from selfcorrect.train.common.distributed import gathered, process_count, process_rank
from selfcorrect.train.common.models import load_model
from selfcorrect.train.common.sharding import shard
from selfcorrect.train.common.weights import hand_over, holds_parts
from selfcorrect.train.rl.samplers import open_sampler

SHARES = (9, 2)


@dataclass
class Found:
    """What a process saw: requests with our engine's ids; the largest difference of a log-probability."""

    asked: int = 0
    equal: int = 0
    apart: float = 0.0


def main(report: Path, size: int) -> None:
    assert process_count() == 2
    rank = process_rank()
    codec = ChatCodec.load("embedded")
    model: Any = load_model("embedded", "auto")
    shard(model)
    assert holds_parts(model)
    copy: Any = load_model("embedded", "auto").eval()
    options = {"dtype": "float32", "threads": 1, "kv_cache_memory_bytes": 1 << 26, "tensor_parallel_size": size}
    sampler = open_sampler("vllm", codec, "embedded", 16, options)
    ours = TransformersEngine(copy, codec.tokenizer)
    asked = [
        SampleRequest(codec.opening(solve_messages(p.question)), 80, temperature=0.0, stop_ids=codec.stop_ids)
        for p in problems("train", sum(SHARES), seed=0)
    ][sum(SHARES[:rank]) :][: SHARES[rank]]
    found = Found()
    for version in range(2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.02 * version)
        sampler.follow(model)
        hand_over(model, copy)
        for got, wanted in zip(sampler.sample_many(asked), ours.sample_many(asked), strict=True):
            found.asked += 1
            found.equal += got.token_ids == wanted.token_ids
            apart = [abs(a - b) for a, b in zip(got.logprobs, wanted.logprobs, strict=False)]
            found.apart = max(found.apart, *apart, 0.0)
        sampler.rest()
    if rank == (1 if size == 1 else 0):
        asyncio.run(sampler._engine.close())  # type: ignore[attr-defined]
    try:
        sampler.follow(model)
        said = "nothing"
    except EngineError as error:
        said = str(error)
    everyone = gathered([vars(found) | {"said": said}])
    if rank == 0:
        report.write_text(json.dumps(everyone))
    sampler.close()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
