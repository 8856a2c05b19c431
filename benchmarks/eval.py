"""What evaluation costs above the generation it needs: the loop, the grader and the journal against bare sampling.

    python benchmarks/eval.py                                           # the embedded model, asked for each part
    python benchmarks/eval.py --model runs/demo/checkpoints/ift --method self-rewarding

Both sides use one engine. ``eval`` is `eval.run.sample_trajectories`: it solves, parses, grades and journals.
``bare`` replays the very requests that a first pass made, all at once and to nobody: the same prompts, seeds and
tokens, without a loop; requests that a loop can only make after earlier ones wait for nothing there, which no loop can
match. ``in turn`` replays them too, but those of one path one after the other. Rounds interleave the sides in turning
order; `overhead` is the median over rounds of ``eval seconds / bare seconds - 1``, `overhead_in_turn` against ``in
turn``, `cpu_…` the same of this process's processor seconds (the grader works in processes of its own). The last line
is JSON for machines.
"""

# ruff: noqa: E402 - the path has to be mended before our own imports
from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # beside this file, ``eval`` would be this file

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import Engine, EngineRecipe, Sample, SampleRequest, open_engine
from selfcorrect.eval.run import TRAJECTORIES_A_PLACE, EvalRecipe, sample_trajectories
from selfcorrect.problems import ProblemsRecipe, load_problems
from selfcorrect.runs.jsonl import Journal
from selfcorrect.runs.progress import Meter


class Recording:
    """An engine that notes what it is asked."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.name = engine, engine.name
        self.paths: dict[asyncio.Task[Any] | None, list[SampleRequest]] = {}  # a path is sampled by a task of its own

    async def sample(self, request: SampleRequest) -> Sample:
        """Note the request and pass it on."""
        self.paths.setdefault(asyncio.current_task(), []).append(request)
        return await self.engine.sample(request)

    async def close(self) -> None:
        """Close the engine."""
        await self.engine.close()


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds and the processor seconds of one run."""
    start, cpu_start = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - cpu_start


def measure(recipe: EvalRecipe, rounds: int) -> dict[str, Any]:
    """Return the figures of one method on one model."""
    codec = ChatCodec.load(recipe.engine.model)
    waiting = [(f"{p.id}#{s}", p, s) for s in recipe.seeds for p in load_problems(recipe.problems).problems]
    at_once = TRAJECTORIES_A_PLACE * recipe.engine.capacity

    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        engine = Recording(open_engine(recipe.engine))

        def evaluate(name: str) -> None:
            with Journal(Path(folder) / f"{name}.jsonl") as journal:
                progress = Meter("eval", len(waiting), None)
                runner.run(
                    sample_trajectories(journal, recipe.loop(), waiting, engine, codec, progress, at_once=at_once)
                )

        evaluate("recorded")  # warms the engine and the grader's workers, too
        in_turn = list(engine.paths.values())
        bare = [[request] for requests in in_turn for request in requests]

        async def replay(paths: list[list[SampleRequest]]) -> list[Sample]:
            room = asyncio.Semaphore(at_once)

            async def one(requests: list[SampleRequest]) -> list[Sample]:
                async with room:
                    return [await engine.engine.sample(request) for request in requests]

            return [sample for samples in await asyncio.gather(*map(one, paths)) for sample in samples]

        tokens = sum(len(sample.token_ids) + 1 for sample in runner.run(replay(bare)))
        sides: dict[str, Callable[[int], Any]] = {
            "eval": lambda round_: evaluate(str(round_)),
            "bare": lambda round_: runner.run(replay(bare)),
            "in turn": lambda round_: runner.run(replay(in_turn)),
        }
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        names = list(sides)
        for round_ in range(rounds):
            for name in names[round_ % 3 :] + names[: round_ % 3]:
                runs[name].append(timed(partial(sides[name], round_)))
        runner.run(engine.close())

    def over(side: str, clock: int) -> list[float]:
        pairs = zip(runs["eval"], runs[side], strict=True)
        return [round(ours[clock] / theirs[clock] - 1, 4) for ours, theirs in pairs]

    return {
        "overhead": statistics.median(over("bare", 0)),
        "overheads": over("bare", 0),
        "cpu_overhead": statistics.median(over("bare", 1)),
        "overhead_in_turn": statistics.median(over("in turn", 0)),
        "overheads_in_turn": over("in turn", 0),
        "cpu_overhead_in_turn": statistics.median(over("in turn", 1)),
        "seconds": {name: round(statistics.median(wall for wall, _ in measured), 2) for name, measured in runs.items()},
        "paths": len(waiting),
        "requests": len(bare),
        "tokens": tokens,
    }


def main() -> None:
    """Parse the arguments, measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="model folder, hub id, or 'embedded'")
    parser.add_argument("--method", default="asked", help="a method of selfcorrect.correction.loop")
    parser.add_argument("--problems", type=int, default=512)
    parser.add_argument("--source", default="arithmetic", help="a problem set (selfcorrect.problems)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    recipe = EvalRecipe(
        method=options.method,
        engine=EngineRecipe(options.model, max_batch=options.batch),
        problems=ProblemsRecipe(options.source, split="test", count=options.problems),
        max_tokens=options.max_tokens,
    )
    figures = measure(recipe, options.rounds)
    table = Table("what", "value")
    for key, value in figures.items():
        table.add_row(key, str(value))
    Console().print(table)
    print(json.dumps(figures | {"model": options.model, "method": options.method, "batch": options.batch}))


if __name__ == "__main__":
    main()
