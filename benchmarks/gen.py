"""What adaptive sampling saves: tokens and time for the same rows, against the paper's fixed schedule.

    python benchmarks/gen.py                                             # the embedded model
    python benchmarks/gen.py --recipe smollm2-gsm8k problems.source=gsm8k.train.jsonl quota.d1=4

Three runs over the same problems with one engine. ``fixed`` draws exactly N1 = 50, N2 = 8, M1 = 8, M2 = 4 and keeps all
that caps and balance allow. ``three passes`` draws the same samples the usual way: all attempts, then all
self-evaluations, then all revisions, each pass waiting for the one before. ``adaptive`` has what ``fixed`` kept as its
quotas, so both end with equal numbers of D1, D2 and D3 (``class_counts_equal``); it may attempt a problem more than 50
times where it has to, and pays for it.

`tokens_ratio`: generated tokens per kept trajectory, fixed over adaptive; every sample drawn counts, used or not.
`wall_ratio`: seconds of three passes over seconds of adaptive. `barrier_ratio`: three passes over fixed, which draw the
same samples. `journal_share`: seconds to journal the samples of ``fixed`` once more, over the seconds of that run.
The last line is JSON for machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from selfcorrect.data_gen.classes import BaseSample, Candidate, PartOutcome, SampledPart
from selfcorrect.data_gen.pipeline import GenRecipe, Quota
from selfcorrect.data_gen.sampling.passes import Models, library_grader, load, open_models, sample
from selfcorrect.data_gen.sampling.rejection import GRADED
from selfcorrect.data_gen.sampling.samples import PartSampler, SamplingSettings
from selfcorrect.runs.jsonl import Journal, read_jsonl
from selfcorrect.runs.recipes import load_recipe
from selfcorrect.types import Problem, Verdict

RECIPES = Path(__file__).parent.parent / "data_gen" / "recipes"
MORE_ATTEMPTS = 8
"""How many times N1 the adaptive schedule may attempt a problem, to end with exactly the rows of the fixed one."""


async def three_passes(recipe: GenRecipe, problems: Sequence[Problem], folder: Path, models: Models) -> Counter[str]:
    """Sample what the fixed schedule draws, with a barrier after each part; return the tokens by stage."""
    settings = SamplingSettings(recipe.seed, recipe.temperature, recipe.top_p, recipe.max_tokens)
    with PartSampler(folder, models.model, settings, library_grader(), models.teacher) as sampler:
        bases = [BaseSample(problem, i, k, 0) for k in range(recipe.attempts) for i, problem in enumerate(problems)]
        attempts = await asyncio.gather(*(sampler.attempt(base) for base in bases))
        graded = [(b, a) for b, a in zip(bases, attempts, strict=True) if a.outcome in GRADED]
        every = range(recipe.evaluations)
        evaluations = await asyncio.gather(
            *(asyncio.gather(*(sampler.evaluation(base, attempt, j) for j in every)) for base, attempt in graded)
        )
        await asyncio.gather(
            *(
                sampler.revision(base, attempt, said, j)
                for (base, attempt), seen in zip(graded, evaluations, strict=True)
                if _agreeing(attempt, seen)
                for said in [next((one for one in seen if one.verdict is Verdict.WRONG), None)]
                for j in range(recipe.revisions if attempt.outcome is PartOutcome.WRONG else recipe.confirmations)
            )
        )
        return Counter(sampler.tokens)


def _agreeing(attempt: SampledPart, evaluations: Sequence[SampledPart]) -> bool:
    true = Verdict.CORRECT if attempt.outcome is PartOutcome.CORRECT else Verdict.WRONG
    return any(evaluation.verdict is true for evaluation in evaluations)


def classes(kept: Sequence[Candidate]) -> dict[str, int]:
    """Return how many rows each class has."""
    counts = Counter(str(candidate.kind) for candidate in kept)
    return {kind: counts[kind] for kind in ("D1", "D2", "D3")}


def journal_seconds(folder: Path, into: Path) -> float:
    """Return how long it takes to journal all samples of a run."""
    seconds = 0.0
    for path in sorted(folder.glob("*.jsonl")):
        rows = list(read_jsonl(path))
        with Journal(into / path.name) as journal:
            started = time.perf_counter()
            for row in rows:
                key = row.pop("key")
                journal.append(key, row)
            seconds += time.perf_counter() - started
    return seconds


async def measure(recipe: GenRecipe, folder: Path, rounds: int, passes: bool) -> dict[str, Any]:
    """Run the schedules in alternation and return their figures, seconds as medians of the rounds."""
    problems = load(recipe)[0].problems
    fixed = replace(recipe, schedule="fixed", quota=Quota(), baselines=False)
    names = ("fixed", *(["three passes"] if passes else []), "adaptive")
    figures: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in names}
    async with open_models(recipe) as models:
        warm = replace(recipe, schedule="adaptive", attempts=1, quota=Quota(2, 2, 2), baselines=False)
        await sample(warm, problems, folder / "warm", models)

        async def timed(name: str, run: Callable[[Path], Any]) -> Any:
            into = folder / name
            shutil.rmtree(into, ignore_errors=True)
            into.mkdir()
            started = time.perf_counter()
            result = await run(into)
            figures[name]["seconds"].append(time.perf_counter() - started)
            return result

        for _ in range(rounds):
            gathered = await timed("fixed", lambda into: sample(fixed, problems, into, models))
            figures["fixed"] |= {"rows": classes(gathered.kept), "tokens": gathered.tokens.total()}
            if passes:
                tokens = await timed("three passes", lambda into: three_passes(fixed, problems, into, models))
                figures["three passes"] |= {"rows": figures["fixed"]["rows"], "tokens": tokens.total()}
            wanted = figures["fixed"]["rows"]
            adaptive = replace(
                recipe,
                schedule="adaptive",
                attempts=recipe.attempts * MORE_ATTEMPTS,
                quota=Quota(wanted["D1"], wanted["D2"], wanted["D3"]),
                balance=None,
                baselines=False,
            )
            gathered = await timed("adaptive", lambda into, a=adaptive: sample(a, problems, into, models))
            figures["adaptive"] |= {"rows": classes(gathered.kept), "tokens": gathered.tokens.total()}
    into = folder / "journalled again"
    into.mkdir()
    figures["fixed"]["journal_s"] = journal_seconds(folder / "fixed", into)
    return figures


def main() -> None:
    """Parse the arguments, measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="embedded", help="a shipped recipe of gen")
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-passes", dest="passes", action="store_false", help="leave out the three passes")
    parser.add_argument("overrides", nargs="*", help="key=value, as of `selfcorrect gen`")
    options = parser.parse_args()
    papers = ["attempts=50", "evaluations=8", "revisions=8", "confirmations=4", "cap_per_problem=4", "steer=true"]
    papers += [f"problems.count={options.problems}", "prompts=0", "pilot=0"]
    recipe = load_recipe(GenRecipe, RECIPES / f"{options.recipe}.yaml", [*papers, *options.overrides])
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(recipe, Path(folder), options.rounds, options.passes))

    table = Table("schedule", "D1", "D2", "D3", "tokens", "tokens a row", "seconds", title=recipe.engine.model)
    for name, figure in figures.items():
        rows = sum(figure["rows"].values())
        figure["seconds"] = sorted(figure["seconds"])[len(figure["seconds"]) // 2]
        figure["tokens_per_row"] = figure["tokens"] / max(rows, 1)
        cells = [str(count) for count in figure["rows"].values()]
        cells += [f"{figure['tokens']:,}", f"{figure['tokens_per_row']:,.0f}", f"{figure['seconds']:,.1f}"]
        table.add_row(name, *cells)
    Console().print(table)
    fixed, adaptive = figures["fixed"], figures["adaptive"]
    waiting = figures["three passes"]["seconds"] if options.passes else None
    print(
        json.dumps(
            {
                "tokens_ratio": round(fixed["tokens_per_row"] / adaptive["tokens_per_row"], 2),
                "wall_ratio": round(waiting / adaptive["seconds"], 2) if waiting else None,
                "barrier_ratio": round(waiting / fixed["seconds"], 2) if waiting else None,
                "class_counts_equal": fixed["rows"] == adaptive["rows"],
                "rows": adaptive["rows"],
                "journal_share": round(fixed["journal_s"] / fixed["seconds"], 4),
                "problems": options.problems,
                "rounds": options.rounds,
                "model": recipe.engine.model,
                "tokens": {name: figure["tokens"] for name, figure in figures.items()},
                "seconds": {name: round(figure["seconds"], 1) for name, figure in figures.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
