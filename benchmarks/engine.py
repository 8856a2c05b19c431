"""Samples per second of our transformers engine against `transformers.generate`, interleaved in one process.

    python benchmarks/engine.py                                   # the embedded model, batch 64 and 256
    python benchmarks/engine.py --model <folder or hub id> --requests 128 --batch 16

Both sides get the same requests, weights, dtype, threads, temperature 1 and token limit, and both stop at the
model's own end of turn. Workloads: ``solve`` (first attempts only; the embedded model's have nearly equal lengths) and
``pipeline`` (attempts, self-evaluations and revisions in equal parts, what `gen` and `eval` keep in flight together).
`generate` gets chunks of the batch size, left-padded, shortest prompts first so that a chunk pads little; ours gets
`max_batch` of the same size. Each round times both sides, in alternating order; figures are medians over rounds.
`ratio_vs_transformers` is the smallest ratio over batch sizes and workloads. `cpu_time_ratio` is of processor seconds:
steadier than the wall clock beside other work. Greedy ids are compared as well. The last line is JSON for machines.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import SampleRequest, sample_seed
from selfcorrect.engines.local.engine import TransformersEngine
from selfcorrect.problems.arithmetic import problems
from selfcorrect.prompts import EVALUATE, REVISE, solve_messages


def solve_requests(codec: ChatCodec, n: int, *, max_tokens: int, temperature: float) -> list[SampleRequest]:
    """Return ``n`` requests for first attempts at distinct problems, each with its own seed."""
    return [
        SampleRequest(
            prompt_ids=codec.opening(solve_messages(problem.question)),
            max_tokens=max_tokens,
            seed=sample_seed("benchmark", problem.id),
            temperature=temperature,
            stop_ids=codec.stop_ids,
        )
        for problem in problems("train", n, seed=0)
    ]


def pipeline_requests(engine: TransformersEngine, codec: ChatCodec, solves: list[SampleRequest]) -> list[SampleRequest]:
    """Return as many requests, in turns for an attempt, a self-evaluation and a revision of a sampled attempt."""
    attempts = engine.sample_many(solves)
    asks = ("", EVALUATE, REVISE)
    return [
        replace(solve, prompt_ids=solve.prompt_ids + attempt.token_ids + codec.reply(asks[i % 3])) if i % 3 else solve
        for i, (solve, attempt) in enumerate(zip(solves, attempts, strict=True))
    ]


def generate(model: Any, codec: ChatCodec, requests: list[SampleRequest], batch: int) -> list[list[int]]:
    """Return the completions of `transformers.generate`, without stop ids, in the order of the requests."""
    pad = codec.turn_end
    order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
    completions: list[list[int]] = [[] for _ in requests]
    sampling: dict[str, Any] = {"do_sample": False}
    if requests[0].temperature > 0:
        sampling = {"do_sample": True, "temperature": requests[0].temperature, "top_k": 0, "top_p": 1.0}
    for start in range(0, len(order), batch):
        chunk = order[start : start + batch]
        width = max(len(requests[i].prompt_ids) for i in chunk)
        padding = [width - len(requests[i].prompt_ids) for i in chunk]
        ids = [[pad] * gap + list(requests[i].prompt_ids) for i, gap in zip(chunk, padding, strict=True)]
        mask = [[0] * gap + [1] * (width - gap) for gap in padding]
        out = model.generate(
            torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=requests[0].max_tokens,
            eos_token_id=list(codec.stop_ids),
            pad_token_id=pad,
            use_cache=True,
            **sampling,
        )
        for i, row in zip(chunk, out[:, width:].tolist(), strict=True):
            end = next((k for k, token in enumerate(row) if token in codec.stop_ids), len(row))
            completions[i] = row[:end]
    return completions


def timed(run: Callable[[], list[Any]]) -> tuple[float, float, int]:
    """Return the seconds of one run, its CPU seconds, and the completion tokens it made, stop ids included."""
    start, cpu_start = time.perf_counter(), time.process_time()
    completions = run()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return (
        seconds,
        cpu_seconds,
        sum(len(getattr(completion, "token_ids", completion)) + 1 for completion in completions),
    )


def compare(model: Any, codec: ChatCodec, requests: list[SampleRequest], batch: int, rounds: int) -> dict[str, Any]:
    """Return both sides' median figures over interleaved rounds at one batch size."""
    engine = TransformersEngine(model, codec.tokenizer, max_batch=batch)
    sides: dict[str, Callable[[], list[Any]]] = {
        "ours": lambda: engine.sample_many(requests),
        "transformers": lambda: generate(model, codec, requests, batch),
    }
    engine.sample_many(requests[: batch // 2])
    generate(model, codec, requests[: batch // 2], batch)
    runs: dict[str, list[tuple[float, float, int]]] = {name: [] for name in sides}
    for round_ in range(rounds):
        for name in list(sides) if round_ % 2 else reversed(sides):
            runs[name].append(timed(sides[name]))
    figures: dict[str, Any] = {}
    for name, measured in runs.items():
        figures[name] = {
            "samples_per_s": round(statistics.median(len(requests) / seconds for seconds, _, _ in measured), 2),
            "tokens_per_s": round(statistics.median(tokens / seconds for seconds, _, tokens in measured), 1),
            "tokens_per_sample": round(statistics.mean(tokens for _, _, tokens in measured) / len(requests), 1),
        }
    pairs = list(zip(runs["ours"], runs["transformers"], strict=True))
    ratios, cpu_ratios = ([theirs[i] / ours[i] for ours, theirs in pairs] for i in (0, 1))
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "cpu_time_ratio": round(statistics.median(cpu_ratios), 3),
        **figures,
    }


def greedy_agreement(model: Any, codec: ChatCodec, requests: list[SampleRequest], batch: int) -> float:
    """Return the share of requests whose greedy ids equal those of `generate`."""
    ours = TransformersEngine(model, codec.tokenizer, max_batch=batch).sample_many(requests)
    theirs = generate(model, codec, requests, batch)
    return sum(list(a.token_ids) == b for a, b in zip(ours, theirs, strict=True)) / len(requests)


def main() -> None:
    """Parse the arguments, measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="model folder, hub id, or 'embedded'")
    parser.add_argument("--requests", type=int, default=512, help="solve prompts in a round")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--workload", nargs="+", default=["solve", "pipeline"], choices=["solve", "pipeline"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=128, help="token limit; the model is to stop before it")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of PyTorch, for both sides")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()

    engine = TransformersEngine.load(options.model, options.device, options.dtype, options.threads)
    model, codec = engine.model, ChatCodec.load(options.model)
    solves = solve_requests(codec, options.requests, max_tokens=options.max_tokens, temperature=1.0)
    workloads = {"solve": solves, "pipeline": pipeline_requests(engine, codec, solves)}
    greedy = solve_requests(codec, min(256, options.requests), max_tokens=options.max_tokens, temperature=0.0)

    result: dict[str, Any] = {}
    table = Table("workload", "batch", "side", "samples/s", "tokens/s", "tokens/sample", "ratio (each round)")
    for batch in options.batch:
        for workload in options.workload:
            figures = compare(model, codec, workloads[workload], batch, options.rounds)
            result.setdefault(f"batch{batch}", {})[workload] = figures
            for name in ("transformers", "ours"):
                row = figures[name]
                ratio = f"{figures['ratio']:.2f}x {figures['ratios']}" if name == "ours" else ""
                table.add_row(workload, str(batch), name, *(str(value) for value in row.values()), ratio)
            print(f"batch {batch}, {workload}: {json.dumps(figures)}", flush=True)
    agreement = greedy_agreement(model, codec, greedy, options.batch[0])
    console = Console()
    console.print(table)
    console.print(f"greedy ids equal generate's: {agreement:.1%} of {len(greedy)} ({model.dtype})")
    summary = {
        "ratio_vs_transformers": min(figures["ratio"] for by_load in result.values() for figures in by_load.values()),
        **result,
        "greedy_ids_equal": round(agreement, 4),
        "requests": options.requests,
        "rounds": options.rounds,
        "model": options.model,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
