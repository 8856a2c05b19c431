"""Evaluate one method on one problem set: the correction loop, graded, scored, journalled.

    selfcorrect eval self-rewarding --run runs/demo engine.model=runs/demo/checkpoints/sft

Reads problems and a model; writes ``<run>/eval/<row>/``: ``trajectories.jsonl`` (every path, graded, with its
tokens), ``scores.json`` (one table row with n, intervals and counts). No barrier between turns: each
problem's path goes on as soon as the engine has its sample. Re-running resumes from the journal.

Differs from the paper: intervals and counts beside every number, and problems whose gold the grader cannot
read are dropped and counted, not scored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.text import Text

from selfcorrect import prompts
from selfcorrect.correction import LoopSettings, Method, grade_trajectories, solve
from selfcorrect.engines import Engine, EngineRecipe, open_engine
from selfcorrect.errors import InputError
from selfcorrect.grading import grader_fingerprint
from selfcorrect.jsonl import Journal, write_json
from selfcorrect.metrics import score
from selfcorrect.problems import ProblemsRecipe, load_problems
from selfcorrect.progress import Meter, meter
from selfcorrect.recipes import to_yaml
from selfcorrect.runs import is_done, mark_done, stage_folder
from selfcorrect.tokens import ChatCodec
from selfcorrect.types import Problem, Trajectory

GRADED_AT_ONCE = 256  # paths graded and journalled together; a kill redoes at most these


@dataclass(frozen=True, slots=True)
class EvalRecipe:
    """Settings of one evaluation: one method of one model on one problem set."""

    row: str = "self-rewarding"  # folder name of this row under <run>/eval/
    label: str = "Self-rewarding"  # the row's name in tables
    method: Method = "self-rewarding"  # see selfcorrect.correction
    engine: EngineRecipe = field(default_factory=EngineRecipe)
    problems: ProblemsRecipe = field(default_factory=ProblemsRecipe)
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    seeds: tuple[int, ...] = (0,)  # one path per problem and seed
    horizon: int = 2  # attempts at most
    max_tokens: int = 512  # of one completion
    one_pass: bool = True  # long-CoT paths in one completion (False: stop and continue at each mark)

    def __post_init__(self) -> None:
        if self.temperature == 0 and len(self.seeds) > 1:
            raise InputError("greedy paths do not depend on the seed: give one seed, or temperature > 0")
        if self.horizon < 1 or self.max_tokens < 1:
            raise InputError("horizon and max_tokens are at least 1")

    @property
    def loop(self) -> LoopSettings:
        """The loop's share of the settings."""
        return LoopSettings(
            self.method, self.horizon, self.temperature, self.top_p, self.max_tokens, one_pass=self.one_pass
        )


def run(recipe: EvalRecipe, run_folder: Path) -> dict[str, Any]:
    """Evaluate and return the table row (``Scores.row()`` and what was dropped); finished folders are only read."""
    folder = run_folder / "eval" / recipe.row
    with stage_folder(folder, recipe):
        loaded = load_problems(recipe.problems)
        with Journal(folder / "trajectories.jsonl") as journal:
            if not is_done(folder):
                started = time.perf_counter()
                asyncio.run(_fill(journal, recipe, loaded.problems))
                seconds = time.perf_counter() - started
                summary = _summary(recipe, journal, loaded.problems, loaded.dropped)
                write_json(folder / "scores.json", summary)
                mark_done(folder, {"seconds": round(seconds, 2), "n": summary["n"]})
            return _summary(recipe, journal, loaded.problems, loaded.dropped)


def read_trajectories(folder: Path) -> list[Trajectory]:
    """Return the graded trajectories of a finished evaluation, in order of their keys."""
    with Journal(folder / "trajectories.jsonl") as journal:
        return [Trajectory.from_json(journal.rows[key]["trajectory"]) for key in sorted(journal.rows)]


def plan(recipe: EvalRecipe, run_folder: Path = Path("runs/default")) -> RenderableType:
    """Return what the evaluation would do: the resolved recipe, the first prompt, the number of paths."""
    problems = load_problems(recipe.problems).problems
    codec = ChatCodec.load(recipe.engine.model)
    first = codec.decode(codec.opening(prompts.solve_messages(problems[0].question)))
    paths = len(problems) * len(recipe.seeds)
    return Group(
        Panel(Syntax(to_yaml(recipe), "yaml"), title="recipe"),
        Panel(Text(first), title=f"first prompt ({problems[0].id})"),
        f"writes {run_folder / 'eval' / recipe.row}",
        f"{len(problems)} problems × {len(recipe.seeds)} seeds = {paths} paths of at most {recipe.max_tokens} tokens "
        f"a completion; at most {paths * recipe.max_tokens * (1 if recipe.one_pass else recipe.horizon):,} tokens",
    )


async def _fill(journal: Journal, recipe: EvalRecipe, problems: list[Problem]) -> None:
    waiting = [
        (f"{problem.id}#{seed}", problem, seed)
        for seed in recipe.seeds
        for problem in problems
        if f"{problem.id}#{seed}" not in journal
    ]
    if not waiting:
        return
    codec = ChatCodec.load(recipe.engine.model)
    engine = open_engine(recipe.engine)
    try:
        with meter(f"eval {recipe.label}", len(problems) * len(recipe.seeds)) as progress:
            progress.advance(len(journal.rows))
            await _sample(journal, recipe, waiting, engine, codec, progress)
    finally:
        await engine.close()


async def _sample(
    journal: Journal,
    recipe: EvalRecipe,
    waiting: list[tuple[str, Problem, int]],
    engine: Engine,
    codec: ChatCodec,
    progress: Meter,
) -> None:
    room = asyncio.Semaphore(4 * recipe.engine.max_batch)

    async def one(key: str, problem: Problem, seed: int) -> tuple[str, Trajectory]:
        async with room:
            return key, await solve(problem, engine, codec, recipe.loop, seed)

    ready: list[tuple[str, Trajectory]] = []
    tasks = [asyncio.create_task(one(*item)) for item in waiting]
    try:
        for done in asyncio.as_completed(tasks):
            ready.append(await done)
            if len(ready) == GRADED_AT_ONCE:
                await _record(journal, ready, progress)
                ready = []
        await _record(journal, ready, progress)
    finally:
        for task in tasks:
            task.cancel()


async def _record(journal: Journal, ready: list[tuple[str, Trajectory]], progress: Meter) -> None:
    graded = await asyncio.to_thread(grade_trajectories, [trajectory for _, trajectory in ready])
    for (key, _), trajectory in zip(ready, graded, strict=True):
        journal.append(key, {"trajectory": trajectory.to_json()})
    right = sum(bool(t.final.grade and t.final.grade.correct) for t in graded)
    progress.advance(len(ready), note=f"{right}/{len(graded)} right" if graded else None)


def _summary(
    recipe: EvalRecipe, journal: Journal, problems: list[Problem], dropped: Mapping[str, int]
) -> dict[str, Any]:
    keys = [f"{problem.id}#{seed}" for seed in recipe.seeds for problem in problems]
    trajectories = [Trajectory.from_json(journal.rows[key]["trajectory"]) for key in keys]
    return score(recipe.label, trajectories).row() | {
        "label": recipe.label,
        "problems": len(problems),
        "dropped": dict(dropped),
        "benchmark": recipe.problems.source,
        "model": recipe.engine.model,
        "temperature": recipe.temperature,
        "seeds": list(recipe.seeds),
        "grader": grader_fingerprint(),
        "prompts": prompts.fingerprint(),
    }
