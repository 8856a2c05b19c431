"""Throughput of our vLLM engine against a bare `LLM.generate` on the same requests, interleaved in one program.

    make engines && .venv-engines/bin/python benchmarks/engine_vllm.py       # the embedded model
    … --model .models/smollm2 --dtype bfloat16 --requests 48 --batch 16

Both sides get the same prompts and the same `SamplingParams` (seeds, stop ids, stop texts, log-probabilities), the same
weights, dtype, threads and number of sequences at once. Requests are those of `gen`: attempts, self-evaluations (which
watch the verdict tokens and stop at the mark) and revisions in equal parts. ``plain`` is `LLM.generate` for requests of
the same lengths that ask for neither log-probabilities nor watched tokens: what our protocol costs beside vLLM's least.

Each round times every side, in an order that turns; a ratio is the geometric mean over rounds, with a 95% t-interval
of its logarithm. ``cpu_ratio`` is of processor seconds of this process and its children: steadier than the wall clock
beside other work. The bare `LLM` has a process of its own, vLLM's default and `AsyncLLM`'s only way; ``--in-process``
takes that away, which on a CPU is faster. The last line is JSON for machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import psutil
from scipy.stats import t

from selfcorrect.chat import ChatCodec, model_path
from selfcorrect.engines import EngineRecipe, SampleRequest, open_engine, sample_all, sample_seed
from selfcorrect.problems.arithmetic import problems
from selfcorrect.prompts import EVALUATE, REVISE, solve_messages
from selfcorrect.verdicts import MARKS

Side = Callable[[], int]
"""Samples every request once and returns the tokens made, stop ids included."""


def solve_requests(codec: ChatCodec, n: int, max_tokens: int) -> list[SampleRequest]:
    """Return ``n`` requests for first attempts at distinct problems, each with its own seed."""
    return [
        SampleRequest(
            codec.opening(solve_messages(problem.question)),
            max_tokens,
            sample_seed("benchmark", problem.id),
            stop_ids=codec.stop_ids,
        )
        for problem in problems("train", n, seed=0)
    ]


def pipeline_requests(codec: ChatCodec, solves: list[SampleRequest], attempts: list[Any]) -> list[SampleRequest]:
    """Return as many requests, in turns for an attempt, a self-evaluation and a revision of a sampled attempt."""
    requests = []
    for i, (solve, attempt) in enumerate(zip(solves, attempts, strict=True)):
        if i % 3 == 0:
            requests.append(solve)
            continue
        prompt = solve.prompt_ids + attempt.token_ids + codec.reply(EVALUATE if i % 3 == 1 else REVISE)
        judged = {"stop_texts": tuple(MARKS.values()), "watch_ids": codec.verdict_ids} if i % 3 == 1 else {}
        requests.append(replace(solve, prompt_ids=prompt, **judged))
    return requests


@dataclass(frozen=True, slots=True)
class Run:
    """One side in one round."""

    seconds: float
    cpu_seconds: float
    tokens: int


def cpu_seconds() -> float:
    """Return the processor seconds that this process and its living descendants have used."""
    me = psutil.Process()
    used = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(times.user + times.system for times in used)


def compare(sides: dict[str, Side], rounds: int) -> dict[str, list[Run]]:
    """Return each side's runs, one in each round, after a round that is not counted."""
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    names = list(sides)
    for round_ in range(-1, rounds):
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            start, cpu_start = time.perf_counter(), cpu_seconds()
            tokens = sides[name]()
            run = Run(time.perf_counter() - start, cpu_seconds() - cpu_start, tokens)
            if round_ >= 0:
                runs[name].append(run)
                print(f"round {round_} {name}: {run.seconds:.2f} s, {run.cpu_seconds:.2f} s of CPU", flush=True)
    return runs


def ratio(ours: list[Run], theirs: list[Run], *, cpu: bool = False) -> tuple[float, list[float]]:
    """Return how many times the tokens a second of ``theirs`` ours makes, and the 95% interval over rounds."""
    rate = lambda run: math.log(run.tokens / (run.cpu_seconds if cpu else run.seconds))
    logs = [rate(a) - rate(b) for a, b in zip(ours, theirs, strict=True)]
    half = t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    mean = statistics.fmean(logs)
    return round(math.exp(mean), 3), [round(math.exp(mean - half), 3), round(math.exp(mean + half), 3)]


def main() -> None:
    """Parse the arguments, measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="model folder, hub id, or 'embedded'")
    parser.add_argument("--requests", type=int, default=384, help="requests in a round")
    parser.add_argument("--batch", type=int, default=64, help="sequences at once (max_num_seqs)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each side")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--in-process", action="store_true", help="the bare LLM without a process of its own")
    given = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

    codec = ChatCodec.load(given.model)
    recipe = EngineRecipe(given.model, kind="vllm", dtype=given.dtype, max_batch=given.batch, threads=given.threads)
    engine = open_engine(recipe)

    import vllm
    from vllm import LLM, SamplingParams
    from vllm.inputs import tokens_input

    from selfcorrect.engines.vllm import sampling_params

    arguments = engine.arguments | {"model": model_path(given.model)}  # type: ignore[attr-defined]
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if given.in_process else "1"
    llm = LLM(**arguments)
    solves = solve_requests(codec, given.requests, given.max_tokens)
    requests = pipeline_requests(codec, solves, sample_all(engine, solves))

    def ours() -> int:
        return sum(len(sample.token_ids) + (sample.finish == "stop") for sample in sample_all(engine, requests))

    def generate(params: list[Any]) -> int:
        prompts = [tokens_input(list(request.prompt_ids)) for request in requests]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    def bare() -> int:
        return generate([sampling_params(request) for request in requests])

    def plain() -> int:
        return generate(
            [
                SamplingParams(
                    max_tokens=request.max_tokens,
                    seed=request.seed,
                    stop_token_ids=list(request.stop_ids),
                    stop=list(request.stop_texts),
                )
                for request in requests
            ]
        )

    runs = compare({"ours": ours, "bare": bare, "plain": plain}, given.rounds)
    for name, measured in runs.items():
        speeds = [run.tokens / run.seconds for run in measured]
        print(f"{name:6} {statistics.median(speeds):8,.0f} tokens/s (median of {len(speeds)} rounds)")
    against_bare, interval = ratio(runs["ours"], runs["bare"])
    against_plain, plain_interval = ratio(runs["ours"], runs["plain"])
    cpu, cpu_interval = ratio(runs["ours"], runs["bare"], cpu=True)
    summary = {
        "ratio_vs_bare_vllm": against_bare,
        "ratio_vs_bare_vllm_95": interval,
        "cpu_ratio": cpu,
        "cpu_ratio_95": cpu_interval,
        "ratio_vs_plain_vllm": against_plain,
        "ratio_vs_plain_vllm_95": plain_interval,
        "tokens_per_s": {
            name: round(statistics.median(run.tokens / run.seconds for run in measured))
            for name, measured in runs.items()
        },
        "tokens_in_a_round": {name: measured[0].tokens for name, measured in runs.items()},
        "requests": len(requests),
        "rounds": given.rounds,
        "batch": given.batch,
        "model": given.model,
        "dtype": given.dtype,
        "threads": given.threads,
        "bare_in_process": given.in_process,
        "versions": {"python": platform.python_version(), "vllm": vllm.__version__},
    }
    asyncio.run(engine.close())
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
